"""What a controller emits for `mann.dnc.DNC`, by use, and its gradient, for one row and step, for numba.

An interface and its gradient are cut alike: what belongs to a part goes back to the same part of the gradient.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from mann.kernels.numba_addressing import query, query_backward
from mann.kernels.numba_math import (
    dot,
    jit,
    one,
    sigmoid_,
    softmax,
    softmax_backward,
    softplus_,
    summing,
    total,
    zero,
)

Array = Any
THRESHOLD = 20
"""Above it softplus is the identity, as in `torch.nn.functional.softplus`."""


class Rules(NamedTuple):
    """The options of the memory, and whether the controller sees reads."""

    links: bool
    masked: bool
    wipe: bool
    sharp: bool
    """Forward and backward weights are sharpened; never without links."""
    norm: bool
    """The interface is normalised."""
    feed: bool


class Parts(NamedTuple):
    """Views of an interface, squashed; or of its gradient. The last head is the one that writes."""

    keys: Array
    """[reads + 1, width]"""
    value: Array
    """[width]"""
    strengths: Array
    """β - 1, [reads + 1]"""
    powers: Array
    """s - 1, [2 · reads], backward first; empty unless sharp"""
    erase: Array
    free: Array
    gates: Array
    """g^a, g^w"""
    masks: Array
    """[reads + 1, width]; no row unless masked"""
    modes: Array
    """π, [reads, 3]; no row without links"""


@jit
def parts(emitted, rules, reads, width):
    """See `Parts`. emitted: [interface]."""
    heads = reads + 1
    value = heads * width
    strengths = value + width
    powers = strengths + heads
    erase = powers + (2 * reads if rules.sharp else 0)
    free = erase + width
    gates = free + reads
    masks = gates + 2
    masked = heads if rules.masked else 0
    modes = masks + masked * width
    linked = reads if rules.links else 0
    return Parts(
        emitted[:value].reshape(heads, width),
        emitted[value:strengths],
        emitted[strengths:powers],
        emitted[powers:erase],
        emitted[erase:free],
        emitted[free:gates],
        emitted[gates:masks],
        emitted[masks:modes].reshape(masked, width),
        emitted[modes:].reshape(linked, 3),
    )


@jit
def normalise(emitted, gain, shift, epsilon, normed):
    """Layer norm in place. normed: what is multiplied with the gain, set. Returns 1 / the standard deviation."""
    size = len(emitted)
    mean = total(emitted) / emitted.dtype.type(size)
    for i in range(size):
        normed[i] = emitted[i] - mean
    scale = one(emitted) / emitted.dtype.type(math.sqrt(dot(normed, normed) / emitted.dtype.type(size) + epsilon))
    for i in range(size):
        normed[i] *= scale
        emitted[i] = normed[i] * gain[i] + shift[i]
    return scale


@jit
def normalise_backward(grad, gain, normed, scale, own_grad):
    """In place. own_grad, [2 · interface]: the gradients of the gain and of the bias, set."""
    size = len(grad)
    for i in range(size):
        own_grad[i] = grad[i] * normed[i]
        own_grad[size + i] = grad[i]
        grad[i] *= gain[i]
    along = dot(grad, normed) / grad.dtype.type(size)
    mean = total(grad) / grad.dtype.type(size)
    for i in range(size):
        grad[i] = scale * (grad[i] - mean - normed[i] * along)


@jit
def squash(emitted, rules, reads, width):
    """softplus, σ and softmax of what they are for, in place. Returns the parts."""
    made = parts(emitted, rules, reads, width)
    softplus_(made.strengths)
    softplus_(made.powers)
    sigmoid_(made.erase)
    sigmoid_(made.free)
    sigmoid_(made.gates)
    for h in range(len(made.masks)):
        sigmoid_(made.masks[h])
    for h in range(len(made.modes)):
        softmax(made.modes[h], made.modes[h])
    return made


@jit
def squash_backward(made, grad):
    """From the gradient of each part to that of what was emitted, in place."""
    _softplus_backward_(made.strengths, grad.strengths)
    _softplus_backward_(made.powers, grad.powers)
    _sigmoid_backward_(made.erase, grad.erase)
    _sigmoid_backward_(made.free, grad.free)
    _sigmoid_backward_(made.gates, grad.gates)
    for h in range(len(made.masks)):
        _sigmoid_backward_(made.masks[h], grad.masks[h])
    for h in range(len(made.modes)):
        softmax_backward(made.modes[h], grad.modes[h])


@jit
def _softplus_backward_(made, grad):
    for i in range(len(made)):
        if not made[i] > THRESHOLD:
            grad[i] *= -math.expm1(-made[i])


@jit
def _sigmoid_backward_(made, grad):
    for i in range(len(made)):
        grad[i] *= made[i] * (one(made) - made[i])


@jit
def ask(made, h, found, square):
    """What `content` takes for head h: found, its query; square, the square of its mask, which is 1 without masks."""
    strength = one(found) + made.strengths[h]
    if len(made.masks) == 0:
        for w in range(len(square)):
            square[w] = one(found)
        query(made.keys[h], strength, found)
        return
    key, mask = made.keys[h], made.masks[h]
    for w in range(len(mask)):
        square[w] = mask[w] * mask[w]
        found[w] = key[w] * mask[w]
    query(found, strength, found)
    for w in range(len(mask)):
        found[w] *= mask[w]


@jit
def ask_backward(made, grad, h, found_grad, memory, shrink, room):
    """Sets the gradients of the key, strength and mask of head h. found_grad: of its query, changed.

    memory: what was searched, [width, slots]; shrink: see `content_backward`, [slots]; room: [2, width].
    """
    strength = one(found_grad) + made.strengths[h]
    if len(made.masks) == 0:
        grad.strengths[h] = query_backward(made.keys[h], strength, found_grad, grad.keys[h])
        return
    key, mask, key_grad, mask_grad, masked, found = (
        made.keys[h],
        made.masks[h],
        grad.keys[h],
        grad.masks[h],
        room[0],
        room[1],
    )
    for w in range(len(mask)):
        masked[w] = key[w] * mask[w]
    query(masked, strength, found)
    for w in range(len(mask)):
        mask_grad[w] = found_grad[w] * found[w] - mask[w] * _weighted_square(memory[w], shrink)
        found_grad[w] *= mask[w]
    grad.strengths[h] = query_backward(masked, strength, found_grad, key_grad)
    for w in range(len(mask)):
        mask_grad[w] += key_grad[w] * key[w]
        key_grad[w] *= mask[w]


@summing
def _weighted_square(x, weights):
    found = zero(x)
    for i in range(len(x)):
        found += x[i] * x[i] * weights[i]
    return found
