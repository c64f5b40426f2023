"""Erasing and adding on a GPU in one pass over a memory of any size (`mann.addressing.erase_and_add`).

Forward: M read, M written. Backward: M and the gradient read, a gradient written; what belongs to the heads' vectors is
summed over slots by block, and over blocks outside.
"""

from __future__ import annotations

from typing import Any

import torch
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from mann.kernels.triton_launch import launch
from mann.kernels.triton_support import accumulator, power_of_two, require
from mann.kernels.triton_write_kernels import write_backward, write_forward

CELLS = 4096
"""Cells that a block holds at a time."""
WARPS = 8


def erase_and_add(memory: Tensor, weights: Tensor, erase: Tensor, add: Tensor) -> Tensor:
    """M(i) Π_h (1 - w_h(i) e_h) + Σ_h w_h(i) a_h, [batch, slots, width].

    memory: [batch, slots, width]; weights: [batch, heads, slots]; erase, add: [batch, heads, width].

    Raises:
        BenchError: no Triton or device, or a dtype without a kernel.
    """
    require(memory)
    return _Write.apply(memory, weights, erase, add)


class _Write(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, memory: Tensor, weights: Tensor, erase: Tensor, add: Tensor) -> Tensor:
        given = [tensor.contiguous() for tensor in (memory, weights, erase, add)]
        (batch, slots, width), heads = memory.shape, weights.shape[1]
        wide = power_of_two(width)
        cut = {"BLOCK_SLOTS": min(power_of_two(slots), max(CELLS // wide, 1)), "BLOCK_WIDTH": wide}
        ctx.constants = {"WIDTH": width, "HEADS": heads, **cut}
        ctx.programs = (-(-slots // cut["BLOCK_SLOTS"]), batch)
        out = torch.empty_like(given[0])
        named = dict(zip(("memory", "weights", "erase", "add"), given, strict=True))
        dtype = tl.float64 if memory.dtype == torch.float64 else tl.float32
        launch(write_forward, ctx.programs, WARPS, out=out, slots=slots, DTYPE=dtype, **named, **ctx.constants)
        ctx.save_for_backward(*given)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor, ...]:
        memory, weights, erase, add = ctx.saved_tensors
        batch, heads, width = erase.shape
        room: dict[str, Any] = {"dtype": accumulator(memory.dtype), "device": memory.device}
        d_erase, d_add = torch.empty(2, batch, heads, ctx.programs[0], width, **room)
        d_memory, d_weights = torch.empty_like(memory), torch.empty_like(weights)
        launch(
            write_backward, ctx.programs, WARPS, memory=memory, weights=weights, erase=erase, add=add,
            d_out=d_out.contiguous(), d_memory=d_memory, d_weights=d_weights, d_erase=d_erase, d_add=d_add,
            slots=memory.shape[1], **ctx.constants,
        )  # fmt: skip
        return d_memory, d_weights, d_erase.sum(2).to(erase.dtype), d_add.sum(2).to(add.dtype)
