"""The fused scans of SAM and SDNC against their references: values, gradients, ties, states, extremes, bits.

What no number tells apart may be taken in any order, and then all that follows differs. So inputs are without ties,
but where ties are what is tested: there the reference's own rounding must not break them.
"""

from __future__ import annotations

import math
from typing import Any

import fused
import pytest
import torch
from fused import agree, network, normal, scan_of, sequence, tensors
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bench.api import BenchError
from mann.kernels import registry
from mann.kernels import sequence as segments
from mann.learner import State, fork, reference
from mann.sam import SAM, SAMState
from mann.sdnc import SDNC, SDNCState

pytest.importorskip("numba")

from mann.kernels import numba_topk
from mann.kernels.numba_math import callable_from_python
from mann.kernels.numba_topk import MOST

topk = callable_from_python(numba_topk.topk)
SIZES = {"slots": 9, "width": 3, "reads": 2, "k": 3}
BUFFERS = ("memory", "slots", "usage", "table", "clock", "step")
LINKS = ("before", "strength", "after", "precedence.slots", "precedence.weights")
FIXED = (*BUFFERS, *(f"sam.{name}" for name in BUFFERS), *LINKS)
"""What of a state has no gradient."""
USAGES = pytest.mark.parametrize("usage", ["u1", "u2"])
BOTH = pytest.mark.parametrize("kind", [SAM, SDNC])


def sparse(
    kind: Any = SAM, dtype: torch.dtype = torch.float64, units: int = 6, feed_read: bool = True, **options: Any
) -> Any:
    torch.manual_seed(0)
    sizes = SIZES | ({"links": 4} if kind is SDNC else {}) | options
    return network(kind(**sizes), units, feed_read, dtype)


def sam_of(state: State) -> SAMState:
    return state.memory.sam if isinstance(state.memory, SDNCState) else state.memory


def used(net: Any, batch: int, time: int, seed: int = 0, scale: float = 1.0) -> tuple[Tensor, State]:
    """A sequence from a memory in use."""
    projected, state = sequence(net, batch, time, seed, scale)
    memory, rows = state.memory, sam_of(state).memory
    rows.copy_(normal(*rows.shape, seed=seed + 3, like=rows))
    with torch.no_grad():
        for step in range(5):
            _, memory = net.memory(normal(batch, net.memory.interface_size, seed=seed + 10 + step, like=rows), memory)
    return projected, state._replace(memory=memory)


