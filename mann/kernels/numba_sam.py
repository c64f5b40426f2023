"""A whole sequence of `mann.sam.SAM` with exact search behind an LSTM controller, and its gradient, for numba.

The memory is changed in place from step to step. What the way back needs of it are the rows that were read; they are
noted in the trace, so that the trace grows with K and not with the number of slots, and nothing need be taken back.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from mann.kernels.numba_lstm import control, control_backward, control_scratch
from mann.kernels.numba_math import clear, copy, jit, kernel, one, sigmoid_
from mann.kernels.numba_sam_steps import (
    content,
    content_backward,
    discount,
    inverse_length,
    least_used,
    nearest,
    shares_of,
    slope_of,
    strength_of,
    totals,
    touch,
    write,
    write_backward,
    write_weights,
)

Array = Any
"""A contiguous numpy array of float32 or float64, or of int64 where that is said; floats of one call have one type."""


class Rules(NamedTuple):
    """What is fixed; of the options, what does not show in the arrays."""

    dense: bool
    """Usage is U1."""
    part: int
    """Slots that are compared with a key at a time."""
    feed: bool
    """The controller sees reads."""


class Weights(NamedTuple):
    """Parameters, as `numba_lrua.Weights`, and the options that are real numbers."""

    recurrent: Array
    recurrent_t: Array
    interface: Array
    interface_t: Array
    bias: Array
    decay: Array
    """λ, [1]"""
    threshold: Array
    """δ, [1]"""


class Carry(NamedTuple):
    """What passes from step to step, a row each; or the gradients of that (only the first five have one)."""

    read: Array
    hidden: Array
    cell: Array
    memory: Array
    """[rows, slots, width]"""
    weights: Array
    """[rows, heads, k]"""
    slots: Array
    """Read last, [rows, heads, k], int64."""
    usage: Array
    """U1, [rows, slots]; without columns where usage is U2."""
    ring: Array
    """U2, int64, as in `mann.index`; without columns where usage is U1."""


class Trace(NamedTuple):
    """What the way back needs of each step. [rows, steps, …]; of steps + 1 the first is what was there before."""

    inputs: Array
    """What the recurrent product saw: read, hidden."""
    gates: Array
    """After σ and tanh."""
    cells: Array
    """[rows, steps + 1, hidden]"""
    emitted: Array
    """The interface, α alone after σ."""
    shares: Array
    """γ of each head and what they leave, [rows, steps, heads + 1]."""
    slots: Array
    """[rows, steps + 1, heads, k], int64"""
    weights: Array
    """w^R, [rows, steps + 1, heads, k]"""
    least: Array
    """Least recently accessed slot, [rows, steps], int64."""
    rows: Array
    """What was read, [rows, steps, heads, k, width]."""
    cosines: Array
    """[rows, steps, heads, k]"""


class Scratch(NamedTuple):
    """Room for one row at a time."""

    places: Array
    amounts: Array
    sums: Array
    done: Array
    room: Array
    near: Array
    shares: Array


@jit
def scratch_for(like, heads, k, slots, part):
    """Scratch for a memory of such sizes."""
    kind, accessed = like.dtype, 2 * heads * k + 1  # places that a step names: read before, least recent, read
    searched = slots + (slots // part + 1) * k
    return Scratch(
        np.empty(accessed, np.int64),
        np.empty(accessed, kind),
        np.empty(slots, kind),
        np.empty(slots, np.bool_),
        np.empty(searched, np.int64),
        np.empty((heads, searched), kind),
        np.empty(heads + 1, kind),
    )


@jit
def begin(carry, trace, inverse):
    """Note what was there before the first step of a trace; inverse: set."""
    for b in range(len(carry.read)):
        copy(carry.cell[b], trace.cells[b, 0])
        copy(carry.slots[b], trace.slots[b, 0])
        copy(carry.weights[b], trace.weights[b, 0])
        for i in range(inverse.shape[1]):
            inverse[b, i] = inverse_length(carry.memory[b, i])


@jit
def end(carry, trace, steps):
    """The carry after the last step of a trace."""
    for b in range(len(carry.read)):
        copy(trace.cells[b, steps], carry.cell[b])
        copy(trace.slots[b, steps], carry.slots[b])
        copy(trace.weights[b, steps], carry.weights[b])


@jit
def parts(emitted, heads, width):
    """Views of an interface: queries, [heads, width], strengths, value, gate, [1], and shares."""
    size = heads * width
    at = size + heads + width
    queries = emitted[:size].reshape(heads, width)
    return queries, emitted[size : size + heads], emitted[size + heads : at], emitted[at : at + 1], \
        emitted[at + 1 : at + 1 + heads]  # fmt: skip


@jit
def write_step(weights, rules, carry, trace, b, t, inverse, scratch):
    """Squash the gates, find the least recent slot, and write: the first half of step t for row b."""
    heads, k = carry.slots.shape[1:]
    _, _, value, gate, raw = parts(trace.emitted[b, t], heads, carry.memory.shape[2])
    sigmoid_(gate)
    shares_of(raw, trace.shares[b, t], scratch.shares)
    least = least_used(carry.usage[b]) if rules.dense else carry.ring[b, carry.ring.shape[1] // 2 - 2]
    trace.least[b, t] = least
    places, amounts = scratch.places[: heads * k + 1], scratch.amounts[: heads * k + 1]
    write_weights(trace.slots[b, t], trace.weights[b, t], least, gate[0], trace.shares[b, t], places, amounts)
    totals(places, amounts, scratch.sums)
    write(carry.memory[b], inverse, places, scratch.sums, value, scratch.done)


@jit
def settle(weights, rules, carry, trace, b, t, scratch):
    """The usage after step t of row b, which wrote what scratch tells and read what the trace tells."""
    heads, k = carry.slots.shape[1:]
    places, amounts = scratch.places[heads * k + 1 :], scratch.amounts[heads * k + 1 :]
    for h in range(heads):
        places[h * k : (h + 1) * k] = trace.slots[b, t + 1, h]
        amounts[h * k : (h + 1) * k] = trace.weights[b, t + 1, h]
    if rules.dense:
        discount(carry.usage[b], weights.decay[0], scratch.places, scratch.amounts)
    else:
        totals(scratch.places, scratch.amounts, scratch.sums)
        touch(carry.ring[b], weights.threshold[0], scratch.places, scratch.amounts, scratch.sums, scratch.done)


@jit
def write_step_backward(grad, trace, b, t, emitted_back, scratch):
    """Gradients of the memory and of the weights read before, in place of those after; those of the interface, set."""
    heads, width = trace.slots.shape[2], grad.memory.shape[2]
    _, _, value, gate, _ = parts(trace.emitted[b, t], heads, width)
    _, _, value_back, gate_back, shares_back = parts(emitted_back, heads, width)
    opened = gate[0]
    gate_grad = write_backward(
        grad.memory[b], trace.slots[b, t], trace.weights[b, t], trace.least[b, t], opened, trace.shares[b, t], value,
        scratch.shares, grad.weights[b], value_back,
    )  # fmt: skip
    gate_back[0] = gate_grad * opened * (one(gate) - opened)
    copy(scratch.shares[:heads], shares_back)


@kernel
def forward(weights, rules, first, steps, carry, trace, projected, hidden, reads):
    """Steps first, first + 1, …, of all rows. carry: changed to that after the last; trace, hidden, reads: filled.

    projected, hidden, reads: [rows, time, …] of the whole sequence.
    """
    rows, slots, width = carry.memory.shape
    heads, k = carry.slots.shape[1:]
    scratch = scratch_for(projected, heads, k, slots, rules.part)
    inverse = np.empty((rows, slots), projected.dtype)
    begin(carry, trace, inverse)
    for t in range(steps):
        now = first + t
        control(weights, carry, trace, projected, hidden, first, t)
        for b in range(rows):
            write_step(weights, rules, carry, trace, b, t, inverse[b], scratch)
            queries, strengths, _, _, _ = parts(trace.emitted[b, t], heads, width)
            near, found = trace.slots[b, t + 1], reads[b, now].reshape(heads, width)
            nearest(queries, carry.memory[b], inverse[b], rules.part, near, scratch.room, scratch.near)
            for h in range(heads):
                read, weight = trace.rows[b, t, h], trace.weights[b, t + 1, h]
                for j in range(k):
                    copy(carry.memory[b, near[h, j]], read[j])
                content(queries[h], strength_of(strengths, h), read, trace.cosines[b, t, h], weight)
                clear(found[h])
                for j in range(k):
                    for w in range(width):
                        found[h, w] += weight[j] * read[j, w]
            settle(weights, rules, carry, trace, b, t, scratch)
            if rules.feed:
                copy(reads[b, now], carry.read[b])
    end(carry, trace, steps)


@kernel
def backward(
    weights, rules, first, steps, grad, trace, hidden_grad, reads_grad, projected_grad, emitted_grad, own_grad
):
    """The same steps backwards. grad: gradients of the carry after them, changed to those of the carry before them.

    hidden_grad, reads_grad: given; the second is changed. projected_grad, emitted_grad (of the interface): set. All are
    of the whole sequence. own_grad: unused, for there are no other parameters.
    """
    rows, slots, width = grad.memory.shape
    heads, k = grad.weights.shape[1:]
    scratch = scratch_for(hidden_grad, heads, k, slots, rules.part)
    room = control_scratch(weights, grad)
    rows_grad = np.empty((k, width), hidden_grad.dtype)
    for t in range(steps - 1, -1, -1):
        now = first + t
        for b in range(rows):
            if rules.feed:
                for i in range(heads * width):
                    reads_grad[b, now, i] += grad.read[b, i]
            found_grad, emitted_back = reads_grad[b, now].reshape(heads, width), emitted_grad[b, now]
            queries, strengths, _, _, _ = parts(trace.emitted[b, t], heads, width)
            queries_back, strengths_back, _, _, _ = parts(emitted_back, heads, width)
            clear(queries_back)
            for h in range(heads):
                read, weight, back = trace.rows[b, t, h], trace.weights[b, t + 1, h], grad.weights[b, h]
                for j in range(k):
                    for w in range(width):
                        back[j] += found_grad[h, w] * read[j, w]
                        rows_grad[j, w] = found_grad[h, w] * weight[j]
                strength_grad = content_backward(
                    queries[h], strength_of(strengths, h), read, trace.cosines[b, t, h], weight, back,
                    queries_back[h], rows_grad,
                )  # fmt: skip
                strengths_back[h] = strength_grad * slope_of(strengths, h)
                for j in range(k):
                    total = grad.memory[b, trace.slots[b, t + 1, h, j]]
                    for w in range(width):
                        total[w] += rows_grad[j, w]
            write_step_backward(grad, trace, b, t, emitted_back, scratch)
        control_backward(weights, rules.feed, grad, trace, hidden_grad, projected_grad, emitted_grad, first, t, room)
