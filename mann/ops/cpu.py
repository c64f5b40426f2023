"""CPU kernels as variants of the ops that `bench profile` times. numba is imported by the first call."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from bench.api import Outputs, variant


@variant("read", "numba", devices=("cpu",), dtypes=("float32", "float64"))
def read(self: Any, weights: Tensor, memory: Tensor) -> Outputs:
    """One pass over the memory."""
    from mann.kernels.read import WeightedRead

    return WeightedRead.apply(weights, memory)
