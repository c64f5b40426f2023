"""What methods share that take steps on a task's support before they answer. Nothing is registered here."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor

from baselines.backbones import image_shape, unsuited_image
from baselines.batched import Backbone
from bench.api import BenchError, Episode, Examples, Learner, Task, TrainedMethod, option

REPORTED = (0, 1, 5, 10)
"""`by_step` reports predictions after so many steps, as Finn et al. do for sinusoids."""


class AdaptingLearner(Learner):
    """Adapts step by step, then answers; a subclass writes `adapt` and `answer`. Works under `no_grad`."""

    train_steps: int
    eval_steps: int
    peers: Sequence[Any] = ()
    """Learners of other seeds, itself among them, each of which answers its share of the tasks; see `joint`."""

    def of_tasks(self, parameters: Callable[[Any], Iterable[Tensor]], tasks: int) -> list[Tensor]:
        """A learner's parameters for each task, [tasks, *shape]; of all peers, one after another, where there are."""
        each = [list(parameters(learner)) for learner in self.peers or (self,)]
        share = tasks // len(each)
        if len(each) == 1:
            return [p.expand(tasks, *p.shape) for p in each[0]]
        return [torch.stack(same).repeat_interleave(share, 0) for same in zip(*each, strict=True)]

    def adapt(self, support: Examples, steps: int) -> Iterator[Any]:
        """What answers after 0, 1, ... steps. An empty support leaves it as it is."""
        raise NotImplementedError(f"{type(self).__name__} has no adapt")

    def answer(self, adapted: Any, support: Examples, query_x: Tensor, step: int) -> Tensor:
        """Predictions of what has been adapted by so many steps: [batch, n_query, n_out]."""
        raise NotImplementedError(f"{type(self).__name__} has no answer")

    def forward(self, support: Examples, query_x: Tensor) -> Tensor:
        """Adapt to the support, then answer; the number of steps depends on the mode."""
        steps = self.train_steps if self.training else self.eval_steps
        *_, adapted = self.adapt(support, steps)
        return self.answer(adapted, support, query_x, steps)

    def by_step(self, support: Examples, query_x: Tensor) -> dict[int, Tensor]:
        """Predictions after 0, 1, 5, 10 and as many steps as `forward` takes in eval mode."""
        reported = {*REPORTED, self.eval_steps}
        path = enumerate(self.adapt(support, max(reported)))
        return {step: self.answer(adapted, support, query_x, step) for step, adapted in path if step in reported}


def recipe(task: Task) -> tuple[float, int]:
    """Learning rate of adaptation and its steps in evaluation that Finn et al. 2017 have for a kind of task."""
    return (0.01, 10) if task.kind == "regression" else (0.4, 3)


def refuse_ascent(method: AdaptingMethod, inner_lr: float) -> None:
    """Refuse a learning rate of adaptation below zero, where zero stands for that of the task.

    Raises:
        BenchError: it is below.
    """
    if inner_lr < 0:
        raise BenchError(f"{method.name}.inner_lr must not be negative, but is {inner_lr:g}; 0 takes the task's")


def together(learners: Sequence[Learner]) -> Any:
    """A learner that answers for several, its peers."""
    made = copy.copy(cast(AdaptingLearner, learners[0]))
    made.peers = learners
    return made


def joint(learners: Sequence[Learner], episodes: Sequence[Episode], task: Task) -> list[Tensor]:
    """`TrainedMethod.losses` of adapting learners: they adapt to all their tasks as if these were one batch."""
    (support, query) = (Examples(*map(torch.cat, zip(*part, strict=True))) for part in zip(*episodes, strict=True))
    predictions = together(learners)(support, query.x).chunk(len(learners))
    return [task.loss(own, episode.query.y) for own, episode in zip(predictions, episodes, strict=True)]


@dataclass(frozen=True, kw_only=True)
class AdaptingMethod(TrainedMethod):
    """A method that adapts the weights of a `BatchedNet` to each task."""

    backbone: Literal["auto", "conv4", "conv4-32", "mlp", "sinusoid"] = option(
        "auto",
        "conv4: stride 2, 64 channels; conv4-32: pooled; mlp: 256-128-64-64; sinusoid: 40-40; auto: by the inputs",
    )
    batch_norm: Literal["support", "transductive", "none"] = option(
        "support", "statistics for a query: its support's, those of all queries, or no normalisation"
    )

    def backbone_for(self, task: Task) -> Backbone:
        """The network that auto means for a task."""
        if self.backbone != "auto":
            return self.backbone
        if image_shape(task.x_shape):
            return "conv4"
        return "sinusoid" if task.kind == "regression" else "mlp"

    def protocol(self, task: Task) -> dict[str, str]:
        """The network and its normalisation; see `Method.protocol`."""
        backbone = self.backbone_for(task)
        if backbone == "sinusoid":
            return {"backbone": "mlp-40-40", "batchnorm": "none"}
        return {"backbone": backbone, "batchnorm": {"support": "inductive"}.get(self.batch_norm, self.batch_norm)}

    def unsuited(self, task: Task) -> str | None:
        """It needs labels to adapt to, and convolutions need images."""
        if not task.y_size:
            return "it learns from labels, and this task shows none"
        image = image_shape(task.x_shape)
        if self.backbone in ("conv4", "conv4-32") and not image:
            return f"backbone={self.backbone} needs images and an input here has shape {list(task.x_shape)}; use mlp"
        return unsuited_image(task.x_shape) if self.backbone == "conv4-32" else None
