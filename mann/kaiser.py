"""Memory for rare events: keys of unit length with a class each, found by nearest neighbour (Kaiser et al. 2017).

arXiv:1703.03129, §2. A memory is keys K, values V (class ids) and ages A. With a query q of unit length and the slots
n_1, n_2, ... in the order of q · K[n], nearest first:

    answer:  V[n_1], with softmax_i(t q · K[n_i]) over the k nearest as confidence, t = 40
    loss:    [q · K[n_b] - q · K[n_p] + α]_+,   n_p the nearest key of the right class, n_b the nearest of another
    hit:     V[n_1] = v:  K[n_1] ← (q + K[n_1]) / |q + K[n_1]|,  A[n_1] ← 0
    miss:    otherwise the slot with the largest A[n] + r_n gets q, v and age 0;  r_n random, |r_n| at most age_noise
    and every other age grows by 1

Keys get no gradient: the encoder learns by way of the queries, as in the authors' code. It also counts a similarity for
which there is no key (no key of the class yet, none of another) as 0, and so do we.

Deviations:

- Predictions are the log of that softmax, summed by class; k = 1 answers V[n_1] alone. A class that no neighbour has
  gets FLOOR.
- n_p and n_b are sought among all keys, not the k nearest: then the right one is found without being told where it is.
- Empty slots are marked as such and never found. The authors' are zero keys of class 0.
- r_n is a fixed hash of slot and step, so that the same sequence gives the same answers.
- Each episode has a memory of its own. The authors share one among the episodes of a batch, their classes apart.
- No matrix between encoder and query, since the encoder's last layer is one, and no dropout in training.
- The authors' recipe is lr=1e-4 clip=5 (Adam with ε 1e-4, here 1e-8) and a CNN (here encoder=conv) with batch=16
  way=5 length=30, online; width=256 is the paper's and 128 the code's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.api import (
    Addresses,
    BenchError,
    Episode,
    Examples,
    Learner,
    Task,
    TrainedMethod,
    build,
    loadable,
    method,
    option,
)
from mann.encoders import Encoder, EncoderName, make_encoder, unsuited_encoder
from mann.learner import refuse_below_one, shared_fields

FLOOR = 1e-6
"""Probability of a class that no neighbour has; small beside any vote, and its logarithm is finite."""
HASH = (0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D)
"""Odd constants (xxHash's primes) that mix slot and step."""


@dataclass(frozen=True, kw_only=True)
class KaiserOptions:
    """The options of `KaiserMemory`."""

    slots: int = option(8192, "memory slots; room is made for as many as an episode can fill")
    width: int = option(128, "numbers in a key")
    age_noise: float = option(8.0, "largest random number added to an age where the oldest slot is sought")


@loadable
class KaiserState(NamedTuple):
    """What is stored.

    keys: [batch, slots, width], of unit length, zero where empty. values: [batch, slots] int64 class ids, -1 where
    empty. ages: [batch, slots], steps since a slot was written or hit, infinite where empty. step: [batch] int64.
    """

    keys: Tensor
    values: Tensor
    ages: Tensor
    step: Tensor


class KaiserMemory:
    """The memory as functions of its state: `KaiserMemory(slots=8192, width=128)`, options as in `KaiserOptions`.

    There are no parameters. State goes in and comes out, so it lasts as long as the caller keeps it: an episode, or a
    life. Rows of the batch are memories of their own.

    Raises:
        BenchError: a size below one, or a negative age_noise.
    """

    def __init__(self, **options: Any) -> None:
        self.options = o = build(KaiserOptions, options)
        if min(o.slots, o.width) < 1 or o.age_noise < 0:
            raise BenchError(
                f"kaiser needs slots and width of at least 1 and no negative age_noise, "
                f"not {o.slots}, {o.width} and {o.age_noise:g}"
            )

    def initial_state(self, batch: int, like: Tensor, writes: int | None = None) -> KaiserState:
        """Empty, with `like`'s dtype and device.

        writes: at most so many will follow. Slots beyond them are not made; nothing else changes, since empty slots
        are filled first, in order.
        """
        slots = self.options.slots if writes is None else max(1, min(self.options.slots, writes))
        keys = like.new_zeros(batch, slots, self.options.width)
        values = torch.full((batch, slots), -1, device=like.device)
        return KaiserState(keys, values, like.new_full((batch, slots), torch.inf), values.new_zeros(batch))

    def find(self, queries: Tensor, state: KaiserState) -> Tensor:
        """Similarities q · K, [batch, n, slots]: 0 with empty slots. queries: [batch, n, width], of unit length."""
        return queries @ state.keys.transpose(1, 2)

    def write(self, key: Tensor, value: Tensor, state: KaiserState) -> tuple[KaiserState, Tensor]:
        """Learn that a key, [batch, width] of unit length, has a value, [batch] int64. Also the slot, [batch]."""
        key = key.detach()
        near = self.find(key.unsqueeze(1), state).squeeze(1).masked_fill(state.values < 0, -torch.inf).argmax(1)
        hit = state.values.gather(1, near.unsqueeze(1)).squeeze(1) == value
        slot = torch.where(hit, near, (state.ages + self.noise(state)).argmax(1)).unsqueeze(1)
        row = slot.unsqueeze(2).expand(-1, -1, key.shape[1])
        new = F.normalize(torch.where(hit.unsqueeze(1), key + state.keys.gather(1, row).squeeze(1), key), dim=1)
        return KaiserState(
            state.keys.scatter(1, row, new.unsqueeze(1)),
            state.values.scatter(1, slot, value.unsqueeze(1)),
            (state.ages + 1).scatter(1, slot, 0.0),
            state.step + 1,
        ), slot.squeeze(1)

    def noise(self, state: KaiserState) -> Tensor:
        """r: [batch, slots] between ±age_noise, a hash of slot and step."""
        a, b, c = HASH
        slots = torch.arange(state.values.shape[1], device=state.values.device)
        mixed = ((state.step.unsqueeze(1) + 1) * a + (slots + 1) * b) & 0xFFFFFFFF
        mixed = ((mixed ^ (mixed >> 15)) * c) & 0xFFFFFFFF
        return (mixed.to(state.ages) / 2**31 - 1) * self.options.age_noise


class Trail(NamedTuple):
    """What each step met, [batch, time, slots]: similarities, values and ages; and the slot it wrote, [batch, time]."""

    similarities: Tensor
    values: Tensor
    ages: Tensor
    slots: Tensor


class KaiserLearner(Learner):
    """An encoder whose outputs are keys, and the memory. No parameter depends on the number of classes."""

    def __init__(self, config: Kaiser, task: Task, encoder: Encoder) -> None:
        super().__init__()
        self.config = config
        self.way = task.n_out
        self.encoder = encoder
        self.key = nn.Linear(encoder.size, config.width)
        self.memory = KaiserMemory(**shared_fields(config, KaiserOptions))

    def embed(self, x: Tensor) -> Tensor:
        """Keys of inputs: [batch, n, width], of unit length."""
        return F.normalize(self.key(self.encoder(x)), dim=2)

    def follow(self, x: Tensor, y: Tensor, state: KaiserState | None = None) -> tuple[Trail, KaiserState]:
        """Query and then learn, one example after another, from a state or from an empty memory.

        The state after the last step is as large as the one before the first, and as large as x is long without one;
        to remember across episodes start from `memory.initial_state(batch, x)`.
        """
        queries = self.embed(x)
        state = self.memory.initial_state(len(x), queries, x.shape[1]) if state is None else state
        steps = []
        for query, value in zip(queries.unbind(1), y.unbind(1), strict=True):
            similarities = self.memory.find(query.unsqueeze(1), state).squeeze(1)
            new, slot = self.memory.write(query, value, state)
            steps.append((similarities, state.values, state.ages, slot))
            state = new
        return Trail(*(torch.stack(parts, 1) for parts in zip(*steps, strict=True))), state

    def forward(self, support: Examples, query_x: Tensor) -> Tensor:
        """Learn the support, then query; see `Learner.forward`."""
        return self.predict(*self.ask(support, query_x))

    def stream(self, x: Tensor, y: Tensor) -> Tensor:
        """Query, then learn; see `Learner.stream`."""
        trail, _ = self.follow(x, y)
        return self.predict(trail.similarities, trail.values)

    def ask(self, support: Examples, query_x: Tensor) -> tuple[Tensor, Tensor]:
        """Similarities of queries with what is stored after the support, and its values: [batch, n_query, slots]."""
        queries = self.embed(query_x)
        state = self.memory.initial_state(len(query_x), queries, 0)
        if support.x.shape[1]:
            _, state = self.follow(*support)
        return self.memory.find(queries, state), state.values.unsqueeze(1).expand(-1, queries.shape[1], -1)

    def predict(self, similarities: Tensor, values: Tensor) -> Tensor:
        """Log-probabilities of the classes, each at least FLOOR: [..., slots] twice to [..., way]."""
        votes = similarities.new_full((*similarities.shape[:-1], self.way), FLOOR)
        return votes.scatter_add(-1, values.clamp(min=0), self.confidence(similarities, values)).log()

    def confidence(self, similarities: Tensor, values: Tensor) -> Tensor:
        """softmax_i(t q · K[n_i]) over the k nearest, zero elsewhere and where nothing is stored: [..., slots]."""
        stored = values >= 0
        scores = self.config.inverse_temperature * similarities
        scores = scores.masked_fill(~stored, torch.finfo(scores.dtype).min)
        if self.config.neighbours < scores.shape[-1]:  # of equal ones the first count, as when it writes
            far = scores.argsort(dim=-1, descending=True, stable=True)[..., self.config.neighbours :]
            scores = scores.scatter(-1, far, torch.finfo(scores.dtype).min)
        return scores.softmax(-1) * stored

    def loss(self, episode: Episode, task: Task) -> Tensor:
        """The margin loss, mean over the queries, in place of the task's."""
        if task.online:
            trail, _ = self.follow(*episode.query)
            similarities, values = trail.similarities, trail.values
        else:
            similarities, values = self.ask(episode.support, episode.query.x)
        right = values == episode.query.y.unsqueeze(2)
        wrong = (values >= 0) & ~right
        return (best(similarities, wrong) - best(similarities, right) + self.config.margin).relu().mean()

    @torch.no_grad()
    def trace(self, x: Tensor, y: Tensor) -> Addresses:
        """Confidence in each slot, the slot written, and minus its age; see `Learner.trace`."""
        trail, _ = self.follow(x, y)
        read = self.confidence(trail.similarities, trail.values)
        written = F.one_hot(trail.slots, read.shape[2]).to(read)
        return Addresses(read.unsqueeze(2), written.unsqueeze(2), -trail.ages)


def best(similarities: Tensor, among: Tensor) -> Tensor:
    """The largest of some similarities, 0 where there are none. [..., slots] to [...]."""
    largest = similarities.masked_fill(~among, torch.finfo(similarities.dtype).min).amax(-1)
    return torch.where(among.any(-1), largest, 0.0)


def not_of_classes(task: Task) -> str | None:
    """Why what a task shows are no class ids; None where they are."""
    if task.kind == "regression":
        return "it stores class ids, and this is regression"
    if getattr(task, "labels", "onehot") == "string":
        return "it stores class ids, and a string label is not one; use labels=onehot"
    return None if task.y_size else "it stores class ids, and here none are shown"


@method("kaiser", source="Kaiser et al. 2017, arXiv:1703.03129")
class Kaiser(KaiserOptions, TrainedMethod):
    """Nearest neighbour in a memory of keys that are averaged on a hit, trained by a margin loss.

    Deviation: the recipe is Adam at 1e-3 and an mlp, which suits every input; the authors' is `encoder=conv lr=1e-4
    clip=5`.
    """

    neighbours: int = option(256, "k: nearest keys that vote; all where there are fewer")
    inverse_temperature: float = option(40.0, "t: what similarities are multiplied by before the softmax")
    margin: float = option(0.1, "α: by how much the nearest right key must beat the nearest wrong one")
    encoder: EncoderName = option("mlp", "what makes keys of inputs")
    encoder_size: int = option(128, "width of the mlp, channels of the conv net, units of the rnn; flat has none")

    def build(self, task: Task) -> KaiserLearner:
        """A fresh learner; see `Method.build`."""
        return KaiserLearner(self, task, make_encoder(self.encoder, task.x_shape, self.encoder_size))

    def check(self) -> None:
        """Refuse sizes that do not fit; see `TrainedMethod.check`."""
        super().check()
        refuse_below_one(self, "encoder_size")
        if self.neighbours < 1 or self.inverse_temperature <= 0 or self.margin < 0:
            raise BenchError(
                f"kaiser needs neighbours of at least 1, inverse_temperature above 0 and no negative margin, "
                f"not {self.neighbours}, {self.inverse_temperature:g} and {self.margin:g}"
            )
        KaiserMemory(**shared_fields(self, KaiserOptions))

    def unsuited(self, task: Task) -> str | None:
        """It needs class ids, and some encoders inputs of a certain shape."""
        return not_of_classes(task) or unsuited_encoder(self.encoder, task.x_shape)
