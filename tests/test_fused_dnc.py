"""The fused scan of DNC against its reference: values, gradients, extremes, segments, spans, threads, bits."""

from __future__ import annotations

import dataclasses
from itertools import product
from typing import Any

import fused
import pytest
import torch
from fused import agree, network, normal, results, scan_of, sequence, tensors
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.api import generator
from bench.tasks.glyphs import GlyphsOnline
from mann.dnc import ADNC, DNC, DNCMD, UNUSED, DNCMethod, DNCState, allocation
from mann.learner import State

pytest.importorskip("numba")

from mann.kernels import cpu_dnc, numba_dnc_steps
from mann.kernels.numba_math import callable_from_python

allocate, allocate_backward, sort = map(
    callable_from_python, (numba_dnc_steps.allocate, numba_dnc_steps.allocate_backward, numba_dnc_steps.sort)
)
SWITCHES = ("links", "masked", "wipe", "sharp_links", "layer_norm")
COMBINATIONS = [dict(zip(SWITCHES, on, strict=True)) for on in product((True, False), repeat=len(SWITCHES))
                if on[0] or not on[3]]  # fmt: skip
NAMED: list[dict[str, Any]] = [{}, {"links": False, "layer_norm": True}, {"masked": True, "wipe": True}]
"""dnc, adnc, dnc-md."""


def name(choice: dict[str, Any]) -> str:
    return "-".join(key for key, on in choice.items() if on) or "plain"


def dnc(dtype: torch.dtype = torch.float64, units: int = 6, feed_read: bool = True, **options: Any) -> Any:
    torch.manual_seed(0)
    memory = DNC(**{"slots": 7, "width": 3, "reads": 2} | options)
    if memory.norm is not None:
        for parameter in memory.norm.parameters():
            torch.nn.init.uniform_(parameter, 0.5, 2)
    return network(memory, units, feed_read, dtype)


def used(net: Any, batch: int, time: int, seed: int = 0, scale: float = 1.0) -> tuple[torch.Tensor, State]:
    """A sequence from a memory in use: no two usages tie, for rounding would break a tie differently in each path."""
    projected, state = sequence(net, batch, time, seed, scale)
    memory, usage, links, precedence, read, written = (normal(*t.shape, seed=seed + 3, like=t) for t in state.memory)
    links = links.abs() / max(links.shape[1], 1)
    precedence = precedence.softmax(2) if precedence.numel() else precedence
    given = DNCState(memory, usage.sigmoid(), links, precedence, read.softmax(2), written.softmax(2) / 2)
    return projected, state._replace(memory=given)


@pytest.mark.parametrize("feed_read", [True, False])
@pytest.mark.parametrize("options", COMBINATIONS, ids=name)
def test_equals_the_reference_with_all_options(options: dict[str, Any], feed_read: bool) -> None:
    agree(dnc(feed_read=feed_read, **options), *used(dnc(**options), batch=3, time=6))


@settings(max_examples=60)
@given(
    slots=st.integers(1, 40), width=st.integers(1, 20), reads=st.integers(1, 9), units=st.integers(1, 24),
    batch=st.integers(1, 9), time=st.integers(1, 11), options=st.sampled_from(COMBINATIONS), feed_read=st.booleans(),
    seed=st.integers(0, 1000),
)  # fmt: skip
def test_equals_the_reference_at_any_size(
    slots: int, width: int, reads: int, units: int, batch: int, time: int, options: dict[str, Any], feed_read: bool,
    seed: int,
) -> None:  # fmt: skip
    net = dnc(units=units, feed_read=feed_read, slots=slots, width=width, reads=min(reads, slots), **options)
    agree(net, *used(net, batch, time, seed))


@pytest.mark.parametrize("options", NAMED, ids=name)
@pytest.mark.parametrize("time", [1, 12])
def test_equals_the_reference_from_an_empty_memory(time: int, options: dict[str, Any]) -> None:
    # Slots that nothing tells apart may be taken in any order, and rounding makes the reference take them in one of its
    # own: what is read is the same, where it lies is not.
    net = dnc(slots=32, width=8, reads=4, **options)
    fixed = DNCState._fields
    agree(net, *sequence(net, batch=3, time=time), fixed, last=False)


