"""Whose content is in which slot, told from addresses and labels alone; a table of it, with a row a presentation.

The memory itself is not asked what it holds: content is attributed by its write weights, in the same way for every
memory. The share C(s, c) of slot s that comes from class c is 0 at first, and at each step

    C(s, ·) ← (1 − w(s)) C(s, ·) + w(s) 1[class credited at this step],   w(s) = min(1, Σ over write heads)

Shares of a slot sum to 1 or less: the rest is what it held at first. A slot's **owner** is the class with the largest
share, if any is above 0; a slot **holds** a class whose share is at least `HELD`. A step is credited in two ways: to
the class of the image it sees ("image"), and to the class of the label it sees ("label"), which is that of the image
one step before; the first step's label is none, and credits nobody. What depends on content comes once for each.
Content is always that before the step, so that a memory that reads what it has just written gains nothing by it.

The approximation: what a memory erases apart from its writes, and what it adds to rather than replaces, is not seen.
"""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F

from bench.api import Addresses, Task, generator

HELD = 0.5
CREDITS = ("image", "label")


def observe(addresses: Addresses, classes: Tensor, correct: Tensor) -> pd.DataFrame:
    """A table with a row a presentation, episodes one after another.

    addresses: stacked along time, as from `Learner.trace`. classes: [batch, time] int64, whose image each step shows,
    numbered from 0 in each episode, as from `class_ids`. correct: [batch, time] bool, which predictions were right.

    Columns:

    - step, from 1; class_id; correct; age: presentations since the class was last shown, 0 where it never was.
    - strongest: the slot with the largest read weight, mean over heads; own_write: whether that is the slot most
      written at this step; read_entropy and write_entropy: see `entropy`, NaN where all weights are 0.
    - overlap_same, pairs_same, overlap_other, pairs_other: sum of cosines with, and number of, the earlier writes of
      steps that see the same class, or another.
    - once ending in _image and once in _label: known, whether the class was credited before; right and right_head_i,
      whether it owns the slot read most strongly, by the mean of heads and by each; guess, the share of owned slots
      that it owns, NaN where no slot has an owner; lost, whether no slot holds it; slots, how many slots hold it after
      the last step.
    - all but the first line once more with chance_ before the name, of the random memory.
    """
    random = random_addresses(addresses)
    columns = {
        "step": torch.arange(1, classes.shape[1] + 1).expand_as(classes),
        "class_id": classes,
        "correct": correct.cpu(),
        "age": ages(classes),
        **_observed(addresses, classes),
        **{f"chance_{name}": value for name, value in _observed(random, classes).items()},
    }
    return pd.DataFrame({name: value.flatten().numpy() for name, value in columns.items()})


def identities(task: Task, y: Tensor) -> Tensor:
    """`class_ids` of an episode; a label that counts its instances anew stands for another class from there on."""
    classes = class_ids(y)
    instances = None if task.groups else task.instances(y)
    if instances is None:
        return classes
    anew = (classes[:, :, None] == classes[:, None]) & (instances == 1)[:, None]
    return class_ids(torch.stack((classes, anew.tril().sum(2)), 2))


def class_ids(y: Tensor) -> Tensor:
    """Labels, [batch, time] or strings [batch, time, d], as numbers from 0 in the order of showing: [batch, time]."""
    same = y[:, :, None] == y[:, None]
    first = (same if y.ndim == 2 else same.all(-1)).int().argmax(2)
    new = first == torch.arange(y.shape[1])
    return (new.cumsum(1) - 1).gather(1, first)


def ages(classes: Tensor) -> Tensor:
    """Presentations since the class was last shown, 1 for the one just before; 0 at its first: [batch, time]."""
    time = torch.arange(classes.shape[1])
    before = (classes[:, :, None] == classes[:, None]).tril(-1)
    last = torch.where(before, time, -1).amax(2)
    return torch.where(last >= 0, time - last, 0)


def credits(classes: Tensor, by: str) -> Tensor:
    """Whom each step is credited to: [batch, time, classes], one-hot; by label zeros in the first step."""
    seen = F.one_hot(classes).float()
    return seen if by == "image" else F.pad(seen, (0, 0, 1, 0))[:, :-1]


