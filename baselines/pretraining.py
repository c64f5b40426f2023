"""Embeddings learned without episodes: a classifier of all training classes. Nothing is registered here."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from baselines.embedding import EmbeddingLearner, EmbeddingMethod
from bench.api import Episode, Examples, Generator, Task, option


class PretrainedLearner(EmbeddingLearner):
    """An embedding below a classifier, which only training uses; `compare` answers episodes from the embeddings."""

    def __init__(self, config: PretrainedMethod, task: Task) -> None:
        super().__init__(config, task)
        self.classifier = self.make_classifier(task.classes("train"))

    def make_classifier(self, classes: int) -> nn.Module:
        """From embeddings [n, size] to logits [n, classes]."""
        return nn.Linear(self.size, classes)

    def loss(self, episode: Episode, task: Task) -> Tensor:
        """Cross-entropy of the classifier, in nats; see `PretrainedMethod.draw`."""
        x, y = episode.query
        return F.cross_entropy(self.classifier(self.embed(x).flatten(0, 1)), y.flatten())


@dataclass(frozen=True, kw_only=True)
class PretrainedMethod(EmbeddingMethod):
    """A method whose learner is a `PretrainedLearner`: a training step sees images of any classes, not episodes.

    Validation and test are by episodes, as for every method. Training sees the classes of the training split alone.
    """

    in_order = False

    batch: int = option(64, "images per training step")

    def draw(self, task: Task, rng: Generator) -> Episode:
        """Images with the numbers of their classes among all of the split, as queries without a support."""
        query = task.pool("train", self.batch, rng)
        return Episode(Examples(query.x[:, :0], query.y[:, :0]), query)

    def unsuited(self, task: Task) -> str | None:
        """It needs classes that outlast an episode."""
        if not task.classes("train"):
            return "it learns to tell all training classes apart, and this task has none that outlast an episode"
        return super().unsuited(task)
