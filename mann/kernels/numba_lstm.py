"""A step of `mann.controllers.LSTMController` and of the linear map to a memory's interface, with gradients, for numba.

`lstm` and `lstm_backward` are of one row, the others of all rows together: the products are then of matrices, and each
weight is fetched once. What they call weights, carry, grad and trace are the named tuples of a memory's kernels.
"""

from __future__ import annotations

import numpy as np

from mann.kernels.numba_math import copy, hyperbolic, jit, one, sigmoid_, tanh_, zero
from mann.kernels.numba_products import FIRST, product


@jit
def lstm(gates, cell, new_cell, hidden):
    """gates: [4 · size], sums before σ and tanh in the order i, f, o, candidate, and after them on return."""
    size = len(cell)
    sigmoid_(gates[: 3 * size])
    tanh_(gates[3 * size :])
    i, f, o, candidate = gates[:size], gates[size : 2 * size], gates[2 * size : 3 * size], gates[3 * size :]
    for j in range(size):
        c = f[j] * cell[j] + i[j] * candidate[j]
        new_cell[j] = c
        hidden[j] = o[j] * hyperbolic(c)


@jit
def lstm_backward(gates, cell, new_cell, hidden_grad, cell_grad, sums_grad):
    """From gradients of h and c' to those of c (in place of c') and of the four sums. gates: as `lstm` leaves them."""
    size = len(cell)
    i, f, o, candidate = gates[:size], gates[size : 2 * size], gates[2 * size : 3 * size], gates[3 * size :]
    di, df, do = sums_grad[:size], sums_grad[size : 2 * size], sums_grad[2 * size : 3 * size]
    dcandidate = sums_grad[3 * size :]
    unit = one(cell)
    for j in range(size):
        squashed = hyperbolic(new_cell[j])
        dc = cell_grad[j] + hidden_grad[j] * o[j] * (unit - squashed * squashed)
        di[j] = dc * candidate[j] * i[j] * (unit - i[j])
        df[j] = dc * cell[j] * f[j] * (unit - f[j])
        do[j] = hidden_grad[j] * squashed * o[j] * (unit - o[j])
        dcandidate[j] = dc * i[j] * (unit - candidate[j] * candidate[j])
        cell_grad[j] = dc * f[j]


@jit
def begin(carry, trace):
    """What is carried into the first step of a segment becomes the first of a trace."""
    for b in range(len(carry.cell)):
        copy(carry.cell[b], trace.cells[b, 0])
        copy(carry.memory[b], trace.memory[b, 0])
        copy(carry.weights[b], trace.weights[b, 0])


@jit
def end(carry, trace, steps):
    """What the last step of a segment has left is carried on."""
    for b in range(len(carry.cell)):
        copy(trace.cells[b, steps], carry.cell[b])
        copy(trace.memory[b, steps], carry.memory[b])
        copy(trace.weights[b, steps], carry.weights[b])


@jit
def controller(weights, carry, trace, t, projected, hidden, now):
    """Step t of a segment, `now` of the sequence: from what is carried to trace.emitted, the interface's sums."""
    read_size = carry.read.shape[1]
    for b in range(len(hidden)):
        copy(carry.read[b], trace.inputs[b, t, :read_size])
        copy(carry.hidden[b], trace.inputs[b, t, read_size:])
        copy(projected[b, now], trace.gates[b, t])
    product(trace.inputs, t, weights.recurrent, trace.gates, t)
    for b in range(len(hidden)):
        lstm(trace.gates[b, t], trace.cells[b, t], trace.cells[b, t + 1], hidden[b, now])
        copy(hidden[b, now], carry.hidden[b])
        copy(weights.bias, trace.emitted[b, t])
    product(hidden, now, weights.interface, trace.emitted, t)


@jit
def controller_backward(weights, feed, grad, trace, t, hidden_grad, projected_grad, emitted_grad, now):
    """From the gradients of the interface's sums and of what is carried to those of the step's inputs.

    grad: of what is carried after the step, changed to that before it; what was read is in it only if nothing saw it.
    """
    rows, size = grad.hidden.shape
    read_size = grad.read.shape[1]
    sums = np.empty((rows, 1, weights.interface_t.shape[1]), hidden_grad.dtype)
    inputs_grad = np.zeros((rows, 1, weights.recurrent_t.shape[1]), hidden_grad.dtype)
    for b in range(rows):
        for j in range(size):
            sums[b, 0, j] = hidden_grad[b, now, j] + grad.hidden[b, j]
        sums[b, 0, size:] = zero(sums)
    product(emitted_grad, now, weights.interface_t, sums, FIRST)
    for b in range(rows):
        lstm_backward(trace.gates[b, t], trace.cells[b, t], trace.cells[b, t + 1], sums[b, 0], grad.cell[b],
                      projected_grad[b, now])  # fmt: skip
    product(projected_grad, now, weights.recurrent_t, inputs_grad, FIRST)
    for b in range(rows):
        copy(inputs_grad[b, 0, read_size : read_size + size], grad.hidden[b])
        for i in range(read_size):
            if feed:
                grad.read[b, i] = inputs_grad[b, 0, i]
            else:
                grad.read[b, i] += inputs_grad[b, 0, i]
