"""SDNC with exact search behind an LSTM on the CPU, a whole sequence in one call: `mann.kernels.numba_sdnc` as a scan.

The given state is left as it was, as by the scan of SAM.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mann.controllers import LSTMController
from mann.kernels import cpu_sam
from mann.kernels.cpu_sam import Kind, scanned
from mann.kernels.numba_sdnc import Carry, Trace, backward, forward
from mann.kernels.numba_topk import MOST
from mann.kernels.registry import scan
from mann.kernels.sequence import try_out
from mann.learner import MemoryLearner, State
from mann.sam import Access, journal
from mann.sdnc import SDNC, SDNCOptions, SDNCState


def _shapes(o: SDNCOptions, steps: int) -> dict[str, tuple[int, ...]]:
    return {
        "near": (steps, o.reads, 3 * o.k), "rows": (steps, o.reads, 3 * o.k, o.width), "modes": (steps, o.reads, 3),
        "ways": (steps, o.reads, 3, o.k), "chosen": (steps, o.reads, o.k), "factors": (steps, o.reads, 2, o.k, o.k),
    }  # fmt: skip


def _pack(state: SDNCState) -> tuple[Tensor, ...]:
    links = (state.before, state.strength, state.after, *state.precedence)
    return *cpu_sam.pack(state.sam), *(part.detach() for part in links)


def _unpack(tensors: tuple[Tensor, ...], like: SDNCState, steps: int) -> SDNCState:
    sam = cpu_sam.unpack(tensors[:-5], like.sam, steps)
    before, strength, after, preceding, precedence = (part.detach() for part in tensors[-5:])
    return SDNCState(sam, before, strength, after, Access(preceding, precedence))


LINKED = Kind(forward, backward, Carry, Trace, _shapes, _pack, _unpack)


def _unsuited(learner: MemoryLearner) -> str | None:
    o: Any = learner.memory.options
    if o.links > MOST:
        return f"it keeps up to {MOST} links a slot, and the memory is asked for links={o.links}"
    return cpu_sam.unsuited(learner)


def _compile(dtype: torch.dtype) -> None:
    try_out(sdnc, SDNC(slots=1, width=1, reads=1, k=1, links=1), dtype)


@scan(SDNC, LSTMController, compile=_compile, unsuited=_unsuited)
def sdnc(learner: MemoryLearner, projected: Tensor, state: State) -> tuple[Tensor, Tensor, State]:
    """As `mann.learner.reference`.

    Raises:
        BenchError: the state is outdated, as in `SAM.forward`.
    """
    journal(projected, state.memory.sam)  # refuses an outdated state
    return scanned(LINKED, learner, projected, state)
