"""A whole sequence of `mann.dnc.DNC` behind an LSTM controller, and its gradient, for numba.

Step by step, all rows together: the controller's products are then of matrices, and each weight is fetched once.

The links take more room than all else: they are kept before every span-th step only. Going back through a span they
are computed again, from write weights and precedence alone, which is a small part of what a step does with them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from mann.kernels.numba_addressing import content, content_backward, inverse_lengths, shrink_memory
from mann.kernels.numba_dnc_interface import (
    ask,
    ask_backward,
    normalise,
    normalise_backward,
    parts,
    squash,
    squash_backward,
)
from mann.kernels.numba_dnc_steps import (
    allocate,
    allocate_backward,
    mix,
    mix_backward,
    place,
    place_backward,
    precede,
    precede_backward,
    retain,
    retain_backward,
    sharpen,
    sharpen_backward,
    sort,
    use,
    use_backward,
    write,
    write_backward,
)
from mann.kernels.numba_links import follow, follow_backward, link, links_room
from mann.kernels.numba_lstm import control, control_backward, control_scratch
from mann.kernels.numba_math import clear, copy, jit, kernel
from mann.kernels.numba_products import correlate, multiply

Array = Any
"""A contiguous numpy array of float32 or float64; all of one call have the same type."""


class Weights(NamedTuple):
    """Parameters; the first five as `sequence.controller_weights` makes them."""

    recurrent: Array
    recurrent_t: Array
    interface: Array
    interface_t: Array
    bias: Array
    gain: Array
    """Of the layer norm, as the next two; [interface], or nothing."""
    shift: Array
    epsilon: Array
    """[1]"""


class Carry(NamedTuple):
    """What passes from step to step, a row each; or the gradients of that. Linked: as many as slots, or none."""

    read: Array
    hidden: Array
    cell: Array
    memory: Array
    """[rows, width, slots]"""
    usage: Array
    links: Array
    """[rows, linked, linked]"""
    precedence: Array
    """[rows, 1, linked]"""
    weights: Array
    """w^r, [rows, reads, slots]"""
    written: Array
    """w^w, [rows, 1, slots]"""


class Trace(NamedTuple):
    """What the way back needs of each step. [rows, steps, …]; of steps + 1 the first is what was there before."""

    inputs: Array
    """What the recurrent product saw: read, hidden."""
    gates: Array
    """After σ and tanh."""
    cells: Array
    """[rows, steps + 1, hidden]"""
    emitted: Array
    """The interface as `squash` leaves it."""
    normed: Array
    """The interface between the layer norm's division and its gain; nothing without."""
    scale: Array
    """What it was divided by, [rows, steps, 1]."""
    memory: Array
    """[rows, steps + 1, width, slots]"""
    usage: Array
    """[rows, steps + 1, slots]"""
    precedence: Array
    """[rows, steps + 1, linked]"""
    weights: Array
    """w^r, [rows, steps + 1, reads, slots]"""
    written: Array
    """w^w, [rows, steps + 1, slots]"""
    retention: Array
    order: Array
    """Slots by usage, int64."""
    allocated: Array
    scores: Array
    """[rows, steps, reads + 1, slots]"""
    content: Array
    """What heads find by content, the writing one last; likewise."""
    lengths: Array
    """1 / lengths of rows; one for all that read and one for the writing head, or with masks one for each head."""
    along: Array
    """Backward and forward weights, [rows, steps, 2, reads, linked]."""
    sharp: Array
    """The same sharpened; nothing where they are not."""
    links: Array
    """[rows, spans, linked, linked]"""


class Scratch(NamedTuple):
    """Room for one row at a time."""

    queries: Array
    squares: Array
    shrink: Array
    order: Array
    rest: Array
    found: Array
    queries_grad: Array
    content_grad: Array
    along_grad: Array
    retention_grad: Array
    read_grad: Array
    left: Array
    pairs: Array
    masks: Array
    links: Any


@jit
def _scratch(like, trace):
    kind = like.dtype
    width, slots = trace.memory.shape[2:]
    heads, lengths, linked = trace.scores.shape[2], trace.lengths.shape[2], trace.precedence.shape[2]
    reads = heads - 1
    return Scratch(
        np.empty((heads, width), kind),
        np.empty((lengths, width), kind),
        np.empty((lengths, slots), kind),
        np.empty(slots, np.int64),
        np.empty(slots, kind),
        np.empty((reads, width), kind),
        np.empty((heads, width), kind),
        np.empty((heads, slots), kind),
        np.empty((2, reads, linked), kind),
        np.empty(slots, kind),
        np.empty((reads, slots), kind),
        np.empty((width, 2 * reads), kind),
        np.empty((2 * reads, slots), kind),
        np.empty((2, width), kind),
        links_room(like, reads, linked),
    )


