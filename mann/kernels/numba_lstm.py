"""A step of `mann.controllers.LSTMController` and its gradient, for one row or for all, for numba."""

from __future__ import annotations

from mann.kernels.numba_math import hyperbolic, jit, one, product, sigmoid_, tanh_, zero


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
def control(weights, carry, trace, t, projected, hidden, now):
    """The controller in step t of a trace, step `now` of the sequence, for all rows: up to the interface's sums.

    weights: recurrent, interface, bias; carry: read, hidden; trace: inputs, gates, cells, emitted.
    """
    rows, read_size = carry.read.shape
    for b in range(rows):
        trace.inputs[b, t, :read_size] = carry.read[b]
        trace.inputs[b, t, read_size:] = carry.hidden[b]
        trace.gates[b, t] = projected[b, now]
    product(trace.inputs, t, weights.recurrent, trace.gates, t)
    for b in range(rows):
        lstm(trace.gates[b, t], trace.cells[b, t], trace.cells[b, t + 1], hidden[b, now])
        carry.hidden[b] = hidden[b, now]
        trace.emitted[b, t] = weights.bias
    product(hidden, now, weights.interface, trace.emitted, t)


@jit
def control_backward(weights, feed, grad, trace, t, hidden_grad, emitted_grad, projected_grad, now, sums, inputs_grad):
    """From gradients of h and of the interface's sums to those of the four sums, set, and of the carry, changed.

    weights: recurrent_t, interface_t. sums, inputs_grad: scratch, [rows, 1, ·], as wide as these. feed: whether the
    controller sees reads.
    """
    rows, read_size = grad.read.shape
    units = grad.hidden.shape[1]
    for b in range(rows):
        for j in range(units):
            sums[b, 0, j] = hidden_grad[b, now, j] + grad.hidden[b, j]
        sums[b, 0, units:] = zero(sums)
    product(emitted_grad, now, weights.interface_t, sums, 0)
    for b in range(rows):
        lstm_backward(trace.gates[b, t], trace.cells[b, t], trace.cells[b, t + 1], sums[b, 0], grad.cell[b],
                      projected_grad[b, now])  # fmt: skip
    inputs_grad[:] = zero(inputs_grad)
    product(projected_grad, now, weights.recurrent_t, inputs_grad, 0)
    for b in range(rows):
        grad.hidden[b] = inputs_grad[b, 0, read_size : read_size + units]
        for i in range(read_size):
            if feed:
                grad.read[b, i] = inputs_grad[b, 0, i]
            else:
                grad.read[b, i] += inputs_grad[b, 0, i]
