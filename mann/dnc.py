"""DNC: a memory that allocates, frees and links (Graves et al. 2016, Nature 538:471, Methods), and two later repairs.

One head writes, R heads read. The controller emits keys k, strengths β ≥ 1, an erase vector e in (0, 1), a write vector
v, free gates f, an allocation gate g^a and a write gate g^w in (0, 1), and read modes π, a distribution of three a
head. The paper numbers no equations; in its order, with C(M, k, β) = softmax_i β cos(k, M(i)):

    ψ_t    = Π_r (1 - f^r w^r_{t-1})                                            retention
    u_t    = (u_{t-1} + w^w_{t-1} - u_{t-1} w^w_{t-1}) ψ_t                      usage
    a_t(φ_j) = (1 - u_t(φ_j)) Π_{i<j} u_t(φ_i), φ: slots by ascending usage     allocation
    w^w_t  = g^w (g^a a_t + (1 - g^a) C(M_{t-1}, k^w, β^w))                     write weights
    M_t    = M_{t-1} (1 - w^w_t e_tᵀ) + w^w_t v_tᵀ
    L_t(i, j) = (1 - w^w_t(i) - w^w_t(j)) L_{t-1}(i, j) + w^w_t(i) p_{t-1}(j), and L_t(i, i) = 0     links
    p_t    = (1 - Σ_i w^w_t(i)) p_{t-1} + w^w_t                                 precedence
    b_t    = L_tᵀ w^r_{t-1},  f_t = L_t w^r_{t-1}                               backward, forward weights
    w^r_t  = π_1 b_t + π_2 C(M_t, k^r, β^r) + π_3 f_t                           read weights
    r_t    = M_tᵀ w^r_t

β = 1 + softplus, gates and e = σ and π = softmax of what the controller emits; k and v as they are. At first all is
zero. Options beyond the paper:

- `links=False`: no L, p, π: w^r is C(M_t, k^r, β^r), the content-based memory unit of Franke et al. 2018.
- `masked` (Csordás and Schmidhuber 2019): keys and memory are multiplied by the head's mask σ(·) before their cosine.
- `wipe` (the same): what is freed is erased, M_t = M_{t-1} ψ_t (1 - w^w_t e_tᵀ) + w^w_t v_tᵀ.
- `sharp_links` (the same): b and f become b(i)^s / Σ_j b(j)^s with a strength s = 1 + softplus a head and direction. A
  row without links (all zero) becomes uniform.
- `layer_norm` (Franke et al. 2018): the interface is normalised, with a learned gain and bias, before it is squashed.

Deviations in arithmetic: `SOFTENING` is added to squared lengths in the cosine, and `UNUSED` to the usages that are
multiplied in the allocation. The order of slots has no gradient (ties: the lowest index first); usage has one, to the
write weights as well, where the paper's own code stops it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.api import Addresses, BenchError, Memory, Task, build, method, option, part
from mann.addressing import content, erase_and_add, product, queries, sharpen, weighted_read
from mann.learner import MemoryMethod, shared_fields

UNUSED = 1e-30
"""Added to usage before its logarithm: in float32 too, the gradient passes through slots never used."""


@dataclass(frozen=True, kw_only=True)
class DNCOptions:
    """The options of `DNC`."""

    slots: int = option(128, "memory slots")
    width: int = option(40, "numbers a slot holds")
    reads: int = option(4, "reading heads")
    links: bool = option(True, "remember in which order slots were written, and read along it")
    masked: bool = option(False, "a head may compare some columns of the memory only")
    wipe: bool = option(False, "freeing a slot erases what it holds")
    sharp_links: bool = option(False, "sharpen forward and backward weights; nothing without links")
    layer_norm: bool = option(False, "normalise the interface")


class DNCState(NamedTuple):
    """All zero at first.

    memory: [batch, slots, width]; usage: u, [batch, slots]; links: L, [batch, slots, slots]; precedence: p,
    [batch, 1, slots]; read: w^r, [batch, reads, slots]; written: w^w, [batch, 1, slots]. Without links, L and p have
    no slots.
    """

    memory: Tensor
    usage: Tensor
    links: Tensor
    precedence: Tensor
    read: Tensor
    written: Tensor


class Controls(NamedTuple):
    """What the controller wants in a step; pairs are for the heads that read and the head that writes.

    queries: unit keys times β, each [batch, heads, width]; masks: the same, or None; value, erase: v and e,
    [batch, 1, width]; free: f, [batch, reads, 1]; allocate, write: g^a and g^w, [batch, 1, 1]; modes: π,
    [batch, reads, 3]; powers: s, [batch, 2 · reads, 1], backward before forward. The last two may be empty.
    """

    queries: tuple[Tensor, ...]
    masks: tuple[Tensor | None, ...]
    value: Tensor
    erase: Tensor
    free: Tensor
    allocate: Tensor
    write: Tensor
    modes: Tensor
    powers: Tensor


class DNC(Memory[DNCState]):
    """The memory of a differentiable neural computer as a cell: `DNC(slots=128, width=40, reads=4)`; see `DNCOptions`.

    The interface holds what the controller wants before it is squashed: keys, the write vector; β and s; e, f, g^a,
    g^w and masks; π. Of these only what the options need. What is read is [batch, reads · width].

    Raises:
        BenchError: more reads than slots, or a size below one.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = o = build(DNCOptions, options)
        if min(o.slots, o.width, o.reads) < 1 or o.reads > o.slots:
            raise BenchError(f"DNC needs 1 <= reads <= slots and width >= 1, not {o.reads}, {o.slots} and {o.width}")
        self.read_size = o.reads * o.width
        keys = o.reads + 1
        self.positive = (keys, 2 * o.reads if o.links and o.sharp_links else 0)
        self.fractions = (o.width, o.reads, 2, keys * o.width if o.masked else 0)
        modes = 3 * o.reads if o.links else 0
        self.sizes = ((keys + 1) * o.width, sum(self.positive), sum(self.fractions), modes)
        self.interface_size = sum(self.sizes)
        self.norm = nn.LayerNorm(self.interface_size) if o.layer_norm else None

    def initial_state(self, batch: int, like: Tensor) -> DNCState:
        """Nothing written, read, used or linked."""
        o = self.options
        linked = o.slots if o.links else 0
        return DNCState(
            memory=like.new_zeros(batch, o.slots, o.width),
            usage=like.new_zeros(batch, o.slots),
            links=like.new_zeros(batch, linked, linked),
            precedence=like.new_zeros(batch, 1, linked),
            read=like.new_zeros(batch, o.reads, o.slots),
            written=like.new_zeros(batch, 1, o.slots),
        )

    def forward(self, interface: Tensor, state: DNCState) -> tuple[Tensor, DNCState]:
        """One step; see `Memory.forward`."""
        c = self.parse(interface)
        retention = product(1 - c.free * state.read)
        usage = used(state, retention)
        written = self.place(c, state.memory, usage)
        kept = state.memory * retention.unsqueeze(2) if self.options.wipe else state.memory
        memory = erase_and_add(kept, written, c.erase, c.value)
        read, links, precedence = content(memory, c.queries[0], c.masks[0]), state.links, state.precedence
        if self.options.links:
            links, precedence, *along = linked(state, written)
            read = self.mix(c, read, *along)
        return weighted_read(read, memory).flatten(1), DNCState(memory, usage, links, precedence, read, written)

    def addresses(self, interface: Tensor, state: DNCState) -> Addresses:
        """w^r and w^w, the usage u_t that the step allocates by, g^a, g^w and the mean of the free gates."""
        c = self.parse(interface)
        _, after = self(interface, state)
        gates = {"allocate": c.allocate[:, 0, 0], "write": c.write[:, 0, 0], "free": c.free.mean((1, 2))}
        return Addresses(after.read, after.written, after.usage, gates)

    def parse(self, interface: Tensor) -> Controls:
        """The interface by use, squashed."""
        o, batch = self.options, len(interface)
        if self.norm is not None:
            interface = self.norm(interface)
        vectors, positive, fractions, modes = interface.split(self.sizes, 1)
        keys, value = vectors.view(batch, -1, o.width).split((o.reads + 1, 1), 1)
        strengths, powers = (1 + F.softplus(positive)).unsqueeze(2).split(self.positive, 1)
        erase, free, gates, masks = fractions.sigmoid().split(self.fractions, 1)
        allocate, write = gates.unsqueeze(2).split(1, 1)
        by_kind: tuple[Tensor | None, ...] = (None, None)
        if o.masked:
            masks = masks.view_as(keys)
            keys, by_kind = keys * masks, masks.split((o.reads, 1), 1)
        return Controls(
            queries(keys, strengths).split((o.reads, 1), 1),
            by_kind,
            value,
            erase.unsqueeze(1),
            free.unsqueeze(2),
            allocate,
            write,
            modes.view(batch, -1, 3).softmax(2),
            powers,
        )

    @part("addressing")
    def place(self, c: Controls, memory: Tensor, usage: Tensor) -> Tensor:
        """Where the step writes: w^w, [batch, 1, slots]."""
        found = content(memory, c.queries[1], c.masks[1])
        return c.write * torch.lerp(found, allocation(usage).unsqueeze(1), c.allocate)

    @part("addressing")
    def mix(self, c: Controls, found: Tensor, backward: Tensor, forward: Tensor) -> Tensor:
        """Where the step reads: w^r out of content, backward and forward weights, each [batch, reads, slots]."""
        if self.options.sharp_links:
            backward, forward = sharpen(torch.cat((backward, forward), 1), c.powers).chunk(2, 1)
        by_backward, by_content, by_forward = c.modes.split(1, 2)
        return by_backward * backward + by_content * found + by_forward * forward


