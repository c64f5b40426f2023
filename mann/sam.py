"""SAM: sparse access memory (Rae et al. 2016, arXiv:1610.09027, §3), whose step costs the same however many slots.

With a key q, a strength β, a vector a and gates α, γ out of the controller, each step writes and then reads:

    w^W_t  = α_t (γ_t w^R_{t-1} + (1 - γ_t) 1^U_t)                      (eq. 5)
    1^U_t  = one-hot at the least recently accessed slot                 (eq. 6)
    M_t    = (1 - 1^U_t 1ᵀ) M_{t-1} + w^W_t a_tᵀ                         (eq. 3)
    w^R_t  = softmax of β cos(q_t, M_t(i)) over the K slots nearest to q_t
    r_t    = Σ_{i ∈ K nearest} w^R_t(i) M_t(i)                           (eq. 4)
    U1_t(i) = Σ_s λ^{t-s} (w^W_s(i) + w^R_s(i));  U2_t(i) = t - max{s : w^W_s(i) + w^R_s(i) > δ}   (§3.2)

Write weights are non-zero at the slots read one step before and at the least recently accessed one: few rows change.
**The memory is not copied.** Every state of a sequence shares one buffer, which a step changes in place, noting what
stood there in a journal; the backward pass takes the changes back, so that afterwards the buffer holds, to the bit,
what it held before (the paper's roll-back). Gradients run through the rows touched, and sum up in one buffer for the
whole sequence. The order of slots by last access (a ring) and the index of the approximate search (`mann/index.py`)
are kept and rolled back in the same way. What follows for the user:

- A state is outdated once a step was made from it, and so is the last state of a sequence after its backward pass:
  using one raises BenchError. The initial state is good again after a backward pass. To keep or branch a state, copy
  it (`mann.learner.fork`, or `clone` on each tensor); the copy is on its own.
- Nothing is noted, and nothing taken back, where no gradient is asked for.
- The gradient does not depend on what the buffer holds by then: a graph may be used twice, or in part.

What the paper leaves open, and what is done here:

- Several heads read, one vector is written. γ is one number a head, e^{g_h} / (H + Σ e^{g}), which for one head is
  σ(g); what the heads leave goes to the least recently accessed slot.
- β = 1 + softplus(·), as in DNC; q and a are linear outputs, as in the paper.
- The cosine is q·m / √((|q|² + 1e-6)(|m|² + 1e-6)), smooth at zero. Memory and w^R_0 are zero at first.
- Slots not accessed yet are the least recent, in order; so are, among each other, those last accessed in the same
  step: those read the step before, head by head, then the one written, then those read. U1's ties: the lowest slot.
- U1 is a dense sum and takes a scan of the slots, as exact search does; U2 with search="lsh" takes none.
- The approximate search finds stored rows only, perhaps fewer than K (the weights are then over those, zero for none);
  the exact one takes the K nearest of all slots, and a slot that is still zero has a cosine of zero.
Choosing K slots and the least recent one has no gradient.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from bench.api import Addresses, BenchError, Memory, Task, build, method, option, part
from mann.index import (
    LSH,
    Log,
    add,
    blank,
    cosine,
    equal_pairs,
    least_recent,
    nearest,
    new_ring,
    poke,
    ring_order,
    take,
    touch,
    undo,
)
from mann.learner import MemoryMethod, shared_fields


@dataclass(frozen=True, kw_only=True)
class SAMOptions:
    """The options of `SAM`."""

    slots: int = option(128, "memory slots")
    width: int = option(40, "numbers a slot holds")
    reads: int = option(4, "read heads")
    k: int = option(4, "slots a head reads")
    usage: Literal["u1", "u2"] = option("u2", "what least recently accessed means: a discounted sum, or time since")
    decay: float = option(0.99, "λ: what remains of a slot's usage U1 after a step")
    threshold: float = option(0.005, "δ: weight above which a slot counts as accessed for U2")
    search: Literal["exact", "lsh"] = option("exact", "compare a key with all slots, or with those of an index")


class SAMState(NamedTuple):
    """What passes from step to step; memory, ring, table and clock are buffers that all states of a sequence share.

    memory: [batch, slots, width]. flow: the same shape, without storage: the gradient of the memory runs through it,
    its value means nothing. slots, weights: what was read last, [batch, reads, k]. usage: U1, [batch, slots], or the
    ring of U2 (`mann.index.new_ring`). table: that of `LSH`, or [batch, 0]. clock: steps made in the buffers,
    step: those made up to this state, [batch, 1].
    """

    memory: Tensor
    flow: Tensor
    slots: Tensor
    weights: Tensor
    usage: Tensor
    table: Tensor
    clock: Tensor
    step: Tensor


@dataclass
class Journal:
    """What the steps of a sequence overwrote. Lives in the graph, as saved tensors do, and dies with it."""

    clock: Tensor
    now: Tensor
    steps: list[Log] = field(default_factory=list)

    def begin(self) -> Log:
        """The log of a new step."""
        self.steps.append([])
        return self.steps[-1]

    def rewind(self) -> None:
        """Take all steps back, the last first.

        Raises:
            BenchError: the buffers were changed by steps that are not in this journal.
        """
        if self.steps and not torch.equal(self.clock, self.now):
            raise BenchError(
                "the memory was changed by steps outside of this graph, so that it cannot be rolled back: "
                "copy a state before it is detached or used without gradient"
            )
        while self.steps:
            undo(self.steps.pop())
        self.now = self.clock.clone()

    def nbytes(self) -> int:
        """Bytes held for the roll-back."""
        return sum(part.nbytes for log in self.steps for _, where, before in log for part in (where, before))


class Write(torch.autograd.Function):
    """Gradient of erasing a slot and adding w_j a to slots s_j, each [batch, m]; the last is the one erased.

    The gradient of the memory, [batch, slots, width], comes in through `flow` and leaves through it, changed in place.
    """

    @staticmethod
    def forward(
        ctx: Any, flow: Tensor, weights: Tensor, value: Tensor, slots: Tensor, journal: Journal | None
    ) -> Tensor:
        """The flow behind the write. value: [batch, width]."""
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(weights, value, slots)
        ctx.journal = journal
        return flow.new_zeros(()).expand(flow.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor | None) -> tuple[Tensor | None, ...]:
        """The erased slot's gradient ends here. The first write that is reached rolls the whole sequence back."""
        weights, value, slots = ctx.saved_tensors
        if ctx.journal is not None:
            ctx.journal.rewind()
        if gradient is None:
            return (None,) * 5
        rows = take(gradient, slots)
        by_weight = torch.bmm(rows, value.unsqueeze(2)).squeeze(2)
        by_value = torch.bmm(weights.unsqueeze(1), rows).squeeze(1)
        poke(gradient, slots[:, -1:], torch.zeros_like(rows[:, -1:]), None)
        return gradient if ctx.needs_input_grad[0] else None, by_weight, by_value, None, None


