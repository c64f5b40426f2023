"""What the scans of all memories share on the host: sizes of blocks, and the arrays of a controller inside a scan."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from bench.api import BenchError
from mann.kernels.triton_support import oversized, power_of_two, require


class Controller(NamedTuple):
    """An LSTM (`mann.controllers.LSTMController`), the linear map to a memory's interface, and their first state.

    projected: [batch, time, 4 · units]; recurrent: [read + units, 4 · units]; weight: [interface, units]; bias:
    [interface]; read: [batch, read]; hidden, cell: [batch, units].
    """

    projected: Tensor
    recurrent: Tensor
    weight: Tensor
    bias: Tensor
    read: Tensor
    hidden: Tensor
    cell: Tensor


class Controlled(NamedTuple):
    """What a scan with a controller gives. reads: [batch, time, read]; hidden: [batch, time, units]; cell: the last."""

    reads: Tensor
    hidden: Tensor
    cell: Tensor


class Arrays(NamedTuple):
    """A controller's arrays in a scan. fed: (r, h) before each step and after the last, [batch, time + 1, read + units];

    gates: [batch, time, 4 · units]; cells: [batch, time + 1, units]; interface: [batch, time, interface].
    """

    fed: Tensor
    gates: Tensor
    cells: Tensor
    interface: Tensor


def check(given: Tensor, slots: int, width: int) -> None:
    """Refuse what no scan can take.

    Raises:
        BenchError: no Triton or device, a dtype without kernel, a memory too large for one block, no steps' dimension.
    """
    require(given)
    reason = oversized(slots, width)
    if reason:
        raise BenchError(reason)
    if given.dim() != 3:
        raise BenchError(f"a scan takes [batch, time, size], not a tensor of shape {tuple(given.shape)}")


def blocks(slots: int, width: int, units: int) -> dict[str, int]:
    """How a scan is cut: the memory as a whole, products of the controller in tiles."""
    return {
        "BLOCK_SLOTS": power_of_two(slots), "BLOCK_WIDTH": power_of_two(width), "BLOCK_UNITS": power_of_two(units),
        "BLOCK_ROWS": 16, "BLOCK_COLUMNS": 256, "STAGES": 3,
    }  # fmt: skip


def arrays(controller: Controller, size: int, dtype: torch.dtype) -> Arrays:
    """Room for a scan, with the first state in its place."""
    batch, steps, sums = controller.projected.shape
    read, units = controller.read.shape[1], sums // 4
    made = {"dtype": dtype, "device": controller.projected.device}
    fed = torch.empty(batch, steps + 1, read + units, **made)
    fed[:, 0, :read], fed[:, 0, read:] = controller.read, controller.hidden
    cells = torch.empty(batch, steps + 1, units, **made)
    cells[:, 0] = controller.cell
    return Arrays(fed, torch.empty(batch, steps, sums, **made), cells, torch.empty(batch, steps, size, **made))


def gradients(fed: Tensor, d_gates: Tensor, d_interface: Tensor, first: Tensor, d_cell: Tensor, read: int) -> list[Any]:
    """Of everything in `Controller`, in its order. first: of (r, h) before the first step, [batch, read + units]."""
    before, after = fed[:, :-1].flatten(0, 1), fed[:, 1:, read:].flatten(0, 1)
    return [
        d_gates,
        before.mT @ d_gates.flatten(0, 1),
        d_interface.flatten(0, 1).mT @ after,
        d_interface.sum((0, 1)),
        first[:, :read],
        first[:, read:],
        d_cell,
    ]
