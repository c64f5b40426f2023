from __future__ import annotations

import io
from dataclasses import asdict
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from bench.api import BenchError
from mann.addressing import LEAST, SOFTENING
from mann.dnc import ADNC, DNC, DNCMD, DNCMethod, DNCOptions, DNCState, Linkage, allocation, used

SIZES: dict[str, Any] = {"slots": 6, "width": 3, "reads": 2}
SWITCHES = ("links", "masked", "wipe", "sharp_links", "layer_norm")
COMBINATIONS = [dict(zip(SWITCHES, values, strict=True)) for values in product((True, False), repeat=len(SWITCHES))]
NAMED = [{}, {"masked": True, "wipe": True, "sharp_links": True}, {"links": False, "layer_norm": True}]


def name(choice: dict[str, Any]) -> str:
    return "-".join(key for key, on in choice.items() if on) or "plain"


def interfaces(memory: DNC, steps: int, batch: int = 2, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(steps, batch, memory.interface_size, dtype=torch.float64, generator=generator)


def built(**options: Any) -> DNC:
    """In float64, a layer norm with a gain and bias of its own."""
    memory = DNC(**SIZES | options).double()
    if memory.norm is not None:
        generator = torch.Generator().manual_seed(9)
        for parameter in memory.norm.parameters():
            torch.nn.init.uniform_(parameter, 0.5, 2, generator=generator)
    return memory


def run(memory: DNC, steps: Tensor, state: DNCState | None = None) -> tuple[Tensor, list[DNCState]]:
    state = state or memory.initial_state(steps.shape[1], steps)
    reads, states = [], [state]
    for interface in steps:
        read, state = memory(interface, state)
        reads.append(read)
        states.append(state)
    return torch.stack(reads), states


def sigmoid(z: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-z))


def oneplus(z: np.ndarray) -> np.ndarray:
    return 1 + np.log1p(np.exp(z))


def lookup(memory: np.ndarray, key: np.ndarray, strength: float, mask: np.ndarray) -> np.ndarray:
    a, scores = key * mask, []
    for row in memory:
        b = row * mask
        scores.append(strength * (a @ b) / np.sqrt((a @ a + SOFTENING) * (b @ b + SOFTENING)))
    return np.exp(scores) / np.sum(np.exp(scores))


def powered(weights: np.ndarray, power: float) -> np.ndarray:
    raised = np.maximum(weights, LEAST) ** power
    return raised / raised.sum()


