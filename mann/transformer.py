"""One Transformer block over a growing key-value cache, for the controller and for full attention.

Norm-first (Xiong et al. 2020, arXiv:2002.04745) with GELU (Hendrycks and Gimpel 2016, arXiv:1606.08415):

    h ← h + Attention(LN(h)),  Attention = softmax(Q Kᵀ / √d) V by head       (Vaswani et al. 2017, eq. 1, §3.2.2)
    h ← h + W₂ GELU(W₁ LN(h)),  W₁ four times as wide as h                    (§3.3, ReLU there)

Vaswani et al. 2017 is arXiv:1706.03762. Nothing is registered here.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WAVELENGTH = 10_000.0
"""Of the slowest sinusoid, in steps over 2π (§3.5)."""


class Cache(NamedTuple):
    """Keys and values of all steps so far, [batch, heads, time, size / heads] each."""

    keys: Tensor
    values: Tensor


class Block(nn.Module):
    """A causal Transformer block: the steps given at once see the cache, themselves and those before them.

    heads must divide size; the caller checks it.
    """

    def __init__(self, size: int, heads: int) -> None:
        super().__init__()
        self.size = size
        self.heads = heads
        self.norm = nn.LayerNorm(size)
        self.inputs = nn.Linear(size, 3 * size)
        self.merge = nn.Linear(size, size)
        self.dense = nn.Sequential(nn.LayerNorm(size), nn.Linear(size, 4 * size), nn.GELU(), nn.Linear(4 * size, size))

    def initial_state(self, batch: int, like: Tensor) -> Cache:
        """An empty cache, with `like`'s dtype and device."""
        empty = like.new_zeros(batch, self.heads, 0, self.size // self.heads)
        return Cache(empty, empty)

    def forward(self, h: Tensor, cache: Cache, mask: Tensor | None = None) -> tuple[Tensor, Cache]:
        """New steps h: [batch, time, size]. Returns their outputs, of the same shape, and the longer cache.

        mask: which of all steps, cached ones first, each new step sees, [time, all] bool; default: causal.
        """
        past, time = cache.keys.shape[2], h.shape[1]
        split = self.inputs(self.norm(h)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        query, keys, values = split.unbind(0)
        if past:
            keys, values = torch.cat((cache.keys, keys), 2), torch.cat((cache.values, values), 2)
        plain = past == 0 and mask is None
        if mask is None and past and time > 1:
            mask = torch.ones(time, past + time, dtype=torch.bool, device=h.device).tril(past)
        found = F.scaled_dot_product_attention(query, keys, values, attn_mask=mask, is_causal=plain)
        h = h + self.merge(found.transpose(1, 2).flatten(2))
        return h + self.dense(h), Cache(keys, values)


def sinusoids(positions: Tensor, size: int) -> Tensor:
    """Sinusoidal codes of positions, [n] to [n, size]: sines of falling frequency, then their cosines (§3.5)."""
    half = (size + 1) // 2
    speed = torch.arange(half, dtype=positions.dtype, device=positions.device).mul(-math.log(WAVELENGTH) / half).exp()
    angle = positions.unsqueeze(1) * speed
    return torch.cat((angle.sin(), angle.cos()), 1)[:, :size]
