"""NTM: a memory addressed by content and by place (neural Turing machine; Graves et al. 2014, arXiv:1410.5401, §3).

Each head, reading or writing, has a key k, a strength β ≥ 0, a gate g in (0, 1), a distribution s over shifts and an
exponent γ ≥ 1 out of the controller; a writing head has an erase vector e in (0, 1) and an add vector a as well:

    r_t     = Σ_i w_t(i) M_t(i)                                         (eq. 2)
    M_t(i)  = M_{t-1}(i) Π_h (1 - w_h(i) e_h) + Σ_h w_h(i) a_h          (eq. 3, 4)
    w^c(i)  = softmax_i β cos(k, M(i))                                  (eq. 5, 6)
    w^g     = g w^c + (1 - g) w_{t-1}                                   (eq. 7)
    w̃(i)    = Σ_j w^g(j) s(i - j), indices modulo the number of slots   (eq. 8)
    w(i)    = w̃(i)^γ / Σ_j w̃(j)^γ                                       (eq. 9)

with β = softplus, g and e = σ, s = softmax and γ = 1 + softplus of what the controller emits; k and a as they are.
The paper leaves some things open. Each is an option:

- `read`: eq. 2 reads M_t, which eq. 3 and 4 make by writing: the write comes first ("after"). With "before", M_{t-1} is
  read. Either way eq. 5 addresses M_{t-1}, for all heads in one go. Deviation: to the letter a read would be addressed
  by the content of M_t as well, but a write cannot be.
- `start`: what the memory holds at first. Nothing but a small constant, the same in each cell ("constant"; Collier and
  Beel 2018, arXiv:1807.08518, find it best), numbers drawn once when the memory is built, uniform within
  ±1/√(slots + width) ("random"), or parameters that start as such numbers ("learned").

Before the first step the weights of all heads are one-hot at slot 0, whatever the start. Were they uniform, a memory of
equal rows would keep them equal for ever: content, interpolation, shift and sharpening of a uniform weighting are
uniform, so that each write would change all rows alike. At slot 0 a head can walk away by shifts. What was read before
the first step is the controller's affair (`MemoryLearner` starts with zeros).

Deviations in arithmetic: `SOFTENING` is added to squared lengths in the cosine; weights below `LEAST` count as so large
in eq. 9 (see `mann.addressing`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import reduce
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.api import Addresses, BenchError, Memory, Task, build, method, option, part
from mann.addressing import content, erase_and_add, queries, sharpen, weighted_read
from mann.learner import MemoryMethod, shared_fields


@dataclass(frozen=True, kw_only=True)
class NTMOptions:
    """The options of `NTM`."""

    slots: int = option(128, "memory slots")
    width: int = option(20, "numbers a slot holds")
    reads: int = option(1, "reading heads")
    writes: int = option(1, "writing heads")
    shift: int = option(1, "how far a head may move in a step, either way")
    read: Literal["before", "after"] = option("after", "read before or after the writes of the step")
    start: Literal["constant", "random", "learned"] = option("constant", "what the memory holds at first")
    constant: float = option(1e-6, "what every memory cell holds at first, where it is a constant")


class NTMState(NamedTuple):
    """memory: [batch, slots, width]; weights: of the last step, [batch, reads + writes, slots], reading heads first."""

    memory: Tensor
    weights: Tensor


class Heads(NamedTuple):
    """What the controller wants of all heads in a step.

    queries: unit keys times β, [batch, heads, width]; gates and powers: g and γ, [batch, heads, 1]; shifts: s,
    [batch, heads, 2 · shift + 1], from +shift down to -shift; erase, add: [batch, writes, width].
    """

    queries: Tensor
    gates: Tensor
    powers: Tensor
    shifts: Tensor
    erase: Tensor
    add: Tensor


class NTM(Memory[NTMState]):
    """The memory of a neural Turing machine as a cell: `NTM(slots=128, width=20)`, options as in `NTMOptions`.

    The interface holds, for all heads, reading heads first: keys and add vectors (width each), β and γ, g and erase
    vectors, shifts; before they are squashed. What is read is [batch, reads · width].

    Raises:
        BenchError: more reading or writing heads than slots, a shift that goes around, or a size below one.
    """

    start: Tensor | None
    """What the memory holds at first, [slots, width]; None: the constant."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = o = build(NTMOptions, options)
        if min(o.slots, o.width, o.reads, o.writes) < 1 or max(o.reads, o.writes) > o.slots:
            raise BenchError(
                f"NTM needs sizes of at least 1 and no more reads or writes than slots, not slots={o.slots}, "
                f"width={o.width}, reads={o.reads}, writes={o.writes}"
            )
        if not 0 <= o.shift <= (o.slots - 1) // 2:
            raise BenchError(f"NTM with {o.slots} slots shifts by 0 to {(o.slots - 1) // 2}, not by {o.shift}")
        self.heads = o.reads + o.writes
        self.read_size = o.reads * o.width
        self.sizes = (
            (self.heads + o.writes) * o.width,
            2 * self.heads,
            self.heads + o.writes * o.width,
            self.heads * (2 * o.shift + 1),
        )
        self.interface_size = sum(self.sizes)
        self.register_buffer("start", None)
        if o.start != "constant":
            bound = 1 / math.sqrt(o.slots + o.width)
            drawn = torch.empty(o.slots, o.width).uniform_(-bound, bound)
            self.start = nn.Parameter(drawn) if o.start == "learned" else drawn

    def initial_state(self, batch: int, like: Tensor) -> NTMState:
        """The memory as `start` says; all heads at slot 0."""
        o = self.options
        if self.start is None:
            memory = like.new_full((batch, o.slots, o.width), o.constant)
        else:
            memory = self.start.to(like).expand(batch, -1, -1)
        weights = like.new_zeros(batch, self.heads, o.slots)
        weights[..., 0] = 1
        return NTMState(memory, weights)

    def forward(self, interface: Tensor, state: NTMState) -> tuple[Tensor, NTMState]:
        """One step; see `Memory.forward`."""
        heads = self.parse(interface)
        weights = self.address(heads, state)
        reading, writing = weights.split((self.options.reads, self.options.writes), 1)
        memory = erase_and_add(state.memory, writing, heads.erase, heads.add)
        read = weighted_read(reading, state.memory if self.options.read == "before" else memory)
        return read.flatten(1), NTMState(memory, weights)

    def addresses(self, interface: Tensor, state: NTMState) -> Addresses:
        """The weights of the heads; the gate g (1: by content) and γ, means over heads. It keeps no usage."""
        heads = self.parse(interface)
        reading, writing = self.address(heads, state).split((self.options.reads, self.options.writes), 1)
        gates = {"content": heads.gates.mean((1, 2)), "sharpening": heads.powers.mean((1, 2))}
        return Addresses(reading, writing, None, gates)

    def parse(self, interface: Tensor) -> Heads:
        """The interface by head, squashed."""
        o, batch = self.options, len(interface)
        vectors, positive, fractions, shifts = interface.split(self.sizes, 1)
        keys, add = vectors.view(batch, -1, o.width).split((self.heads, o.writes), 1)
        strengths, powers = F.softplus(positive).unsqueeze(2).chunk(2, 1)
        gates, erase = fractions.sigmoid().split((self.heads, o.writes * o.width), 1)
        return Heads(
            queries(keys, strengths),
            gates.unsqueeze(2),
            1 + powers,
            shifts.view(batch, self.heads, -1).softmax(2),
            erase.view(batch, o.writes, o.width),
            add,
        )

    @part("addressing")
    def address(self, heads: Heads, state: NTMState) -> Tensor:
        """Where all heads are in this step, [batch, heads, slots] (eq. 5-9)."""
        gated = torch.lerp(state.weights, content(state.memory, heads.queries), heads.gates)
        return sharpen(shift(gated, heads.shifts), heads.powers)


def shift(weights: Tensor, shifts: Tensor) -> Tensor:
    """Circular convolution (eq. 8). weights: [batch, heads, slots]; shifts: see `Heads`."""
    reach = shifts.shape[2] // 2
    return reduce(torch.add, (s * weights.roll(reach - k, 2) for k, s in enumerate(shifts.split(1, 2))))


@method("ntm", source="Graves et al. 2014, arXiv:1410.5401")
class NTMMethod(NTMOptions, MemoryMethod):
    """Neural Turing machine with an LSTM controller.

    Deviation: the recipe is Adam at 1e-3 and 200 units; the paper's copy task is `optimizer=rmsprop lr=1e-4
    controller_size=100`, with each entry of the gradient clipped to ±10 where `clip=10` bounds its norm.
    """

    def memory(self, task: Task) -> NTM:
        """A fresh NTM memory."""
        return NTM(**shared_fields(self, NTMOptions))
