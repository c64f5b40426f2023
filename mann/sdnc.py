"""SDNC: sparse access memory with temporal links (Rae et al. 2016, arXiv:1610.09027, appendix D).

SAM (`mann/sam.py`) writes and finds by content; links tell in which order slots were written, as in DNC (Graves et al.
2016), so that a head may also read what was written after, or before, what it read last. With w^W, w^R as in SAM:

    N_t(i, j) = (1 - w^W_t(i) - w^W_t(j)) N_{t-1}(i, j) + w^W_t(i) p_{t-1}(j),  N_t(i, i) = 0
    p_t(i)    = (1 - Σ_j w^W_t(j)) p_{t-1}(i) + w^W_t(i)
    f_t = N_t w^R_{t-1},  b_t = N_tᵀ w^R_{t-1}
    w^R_t = π_1 b_t + π_2 c_t + π_3 f_t,  π = softmax(modes)

N(i, j) is high where i was written right after j. A row of N keeps its K_L largest entries, p its K_L largest, and the
list P(j) names the up to K_L slots i with the largest N(i, j), so that no step looks at all slots; an entry that falls
out of P(j) leaves N as well. c_t is SAM's softmax over the K nearest; b_t, f_t and w^R_t keep their K largest weights,
not scaled up again. Links are changed in place and rolled back as the memory is; the rules for states are SAM's.

Deviations: the links are DNC's own, entry by entry, as far as they are kept; the paper's N and P each hold values and
decay on their own. No gradient goes through links and precedence, it goes through w^R_{t-1} and π. Slots are given out
by SAM's least recent access, not by DNC's usage and free gates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bench.api import Addresses, BenchError, Memory, Task, build, method, option
from mann.index import Log, blank, equal_pairs, poke, ring_order, take
from mann.learner import MemoryMethod, shared_fields
from mann.sam import SAM, Access, Journal, Read, SAMOptions, SAMState, content, journal, spread, totals


@dataclass(frozen=True, kw_only=True)
class SDNCOptions(SAMOptions):
    """The options of `SDNC`."""

    links: int = option(8, "K_L: links kept for each slot, in each direction")


class SDNCState(NamedTuple):
    """A sparse access memory and its links; before, strength and after are buffers shared as those of SAM are.

    before, strength: N's rows, the slots j and their values, 0 where there is none: [batch, slots, links]; strength has
    one row more, written where nothing is to be. after: P, [batch, slots, links], the slots i that follow plus one, 0
    where there is none. precedence: p, [batch, links] each.
    """

    sam: SAMState
    before: Tensor
    strength: Tensor
    after: Tensor
    precedence: Access


class SDNC(Memory[SDNCState]):
    """SAM with temporal links as a cell: `SDNC(slots=128, width=40, reads=4, k=4, links=8)`.

    The interface is SAM's, then the read modes (3 a head: backward, content, forward), before softmax.

    Raises:
        BenchError: more links than slots or fewer than one, or sizes that SAM refuses.
    """

    consumes_state = True

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = o = build(SDNCOptions, options)
        if not 1 <= o.links <= o.slots:
            raise BenchError(f"SDNC needs 1 <= links <= slots, not links={o.links}, slots={o.slots}")
        self.sam = SAM(**shared_fields(o, SAMOptions))
        self.read_size = self.sam.read_size
        self.interface_size = self.sam.interface_size + 3 * o.reads

    def initial_state(self, batch: int, like: Tensor) -> SDNCState:
        """SAM's, and no links."""
        o, like = self.options, like.detach()
        shape = (batch, o.slots, o.links)
        first = torch.arange(o.links, device=like.device).repeat(batch, 1)
        return SDNCState(
            self.sam.initial_state(batch, like),
            blank(like, *shape, dtype=torch.int64),
            blank(like, batch, o.slots + 1, o.links),
            blank(like, *shape, dtype=torch.int64),
            Access(first, like.new_zeros(batch, o.links)),
        )

    def forward(self, interface: Tensor, state: SDNCState) -> tuple[Tensor, SDNCState]:
        """One step; see `Memory.forward`.

        Raises:
            BenchError: the state is outdated, as in `SAM.forward`.
        """
        read, state, _ = self._step(interface, state, journal(interface, state.sam))
        return read, state

    def addresses(self, interface: Tensor, state: SDNCState) -> Addresses:
        """As `SAM.addresses`; the gates are α, the share of the write for a new slot, and π, mean over heads."""
        with torch.no_grad():
            usage = state.sam.usage.clone() if self.options.usage == "u1" else ring_order(state.sam.usage)
            trial = Journal(state.sam.clock, state.sam.step)
            _, after, written = self._step(interface, state, trial)
            trial.rewind()
            parts = self.sam.parse(interface[:, : self.sam.interface_size])
            modes = self.modes(interface).mean(1)
        return Addresses(
            spread(Access(after.sam.slots, after.sam.weights), self.options.slots),
            spread(Access(*(part.unsqueeze(1) for part in written)), self.options.slots),
            usage.to(interface.dtype),
            {"gate": parts.gate[:, 0], "new": parts.share[:, -1]}
            | dict(zip(("backward", "content", "forward"), modes.unbind(1), strict=True)),
        )

    def _step(self, interface: Tensor, state: SDNCState, journal: Journal | None) -> tuple[Tensor, SDNCState, Access]:
        sam, k = state.sam, self.options.k
        parts = self.sam.parse(interface[:, : self.sam.interface_size])
        log = journal.begin() if journal else None
        written = self.sam.write_weights(parts, sam)
        flow = self.sam.write(written, parts.value, sam, journal, log)
        state = state._replace(precedence=self.link(written, state, log))
        backward, forward = self.follow(state)
        near, found = self.sam.nearest(parts.query, sam)
        slots = torch.cat((backward.slots, near, forward.slots), 2)
        rows, flow = Read.apply(flow, sam.memory, slots, journal)
        found_by = torch.stack((backward.weights, content(parts, rows[:, :, k : 2 * k], found), forward.weights), 2)
        mixed = (self.modes(interface).unsqueeze(3) * found_by).flatten(2)
        read = largest(slots, mixed, k)
        kept = (slots.unsqueeze(3) == read.slots.masked_fill(read.weights == 0, -1).unsqueeze(2)).any(3)
        value = ((mixed * kept).unsqueeze(2) @ rows).flatten(1)
        return value, state._replace(sam=self.sam.settle(written, read, sam._replace(flow=flow), journal, log)), written

    def modes(self, interface: Tensor) -> Tensor:
        """π: [batch, reads, 3], backward, content, forward."""
        return interface[:, self.sam.interface_size :].unflatten(1, (-1, 3)).softmax(2)

    @torch.no_grad()
    def link(self, written: Access, state: SDNCState, log: Log | None) -> Access:
        """Update N and P in place for a write; returns the new precedence."""
        slots, last, links = written.slots, state.precedence, self.options.links
        weights = totals(slots, written.weights)
        once = weights * ~equal_pairs(slots).tril(-1).any(2)
        self._weaken_followers(slots, weights, state, log)
        sources = take(state.before, slots)
        by_source = ((sources.unsqueeze(3) == slots[:, None, None]) * once[:, None, None]).sum(3)
        kept = (1 - weights.unsqueeze(2) - by_source).clamp(min=0) * take(state.strength, slots)
        new = weights.unsqueeze(2) * last.weights.unsqueeze(1)
        sources = torch.cat((sources, last.slots.unsqueeze(1).expand_as(new)), 2)
        row = largest(sources, torch.cat((kept, new), 2) * (sources != slots.unsqueeze(2)), links)
        poke(state.before, slots, row.slots, log)
        poke(state.strength, slots, row.weights, log)
        self._list_followers(slots, state, log)
        remains = (1 - once.sum(1, keepdim=True)).clamp(min=0) * last.weights
        return largest(torch.cat((last.slots, slots), 1), torch.cat((remains, once), 1), links)

    def _weaken_followers(self, slots: Tensor, weights: Tensor, state: SDNCState, log: Log | None) -> None:
        """Multiply N(i, j) by 1 - w(j) for the slots j written and each i that was not."""
        follower = take(state.after, slots) - 1
        place, value = self._entries(follower, slots, state)
        other = ~(follower.unsqueeze(3) == slots[:, None, None]).any(3)
        # P may list a follower that has dropped the link since; the place found for that one is another link's.
        self._set(place, value * (1 - weights.unsqueeze(2)), other & (value > 0), state, log)

    def _list_followers(self, slots: Tensor, state: SDNCState, log: Log | None) -> None:
        """Keep in P, for each slot of the precedence, the strongest of its followers and the slots written."""
        earlier = state.precedence.slots
        known = take(state.after, earlier) - 1
        follower = torch.cat((known, slots.unsqueeze(1).expand(-1, earlier.shape[1], -1)), 2)
        place, value = self._entries(follower, earlier, state)
        again = equal_pairs(follower).tril(-1).any(3)
        best, at = value.masked_fill(again, 0).topk(self.options.links, 2)
        poke(state.after, earlier, torch.where(best > 0, follower.gather(2, at) + 1, 0), log)
        lost = ~(follower.unsqueeze(3) == follower.gather(2, at).unsqueeze(2)).any(3)
        self._set(place, torch.zeros_like(value), lost & (value > 0), state, log)

    def _set(self, place: Tensor, value: Tensor, where: Tensor, state: SDNCState, log: Log | None) -> None:
        entries = state.strength.view(len(value), -1)
        place = torch.where(where, place, entries.shape[1] - 1).flatten(1)
        poke(entries, place, torch.where(where, value, 0).flatten(1), log)

    def _entries(self, follower: Tensor, slots: Tensor, state: SDNCState) -> tuple[Tensor, Tensor]:
        """N(follower[b, ..., l], slots[b, ...]): where in strength, flat a row of the batch, and its value.

        The value is 0 where the follower is -1 or there is no such entry. Both: follower's shape.
        """
        at = follower.clamp(min=0)
        matches = (take(state.before, at) == slots[..., None, None]) & (follower >= 0).unsqueeze(-1)
        values, column = (take(state.strength, at) * matches).max(-1)
        return at * self.options.links + column, values

    def follow(self, state: SDNCState) -> tuple[Access, Access]:
        """b and f: what was written before and after the slots read last, [batch, reads, k] each."""
        slots, weights = state.sam.slots, state.sam.weights.unsqueeze(3)
        back = largest(
            take(state.before, slots).flatten(2), (take(state.strength, slots) * weights).flatten(2), self.options.k
        )
        after = take(state.after, slots) - 1
        values = self._entries(after, slots, state)[1] * weights
        return back, largest(after.clamp(min=0).flatten(2), values.flatten(2), self.options.k)


def largest(slots: Tensor, weights: Tensor, k: int) -> Access:
    """Weights summed over the entries that name the same slot, the k largest of them: [..., k] from [..., m].

    Where fewer slots have weight the rest have weight 0 and any slot.
    """
    pairs = equal_pairs(slots)
    again = pairs.tril(-1).any(-1)
    summed = (pairs * weights.unsqueeze(-2)).sum(-1).masked_fill(again, 0)
    at = summed.detach().masked_fill(again, -1).topk(k, -1).indices
    return Access(slots.gather(-1, at), summed.gather(-1, at))


@method("sdnc", source="Rae et al. 2016, arXiv:1610.09027; links after Graves et al. 2016")
class SparseDNC(SDNCOptions, MemoryMethod):
    """Sparse access memory with temporal links behind any controller."""

    version = 2  # 1 lost links where a follower had dropped the one that it was listed for

    def memory(self, task: Task) -> SDNC:
        """A fresh sparse memory with links."""
        return SDNC(**shared_fields(self, SDNCOptions))
