"""LRUA over a whole sequence on a GPU: the memory alone, one step of it, or with an LSTM controller (`mann.lrua`).

`lrua_scan` is `mann.unroll` in one launch; with a sequence of one step it is a step. `lrua_controlled` has the
controller's recurrent product and the interface in the scan as well. Both have gradients of all that they are given,
but not twice, and none of usage, which only ranks slots; all options of `LRUAOptions` are served. What is given may be
bfloat16: state and sums are float32 then, and what is read has the dtype of what was given.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mann.kernels.triton_launch import launch
from mann.kernels.triton_lrua_kernels import lrua_backward, lrua_forward
from mann.kernels.triton_scan import (
    Controlled,
    Controller,
    backward_arguments,
    blocks,
    cast,
    check,
    controller_gradients,
    dtypes,
    forward_arguments,
    own,
)
from mann.kernels.triton_support import accumulator
from mann.lrua import LRUA, LRUAOptions, LRUAState

FORWARD_WARPS, BACKWARD_WARPS = 8, 8


def lrua_scan(cell: LRUA, interface: Tensor, state: LRUAState) -> tuple[Tensor, LRUAState]:
    """`mann.unroll(cell, interface, state)`. interface: [batch, time, interface_size].

    Raises:
        BenchError: see `mann.kernels.triton_scan.check`.
    """
    check(interface, cell.options.slots, cell.options.width)
    reads, memory, usage, weights, _ = _Scan.apply(
        torch.is_grad_enabled(), cell.options, interface, cell.alpha, *state, *[None] * 7
    )
    return reads, LRUAState(memory, usage, weights)


def lrua_controlled(cell: LRUA, controller: Controller, state: LRUAState) -> tuple[Controlled, LRUAState]:
    """The loop of `MemoryLearner.run` with an LSTM that sees what was read at the step before.

    Raises:
        BenchError: see `mann.kernels.triton_scan.check`.
    """
    check(controller.projected, cell.options.slots, cell.options.width)
    fed, memory, usage, weights, last = _Scan.apply(
        torch.is_grad_enabled(), cell.options, None, cell.alpha, *state, *controller
    )
    reads, hidden = fed[:, 1:].split((cell.read_size, fed.shape[2] - cell.read_size), 2)
    return Controlled(reads, hidden, last), LRUAState(memory, usage, weights)


class _Scan(torch.autograd.Function):
    """The memory's own arguments are here, those that all memories have in `triton_scan`."""

    @staticmethod
    def forward(
        ctx: Any, grad: bool, o: LRUAOptions, interface: Tensor | None, alpha: Tensor | None, memory: Tensor,
        usage: Tensor, weights: Tensor, *controller: Any,
    ) -> tuple[Tensor | None, ...]:  # fmt: skip
        ctx.dtypes = dtypes((grad, o, interface, alpha, memory, usage, weights, *controller))
        given = controller[0] if interface is None else interface
        (batch, steps), dtype, keep = given.shape[:2], accumulator(given.dtype), grad and any(ctx.needs_input_grad)
        room: dict[str, Any] = {"dtype": dtype, "device": given.device}
        made = forward_arguments(interface, controller, o.heads * o.width, dtype)
        fed, interface = made.pop("fed"), made["interface"]
        memory, usage = own(memory, dtype), own(usage, dtype)
        path = torch.empty(batch, steps + 1, o.heads, o.slots, **room)
        path[:, 0] = weights
        history = torch.empty(batch, steps, o.slots, o.width, **room) if keep else None
        least = torch.empty(batch, steps, o.heads, dtype=torch.int32, device=given.device) if keep else None
        size, units = interface.shape[2], 0 if fed is None else fed.shape[2] - o.heads * o.width
        ctx.constants = {
            "SLOTS": o.slots, "WIDTH": o.width, "HEADS": o.heads, "UNITS": units, "SIZE": size,
            "AFTER": o.read == "after", "SEPARATE": o.write_value == "separate", "SHARED": o.head_slots == "shared",
            "ERASE_ALL": o.erase == "all", "CONTROLLER": units > 0, **blocks(o.slots, o.width, units),
        }  # fmt: skip
        launch(
            lrua_forward, (batch,), FORWARD_WARPS, memory=memory, usage=usage, weights=path, history=history,
            least=least, steps=steps, KEEP=keep, DECAY=o.decay, **_gate(interface, alpha, o.heads), **made,
            **ctx.constants,
        )  # fmt: skip
        kept = (made["gates"], made["cells"], made["recurrent"], controller[2])
        ctx.save_for_backward(alpha, history, path, least, interface, fed, *kept)
        ctx.mark_non_differentiable(usage)
        last = None if fed is None else made["cells"][:, -1].clone()
        out = made["reads"] if fed is None else fed
        return out.to(given.dtype), memory, usage, path[:, -1].clone(), last

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor, d_memory: Tensor, _: Any, d_weights: Tensor, d_last: Any) -> tuple[Any, ...]:
        alpha, history, path, least, interface, fed, *kept = ctx.saved_tensors
        (batch, steps, heads), dtype = least.shape, history.dtype
        made = backward_arguments(d_out, d_last, interface, fed, kept, dtype)
        d_interface = made["d_interface"]
        d_memory, d_weights = own(d_memory, dtype), own(d_weights, dtype)
        d_alpha = torch.empty_like(least, dtype=dtype) if alpha is not None else d_interface[..., -heads:]
        launch(
            lrua_backward, (batch,), BACKWARD_WARPS, history=history, weights=path, least=least, d_alpha=d_alpha,
            d_alpha_step=d_alpha.stride(1), d_memory=d_memory, d_weights=d_weights, steps=steps,
            **_gate(interface, alpha, heads), **made, **ctx.constants,
        )  # fmt: skip
        found = [
            None,
            None,
            d_interface if fed is None else None,
            None if alpha is None else d_alpha.sum(),
            d_memory,
            None,
            d_weights,
            *controller_gradients(made, d_out, fed),
        ]
        return cast(found, ctx.dtypes)


def _gate(interface: Tensor, alpha: Tensor | None, heads: int) -> dict[str, Any]:
    """Where α is: one parameter, or the interface's last entries."""
    if alpha is not None:
        return {"alpha": alpha, "alpha_step": 0, "alpha_head": 0}
    return {"alpha": interface[..., -heads:], "alpha_step": interface.shape[2], "alpha_head": 1}
