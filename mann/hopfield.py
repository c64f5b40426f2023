"""A modern Hopfield network as memory: retrieval by iterated softmax (Ramsauer et al. 2020, arXiv:2008.02217).

With stored patterns X = (x_1, ..., x_N) and a state pattern ξ out of the controller, one a head, a read repeats

    ξ ← X softmax(β Xᵀ ξ)                                               (eq. 3)

`updates` times and gives the last ξ. Each update lowers, or keeps, the energy

    E(ξ) = -lse(β, Xᵀ ξ) + ½ ξᵀ ξ + const,   lse(β, z) = log(Σ_i exp(β z_i)) / β   (eq. 1, 2)

(theorem 1). Where a pattern is apart from the others, x_i·x_i - max_j x_i·x_j large beside 1/β, one update finds it and
the error falls exponentially in that distance (theorems 4 and 5); a small β reads an average of patterns instead. With
`updates=1` a read is softmax attention whose keys are its values.

Patterns and states are tanh(·) of the interface, so that |x|² <= width. The paper stores a data set; here a step reads,
then stores one pattern. Slots are a ring: the pattern stored longest ago is replaced.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.api import Addresses, BenchError, Memory, Task, build, method, option
from mann.learner import MemoryMethod, shared_fields


@dataclass(frozen=True, kw_only=True)
class HopfieldOptions:
    """The options of `Hopfield`."""

    slots: int = option(128, "patterns that can be stored")
    width: int = option(40, "numbers in a pattern")
    heads: int = option(4, "state patterns, that is reads, a step")
    beta: float = option(1.0, "β, the inverse temperature: large finds one pattern, small an average")
    updates: int = option(1, "how often a read updates its state pattern")


class HopfieldState(NamedTuple):
    """patterns: [batch, slots, width], zero where none is stored; stored: [batch], how many were, ever (int64)."""

    patterns: Tensor
    stored: Tensor


class Hopfield(Memory[HopfieldState]):
    """A modern Hopfield network as a cell: `Hopfield(slots=128, width=40)`, options as in `HopfieldOptions`.

    The interface holds the state patterns (heads × width) and the pattern to store (width), before tanh. What is read
    is [batch, heads · width]; zeros while nothing is stored. A step does not find what it stores itself.

    Raises:
        BenchError: a size or a number of updates below one, or a β that is not positive.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = o = build(HopfieldOptions, options)
        if min(o.slots, o.width, o.heads, o.updates) < 1 or o.beta <= 0:
            raise BenchError(
                f"a Hopfield network needs sizes and updates of at least 1 and beta above 0, not slots={o.slots}, "
                f"width={o.width}, heads={o.heads}, updates={o.updates} and beta={o.beta:g}"
            )
        self.read_size = o.heads * o.width
        self.interface_size = self.read_size + o.width

    def initial_state(self, batch: int, like: Tensor) -> HopfieldState:
        """Nothing stored."""
        patterns = like.new_zeros(batch, self.options.slots, self.options.width)
        return HopfieldState(patterns, torch.zeros(batch, dtype=torch.int64, device=like.device))

    def forward(self, interface: Tensor, state: HopfieldState) -> tuple[Tensor, HopfieldState]:
        """One step; see `Memory.forward`."""
        vectors = self._vectors(interface)
        read, _ = self.retrieve(vectors[:, :-1], state)
        return read.flatten(1), self.store(vectors[:, -1], state)

    def addresses(self, interface: Tensor, state: HopfieldState) -> Addresses:
        """The last update's weights, the slot written, and the usage: 1 where a pattern is stored."""
        _, weights = self.retrieve(self._vectors(interface)[:, :-1], state)
        written = F.one_hot(state.stored % self.options.slots, self.options.slots).to(interface.dtype)
        return Addresses(weights, written.unsqueeze(1), self._full(state).to(interface.dtype))

    def retrieve(self, patterns: Tensor, state: HopfieldState) -> tuple[Tensor, Tensor]:
        """State patterns after their updates, [batch, heads, width], and the last weights, [batch, heads, slots]."""
        full = self._full(state).unsqueeze(1)
        for _ in range(self.options.updates):
            scores = self.options.beta * torch.bmm(patterns, state.patterns.transpose(1, 2))
            # The lowest finite number, not -inf: the softmax over an empty memory must have a gradient, namely zero.
            weights = scores.masked_fill(~full, torch.finfo(scores.dtype).min).softmax(2) * full
            patterns = torch.bmm(weights, state.patterns)
        return patterns, weights

    def store(self, pattern: Tensor, state: HopfieldState) -> HopfieldState:
        """Put a pattern, [batch, width], in the place of the oldest, or in the first that is free."""
        slot = (state.stored % self.options.slots)[:, None, None].expand(-1, 1, self.options.width)
        return HopfieldState(state.patterns.scatter(1, slot, pattern.unsqueeze(1)), state.stored + 1)

    def _vectors(self, interface: Tensor) -> Tensor:
        return interface.tanh().unflatten(1, (-1, self.options.width))

    def _full(self, state: HopfieldState) -> Tensor:
        """Which slots hold a pattern: [batch, slots] bool."""
        return torch.arange(self.options.slots, device=state.stored.device) < state.stored.unsqueeze(1)


@method("hopfield", source="Ramsauer et al. 2020, arXiv:2008.02217")
class HopfieldMethod(HopfieldOptions, MemoryMethod):
    """A modern Hopfield network that stores one pattern a step, behind any controller."""

    def memory(self, task: Task) -> Hopfield:
        """A fresh memory."""
        return Hopfield(**shared_fields(self, HopfieldOptions))
