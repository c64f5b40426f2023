from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bench.api import BenchError
from mann.index import LSH, Log, blank, cosine, least_recent, nearest, new_ring, poke, ring_order, take, touch, undo


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 9), st.integers(1, 12), st.floats(0, 1), st.integers(0, 10**6))
def test_the_ring_keeps_slots_in_order_of_their_last_access(slots: int, count: int, share: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    ring, expected = new_ring(3, slots, torch.zeros(1)), [list(range(slots)) for _ in range(3)]
    log: Log = []
    start = ring.clone()
    for _ in range(6):
        chosen = torch.randint(slots, (3, count), generator=generator)
        used = torch.rand(3, count, generator=generator) < share
        touch(ring, chosen, used, log)
        for order, row, told in zip(expected, chosen.tolist(), used.tolist(), strict=True):
            for slot in dict.fromkeys(s for s, u in zip(row, told, strict=True) if u):
                order.remove(slot)
                order.append(slot)
        assert least_recent(ring).flatten().tolist() == [order[0] for order in expected]
        assert ring_order(ring).argsort(1).tolist() == expected
    undo(log)
    assert torch.equal(ring, start)


def test_the_ring_s_first_is_the_slot_of_largest_u2() -> None:
    """U2(i) = t - max{s : i was accessed at s}, by its definition, for slots accessed by chance."""
    generator = torch.Generator().manual_seed(0)
    ring, last = new_ring(1, 30, torch.zeros(1)), torch.full((30,), -1)
    for t in range(200):
        chosen = torch.randint(30, (1, 4), generator=generator)
        used = torch.rand(1, 4, generator=generator) < 0.7
        touch(ring, chosen, used, None)
        last[chosen[used]] = t
        assert last[least_recent(ring)[0, 0]] == last.min()
        by_age = ring_order(ring)[0].argsort()
        assert (last[by_age].diff() >= 0).all()


def test_what_was_poked_is_undone_in_reverse() -> None:
    buffer = torch.arange(12.0).view(2, 3, 2)
    log: Log = []
    before = buffer.clone()
    for value in (1.0, 2.0):
        poke(buffer, torch.tensor([[0, 2], [1, 1]]), torch.full((2, 2, 2), value), log)
    assert take(buffer, torch.tensor([[0, 2], [1, 1]])).eq(2).all()
    assert torch.equal(buffer[0, 1], before[0, 1])
    undo(log)
    assert torch.equal(buffer, before)
    assert log == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(2, 3), (1, 0), (2, 5, 7)])
