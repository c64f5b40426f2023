"""Siamese networks: how likely two inputs are of one class."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from baselines.embedding import EmbeddingLearner, EmbeddingMethod, needs_classes
from bench.api import Episode, Task, method, option

ABSENT = -20.0
"""Logit of a class without examples where another has some, unless that one's is as low: then one less."""


class SiameseLearner(EmbeddingLearner):
    """A weighted distance of two embeddings is the logit that they are of one class (Koch et al. 2015, section 3.1)."""

    def __init__(self, config: Siamese, task: Task) -> None:
        super().__init__(config, task)
        self.weigh = nn.Linear(self.size, 1)

    def alike(self, a: Tensor, b: Tensor) -> Tensor:
        """Logits that embeddings a and b, [..., size], are of one class: [...]."""
        return self.weigh((a.sigmoid() - b.sigmoid()).abs()).squeeze(-1)

    def compare(self, shown: Tensor, labels: Tensor, asked: Tensor) -> Tensor:
        """The logit of the most similar example of each class; zeros where nothing is shown."""
        if not shown.shape[1]:
            return asked.new_zeros(*asked.shape[:2], self.task.n_out)
        logits = self.alike(asked[:, :, None], shown[:, None])[..., None]
        best = logits.masked_fill(labels[:, None] == 0, -math.inf).amax(2)
        absent = best.isinf()
        lowest = best.masked_fill(absent, math.inf).amin(-1, keepdim=True)
        return torch.where(absent, (lowest - 1).clamp(max=ABSENT), best)

    def loss(self, episode: Episode, task: Task) -> Tensor:
        """Cross-entropy over all pairs of an episode: those of one class and the others weigh half each."""
        x, y = (torch.cat(parts, 1) for parts in zip(*episode, strict=True))
        embedded = self.embed(x)
        one, other = torch.triu_indices(x.shape[1], x.shape[1], 1, device=x.device)
        same = y[:, one] == y[:, other]
        logits = self.alike(embedded[:, one], embedded[:, other])
        losses = F.binary_cross_entropy_with_logits(logits, same.to(x.dtype), reduction="none")
        halves = [losses[kind].mean() for kind in (same, ~same) if kind.any()]
        return torch.stack(halves).mean() if halves else 0 * embedded.sum()  # a single input makes no pair


@method(
    "siamese", source="Koch et al. 2015, ICML deep learning workshop; in episodes as Vinyals et al. 2016 compare it"
)
class Siamese(EmbeddingMethod):
    """Verification as few-shot classification: a query has the class of the example that it is most surely one with.

    Pairs are those within episodes of the task, half of the loss to each kind, where the paper draws 30,000 to 150,000
    pairs once, half of each kind. Deviations: our backbones in place of its convolutions of 10, 7, 4 and 4 pixels and
    4,096 units; no affine distortions; one rate for all layers.
    """

    in_order = False

    batch: int = option(4, "episodes per training step")

    def build(self, task: Task) -> SiameseLearner:
        """A fresh learner; see `Method.build`."""
        return SiameseLearner(self, task)

    def unsuited(self, task: Task) -> str | None:
        """It needs classes."""
        if getattr(task, "persistent", 1) > 1:
            return "pairs are of one class by their labels, and these are dealt anew in each of its episodes"
        return needs_classes(task, "pairs are") or super().unsuited(task)