class Read(torch.autograd.Function):
    """Copy rows out of the memory; their gradient is added to that of the memory, in place."""

    @staticmethod
    def forward(
        ctx: Any, flow: Tensor, memory: Tensor, slots: Tensor, journal: Journal | None
    ) -> tuple[Tensor, Tensor]:
        """Rows, slots' shape and width, and the flow behind the read."""
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(slots)
        ctx.shape, ctx.journal = memory.shape, journal
        return take(memory, slots), flow.new_zeros(()).expand(flow.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, rows: Tensor | None, gradient: Tensor | None) -> tuple[Tensor | None, ...]:
        """The last read of a sequence makes the buffer in which all the others sum up."""
        (slots,) = ctx.saved_tensors
        if rows is None:
            return gradient, None, None, None
        gradient = blank(rows, *ctx.shape) if gradient is None else gradient.contiguous()
        add(gradient, slots.flatten(1), rows.flatten(1, -2))
        return gradient, None, None, None


class Parts(NamedTuple):
    """An interface, squashed: query [batch, reads, width], strength β [batch, reads, 1], value a [batch, width].

    gate: α, [batch, 1]. share: γ of each head and what they leave, [batch, reads + 1], summing to one.
    """

    query: Tensor
    strength: Tensor
    value: Tensor
    gate: Tensor
    share: Tensor


class Access(NamedTuple):
    """Slots with weights: [batch, m] each for a write, [batch, reads, k] for a read. A slot may come twice."""

    slots: Tensor
    weights: Tensor


