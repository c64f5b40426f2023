"""`mann.addressing.weighted_read` for memories of any size on the CPU: see `mann.kernels.numba_read`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mann.kernels import numba_read


class WeightedRead(torch.autograd.Function):
    """Reading in one pass; its gradients are two products that write as much as they read."""

    @staticmethod
    def forward(ctx: Any, weights: Tensor, memory: Tensor) -> Tensor:
        """Σ_i w(i) M(i), [batch, heads, width]. weights: [batch, heads, slots]; memory: [batch, slots, width]."""
        ctx.save_for_backward(weights, memory)
        out = memory.new_zeros(*weights.shape[:2], memory.shape[2])
        arrays = (tensor.detach().contiguous().numpy() for tensor in (weights, memory))
        numba_read.weighted_read(*arrays, out.numpy())
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Of the weights and of the memory."""
        weights, memory = ctx.saved_tensors
        by_weight, by_memory = ctx.needs_input_grad
        return (
            torch.bmm(grad, memory.mT) if by_weight else None,
            torch.bmm(weights.mT, grad) if by_memory else None,
        )
