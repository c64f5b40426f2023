"""Fast weights written by the delta rule, or by a sum: linear attention.

A head holds a matrix W that maps features of keys to values. With φ as `feature` says, one step is

    k, q = φ(k_t), φ(q_t), of length 1 in the norm `normalise`    (Schlag et al. 2021, §4.2; Yang et al. 2024, §3)
    W_t  = W_{t-1} + β_t (v_t - W_{t-1} k) kᵀ,   β_t = σ(·)       (the same, rule="delta")
    r_t  = W_t q

With rule="sum" nothing is taken back and nothing is gated: W_t = W_{t-1} + v_t kᵀ. Where no feature is negative
("elu", "dpfp") this is linear attention (Katharopoulos et al. 2020, eq. 18-20):

    z_t = z_{t-1} + φ(k_t),   r_t = W_t φ(q_t) / (z_t · φ(q_t) + ε)

and the division takes the place of the features' length; z is kept as one more column of W, written with the value 1.

Features: "silu" (Yang, with normalise="l2"), "elu" for elu(x) + 1 (Katharopoulos, eq. 7), "dpfp" for the projection of
Schlag, §5, with ν = 1 and twice as wide as the key (there with normalise="sum").

A sequence can be run by chunks, all steps of a chunk at once (Yang, §3): `delta_chunked` equals `delta_sequential`.

Schlag, Irie and Schmidhuber 2021 is arXiv:2102.11174, Yang et al. 2024 (DeltaNet) arXiv:2406.06484, Katharopoulos et
al. 2020 arXiv:2006.16236. Deviations: W is stored transposed, [key, value]; neither a short convolution before φ nor a
norm on what is read, which are a network's and not a memory's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.api import BenchError, Memory, Task, build, method, option, part
from mann.learner import MemoryMethod, shared_fields

EPSILON = 1e-6
"""Shortest length that a feature vector is divided by, and ε of the division of linear attention."""

Rule = Literal["delta", "sum"]


@dataclass(frozen=True, kw_only=True)
class DeltaOptions:
    """The options of `Delta`."""

    width: int = option(40, "numbers in a key, and in a value, of one head")
    heads: int = option(4, "matrices, each with its own key, value and query")
    rule: Literal["delta", "sum"] = option(
        "delta", "a write replaces what its key finds (delta), or is added to it (sum)"
    )
    feature: Literal["silu", "elu", "dpfp"] = option("silu", "feature map φ of keys and queries")
    normalise: Literal["l2", "sum"] = option("l2", "norm in which features have length 1")


class DeltaState(NamedTuple):
    """weights: W transposed, [batch, heads, key, value]; the last column of linear attention is z."""

    weights: Tensor


class Delta(Memory[DeltaState]):
    """Fast weights as a cell: `Delta(width=40, heads=4)`, options as in `DeltaOptions`.

    The interface holds queries, keys and values (heads × width each, raw), then for the delta rule the gates (heads,
    before σ). A step writes, then reads [batch, heads · width]. There are no slots, so there are no addresses: all that
    is stored lies in one matrix a head, and `addresses` returns None.

    Raises:
        BenchError: a size below one.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = o = build(DeltaOptions, options)
        if min(o.width, o.heads) < 1:
            raise BenchError(f"delta needs width and heads of at least 1, not {o.width} and {o.heads}")
        self.divides = o.rule == "sum" and o.feature != "silu"
        self.read_size = o.heads * o.width
        self.sizes = (2 * self.read_size, self.read_size, o.heads if o.rule == "delta" else 0)
        self.interface_size = sum(self.sizes)

    def initial_state(self, batch: int, like: Tensor) -> DeltaState:
        """Zeros."""
        o = self.options
        key = 2 * o.width if o.feature == "dpfp" else o.width
        return DeltaState(like.new_zeros(batch, o.heads, key, o.width + self.divides))

    def forward(self, interface: Tensor, state: DeltaState) -> tuple[Tensor, DeltaState]:
        """One step; see `Memory.forward`."""
        queries, keys, values, gates = (part.flatten(0, 1) for part in self.parse(interface))
        weights = write(state.weights.flatten(0, 1), keys, values, gates, self.options.rule)
        read = torch.bmm(queries.unsqueeze(1), weights).squeeze(1)
        return self.finish(read).view(len(interface), -1), DeltaState(weights.view_as(state.weights))

    def sequence(self, interface: Tensor, state: DeltaState, chunk: int = 16) -> tuple[Tensor, DeltaState]:
        """As many steps as interface has, [batch, time, interface_size], in the chunked form.

        Returns what was read, [batch, time, read_size], and the state after the last step.

        Raises:
            BenchError: a chunk of less than one step.
        """
        parts = [part.unflatten(0, interface.shape[:2]) for part in self.parse(interface.flatten(0, 1))]
        queries, keys, values, gates = (part.transpose(1, 2) for part in parts)
        read, weights = delta_chunked(queries, keys, values, gates, state.weights, self.options.rule, chunk)
        return self.finish(read).transpose(1, 2).flatten(2), DeltaState(weights)

    def parse(self, interface: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Features of queries and keys, and values, [batch, heads, ·]; gates β, [batch, heads], or none for a sum."""
        o, batch = self.options, len(interface)
        vectors, values, gates = interface.split(self.sizes, 1)
        features = self.features(vectors.view(batch, 2, o.heads, o.width))
        values = values.view(batch, o.heads, o.width)
        if self.divides:
            values = F.pad(values, (0, 1), value=1.0)
        return features[:, 0], features[:, 1], values, gates.sigmoid()

    def features(self, vectors: Tensor) -> Tensor:
        """φ, and its normalisation where the read is not divided instead. [..., width] to [..., key]."""
        o = self.options
        if o.feature == "silu":
            found = F.silu(vectors)
        elif o.feature == "elu":
            found = F.elu(vectors) + 1
        else:
            halves = torch.cat((vectors, -vectors), -1).relu()
            found = halves * halves.roll(1, -1)
        if self.divides:
            return found
        return F.normalize(found, p=2 if o.normalise == "l2" else 1, dim=-1, eps=EPSILON)

    def finish(self, read: Tensor) -> Tensor:
        """The division of linear attention, where there is one."""
        return read[..., :-1] / (read[..., -1:] + EPSILON) if self.divides else read


@part("write")
def write(weights: Tensor, keys: Tensor, values: Tensor, gates: Tensor, rule: Rule) -> Tensor:
    """One write. weights: [n, key, value]; keys: [n, key]; values: [n, value]; gates: [n]."""
    rows, keys = values.unsqueeze(1), keys.unsqueeze(1)
    if rule == "delta":
        rows = torch.baddbmm(rows, keys, weights, alpha=-1) * gates[:, None, None]
    return torch.baddbmm(weights, keys.transpose(1, 2), rows)


def delta_sequential(
    queries: Tensor, keys: Tensor, values: Tensor, gates: Tensor, weights: Tensor, rule: Rule = "delta"
) -> tuple[Tensor, Tensor]:
    """The recurrence, step by step: the reference of `delta_chunked`.

    queries, keys: [batch, heads, time, key], features already; values: [batch, heads, time, value]; gates: [batch,
    heads, time], which the rule "sum" does not use; weights: [batch, heads, key, value], those before the first step.
    Returns what was read, [batch, heads, time, value], and the weights after the last step.
    """
    now, reads = weights.flatten(0, 1), [values[:, :, :0]]
    for t in range(values.shape[2]):
        key, value, gate = (part[:, :, t].flatten(0, 1) for part in (keys, values, gates))
        now = write(now, key, value, gate, rule)
        reads.append(queries[:, :, t : t + 1] @ now.view_as(weights))
    return torch.cat(reads, 2), now.view_as(weights)


def delta_chunked(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    gates: Tensor,
    weights: Tensor,
    rule: Rule = "delta",
    chunk: int = 16,
) -> tuple[Tensor, Tensor]:
    """The same as `delta_sequential`, with one step of recurrence a chunk (Yang et al. 2024, §3).

    What a chunk's steps write are the rows U of W = W_0 + Kᵀ U. Each row depends on those before it, and the
    triangular system (the UT transform) solves them for all chunks at once, as far as W_0 does not matter:

        (I + tril(diag(β) K Kᵀ, -1)) [V' | K'] = diag(β) [V | K],   U = V' - K' W_0

    Raises:
        BenchError: a chunk of less than one step.
    """
    if chunk < 1:
        raise BenchError(f"a chunk has at least one step, not {chunk}")
    time = values.shape[2]
    chunk = max(1, min(chunk, time))
    # Steps that write nothing (β, k and v zero) fill the last chunk.
    q, k, v = (F.pad(x, (0, 0, 0, -time % chunk)).unflatten(2, (-1, chunk)) for x in (queries, keys, values))
    within = (q @ k.transpose(3, 4)).tril()
    taken = None
    if rule == "delta":
        beta = F.pad(gates, (0, -time % chunk)).unflatten(2, (-1, chunk)).unsqueeze(4)
        system = (beta * k @ k.transpose(3, 4)).tril(-1)
        solved = torch.linalg.solve_triangular(system, beta * torch.cat((v, k), 4), upper=False, unitriangular=True)
        v, taken = solved.split((v.shape[4], k.shape[4]), 4)
    reads = [values[:, :, :0]]
    for i in range(q.shape[2]):
        rows = v[:, :, i] if taken is None else v[:, :, i] - taken[:, :, i] @ weights
        reads.append(q[:, :, i] @ weights + within[:, :, i] @ rows)
        weights = weights + k[:, :, i].transpose(2, 3) @ rows
    return torch.cat(reads, 2)[:, :, :time], weights


@method("delta", source="Schlag et al. 2021, arXiv:2102.11174; Yang et al. 2024, arXiv:2406.06484")
class DeltaMethod(DeltaOptions, MemoryMethod):
    """Fast weights written by the delta rule, behind any controller."""

    def memory(self, task: Task) -> Delta:
        """Fresh fast weights."""
        return Delta(**shared_fields(self, DeltaOptions))


@method("linear-attention", source="Katharopoulos et al. 2020, arXiv:2006.16236")
class LinearAttention(DeltaMethod):
    """The same cell with sums in place of the delta rule: linear attention over all that was written."""

    rule: Literal["delta", "sum"] = option(
        "sum", "a write replaces what its key finds (delta), or is added to it (sum)"
    )
    feature: Literal["silu", "elu", "dpfp"] = option("elu", "feature map φ of keys and queries")
