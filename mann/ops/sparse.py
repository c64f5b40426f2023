"""Ops of sparse memories: K slots of a head are read or written, however many there are."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from bench.api import BenchError, Draw, Op, Outputs, Work, op, option
from mann.index import LSH, cosine, poke, take
from mann.sam import Parts, Read, Write, content

INDEX, CELL = 8, 4
"""Bytes of an index, and of a cell of the hash tables."""


@op("topk-read", source="Rae et al. 2016, eq. 4")
class TopKRead(Op):
    """Exact sparse read: the K slots nearest to each key, softmax of β cos over them, and their weighted sum."""

    methods = ("sam", "sdnc")

    slots: int = option(128, "memory slots")
    width: int = option(40, "numbers a slot holds")
    heads: int = option(4, "heads")
    k: int = option(4, "slots a head reads")

    def check(self) -> None:
        """No more are read than there are."""
        if self.k > self.slots:
            raise BenchError(f"topk-read reads k={self.k} slots, more than the {self.slots} there are")

    def inputs(self, draw: Draw) -> tuple[Tensor, ...]:
        """Memory, keys and strengths."""
        b, n, w, r = self.batch, self.slots, self.width, self.heads
        return draw.normal(b, n, w), draw.normal(b, r, w), 1 + draw.uniform(b, r, 1)

    def reference(self, memory: Tensor, keys: Tensor, strengths: Tensor) -> Outputs:
        """All cosines; those of the K largest count."""
        near, slots = cosine(keys, memory).topk(self.k, 2)
        weights = (strengths * near).softmax(2)
        rows = memory.unsqueeze(1).expand(-1, self.heads, -1, -1).gather(
            2, slots.unsqueeze(3).expand(-1, -1, -1, self.width)
        )  # fmt: skip
        return torch.einsum("brk,brkw->brw", weights, rows), slots

    def eager(self, memory: Tensor, keys: Tensor, strengths: Tensor) -> Outputs:
        """As `mann.sam.SAM` does: a search without gradient, then the K rows alone."""
        with torch.no_grad():
            slots = cosine(keys, memory).topk(self.k, 2).indices
        rows, _ = Read.apply(memory, memory.detach(), slots, None)
        none = keys.new_empty(0)
        weights = content(Parts(keys, strengths, none, none, none), rows, None)
        return (weights.unsqueeze(2) @ rows).squeeze(2), slots

    def least(self, itemsize: int) -> Work:
        """Read M, k and β; write what is read and where."""
        b, n, w, r, k = self.batch, self.slots, self.width, self.heads, self.k
        read = b * (n * w + r * w + r) * itemsize
        written = b * r * (w * itemsize + k * INDEX)
        return Work(read, written, 2 * b * r * (n + k) * w, b * (2 * n * w + 2 * r * w + 3 * r * n + 4 * r * k))

    def least_both(self, itemsize: int) -> Work:
        """The backward pass touches K rows a head only: reads them, and adds to the memory's gradient there."""
        f, b, w, r, k = self.least(itemsize), self.batch, self.width, self.heads, self.k
        read = b * (2 * r * k * w + r * k + 2 * r * w + r) * itemsize
        written = b * (r * k * w + r * w + r) * itemsize
        return Work(f.read + read, f.written + written, f.products + 8 * b * r * k * w, f.others + 10 * b * r * k)


class Carry(torch.autograd.Function):
    """A buffer that was changed in place, with the gradient going to the flow that stands for it (see `mann.sam`)."""

    @staticmethod
    def forward(ctx: Any, flow: Tensor, buffer: Tensor) -> Tensor:
        """The buffer."""
        return buffer.view_as(buffer)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """To the flow."""
        return *gradients, None


