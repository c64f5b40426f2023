from __future__ import annotations

import io
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from bench.api import BenchError
from mann.index import Log, poke, ring_order
from mann.learner import fork
from mann.sam import SAM, Journal, SAMOptions, SAMState

SIZES = {"slots": 6, "width": 3, "reads": 2, "k": 3}
KINDS = [{"usage": usage, "search": search} for usage in ("u1", "u2") for search in ("exact", "lsh")]


def interfaces(memory: Any, steps: int, batch: int = 2, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(steps, batch, memory.interface_size, dtype=torch.float64, generator=generator)


def run(memory: Any, steps: Tensor, state: Any = None) -> tuple[Tensor, Any]:
    state = memory.initial_state(steps.shape[1], steps) if state is None else state
    reads = []
    for interface in steps:
        read, state = memory(interface, state)
        reads.append(read)
    return torch.stack(reads), state


def tensors(state: Any) -> list[Tensor]:
    return [state] if isinstance(state, Tensor) else [t for part in state for t in tensors(part)]


def same(a: Any, b: Any) -> bool:
    return all(torch.equal(x, y) for x, y in zip(tensors(a), tensors(b), strict=True))


def copied(state: Any) -> Any:
    return fork(state, 1)


class DenseUse:
    """U1 or U2 of one sequence, by the definition: the slot of least use, first by order within a step."""

    def __init__(self, o: SAMOptions) -> None:
        self.o, self.time = o, 0
        self.stamp: list[tuple[int, int]] = [(-1, i) for i in range(o.slots)]
        self.u1 = [0.0] * o.slots

    def least(self) -> int:
        if self.o.usage == "u1":
            return min(range(self.o.slots), key=lambda i: (self.u1[i], i))
        return min(range(self.o.slots), key=lambda i: self.stamp[i])

    def step(self, weights: Tensor, order: list[int]) -> None:
        """weights: w^W + Σ w^R, [slots]; order: slots as they were accessed in this step."""
        self.u1 = [self.o.decay * u + w for u, w in zip(self.u1, weights.tolist(), strict=True)]
        for i, w in enumerate(weights.tolist()):
            if w > self.o.threshold:
                self.stamp[i] = (self.time, order.index(i))
        self.time += 1


def dense_cosine(keys: Tensor, memory: Tensor) -> Tensor:
    """keys: [reads, width], memory: [slots, width]."""
    norms = (keys.square().sum(1) + 1e-6).sqrt()[:, None] * (memory.square().sum(1) + 1e-6).sqrt()
    return keys @ memory.T / norms


def dense_twin(steps: Tensor, o: SAMOptions) -> tuple[Tensor, Tensor]:
    """SAM for one sequence, [time, interface], over all slots and with a new memory at each step: reads and memory."""
    memory, use = steps.new_zeros(o.slots, o.width), DenseUse(o)
    weights, order = steps.new_zeros(o.reads, o.slots), torch.zeros(o.reads, 0, dtype=torch.int64)
    reads = []
    for step in steps:
        query, strength, value, gate, share = step.split((o.reads * o.width, o.reads, o.width, 1, o.reads))
        least = use.least()
        unused = F.one_hot(torch.tensor(least), o.slots).to(steps)
        interpolation = share.exp() / (o.reads + share.exp().sum())
        written = gate.sigmoid() * (interpolation @ weights + (1 - interpolation.sum()) * unused)
        memory = (1 - unused)[:, None] * memory + written[:, None] * value
        near = dense_cosine(query.view(o.reads, o.width), memory)
        best = near.topk(o.k, 1).indices
        accessed = [*order.flatten().tolist(), least, *best.flatten().tolist()]
        masked = (near * (1 + F.softplus(strength))[:, None]).masked_fill(
            torch.ones_like(near, dtype=torch.bool).scatter(1, best, False), -math.inf
        )
        weights, order = masked.softmax(1), best
        use.step((written + weights.sum(0)).detach(), accessed)
        reads.append((weights @ memory).flatten())
    return torch.stack(reads), memory


def value_and_gradient(function: Callable[[Tensor], Tensor], steps: Tensor) -> tuple[Tensor, Tensor]:
    steps = steps.clone().requires_grad_()
    out = function(steps)
    (out * torch.linspace(-1, 2, out.numel(), dtype=out.dtype).view_as(out)).sum().backward()
    assert steps.grad is not None
    return out.detach(), steps.grad


@pytest.mark.parametrize("usage", ["u1", "u2"])
@pytest.mark.parametrize(("k", "threshold"), [(6, 0.005), (6, 0.25), (2, 0.005), (1, 0.3), (3, 0.4)])
def test_equals_its_dense_twin_in_values_and_gradients(k: int, threshold: float, usage: str) -> None:
    memory = SAM(**SIZES | {"k": k}, usage=usage, threshold=threshold)
    steps = 2 * interfaces(memory, 14, batch=3)
    twin = value_and_gradient(lambda x: torch.stack([dense_twin(r, memory.options)[0] for r in x.unbind(1)], 1), steps)
    for a, b in zip(value_and_gradient(lambda x: run(memory, x)[0], steps), twin, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("reads", [1, 3])
def test_heads_that_read_and_write_the_same_rows_equal_the_twin(reads: int) -> None:
    memory = SAM(slots=3, width=4, reads=reads, k=2)
    steps = interfaces(memory, 9, batch=1)
    steps[:, :, : memory.read_size] = steps[:, :, :4].repeat(1, 1, reads)  # every head asks the same
    state = run(memory, steps)[1]
    assert (state.slots == state.slots[:, :1]).all()
    twin = value_and_gradient(lambda x: dense_twin(x[:, 0], memory.options)[0].unsqueeze(1), steps)
    for a, b in zip(value_and_gradient(lambda x: run(memory, x)[0], steps), twin, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_the_memory_is_the_twin_s() -> None:
    memory = SAM(**SIZES)
    steps = interfaces(memory, 12, batch=1)
    torch.testing.assert_close(run(memory, steps)[1].memory[0], dense_twin(steps[:, 0], memory.options)[1])


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_gradients_equal_finite_differences(kind: dict[str, Any]) -> None:
    memory = SAM(**SIZES, **kind).double()
    steps = interfaces(memory, 3, batch=1, seed=3).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: run(memory, x)[0], (steps,))


def filled(memory: SAM, batch: int = 2) -> SAMState:
    """A state in the midst of life: random rows, indexed, some accessed."""
    state = memory.initial_state(batch, torch.zeros((), dtype=torch.float64))
    state.memory.copy_(torch.randn(state.memory.shape, generator=torch.Generator().manual_seed(7)))
    if memory.lsh is not None:
        memory.lsh.fill(state.table, state.memory)
    with torch.no_grad():
        return run(memory, interfaces(memory, 5, batch), state)[1]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_backward_rolls_everything_back_to_the_bit(kind: dict[str, Any]) -> None:
    memory = SAM(slots=20, width=4, reads=2, k=3, **kind).double()
    state = filled(memory)
    before = copied(state)
    steps = interfaces(memory, 30).requires_grad_()
    reads, after = run(memory, steps, state)
    assert not torch.equal(state.memory, before.memory)
    assert after.memory.data_ptr() == state.memory.data_ptr()
    reads.sum().backward()
    assert same(state, before)
    again, _ = run(memory, steps, state)
    assert torch.equal(again, reads)


def test_the_gradient_of_early_reads_alone_rolls_all_back() -> None:
    memory = SAM(**SIZES)
    steps = interfaces(memory, 8).requires_grad_()
    state = memory.initial_state(2, steps)
    before = copied(state)
    reads, _ = run(memory, steps, state)
    (part,) = torch.autograd.grad(reads[2].sum(), steps, retain_graph=True)
    assert same(state, before), "later steps, which that gradient does not reach, are taken back with it"
    (again,) = torch.autograd.grad(reads[2].sum(), steps, retain_graph=True)
    (late,) = torch.autograd.grad(reads[6].sum(), steps)
    assert same(state, before)
    assert torch.equal(part, again)
    for i, gradient in ((2, part), (6, late)):
        fresh = steps.detach().clone().requires_grad_()
        run(memory, fresh[: i + 1])[0][i].sum().backward()
        torch.testing.assert_close(fresh.grad, gradient)


def test_the_flow_may_stand_in_a_loss_that_does_not_depend_on_it() -> None:
    memory = SAM(**SIZES)
    gradients: list[Any] = []
    for factor in (None, 0.0):
        steps = interfaces(memory, 5).requires_grad_()
        reads, state = run(memory, steps)
        (reads.sum() if factor is None else reads.sum() + factor * state.flow.sum()).backward()
        gradients.append(steps.grad)
    assert torch.equal(gradients[0], gradients[1])


def test_two_sequences_in_a_row_and_side_by_side_do_not_meet() -> None:
    memory = SAM(**SIZES)
    one, two = interfaces(memory, 6, seed=1), interfaces(memory, 6, seed=2)
    expected = [value_and_gradient(lambda x: run(memory, x)[0], steps) for steps in (one, two)]
    one.requires_grad_(), two.requires_grad_()
    states = [memory.initial_state(2, one) for _ in range(2)]
    reads: list[list[Tensor]] = [[], []]
    for pair in zip(one, two, strict=True):
        for i, interface in enumerate(pair):
            read, states[i] = memory(interface, states[i])
            reads[i].append(read)
    weights = torch.linspace(-1, 2, 6 * 2 * 6, dtype=torch.float64).view(6, 2, 6)
    sum((torch.stack(r) * weights).sum() for r in reads).backward()  # type: ignore[union-attr]
    for i, steps in enumerate((one, two)):
        assert torch.equal(torch.stack(reads[i]), expected[i][0])
        torch.testing.assert_close(steps.grad, expected[i][1])


def test_one_step_of_one_row() -> None:
    memory = SAM(slots=1, width=2, reads=1, k=1)
    interface = interfaces(memory, 1, batch=1).requires_grad_()
    reads, _ = run(memory, interface)
    reads.sum().backward()
    value, gate, share = interface[0, 0, 3:5], interface[0, 0, 5].sigmoid(), interface[0, 0, 6].sigmoid()
    torch.testing.assert_close(reads[0, 0], gate * (1 - share) * value)
    torch.testing.assert_close(interface.grad[0, 0, 3:5], (gate * (1 - share)).expand(2))  # type: ignore[index]


def test_an_outdated_state_is_refused() -> None:
    memory = SAM(**SIZES)
    steps = interfaces(memory, 3).requires_grad_()
    first = memory.initial_state(2, steps)
    _, second = memory(steps[0], first)
    with pytest.raises(BenchError, match=r"outdated.*copy"):
        memory(steps[0], first)
    read, third = memory(steps[1], second)
    read.sum().backward()
    for state in (second, third):
        with pytest.raises(BenchError, match="outdated"):
            memory(steps[2], state)
    memory(steps[0], first)


def test_a_roll_back_past_foreign_steps_is_refused() -> None:
    memory = SAM(**SIZES)
    steps = interfaces(memory, 4).requires_grad_()
    reads, state = run(memory, steps)
    with torch.no_grad():
        memory(steps[0], state)
    with pytest.raises(BenchError, match="cannot be rolled back"):
        reads.sum().backward()


def test_a_copy_made_before_the_backward_pass_goes_on() -> None:
    memory = SAM(**SIZES)
    steps = interfaces(memory, 8)
    expected, _ = run(memory, steps)
    reads, state = run(memory, steps[:4].requires_grad_())
    state = copied(SAMState(*(part.detach() for part in state)))
    reads.sum().backward()
    assert torch.equal(run(memory, steps[4:], state)[0], expected[4:])


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_fork_leaves_its_parent_untouched(kind: dict[str, Any]) -> None:
    memory = SAM(**SIZES, **kind).double()
    steps, queries = interfaces(memory, 9), interfaces(memory, 2, batch=6, seed=4)
    expected, _ = run(memory, steps)
    _, state = run(memory, steps[:5])
    before = copied(state)
    answers, _ = run(memory, queries, fork(state, 3))
    assert same(state, before)
    assert torch.equal(run(memory, steps[5:], state)[0], expected[5:])
    for i in range(6):
        alone = torch.cat((steps[:5, i // 3 : i // 3 + 1], queries[:, i : i + 1]))
        torch.testing.assert_close(run(memory, alone)[0][5:], answers[:, i : i + 1])


def test_gradients_run_through_a_fork() -> None:
    memory = SAM(**SIZES)
    steps, queries = interfaces(memory, 5, batch=1), interfaces(memory, 2, batch=3, seed=4)

    def forked(x: Tensor) -> Tensor:
        _, state = run(memory, x)
        return run(memory, queries, fork(state, 3))[0]

    def apart(x: Tensor) -> Tensor:
        return run(memory, torch.cat((x.expand(-1, 3, -1), queries)))[0][5:]

    for a, b in zip(value_and_gradient(forked, steps), value_and_gradient(apart, steps), strict=True):
        torch.testing.assert_close(a, b)


def test_nothing_is_noted_without_a_gradient() -> None:
    memory = SAM(**SIZES)
    steps = interfaces(memory, 3)
    assert run(memory, steps)[1].flow.grad_fn is None
    with torch.no_grad():
        assert run(memory, steps.requires_grad_())[1].flow.grad_fn is None
    assert len(run(memory, steps)[1].flow.grad_fn.journal.steps) == 3


def test_a_state_survives_detaching_saving_and_moving() -> None:
    memory = SAM(**SIZES, search="lsh").double()
    steps = interfaces(memory, 8)
    expected, _ = run(memory, steps)
    _, state = run(memory, steps[:4].requires_grad_())
    file = io.BytesIO()
    torch.save(tuple(part.detach() for part in state), file)
    file.seek(0)
    loaded = SAMState(*torch.load(file, weights_only=True))
    moved = SAMState(*(part.to("cpu", copy=True) for part in state))
    detached = SAMState(*(part.detach() for part in state))
    for each in (loaded, moved, detached):
        assert all(len(part) == 2 for part in each)
        assert torch.equal(run(memory, steps[4:].detach(), each)[0], expected[4:])


def saved_bytes(memory: Any, steps: int, batch: int = 2) -> int:
    """Bytes that autograd and the journal keep for a backward pass."""
    storages: dict[int, int] = {}
    kept = []

    def pack(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        kept.append(tensor)  # no storage is freed, so that none is used again
        return tensor

    interface = interfaces(memory, steps, batch).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        _, state = run(memory, interface)
    journal: Journal = getattr(state, "sam", state).flow.grad_fn.journal
    return sum(storages.values()) + journal.nbytes()


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_what_backward_keeps_grows_with_steps_and_not_with_slots(kind: dict[str, Any]) -> None:
    small, large = (SAM(slots=n, width=8, reads=2, k=3, **kind).double() for n in (32, 4096))
    assert saved_bytes(small, 10) == saved_bytes(large, 10)
    one, two, three = (saved_bytes(large, t) for t in (10, 20, 30))
    assert three - two == two - one
    assert two - one < 10 * 2 * 20_000, "per step and row: some K · reads rows of 8 numbers and their places"
    assert saved_bytes(SAM(slots=4096, width=8, reads=2, k=6, **kind).double(), 10) > 1.3 * one


def test_one_gradient_buffer_serves_the_whole_sequence(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[int, ...]] = []

    def counted(like: Tensor, *shape: int) -> Tensor:
        made.append(shape)
        return like.new_zeros(shape)

    monkeypatch.setattr("mann.sam.blank", counted)
    memory = SAM(**SIZES, usage="u1")
    interface = interfaces(memory, 10).requires_grad_()
    state = memory.initial_state(2, interface)
    made.clear()  # those of the state
    run(memory, interface, state)[0].sum().backward()
    assert made == [(2, 6, 3)]


class Largest(TorchDispatchMode):
    """The largest tensor that any operation made anew."""

    def __init__(self, known: list[Tensor]) -> None:
        super().__init__()
        self.known = {t.untyped_storage().data_ptr() for t in known}
        self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for t in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(t, Tensor) and t.untyped_storage().data_ptr() not in self.known:
                self.most = max(self.most, t.untyped_storage().nbytes())
        return out


def test_a_step_with_an_index_makes_nothing_of_the_size_of_the_memory() -> None:
    most = {}
    for slots in (2**10, 2**14):
        memory = SAM(slots=slots, width=8, reads=2, k=3, search="lsh").double()
        state = filled(memory)
        interface = interfaces(memory, 2).requires_grad_()
        with Largest(tensors(state)) as largest:
            run(memory, interface, state)
        most[slots] = largest.most
    assert most[2**14] <= 1.5 * most[2**10]
    assert most[2**14] < state.memory.nbytes


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_rows_of_a_batch_never_influence_each_other(kind: dict[str, Any]) -> None:
    memory = SAM(**SIZES, **kind).double()
    steps = interfaces(memory, 8, batch=3)
    changed = steps.clone()
    changed[:, 1] = 5
    a, b = run(memory, steps)[0], run(memory, changed)[0]
    assert torch.equal(a[:, [0, 2]], b[:, [0, 2]])
    assert not torch.allclose(a[:, 1], b[:, 1])
    torch.testing.assert_close(run(memory, steps[:, 2:])[0], a[:, 2:])


def gates(memory: SAM, gate: float, new: float) -> Tensor:
    """An interface with these gates: ±50 is open or closed; new: whether the write goes to the least recent slot."""
    o = memory.options
    interface = interfaces(memory, 1)[0]
    interface[:, -o.reads - 1] = gate
    interface[:, -o.reads :] = -new
    return interface


def test_a_closed_gate_erases_one_slot_and_writes_nothing() -> None:
    memory = SAM(**SIZES)
    state = filled(memory)
    before, least = state.memory.clone(), ring_order(state.usage).argmin(1)
    memory(gates(memory, -800.0, 50.0), state)
    for row in range(2):
        assert not state.memory[row, least[row]].any()
        others = torch.arange(6) != least[row]
        assert torch.equal(state.memory[row, others], before[row, others])


def test_an_open_gate_for_new_slots_stores_the_value_at_the_least_recent() -> None:
    memory = SAM(**SIZES)
    state = filled(memory)
    least, interface = ring_order(state.usage).argmin(1), gates(memory, 50.0, 50.0)
    _, after = memory(interface, state)
    for row in range(2):
        torch.testing.assert_close(after.memory[row, least[row]], interface[row, 8:11])
    assert (ring_order(after.usage).argmin(1) != least).all()


def test_an_open_gate_for_old_slots_writes_where_each_head_read() -> None:
    memory = SAM(**SIZES)
    state = filled(memory)
    before, read, slots = state.memory.clone(), state.weights.clone(), state.slots.clone()
    interface = gates(memory, 50.0, 0.0)
    interface[:, -2] = 50.0  # the first head alone
    memory(interface, state)
    added = torch.zeros(2, 6, dtype=torch.float64).scatter(1, slots[:, 0], read[:, 0])
    stored = before + added[:, :, None] * interface[:, None, 8:11]
    least = (state.memory - stored).abs().sum(2) > 1e-9
    assert (least.sum(1) <= 1).all(), "only the erased slot differs"


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_addresses_tell_what_the_step_does_and_leave_the_state(kind: dict[str, Any]) -> None:
    memory = SAM(**SIZES, **kind).double()
    state = filled(memory)
    interface, before = interfaces(memory, 1, seed=9)[0], copied(state)
    where = memory.addresses(interface, state)
    assert same(state, before)
    read, _ = memory(interface, state)
    torch.testing.assert_close((where.read @ state.memory).flatten(1), read)
    least = where.usage.argmin(1)  # type: ignore[union-attr]
    kept = before.memory.clone()
    kept[torch.arange(2), least] = 0
    written = where.write.transpose(1, 2) * interface[:, None, 8:11]
    torch.testing.assert_close(kept + written, state.memory)
    assert set(where.gates) == {"gate", "new"}
    torch.testing.assert_close(where.write.sum((1, 2)) <= where.gates["gate"] + 1e-9, torch.tensor([True, True]))


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4])
def test_nothing_breaks_in_a_long_run(kind: dict[str, Any], scale: float) -> None:
    memory = SAM(slots=8, width=4, reads=2, k=3, **kind)
    pattern = torch.ones(120, 2, memory.interface_size)
    pattern[::2, :, ::3] = -1
    steps = (scale * pattern).requires_grad_()
    reads, state = run(memory, steps)
    assert state.memory.isfinite().all()
    reads.sum().backward()
    assert reads.isfinite().all()
    assert steps.grad is not None
    assert steps.grad.isfinite().all()


@pytest.mark.parametrize(
    "wrong",
    [{"k": 9, "slots": 8}, {"k": 0}, {"reads": 0}, {"width": 0}, {"slots": 0}, {"decay": 2.0}, {"threshold": -1.0}],
)
def test_options_that_do_not_fit_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(BenchError, match="SAM needs"):
        SAM(**wrong)


def test_a_journal_takes_back_what_it_noted() -> None:
    buffer, clock = torch.arange(6.0).view(1, 6), torch.zeros(1, 1, dtype=torch.int64)
    journal = Journal(clock, clock.clone())
    for value in (7.0, 8.0):
        log: Log = journal.begin()
        poke(buffer, torch.tensor([[1, 4, 1]]), torch.full((1, 3), value), log)
    assert buffer.tolist() == [[0, 8, 2, 3, 8, 5]]
    journal.rewind()
    assert torch.equal(buffer, torch.arange(6.0).view(1, 6))


def test_an_index_that_holds_fewer_candidates_than_are_to_be_read_is_refused() -> None:
    with pytest.raises(BenchError, match="SAM finds at most 512 slots by search=lsh, not k=600"):
        SAM(slots=1024, width=2, reads=1, k=600, search="lsh")
    memory = SAM(slots=1024, width=2, reads=1, k=512, search="lsh")
    step = torch.randn(1, memory.interface_size)
    assert memory(step, memory.initial_state(1, step))[0].isfinite().all()
