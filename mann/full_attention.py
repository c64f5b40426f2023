"""The control that forgets nothing: a causal Transformer over the whole episode, as SNAIL is used.

Each step is a token W(e(x_t), y_{t-1}) + position, and blocks of causal self-attention (`mann.transformer`; Vaswani et
al. 2017, arXiv:1706.03762) see all steps before it; the prediction is a linear map of the last block's output after a
LayerNorm. SNAIL (Mishra et al. 2018, arXiv:1707.03141) reads the same tokens; its temporal convolutions are left out,
and what they do, to look a fixed number of steps back, is left to positions.

A sequence is one parallel pass. The same pass with a cache of keys and values goes on from where another stopped, one
step or many at a time, in time and memory linear in the steps before, for each.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from bench.api import BenchError, Examples, Task, TrainedMethod, method, option
from mann.encoders import Encoder, EncoderName, make_encoder, unsuited_encoder
from mann.learner import SequenceLearner, previous, refuse_below_one
from mann.transformer import Block, Cache, sinusoids

PositionName = Literal["sinusoidal", "learned", "none"]


class FullAttentionLearner(SequenceLearner):
    """Encoder, causal Transformer and a linear output. The state is the cache of each block.

    places: the learned positions, [longest, size]; None where positions are sinusoidal or none.

    Raises:
        BenchError: heads that do not divide size, or a size below one.
    """

    def __init__(
        self,
        task: Task,
        encoder: Encoder,
        size: int,
        layers: int,
        heads: int,
        positions: PositionName = "sinusoidal",
        longest: int = 512,
    ) -> None:
        super().__init__(task)
        check_sizes(size, layers, heads, longest)
        self.size = size
        self.positions = positions
        self.encoder = encoder
        self.input = nn.Linear(encoder.size + task.y_size, size)
        self.places = nn.Parameter(0.02 * torch.randn(longest, size)) if positions == "learned" else None
        self.blocks = nn.ModuleList(Block(size, heads) for _ in range(layers))
        self.output = nn.Sequential(nn.LayerNorm(size), nn.Linear(size, task.n_out))

    def initial_state(self, batch: int, like: Tensor) -> tuple[Cache, ...]:
        """Empty caches."""
        return tuple(block.initial_state(batch, like) for block in self.blocks)  # type: ignore[operator]

    def run(self, x: Tensor, label: Tensor, state: tuple[Cache, ...]) -> tuple[Tensor, tuple[Cache, ...]]:
        """See `SequenceLearner.run`; from the initial state it is one parallel causal pass."""
        past = state[0].keys.shape[2]
        self._check_length(past + x.shape[1])
        return self._run(x, label, state, torch.arange(past, past + x.shape[1], device=x.device))

    def forward(self, support: Examples, query_x: Tensor) -> Tensor:
        """One pass over support and queries; a query stands after the support and sees that and itself.

        So all queries share one cache, where `SequenceLearner` makes a copy of the state for each.
        """
        batch, queries = query_x.shape[:2]
        shown = support.x.shape[1]
        self._check_length(shown + 1)
        label = query_x.new_zeros(batch, 1, self.y_size)
        if shown:
            labels = self.encode_labels(support.y).to(query_x.dtype)
            label = torch.cat((previous(labels), labels[:, -1:]), 1)
        label = torch.cat((label, label[:, -1:].expand(-1, queries - 1, -1)), 1)
        place = torch.arange(shown + queries, device=query_x.device)
        mask = (place < shown).expand(shown + queries, -1).tril() | (place.unsqueeze(1) == place)
        x, state = torch.cat((support.x, query_x), 1), self.initial_state(batch, query_x)
        return self._run(x, label, state, place.clamp(max=shown), mask)[0][:, shown:]

    def _run(
        self, x: Tensor, label: Tensor, state: tuple[Cache, ...], positions: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, tuple[Cache, ...]]:
        h = self.input(torch.cat((self.encoder(x), label), -1))
        if self.places is not None:
            h = h + self.places[positions]
        elif self.positions == "sinusoidal":
            h = h + sinusoids(positions.to(h.dtype), self.size)
        caches = []
        for block, cache in zip(self.blocks, state, strict=True):
            h, cache = block(h, cache, mask)
            caches.append(cache)
        return self.output(h), tuple(caches)

    def _check_length(self, steps: int) -> None:
        """Refuse an episode that is longer than the learned positions.

        Raises:
            BenchError: how long it is, and what to set.
        """
        if self.places is not None and steps > len(self.places):
            raise BenchError(
                f"an episode of {steps} steps is longer than the {len(self.places)} learned positions; "
                f"set longest={steps} or more, or positions=sinusoidal"
            )


def check_sizes(size: int, layers: int, heads: int, longest: int) -> None:
    """Refuse sizes that do not fit.

    Raises:
        BenchError: heads that do not divide size, or a size below one.
    """
    if min(size, layers, heads, longest) < 1 or size % heads:
        raise BenchError(
            f"full attention needs sizes of at least 1 and a size that is a multiple of heads, "
            f"not size={size}, layers={layers}, heads={heads} and longest={longest}"
        )


@method(
    "full-attention", source="Vaswani et al. 2017, arXiv:1706.03762; as SNAIL, Mishra et al. 2018, arXiv:1707.03141"
)
class FullAttention(TrainedMethod):
    """A causal Transformer over the episode: attention to all that was seen, so that nothing need be remembered."""

    size: int = option(128, "width of a token; a multiple of heads")
    layers: int = option(3, "Transformer blocks")
    heads: int = option(4, "attention heads")
    positions: PositionName = option("sinusoidal", "how a token tells where it stands")
    longest: int = option(512, "steps in an episode at most, where positions are learned")
    encoder: EncoderName = option("flat", "what a token holds of an input")
    encoder_size: int = option(64, "width of the mlp, channels of the conv net, units of the rnn; flat has none")
    warmup: int = option(100, "steps in which the learning rate rises from zero; 0: none")
    clip: float = option(1.0, "clip the gradient's global norm; 0: never")

    def check(self) -> None:
        """Refuse also sizes that do not fit."""
        super().check()
        refuse_below_one(self, "encoder_size")
        check_sizes(self.size, self.layers, self.heads, self.longest)

    def build(self, task: Task) -> FullAttentionLearner:
        """A fresh learner; see `Method.build`."""
        encoder = make_encoder(self.encoder, task.x_shape, self.encoder_size)
        return FullAttentionLearner(task, encoder, self.size, self.layers, self.heads, self.positions, self.longest)

    def rate(self, step: int) -> float:
        """Learning rate at a step; see `TrainedMethod.rate`."""
        return super().rate(step) * min(1.0, (step + 1) / max(self.warmup, 1))

    def unsuited(self, task: Task) -> str | None:
        """Some encoders need inputs of a certain shape."""
        return unsuited_encoder(self.encoder, task.x_shape)
