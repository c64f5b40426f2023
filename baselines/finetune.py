"""Baseline and Baseline++: a classifier of the training classes, its last layer learned anew for each episode."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from baselines.embedding import needs_classes
from baselines.pretraining import PretrainedLearner, PretrainedMethod
from bench.api import Task, method, option
from mann.learner import refuse_below_one

FEW, SCALES = 200, (2.0, 10.0)
"""Cosines are multiplied by the first number for up to so many classes, by the second for more."""
RATE, MOMENTUM, DECAY, SHOWN = 0.01, 0.9, 0.001, 4
"""Of the authors' fine-tuning: SGD whose momentum is damped as much, weight decay, and support images a step."""


class Cosine(nn.Module):
    """Cosines of inputs with a learned direction for each class, scaled (Chen et al. 2019, section 3.2).

    Each class has a length too, as in the authors' code, whose layer is one of normalised weights.
    """

    def __init__(self, size: int, classes: int) -> None:
        super().__init__()
        self.directions = nn.Parameter(torch.empty(classes, size).uniform_(-1, 1) / math.sqrt(size))
        self.lengths = nn.Parameter(self.directions.detach().norm(dim=-1))

    def forward(self, x: Tensor) -> Tensor:
        """[n, size] to [n, classes]."""
        return cosines(x, self.directions, self.lengths)


def cosines(x: Tensor, directions: Tensor, lengths: Tensor) -> Tensor:
    """Scaled cosines times lengths: [..., n, size], [..., classes, size] and [..., classes] to [..., n, classes]."""
    scale = SCALES[directions.shape[-2] > FEW]
    return scale * F.normalize(x, dim=-1) @ (lengths[..., None] * F.normalize(directions, dim=-1)).mT


class FinetuneLearner(PretrainedLearner):
    """The embedding stays as training left it; a new last layer is fitted to the support."""

    first: Tensor

    def __init__(self, config: Finetune, task: Task) -> None:
        self.config = config
        super().__init__(config, task)
        start = torch.empty(task.n_out, self.size).uniform_(-1, 1) / math.sqrt(self.size)
        self.register_buffer("first", start, persistent=False)

    def make_classifier(self, classes: int) -> nn.Module:
        """Linear, or by cosines."""
        return Cosine(self.size, classes) if self.config.head == "cosine" else super().make_classifier(classes)

    def compare(self, shown: Tensor, labels: Tensor, asked: Tensor) -> Tensor:
        """Logits of a layer that has seen the support, a few images at a time, in its order, `epochs` times round.

        It starts from weights drawn once, the same for every episode, and a linear layer's bias from zero, where the
        authors draw both for each episode. Zeros where nothing is shown.
        """
        n = shown.shape[1]
        if not n:
            return asked.new_zeros(*asked.shape[:2], self.task.n_out)
        linear = self.config.head == "linear"
        beside = shown.new_zeros(1, self.task.n_out) if linear else self.first.norm(dim=-1)
        layer = [part.repeat(len(shown), *[1] * part.dim()).requires_grad_() for part in (self.first, beside)]
        # Element by element, so that what is one step for all episodes is a step of each.
        optimiser = torch.optim.SGD(layer, RATE, MOMENTUM, dampening=MOMENTUM, weight_decay=DECAY)
        with torch.enable_grad():
            for start in [*range(0, n, SHOWN)] * self.config.epochs:
                x, y = (part[:, start : start + SHOWN].detach() for part in (shown, labels))
                loss = len(shown) * F.cross_entropy(self.logits(layer, x).flatten(0, 1), y.flatten(0, 1))
                for weight, gradient in zip(layer, torch.autograd.grad(loss, layer), strict=True):
                    weight.grad = gradient
                optimiser.step()
        return self.logits([weight.detach() for weight in layer], asked)

    def logits(self, layer: list[Tensor], x: Tensor) -> Tensor:
        """[batch, n, size] to [batch, n, way] by weights and biases, or directions and lengths, of each episode."""
        weight, beside = layer
        return torch.baddbmm(beside, x, weight.mT) if self.config.head == "linear" else cosines(x, weight, beside)


@method("finetune", source="Chen et al. 2019, arXiv:1904.04232")
class Finetune(PretrainedMethod):
    """Baseline (head=linear) and Baseline++ (head=cosine): transfer learning as a few-shot method.

    The authors train on batches of 16 for 400 epochs on miniImageNet and 5 on Omniglot with Adam at 1e-3. Their paper
    fine-tunes for 100 iterations of 4 images; their code, as this one, goes round the support 100 times, and gives each
    class of a cosine layer a learned length. A cosine is scaled by 2 up to 200 classes and by 10 above, as in their
    code, which has no such rule in print. Deviation: images of a support come in its own order, which is random, in
    place of a new one every time round.
    """

    batch: int = option(16, "images per training step")
    head: Literal["linear", "cosine"] = option("linear", "the last layer: linear (Baseline), or cosines (Baseline++)")
    epochs: int = option(100, "times that fine-tuning goes round the support of each episode")

    def check(self) -> None:
        """Refuse a recipe that cannot train, and fine-tuning that does nothing."""
        super().check()
        refuse_below_one(self, "epochs")

    def build(self, task: Task) -> FinetuneLearner:
        """A fresh learner; see `Method.build`."""
        return FinetuneLearner(self, task)

    def unsuited(self, task: Task) -> str | None:
        """It needs classes."""
        return needs_classes(task, "its last layer is") or super().unsuited(task)
