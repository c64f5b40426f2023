"""HCAM: a memory in blocks, read by way of their summaries (Lampinen et al. 2021, arXiv:2105.14039, §2).

The past is cut into blocks of consecutive items, each item a key and a value; the summary of a block is the mean of its
keys. A query q finds the blocks whose summaries suit it best, and then looks within these alone:

    R   = softmax over the chosen blocks of q · summary_i / √width,   chosen: the K largest
    r   = Σ_i R_i MHA(q, block_i)

where MHA is attention by heads over the items of one block (Vaswani et al. 2017, arXiv:1706.03762, §3.2.2). An access
touches slots / block summaries and (K + 1) · block items: with blocks of √slots items O(√slots), where plain attention
touches all of them. This holds in time too, forward and backward, since no step copies or sums anything as large as the
memory: the state is a tuple of blocks, and a write makes a new last block.

The softmax is over the chosen blocks, as in the authors' code. Deviations:

- Items can be found as soon as they are written: the block that is being filled is always among the chosen, beside the
  K of the full ones. In the paper it waits, and a Transformer's window shows what is recent.
- Gradients flow into what is stored. The authors stop them there, and train what is stored by other losses.
- Query, key and value are the controller's; there is no projection of keys and values at reading, no position within a
  block, no normalisation and no residual.
- The memory holds `slots` items. When a new block is begun and there is no place left, the oldest block is dropped.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.api import Addresses, BenchError, Memory, Task, build, method, option
from mann.learner import MemoryMethod, shared_fields


@dataclass(frozen=True, kw_only=True)
class HCAMOptions:
    """The options of `HCAM`."""

    slots: int = option(128, "memory slots; a multiple of block")
    width: int = option(40, "numbers in a key, and in a value; a multiple of heads")
    heads: int = option(4, "attention heads within a block, each over its share of the width")
    block: int = option(0, "slots in a block; 0: the divisor of slots nearest to its square root")
    near: int = option(4, "K: full blocks that a read looks into")


class HCAMState(NamedTuple):
    """What is stored, in order.

    blocks: the full blocks, oldest first, each [batch, block, 2 · width]: keys, then values. summaries: means of their
    keys, [batch, blocks, width]. open: the block being filled, [batch, items, 2 · width], items below block. place:
    where in the ring of slots / block places the oldest full block lies (or would), [batch] int64.
    """

    blocks: tuple[Tensor, ...]
    summaries: Tensor
    open: Tensor
    place: Tensor


class HCAM(Memory[HCAMState]):
    """Blocks with summaries as a cell: `HCAM(slots=128, width=40, heads=4)`, options as in `HCAMOptions`.

    The interface holds query, key and value, of the same width. A step reads, then writes: it does not find what it
    stores itself. An empty memory reads as zeros. Choosing has no gradient; of equally near blocks the older wins.
    Which blocks are read is decided on the host, so a step waits for the device, and `torch.func.vmap` cannot pass.

    Raises:
        BenchError: a size below one, a width that is no multiple of heads, slots that are no multiple of block, or
            more blocks to read than there are.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = o = build(HCAMOptions, options)
        if min(o.slots, o.width, o.heads, o.near) < 1 or o.block < 0 or o.width % o.heads:
            raise BenchError(
                f"hcam needs sizes of at least 1 and a width that is a multiple of heads, not slots={o.slots}, "
                f"width={o.width}, heads={o.heads}, near={o.near}, block={o.block}"
            )
        self.block = o.block or _near_root(o.slots)
        self.places = o.slots // self.block
        if o.slots % self.block or o.near > self.places:
            raise BenchError(
                f"hcam needs slots that are a multiple of block and no more near blocks than there are, "
                f"not slots={o.slots}, block={self.block}, near={o.near}"
            )
        self.read_size = o.width
        self.interface_size = 3 * o.width

    def initial_state(self, batch: int, like: Tensor) -> HCAMState:
        """Empty."""
        width = self.options.width
        place = torch.zeros(batch, dtype=torch.int64, device=like.device)
        return HCAMState((), like.new_zeros(batch, 0, width), like.new_zeros(batch, 0, 2 * width), place)

    def forward(self, interface: Tensor, state: HCAMState) -> tuple[Tensor, HCAMState]:
        """One step; see `Memory.forward`."""
        query, key, value = interface.chunk(3, 1)
        return self.read(query, state), self.write(key, value, state)

    def addresses(self, interface: Tensor, state: HCAMState) -> Addresses:
        """R times the attention within each block, the slot written, and which slots are in use (1) or free (0)."""
        o, query, items = self.options, interface.chunk(3, 1)[0], state.open.shape[1]
        opened = F.pad(state.open, (0, 0, 0, self.block - items))
        keys = torch.stack((*state.blocks, opened), 1)[..., : o.width]
        used = torch.ones_like(keys[..., 0])
        used[:, -1, items:] = 0
        scores = torch.einsum("bhw,bnchw->bhnc", self._by_head(query), self._by_head(keys)) * (o.heads / o.width) ** 0.5
        within = scores.masked_fill(used.unsqueeze(1) == 0, torch.finfo(scores.dtype).min).softmax(3) * used.unsqueeze(
            1
        )
        relevance = torch.zeros_like(used[..., 0])
        chosen, logits = self.choose(query, state)
        if logits.shape[1]:
            relevance = relevance.scatter(1, chosen, logits.softmax(1))
        here = (state.place.unsqueeze(1) + torch.arange(used.shape[1], device=used.device)) % self.places
        written = torch.zeros_like(used[:, -1]).index_fill(1, torch.tensor([items], device=used.device), 1.0)
        return Addresses(
            self._in_ring(within * relevance[:, None, :, None], here),
            self._in_ring(written[:, None, None], here[:, -1:]),
            self._in_ring(used.unsqueeze(1), here).squeeze(1),
        )

    def read(self, query: Tensor, state: HCAMState) -> Tensor:
        """What a query finds, [batch, width]. query: [batch, width]."""
        chosen, logits = self.choose(query, state)
        parts = []
        if state.blocks:
            full = chosen[:, : min(self.options.near, len(state.blocks))]
            items = _take(state.blocks, full)
            parts.append(self.attend(query.repeat_interleave(full.shape[1], 0), items).unflatten(0, full.shape))
        if state.open.shape[1]:
            parts.append(self.attend(query, state.open).unsqueeze(1))
        if not parts:
            return torch.zeros_like(query)
        return torch.bmm(logits.softmax(1).unsqueeze(1), torch.cat(parts, 1)).squeeze(1)

    def choose(self, query: Tensor, state: HCAMState) -> tuple[Tensor, Tensor]:
        """The blocks to read, the one being filled last, and how well their summaries suit the query: [batch, chosen].

        The block being filled, where it has items, has the number of the full ones.
        """
        summaries, count = state.summaries, len(state.blocks)
        if state.open.shape[1]:
            summaries = torch.cat((summaries, state.open[..., : self.options.width].mean(1, keepdim=True)), 1)
        logits = torch.bmm(summaries, query.unsqueeze(2)).squeeze(2) / math.sqrt(self.options.width)
        full = logits[:, :count].detach().argsort(dim=1, descending=True, stable=True)[:, : self.options.near]
        last = torch.arange(count, logits.shape[1], device=query.device).expand(len(query), -1)
        chosen = torch.cat((full, last), 1)
        return chosen, logits.gather(1, chosen)

    def attend(self, query: Tensor, items: Tensor) -> Tensor:
        """Attention by heads within a block. query: [n, width]; items: [n, items, 2 · width]. Returns [n, width]."""
        keys, values = (self._by_head(part).transpose(1, 2) for part in items.chunk(2, 2))
        return F.scaled_dot_product_attention(self._by_head(query).unsqueeze(2), keys, values).flatten(1)

    def write(self, key: Tensor, value: Tensor, state: HCAMState) -> HCAMState:
        """Store an item. key, value: [batch, width]."""
        blocks, summaries, opened, place = state
        if len(blocks) == self.places:
            blocks, summaries, place = blocks[1:], summaries[:, 1:], (place + 1) % self.places
        opened = torch.cat((opened, torch.cat((key, value), 1).unsqueeze(1)), 1)
        if opened.shape[1] == self.block:
            summary = opened[..., : self.options.width].mean(1, keepdim=True)
            blocks, summaries, opened = (*blocks, opened), torch.cat((summaries, summary), 1), opened[:, :0]
        return HCAMState(blocks, summaries, opened, place)

    def _by_head(self, vectors: Tensor) -> Tensor:
        return vectors.unflatten(-1, (self.options.heads, -1))

    def _in_ring(self, values: Tensor, here: Tensor) -> Tensor:
        """Blocks at their places: [batch, heads, blocks, block] to [batch, heads, slots]."""
        ring = values.new_zeros(*values.shape[:2], self.places, self.block)
        return ring.scatter_add(2, here[:, None, :, None].expand_as(values), values).flatten(2)


def _take(blocks: tuple[Tensor, ...], chosen: Tensor) -> Tensor:
    """Block chosen[b, i] of each row b: [batch · chosen, items, 2 · width].

    No block is touched but the chosen ones, neither here nor in the backward pass, which is why they are not stacked.
    """
    ordered, order = chosen.flatten().sort(stable=True)
    numbers, counts = ordered.unique_consecutive(return_counts=True)
    rows = (order // chosen.shape[1]).split(counts.tolist())
    taken = [blocks[number].index_select(0, row) for number, row in zip(numbers.tolist(), rows, strict=True)]
    return torch.cat(taken).index_select(0, order.argsort())


def _near_root(slots: int) -> int:
    return min((d for d in range(1, slots + 1) if slots % d == 0), key=lambda d: abs(d - math.sqrt(slots)))


@method("hcam", source="Lampinen et al. 2021, arXiv:2105.14039")
class HCAMMethod(HCAMOptions, MemoryMethod):
    """Attention over blocks of the past by way of their summaries, behind any controller."""

    def memory(self, task: Task) -> HCAM:
        """A fresh memory in blocks."""
        return HCAM(**shared_fields(self, HCAMOptions))
