"""An LSTM as large as a memory method, or as dear: is it the memory that helps, or the parameters or the arithmetic?

What is matched is the whole learner (encoder, controller, memory, output) against encoder, LSTM and output. The encoder
is the matched method's own, so that only the LSTM is free; of all its sizes the nearest is taken. It depends on the
shapes of a task's inputs, labels and predictions alone, so that it is the same in every evaluation setting.

by=params counts trainable numbers. by=compute counts floating point operations of forward and backward pass over STEPS
steps with `torch.utils.flop_counter`: matrix products and convolutions. Elementwise work (softmax, erasing, sorting) is
not counted, so that by the clock a memory is dearer still.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Literal

import torch
from torch.utils.flop_counter import FlopCounterMode

from baselines.lstm import LSTMLearner
from bench.api import BenchError, Task, TrainedMethod, method, method_of, option
from mann.encoders import make_encoder
from mann.learner import MemoryMethod, SequenceLearner

STEPS = 20
"""Long enough that the ends, where a gradient or a state is missing, weigh a percent."""
BATCH = 2
"""Episodes in a count: the fewest that suit every ablation."""


@method("lstm-matched", source="a control; the LSTM of Santoro et al. 2016, arXiv:1605.06065")
class LSTMMatched(TrainedMethod):
    """An LSTM with as many parameters, or as many operations a step, as a method with a memory.

    `size(task)` is the number of its units on a task. A record's `params` holds what came of it.
    """

    version = 2  # 1 counted no operation of a memory whose scan is compiled

    of: str = option("mann", "the method with a memory that is matched, by name")
    settings: str = option("", "its fields where they differ from its defaults, e.g. slots=64,encoder=mlp")
    by: Literal["params", "compute"] = option("params", "what is matched: parameters, or operations of a training step")

    @property
    def matched(self) -> MemoryMethod:
        """The config of the method that is matched.

        Raises:
            BenchError: no such method, or one without a memory, or settings that it does not take.
        """
        matched = method_of(self.of, self.settings)
        if not isinstance(matched, MemoryMethod):
            raise BenchError(f"{self.name}.of must be a method around a memory, such as mann, and '{self.of}' is none")
        return matched

    def size(self, task: Task) -> int:
        """Units of the LSTM on a task."""
        return _size(self.matched, self.by, task)

    def build(self, task: Task) -> LSTMLearner:
        """A fresh learner; see `Method.build`."""
        return _learner(self.matched, task, self.size(task))

    def check(self) -> None:
        """Refuse also what cannot be matched."""
        super().check()
        self.matched.check()

    def unsuited(self, task: Task) -> str | None:
        """Where the matched method is."""
        return self.matched.unsuited(task)


def _learner(matched: MemoryMethod, task: Task, size: int) -> LSTMLearner:
    return LSTMLearner(task, make_encoder(matched.encoder, task.x_shape, matched.encoder_size), size)


@lru_cache
def _size(matched: MemoryMethod, by: str, task: Task) -> int:
    cost = params if by == "params" else compute
    with torch.random.fork_rng(devices=[]):
        wanted = cost(matched.build(task), task)

    def at(size: int) -> int:
        with torch.device("meta"):  # on the CPU the whole LSTM is one operation that nothing counts
            return cost(_learner(matched, task, size), task)

    return nearest(quadratic(*map(at, (1, 2, 3))), wanted)


def params(learner: SequenceLearner, task: Task) -> int:
    """Trainable numbers."""
    return sum(p.numel() for p in learner.parameters() if p.requires_grad)


def compute(learner: SequenceLearner, task: Task) -> int:
    """Floating point operations of forward and backward pass; matrix products and convolutions only."""
    learner.use("reference")  # what a fused scan does, nobody counts
    like: dict[str, Any] = {"device": next(learner.parameters()).device}
    x, label = torch.zeros(BATCH, STEPS, *task.x_shape, **like), torch.zeros(BATCH, STEPS, task.y_size, **like)
    with torch.enable_grad(), FlopCounterMode(display=False) as counter:
        learner.run(x, label, learner.initial_state(BATCH, x))[0].sum().backward()
    return counter.get_total_flops()


def quadratic(one: int, two: int, three: int) -> Callable[[int], int]:
    """The polynomial of degree 2 with these values at 1, 2 and 3: parameters and operations of an LSTM by its size."""
    return lambda n: one + (n - 1) * (two - one) + (n - 1) * (n - 2) // 2 * (three - 2 * two + one)


def nearest(rising: Callable[[int], int], wanted: int) -> int:
    """The number, from 1, at which a rising function is nearest to a value; the lower of two as near."""
    high = 1
    while rising(high) < wanted:
        high *= 2
    low = high // 2  # at which the function is below, where it is above 0
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if rising(middle) < wanted else (low, middle)
    return low if low and wanted - rising(low) <= rising(high) - wanted else high
