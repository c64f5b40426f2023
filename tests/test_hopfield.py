"""Modern Hopfield networks: retrieval against the paper's equations, its theorems as limits, and the ring of slots."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from bench.api import BenchError
from mann import Hopfield, unroll
from mann.hopfield import HopfieldState


def filled(memory: Hopfield, patterns: Tensor) -> HopfieldState:
    """patterns: [stored, width], the same in each of two rows."""
    state = memory.initial_state(2, patterns)
    for pattern in patterns:
        state = memory.store(pattern.expand(2, -1), state)
    return state


def signs(count: int, width: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(2, (count, width), generator=generator).double() * 2 - 1


def energy(state_patterns: Tensor, patterns: Tensor, beta: float) -> Tensor:
    """E(ξ) but for its constant (eq. 1, 2). state_patterns: [n, width]; patterns: [stored, width]."""
    return state_patterns.square().sum(1) / 2 - (beta * state_patterns @ patterns.T).logsumexp(1) / beta


def test_a_read_is_the_paper_s_equation() -> None:
    """Eq. 3 step by step for one sequence, in NumPy, over more writes than there are slots."""
    memory = Hopfield(slots=4, width=3, heads=2, beta=2.5, updates=3)
    interface = torch.randn(
        1, 11, memory.interface_size, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    reads, state = unroll(memory, interface)
    columns: list[np.ndarray] = []
    for step, found in zip(np.tanh(interface[0].numpy()), reads[0].numpy(), strict=True):
        for head in range(2):
            xi = step[3 * head : 3 * head + 3]
            for _ in range(3):
                p = np.exp([2.5 * x @ xi for x in columns])
                xi = sum((w / p.sum() * x for w, x in zip(p, columns, strict=True)), np.zeros(3))
            np.testing.assert_allclose(found[3 * head : 3 * head + 3], xi, rtol=1e-12)
        columns = [*columns, step[6:9]][-4:]
    stored = {tuple(x) for x in np.round(state.patterns[0].numpy(), 12)}
    assert stored == {tuple(x) for x in np.round(columns, 12)}
    assert state.stored.tolist() == [11]


@pytest.mark.parametrize("updates", [1, 4])
def test_stored_patterns_are_recalled_exactly(updates: int) -> None:
    patterns = signs(30, 64)
    memory = Hopfield(slots=32, width=64, heads=30, beta=4.0, updates=updates)
    found, weights = memory.retrieve(patterns.expand(2, -1, -1), filled(memory, patterns))
    torch.testing.assert_close(found, patterns.expand(2, -1, -1), rtol=0, atol=1e-12)
    torch.testing.assert_close(weights[0, :, :30], torch.eye(30, dtype=torch.float64), rtol=0, atol=1e-12)


def test_half_a_pattern_recalls_the_other_half() -> None:
    patterns = signs(30, 64)
    memory = Hopfield(slots=32, width=64, heads=30, beta=4.0)
    halves = patterns * (torch.arange(64) < 32)
    found, _ = memory.retrieve(halves.expand(2, -1, -1), filled(memory, patterns))
    torch.testing.assert_close(found, patterns.expand(2, -1, -1), rtol=0, atol=1e-6)


def test_a_small_beta_reads_the_mean_and_a_large_one_the_nearest() -> None:
    patterns = signs(5, 8)
    question = torch.randn(2, 1, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for beta, expected in (
        (1e-9, patterns.mean(0).expand(2, 1, -1)),
        (1e3, patterns[(question @ patterns.T).argmax(2)]),
    ):
        memory = Hopfield(slots=7, width=8, heads=1, beta=beta)
        found, _ = memory.retrieve(question, filled(memory, patterns))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_one_update_is_attention_whose_keys_are_its_values() -> None:
    patterns, question = signs(6, 9), signs(4, 9, seed=3)
    memory = Hopfield(slots=8, width=9, heads=4, beta=9**-0.5)
    found, _ = memory.retrieve(question.expand(2, -1, -1), filled(memory, patterns))
    torch.testing.assert_close(found[0], F.scaled_dot_product_attention(question, patterns, patterns))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.05, 20), st.integers(1, 8), st.integers(1, 12))
def test_an_update_never_raises_the_energy(seed: int, beta: float, width: int, stored: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    patterns = torch.randn(stored, width, dtype=torch.float64, generator=generator)
    states = torch.randn(2, 5, width, dtype=torch.float64, generator=generator)
    memory = Hopfield(slots=12, width=width, heads=5, beta=beta)
    memory_state = filled(memory, patterns)
    before = energy(states[0], patterns, beta)
    for _ in range(3):
        states, _ = memory.retrieve(states, memory_state)
        after = energy(states[0], patterns, beta)
        assert (after <= before + 1e-12 * (1 + before.abs())).all()
        before = after


def test_updates_are_single_updates_one_after_another() -> None:
    patterns, question = signs(6, 9), torch.randn(2, 2, 9, dtype=torch.float64)
    once, thrice = (Hopfield(slots=8, width=9, heads=2, beta=0.3, updates=n) for n in (1, 3))
    state, found = filled(once, patterns), question
    for _ in range(3):
        found, weights = once.retrieve(found, state)
    many, last = thrice.retrieve(question, state)
    torch.testing.assert_close(many, found)
    torch.testing.assert_close(last, weights)
    assert not torch.allclose(once.retrieve(question, state)[0], found)


def test_the_oldest_pattern_is_replaced_and_empty_slots_get_no_weight() -> None:
    memory = Hopfield(slots=3, width=1, heads=1)
    state = memory.initial_state(1, torch.zeros(()))
    for step, held in enumerate([[1, 0, 0], [1, 2, 0], [1, 2, 3], [4, 2, 3], [4, 5, 3]], 1):
        _, weights = memory.retrieve(torch.ones(1, 1, 1), state)
        assert (weights[0, 0] > 0).tolist() == [i < step - 1 for i in range(3)]
        state = memory.store(torch.tensor([[float(step)]]), state)
        assert state.patterns.flatten().tolist() == held


def test_an_empty_memory_reads_as_zeros_with_zero_gradient() -> None:
    memory = Hopfield(slots=3, width=2, heads=2, updates=2)
    interface = torch.randn(2, memory.interface_size, requires_grad=True)
    read, _ = memory(interface, memory.initial_state(2, interface))
    read.sum().backward()
    assert (read == 0).all()
    assert interface.grad is not None
    assert (interface.grad == 0).all()


def test_addresses_are_the_weights_of_the_read_and_the_slot_of_the_write() -> None:
    memory = Hopfield(slots=4, width=3, heads=2, beta=3.0)
    _, state = unroll(memory, torch.randn(2, 2, memory.interface_size))
    interface = torch.randn(2, memory.interface_size)
    found = memory.addresses(interface, state)
    read, after = memory(interface, state)
    torch.testing.assert_close(torch.bmm(found.read, state.patterns).flatten(1), read)
    changed = (after.patterns != state.patterns).any(2)
    assert torch.equal(found.write[:, 0].bool(), changed)
    assert found.usage is not None
    assert found.usage.tolist() == [[1, 1, 0, 0]] * 2


@pytest.mark.parametrize("wrong", [{"slots": 0}, {"width": 0}, {"heads": 0}, {"updates": 0}, {"beta": 0.0}])
def test_sizes_that_do_not_fit_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(BenchError, match="a Hopfield network needs"):
        Hopfield(**wrong)
