"""What the compiled scans of all memories share: rows over threads, steps in segments, and the step to autograd.

**Memory.** The way back needs every step's trace. Where the traces of all steps fit in `ROOM` bytes they are kept.
Otherwise the sequence is cut into segments of √time steps: forward keeps the carry (all that passes from a step to the
next) at the start of each, and backward runs each segment forward once more, from the last to the first. Both give the
same bits. Without gradients no trace is kept at all.

**Threads.** Rows of a batch never meet in a kernel, so each thread takes some; what is summed over rows is summed
afterwards, in one product. The result therefore does not depend on how threads are timed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from bench.api import Memory
from mann.controllers import LSTMController
from mann.kernels.registry import Run
from mann.learner import MemoryLearner, State, reference

Array = np.ndarray[Any, Any]
ROOM = 2**29
"""Bytes of traces that are kept; longer sequences are computed twice."""
FLEETING = 16
"""Steps of a segment where no gradient is wanted: its trace stays in the cache."""
LANES = 16
"""Rows of a matrix are padded to a multiple of so many numbers, those of the widest vector register."""


@dataclass(frozen=True)
class Plan:
    """One memory's part. Arrays are numpy; those with a row an episode can be cut by rows."""

    forward: Callable[..., None]
    """(weights, rules, first, steps, carry, trace, projected, hidden, reads)"""
    backward: Callable[..., None]
    """(weights, rules, first, steps, carry_grad, trace, hidden_grad, reads_grad, projected_grad, emitted_grad,
    own_grad)"""
    weights: Callable[..., Any]
    """From parameters (recurrent, weight, bias, *own), what the kernels take."""
    rules: Any
    carry: type[Any]
    """Named tuple of arrays; read, hidden and cell first."""
    trace: Callable[[int, int], Any]
    """From rows and steps, an empty trace."""
    own: Callable[[Tensor, tuple[Tensor, ...]], tuple[Tensor, ...]]
    """From own_grad, [batch, time, own], and the memory's own parameters, the gradients of these."""
    sizes: tuple[int, int]
    """Width of a read, and of own_grad."""
    reference: Callable[..., tuple[Tensor, ...]]
    """What `Sequence.apply` does, from the same tensors, by the plain path."""

    def segment(self, rows: int, steps: int, keep: bool) -> int:
        """How many steps to go before the trace is dropped, or kept."""
        if not keep:
            return min(steps, FLEETING)
        size = sum(array.nbytes for array in self.trace(1, 1))
        return steps if rows * steps * size <= ROOM else math.isqrt(steps - 1) + 1


