"""A whole sequence of `mann.sdnc.SDNC` with exact search behind an LSTM controller, and its gradient, for numba.

As `numba_sam`; links are changed in place, too, and are not needed on the way back: what was written before and after
the slots read last is linear in their weights, and the factors are noted.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from mann.kernels.numba_lstm import control, control_backward, control_scratch
from mann.kernels.numba_math import clear, copy, dot, jit, kernel, one, softmax, softmax_backward, zero
from mann.kernels.numba_sam import begin, end, parts, scratch_for, settle, write_step, write_step_backward
from mann.kernels.numba_sam_steps import (
    content,
    content_backward,
    nearest,
    slope_of,
    strength_of,
)
from mann.kernels.numba_sdnc_links import follow, largest, link, lists_for

Array = Any


class Carry(NamedTuple):
    """As `numba_sam.Carry`, and the links; or the gradients of that (only the first five have one)."""

    read: Array
    hidden: Array
    cell: Array
    memory: Array
    weights: Array
    slots: Array
    usage: Array
    ring: Array
    before: Array
    """[rows, slots, links], int64, as is `after`."""
    strength: Array
    """[rows, slots + 1, links]"""
    after: Array
    preceding: Array
    """Slots of the precedence, [rows, links], int64."""
    precedence: Array


class Trace(NamedTuple):
    """As `numba_sam.Trace`, but for rows; and how they were found."""

    inputs: Array
    gates: Array
    cells: Array
    emitted: Array
    shares: Array
    slots: Array
    weights: Array
    least: Array
    cosines: Array
    near: Array
    """Slots found backward, by content and forward, [rows, steps, heads, 3 · k], int64."""
    rows: Array
    """What they hold, [rows, steps, heads, 3 · k, width]."""
    ways: Array
    """Their weights in each way, [rows, steps, heads, 3, k]."""
    modes: Array
    """π, [rows, steps, heads, 3]."""
    chosen: Array
    """Which of them were read, [rows, steps, heads, k], int64; -1 where there is no weight."""
    factors: Array
    """Of backward and forward weights by those before, [rows, steps, heads, 2, k, k]."""


@jit
def _mixed(modes, ways, near, slots, weights, mixed, kept):
    """mixed, [3 · k]: weights of what was found; kept: 1 where the slot is among those read, 0 elsewhere."""
    k = len(slots)
    for i in range(3 * k):
        mixed[i] = modes[i // k] * ways[i // k, i % k]
        kept[i] = zero(kept)
        for j in range(k):
            if slots[j] == near[i] and weights[j] != zero(weights):
                kept[i] = one(kept)


@kernel
def forward(weights, rules, first, steps, carry, trace, projected, hidden, reads):
    """As `numba_sam.forward`."""
    rows, slots, width = carry.memory.shape
    heads, k = carry.slots.shape[1:]
    scratch = scratch_for(projected, heads, k, slots, rules.part)
    lists = lists_for(projected, heads, k, slots, carry.before.shape[2])
    inverse = np.empty((rows, slots), projected.dtype)
    close, found, amounts = (
        np.empty((heads, k), np.int64),
        np.empty((2, k), np.int64),
        np.empty((2, k), projected.dtype),
    )
    mixed, kept = np.empty(3 * k, projected.dtype), np.empty(3 * k, projected.dtype)
    begin(carry, trace, inverse)
    for t in range(steps):
        now = first + t
        control(weights, carry, trace, projected, hidden, first, t)
        for b in range(rows):
            write_step(weights, rules, carry, trace, b, t, inverse[b], scratch)
            before, strength, after = carry.before[b], carry.strength[b], carry.after[b]
            link(before, strength, after, carry.preceding[b], carry.precedence[b], scratch.places[: heads * k + 1],
                 scratch.sums, lists)  # fmt: skip
            emitted = trace.emitted[b, t]
            queries, strengths, _, _, _ = parts(emitted, heads, width)
            raw = emitted[len(emitted) - 3 * heads :].reshape(heads, 3)
            nearest(queries, carry.memory[b], inverse[b], rules.part, close, scratch.room, scratch.near)
            for h in range(heads):
                near, held, ways = trace.near[b, t, h], trace.rows[b, t, h], trace.ways[b, t, h]
                read, weight = trace.slots[b, t + 1, h], trace.weights[b, t + 1, h]
                follow(before, strength, after, trace.slots[b, t, h], trace.weights[b, t, h], lists, found, amounts,
                       trace.factors[b, t, h])  # fmt: skip
                copy(found[0], near[:k])
                copy(close[h], near[k : 2 * k])
                copy(found[1], near[2 * k :])
                for i in range(3 * k):
                    copy(carry.memory[b, near[i]], held[i])
                copy(amounts[0], ways[0])
                copy(amounts[1], ways[2])
                content(queries[h], strength_of(strengths, h), held[k : 2 * k], trace.cosines[b, t, h], ways[1])
                softmax(raw[h], trace.modes[b, t, h])
                for i in range(3 * k):
                    lists.places[i] = near[i]
                    lists.weights[i] = trace.modes[b, t, h, i // k] * ways[i // k, i % k]
                largest(3 * k, lists, read, weight)
                trace.chosen[b, t, h] = lists.chosen[:k]
                _mixed(trace.modes[b, t, h], ways, near, read, weight, mixed, kept)
                out = reads[b, now, h * width : (h + 1) * width]
                clear(out)
                for i in range(3 * k):
                    for w in range(width):
                        out[w] += mixed[i] * kept[i] * held[i, w]
            settle(weights, rules, carry, trace, b, t, scratch)
            if rules.feed:
                copy(reads[b, now], carry.read[b])
    end(carry, trace, steps)


@jit
def _read_backward(found_grad, query, strength, trace, b, t, h, weights_grad, mixed, kept, mixed_grad, ways_grad,
                   query_grad, rows_grad, modes_grad):  # fmt: skip
    """From gradients of what a head read and of its weights (changed to those of the weights before it, as far as they
    were followed) to rows_grad, [3 · k, width], modes_grad, [3], both set, and query_grad, added to; returns that of β.
    """
    near, held, ways, modes = trace.near[b, t, h], trace.rows[b, t, h], trace.ways[b, t, h], trace.modes[b, t, h]
    read, chosen, factors = trace.slots[b, t + 1, h], trace.chosen[b, t, h], trace.factors[b, t, h]
    k, width = len(read), len(query)
    _mixed(modes, ways, near, read, trace.weights[b, t + 1, h], mixed, kept)
    clear(modes_grad)
    for i in range(3 * k):
        amount = mixed[i] * kept[i]
        for w in range(width):
            rows_grad[i, w] = amount * found_grad[w]
        mixed_grad[i] = kept[i] * dot(found_grad, held[i])
        for j in range(k):
            if chosen[j] >= 0 and read[j] == near[i]:
                mixed_grad[i] += weights_grad[j]
        modes_grad[i // k] += mixed_grad[i] * ways[i // k, i % k]
        ways_grad[i // k, i % k] = mixed_grad[i] * modes[i // k]
    for j in range(k):
        weights_grad[j] = zero(modes)
        for i in range(k):
            weights_grad[j] += ways_grad[0, i] * factors[0, i, j] + ways_grad[2, i] * factors[1, i, j]
    softmax_backward(modes, modes_grad)
    return content_backward(query, strength, held[k : 2 * k], trace.cosines[b, t, h], ways[1], ways_grad[1], query_grad,
                            rows_grad[k : 2 * k])  # fmt: skip


@kernel
def backward(
    weights, rules, first, steps, grad, trace, hidden_grad, reads_grad, projected_grad, emitted_grad, own_grad
):
    """As `numba_sam.backward`."""
    rows, slots, width = grad.memory.shape
    heads, k = grad.weights.shape[1:]
    kind = hidden_grad.dtype
    scratch = scratch_for(hidden_grad, heads, k, slots, rules.part)
    room = control_scratch(weights, grad)
    mixed, kept, mixed_grad = np.empty(3 * k, kind), np.empty(3 * k, kind), np.empty(3 * k, kind)
    ways_grad, rows_grad, followed_grad = (
        np.empty((3, k), kind),
        np.empty((3 * k, width), kind),
        np.empty((heads, k), kind),
    )
    for t in range(steps - 1, -1, -1):
        now = first + t
        for b in range(rows):
            if rules.feed:
                for i in range(heads * width):
                    reads_grad[b, now, i] += grad.read[b, i]
            emitted, emitted_back = trace.emitted[b, t], emitted_grad[b, now]
            queries, strengths, _, _, _ = parts(emitted, heads, width)
            queries_back, strengths_back, _, _, _ = parts(emitted_back, heads, width)
            modes_back = emitted_back[len(emitted) - 3 * heads :].reshape(heads, 3)
            clear(queries_back)
            copy(grad.weights[b], followed_grad)
            for h in range(heads):
                strength_grad = _read_backward(
                    reads_grad[b, now, h * width : (h + 1) * width], queries[h], strength_of(strengths, h), trace, b, t,
                    h, followed_grad[h], mixed, kept, mixed_grad, ways_grad, queries_back[h], rows_grad, modes_back[h],
                )  # fmt: skip
                strengths_back[h] = strength_grad * slope_of(strengths, h)
                for i in range(3 * k):
                    total = grad.memory[b, trace.near[b, t, h, i]]
                    for w in range(width):
                        total[w] += rows_grad[i, w]
            write_step_backward(grad, trace, b, t, emitted_back, scratch)
            for h in range(heads):
                for j in range(k):
                    grad.weights[b, h, j] += followed_grad[h, j]
        control_backward(weights, rules.feed, grad, trace, hidden_grad, projected_grad, emitted_grad, first, t, room)
