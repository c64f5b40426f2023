"""Controllers: what turns an input and the last read into the memory's interface.

All have one form, so that any memory goes with any controller: `project` does for a whole sequence at once what does
not depend on the state (most of the arithmetic), `forward` does the rest step by step.
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from mann.transformer import Block, Cache, sinusoids

ControllerName = Literal["lstm", "gru", "feed-forward", "transformer"]


class LSTMState(NamedTuple):
    """hidden, cell: [batch, size]."""

    hidden: Tensor
    cell: Tensor


class Controller(nn.Module):
    """A network that runs one step at a time; the state goes in and comes out."""

    size: int
    """Width of the output h."""

    input: nn.Linear
    """W x + b: the input's part of the step, however wide the subclass needs it."""

    def __init__(self, input_size: int, read_size: int, size: int) -> None:
        super().__init__()
        self.size = size

    def project(self, x: Tensor) -> Tensor:
        """W x + b for all steps at once. x: [batch, time, input_size]."""
        return self.input(x)

    def initial_state(self, batch: int, like: Tensor) -> tuple[Any, ...]:
        """The state before the first step, with `like`'s dtype and device."""
        raise NotImplementedError(f"{type(self).__name__} has no initial_state")

    def forward(self, projected: Tensor, read: Tensor, state: Any) -> tuple[Tensor, Any]:
        """One step. projected: one step of `project`; read: [batch, read_size]. Returns h [batch, size], state."""
        raise NotImplementedError(f"{type(self).__name__} has no forward")


class LSTMController(Controller):
    """Long short-term memory without peepholes (Hochreiter and Schmidhuber 1997; forget gate Gers et al. 2000).

    i, f, o = σ(W[x, r, h] + b), c ← f c + i tanh(W[x, r, h] + b), h = o tanh(c). The forget gate's bias starts at 1
    (Jozefowicz et al. 2015), the rest uniformly in ±1/√size as in `nn.LSTM`.
    """

    def __init__(self, input_size: int, read_size: int, size: int) -> None:
        super().__init__(input_size, read_size, size)
        self.input = nn.Linear(input_size, 4 * size)
        self.recurrent = nn.Parameter(torch.empty(read_size + size, 4 * size))
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -1 / math.sqrt(size), 1 / math.sqrt(size))
        with torch.no_grad():
            self.input.bias[size : 2 * size] = 1.0

    def initial_state(self, batch: int, like: Tensor) -> LSTMState:
        """Zeros."""
        zeros = like.new_zeros(batch, self.size)
        return LSTMState(zeros, zeros)

    def forward(self, projected: Tensor, read: Tensor, state: LSTMState) -> tuple[Tensor, LSTMState]:
        """One step; see `Controller.forward`."""
        summed = torch.addmm(projected, torch.cat((read, state.hidden), 1), self.recurrent)
        gates, candidate = summed.split((3 * self.size, self.size), 1)
        i, f, o = gates.sigmoid().chunk(3, 1)
        cell = torch.addcmul(f * state.cell, i, candidate.tanh())
        hidden = o * cell.tanh()
        return hidden, LSTMState(hidden, cell)


class GRUState(NamedTuple):
    """hidden: [batch, size]."""

    hidden: Tensor


class GRUController(Controller):
    """Gated recurrent unit (Cho et al. 2014, arXiv:1406.1078, eq. 5-8).

    r, z = σ(W[x, read] + U h + b), n = tanh(W[x, read] + r (U h + c) + b), h ← z h + (1 - z) n. Deviation: r multiplies
    U h, as in `nn.GRU`, where the paper has U (r h); one product serves all gates. Parameters start as in `nn.GRU`.
    """

    def __init__(self, input_size: int, read_size: int, size: int) -> None:
        super().__init__(input_size, read_size, size)
        self.input = nn.Linear(input_size, 3 * size)
        self.read = nn.Parameter(torch.empty(read_size, 3 * size))
        self.hidden = nn.Linear(size, 3 * size)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -1 / math.sqrt(size), 1 / math.sqrt(size))

    def initial_state(self, batch: int, like: Tensor) -> GRUState:
        """Zeros."""
        return GRUState(like.new_zeros(batch, self.size))

    def forward(self, projected: Tensor, read: Tensor, state: GRUState) -> tuple[Tensor, GRUState]:
        """One step; see `Controller.forward`."""
        parts = (2 * self.size, self.size)
        gates, new = torch.addmm(projected, read, self.read).split(parts, 1)
        recurrent_gates, recurrent = self.hidden(state.hidden).split(parts, 1)
        reset, keep = (gates + recurrent_gates).sigmoid().chunk(2, 1)
        hidden = torch.lerp(torch.addcmul(new, reset, recurrent).tanh(), state.hidden, keep)
        return hidden, GRUState(hidden)


class FeedForwardController(Controller):
    """h = relu(W[x, r] + b): no state of its own, so that all that is remembered is in the memory."""

    def __init__(self, input_size: int, read_size: int, size: int) -> None:
        super().__init__(input_size, read_size, size)
        self.input = nn.Linear(input_size, size)
        self.read = nn.Linear(read_size, size, bias=False)

    def initial_state(self, batch: int, like: Tensor) -> tuple[()]:
        """Nothing."""
        return ()

    def forward(self, projected: Tensor, read: Tensor, state: tuple[()]) -> tuple[Tensor, tuple[()]]:
        """One step; see `Controller.forward`."""
        return (projected + self.read(read)).relu(), ()


class TransformerController(Controller):
    """One causal Transformer block (`mann.transformer.Block`) over W[x, r] + b and the step's sinusoidal position.

    The state is the cache of its own past, so that a step's cost grows with the steps before it and nothing is ever
    forgotten: a control of what the memory adds. A read depends on the step before, so that only W x is done for a
    whole sequence at once. As many heads as divide `size`, four at most.
    """

    def __init__(self, input_size: int, read_size: int, size: int) -> None:
        super().__init__(input_size, read_size, size)
        self.input = nn.Linear(input_size, size)
        self.read = nn.Linear(read_size, size, bias=False)
        self.block = Block(size, math.gcd(size, 4))

    def initial_state(self, batch: int, like: Tensor) -> Cache:
        """An empty past."""
        return self.block.initial_state(batch, like)

    def forward(self, projected: Tensor, read: Tensor, state: Cache) -> tuple[Tensor, Cache]:
        """One step; see `Controller.forward`."""
        place = sinusoids(projected.new_full((1,), state.keys.shape[2]), self.size)
        h, state = self.block((projected + self.read(read) + place).unsqueeze(1), state)
        return h.squeeze(1), state


CONTROLLERS: dict[ControllerName, type[Controller]] = {
    "lstm": LSTMController,
    "gru": GRUController,
    "feed-forward": FeedForwardController,
    "transformer": TransformerController,
}
