"""A whole sequence of `mann.lrua.LRUA` behind an LSTM controller, and its gradient, for numba.

Step by step, all rows together: the controller's products are then of matrices, and each weight is fetched once.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from mann.kernels.numba_lrua_steps import find_least, read, read_backward, write, write_backward, write_weights
from mann.kernels.numba_lstm import begin, control, control_backward, control_scratch, end
from mann.kernels.numba_math import copy, jit, kernel, one, sigmoid_, tanh_, zero

Array = Any
"""A contiguous numpy array of float32 or float64; all of one call have the same type."""


class Rules(NamedTuple):
    """The options of the memory, and whether the controller sees reads."""

    after: bool
    """Read after the write of the step."""
    separate: bool
    """Values are vectors of their own."""
    shared: bool
    """All heads write to all least used slots."""
    erased: int
    """How many of the least used slots are zeroed."""
    gated: bool
    """The controller gives the gates."""
    feed: bool


class Weights(NamedTuple):
    """Parameters, each twice: as a step forward and as a step back multiply with it."""

    recurrent: Array
    """[read + hidden, 4 · hidden]"""
    recurrent_t: Array
    """[4 · hidden, read + hidden], and columns of zeros up to a multiple of `LANES`."""
    interface: Array
    """[hidden, interface]"""
    interface_t: Array
    """[interface, hidden], and columns of zeros likewise."""
    bias: Array
    gate: Array
    """σ(α), [1]; unused where the controller gives it."""
    decay: Array
    """[1]"""
    epsilon: Array
    """[1]"""


class Carry(NamedTuple):
    """What passes from step to step, a row each; or the gradients of that (usage has none)."""

    read: Array
    hidden: Array
    cell: Array
    memory: Array
    """[rows, width, slots]"""
    weights: Array
    """[rows, heads, slots]"""
    usage: Array


class Trace(NamedTuple):
    """What the way back needs of each step. [rows, steps, …]; of steps + 1 the first is what was there before."""

    inputs: Array
    """What the recurrent product saw: read, hidden."""
    gates: Array
    """After σ and tanh."""
    cells: Array
    """[rows, steps + 1, hidden]"""
    emitted: Array
    """The interface after tanh and σ."""
    least: Array
    """Least used slots, [rows, steps, heads], int64."""
    memory: Array
    """[rows, steps + 1, width, slots]"""
    weights: Array
    """w^r, [rows, steps + 1, heads, slots]"""
    cosines: Array
    """[rows, steps, heads, slots]"""
    lengths: Array
    """Of the rows that were addressed, [rows, steps, slots]."""


class Scratch(NamedTuple):
    """Room for one row at a time."""

    opened: Array
    written: Array
    keep: Array
    touched: Array
    opened_grad: Array
    weights_grad: Array
    pairs: Array
    left: Array
    lengths: Array
    keys: Array
    vectors_grad: Array


@jit
def _scratch(like, heads, width, slots):
    kind = like.dtype
    return Scratch(
        np.empty(heads, kind),
        np.empty((heads, slots), kind),
        np.empty(slots, kind),
        np.empty(slots, kind),
        np.empty(heads, kind),
        np.empty((heads, slots), kind),
        np.empty((2 * heads, slots), kind),
        np.empty((width, 2 * heads), kind),
        np.empty(slots, kind),
        np.empty((heads, width), kind),
        np.empty((2, heads, width), kind),
    )


@jit
def _vectors(emitted, rules, heads, width):
    """Keys and values of a step, [heads, width] each; the same where they are one."""
    size = heads * width
    keys = emitted[:size].reshape(heads, width)
    return keys, emitted[size : 2 * size].reshape(heads, width) if rules.separate else keys


@jit
def _open(emitted, rules, gate, opened):
    """σ(α) of each head."""
    heads = len(opened)
    if rules.gated:
        copy(emitted[len(emitted) - heads :], opened)
    else:
        opened[:] = gate[0]


@kernel
def forward(weights, rules, first, steps, carry, trace, projected, hidden, reads):
    """Steps first, first + 1, …, of all rows. carry: changed to that after the last; trace, hidden, reads: filled.

    projected, hidden, reads: [rows, time, …] of the whole sequence.
    """
    rows, width, slots = carry.memory.shape
    heads = carry.weights.shape[1]
    scratch = _scratch(projected, heads, width, slots)
    vectors = len(weights.bias) - (heads if rules.gated else 0)
    epsilon, decay = weights.epsilon[0], weights.decay[0]
    begin(carry, trace)
    for t in range(steps):
        control(weights, carry, trace, projected, hidden, first, t)
        for b in range(rows):
            emitted, least, usage = trace.emitted[b, t], trace.least[b, t], carry.usage[b]
            tanh_(emitted[:vectors])
            sigmoid_(emitted[vectors:])
            keys, values = _vectors(emitted, rules, heads, width)
            _open(emitted, rules, weights.gate, scratch.opened)
            find_least(usage, least)
            write_weights(trace.weights[b, t], least, scratch.opened, rules.shared, scratch.written)
            write(trace.memory[b, t], least, rules.erased, values, scratch.written, trace.memory[b, t + 1],
                  scratch.keep)  # fmt: skip
            read(keys, trace.memory[b, t + 1 if rules.after else t], epsilon, trace.lengths[b, t], trace.cosines[b, t],
                 trace.weights[b, t + 1], reads[b, first + t].reshape(heads, width))  # fmt: skip
            scratch.touched[:] = zero(usage)
            for h in range(heads):
                weight, written = trace.weights[b, t + 1, h], scratch.written[h]
                for i in range(slots):
                    scratch.touched[i] += weight[i] + written[i]
            for i in range(slots):
                usage[i] = decay * usage[i] + scratch.touched[i]
            if rules.feed:
                copy(reads[b, first + t], carry.read[b])
    end(carry, trace, steps)


@jit
def squash_backward(emitted, keys_grad, values_grad, scratch, rules, emitted_grad):
    """From gradients of keys, values and gates to that of the interface before tanh and σ."""
    size, unit = len(keys_grad), one(emitted)
    if rules.separate:
        keys, values, back = emitted[:size], emitted[size : 2 * size], emitted_grad[size : 2 * size]
        for i in range(size):
            emitted_grad[i] = keys_grad[i] * (unit - keys[i] * keys[i])
            back[i] = values_grad[i] * (unit - values[i] * values[i])
    else:
        for i in range(size):
            emitted_grad[i] = (keys_grad[i] + values_grad[i]) * (unit - emitted[i] * emitted[i])
    if rules.gated:
        first = len(emitted) - len(scratch.opened)
        for h in range(len(scratch.opened)):
            gate = scratch.opened[h]
            emitted_grad[first + h] = scratch.opened_grad[h] * gate * (unit - gate)


@kernel
def backward(
    weights, rules, first, steps, grad, trace, hidden_grad, reads_grad, projected_grad, emitted_grad, opened_grad
):
    """The same steps backwards. grad: gradients of the carry after them, changed to those of the carry before them.

    hidden_grad, reads_grad: given; the second is changed. projected_grad, emitted_grad (of the interface
    before tanh and σ) and opened_grad (of σ(α), [rows, time, heads]): set. All are of the whole sequence.
    """
    rows, width, slots = grad.memory.shape
    heads = grad.weights.shape[1]
    scratch = _scratch(hidden_grad, heads, width, slots)
    size, epsilon = heads * width, weights.epsilon[0]
    room = control_scratch(weights, grad)
    for t in range(steps - 1, -1, -1):
        now = first + t
        for b in range(rows):
            emitted, emitted_back, least = trace.emitted[b, t], emitted_grad[b, now], trace.least[b, t]
            keys, values = _vectors(emitted, rules, heads, width)
            keys_grad, values_grad = scratch.vectors_grad[0], scratch.vectors_grad[1]
            memory_grad, found_grad = grad.memory[b], reads_grad[b, now]
            if rules.feed:
                for i in range(size):
                    found_grad[i] += grad.read[b, i]
            _open(emitted, rules, weights.gate, scratch.opened)
            write_weights(trace.weights[b, t], least, scratch.opened, rules.shared, scratch.written)
            keys_grad[:] = zero(keys_grad)
            for order in range(2):
                if (order == 0) == rules.after:
                    read_backward(
                        found_grad.reshape(heads, width), grad.weights[b], keys,
                        trace.memory[b, t + 1 if rules.after else t], epsilon, trace.lengths[b, t],
                        trace.cosines[b, t], trace.weights[b, t + 1], keys_grad, memory_grad, scratch,
                    )  # fmt: skip
                else:
                    write_backward(
                        memory_grad, least, rules.erased, rules.shared, scratch.opened, values, scratch.written,
                        trace.weights[b, t], scratch.weights_grad, values_grad, scratch.opened_grad,
                    )  # fmt: skip
            copy(scratch.weights_grad, grad.weights[b])
            copy(scratch.opened_grad, opened_grad[b, now])
            squash_backward(emitted, keys_grad.reshape(size), values_grad.reshape(size), scratch, rules, emitted_back)
        control_backward(weights, rules.feed, grad, trace, hidden_grad, projected_grad, emitted_grad, first, t, room)
