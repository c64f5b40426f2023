"""Reading a whole memory by weights in one pass, at the speed at which it comes out of the main memory.

A product of a few heads with millions of slots is too thin for a BLAS, which reaches a third of that speed.
"""

from __future__ import annotations

from mann.kernels.numba_math import kernel

SLOTS = 4
"""Slots taken together: so many products for each time that a sum is fetched and put back. Written out below."""


@kernel
def weighted_read(weights, memory, out):
    """Add Σ_i w(i) M(i) to out, [batch, heads, width]. weights: [batch, heads, slots]; memory: [batch, slots, ·]."""
    batch, heads, slots = weights.shape
    whole = slots - slots % SLOTS
    for b in range(batch):
        for i in range(0, whole, SLOTS):
            m0, m1, m2, m3 = memory[b, i], memory[b, i + 1], memory[b, i + 2], memory[b, i + 3]
            for h in range(heads):
                w0, w1, w2, w3 = weights[b, h, i], weights[b, h, i + 1], weights[b, h, i + 2], weights[b, h, i + 3]
                sums = out[b, h]
                for j in range(sums.shape[0]):
                    sums[j] += w0 * m0[j] + w1 * m1[j] + w2 * m2[j] + w3 * m3[j]
        for i in range(whole, slots):
            for h in range(heads):
                for j in range(out.shape[2]):
                    out[b, h, j] += weights[b, h, i] * memory[b, i, j]
