"""Ops that touch every slot: to find, read, write, and choose where to write."""

from __future__ import annotations

import math
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.api import BenchError, Draw, Op, Outputs, Work, op, option, variant
from mann.addressing import LEAST, SOFTENING, content, erase_and_add, queries, sharpen, weighted_read
from mann.attention import AttentionMemory, AttentionState
from mann.delta import write as delta_write
from mann.dnc import UNUSED, Linkage, allocation
from mann.lrua import least_used, used
from mann.ntm import shift

INDEX = 8
"""Bytes of an index."""
REDUCED = ("float32", "float64", "bfloat16")


@op("content", source="Graves et al. 2014, eq. 5, 6")
class Content(Op):
    """Content addressing: softmax_i β cos(k, M(i)) for each head."""

    methods = ("ntm", "dnc", "dnc-md", "adnc")
    dtypes = REDUCED

    slots: int = option(128, "memory slots")
    width: int = option(40, "numbers a slot holds")
    heads: int = option(4, "heads")

    def inputs(self, draw: Draw) -> tuple[Tensor, ...]:
        """Memory, keys and strengths."""
        b, n, w, r = self.batch, self.slots, self.width, self.heads
        return draw.normal(b, n, w), draw.normal(b, r, w), 1 + draw.uniform(b, r, 1)

    def reference(self, memory: Tensor, keys: Tensor, strengths: Tensor) -> Outputs:
        """As the equations stand."""
        dots = torch.einsum("bnw,brw->brn", memory, keys)
        rows = (memory.square().sum(2) + SOFTENING).sqrt()
        lengths = (keys.square().sum(2) + SOFTENING).sqrt()
        return torch.softmax(strengths * dots / (lengths[:, :, None] * rows[:, None, :]), 2)

    def eager(self, memory: Tensor, keys: Tensor, strengths: Tensor) -> Outputs:
        """`mann.addressing.content`."""
        return content(memory, queries(keys, strengths))

    def least(self, itemsize: int) -> Work:
        """Read M, k and β; write the weights."""
        b, n, w, r = self.batch, self.slots, self.width, self.heads
        read, written = b * (n * w + r * w + r), b * r * n
        return Work(read * itemsize, written * itemsize, 2 * b * r * n * w, b * (2 * n * w + 2 * r * w + 5 * r * n))


@op("read", source="Graves et al. 2014, eq. 2")
class Read(Op):
    """Weighted read: Σ_i w(i) M(i) for each head."""

    methods = ("mann", "mann-ff", "ntm", "dnc", "dnc-md", "adnc")
    dtypes = REDUCED

    slots: int = option(128, "memory slots")
    width: int = option(40, "numbers a slot holds")
    heads: int = option(4, "heads")

    def inputs(self, draw: Draw) -> tuple[Tensor, ...]:
        """Weights and memory."""
        return draw.weights(self.batch, self.heads, self.slots), draw.normal(self.batch, self.slots, self.width)

    def reference(self, weights: Tensor, memory: Tensor) -> Outputs:
        """As the equation stands."""
        return torch.einsum("brn,bnw->brw", weights, memory)

    def eager(self, weights: Tensor, memory: Tensor) -> Outputs:
        """`mann.addressing.weighted_read`."""
        return weighted_read(weights, memory)

    def least(self, itemsize: int) -> Work:
        """Read M and w; write what is read."""
        b, n, w, r = self.batch, self.slots, self.width, self.heads
        return Work(b * (n * w + r * n) * itemsize, b * r * w * itemsize, 2 * b * r * n * w)


@op("erase-add", source="Graves et al. 2014, eq. 3, 4")
class EraseAdd(Op):
    """Erase and add: M(i) Π_h (1 - w_h(i) e_h) + Σ_h w_h(i) a_h."""

    methods = ("ntm", "dnc", "dnc-md", "adnc")
    dtypes = REDUCED

    slots: int = option(128, "memory slots")
    width: int = option(40, "numbers a slot holds")
    heads: int = option(1, "writing heads")

    def inputs(self, draw: Draw) -> tuple[Tensor, ...]:
        """Memory, weights, erase and add vectors."""
        b, n, w, r = self.batch, self.slots, self.width, self.heads
        return draw.normal(b, n, w), draw.weights(b, r, n), draw.uniform(b, r, w), draw.normal(b, r, w)

    def reference(self, memory: Tensor, weights: Tensor, erase: Tensor, add: Tensor) -> Outputs:
        """Head by head."""
        for w, e in zip(weights.unbind(1), erase.unbind(1), strict=True):
            memory = memory * (1 - w[:, :, None] * e[:, None, :])
        for w, a in zip(weights.unbind(1), add.unbind(1), strict=True):
            memory = memory + w[:, :, None] * a[:, None, :]
        return memory

    def eager(self, memory: Tensor, weights: Tensor, erase: Tensor, add: Tensor) -> Outputs:
        """`mann.addressing.erase_and_add`."""
        return erase_and_add(memory, weights, erase, add)

    def least(self, itemsize: int) -> Work:
        """Read M, w, e and a; write M."""
        b, n, w, r = self.batch, self.slots, self.width, self.heads
        read = b * (n * w + r * n + 2 * r * w)
        return Work(read * itemsize, b * n * w * itemsize, 0, 5 * b * r * n * w)


