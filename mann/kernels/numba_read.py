"""Reading a whole memory by weights in one pass, at the speed at which it comes out of the main memory.

A product of a few heads with millions of slots is too thin for a BLAS, which reaches a third of that speed.
"""

from __future__ import annotations

from mann.kernels.numba_math import jit, kernel

TILE = 4
"""Heads and slots taken together: sixteen products for four numbers of the memory and four sums. Written out below."""
BLOCK = 1024
"""Slots that stay in the second cache until all heads have read them, where these are more than TILE."""


@kernel
def weighted_read(weights, memory, out):
    """Add Σ_i w(i) M(i) to out, [batch, heads, width]. weights: [batch, heads, slots]; memory: [batch, slots, ·]."""
    batch, heads, slots = weights.shape
    tiled = heads - heads % TILE
    size = BLOCK if heads > TILE else max(slots, 1)
    for b in range(batch):
        for first in range(0, slots, size):
            block = slice(first, min(first + size, slots))
            for h in range(0, tiled, TILE):
                _four_heads(weights[b, h, block], weights[b, h + 1, block], weights[b, h + 2, block],
                            weights[b, h + 3, block], memory[b, block], out[b, h : h + TILE])  # fmt: skip
            _few_heads(weights[b, tiled:], first, memory[b, block], out[b, tiled:])


@jit
def _four_heads(a, b, c, d, memory, out):
    """a, b, c, d: the heads' weights."""
    r0, r1, r2, r3 = out[0], out[1], out[2], out[3]
    whole = len(memory) - len(memory) % TILE
    for i in range(0, whole, TILE):
        m0, m1, m2, m3 = memory[i], memory[i + 1], memory[i + 2], memory[i + 3]
        a0, a1, a2, a3 = a[i], a[i + 1], a[i + 2], a[i + 3]
        b0, b1, b2, b3 = b[i], b[i + 1], b[i + 2], b[i + 3]
        c0, c1, c2, c3 = c[i], c[i + 1], c[i + 2], c[i + 3]
        d0, d1, d2, d3 = d[i], d[i + 1], d[i + 2], d[i + 3]
        for j in range(out.shape[1]):
            x0, x1, x2, x3 = m0[j], m1[j], m2[j], m3[j]
            r0[j] += a0 * x0 + a1 * x1 + a2 * x2 + a3 * x3
            r1[j] += b0 * x0 + b1 * x1 + b2 * x2 + b3 * x3
            r2[j] += c0 * x0 + c1 * x1 + c2 * x2 + c3 * x3
            r3[j] += d0 * x0 + d1 * x1 + d2 * x2 + d3 * x3
    for i in range(whole, len(memory)):
        row, a0, b0, c0, d0 = memory[i], a[i], b[i], c[i], d[i]
        for j in range(out.shape[1]):
            r0[j] += a0 * row[j]
            r1[j] += b0 * row[j]
            r2[j] += c0 * row[j]
            r3[j] += d0 * row[j]


@jit
def _few_heads(weights, first, memory, out):
    """weights: of all slots, of which the memory begins with the first."""
    whole = len(memory) - len(memory) % TILE
    for i in range(0, whole, TILE):
        m0, m1, m2, m3 = memory[i], memory[i + 1], memory[i + 2], memory[i + 3]
        for h in range(len(weights)):
            w = weights[h, first + i : first + i + TILE]
            w0, w1, w2, w3, sums = w[0], w[1], w[2], w[3], out[h]
            for j in range(len(sums)):
                sums[j] += w0 * m0[j] + w1 * m1[j] + w2 * m2[j] + w3 * m3[j]
    for i in range(whole, len(memory)):
        for h in range(len(weights)):
            for j in range(out.shape[1]):
                out[h, j] += weights[h, first + i] * memory[i, j]
