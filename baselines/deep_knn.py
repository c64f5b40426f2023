"""Nearest neighbours among learned features."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from baselines.pixel_knn import vote
from baselines.pretraining import PretrainedLearner, PretrainedMethod
from bench.api import Episode, Task, method, option
from mann.learner import refuse_below_one

SLOPE = 0.01
HIDDEN, CODE = (200, 200), 32
"""Units of the autoencoder and of its narrow middle (Santoro et al. 2016, section 4.1)."""


class DeepKNNLearner(PretrainedLearner):
    """Features of a classifier, or the narrow middle of an autoencoder, and a vote of the nearest."""

    def __init__(self, config: DeepKNN, task: Task) -> None:
        super().__init__(config, task)
        self.config = config
        if config.features == "autoencoder":
            pixels = math.prod(task.x_shape)
            self.size = CODE
            self.net = nn.Sequential(nn.Flatten(), *_dense(pixels, *HIDDEN, CODE))
            self.classifier = nn.Sequential(*_dense(CODE, *reversed(HIDDEN), pixels))

    def compare(self, shown: Tensor, labels: Tensor, asked: Tensor) -> Tensor:
        """See `baselines.pixel_knn.vote`."""
        if self.config.metric == "cosine":
            nearness = F.normalize(asked, dim=-1) @ F.normalize(shown, dim=-1).mT
        else:
            nearness = -torch.cdist(asked, shown, compute_mode="donot_use_mm_for_euclid_dist")
        return vote(nearness, labels, self.config.k, self.task)

    def loss(self, episode: Episode, task: Task) -> Tensor:
        """The classifier's cross-entropy, or the autoencoder's squared error."""
        if self.config.features == "classifier":
            return super().loss(episode, task)
        x = episode.query.x.flatten(0, 1)
        return F.mse_loss(self.classifier(self.net(x)), x.flatten(1))


def _dense(*sizes: int) -> list[nn.Module]:
    """Dense layers with leaky rectifiers between them."""
    layers: list[nn.Module] = []
    for n, m in pairwise(sizes):
        layers += [nn.Linear(n, m), nn.LeakyReLU(SLOPE)]
    return layers[:-1]


@method("deep-knn", source="Santoro et al. 2016, arXiv:1605.06065, section 4.1")
class DeepKNN(PretrainedMethod):
    """The label of the nearest examples by learned features: "kNN (deep)" of Santoro et al. is the autoencoder.

    Theirs has two layers of 200 leaky rectified units on either side of 32, and reads flat pixels, whatever the
    backbone. The features of a classifier of all training classes are what a convolutional backbone gives.
    """

    features: Literal["classifier", "autoencoder"] = option("classifier", "what the features are learned for")
    metric: Literal["cosine", "euclid"] = option("cosine", "how near two embeddings are")
    k: int = option(1, "neighbours that vote")

    def check(self) -> None:
        """Refuse a recipe that cannot train, and no neighbours."""
        super().check()
        refuse_below_one(self, "k")

    def build(self, task: Task) -> DeepKNNLearner:
        """A fresh learner; see `Method.build`."""
        return DeepKNNLearner(self, task)

    def protocol(self, task: Task) -> dict[str, str]:
        """The autoencoder is a network of its own; see `Method.protocol`."""
        if self.features == "autoencoder":
            return {"backbone": "mlp-" + "-".join(map(str, (*HIDDEN, CODE))), "batchnorm": "none"}
        return super().protocol(task)

    def unsuited(self, task: Task) -> str | None:
        """It needs labels to copy."""
        if not task.y_size:
            return "it copies labels, and this task shows none"
        # The autoencoder takes any input, as dense layers do.
        config = replace(self, backbone="mlp") if self.features == "autoencoder" else self
        return super(DeepKNN, config).unsuited(task)
