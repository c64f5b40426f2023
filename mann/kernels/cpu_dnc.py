"""DNC behind an LSTM on the CPU, a whole sequence in one call: `mann.kernels.numba_dnc` as a registered scan."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mann.controllers import LSTMController, LSTMState
from mann.dnc import DNC, DNCState
from mann.kernels.numba_dnc import Carry, Trace, Weights, backward, forward
from mann.kernels.numba_dnc_interface import Rules
from mann.kernels.registry import scan
from mann.kernels.sequence import Plan, by_reference, controller_weights, room, through, try_out
from mann.learner import MemoryLearner, State


def _compile(dtype: torch.dtype) -> None:
    try_out(dnc, DNC(slots=1, width=1, reads=1), dtype)


@scan(DNC, LSTMController, compile=_compile)
def dnc(learner: MemoryLearner, projected: Tensor, state: State) -> tuple[Tensor, Tensor, State]:
    """As `mann.learner.reference`."""
    memory: Any = learner.memory
    own = () if memory.norm is None else (memory.norm.weight, memory.norm.bias)
    out = through(_plan(learner, memory, learner.controller.size), learner, projected, own, _carried(state))
    return out[0], out[1], _state(out[2:])


def spans(steps: int) -> int:
    """How often links are kept in so many steps: then as many are kept as are computed again at a time."""
    return math.isqrt(steps - 1) + 1


def _carried(state: State) -> tuple[Tensor, ...]:
    """In the order of `Carry`."""
    controller, read, (memory, *others) = state
    return read, controller.hidden, controller.cell, memory.mT, *others


def _state(carry: tuple[Tensor, ...]) -> State:
    read, hidden, cell, memory, *others = carry
    return State(LSTMState(hidden, cell), read, DNCState(memory.mT, *others))


def _plan(learner: MemoryLearner, memory: DNC, units: int) -> Plan:
    o, emitted, norm = memory.options, memory.interface_size, memory.norm
    sharp = o.links and o.sharp_links
    rules = Rules(o.links, o.masked, o.wipe, sharp, norm is not None, learner.feed_read)
    dtype = np.dtype(str(learner.interface.weight.dtype).removeprefix("torch."))
    linked, normed = o.slots if o.links else 0, emitted if norm is not None else 0

    def trace(rows: int, steps: int) -> Trace:
        shapes = {
            "inputs": (steps, memory.read_size + units), "gates": (steps, 4 * units), "cells": (steps + 1, units),
            "emitted": (steps, emitted), "normed": (steps, normed), "scale": (steps, 1),
            "memory": (steps + 1, o.width, o.slots), "usage": (steps + 1, o.slots), "precedence": (steps + 1, linked),
            "weights": (steps + 1, o.reads, o.slots), "written": (steps + 1, o.slots), "retention": (steps, o.slots),
            "order": (steps, o.slots), "allocated": (steps, o.slots), "scores": (steps, o.reads + 1, o.slots),
            "content": (steps, o.reads + 1, o.slots), "lengths": (steps, o.reads + 1 if o.masked else 2, o.slots),
            "along": (steps, 2, o.reads, linked), "sharp": (steps, 2, o.reads, linked if sharp else 0),
            "links": (spans(steps), linked, linked),
        }  # fmt: skip
        made: Trace = room(Trace, rows, shapes, learner.interface.weight, ("order",))
        return made

    def weights(recurrent: Tensor, weight: Tensor, bias: Tensor, *affine: Tensor) -> Weights:
        gain, shift = (t.detach().contiguous().numpy() for t in affine or (bias[:0], bias[:0]))
        epsilon = np.array([norm.eps if norm is not None else 0], dtype)
        return Weights(*controller_weights(recurrent, weight, bias), gain, shift, epsilon)

    def own(affine_grad: Tensor, affine: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return affine_grad.sum((0, 1)).chunk(2) if affine else ()

    names = () if norm is None else ("norm.weight", "norm.bias")
    plain = by_reference(learner, names, _carried, _state)
    return Plan(forward, backward, weights, rules, Carry, trace, own, (memory.read_size, 2 * normed), plain)
