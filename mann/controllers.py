"""Controllers: what turns an input and the last read into the memory's interface.

All have one form, so that any memory goes with any controller: `project` does for a whole sequence at once what does
not depend on the state (most of the arithmetic), `forward` does the rest step by step.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class LSTMState(NamedTuple):
    """hidden, cell: [batch, size]."""

    hidden: Tensor
    cell: Tensor


class Controller(nn.Module):
    """A recurrent or feed-forward network, one step at a time; the state goes in and comes out."""

    size: int
    """Width of the output h."""

    def project(self, x: Tensor) -> Tensor:
        """The input's part of the step, for all steps at once. x: [batch, time, input_size]."""
        raise NotImplementedError

    def initial_state(self, batch: int, like: Tensor) -> tuple[Any, ...]:
        """The state before the first step, with `like`'s dtype and device."""
        raise NotImplementedError

    def forward(self, projected: Tensor, read: Tensor, state: Any) -> tuple[Tensor, Any]:
        """One step. projected: one step of `project`; read: [batch, read_size]. Returns h [batch, size], state."""
        raise NotImplementedError


class LSTMController(Controller):
    """Long short-term memory without peepholes (Hochreiter and Schmidhuber 1997; forget gate Gers et al. 2000).

    i, f, o = σ(W[x, r, h] + b), c ← f c + i tanh(W[x, r, h] + b), h = o tanh(c). The forget gate's bias starts at 1
    (Jozefowicz et al. 2015), the rest uniformly in ±1/√size as in `nn.LSTM`.
    """

    def __init__(self, input_size: int, read_size: int, size: int) -> None:
        super().__init__()
        self.size = size
        self.input = nn.Linear(input_size, 4 * size)
        self.recurrent = nn.Parameter(torch.empty(read_size + size, 4 * size))
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -1 / math.sqrt(size), 1 / math.sqrt(size))
        with torch.no_grad():
            self.input.bias[size : 2 * size] = 1.0

    def project(self, x: Tensor) -> Tensor:
        """W x + b."""
        return self.input(x)

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


class FeedForwardController(Controller):
    """h = relu(W[x, r] + b): no state of its own, so that all that is remembered is in the memory."""

    def __init__(self, input_size: int, read_size: int, size: int) -> None:
        super().__init__()
        self.size = size
        self.input = nn.Linear(input_size, size)
        self.read = nn.Linear(read_size, size, bias=False)

    def project(self, x: Tensor) -> Tensor:
        """W x + b."""
        return self.input(x)

    def initial_state(self, batch: int, like: Tensor) -> tuple[()]:
        """Nothing."""
        return ()

    def forward(self, projected: Tensor, read: Tensor, state: tuple[()]) -> tuple[Tensor, tuple[()]]:
        """One step; see `Controller.forward`."""
        return (projected + self.read(read)).relu(), ()


CONTROLLERS: dict[str, type[LSTMController] | type[FeedForwardController]] = {
    "lstm": LSTMController,
    "feed-forward": FeedForwardController,
}
