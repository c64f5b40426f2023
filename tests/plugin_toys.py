"""A plug-in file as a user writes one, for tests of the command line: milliseconds a cell, and some that misbehave."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from bench import environment
from bench.api import (
    BenchError,
    Draw,
    Episode,
    Examples,
    Generator,
    Learner,
    Method,
    Op,
    Outputs,
    Split,
    Task,
    TrainedMethod,
    Work,
    method,
    op,
    option,
    task,
    variant,
)

if "PLUG_PROCESS" in os.environ:
    environment.cpu_name = lambda: f"processor of {os.getpid()}"


@task("plug-points", source="nobody 2026")
class Points(Task):
    """Which of some clusters of points is it?"""

    way: int = option(3, "classes in an episode")

    @property
    def x_shape(self) -> tuple[int, ...]:
        return (2,)

    @property
    def n_out(self) -> int:
        return self.way

    def check(self) -> None:
        if self.way > 5:
            raise BenchError(f"plug-points has 5 classes, so way={self.way} is too many")

    def sample(self, split: Split, batch: int, rng: Generator) -> Episode:
        y = torch.from_numpy(rng.integers(self.way, size=(batch, 6)))
        x = torch.stack([y.float(), -y.float()], -1) + torch.from_numpy(rng.normal(size=(batch, 6, 2))).float()
        return Episode(Examples(x[:, :2], y[:, :2]), Examples(x[:, 2:], y[:, 2:]))


@task("plug-data")
class WithData(Points):
    """The same, but it claims to read a data set."""

    dataset = "omniglot"


class Linear(Learner):
    """Ignores its support."""

    def __init__(self, task: Task, nap: float, broken: bool) -> None:
        super().__init__()
        self.net = torch.nn.Linear(2, task.n_out)
        self.nap, self.broken = nap, broken

    def forward(self, support: Examples, query_x: Tensor) -> Tensor:
        if self.training:
            if "PLUG_MARK" in os.environ:
                Path(os.environ["PLUG_MARK"]).write_text(str(os.getpid()))
            time.sleep(self.nap)
        return self.net(query_x) * (float("nan") if self.broken else 1.0)


@method("plug-net", source="nobody 2026")
class Net(TrainedMethod):
    """A linear classifier."""

    nap: float = option(0.0, "seconds that a training step sleeps")
    broken: bool = option(False, "the loss is not a number")
    style: Literal["plain", "fancy"] = option("plain", "text that means nothing")

    def build(self, task: Task) -> Learner:
        return Linear(task, self.nap, self.broken)


@method("plug-crash")
class Crash(Method):
    """Fails in every cell."""

    def build(self, task: Task) -> Learner:
        raise RuntimeError("the [bold]crash[/bold] was asked for")


@method("plug-die")
class Die(Method):
    """Kills the process it runs in, as a lack of memory does."""

    def build(self, task: Task) -> Learner:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


@op("plug-scale", source="nobody 2026")
class Scale(Op):
    """Every number of a memory, doubled."""

    methods = ("plug-net",)
    slots: int = option(8, "rows")
    width: int = option(4, "numbers in a row")

    def inputs(self, draw: Draw) -> tuple[Tensor, ...]:
        return (draw.normal(self.batch, self.slots, self.width),)

    def reference(self, memory: Tensor) -> Outputs:
        return memory + memory

    def least(self, itemsize: int) -> Work:
        numbers = self.batch * self.slots * self.width
        return Work(numbers * itemsize, numbers * itemsize, 0, numbers)


@variant("plug-scale", "fused", dtypes=("float32",))
def scale_fused(self: Scale, memory: Tensor) -> Outputs:
    """One operator as well."""
    return 2 * memory


@variant("plug-scale", "wrong")
def scale_wrong(self: Scale, memory: Tensor) -> Outputs:
    """Not what it should be."""
    return 2.01 * memory


@variant("plug-scale", "abroad", devices=("cuda",))
def scale_abroad(self: Scale, memory: Tensor) -> Outputs:
    """For other machines."""
    raise AssertionError
