"""The fused scan of LRUA against its reference: values, gradients, extremes, segments, threads, bits."""

from __future__ import annotations

import subprocess
import sys
from itertools import product
from typing import Any

import pytest
import torch
from fused import agree, network, normal, results, scan_of, sequence, tensors
from hypothesis import given, settings
from hypothesis import strategies as st

from mann.kernels import sequence as segments
from mann.learner import State, reference
from mann.lrua import LRUA, LRUAState

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


def used(net: Any, batch: int, time: int, seed: int = 0, scale: float = 1.0) -> tuple[torch.Tensor, State]:
    """A sequence from a memory in use: no two usages tie, for rounding would break a tie differently in each path."""
    projected, state = sequence(net, batch, time, seed, scale)
    memory, usage, weights = (normal(*t.shape, seed=seed + 3, like=t) for t in state.memory)
    return projected, state._replace(memory=LRUAState(memory, 3 * usage.abs(), weights.softmax(2)))


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


def test_one_slot_that_is_broken_is_not_the_least_used() -> None:
    net = lrua()
    projected, state = used(net, batch=1, time=1)
    state.memory.usage[0, :6] = torch.tensor([torch.nan, torch.inf, 3.0, torch.nan, 2.0, torch.inf])
    agree(net, projected, state, FIXED)


def test_the_gradient_is_that_of_differences() -> None:
    net = lrua(slots=4, width=2, heads=2, gate="parameter", units=3)
    projected, state = used(net, batch=2, time=3)
    alpha = net.memory.alpha
    inputs = (projected, net.controller.recurrent, net.interface.weight, net.interface.bias, alpha, *tensors(state))
    leaves = [t.detach().clone().requires_grad_() for t in inputs]
    leaves[-2].requires_grad_(False)  # usage

    def outputs(projected: Any, recurrent: Any, weight: Any, bias: Any, alpha: Any, *state_: Any) -> Any:
        net.controller.recurrent, net.interface.weight, net.interface.bias = recurrent, weight, bias
        net.memory.alpha = alpha
        hidden, cell, read, memory, usage, weights = state_
        given = State(type(state.controller)(hidden, cell), read, LRUAState(memory, usage, weights))
        hidden, reads, after = scan_of(net)(net, projected, given)
        return hidden, reads, after.controller.cell, after.memory.memory, after.memory.weights

    for module, names in (
        (net.controller, ["recurrent"]),
        (net.interface, ["weight", "bias"]),
        (net.memory, ["alpha"]),
    ):
        for name in names:
            delattr(module, name)
    assert torch.autograd.gradcheck(outputs, leaves, eps=1e-6, atol=1e-5, rtol=1e-4)


def test_a_gradient_can_be_differentiated_again() -> None:
    found = []
    net = lrua()
    for run in (reference, scan_of(net)):
        projected, state = used(net, batch=2, time=3)
        projected.requires_grad_()
        hidden, reads, _ = run(net, projected, state)
        (first,) = torch.autograd.grad(hidden.square().sum() + reads.sum(), projected, create_graph=True)
        found.append(torch.autograd.grad(first.square().sum(), (projected, net.memory.alpha, net.interface.weight)))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_what_is_given_stays_as_it_was_and_backward_can_run_twice() -> None:
    net = lrua()
    projected, state = used(net, batch=2, time=4)
    before = [t.clone() for t in (projected, *tensors(state))]
    leaf = projected.clone().requires_grad_()
    hidden, reads, after = scan_of(net)(net, leaf, state)
    assert all(torch.equal(a, b) for a, b in zip(before, (projected, *tensors(state)), strict=True))
    assert not after.memory.usage.requires_grad
    twice = [torch.autograd.grad(hidden.sum() + reads.sum(), leaf, retain_graph=True)[0] for _ in range(2)]
    assert torch.equal(*twice)


@pytest.mark.parametrize("slots", [1, 3, 7, 12, 33, 128])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_slots_that_hold_the_same_are_used_the_same_to_the_bit(slots: int, dtype: torch.dtype) -> None:
    net = lrua(dtype, slots=slots, width=5, heads=1, start="uniform")
    projected, state = sequence(net, batch=3, time=1)
    usage = scan_of(net)(net, projected, state)[2].memory.usage
    assert (usage[:, 1:] == usage[:, -1:]).all(), "slot 0 was written; nothing tells the others apart"


def test_twice_the_same_bits_and_threads_do_not_matter() -> None:
    net = lrua(torch.float32, units=20, slots=24, width=6, heads=4)
    given = used(net, batch=7, time=9)
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 1, 2, 2, 3):
            torch.set_num_threads(count)
            found.append(results(scan_of(net), net, *given, FIXED))
    finally:
        torch.set_num_threads(threads)
    for name, value in found[0].items():
        assert torch.equal(found[1][name], value), name
        assert torch.equal(found[2][name], found[3][name]), name
        if not name.startswith("gradient of controller.") and not name.startswith("gradient of interface."):
            assert torch.equal(found[2][name], value), f"{name}: only sums over the batch depend on threads"
            assert torch.equal(found[4][name], value), name


@pytest.mark.parametrize("room", [0, 5000])
def test_segments_that_are_computed_again_give_the_same(monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    net = lrua()
    given = used(net, batch=2, time=11)
    whole = results(scan_of(net), net, *given, FIXED)
    monkeypatch.setattr(segments, "ROOM", room)
    parts = results(scan_of(net), net, *given, FIXED)
    for name, value in whole.items():
        if name == "gradient of controller.recurrent":  # a sum over time, now of sums
            torch.testing.assert_close(parts[name], value, rtol=1e-12, atol=1e-14)
        else:
            assert torch.equal(parts[name], value), name
    agree(net, *given, FIXED)


def test_without_gradients_the_same_bits() -> None:
    net = lrua()
    projected, state = used(net, batch=2, time=2 * segments.FLEETING + 3)
    with_, without = scan_of(net)(net, projected.clone().requires_grad_(), state), None
    with torch.no_grad():
        without = scan_of(net)(net, projected, state)
    assert all(torch.equal(a, b) for a, b in zip(tensors(with_), tensors(without), strict=True))
    assert not without[0].requires_grad


LONG = """
import resource, torch
from fused import network, scan_of
from mann.learner import State
from mann.lrua import LRUA
torch.manual_seed(0)
net = network(LRUA(slots=128, width=40, heads=4), 200, dtype=torch.float32)
projected = torch.randn(16, 5000, 800, requires_grad=True)
like = projected.detach()
state = State(net.controller.initial_state(16, like), like.new_zeros(16, 160), net.memory.initial_state(16, like))
hidden, reads, _ = scan_of(net)(net, projected, state)
(hidden.sum() + reads.sum()).backward()
assert projected.grad.isfinite().all()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.mark.long
def test_five_thousand_steps_take_less_than_two_gibibytes() -> None:
    done = subprocess.run([sys.executable, "-c", LONG], capture_output=True, text=True, cwd="tests")
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 2048, f"{done.stdout} MiB"
