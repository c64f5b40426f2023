"""R2-D2: ridge regression on embeddings, solved in closed form and differentiated through."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from baselines.backbones import image_shape
from baselines.embedding import EmbeddingLearner, EmbeddingMethod
from bench.api import BenchError, Task, method, option


class R2D2Learner(EmbeddingLearner):
    """A linear map fitted to the support by least squares; how strongly it is held back is learned."""

    def __init__(self, config: R2D2, task: Task) -> None:
        super().__init__(config, task)
        self.log_ridge = nn.Parameter(torch.tensor(math.log(config.ridge)))
        self.scale = nn.Parameter(torch.tensor(config.scale or (1.0 if task.kind == "regression" else 10.0)))

    def compare(self, shown: Tensor, labels: Tensor, asked: Tensor) -> Tensor:
        """α x W with W = Xᵀ (X Xᵀ + n λ I)⁻¹ Y (Bertinetto et al. 2019, eq. 5): a system only as large as the support.

        As in the authors' code the squared errors are a mean over the n examples, so that λ weighs as much beside few
        as beside many, and each embedding has a one behind it: W has an intercept, held back like its other rows.
        """
        shown, asked = (F.pad(x, (0, 1), value=1.0) for x in (shown, asked))
        n = shown.shape[1]
        ridge = n * self.log_ridge.exp() * torch.eye(n, dtype=shown.dtype, device=shown.device)
        # `solve` would raise where rounding leaves no solution; of NaN training says that it diverged.
        weights, _ = torch.linalg.solve_ex(shown @ shown.mT + ridge, labels)
        return self.scale * (asked @ shown.mT) @ weights


@method("r2d2", source="Bertinetto et al. 2019, arXiv:1805.08136")
class R2D2(EmbeddingMethod):
    """Differentiable ridge regression from embeddings to one-hot labels, or to values; λ and α are learned.

    It trains on more ways than it tests (60 on Omniglot, 16 on miniImageNet): the task's train_way. With
    backbone=resnet12 it stands in for MetaOptNet (Lee et al. 2019), whose own ablation has this solver beside its
    support vector machine.

    Deviations: the backbones are ours, where the paper's has 96, 192, 384 and 512 channels and keeps the third block
    as well, and MetaOptNet's keeps all places of its last; β, the same for all classes, would change no probability and
    is left out. The authors' code has λ at 50, for embeddings of thousands of numbers, and trains Omniglot at lr=.005.
    """

    batch: int = option(1, "episodes per training step")
    ridge: float = option(1.0, "λ at the start of training")
    scale: float = option(0.0, "α at the start of training; 0: 10 for classes, 1 for values")
    halve_every: int = option(2000, "halve the learning rate every so many steps; 0: never")

    def check(self) -> None:
        """Refuse a recipe that cannot train, and a system without a solution where examples are alike."""
        super().check()
        if self.ridge <= 0:
            raise BenchError(f"r2d2.ridge must be above 0, not {self.ridge:g}")
        if self.scale < 0:
            raise BenchError(f"r2d2.scale must not be negative, but is {self.scale:g}; 0 takes the task's")

    def build(self, task: Task) -> R2D2Learner:
        """A fresh learner; see `Method.build`."""
        return R2D2Learner(self, task)

    def protocol(self, task: Task) -> dict[str, str]:
        """Its head besides; see `Method.protocol`."""
        return super().protocol(task) | {"head": "ridge"}

    def stacks(self, task: Task) -> bool:
        """Without BatchNorm; see `TrainedMethod.stacks`."""
        return not task.online and not image_shape(task.x_shape)

    def unsuited(self, task: Task) -> str | None:
        """It needs labels to fit."""
        if not task.y_size:
            return "it fits labels, and this task shows none"
        if task.y_size != task.n_out:
            return "it answers in the form of labels, and here these differ"
        return super().unsuited(task)
