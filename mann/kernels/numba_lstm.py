"""One step of `mann.controllers.LSTMController` for one row, and its gradient, for numba."""

from __future__ import annotations

from mann.kernels.numba_math import hyperbolic, jit, one, sigmoid_, tanh_


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