@op("shift-sharpen", source="Graves et al. 2014, eq. 8, 9")
class ShiftSharpen(Op):
    """NTM's addressing by place: circular convolution with the shifts, then a power γ, normalised."""

    methods = ("ntm",)

    slots: int = option(128, "memory slots")
    heads: int = option(4, "heads")
    reach: int = option(1, "how far a head may move, either way")

    def check(self) -> None:
        """A shift must not go around."""
        if not 0 <= self.reach <= (self.slots - 1) // 2:
            raise BenchError(f"shift-sharpen with {self.slots} slots reaches 0 to {(self.slots - 1) // 2}")

    def inputs(self, draw: Draw) -> tuple[Tensor, ...]:
        """Weights, shifts and powers."""
        b, n, r = self.batch, self.slots, self.heads
        return draw.weights(b, r, n), draw.weights(b, r, 2 * self.reach + 1), 1 + draw.uniform(b, r, 1)

    def reference(self, weights: Tensor, shifts: Tensor, powers: Tensor) -> Outputs:
        """Σ_j w(j) s(i - j), j modulo the number of slots; shifts are listed from +reach down."""
        moved = torch.zeros_like(weights)
        place = torch.arange(self.slots, device=weights.device)
        for k in range(2 * self.reach + 1):
            moved = moved + shifts[:, :, k : k + 1] * weights[:, :, (place - (self.reach - k)) % self.slots]
        powered = moved.clamp_min(LEAST) ** powers
        return powered / powered.sum(2, keepdim=True)

    def eager(self, weights: Tensor, shifts: Tensor, powers: Tensor) -> Outputs:
        """`mann.ntm.shift`, then `mann.addressing.sharpen`."""
        return sharpen(shift(weights, shifts), powers)

    def least(self, itemsize: int) -> Work:
        """Read w, s and γ; write w."""
        b, n, r, s = self.batch, self.slots, self.heads, 2 * self.reach + 1
        return Work(b * r * (n + s + 1) * itemsize, b * r * n * itemsize, 0, b * r * n * (2 * s - 1 + 3))


@op("usage", source="Santoro et al. 2016, eq. 20, 21")
class Usage(Op):
    """LRUA's usage, γ w^u + Σ_h (w^r + w^w), and the slots that were used least before it."""

    methods = ("mann", "mann-ff")
    differentiable = False

    slots: int = option(128, "memory slots")
    heads: int = option(4, "heads, and slots chosen")
    decay: float = option(0.99, "γ")

    def check(self) -> None:
        """No more are chosen than there are."""
        if self.heads > self.slots:
            raise BenchError(f"usage chooses as many slots as heads, and {self.heads} heads are more than {self.slots}")

    def inputs(self, draw: Draw) -> tuple[Tensor, ...]:
        """Usage, read weights and write weights."""
        b, n, r = self.batch, self.slots, self.heads
        return draw.uniform(b, n), draw.weights(b, r, n), draw.weights(b, r, n)

    def reference(self, usage: Tensor, read: Tensor, written: Tensor) -> Outputs:
        """One slot after the other is chosen: the one used least of those left."""
        left, chosen = usage.clone(), []
        for _ in range(self.heads):
            chosen.append(left.argmin(1, keepdim=True))
            left = left.scatter(1, chosen[-1], math.inf)
        return self.decay * usage + read.sum(1) + written.sum(1), torch.cat(chosen, 1)

    def eager(self, usage: Tensor, read: Tensor, written: Tensor) -> Outputs:
        """`mann.lrua.used` and `least_used`."""
        return used(usage, read, written, self.decay), least_used(usage, self.heads)

    def least(self, itemsize: int) -> Work:
        """Read the usage and both weights; write the usage and the chosen slots."""
        b, n, r = self.batch, self.slots, self.heads
        return Work(b * n * (1 + 2 * r) * itemsize, b * (n * itemsize + r * INDEX), 0, b * n * (2 * r + 2))


