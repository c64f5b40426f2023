"""LRUA behind an LSTM on the CPU, a whole sequence in one call: `mann.kernels.numba_lrua` as a registered scan.

Kept of each step and row for the way back, in numbers of the tensors' own type: the memory (slots · width), read
weights and cosines (2 · heads · slots), lengths (slots), gates and cell (5 · hidden), the controller's inputs (read +
hidden) and the interface; with the paper's sizes and 200 units 8,000 numbers, 32 KB in float32.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from mann.controllers import LSTMController, LSTMState
from mann.kernels.numba_lrua import Carry, Rules, Trace, Weights, backward, forward
from mann.kernels.registry import scan
from mann.kernels.sequence import Plan, by_reference, controller_weights, room, through, try_out
from mann.learner import MemoryLearner, State
from mann.lrua import EPSILON, LRUA, LRUAState


def _compile(dtype: torch.dtype) -> None:
    try_out(lrua, LRUA(slots=1, width=1, heads=1), dtype)


@scan(LRUA, LSTMController, compile=_compile)
def lrua(learner: MemoryLearner, projected: Tensor, state: State) -> tuple[Tensor, Tensor, State]:
    """As `mann.learner.reference`."""
    memory: Any = learner.memory
    own = () if memory.alpha is None else (memory.alpha,)
    usage = state.memory.usage
    carry = _carried(state._replace(memory=state.memory._replace(usage=usage.detach())))
    out = through(_plan(learner, memory, learner.controller.size), learner, projected, own, carry)
    after = _state(out[2:])
    if usage.requires_grad:  # no choice of a slot passes a gradient on, so usage has only that of its own decay
        own_past = memory.options.decay ** projected.shape[1] * (usage - usage.detach())
        after = after._replace(memory=after.memory._replace(usage=after.memory.usage + own_past))
    return out[0], out[1], after


def _carried(state: State) -> tuple[Tensor, ...]:
    """In the order of `Carry`."""
    controller, read, (memory, usage, weights) = state
    return read, controller.hidden, controller.cell, memory.mT, weights, usage


def _state(carry: tuple[Tensor, ...]) -> State:
    read, hidden, cell, memory, weights, usage = carry
    return State(LSTMState(hidden, cell), read, LRUAState(memory.mT, usage, weights))


def _plan(learner: MemoryLearner, memory: LRUA, units: int) -> Plan:
    o = memory.options
    rules = Rules(
        after=o.read == "after",
        separate=o.write_value == "separate",
        shared=o.head_slots == "shared",
        erased=1 if o.erase == "one" else o.heads,
        gated=o.gate == "controller",
        feed=learner.feed_read,
    )
    dtype = np.dtype(str(learner.interface.weight.dtype).removeprefix("torch."))
    emitted = memory.interface_size

    def trace(rows: int, steps: int) -> Trace:
        shapes = {
            "inputs": (steps, memory.read_size + units), "gates": (steps, 4 * units), "cells": (steps + 1, units),
            "emitted": (steps, emitted), "least": (steps, o.heads), "memory": (steps + 1, o.width, o.slots),
            "weights": (steps + 1, o.heads, o.slots), "cosines": (steps, o.heads, o.slots), "lengths": (steps, o.slots),
        }  # fmt: skip
        made: Trace = room(Trace, rows, shapes, learner.interface.weight, ("least",))
        return made

    def weights(recurrent: Tensor, weight: Tensor, bias: Tensor, *alpha: Tensor) -> Weights:
        return Weights(
            *controller_weights(recurrent, weight, bias),
            (alpha[0].detach().sigmoid().view(1) if alpha else bias.new_zeros(1)).numpy(),
            np.array([o.decay], dtype),
            np.array([EPSILON], dtype),
        )

    def own(opened_grad: Tensor, alpha: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(opened_grad.sum() * a.sigmoid() * (1 - a.sigmoid()) for a in alpha)

    names = () if memory.alpha is None else ("alpha",)
    plain = by_reference(learner, names, _carried, _state)
    sizes = (memory.read_size, o.heads)
    return Plan(forward, backward, weights, rules, Carry, trace, own, sizes, plain, fixed=("usage",))