@op("sparse-write", source="Rae et al. 2016, eq. 3")
class SparseWrite(Op):
    """Sparse write, in place: one slot is erased, w_j a is added to R K + 1 slots."""

    methods = ("sam", "sdnc")

    slots: int = option(128, "memory slots")
    width: int = option(40, "numbers a slot holds")
    heads: int = option(4, "heads that read at the step before")
    k: int = option(4, "slots each of them read")

    @property
    def count(self) -> int:
        """Slots written."""
        return self.heads * self.k + 1

    def check(self) -> None:
        """No more are written than there are."""
        if self.count > self.slots:
            raise BenchError(f"sparse-write changes heads × k + 1 = {self.count} slots, more than {self.slots}")

    def inputs(self, draw: Draw) -> tuple[Tensor, ...]:
        """Memory, weights, the vector to add, and the slots, the last of which is erased."""
        b, m = self.batch, self.count
        memory = draw.normal(b, self.slots, self.width)
        return memory, draw.uniform(b, m), draw.normal(b, self.width), draw.distinct(self.slots, b, m)

    def reference(self, memory: Tensor, weights: Tensor, value: Tensor, slots: Tensor) -> Outputs:
        """A whole new memory."""
        kept = torch.ones_like(memory[..., 0]).scatter(1, slots[:, -1:], 0.0)
        dense = torch.zeros_like(kept).scatter_add(1, slots, weights)
        return memory * kept.unsqueeze(2) + torch.einsum("bn,bw->bnw", dense, value)

    def eager(self, memory: Tensor, weights: Tensor, value: Tensor, slots: Tensor) -> Outputs:
        """As `mann.sam.SAM.write` does, without a journal: rows change in place, gradients run beside."""
        with torch.no_grad():
            kept = take(memory, slots) * (slots != slots[:, -1:]).unsqueeze(2)
            poke(memory.detach(), slots, kept + weights.unsqueeze(2) * value.unsqueeze(1), None)
        return Carry.apply(Write.apply(memory, weights, value, slots, None), memory.detach())

    def least(self, itemsize: int) -> Work:
        """Read and write the rows, but for the erased one, which need not be read; read w, a and the slots."""
        b, m, w = self.batch, self.count, self.width
        read = b * ((m - 1) * w + m + w) * itemsize + b * m * INDEX
        return Work(read, b * m * w * itemsize, 0, b * (2 * m - 1) * w)

    def least_both(self, itemsize: int) -> Work:
        """Backward, in place: read the rows of the gradient, w, a and the slots; erase one row; write those of w, a."""
        f, b, m, w = self.least(itemsize), self.batch, self.count, self.width
        read = b * (m * w + m + w) * itemsize + b * m * INDEX
        return Work(f.read + read, f.written + b * (w + m + w) * itemsize, 0, f.others + 4 * b * m * w)


@op("index-insert", source="Rae et al. 2016, §3.5; Charikar 2002")
class IndexInsert(Op):
    """Tell the hash tables of an approximate index that R K + 1 rows have changed, in place."""

    methods = ("sam", "sdnc")
    dtypes = ("float32",)
    differentiable = False

    slots: int = option(128, "memory slots")
    width: int = option(40, "numbers a slot holds")
    heads: int = option(4, "heads that read at the step before")
    k: int = option(4, "slots each of them read")

    @property
    def count(self) -> int:
        """Rows changed."""
        return self.heads * self.k + 1

    @cached_property
    def index(self) -> LSH:
        """The index; its projections depend on the sizes alone."""
        return LSH(self.slots, self.width)

    def check(self) -> None:
        """No more change than there are."""
        if self.count > self.slots:
            raise BenchError(f"index-insert changes heads × k + 1 = {self.count} rows, more than {self.slots}")

    def inputs(self, draw: Draw) -> tuple[Tensor, ...]:
        """A full index, the slots, their old and their new rows."""
        b, m, w = self.batch, self.count, self.width
        memory, slots = draw.normal(b, self.slots, w), draw.distinct(self.slots, b, m)
        if draw.device == "meta":
            return self.index.new_table(b, memory), slots, memory[:, :m], draw.normal(b, m, w)
        table = filled(self.index, memory)
        return table, slots, take(memory, slots), draw.normal(b, m, w)

    def reference(self, table: Tensor, slots: Tensor, old: Tensor, new: Tensor) -> Outputs:
        """Row by row: all leave their old buckets; each then takes a free cell, or another's where there is none."""
        after, lsh = table.clone(), self.index
        for b in range(len(table)):
            was, now = buckets_of(lsh, old[b]), buckets_of(lsh, new[b])
            moves = [(m, t) for m in range(slots.shape[1]) for t in range(lsh.tables) if was[m][t] != now[m][t]]
            for m, t in moves:
                cells = after[b, was[m][t]]
                cells[cells == slots[b, m] + 1] = 0
            held = after[b].clone()
            taken: dict[int, int] = {}
            for m, t in moves:
                bucket = now[m][t]
                free = [c for c in range(lsh.capacity) if held[bucket, c] == 0]
                start = int(held[bucket].sum()) % lsh.capacity
                order = [*free, *(c % lsh.capacity for c in range(-start, lsh.capacity - start))]
                order = list(dict.fromkeys(order))
                turn = taken.get(bucket, 0)
                taken[bucket] = turn + 1
                after[b, bucket, order[turn % lsh.capacity]] = slots[b, m] + 1
        return after[:, :-1]

    def eager(self, table: Tensor, slots: Tensor, old: Tensor, new: Tensor) -> Outputs:
        """`mann.index.LSH.update`."""
        self.index.update(table, slots, old, new, None)
        return table[:, :-1]

    def least(self, itemsize: int) -> Work:
        """Read the rows, the slots, the projections and two buckets a table; write a cell in each of them."""
        b, m, w, lsh = self.batch, self.count, self.width, self.index
        planes, cells = w * lsh.tables * lsh.bits, 2 * b * m * lsh.tables
        looked_at = min(cells, b * lsh.tables * 2**lsh.bits) * lsh.capacity
        read = (2 * b * m * w + planes) * itemsize + b * m * INDEX + looked_at * CELL
        return Work(read, cells * CELL, 4 * b * m * planes, 2 * b * m * lsh.tables * (lsh.bits + lsh.capacity))


