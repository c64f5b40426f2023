"""What a memory does with its slots, in numbers: pure functions of the table that `bench.attribution` makes.

**Chance** is the same number of a memory of the same size that writes each head's vector wholly into a slot drawn at
random, on the same episodes (one drawing, from a fixed seed), unless a number says otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from bench.api import Addresses, Learner, Task, answer, shown
from bench.attribution import CREDITS, identities, observe

EPISODES = 20
"""So many of the first test episodes are looked at for a record."""
AGES = (1, 2, 4, 8, 16)
"""The oldest age of each bucket of the forgetting curve; the last bucket has all above."""
BUCKETS = ("1", "2", "3–4", "5–8", "9–16", "17+")


def examine(learner: Learner, task: Task, count: int, seed: int, device: str = "cpu") -> dict[str, Any] | None:
    """The numbers of the first `count` test episodes, as records hold them; None where `watch` gives None."""
    table = watch(learner, task, count, seed, device)
    return None if table is None else {"episodes": count, **summary(table)}


def watch(learner: Learner, task: Task, count: int, seed: int, device: str = "cpu") -> pd.DataFrame | None:
    """The table of `observe` for the first `count` test episodes.

    None where the task is no online classification, or the learner has no addresses.
    """
    if not task.online or task.kind != "classification":
        return None
    learner.eval()
    tables = []
    for drawn in task.episodes("test", count, seed):
        episode = drawn.to(device)
        addresses = trace(learner, task, episode.query.x, episode.query.y)
        if addresses is None:
            return None
        with torch.no_grad():
            correct = task.correct(answer(learner, episode, task), episode.query.y)
        tables.append(observe(addresses, identities(task, drawn.query.y), correct))
    return pd.concat(tables, ignore_index=True)


def trace(learner: Learner, task: Task, x: Tensor, y: Tensor) -> Addresses | None:
    """`Learner.trace` under the task's protocol, on the CPU."""
    found = learner.trace(x, shown(y, task))
    if found is None:
        return None
    usage = None if found.usage is None else found.usage.cpu()
    return Addresses(found.read.cpu(), found.write.cpu(), usage, {k: v.cpu() for k, v in found.gates.items()})


@dataclass(frozen=True)
class Number:
    """One number; None where nothing was there to measure."""

    value: float | None
    chance: float | None
    n: int
    """How many presentations (pairs for overlap, classes for redundancy) it is a mean over."""

    def data(self) -> dict[str, Any]:
        """As records hold it."""
        return {"value": short(self.value), "chance": short(self.chance), "n": self.n}


def retrieval(table: pd.DataFrame, by: str) -> Number:
    """Retrieval precision: the slot read most strongly is owned by the class now shown.

    The strongest by the mean over heads. Over presentations whose class was credited before. 0..1. Chance: a slot drawn
    from those that have an owner.
    """
    known = table[table[f"known_{by}"]]
    return Number(_mean(known[f"right_{by}"]), _mean(known[f"guess_{by}"]), len(known))


def best_head(table: pd.DataFrame, by: str, column: str | None = None) -> Number:
    """Best head: retrieval precision of the read head that has the highest.

    Range and chance as of `retrieval`; being the best of several, it is above chance a little by luck. column: of a
    head chosen elsewhere.
    """
    known = table[table[f"known_{by}"]]
    return Number(_mean(known[column or head_column(table, by)]), _mean(known[f"guess_{by}"]), len(known))


def head_column(table: pd.DataFrame, by: str) -> str:
    """The column of the read head that retrieves best, the first of equals."""
    heads = [name for name in map(str, table.columns) if name.startswith("right_head_") and name.endswith(f"_{by}")]
    known = table[table[f"known_{by}"]]
    return max(heads, key=lambda name: int(known[name].to_numpy().sum()))


def own_write(table: pd.DataFrame) -> Number:
    """Self-reads: the slot read most strongly is the one written most strongly at the same step.

    0..1. A memory that writes before it reads may find what it sees, and nothing older; one that reads first, and
    writes where it read, keeps a class in its place.
    """
    return Number(_mean(table["own_write"]), _mean(table["chance_own_write"]), len(table))