@pytest.fixture
def rounded_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal rows have equal cosines in the reference: a matrix product may round them by where they lie."""

    def cosine(keys: Tensor, rows: Tensor, epsilon: float = 1e-6) -> Tensor:
        lengths = [(torch.linalg.vector_norm(x, dim=2).square() + epsilon).rsqrt() for x in (keys, rows)]
        return (keys.unsqueeze(2) * rows.unsqueeze(1)).sum(3) * (lengths[0].unsqueeze(2) * lengths[1].unsqueeze(1))

    monkeypatch.setattr("mann.index.cosine", cosine)
    monkeypatch.setattr("mann.sam.cosine", cosine)


@settings(max_examples=80)
@given(
    slots=st.integers(1, 80), width=st.integers(1, 20), reads=st.integers(1, 6), k=st.integers(1, 9),
    units=st.integers(1, 24), batch=st.integers(1, 7), time=st.integers(1, 12), usage=st.sampled_from(["u1", "u2"]),
    decay=st.floats(0.1, 0.999), threshold=st.floats(0.001, 0.5), feed_read=st.booleans(), seed=st.integers(0, 1000),
)  # fmt: skip
def test_equals_the_reference_at_any_size(
    slots: int, width: int, reads: int, k: int, units: int, batch: int, time: int, usage: str, decay: float,
    threshold: float, feed_read: bool, seed: int,
) -> None:  # fmt: skip
    net = sparse(units=units, feed_read=feed_read, slots=slots, width=width, reads=reads, k=min(k, slots), usage=usage,
              decay=decay, threshold=threshold)  # fmt: skip
    agree(net, *used(net, batch, time, seed), FIXED)


@settings(max_examples=60)
@given(
    slots=st.integers(1, 300), width=st.integers(1, 12), reads=st.integers(1, 4), k=st.integers(1, 4),
    batch=st.integers(1, 4), time=st.integers(1, 9), usage=st.sampled_from(["u1", "u2"]), seed=st.integers(0, 1000),
)  # fmt: skip
@pytest.mark.usefixtures("rounded_alike")
def test_slots_that_are_alike_are_taken_in_the_reference_s_order(
    slots: int, width: int, reads: int, k: int, batch: int, time: int, usage: str, seed: int
) -> None:
    net = sparse(slots=slots, width=width, reads=reads, k=min(k, slots), usage=usage)
    agree(net, *sequence(net, batch, time, seed), FIXED)


@USAGES
@pytest.mark.parametrize("seed", range(3))
@BOTH
def test_equals_the_reference_in_float32(kind: Any, usage: str, seed: int) -> None:
    net = sparse(kind, torch.float32, units=50, slots=64, width=10, reads=4, k=4, usage=usage)
    agree(net, *used(net, batch=5, time=8, seed=seed), FIXED, tolerance=1e-4)


@BOTH
def test_equals_the_reference_in_float32_at_the_usual_sizes(kind: Any) -> None:
    net = sparse(kind, torch.float32, units=200, slots=128, width=40, reads=4, k=4)
    agree(net, *used(net, batch=16, time=6), FIXED, tolerance=1e-4)


@USAGES
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("kind", "scale"),
    [*((SAM, x) for x in (0.0, 1e4, -1e4, math.nan, math.inf)), *((SDNC, x) for x in (0.0, 1e4, -1e4, math.inf))],
)
def test_equals_the_reference_at_extremes(kind: Any, scale: float, dtype: torch.dtype, usage: str) -> None:
    net = sparse(kind, dtype, slots=16, width=8, usage=usage)
    with torch.no_grad():
        net.interface.weight *= 1e4 if abs(scale) == 1e4 else 1
    projected, state = used(net, batch=2, time=6)
    projected = torch.where(projected > 0, 1.0, -1.0).to(dtype) * scale
    # A strength β of 1e4 multiplies the rounding of a cosine.
    single = 1e-2 if abs(scale) == 1e4 else 1e-4
    # Weights that are 0 but for rounding leave links whose order rounding decides; nothing of them is read.
    last = kind is SAM
    agree(net, projected, state, FIXED, tolerance=1e-10 if dtype == torch.float64 else single, last=last)


@pytest.mark.parametrize("slots", [4096, 4097, 9000])
@BOTH
def test_a_large_memory_is_searched_in_parts_as_the_reference_does(kind: Any, slots: int) -> None:
    net = sparse(kind, slots=slots, k=4)
    agree(net, *used(net, batch=2, time=3), FIXED)


@pytest.mark.parametrize("levels", [1, 2, 5, 1000])
def test_the_largest_come_in_the_order_of_torch(levels: int) -> None:
    random = torch.Generator().manual_seed(levels)
    for n in (*range(1, 40), 64, 128, 255, 256, 700, 1300):
        for k in {1, min(n, 4), min(n, MOST)}:
            values = torch.randint(levels, (n,), generator=random).double()
            if n > 9 and k > 1:
                values[n // 2] = torch.nan
            order = torch.empty(n, dtype=torch.int64)
            topk(values.numpy(), order.numpy(), k)
            assert torch.equal(order[:k], values.topk(k).indices), (n, k)


@BOTH
def test_what_is_given_stays_as_it_was_and_backward_can_run_twice(kind: Any) -> None:
    net = sparse(kind)
    projected, state = used(net, batch=2, time=4)
    before = [t.clone() for t in (projected, *tensors(state))]
    leaf = projected.clone().requires_grad_()
    hidden, reads, after = scan_of(net)(net, leaf, state)
    twice = [torch.autograd.grad(hidden.sum() + reads.sum(), leaf, retain_graph=True)[0] for _ in range(2)]
    assert torch.equal(*twice)
    assert all(torch.equal(a, b) for a, b in zip(before, (projected, *tensors(state)), strict=True))
    assert not sam_of(after).memory.requires_grad
    assert sam_of(after).flow.untyped_storage().nbytes() == 8, "the flow takes no storage"
    shared = {t.data_ptr() for t in tensors(state.memory) if t.numel()}
    assert not shared & {t.data_ptr() for t in tensors(after.memory) if t.numel()}


@USAGES
@BOTH
def test_a_sequence_in_parts_and_by_turns_is_the_whole(kind: Any, usage: str) -> None:
    net = sparse(kind, usage=usage)
    projected, state = used(net, batch=2, time=9)
    found = []
    for runs in ([reference], [scan_of(net)] * 3, [scan_of(net), reference, scan_of(net)]):
        leaf, given = projected.clone().requires_grad_(), fork(state, 1)
        reads = []
        for run, part in zip(runs, leaf.tensor_split(len(runs), 1), strict=True):
            _, read, given = run(net, part, given)
            reads.append(read)
        last = [t.clone() for t in tensors(given)]
        (normal(2, 9, net.memory.read_size, like=leaf) * torch.cat(reads, 1)).sum().backward()
        found.append([torch.cat(reads, 1), *last, leaf.grad])
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


@BOTH
def test_gradients_run_through_a_fork(kind: Any) -> None:
    net = sparse(kind)
    projected, state = used(net, batch=2, time=5)
    queries, found = normal(6, 2, 24, seed=5, like=projected), []
    for run in (reference, scan_of(net)):
        leaf = projected.clone().requires_grad_()
        _, _, after = run(net, leaf, fork(state, 1))
        _, reads, _ = run(net, queries, fork(after, 3))
        found.append((reads.detach().clone(), *torch.autograd.grad(reads.square().sum(), leaf)))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


@BOTH
def test_an_outdated_state_is_refused(kind: Any) -> None:
    net = sparse(kind)
    projected, state = used(net, batch=2, time=2)
    with torch.no_grad():
        reference(net, projected, state)
    with pytest.raises(BenchError, match=r"outdated.*copy"):
        scan_of(net)(net, projected, state)


@BOTH
def test_a_gradient_has_a_graph_and_like_the_reference_s_cannot_be_differentiated_again(kind: Any) -> None:
    net = sparse(kind)
    found = []
    for run in (reference, scan_of(net)):
        projected, state = used(net, batch=2, time=3)
        projected.requires_grad_()
        hidden, reads, after = run(net, projected, state)
        loss = hidden.square().sum() + reads.sum() + sam_of(after).flow.sum()
        (first,) = torch.autograd.grad(loss, projected, create_graph=True)
        found.append(first)
        with pytest.raises(RuntimeError, match="once_differentiable"):
            first.square().sum().backward()
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-12)


@USAGES
@BOTH
def test_twice_the_same_bits_and_threads_do_not_matter(kind: Any, usage: str) -> None:
    net = sparse(kind, torch.float32, units=20, slots=24, width=6, reads=4, usage=usage)
    fused.twice_the_same_bits_and_threads_do_not_matter(net, FIXED, used)


@pytest.mark.parametrize("room", [0, 5000])
@BOTH
def test_segments_that_are_computed_again_give_the_same(kind: Any, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    fused.segments_give_the_same(monkeypatch, sparse(kind), room, FIXED, used)


@BOTH
def test_without_gradients_the_same_bits(kind: Any) -> None:
    fused.without_gradients_the_same_bits(sparse(kind), used)


@pytest.mark.parametrize(
    ("kind", "options", "says"),
    [
        (SAM, {"search": "lsh"}, "search=lsh"), (SAM, {"k": 18, "slots": 20}, "k=18"),
        (SDNC, {"search": "lsh"}, "search=lsh"), (SDNC, {"links": 18, "slots": 20}, "links=18"),
    ],
)  # fmt: skip
def test_what_cannot_be_taken_says_why(kind: Any, options: dict[str, Any], says: str) -> None:
    net = sparse(kind, **options)
    found = registry.find(net, "cpu")
    assert isinstance(found, registry.Scan)
    assert says in str(registry.refusal(found, net, *sequence(net, 1, 1)))
    assert registry.refusal(found, sparse(kind), *sequence(sparse(kind), 1, 1)) is None


@BOTH
def test_the_trace_does_not_grow_with_the_slots(kind: Any) -> None:
    kept = []
    for slots in (32, 4096):
        net = sparse(kind, slots=slots)
        projected, state = sequence(net, batch=2, time=10)
        hidden, _, _ = scan_of(net)(net, projected.requires_grad_(), state)
        kept.append(sum(part.nbytes for part in hidden.grad_fn.trace))  # type: ignore[union-attr]
    assert kept[0] == kept[1]


def test_what_is_broken_breaks_what_is_read_and_nothing_else() -> None:
    """SDNC may link other slots than its reference once numbers are NaN; which row of the batch is lost is the same."""
    net = sparse(SDNC)
    projected, state = used(net, batch=3, time=6)
    projected[1, 2:] = math.nan
    for run in (reference, scan_of(net)):
        leaf = projected.clone().requires_grad_()
        hidden, reads, _ = run(net, leaf, fork(state, 1))
        (gradient,) = torch.autograd.grad(hidden.sum() + reads.sum(), leaf)
        for found in (hidden, reads, gradient):
            assert found[[0, 2]].isfinite().all()
        assert hidden[1, 2:].isnan().all()
        assert reads[1, 2:].isnan().all()


def test_a_large_memory_is_not_copied_to_save_a_small_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "ROOM", 0)
    starts = {}
    for slots in (9, 4096):
        net = sparse(slots=slots)
        projected, state = sequence(net, batch=2, time=11)
        hidden, _, _ = scan_of(net)(net, projected.requires_grad_(), state)
        starts[slots] = len(hidden.grad_fn.starts)  # type: ignore[union-attr]
    assert starts == {9: 3, 4096: 0}
