"""The kernels of content addressing with reading: memory of any size, read once (`mann.lrua` eq. 17-19, `mann.ntm` 5).

Forward, a block finds the scores of its slots and, relative to their largest, its part of the sums for the softmax and
for what is read (Milakov and Gimelshein 2018, arXiv:1805.02867; Dao et al. 2022, arXiv:2205.14135); a second kernel
puts the parts together, over heads × slots numbers instead of the memory. Backward, Σ_i w_i (dr · M_i) = dr · r, so
that one pass suffices again.
"""

from __future__ import annotations

import triton
import triton.language as tl

from mann.kernels.triton_math import over

EPSILON = tl.constexpr(1e-8)
SOFTENING = tl.constexpr(1e-6)


@triton.jit
def inverse_lengths(squares, length, SOFT: tl.constexpr):
    """What a dot product is multiplied with to be a score: of `mann.addressing.content` where SOFT, else of LRUA."""
    if SOFT:
        return tl.rsqrt(squares + SOFTENING)
    return 1 / (length * tl.sqrt(squares) + EPSILON)


@triton.jit
def content_forward(
    keys, memory, weights, largest, sums, parts, slots, keys_row, memory_row, memory_slot,
    WIDTH: tl.constexpr, HEADS: tl.constexpr, SOFT: tl.constexpr, BLOCK_SLOTS: tl.constexpr, BLOCK_WIDTH: tl.constexpr,
):  # fmt: skip
    """Scores into `weights`, [batch, heads, slots], and of each block of slots the parts of the sums.

    largest, sums: [batch, heads, blocks]; parts: [batch, heads, blocks, width].
    """
    dtype: tl.constexpr = parts.dtype.element_ty
    block, blocks = tl.program_id(0), tl.num_programs(0)
    row = tl.program_id(1).to(tl.int64)
    slot = block * BLOCK_SLOTS + tl.arange(0, BLOCK_SLOTS)
    column = tl.arange(0, BLOCK_WIDTH)
    here, wide = slot < slots, column < WIDTH
    tile = memory + row * memory_row + slot.to(tl.int64)[:, None] * memory_slot + column[None, :]
    cells = tl.load(tile, mask=here[:, None] & wide[None, :], other=0).to(dtype)
    squares = tl.sum(cells * cells, 1)
    for head in tl.static_range(HEADS):
        key = tl.load(keys + row * keys_row + head * WIDTH + column, mask=wide, other=0).to(dtype)
        scores = tl.sum(cells * key[None, :], 1) * inverse_lengths(squares, tl.sqrt(tl.sum(key * key, 0)), SOFT)
        tl.store(weights + (row * HEADS + head) * slots + slot, scores, mask=here)
        most = tl.max(tl.where(here, scores, float("-inf")), 0)
        e = tl.where(here, tl.exp(scores - most), 0.0)
        place = (row * HEADS + head) * blocks + block
        tl.store(largest + place, most)
        tl.store(sums + place, tl.sum(e, 0))
        tl.store(parts + place * WIDTH + column, tl.sum(cells * e[:, None], 0), mask=wide)


@triton.jit
def content_combine(
    weights, largest, sums, parts, read, slots, blocks, read_row,
    WIDTH: tl.constexpr, HEADS: tl.constexpr, BLOCK_SLOTS: tl.constexpr, BLOCK_WIDTH: tl.constexpr,
    BLOCK_BLOCKS: tl.constexpr,
):  # fmt: skip
    """Scores become weights; the first program of a head also puts together what is read, [batch, heads, width].

    Each program goes through all blocks' sums, so there are few, with many slots each.
    """
    dtype: tl.constexpr = parts.dtype.element_ty
    group, row, head = tl.program_id(0), tl.program_id(1).to(tl.int64), tl.program_id(2)
    start = (row * HEADS + head) * blocks
    column = tl.arange(0, BLOCK_WIDTH)
    wide = column < WIDTH
    most = tl.full([BLOCK_BLOCKS], float("-inf"), dtype)
    for first in range(0, blocks, BLOCK_BLOCKS):
        block = first + tl.arange(0, BLOCK_BLOCKS)
        most = tl.maximum(most, tl.load(largest + start + block, mask=block < blocks, other=float("-inf")))
    top = tl.max(most, 0)
    total = tl.zeros([BLOCK_BLOCKS], dtype)
    found = tl.zeros([BLOCK_WIDTH], dtype)
    for first in range(0, blocks, BLOCK_BLOCKS):
        block = first + tl.arange(0, BLOCK_BLOCKS)
        inside = block < blocks
        factor = tl.exp(tl.load(largest + start + block, mask=inside, other=float("-inf")) - top)
        total += factor * tl.load(sums + start + block, mask=inside, other=0)
        if group == 0:
            place = (start + block)[:, None] * WIDTH + column[None, :]
            part = tl.load(parts + place, mask=inside[:, None] & wide[None, :], other=0)
            found += tl.sum(part * factor[:, None], 0)
    whole = tl.sum(total, 0)
    if group == 0:
        tl.store(read + row * read_row + head * WIDTH + column, found / whole, mask=wide)
    for first in range(group * BLOCK_SLOTS, slots, tl.num_programs(0) * BLOCK_SLOTS):
        slot = first + tl.arange(0, BLOCK_SLOTS)
        place = weights + (row * HEADS + head) * slots + slot
        scores = tl.load(place, mask=slot < slots, other=0)
        tl.store(place, tl.exp(scores - top) / whole, mask=slot < slots)


