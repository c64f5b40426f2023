"""One test episode as one memory lived it: what was shown and answered, where it read and wrote, and what it found."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from bench import diagnostics
from bench.api import CHUNK, Addresses, Learner, Task, answer
from bench.attribution import CREDITS, contents, identities, observe
from bench.errors import BenchError
from bench.grid import Cell


class Subject(NamedTuple):
    """A learner to look into."""

    cell: Cell
    learner: Learner
    name: str
    """The folder's."""
    title: str


@dataclass(frozen=True)
class Scene:
    """One episode as it went; tensors are on the CPU, without a batch dimension, first dimension time."""

    subject: Subject
    episode: int
    x: Tensor
    y: Tensor
    prediction: Tensor
    addresses: Addresses
    """As of `Learner.trace`, with a batch of this episode alone."""
    table: pd.DataFrame | None
    """`diagnostics.observe` of this episode; None where the task is no classification."""

    @property
    def task(self) -> Task:
        """What was asked."""
        return self.subject.cell.task

    @property
    def steps(self) -> int:
        """Length of the episode."""
        return len(self.x)


class Reads(NamedTuple):
    """To which earlier presentation each step's strongest read leads; see `reads`."""

    by: str
    head: int | None
    """None: the mean over heads."""
    source: list[int | None]
    """Steps from 0; None where it leads nowhere."""
    right: list[bool]
    """Whether it is of the class now shown."""


def look(subject: Subject, episode: int) -> Scene:
    """Let a learner answer one test episode, among those it is drawn with.

    Raises:
        BenchError: no such episode, a task that is not online, or a memory without addresses.
    """
    cell, learner = subject.cell, subject.learner
    task, count = cell.task, cell.budget.test_episodes
    if not task.online:
        raise BenchError(f"{task.name} is no online task: inspect follows one sequence, step by step")
    if not 0 <= episode < count:
        raise BenchError(f"there is no test episode {episode}; this budget has 0 to {count - 1}")
    batch = next(islice(task.episodes("test", count, cell.seed), episode // CHUNK, None))
    x, y = batch.query
    addresses = diagnostics.trace(learner, task, x, y)
    if addresses is None:
        raise BenchError(
            f"{cell.method.name} has no addresses: it does not read and write in slots that could be shown"
        )
    with torch.no_grad():
        prediction = answer(learner, batch, task)
    one = slice(episode % CHUNK, episode % CHUNK + 1)
    usage = None if addresses.usage is None else addresses.usage[one]
    mine = Addresses(addresses.read[one], addresses.write[one], usage, {k: v[one] for k, v in addresses.gates.items()})
    table = None
    if task.kind == "classification":
        correct = task.correct(prediction, y)[one]
        table = observe(mine, identities(task, y[one]), correct)
    return Scene(subject, episode, x[one][0], y[one][0], prediction[one][0], mine, table)


def reads(scene: Scene, many: pd.DataFrame) -> Reads:
    """To whom each presentation's strongest read leads, by the head and the credit that retrieve best over many.

    Presentations whose class is not known yet lead nowhere.
    """
    assert scene.table is not None
    heads = scene.addresses.read.shape[2]
    ways = [(by, head) for by in CREDITS for head in (None, *range(heads if heads > 1 else 0))]
    by, head = max(ways, key=lambda way: _precision(many, *way))
    read = scene.addresses.read[0].mean(1) if head is None else scene.addresses.read[0, :, head]
    known = scene.table[f"known_{by}"]
    found = [source if k else None for source, k in zip(sources(scene, read, by), known, strict=True)]
    classes = scene.table["class_id"]
    right = [s is not None and classes[s] == classes[t] for t, s in enumerate(found)]
    return Reads(by, head, found, right)


def sources(scene: Scene, read: Tensor, by: str) -> list[int | None]:
    """For each step the presentation that the slot with the largest weight in read, [time, slots], comes from.

    It is the one that gave the class that owns the slot most of its share; None where the slot has no owner.
    """
    assert scene.table is not None
    classes = scene.table["class_id"].to_numpy()
    late = int(by == "label")  # the write at step t is credited to the presentation at t - late
    steps = torch.eye(scene.steps).roll(-late, 1).tril(0) if late else torch.eye(scene.steps)
    found: list[int | None] = []
    before = contents(scene.addresses.write, steps.unsqueeze(0))
    for shares, slot in zip(before, read.argmax(1).tolist(), strict=False):
        mine = shares[0, slot].numpy()
        owner = np.bincount(classes, mine).argmax()
        found.append(int(np.where(classes == owner, mine, -1).argmax()) if mine.max() > 0 else None)
    return found


def _precision(many: pd.DataFrame, by: str, head: int | None) -> float:
    column = f"right_{by}" if head is None else f"right_head_{head}_{by}"
    return float(many.loc[many[f"known_{by}"], column].mean())


def texts(scene: Scene) -> tuple[list[str], list[str]]:
    """Labels and predictions as text: class numbers, or strings of letters."""
    y, prediction = scene.y, scene.prediction
    if y.ndim == 1:
        return [str(v) for v in y.tolist()], [str(v) for v in prediction.argmax(-1).tolist()]
    letters = prediction.unflatten(-1, (y.shape[-1], -1)).argmax(-1)
    return _strings(y), _strings(letters)


def _strings(y: Tensor) -> list[str]:
    return ["".join(chr(ord("a") + letter) for letter in row) for row in y.tolist()]
