"""A step of a full memory against the number of slots, on one thread: HCAM, which looks into blocks, beside attention.

Forward and backward pass of one access (read and write), 8 rows, 40 numbers a key and a value, 4 heads, 4 blocks read.
The attention cell copies its memory when it writes, so the read of softmax(q Kᵀ / √d) V alone, by the library, is here
too: the least that attention to all slots takes.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mann import HCAM
from mann.attention import AttentionMemory, AttentionState
from mann.hierarchical import HCAMState

SLOTS = [256, 1024, 4096, 16384, 65536]
BATCH, WIDTH, HEADS = 8, 40, 4


def full_blocks(memory: HCAM) -> HCAMState:
    """All blocks full but the one that is being filled, which is half so."""
    rows = torch.randn(memory.places - 1, BATCH, memory.block, 2 * WIDTH)
    state = memory.initial_state(BATCH, rows)
    summaries = rows[..., :WIDTH].mean(2).transpose(0, 1)
    return state._replace(
        blocks=tuple(rows.unbind(0)), summaries=summaries, open=torch.randn(BATCH, memory.block // 2, 2 * WIDTH)
    )


def full(memory: AttentionMemory) -> AttentionState:
    """All slots written, the lowest least recently."""
    keys, values, age = memory.initial_state(BATCH, torch.zeros(()))
    old = torch.arange(age.shape[1], 0, -1.0).expand_as(age)
    return AttentionState(torch.randn_like(keys), torch.randn_like(values), old)


@pytest.mark.benchmark(group="a step of a full memory against slots: batch 8, width 40, 4 heads")
@pytest.mark.parametrize("slots", SLOTS)
@pytest.mark.parametrize("name", ["hcam", "attention", "attention, reading alone"])
def test_slots(benchmark: Any, name: str, slots: int) -> None:
    torch.manual_seed(0)
    hierarchical = HCAM(slots=slots, width=WIDTH, heads=HEADS)
    dense = AttentionMemory(slots=slots, width=WIDTH, heads=HEADS)
    blocks, rows = full_blocks(hierarchical), full(dense)
    interface = torch.randn(BATCH, 3 * WIDTH, requires_grad=True)

    def read_alone(interface: Tensor) -> Tensor:
        query = interface[:, :WIDTH].unflatten(1, (HEADS, 1, -1))
        return F.scaled_dot_product_attention(query, rows.keys, rows.values)

    access = {
        "hcam": lambda x: hierarchical(x, blocks)[0],
        "attention": lambda x: dense(x, rows)[0],
        "attention, reading alone": read_alone,
    }[name]

    def step() -> None:
        interface.grad = None
        access(interface).sum().backward()

    benchmark.extra_info.update(name=name)
    benchmark(step)