@op("allocation", source="Graves et al. 2016, Methods")
class Allocation(Op):
    """DNC's allocation: (1 - u(φ_j)) Π_{i<j} u(φ_i), φ the slots by ascending usage."""

    methods = ("dnc", "dnc-md", "adnc")

    slots: int = option(128, "memory slots")

    def inputs(self, draw: Draw) -> tuple[Tensor, ...]:
        """Usage."""
        return (draw.uniform(self.batch, self.slots),)

    def reference(self, usage: Tensor) -> Outputs:
        """A running product over the sorted slots."""
        ascending, order = usage.sort(dim=1, stable=True)
        before = torch.cat((torch.ones_like(usage[:, :1]), (ascending + UNUSED).cumprod(1)[:, :-1]), 1)
        return torch.zeros_like(usage).scatter(1, order, (1 - ascending) * before)

    def eager(self, usage: Tensor) -> Outputs:
        """`mann.dnc.allocation`."""
        return allocation(usage)

    def least(self, itemsize: int) -> Work:
        """Read u, write a; a sort compares at least N log₂ N times, less 1.44 N."""
        b, n = self.batch, self.slots
        compared = math.ceil(max(0.0, n * math.log2(n) - 1.4427 * n))
        return Work(b * n * itemsize, b * n * itemsize, 0, b * (3 * n + compared))

    def least_both(self, itemsize: int) -> Work:
        """The backward pass does not sort."""
        w, b, n = self.least(itemsize), self.batch, self.slots
        return Work(2 * w.read + w.written, w.written + w.read, 0, w.others + 6 * b * n)


@op("links", source="Graves et al. 2016, Methods")
class Links(Op):
    """DNC's temporal links: the N × N update, and forward and backward weights of each reading head along them."""

    methods = ("dnc", "dnc-md")

    slots: int = option(128, "memory slots; it takes their square")
    heads: int = option(4, "reading heads")

    def inputs(self, draw: Draw) -> tuple[Tensor, ...]:
        """Links with an empty diagonal, write weights, precedence, read weights."""
        b, n, r = self.batch, self.slots, self.heads
        links = draw.uniform(b, n, n).div_(n)
        links.diagonal(dim1=1, dim2=2).zero_()
        return links, draw.weights(b, 1, n), draw.weights(b, 1, n), draw.weights(b, r, n)

    def reference(self, links: Tensor, written: Tensor, precedence: Tensor, read: Tensor) -> Outputs:
        """As the equations stand."""
        w, p = written.squeeze(1), precedence.squeeze(1)
        kept = (1 - w[:, :, None] - w[:, None, :]) * links
        after = (kept + w[:, :, None] * p[:, None, :]) * (1 - torch.eye(self.slots).to(links))
        return after, torch.einsum("bri,bij->brj", read, after), torch.einsum("brj,bij->bri", read, after)

    def eager(self, links: Tensor, written: Tensor, precedence: Tensor, read: Tensor) -> Outputs:
        """`mann.dnc.Linkage`."""
        return Linkage.apply(links, written, precedence, read)

    def least(self, itemsize: int) -> Work:
        """Read L, w^w, p and w^r; write L, b and f."""
        b, n, r = self.batch, self.slots, self.heads
        read, written = b * n * (n + 2 + r), b * n * (n + 2 * r)
        return Work(read * itemsize, written * itemsize, 4 * b * r * n * n, 5 * b * n * n)


