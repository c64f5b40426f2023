"""Reading a memory in one pass by numba equals the product, in values and gradients."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mann.addressing import weighted_read

pytest.importorskip("numba")


@settings(max_examples=25)
@given(
    st.integers(1, 3),
    st.integers(1, 9),
    st.integers(1, 23) | st.integers(1020, 1030) | st.integers(2046, 2053),
    st.integers(1, 20),
    st.integers(0, 99),
)
def test_it_equals_the_product(batch: int, heads: int, slots: int, width: int, seed: int) -> None:
    from mann.kernels.read import WeightedRead

    random = torch.Generator().manual_seed(seed)
    shapes = ((batch, heads, slots), (batch, slots, width), (batch, heads, width))
    weights, memory, grad = (torch.randn(shape, generator=random, dtype=torch.float64) for shape in shapes)
    given = (weights.requires_grad_(), memory.requires_grad_())
    expected, found = weighted_read(*given), WeightedRead.apply(*given)
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=0)
    for one, other in zip(*(torch.autograd.grad(out, given, grad) for out in (expected, found)), strict=True):
        torch.testing.assert_close(one, other, atol=1e-10, rtol=0)


def test_a_memory_that_lies_otherwise_is_read_all_the_same() -> None:
    from mann.kernels.read import WeightedRead

    weights, memory = torch.rand(2, 9, 3).mT, torch.rand(2, 5, 9).mT
    torch.testing.assert_close(WeightedRead.apply(weights, memory), weighted_read(weights, memory))