@triton.jit
def content_backward(
    keys, memory, weights, d_weights, d_read, along, d_memory, d_keys, slots, keys_row, memory_row, memory_slot,
    WIDTH: tl.constexpr, HEADS: tl.constexpr, SOFT: tl.constexpr, BLOCK_SLOTS: tl.constexpr, BLOCK_WIDTH: tl.constexpr,
):  # fmt: skip
    """The memory's gradient, [batch, slots, width], and each block's part of the keys', [batch, heads, blocks, width].

    d_weights: [batch, heads, slots], or None; along: Σ_i w_i dw_i, that of reading included, [batch, heads].
    """
    dtype: tl.constexpr = d_keys.dtype.element_ty
    block, blocks = tl.program_id(0), tl.num_programs(0)
    row = tl.program_id(1).to(tl.int64)
    slot = block * BLOCK_SLOTS + tl.arange(0, BLOCK_SLOTS)
    column = tl.arange(0, BLOCK_WIDTH)
    here, wide = slot < slots, column < WIDTH
    inside = here[:, None] & wide[None, :]
    tile = memory + row * memory_row + slot.to(tl.int64)[:, None] * memory_slot + column[None, :]
    cells = tl.load(tile, mask=inside, other=0).to(dtype)
    squares = tl.sum(cells * cells, 1)
    lengths = tl.sqrt(squares)
    d_cells = tl.zeros([BLOCK_SLOTS, BLOCK_WIDTH], dtype)
    stretch = tl.zeros([BLOCK_SLOTS], dtype)
    for head in tl.static_range(HEADS):
        key = tl.load(keys + row * keys_row + head * WIDTH + column, mask=wide, other=0).to(dtype)
        dr = tl.load(d_read + (row * HEADS + head) * WIDTH + column, mask=wide, other=0).to(dtype)
        found = tl.load(weights + (row * HEADS + head) * slots + slot, mask=here, other=0).to(dtype)
        length = tl.sqrt(tl.sum(key * key, 0))
        inverse = inverse_lengths(squares, length, SOFT)
        d_found = tl.sum(cells * dr[None, :], 1)
        if d_weights is not None:
            d_found += tl.load(d_weights + (row * HEADS + head) * slots + slot, mask=here, other=0).to(dtype)
        d_scores = found * (d_found - tl.load(along + row * HEADS + head))
        d_dots = d_scores * inverse
        d_key = tl.sum(cells * d_dots[:, None], 0)
        dots = tl.sum(cells * key[None, :], 1)
        if SOFT:
            stretch -= d_scores * dots * inverse * inverse * inverse
        else:
            d_product = -d_dots * dots * inverse
            stretch += over(d_product * length, lengths)
            d_key += key * over(tl.sum(d_product * lengths, 0), length)
        d_cells += found[:, None] * dr[None, :] + d_dots[:, None] * key[None, :]
        place = ((row * HEADS + head) * blocks + block) * WIDTH
        tl.store(d_keys + place + column, d_key, mask=wide)
    d_cells += stretch[:, None] * cells
    tl.store(
        d_memory + row * slots * WIDTH + slot.to(tl.int64)[:, None] * WIDTH + column[None, :], d_cells, mask=inside
    )
