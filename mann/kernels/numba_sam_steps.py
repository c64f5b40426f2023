"""Parts of a step of `mann.sam.SAM` for one row, and their gradients, for numba; `mann.sdnc.SDNC` has them, too.

A memory lies here as in the state, [slots, width]: few slots are written and read, each whole. Names of gradients end
in `_grad`; everything else is called as in `mann.sam`. Sums over slots that come twice are taken in the order of the
reference, so that slots that nothing tells apart there are the same to the bit here.
"""

from __future__ import annotations

import math

from mann.kernels.numba_math import dot, exponential, jit, one, softmax, softmax_backward, zero
from mann.kernels.numba_products import correlate
from mann.kernels.numba_topk import topk

EPSILON = 1e-6
"""As in `mann.index.cosine`."""


@jit
def strength_of(raw, h):
    """β of a head, 1 + softplus, linear above 20 as in torch. raw: [heads]."""
    x = raw[h]
    return one(raw) + (x if x > 20 else raw.dtype.type(math.log1p(exponential(x))))


@jit
def slope_of(raw, h):
    """dβ/draw."""
    x = raw[h]
    return one(raw) if x > 20 else one(raw) / (one(raw) + exponential(-x))


@jit
def shares_of(raw, shares, room):
    """γ of each head and what they leave: shares, [heads + 1]. room: scratch of that size."""
    heads = len(raw)
    room[:heads] = raw
    room[heads] = math.log(heads)
    softmax(room, shares)


@jit
def inverse_length(row):
    """1 / √(|m|² + ε)."""
    return one(row) / row.dtype.type(math.sqrt(dot(row, row) + row.dtype.type(EPSILON)))


@jit
def least_used(usage):
    """As `usage.argmin()`: the first of the least, a NaN being the least."""
    least = 0
    for i in range(len(usage)):
        if math.isnan(usage[i]):
            return i
        if usage[i] < usage[least]:
            least = i
    return least


# -------------------------------------------------------------------------------------------------------------- writing


@jit
def write_weights(slots, weights, least, gate, shares, places, amounts):
    """places, amounts: w^W (eq. 5) at the slots read last, then at the least recent one; [heads · k + 1].

    slots, weights: what was read last, [heads, k].
    """
    heads, k = slots.shape
    for h in range(heads):
        for j in range(k):
            places[h * k + j] = slots[h, j]
            amounts[h * k + j] = gate * (shares[h] * weights[h, j])
    places[heads * k] = least
    amounts[heads * k] = gate * shares[heads]


@jit
def totals(places, amounts, sums):
    """sums, [slots]: what comes to each place that is named; the rest stays what it was."""
    for i in places:
        sums[i] = zero(sums)
    for j in range(len(places)):
        sums[places[j]] += amounts[j]


@jit
def write(memory, inverse, places, sums, value, done):
    """Erase the last of the places and add the value to all (eq. 3), in place; inverse: of lengths, [slots], likewise.

    sums: of `totals`. done: scratch, [slots], bool.
    """
    erased = memory[places[len(places) - 1]]
    for w in range(len(value)):
        erased[w] *= zero(value)
    for i in places:
        done[i] = False
    for i in places:
        if not done[i]:
            row, amount = memory[i], sums[i]
            for w in range(len(value)):
                row[w] += amount * value[w]
            inverse[i] = inverse_length(row)
            done[i] = True


@jit
def write_backward(memory_grad, slots, weights, least, gate, shares, value, shares_grad, weights_grad, value_grad):
    """From the gradient of the memory after the write to that of the memory before it, in place; returns that of α.

    The others are set: shares_grad (of γ before softmax, and what they leave: [heads + 1]), weights_grad of what was
    read last, value_grad.
    """
    heads, k = slots.shape
    value_grad[:] = zero(value)
    gate_grad = zero(value)
    for h in range(heads):
        shares_grad[h] = zero(value)
        for j in range(k):
            row, again = memory_grad[slots[h, j]], shares[h] * weights[h, j]
            amount, by_weight = gate * again, dot(row, value)
            for w in range(len(value)):
                value_grad[w] += amount * row[w]
            gate_grad += by_weight * again
            shares_grad[h] += gate * by_weight * weights[h, j]
            weights_grad[h, j] = gate * by_weight * shares[h]
    row, amount = memory_grad[least], gate * shares[heads]
    by_weight = dot(row, value)
    for w in range(len(value)):
        value_grad[w] += amount * row[w]
        row[w] = zero(value)
    gate_grad += by_weight * shares[heads]
    shares_grad[heads] = gate * by_weight
    softmax_backward(shares, shares_grad)
    return gate_grad


