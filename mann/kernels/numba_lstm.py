"""`mann.controllers.LSTMController` and the memory's interface, a step at a time, and their gradients, for numba.

Weights, carry, trace and gradients are the named tuples of a memory's scan; what is used of them has the same names in
all.
"""

from __future__ import annotations

import numpy as np

from mann.kernels.numba_math import clear, copy, hyperbolic, jit, one, sigmoid_, tanh_
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
def control(weights, carry, trace, projected, hidden, first, t):
    """Step first + t of the controller, all rows: trace.emitted[:, t], the interface before the memory squashes it."""
    rows, read_size = carry.read.shape
    for b in range(rows):
        copy(carry.read[b], trace.inputs[b, t, :read_size])
        copy(carry.hidden[b], trace.inputs[b, t, read_size:])
        copy(projected[b, first + t], trace.gates[b, t])
    product(trace.inputs, t, weights.recurrent, trace.gates, t)
    for b in range(rows):
        lstm(trace.gates[b, t], trace.cells[b, t], trace.cells[b, t + 1], hidden[b, first + t])
        copy(hidden[b, first + t], carry.hidden[b])
        copy(weights.bias, trace.emitted[b, t])
    product(hidden, first + t, weights.interface, trace.emitted, t)


@jit
def control_scratch(weights, grad):
    """Room for `control_backward`."""
    rows, kind = len(grad.hidden), grad.hidden.dtype
    return (
        np.empty((rows, 1, weights.interface_t.shape[1]), kind),
        np.empty((rows, 1, weights.recurrent_t.shape[1]), kind),
    )


@jit
def control_backward(weights, feed, grad, trace, hidden_grad, projected_grad, emitted_grad, first, t, scratch):
    """From emitted_grad[:, first + t] to projected_grad[:, first + t] and grad of what was carried into the step."""
    rows, read_size = grad.read.shape
    hidden_sums, inputs_grad = scratch
    size, now = grad.hidden.shape[1], first + t
    clear(hidden_sums)
    for b in range(rows):
        for j in range(size):
            hidden_sums[b, 0, j] = hidden_grad[b, now, j] + grad.hidden[b, j]
    product(emitted_grad, now, weights.interface_t, hidden_sums, FIRST)
    for b in range(rows):
        lstm_backward(trace.gates[b, t], trace.cells[b, t], trace.cells[b, t + 1], hidden_sums[b, 0],
                      grad.cell[b], projected_grad[b, now])  # fmt: skip
    clear(inputs_grad)
    product(projected_grad, now, weights.recurrent_t, inputs_grad, FIRST)
    for b in range(rows):
        copy(inputs_grad[b, 0, read_size : read_size + size], grad.hidden[b])
        for i in range(read_size):
            if feed:
                grad.read[b, i] = inputs_grad[b, 0, i]
            else:
                grad.read[b, i] += inputs_grad[b, 0, i]
