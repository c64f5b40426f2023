"""The kernels of the NTM scan: one block an episode, T steps inside, the memory on chip (`mann.ntm`, eq. 2-9).

As in `triton_lrua_kernels`: the memory stays in registers, vectors pass through global memory with a barrier between
writing and reading, and between reading and writing anew. Kept for the backward pass: M before each step, the weights
of all heads, and the controller's activations. Heads count from the reading ones.
"""

from __future__ import annotations

import triton
import triton.language as tl

from mann.kernels.triton_lstm import controller_step, controller_step_backward
from mann.kernels.triton_math import pick, softmax, softmax_backward, softplus

SOFTENING = tl.constexpr(1e-6)
"""`mann.addressing.SOFTENING`, and the next its `LEAST`; a test compares them."""
LEAST = tl.constexpr(1e-16)


@triton.jit
def rotated(vector, slot, by, SLOTS: tl.constexpr):
    """The vector's entry `by` places further on, around the end. by: from -SLOTS up."""
    return tl.gather(vector, (slot + (by + SLOTS)) % SLOTS, 0)


@triton.jit
def ntm_forward(
    interface, reads, memory, weights, history, projected, recurrent, gates, cells, weight, bias,
    steps, reads_row, reads_step,
    SLOTS: tl.constexpr, WIDTH: tl.constexpr, READS: tl.constexpr, WRITES: tl.constexpr, REACH: tl.constexpr,
    UNITS: tl.constexpr, SIZE: tl.constexpr, AFTER: tl.constexpr, KEEP: tl.constexpr, CONTROLLER: tl.constexpr,
    BLOCK_SLOTS: tl.constexpr, BLOCK_WIDTH: tl.constexpr, BLOCK_SHIFTS: tl.constexpr, BLOCK_UNITS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Reads and weights of every step; the memory becomes that after the last.

    interface: [batch, steps, SIZE]; reads: from the first step on; memory: [batch, slots, width]; weights:
    [batch, steps + 1, heads, slots]. history: [batch, steps, slots, width], the memory before each step, where KEEP.
    """
    dtype: tl.constexpr = memory.dtype.element_ty
    HEADS: tl.constexpr = READS + WRITES
    ADD: tl.constexpr = HEADS * WIDTH
    STRENGTH: tl.constexpr = ADD + WRITES * WIDTH
    POWER: tl.constexpr = STRENGTH + HEADS
    GATE: tl.constexpr = POWER + HEADS
    ERASE: tl.constexpr = GATE + HEADS
    SHIFT: tl.constexpr = ERASE + WRITES * WIDTH
    SHIFTS: tl.constexpr = 2 * REACH + 1
    CELLS: tl.constexpr = SLOTS * WIDTH
    row = tl.program_id(0).to(tl.int64)
    slot = tl.arange(0, BLOCK_SLOTS)
    column = tl.arange(0, BLOCK_WIDTH)
    place = tl.arange(0, BLOCK_SHIFTS)
    here = slot < SLOTS
    wide = column < WIDTH
    tile = slot[:, None] * WIDTH + column[None, :]
    inside = here[:, None] & wide[None, :]
    weights += row * (steps + 1) * HEADS * SLOTS
    cell = tl.load(memory + row * CELLS + tile, mask=inside, other=0)
    for t in range(steps):
        now = row * steps + t
        read = reads + row * reads_row + t * reads_step
        x = interface + now * SIZE
        if CONTROLLER:
            controller_step(
                projected + now * 4 * UNITS, recurrent, read - reads_step, gates + now * 4 * UNITS,
                cells + (now + row) * UNITS, weight, bias, x, READS * WIDTH, UNITS, SIZE, BLOCK_UNITS, BLOCK_ROWS,
                BLOCK_COLUMNS, STAGES,
            )  # fmt: skip
        if KEEP:
            tl.store(history + now * CELLS + tile, cell, mask=inside)
        # Addressing (eq. 5-9).
        lengths = tl.rsqrt(tl.sum(cell * cell, 1) + SOFTENING)
        for head in tl.static_range(HEADS):
            key = tl.load(x + head * WIDTH + column, mask=wide, other=0).to(dtype)
            strength = softplus(tl.load(x + STRENGTH + head).to(dtype))
            query = key * (strength * tl.rsqrt(tl.sum(key * key, 0) + SOFTENING))
            content = softmax(tl.sum(cell * query[None, :], 1) * lengths, here)
            before = tl.load(weights + head * SLOTS + slot, mask=here, other=0)
            gate = tl.sigmoid(tl.load(x + GATE + head).to(dtype))
            gated = before + gate * (content - before)
            shifts = tl.load(x + SHIFT + head * SHIFTS + place, mask=place < SHIFTS, other=0).to(dtype)
            shifts = softmax(shifts, place < SHIFTS)
            shifted = tl.zeros([BLOCK_SLOTS], dtype)
            for k in tl.static_range(SHIFTS):
                shifted += pick(shifts, place, k) * rotated(gated, slot, k - REACH, SLOTS)
            power = 1 + softplus(tl.load(x + POWER + head).to(dtype))
            sharp = softmax(power * tl.log(tl.maximum(shifted, LEAST)), here)
            tl.store(weights + (HEADS + head) * SLOTS + slot, sharp, mask=here)
        weights += HEADS * SLOTS
        tl.debug_barrier()
        # Writing: all heads erase, then all add (eq. 3, 4).
        written = cell
        for head in tl.static_range(WRITES):
            w = tl.load(weights + (READS + head) * SLOTS + slot, mask=here, other=0)
            erase = tl.sigmoid(tl.load(x + ERASE + head * WIDTH + column, mask=wide, other=0).to(dtype))
            written *= 1 - w[:, None] * erase[None, :]
        for head in tl.static_range(WRITES):
            w = tl.load(weights + (READS + head) * SLOTS + slot, mask=here, other=0)
            add = tl.load(x + ADD + head * WIDTH + column, mask=wide, other=0).to(dtype)
            written += w[:, None] * add[None, :]
        seen = written if AFTER else cell
        for head in tl.static_range(READS):
            w = tl.load(weights + head * SLOTS + slot, mask=here, other=0)
            tl.store(read + head * WIDTH + column, tl.sum(seen * w[:, None], 0), mask=wide)
        cell = written
        tl.debug_barrier()
    tl.store(memory + row * CELLS + tile, cell, mask=inside)


@triton.jit
def ntm_backward(
    interface, history, weights, recurrent, gates, cells, weight,
    d_reads, d_interface, d_memory, d_weights, carry, d_hidden, d_cell, d_gates,
    steps, reads_row, reads_step,
    SLOTS: tl.constexpr, WIDTH: tl.constexpr, READS: tl.constexpr, WRITES: tl.constexpr, REACH: tl.constexpr,
    UNITS: tl.constexpr, SIZE: tl.constexpr, AFTER: tl.constexpr, CONTROLLER: tl.constexpr,
    BLOCK_SLOTS: tl.constexpr, BLOCK_WIDTH: tl.constexpr, BLOCK_SHIFTS: tl.constexpr, BLOCK_UNITS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """The gradient of everything that `ntm_forward` read, last step first.

    d_memory, [batch, slots, width], and d_weights, [batch, heads, slots], come in as those of the last state and go out
    as those of the first. carry: [batch, read + units], zero at first, what a step owes to (r, h) of the step before.
    """
    dtype: tl.constexpr = history.dtype.element_ty
    HEADS: tl.constexpr = READS + WRITES
    READ: tl.constexpr = READS * WIDTH
    ADD: tl.constexpr = HEADS * WIDTH
    STRENGTH: tl.constexpr = ADD + WRITES * WIDTH
    POWER: tl.constexpr = STRENGTH + HEADS
    GATE: tl.constexpr = POWER + HEADS
    ERASE: tl.constexpr = GATE + HEADS
    SHIFT: tl.constexpr = ERASE + WRITES * WIDTH
    SHIFTS: tl.constexpr = 2 * REACH + 1
    CELLS: tl.constexpr = SLOTS * WIDTH
    row = tl.program_id(0).to(tl.int64)
    slot = tl.arange(0, BLOCK_SLOTS)
    column = tl.arange(0, BLOCK_WIDTH)
    place = tl.arange(0, BLOCK_SHIFTS)
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
        after = w + HEADS * SLOTS
        old = tl.load(history + now * CELLS + tile, mask=inside, other=0)
        # Reading: the gradient of what was read goes to the memory and, below, to the weights (eq. 2).
        seen = old
        if AFTER:
            for head in tl.static_range(WRITES):
                wrote = tl.load(after + (READS + head) * SLOTS + slot, mask=here, other=0)
                erase = tl.sigmoid(tl.load(x + ERASE + head * WIDTH + column, mask=wide, other=0).to(dtype))
                seen *= 1 - wrote[:, None] * erase[None, :]
            for head in tl.static_range(WRITES):
                wrote = tl.load(after + (READS + head) * SLOTS + slot, mask=here, other=0)
                add = tl.load(x + ADD + head * WIDTH + column, mask=wide, other=0).to(dtype)
                seen += wrote[:, None] * add[None, :]
        d_seen = d_new if AFTER else tl.zeros([BLOCK_SLOTS, BLOCK_WIDTH], dtype)
        for head in tl.static_range(READS):
            dr = tl.load(d_read + head * WIDTH + column, mask=wide, other=0).to(dtype)
            if CONTROLLER:
                dr += tl.load(carry + head * WIDTH + column, mask=wide, other=0)
            found = tl.load(after + head * SLOTS + slot, mask=here, other=0)
            d_seen += found[:, None] * dr[None, :]
            d_found = tl.sum(seen * dr[None, :], 1) + tl.load(d_weights + head * SLOTS + slot, mask=here, other=0)
            tl.debug_barrier()
            tl.store(d_weights + head * SLOTS + slot, d_found, mask=here)
        if AFTER:
            d_new = d_seen
        # Writing (eq. 3, 4).
        d_old = d_new
        for head in tl.static_range(WRITES):
            wrote = tl.load(after + (READS + head) * SLOTS + slot, mask=here, other=0)
            erase = tl.sigmoid(tl.load(x + ERASE + head * WIDTH + column, mask=wide, other=0).to(dtype))
            add = tl.load(x + ADD + head * WIDTH + column, mask=wide, other=0).to(dtype)
            d_kept = d_new * old
            for other in tl.static_range(WRITES):
                if other != head:
                    w_other = tl.load(after + (READS + other) * SLOTS + slot, mask=here, other=0)
                    e_other = tl.sigmoid(tl.load(x + ERASE + other * WIDTH + column, mask=wide, other=0).to(dtype))
                    d_kept *= 1 - w_other[:, None] * e_other[None, :]
            d_old *= 1 - wrote[:, None] * erase[None, :]
            d_erase = -tl.sum(d_kept * wrote[:, None], 0)
            tl.store(dx + ERASE + head * WIDTH + column, d_erase * erase * (1 - erase), mask=wide)
            tl.store(dx + ADD + head * WIDTH + column, tl.sum(d_new * wrote[:, None], 0), mask=wide)
            d_wrote = tl.sum(d_new * add[None, :] - d_kept * erase[None, :], 1)
            d_wrote += tl.load(d_weights + (READS + head) * SLOTS + slot, mask=here, other=0)
            tl.debug_barrier()
            tl.store(d_weights + (READS + head) * SLOTS + slot, d_wrote, mask=here)
        if not AFTER:
            d_old += d_seen
        tl.debug_barrier()
        # Addressing, backwards (eq. 9, 8, 7, 6, 5).
        lengths = tl.rsqrt(tl.sum(old * old, 1) + SOFTENING)
        d_lengths = tl.zeros([BLOCK_SLOTS], dtype)
        for head in tl.static_range(HEADS):
            key = tl.load(x + head * WIDTH + column, mask=wide, other=0).to(dtype)
            raw_strength = tl.load(x + STRENGTH + head).to(dtype)
            strength = softplus(raw_strength)
            inverse = tl.rsqrt(tl.sum(key * key, 0) + SOFTENING)
            query = key * (strength * inverse)
            dots = tl.sum(old * query[None, :], 1)
            content = softmax(dots * lengths, here)
            before = tl.load(w + head * SLOTS + slot, mask=here, other=0)
            gate = tl.sigmoid(tl.load(x + GATE + head).to(dtype))
            gated = before + gate * (content - before)
            shifts = tl.load(x + SHIFT + head * SHIFTS + place, mask=place < SHIFTS, other=0).to(dtype)
            shifts = softmax(shifts, place < SHIFTS)
            shifted = tl.zeros([BLOCK_SLOTS], dtype)
            for k in tl.static_range(SHIFTS):
                shifted += pick(shifts, place, k) * rotated(gated, slot, k - REACH, SLOTS)
            raw_power = tl.load(x + POWER + head).to(dtype)
            power = 1 + softplus(raw_power)
            sharp = tl.load(after + head * SLOTS + slot, mask=here, other=0)
            d_sharp = tl.load(d_weights + head * SLOTS + slot, mask=here, other=0)
            tl.debug_barrier()
            d_logs = softmax_backward(sharp, d_sharp)
            bounded = tl.maximum(shifted, LEAST)
            tl.store(dx + POWER + head, tl.sum(d_logs * tl.log(bounded), 0) * tl.sigmoid(raw_power))
            d_shifted = tl.where(here & (shifted >= LEAST), d_logs * power / bounded, 0.0)
            d_gated = tl.zeros([BLOCK_SLOTS], dtype)
            d_shifts = tl.zeros([BLOCK_SHIFTS], dtype)
            for k in tl.static_range(SHIFTS):
                d_gated += pick(shifts, place, k) * rotated(d_shifted, slot, REACH - k, SLOTS)
                moved = tl.sum(d_shifted * rotated(gated, slot, k - REACH, SLOTS), 0)
                d_shifts += tl.where(place == k, moved, 0.0)
            d_gated = tl.where(here, d_gated, 0.0)
            d_shifts = softmax_backward(shifts, d_shifts)
            tl.store(dx + SHIFT + head * SHIFTS + place, d_shifts, mask=place < SHIFTS)
            tl.store(dx + GATE + head, tl.sum(d_gated * (content - before), 0) * gate * (1 - gate))
            tl.store(d_weights + head * SLOTS + slot, (1 - gate) * d_gated, mask=here)
            d_scores = softmax_backward(content, gate * d_gated)
            d_lengths += d_scores * dots
            d_dots = d_scores * lengths
            d_query = tl.sum(d_dots[:, None] * old, 0)
            d_old += d_dots[:, None] * query[None, :]
            along = tl.sum(d_query * key, 0)
            d_key = d_query * (strength * inverse) - key * (along * strength * inverse * inverse * inverse)
            tl.store(dx + head * WIDTH + column, d_key, mask=wide)
            tl.store(dx + STRENGTH + head, along * inverse * tl.sigmoid(raw_strength))
        d_new = d_old - (d_lengths * lengths * lengths * lengths)[:, None] * old
        tl.debug_barrier()
        if CONTROLLER:
            controller_step_backward(
                d_read, carry, dx, weight, gates + now * 4 * UNITS, cells + (now + row) * UNITS, d_hidden + row * UNITS,
                d_cell + row * UNITS, d_gates + now * 4 * UNITS, recurrent, READ, UNITS, SIZE, BLOCK_UNITS, BLOCK_ROWS,
                BLOCK_COLUMNS, STAGES,
            )  # fmt: skip
    tl.store(d_memory + row * CELLS + tile, d_new, mask=inside)