# -------------------------------------------------------------------------------------------------------------- reading


@jit
def nearest(queries, memory, inverse, part, slots, room, cosines):
    """slots, [heads, k]: those nearest to each query, the nearest first; `part` of them at a time, as in `mann.index`.

    queries: [heads, width]; inverse: of the lengths of slots. room: scratch for places, [slots + all that parts find];
    cosines: scratch, [heads, as much]. Cosines are taken here but for the query's length.
    """
    heads, k = slots.shape
    size = len(memory)
    correlate(queries, memory, cosines[:, :size])
    for h in range(heads):
        near, order = cosines[h], room
        for i in range(size):
            near[i] *= inverse[i]
        if size <= part:
            topk(near[:size], order, k)
            slots[h] = order[:k]
            continue
        found, order = room[size:], room[:size]
        count, start = 0, 0
        while start < size:
            end = min(start + part, size)
            topk(near[start:end], order, min(k, end - start))
            for j in range(min(k, end - start)):
                found[count] = start + order[j]
                near[size + count] = near[found[count]]
                count += 1
            start = end
        topk(near[size : size + count], order, k)
        for j in range(k):
            slots[h, j] = found[order[j]]


@jit
def content(query, strength, rows, cosines, weights):
    """Softmax of β cos(q, row) over rows, [k, width]: cosines and weights, [k], are set."""
    size = inverse_length(query)
    for j in range(len(rows)):
        cosines[j] = dot(query, rows[j]) * (size * inverse_length(rows[j]))
        weights[j] = strength * cosines[j]
    softmax(weights, weights)


@jit
def content_backward(query, strength, rows, cosines, weights, weights_grad, query_grad, rows_grad):
    """Adds to query_grad and rows_grad what comes from weights_grad (overwritten); returns the gradient of β."""
    softmax_backward(weights, weights_grad)
    size, along, found = inverse_length(query), zero(query), zero(query)
    for j in range(len(rows)):
        row, back, other = rows[j], rows_grad[j], inverse_length(rows[j])
        found += weights_grad[j] * cosines[j]
        near = weights_grad[j] * strength
        along += near * cosines[j]
        cross, itself = near * size * other, near * cosines[j] * other * other
        for w in range(len(query)):
            query_grad[w] += cross * row[w]
            back[w] += cross * query[w] - itself * row[w]
    along *= size * size
    for w in range(len(query)):
        query_grad[w] -= along * query[w]
    return found


# ---------------------------------------------------------------------------------------------------------------- usage


@jit
def discount(usage, decay, places, amounts):
    """U1 of the next step, in place."""
    for i in range(len(usage)):
        usage[i] *= decay
    for j in range(len(places)):
        usage[places[j]] += amounts[j]


@jit
def _connect(ring, left, right):
    size = len(ring) // 2
    ring[left] = right - (left + 1) % (size - 1)
    ring[size + right] = left - (right - 1) % (size - 1)


@jit
def touch(ring, threshold, places, amounts, sums, done):
    """Move what was accessed behind all others, in the order of access: U2 as in `mann.index.touch`, in place.

    sums: of `totals`; done: scratch, [slots], bool.
    """
    size = len(ring) // 2
    start = size - 2
    for i in places:
        done[i] = False
    for j in range(len(places)):
        i = places[j]
        if sums[i] > threshold and amounts[j] > zero(amounts) and not done[i]:
            done[i] = True
            _connect(ring, ring[size + i] + (i - 1) % (size - 1), ring[i] + (i + 1) % (size - 1))
            last = ring[size + start] + start - 1
            _connect(ring, last, i)
            _connect(ring, i, start)
