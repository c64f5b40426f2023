"""Which classes learn2learn's Omniglot task sets draw from, and how they turn them: a script, and the functions behind.

    python tests/learn2learn_leak.py

The drawings are made up, so that each tells its class and its turn: the number of the class stands in one corner.
Everything else, splits, samplers and transforms, is learn2learn's. Needs learn2learn (`make learn2learn`), no data.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from baselines.l2l import LibraryMAML, learn2learn
from bench.api import BenchError

CLASSES, DRAWINGS = 1623, 20
SPLITS = ("train", "validation", "test")


class Split(NamedTuple):
    """A task set: the classes it is announced to have, those that its tasks showed, and the turns within each task."""

    announced: set[int]
    drawn: set[int]
    turns: list[set[int]]


class Drawings(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """In place of FullOmniglot: `DRAWINGS` alike of each class, its number, from 1, in the first corner."""

    def __init__(self, root: str, transform: Any, download: bool) -> None:
        pass

    def __len__(self) -> int:
        return CLASSES * DRAWINGS

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        drawing = torch.zeros(1, 28, 28)
        drawing[0, 0, 0] = 1 + i // DRAWINGS
        return drawing, i // DRAWINGS


@contextmanager
def made_up(announced: list[set[int]]) -> Iterator[Any]:
    """learn2learn with made-up drawings, and with plain tensors where it has torchvision turn and load images."""
    library = learn2learn()
    filtered = library.data.FilteredMetaDataset

    def noted(dataset: Any, labels: list[int]) -> Any:
        announced.append(set(labels))
        return filtered(dataset, labels)

    turning = SimpleNamespace(RandomRotation=lambda d: lambda image: image.rot90(round(d[0] / 90), (1, 2)))
    nothing = SimpleNamespace(Compose=list, Resize=lambda *_, **__: None, ToTensor=lambda: None)
    vision = library.vision
    with (
        mock.patch.object(library.data, "FilteredMetaDataset", noted),
        mock.patch.object(vision.datasets, "FullOmniglot", Drawings),
        mock.patch.object(vision.benchmarks.omniglot_benchmark, "transforms", nothing),
        mock.patch.object(vision.transforms, "transforms", turning),
        mock.patch.object(vision.transforms, "tv", SimpleNamespace(__version__="0.20")),
    ):
        yield library


def look(tasks: int = 400, way: int = 5, seed: int = 0) -> dict[str, Split]:
    """Draw tasks of each split, two drawings a class."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - learn2learn draws from the global generators
    announced: list[set[int]] = []
    found = {}
    with made_up(announced) as library:
        sets = library.vision.benchmarks.get_tasksets(
            "omniglot", train_ways=way, train_samples=2, test_ways=way, test_samples=2, num_tasks=tasks, root="nowhere"
        )
        for name, classes in zip(SPLITS, announced, strict=True):
            drawn: set[int] = set()
            turns = []
            for i in range(tasks):
                x, _ = getattr(sets, name)[i]
                drawn |= {int(number) - 1 for number in x.amax((1, 2, 3))}
                corners = torch.stack((x[:, 0, 0, 0], x[:, 0, -1, 0], x[:, 0, -1, -1], x[:, 0, 0, -1]), 1)
                turns.append(set(corners.argmax(1).tolist()))
            found[name] = Split(classes, drawn, turns)
    return found


def lines(found: dict[str, Split]) -> list[str]:
    """What was found, a line for each task set."""
    told = []
    for name, split in found.items():
        shares = ", ".join(f"{len(split.drawn & other.announced)} of {o}" for o, other in found.items())
        apart = sum(len(turns) > 1 for turns in split.turns)
        each, tasks = len(split.announced), len(split.turns)
        told.append(f"{name}, {each} classes: {tasks} tasks show {shares}; {apart} turn classes apart")
    return told


if __name__ == "__main__":
    try:
        LibraryMAML().check_packages()
    except BenchError as error:
        sys.exit(f"error: {error}")
    print("\n".join(lines(look())))
