"""NTM behind an LSTM on the CPU, a whole sequence in one call: `mann.kernels.numba_ntm` as a registered scan.

Kept of each step and row for the way back, in numbers of the tensors' own type: the memory (slots · width), weights,
scores and weights by content (3 · heads · slots), lengths (slots), gates and cell (5 · hidden), the controller's inputs
(read + hidden) and the interface; with 128 slots of 40, four heads of each kind and 200 units 10,400 numbers, 41 KB in
float32; at the sizes of the paper's copy task (one head of each kind, 20, 100 units) 4,200 numbers, 17 KB.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from mann.addressing import LEAST, SOFTENING
from mann.controllers import LSTMController, LSTMState
from mann.kernels.numba_ntm import Carry, Rules, Trace, Weights, backward, forward
from mann.kernels.registry import scan
from mann.kernels.sequence import Plan, by_reference, controller_weights, room, through, try_out
from mann.learner import MemoryLearner, State
from mann.ntm import NTM, NTMState


def _compile(dtype: torch.dtype) -> None:
    try_out(ntm, NTM(slots=1, width=1, shift=0), dtype)


@scan(NTM, LSTMController, compile=_compile)
def ntm(learner: MemoryLearner, projected: Tensor, state: State) -> tuple[Tensor, Tensor, State]:
    """As `mann.learner.reference`."""
    memory: Any = learner.memory
    plan = _plan(learner, memory, learner.controller.size)
    hidden, reads, *after = through(plan, learner, projected, (), _carried(state))
    return hidden, reads, _state(tuple(after))


def _carried(state: State) -> tuple[Tensor, ...]:
    """In the order of `Carry`."""
    controller, read, (memory, weights) = state
    return read, controller.hidden, controller.cell, memory.mT, weights


def _state(carry: tuple[Tensor, ...]) -> State:
    read, hidden, cell, memory, weights = carry
    return State(LSTMState(hidden, cell), read, NTMState(memory.mT, weights))


def _plan(learner: MemoryLearner, memory: NTM, units: int) -> Plan:
    o, heads = memory.options, memory.heads
    rules = Rules(reads=o.reads, shift=o.shift, after=o.read == "after", feed=learner.feed_read)
    dtype = np.dtype(str(learner.interface.weight.dtype).removeprefix("torch."))

    def trace(rows: int, steps: int) -> Trace:
        shapes = {
            "inputs": (steps, memory.read_size + units), "gates": (steps, 4 * units), "cells": (steps + 1, units),
            "emitted": (steps, memory.interface_size), "memory": (steps + 1, o.width, o.slots),
            "weights": (steps + 1, heads, o.slots), "scores": (steps, heads, o.slots),
            "content": (steps, heads, o.slots), "inverse": (steps, o.slots),
        }  # fmt: skip
        made: Trace = room(Trace, rows, shapes, learner.interface.weight)
        return made

    def weights(*parameters: Tensor) -> Weights:
        return Weights(*controller_weights(*parameters), np.array([SOFTENING], dtype), np.array([LEAST], dtype))

    def own(own_grad: Tensor, parameters: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return ()

    plain = by_reference(learner, (), _carried, _state)
    return Plan(forward, backward, weights, rules, Carry, trace, own, (memory.read_size, 0), plain)