@op("index-query", source="Rae et al. 2016, §3.5; Charikar 2002; Lv et al. 2007")
class IndexQuery(Op):
    """The K stored rows nearest to each key among those in its buckets: approximate search, exact cosines."""

    methods = ("sam", "sdnc")
    dtypes = ("float32",)
    differentiable = False

    slots: int = option(128, "memory slots")
    width: int = option(40, "numbers a slot holds")
    heads: int = option(4, "heads")
    k: int = option(4, "slots a head reads")

    @cached_property
    def index(self) -> LSH:
        """The index; its projections depend on the sizes alone."""
        return LSH(self.slots, self.width)

    def check(self) -> None:
        """No more are read than there are."""
        if self.k > self.slots:
            raise BenchError(f"index-query reads k={self.k} slots, more than the {self.slots} there are")

    def inputs(self, draw: Draw) -> tuple[Tensor, ...]:
        """A full index, keys, and the memory."""
        memory = draw.normal(self.batch, self.slots, self.width)
        keys = draw.normal(self.batch, self.heads, self.width)
        if draw.device == "meta":
            return self.index.new_table(self.batch, memory), keys, memory
        return filled(self.index, memory), keys, memory

    def reference(self, table: Tensor, keys: Tensor, memory: Tensor) -> Outputs:
        """Key by key and bucket by bucket."""
        lsh, shape = self.index, (len(table), self.heads, self.k)
        slots, found = torch.zeros(shape, dtype=torch.int64), torch.zeros(shape, dtype=torch.bool)
        scores = cosine(keys, memory)
        for b in range(len(table)):
            for r, probes in enumerate(probes_of(lsh, keys[b])):
                held = {int(cell) - 1 for bucket in probes for cell in table[b, bucket] if cell > 0}
                best = sorted(held, key=lambda slot, b=b, r=r: -scores[b, r, slot].item())[: self.k]  # type: ignore[misc]
                slots[b, r, : len(best)] = torch.tensor(best, dtype=torch.int64)
                found[b, r, : len(best)] = True
        return slots.to(table.device), found.to(table.device)

    def eager(self, table: Tensor, keys: Tensor, memory: Tensor) -> Outputs:
        """`mann.index.LSH.nearest`."""
        return self.index.nearest(table, keys, memory, self.k)

    @property
    def candidates(self) -> int:
        """Entries that the buckets of one key hold at least on average: as many as where all are equally full.

        Where some are fuller, a key is more likely to fall into one of those.
        """
        lsh = self.index
        return min(self.slots, round(lsh.tables * lsh.probes * min(lsh.capacity, self.slots / 2**lsh.bits)))

    def least(self, itemsize: int) -> Work:
        """Read keys, projections, buckets and the rows in them; write slots, and whether there was one."""
        b, w, r, lsh = self.batch, self.width, self.heads, self.index
        planes, cells = w * lsh.tables * lsh.bits, lsh.tables * min(r * lsh.probes, 2**lsh.bits) * lsh.capacity
        rows = b * min(self.slots, r * self.candidates)
        read = (b * r * w + planes + rows * w) * itemsize + b * cells * CELL
        products = 2 * b * r * (planes + self.candidates * w)
        return Work(read, b * r * self.k * (INDEX + 1), products, b * r * self.candidates * (2 * w + 4))


def filled(lsh: LSH, memory: Tensor) -> Tensor:
    """The table of an index that holds a whole memory; the index moves to the memory's device."""
    table = lsh.to(memory.device).new_table(len(memory), memory)
    lsh.fill(table, memory)
    return table


def buckets_of(lsh: LSH, rows: Tensor) -> list[list[int]]:
    """The bucket of each row in each table, from the signs of its projections. rows: [m, width]."""
    signs = (rows @ lsh.planes > 0).view(len(rows), lsh.tables, lsh.bits).tolist()
    return [[t * 2**lsh.bits + sum(2**i for i, bit in enumerate(bits) if bit) for t, bits in enumerate(row)]
            for row in signs]  # fmt: skip


def probes_of(lsh: LSH, keys: Tensor) -> list[list[int]]:
    """The buckets looked at for each key: its own, and those across the planes that it is nearest to."""
    near = (keys @ lsh.planes).view(len(keys), lsh.tables, lsh.bits).abs().tolist()
    probes = []
    for own, row in zip(buckets_of(lsh, keys), near, strict=True):
        across = [sorted(range(lsh.bits), key=distances.__getitem__)[: lsh.probes - 1] for distances in row]
        first = [t * 2**lsh.bits for t in range(lsh.tables)]
        probes.append(own + [f + ((o - f) ^ 2**i) for f, o, bits in zip(first, own, across, strict=True) for i in bits])
    return probes
