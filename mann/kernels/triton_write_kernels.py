"""The kernels of erasing and adding: a block of slots a program (`mann.addressing.erase_and_add`)."""

from __future__ import annotations

import triton
import triton.language as tl


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
