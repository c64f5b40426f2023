"""The control that forgets nothing: a causal Transformer over the whole episode, as SNAIL is used.

Each step is a token W(e(x_t), y_{t-1}) + position, and blocks of causal self-attention (`mann.transformer`; Vaswani et
al. 2017, arXiv:1706.03762) see all steps before it; the prediction is a linear map of the last block's output after a
LayerNorm. SNAIL (Mishra et al. 2018, arXiv:1707.03141) reads the same tokens. Of its temporal convolutions, which look
back over a fixed number of steps, there is what `window` gives: a token holds so many steps, its own and those before.
A label comes one step after its input, so with window=2 a token holds both, and one layer of attention can find the
label of an input like its own; with 1 that takes two layers (an induction head), which are learned late. Sinusoids are
added as they are and inputs are not scaled up (by √size in Vaswani et al., §3.4), so that they outweigh an image of few
dark pixels; with positions=none the causal mask and the window alone tell the order.

A sequence is one parallel pass. The same pass with a cache of keys and values goes on from where another stopped, one
step or many at a time, in time and memory linear in the steps before, for each.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from bench.api import BenchError, Examples, Task, TrainedMethod, method, option
from mann.encoders import Encoder, EncoderName, make_encoder, unsuited_encoder
from mann.learner import SequenceLearner, fork, previous, refuse_below_one
from mann.transformer import Block, Cache, sinusoids

PositionName = Literal["sinusoidal", "learned", "none"]


class FullAttentionState(NamedTuple):
    """caches: of each block. tail: the last window - 1 inputs with their labels, [batch, window - 1, input]."""

    caches: tuple[Cache, ...]
    tail: Tensor


class FullAttentionLearner(SequenceLearner):
    """Encoder, causal Transformer and a linear output.

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
        window: int = 1,
    ) -> None:
        super().__init__(task)
        check_sizes(size, layers, heads, longest, window)
        self.size = size
        self.positions = positions
        self.encoder = encoder
        self.window = window
        self.input = nn.Linear(window * (encoder.size + task.y_size), size)
        self.places = nn.Parameter(0.02 * torch.randn(longest, size)) if positions == "learned" else None
        self.blocks = nn.ModuleList(Block(size, heads) for _ in range(layers))
        self.output = nn.Sequential(nn.LayerNorm(size), nn.Linear(size, task.n_out))

    def initial_state(self, batch: int, like: Tensor) -> FullAttentionState:
        """Empty caches; before the first step were zeros."""
        caches = tuple(block.initial_state(batch, like) for block in self.blocks)  # type: ignore[operator]
        return FullAttentionState(caches, like.new_zeros(batch, self.window - 1, self.encoder.size + self.y_size))

    def run(self, x: Tensor, label: Tensor, state: FullAttentionState) -> tuple[Tensor, FullAttentionState]:
        """See `SequenceLearner.run`; from the initial state it is one parallel causal pass."""
        past = state.caches[0].keys.shape[2]
        self._check_length(past + x.shape[1])
        inputs = torch.cat((state.tail, self._inputs(x, label)), 1)
        place = torch.arange(past, past + x.shape[1], device=x.device)
        prediction, caches = self._attend(self._tokens(inputs), state.caches, place)
        return prediction, FullAttentionState(caches, inputs[:, x.shape[1] :])

    def forward(self, support: Examples, query_x: Tensor) -> Tensor:
        """One pass over support and queries; a query stands after the support and sees that and itself.

        So all queries share one cache, where `SequenceLearner` makes a copy of the state for each.
        """
        batch, queries = query_x.shape[:2]
        shown = support.x.shape[1]
        self._check_length(shown + 1)
        caches, before = self.initial_state(batch, query_x)
        label = query_x.new_zeros(batch, 1, self.y_size)
        if shown:
            labels = self.encode_labels(support.y).to(query_x.dtype)
            before = torch.cat((before, self._inputs(support.x, previous(labels))), 1)
            label = labels[:, -1:]
        asked = self._inputs(query_x, label.expand(-1, queries, -1)).flatten(0, 1).unsqueeze(1)
        tail = fork(before[:, before.shape[1] - self.window + 1 :], queries)
        tokens = torch.cat((tail, asked), 1).reshape(batch, queries, -1)
        if shown:
            tokens = torch.cat((self._tokens(before), tokens), 1)
        place = torch.arange(shown + queries, device=query_x.device)
        mask = (place < shown).expand(shown + queries, -1).tril() | (place.unsqueeze(1) == place)
        return self._attend(tokens, caches, place.clamp(max=shown), mask)[0][:, shown:]

    def _inputs(self, x: Tensor, label: Tensor) -> Tensor:
        return torch.cat((self.encoder(x), label), -1)

    def _tokens(self, inputs: Tensor) -> Tensor:
        """Every `window` steps in a row side by side, the oldest first: window - 1 fewer than inputs."""
        return inputs.unfold(1, self.window, 1).transpose(2, 3).flatten(2)

    def _attend(
        self, tokens: Tensor, state: tuple[Cache, ...], positions: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, tuple[Cache, ...]]:
        h = self.input(tokens)
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


def check_sizes(size: int, layers: int, heads: int, longest: int, window: int) -> None:
    """Refuse sizes that do not fit.

    Raises:
        BenchError: heads that do not divide size, or a size below one.
    """
    if min(size, layers, heads, longest, window) < 1 or size % heads:
        raise BenchError(
            f"full attention needs sizes of at least 1 and a size that is a multiple of heads, "
            f"not size={size}, layers={layers}, heads={heads}, longest={longest} and window={window}"
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
    window: int = option(1, "steps that a token holds: its own and those before", late=True)
    encoder: EncoderName = option("flat", "what a token holds of an input")
    encoder_size: int = option(64, "width of the mlp, channels of the conv net, units of the rnn; flat has none")
    warmup: int = option(100, "steps in which the learning rate rises from zero; 0: none")
    clip: float = option(1.0, "clip the gradient's global norm; 0: never")

    def check(self) -> None:
        """Refuse also sizes that do not fit."""
        super().check()
        refuse_below_one(self, "encoder_size")
        check_sizes(self.size, self.layers, self.heads, self.longest, self.window)

    def build(self, task: Task) -> FullAttentionLearner:
        """A fresh learner; see `Method.build`."""
        encoder = make_encoder(self.encoder, task.x_shape, self.encoder_size)
        return FullAttentionLearner(
            task, encoder, self.size, self.layers, self.heads, self.positions, self.longest, self.window
        )

    def rate(self, step: int) -> float:
        """Learning rate at a step; see `TrainedMethod.rate`."""
        return super().rate(step) * min(1.0, (step + 1) / max(self.warmup, 1))

    def unsuited(self, task: Task) -> str | None:
        """Some encoders need inputs of a certain shape."""
        return unsuited_encoder(self.encoder, task.x_shape)
