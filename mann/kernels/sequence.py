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
from collections.abc import Callable, Container, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from bench.api import Memory
from mann.controllers import LSTMController
from mann.index import blank
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
    fixed: tuple[str, ...] = ()
    """Of the carry, what has no gradient."""
    held: int = 0
    """Bytes of a row's carry, where it is larger than the trace of a step, and few of its rows are touched."""

    def segment(self, rows: int, steps: int, keep: bool) -> int:
        """How many steps to go before the trace is dropped, or kept."""
        if not keep:
            return min(steps, FLEETING)
        size, length = sum(array.nbytes for array in self.trace(1, steps)), math.isqrt(steps - 1) + 1
        part = sum(array.nbytes for array in self.trace(1, length))
        whole = rows * size <= ROOM or size <= part + length * self.held
        return steps if whole else length


class Sequence(torch.autograd.Function):
    """(plan, own parameters, projected, recurrent, weight, bias, …own, …carry) to (hidden, reads, …carry)."""

    @staticmethod
    def forward(ctx: Any, plan: Plan, count: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        """count: how many parameters of the memory's own there are."""
        keep = any(ctx.needs_input_grad)
        ctx.set_materialize_grads(False)
        out, trace, starts = run(plan, count, tensors, keep)
        if keep:
            ctx.plan, ctx.count, ctx.trace, ctx.starts = plan, count, trace, starts
            ctx.save_for_backward(*tensors, out[0])
            ctx.mark_non_differentiable(
                *(t for name, t in zip(plan.carry._fields, out[2:], strict=True) if name in plan.fixed)
            )
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        """By the compiled way; where the gradient is to be differentiated again, through the reference."""
        *tensors, hidden = ctx.saved_tensors
        if torch.is_grad_enabled():
            return (None, None, *_twice(ctx.plan, ctx.needs_input_grad[2:], tensors, grads))
        return (None, None, *_backward(ctx, tensors, hidden, grads))


def through(
    plan: Plan, learner: MemoryLearner, projected: Tensor, own: tuple[Tensor, ...], carry: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    """Hidden states, reads and the carry after the last step, from the memory's own parameters and the first carry."""
    controller: Any = learner.controller
    parameters = (controller.recurrent, learner.interface.weight, learner.interface.bias, *own)
    tensors = (projected, *parameters, *carry)
    wanted = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
    out: tuple[Tensor, ...] = (
        Sequence.apply(plan, len(own), *tensors) if wanted else run(plan, len(own), tensors, False)[0]
    )
    return out


def by_reference(
    learner: MemoryLearner,
    names: tuple[str, ...],
    carried: Callable[[State], tuple[Tensor, ...]],
    state: Callable[[tuple[Tensor, ...]], State],
) -> Callable[..., tuple[Tensor, ...]]:
    """`Plan.reference`. names: of the memory's own parameters; carried, state: from a state to the carry, and back."""

    def plain(*tensors: Tensor) -> tuple[Tensor, ...]:
        projected, recurrent, weight, bias, *rest = tensors
        own = dict(zip(names, rest, strict=False))
        same: Any = SimpleNamespace(
            controller=lambda *step: functional_call(learner.controller, {"recurrent": recurrent}, step),
            interface=partial(F.linear, weight=weight, bias=bias),
            memory=lambda *step: functional_call(learner.memory, own, step),
            feed_read=learner.feed_read,
        )
        hidden, reads, after = reference(same, projected, state(tuple(rest[len(names) :])))
        return hidden, reads, *carried(after)

    return plain


@torch.enable_grad()
def try_out(scan: Run, memory: Memory[Any], dtype: torch.dtype) -> None:
    """Run a scan forward and back on a small memory, so that it is compiled."""
    made = torch.zeros(1, 1, 4, dtype=dtype, device="cpu", requires_grad=True)
    controller = LSTMController(1, memory.read_size, 1).to(dtype)
    interface = nn.Linear(1, memory.interface_size, dtype=dtype)
    learner: Any = SimpleNamespace(memory=memory.to(dtype), controller=controller, interface=interface, feed_read=True)
    read = made.new_zeros(1, memory.read_size)
    state = State(controller.initial_state(1, made), read, memory.initial_state(1, made))
    hidden, _, _ = scan(learner, made, state)
    hidden.sum().backward()


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
    # A memory of which few rows are touched gets zeros that lie in no page yet.
    zeros = blank if plan.held else torch.Tensor.new_zeros
    shaped = (hidden, hidden.new_empty(batch, time, plan.sizes[0]), *tensors[4 + count :])
    hidden_grad, reads_grad, *carry = (
        zeros(like, *like.shape) if grad is None else grad.clone(memory_format=torch.contiguous_format)
        for grad, like in zip(grads, shaped, strict=True)
    )
    carry_grad = plan.carry(*(t.numpy() for t in carry))
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
    pairs = zip(plan.reference(*tensors), grads, strict=True)
    outputs = [(t, g) for t, g in pairs if t.requires_grad and g is not None]
    inputs = [t for t, needed in zip(tensors, wanted, strict=True) if needed]
    ends, given = ([pair[i] for pair in outputs] for i in range(2))
    found = iter(torch.autograd.grad(ends, inputs, given, create_graph=True, allow_unused=True))
    return [next(found) if needed else None for needed in wanted]


def room(kind: type[Any], rows: int, shapes: Mapping[str, tuple[int, ...]], like: Tensor, whole: Container[str] = ()
         ) -> Any:  # fmt: skip
    """A named tuple of arrays, [rows, *shape] each, with nothing in them yet; of like's dtype, those named whole int64.

    They are torch's, so that its profiler counts them.
    """
    made = {k: torch.empty((rows, *s), dtype=torch.int64 if k in whole else like.dtype, device=like.device)
            for k, s in shapes.items()}  # fmt: skip
    return kind(**{name: tensor.numpy() for name, tensor in made.items()})


def controller_weights(recurrent: Tensor, weight: Tensor, bias: Tensor) -> tuple[Array, Array, Array, Array, Array]:
    """What `numba_lstm.control` and `control_backward` multiply with, as each takes it.

    The recurrent weights [read + hidden, 4 · hidden], these `padded`; the interface's [hidden, interface], the same
    [interface, hidden] and columns of zeros up to a multiple of `LANES`; its bias.
    """
    return (
        recurrent.detach().contiguous().numpy(),
        padded(recurrent),
        weight.detach().T.contiguous().numpy(),
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
