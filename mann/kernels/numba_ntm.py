"""A whole sequence of `mann.ntm.NTM` behind an LSTM controller, and its gradient, for numba."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mann.kernels.numba_lstm import begin, control, control_backward, control_scratch, end
from mann.kernels.numba_math import copy, jit, kernel
from mann.kernels.numba_ntm_steps import (
    Array,
    address,
    address_backward,
    parts,
    scratch_for,
    squash,
)
from mann.kernels.numba_ntm_write import write, write_backward
from mann.kernels.numba_products import correlate, multiply


class Rules(NamedTuple):
    """The options of the memory, and whether the controller sees reads."""

    reads: int
    """Reading heads; the others write."""
    shift: int
    after: bool
    """Read after the writes of the step."""
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
    softening: Array
    """[1]"""
    least: Array
    """[1]"""


class Carry(NamedTuple):
    """What passes from step to step, a row each; or the gradients of that."""

    read: Array
    hidden: Array
    cell: Array
    memory: Array
    """[rows, width, slots]"""
    weights: Array
    """[rows, heads, slots]"""


class Trace(NamedTuple):
    """What the way back needs of each step. [rows, steps, …]; of steps + 1 the first is what was there before."""

    inputs: Array
    """What the recurrent product saw: read, hidden."""
    gates: Array
    """After σ and tanh."""
    cells: Array
    """[rows, steps + 1, hidden]"""
    emitted: Array
    """The interface after σ and softmax, but before softplus."""
    memory: Array
    """[rows, steps + 1, width, slots]"""
    weights: Array
    """[rows, steps + 1, heads, slots]"""
    scores: Array
    """β cos(k, M(i)), [rows, steps, heads, slots]"""
    content: Array
    """w^c, likewise"""
    inverse: Array
    """1 / |M(i)|, [rows, steps, slots]"""


@kernel
def forward(weights, rules, first, steps, carry, trace, projected, hidden, reads):
    """Steps first, first + 1, …, of all rows. carry: changed to that after the last; trace, hidden, reads: filled.

    projected, hidden, reads: [rows, time, …] of the whole sequence.
    """
    rows, width, slots = carry.memory.shape
    heads, reading = carry.weights.shape[1], rules.reads
    writes = heads - reading
    scratch = scratch_for(projected, heads, writes, width, slots, rules.shift)
    begin(carry, trace)
    for t in range(steps):
        control(weights, carry, trace, projected, hidden, first, t)
        for b in range(rows):
            p, memory, after = (
                parts(trace.emitted[b, t], heads, writes, width),
                trace.memory[b, t],
                trace.memory[b, t + 1],
            )
            squash(p)
            address(p, memory, trace.weights[b, t], weights.softening, weights.least, trace.inverse[b, t],
                    trace.scores[b, t], trace.content[b, t], trace.weights[b, t + 1], scratch)  # fmt: skip
            write(memory, trace.weights[b, t + 1, reading:], p.erase, p.add, after)
            found = reads[b, first + t]
            correlate(
                trace.weights[b, t + 1, :reading], after if rules.after else memory, found.reshape(reading, width)
            )
            if rules.feed:
                copy(found, carry.read[b])
    end(carry, trace, steps)


@jit
def read_backward(found_grad, memory, weights, weights_grad, memory_grad, left):
    """From the gradient of what was read, [reads, width], adds to those of weights, [reads, slots], and memory."""
    multiply(found_grad, memory, weights_grad)
    for h in range(len(found_grad)):
        for w in range(len(memory)):
            left[w, h] = found_grad[h, w]
    multiply(left, weights, memory_grad)


@kernel
def backward(
    weights, rules, first, steps, grad, trace, hidden_grad, reads_grad, projected_grad, emitted_grad, own_grad
):
    """The same steps backwards. grad: gradients of the carry after them, changed to those of the carry before them.

    hidden_grad, reads_grad: given; the second is changed. projected_grad, emitted_grad (of the interface before it is
    squashed): set. All are of the whole sequence. own_grad: empty, for NTM has no parameters that a step sees.
    """
    rows, width, slots = grad.memory.shape
    heads, reading = grad.weights.shape[1], rules.reads
    writes = heads - reading
    scratch = scratch_for(hidden_grad, heads, writes, width, slots, rules.shift)
    left, room = np.empty((width, reading), hidden_grad.dtype), control_scratch(weights, grad)
    for t in range(steps - 1, -1, -1):
        now = first + t
        for b in range(rows):
            p, back = (
                parts(trace.emitted[b, t], heads, writes, width),
                parts(emitted_grad[b, now], heads, writes, width),
            )
            memory, placed = trace.memory[b, t], trace.weights[b, t + 1]
            memory_grad, weights_grad, found_grad = grad.memory[b], grad.weights[b], reads_grad[b, now]
            if rules.feed:
                for i in range(len(found_grad)):
                    found_grad[i] += grad.read[b, i]
            for order in range(2):
                if (order == 0) == rules.after:
                    read_backward(
                        found_grad.reshape(reading, width), trace.memory[b, t + 1] if rules.after else memory,
                        placed[:reading], weights_grad[:reading], memory_grad, left,
                    )  # fmt: skip
                else:
                    write_backward(
                        memory, placed[reading:], p.erase, p.add, memory_grad, weights_grad[reading:], back.erase,
                        back.add, scratch.kept,
                    )  # fmt: skip
            address_backward(
                p, back, memory, trace.weights[b, t], weights.softening, weights.least, trace.inverse[b, t],
                trace.scores[b, t], trace.content[b, t], placed, weights_grad, memory_grad, scratch,
            )  # fmt: skip
        control_backward(weights, rules.feed, grad, trace, hidden_grad, projected_grad, emitted_grad, first, t, room)
