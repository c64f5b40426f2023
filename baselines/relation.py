"""Relation networks: a learned comparison of feature maps."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from baselines.backbones import CHANNELS, image_shape
from baselines.embedding import EmbeddingLearner, EmbeddingMethod, by_own_statistics, needs_classes
from bench.api import Episode, Task, answer, method, option

HIDDEN = 8
"""Units of the dense layer before the score, as in the paper."""


class RelationLearner(EmbeddingLearner):
    """A score for each pair of class and query (Sung et al. 2018, eq. 1; figures 2 and 3)."""

    def __init__(self, config: Relation, task: Task) -> None:
        super().__init__(config, task)
        image = image_shape(task.x_shape)
        if image and config.backbone != "mlp":
            layers = [*block(image[0], pool=True), *block(CHANNELS, pool=True), *block(CHANNELS), *block(CHANNELS)]
            self.net = nn.Sequential(nn.Flatten(), nn.Unflatten(1, image), *layers, nn.Flatten())
            sides = (image[1] >> 2, image[2] >> 2)
            self.size = CHANNELS * math.prod(sides)
            pair = [
                nn.Unflatten(1, (2 * CHANNELS, *sides)),
                *block(2 * CHANNELS, pool=True),
                *block(CHANNELS, pool=True),
            ]
            width = CHANNELS * math.prod(side >> 2 for side in sides)
            self.relate = nn.Sequential(*pair, nn.Flatten(), *_score(width, HIDDEN))
        else:
            self.relate = nn.Sequential(*_score(2 * self.size, self.size))

    def compare(self, shown: Tensor, labels: Tensor, asked: Tensor) -> Tensor:
        """Scores before the sigmoid. A class is the sum of its examples, 0 without any."""
        classes = labels.mT @ shown
        batch, way, queries = *classes.shape[:2], asked.shape[1]
        pairs = torch.cat((
            classes[:, None].expand(-1, queries, -1, -1), asked[:, :, None].expand(-1, -1, way, -1)
        ), 3).flatten(1, 2)  # fmt: skip
        if self.transductive and not self.training:
            scores = torch.cat([by_own_statistics(self.relate, episode) for episode in pairs])
        else:
            scores = self.relate(pairs.flatten(0, 1))
        return scores.view(batch, queries, way)

    def loss(self, episode: Episode, task: Task) -> Tensor:
        """Squared distance of the scores, after the sigmoid, to one-hot labels (eq. 2), their mean."""
        scores = answer(self, episode, task).sigmoid()
        return F.mse_loss(scores, F.one_hot(episode.query.y, task.n_out).to(scores.dtype))


def block(inputs: int, pool: bool = False) -> list[nn.Module]:
    """Convolution of 64 channels, BatchNorm, ReLU, and 2 × 2 max-pooling if it is wanted."""
    layers = [nn.Conv2d(inputs, CHANNELS, 3, padding=1, bias=False), nn.BatchNorm2d(CHANNELS), nn.ReLU()]
    return [*layers, nn.MaxPool2d(2)] if pool else layers


def _score(inputs: int, hidden: int) -> tuple[nn.Module, ...]:
    return nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, 1)


@method("relation", source="Sung et al. 2018, arXiv:1711.06025")
class Relation(EmbeddingMethod):
    """Learned scores of class and query, from their feature maps one upon the other, trained by squared error.

    Images pass two blocks with pooling and two without, so that maps keep their places; vectors are compared by two
    dense layers. The authors train 1,000,000 episodes, halve the rate every 100,000, clip to .5, and normalise by the
    test batch (batch_norm=transductive). Their code picks the checkpoint on the test classes; here validation does.

    Deviations: their first two convolutions and both that score pairs have no padding, ours have; they clip the two
    networks each by itself, and start from other weights than PyTorch's.
    """

    batch: int = option(1, "episodes per training step")
    halve_every: int = option(100_000, "halve the learning rate every so many steps; 0: never")
    clip: float = option(0.5, "clip the gradient's global norm; 0: never")

    backbone: Literal["auto", "mlp"] = option(
        "auto", "auto: convolutions of its own for images, else mlp: 256-64", late=True
    )

    def build(self, task: Task) -> RelationLearner:
        """A fresh learner; see `Method.build`."""
        return RelationLearner(self, task)

    def unsuited(self, task: Task) -> str | None:
        """It needs classes."""
        return needs_classes(task, "relations are") or super().unsuited(task)
