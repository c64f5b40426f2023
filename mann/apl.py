"""Adaptive posterior learning: write only what surprises, decode from the k nearest (Ramalho and Garnelo 2019).

arXiv:1902.02527, §2. A memory holds embeddings and labels. For each input in turn, with embedding e:

    the k stored embeddings nearest to e, with their labels and squared distances d_i
    p = softmax(decoder(e, neighbours, labels, d))
    surprise S = -log p(y);  if S > σ, e and y are written, over the oldest when the memory is full;  σ ∝ log(classes)

The decoder is the relational one (RSAFF): each neighbour starts as h_i = W[e_i, label_i, e, w_i] with w = softmax(-d);
in each layer the neighbours attend to one another and pass a feed-forward layer, both with a residual; the logits are a
linear map of Σ_i w_i h_i. Places of the k for which nothing is stored yet hold a zero vector with a label of its own.

Nothing is trained through the memory: stored embeddings have no gradient, as in the paper. Whether to write depends on
the decoder step by step, so it runs twice: alone through time without gradients, then for all steps at once with them.

k = 5, σ = 0.75 log(classes) and the decoder's form are those of the first author's code (cogentlabs/apl). Deviations:

- A smaller decoder: 2 layers of 2 heads on 128 numbers, where that code has 5 layers of 2 heads on 512.
- Queries, keys and values are normalised for each neighbour by itself, not over all neighbours at once.
- Distances pass gradients to the query, so that the encoder is told directly what should be near.
- Every step is trained on, in one update an episode; there, one update a step, and half of the steps, at random.
- The encoder is any of ours and a linear map, with the same LayerNorm at its end, in place of a residual network.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.api import Addresses, BenchError, Examples, Learner, Task, TrainedMethod, build, loadable, method, option
from mann.encoders import Encoder, EncoderName, make_encoder, unsuited_encoder
from mann.kaiser import not_of_classes
from mann.learner import refuse_below_one, shared_fields


@dataclass(frozen=True, kw_only=True)
class APLOptions:
    """The options of `APLMemory`."""

    slots: int = option(10_000, "memory slots; room is made for as many as an episode can fill")
    width: int = option(64, "numbers in an embedding")
    neighbours: int = option(5, "k: stored embeddings that the decoder sees")


@loadable
class APLState(NamedTuple):
    """What is stored.

    embeddings: [batch, slots, width], zero where empty. labels: [batch, slots] int64, -1 where empty. written:
    [batch] int64, how many were written so far; the next goes to slot written % slots.
    """

    embeddings: Tensor
    labels: Tensor
    written: Tensor


class Neighbours(NamedTuple):
    """The k nearest of n queries: embeddings [batch, n, k, width]; labels and slots, [batch, n, k] int64."""

    embeddings: Tensor
    labels: Tensor
    slots: Tensor


class APLMemory:
    """The memory as functions of its state: `APLMemory(slots=128, width=64, neighbours=5)`, options as in `APLOptions`.

    There are no parameters. State goes in and comes out, so it lasts as long as the caller keeps it.

    Raises:
        BenchError: a size below one, or more neighbours than slots.
    """

    def __init__(self, **options: Any) -> None:
        self.options = o = build(APLOptions, options)
        if min(o.slots, o.width, o.neighbours) < 1 or o.neighbours > o.slots:
            raise BenchError(
                f"apl needs 1 <= neighbours <= slots and a width of at least 1, "
                f"not {o.neighbours}, {o.slots} and {o.width}"
            )

    def initial_state(self, batch: int, like: Tensor, writes: int | None = None) -> APLState:
        """Empty, with `like`'s dtype and device. writes: at most so many will follow; no more slots are made."""
        o = self.options
        slots = o.slots if writes is None else max(o.neighbours, min(o.slots, writes))
        labels = torch.full((batch, slots), -1, device=like.device)
        return APLState(like.new_zeros(batch, slots, o.width), labels, labels.new_zeros(batch))

    def nearest(self, queries: Tensor, state: APLState) -> Neighbours:
        """The nearest in Euclidean distance, nearest first, then empty slots. queries: [batch, n, width]."""
        squares = state.embeddings.square().sum(2).masked_fill(state.labels < 0, torch.inf)
        nearness = torch.baddbmm(squares.unsqueeze(1), queries, state.embeddings.transpose(1, 2), alpha=-2)
        slots = nearness.topk(self.options.neighbours, 2, largest=False).indices
        flat = slots.flatten(1)
        embeddings = state.embeddings.gather(1, flat.unsqueeze(2).expand(-1, -1, self.options.width))
        return Neighbours(embeddings.unflatten(1, slots.shape[1:]), state.labels.gather(1, flat).view_as(slots), slots)

    def write(self, embedding: Tensor, label: Tensor, here: Tensor, state: APLState) -> APLState:
        """Store an embedding, [batch, width], and its label, [batch] int64, in those rows that are to: here, bool."""
        slot = (state.written % state.labels.shape[1]).unsqueeze(1)
        row = slot.unsqueeze(2).expand(-1, -1, embedding.shape[1])
        kept, said = state.embeddings.gather(1, row).squeeze(1), state.labels.gather(1, slot).squeeze(1)
        embedding = torch.where(here.unsqueeze(1), embedding.detach(), kept).unsqueeze(1)
        label = torch.where(here, label, said).unsqueeze(1)
        return APLState(
            state.embeddings.scatter(1, row, embedding), state.labels.scatter(1, slot, label), state.written + here
        )


