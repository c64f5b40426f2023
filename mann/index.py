"""Which slot is near a key, and which was not accessed for longest, without looking at every slot.

All that is kept here lives in buffers that are changed in place: `poke` writes a few places and first notes what stood
there, `undo` puts it back to the bit. A buffer's first dimension is the batch; a new one is all zeros, so that a large
one costs nothing to make on a CPU (the system hands out zeroed pages when they are first touched).

- `LSH`: approximate nearest neighbours by the angle between vectors: signed random projections (Charikar 2002) with
  several tables, and in each the buckets that differ in the least certain bits (Lv et al. 2007, multi-probe). The
  planes of a table are orthogonal (Ji et al. 2012, super-bit), which makes their bits independent: drawn one by one,
  planes make buckets the more uneven the more there are, and those looked at hold ever more than others. Buckets have a
  fixed capacity: a full one loses an entry of its own for a new one, in this table only.
- `least_recent` and `touch`: a ring of slots ordered by last access, a circular doubly linked list (Rae et al. 2016,
  arXiv:1610.09027, supplementary A).
"""

from __future__ import annotations

import math
import mmap

import torch
from torch import Tensor, nn

from bench.api import BenchError

PART = 4096
"""So many rows are compared with keys at a time."""
Log = list[tuple[Tensor, Tensor, Tensor]]
"""What was overwritten, in order: (buffer as lines, which lines, what stood there)."""


