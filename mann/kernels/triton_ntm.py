"""NTM over a whole sequence on a GPU: the memory alone, one step of it, or with an LSTM controller (`mann.ntm`).

As `triton_lrua`: `ntm_scan` is `mann.unroll` in one launch, `ntm_controlled` has the controller in the scan as well.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mann.kernels.triton_launch import launch
from mann.kernels.triton_ntm_kernels import ntm_backward, ntm_forward
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
from mann.kernels.triton_support import accumulator, power_of_two
from mann.ntm import NTM, NTMOptions, NTMState

FORWARD_WARPS, BACKWARD_WARPS = 8, 8


def ntm_scan(cell: NTM, interface: Tensor, state: NTMState) -> tuple[Tensor, NTMState]:
    """`mann.unroll(cell, interface, state)`. interface: [batch, time, interface_size].

    Raises:
        BenchError: see `mann.kernels.triton_scan.check`.
    """
    check(interface, cell.options.slots, cell.options.width)
    reads, memory, weights, _ = _Scan.apply(
        torch.is_grad_enabled(), cell.options, interface, *state, *[None] * len(Controller._fields)
    )
    return reads, NTMState(memory, weights)


def ntm_controlled(cell: NTM, controller: Controller, state: NTMState) -> tuple[Controlled, NTMState]:
    """The loop of `MemoryLearner.run` with an LSTM that sees what was read at the step before.

    Raises:
        BenchError: see `mann.kernels.triton_scan.check`.
    """
    check(controller.projected, cell.options.slots, cell.options.width)
    fed, memory, weights, last = _Scan.apply(torch.is_grad_enabled(), cell.options, None, *state, *controller)
    reads, hidden = fed[:, 1:].split((cell.read_size, fed.shape[2] - cell.read_size), 2)
    return Controlled(reads, hidden, last), NTMState(memory, weights)


class _Scan(torch.autograd.Function):
    """The memory's own arguments are here, those that all memories have in `triton_scan`."""

    @staticmethod
    def forward(
        ctx: Any, grad: bool, o: NTMOptions, interface: Tensor | None, memory: Tensor, weights: Tensor, *controller: Any
    ) -> tuple[Tensor | None, ...]:
        ctx.dtypes = dtypes((grad, o, interface, memory, weights, *controller))
        given = controller[0] if interface is None else interface
        (batch, steps), dtype, keep = given.shape[:2], accumulator(given.dtype), grad and any(ctx.needs_input_grad)
        room: dict[str, Any] = {"dtype": dtype, "device": given.device}
        made = forward_arguments(interface, controller, o.reads * o.width, dtype)
        fed, interface = made.pop("fed"), made["interface"]
        memory = own(memory, dtype)
        path = torch.empty(batch, steps + 1, o.reads + o.writes, o.slots, **room)
        path[:, 0] = weights
        history = torch.empty(batch, steps, o.slots, o.width, **room) if keep else None
        size, units = interface.shape[2], 0 if fed is None else fed.shape[2] - o.reads * o.width
        ctx.constants = {
            "SLOTS": o.slots, "WIDTH": o.width, "READS": o.reads, "WRITES": o.writes, "REACH": o.shift, "UNITS": units,
            "SIZE": size, "AFTER": o.read == "after", "CONTROLLER": units > 0,
            "BLOCK_SHIFTS": power_of_two(2 * o.shift + 1), **blocks(o.slots, o.width, units),
        }  # fmt: skip
        launch(
            ntm_forward, (batch,), FORWARD_WARPS, memory=memory, weights=path, history=history, steps=steps, KEEP=keep,
            **made, **ctx.constants,
        )  # fmt: skip
        kept = (made["gates"], made["cells"], made["recurrent"], controller[2])
        ctx.save_for_backward(history, path, interface, fed, *kept)
        last = None if fed is None else made["cells"][:, -1].clone()
        out = made["reads"] if fed is None else fed
        return out.to(given.dtype), memory, path[:, -1].clone(), last

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor, d_memory: Tensor, d_weights: Tensor, d_last: Any) -> tuple[Any, ...]:
        history, path, interface, fed, *kept = ctx.saved_tensors
        made = backward_arguments(d_out, d_last, interface, fed, kept, history.dtype)
        d_memory, d_weights = own(d_memory, history.dtype), own(d_weights, history.dtype)
        launch(
            ntm_backward, (history.shape[0],), BACKWARD_WARPS, history=history, weights=path, d_memory=d_memory,
            d_weights=d_weights, steps=history.shape[1], **made, **ctx.constants,
        )  # fmt: skip
        d_interface = made["d_interface"] if fed is None else None
        return cast([None, None, d_interface, d_memory, d_weights, *controller_gradients(made, d_out, fed)], ctx.dtypes)
