"""Whether and how the Triton kernels can run: what a machine, a dtype or a size lacks, in one sentence.

Imports no Triton, so that it can be asked anywhere.
"""

from __future__ import annotations

from importlib.util import find_spec

import torch
from torch import Tensor

from bench.api import BenchError

LARGEST = 16384
"""Cells of a memory that one block keeps in its registers, slots and width rounded up to powers of two."""


def interpreted() -> bool:
    """Whether Triton's kernels run in its interpreter, on the CPU (TRITON_INTERPRET=1 before they are imported)."""
    from triton import knobs

    return bool(knobs.runtime.interpret)


def missing(device: torch.device) -> str | None:
    """Why Triton's kernels cannot run on a device, in one sentence; None where they can."""
    if find_spec("triton") is None:
        return "the GPU kernels need Triton: pip install 'mannbench[gpu]', on Linux"
    if device.type == "cuda":
        return None
    if interpreted():
        return None
    return f"the GPU kernels run on CUDA devices, not on {device.type}; TRITON_INTERPRET=1 runs them slowly on the CPU"


def oversized(slots: int, width: int) -> str | None:
    """Why a scan cannot keep a memory of so many slots on chip; None where it can."""
    padded = power_of_two(slots) * power_of_two(width)
    if padded <= LARGEST:
        return None
    return (
        f"a scan keeps the memory of an episode in one block's registers, {LARGEST} cells at most with slots and width "
        f"rounded up to powers of two, but {slots} x {width} needs {padded}; use backend=reference"
    )


def require(tensor: Tensor) -> None:
    """Refuse what the kernels cannot take.

    Raises:
        BenchError: no Triton, no CUDA device, or a dtype without a kernel.
    """
    reason = missing(tensor.device)
    if reason and tensor.device.type != "meta":  # on which kernels are compiled only
        raise BenchError(reason)
    if tensor.dtype not in (torch.float32, torch.float64, torch.bfloat16):
        raise BenchError(f"the GPU kernels take float32, bfloat16 and float64, not {str(tensor.dtype).split('.')[1]}")


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """What a kernel computes in, and keeps memory in: float32 unless the input is float64."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def power_of_two(size: int) -> int:
    """The smallest power of two that is not below a size: what Triton's tensors have."""
    return 1 << max(size - 1, 0).bit_length()