@jit
def _span(trace):
    """How many steps share the links that are kept."""
    return -(-trace.inputs.shape[1] // trace.links.shape[1])


@jit
def _ask(made, scratch):
    """Queries and squared masks of all heads."""
    last = len(scratch.queries) - 1
    for h in range(last):
        ask(made, h, scratch.queries[h], scratch.squares[h % (len(scratch.squares) - 1)])
    ask(made, last, scratch.queries[last], scratch.squares[-1])


@kernel
def forward(weights, rules, first, steps, carry, trace, projected, hidden, reads):
    """Steps first, first + 1, …, of all rows. carry: changed to that after the last; trace, hidden, reads: filled.

    projected, hidden, reads: [rows, time, …] of the whole sequence.
    """
    rows, width, _ = carry.memory.shape
    scratch, span = _scratch(projected, trace), _span(trace)
    for b in range(rows):
        copy(carry.cell[b], trace.cells[b, 0])
        copy(carry.memory[b], trace.memory[b, 0])
        copy(carry.usage[b], trace.usage[b, 0])
        copy(carry.precedence[b, 0], trace.precedence[b, 0])
        copy(carry.weights[b], trace.weights[b, 0])
        copy(carry.written[b, 0], trace.written[b, 0])
    for t in range(steps):
        control(weights, carry, trace, projected, hidden, first, t)
        for b in range(rows):
            if rules.norm:
                trace.scale[b, t, 0] = normalise(
                    trace.emitted[b, t], weights.gain, weights.shift, weights.epsilon[0], trace.normed[b, t]
                )
            _step(rules, span, b, t, carry.links[b], trace, scratch, width)
            weighted = reads[b, first + t]
            correlate(trace.weights[b, t + 1], trace.memory[b, t + 1], weighted.reshape(-1, width))
            if rules.feed:
                copy(weighted, carry.read[b])
    for b in range(rows):
        copy(trace.cells[b, steps], carry.cell[b])
        copy(trace.memory[b, steps], carry.memory[b])
        copy(trace.usage[b, steps], carry.usage[b])
        copy(trace.precedence[b, steps], carry.precedence[b, 0])
        copy(trace.weights[b, steps], carry.weights[b])
        copy(trace.written[b, steps], carry.written[b, 0])


@jit
def _step(rules, span, b, t, links, trace, scratch, width):
    """Step t of row b of the memory, as far as the weights that read. links: changed to those after it."""
    memory, after = trace.memory[b, t], trace.memory[b, t + 1]
    usage, written, order, retention = (
        trace.usage[b, t + 1],
        trace.written[b, t + 1],
        trace.order[b, t],
        trace.retention[b, t],
    )
    weights, scores, found, lengths = (
        trace.weights[b, t + 1],
        trace.scores[b, t],
        trace.content[b, t],
        trace.lengths[b, t],
    )
    last = len(weights)
    made = squash(trace.emitted[b, t], rules, last, width)
    _ask(made, scratch)
    retain(made.free, trace.weights[b, t], retention)
    use(trace.usage[b, t], trace.written[b, t], retention, usage)
    for i in range(len(order)):
        order[i] = trace.order[b, t - 1, i] if t else i
    sort(usage, order, scratch.order)
    allocate(usage, order, trace.allocated[b, t])
    inverse_lengths(memory, scratch.squares[-1:], lengths[-1:])
    content(scratch.queries[last:], memory, lengths[-1:], scores[last:], found[last:])
    place(made.gates, trace.allocated[b, t], found[last], written)
    write(memory, retention, rules.wipe, written, made.erase, made.value, after)
    inverse_lengths(after, scratch.squares[:-1], lengths[:-1])
    content(scratch.queries[:last], after, lengths[:-1], scores[:last], found[:last])
    if not rules.links:
        copy(found[:last], weights)
        return
    if t % span == 0:
        copy(links, trace.links[b, t // span])
    precedence, along = trace.precedence[b, t], trace.along[b, t]
    follow(links, written, precedence, trace.weights[b, t], along)
    precede(precedence, written, trace.precedence[b, t + 1])
    if rules.sharp:
        along = trace.sharp[b, t]
        for h in range(2 * last):
            side, head = h // last, h % last
            power = made.powers[h] + made.powers.dtype.type(1)
            sharpen(trace.along[b, t, side, head], power, scratch.rest, along[side, head])
    mix(made.modes, along[0], found, along[1], weights)


@kernel
def backward(
    weights, rules, first, steps, grad, trace, hidden_grad, reads_grad, projected_grad, emitted_grad, own_grad
):
    """The same steps backwards. grad: gradients of the carry after them, changed to those of the carry before them.

    hidden_grad, reads_grad: given; the second is changed. projected_grad, emitted_grad (of the interface as it is
    emitted) and own_grad (of the layer norm's gain and bias, [rows, time, 2 · interface]): set. All are of the whole
    sequence.
    """
    rows, width, _ = grad.memory.shape
    scratch, room, span = _scratch(hidden_grad, trace), control_scratch(weights, grad), _span(trace)
    linked = grad.links.shape[1]
    again = np.empty((rows, span - 1, linked, linked), hidden_grad.dtype)
    for t in range(steps - 1, -1, -1):
        now = first + t
        for b in range(rows):
            if rules.links and (t == steps - 1 or t % span == span - 1):
                _relink(b, t, span, trace, again[b])
            found_grad = reads_grad[b, now]
            if rules.feed:
                for i in range(len(found_grad)):
                    found_grad[i] += grad.read[b, i]
            links = trace.links[b, t // span] if t % span == 0 else again[b, t % span - 1]
            emitted_back = emitted_grad[b, now]
            _step_backward(rules, b, t, links, grad, trace, found_grad.reshape(-1, width), emitted_back, scratch)
            if rules.norm:
                normalise_backward(
                    emitted_back, weights.gain, trace.normed[b, t], trace.scale[b, t, 0], own_grad[b, now]
                )
        control_backward(weights, rules.feed, grad, trace, hidden_grad, projected_grad, emitted_grad, first, t, room)


@jit
def _relink(b, t, span, trace, again):
    """The links before each step of a span but its first, up to step t."""
    start = t - t % span
    links = trace.links[b, start // span]
    for s in range(start, t):
        copy(links, again[s - start])
        links = again[s - start]
        link(links, 0, trace.written[b, s + 1], trace.precedence[b, s])


@jit
def _step_backward(rules, b, t, links, grad, trace, found_grad, emitted_grad, scratch):
    """Step t of row b of the memory. links: L_{t-1}; found_grad: of what is read; emitted_grad: set."""
    memory, after, written = trace.memory[b, t], trace.memory[b, t + 1], trace.written[b, t + 1]
    retention, lengths = trace.retention[b, t], trace.lengths[b, t]
    scores, found = trace.scores[b, t], trace.content[b, t]
    weights_grad, memory_grad, usage_grad, written_grad = (
        grad.weights[b],
        grad.memory[b],
        grad.usage[b],
        grad.written[b, 0],
    )
    retention_grad, read_grad = scratch.retention_grad, scratch.read_grad
    content_grad, queries, shrink = scratch.content_grad, scratch.queries, scratch.shrink
    last, width = found_grad.shape
    made, back = parts(trace.emitted[b, t], rules, last, width), parts(emitted_grad, rules, last, width)
    clear(read_grad)
    clear(retention_grad)
    _ask(made, scratch)

    multiply(found_grad, after, weights_grad)
    copy(weights_grad, content_grad[:last])
    if rules.links:
        precedence, precedence_grad, along_grad = trace.precedence[b, t], grad.precedence[b, 0], scratch.along_grad
        along = trace.sharp[b, t] if rules.sharp else trace.along[b, t]
        mix_backward(content_grad, made.modes, along[0], found, along[1], back.modes, along_grad[0], along_grad[1])
        if rules.sharp:
            for h in range(2 * last):
                side, head = h // last, h % last
                power = made.powers[h] + made.powers.dtype.type(1)
                back.powers[h] = sharpen_backward(along_grad[side, head], trace.along[b, t, side, head], power,
                                                  along[side, head])  # fmt: skip
        precede_backward(precedence_grad, precedence, written, written_grad)
        follow_backward(links, written, precedence, trace.weights[b, t], along_grad, grad.links[b], written_grad,
                        precedence_grad, read_grad, scratch.links)  # fmt: skip

    content_backward(content_grad[:last], after, lengths[:-1], scores[:last], found[:last],
                     scratch.queries_grad[:last], shrink[:-1])  # fmt: skip
    for w in range(width):
        for h in range(last):
            scratch.left[w, h], scratch.left[w, last + h] = found_grad[h, w], queries[h, w]
    copy(trace.weights[b, t + 1], scratch.pairs[:last])
    copy(content_grad[:last], scratch.pairs[last:])
    multiply(scratch.left, scratch.pairs, memory_grad)
    shrink_memory(memory_grad, after, scratch.squares[:-1], shrink[:-1])
    for h in range(last):
        less = shrink[h % (len(shrink) - 1)]
        ask_backward(made, back, h, scratch.queries_grad[h], after, less, scratch.masks)

    write_backward(memory_grad, memory, retention, rules.wipe, written, made.erase, made.value, written_grad,
                   back.erase, back.value, retention_grad)  # fmt: skip
    place_backward(written_grad, made.gates, trace.allocated[b, t], found[last], back.gates, content_grad[last])
    content_backward(content_grad[last:], memory, lengths[-1:], scores[last:], found[last:],
                     scratch.queries_grad[last:], shrink[-1:])  # fmt: skip
    multiply(queries[last].reshape(width, 1), content_grad[last:], memory_grad)
    shrink_memory(memory_grad, memory, scratch.squares[-1:], shrink[-1:])
    ask_backward(made, back, last, scratch.queries_grad[last], memory, shrink[-1], scratch.masks)

    allocate_backward(written_grad, trace.usage[b, t + 1], trace.order[b, t], usage_grad, scratch.rest)
    use_backward(usage_grad, trace.usage[b, t], trace.written[b, t], retention, written_grad, retention_grad)
    retain_backward(retention_grad, made.free, trace.weights[b, t], back.free, read_grad, scratch.rest)
    copy(read_grad, weights_grad)
    squash_backward(made, back)