@pytest.mark.parametrize("options", [*NAMED, COMBINATIONS[0]], ids=name)
@pytest.mark.parametrize("seed", range(2))
def test_equals_the_reference_in_float32(options: dict[str, Any], seed: int) -> None:
    net = dnc(torch.float32, units=50, slots=32, width=10, reads=4, **options)
    agree(net, *used(net, batch=5, time=10, seed=seed), tolerance=1e-4)


@pytest.mark.parametrize("options", NAMED, ids=name)
def test_equals_the_reference_in_float32_at_the_papers_sizes(options: dict[str, Any]) -> None:
    net = dnc(torch.float32, units=200, slots=128, width=40, reads=4, **options)
    agree(net, *used(net, batch=4, time=10), tolerance=1e-4)


@pytest.mark.parametrize("options", NAMED, ids=name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [0.0, 1e4, -1e4])
def test_equals_the_reference_at_extremes(scale: float, dtype: torch.dtype, options: dict[str, Any]) -> None:
    net = dnc(dtype, slots=16, width=8, reads=4, **options)
    projected, state = used(net, batch=2, time=8)
    projected = torch.where(projected > 0, 1.0, -1.0).to(dtype) * scale
    found = results(scan_of(net), net, projected, state)
    assert all(t.isfinite().all() for t in found.values())
    agree(net, projected, state, tolerance=1e-10 if dtype == torch.float64 else 1e-4)


@pytest.mark.parametrize("options", NAMED, ids=name)
def test_what_is_broken_breaks_what_it_breaks_in_the_reference(options: dict[str, Any]) -> None:
    net = dnc(**options)
    projected, state = used(net, batch=2, time=4)
    projected[1, 2, 0] = torch.nan
    agree(net, projected, state)


@given(
    slots=st.integers(1, 40), zeros=st.integers(0, 40), ones=st.integers(0, 5), ties=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float64]), seed=st.integers(0, 1000),
)  # fmt: skip
def test_allocates_as_the_reference_in_float64_does_where_many_slots_are_unused(
    slots: int, zeros: int, ones: int, ties: bool, dtype: torch.dtype, seed: int
) -> None:
    random = torch.Generator().manual_seed(seed)
    usage = torch.rand(slots, generator=random, dtype=torch.float64).float().double()
    usage = (4 * usage).round() / 4 if ties else usage
    places = torch.randperm(slots, generator=random)
    usage[places[:ones]], usage[places[ones : ones + zeros]] = 1.0, 0.0
    weights = torch.randn(slots, generator=random, dtype=torch.float64).float().double()
    leaf = usage.clone().requires_grad_()
    expected = allocation(leaf.unsqueeze(0))[0]
    (slope,) = torch.autograd.grad(expected @ weights, leaf)

    given = usage.to(dtype).numpy()
    order = places.clone().numpy()
    allocated, found, room = (usage.new_zeros(slots).to(dtype).numpy() for _ in range(3))
    sort(given, order, places.clone().numpy())
    allocate(given, order, allocated)
    allocate_backward(weights.to(dtype).numpy(), given, order, found, room)
    assert (torch.from_numpy(order) == usage.sort(stable=True).indices).all()
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(torch.from_numpy(allocated).double(), expected.detach(), rtol=0, atol=tolerance)
    # One part in UNUSED of the slope is of products of all usages, which only float64 has.
    torch.testing.assert_close(torch.from_numpy(found).double(), slope, rtol=0, atol=10 * tolerance + UNUSED)