class SAM(Memory[SAMState]):
    """Sparse access memory as a cell: `SAM(slots=128, width=40, reads=4, k=4)`, options as in `SAMOptions`.

    The interface holds queries (reads × width), strengths (reads), the vector to add (width), the write gate (1) and
    the interpolation gates (reads), all before squashing. What is read is [batch, reads · width]. See the module for
    how states share their buffers.

    Raises:
        BenchError: more slots to read than there are, a size below one, or an option out of its range.
    """

    consumes_state = True

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = o = build(SAMOptions, options)
        if min(o.slots, o.width, o.reads, o.k) < 1 or o.k > o.slots:
            raise BenchError(
                f"SAM needs 1 <= k <= slots, width >= 1 and reads >= 1, not k={o.k}, slots={o.slots}, "
                f"width={o.width}, reads={o.reads}"
            )
        if not 0 <= o.decay <= 1 or o.threshold < 0:
            raise BenchError(
                f"SAM needs 0 <= decay <= 1 and threshold >= 0, not decay={o.decay:g}, threshold={o.threshold:g}"
            )
        self.read_size = o.reads * o.width
        self.sizes = (self.read_size, o.reads, o.width, 1, o.reads)
        self.interface_size = sum(self.sizes)
        self.lsh = LSH(o.slots, o.width) if o.search == "lsh" else None
        if self.lsh and o.k > self.lsh.most:
            raise BenchError(f"SAM finds at most {self.lsh.most} slots by search=lsh, not k={o.k}; use search=exact")

    def initial_state(self, batch: int, like: Tensor) -> SAMState:
        """An empty memory: zeros, and all slots in order of index. New buffers, which no other sequence shares."""
        o = self.options
        like = like.detach()
        slots = torch.arange(o.k, device=like.device).expand(batch, o.reads, o.k).clone()
        usage = blank(like, batch, o.slots) if o.usage == "u1" else new_ring(batch, o.slots, like)
        table = blank(like, batch, 0) if self.lsh is None else self.lsh.new_table(batch, like)
        clock = torch.zeros(batch, 1, dtype=torch.int64, device=like.device)
        return SAMState(
            blank(like, batch, o.slots, o.width), like.new_zeros(()).expand(batch, o.slots, o.width), slots,
            like.new_zeros(batch, o.reads, o.k), usage, table, clock, clock.clone(),
        )  # fmt: skip

    def forward(self, interface: Tensor, state: SAMState) -> tuple[Tensor, SAMState]:
        """One step; see `Memory.forward`.

        Raises:
            BenchError: the state is outdated: its buffers have moved on, or were rolled back.
        """
        read, state, _ = self._step(interface, state, journal(interface, state))
        return read, state

    def addresses(self, interface: Tensor, state: SAMState) -> Addresses:
        """w^R and w^W of the step, and the usage before it: U1, or for U2 the place in the ring (0: least recent).

        The gates are α and the share of the write that goes to the least recently accessed slot. The step is made and
        taken back; meanwhile the buffers are not to be used.
        """
        with torch.no_grad():
            usage = state.usage.clone() if self.options.usage == "u1" else ring_order(state.usage)
            trial = Journal(state.clock, state.step)
            _, after, written = self._step(interface, state, trial)
            trial.rewind()
            parts = self.parse(interface)
        return Addresses(
            spread(Access(after.slots, after.weights), self.options.slots),
            spread(Access(*(part.unsqueeze(1) for part in written)), self.options.slots),
            usage.to(interface.dtype),
            {"gate": parts.gate[:, 0], "new": parts.share[:, -1]},
        )

    def _step(self, interface: Tensor, state: SAMState, journal: Journal | None) -> tuple[Tensor, SAMState, Access]:
        parts = self.parse(interface)
        log = journal.begin() if journal else None
        written = self.write_weights(parts, state)
        flow = self.write(written, parts.value, state, journal, log)
        slots, found = self.nearest(parts.query, state)
        rows, flow = Read.apply(flow, state.memory, slots, journal)
        weights = content(parts, rows, found)
        read = (weights.unsqueeze(2) @ rows).flatten(1)
        return read, self.settle(written, Access(slots, weights), state._replace(flow=flow), journal, log), written

    def parse(self, interface: Tensor) -> Parts:
        """The interface's parts, squashed."""
        query, strength, value, gate, share = interface.split(self.sizes, 1)
        reads = self.options.reads
        share = F.pad(share, (0, 1), value=math.log(reads)).softmax(1)
        strength = 1 + F.softplus(strength).unsqueeze(2)
        return Parts(query.unflatten(1, (reads, -1)), strength, value, gate.sigmoid(), share)

    @part("usage")
    def write_weights(self, parts: Parts, state: SAMState) -> Access:
        """w^W (eq. 5) at the slots read last, then at the least recently accessed one: [batch, reads · k + 1]."""
        least = state.usage.argmin(1, keepdim=True) if self.options.usage == "u1" else least_recent(state.usage)
        again = (parts.share[:, :-1].unsqueeze(2) * state.weights).flatten(1)
        weights = parts.gate * torch.cat((again, parts.share[:, -1:]), 1)
        return Access(torch.cat((state.slots.flatten(1), least), 1), weights)

    @part("write")
    def write(self, access: Access, value: Tensor, state: SAMState, journal: Journal | None, log: Log | None) -> Tensor:
        """Erase the last of the slots, add the value to all by their weights (eq. 3); returns the flow behind it."""
        slots, weights = access
        with torch.no_grad():
            old = take(state.memory, slots)
            kept = old * (slots != slots[:, -1:]).unsqueeze(2)
            new = kept + totals(slots, weights).unsqueeze(2) * value.unsqueeze(1)
            poke(state.memory, slots, new, log)
            if self.lsh is not None:
                self.lsh.update(state.table, slots, old, new, log)
        return Write.apply(state.flow, weights, value, slots, journal)

    @part("addressing")
    @torch.no_grad()
    def nearest(self, query: Tensor, state: SAMState) -> tuple[Tensor, Tensor | None]:
        """The k slots nearest to each query, [batch, reads, k], and which were found; None: all."""
        if self.lsh is not None:
            return self.lsh.nearest(state.table, query, state.memory, self.options.k)
        return nearest(query, state.memory, self.options.k), None

    @part("usage")
    @torch.no_grad()
    def settle(
        self, written: Access, read: Access, state: SAMState, journal: Journal | None, log: Log | None
    ) -> SAMState:
        """The state after a step that wrote and read so: usage, what was read, and the clock."""
        slots = torch.cat((written.slots, read.slots.flatten(1)), 1)
        amounts = torch.cat((written.weights, read.weights.flatten(1)), 1)
        usage = state.usage
        if self.options.usage == "u1":
            usage = (self.options.decay * usage).scatter_add(1, slots, amounts)
        else:
            touch(usage, slots, (totals(slots, amounts) > self.options.threshold) & (amounts > 0), log)
        poke(state.clock, torch.zeros_like(state.clock), state.clock + 1, log)
        step = state.clock.clone()
        if journal:
            journal.now = step
        return state._replace(slots=read.slots, weights=read.weights, usage=usage, step=step)


