"""The links of `mann.dnc.DNC` for one row and step, and their gradient, for numba: one sweep over L each.

`BLOCK` rows of L at a time are brought to the first cache, and everything that needs them is done there.
"""

from __future__ import annotations

import numpy as np

from mann.kernels.numba_math import clear, copy, jit, one, summing, zero
from mann.kernels.numba_products import multiply

BLOCK = 8
"""Rows in a block: as many as `_through` takes at a time."""


@jit
def link(rows, first, written, precedence):
    """Rows first, first + 1, … of L_t in place of those of L_{t-1}. rows: [n, slots]."""
    for k in range(len(rows)):
        row, weight = rows[k], written[first + k]
        keep = one(rows) - weight
        for j in range(len(row)):
            row[j] = (keep - written[j]) * row[j] + weight * precedence[j]
        row[first + k] = zero(rows)


@jit
def follow(links, written, precedence, read, along):
    """L_t in place of L_{t-1}; along, [2, reads, slots]: b_t and f_t, set. read: w^r_{t-1}."""
    slots = len(links)
    clear(along[0])
    for first in range(0, slots, BLOCK):
        rows = links[first : min(first + BLOCK, slots)]
        link(rows, first, written, precedence)
        through(rows, first, read, along[0], read, along[1])


@jit
def follow_backward(
    links, written, precedence, read, along_grad, links_grad, written_grad, precedence_grad, read_grad, room
):
    """From links_grad, of L_t, to that of L_{t-1}, in place. links: L_{t-1}; along_grad: of b_t and f_t.

    The gradients of w^w_t, p_{t-1} and w^r_{t-1} are added to theirs. room: see `links_room`.
    """
    slots, reads = len(links), len(read)
    block, left, pairs, found = room
    backward_grad, forward_grad = along_grad[0], along_grad[1]
    copy(backward_grad, pairs[:reads])
    copy(read, pairs[reads:])
    for h in range(reads):
        for i in range(slots):
            left[i, h], left[i, reads + h] = read[h, i], forward_grad[h, i]
    for first in range(0, slots, BLOCK):
        last = min(first + BLOCK, slots)
        before, rows, grad = links[first:last], block[: last - first], links_grad[first:last]
        copy(before, rows)
        link(rows, first, written, precedence)
        through(rows, first, forward_grad, read_grad, backward_grad, found)
        multiply(left[first:last], pairs, grad)
        for k in range(last - first):
            grad[k, first + k] = zero(links)
        k = 0
        while k + 4 <= last - first:
            i = first + k
            own = _four_unlinked(grad[k:], before[k:], written, written[i:], precedence, written_grad, precedence_grad)
            for more in range(4):
                written_grad[i + more] += own[more]
            k += 4
        while k < last - first:
            i = first + k
            own = _unlinked(grad[k], before[k], written, written[i], precedence, written_grad, precedence_grad)
            written_grad[i] += own
            k += 1
    for h in range(reads):
        for i in range(slots):
            read_grad[h, i] += found[h, i]


@summing
def _unlinked(grad, before, written, weight, precedence, written_grad, precedence_grad):
    """One row i of L: grad becomes that of L_{t-1}, those of w^w(j) and p are added to; returns that of w^w(i)."""
    own, keep = zero(grad), one(grad) - weight
    for j in range(len(grad)):
        whole = grad[j]
        part = whole * before[j]
        own += whole * precedence[j] - part
        written_grad[j] -= part
        precedence_grad[j] += weight * whole
        grad[j] = whole * (keep - written[j])
    return own


@summing
def _four_unlinked(grad, before, written, weights, precedence, written_grad, precedence_grad):
    """The same of four rows. weights: their w^w(i)."""
    g0, g1, g2, g3 = grad[0], grad[1], grad[2], grad[3]
    b0, b1, b2, b3 = before[0], before[1], before[2], before[3]
    w0, w1, w2, w3 = weights[0], weights[1], weights[2], weights[3]
    s0 = s1 = s2 = s3 = zero(grad)
    unit = one(grad)
    for j in range(len(written)):
        a0, a1, a2, a3 = g0[j], g1[j], g2[j], g3[j]
        p0, p1, p2, p3 = a0 * b0[j], a1 * b1[j], a2 * b2[j], a3 * b3[j]
        keep, p = unit - written[j], precedence[j]
        s0 += a0 * p - p0
        s1 += a1 * p - p1
        s2 += a2 * p - p2
        s3 += a3 * p - p3
        written_grad[j] -= p0 + p1 + p2 + p3
        precedence_grad[j] += w0 * a0 + w1 * a1 + w2 * a2 + w3 * a3
        g0[j], g1[j], g2[j], g3[j] = a0 * (keep - w0), a1 * (keep - w1), a2 * (keep - w2), a3 * (keep - w3)
    return s0, s1, s2, s3


@jit
def through(rows, first, x, columns, y, out):
    """Some rows of a matrix from both sides: columns += x @ matrix, out = matrix @ y, as far as these rows go.

    rows: [n, slots], the first of them row `first` of the matrix; the others: [heads, slots].
    """
    for h in range(len(x)):
        if len(rows) == BLOCK:
            found = _eight_through(rows, x[h, first : first + BLOCK], columns[h], y[h])
            for k in range(BLOCK):
                out[h, first + k] = found[k]
        else:
            for k in range(len(rows)):
                out[h, first + k] = _through(rows[k], x[h, first + k], columns[h], y[h])


@summing
def _through(row, x, column, y):
    found = zero(row)
    for j in range(len(row)):
        found += row[j] * y[j]
        column[j] += x * row[j]
    return found


@summing
def _eight_through(rows, x, column, y):
    r0, r1, r2, r3, r4, r5, r6, r7 = rows[0], rows[1], rows[2], rows[3], rows[4], rows[5], rows[6], rows[7]
    x0, x1, x2, x3, x4, x5, x6, x7 = x[0], x[1], x[2], x[3], x[4], x[5], x[6], x[7]
    s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = zero(rows)
    for j in range(len(y)):
        v0, v1, v2, v3, v4, v5, v6, v7 = r0[j], r1[j], r2[j], r3[j], r4[j], r5[j], r6[j], r7[j]
        w = y[j]
        s0 += v0 * w
        s1 += v1 * w
        s2 += v2 * w
        s3 += v3 * w
        s4 += v4 * w
        s5 += v5 * w
        s6 += v6 * w
        s7 += v7 * w
        column[j] += v0 * x0 + v1 * x1 + v2 * x2 + v3 * x3 + v4 * x4 + v5 * x5 + v6 * x6 + v7 * x7
    return s0, s1, s2, s3, s4, s5, s6, s7


@jit
def links_room(like, reads, slots):
    """Scratch: a block of L_t, what the outer products of its gradient are made of, and a gradient of w^r."""
    kind = like.dtype
    return (
        np.empty((BLOCK, slots), kind),
        np.empty((slots, 2 * reads), kind),
        np.empty((2 * reads, slots), kind),
        np.empty((reads, slots), kind),
    )
