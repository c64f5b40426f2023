"""What several benchmarks train: every memory at one size, on one task, a step at a time."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bench import registry
from bench.api import Backend, Task, TrainedMethod, generator
from bench.tasks.glyphs import GlyphsOnline
from mann.kernels import registry as scans
from mann.learner import MemoryLearner, State

SIZES: dict[str, Any] = {"slots": 128, "width": 40, "heads": 4, "reads": 4}
TASK = GlyphsOnline(size=20)
registry.load()


def sized(name: str, **more: Any) -> TrainedMethod:
    """A method of `SIZES`, and of more; what it has no field for is left out."""
    cls = registry.METHODS.entries[name]
    fields = {f.name for f in dataclasses.fields(cls)}
    made = cls(**{key: value for key, value in (SIZES | more).items() if key in fields})
    made.check()
    return made


def training_step(
    method: TrainedMethod, task: Task = TASK, backend: Backend = "reference"
) -> tuple[Callable[[], None], int]:
    """The step, and the number of trained parameters.

    Raises:
        BenchError: the backend is "fused", and there is no fused path here.
    """
    torch.manual_seed(0)
    learner = method.build(task).train()
    learner.use(backend)
    optimiser = method.optimiser(learner)
    episode = task.sample("train", method.batch, generator("benchmark"))

    def step() -> None:
        loss = learner.loss(episode, task)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    return step, sum(p.numel() for p in learner.parameters())


def no_scan(name: str) -> str | None:
    """Why there is no fused scan of a method's memory here, or None."""
    learner = sized(name).build(TASK)
    if not isinstance(learner, MemoryLearner):
        return f"{name} has no memory"
    found = scans.find(learner, "cpu")
    return found if isinstance(found, str) else None


@functools.cache
def _compiled(learner: MemoryLearner) -> Callable[..., Any]:
    def step(x: Tensor, read: Tensor, controller: Any, memory: Any) -> Any:
        hidden, controller = learner.controller(x, read, controller)
        found, memory = learner.memory(learner.interface(hidden), memory)
        return hidden, found, controller, memory

    return torch.compile(step, fullgraph=True, dynamic=False)


def compiled(learner: MemoryLearner, projected: Tensor, state: State) -> tuple[Tensor, Tensor, State]:
    """`mann.learner.reference` with its step compiled: a whole sequence would be compiled for minutes."""
    step, (controller, read, memory) = _compiled(learner), state
    hidden, reads = [], []
    for x in projected.unbind(1):
        h, r, controller, memory = step(x, read, controller, memory)
        read = r if learner.feed_read else read
        hidden.append(h)
        reads.append(r)
    return torch.stack(hidden, 1), torch.stack(reads, 1), State(controller, read, memory)
