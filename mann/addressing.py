"""Arithmetic that several memories share: find by content, sharpen, erase and add. Heads are a dimension of each call.

Weights are [batch, heads, slots], vectors of heads [batch, heads, width], scalars of heads [batch, heads, 1].
"""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor

from bench.api import part

SOFTENING = 1e-6
"""Added to squared lengths in a cosine: that of a zero vector is zero, and gradients stay bounded."""
LEAST = 1e-16
"""Weights below this count as so large in a power: a zero has no logarithm."""


def inverse_length(square: Tensor) -> Tensor:
    """1 / |v| from |v|². Not from a norm, whose gradient costs more than all else here."""
    return (square + SOFTENING).rsqrt()


def queries(keys: Tensor, strengths: Tensor) -> Tensor:
    """Keys as `content` takes them: of unit length, times the strength β."""
    return keys * (strengths * inverse_length(keys.square().sum(2, keepdim=True)))


@part("addressing")
def content(memory: Tensor, queries: Tensor, masks: Tensor | None = None) -> Tensor:
    """softmax_i β cos(k, M(i)) (Graves et al. 2014, eq. 5, 6): weights, [batch, heads, slots].

    memory: [batch, slots, width]; queries: see there. With masks, 0 to 1, [batch, heads, width], it is
    softmax_i β cos(m k, m M(i)): a head compares what its mask lets through (Csordás and Schmidhuber 2019,
    arXiv:1904.10278); the queries are then of keys times masks.
    """
    squares = memory.square()
    if masks is None:
        lengths = inverse_length(squares.sum(2)).unsqueeze(1)
    else:
        queries = queries * masks
        lengths = inverse_length(torch.bmm(masks.square(), squares.transpose(1, 2)))
    return (torch.bmm(queries, memory.transpose(1, 2)) * lengths).softmax(2)


@part("read")
def weighted_read(weights: Tensor, memory: Tensor) -> Tensor:
    """Σ_i w(i) M(i) (Graves et al. 2014, eq. 2): what each head reads, [batch, heads, width]."""
    return torch.bmm(weights, memory)


def sharpen(weights: Tensor, power: Tensor) -> Tensor:
    """w(i)^γ / Σ_j w(j)^γ (Graves et al. 2014, eq. 9) as softmax_i γ log w(i), which no γ can underflow."""
    return (power * weights.clamp_min(LEAST).log()).softmax(2)


def product(factors: Tensor) -> Tensor:
    """Product over dimension 1. Not `prod`, whose gradient waits for the device to learn whether a factor is zero."""
    return reduce(torch.mul, factors.unbind(1))


@part("write")
def erase_and_add(memory: Tensor, weights: Tensor, erase: Tensor, add: Tensor) -> Tensor:
    """M(i) Π_h (1 - w_h(i) e_h) + Σ_h w_h(i) a_h (Graves et al. 2014, eq. 3, 4): all heads erase, then all add."""
    if weights.shape[1] == 1:  # the usual case, with fewer passes over the memory
        return memory + weights.transpose(1, 2) * (add - erase * memory)
    kept = product(1 - weights.unsqueeze(3) * erase.unsqueeze(2))
    return torch.baddbmm(memory * kept, weights.transpose(1, 2), add)