@part("usage")
def used(state: DNCState, retention: Tensor) -> Tensor:
    """Usage u_t, [batch, slots]. retention: ψ, [batch, slots]."""
    written = state.written.squeeze(1)
    return torch.addcmul(state.usage, written, 1 - state.usage) * retention


@part("usage")
def allocation(usage: Tensor) -> Tensor:
    """Allocation weights a, [batch, slots]: the free slots, the freest first."""
    ascending, order = usage.sort(dim=1, stable=True)
    logs = (ascending + UNUSED).log()
    # A product of all before, as a sum of logarithms: `cumprod` would ask the device whether a factor is zero. Shifted
    # and then summed: where a slot's own logarithm is added and taken off again, its gradient is lost in rounding.
    before = F.pad(logs[:, :-1], (1, 0)).cumsum(1).exp()
    return torch.zeros_like(usage).scatter(1, order, (1 - ascending) * before)


@part("addressing")
def linked(state: DNCState, written: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """L_t, p_t, b_t and f_t. written: w^w_t, [batch, 1, slots]."""
    links, backward, forward = Linkage.apply(state.links, written, state.precedence, state.read)
    precedence = state.precedence * (1 - written.sum(2, keepdim=True)) + written
    return links, precedence, backward, forward


class Linkage(torch.autograd.Function):
    """L_t with b_t and f_t as one node: few passes over the links, and no others of their size kept for its backward.

    Takes L_{t-1}, [batch, slots, slots]; w^w_t and p_{t-1}, [batch, 1, slots]; w^r_{t-1}, [batch, reads, slots]. The
    diagonal of L_{t-1} is taken to be zero, as every L_t's is.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(links: Tensor, written: Tensor, precedence: Tensor, read: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns L_t, b_t and f_t."""
        column = written.transpose(1, 2)
        after = torch.addcmul(torch.lerp(links, precedence, column), links, written, value=-1)
        after.diagonal(dim1=1, dim2=2).zero_()
        return after, torch.bmm(read, after), torch.bmm(read, after.transpose(1, 2))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        """Keep the inputs and L_t."""
        ctx.save_for_backward(*inputs, output[0])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        """Gradients of what `forward` takes."""
        links, written, precedence, read, after = ctx.saved_tensors
        links_, backward, forward = gradients
        outer = torch.cat((read, forward), 1).transpose(1, 2), torch.cat((backward, read), 1)
        whole = torch.baddbmm(links_, *outer)
        whole.diagonal(dim1=1, dim2=2).zero_()
        scales = whole * links
        return (
            whole * (1 - written.transpose(1, 2) - written),
            torch.bmm(precedence, whole.transpose(1, 2)) - scales.sum(2).unsqueeze(1) - scales.sum(1, keepdim=True),
            torch.bmm(written, whole),
            torch.baddbmm(torch.bmm(backward, after.transpose(1, 2)), forward, after),
        )


@method("dnc", source="Graves et al. 2016, Nature 538:471")
class DNCMethod(DNCOptions, MemoryMethod):
    """Differentiable neural computer with an LSTM controller.

    Deviations: MANN's sizes and Adam at 1e-3, where the paper has 256 slots of 64 numbers, 256 units and
    `optimizer=rmsprop lr=1e-4` on its question answering; one layer of LSTM; the controller's output is not clipped.
    """

    version = 2  # 1 lost the gradient of the allocation in rounding, wherever a slot was unused

    def memory(self, task: Task) -> DNC:
        """A fresh DNC memory."""
        return DNC(**shared_fields(self, DNCOptions))


@method("dnc-md", source="Csordás and Schmidhuber 2019, arXiv:1904.10278")
class DNCMD(DNCMethod):
    """DNC with masked content addressing and with freed slots erased."""

    masked: bool = option(True, "a head may compare some columns of the memory only")
    wipe: bool = option(True, "freeing a slot erases what it holds")


@method("adnc", source="Franke et al. 2018, arXiv:1807.02658")
class ADNC(DNCMethod):
    """DNC without links and with a normalised interface.

    Deviations: no dropout where the controller bypasses the memory, no layer norm inside of the controller.
    """

    links: bool = option(False, "remember in which order slots were written, and read along it")
    layer_norm: bool = option(True, "normalise the interface")
