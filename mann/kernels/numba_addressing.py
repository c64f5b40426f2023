"""Finding by content as in `mann.addressing`, for one row and step, and its gradient, for numba.

A memory lies here with slots last, [width, slots]. Names of gradients end in `_grad`.
"""

from __future__ import annotations

import math

from mann.addressing import SOFTENING
from mann.kernels.numba_math import clear, dot, jit, softmax, softmax_backward
from mann.kernels.numba_products import correlate, multiply


@jit
def inverse_length(square):
    """1 / |v| from |v|²."""
    number = type(square)
    return number(1) / number(math.sqrt(square + number(SOFTENING)))


@jit
def query(key, strength, out):
    """A key of unit length, times the strength β. key, out: [width]."""
    scale = strength * inverse_length(dot(key, key))
    for w in range(len(key)):
        out[w] = scale * key[w]


@jit
def query_backward(key, strength, query_grad, key_grad):
    """Sets key_grad; returns the gradient of β."""
    unit = inverse_length(dot(key, key))
    along = unit * dot(query_grad, key)
    for w in range(len(key)):
        key_grad[w] = strength * unit * (query_grad[w] - key[w] * unit * along)
    return along


@jit
def inverse_lengths(memory, squares, out):
    """1 / |m M(i)| for each row m² of squares, [masks, width]. out: [masks, slots]."""
    width = len(memory)
    for h in range(len(squares)):
        factor, row = squares[h], out[h]
        clear(row)
        w = 0
        while w + 4 <= width:
            a, b, c, d = memory[w], memory[w + 1], memory[w + 2], memory[w + 3]
            fa, fb, fc, fd = factor[w], factor[w + 1], factor[w + 2], factor[w + 3]
            for i in range(len(row)):
                row[i] += fa * a[i] * a[i] + fb * b[i] * b[i] + fc * c[i] * c[i] + fd * d[i] * d[i]
            w += 4
        while w < width:
            a, fa = memory[w], factor[w]
            for i in range(len(row)):
                row[i] += fa * a[i] * a[i]
            w += 1
        for i in range(len(row)):
            row[i] = inverse_length(row[i])


@jit
def content(queries, memory, lengths, scores, weights):
    """softmax_i q M(i) / |m M(i)|. queries: [heads, width]; lengths: see `inverse_lengths`, of one mask or one a head.

    scores, weights: set, [heads, slots].
    """
    clear(scores)
    multiply(queries, memory, scores)
    for h in range(len(queries)):
        row, length = scores[h], lengths[h % len(lengths)]
        for i in range(len(row)):
            row[i] *= length[i]
        softmax(row, weights[h])


@jit
def content_backward(weights_grad, memory, lengths, scores, weights, queries_grad, shrink):
    """From the gradient of the weights to queries_grad, set.

    weights_grad, [heads, slots]: changed to that of q M(i), so that the memory's gradient is Σ_h weights_grad_h(i) q_h
    less m² M(i) times shrink(i), [masks, slots], which is set as well.
    """
    clear(shrink)
    for h in range(len(weights)):
        grad, score, length, less = weights_grad[h], scores[h], lengths[h % len(lengths)], shrink[h % len(lengths)]
        softmax_backward(weights[h], grad)
        for i in range(len(grad)):
            scaled = grad[i] * length[i]
            less[i] += scaled * score[i] * length[i]
            grad[i] = scaled
    correlate(weights_grad, memory, queries_grad)


@jit
def shrink_memory(memory_grad, memory, squares, shrink):
    """memory_grad less Σ_h m_h² M(i) shrink_h(i)."""
    for w in range(len(memory)):
        row, grad = memory[w], memory_grad[w]
        for h in range(len(squares)):
            factor, less = squares[h, w], shrink[h]
            for i in range(len(row)):
                grad[i] -= factor * row[i] * less[i]