class Layer(nn.Module):
    """h ← h + MHDPA(h), then h ← h + LN(W relu(h)) over k neighbours, [n, k, size]; MHDPA attends with LN(W h)."""

    def __init__(self, size: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.inputs = nn.Sequential(nn.Linear(size, 3 * size), nn.LayerNorm(3 * size))
        self.dense = nn.Sequential(nn.ReLU(), nn.Linear(size, size), nn.LayerNorm(size))

    def forward(self, h: Tensor) -> Tensor:
        """One layer."""
        query, key, value = self.inputs(h).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        h = h + F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        return h + self.dense(h)


class Decoder(nn.Module):
    """RSAFF: logits, [n, way], from queries, [n, width], and their neighbours, [n, k, ·]."""

    def __init__(self, width: int, way: int, config: APL) -> None:
        super().__init__()
        self.labels = nn.Embedding(way + 1, config.label_width)
        self.start = nn.Linear(2 * width + config.label_width + 1, config.size)
        self.layers = nn.Sequential(*(Layer(config.size, config.heads) for _ in range(config.layers)))
        self.logits = nn.Linear(config.size, way)

    def forward(self, queries: Tensor, embeddings: Tensor, labels: Tensor) -> Tensor:
        """labels: -1 where nothing is stored, which is the last of the label vectors."""
        weights = nearness(queries, embeddings).unsqueeze(2)
        labels = self.labels(labels.where(labels >= 0, self.labels.num_embeddings - 1))
        queries = queries.unsqueeze(1).expand_as(embeddings)
        h = self.layers(self.start(torch.cat((embeddings, labels, queries, weights), 2)))
        return self.logits((weights * h).sum(1))


def nearness(queries: Tensor, embeddings: Tensor) -> Tensor:
    """w = softmax(-d): [..., k], from [..., width] and [..., k, width]."""
    return (queries.unsqueeze(-2) - embeddings).square().sum(-1).neg().softmax(-1)


class Trail(NamedTuple):
    """What each step met and did: neighbours; surprise in nats, slot of a write and whether it wrote, [batch, time]."""

    neighbours: Neighbours
    surprise: Tensor
    slot: Tensor
    wrote: Tensor


class APLLearner(Learner):
    """Encoder, memory and decoder."""

    def __init__(self, config: APL, task: Task, encoder: Encoder) -> None:
        super().__init__()
        self.threshold = config.sigma * math.log(task.n_out)
        self.encoder = encoder
        self.embedding = nn.Sequential(nn.Linear(encoder.size, config.width), nn.LayerNorm(config.width))
        self.memory = APLMemory(**shared_fields(config, APLOptions))
        self.decoder = Decoder(config.width, task.n_out, config)

    def forward(self, support: Examples, query_x: Tensor) -> Tensor:
        """Take the support in, then answer from what was kept of it; see `Learner.forward`."""
        queries = self.embed(query_x)
        state = self.memory.initial_state(len(query_x), queries, 0)
        if support.x.shape[1]:
            _, state = self.follow(self.embed(support.x), support.y)
        return self.decode(queries, self.memory.nearest(queries, state))

    def stream(self, x: Tensor, y: Tensor) -> Tensor:
        """Answer, then write if that was a surprise; see `Learner.stream`."""
        queries = self.embed(x)
        trail, _ = self.follow(queries, y)
        return self.decode(queries, trail.neighbours)

    def embed(self, x: Tensor) -> Tensor:
        """[batch, n, *x_shape] to [batch, n, width]."""
        return self.embedding(self.encoder(x))

    def decode(self, queries: Tensor, found: Neighbours) -> Tensor:
        """Logits, [batch, n, way], of queries, [batch, n, width], all at once."""
        parts = (queries, found.embeddings, found.labels)
        return self.decoder(*(part.flatten(0, 1) for part in parts)).unflatten(0, queries.shape[:2])

    @torch.no_grad()
    def follow(self, queries: Tensor, y: Tensor, state: APLState | None = None) -> tuple[Trail, APLState]:
        """What each step finds and writes, from a state or from an empty memory; without gradients.

        queries: [batch, time, width]. To remember across episodes start from `memory.initial_state(batch, queries)`.
        """
        state = self.memory.initial_state(len(queries), queries, queries.shape[1]) if state is None else state
        steps = []
        for query, label in zip(queries.split(1, 1), y.unbind(1), strict=True):
            found = self.memory.nearest(query, state)
            surprise = F.cross_entropy(self.decode(query, found).squeeze(1), label, reduction="none")
            wrote, slot = surprise > self.threshold, state.written % state.labels.shape[1]
            steps.append((*found, surprise.unsqueeze(1), slot.unsqueeze(1), wrote.unsqueeze(1)))
            state = self.memory.write(query.squeeze(1), label, wrote, state)
        embeddings, labels, slots, *rest = (torch.cat(parts, 1) for parts in zip(*steps, strict=True))
        return Trail(Neighbours(embeddings, labels, slots), *rest), state

    @torch.no_grad()
    def trace(self, x: Tensor, y: Tensor) -> Addresses:
        """Nearness of the neighbours, the slot of those steps that wrote, and the surprise; see `Learner.trace`."""
        queries = self.embed(x)
        trail, state = self.follow(queries, y)
        found = trail.neighbours
        weights = nearness(queries, found.embeddings) * (found.labels >= 0)
        read = weights.new_zeros(*y.shape, state.labels.shape[1]).scatter_add(2, found.slots, weights)
        written = F.one_hot(trail.slot, read.shape[2]).to(read) * trail.wrote.unsqueeze(2)
        return Addresses(read.unsqueeze(2), written.unsqueeze(2), None, {"surprise": trail.surprise})


@method("apl", source="Ramalho and Garnelo 2019, arXiv:1902.02527")
class APL(APLOptions, TrainedMethod):
    """A memory of surprises, answered from by a relational decoder over the nearest.

    Deviation: the recipe is Adam at 1e-3 and an mlp, which suits every input; the code's is `encoder=conv lr=1e-4`.
    """

    sigma: float = option(0.75, "surprise above which a step is written, in units of log(classes)")
    size: int = option(128, "units of the decoder; a multiple of heads")
    heads: int = option(2, "attention heads of the decoder")
    layers: int = option(2, "layers of the decoder")
    label_width: int = option(32, "numbers that stand for a label")
    encoder: EncoderName = option("mlp", "what makes embeddings of inputs")
    encoder_size: int = option(128, "width of the mlp, channels of the conv net, units of the rnn; flat has none")

    def build(self, task: Task) -> APLLearner:
        """A fresh learner; see `Method.build`."""
        return APLLearner(self, task, make_encoder(self.encoder, task.x_shape, self.encoder_size))

    def check(self) -> None:
        """Refuse sizes that do not fit; see `TrainedMethod.check`."""
        super().check()
        refuse_below_one(self, "encoder_size")
        if min(self.size, self.heads, self.label_width) < 1 or self.size % self.heads or self.sigma < 0:
            raise BenchError(
                f"apl needs a size that is a multiple of heads, a label_width of at least 1 and no negative sigma, "
                f"not {self.size}, {self.heads}, {self.label_width} and {self.sigma:g}"
            )
        APLMemory(**shared_fields(self, APLOptions))

    def unsuited(self, task: Task) -> str | None:
        """It needs class ids, and some encoders inputs of a certain shape."""
        return not_of_classes(task) or unsuited_encoder(self.encoder, task.x_shape)
