"""Writing to and reading from `mann.lrua.LRUA` for one row and step, and their gradients, for numba.

A memory lies here with slots last, [width, slots], so that loops run over slots while what belongs to a few heads stays
in registers. Names of gradients end in `_grad`; everything else is called as in `mann.lrua`.
"""

from __future__ import annotations

import math

from mann.kernels.numba_math import copy, dot, exponential, jit, length, one, total, zero
from mann.kernels.numba_products import correlate, multiply, squares


@jit
def _before(a, b):
    """Order of usage: a NaN is the largest."""
    return a < b or (math.isnan(b) and not math.isnan(a))


@jit
def find_least(usage, least):
    """The len(least) slots with the least usage, in order; the lowest indices first where usages tie."""
    count, last = 0, len(least) - 1
    for i in range(len(usage)):
        if count > last and not _before(usage[i], usage[least[last]]):
            continue
        place = min(count, last)
        while place > 0 and _before(usage[i], usage[least[place - 1]]):
            least[place] = least[place - 1]
            place -= 1
        least[place] = i
        count = min(count + 1, last + 1)


@jit
def write_weights(weights, least, opened, shared, written):
    """w^w (eq. 22): written, [heads, slots]. weights: those of the read before; opened: σ(α), [heads]."""
    for h in range(len(weights)):
        gate, before, row = opened[h], weights[h], written[h]
        for i in range(len(row)):
            row[i] = gate * before[i]
        if shared:
            for i in least:
                row[i] += one(weights) - gate
        else:
            row[least[h]] += one(weights) - gate


@jit
def write(memory, least, erased, values, written, after, keep):
    """after: the memory after the write (eq. 23). values: [heads, width]; keep: scratch, [slots]."""
    heads, slots = written.shape
    keep[:] = one(keep)
    for i in least[:erased]:
        keep[i] = zero(keep)
    for w in range(len(memory)):
        row, out = memory[w], after[w]
        if heads >= 4:  # in one pass
            v0, v1, v2, v3 = values[0, w], values[1, w], values[2, w], values[3, w]
            w0, w1, w2, w3 = written[0], written[1], written[2], written[3]
            for i in range(slots):
                out[i] = row[i] * keep[i] + (v0 * w0[i] + v1 * w1[i] + v2 * w2[i] + v3 * w3[i])
        else:
            for i in range(slots):
                out[i] = row[i] * keep[i]
        for h in range(4 if heads >= 4 else 0, heads):
            value, part = values[h, w], written[h]
            for i in range(slots):
                out[i] += value * part[i]


@jit
def write_backward(memory_grad, least, erased, shared, opened, values, written, weights, weights_grad, values_grad,
                   opened_grad):  # fmt: skip
    """From the gradient of the memory after the write to that of the memory before it, in place.

    The others are set: weights_grad of the weights read before, [heads, slots]; values_grad; opened_grad, [heads].
    """
    weights_grad[:] = zero(weights)
    multiply(values, memory_grad, weights_grad)  # so far of w^w
    correlate(written, memory_grad, values_grad)
    for h in range(len(weights)):
        gate, row = opened[h], weights_grad[h]
        opened_grad[h] = dot(row, weights[h])
        if shared:
            for i in least:
                opened_grad[h] -= row[i]
        else:
            opened_grad[h] -= row[least[h]]
        for i in range(len(row)):
            row[i] *= gate
    for i in least[:erased]:
        for w in range(len(memory_grad)):
            memory_grad[w, i] *= zero(memory_grad)


@jit
def read(keys, memory, epsilon, lengths, cosines, weights, found):
    """lengths, cosines, weights w^r and what is found, [heads, width], all set (eq. 17-19).

    No largest cosine is taken off before the exponential: none is above 1.
    """
    squares(memory, lengths)
    for i in range(len(lengths)):
        lengths[i] = math.sqrt(lengths[i])
    cosines[:] = zero(keys)
    multiply(keys, memory, cosines)
    for h in range(len(keys)):
        size, row, out = length(keys[h]), cosines[h], weights[h]
        for i in range(len(row)):
            row[i] = row[i] / (size * lengths[i] + epsilon)
            out[i] = exponential(row[i])
        scale = one(keys) / total(out)
        for i in range(len(row)):
            out[i] *= scale
    correlate(weights, memory, found)


@jit
def read_backward(found_grad, weights_grad, keys, memory, epsilon, lengths, cosines, weights, keys_grad, memory_grad,
                  scratch):  # fmt: skip
    """Adds to memory_grad and keys_grad what comes from found_grad, [heads, width], and weights_grad (overwritten)."""
    heads, slots = weights.shape
    pairs, left, lengths_grad, rows = scratch.pairs, scratch.left, scratch.lengths, scratch.keys
    multiply(found_grad, memory, weights_grad)
    lengths_grad[:] = zero(keys)
    for h in range(heads):
        size, cosine, weight, grad, inner = length(keys[h]), cosines[h], weights[h], weights_grad[h], pairs[heads + h]
        mean = dot(weight, grad)
        for i in range(slots):
            inner[i] = weight[i] * (grad[i] - mean) / (size * lengths[i] + epsilon)
            grad[i] = -inner[i] * cosine[i]  # from here on of the product of lengths
            lengths_grad[i] += grad[i] * size
        size_grad = dot(grad, lengths)
        if size > zero(keys):
            for w in range(len(rows[h])):
                keys_grad[h, w] += keys[h, w] * (size_grad / size)
        copy(weight, pairs[h])
        for w in range(len(rows[h])):
            left[w, h] = found_grad[h, w]
            left[w, heads + h] = keys[h, w]
    correlate(pairs[heads:], memory, rows)
    for h in range(heads):
        for w in range(len(rows[h])):
            keys_grad[h, w] += rows[h, w]
    multiply(left, pairs, memory_grad)
    for i in range(slots):
        lengths_grad[i] = lengths_grad[i] / lengths[i] if lengths[i] > zero(keys) else zero(keys)
    for w in range(len(memory)):
        row, grad = memory[w], memory_grad[w]
        for i in range(slots):
            grad[i] += row[i] * lengths_grad[i]
