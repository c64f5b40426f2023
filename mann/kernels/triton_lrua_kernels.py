"""The kernels of the LRUA scan: one block an episode, T steps inside, the memory on chip (`mann.lrua`, eq. 17-23).

The memory stays in the registers of the block from the first step to the last. What each step needs of its
predecessors besides (w^r, the carried gradients) passes through global memory, which is the cache of the same
multiprocessor; a barrier of the block stands between a write and its reading, and between reading and writing anew
(several threads load the same entry of a vector).

Kept for the backward pass: M before each step, w^r, the slots chosen, and the controller's activations. Everything
else is computed again.
"""

from __future__ import annotations

import triton
import triton.language as tl

from mann.kernels.triton_lstm import controller_step, controller_step_backward
from mann.kernels.triton_math import over, softmax, softmax_backward, tanh

EPSILON = tl.constexpr(1e-8)
"""`mann.lrua.EPSILON`; a test compares them."""


@triton.jit
def unused_slots(rank, head, SHARED: tl.constexpr):
    """w^lu of a head (eq. 21): 1 at the slots it may write. rank: of a slot among the least used, -1 elsewhere."""
    if SHARED:
        return tl.where(rank >= 0, 1.0, 0.0)
    return tl.where(rank == head, 1.0, 0.0)


