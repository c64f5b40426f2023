"""SAM with exact search behind an LSTM on the CPU, a whole sequence in one call: `mann.kernels.numba_sam` as a scan.

The given state is left as it was, buffers and clock: the scan works on one copy of them a sequence, and nothing is to
be rolled back. What is kept for the way back does not grow with the slots; see the README here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mann.controllers import LSTMController, LSTMState
from mann.index import PART
from mann.kernels.numba_sam import Carry, Rules, Trace, Weights, backward, forward
from mann.kernels.numba_topk import MOST
from mann.kernels.registry import scan
from mann.kernels.sequence import Plan, by_reference, controller_weights, room, through, try_out
from mann.learner import MemoryLearner, State
from mann.sam import SAM, SAMState, journal


class Joined(torch.autograd.Function):
    """The memory, with the gradient that runs through the flow."""

    @staticmethod
    def forward(ctx: Any, memory: Tensor, flow: Tensor) -> Tensor:
        """The same numbers, not copied."""
        return memory.detach()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:
        """Of the flow."""
        return None, grad


class Flow(torch.autograd.Function):
    """The flow of a memory that has a gradient itself."""

    @staticmethod
    def forward(ctx: Any, memory: Tensor) -> Tensor:
        """The memory's shape, without storage."""
        return memory.new_zeros(()).expand(memory.shape)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        """Of the memory."""
        return grad


class Kind(NamedTuple):
    """What one kind of sparse memory has of its own."""

    forward: Callable[..., None]
    backward: Callable[..., None]
    carry: type[Any]
    """Read, hidden and cell first, then as in `pack`."""
    trace: type[Any]
    shapes: Callable[[Any, int], dict[str, tuple[int, ...]]]
    """From the memory's options and a number of steps, those of the trace that `shapes_of` does not tell."""
    pack: Callable[[Any], tuple[Tensor, ...]]
    """A memory's state as tensors."""
    unpack: Callable[[tuple[Tensor, ...], Any, int], Any]
    """Back, with what is left from a state so many steps before."""


def scanned(kind: Kind, learner: MemoryLearner, projected: Tensor, state: State) -> tuple[Tensor, Tensor, State]:
    """As `mann.learner.reference`."""
    memory = kind.pack(state.memory)
    plan = _plan(kind, learner, sum(part.nbytes for part in memory) // len(projected))
    hidden, reads, *carry = through(plan, learner, projected, (), (state.read, *state.controller, *memory))
    return hidden, reads, _state(kind, carry, state.memory, projected.shape[1])


def _state(kind: Kind, carry: Any, like: Any, steps: int) -> State:
    read, hidden, cell, *memory = carry
    return State(LSTMState(hidden, cell), read, kind.unpack(tuple(memory), like, steps))


def _plan(kind: Kind, learner: MemoryLearner, held: int) -> Plan:
    memory: Any = learner.memory
    controller: Any = learner.controller
    o = memory.options
    dtype = np.dtype(str(learner.interface.weight.dtype).removeprefix("torch."))

    def trace(rows: int, steps: int) -> Any:
        shapes = shapes_of(memory, controller.size, steps) | kind.shapes(o, steps)
        return room(kind.trace, rows, shapes, learner.interface.weight, WHOLE)

    def weights(*parameters: Tensor) -> Weights:
        return Weights(*controller_weights(*parameters), np.array([o.decay], dtype), np.array([o.threshold], dtype))

    def carried(state: State) -> tuple[Tensor, ...]:
        return state.read, *state.controller, *kind.pack(state.memory)

    def fresh(carry: tuple[Tensor, ...]) -> State:
        like = memory.initial_state(len(carry[0]), carry[0])
        return _state(kind, [t.clone() for t in carry], like, 0)  # the reference changes buffers in place

    rules = Rules(dense=o.usage == "u1", part=PART, feed=learner.feed_read)
    return Plan(
        kind.forward, kind.backward, weights, rules, kind.carry, trace, lambda own_grad, own: (), (memory.read_size, 0),
        by_reference(learner, (), carried, fresh), fixed=("usage", "strength", "precedence"), held=held,
    )  # fmt: skip


WHOLE = ("slots", "least", "near", "chosen")
"""What of a trace is int64."""


def shapes_of(memory: Any, units: int, steps: int) -> dict[str, tuple[int, ...]]:
    """Those of the trace of any sparse memory, but for rows of the batch."""
    o = memory.options
    return {
        "inputs": (steps, memory.read_size + units), "gates": (steps, 4 * units), "cells": (steps + 1, units),
        "emitted": (steps, memory.interface_size), "shares": (steps, o.reads + 1), "least": (steps,),
        "slots": (steps + 1, o.reads, o.k), "weights": (steps + 1, o.reads, o.k), "cosines": (steps, o.reads, o.k),
    }  # fmt: skip


def pack(state: SAMState) -> tuple[Tensor, ...]:
    """In the order of `Carry`."""
    usage = state.usage.detach()
    none = usage[:, :0]
    kinds = (usage, none.long()) if usage.is_floating_point() else (none.to(state.weights), usage)
    return Joined.apply(state.memory, state.flow), state.weights, state.slots, *kinds


def unpack(tensors: tuple[Tensor, ...], like: SAMState, steps: int) -> SAMState:
    """A state that many steps after another."""
    memory, weights, slots, usage, ring = tensors
    step = like.step + steps
    usage = usage if like.usage.is_floating_point() else ring
    return SAMState(memory.detach(), Flow.apply(memory), slots, weights, usage, like.table, step.clone(), step)


SPARSE = Kind(
    forward, backward, Carry, Trace, lambda o, steps: {"rows": (steps, o.reads, o.k, o.width)}, pack, unpack
)  # fmt: skip


def unsuited(learner: MemoryLearner) -> str | None:
    """Why a sparse memory with such options cannot be taken, or None."""
    o: Any = learner.memory.options
    if o.search != "exact":
        return f"it searches exactly, and the memory is asked for search={o.search}"
    if o.k > MOST:
        return f"it finds up to {MOST} slots a head, and the memory is asked for k={o.k}"
    return None


def _compile(dtype: torch.dtype) -> None:
    try_out(sam, SAM(slots=1, width=1, reads=1, k=1), dtype)


@scan(SAM, LSTMController, compile=_compile, unsuited=unsuited)
def sam(learner: MemoryLearner, projected: Tensor, state: State) -> tuple[Tensor, Tensor, State]:
    """As `mann.learner.reference`.

    Raises:
        BenchError: the state is outdated, as in `SAM.forward`.
    """
    journal(projected, state.memory)  # refuses an outdated state
    return scanned(SPARSE, learner, projected, state)
