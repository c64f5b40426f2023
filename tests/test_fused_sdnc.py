"""The fused scan of SDNC against its reference, where that of SAM differs (`test_fused_sam.py`): links."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fused import agree, normal, scan_of, sequence
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("numba")

from test_fused_sam import FIXED, rounded_alike, sparse, used  # noqa: F401

from mann.learner import State, fork, reference
from mann.sdnc import SDNC


@settings(max_examples=80)
@given(
    slots=st.integers(1, 60), width=st.integers(1, 12), reads=st.integers(1, 4), k=st.integers(1, 5),
    links=st.integers(1, 9), units=st.integers(1, 24), batch=st.integers(1, 6), time=st.integers(1, 20),
    usage=st.sampled_from(["u1", "u2"]), threshold=st.floats(0.001, 0.3), feed_read=st.booleans(),
    seed=st.integers(0, 1000),
)  # fmt: skip
def test_equals_the_reference_at_any_size(
    slots: int, width: int, reads: int, k: int, links: int, units: int, batch: int, time: int, usage: str,
    threshold: float, feed_read: bool, seed: int,
) -> None:  # fmt: skip
    net = sparse(SDNC, units=units, feed_read=feed_read, slots=slots, width=width, reads=reads, k=min(k, slots),
                 links=min(links, slots), usage=usage, threshold=threshold)  # fmt: skip
    agree(net, *used(net, batch, time, seed), FIXED)


@settings(max_examples=40)
@given(
    slots=st.integers(1, 300), width=st.integers(1, 12), reads=st.integers(1, 4), k=st.integers(1, 4),
    links=st.integers(1, 9), batch=st.integers(1, 4), time=st.integers(1, 2), usage=st.sampled_from(["u1", "u2"]),
    seed=st.integers(0, 1000),
)  # fmt: skip
@pytest.mark.usefixtures("rounded_alike")
def test_slots_that_are_alike_are_taken_in_the_reference_s_order(
    slots: int, width: int, reads: int, k: int, links: int, batch: int, time: int, usage: str, seed: int
) -> None:
    """Two steps: from the third on the reference sums links, and rounds slots that are alike apart."""
    net = sparse(SDNC, slots=slots, width=width, reads=reads, k=min(k, slots), links=min(links, slots), usage=usage)
    agree(net, *sequence(net, batch, time, seed), FIXED)


def strong(net: Any, batch: int, time: int) -> tuple[torch.Tensor, State]:
    """A sequence in which much is written, to new slots and old ones."""
    with torch.no_grad():
        net.interface.weight *= 3
    return used(net, batch, time, scale=2.0)


@pytest.mark.parametrize("links", [1, 2, 4, 12])
def test_links_are_the_reference_s_after_many_steps(links: int) -> None:
    net = sparse(SDNC, slots=12, k=3, links=links)
    projected, state = strong(net, batch=3, time=60)
    with torch.no_grad():
        expected = reference(net, projected, fork(state, 1))[2].memory
        found = scan_of(net)(net, projected, state)[2].memory
    assert (expected.strength > 0.01).any()
    for name in ("before", "after"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name
    torch.testing.assert_close(found.strength, expected.strength, rtol=1e-8, atol=1e-10)
    assert torch.equal(found.precedence.slots, expected.precedence.slots)
    torch.testing.assert_close(found.precedence.weights, expected.precedence.weights, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("way", range(3))
def test_gradients_are_the_reference_s_in_each_way_of_reading(way: int) -> None:
    net = sparse(SDNC)
    with torch.no_grad():
        modes = net.interface.bias[-3 * net.memory.options.reads :].view(-1, 3)
        modes[:, way] += 6
    agree(net, *strong(net, batch=2, time=9), FIXED)


def test_the_precedence_of_a_state_matters() -> None:
    """What is given of links is used: without it other slots are read."""
    net = sparse(SDNC)
    projected, state = strong(net, batch=2, time=6)
    bare = state._replace(memory=state.memory._replace(strength=torch.zeros_like(state.memory.strength)))
    weights = normal(2, 6, net.memory.read_size, like=projected)
    with torch.no_grad():
        linked, unlinked = (scan_of(net)(net, projected, each)[1] for each in (state, bare))
    assert not torch.allclose((linked * weights).sum(), (unlinked * weights).sum())
    agree(net, projected, bare, FIXED)