def test_the_order_takes_the_lowest_index_first_and_what_is_broken_last() -> None:
    usage = torch.tensor([torch.nan, 1.0, 0.5, torch.inf, 0.5, torch.nan, -0.0, 0.0, 1.0])
    for start in (range(9), reversed(range(9))):
        order = torch.tensor(list(start)).numpy()
        sort(usage.numpy(), order, order.copy())
        assert order.tolist() == usage.sort(stable=True).indices.tolist() == [6, 7, 2, 4, 1, 8, 3, 0, 5]


@pytest.mark.parametrize("options", NAMED, ids=name)
def test_the_gradient_is_that_of_differences(options: dict[str, Any]) -> None:
    net = dnc(slots=4, width=2, reads=2, units=3, **options)
    projected, state = used(net, batch=2, time=3)
    leaves = [t.detach().clone().requires_grad_() for t in (projected, *tensors(state))]

    def outputs(projected: Any, hidden: Any, cell: Any, read: Any, *memory: Any) -> Any:
        given = State(type(state.controller)(hidden, cell), read, DNCState(*memory))
        hidden, reads, after = scan_of(net)(net, projected, given)
        return tuple(t for t in (hidden, reads, *tensors(after)) if t.numel())

    assert torch.autograd.gradcheck(outputs, leaves, eps=1e-6, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("options", NAMED, ids=name)
def test_a_gradient_can_be_differentiated_again(options: dict[str, Any]) -> None:
    net = dnc(**options)
    fused.gradient_can_be_differentiated_again(net, net.interface.weight, *net.memory.parameters(), used=used)


def test_what_is_given_stays_as_it_was_and_backward_can_run_twice() -> None:
    after = fused.given_stays_as_it_was_and_backward_can_run_twice(dnc(), used)
    assert after.memory.usage.requires_grad


@pytest.mark.parametrize("slots", [1, 3, 7, 12, 33, 128])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_slots_that_hold_the_same_are_used_the_same_to_the_bit(slots: int, dtype: torch.dtype) -> None:
    net = dnc(dtype, slots=slots, width=5, reads=1)
    projected, state = sequence(net, batch=3, time=2)
    usage = scan_of(net)(net, projected, state)[2].memory.usage
    assert (usage[:, 1:] == usage[:, -1:]).all(), "slot 0 was allocated; nothing tells the others apart"


@pytest.mark.parametrize("options", NAMED, ids=name)
def test_twice_the_same_bits_and_threads_do_not_matter(options: dict[str, Any]) -> None:
    net = dnc(torch.float32, units=20, slots=24, width=6, reads=4, **options)
    fused.twice_the_same_bits_and_threads_do_not_matter(net, used=used)


@pytest.mark.parametrize("options", NAMED, ids=name)
def test_segments_that_are_computed_again_give_the_same(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    fused.segments_give_the_same(monkeypatch, dnc(**options), 0, used=used)


@pytest.mark.parametrize("count", [1, 2, 11])
def test_however_often_links_are_kept_they_are_the_same(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    net = dnc(slots=19)
    given = used(net, batch=2, time=11)
    usual = results(scan_of(net), net, *given)
    monkeypatch.setattr(cpu_dnc, "spans", lambda steps: count)
    for key, value in results(scan_of(net), net, *given).items():
        assert torch.equal(usual[key], value), key


@pytest.mark.parametrize("options", NAMED, ids=name)
def test_without_gradients_the_same_bits(options: dict[str, Any]) -> None:
    fused.without_gradients_the_same_bits(dnc(**options), used)


@pytest.mark.parametrize("method", [DNCMethod, ADNC, DNCMD])
def test_the_methods_take_it(method: type[DNCMethod]) -> None:
    torch.manual_seed(0)
    task = GlyphsOnline()
    learner = dataclasses.replace(method(), slots=8, width=4, reads=2, controller_size=8).build(task)
    episode = task.sample("train", 2, generator("fused"))
    learner.use("fused")
    learner.loss(episode, task).backward()
    assert learner.ran == {"fused"}


@pytest.mark.long
def test_two_thousand_steps_take_less_than_two_gibibytes() -> None:
    fused.so_many_steps_take_less_than(2000, 2048, "DNC(slots=128, width=40, reads=4)")
