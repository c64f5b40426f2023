"""Full memories of any kind, and how much of what they hold their index finds."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mann.attention import AttentionMemory, AttentionState
from mann.hierarchical import HCAM, HCAMState
from mann.index import LSH, nearest
from mann.sam import SAM, SAMState
from mann.sdnc import SDNC

KEYS = 256


def filled(memory: Any, batch: int) -> Any:
    """A state in which every slot holds a random row; the episodes hold the same ones, each its own copy.

    The other parts of a state are as at first, but for usage, which is random where it is a number a slot.
    """
    if isinstance(memory, HCAM):
        return _full_blocks(memory, batch)
    if isinstance(memory, AttentionMemory):
        return _written(memory, batch)
    state = memory.initial_state(batch, torch.zeros(()))
    if not isinstance(memory, SAM | SDNC):
        rows = torch.randn(1, *state.memory.shape[1:]).repeat(batch, 1, 1)
        used = {"usage": torch.rand_like(state.usage)} if hasattr(state, "usage") else {}
        return state._replace(memory=rows, **used)
    sparse, index = _sparse(memory, state), _index(memory)
    rows = torch.randn(1, *sparse.memory.shape[1:])
    sparse.memory.copy_(rows)
    if index is not None:
        table = index.new_table(1, rows)
        index.fill(table, rows)
        sparse.table.copy_(table)
    return state


def recall(memory: Any, state: Any, noise: float, k: int = 4) -> list[float]:
    """Of noisy copies of stored rows, the share whose nearest row the index finds, and of the k nearest; [] without."""
    index = _index(memory)
    if index is None:
        return []
    sparse = _sparse(memory, state)
    rows, table = sparse.memory[:1], sparse.table[:1]
    keys = rows[:, torch.randperm(rows.shape[1])[:KEYS]]
    keys = keys + noise * torch.randn_like(keys)
    expected = nearest(keys, rows, k)
    slots, there = index.nearest(table, keys, rows, k)
    hits = ((slots.unsqueeze(2) == expected.unsqueeze(3)) & there.unsqueeze(2)).any(3).double()
    return [hits[..., 0].mean().item(), hits.mean().item()]


def _sparse(memory: SAM | SDNC, state: Any) -> SAMState:
    return state.sam if isinstance(memory, SDNC) else state


def _index(memory: Any) -> LSH | None:
    sparse = memory.sam if isinstance(memory, SDNC) else memory
    return sparse.lsh if isinstance(sparse, SAM) else None


def _full_blocks(memory: HCAM, batch: int) -> HCAMState:
    """All blocks full but the one that is being filled, which is half so."""
    width = memory.options.width
    rows = torch.randn(memory.places - 1, 1, memory.block, 2 * width).repeat(1, batch, 1, 1)
    state = memory.initial_state(batch, rows)
    return state._replace(
        blocks=tuple(rows.unbind(0)),
        summaries=rows[..., :width].mean(2).transpose(0, 1),
        open=torch.randn(batch, memory.block // 2, 2 * width),
    )


def _written(memory: AttentionMemory, batch: int) -> AttentionState:
    """All slots written, the lowest least recently."""
    keys, values, age = memory.initial_state(batch, torch.zeros(()))

    def rows(like: Tensor) -> Tensor:
        return torch.randn(1, *like.shape[1:]).repeat(batch, 1, 1, 1)

    return AttentionState(rows(keys), rows(values), torch.arange(age.shape[1], 0, -1.0).repeat(batch, 1))
