"""Neural memory: a small network that is trained, step by step, to give values for keys (Titans; Behrouz et al. 2025).

arXiv:2501.00663, §3.1. Each head of each episode has a network M of its own, and at each step

    k, q = φ(·), of length 1,  v = tanh(·),  θ = ceiling · σ(·),  η = σ(·),  α = σ(· - 4)      (from the controller)
    ℓ    = ½ |M_{t-1}(k) - v|²
    S_t  = η S_{t-1} - θ ∇ℓ(M_{t-1})          (surprise: what was, with momentum, and what is)
    M_t  = (1 - α) M_{t-1} + S_t              (α forgets)
    r_t  = M_t(q)

M is an MLP without biases, SiLU between its layers; its first weights M_0 are parameters. The gradient is taken by
`torch.func`, and those of a training loss flow through it: the controller learns what to write, and M_0 is where to
start from best. With depth=1, η = 0 and α = 0 this is the delta rule.

Deviations, and what the paper leaves open:

- ℓ has ½ (the paper has none), so that θ is what β is in the delta rule.
- ∇ℓ is scaled down to a norm of `limit` where it is larger, and values pass tanh: with saturated gates (η = 1, α = 0,
  which any large enough output of the controller makes) momentum otherwise grows without bound.
- φ is SiLU and the length of keys and queries is 1, as in the paper; there is no convolution before it.
- The bias of 4 in α keeps 98 % a step at first; an unbiased gate would forget half.
- One step at a time; the paper's training takes the gradients of a chunk at the chunk's first weights.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import grad
from torch.nn import functional as F

from bench.api import BenchError, Memory, Task, build, method, option
from mann.learner import MemoryMethod, shared_fields

EPSILON = 1e-6
"""Shortest length that a key is divided by."""
KEEP = 4.0
"""What is taken from α before σ."""

Weights = tuple[Tensor, ...]


@dataclass(frozen=True, kw_only=True)
class NeuralOptions:
    """The options of `Neural`."""

    width: int = option(40, "numbers in a key, and in a value, of one head")
    heads: int = option(4, "networks, each with its own key, value and query")
    depth: int = option(2, "layers of each network; 1: a matrix")
    hidden: int = option(40, "units of its hidden layers")
    ceiling: float = option(0.5, "largest step θ along the gradient")
    limit: float = option(10.0, "largest norm of a gradient; it is scaled down to that")


class NeuralState(NamedTuple):
    """weights: M, one tensor a layer, [batch, heads, in, out]; momentum: S, the same."""

    weights: Weights
    momentum: Weights


class Neural(Memory[NeuralState]):
    """Networks as a memory, as a cell: `Neural(width=40, heads=4, depth=2)`, options as in `NeuralOptions`.

    The interface holds queries, keys and values (heads × width each, raw), then θ, η and α (heads each, before σ). A
    step writes, then reads [batch, heads · width]. There are no slots, so there are no addresses: what is stored lies
    in the weights, and `addresses` returns None.

    Raises:
        BenchError: a size below one, or a ceiling or limit that is not above 0.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = o = build(NeuralOptions, options)
        if min(o.width, o.heads, o.depth, o.hidden) < 1 or min(o.ceiling, o.limit) <= 0:
            raise BenchError(
                f"neural needs sizes of at least 1 and ceiling and limit above 0, not width={o.width}, "
                f"heads={o.heads}, depth={o.depth}, hidden={o.hidden}, ceiling={o.ceiling:g}, limit={o.limit:g}"
            )
        self.read_size = o.heads * o.width
        self.interface_size = 3 * self.read_size + 3 * o.heads
        sizes = [o.width, *[o.hidden] * (o.depth - 1), o.width]
        self.start = nn.ParameterList(torch.randn(o.heads, n, m) / math.sqrt(n) for n, m in pairwise(sizes))

    def initial_state(self, batch: int, like: Tensor) -> NeuralState:
        """M_0, the same for each row, and no momentum; `like`'s dtype and device."""
        weights = tuple(layer.to(like).expand(batch, -1, -1, -1) for layer in self.start)
        return NeuralState(weights, tuple(torch.zeros_like(layer) for layer in weights))

    def forward(self, interface: Tensor, state: NeuralState) -> tuple[Tensor, NeuralState]:
        """One step; see `Memory.forward`."""
        queries, keys, values, step, momentum, keep = self.parse(interface)
        gradients = surprise(state.weights, keys, values)
        step = step * self.shrink(gradients)
        moved = tuple(
            torch.addcmul(momentum * old, step, new, value=-1)
            for old, new in zip(state.momentum, gradients, strict=True)
        )
        weights = tuple(torch.addcmul(change, keep, old) for change, old in zip(moved, state.weights, strict=True))
        return answer(weights, queries).flatten(1), NeuralState(weights, moved)

    def parse(self, interface: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Queries, keys and values, [batch, heads, 1, width]; θ, η and 1 - α, [batch, heads, 1, 1]."""
        o, batch = self.options, len(interface)
        pairs, values, gates = interface.split((2 * self.read_size, self.read_size, 3 * o.heads), 1)
        pairs = F.normalize(F.silu(pairs.view(batch, 2, o.heads, 1, o.width)), dim=4, eps=EPSILON)
        step, momentum, forget = gates.view(batch, 3, o.heads, 1, 1).unbind(1)
        values = values.view(batch, o.heads, 1, o.width).tanh()
        # KEEP - α, since 1 - σ(z) = σ(-z) is what is kept.
        gated = (o.ceiling * step.sigmoid(), momentum.sigmoid(), (KEEP - forget).sigmoid())
        return pairs[:, 0], pairs[:, 1], values, *gated

    def shrink(self, gradients: Weights) -> Tensor:
        """What makes gradients, a head's layers together, no longer than `limit`: [batch, heads, 1, 1], at most 1."""
        squares = torch.stack([gradient.square().sum((2, 3), keepdim=True) for gradient in gradients]).sum(0)
        return self.options.limit * squares.clamp(min=self.options.limit**2).rsqrt()


def answer(weights: Weights, inputs: Tensor) -> Tensor:
    """M(inputs): [batch, heads, 1, width], each with the network of its row and head."""
    for layer in weights[:-1]:
        inputs = F.silu(inputs @ layer)
    return inputs @ weights[-1]


def error(weights: Weights, keys: Tensor, values: Tensor) -> Tensor:
    """ℓ summed over rows and heads, whose networks are apart: its gradient is that of each."""
    return 0.5 * (answer(weights, keys) - values).square().sum()


def surprise(weights: Weights, keys: Tensor, values: Tensor) -> Weights:
    """∇ℓ at the weights."""
    return grad(error)(weights, keys, values)


@method("neural-memory", source="Behrouz et al. 2025, arXiv:2501.00663")
class NeuralMethod(NeuralOptions, MemoryMethod):
    """The neural memory of Titans behind any controller: learning at test time as a memory."""

    def memory(self, task: Task) -> Neural:
        """A fresh neural memory."""
        return Neural(**shared_fields(self, NeuralOptions))