def strengths(write: Tensor) -> Tensor:
    """How much of each slot a step replaces: heads summed, at most 1. write: [batch, time, heads, slots]."""
    return write.sum(2).clamp(0, 1)


def contents(write: Tensor, credit: Tensor) -> Iterator[Tensor]:
    """The shares C before each step in turn, then after the last: each [batch, slots, sources].

    write: [batch, time, heads, slots]. credit: [batch, time, sources], as from `credits`; the unit matrix makes every
    step a source of its own.
    """
    shares = write.new_zeros(len(write), write.shape[3], credit.shape[2])
    for strength, source in zip(strengths(write).unbind(1), credit.to(write.dtype).unbind(1), strict=True):
        yield shares
        shares = torch.lerp(shares, source.unsqueeze(1), strength.unsqueeze(2))
    yield shares


def random_addresses(like: Addresses) -> Addresses:
    """Heads that read and write one slot each, drawn at random: the memory that chance is measured with."""
    rng = generator("diagnostics", *like.read.shape)

    def one_hot(weights: Tensor) -> Tensor:
        slots = torch.from_numpy(rng.integers(weights.shape[-1], size=weights.shape[:-1]))
        return torch.zeros_like(weights).scatter(-1, slots.unsqueeze(-1), 1.0)

    return Addresses(one_hot(like.read), one_hot(like.write))


def _observed(addresses: Addresses, classes: Tensor) -> dict[str, Tensor]:
    read, write = addresses.read.mean(2), strengths(addresses.write)
    strongest = read.argmax(2)
    columns = {
        "strongest": strongest,
        "own_write": (strongest == write.argmax(2)) & (write.amax(2) > 0) & (read.amax(2) > 0),
        "read_entropy": entropy(read),
        "write_entropy": entropy(addresses.write.sum(2)),
        **_overlaps(addresses.write.sum(2), classes),
    }
    for by in CREDITS:
        columns |= {f"{name}_{by}": value for name, value in _retrieved(addresses, classes, by).items()}
    return columns


def _retrieved(addresses: Addresses, classes: Tensor, by: str) -> dict[str, Tensor]:
    """known, right, right_head_i, guess, lost and slots of `observe`, each [batch, time]."""
    read = torch.cat((addresses.read.mean(2, keepdim=True), addresses.read), 2)
    strongest, reads = read.argmax(3), read.amax(3) > 0
    credit = credits(classes, by)
    known = (credit.cumsum(1) - credit).gather(2, classes.unsqueeze(2)).squeeze(2) > 0
    right, guess, lost = [], [], []
    *before, after = contents(addresses.write, credit)
    for t, shares in enumerate(before):
        now = classes[:, t, None]
        best, owner = shares.max(2)
        owner = torch.where(best > 0, owner, -1)
        right.append((owner.gather(1, strongest[:, t]) == now) & reads[:, t])
        guess.append((owner == now).sum(1) / (owner >= 0).sum(1))
        lost.append(shares.gather(2, now[:, None].expand(-1, shares.shape[1], 1)).amax((1, 2)) < HELD)
    slots = (after >= HELD).sum(1).gather(1, classes)
    heads = torch.stack(right, 1).unbind(2)
    return {
        "known": known,
        "right": heads[0],
        **{f"right_head_{i}": each for i, each in enumerate(heads[1:])},
        "guess": torch.stack(guess, 1),
        "lost": torch.stack(lost, 1),
        "slots": slots,
    }


def _overlaps(write: Tensor, classes: Tensor) -> dict[str, Tensor]:
    unit = F.normalize(write, dim=2)
    cosines = unit @ unit.transpose(1, 2)
    writes = write.amax(2) > 0
    pairs = (writes[:, :, None] & writes[:, None]).tril(-1)
    same = classes[:, :, None] == classes[:, None]
    columns = {}
    for name, these in (("same", pairs & same), ("other", pairs & ~same)):
        columns[f"overlap_{name}"] = (cosines * these).sum(2)
        columns[f"pairs_{name}"] = these.sum(2)
    return columns


def entropy(weights: Tensor) -> Tensor:
    """Entropy of weights normalised to sum 1, in nats; NaN where they are all 0. weights: [..., slots]."""
    p = weights / weights.sum(-1, keepdim=True)
    return torch.special.entr(p).sum(-1)