def transcription(
    steps: np.ndarray, memory: np.ndarray, usage: np.ndarray, o: DNCOptions, gain: np.ndarray, bias: np.ndarray
) -> dict[str, np.ndarray]:
    """Graves 2016, Methods, for one sequence, [time, interface]; loops, written from the paper."""
    n, w, r = o.slots, o.width, o.reads
    links, precedence = np.zeros((n, n)), np.zeros(n)
    read_weights, write_weights = np.zeros((r, n)), np.zeros(n)
    reads = []
    for step in steps:
        if o.layer_norm:
            step = (step - step.mean()) / np.sqrt(step.var() + 1e-5) * gain + bias
        rest = list(step)

        def take(size: int, rest: list[float] = rest) -> np.ndarray:
            return np.array([rest.pop(0) for _ in range(size)])

        keys, value = take((r + 1) * w).reshape(r + 1, w), take(w)
        strengths = oneplus(take(r + 1))
        powers = oneplus(take(2 * r if o.links and o.sharp_links else 0))
        erase, free, (allocate, write) = sigmoid(take(w)), sigmoid(take(r)), sigmoid(take(2))
        masks = sigmoid(take((r + 1) * w)).reshape(r + 1, w) if o.masked else np.ones((r + 1, w))
        modes = np.exp(take(3 * r if o.links else 0)).reshape(-1, 3)
        assert not rest

        retention = np.prod([1 - free[h] * read_weights[h] for h in range(r)], axis=0)
        usage = (usage + write_weights - usage * write_weights) * retention
        order = sorted(range(n), key=lambda i: (usage[i], i))
        allocated = np.zeros(n)
        for j in range(n):
            allocated[order[j]] = (1 - usage[order[j]]) * np.prod([usage[order[i]] for i in range(j)])
        found = lookup(memory, keys[r], strengths[r], masks[r])
        write_weights = write * (allocate * allocated + (1 - allocate) * found)
        if o.wipe:
            memory = memory * retention[:, None]
        memory = memory * (1 - np.outer(write_weights, erase)) + np.outer(write_weights, value)
        if o.links:
            new = np.zeros((n, n))
            for i in range(n):
                for j in range(n):
                    if i != j:
                        new[i, j] = (1 - write_weights[i] - write_weights[j]) * links[i, j]
                        new[i, j] += write_weights[i] * precedence[j]
            links = new
            precedence = (1 - write_weights.sum()) * precedence + write_weights
        for h in range(r):
            found = lookup(memory, keys[h], strengths[h], masks[h])
            if o.links:
                backward, forward = links.T @ read_weights[h], links @ read_weights[h]
                if o.sharp_links:
                    backward, forward = powered(backward, powers[h]), powered(forward, powers[r + h])
                mode = modes[h] / modes[h].sum()
                found = mode[0] * backward + mode[1] * found + mode[2] * forward
            read_weights[h] = found
        reads.append((read_weights @ memory).ravel())
    return {
        "reads": np.array(reads), "memory": memory, "usage": usage, "links": links, "precedence": precedence,
        "read": read_weights, "written": write_weights,
    }  # fmt: skip


@pytest.mark.parametrize("choice", COMBINATIONS, ids=name)
def test_equals_the_transcription_of_the_paper(choice: dict[str, bool]) -> None:
    memory = built(**choice)
    steps = interfaces(memory, steps=8)
    # Slots that differ from the start: of equally free ones, rounding would choose.
    start = memory.initial_state(2, steps)._replace(
        memory=torch.randn(2, 6, 3).double(), usage=torch.rand(2, 6).double()
    )
    reads, states = run(memory, steps, start)
    norm = [np.zeros(0)] * 2 if memory.norm is None else [p.detach().numpy() for p in memory.norm.parameters()]
    for row in range(2):
        expected = transcription(
            steps[:, row].numpy(), start.memory[row].numpy(), start.usage[row].numpy(), memory.options, *norm
        )
        ours = {"reads": reads[:, row]} | {key: part[row] for key, part in states[-1]._asdict().items()}
        if not choice["links"]:
            assert ours.pop("links").numel() == ours.pop("precedence").numel() == 0
        for key, value in ours.items():
            wanted = expected[key].reshape(value.shape)
            np.testing.assert_allclose(value.detach().numpy(), wanted, rtol=1e-8, atol=1e-11, err_msg=key)


@pytest.mark.parametrize("choice", NAMED, ids=name)
def test_gradients_equal_finite_differences(choice: dict[str, bool]) -> None:
    memory = built(slots=4, width=2, **choice)
    steps = interfaces(memory, steps=4, batch=1).requires_grad_()

    start = memory.initial_state(1, steps)._replace(
        memory=torch.randn(1, 4, 2).double(), usage=torch.rand(1, 4).double()
    )

    def outcome(z: Tensor, *_: Tensor) -> tuple[Tensor, ...]:
        reads, states = run(memory, z, start)
        return reads, states[-1].memory, states[-1].usage

    assert gradcheck(outcome, (steps, *memory.parameters()))


def a_linkage(batch: int = 2, slots: int = 5, reads: int = 3) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    links = torch.rand(batch, slots, slots).double() / slots
    links = torch.diagonal_scatter(links, torch.zeros(batch, slots).double(), 0, 1, 2)
    rest = [torch.rand(batch, heads, slots).double() / slots for heads in (1, 1, reads)]
    return links, rest[0], rest[1], rest[2]


