"""Training losses of several seeds' learners in one pass, for small learners: see `bench run --stack`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from bench.api import Episode, Examples, Learner, Task

__all__ = ["stacked_losses"]


class _Loss(nn.Module):
    """A learner's loss as a module's `forward`, which is what `functional_call` calls."""

    def __init__(self, learner: Learner, task: Task) -> None:
        super().__init__()
        self.learner, self.task = learner, task

    def forward(self, *tensors: Tensor) -> Tensor:
        return self.learner.loss(Episode(Examples(*tensors[:2]), Examples(*tensors[2:])), self.task)


def stacked_losses(learners: Sequence[Learner], episodes: Sequence[Episode], task: Task) -> list[Tensor]:
    """`TrainedMethod.losses` by `torch.func.vmap` over the learners' parameters, each on its own episode.

    For learners of one shape whose loss draws nothing, changes no buffer and takes no gradient of its own. Episodes are
    of equal shapes.
    """
    parameters = [dict(learner.named_parameters(prefix="learner")) for learner in learners]
    stacked = {name: torch.stack([each[name] for each in parameters]) for name in parameters[0]}
    tensors = [torch.stack(same) for same in zip(*((*e.support, *e.query) for e in episodes), strict=True)]
    module = _Loss(learners[0], task)

    def loss(own: dict[str, Tensor], *episode: Tensor) -> Tensor:
        return functional_call(module, own, episode)

    return list(vmap(loss)(stacked, *tensors))
