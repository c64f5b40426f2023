from __future__ import annotations

from dataclasses import asdict
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bench.api import BenchError
from mann.lrua import EPSILON, LRUA, LRUAOptions, LRUAState

CHOICES = {
    "read": ("before", "after"),
    "write_value": ("key", "separate"),
    "head_slots": ("shared", "per-head"),
    "erase": ("one", "all"),
    "gate": ("parameter", "controller"),
    "start": ("first", "uniform"),
}
COMBINATIONS = [dict(zip(CHOICES, values, strict=True)) for values in product(*CHOICES.values())]
SIZES = {"slots": 6, "width": 3, "heads": 2}


def interfaces(memory: LRUA, steps: int, batch: int = 2, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(steps, batch, memory.interface_size, dtype=torch.float64, generator=generator)


def run(memory: LRUA, steps: Tensor) -> tuple[Tensor, list[LRUAState]]:
    state = memory.initial_state(steps.shape[1], steps)
    reads, states = [], [state]
    for interface in steps:
        read, state = memory(interface, state)
        reads.append(read)
        states.append(state)
    return torch.stack(reads), states


def transcription(interface: np.ndarray, alpha: float, o: LRUAOptions) -> np.ndarray:
    """Santoro 2016, eq. 17-23, for one sequence, [time, interface]; loops and scalars, written from the paper."""

    def sigmoid(z: float) -> float:
        return 1 / (1 + np.exp(-z))

    size = o.heads * o.width
    memory = np.full((o.slots, o.width), o.constant)
    w_read = np.full((o.heads, o.slots), 1 / o.slots)
    usage = np.zeros(o.slots)
    if o.start == "first":
        w_read = np.zeros((o.heads, o.slots))
        w_read[:, 0] = 1
        usage[0] = 1
    reads = []
    for step in interface:
        keys = np.tanh(step[:size]).reshape(o.heads, o.width)
        values = np.tanh(step[size : 2 * size]).reshape(o.heads, o.width) if o.write_value == "separate" else keys
        least = sorted(range(o.slots), key=lambda i: (usage[i], i))[: o.heads]
        w_write = np.zeros((o.heads, o.slots))
        for h in range(o.heads):
            gate = sigmoid(step[len(step) - o.heads + h] if o.gate == "controller" else alpha)
            for i in range(o.slots):
                least_used = i in least if o.head_slots == "shared" else i == least[h]
                w_write[h, i] = gate * w_read[h, i] + (1 - gate) * least_used
        new = memory.copy()
        for i in least[: 1 if o.erase == "one" else o.heads]:
            new[i] = 0
        for h in range(o.heads):
            for i in range(o.slots):
                new[i] += w_write[h, i] * values[h]
        source = memory if o.read == "before" else new
        w_read = np.zeros((o.heads, o.slots))
        for h in range(o.heads):
            for i in range(o.slots):
                norms = np.sqrt(np.sum(keys[h] ** 2)) * np.sqrt(np.sum(source[i] ** 2))
                w_read[h, i] = np.exp(np.dot(keys[h], source[i]) / (norms + EPSILON))
            w_read[h] /= w_read[h].sum()
        usage = o.decay * usage + w_read.sum(0) + w_write.sum(0)
        reads.append((w_read @ source).reshape(-1))
        memory = new
    return np.array(reads)


@pytest.mark.parametrize("choice", COMBINATIONS, ids=lambda c: "-".join(c.values()))
def test_equals_the_transcription_of_the_paper(choice: dict[str, Any]) -> None:
    memory = LRUA(**SIZES, **choice).double()
    if memory.alpha is not None:
        torch.nn.init.constant_(memory.alpha, -0.7)
    steps = interfaces(memory, steps=9)
    reads, _ = run(memory, steps)
    for row in range(2):
        expected = transcription(steps[:, row].numpy(), -0.7, memory.options)
        np.testing.assert_allclose(reads[:, row].detach().numpy(), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("choice", COMBINATIONS[::5], ids=lambda c: "-".join(c.values()))
def test_gradients_equal_finite_differences_of_the_transcription(choice: dict[str, Any]) -> None:
    # a larger constant, so that differences of 1e-6 are small beside what the memory holds
    memory = LRUA(**SIZES, **choice, constant=0.1).double()
    steps = interfaces(memory, steps=4, batch=1).requires_grad_()
    weights = torch.linspace(-1, 2, 4 * memory.read_size, dtype=torch.float64).reshape(4, 1, -1)
    (run(memory, steps)[0] * weights).sum().backward()

    def value(flat: np.ndarray, alpha: float) -> float:
        reads = transcription(flat.reshape(4, -1), alpha, memory.options)
        return float((reads * weights[:, 0].numpy()).sum())

    start, h = steps.detach().numpy().ravel(), 1e-6
    numeric = [(value(start + h * e, 0.0) - value(start - h * e, 0.0)) / (2 * h) for e in np.eye(len(start))]
    assert steps.grad is not None
    np.testing.assert_allclose(steps.grad.numpy().ravel(), numeric, rtol=1e-5, atol=1e-7)
    if memory.alpha is not None:
        assert memory.alpha.grad is not None
        np.testing.assert_allclose(memory.alpha.grad, (value(start, h) - value(start, -h)) / (2 * h), rtol=1e-5)


def random_state(memory: LRUA, batch: int = 2) -> LRUAState:
    generator = torch.Generator().manual_seed(5)
    o = memory.options
    return LRUAState(
        torch.randn(batch, o.slots, o.width, dtype=torch.float64, generator=generator),
        torch.rand(batch, o.slots, dtype=torch.float64, generator=generator),
        torch.randn(batch, o.heads, o.slots, dtype=torch.float64, generator=generator).softmax(2),
    )


def test_weights_sum_to_one() -> None:
    memory = LRUA(**SIZES, head_slots="per-head", gate="controller")
    for state in run(memory, interfaces(memory, 20))[1]:
        torch.testing.assert_close(state.weights.sum(2), torch.ones(2, 2, dtype=torch.float64))
    _, written = memory.write(torch.ones(2, 2, 3).double(), torch.rand(2, 2, 1).double(), state)
    torch.testing.assert_close(written.sum(2), torch.ones(2, 2, dtype=torch.float64))


def test_shared_slots_take_a_mass_of_heads_from_each_head_and_own_slots_take_one() -> None:
    closed = torch.zeros(1, 1, 1).double()
    for head_slots, mass in (("shared", 2.0), ("per-head", 1.0)):
        memory = LRUA(**SIZES, head_slots=head_slots)
        state = random_state(memory)
        _, written = memory.write(torch.ones(2, 2, 3).double(), closed, state)
        assert (written.sum(2) == mass).all()
        least = state.usage.argsort(1)[:, :2]
        if head_slots == "per-head":
            assert (written.argmax(2) == least).all()
        else:
            assert (written.gather(2, least.unsqueeze(1).expand(-1, 2, -1)) == 1).all()


@pytest.mark.parametrize(("erase", "count"), [("one", 1), ("all", 2)])
def test_only_least_used_slots_are_zeroed(erase: str, count: int) -> None:
    memory = LRUA(**SIZES, erase=erase)
    state = random_state(memory)
    after, _ = memory.write(torch.zeros(2, 2, 3).double(), torch.tensor([[[0.3]]]).double(), state)
    zeroed = (after == 0).all(2)
    for row in range(2):
        assert set(zeroed[row].nonzero().ravel().tolist()) == set(state.usage[row].argsort()[:count].tolist())
        assert torch.equal(after[row][~zeroed[row]], state.memory[row][~zeroed[row]])


def test_ties_go_to_the_lowest_slot() -> None:
    memory = LRUA(**SIZES, head_slots="per-head")
    state = random_state(memory)._replace(usage=torch.tensor([[2.0, 1, 1, 1, 0, 1]] * 2).double())
    _, written = memory.write(torch.ones(2, 2, 3).double(), torch.zeros(1, 1, 1).double(), state)
    assert written.argmax(2).tolist() == [[4, 1]] * 2


def test_an_open_gate_writes_where_it_read_and_a_closed_one_where_it_is_least_used() -> None:
    memory = LRUA(**SIZES, gate="controller")
    state = random_state(memory)
    values = torch.ones(2, 2, 3).double()
    assert torch.equal(memory.write(values, torch.ones(2, 2, 1).double(), state)[1], state.weights)
    closed = memory.write(values, torch.zeros(2, 2, 1).double(), state)[1]
    least = torch.zeros(2, 6).double().scatter(1, state.usage.argsort(1)[:, :2], 1.0)
    assert torch.equal(closed, least.unsqueeze(1).expand(-1, 2, -1))


def test_usage_decays_and_adds_reads_and_writes() -> None:
    memory = LRUA(**SIZES, decay=0.9).double()
    state = random_state(memory)
    interface = interfaces(memory, 1)[0]
    _, after = memory(interface, state)
    _, values, gate = memory.parse(interface)
    _, written = memory.write(values, gate, state)
    torch.testing.assert_close(after.usage, 0.9 * state.usage + after.weights.sum(1) + written.sum(1))
    assert not after.usage.requires_grad


def test_reading_after_the_write_finds_what_was_just_written() -> None:
    keys = torch.tensor([[2.0, -1, 0.5]]).double()
    found = {}
    for order in ("before", "after"):
        memory = LRUA(slots=6, width=3, heads=1, read=order, gate="parameter", start="uniform").double()
        torch.nn.init.constant_(memory.alpha, -50.0)
        read, state = memory(keys, memory.initial_state(1, keys))
        found[order] = (state.weights[0, 0], read)
        torch.testing.assert_close(state.memory[0, 0], keys[0].tanh())
    assert found["after"][0].argmax() == 0
    assert torch.allclose(found["before"][0], torch.tensor(1 / 6).double())
    assert found["before"][1].abs().max() < 1e-5 < found["after"][1].abs().max()


def test_a_separate_value_is_what_is_stored() -> None:
    memory = LRUA(slots=6, width=3, heads=1, write_value="separate").double()
    torch.nn.init.constant_(memory.alpha, -50.0)
    interface = torch.tensor([[9.0, 9, 9, 0.1, -0.2, 0.3]]).double()
    _, state = memory(interface, memory.initial_state(1, interface))
    torch.testing.assert_close(state.memory[0, 1], interface[0, 3:].tanh())


def test_the_start_decides_where_the_first_writes_go() -> None:
    for start, slot in (("first", 1), ("uniform", 0)):
        memory = LRUA(slots=6, width=3, heads=1, start=start).double()
        torch.nn.init.constant_(memory.alpha, -50.0)
        _, states = run(memory, interfaces(memory, 1, batch=1))
        assert states[1].memory[0].norm(dim=1).argmax() == slot


def test_the_gate_of_the_controller_is_one_a_head() -> None:
    assert LRUA(**SIZES, gate="controller").interface_size == LRUA(**SIZES).interface_size + 2
    assert [name for name, _ in LRUA(**SIZES, gate="controller").named_parameters()] == []


def test_permuting_the_heads_permutes_the_reads_where_slots_are_shared() -> None:
    memory = LRUA(slots=7, width=3, heads=3).double()
    steps = interfaces(memory, 10)
    order = [2, 0, 1]
    permuted = steps.unflatten(2, (3, 3))[:, :, order].flatten(2)
    expected = run(memory, steps)[0].unflatten(2, (3, 3))[:, :, order].flatten(2)
    torch.testing.assert_close(run(memory, permuted)[0], expected)


def test_rows_of_a_batch_never_influence_each_other() -> None:
    memory = LRUA(**SIZES).double()
    steps = interfaces(memory, 8, batch=3)
    changed = steps.clone()
    changed[:, 1] = 5
    a, b = run(memory, steps)[0], run(memory, changed)[0]
    assert torch.equal(a[:, [0, 2]], b[:, [0, 2]])
    assert not torch.allclose(a[:, 1], b[:, 1])


def test_the_state_is_left_as_it_was() -> None:
    memory = LRUA(**SIZES).double()
    state = random_state(memory)
    before = [part.clone() for part in state]
    memory(interfaces(memory, 1)[0], state)
    assert all(torch.equal(a, b) for a, b in zip(state, before, strict=True))


@pytest.mark.parametrize("constant", [0.0, 1e-6])
@pytest.mark.parametrize("order", ["before", "after"])
def test_nothing_breaks_on_zero_or_huge_inputs(constant: float, order: str) -> None:
    memory = LRUA(slots=8, width=4, heads=2, constant=constant, read=order, gate="controller")
    for scale in (0.0, 1e4):
        pattern = torch.ones(200, 2, memory.interface_size)
        pattern[::2, :, ::3] = -1
        steps = (scale * pattern).requires_grad_()
        reads, states = run(memory, steps)
        reads.sum().backward()
        assert reads.isfinite().all()
        assert states[-1].memory.isfinite().all()
        assert steps.grad is not None
        assert steps.grad.isfinite().all()


@pytest.mark.parametrize("wrong", [{"heads": 9, "slots": 8}, {"heads": 0}, {"width": 0}])
def test_sizes_that_do_not_fit_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(BenchError, match="heads <= slots"):
        LRUA(**wrong)


def test_the_defaults_are_the_paper() -> None:
    sizes = asdict(LRUAOptions())
    assert (sizes["slots"], sizes["width"], sizes["heads"], sizes["decay"]) == (128, 40, 4, 0.99)
    assert (sizes["read"], sizes["write_value"], sizes["head_slots"], sizes["erase"]) == (
        "after",
        "key",
        "shared",
        "one",
    )
