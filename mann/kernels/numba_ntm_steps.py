"""Addressing, writing and reading of `mann.ntm.NTM` for one row and step, and their gradients, for numba.

A memory lies here with slots last, [width, slots], as in `numba_lrua_steps`. Names of gradients end in `_grad`; `back`
is that of what the controller emits, before it is squashed. Everything else is called as in `mann.ntm`.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from mann.kernels.numba_math import (
    copy,
    correlate,
    dot,
    four,
    jit,
    logarithm,
    multiply,
    one,
    sigmoid_,
    softmax_,
    softmax_backward,
    softplus_,
    squares,
    summing,
    zero,
)

Array = Any
"""A contiguous numpy array of float32 or float64; all of one call have the same type."""


class Heads(NamedTuple):
    """What the controller emits in a step, by head, or the gradients of that. Strengths and powers before softplus."""

    keys: Array
    """[heads, width]"""
    add: Array
    """[writes, width]"""
    strengths: Array
    """[heads]"""
    powers: Array
    """[heads]"""
    gates: Array
    """[heads]"""
    erase: Array
    """[writes, width]"""
    shifts: Array
    """[heads, 2 · shift + 1]"""


class Scratch(NamedTuple):
    """Room for one row at a time."""

    strengths: Array
    """β and its slope, [2, heads]"""
    powers: Array
    """γ likewise"""
    queries: Array
    """[heads, width]"""
    queries_grad: Array
    ring: Array
    """Weights before the shift, with as many of the other end before and behind them as a shift reaches."""
    ring_grad: Array
    moved: Array
    """[slots], and so are the next two."""
    slots_grad: Array
    lengths_grad: Array
    pairs: Array
    """[heads, slots]"""
    left: Array
    """[width, heads]"""
    kept: Array
    """[writes, slots]: what the writing heads before one leave of a cell."""


@jit
def scratch_for(like, heads, writes, width, slots, reach):
    """Empty; of the type of `like`."""
    kind = like.dtype
    return Scratch(
        np.empty((2, heads), kind),
        np.empty((2, heads), kind),
        np.empty((heads, width), kind),
        np.empty((heads, width), kind),
        np.empty(slots + 2 * reach, kind),
        np.empty(slots + 2 * reach, kind),
        np.empty(slots, kind),
        np.empty(slots, kind),
        np.empty(slots, kind),
        np.empty((heads, slots), kind),
        np.empty((width, heads), kind),
        np.empty((writes, slots), kind),
    )


@jit
def parts(emitted, heads, writes, width):
    """Views of one step's interface."""
    a = heads * width
    b = a + writes * width
    c = b + 2 * heads
    d = c + heads
    e = d + writes * width
    return Heads(
        emitted[:a].reshape(heads, width),
        emitted[a:b].reshape(writes, width),
        emitted[b : b + heads],
        emitted[b + heads : c],
        emitted[c:d],
        emitted[d:e].reshape(writes, width),
        emitted[e:].reshape(heads, (len(emitted) - e) // heads),
    )


@jit
def squash(p):
    """σ and softmax, in place; strengths and powers stay as they are."""
    sigmoid_(p.gates)
    sigmoid_(p.erase.reshape(p.erase.size))
    for h in range(len(p.shifts)):
        softmax_(p.shifts[h])


@jit
def positive(p, scratch):
    """β and γ, and their slopes: those of softplus are σ."""
    for raw, out in ((p.strengths, scratch.strengths), (p.powers, scratch.powers)):
        copy(raw, out[0])
        copy(raw, out[1])
        softplus_(out[0])
        sigmoid_(out[1])
    for h in range(len(p.powers)):
        scratch.powers[0, h] += one(p.powers)


@jit
def inverse_length(square, softening):
    """1 / |v| from |v|²."""
    return softening.dtype.type(1 / math.sqrt(square + softening[0]))


@jit
def interpolate(gate, content, before, ring):
    """w^g (eq. 7), as a ring."""
    slots = len(content)
    reach = (len(ring) - slots) // 2
    rest = one(content) - gate
    inner = ring[reach : reach + slots]
    for i in range(slots):
        inner[i] = gate * content[i] + rest * before[i]
    for j in range(reach):
        ring[j] = inner[slots - reach + j]
        ring[reach + slots + j] = inner[j]


@jit
def move(ring, shifts, moved):
    """w̃ (eq. 8). shifts: from +shift down to -shift, so that the first of them takes what comes before a slot."""
    moved[:] = zero(moved)
    for k in range(len(shifts)):
        share, part = shifts[k], ring[k : k + len(moved)]
        for i in range(len(moved)):
            moved[i] += share * part[i]


@jit
def logarithms(moved, least, out):
    """ln max(w̃, LEAST)."""
    for i in range(len(moved)):
        out[i] = logarithm(least[0] if moved[i] < least[0] else moved[i])


@jit
def address(p, memory, before, softening, least, inverse, scores, content, weights, scratch):
    """Where all heads are (eq. 5-9). before: weights of the last step, [heads, slots].

    Set: inverse, 1 / |M(i)|; scores, β cos(k, M(i)); content, w^c; weights, w. All [heads, slots] but the first.
    """
    squares(memory, inverse)
    for i in range(len(inverse)):
        inverse[i] = inverse_length(inverse[i], softening)
    positive(p, scratch)
    for h in range(len(scores)):
        scale = scratch.strengths[0, h] * inverse_length(dot(p.keys[h], p.keys[h]), softening)
        for w in range(len(memory)):
            scratch.queries[h, w] = p.keys[h, w] * scale
    scores[:] = zero(scores)
    multiply(scratch.queries, memory, scores)
    for h in range(len(scores)):
        score, found, weight = scores[h], content[h], weights[h]
        for i in range(len(score)):
            score[i] *= inverse[i]
            found[i] = score[i]
        softmax_(found)
        interpolate(p.gates[h], found, before[h], scratch.ring)
        move(scratch.ring, p.shifts[h], scratch.moved)
        logarithms(scratch.moved, least, weight)
        for i in range(len(weight)):
            weight[i] *= scratch.powers[0, h]
        softmax_(weight)


@jit
def sharpen_backward(power, moved, least, weights, grad, logs):
    """From the gradient of w to that of w̃, in place. Returns that of γ. logs: scratch, [slots]."""
    softmax_backward(weights, grad)
    logarithms(moved, least, logs)
    power_grad = dot(grad, logs)
    for i in range(len(grad)):
        grad[i] = power * grad[i] / moved[i] if moved[i] >= least[0] else zero(grad)
    return power_grad


@jit
def move_backward(ring, shifts, grad, ring_grad, shifts_grad):
    """From the gradient of w̃ to that of w^g, in place; and of the shifts before softmax, set."""
    slots = len(grad)
    reach = len(shifts) // 2
    ring_grad[:] = zero(ring_grad)
    for k in range(len(shifts)):
        share, part = shifts[k], ring_grad[k : k + slots]
        for i in range(slots):
            part[i] += share * grad[i]
        shifts_grad[k] = dot(grad, ring[k : k + slots])
    softmax_backward(shifts, shifts_grad)
    copy(ring_grad[reach : reach + slots], grad)
    for j in range(reach):
        grad[slots - reach + j] += ring_grad[j]
        grad[j] += ring_grad[reach + slots + j]


@summing
def interpolate_backward(gate, content, before, grad, before_grad):
    """From the gradient of w^g to those of w^c, in place, and of the weights before, set. Returns that of g."""
    gate_grad, rest = zero(grad), one(grad) - gate
    for i in range(len(grad)):
        gate_grad += grad[i] * (content[i] - before[i])
        before_grad[i] = rest * grad[i]
        grad[i] *= gate
    return gate_grad


@jit
def address_backward(
    p, back, memory, before, softening, least, inverse, scores, content, weights, weights_grad, memory_grad, scratch
):
    """From weights_grad of w to that of the weights before, in place. memory_grad: added to; back: all but writes."""
    grad, ring = scratch.slots_grad, scratch.ring
    scratch.lengths_grad[:] = zero(grad)
    positive(p, scratch)
    for h in range(len(scores)):
        interpolate(p.gates[h], content[h], before[h], ring)
        move(ring, p.shifts[h], scratch.moved)
        copy(weights_grad[h], grad)
        power_grad = sharpen_backward(scratch.powers[0, h], scratch.moved, least, weights[h], grad, scratch.pairs[h])
        back.powers[h] = power_grad * scratch.powers[1, h]
        move_backward(ring, p.shifts[h], grad, scratch.ring_grad, back.shifts[h])
        gate = p.gates[h]
        gate_grad = interpolate_backward(gate, content[h], before[h], grad, weights_grad[h])
        back.gates[h] = gate_grad * gate * (one(grad) - gate)
        softmax_backward(content[h], grad)
        pair, score = scratch.pairs[h], scores[h]
        for i in range(len(grad)):
            scratch.lengths_grad[i] += grad[i] * score[i]
            pair[i] = grad[i] * inverse[i]
    correlate(scratch.pairs, memory, scratch.queries_grad)
    for h in range(len(scores)):
        key, query_grad = p.keys[h], scratch.queries_grad[h]
        strength, size = scratch.strengths[0, h], inverse_length(dot(key, key), softening)
        along = dot(query_grad, key)
        back.strengths[h] = along * size * scratch.strengths[1, h]
        scale = strength * size
        turn = scale * size * size * along
        for w in range(len(key)):
            back.keys[h, w] = scale * query_grad[w] - turn * key[w]
            scratch.left[w, h] = scale * key[w]
    multiply(scratch.left, scratch.pairs, memory_grad)
    for i in range(len(inverse)):
        scratch.lengths_grad[i] *= inverse[i] * inverse[i]
    for w in range(len(memory)):
        row, out = memory[w], memory_grad[w]
        for i in range(len(row)):
            out[i] -= row[i] * scratch.lengths_grad[i]


@jit
def column(x, h, w):
    """What four heads, from h on, have for one number of a slot."""
    return x[h, w], x[h + 1, w], x[h + 2, w], x[h + 3, w]


@jit
def keep(x, w, weights, erase, first, last):
    """x, [slots], times what heads first to last leave of it, in place; by fours while there are as many."""
    h, unit = first, one(x)
    while h + 4 <= last:
        (e0, e1, e2, e3), (w0, w1, w2, w3) = column(erase, h, w), four(weights, h)
        for i in range(len(x)):
            x[i] *= ((unit - e0 * w0[i]) * (unit - e1 * w1[i])) * ((unit - e2 * w2[i]) * (unit - e3 * w3[i]))
        h += 4
    while h < last:
        share, part = erase[h, w], weights[h]
        for i in range(len(x)):
            x[i] *= unit - share * part[i]
        h += 1


@jit
def write(memory, weights, erase, add, after):
    """after: the memory after all heads have erased, then added (eq. 3, 4). weights: [writes, slots]."""
    writes = len(weights)
    for w in range(len(memory)):
        out, h = after[w], 0
        copy(memory[w], out)
        keep(out, w, weights, erase, 0, writes)
        while h + 4 <= writes:
            (a0, a1, a2, a3), (w0, w1, w2, w3) = column(add, h, w), four(weights, h)
            for i in range(len(out)):
                out[i] += (a0 * w0[i] + a1 * w1[i]) + (a2 * w2[i] + a3 * w3[i])
            h += 4
        while h < writes:
            value, part = add[h, w], weights[h]
            for i in range(len(out)):
                out[i] += value * part[i]
            h += 1


@summing
def erase_four(row, rest, before, shares, weights, weights_grad):
    """Adds to the gradients of four heads' weights; returns those of their erase vectors, of one number of a slot."""
    (e0, e1, e2, e3), (w0, w1, w2, w3), (g0, g1, g2, g3) = shares, weights, weights_grad
    unit, s0, s1, s2, s3 = one(row), zero(row), zero(row), zero(row), zero(row)
    for i in range(len(row)):
        f0, f1, f2, f3 = unit - e0 * w0[i], unit - e1 * w1[i], unit - e2 * w2[i], unit - e3 * w3[i]
        slope = row[i] * rest[i] * before[i]
        left, right = slope * (f2 * f3), slope * (f0 * f1)
        d0, d1, d2, d3 = left * f1, left * f0, right * f3, right * f2
        g0[i] -= e0 * d0
        g1[i] -= e1 * d1
        g2[i] -= e2 * d2
        g3[i] -= e3 * d3
        s0 -= w0[i] * d0
        s1 -= w1[i] * d1
        s2 -= w2[i] * d2
        s3 -= w3[i] * d3
    return s0, s1, s2, s3


@summing
def erase_one(row, rest, before, share, weights, weights_grad):
    """The same of one head."""
    found = zero(row)
    for i in range(len(row)):
        slope = row[i] * rest[i] * before[i]
        weights_grad[i] -= share * slope
        found -= weights[i] * slope
    return found


@jit
def write_backward(memory, weights, erase, add, memory_grad, weights_grad, erase_grad, add_grad, before):
    """From the gradient of the memory after the write to that of the memory before it, in place.

    weights_grad, [writes, slots]: added to. erase_grad (before σ), add_grad: set. No factor is divided by, for it may
    be zero: each head's product of the others is that of those before it, and of those behind it, which is in
    memory_grad when its turn comes. Heads go by four, then one by one; before: scratch, [writes, slots].
    """
    writes, fours = len(weights), len(weights) // 4 * 4
    correlate(weights, memory_grad, add_grad)
    multiply(add, memory_grad, weights_grad)
    before[0] = one(before)
    for w in range(len(memory)):
        row, rest, h = memory[w], memory_grad[w], 4 if fours else 1
        while h < writes:
            step = 4 if h <= fours else 1
            copy(before[h - step], before[h])
            keep(before[h], w, weights, erase, h - step, h)
            h += 4 if h < fours else 1
        h = writes
        while h > 0:
            step = 4 if h <= fours else 1
            h -= step
            if step == 4:
                found = erase_four(row, rest, before[h], column(erase, h, w), four(weights, h), four(weights_grad, h))
                for q in range(4):
                    erase_grad[h + q, w] = found[q]
            else:
                erase_grad[h, w] = erase_one(row, rest, before[h], erase[h, w], weights[h], weights_grad[h])
            keep(rest, w, weights, erase, h, h + step)
    for h in range(writes):
        share, grad = erase[h], erase_grad[h]
        for w in range(len(share)):
            grad[w] *= share[w] * (one(share) - share[w])
