"""Prototypical networks."""

from __future__ import annotations

import torch
from torch import Tensor

from baselines.backbones import embedding, unsuited_image
from bench.api import Examples, Learner, Task, TrainedMethod, method, option


class ProtoNetLearner(Learner):
    """Class means in a learned space. No parameter depends on the number of classes."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task = task
        self.net, self.size = embedding(task.x_shape)

    def forward(self, support: Examples, query_x: Tensor) -> Tensor:
        """Minus the squared distance to each class's prototype (Snell et al. 2017, eq. 1 and 2).

        The prototype of a class without examples is 0. In training BatchNorm sees support and queries at once, as in
        the authors' code; in eval mode it uses its running averages, so that queries do not see one another.
        """
        shown = support.x.shape[1]
        embedded = self.embed(torch.cat((support.x, query_x), 1))
        labels = self.one_hot(support.y, query_x.dtype)
        totals = labels.transpose(1, 2) @ embedded[:, :shown]
        means = totals / labels.sum(1).clamp(min=1)[..., None]
        return -squared_distances(embedded[:, shown:], means)

    def stream(self, x: Tensor, y: Tensor) -> Tensor:
        """Prototypes are running means. In training each step is normalised by itself, over the batch of episodes."""
        if self.training:
            embedded = torch.cat([self.embed(x[:, t : t + 1]) for t in range(x.shape[1])], 1)
        else:
            embedded = self.embed(x)
        labels = self.one_hot(y, x.dtype)
        seen = _before(labels)
        totals = _before(labels[..., None] * embedded[:, :, None])
        means = totals / seen.clamp(min=1)[..., None]
        return -squared_distances(embedded[:, :, None], means)[:, :, 0]

    def embed(self, x: Tensor) -> Tensor:
        """[batch, n, *x_shape] to [batch, n, size]."""
        return self.net(x.flatten(0, 1)).view(*x.shape[:2], self.size)

    def one_hot(self, y: Tensor, dtype: torch.dtype) -> Tensor:
        """[batch, n, way]."""
        return self.task.encode(y).to(dtype)


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """Squared Euclidean distances: [..., n, d] and [..., m, d] to [..., n, m]."""
    cross = a @ b.transpose(-1, -2)
    return a.square().sum(-1)[..., :, None] - 2 * cross + b.square().sum(-1)[..., None, :]


def _before(values: Tensor) -> Tensor:
    """Sum along time of all that came before, [batch, time, ...]."""
    return torch.cat((torch.zeros_like(values[:, :1]), values[:, :-1].cumsum(1)), 1)


@method("protonet", source="Snell et al. 2017, arXiv:1703.05175")
class ProtoNet(TrainedMethod):
    """Distances to class means in the space of a Conv4-64 (images) or a small dense network (vectors).

    The paper trains on more ways than it tests, 60 on Omniglot: the task's train_way.
    """

    batch: int = option(1, "episodes per training step")
    halve_every: int = option(2000, "halve the learning rate every so many steps; 0: never")

    def build(self, task: Task) -> ProtoNetLearner:
        """A fresh learner; see `Method.build`."""
        return ProtoNetLearner(task)

    def unsuited(self, task: Task) -> str | None:
        """It needs classes."""
        if task.kind == "regression":
            return "prototypes are of classes, and this is regression"
        if getattr(task, "labels", "onehot") == "string":
            return "prototypes are of classes, and a string label is not one; use labels=onehot"
        return unsuited_image(task.x_shape)
