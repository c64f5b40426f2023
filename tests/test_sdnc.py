from __future__ import annotations

import pytest
import torch
from test_sam import DenseUse, copied, dense_cosine, interfaces, run, same, saved_bytes, tensors, value_and_gradient
from torch import Tensor
from torch.nn import functional as F

from bench.api import BenchError
from mann.index import ring_order
from mann.learner import fork
from mann.sdnc import SDNC, SDNCOptions, SDNCState, largest

SIZES = {"slots": 6, "width": 3, "reads": 2, "k": 3, "links": 6}


def top(weights: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each row, the others zero, and which they are."""
    best = weights.detach().topk(k, -1).indices
    return weights * torch.zeros_like(weights).scatter(-1, best, 1.0), best


def dense_twin(steps: Tensor, o: SDNCOptions, memory: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """SDNC for one sequence, [time, interface], with all links: reads, N and the precedence."""
    use = DenseUse(o)
    links, precedence = steps.new_zeros(o.slots, o.slots), steps.new_zeros(o.slots)
    weights, reads = steps.new_zeros(o.reads, o.slots), []
    order: list[int] = []
    for step in steps:
        query, strength, value, gate, share, modes = step.split(
            (o.reads * o.width, o.reads, o.width, 1, o.reads, 3 * o.reads)
        )
        least = use.least()
        unused = F.one_hot(torch.tensor(least), o.slots).to(steps)
        interpolation = share.exp() / (o.reads + share.exp().sum())
        written = gate.sigmoid() * (interpolation @ weights + (1 - interpolation.sum()) * unused)
        memory = (1 - unused)[:, None] * memory + written[:, None] * value
        w = written.detach()
        links = (1 - w[:, None] - w) * links + w[:, None] * precedence
        links.fill_diagonal_(0)
        precedence = (1 - w.sum()) * precedence + w
        near = dense_cosine(query.view(o.reads, o.width), memory)
        chosen = torch.zeros_like(near).scatter(1, near.topk(o.k, 1).indices, 1.0).bool()
        found = (near * (1 + F.softplus(strength))[:, None]).masked_fill(~chosen, -torch.inf).softmax(1)
        ways = torch.stack((top(weights @ links, o.k)[0], found, top(weights @ links.T, o.k)[0]), 1)
        mixed = (modes.view(o.reads, 3).softmax(1)[:, :, None] * ways).sum(1)
        again = order
        weights, best = top(mixed, o.k)
        order = [i for i, w in zip(best.flatten().tolist(), weights.gather(1, best).flatten(), strict=True) if w > 0]
        use.step((written + weights.sum(0)).detach(), [*again, least, *order])
        reads.append((weights @ memory).flatten())
    return torch.stack(reads), links, precedence


def stored(o: SDNCOptions) -> Tensor:
    """A memory without ties: of slots that are alike, twin and cell may read different ones."""
    return torch.randn(o.slots, o.width, dtype=torch.float64, generator=torch.Generator().manual_seed(8))


def start(memory: SDNC, batch: int) -> SDNCState:
    state = memory.initial_state(batch, torch.zeros((), dtype=torch.float64))
    state.sam.memory.copy_(stored(memory.options))
    return state


def dense_links(state: SDNCState, row: int) -> Tensor:
    slots = state.before.shape[1]
    return torch.zeros(slots, slots, dtype=torch.float64).scatter_add(1, state.before[row], state.strength[row, :-1])


@pytest.mark.parametrize("usage", ["u1", "u2"])
@pytest.mark.parametrize(("k", "threshold"), [(6, 0.005), (6, 0.3), (3, 0.005), (1, 0.2), (2, 0.3)])
def test_equals_its_dense_twin_when_all_links_are_kept(k: int, threshold: float, usage: str) -> None:
    memory = SDNC(**SIZES | {"k": k}, usage=usage, threshold=threshold)
    steps = 2 * interfaces(memory, 14, batch=3)
    memory_rows = stored(memory.options)

    def dense(x: Tensor) -> Tensor:
        return torch.stack([dense_twin(row, memory.options, memory_rows)[0] for row in x.unbind(1)], 1)

    sparse = value_and_gradient(lambda x: run(memory, x, start(memory, 3))[0], steps)
    for a, b in zip(sparse, value_and_gradient(dense, steps), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_links_and_precedence_are_the_twin_s() -> None:
    memory = SDNC(**SIZES)
    steps = 2 * interfaces(memory, 12, batch=2)
    _, state = run(memory, steps, start(memory, 2))
    for row in range(2):
        _, links, precedence = dense_twin(steps[:, row], memory.options, stored(memory.options))
        torch.testing.assert_close(dense_links(state, row), links)
        found = torch.zeros(6, dtype=torch.float64)
        found.scatter_add_(0, state.precedence.slots[row], state.precedence.weights[row])
        torch.testing.assert_close(found, precedence)


@pytest.mark.parametrize("links", [1, 2, 4, 12])
def test_links_stay_a_sub_distribution_and_are_listed_both_ways(links: int) -> None:
    memory = SDNC(slots=12, width=3, reads=2, k=3, links=links)
    state = memory.initial_state(2, torch.zeros((), dtype=torch.float64))
    for interface in 3 * interfaces(memory, 40):
        _, state = memory(interface, state)
        assert (state.precedence.weights.sum(1) <= 1 + 1e-9).all()
        for row in range(2):
            kept = dense_links(state, row)
            assert (kept >= 0).all()
            assert not kept.diagonal().any()
            assert kept.sum(0).max() <= 1 + 1e-9
            assert kept.sum(1).max() <= 1 + 1e-9
            assert (kept > 0).sum(1).max() <= links
            for j in range(12):
                followers = {i - 1 for i in state.after[row, j].tolist() if i}
                assert followers >= set(kept[:, j].nonzero().flatten().tolist())
    assert (state.strength > 0).any()


def test_the_strongest_links_of_row_and_column_are_kept() -> None:
    full, short = SDNC(**SIZES), SDNC(**SIZES | {"links": 2})
    steps = 2 * interfaces(full, 2)
    states = [run(m, steps, start(m, 2))[1] for m in (full, short)]
    for row in range(2):
        whole, kept = (dense_links(state, row) for state in states)
        strongest = (whole == whole.max(0).values) & (whole == whole.max(1, keepdim=True).values) & (whole > 0)
        assert strongest.any()
        torch.testing.assert_close(kept[strongest], whole[strongest])
        assert ((kept == 0) | (kept - whole).abs().lt(1e-12)).all()
        assert (kept > 0).sum() < (whole > 0).sum()


def test_a_follower_that_dropped_a_link_keeps_its_others() -> None:
    memory = SDNC(slots=8, width=2, reads=1, k=1, links=2)
    state = memory.initial_state(1, torch.zeros((), dtype=torch.float64))
    state.before[0, 5] = torch.tensor([1, 3])
    state.strength[0, 5] = torch.tensor([0.5, 0.25]).double()
    state.after[0, 1, 0] = state.after[0, 2, 0] = 5 + 1  # slot 5 follows slot 1, and is still listed for slot 2
    for slot, expected in ((2, [0.5, 0.25]), (1, [0.25, 0.25])):
        memory._weaken_followers(torch.tensor([[slot]]), torch.tensor([[0.5]]).double(), state, None)
        assert state.strength[0, 5].tolist() == expected


def walk(modes: tuple[float, float, float], start: int) -> list[int]:
    """Store five vectors one after another, find one by its content, then follow a mode: slots read."""
    memory = SDNC(slots=8, width=5, reads=1, k=1, links=2)
    width, state = 5, memory.initial_state(1, torch.zeros((), dtype=torch.float64))
    seen = []
    for t in range(8):
        step = torch.zeros(1, memory.interface_size, dtype=torch.float64)
        storing = t < 5
        step[0, :width] = F.one_hot(torch.tensor(t if storing else start), width)
        step[0, width + 1 : 2 * width + 1] = F.one_hot(torch.tensor(t % 5), width)
        step[0, 2 * width + 1] = 50.0 if storing else -800.0
        step[0, 2 * width + 2] = -50.0
        step[0, 2 * width + 3 :] = torch.tensor([0.0, 50.0, 0.0] if t <= 5 else modes)
        read, state = memory(step, state)
        if t >= 5:
            seen.append(int(read.argmax()))
    return seen


def test_forward_and_backward_follow_the_order_of_writes() -> None:
    assert walk((0.0, 0.0, 50.0), start=1) == [1, 2, 3]
    assert walk((50.0, 0.0, 0.0), start=3) == [3, 2, 1]
    assert walk((0.0, 50.0, 0.0), start=2) == [2, 2, 2]


@pytest.mark.parametrize("search", ["exact", "lsh"])
@pytest.mark.parametrize("links", [2, 6])
def test_gradients_equal_finite_differences_with_the_links_held(search: str, links: int) -> None:
    """Links have no gradient, and finite differences see through them: so the values written are held fixed."""
    memory = SDNC(**SIZES | {"links": links}, search=search).double()
    steps = interfaces(memory, 3, batch=1, seed=3)
    gate = slice(memory.sam.interface_size - 3, memory.sam.interface_size)

    def reads(free: Tensor) -> Tensor:
        x = steps.clone()
        x[:, :, gate.stop :] = free  # modes alone: the writes of later steps depend on them only through w^R
        x[:, :, gate] = torch.tensor([1.0, -50.0, -50.0])  # nothing is written where it was read
        return run(memory, x)[0]

    assert torch.autograd.gradcheck(reads, (steps[:, :, gate.stop :].clone().requires_grad_(),))


@pytest.mark.parametrize("search", ["exact", "lsh"])
@pytest.mark.parametrize("usage", ["u1", "u2"])
def test_backward_rolls_everything_back_to_the_bit(usage: str, search: str) -> None:
    memory = SDNC(slots=20, width=4, reads=2, k=3, links=3, usage=usage, search=search).double()
    state = memory.initial_state(2, torch.zeros((), dtype=torch.float64))
    with torch.no_grad():
        _, state = run(memory, interfaces(memory, 9), state)
    before = copied(state)
    steps = interfaces(memory, 25, seed=1).requires_grad_()
    reads, _ = run(memory, steps, state)
    assert not torch.equal(state.strength, before.strength)
    reads.sum().backward()
    assert same(state, before)
    assert torch.equal(run(memory, steps, state)[0], reads)


def test_a_fork_leaves_its_parent_untouched() -> None:
    memory = SDNC(**SIZES)
    steps, queries = interfaces(memory, 9), interfaces(memory, 2, batch=6, seed=4)
    expected, _ = run(memory, steps)
    _, state = run(memory, steps[:5])
    before = copied(state)
    answers, _ = run(memory, queries, fork(state, 3))
    assert same(state, before)
    assert torch.equal(run(memory, steps[5:], state)[0], expected[5:])
    alone = torch.cat((steps[:5, 1:], queries[:, 5:]))
    torch.testing.assert_close(run(memory, alone)[0][5:], answers[:, 5:])


def test_what_backward_keeps_does_not_grow_with_slots() -> None:
    small, large = (SDNC(slots=n, width=8, reads=2, k=3, links=4) for n in (32, 4096))
    assert saved_bytes(small, 10) == saved_bytes(large, 10)


@pytest.mark.parametrize("search", ["exact", "lsh"])
def test_addresses_tell_what_the_step_does_and_leave_the_state(search: str) -> None:
    memory = SDNC(**SIZES, search=search).double()
    _, state = run(memory, interfaces(memory, 7))
    interface, before = interfaces(memory, 1, seed=9)[0], copied(state)
    where = memory.addresses(interface, state)
    assert same(state, before)
    assert torch.equal(where.usage, ring_order(state.sam.usage))  # type: ignore[arg-type]
    read, after = memory(interface, state)
    torch.testing.assert_close((where.read @ after.sam.memory).flatten(1), read)
    modes = [where.gates[name] for name in ("backward", "content", "forward")]
    torch.testing.assert_close(sum(modes), torch.ones(2, dtype=torch.float64))


def test_rows_of_a_batch_never_influence_each_other() -> None:
    memory = SDNC(**SIZES)
    steps = interfaces(memory, 8, batch=3)
    changed = steps.clone()
    changed[:, 1] = 5
    a, b = run(memory, steps)[0], run(memory, changed)[0]
    assert torch.equal(a[:, [0, 2]], b[:, [0, 2]])
    torch.testing.assert_close(run(memory, steps[:, 2:])[0], a[:, 2:])


@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4])
def test_nothing_breaks_in_a_long_run(scale: float) -> None:
    memory = SDNC(slots=8, width=4, reads=2, k=3, links=3)
    pattern = torch.ones(100, 2, memory.interface_size)
    pattern[::2, :, ::3] = -1
    steps = (scale * pattern).requires_grad_()
    reads, state = run(memory, steps)
    assert all(part.isfinite().all() for part in tensors(state))
    assert reads.isfinite().all()
    reads[:20].sum().backward()  # over many steps gradients may grow without bound, as the values do
    assert steps.grad is not None
    assert steps.grad.isfinite().all()


@pytest.mark.parametrize("wrong", [{"links": 0}, {"links": 7, "slots": 6}, {"k": 7, "slots": 6, "links": 2}])
def test_sizes_that_do_not_fit_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(BenchError, match="needs"):
        SDNC(**wrong)


def test_the_largest_weights_are_taken_after_summing_by_slot() -> None:
    slots = torch.tensor([[4, 2, 4, 1, 2]])
    found = largest(slots, torch.tensor([[0.2, 0.25, 0.2, 0.3, 0.01]]), 2)
    assert found.slots.tolist() == [[4, 1]]
    torch.testing.assert_close(found.weights, torch.tensor([[0.4, 0.3]]))
    rest = largest(slots, torch.zeros(1, 5), 5)
    assert not rest.weights.any()
