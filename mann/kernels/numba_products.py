"""Small matrix products that compiled scans share, for numba; see `numba_math`."""

from __future__ import annotations

import numpy as np

from mann.kernels.numba_math import jit, summing, zero

FIRST = np.int64(0)
"""A plain 0 would have a type of its own, and what is called with it be compiled once more."""


@jit
def four(x, k):
    """Four rows, or numbers, of x, from k on."""
    return x[k], x[k + 1], x[k + 2], x[k + 3]


@jit
def _eight(x, k):
    return x[k], x[k + 1], x[k + 2], x[k + 3], x[k + 4], x[k + 5], x[k + 6], x[k + 7]


@jit
def _column(rows, j):
    return rows[0][j], rows[1][j], rows[2][j], rows[3][j], rows[4][j], rows[5][j], rows[6][j], rows[7][j]


@jit
def _dot(a, b):
    total = a[0] * b[0]
    for q in range(1, len(a)):
        total += a[q] * b[q]
    return total


@jit
def product(x, s, w, out, t):
    """out[:, t] += x[:, s] @ w. x: [rows, ·, inner]; w: [inner, n]; out: [rows, ·, n].

    Four rows and eight terms at a time, so that sums stay in registers and w is read once.
    """
    rows, inner, n = len(out), len(w), w.shape[1]
    k = 0
    while k + 8 <= inner:
        part = _eight(w, k)
        r = 0
        while r + 4 <= rows:
            a0, a1, a2, a3 = _eight(x[r, s], k), _eight(x[r + 1, s], k), _eight(x[r + 2, s], k), _eight(x[r + 3, s], k)
            o0, o1, o2, o3 = out[r, t], out[r + 1, t], out[r + 2, t], out[r + 3, t]
            for j in range(n):
                column = _column(part, j)
                o0[j] += _dot(a0, column)
                o1[j] += _dot(a1, column)
                o2[j] += _dot(a2, column)
                o3[j] += _dot(a3, column)
            r += 4
        while r < rows:
            a, o = _eight(x[r, s], k), out[r, t]
            for j in range(n):
                o[j] += _dot(a, _column(part, j))
            r += 1
        k += 8
    while k < inner:
        row = w[k]
        for r in range(rows):
            factor, o = x[r, s, k], out[r, t]
            for j in range(n):
                o[j] += factor * row[j]
        k += 1


@summing
def correlate(x, w, out):
    """out = x @ wᵀ. x: [rows, inner]; w: [n, inner]; out: [rows, n]."""
    rows, inner = x.shape
    r = 0
    while r + 4 <= rows:
        x0, x1, x2, x3 = four(x, r)
        for j in range(len(w)):
            row = w[j]
            s0 = s1 = s2 = s3 = zero(x)
            for i in range(inner):
                s0 += x0[i] * row[i]
                s1 += x1[i] * row[i]
                s2 += x2[i] * row[i]
                s3 += x3[i] * row[i]
            out[r, j], out[r + 1, j], out[r + 2, j], out[r + 3, j] = s0, s1, s2, s3
        r += 4
    while r < rows:
        x0 = x[r]
        for j in range(len(w)):
            row = w[j]
            s0 = zero(x)
            for i in range(inner):
                s0 += x0[i] * row[i]
            out[r, j] = s0
        r += 1


@jit
def multiply(x, w, out):
    """out += x @ w. x: [rows, inner]; w: [inner, n]; out: [rows, n]."""
    product(x.reshape(len(x), 1, x.shape[1]), FIRST, w, out.reshape(len(out), 1, out.shape[1]), FIRST)


@jit
def squares(x, out):
    """Sums of squares of columns. x: [n, m]; out: [m]."""
    out[:] = zero(x)
    w, n = 0, len(x)
    while w + 4 <= n:
        a, b, c, d = four(x, w)
        for i in range(len(out)):
            out[i] += a[i] * a[i] + b[i] * b[i] + c[i] * c[i] + d[i] * d[i]
        w += 4
    while w < n:
        a = x[w]
        for i in range(len(out)):
            out[i] += a[i] * a[i]
        w += 1
