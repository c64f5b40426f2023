"""SimpleShot: nearest class means in the space of a classifier, centred and normalised."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from baselines.embedding import needs_classes
from baselines.pretraining import PretrainedLearner, PretrainedMethod
from baselines.protonet import class_means, squared_distances
from bench.api import Episode, Task, method, option

Transform = Literal["cl2n", "l2n", "un"]
FOLLOW = 0.01
"""How much of the mean of training embeddings each training step renews; the first hundred count alike."""
SCALE = 10.0
"""Logits are minus so many times the squared distance: a positive scale changes no answer."""


class SimpleShotLearner(PretrainedLearner):
    """Class means after centring and normalising; nothing is fitted at test."""

    centre: Tensor
    followed: Tensor

    def __init__(self, config: SimpleShot, task: Task) -> None:
        super().__init__(config, task)
        self.transform = config.transform
        self.register_buffer("centre", torch.zeros(self.size))
        self.register_buffer("followed", torch.zeros((), dtype=torch.int64))

    def compare(self, shown: Tensor, labels: Tensor, asked: Tensor) -> Tensor:
        """Minus the squared distance to each class's mean (Wang et al. 2019, section 3); 0 is that of no examples."""
        return -SCALE * squared_distances(self.transformed(asked), class_means(self.transformed(shown), labels))

    def transformed(self, embedded: Tensor) -> Tensor:
        """CL2N takes away the mean of the training classes and makes the length 1; L2N the latter, UN neither."""
        if self.transform == "cl2n":
            embedded = embedded - self.centre
        return embedded if self.transform == "un" else F.normalize(embedded, dim=-1)

    def loss(self, episode: Episode, task: Task) -> Tensor:
        """The classifier's; on the way the mean of the embeddings is followed."""
        embedded = self.embed(episode.query.x).flatten(0, 1)
        with torch.no_grad():
            self.followed += 1
            self.centre.lerp_(embedded.mean(0), max(FOLLOW, 1 / int(self.followed)))
        return F.cross_entropy(self.classifier(embedded), episode.query.y.flatten())


@method("simpleshot", source="Wang et al. 2019, arXiv:1911.04623")
class SimpleShot(PretrainedMethod):
    """Nearest class mean on the embeddings of a plain classifier.

    Deviations: Adam, where the authors use SGD from .1, lowered twice; the mean that centres is that of the last
    hundred or so training steps, not of a pass over all training images at the end.
    """

    version = 2  # 1 followed the mean from zero, and was short of it for the first few hundred steps

    transform: Transform = option("cl2n", "cl2n: centre, then length 1; l2n: length 1; un: as they are")

    def build(self, task: Task) -> SimpleShotLearner:
        """A fresh learner; see `Method.build`."""
        return SimpleShotLearner(self, task)

    def unsuited(self, task: Task) -> str | None:
        """It needs classes."""
        return needs_classes(task, "means are") or super().unsuited(task)
