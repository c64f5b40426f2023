"""Writing to `mann.ntm.NTM` for one row and step, and its gradient, for numba; see `numba_ntm_steps`."""

from __future__ import annotations

from mann.kernels.numba_math import copy, jit, one, summing, zero
from mann.kernels.numba_products import correlate, four, multiply


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
