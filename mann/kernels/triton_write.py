"""Erasing and adding on a GPU in one pass over a memory of any size (`mann.addressing.erase_and_add`).

Forward: M read, M written. Backward: M and the gradient read, a gradient written; what belongs to the heads' vectors is
summed over slots by block, and over blocks outside.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from mann.kernels.triton_launch import launch
from mann.kernels.triton_support import accumulator, power_of_two, require

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


@triton.jit
def write_forward(
    memory, weights, erase, add, out, slots,
    WIDTH: tl.constexpr, HEADS: tl.constexpr, DTYPE: tl.constexpr, BLOCK_SLOTS: tl.constexpr, BLOCK_WIDTH: tl.constexpr,
):  # fmt: skip
    """`erase_and_add`, a block of slots a program."""
    row = tl.program_id(1).to(tl.int64)
    slot = tl.program_id(0) * BLOCK_SLOTS + tl.arange(0, BLOCK_SLOTS)
    column = tl.arange(0, BLOCK_WIDTH)
    here, wide = slot < slots, column < WIDTH
    inside = here[:, None] & wide[None, :]
    tile = row * slots * WIDTH + slot.to(tl.int64)[:, None] * WIDTH + column[None, :]
    cells = tl.load(memory + tile, mask=inside, other=0).to(DTYPE)
    added = tl.zeros([BLOCK_SLOTS, BLOCK_WIDTH], DTYPE)
    for head in tl.static_range(HEADS):
        place = (row * HEADS + head) * WIDTH + column
        w = tl.load(weights + (row * HEADS + head) * slots + slot, mask=here, other=0).to(DTYPE)
        cells *= 1 - w[:, None] * tl.load(erase + place, mask=wide, other=0).to(DTYPE)[None, :]
        added += w[:, None] * tl.load(add + place, mask=wide, other=0).to(DTYPE)[None, :]
    tl.store(out + tile, cells + added, mask=inside)


@triton.jit
def write_backward(
    memory, weights, erase, add, d_out, d_memory, d_weights, d_erase, d_add, slots,
    WIDTH: tl.constexpr, HEADS: tl.constexpr, BLOCK_SLOTS: tl.constexpr, BLOCK_WIDTH: tl.constexpr,
):  # fmt: skip
    """d_erase, d_add: [batch, heads, blocks, width], each block's part."""
    dtype: tl.constexpr = d_erase.dtype.element_ty
    block, blocks = tl.program_id(0), tl.num_programs(0)
    row = tl.program_id(1).to(tl.int64)
    slot = block * BLOCK_SLOTS + tl.arange(0, BLOCK_SLOTS)
    column = tl.arange(0, BLOCK_WIDTH)
    here, wide = slot < slots, column < WIDTH
    inside = here[:, None] & wide[None, :]
    tile = row * slots * WIDTH + slot.to(tl.int64)[:, None] * WIDTH + column[None, :]
    d_new = tl.load(d_out + tile, mask=inside, other=0).to(dtype)
    cells = tl.load(memory + tile, mask=inside, other=0).to(dtype)
    d_cells = d_new
    for head in tl.static_range(HEADS):
        place = (row * HEADS + head) * WIDTH + column
        w = tl.load(weights + (row * HEADS + head) * slots + slot, mask=here, other=0).to(dtype)
        e = tl.load(erase + place, mask=wide, other=0).to(dtype)
        a = tl.load(add + place, mask=wide, other=0).to(dtype)
        d_kept = d_new * cells
        for other in tl.static_range(HEADS):
            if other != head:
                w_other = tl.load(weights + (row * HEADS + other) * slots + slot, mask=here, other=0).to(dtype)
                e_other = tl.load(erase + (row * HEADS + other) * WIDTH + column, mask=wide, other=0).to(dtype)
                d_kept *= 1 - w_other[:, None] * e_other[None, :]
        d_cells *= 1 - w[:, None] * e[None, :]
        part = ((row * HEADS + head) * blocks + block) * WIDTH + column
        tl.store(d_erase + part, -tl.sum(d_kept * w[:, None], 0), mask=wide)
        tl.store(d_add + part, tl.sum(d_new * w[:, None], 0), mask=wide)
        d_w = tl.sum(d_new * a[None, :] - d_kept * e[None, :], 1)
        tl.store(d_weights + (row * HEADS + head) * slots + slot, d_w, mask=here)
    tl.store(d_memory + tile, d_cells, mask=inside)


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
        room = {"dtype": accumulator(memory.dtype), "device": memory.device}
        d_erase, d_add = torch.empty(2, batch, heads, ctx.programs[0], width, **room)
        d_memory, d_weights = torch.empty_like(memory), torch.empty_like(weights)
        launch(
            write_backward, ctx.programs, WARPS, memory=memory, weights=weights, erase=erase, add=add,
            d_out=d_out.contiguous(), d_memory=d_memory, d_weights=d_weights, d_erase=d_erase, d_add=d_add,
            slots=memory.shape[1], **ctx.constants,
        )  # fmt: skip
        return d_memory, d_weights, d_erase.sum(2).to(erase.dtype), d_add.sum(2).to(add.dtype)
