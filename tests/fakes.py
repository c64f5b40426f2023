"""Tiny tasks and methods for tests of the harness: milliseconds a cell, no data, registered nowhere by themselves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, TypeVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bench import registry
from bench.api import Episode, Examples, Generator, Learner, Method, Split, Task, TrainedMethod, generator, option

C = TypeVar("C", bound=type)
FEATURES = 4
CLASSES = 12


def named(name: str) -> Callable[[C], C]:
    """What `@method` and `@task` do, without entering the registry that other tests look at."""

    def decorate(cls: C) -> C:
        cls = dataclass(frozen=True, kw_only=True)(cls)
        cls.name, cls.source = name, ""
        return cls

    return decorate


def register(monkeypatch: pytest.MonkeyPatch, *classes: type) -> None:
    """Enter classes in the registry for the time of one test."""
    for cls in classes:
        kind = registry.TASKS if issubclass(cls, Task) else registry.METHODS
        monkeypatch.setitem(kind.entries, cls.name, cls)
        monkeypatch.setitem(kind.origins, cls.name, "test")


def prototypes(split: Split) -> np.ndarray:
    """One point a class, different in each split."""
    return generator("toy", split).normal(size=(CLASSES, FEATURES))


@named("toy")
class Toy(Task):
    """Points around class prototypes; notes which splits were drawn."""

    version = 3
    drawn: ClassVar[list[tuple[str, int]]] = []
    """(split, way) of every batch, in order; tests clear it."""

    way: int = option(3, "classes in an episode")
    shot: int = option(1, "labelled points of each class")
    query: int = option(2, "points to classify of each class")
    noise: float = option(0.3, "spread of a class")
    label: str = option("plain", "text that means nothing")
    train_way: int = option(0, "way in training; 0: as way", training=True)

    @property
    def x_shape(self) -> tuple[int, ...]:
        return (FEATURES,)

    @property
    def n_out(self) -> int:
        return self.way

    def training(self) -> Task:
        from dataclasses import replace

        return replace(self, way=self.train_way or self.way)

    def sample(self, split: Split, batch: int, rng: Generator) -> Episode:
        self.drawn.append((split, self.way))
        each = self.shot + self.query
        classes = np.stack([rng.permutation(CLASSES)[: self.way] for _ in range(batch)])
        y = np.stack([
            np.concatenate([rng.permutation(np.repeat(np.arange(self.way), n)) for n in (self.shot, self.query)])
            for _ in range(batch)
        ])  # fmt: skip
        x = prototypes(split)[np.take_along_axis(classes, y, 1)]
        x = torch.from_numpy(x + self.noise * rng.normal(size=x.shape)).float()
        cut, labels = self.way * self.shot, torch.from_numpy(y)
        assert x.shape[1] == self.way * each
        return Episode(Examples(x[:, :cut], labels[:, :cut]), Examples(x[:, cut:], labels[:, cut:]))


@named("toy-online")
class ToyOnline(Task):
    """The online protocol; x is a one-hot code of the class, so that a perfect memory is possible."""

    online = True

    way: int = option(3, "classes in an episode")
    each: int = option(3, "presentations of each class")

    @property
    def x_shape(self) -> tuple[int, ...]:
        return (CLASSES,)

    @property
    def n_out(self) -> int:
        return self.way

    def sample(self, split: Split, batch: int, rng: Generator) -> Episode:
        classes = np.stack([rng.permutation(CLASSES)[: self.way] for _ in range(batch)])
        y = np.stack([rng.permutation(np.repeat(np.arange(self.way), self.each)) for _ in range(batch)])
        x = torch.from_numpy(np.eye(CLASSES, dtype=np.float32)[np.take_along_axis(classes, y, 1)])
        labels = torch.from_numpy(y)
        return Episode(Examples(x[:, :0], labels[:, :0]), Examples(x, labels))

    def instances(self, y: Tensor) -> Tensor:
        return (y[:, :, None] == y[:, None]).tril().sum(-1)


class Prototypes(Learner):
    """Class means in a learned space; the honest learner that bad ones are made from."""

    def __init__(self, task: Task, width: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.encode_labels = task.encode
        inputs = int(np.prod(task.x_shape))
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(inputs, width), nn.Tanh(), nn.Dropout(dropout))
        self.scale = nn.Parameter(torch.ones(()))

    def embed(self, x: Tensor) -> Tensor:
        """[batch, n, *x_shape] to [batch, n, width]."""
        return self.net(x.flatten(0, 1)).view(*x.shape[:2], self.net[1].out_features)

    def forward(self, support: Examples, query_x: Tensor) -> Tensor:
        labels = self.encode_labels(support.y).to(query_x.dtype)
        counts = labels.sum(1)
        means = labels.transpose(1, 2) @ self.embed(support.x) / counts.clamp(min=1)[..., None]
        far = (self.embed(query_x)[:, :, None] - means[:, None]).square().sum(-1)
        return torch.where(counts[:, None] > 0, -self.scale * far, -4.0)


@named("toy-net")
class ToyNet(TrainedMethod):
    """Trains in a millisecond a step; dropout makes it depend on torch's random stream too."""

    batch: int = option(4, "episodes per training step")
    width: int = option(5, "width of the embedding")
    dropout: float = option(0.2, "dropped units")
    sizes: tuple[int, ...] = option((1, 2), "integers that mean nothing")
    notes: tuple[str, ...] = option((), "texts that mean nothing")
    mode: str = option("plain", "text that means nothing")
    flag: bool = option(False, "truth that means nothing")

    def build(self, task: Task) -> Learner:
        return Prototypes(task, self.width, self.dropout)

    def unsuited(self, task: Task) -> str | None:
        return "it needs classes" if task.kind == "regression" else None


@named("toy-nearest")
class ToyNearest(Method):
    """Does not train."""

    width: int = option(0, "a field that means nothing")

    def build(self, task: Task) -> Learner:
        learner = Prototypes(task, 5)
        for parameter in learner.parameters():
            nn.init.constant_(parameter, 1.0)
        return learner.requires_grad_(False)


@dataclass
class StopAt:
    """A `stopping` that says yes on its k-th question, from 1, and on every later one."""

    k: int
    asked: int = field(default=0)

    def __call__(self) -> bool:
        self.asked += 1
        return self.asked >= self.k
