"""The fused scan of NTM against its reference: values, gradients, extremes, segments, threads, bits."""

from __future__ import annotations

from functools import partial
from typing import Any

import fused
import pytest
import torch
from fused import agree, network, scan_of, sequence, used
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from bench import registry
from bench.api import generator
from bench.tasks.glyphs import GlyphsOnline
from mann.kernels import registry as kernels
from mann.learner import reference
from mann.ntm import NTM

pytest.importorskip("numba")

HEADS = [(1, 1, 1), (3, 1, 0), (1, 3, 2), (2, 2, 3), (4, 4, 1), (5, 6, 1)]
"""Reading heads, writing heads, shift."""
STARTS = ("constant", "random", "learned")
ORDERS = ("before", "after")


def ntm(dtype: torch.dtype = torch.float64, units: int = 6, feed_read: bool = True, **options: Any) -> Any:
    torch.manual_seed(0)
    return network(NTM(**({"slots": 7, "width": 3, "reads": 2, "writes": 2} | options)), units, feed_read, dtype)


@pytest.mark.parametrize("feed_read", [True, False])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("heads", HEADS, ids=str)
def test_equals_the_reference_with_all_options(heads: tuple[int, int, int], order: str, feed_read: bool) -> None:
    reads, writes, shift = heads
    net = ntm(feed_read=feed_read, reads=reads, writes=writes, shift=shift, read=order)
    agree(net, *used(net, batch=3, time=6))


@settings(max_examples=60)
@given(
    slots=st.integers(1, 40), width=st.integers(1, 20), reads=st.integers(1, 9), writes=st.integers(1, 9),
    shift=st.integers(0, 19), units=st.integers(1, 24), batch=st.integers(1, 9), time=st.integers(1, 9),
    order=st.sampled_from(ORDERS), feed_read=st.booleans(), seed=st.integers(0, 1000),
)  # fmt: skip
def test_equals_the_reference_at_any_size(
    slots: int, width: int, reads: int, writes: int, shift: int, units: int, batch: int, time: int, order: str,
    feed_read: bool, seed: int,
) -> None:  # fmt: skip
    heads = {"reads": min(reads, slots), "writes": min(writes, slots), "shift": min(shift, (slots - 1) // 2)}
    net = ntm(units=units, feed_read=feed_read, slots=slots, width=width, read=order, **heads)
    agree(net, *used(net, batch, time, seed))


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("constant", [1e-6, 0.0, 0.3])
@pytest.mark.parametrize("order", ORDERS)
def test_equals_the_reference_from_the_start(start: str, constant: float, order: str) -> None:
    net = ntm(slots=32, width=8, reads=3, start=start, constant=constant, read=order)
    agree(net, *sequence(net, batch=3, time=12))


def test_a_learned_start_gets_its_gradient() -> None:
    net, found = ntm(start="learned"), []
    projected, state = sequence(net, batch=3, time=5)
    for run in (reference, scan_of(net)):
        hidden, reads, _ = run(net, projected, state._replace(memory=net.memory.initial_state(3, projected)))
        found.append(torch.autograd.grad(hidden.square().sum() + reads.square().sum(), net.memory.start)[0])
    torch.testing.assert_close(*found, rtol=1e-10, atol=1e-14)
    assert found[0].abs().max() > 0


@pytest.mark.parametrize("heads", HEADS, ids=str)
@pytest.mark.parametrize("order", ORDERS)
def test_equals_the_reference_in_float32(heads: tuple[int, int, int], order: str) -> None:
    reads, writes, shift = heads
    net = ntm(torch.float32, units=50, slots=32, width=10, reads=reads, writes=writes, shift=shift, read=order)
    agree(net, *used(net, batch=5, time=10), tolerance=1e-4)


@pytest.mark.parametrize(("width", "heads", "units"), [(40, 4, 200), (20, 1, 100)])
def test_equals_the_reference_in_float32_at_the_papers_sizes(width: int, heads: int, units: int) -> None:
    net = ntm(torch.float32, units=units, slots=128, width=width, reads=heads, writes=heads)
    agree(net, *used(net, batch=16, time=10), tolerance=1e-4)


# With interfaces of thousands γ is as large, and each step multiplies what rounding left apart by it: one step, then.
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("weights", "time"), [(1.0, 8), (10.0, 8), (1e4, 1)])
@pytest.mark.parametrize("scale", [0.0, 1e4, -1e4, float("nan"), float("inf")])
def test_equals_the_reference_at_extremes(scale: float, weights: float, time: int, dtype: torch.dtype) -> None:
    net = ntm(dtype, slots=16, width=8)
    with torch.no_grad():
        net.interface.weight *= weights
    projected, state = used(net, batch=2, time=time)
    projected = torch.where(projected > 0, 1.0, -1.0).to(dtype) * scale
    agree(net, projected, state, tolerance=1e-10 if dtype == torch.float64 else 1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("weights", "time"), [(1.0, 30), (1e4, 1)])
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4, -1e4])
def test_an_empty_memory_gives_no_nan(scale: float, weights: float, time: int, dtype: torch.dtype) -> None:
    net = ntm(dtype, slots=16, width=8, constant=0.0)
    with torch.no_grad():
        net.interface.weight *= weights
    found = fused.results(scan_of(net), net, *sequence(net, batch=1, time=time, scale=scale))
    assert all(value.isfinite().all() for value in found.values())


