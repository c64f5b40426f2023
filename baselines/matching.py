"""Matching networks: attention over the support, with and without embeddings that know their context."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from baselines.embedding import EmbeddingLearner, EmbeddingMethod, needs_classes
from bench.api import BenchError, Task, method, option

ABSENT = 1e-6
"""Probability, before the logarithm, of a class that is not in the support."""


class MatchingLearner(EmbeddingLearner):
    """A softmax over cosines with the support, summed by class (Vinyals et al. 2016, eq. 1 and section 2.1.1)."""

    def __init__(self, config: Matching, task: Task) -> None:
        super().__init__(config, task)
        self.reads = config.reads
        self.scale = config.scale
        if self.reads:
            self.around = nn.LSTM(self.size, self.size, bidirectional=True, batch_first=True)
            self.reader = nn.LSTMCell(2 * self.size, self.size)

    def compare(self, shown: Tensor, labels: Tensor, asked: Tensor) -> Tensor:
        """Logarithms of class probabilities; all alike where nothing is shown."""
        if self.reads:
            shown = self.in_context(shown)
            asked = self.attended(asked, shown)
        cosine = F.normalize(asked, dim=-1) @ F.normalize(shown, dim=-1).mT
        likely = ((self.scale * cosine).softmax(-1) @ labels).clamp(min=torch.finfo(cosine.dtype).tiny)
        return torch.where(labels.any(1, keepdim=True), likely, ABSENT).log()

    def in_context(self, shown: Tensor) -> Tensor:
        """g(x_i, S), [batch, n, size]: the embedding plus both states of an LSTM over the support (appendix A.2)."""
        if not shown.shape[1]:
            return shown
        return shown + self.around(shown)[0].unflatten(-1, (2, -1)).sum(2)

    def attended(self, asked: Tensor, shown: Tensor) -> Tensor:
        """f(x, S), [batch, m, size]: an LSTM that starts from the embedding and reads the support (eq. 3 to 6)."""
        embedded = hidden = asked.flatten(0, 1)
        cell = torch.zeros_like(embedded)
        for _ in range(self.reads):
            weights = (hidden.view_as(asked) @ shown.mT).softmax(-1)
            recalled = (weights @ shown).view_as(embedded)
            hidden, cell = self.reader(torch.cat((embedded, recalled), 1), (hidden, cell))
            hidden = hidden + embedded
        return hidden.view_as(asked)


@method("matching", source="Vinyals et al. 2016, arXiv:1606.04080")
class Matching(EmbeddingMethod):
    """Class probabilities by attention over the support.

    The paper's attention has no temperature: of cosines between 0 and 1, as those of rectified embeddings are, no class
    among 5 has a probability above .40, none among 60 one above .05, and gradients never end. scale multiplies them, by
    100 in the code of Chen et al. 2019, which rectifies cosines too: those of full context may be below 0.

    reads above 0 gives the paper's full-context embeddings: the support passes a bidirectional LSTM in the order that
    it has, and each query an LSTM that reads the support so often. The paper took 1 (Omniglot) to 20.
    """

    version = 2  # 1 made one full-context read more than it was told
    batch: int = option(4, "episodes per training step")
    scale: float = option(1.0, "what cosines are multiplied by before the softmax; 1: as in the paper", late=True)
    reads: int = option(0, "full-context embeddings, with so many reads of the support for a query; 0: none")

    def check(self) -> None:
        """Refuse a recipe that cannot train, and attention to what is least alike."""
        super().check()
        if self.scale <= 0:
            raise BenchError(f"matching.scale must be above 0, not {self.scale:g}")

    def build(self, task: Task) -> MatchingLearner:
        """A fresh learner; see `Method.build`."""
        return MatchingLearner(self, task)

    def protocol(self, task: Task) -> dict[str, str]:
        """Whether embeddings have full context; see `Method.protocol`."""
        return super().protocol(task) | {"full_context": "yes" if self.reads else "no"}

    def unsuited(self, task: Task) -> str | None:
        """It needs classes."""
        return needs_classes(task, "matching sums over examples") or super().unsuited(task)
