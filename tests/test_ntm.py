from __future__ import annotations

from dataclasses import asdict
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck

from bench.api import BenchError
from mann.addressing import LEAST, SOFTENING, content, erase_and_add, queries, sharpen
from mann.ntm import NTM, NTMOptions, NTMState, shift

SIZES: dict[str, Any] = {"slots": 6, "width": 3, "reads": 2, "writes": 2, "shift": 2}
CHOICES = [{"read": r, "start": s} for r, s in product(("before", "after"), ("constant", "random", "learned"))]


def interfaces(memory: NTM, steps: int, batch: int = 2, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(steps, batch, memory.interface_size, dtype=torch.float64, generator=generator)


def run(memory: NTM, steps: Tensor) -> tuple[Tensor, list[NTMState]]:
    state = memory.initial_state(steps.shape[1], steps)
    reads, states = [], [state]
    for interface in steps:
        read, state = memory(interface, state)
        reads.append(read)
        states.append(state)
    return torch.stack(reads), states


def softplus(z: np.ndarray) -> np.ndarray:
    return np.log1p(np.exp(z))


def sigmoid(z: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-z))


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.sqrt((a @ a + SOFTENING) * (b @ b + SOFTENING)))


def transcription(steps: np.ndarray, memory: np.ndarray, o: NTMOptions) -> tuple[np.ndarray, np.ndarray]:
    """Graves 2014, eq. 2-9, for one sequence, [time, interface]; loops, written from the paper. Reads and weights."""
    heads, kernel = o.reads + o.writes, 2 * o.shift + 1
    weights = np.zeros((heads, o.slots))
    weights[:, 0] = 1
    reads, all_weights = [], []
    for step in steps:
        parts = iter(np.split(step, np.cumsum([o.width] * (heads + o.writes))))
        keys = [next(parts) for _ in range(heads)]
        add = [next(parts) for _ in range(o.writes)]
        rest = next(parts)
        beta, gamma = softplus(rest[:heads]), 1 + softplus(rest[heads : 2 * heads])
        rest = rest[2 * heads :]
        gate, erase = sigmoid(rest[:heads]), sigmoid(rest[heads : heads + o.writes * o.width]).reshape(o.writes, -1)
        shifts = np.exp(rest[heads + o.writes * o.width :].reshape(heads, kernel))
        shifts /= shifts.sum(1, keepdims=True)
        for h in range(heads):
            found = np.exp([beta[h] * cosine(keys[h], row) for row in memory])
            gated = gate[h] * found / found.sum() + (1 - gate[h]) * weights[h]
            moved = np.zeros(o.slots)
            for i in range(o.slots):
                for j in range(o.slots):
                    for k in range(kernel):
                        if (i - j) % o.slots == (o.shift - k) % o.slots:
                            moved[i] += gated[j] * shifts[h, k]
            moved = np.maximum(moved, LEAST)
            weights[h] = moved ** gamma[h] / np.sum(moved ** gamma[h])
        new = memory.copy()
        for h in range(o.writes):
            new *= 1 - np.outer(weights[o.reads + h], erase[h])
        for h in range(o.writes):
            new += np.outer(weights[o.reads + h], add[h])
        reads.append((weights[: o.reads] @ (memory if o.read == "before" else new)).ravel())
        all_weights.append(weights.copy())
        memory = new
    return np.array(reads), np.array(all_weights)


@pytest.mark.parametrize("writes", [1, 2])
@pytest.mark.parametrize("choice", CHOICES, ids=lambda c: "-".join(c.values()))
def test_equals_the_transcription_of_the_paper(choice: dict[str, Any], writes: int) -> None:
    memory = NTM(**SIZES | choice | {"writes": writes}).double()
    steps = interfaces(memory, steps=8)
    reads, states = run(memory, steps)
    for row in range(2):
        start = states[0].memory[row].detach().numpy()
        expected, weights = transcription(steps[:, row].numpy(), start, memory.options)
        np.testing.assert_allclose(reads[:, row].detach().numpy(), expected, rtol=1e-9, atol=1e-12)
        ours = torch.stack([s.weights[row] for s in states[1:]]).detach().numpy()
        np.testing.assert_allclose(ours, weights, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("writes", [1, 2])
def test_gradients_equal_finite_differences(writes: int) -> None:
    memory = NTM(slots=4, width=2, reads=2, writes=writes, start="learned").double()
    steps = interfaces(memory, steps=3, batch=1).requires_grad_()
    assert isinstance(memory.start, torch.nn.Parameter)
    with torch.no_grad():
        memory.start.mul_(3)
    assert gradcheck(lambda z, start: run(memory, z)[0], (steps, memory.start))


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 9), st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.integers(0, 3), st.integers(1, 3))
def test_weights_are_distributions(slots: int, width: int, reads: int, writes: int, reach: int, batch: int) -> None:
    if max(reads, writes) > slots or reach > (slots - 1) // 2:
        return
    memory = NTM(slots=slots, width=width, reads=reads, writes=writes, shift=reach)
    read, states = run(memory, interfaces(memory, 4, batch))
    assert read.shape == (4, batch, reads * width)
    for state in states:
        assert state.weights.shape == (batch, reads + writes, slots)
        assert (state.weights >= 0).all()
        torch.testing.assert_close(state.weights.sum(2), torch.ones(batch, reads + writes).double())