def test_the_gradient_is_that_of_differences() -> None:
    net = ntm(slots=5, width=2, reads=1, writes=2, shift=2, units=3)
    fused.gradient_is_that_of_differences(net, *used(net, batch=2, time=3))


def test_a_gradient_can_be_differentiated_again() -> None:
    net = ntm()
    fused.gradient_can_be_differentiated_again(net, net.controller.recurrent, net.interface.weight)


def test_what_is_given_stays_as_it_was_and_backward_can_run_twice() -> None:
    fused.given_stays_as_it_was_and_backward_can_run_twice(ntm())


def test_twice_the_same_bits_and_threads_do_not_matter() -> None:
    net = ntm(torch.float32, units=20, slots=24, width=6, reads=4, writes=3)
    fused.twice_the_same_bits_and_threads_do_not_matter(net)


@pytest.mark.parametrize("room", [0, 5000])
def test_segments_that_are_computed_again_give_the_same(monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    fused.segments_give_the_same(monkeypatch, ntm(), room)


def test_without_gradients_the_same_bits() -> None:
    fused.without_gradients_the_same_bits(ntm())


@pytest.mark.parametrize(("fields", "ran"), [
    ({}, "fused"), ({"reads": 4, "writes": 4, "start": "learned"}, "fused"), ({"controller": "gru"}, "reference"),
    ({"ablate": "frozen"}, "reference"),
])  # fmt: skip
def test_a_learner_takes_it_by_itself_where_it_fits(fields: dict[str, Any], ran: str) -> None:
    task = GlyphsOnline(size=4)
    learner = registry.METHODS.entries["ntm"](slots=8, width=4, controller_size=5, **fields).build(task)
    learner.use("auto")
    episode = task.sample("train", 2, generator("fused"))
    learner.loss(episode, task).backward()
    assert learner.ran == {ran}
    assert all(p.grad is not None and p.grad.isfinite().all() for p in learner.parameters())


@pytest.mark.long
def test_five_thousand_steps_take_less_than_two_gibibytes() -> None:
    fused.so_many_steps_take_less_than(5000, 2048, "NTM(slots=128, width=40, reads=4, writes=4)")


def test_the_first_call_may_be_in_inference_mode() -> None:
    """What compiles must not leave tensors that no backward pass may hold."""
    task = GlyphsOnline(size=4)
    learner = registry.METHODS.entries["ntm"](slots=8, width=4, controller_size=5).build(task)
    found_scan = kernels.find(learner, "cpu")
    assert not isinstance(found_scan, str)
    found_scan.compile.cache_clear()  # type: ignore[attr-defined]
    episode = task.sample("train", 2, generator("fused"))
    with torch.inference_mode():
        found = learner.stream(*episode.query)
    learner.backend = "reference"
    assert torch.allclose(found, learner.stream(*episode.query), atol=1e-5)


class Scaled(nn.Linear):
    """Is a linear map, but for a factor."""

    def forward(self, x: Tensor) -> Tensor:
        return 10 * super().forward(x)


@pytest.mark.parametrize("made", [Scaled, partial(nn.Linear, bias=False), lambda n, m: nn.Sequential(nn.Linear(n, m))])
def test_another_interface_gets_the_reference(made: Any) -> None:
    task = GlyphsOnline(size=4)
    learner = registry.METHODS.entries["ntm"](slots=8, width=4, controller_size=5).build(task)
    learner.interface = made(5, learner.memory.interface_size)
    learner.use("auto")
    learner.stream(*task.sample("train", 2, generator("fused")).query)
    assert learner.ran == {"reference"}
