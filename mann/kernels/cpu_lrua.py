"""LRUA behind an LSTM on the CPU, a whole sequence in one call: `mann.kernels.numba_lrua` as a registered scan.

Kept of each step and row for the way back, in numbers of the tensors' own type: the memory (slots · width), read
weights and cosines (2 · heads · slots), lengths (slots), gates and cell (5 · hidden), the controller's inputs (read +
hidden) and the interface; with the paper's sizes and 200 units 8,000 numbers, 32 KB in float32.
"""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from mann.controllers import LSTMController, LSTMState
from mann.kernels.numba_lrua import Carry, Rules, Trace, Weights, backward, forward
from mann.kernels.registry import scan
from mann.kernels.sequence import Plan, Sequence, padded, run
from mann.learner import MemoryLearner, State, reference
from mann.lrua import EPSILON, LRUA, LRUAState


def _compile(dtype: torch.dtype) -> None:
    """Run the smallest memory there is, forward and back."""
    made = torch.zeros(1, 1, 4, dtype=dtype, requires_grad=True)
    memory, controller = LRUA(slots=1, width=1, heads=1).to(dtype), LSTMController(1, 1, 1).to(dtype)
    learner: Any = SimpleNamespace(
        memory=memory, controller=controller, interface=torch.nn.Linear(1, 1, dtype=dtype), feed_read=True
    )
    state = State(controller.initial_state(1, made), made.detach()[:, 0, :1], memory.initial_state(1, made))
    hidden, _, _ = lrua(learner, made, state)
    hidden.sum().backward()


@scan(LRUA, LSTMController, compile=_compile)
def lrua(learner: MemoryLearner, projected: Tensor, state: State) -> tuple[Tensor, Tensor, State]:
    """As `mann.learner.reference`."""
    memory: Any = learner.memory
    controller: Any = learner.controller
    own = () if memory.alpha is None else (memory.alpha,)
    parameters = (controller.recurrent, learner.interface.weight, learner.interface.bias, *own)
    tensors = (projected, *parameters, *_carried(state))
    wanted = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
    plan = _plan(learner, memory, controller)
    out = Sequence.apply(plan, len(own), *tensors) if wanted else run(plan, len(own), tensors, False)[0]
    return out[0], out[1], _state(out[2:])


def _carried(state: State) -> tuple[Tensor, ...]:
    """In the order of `Carry`."""
    controller, read, (memory, usage, weights) = state
    return read, controller.hidden, controller.cell, memory.mT, weights, usage


def _state(carry: tuple[Tensor, ...]) -> State:
    read, hidden, cell, memory, weights, usage = carry
    return State(LSTMState(hidden, cell), read, LRUAState(memory.mT, usage, weights))


def _plan(learner: MemoryLearner, memory: LRUA, controller: LSTMController) -> Plan:
    o, units = memory.options, controller.size
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
        made = {k: np.empty((rows, *s), np.int64 if k == "least" else dtype) for k, s in shapes.items()}
        return Trace(**made)

    def weights(recurrent: Tensor, weight: Tensor, bias: Tensor, *alpha: Tensor) -> Weights:
        return Weights(
            recurrent.detach().contiguous().numpy(),
            padded(recurrent),
            weight.detach().T.contiguous().numpy(),
            padded(weight.T),
            bias.detach().contiguous().numpy(),
            (alpha[0].detach().sigmoid().view(1) if alpha else bias.new_zeros(1)).numpy(),
            np.array([o.decay], dtype),
            np.array([EPSILON], dtype),
        )

    def own(opened_grad: Tensor, alpha: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(opened_grad.sum() * a.sigmoid() * (1 - a.sigmoid()) for a in alpha)

    def plain(*tensors: Tensor) -> tuple[Tensor, ...]:
        count = len(tensors) - len(Carry._fields)
        projected, recurrent, weight, bias, *alpha = tensors[:count]
        same: Any = SimpleNamespace(
            controller=lambda *step: functional_call(controller, {"recurrent": recurrent}, step),
            interface=partial(F.linear, weight=weight, bias=bias),
            memory=lambda *step: functional_call(memory, dict(zip(("alpha",), alpha, strict=False)), step),
            feed_read=rules.feed,
        )
        hidden, reads, state = reference(same, projected, _state(tensors[count:]))
        return hidden, reads, *_carried(state)

    return Plan(forward, backward, weights, rules, Carry, trace, own, (memory.read_size, o.heads), plain)