def plain(links: Tensor, written: Tensor, precedence: Tensor, read: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What `Linkage` computes, for autograd to differentiate."""
    column = written.transpose(1, 2)
    after = (1 - column - written) * links + column * precedence
    after = after * (1 - torch.eye(links.shape[1]).to(links))
    return after, read @ after, read @ after.transpose(1, 2)


def test_the_linkage_has_the_values_and_gradients_of_its_plain_form() -> None:
    inputs = [part.requires_grad_() for part in a_linkage()]
    one, other = Linkage.apply(*inputs), plain(*inputs)
    weights = [torch.randn_like(part) for part in other]
    torch.testing.assert_close(one, other)
    gradients = torch.autograd.grad(one, inputs, weights), torch.autograd.grad(other, inputs, weights)
    off = 1 - torch.eye(5).double()
    torch.testing.assert_close(gradients[0][0] * off, gradients[1][0] * off)
    torch.testing.assert_close(gradients[0][1:], gradients[1][1:])


def test_the_linkage_can_be_differentiated_twice() -> None:
    links, *rest = a_linkage(1, 3, 2)
    assert gradgradcheck(lambda *parts: Linkage.apply(links, *parts), [part.requires_grad_() for part in rest])


def test_the_linkage_leaves_its_inputs_as_they_were() -> None:
    inputs = a_linkage()
    copies = [part.clone() for part in inputs]
    Linkage.apply(*inputs)
    assert all(torch.equal(a, b) for a, b in zip(inputs, copies, strict=True))


def test_a_single_free_slot_is_allocated_wholly() -> None:
    usage = torch.ones(2, 6).double()
    usage[0, 3] = usage[1, 0] = 0
    torch.testing.assert_close(allocation(usage), 1 - usage, atol=1e-12, rtol=0)
    assert allocation(torch.ones(1, 6)).eq(0).all()


def test_the_first_of_several_free_slots_is_allocated() -> None:
    usage = torch.tensor([[0.9, 0, 0.3, 0]]).double()
    torch.testing.assert_close(allocation(usage), torch.eye(4)[None, 1].double(), atol=1e-12, rtol=0)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=9))
def test_allocation_is_what_the_whole_memory_has_free(usages: list[float]) -> None:
    usage = torch.tensor([usages]).double()
    weights = allocation(usage)
    assert (weights >= 0).all()
    torch.testing.assert_close(weights.sum(1), 1 - usage.prod(1))


def test_allocation_has_the_gradient_of_its_definition() -> None:
    assert gradcheck(allocation, torch.rand(2, 5).double().requires_grad_())
    none = torch.zeros(1, 3, requires_grad=True)
    allocation(none)[0, 1].backward()
    torch.testing.assert_close(none.grad, torch.tensor([[1.0, 0, 0]]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("used_up", [0.5, 1.0], ids=["half-unused", "all-used"])
def test_allocation_has_its_gradient_in_single_precision(used_up: float) -> None:
    slots = 4096
    usage, weight = torch.rand(2, slots).double(), torch.randn(2, slots).double()
    usage[:, int(used_up * slots) :] = 0

    def gradient(dtype: torch.dtype) -> Tensor:
        given = usage.to(dtype).requires_grad_()
        return torch.autograd.grad(allocation(given), given, weight.to(dtype))[0].double()

    expected = gradient(torch.float64)
    off = (gradient(torch.float32) - expected).abs().max() / expected.abs().max()
    assert off < 1e-5


def wish(memory: DNC, **raw: Tensor | float) -> Tensor:
    """An interface, [1, interface_size], zero but for what is named (before it is squashed)."""
    o = memory.options
    sizes = {
        "keys": o.reads * o.width, "key": o.width, "value": o.width, "strengths": o.reads, "strength": 1,
        "erase": o.width, "free": o.reads, "allocate": 1, "write": 1, "modes": 3 * o.reads,
    }  # fmt: skip
    assert set(raw) <= set(sizes)
    parts = [torch.zeros(size).double() + torch.as_tensor(raw.get(key, 0.0)).double() for key, size in sizes.items()]
    return torch.cat(parts).unsqueeze(0)


CONTENT, FORWARD, BACKWARD = (torch.tensor(m).double() * 60 for m in ([0, 1, 0], [0, 0, 1], [1, 0, 0]))


def filled(memory: DNC, values: Tensor) -> DNCState:
    """The state after the values were written in order, each to a slot of its own, and the first was read."""
    state = memory.initial_state(1, values)
    for value in values:
        interface = wish(
            memory, value=value, allocate=60.0, write=60.0, keys=values[0], strengths=1e4, modes=CONTENT, free=-60.0
        )
        read, state = memory(interface, state)
    torch.testing.assert_close(read[0], values[0], atol=1e-4, rtol=0)
    return state


def test_what_was_written_is_read_forward_and_backward() -> None:
    memory = DNC(slots=6, width=3, reads=1)
    values = torch.tensor([[1.0, 0, 0], [0, 2, 0], [0, 0, -3]]).double()
    state = filled(memory, values)
    idle: dict[str, Any] = {"write": -60.0, "free": -60.0}
    for modes, expected in ((FORWARD, 1), (FORWARD, 2), (BACKWARD, 1), (BACKWARD, 0)):
        read, state = memory(wish(memory, modes=modes, **idle), state)
        torch.testing.assert_close(read[0], values[expected], atol=1e-3, rtol=0)


def test_sharp_links_read_a_blurred_order_sharply() -> None:
    blurred = torch.tensor([[0.6, 0.3, 0.1]] * 2).double().view(2, 1, 3)
    memory = DNC(slots=3, width=2, reads=1, sharp_links=True)
    interface = torch.zeros(2, memory.interface_size).double()
    interface[:, memory.sizes[0] + 2 :][:, :2] = 60
    interface[:, -3] = 60
    mixed = memory.mix(memory.parse(interface), blurred, blurred, blurred)
    torch.testing.assert_close(mixed, torch.eye(3).double()[None, :1].expand(2, 1, 3), atol=1e-6, rtol=0)


@pytest.mark.parametrize("wipe", [False, True])
def test_a_free_gate_of_one_frees_what_was_read_and_wiping_erases_it(wipe: bool) -> None:
    memory = DNC(slots=6, width=3, reads=1, wipe=wipe)
    state = filled(memory, torch.tensor([[1.0, 0, 0], [0, 2, 0], [0, 0, -3]]).double())
    freed = state.read.argmax()
    before = memory.addresses(wish(memory, free=-60.0), state).usage
    assert before is not None
    torch.testing.assert_close(before[0].sort()[0], torch.tensor([0.0, 0, 0, 1, 1, 1]).double(), atol=1e-4, rtol=0)
    _, after = memory(wish(memory, free=60.0, write=-60.0), state)
    expected = before.clone()
    expected[0, freed] = 0
    torch.testing.assert_close(after.usage, expected, atol=1e-4, rtol=0)
    rows = state.memory.clone()
    if wipe:
        rows[0, freed] = 0
    torch.testing.assert_close(after.memory, rows, atol=1e-3, rtol=0)


def test_slots_never_used_are_filled_before_any_is_used_twice() -> None:
    memory = DNC(slots=5, width=3, reads=1)
    state, filled_slots = memory.initial_state(1, torch.zeros(()).double()), []
    for _ in range(5):
        _, state = memory(wish(memory, free=-60.0, allocate=60.0, write=60.0, value=1.0), state)
        filled_slots.append(int(state.written.argmax()))
    assert sorted(filled_slots) == [0, 1, 2, 3, 4]


def test_a_closed_write_gate_changes_nothing() -> None:
    memory = DNC(slots=6, width=3, reads=1)
    state = filled(memory, torch.eye(3).double())
    _, after = memory(wish(memory, write=-80.0, free=-80.0, value=5.0, erase=60.0), state)
    for key in ("memory", "links", "precedence"):
        torch.testing.assert_close(getattr(after, key), getattr(state, key))


def test_a_mask_hides_columns_from_the_comparison_alone() -> None:
    memory = DNC(slots=3, width=2, reads=1, masked=True, links=False)
    state = memory.initial_state(1, torch.zeros(()).double())
    rows = torch.tensor([[[3.0, 1], [-1, -2], [-3, 1]]]).double()
    interface = torch.zeros(1, memory.interface_size).double()
    interface[:, :2] = torch.tensor([5.0, -4])
    interface[:, memory.sizes[0]] = 1e4
    gates = memory.sizes[0] + memory.sizes[1]
    interface[:, gates + 4] = -80  # the write gate
    masks = gates + 2 + 1 + 2
    for mask, found in (((80.0, -80.0), 0), ((-80.0, 80.0), 1)):
        interface[:, masks : masks + 2] = torch.tensor(mask)
        read, after = memory(interface, state._replace(memory=rows))
        assert after.read.argmax() == found
        torch.testing.assert_close(read[0], rows[0, found])


def test_without_links_and_frees_it_equals_a_case_by_hand() -> None:
    memory = DNC(slots=3, width=2, reads=1, links=False)
    assert memory.interface_size == 3 * 2 + 2 + 2 + 1 + 2
    # keys, values; β = 1 + ln 2; half erased; nothing freed; all to allocation; write gate ½
    interface = torch.tensor([[0, 0, 0, 0, 8, -4, 0, 0, 0, 0, -80, 80, 0]]).double()
    state = memory.initial_state(1, interface)

    def close(value: Tensor, *expected: float) -> None:
        torch.testing.assert_close(value, torch.tensor(expected).double(), atol=1e-4, rtol=0)

    for step in range(3):
        # a fresh slot each time, of which half is written; a key of zeros reads the mean
        read, state = memory(interface, state)
        close(state.usage[0].sort(descending=True)[0], *([0.5] * step + [0] * (3 - step)))
        close(state.written[0, 0].sort(descending=True)[0], 0.5, 0, 0)
        close(read[0], 4 * (step + 1) / 3, -2 * (step + 1) / 3)
    close(state.memory[0, :, 0], 4, 4, 4)
    # Now all are half used: allocation is ½, ¼, ⅛, of which the gate writes half, after erasing half of that.
    _, state = memory(interface, state)
    close(state.usage[0], 0.5, 0.5, 0.5)
    close(state.written[0, 0], 0.25, 0.125, 0.0625)
    close(state.memory[0, :, 0], *(4 * (1 - w / 2) + 8 * w for w in (0.25, 0.125, 0.0625)))


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 8), st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.booleans(), st.integers(0, 99))
def test_invariants(slots: int, width: int, reads: int, batch: int, sharp: bool, seed: int) -> None:
    if reads > slots:
        return
    memory = DNC(slots=slots, width=width, reads=reads, sharp_links=sharp)
    read, states = run(memory, 3 * interfaces(memory, 6, batch, seed))
    assert read.shape == (6, batch, reads * width)
    for s in states:
        assert (s.links.diagonal(dim1=1, dim2=2) == 0).all()
        assert (s.links > -1e-12).all()
        for weights in (s.links, s.links.transpose(1, 2), s.read, s.written, s.precedence):
            assert (weights > -1e-12).all()
            assert (weights.sum(2) < 1 + 1e-9).all()
        assert (s.usage > -1e-12).all()
        assert (s.usage < 1 + 1e-12).all()


@pytest.mark.parametrize("choice", NAMED, ids=name)
def test_addresses_are_those_of_the_step(choice: dict[str, bool]) -> None:
    memory = built(**choice)
    steps = interfaces(memory, 4)
    _, states = run(memory, steps)
    for interface, before, after in zip(steps, states, states[1:], strict=False):
        where = memory.addresses(interface, before)
        assert torch.equal(where.read, after.read)
        assert torch.equal(where.write, after.written)
        assert where.usage is not None
        assert torch.equal(where.usage, after.usage)
        assert torch.equal(where.usage, used(before, (1 - memory.parse(interface).free * before.read).prod(1)))
        assert {key: gate.shape for key, gate in where.gates.items()} == dict.fromkeys(
            ("allocate", "write", "free"), (2,)
        )


@pytest.mark.parametrize("choice", NAMED, ids=name)
def test_rows_of_a_batch_never_influence_each_other(choice: dict[str, bool]) -> None:
    memory = built(**choice)
    steps = interfaces(memory, 6, batch=3)
    changed = steps.clone()
    changed[:, 1] = torch.linspace(-3, 3, memory.interface_size)
    a, b = run(memory, steps)[0], run(memory, changed)[0]
    assert torch.equal(a[:, [0, 2]], b[:, [0, 2]])
    assert not torch.allclose(a[:, 1], b[:, 1])


@pytest.mark.parametrize("choice", NAMED, ids=name)
def test_the_state_is_left_as_it_was_and_can_be_saved(choice: dict[str, bool]) -> None:
    memory = built(**choice)
    steps = interfaces(memory, 4)
    state = DNCState(*(part.detach() for part in run(memory, steps)[1][-1]))
    file = io.BytesIO()
    torch.save(tuple(state), file)
    expected, _ = memory(steps[0], state)
    file.seek(0)
    saved = DNCState(*torch.load(file, weights_only=True))
    assert all(torch.equal(a, b) for a, b in zip(saved, state, strict=True))
    assert torch.equal(memory(steps[0], saved)[0], expected)


@pytest.mark.parametrize("choice", NAMED, ids=name)
def test_nothing_breaks_on_zero_or_huge_inputs(choice: dict[str, bool]) -> None:
    memory = DNC(slots=8, width=4, reads=2, **choice)
    for scale in (0.0, 1e4):
        pattern = torch.ones(120, 2, memory.interface_size)
        pattern[::2, :, ::3] = -1
        steps = (scale * pattern).requires_grad_()
        reads, states = run(memory, steps)
        reads.sum().backward()
        assert reads.isfinite().all()
        assert all(part.isfinite().all() for part in states[-1])
        assert steps.grad is not None
        assert steps.grad.isfinite().all()


def test_the_arithmetic_is_safe_under_torch_func() -> None:
    memory = built(masked=True, wipe=True, sharp_links=True)
    steps = interfaces(memory, 5, batch=3)
    state = DNCState(*(part.detach() for part in run(memory, steps)[1][-1]))

    def loss(interface: Tensor, *parts: Tensor) -> Tensor:
        return memory(interface.unsqueeze(0), DNCState(*(part.unsqueeze(0) for part in parts)))[0].sum()

    per_row = torch.func.vmap(torch.func.grad(loss))(steps[0], *state)
    whole = steps[0].clone().requires_grad_()
    memory(whole, state)[0].sum().backward()
    assert whole.grad is not None
    torch.testing.assert_close(per_row, whole.grad)


@pytest.mark.parametrize("wrong", [{"reads": 9, "slots": 8}, {"reads": 0}, {"width": 0}, {"slots": 0}])
def test_sizes_that_do_not_fit_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(BenchError, match="reads <= slots"):
        DNC(**wrong)


def test_the_named_variants_change_these_defaults_alone() -> None:
    base = asdict(DNCMethod())
    changed = {cls: {k: v for k, v in asdict(cls()).items() if base[k] != v} for cls in (DNCMD, ADNC)}
    assert changed == {DNCMD: {"masked": True, "wipe": True}, ADNC: {"links": False, "layer_norm": True}}
    assert (base["slots"], base["width"], base["reads"]) == (128, 40, 4)
    assert base["links"]
    assert not any(base[key] for key in SWITCHES if key != "links")
