"""The fused scan of LRUA against its reference: values, gradients, extremes, segments, threads, bits."""

from __future__ import annotations

from itertools import product
from typing import Any

import fused
import pytest
import torch
from fused import agree, network, scan_of, sequence, used
from hypothesis import given, settings
from hypothesis import strategies as st

from mann.controllers import LSTMController
from mann.kernels import registry
from mann.lrua import LRUA

pytest.importorskip("numba")

CHOICES: dict[str, tuple[Any, ...]] = {
    "read": ("before", "after"),
    "write_value": ("key", "separate"),
    "head_slots": ("shared", "per-head"),
    "erase": ("one", "all"),
    "gate": ("parameter", "controller"),
}
COMBINATIONS = [dict(zip(CHOICES, values, strict=True)) for values in product(*CHOICES.values())]
DEFAULTS = LRUA().options
FIXED = ("usage",)
"""What of the state has no gradient."""


def lrua(dtype: torch.dtype = torch.float64, units: int = 6, feed_read: bool = True, **options: Any) -> Any:
    torch.manual_seed(0)
    memory = LRUA(**({"slots": 7, "width": 3, "heads": 2} | options))
    if memory.alpha is not None:
        torch.nn.init.constant_(memory.alpha, -0.7)
    return network(memory, units, feed_read, dtype)


@pytest.mark.parametrize("feed_read", [True, False])
@pytest.mark.parametrize("options", COMBINATIONS, ids=lambda c: "-".join(c.values()))
def test_equals_the_reference_with_all_options(options: dict[str, Any], feed_read: bool) -> None:
    net = lrua(feed_read=feed_read, **options)
    agree(net, *used(net, batch=3, time=6), FIXED)


@settings(max_examples=60)
@given(
    slots=st.integers(1, 40), width=st.integers(1, 20), heads=st.integers(1, 9), units=st.integers(1, 24),
    batch=st.integers(1, 9), time=st.integers(1, 9), options=st.sampled_from(COMBINATIONS), feed_read=st.booleans(),
    decay=st.floats(0, 1), seed=st.integers(0, 1000),
)  # fmt: skip
def test_equals_the_reference_at_any_size(
    slots: int, width: int, heads: int, units: int, batch: int, time: int, options: dict[str, Any], feed_read: bool,
    decay: float, seed: int,
) -> None:  # fmt: skip
    heads = min(heads, slots)
    net = lrua(units=units, feed_read=feed_read, slots=slots, width=width, heads=heads, decay=decay, **options)
    agree(net, *used(net, batch, time, seed), FIXED)


@pytest.mark.parametrize("start", ["first", "uniform"])
@pytest.mark.parametrize("constant", [1e-6, 0.0])
@pytest.mark.parametrize("order", ["before", "after"])
def test_equals_the_reference_from_an_empty_memory(start: Any, constant: float, order: Any) -> None:
    # Slots that nothing tells apart may be taken in any order, and rounding makes the reference take them in one of its
    # own: what is read is the same, where it lies is not.
    net = lrua(slots=32, width=8, heads=4, start=start, constant=constant, read=order)
    agree(net, *sequence(net, batch=3, time=12), ("memory", "usage", "weights"), last=False)


@pytest.mark.parametrize("options", COMBINATIONS[::5], ids=lambda c: "-".join(c.values()))
@pytest.mark.parametrize("seed", range(2))
def test_equals_the_reference_in_float32(options: dict[str, Any], seed: int) -> None:
    net = lrua(torch.float32, units=50, slots=32, width=10, heads=4, **options)
    agree(net, *used(net, batch=5, time=10, seed=seed), FIXED, tolerance=1e-4)


def test_equals_the_reference_in_float32_at_the_papers_sizes() -> None:
    net = lrua(torch.float32, units=200, slots=128, width=40, heads=4)
    agree(net, *used(net, batch=16, time=10), FIXED, tolerance=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [0.0, 1e4, -1e4, float("nan"), float("inf")])
def test_equals_the_reference_at_extremes(scale: float, dtype: torch.dtype) -> None:
    net = lrua(dtype, gate="controller", slots=16, width=8, heads=4)
    with torch.no_grad():
        net.interface.weight *= 1 if scale == 0 or scale != scale or scale in (float("inf"),) else 1e4
    projected, state = used(net, batch=2, time=8)
    projected = torch.where(projected > 0, 1.0, -1.0).to(dtype) * scale
    agree(net, projected, state, FIXED, tolerance=1e-10 if dtype == torch.float64 else 1e-4)


@pytest.mark.parametrize("decay", [0.0, 0.95])
def test_an_initial_usage_gets_its_gradient_where_one_is_wanted(decay: float) -> None:
    net = lrua(decay=decay)
    agree(net, *used(net, batch=3, time=5))


def test_one_slot_that_is_broken_is_not_the_least_used() -> None:
    net = lrua()
    projected, state = used(net, batch=1, time=1)
    state.memory.usage[0, :6] = torch.tensor([torch.nan, torch.inf, 3.0, torch.nan, 2.0, torch.inf])
    agree(net, projected, state, FIXED)


def test_the_gradient_is_that_of_differences() -> None:
    net = lrua(slots=4, width=2, heads=2, gate="parameter", units=3)
    fused.gradient_is_that_of_differences(net, *used(net, batch=2, time=3), FIXED)


def test_a_gradient_can_be_differentiated_again() -> None:
    net = lrua()
    fused.gradient_can_be_differentiated_again(net, net.memory.alpha, net.interface.weight)


def test_what_is_given_stays_as_it_was_and_backward_can_run_twice() -> None:
    after = fused.given_stays_as_it_was_and_backward_can_run_twice(lrua())
    assert not after.memory.usage.requires_grad


@pytest.mark.parametrize("slots", [1, 3, 7, 12, 33, 128])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_slots_that_hold_the_same_are_used_the_same_to_the_bit(slots: int, dtype: torch.dtype) -> None:
    net = lrua(dtype, slots=slots, width=5, heads=1, start="uniform")
    projected, state = sequence(net, batch=3, time=1)
    usage = scan_of(net)(net, projected, state)[2].memory.usage
    assert (usage[:, 1:] == usage[:, -1:]).all(), "slot 0 was written; nothing tells the others apart"


def test_twice_the_same_bits_and_threads_do_not_matter() -> None:
    net = lrua(torch.float32, units=20, slots=24, width=6, heads=4)
    fused.twice_the_same_bits_and_threads_do_not_matter(net, FIXED)


@pytest.mark.parametrize("room", [0, 5000])
def test_segments_that_are_computed_again_give_the_same(monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    fused.segments_give_the_same(monkeypatch, lrua(), room, FIXED)


def test_without_gradients_the_same_bits() -> None:
    fused.without_gradients_the_same_bits(lrua())


def test_compiling_leaves_random_numbers_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "SCANS", {})
    registry.scan(LRUA, LSTMController, compile=lambda dtype: torch.rand(3, dtype=dtype))(lambda *call: call)
    before = torch.random.get_rng_state()
    registry.SCANS["cpu", LRUA, LSTMController].compile(torch.float32)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.long
def test_five_thousand_steps_take_less_than_two_gibibytes() -> None:
    fused.so_many_steps_take_less_than(5000, 2048, "LRUA(slots=128, width=40, heads=4)")
