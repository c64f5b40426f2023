from __future__ import annotations

import io
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bench.api import BenchError
from mann.delta import EPSILON, Delta, DeltaOptions, DeltaState, LinearAttention, delta_chunked, delta_sequential, write

CHOICES = [
    {"rule": rule, "feature": feature, "normalise": normalise}
    for rule, feature, normalise in product(("delta", "sum"), ("silu", "elu", "dpfp"), ("l2", "sum"))
]
SIZES = {"width": 3, "heads": 2}


def interfaces(memory: Delta, steps: int, batch: int = 2, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(steps, batch, memory.interface_size, dtype=torch.float64, generator=generator)


def run(memory: Delta, steps: Tensor, state: DeltaState | None = None) -> tuple[Tensor, DeltaState]:
    state = memory.initial_state(steps.shape[1], steps) if state is None else state
    reads = []
    for interface in steps:
        read, state = memory(interface, state)
        reads.append(read)
    return torch.stack(reads), state


def phi(x: np.ndarray, o: DeltaOptions, linear: bool) -> np.ndarray:
    if o.feature == "silu":
        found = x / (1 + np.exp(-x))
    elif o.feature == "elu":
        found = np.where(x > 0, x + 1, np.exp(x))
    else:
        both = [max(z, 0.0) for z in (*x, *-x)]
        found = np.array([both[i] * both[i - 1] for i in range(len(both))])
    if linear:
        return found
    size = np.sqrt(sum(found**2)) if o.normalise == "l2" else sum(abs(found))
    return found / max(size, EPSILON)


def transcription(interface: np.ndarray, o: DeltaOptions) -> np.ndarray:
    """Schlag 2021, §4.2 and Katharopoulos 2020, eq. 18-20, for one sequence; one head after the other."""
    size = o.heads * o.width
    linear = o.rule == "sum" and o.feature != "silu"
    reads = np.zeros((len(interface), o.heads, o.width))
    for h in range(o.heads):
        part = slice(h * o.width, (h + 1) * o.width)
        weights: Any = 0.0
        total: Any = 0.0
        for t, step in enumerate(interface):
            q = phi(step[:size][part], o, linear)
            k = phi(step[size : 2 * size][part], o, linear)
            v = step[2 * size : 3 * size][part]
            if o.rule == "delta":
                beta = 1 / (1 + np.exp(-step[3 * size + h]))
                old = weights @ k if t else 0.0
                weights = weights + beta * np.outer(v - old, k)
            else:
                weights = weights + np.outer(v, k)
            total = total + k
            reads[t, h] = weights @ q / (total @ q + EPSILON) if linear else weights @ q
    return reads.reshape(len(interface), -1)


@pytest.mark.parametrize("choice", CHOICES, ids=lambda c: "-".join(c.values()))
def test_equals_the_transcription_of_the_papers(choice: dict[str, Any]) -> None:
    memory = Delta(**SIZES, **choice)
    steps = interfaces(memory, steps=9)
    reads, _ = run(memory, steps)
    for row in range(2):
        expected = transcription(steps[:, row].numpy(), memory.options)
        np.testing.assert_allclose(reads[:, row].numpy(), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("choice", CHOICES, ids=lambda c: "-".join(c.values()))
def test_a_sequence_by_chunks_equals_the_steps(choice: dict[str, Any], chunk: int) -> None:
    memory = Delta(**SIZES, **choice)
    steps = interfaces(memory, steps=7)
    _, state = run(memory, interfaces(memory, steps=2, seed=1))
    expected, after = run(memory, steps, state)
    reads, weights = memory.sequence(steps.transpose(0, 1), state, chunk)
    torch.testing.assert_close(reads.transpose(0, 1), expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(weights.weights, after.weights, rtol=1e-10, atol=1e-10)


@settings(max_examples=40, deadline=None, database=None, derandomize=True)
@given(
    sizes=st.tuples(*[st.integers(1, 4)] * 4),
    time=st.integers(0, 20),
    chunk=st.integers(1, 25),
    rule=st.sampled_from(["delta", "sum"]),
    seed=st.integers(0, 100),
)
def test_chunked_equals_sequential(
    sizes: tuple[int, int, int, int], time: int, chunk: int, rule: Any, seed: int
) -> None:
    batch, heads, key, value = sizes
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(batch, heads, *shape, dtype=torch.float64, generator=generator)

    keys = torch.nn.functional.normalize(draw(time, key), dim=3)
    inputs = [draw(time, key), keys, draw(time, value), draw(time).sigmoid(), draw(key, value)]
    inputs = [part.requires_grad_() for part in inputs]
    pull = draw(time + key, value)
    found = []
    for outputs in (delta_sequential(*inputs, rule), delta_chunked(*inputs, rule, chunk)):
        whole = torch.cat(outputs, 2)
        gradients = torch.autograd.grad((whole * pull).sum(), inputs, materialize_grads=True)
        found.append((whole, *gradients))
    for expected, actual in zip(*found, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("choice", CHOICES, ids=lambda c: "-".join(c.values()))
def test_gradients_of_the_step(choice: dict[str, Any]) -> None:
    memory = Delta(width=2, heads=2, **choice)
    steps = interfaces(memory, steps=2, batch=2).requires_grad_()
    weights = torch.rand_like(memory.initial_state(2, steps).weights).requires_grad_()
    assert torch.autograd.gradcheck(lambda s, w: run(memory, s, DeltaState(w))[0], (steps, weights), fast_mode=True)


def test_an_open_gate_replaces_and_a_closed_one_changes_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(2, 4, 3, dtype=torch.float64, generator=generator)
    key = torch.nn.functional.normalize(torch.randn(2, 4, dtype=torch.float64, generator=generator), dim=1)
    value = torch.randn(2, 3, dtype=torch.float64, generator=generator)
    opened = write(weights, key, value, torch.ones(2).double(), "delta")
    torch.testing.assert_close(torch.bmm(key.unsqueeze(1), opened).squeeze(1), value)
    across = torch.randn(2, 4, dtype=torch.float64, generator=generator)
    across -= (across * key).sum(1, keepdim=True) * key
    torch.testing.assert_close(torch.bmm(across.unsqueeze(1), opened), torch.bmm(across.unsqueeze(1), weights))
    assert torch.equal(write(weights, key, value, torch.zeros(2).double(), "delta"), weights)


def test_the_delta_rule_keeps_as_many_pairs_as_a_key_is_wide_and_replaces_them_by_key() -> None:
    keys, values = torch.eye(4).double().expand(1, 1, 4, 4), torch.randn(1, 1, 8, 3).double()
    gates, empty = torch.ones(1, 1, 8).double(), torch.zeros(1, 1, 4, 3).double()
    twice = torch.cat((keys, keys), 2)
    _, weights = delta_sequential(twice, twice, values, gates, empty)
    torch.testing.assert_close(weights, values[:, :, 4:])
    _, summed = delta_sequential(twice, twice, values, gates, empty, "sum")
    torch.testing.assert_close(summed, values[:, :, :4] + values[:, :, 4:])


def test_linear_attention_is_attention_with_another_kernel() -> None:
    memory = Delta(width=3, heads=1, rule="sum", feature="elu")
    steps = interfaces(memory, steps=6, batch=1)
    queries, keys, values = steps[:, 0].split(3, 1)
    scores = ((torch.nn.functional.elu(queries) + 1) @ (torch.nn.functional.elu(keys) + 1).T).tril()
    expected = scores / scores.sum(1, keepdim=True) @ values
    torch.testing.assert_close(run(memory, steps)[0][:, 0], expected, rtol=1e-5, atol=1e-5)


def test_a_sum_does_not_know_the_order_of_its_writes_and_the_delta_rule_does() -> None:
    for choice in CHOICES:
        memory = Delta(**SIZES, **choice)
        steps = interfaces(memory, 5)
        one, other = run(memory, steps)[1].weights, run(memory, steps.flip(0))[1].weights
        assert torch.allclose(one, other) == (choice["rule"] == "sum")


def test_heads_are_memories_of_their_own() -> None:
    memory = Delta(width=3, heads=3)
    steps = interfaces(memory, 6)
    order = [2, 0, 1]
    vectors, gates = steps.split((27, 3), 2)
    permuted = torch.cat((vectors.unflatten(2, (3, 3, 3))[..., order, :].flatten(2), gates[..., order]), 2)
    expected = run(memory, steps)[0].unflatten(2, (3, 3))[:, :, order].flatten(2)
    torch.testing.assert_close(run(memory, permuted)[0], expected)


def test_rows_of_a_batch_never_influence_each_other() -> None:
    memory = Delta(**SIZES)
    steps = interfaces(memory, 8, batch=3)
    changed = steps.clone()
    changed[:, 1] = 5
    a, b = run(memory, steps)[0], run(memory, changed)[0]
    assert torch.equal(a[:, [0, 2]], b[:, [0, 2]])
    assert not torch.allclose(a[:, 1], b[:, 1])


def test_the_state_is_left_as_it_was_and_survives_a_file() -> None:
    memory = Delta(**SIZES, feature="dpfp")
    _, state = run(memory, interfaces(memory, 3))
    before = state.weights.clone()
    memory(interfaces(memory, 1)[0], state)
    assert torch.equal(state.weights, before)
    file = io.BytesIO()
    torch.save(tuple(state), file)
    file.seek(0)
    assert torch.equal(DeltaState(*torch.load(file, weights_only=True)).weights, state.weights)


def test_it_has_no_addresses() -> None:
    memory = Delta(**SIZES)
    step = interfaces(memory, 1)[0]
    assert memory.addresses(step, memory.initial_state(2, step)) is None


@pytest.mark.parametrize("choice", CHOICES, ids=lambda c: "-".join(c.values()))
def test_nothing_breaks_on_zero_or_huge_inputs(choice: dict[str, Any]) -> None:
    memory = Delta(width=4, heads=2, **choice)
    for scale in (0.0, 1.0, 1e4):
        pattern = torch.ones(100, 2, memory.interface_size)
        pattern[::2, :, ::3] = -1
        steps = (scale * pattern).requires_grad_()
        reads, state = run(memory, steps)
        reads.sum().backward()
        assert reads.isfinite().all()
        assert state.weights.isfinite().all()
        assert steps.grad is not None
        assert steps.grad.isfinite().all()


@pytest.mark.parametrize("choice", CHOICES, ids=lambda c: "-".join(c.values()))
def test_a_thousand_steps_stay_finite(choice: dict[str, Any]) -> None:
    memory = Delta(width=4, heads=2, **choice)
    with torch.no_grad():
        for scale in (0.0, 1e4):
            reads, _ = run(memory, scale * interfaces(memory, 50).float().repeat(20, 1, 1))
            assert reads.isfinite().all()


@pytest.mark.parametrize("wrong", [{"heads": 0}, {"width": 0}])
def test_sizes_that_do_not_fit_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(BenchError, match="at least 1"):
        Delta(**wrong)


def test_a_chunk_without_steps_is_refused() -> None:
    memory = Delta(**SIZES)
    steps = interfaces(memory, 2).transpose(0, 1)
    with pytest.raises(BenchError, match="at least one step"):
        memory.sequence(steps, memory.initial_state(2, steps), chunk=0)


def test_the_method_of_linear_attention_is_the_cell_with_sums() -> None:
    assert LinearAttention().memory(None).divides  # type: ignore[arg-type]