class Sequence(torch.autograd.Function):
    """(plan, own parameters, projected, recurrent, weight, bias, …own, …carry) to (hidden, reads, …carry)."""

    @staticmethod
    def forward(ctx: Any, plan: Plan, count: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        """count: how many parameters of the memory's own there are."""
        keep = any(ctx.needs_input_grad)
        out, trace, starts = run(plan, count, tensors, keep)
        if keep:
            ctx.plan, ctx.count, ctx.trace, ctx.starts = plan, count, trace, starts
            ctx.save_for_backward(*tensors, out[0])
            ctx.mark_non_differentiable(
                *(t for name, t in zip(plan.carry._fields, out[2:], strict=True) if name == "usage")
            )
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        """By the compiled way; where the gradient is to be differentiated again, through the reference."""
        *tensors, hidden = ctx.saved_tensors
        if torch.is_grad_enabled():
            return (None, None, *_twice(ctx.plan, ctx.needs_input_grad[2:], tensors, grads))
        return (None, None, *_backward(ctx, tensors, hidden, grads))


def run(plan: Plan, count: int, tensors: tuple[Tensor, ...], keep: bool) -> tuple[Any, Any, list[Any]]:
    """Forward: outputs, the trace if one is kept whole, and the carry at the start of each segment otherwise."""
    projected, parameters, before = tensors[0], tensors[1 : 4 + count], tensors[4 + count :]
    batch, time, sums = projected.shape
    after = [t.detach().clone(memory_format=torch.contiguous_format) for t in before]
    hidden, reads = projected.new_empty(batch, time, sums // 4), projected.new_empty(batch, time, plan.sizes[0])
    weights, carry = plan.weights(*parameters), plan.carry(*(t.numpy() for t in after))
    length = plan.segment(batch, time, keep)
    trace, starts = plan.trace(batch, length), []
    given = tuple(t.detach().contiguous().numpy() for t in (projected, hidden, reads))
    for first in range(0, time, length):
        if keep and length < time:
            starts.append(plan.carry(*(array.copy() for array in carry)))
        _by_rows(plan.forward, (weights, plan.rules, first, min(length, time - first)), (carry, trace, *given))
    return (hidden, reads, *after), trace if keep and length == time else None, starts


def _backward(ctx: Any, tensors: list[Tensor], hidden: Tensor, grads: tuple[Tensor, ...]) -> tuple[Tensor | None, ...]:
    plan, count = ctx.plan, ctx.count
    projected, parameters = tensors[0].detach(), tensors[1 : 4 + count]
    batch, time, _ = projected.shape
    recurrent, _, bias, *own = parameters
    weights = plan.weights(*parameters)
    carry = [t.clone(memory_format=torch.contiguous_format) for t in grads[2:]]
    carry_grad = plan.carry(*(t.numpy() for t in carry))
    hidden_grad, reads_grad = grads[0].contiguous(), grads[1].clone(memory_format=torch.contiguous_format)
    projected_grad = torch.empty_like(projected, memory_format=torch.contiguous_format)
    emitted_grad = projected.new_empty(batch, time, len(bias))
    own_grad = projected.new_empty(batch, time, plan.sizes[1])
    arrays = tuple(t.numpy() for t in (hidden_grad, reads_grad, projected_grad, emitted_grad, own_grad))
    recurrent_grad = torch.zeros_like(recurrent, memory_format=torch.contiguous_format)
    length, trace = plan.segment(batch, time, True), ctx.trace
    again = plan.trace(batch, length) if trace is None else None
    for first in reversed(range(0, time, length)):
        steps = min(length, time - first)
        fixed = (weights, plan.rules, first, steps)
        if again is not None:
            start = plan.carry(*(array.copy() for array in ctx.starts[first // length]))
            forward = (projected.contiguous(), torch.empty_like(hidden), reads_grad.new_empty(reads_grad.shape))
            _by_rows(plan.forward, fixed, (start, again, *(t.numpy() for t in forward)))
            trace = again
        _by_rows(plan.backward, fixed, (carry_grad, trace, *arrays))
        inputs, sums = torch.from_numpy(trace.inputs)[:, :steps], projected_grad[:, first : first + steps]
        recurrent_grad.addmm_(inputs.flatten(0, 1).T, sums.flatten(0, 1))
    emitted = emitted_grad.flatten(0, 1)
    found = (projected_grad, recurrent_grad, emitted.T @ hidden.flatten(0, 1), emitted.sum(0), *plan.own(own_grad, own))
    wanted = ctx.needs_input_grad[2:]
    return tuple(g if needed else None for g, needed in zip((*found, *carry), wanted, strict=True))


def _twice(plan: Plan, wanted: Any, tensors: list[Tensor], grads: tuple[Tensor, ...]) -> list[Tensor | None]:
    """The same gradients as a graph that can be differentiated."""
    outputs = [(t, g) for t, g in zip(plan.reference(*tensors), grads, strict=True) if t.requires_grad]
    inputs = [t for t, needed in zip(tensors, wanted, strict=True) if needed]
    ends, given = ([pair[i] for pair in outputs] for i in range(2))
    found = iter(torch.autograd.grad(ends, inputs, given, create_graph=True, allow_unused=True))
    return [next(found) if needed else None for needed in wanted]


def apply(plan: Plan, tensors: tuple[Tensor, ...], own: int = 0) -> tuple[Tensor, ...]:
    """`Sequence.apply`; without a trace where nothing has a gradient. own: how many parameters are the memory's own."""
    wanted = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
    return Sequence.apply(plan, own, *tensors) if wanted else run(plan, own, tensors, False)[0]


def plain(
    learner: MemoryLearner,
    names: tuple[str, ...],
    state_of: Callable[[tuple[Tensor, ...]], State],
    carried: Callable[[State], tuple[Tensor, ...]],
) -> Callable[..., tuple[Tensor, ...]]:
    """What `Sequence.apply` does, by the plain path. names: of the memory's own parameters.

    state_of, carried: between a state and its tensors in the order of the carry.
    """
    controller, memory, feed = learner.controller, learner.memory, learner.feed_read

    def plainly(
        projected: Tensor, recurrent: Tensor, weight: Tensor, bias: Tensor, *rest: Tensor
    ) -> tuple[Tensor, ...]:
        own = dict(zip(names, rest, strict=False))
        same: Any = SimpleNamespace(
            controller=lambda *step: functional_call(controller, {"recurrent": recurrent}, step),
            interface=partial(F.linear, weight=weight, bias=bias),
            memory=lambda *step: functional_call(memory, own, step),
            feed_read=feed,
        )
        hidden, reads, state = reference(same, projected, state_of(rest[len(names) :]))
        return hidden, reads, *carried(state)

    return plainly


@torch.enable_grad()
def try_out(memory: Memory[Any], run: Run, dtype: torch.dtype) -> None:
    """Run a memory, the smallest there is of its kind, behind an LSTM of one unit, one step forward and back."""
    made = torch.zeros(1, 1, 4, dtype=dtype, requires_grad=True)
    memory, controller = memory.to(dtype), LSTMController(1, memory.read_size, 1).to(dtype)
    interface = torch.nn.Linear(1, memory.interface_size, dtype=dtype)
    learner: Any = SimpleNamespace(memory=memory, controller=controller, interface=interface, feed_read=True)
    read = made.detach()[:, 0, :1]
    hidden, _, _ = run(learner, made, State(controller.initial_state(1, made), read, memory.initial_state(1, made)))
    hidden.sum().backward()


def linear(recurrent: Tensor, weight: Tensor, bias: Tensor) -> tuple[Array, Array, Array, Array, Array]:
    """Of controller and interface, what kernels take: recurrent, recurrent_t, interface, interface_t, bias."""
    interface = weight.detach().T.contiguous().numpy()
    return (
        recurrent.detach().contiguous().numpy(),
        padded(recurrent),
        interface,
        padded(weight.T),
        bias.detach().contiguous().numpy(),
    )


def padded(matrix: Tensor) -> Array:
    """The matrix transposed, with columns of zeros up to a multiple of `LANES`."""
    return F.pad(matrix.detach().T, (0, -len(matrix) % LANES)).contiguous().numpy()


def _by_rows(kernel: Callable[..., None], fixed: tuple[Any, ...], varying: tuple[Any, ...]) -> None:
    """Run a kernel over all rows, a share in each of torch's threads."""
    rows = len(varying[0][0])
    shares = min(torch.get_num_threads(), rows)
    bounds = [rows * i // shares for i in range(shares + 1)]

    def work(i: int) -> None:
        kernel(*fixed, *(_cut(each, slice(bounds[i], bounds[i + 1])) for each in varying))

    if shares == 1:
        work(0)
        return
    with ThreadPoolExecutor(shares) as pool:
        list(pool.map(work, range(shares)))


def _cut(value: Any, rows: slice) -> Any:
    return type(value)(*(array[rows] for array in value)) if isinstance(value, tuple) else value[rows]
