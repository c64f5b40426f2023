"""The GPU kernels as variants of the ops that `bench profile` times. Triton is imported by the first call."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from bench.api import Outputs, variant
from mann.addressing import queries
from mann.lrua import LRUAState

ALL = ("float32", "float64", "bfloat16")


@variant("content", "triton", devices=("cuda",), dtypes=ALL)
def content(self: Any, memory: Tensor, keys: Tensor, strengths: Tensor) -> Outputs:
    """One pass over the memory, which is read with the weights in the same pass."""
    from mann.kernels.triton_content import content_read

    return content_read(queries(keys, strengths), memory, soft=True)[1]


@variant("erase-add", "triton", devices=("cuda",), dtypes=ALL)
def erase_add(self: Any, memory: Tensor, weights: Tensor, erase: Tensor, add: Tensor) -> Outputs:
    """One pass over the memory."""
    from mann.kernels.triton_write import erase_and_add

    return erase_and_add(memory, weights, erase, add)


@variant("lrua-step", "triton", devices=("cuda",))
def lrua_step(self: Any, interface: Tensor, memory: Tensor, usage: Tensor, weights: Tensor) -> Outputs:
    """A scan of one step."""
    from mann.kernels.triton_lrua import lrua_scan

    reads, state = lrua_scan(self.cell, interface.unsqueeze(1), LRUAState(memory, usage, weights))
    return reads.squeeze(1), *state


@variant("lrua-scan", "triton", devices=("cuda",))
def lrua(self: Any, interface: Tensor) -> Outputs:
    """One launch a sequence."""
    from mann.kernels.triton_lrua import lrua_scan

    return lrua_scan(self.cell, interface, self.cell.initial_state(len(interface), interface))[0]


@variant("ntm-scan", "triton", devices=("cuda",))
def ntm(self: Any, interface: Tensor) -> Outputs:
    """One launch a sequence."""
    from mann.kernels.triton_ntm import ntm_scan

    return ntm_scan(self.cell, interface, self.cell.initial_state(len(interface), interface))[0]
