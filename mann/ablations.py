"""Does the memory do anything? The memory of a network taken away in three ways, its size kept.

Each is a memory around a memory, trained and tested like any other. The network has the same parameters as without,
though some of them (the interface, where nothing is read or kept) then get no gradient.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from bench.api import Addresses, BenchError, Memory
from mann.states import map_state

AblationName = Literal["none", "zero", "frozen", "other"]


class Ablation(Memory[Any]):
    """A memory around a memory, with its sizes."""

    def __init__(self, memory: Memory[Any]) -> None:
        super().__init__()
        self.memory = memory
        self.interface_size = memory.interface_size
        self.read_size = memory.read_size

    def initial_state(self, batch: int, like: Tensor) -> Any:
        """The memory's own."""
        return self.memory.initial_state(batch, like)


class Zeroed(Ablation):
    """What is read is zeros; nothing is written. It has no addresses: it reads nowhere."""

    def forward(self, interface: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Zeros, and the state as it came."""
        return interface.new_zeros(len(interface), self.read_size), state


class Frozen(Ablation):
    """Reads as ever, from the state before the first step; nothing of a step is there for the next.

    A memory that writes before it reads still finds what the same step wrote.
    """

    def forward(self, interface: Tensor, state: Any) -> tuple[Tensor, Any]:
        """The memory's read, and the state as it came."""
        return self.memory(interface, _kept(self.memory, state))[0], state

    def addresses(self, interface: Tensor, state: Any) -> Addresses | None:
        """The memory's reads; no writes."""
        found = self.memory.addresses(interface, state)
        return found and found._replace(write=torch.zeros_like(found.write))


class OtherState(NamedTuple):
    """memory: the memory's own state; episode: [rows, episodes], one-hot, of which episode each row is a branch."""

    memory: Any
    episode: Tensor


class OtherEpisode(Ablation):
    """Each step is answered from the memory of the episode before in the batch, and writes to its own.

    Episodes of a batch mix, on purpose. A memory that writes before it reads finds what the same step wrote, in the
    other's memory, and nothing older of its own. Two steps of the memory are computed for each.
    """

    def initial_state(self, batch: int, like: Tensor) -> OtherState:
        """The memory's own, and who is who.

        Raises:
            BenchError: a batch of one: there is no other episode.
        """
        if batch < 2:
            raise BenchError(
                "ablate=other answers from another episode's memory: a batch must hold two episodes or more"
            )
        return OtherState(
            self.memory.initial_state(batch, like), torch.eye(batch, dtype=like.dtype, device=like.device)
        )

    def forward(self, interface: Tensor, state: OtherState) -> tuple[Tensor, OtherState]:
        """The other's read, and what the step makes of its own state."""
        read, _ = self.memory(interface, self._others(state))
        _, memory = self.memory(interface, state.memory)
        return read, OtherState(memory, state.episode)

    def addresses(self, interface: Tensor, state: OtherState) -> Addresses | None:
        """Reads in the other's memory; writes, usage and gates in its own."""
        read, own = (self.memory.addresses(interface, s) for s in (self._others(state), state.memory))
        return read and own and own._replace(read=read.read)

    def _others(self, state: OtherState) -> Any:
        """The state with rows moved on by one episode, which is as many rows as it has branches."""
        rows, episodes = state.episode.shape
        return map_state(lambda tensor: tensor.roll(rows // episodes, 0), state.memory)


ABLATIONS: dict[AblationName, type[Ablation]] = {"zero": Zeroed, "frozen": Frozen, "other": OtherEpisode}


def _kept(memory: Memory[Any], state: Any) -> Any:
    """A state to take a step from that will be asked for again; a copy where a step uses its state up."""
    return map_state(torch.clone, state) if memory.consumes_state else state
