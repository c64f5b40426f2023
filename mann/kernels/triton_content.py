"""Content addressing with reading on a GPU, over a memory of any number of slots, which is read once.

`content_read(keys, memory)` is `LRUA.read`; `content_read(queries, memory, soft=True)` is `mann.addressing.content`
with the reading behind it. Memory and keys may be bfloat16; sums are float32 then.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mann.kernels.triton_content_kernels import content_backward, content_combine, content_forward
from mann.kernels.triton_launch import launch
from mann.kernels.triton_support import accumulator, power_of_two, require

CELLS = 4096
"""Cells that a block holds at a time: 16 for each of its threads."""
GROUPS = 64
"""Programs a head, at most, that turn scores into weights."""
WARPS = 8


def content_read(keys: Tensor, memory: Tensor, soft: bool = False) -> tuple[Tensor, Tensor]:
    """What the keys find, [batch, heads · width], and the weights, [batch, heads, slots].

    keys: [batch, heads, width]; memory: [batch, slots, width]. soft: the cosine of `mann.addressing.content`, whose
    queries are scaled already; else that of `mann.lrua`, with its norms.

    Raises:
        BenchError: no Triton or device, or a dtype without a kernel.
    """
    require(memory)
    return _Content.apply(keys, memory, soft)


def _cut(slots: int, width: int) -> dict[str, int]:
    wide = power_of_two(width)
    return {"BLOCK_SLOTS": min(power_of_two(slots), max(CELLS // wide, 1)), "BLOCK_WIDTH": wide}


class _Content(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, keys: Tensor, memory: Tensor, soft: bool) -> tuple[Tensor, Tensor]:
        (batch, heads, width), slots = keys.shape, memory.shape[1]
        room: dict[str, Any] = {"dtype": accumulator(memory.dtype), "device": memory.device}
        keys, memory = keys.contiguous(), memory.contiguous()
        sizes = {"WIDTH": width, "HEADS": heads}
        cut = _cut(slots, width)
        blocks = -(-slots // cut["BLOCK_SLOTS"])
        weights = torch.empty(batch, heads, slots, **room)
        largest, sums = torch.empty(2, batch, heads, blocks, **room)
        parts = torch.empty(batch, heads, blocks, width, **room)
        read = torch.empty(batch, heads, width, **room)
        launch(
            content_forward, (blocks, batch), WARPS, keys=keys, memory=memory, weights=weights, largest=largest,
            sums=sums, parts=parts, slots=slots, keys_row=keys.stride(0), memory_row=memory.stride(0),
            memory_slot=memory.stride(1), SOFT=soft, **sizes, **cut,
        )  # fmt: skip
        group = min(power_of_two(slots), 1024)
        launch(
            content_combine, (min(-(-slots // group), GROUPS), batch, heads), 4, weights=weights, largest=largest,
            sums=sums, parts=parts, read=read, slots=slots, blocks=blocks, read_row=read.stride(0), BLOCK_SLOTS=group,
            BLOCK_WIDTH=cut["BLOCK_WIDTH"], BLOCK_BLOCKS=min(power_of_two(blocks), 64), **sizes,
        )  # fmt: skip
        ctx.save_for_backward(keys, memory, weights, read)
        ctx.soft = soft
        return read.flatten(1).to(memory.dtype), weights.to(memory.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_read: Tensor, d_weights: Tensor) -> tuple[Any, ...]:
        keys, memory, weights, read = ctx.saved_tensors
        (batch, heads, width), slots = keys.shape, memory.shape[1]
        d_read, d_weights = d_read.contiguous(), d_weights.contiguous()
        along = (d_read.view_as(read) * read).sum(2) + (d_weights * weights).sum(2)
        cut = _cut(slots, width)
        blocks = -(-slots // cut["BLOCK_SLOTS"])
        d_keys = torch.empty(batch, heads, blocks, width, dtype=read.dtype, device=read.device)
        d_memory = torch.empty_like(memory)
        launch(
            content_backward, (blocks, batch), WARPS, keys=keys, memory=memory, weights=weights, d_weights=d_weights,
            d_read=d_read, along=along, d_memory=d_memory, d_keys=d_keys, slots=slots, keys_row=keys.stride(0),
            memory_row=memory.stride(0), memory_slot=memory.stride(1), WIDTH=width, HEADS=heads, SOFT=ctx.soft, **cut,
        )  # fmt: skip
        return d_keys.sum(2).to(keys.dtype), d_memory, None
