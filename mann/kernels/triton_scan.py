"""What the scans of all memories share on the host: sizes of blocks, and the arrays of a controller inside a scan."""

from __future__ import annotations

from collections.abc import Sequence
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


def forward_arguments(
    interface: Tensor | None, controller: tuple[Any, ...], read: int, dtype: torch.dtype
) -> dict[str, Any]:
    """What the forward kernel of any memory is given besides its own: interface, reads and the controller's arrays.

    One of `interface` and `controller` is there; the other is None, or a tuple of them. `fed`, which is no argument, is
    (r, h) before each step and after the last, [batch, time + 1, read + units].
    """
    names = ("projected", "recurrent", "gates", "cells", "weight", "bias", "fed")
    made: dict[str, Any] = dict.fromkeys(names)
    room: dict[str, Any] = {"dtype": dtype, "device": (controller[0] if interface is None else interface).device}
    if interface is not None:
        made["interface"] = interface.contiguous()
        reads = torch.empty(*interface.shape[:2], read, **room)
    else:
        given = Controller(*controller)
        (batch, steps, sums), size = given.projected.shape, given.weight.shape[0]
        made["projected"], made["recurrent"], made["bias"] = (
            tensor.contiguous() for tensor in (given.projected, given.recurrent, given.bias)
        )
        made["weight"] = given.weight.mT.contiguous()
        made["gates"] = torch.empty(batch, steps, sums, **room)
        made["interface"] = torch.empty(batch, steps, size, **room)
        made["cells"] = cells = torch.empty(batch, steps + 1, sums // 4, **room)
        made["fed"] = fed = torch.empty(batch, steps + 1, read + sums // 4, **room)
        cells[:, 0], fed[:, 0, :read], fed[:, 0, read:] = given.cell, given.read, given.hidden
        reads = fed[:, 1:]
    return made | {"reads": reads, "reads_row": reads.stride(0), "reads_step": reads.stride(1)}


def backward_arguments(
    d_out: Tensor, d_last: Tensor | None, interface: Tensor, fed: Tensor | None, kept: Sequence[Any], dtype: torch.dtype
) -> dict[str, Any]:
    """The same for the backward kernel. d_out: of `fed`, or of the reads; d_last: of the last cell.

    kept: gates, cells, recurrent and weight, or None for each.
    """
    names = ("recurrent", "gates", "cells", "weight", "carry", "d_hidden", "d_cell", "d_gates")
    made: dict[str, Any] = dict.fromkeys(names)
    d_reads = d_out.contiguous()
    if fed is not None:
        gates, cells, recurrent, weight = kept
        d_reads = d_reads[:, 1:]
        made["recurrent"], made["weight"] = recurrent.mT.contiguous(), weight.contiguous()
        made["gates"], made["cells"], made["d_gates"] = gates, cells, torch.empty_like(gates)
        made["carry"], made["d_hidden"] = torch.zeros_like(fed[:, 0]), torch.empty_like(cells[:, 0])
        made["d_cell"] = own(torch.zeros_like(cells[:, 0]) if d_last is None else d_last, dtype)
    d_interface = torch.empty(interface.shape, dtype=dtype, device=interface.device)
    return made | {
        "interface": interface, "d_interface": d_interface, "d_reads": d_reads, "reads_row": d_reads.stride(0),
        "reads_step": d_reads.stride(1),
    }  # fmt: skip


def controller_gradients(made: dict[str, Any], d_out: Tensor, fed: Tensor | None) -> list[Any]:
    """Of everything in `Controller`, in its order, after the backward kernel; None where there is none."""
    if fed is None:
        return [None] * len(Controller._fields)
    read = fed.shape[2] - made["cells"].shape[2]
    d_gates, d_interface = made["d_gates"], made["d_interface"]
    first = d_out[:, 0] + made["carry"]
    return [
        d_gates,
        fed[:, :-1].flatten(0, 1).mT @ d_gates.flatten(0, 1),
        d_interface.flatten(0, 1).mT @ fed[:, 1:, read:].flatten(0, 1),
        d_interface.sum((0, 1)),
        first[:, :read],
        first[:, read:],
        made["d_cell"],
    ]


def own(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """A copy for a kernel to write to, contiguous and in the dtype that it computes in."""
    return tensor.to(dtype, copy=True, memory_format=torch.contiguous_format)


def dtypes(tensors: tuple[Any, ...]) -> list[torch.dtype | None]:
    """Of tensors, and None of what is none."""
    return [tensor.dtype if isinstance(tensor, Tensor) else None for tensor in tensors]


def cast(gradients: list[Any], wanted: list[torch.dtype | None]) -> tuple[Any, ...]:
    """Gradients in the dtypes of what they belong to."""
    return tuple(g if g is None else g.to(dtype) for g, dtype in zip(gradients, wanted, strict=True))