def test_a_blank_is_zeros(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    made = blank(torch.zeros(1), *shape, dtype=dtype)
    assert torch.equal(made, torch.zeros(shape, dtype=dtype))
    assert made.add_(1).eq(1).all()


def memory_of(slots: int, width: int = 32, batch: int = 2) -> Tensor:
    return torch.randn(batch, slots, width, generator=torch.Generator().manual_seed(slots))


def recall(slots: int, noise: float | None, keys: int = 64, k: int = 4) -> tuple[float, float]:
    """Share of keys whose nearest slot is found, and of the k nearest that are."""
    memory, index = memory_of(slots), LSH(slots, 32)
    table = index.new_table(2, memory)
    index.fill(table, memory)
    generator = torch.Generator().manual_seed(1)
    key = torch.randn(2, keys, 32, generator=generator)
    if noise is not None:
        key = memory[:, torch.randperm(slots, generator=generator)[:keys]] + noise * key
    exact = cosine(key, memory).topk(k, 2).indices
    slot, found = index.nearest(table, key, memory, k)
    hits = ((slot.unsqueeze(2) == exact.unsqueeze(3)) & found.unsqueeze(2)).any(3).double()
    return hits[..., 0].mean().item(), hits.mean().item()


@pytest.mark.parametrize(
    ("slots", "noise", "first", "all_k"),
    [(1024, 0.3, 0.98, 0.8), (1024, None, 0.7, 0.7), (16384, 0.3, 0.98, 0.45), (16384, 0.5, 0.92, 0.45)],
)
def test_recall_on_random_vectors(slots: int, noise: float | None, first: float, all_k: float) -> None:
    """A stored vector is found from a noisy copy; of independent vectors' far neighbours many are missed."""
    found = recall(slots, noise)
    assert found[0] >= first
    assert found[1] >= all_k


@pytest.mark.parametrize("slots", [512, 65536])
def test_buckets_are_even_however_many_there_are(slots: int) -> None:
    """Of vectors in all directions, a bucket looked at holds as many as any other: the load, but for a full one's."""
    memory, index = memory_of(slots, batch=1), LSH(slots, 32, load=4)
    table = index.new_table(1, memory)
    index.fill(table, memory)
    keys = torch.randn(1, 512, 32, generator=torch.Generator().manual_seed(2))
    held = (index.candidates(table, keys) >= 0).sum(2) / (index.tables * index.probes)
    assert held.mean().item() == pytest.approx(4, rel=0.06)
    planes = index.planes.unflatten(1, (index.tables, index.bits)).transpose(0, 1)
    torch.testing.assert_close(planes.mT @ planes, torch.eye(index.bits).expand(8, -1, -1), atol=1e-5, rtol=0)


def test_what_is_found_is_scored_exactly_and_named_once() -> None:
    memory, index = memory_of(500), LSH(500, 32)
    table = index.new_table(2, memory)
    index.fill(table, memory)
    keys = memory[:, :20] + 0.1
    slots, found = index.nearest(table, keys, memory, 6)
    scores = cosine(keys, memory).gather(2, slots)
    assert (slots[..., 0] == torch.arange(20)).all()
    assert (scores.diff(dim=2)[found[..., 1:]] <= 0).all()
    for row, told in zip(slots.flatten(0, 1).tolist(), found.flatten(0, 1).tolist(), strict=True):
        named = [slot for slot, there in zip(row, told, strict=True) if there]
        assert len(set(named)) == len(named)


def entries(index: LSH, table: Tensor) -> list[dict[int, list[int]]]:
    """For each row of the batch, slots by bucket, from the cells themselves."""
    cells = table[:, :-1]
    return [{b: sorted(c[c > 0].tolist()) for b, c in enumerate(row) if c.any()} for row in cells]


def expected_entries(index: LSH, memory: Tensor) -> list[dict[int, list[int]]]:
    found: list[dict[int, list[int]]] = []
    for rows in memory:
        buckets: dict[int, list[int]] = {}
        for slot, row in enumerate(rows):
            if row.any():
                bits = (row @ index.planes).view(index.tables, index.bits) > 0
                for t, code in enumerate((bits * 2 ** torch.arange(index.bits)).sum(1).tolist()):
                    buckets.setdefault(t * 2**index.bits + code, []).append(slot + 1)
        found.append(buckets)
    return found


def test_the_index_holds_what_the_memory_holds_through_inserts_and_deletes() -> None:
    """Capacity for all, so that nothing is lost: after any changes each non-zero row is once in its bucket a table."""
    generator = torch.Generator().manual_seed(3)
    index = LSH(40, 5, tables=3, capacity=64)
    memory = torch.zeros(2, 40, 5)
    table = index.new_table(2, memory)
    log: list[Log] = []
    tables = []
    for step in range(30):
        slots = torch.randperm(40, generator=generator)[:6].expand(2, -1).clone()
        slots[1, 5] = slots[1, 2]
        new = torch.randn(2, 6, 5, generator=generator) * (torch.rand(2, 6, 1, generator=generator) > 0.3)
        new[1, 5] = new[1, 2]
        tables.append(table.clone())
        log.append([])
        index.update(table, slots, take(memory, slots), new, log[-1])
        poke(memory, slots, new, None)
        assert entries(index, table) == expected_entries(index, memory), f"after {step + 1} changes"
    while log:
        undo(log.pop())
        assert torch.equal(table, tables.pop())


def test_filling_is_inserting() -> None:
    memory = memory_of(60, width=5)
    memory[0, 3] = 0
    index = LSH(60, 5, tables=3, capacity=64)
    table = index.new_table(2, memory)
    index.fill(table, memory)
    assert entries(index, table) == expected_entries(index, memory)


def test_a_full_bucket_takes_the_new_entry_and_loses_an_old_one() -> None:
    index = LSH(40, 5, tables=2, capacity=4)
    row = torch.ones(1, 1, 5)
    table = index.new_table(1, row)
    for slot in range(9):
        index.update(table, torch.tensor([[slot]]), torch.zeros_like(row), row, None)
        held = entries(index, table)[0]
        assert len(held) == 2
        assert all(slot + 1 in names and len(names) == min(slot + 1, 4) for names in held.values())


def test_nothing_is_found_in_an_empty_index() -> None:
    index = LSH(40, 5)
    memory = torch.zeros(2, 40, 5)
    slots, found = index.nearest(index.new_table(2, memory), torch.ones(2, 3, 5), memory, 4)
    assert slots.shape == found.shape == (2, 3, 4)
    assert not found.any()
    assert not slots.any()


def test_projections_do_not_take_from_the_seed_and_are_the_same_again() -> None:
    torch.manual_seed(5)
    one = LSH(40, 5)
    drawn = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(1), drawn)
    assert torch.equal(LSH(40, 5).planes, one.planes)
    assert not list(one.state_dict())


def test_a_size_below_one_is_refused() -> None:
    with pytest.raises(BenchError, match="at least 1"):
        LSH(40, 5, tables=0)
    with pytest.raises(BenchError, match="buckets"):
        LSH(2**27 + 1, 5)


@pytest.mark.parametrize("k", [1, 3, 9])
@pytest.mark.parametrize("slots", [9, 14, 20])
def test_nearest_by_parts_is_nearest_of_all(slots: int, k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    keys, rows = torch.randn(2, 3, 5).double(), torch.randn(2, slots, 5).double()
    whole = nearest(keys, rows, k)
    monkeypatch.setattr("mann.index.PART", 4)
    assert torch.equal(nearest(keys, rows, k), whole)
    assert torch.equal(whole, cosine(keys, rows).topk(k, 2).indices)