def blank(like: Tensor, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
    """Zeros on `like`'s device, in its dtype unless another is given; on a CPU not touched before they are used."""
    dtype = dtype or like.dtype
    if like.device.type != "cpu" or 0 in shape:
        return torch.zeros(shape, dtype=dtype, device=like.device)
    # torch.zeros writes every byte; NumPy's asks for pages of 2 MiB, so that a few rows here and there touch it all.
    pages = mmap.mmap(-1, math.prod(shape) * dtype.itemsize, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return torch.frombuffer(pages, dtype=dtype).view(shape)


def poke(buffer: Tensor, where: Tensor, value: Tensor, log: Log | None) -> None:
    """Set buffer[b, where[b, j]] = value[b, j]; what stood there is logged, where there is a log.

    buffer: [batch, n] or [batch, n, width]; where: [batch, m]. A place that comes twice must be given one value.
    """
    flat = flat_places(buffer, where)
    lines = buffer.view(-1, *buffer.shape[2:])
    if log is not None:
        log.append((lines, flat, lines.index_select(0, flat)))
    lines[flat] = value.to(buffer.dtype).flatten(0, 1)


def undo(log: Log) -> None:
    """Take back what a log tells, the last first, and empty it."""
    while log:
        lines, flat, before = log.pop()
        lines[flat] = before


def flat_places(buffer: Tensor, where: Tensor) -> Tensor:
    """where, [batch, m], as places in `buffer.flatten(0, 1)`: [batch · m]."""
    return (where + torch.arange(len(buffer), device=buffer.device).unsqueeze(1) * buffer.shape[1]).flatten()


def take(buffer: Tensor, where: Tensor) -> Tensor:
    """The rows buffer[b, where[b, ...]]: where's shape, then width."""
    # Far faster than `gather`, which looks each number of a row up by itself.
    rows = buffer.view(-1, buffer.shape[2]).index_select(0, flat_places(buffer, where.flatten(1)))
    return rows.view(*where.shape, -1)


def add(buffer: Tensor, where: Tensor, rows: Tensor) -> None:
    """Add rows, [batch, m, width], to buffer[b, where[b, j]] in place; a place may come twice."""
    buffer.view(-1, buffer.shape[2]).index_add_(0, flat_places(buffer, where), rows.reshape(-1, rows.shape[2]))


def equal_pairs(slots: Tensor) -> Tensor:
    """Which entries name the same slot: [..., m, m] bool, from [..., m]."""
    return slots.unsqueeze(-1) == slots.unsqueeze(-2)


# The ring: next and previous of each slot. Node `slots` is where it begins and ends, node `slots + 1` is written where
# nothing is to be written. Kept is the difference to the ring 0, 1, 2, ...: zeros are the slots in order.


def new_ring(batch: int, slots: int, like: Tensor) -> Tensor:
    """A ring with all slots in order, slot 0 the least recent: [batch, 2 · (slots + 2)] int64."""
    return blank(like, batch, 2 * (slots + 2), dtype=torch.int64)


def _neighbours(ring: Tensor, nodes: Tensor) -> Tensor:
    """Next (0) and previous (1) of nodes, [batch, 2, m]."""
    size = ring.shape[1] // 2
    step, offset = ring.new_tensor([[1], [-1]]), ring.new_tensor([[0], [size]])
    stored = ring.gather(1, (nodes.unsqueeze(1) + offset).flatten(1)).view(len(ring), 2, -1)
    return stored + (nodes.unsqueeze(1) + step).remainder(size - 1)


def _connect(ring: Tensor, left: Tensor, right: Tensor, where: Tensor, log: Log | None) -> None:
    """Make right[b, j] follow left[b, j] where told; all [batch, m]."""
    size = ring.shape[1] // 2
    places = torch.cat((left, right + size), 1)
    links = torch.cat((right - (left + 1).remainder(size - 1), left - (right - 1).remainder(size - 1)), 1)
    told = torch.cat((where, where), 1)
    poke(ring, torch.where(told, places, size - 1), torch.where(told, links, 0), log)


def least_recent(ring: Tensor) -> Tensor:
    """The slot not accessed for longest: [batch, 1]."""
    start = ring.shape[1] // 2 - 2
    return ring[:, start : start + 1]  # the start's next in order is 0, so that the difference is the slot itself


def touch(ring: Tensor, slots: Tensor, used: Tensor, log: Log | None) -> None:
    """Move the used slots behind all others, in the order in which they first come as used. slots, used: [batch, m]."""
    batch, m = slots.shape
    start = ring.shape[1] // 2 - 2
    order = torch.arange(m + 1, device=ring.device)
    member = used & ~(equal_pairs(slots) & used.unsqueeze(1)).tril(-1).any(2)
    nodes = torch.cat((slots, slots.new_full((batch, 1), start)), 1)
    # The neighbours outside of the moved set: hop over moved ones, twice as far each time.
    beside = _neighbours(ring, nodes)
    found = (beside.unsqueeze(3) == slots[:, None, None]) & member[:, None, None]
    hop = torch.where(found.any(3), found.to(torch.uint8).argmax(3), order)
    for _ in range(m.bit_length()):
        hop = hop.gather(2, hop)
    after, before = beside.gather(2, hop).unbind(1)
    _connect(ring, before[:, :m], after[:, :m], member, log)
    # The chain of the moved ones, between the last that stays and the start.
    moved = slots.gather(1, (~member).to(torch.uint8).argsort(dim=1, stable=True))
    inside = order[:m] < member.sum(1, keepdim=True)
    chain = torch.cat((before[:, m:], torch.where(inside, moved, start), nodes[:, m:]), 1)
    _connect(ring, chain[:, :-1], chain[:, 1:], order <= member.sum(1, keepdim=True), log)


def ring_order(ring: Tensor) -> Tensor:
    """Place of each slot in the ring, 0 the least recent: [batch, slots]. Looks at every slot; for inspection."""
    nodes = torch.arange(ring.shape[1] // 2 - 1, device=ring.device).expand(len(ring), -1)
    back = _neighbours(ring, nodes)[:, 1].clone()
    back[:, -1] = len(nodes[0]) - 1
    rank = (back != nodes).long()
    for _ in range(len(nodes[0]).bit_length()):
        rank, back = rank + rank.gather(1, back), back.gather(1, back)
    return rank[:, :-1] - 1


class LSH(nn.Module):
    """An index over the directions of up to `slots` vectors; the table is state, the projections are fixed.

    tables, probes: hash tables, and buckets looked at in each. capacity: entries a bucket holds. About `load` entries
    fall into a bucket when all slots are full. A query compares at most tables · probes · capacity slots, however many
    there are. Zero vectors have no direction and are not indexed. The projections are the same in each process.

    Raises:
        BenchError: a size below one, or slots for more than 2^24 buckets.
    """

    planes: Tensor
    powers: Tensor
    cells: Tensor
    first: Tensor
    most: int
    """Slots that a query compares at most."""

    def __init__(self, slots: int, width: int, tables: int = 8, probes: int = 4, capacity: int = 16, load: int = 8):
        super().__init__()
        if min(slots, width, tables, probes, capacity, load) < 1:
            raise BenchError("LSH needs slots, width, tables, probes, capacity and load of at least 1")
        self.bits = max(1, math.ceil(math.log2(slots / load)))
        if self.bits > 24:
            raise BenchError(f"LSH has at most 2^24 buckets a table: {slots} slots need a load above {load}")
        self.tables, self.capacity, self.probes = tables, capacity, min(probes, self.bits + 1)
        self.most = tables * self.probes * capacity
        generator = torch.Generator().manual_seed(slots * 1009 + width)
        drawn = torch.randn(tables, width, self.bits, generator=generator, dtype=torch.float64)
        planes = torch.cat([torch.linalg.qr(part)[0] for part in drawn.split(width, 2)], 2)
        planes = planes.transpose(0, 1).flatten(1)
        self.register_buffer("planes", planes.to(torch.get_default_dtype()), persistent=False)
        self.register_buffer("powers", 2 ** torch.arange(self.bits), persistent=False)
        self.register_buffer("cells", torch.arange(capacity), persistent=False)
        self.register_buffer("first", torch.arange(tables) * 2**self.bits, persistent=False)

    def new_table(self, batch: int, like: Tensor) -> Tensor:
        """An empty index, [batch, buckets + 1, capacity]: slot + 1 in each cell, 0 where free.

        The last bucket stands for none: it is written where nothing is to be written.
        """
        return blank(like, batch, self.tables * 2**self.bits + 1, self.capacity, dtype=torch.int32)

    def update(self, table: Tensor, slots: Tensor, old: Tensor, new: Tensor, log: Log | None) -> None:
        """Tell the index that slots, [batch, m], held the old and now hold the new rows, [batch, m, width].

        A slot may come twice, with the same rows.
        """
        m, none = slots.shape[1], table.shape[1] - 1
        was, now = self._buckets(torch.cat((old, new), 1)).split(m, 1)
        same = equal_pairs(slots)
        moved = (was != now) & ~same.tril(-1).any(2, keepdim=True)
        entry = (slots + 1).unsqueeze(2).expand_as(was)
        leave = torch.where(moved, was, none)
        mine = take(table, leave) == entry.unsqueeze(3)
        self._set(table, leave, mine.to(torch.uint8).argmax(3), mine.any(3), torch.zeros_like(entry), log)
        # The newcomers to a bucket take its free cells in turn, then others, from one that changes with what it holds.
        enter = torch.where(moved, now, none)
        held = take(table, enter)
        turn = equal_pairs(enter.transpose(1, 2)).tril(-1).sum(3).remainder(self.capacity).transpose(1, 2)
        later = self.capacity + (self.cells + held.sum(3, keepdim=True)).remainder(self.capacity)
        at = torch.where(held == 0, self.cells, later).argsort(3).gather(3, turn.unsqueeze(3)).squeeze(3)
        already = held == entry.unsqueeze(3)
        at = torch.where(already.any(3), already.to(torch.uint8).argmax(3), at)
        self._set(table, enter, at, enter != none, entry, log)

    def nearest(self, table: Tensor, keys: Tensor, memory: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The k slots whose rows have the highest cosine with each key among those in its buckets, best first.

        keys: [batch, keys, width]. Returns slots, and whether there was one: [batch, keys, k] int64 and bool.
        """
        width = keys.shape[2]
        slots = self.candidates(table, keys)
        rows = take(memory, slots.clamp(min=0)).flatten(0, 1)
        score = cosine(keys.reshape(-1, 1, width), rows).view_as(slots)
        score = score.masked_fill(slots < 0, -math.inf)
        # A slot is in one bucket of a table, so these hold the k best even if each comes once a table.
        best, at = score.topk(min(k * self.tables, slots.shape[2]), 2)
        slots = slots.gather(2, at)
        again = equal_pairs(slots).tril(-1).any(3)
        best, at = best.masked_fill(again, -math.inf).topk(k, 2)
        found = best > -math.inf
        return slots.gather(2, at).masked_fill(~found, 0), found

    def candidates(self, table: Tensor, keys: Tensor) -> Tensor:
        """What the buckets of each key hold, -1 in free cells: [batch, keys, tables · probes · capacity]."""
        projected = self._project(keys)
        bucket = (self._code(projected) + self.first).unsqueeze(3)
        if self.probes > 1:
            flips = projected.abs().topk(self.probes - 1, 3, largest=False).indices
            bucket = torch.cat((bucket, bucket ^ self.powers[flips]), 3)
        return take(table, bucket).flatten(2).long() - 1

    def fill(self, table: Tensor, memory: Tensor) -> None:
        """Index a whole memory, [batch, slots, width], into an empty table: the lowest slots where a bucket is full."""
        none = table.shape[1] - 1
        cells = table.view(len(table), -1)
        parts = [self._buckets(part) for part in memory.split(4096, 1)]  # bounds what the projections take
        for buckets in torch.cat(parts, 1).movedim(2, 0).contiguous():
            bucket, slot = buckets.sort(dim=1, stable=True)
            rank = torch.arange(memory.shape[1], device=table.device) - torch.searchsorted(bucket, bucket)
            fits = (rank < self.capacity) & (bucket != none)
            place = torch.where(fits, bucket * self.capacity + rank, cells.shape[1] - 1)
            poke(cells, place, torch.where(fits, slot + 1, 0), None)

    def _project(self, rows: Tensor) -> Tensor:
        return (rows @ self.planes).unflatten(-1, (self.tables, self.bits))

    def _code(self, projected: Tensor) -> Tensor:
        """The signs as a number: exact in float32 up to 24 bits, and much faster than a sum of integers."""
        return ((projected > 0).float() @ self.powers.float()).long()

    def _buckets(self, rows: Tensor) -> Tensor:
        """Bucket of each row in each table, [batch, m, tables]; that of a zero row is none."""
        buckets = self._code(self._project(rows)) + self.first
        return buckets.masked_fill(~rows.any(2, keepdim=True), self.tables * 2**self.bits)

    def _set(self, table: Tensor, buckets: Tensor, at: Tensor, where: Tensor, entry: Tensor, log: Log | None) -> None:
        cells = table.view(len(table), -1)
        place = torch.where(where, buckets * self.capacity + at, cells.shape[1] - 1).flatten(1)
        poke(cells, place, torch.where(where, entry, 0).flatten(1), log)


def cosine(keys: Tensor, rows: Tensor, epsilon: float = 1e-6) -> Tensor:
    """k·m / √((|k|² + ε)(|m|² + ε)): smooth everywhere, 0 for a zero vector. keys: [n, r, w], rows: [n, m, w]."""
    key_norm = torch.linalg.vector_norm(keys, dim=2).square().unsqueeze(2) + epsilon
    row_norm = torch.linalg.vector_norm(rows, dim=2).square().unsqueeze(1) + epsilon
    return torch.bmm(keys, rows.transpose(1, 2)) * (key_norm.rsqrt() * row_norm.rsqrt())


def nearest(keys: Tensor, rows: Tensor, k: int) -> Tensor:
    """The k rows of largest cosine with each key, the nearest first: [n, r, k].

    A part of the rows at a time: cosines with all of a large memory, made and freed at every step among small tensors
    that stay, would leave holes that an allocator cannot use again (1.7 GB after 200 steps of 65,536 slots).
    """
    if rows.shape[1] <= PART:
        return cosine(keys, rows).topk(k, 2).indices
    found = [cosine(keys, part).topk(min(k, part.shape[1]), 2) for part in rows.split(PART, 1)]
    slots = torch.cat([part.indices + i * PART for i, part in enumerate(found)], 2)
    return slots.gather(2, torch.cat([part.values for part in found], 2).topk(k, 2).indices)