@pytest.mark.parametrize("reach", [0, 1, 3])
def test_one_hot_shifts_rotate_exactly(reach: int) -> None:
    weights = torch.randn(2, 3, 7).double().softmax(2)
    for k in range(2 * reach + 1):
        shifts = torch.zeros(2, 3, 2 * reach + 1).double()
        shifts[..., k] = 1
        assert torch.equal(shift(weights, shifts), weights.roll(reach - k, 2))


def test_a_great_power_leaves_the_largest_weight_alone() -> None:
    weights = torch.randn(2, 3, 7).double().softmax(2)
    sharp = sharpen(weights, torch.full((2, 3, 1), 1e6).double())
    assert torch.equal(sharp, torch.nn.functional.one_hot(weights.argmax(2), 7).double())
    torch.testing.assert_close(sharpen(weights, torch.ones(2, 3, 1).double()), weights)


def test_a_weight_of_zero_can_be_sharpened() -> None:
    weights = torch.tensor([[[1.0, 0, 0]]], requires_grad=True)
    sharp = sharpen(weights, torch.tensor([[[1.5]]]))
    sharp[0, 0, 1].backward()
    torch.testing.assert_close(sharp, weights)
    assert weights.grad is not None
    assert weights.grad.isfinite().all()


def settled(memory: NTM, gate: float, batch: int = 1) -> Tensor:
    """An interface of random keys that neither shifts nor sharpens; gate: before σ."""
    interface = torch.randn(batch, memory.interface_size, dtype=torch.float64)
    o, heads = memory.options, memory.heads
    powers = memory.sizes[0] + heads
    interface[:, powers : powers + heads] = -60
    interface[:, powers + heads : powers + 2 * heads] = gate
    kernels = interface[:, -memory.sizes[3] :].view(batch, heads, -1)
    kernels.zero_()
    kernels[..., o.shift] = 60
    return interface


def random_state(memory: NTM, batch: int = 1) -> NTMState:
    o = memory.options
    return NTMState(
        torch.randn(batch, o.slots, o.width, dtype=torch.float64),
        torch.randn(batch, memory.heads, o.slots, dtype=torch.float64).softmax(2),
    )


def test_a_closed_gate_keeps_the_weights_and_an_open_one_takes_the_content() -> None:
    memory = NTM(**SIZES)
    state = random_state(memory)
    kept = memory.addresses(settled(memory, gate=-60), state)
    torch.testing.assert_close(torch.cat((kept.read, kept.write), 1), state.weights)
    interface = settled(memory, gate=60)
    found = memory.addresses(interface, state)
    expected = content(state.memory, memory.parse(interface).queries)
    torch.testing.assert_close(torch.cat((found.read, found.write), 1), expected)
    assert float(kept.gates["content"]) < 1e-20
    assert float(found.gates["content"]) == 1
    assert float(found.gates["sharpening"]) == 1


def test_the_strongest_key_finds_its_row() -> None:
    memory = torch.randn(1, 8, 5).double()
    found = content(memory, queries(3 * memory[:, 2:4], torch.full((1, 2, 1), 1e4).double()))
    torch.testing.assert_close(found, torch.eye(8).double()[None, 2:4])


def test_a_full_erase_and_an_add_replace_a_row() -> None:
    memory = torch.randn(1, 4, 3).double()
    where = torch.eye(4)[None, 1:2].double()
    add = torch.randn(1, 1, 3).double()
    after = erase_and_add(memory, where, torch.ones(1, 1, 3).double(), add)
    torch.testing.assert_close(after[0, 1], add[0, 0])
    assert torch.equal(after[0, [0, 2, 3]], memory[0, [0, 2, 3]])


def test_one_head_writes_as_two_of_which_one_does_nothing() -> None:
    memory, where, erase = torch.randn(2, 4, 3), torch.rand(2, 1, 4), torch.rand(2, 1, 3)
    two = [torch.cat((part, torch.zeros_like(part)), 1) for part in (where, erase, memory[:, :1])]
    torch.testing.assert_close(erase_and_add(memory, *two), erase_and_add(memory, where, erase, memory[:, :1]))


def test_several_heads_erase_before_any_adds() -> None:
    memory = torch.randn(1, 4, 3).double()
    where = torch.eye(4)[None, [1, 1]].double()
    add = torch.randn(1, 2, 3).double()
    after = erase_and_add(memory, where, torch.ones(1, 2, 3).double(), add)
    torch.testing.assert_close(after[0, 1], add[0].sum(0))


def test_equal_rows_stay_equal_under_uniform_weights_but_not_from_the_start_chosen() -> None:
    memory = NTM(slots=6, width=3)
    steps = interfaces(memory, 5, batch=1)
    chosen = run(memory, steps)[1][-1].memory
    state = memory.initial_state(1, steps)
    state = state._replace(weights=torch.full_like(state.weights, 1 / 6))
    for interface in steps:
        _, state = memory(interface, state)
    torch.testing.assert_close(state.memory, state.memory[:, :1].expand_as(state.memory))
    assert (chosen - chosen[:, :1]).abs().max() > 0.01


