"""The links of `mann.dnc.DNC` for one row and step, and their gradient, for numba: one sweep over L each.

`BLOCK` rows of L at a time are brought to the first cache, and everything that needs them is done there.
"""

from __future__ import annotations

import numpy as np

from mann.kernels.numba_math import correlate, jit, one, plane, product, summing, zero

BLOCK = 8
"""As many terms as `product` takes at a time."""


@jit
def link(links, first, written, precedence, out):
    """Rows first, first + 1, … of L_t. links: L_{t-1}; out: [rows, slots], elsewhere."""
    for k in range(len(out)):
        weight, before, after = written[first + k], links[first + k], out[k]
        keep = one(links) - weight
        for j in range(len(after)):
            after[j] = (keep - written[j]) * before[j] + weight * precedence[j]
        after[first + k] = zero(links)


@jit
def follow(links, written, precedence, read, along, block):
    """L_t in place of L_{t-1}; along, [2, reads, slots]: b_t and f_t, set. read: w^r_{t-1}; block: see `_block`."""
    slots = len(links)
    backward, forward = along[0], along[1]
    backward[:] = zero(links)
    for first in range(0, slots, BLOCK):
        last = min(first + BLOCK, slots)
        rows = block[: last - first]
        link(links, first, written, precedence, rows)
        links[first:last] = rows
        product(_columns(read, first, last), 0, rows, plane(backward), 0)
        correlate(read, rows, forward[:, first:last])


@jit
def follow_backward(
    links, written, precedence, read, along_grad, links_grad, written_grad, precedence_grad, read_grad, room
):
    """From links_grad, of L_t, to that of L_{t-1}, in place. links: L_{t-1}; along_grad: of b_t and f_t.

    The gradients of w^w_t, p_{t-1} and w^r_{t-1} are added to theirs. room: see `links_room`.
    """
    slots, reads = len(links), len(read)
    block, whole, left, pairs, found = room
    backward_grad, forward_grad = along_grad[0], along_grad[1]
    pairs[:reads], pairs[reads:] = backward_grad, read
    left[:, 0, :reads], left[:, 0, reads:] = read.T, forward_grad.T
    for first in range(0, slots, BLOCK):
        last = min(first + BLOCK, slots)
        rows, grad = block[: last - first], whole[: last - first]
        link(links, first, written, precedence, rows)
        correlate(backward_grad, rows, found[:, first:last])
        product(_columns(forward_grad, first, last), 0, rows, plane(read_grad), 0)
        grad[:] = links_grad[first:last]
        product(left[first:last], 0, pairs, plane(grad), 0)
        for k in range(last - first):
            grad[k, first + k] = zero(links)
        product(written[first:last].reshape(1, 1, last - first), 0, grad, precedence_grad.reshape(1, 1, slots), 0)
        for k in range(last - first):
            i = first + k
            own = _unlink(grad[k], links[i], written, written[i], precedence, links_grad[i], written_grad)
            written_grad[i] += own
    for h in range(reads):
        for i in range(slots):
            read_grad[h, i] += found[h, i]


@summing
def _unlink(grad, before, written, weight, precedence, before_grad, written_grad):
    """One row i of L: before_grad is set, written_grad of w^w(j) added to; returns that of w^w(i)."""
    own, keep = zero(grad), one(grad) - weight
    for j in range(len(grad)):
        part = grad[j] * before[j]
        own += grad[j] * precedence[j] - part
        written_grad[j] -= part
        before_grad[j] = grad[j] * (keep - written[j])
    return own


@jit
def _columns(weights, first, last):
    """Some columns of [n, slots], as `product` takes them."""
    return weights.reshape(len(weights), 1, weights.shape[1])[:, :, first:last]


@jit
def links_room(like, reads, slots):
    """Scratch: a block of L_t, one of its gradient, what its outer products are made of, and a gradient of w^r."""
    kind = like.dtype
    return (
        np.empty((BLOCK, slots), kind),
        np.empty((BLOCK, slots), kind),
        np.empty((slots, 1, 2 * reads), kind),
        np.empty((2 * reads, slots), kind),
        np.empty((reads, slots), kind),
    )