@triton.jit
def lrua_forward(
    interface, alpha, reads, memory, usage, weights, history, least, projected, recurrent, gates, cells, weight, bias,
    steps, alpha_step, alpha_head, reads_row, reads_step,
    SLOTS: tl.constexpr, WIDTH: tl.constexpr, HEADS: tl.constexpr, UNITS: tl.constexpr, SIZE: tl.constexpr,
    AFTER: tl.constexpr, SEPARATE: tl.constexpr, SHARED: tl.constexpr, ERASE_ALL: tl.constexpr, DECAY: tl.constexpr,
    KEEP: tl.constexpr, CONTROLLER: tl.constexpr, BLOCK_SLOTS: tl.constexpr, BLOCK_WIDTH: tl.constexpr,
    BLOCK_UNITS: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Reads and weights of every step; memory and usage become those after the last.

    interface: [batch, steps, SIZE]; reads: from the first step on; memory: [batch, slots, width]; usage:
    [batch, slots]; weights: [batch, steps + 1, heads, slots]. For the backward pass, where KEEP: history,
    [batch, steps, slots, width], the memory before each step; least: [batch, steps, heads].
    """
    dtype: tl.constexpr = memory.dtype.element_ty
    READ: tl.constexpr = HEADS * WIDTH
    VALUES: tl.constexpr = READ if SEPARATE else 0
    CELLS: tl.constexpr = SLOTS * WIDTH
    row = tl.program_id(0).to(tl.int64)
    slot = tl.arange(0, BLOCK_SLOTS)
    column = tl.arange(0, BLOCK_WIDTH)
    here = slot < SLOTS
    wide = column < WIDTH
    tile = slot[:, None] * WIDTH + column[None, :]
    inside = here[:, None] & wide[None, :]
    infinity = tl.full([BLOCK_SLOTS], float("inf"), dtype)
    weights += row * (steps + 1) * HEADS * SLOTS
    cell = tl.load(memory + row * CELLS + tile, mask=inside, other=0)
    used = tl.load(usage + row * SLOTS + slot, mask=here, other=float("inf"))
    for t in range(steps):
        now = row * steps + t
        read = reads + row * reads_row + t * reads_step
        x = interface + now * SIZE
        if CONTROLLER:
            controller_step(
                projected + now * 4 * UNITS, recurrent, read - reads_step, gates + now * 4 * UNITS,
                cells + (now + row) * UNITS, weight, bias, x, READ, UNITS, SIZE, BLOCK_UNITS, BLOCK_ROWS,
                BLOCK_COLUMNS, STAGES,
            )  # fmt: skip
        if KEEP:
            tl.store(history + now * CELLS + tile, cell, mask=inside)
        rank = tl.full([BLOCK_SLOTS], -1, tl.int32)
        free = used
        for head in tl.static_range(HEADS):
            chosen = tl.argmin(free, 0, tie_break_left=True)
            if KEEP:
                tl.store(least + now * HEADS + head, chosen)
            rank = tl.where(slot == chosen, head, rank)
            free = tl.where(slot == chosen, infinity, free)
        erased = rank >= 0 if ERASE_ALL else rank == 0
        touched = tl.zeros([BLOCK_SLOTS], dtype)
        written = tl.where(erased[:, None], 0.0, cell)
        for head in tl.static_range(HEADS):
            unused = unused_slots(rank, head, SHARED)
            before = tl.load(weights + head * SLOTS + slot, mask=here, other=0)
            gate = tl.sigmoid(tl.load(alpha + now * alpha_step + head * alpha_head).to(dtype))
            write = unused + gate * (before - unused)
            value = tanh(tl.load(x + VALUES + head * WIDTH + column, mask=wide, other=0).to(dtype))
            written += write[:, None] * value[None, :]
            touched += write
        weights += HEADS * SLOTS
        seen = written if AFTER else cell
        lengths = tl.sqrt(tl.sum(seen * seen, 1))
        for head in tl.static_range(HEADS):
            key = tanh(tl.load(x + head * WIDTH + column, mask=wide, other=0).to(dtype))
            length = tl.sqrt(tl.sum(key * key, 0))
            cosine = tl.sum(seen * key[None, :], 1) / (length * lengths + EPSILON)
            found = softmax(cosine, here)
            tl.store(weights + head * SLOTS + slot, found, mask=here)
            tl.store(read + head * WIDTH + column, tl.sum(seen * found[:, None], 0), mask=wide)
            touched += found
        used = tl.where(here, DECAY * used + touched, infinity)  # 0 · ∞ would be NaN
        cell = written
        tl.debug_barrier()
    tl.store(memory + row * CELLS + tile, cell, mask=inside)
    tl.store(usage + row * SLOTS + slot, used, mask=here)


@triton.jit
def lrua_backward(
    interface, alpha, history, weights, least, recurrent, gates, cells, weight,
    d_reads, d_interface, d_alpha, d_memory, d_weights, carry, d_hidden, d_cell, d_gates,
    steps, alpha_step, alpha_head, d_alpha_step, reads_row, reads_step,
    SLOTS: tl.constexpr, WIDTH: tl.constexpr, HEADS: tl.constexpr, UNITS: tl.constexpr, SIZE: tl.constexpr,
    AFTER: tl.constexpr, SEPARATE: tl.constexpr, SHARED: tl.constexpr, ERASE_ALL: tl.constexpr,
    CONTROLLER: tl.constexpr, BLOCK_SLOTS: tl.constexpr, BLOCK_WIDTH: tl.constexpr, BLOCK_UNITS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """The gradient of everything that `lrua_forward` read, last step first.

    d_memory, [batch, slots, width], and d_weights, [batch, heads, slots], come in as those of the last state and go out
    as those of the first. carry: [batch, read + units], zero at first, what a step owes to (r, h) of the step before.
    """
    dtype: tl.constexpr = history.dtype.element_ty
    READ: tl.constexpr = HEADS * WIDTH
    VALUES: tl.constexpr = READ if SEPARATE else 0
    CELLS: tl.constexpr = SLOTS * WIDTH
    row = tl.program_id(0).to(tl.int64)
    slot = tl.arange(0, BLOCK_SLOTS)
    column = tl.arange(0, BLOCK_WIDTH)
    here = slot < SLOTS
    wide = column < WIDTH
    tile = slot[:, None] * WIDTH + column[None, :]
    inside = here[:, None] & wide[None, :]
    d_weights += row * HEADS * SLOTS
    if CONTROLLER:
        carry += row * (READ + UNITS)
    d_new = tl.load(d_memory + row * CELLS + tile, mask=inside, other=0)
    for back in range(steps):
        t = steps - 1 - back
        now = row * steps + t
        d_read = d_reads + row * reads_row + t * reads_step
        x = interface + now * SIZE
        dx = d_interface + now * SIZE
        w = weights + (now + row) * HEADS * SLOTS
        old = tl.load(history + now * CELLS + tile, mask=inside, other=0)
        rank = tl.full([BLOCK_SLOTS], -1, tl.int32)
        for head in tl.static_range(HEADS):
            rank = tl.where(slot == tl.load(least + now * HEADS + head), head, rank)
        erased = rank >= 0 if ERASE_ALL else rank == 0
        seen = old
        if AFTER:
            seen = tl.where(erased[:, None], 0.0, old)
            for head in tl.static_range(HEADS):
                unused = unused_slots(rank, head, SHARED)
                before = tl.load(w + head * SLOTS + slot, mask=here, other=0)
                gate = tl.sigmoid(tl.load(alpha + now * alpha_step + head * alpha_head).to(dtype))
                value = tanh(tl.load(x + VALUES + head * WIDTH + column, mask=wide, other=0).to(dtype))
                seen += (unused + gate * (before - unused))[:, None] * value[None, :]
        # Reading: what each head found, and how (eq. 17-19).
        lengths = tl.sqrt(tl.sum(seen * seen, 1))
        d_lengths = tl.zeros([BLOCK_SLOTS], dtype)
        d_seen = d_new if AFTER else tl.zeros([BLOCK_SLOTS, BLOCK_WIDTH], dtype)
        for head in tl.static_range(HEADS):
            place = head * WIDTH + column
            key = tanh(tl.load(x + place, mask=wide, other=0).to(dtype))
            length = tl.sqrt(tl.sum(key * key, 0))
            inverse = 1 / (length * lengths + EPSILON)
            cosine = tl.sum(seen * key[None, :], 1) * inverse
            found = tl.load(w + (HEADS + head) * SLOTS + slot, mask=here, other=0)
            dr = tl.load(d_read + place, mask=wide, other=0).to(dtype)
            if CONTROLLER:
                dr += tl.load(carry + place, mask=wide, other=0)
            d_found = tl.sum(seen * dr[None, :], 1) + tl.load(d_weights + head * SLOTS + slot, mask=here, other=0)
            d_dot = softmax_backward(found, d_found) * inverse
            d_product = -d_dot * cosine  # the gradient of length · lengths
            d_lengths += d_product * length
            d_seen += found[:, None] * dr[None, :] + d_dot[:, None] * key[None, :]
            d_length = tl.sum(d_product * lengths, 0)
            d_key = tl.sum(d_dot[:, None] * seen, 0) + key * over(d_length, length)
            tl.store(dx + place, d_key * (1 - key * key), mask=wide)
        d_seen += over(d_lengths, lengths)[:, None] * seen
        if AFTER:
            d_new = d_seen
        tl.debug_barrier()  # the keys' gradients are there, and all have read the carried ones
        # Writing: erased slots, then weights times values (eq. 21-23).
        for head in tl.static_range(HEADS):
            unused = unused_slots(rank, head, SHARED)
            before = tl.load(w + head * SLOTS + slot, mask=here, other=0)
            gate = tl.sigmoid(tl.load(alpha + now * alpha_step + head * alpha_head).to(dtype))
            place = VALUES + head * WIDTH + column
            value = tanh(tl.load(x + place, mask=wide, other=0).to(dtype))
            write = unused + gate * (before - unused)
            d_write = tl.sum(d_new * value[None, :], 1)
            d_value = tl.sum(d_new * write[:, None], 0) * (1 - value * value)
            if not SEPARATE:
                d_value += tl.load(dx + place, mask=wide, other=0).to(dtype)
                tl.debug_barrier()
            tl.store(dx + place, d_value, mask=wide)
            tl.store(d_weights + head * SLOTS + slot, d_write * gate, mask=here)
            d_gate = tl.sum(d_write * (before - unused), 0)
            tl.store(d_alpha + now * d_alpha_step + head, d_gate * gate * (1 - gate))
        d_new = tl.where(erased[:, None], 0.0, d_new)
        if not AFTER:
            d_new += d_seen
        tl.debug_barrier()
        if CONTROLLER:
            controller_step_backward(
                d_read, carry, dx, weight, gates + now * 4 * UNITS, cells + (now + row) * UNITS, d_hidden + row * UNITS,
                d_cell + row * UNITS, d_gates + now * 4 * UNITS, recurrent, READ, UNITS, SIZE, BLOCK_UNITS, BLOCK_ROWS,
                BLOCK_COLUMNS, STAGES,
            )  # fmt: skip
    tl.store(d_memory + row * CELLS + tile, d_new, mask=inside)