def test_the_order_of_read_and_write() -> None:
    found = {}
    for order in ("before", "after"):
        memory = NTM(slots=6, width=3, read=order)
        interface = settled(memory, gate=-60)
        interface[:, 6:9] = torch.tensor([[5.0, -2, 1]])
        found[order], after = memory(interface, memory.initial_state(1, interface))
        torch.testing.assert_close(after.memory[0, 0], interface[0, 6:9], atol=1e-5, rtol=0)
    assert found["before"].abs().max() < 1e-5
    torch.testing.assert_close(found["after"][0], interface[0, 6:9], atol=1e-5, rtol=0)


def test_the_start() -> None:
    for start, kind in (("constant", None), ("random", "buffers"), ("learned", "parameters")):
        torch.manual_seed(3)
        memory = NTM(slots=9, width=7, start=start)
        first = memory.initial_state(3, torch.zeros(()).double())
        assert first.memory.dtype == torch.float64
        assert torch.equal(first.memory[0], first.memory[2])
        assert first.weights[..., 0].eq(1).all()
        assert first.weights.sum() == 3 * 2
        if kind is None:
            assert first.memory.eq(memory.options.constant).all()
            assert not memory.state_dict()
        else:
            assert [name for name, _ in getattr(memory, f"named_{kind}")()] == ["start"]
            assert 0.2 < first.memory.abs().max() <= 0.25
            torch.manual_seed(3)
            again = NTM(slots=9, width=7, start=start)
            assert torch.equal(again.initial_state(1, first.memory).memory[0], first.memory[0])


def test_the_state_and_its_memory_are_left_as_they_were() -> None:
    for start in ("constant", "learned"):
        memory = NTM(**SIZES, start=start).double()
        state = random_state(memory, 2)
        before = [part.clone() for part in state]
        memory(interfaces(memory, 1)[0], state)
        assert all(torch.equal(a, b) for a, b in zip(state, before, strict=True))


def test_rows_of_a_batch_never_influence_each_other() -> None:
    memory = NTM(**SIZES)
    steps = interfaces(memory, 6, batch=3)
    changed = steps.clone()
    changed[:, 1] = 5
    a, b = run(memory, steps)[0], run(memory, changed)[0]
    assert torch.equal(a[:, [0, 2]], b[:, [0, 2]])
    assert not torch.allclose(a[:, 1], b[:, 1])


def test_addresses_are_those_of_the_step() -> None:
    memory = NTM(**SIZES)
    steps = interfaces(memory, 4)
    _, states = run(memory, steps)
    for interface, before, after in zip(steps, states, states[1:], strict=False):
        where = memory.addresses(interface, before)
        assert torch.equal(torch.cat((where.read, where.write), 1), after.weights)
        assert where.read.shape[1] == 2
        assert where.usage is None


@pytest.mark.parametrize("constant", [0.0, 1e-6])
@pytest.mark.parametrize("writes", [1, 2])
def test_nothing_breaks_on_zero_or_huge_inputs(constant: float, writes: int) -> None:
    memory = NTM(slots=8, width=4, reads=2, writes=writes, constant=constant)
    for scale in (0.0, 1e4):
        pattern = torch.ones(150, 2, memory.interface_size)
        pattern[::2, :, ::3] = -1
        steps = (scale * pattern).requires_grad_()
        reads, states = run(memory, steps)
        reads.sum().backward()
        assert reads.isfinite().all()
        assert states[-1].memory.isfinite().all()
        assert steps.grad is not None
        assert steps.grad.isfinite().all()


@pytest.mark.parametrize("wrong", [{"reads": 9, "slots": 8}, {"writes": 9, "slots": 8}, {"reads": 0}, {"width": 0}])
def test_sizes_that_do_not_fit_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(BenchError, match="no more reads or writes than slots"):
        NTM(**wrong)


@pytest.mark.parametrize("wrong", [{"shift": -1}, {"shift": 2, "slots": 4}, {"slots": 2}])
def test_shifts_that_go_around_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(BenchError, match="shifts by 0 to"):
        NTM(**wrong)


def test_the_defaults_are_the_paper() -> None:
    sizes = asdict(NTMOptions())
    assert (sizes["slots"], sizes["width"], sizes["reads"], sizes["writes"], sizes["shift"]) == (128, 20, 1, 1, 1)
    assert sizes["read"] == "after"


def test_the_arithmetic_is_safe_under_torch_func() -> None:
    memory = NTM(**SIZES)
    steps, state = interfaces(memory, 1, batch=3)[0], random_state(memory, 3)

    def loss(interface: Tensor, *parts: Tensor) -> Tensor:
        return memory(interface.unsqueeze(0), NTMState(*(part.unsqueeze(0) for part in parts)))[0].sum()

    per_row = torch.func.vmap(torch.func.grad(loss))(steps, *state)
    steps.requires_grad_()
    memory(steps, state)[0].sum().backward()
    assert steps.grad is not None
    torch.testing.assert_close(per_row, steps.grad)
