"""Nearest neighbours in raw pixels."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.api import Examples, Learner, Method, Task, method, option

LOGIT = 20.0
"""Logit of the class that all neighbours vote for; the others have 0."""


def vote(nearness: Tensor, labels: Tensor, k: int, task: Task) -> Tensor:
    """What the k nearest examples say: a share of `LOGIT` for each class or letter, or in regression their mean.

    nearness: [batch, n_query, n], -inf for an example that does not count. labels: [batch, n, y_size] encoded.
    Returns [batch, n_query, n_out], zeros where no example counts. Of equally near examples the first wins.
    """
    if labels.shape[1] == 0:
        return nearness.new_zeros(*nearness.shape[:2], task.n_out)
    near, which = _nearest(nearness, min(k, labels.shape[1]))
    counts = near.isfinite().to(labels.dtype)
    said = labels[torch.arange(len(labels))[:, None, None], which] * counts[..., None]
    mean = said.sum(2) / counts.sum(2).clamp(min=1)[..., None]
    return mean if task.kind == "regression" else LOGIT * mean


def _nearest(nearness: Tensor, k: int) -> tuple[Tensor, Tensor]:
    # `topk` does not say which of equal ones it takes, and takes others where more examples follow.
    if k == 1:
        return nearness.max(-1, keepdim=True)
    values, which = nearness.sort(dim=-1, descending=True, stable=True)
    return values[..., :k], which[..., :k]


class PixelKNNLearner(Learner):
    """The support set itself; nothing is learned."""

    def __init__(self, config: PixelKNN, task: Task) -> None:
        super().__init__()
        self.config = config
        self.task = task

    def forward(self, support: Examples, query_x: Tensor) -> Tensor:
        """Labels of the examples nearest in pixels."""
        nearness = self.nearness(self.pixels(query_x), self.pixels(support.x))
        return vote(nearness, self.task.encode(support.y).to(query_x.dtype), self.config.k, self.task)

    def stream(self, x: Tensor, y: Tensor) -> Tensor:
        """All pairs at once; at time t only earlier examples count."""
        pixels = self.pixels(x)
        time = torch.arange(x.shape[1], device=x.device)
        nearness = self.nearness(pixels, pixels).masked_fill(time[:, None] <= time, -math.inf)
        return vote(nearness, self.task.encode(y).to(x.dtype), self.config.k, self.task)

    def pixels(self, x: Tensor) -> Tensor:
        """[batch, n, *x_shape] to vectors [batch, n, pixels], of length 1 for the cosine."""
        flat = x.flatten(2) if self.config.polarity == "ink" else 1 - x.flatten(2)
        return F.normalize(flat, dim=-1) if self.config.metric == "cosine" else flat

    def nearness(self, a: Tensor, b: Tensor) -> Tensor:
        """[batch, n, d] and [batch, m, d] to [batch, n, m]; larger is nearer."""
        if self.config.metric == "cosine":
            return a @ b.transpose(1, 2)
        return -torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


@method("pixel-knn", source="Vinyals et al. 2016, arXiv:1606.04080, table 1")
class PixelKNN(Method):
    """The label of the nearest support examples, by cosine or Euclidean distance of their pixels.

    The cosine depends on what counts as zero, and the paper does not say: ink = 1 is the better classifier, paper = 1
    comes near the paper's figures.
    """

    metric: Literal["cosine", "euclid"] = option("cosine", "how near two inputs are")
    polarity: Literal["ink", "paper"] = option("paper", "what is 1: ink (as tasks show it), or paper (1 - x)")
    k: int = option(1, "neighbours that vote")

    def build(self, task: Task) -> PixelKNNLearner:
        """A fresh learner; see `Method.build`."""
        return PixelKNNLearner(self, task)

    def unsuited(self, task: Task) -> str | None:
        """It needs labels to copy, and a cosine needs directions."""
        if not task.y_size:
            return "it copies labels, and this task shows none"
        if self.k < 1:
            return f"k must be at least 1, not {self.k}"
        if self.metric == "cosine" and math.prod(task.x_shape) == 1:
            return "the cosine of two numbers tells only their signs; use metric=euclid"
        return None
