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
    dot,
    jit,
    logarithm,
    one,
    sigmoid_,
    softmax,
    softmax_backward,
    softplus_,
    summing,
    zero,
)
from mann.kernels.numba_products import correlate, multiply, squares

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
        softmax(p.shifts[h], p.shifts[h])


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
        softmax(found, found)
        interpolate(p.gates[h], found, before[h], scratch.ring)
        move(scratch.ring, p.shifts[h], scratch.moved)
        logarithms(scratch.moved, least, weight)
        for i in range(len(weight)):
            weight[i] *= scratch.powers[0, h]
        softmax(weight, weight)


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
