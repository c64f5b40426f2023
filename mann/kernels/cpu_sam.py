"""SAM with exact search behind an LSTM on the CPU, a whole sequence in one call: `mann.kernels.numba_sam` as a scan.

The given state is left as it was, buffers and clock: the scan works on one copy of them a sequence, and nothing is to
be rolled back. What is kept for the way back does not grow with the slots; see the README here.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from bench.api import Memory
from mann.controllers import LSTMController, LSTMState
from mann.index import PART
from mann.kernels.numba_sam import Carry, Rules, Trace, Weights, backward, forward
from mann.kernels.numba_topk import MOST
from mann.kernels.registry import scan
from mann.kernels.sequence import Plan, Sequence, padded, run
from mann.learner import MemoryLearner, State, reference
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
    controller: Any = learner.controller
    parameters = (controller.recurrent, learner.interface.weight, learner.interface.bias)
    memory = kind.pack(state.memory)
    tensors = (projected, *parameters, state.read, *state.controller, *memory)
    plan = _plan(kind, learner, sum(part.nbytes for part in memory) // len(projected))
    wanted = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
    hidden, reads, *carry = Sequence.apply(plan, 0, *tensors) if wanted else run(plan, 0, tensors, False)[0]
    return hidden, reads, _state(kind, carry, state.memory, projected.shape[1])


def _state(kind: Kind, carry: Any, like: Any, steps: int) -> State:
    read, hidden, cell, *memory = carry
    return State(LSTMState(hidden, cell), read, kind.unpack(tuple(memory), like, steps))


def _plan(kind: Kind, learner: MemoryLearner, held: int) -> Plan:
    memory: Any = learner.memory
    controller: Any = learner.controller
    o, feed = memory.options, learner.feed_read
    dtype = np.dtype(str(learner.interface.weight.dtype).removeprefix("torch."))

    def trace(rows: int, steps: int) -> Any:
        shapes = shapes_of(memory, controller.size, steps) | kind.shapes(o, steps)
        made = {k: np.empty((rows, *s), np.int64 if k in WHOLE else dtype) for k, s in shapes.items()}
        return kind.trace(**made)

    def weights(recurrent: Tensor, weight: Tensor, bias: Tensor) -> Weights:
        return Weights(
            recurrent.detach().contiguous().numpy(),
            padded(recurrent),
            weight.detach().T.contiguous().numpy(),
            padded(weight.T),
            bias.detach().contiguous().numpy(),
            np.array([o.decay], dtype),
            np.array([o.threshold], dtype),
        )

    def plain(*tensors: Tensor) -> tuple[Tensor, ...]:
        projected, recurrent, weight, bias, *carry = tensors
        same: Any = SimpleNamespace(
            controller=lambda *step: functional_call(controller, {"recurrent": recurrent}, step),
            interface=partial(F.linear, weight=weight, bias=bias),
            memory=memory,
            feed_read=feed,
        )
        like = memory.initial_state(len(projected), projected)
        # The reference changes buffers in place.
        state = _state(kind, [t.clone() for t in carry], like, 0)
        hidden, reads, after = reference(same, projected, state)
        return hidden, reads, after.read, *after.controller, *kind.pack(after.memory)

    rules = Rules(dense=o.usage == "u1", part=PART, feed=feed)
    return Plan(
        kind.forward, kind.backward, weights, rules, kind.carry, trace, lambda own_grad, own: (), (memory.read_size, 0),
        plain, held,
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


def compiled(
    run: Callable[[Any, Tensor, State], tuple[Tensor, Tensor, State]], memory: Memory[Any], dtype: torch.dtype
) -> None:
    """Run a scan over one step of a memory, the smallest there is, forward and back."""
    made = torch.zeros(1, 1, 4, dtype=dtype, requires_grad=True)
    learner: Any = SimpleNamespace(
        memory=memory,
        controller=LSTMController(1, memory.read_size, 1).to(dtype),
        interface=torch.nn.Linear(1, memory.interface_size, dtype=dtype),
        feed_read=True,
    )
    with torch.enable_grad():
        read = made.detach().new_zeros(1, memory.read_size)
        state = State(learner.controller.initial_state(1, made), read, memory.initial_state(1, made))
        run(learner, made, state)[0].sum().backward()


def _compile(dtype: torch.dtype) -> None:
    compiled(sam, SAM(slots=1, width=1, reads=1, k=1), dtype)


@scan(SAM, LSTMController, compile=_compile, unsuited=unsuited)
def sam(learner: MemoryLearner, projected: Tensor, state: State) -> tuple[Tensor, Tensor, State]:
    """As `mann.learner.reference`.

    Raises:
        BenchError: the state is outdated, as in `SAM.forward`.
    """
    journal(projected, state.memory)  # refuses an outdated state
    return scanned(SPARSE, learner, projected, state)