def journal(interface: Tensor, state: SAMState) -> Journal | None:
    """The journal of the sequence that a step continues, a new one, or None where no gradient is asked for.

    Raises:
        BenchError: the state is outdated.
    """
    if not torch.equal(state.clock, state.step):
        raise BenchError(
            "the state of a sparse memory is outdated: a step was made from it, or a backward pass has rolled its "
            "memory back; copy a state (mann.learner.fork) to use it twice"
        )
    asked = interface.requires_grad or state.flow.requires_grad or state.weights.requires_grad
    if not (torch.is_grad_enabled() and asked):
        return None
    known = getattr(state.flow.grad_fn, "journal", None)
    same = known is not None and known.clock.data_ptr() == state.clock.data_ptr()
    return known if same else Journal(state.clock, state.step)


@part("addressing")
def content(parts: Parts, rows: Tensor, found: Tensor | None) -> Tensor:
    """Softmax of β cos(q, row) over a head's rows, zero for those not found. rows: [batch, reads, k, width]."""
    near = cosine(parts.query.flatten(0, 1).unsqueeze(1), rows.flatten(0, 1)).view(rows.shape[:3])
    if found is None:
        return (parts.strength * near).softmax(2)
    # The lowest finite number, not -inf: the softmax over nothing must have a gradient, namely zero.
    return (parts.strength * near).masked_fill(~found, torch.finfo(near.dtype).min).softmax(2) * found


def totals(slots: Tensor, weights: Tensor) -> Tensor:
    """The weight of each entry's slot, summed over all entries that name it: [batch, m]."""
    return torch.bmm(equal_pairs(slots).to(weights.dtype), weights.unsqueeze(2)).squeeze(2)


def spread(access: Access, slots: int) -> Tensor:
    """Weights over all slots: [batch, heads, slots] from [batch, heads, m]."""
    return access.weights.new_zeros(*access.weights.shape[:2], slots).scatter_add(2, access.slots, access.weights)


@method("sam", source="Rae et al. 2016, arXiv:1610.09027")
class SparseAccess(SAMOptions, MemoryMethod):
    """Sparse access memory behind any controller.

    Deviation: the paper's controller has 100 units and its memory words of 32; here they are as for the other memories.
    """

    def memory(self, task: Task) -> SAM:
        """A fresh sparse access memory."""
        return SAM(**shared_fields(self, SAMOptions))
