"""Prototypical networks."""

from __future__ import annotations

import torch
from torch import Tensor

from baselines.embedding import EmbeddingLearner, EmbeddingMethod, needs_classes
from bench.api import Learner, Task, method, option


class ProtoNetLearner(EmbeddingLearner):
    """Class means in a learned space. No parameter depends on the number of classes."""

    def compare(self, shown: Tensor, labels: Tensor, asked: Tensor) -> Tensor:
        """Minus the squared distance to each class's prototype (Snell et al. 2017, eq. 1 and 2).

        The prototype of a class without examples is 0.
        """
        return -squared_distances(asked, class_means(shown, labels))

    def stream(self, x: Tensor, y: Tensor) -> Tensor:
        """Prototypes are running means."""
        if self.transductive:
            return Learner.stream(self, x, y)
        embedded, labels = self.embed_in_order(x), self.labels(y, x)
        seen = _before(labels)
        totals = _before(labels[..., None] * embedded[:, :, None])
        means = totals / seen.clamp(min=1)[..., None]
        return -squared_distances(embedded[:, :, None], means)[:, :, 0]


def class_means(shown: Tensor, labels: Tensor) -> Tensor:
    """Mean of each class's examples, [batch, way, d], 0 without any. shown: [batch, n, d], labels: [batch, n, way]."""
    return labels.mT @ shown / labels.sum(1).clamp(min=1)[..., None]


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """Squared Euclidean distances: [..., n, d] and [..., m, d] to [..., n, m]."""
    cross = a @ b.transpose(-1, -2)
    return a.square().sum(-1)[..., :, None] - 2 * cross + b.square().sum(-1)[..., None, :]


def _before(values: Tensor) -> Tensor:
    """Sum along time of all that came before, [batch, time, ...]."""
    return torch.cat((torch.zeros_like(values[:, :1]), values[:, :-1].cumsum(1)), 1)


@method("protonet", source="Snell et al. 2017, arXiv:1703.05175")
class ProtoNet(EmbeddingMethod):
    """Distances to class means in a learned space.

    The paper trains on more ways than it tests, 60 on Omniglot: the task's train_way. In training BatchNorm sees
    support and queries at once, at test the averages of training, as in the authors' code: no query sees another.
    """

    batch: int = option(1, "episodes per training step")
    halve_every: int = option(2000, "halve the learning rate every so many steps; 0: never")

    def build(self, task: Task) -> ProtoNetLearner:
        """A fresh learner; see `Method.build`."""
        return ProtoNetLearner(self, task)

    def unsuited(self, task: Task) -> str | None:
        """It needs classes."""
        return needs_classes(task, "prototypes are") or super().unsuited(task)
