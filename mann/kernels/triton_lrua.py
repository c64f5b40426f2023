"""LRUA over a whole sequence on a GPU: the memory alone, one step of it, or with an LSTM controller (`mann.lrua`).

`lrua_scan` is `mann.unroll` in one launch; with a sequence of one step it is a step. `lrua_controlled` has the
controller's recurrent product and the interface in the scan as well. Both have gradients of all that they are given, but
not twice; all options of `LRUAOptions` are served. What is given may be bfloat16: state and sums are float32 then, and
what is read has the dtype of what was given.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mann.kernels.triton_launch import launch
from mann.kernels.triton_lrua_kernels import lrua_backward, lrua_forward
from mann.kernels.triton_scan import Controlled, Controller, arrays, blocks, check, gradients
from mann.kernels.triton_support import accumulator
from mann.lrua import LRUA, LRUAOptions, LRUAState

FORWARD_WARPS, BACKWARD_WARPS = 8, 8


def lrua_scan(cell: LRUA, interface: Tensor, state: LRUAState) -> tuple[Tensor, LRUAState]:
    """`mann.unroll(cell, interface, state)`. interface: [batch, time, interface_size].

    Raises:
        BenchError: see `mann.kernels.triton_scan.check`.
    """
    check(interface, cell.options.slots, cell.options.width)
    reads, memory, usage, weights, _ = _Scan.apply(cell.options, interface, cell.alpha, *state, *[None] * 7)
    return reads, LRUAState(memory, usage, weights)


def lrua_controlled(cell: LRUA, controller: Controller, state: LRUAState) -> tuple[Controlled, LRUAState]:
    """The loop of `MemoryLearner.run` with an LSTM that sees what was read at the step before.

    Raises:
        BenchError: see `mann.kernels.triton_scan.check`.
    """
    check(controller.projected, cell.options.slots, cell.options.width)
    fed, memory, usage, weights, last = _Scan.apply(cell.options, None, cell.alpha, *state, *controller)
    reads, hidden = fed[:, 1:].split((cell.read_size, fed.shape[2] - cell.read_size), 2)
    return Controlled(reads, hidden, last), LRUAState(memory, usage, weights)


def _constants(o: LRUAOptions, size: int, units: int) -> dict[str, Any]:
    return {
        "SLOTS": o.slots, "WIDTH": o.width, "HEADS": o.heads, "UNITS": units, "SIZE": size, "AFTER": o.read == "after",
        "SEPARATE": o.write_value == "separate", "SHARED": o.head_slots == "shared", "ERASE_ALL": o.erase == "all",
        "CONTROLLER": units > 0, **blocks(o.slots, o.width, units),
    }  # fmt: skip


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, o: LRUAOptions, interface: Tensor | None, alpha: Tensor | None, memory: Tensor, usage: Tensor,
        weights: Tensor, *controller: Any,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        ctx.dtypes = [getattr(g, "dtype", None) for g in (o, interface, alpha, memory, usage, weights, *controller)]
        given = controller[0] if interface is None else interface
        batch, steps = given.shape[:2]
        made = {"dtype": accumulator(given.dtype), "device": given.device}
        read, gated = o.heads * o.width, o.gate == "controller"
        keep = any(ctx.needs_input_grad)
        memory = memory.to(made["dtype"], copy=True).contiguous()
        usage = usage.to(made["dtype"], copy=True).contiguous()
        kept_weights = torch.empty(batch, steps + 1, o.heads, o.slots, **made)
        kept_weights[:, 0] = weights
        history = torch.empty(batch, steps, o.slots, o.width, **made) if keep else None
        least = torch.empty(batch, steps, o.heads, dtype=torch.int32, device=given.device) if keep else None
        fed = gates = cells = recurrent = weight = weight_rows = bias = projected = None
        units = 0
        if interface is None:
            size = controller[2].shape[0]
            units = controller[0].shape[2] // 4
            fed, gates, cells, interface = arrays(Controller(*controller), size, made["dtype"])
            projected, recurrent, weight, bias = (tensor.contiguous() for tensor in controller[:4])
            weight_rows = weight.mT.contiguous()
        interface = interface.contiguous()
        size = interface.shape[2]
        reads = torch.empty(batch, steps, read, **made) if fed is None else fed[:, 1:]
        gate = interface[..., size - o.heads :] if gated else alpha
        constants = _constants(o, size, units)
        launch(
            lrua_forward, (batch,), FORWARD_WARPS, interface=interface, alpha=gate, reads=reads, memory=memory,
            usage=usage, weights=kept_weights, history=history, least=least, projected=projected, recurrent=recurrent,
            gates=gates, cells=cells, weight=weight_rows, bias=bias, steps=steps, alpha_step=size * gated,
            alpha_head=int(gated), reads_row=reads.stride(0), reads_step=reads.stride(1), KEEP=keep, DECAY=o.decay,
            **constants,
        )  # fmt: skip
        ctx.save_for_backward(
            interface, None if gated else alpha, history, kept_weights, least, recurrent, gates, cells, weight, fed
        )
        ctx.constants = constants
        ctx.mark_non_differentiable(usage)
        last = None if cells is None else cells[:, -1].clone()
        return (reads if fed is None else fed).to(given.dtype), memory, usage, kept_weights[:, -1].clone(), last

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, d_out: Tensor, d_memory: Tensor, _: Any, d_weights: Tensor, d_last: Tensor | None
    ) -> tuple[Any, ...]:
        interface, alpha, history, weights, least, recurrent, gates, cells, weight, fed = ctx.saved_tensors
        (batch, steps, heads), size, gated = least.shape, interface.shape[2], alpha is None
        made = {"dtype": history.dtype, "device": history.device}
        d_out = d_out.contiguous()
        d_memory = d_memory.to(history.dtype, copy=True).contiguous()
        d_weights = d_weights.to(history.dtype, copy=True).contiguous()
        d_interface = torch.empty(batch, steps, size, **made)
        d_alpha = d_interface[..., size - heads :] if gated else torch.empty(batch, steps, heads, **made)
        carry = d_hidden = d_cell = d_gates = transposed = None
        d_reads = d_out
        if fed is not None:
            d_reads = d_out[:, 1:]
            carry, d_hidden = torch.zeros_like(fed[:, 0]), torch.empty_like(cells[:, 0])
            d_cell, d_gates = d_last.to(history.dtype, copy=True).contiguous(), torch.empty_like(gates)
            transposed, weight = recurrent.mT.contiguous(), weight.contiguous()
        launch(
            lrua_backward, (batch,), BACKWARD_WARPS, interface=interface,
            alpha=interface[..., size - heads :] if gated else alpha, history=history, weights=weights, least=least,
            recurrent=transposed, gates=gates, cells=cells, weight=weight, d_reads=d_reads, d_interface=d_interface,
            d_alpha=d_alpha, d_memory=d_memory, d_weights=d_weights, carry=carry, d_hidden=d_hidden, d_cell=d_cell,
            d_gates=d_gates, steps=steps, alpha_step=size * gated, alpha_head=int(gated), d_alpha_step=d_alpha.stride(1),
            reads_row=d_reads.stride(0), reads_step=d_reads.stride(1), **ctx.constants,
        )  # fmt: skip
        of_controller: list[Any] = [None] * 7
        if fed is not None:
            first = d_out[:, 0] + carry
            of_controller = gradients(fed, d_gates, d_interface, first, d_cell, fed.shape[2] - cells.shape[2])
        found = [None if fed is not None else d_interface, None if gated else d_alpha.sum(), d_memory, None, d_weights]
        given = [None, *found, *of_controller]
        return tuple(g if g is None else g.to(dtype) for g, dtype in zip(given, ctx.dtypes, strict=True))
