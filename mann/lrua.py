"""MANN: a memory written where it was least recently used (LRUA; Santoro et al. 2016, arXiv:1605.06065, §3.2).

With keys k_t = tanh(·) out of the controller, one a head:

    w^r_t = softmax_i cos(k_t, M_t(i))                                  (eq. 17, 18)
    r_t   = Σ_i w^r_t(i) M_t(i)                                         (eq. 19)
    w^u_t = γ w^u_{t-1} + w^r_t + w^w_t, summed over heads              (eq. 20)
    w^lu_t(i) = 1 where w^u_t(i) is among the n smallest, else 0        (eq. 21, n: number of reads)
    w^w_t = σ(α) w^r_{t-1} + (1 - σ(α)) w^lu_{t-1}                      (eq. 22)
    M_t   = M_{t-1} with its least used slot set to zero, + w^w_t k_t   (eq. 23)

The paper leaves some things open. Each is an option, and its default is the paper's wording:

- `read`: eq. 17-19 address M_t, which eq. 23 makes by writing: the write comes first ("after"). With "before", M_{t-1}
  is addressed and read, as in a network that answers and then learns.
- `write_value`: eq. 23 writes the key; "separate" writes a vector of its own, which passes tanh as keys do.
- `head_slots`: eq. 21 is one n-hot vector for all heads, so each head writes to all n slots ("shared"); "per-head"
  gives head i the i-th least used slot.
- `erase`: "the least used memory location" is "one" slot; "all" clears the n slots.
- `gate`: "a learnable sigmoid gate parameter" α: one number ("parameter"), or an output of the controller for each head
  and step ("controller").
- `decay`: γ = 0.99.
- `start`: before the first step w^r is one-hot at slot 0 and so is w^u ("first"), or w^r is uniform and w^u zero.

Where usages tie (all untouched slots do) eq. 21 read to the letter selects every one of them; here n slots are taken,
the lowest indices first. Selection has no gradient. The cosine of a zero vector is zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from bench.api import Addresses, BenchError, Memory, Task, build, method, option, part
from mann.addressing import weighted_read
from mann.controllers import ControllerName
from mann.learner import MemoryMethod, shared_fields

EPSILON = 1e-8
"""Added to the product of norms in a cosine."""


@dataclass(frozen=True, kw_only=True)
class LRUAOptions:
    """The options of `LRUA`."""

    slots: int = option(128, "memory slots")
    width: int = option(40, "numbers a slot holds")
    heads: int = option(4, "reads, and writes, a step")
    read: Literal["before", "after"] = option("after", "read before or after the write of the step")
    write_value: Literal["key", "separate"] = option("key", "what is written: the key, or a vector of its own")
    head_slots: Literal["shared", "per-head"] = option(
        "shared", "all heads write to the n least used slots, or one each"
    )
    erase: Literal["one", "all"] = option("one", "how many of the n least used slots are zeroed")
    gate: Literal["parameter", "controller"] = option("parameter", "α is one parameter, or a controller output a head")
    decay: float = option(0.99, "γ: what remains of a slot's usage after a step")
    start: Literal["first", "uniform"] = option("first", "read weights before the first step: slot 0, or uniform")
    constant: float = option(1e-6, "what every memory cell holds at first")


class LRUAState(NamedTuple):
    """memory: [batch, slots, width]; usage: [batch, slots], without gradient; weights: w^r, [batch, heads, slots]."""

    memory: Tensor
    usage: Tensor
    weights: Tensor


class LRUA(Memory[LRUAState]):
    """The memory of MANN as a cell: `LRUA(slots=128, width=40, heads=4)`, options as in `LRUAOptions`.

    The interface holds the keys (heads × width), then the values where they are separate (both before tanh), then the
    gates where the controller gives them (heads, before σ). What is read is [batch, heads · width].

    Raises:
        BenchError: more heads than slots, a size below one, or a decay outside of 0 to 1.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = o = build(LRUAOptions, options)
        if min(o.slots, o.width, o.heads) < 1 or o.heads > o.slots:
            raise BenchError(f"LRUA needs 1 <= heads <= slots and width >= 1, not {o.heads}, {o.slots} and {o.width}")
        if not 0 <= o.decay <= 1:
            raise BenchError(f"LRUA needs 0 <= decay <= 1, not {o.decay:g}")
        vectors = 2 if o.write_value == "separate" else 1
        self.read_size = o.heads * o.width
        self.sizes = (vectors * self.read_size, o.heads if o.gate == "controller" else 0)
        self.interface_size = sum(self.sizes)
        self.alpha = nn.Parameter(torch.zeros(())) if o.gate == "parameter" else None

    def initial_state(self, batch: int, like: Tensor) -> LRUAState:
        """Every cell holds the constant; the weights as `start` says."""
        o = self.options
        memory = like.new_full((batch, o.slots, o.width), o.constant)
        if o.start == "uniform":
            return LRUAState(
                memory, like.new_zeros(batch, o.slots), like.new_full((batch, o.heads, o.slots), 1 / o.slots)
            )
        first = torch.zeros_like(memory[..., 0])
        first[:, 0] = 1
        return LRUAState(memory, first, first.unsqueeze(1).repeat(1, o.heads, 1))

    def forward(self, interface: Tensor, state: LRUAState) -> tuple[Tensor, LRUAState]:
        """One step; see `Memory.forward`."""
        read, state, _ = self._step(interface, state)
        return read, state

    def addresses(self, interface: Tensor, state: LRUAState) -> Addresses:
        """w^r and w^w of the step, the usage before it, and the gate σ(α), mean over heads."""
        gate = self.parse(interface)[2].flatten(1).mean(1).expand(len(interface))
        _, after, written = self._step(interface, state)
        return Addresses(after.weights, written, state.usage, {"gate": gate})

    def _step(self, interface: Tensor, state: LRUAState) -> tuple[Tensor, LRUAState, Tensor]:
        keys, values, gate = self.parse(interface)
        memory, written = self.write(values, gate, state)
        read, weights = self.read(keys, state.memory if self.options.read == "before" else memory)
        usage = used(state.usage, weights, written, self.options.decay)
        return read, LRUAState(memory, usage, weights), written

    def parse(self, interface: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The interface as keys and values, [batch, heads, width], and gate σ(α), [batch or 1, heads or 1, 1]."""
        vectors, alpha = interface.split(self.sizes, 1)
        vectors = vectors.tanh().view(len(interface), -1, self.options.heads, self.options.width)
        gate = (alpha.unsqueeze(2) if self.alpha is None else self.alpha.view(1, 1, 1)).sigmoid()
        return vectors[:, 0], vectors[:, -1], gate

    def read(self, keys: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """What the keys find, [batch, heads · width], and the weights w^r, [batch, heads, slots] (eq. 17-19)."""
        weights = address(keys, memory)
        return weighted_read(weights, memory).flatten(1), weights

    @part("write")
    def write(self, values: Tensor, gate: Tensor, state: LRUAState) -> tuple[Tensor, Tensor]:
        """The memory after writing, and the weights w^w, [batch, heads, slots] (eq. 21-23)."""
        least = least_used(state.usage, self.options.heads)
        if self.options.head_slots == "shared":
            unused = torch.zeros_like(state.usage).scatter(1, least, 1.0).unsqueeze(1)
        else:
            unused = torch.zeros_like(state.weights).scatter(2, least.unsqueeze(2), 1.0)
        weights = torch.lerp(unused, state.weights, gate)
        erased = least[:, :1] if self.options.erase == "one" else least
        keep = torch.ones_like(state.usage).scatter(1, erased, 0.0).unsqueeze(2)
        return torch.baddbmm(state.memory * keep, weights.transpose(1, 2), values), weights


@part("addressing")
def address(keys: Tensor, memory: Tensor) -> Tensor:
    """w^r, [batch, heads, slots] (eq. 17, 18). keys: [batch, heads, width]."""
    lengths = torch.linalg.vector_norm(keys, dim=2).unsqueeze(2), torch.linalg.vector_norm(memory, dim=2).unsqueeze(1)
    return (torch.bmm(keys, memory.transpose(1, 2)) / (lengths[0] * lengths[1] + EPSILON)).softmax(2)


@part("usage")
def used(usage: Tensor, read: Tensor, written: Tensor, decay: float) -> Tensor:
    """w^u_t out of w^u_{t-1}, [batch, slots], w^r and w^w, [batch, heads, slots] (eq. 20); without gradient."""
    return decay * usage + (read + written).detach().sum(1)


@part("usage")
def least_used(usage: Tensor, count: int) -> Tensor:
    """The slots used least, the least first: [batch, count] (eq. 21)."""
    return usage.argsort(dim=1, stable=True)[:, :count]


@method("mann", source="Santoro et al. 2016, arXiv:1605.06065")
class Mann(LRUAOptions, MemoryMethod):
    """Memory-augmented network with least recently used access and an LSTM controller.

    Deviation: the recipe is Adam at 1e-3; the paper's own is `optimizer=rmsprop lr=1e-4`.
    """

    def memory(self, task: Task) -> LRUA:
        """A fresh LRUA memory."""
        return LRUA(**shared_fields(self, LRUAOptions))


@method("mann-ff", source="Santoro et al. 2016, arXiv:1605.06065")
class MannFF(Mann):
    """The same memory with a feed-forward controller: whatever is remembered is in the memory."""

    controller: ControllerName = option("feed-forward", "what reads the input and drives the memory")