@op("delta-update", source="Schlag et al. 2021, §4.2")
class DeltaUpdate(Op):
    """Fast weights: W ← W + k β (v - Wᵀ k)ᵀ for each head, then the read Wᵀ q."""

    methods = ("delta",)
    swept = "width"

    width: int = option(40, "numbers in a key, and in a value")
    heads: int = option(4, "matrices")

    def inputs(self, draw: Draw) -> tuple[Tensor, ...]:
        """Weights; keys and queries of length 1; values; gates."""
        b, w, r = self.batch, self.width, self.heads
        keys, asked = F.normalize(draw.normal(b, r, w), dim=2), F.normalize(draw.normal(b, r, w), dim=2)
        return draw.normal(b, r, w, w), keys, draw.normal(b, r, w), draw.uniform(b, r), asked

    def reference(self, weights: Tensor, keys: Tensor, values: Tensor, gates: Tensor, asked: Tensor) -> Outputs:
        """As the equations stand."""
        new = values - torch.einsum("brkv,brk->brv", weights, keys)
        weights = weights + torch.einsum("brk,brv->brkv", keys, gates[..., None] * new)
        return torch.einsum("brkv,brk->brv", weights, asked), weights

    def eager(self, weights: Tensor, keys: Tensor, values: Tensor, gates: Tensor, asked: Tensor) -> Outputs:
        """`mann.delta.write`, and a product."""
        flat = [part.flatten(0, 1) for part in (weights, keys, values, gates)]
        after = delta_write(flat[0], flat[1], flat[2], flat[3], "delta").view_as(weights)
        return torch.bmm(asked.flatten(0, 1).unsqueeze(1), after.flatten(0, 1)).view_as(values), after

    def least(self, itemsize: int) -> Work:
        """Read W, k, v, β and q; write W and what is read."""
        b, w, r = self.batch, self.width, self.heads
        read, written = b * r * (w * w + 3 * w + 1), b * r * (w * w + w)
        return Work(read * itemsize, written * itemsize, 6 * b * r * w * w, 2 * b * r * w)


@op("attention-read", source="Vaswani et al. 2017, eq. 1")
class AttentionRead(Op):
    """Scaled dot-product attention of one query a head over the slots that are filled; half of them are."""

    methods = ("mann-attention",)
    dtypes = REDUCED
    constants = (3,)

    slots: int = option(128, "memory slots")
    width: int = option(40, "numbers a slot holds, all heads together")
    heads: int = option(4, "heads")

    def check(self) -> None:
        """Heads share the width."""
        if self.width % self.heads:
            raise BenchError(
                f"attention-read needs a width that is a multiple of heads, not {self.width} of {self.heads}"
            )

    def inputs(self, draw: Draw) -> tuple[Tensor, ...]:
        """Query, keys, values, and ages: infinite where a slot is empty."""
        b, n, w, r = self.batch, self.slots, self.width, self.heads
        ages = draw.zeros(b, n)
        ages[:, (n + 1) // 2 :] = math.inf
        return draw.normal(b, w), draw.normal(b, r, n, w // r), draw.normal(b, r, n, w // r), ages

    def reference(self, query: Tensor, keys: Tensor, values: Tensor, ages: Tensor) -> Outputs:
        """As the equation stands, over the filled slots."""
        scores = torch.einsum("brd,brnd->brn", query.view(self.batch, self.heads, -1), keys)
        scores = scores / math.sqrt(keys.shape[3])
        weights = scores.masked_fill(ages.isinf().unsqueeze(1), -math.inf).softmax(2)
        return torch.einsum("brn,brnd->brd", weights, values).flatten(1)

    @cached_property
    def memory(self) -> AttentionMemory:
        """The memory whose read this is."""
        return AttentionMemory(slots=self.slots, width=self.width, heads=self.heads)

    def eager(self, query: Tensor, keys: Tensor, values: Tensor, ages: Tensor) -> Outputs:
        """`mann.attention.AttentionMemory.weights`, and a product."""
        weights = self.memory.weights(query, AttentionState(keys, values, ages))
        return (weights.unsqueeze(2) @ values).flatten(1)

    def least(self, itemsize: int) -> Work:
        """Read the query, keys, values and ages; write what is read."""
        b, n, w, r = self.batch, self.slots, self.width, self.heads
        return Work(b * (w + 2 * n * w + n) * itemsize, b * w * itemsize, 4 * b * n * w, 5 * b * r * n)

    def least_both(self, itemsize: int) -> Work:
        """Ages have no gradient."""
        w, ages = self.least(itemsize), self.batch * self.slots * itemsize
        return Work(2 * w.read + w.written, w.written + w.read - ages, 3 * w.products, 3 * w.others)


@variant("attention-read", "fused")
def attention_fused(self: AttentionRead, query: Tensor, keys: Tensor, values: Tensor, ages: Tensor) -> Outputs:
    """PyTorch's own kernel."""
    asked = query.view(len(query), self.heads, 1, -1)
    filled = ages.isfinite()[:, None, None, :]
    return F.scaled_dot_product_attention(asked, keys, values, filled).flatten(1)