def erased(table: pd.DataFrame, by: str) -> Number:
    """Erased while needed: no slot holds the class now shown, though it was credited before.

    Over presentations whose class was credited before. 0..1.
    """
    known = table[table[f"known_{by}"]]
    return Number(_mean(known[f"lost_{by}"]), _mean(known[f"chance_lost_{by}"]), len(known))


def redundancy(table: pd.DataFrame, by: str) -> Number:
    """Redundancy: slots that hold a class after the last step.

    Mean over the classes shown. 0..slots.
    """
    first = table[table["age"] == 0]
    return Number(_mean(first[f"slots_{by}"]), _mean(first[f"chance_slots_{by}"]), len(first))


def overlap(table: pd.DataFrame, classes: str = "") -> Number:
    """Slot overlap: cosine between the write weights of two steps of an episode.

    Heads are summed. 0..1: 0 where no slot is written twice, 1 where all steps write alike. Mean over all pairs of
    steps, or with classes = "same" or "other" over those that see images of one class, or of two. Steps that write
    nothing are left out.
    """
    kinds = (classes,) if classes else ("same", "other")
    sums = {name: int(sum(table[f"{name}pairs_{k}"].sum() for k in kinds)) for name in ("", "chance_")}
    values = {
        name: sum(float(table[f"{name}overlap_{k}"].sum()) for k in kinds) / n if n else None
        for name, n in sums.items()
    }
    return Number(values[""], values["chance_"], sums[""])


def entropies(table: pd.DataFrame, of: str) -> Number:
    """Entropy H of the weights of a step, in nats.

    Of read or write weights, heads summed and normalised; mean over steps, without those whose weights are all 0.
    0..ln(slots).
    """
    values = table[f"{of}_entropy"].dropna()
    return Number(_mean(values), _mean(table[f"chance_{of}_entropy"].dropna()), len(values))


def spread(table: pd.DataFrame, of: str) -> Number:
    """Effective slots: exp H, the slots that a step touches if it touches them evenly.

    H is that of `entropies`. 1..slots.
    """
    h = entropies(table, of)
    value, chance = (None if nats is None else math.exp(nats) for nats in (h.value, h.chance))
    return Number(value, chance, h.n)


NUMBERS: dict[str, Callable[[pd.DataFrame], Number]] = {
    **{f"{f.__name__}_{by}": partial(f, by=by) for f in (retrieval, best_head, erased, redundancy) for by in CREDITS},
    "own_write": own_write,
    "overlap": overlap,
    "overlap_same_class": partial(overlap, classes="same"),
    "overlap_other_class": partial(overlap, classes="other"),
    **{f"{of}_entropy": partial(entropies, of=of) for of in ("write", "read")},
    **{f"{of}_slots": partial(spread, of=of) for of in ("write", "read")},
}


def forgetting(table: pd.DataFrame) -> dict[str, Any]:
    """Accuracy and retrieval precision against age: presentations since the class was last shown, in `BUCKETS`.

    Of `best_head` it is the head that is best over all ages. n, n_image and n_label: presentations behind each. By
    label a class may be unknown though it was shown: its label comes one step later.
    """
    buckets = np.digitize(table["age"], AGES, right=True)
    parts = [table[(table["age"] > 0) & (buckets == bucket)] for bucket in range(len(BUCKETS))]
    curve: dict[str, Any] = {
        "age": list(BUCKETS),
        "accuracy": [short(_mean(part["correct"])) for part in parts],
        "n": [len(part) for part in parts],
    }
    for by in CREDITS:
        found, column = [retrieval(part, by) for part in parts], head_column(table, by)
        curve[f"retrieval_{by}"] = [short(each.value) for each in found]
        curve[f"best_head_{by}"] = [short(best_head(part, by, column).value) for part in parts]
        curve[f"n_{by}"] = [each.n for each in found]
    return curve


def summary(table: pd.DataFrame) -> dict[str, Any]:
    """All numbers of a table of `observe` and the forgetting curve: JSON, five digits."""
    return {"numbers": {name: f(table).data() for name, f in NUMBERS.items()}, "forgetting": forgetting(table)}


def short(value: float | None) -> float | None:
    """Five digits; None stays None."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.5g}")


def _mean(values: pd.Series) -> float | None:
    return float(values.mean()) if len(values) else None
