"""The LSTM controller inside a scan: one step forward, one step backward (`mann.controllers.LSTMController`).

Everything goes through memory: a block writes a vector, waits for its own threads and reads it again, because a
product needs every entry of its vector in every thread. The arrays are those that the backward pass keeps anyway.
`fed` holds (r_t, h_t) side by side, at index 0 what comes before the first step: the vector of the next recurrent
product. Gates are in the order i, f, o, candidate.
"""

from __future__ import annotations

import triton
import triton.language as tl

from mann.kernels.triton_math import affine, tanh


@triton.jit
def controller_step(
    projected, recurrent, fed, gates, cells, weight, bias, interface, READ: tl.constexpr, UNITS: tl.constexpr,
    INTERFACE: tl.constexpr, BLOCK_UNITS: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    """From (r, h) of the step before to h, written to `fed`, and the interface. All pointers are at the step.

    recurrent: [read + units, 4 · units]; weight: [units, interface].
    """
    SUMS: tl.constexpr = 4 * UNITS
    FED: tl.constexpr = READ + UNITS
    affine(gates, fed, recurrent, projected, None, FED, SUMS, BLOCK_ROWS, BLOCK_COLUMNS, STAGES)
    tl.debug_barrier()
    unit = tl.arange(0, BLOCK_UNITS)
    inside = unit < UNITS
    i = tl.sigmoid(tl.load(gates + unit, mask=inside, other=0))
    f = tl.sigmoid(tl.load(gates + UNITS + unit, mask=inside, other=0))
    o = tl.sigmoid(tl.load(gates + 2 * UNITS + unit, mask=inside, other=0))
    candidate = tanh(tl.load(gates + 3 * UNITS + unit, mask=inside, other=0))
    cell = f * tl.load(cells + unit, mask=inside, other=0) + i * candidate
    hidden = fed + FED + READ
    tl.store(cells + UNITS + unit, cell, mask=inside)
    tl.store(hidden + unit, o * tanh(cell), mask=inside)
    tl.debug_barrier()  # also: all threads have read the sums, which the activations now replace
    tl.store(gates + unit, i, mask=inside)
    tl.store(gates + UNITS + unit, f, mask=inside)
    tl.store(gates + 2 * UNITS + unit, o, mask=inside)
    tl.store(gates + 3 * UNITS + unit, candidate, mask=inside)
    affine(interface, hidden, weight, bias, None, UNITS, INTERFACE, BLOCK_ROWS, BLOCK_COLUMNS, STAGES)
    tl.debug_barrier()


@triton.jit
def controller_step_backward(
    d_fed, carry, d_interface, weight, gates, cells, d_hidden, d_cell, d_gates, recurrent, READ: tl.constexpr,
    UNITS: tl.constexpr, INTERFACE: tl.constexpr, BLOCK_UNITS: tl.constexpr, BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """From the interface's gradient to the gates' and to that of `fed` before the step, which is left in `carry`.

    d_fed: the gradient that comes from outside for (r, h) after the step; carry: what the step after adds to it.
    weight: [interface, units]; recurrent: transposed, [4 · units, read + units]. d_hidden: scratch, [units].
    """
    SUMS: tl.constexpr = 4 * UNITS
    FED: tl.constexpr = READ + UNITS
    tl.debug_barrier()
    affine(
        d_hidden, d_interface, weight, d_fed + READ, carry + READ, INTERFACE, UNITS, BLOCK_ROWS, BLOCK_COLUMNS, STAGES
    )
    tl.debug_barrier()
    unit = tl.arange(0, BLOCK_UNITS)
    inside = unit < UNITS
    dh = tl.load(d_hidden + unit, mask=inside, other=0)
    i = tl.load(gates + unit, mask=inside, other=0)
    f = tl.load(gates + UNITS + unit, mask=inside, other=0)
    o = tl.load(gates + 2 * UNITS + unit, mask=inside, other=0)
    candidate = tl.load(gates + 3 * UNITS + unit, mask=inside, other=0)
    before = tl.load(cells + unit, mask=inside, other=0)
    squashed = tanh(tl.load(cells + UNITS + unit, mask=inside, other=0))
    dc = tl.load(d_cell + unit, mask=inside, other=0) + dh * o * (1 - squashed * squashed)
    tl.debug_barrier()
    tl.store(d_cell + unit, dc * f, mask=inside)
    tl.store(d_gates + unit, dc * candidate * i * (1 - i), mask=inside)
    tl.store(d_gates + UNITS + unit, dc * before * f * (1 - f), mask=inside)
    tl.store(d_gates + 2 * UNITS + unit, dh * squashed * o * (1 - o), mask=inside)
    tl.store(d_gates + 3 * UNITS + unit, dc * i * (1 - candidate * candidate), mask=inside)
    tl.debug_barrier()
    affine(carry, d_gates, recurrent, None, None, SUMS, FED, BLOCK_ROWS, BLOCK_COLUMNS, STAGES)
    tl.debug_barrier()
