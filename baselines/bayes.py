"""The control that cannot be beaten: the Bayes-optimal answer, where a task knows it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bench.api import Examples, Learner, Method, Task, method


class BayesLearner(Learner):
    """The task's own estimator, `task.optimal(x)`: logits from the inputs so far. Nothing is learned."""

    def __init__(self, task: Any) -> None:
        super().__init__()
        self.task = task

    def forward(self, support: Examples, query_x: Tensor) -> Tensor:
        """Each query as the step that would come next."""
        batch, queries = query_x.shape[:2]
        before = support.x.repeat_interleave(queries, 0)
        sequence = torch.cat((before, query_x.reshape(batch * queries, 1, -1)), 1)
        return self.task.optimal(sequence)[:, -1].reshape(batch, queries, -1)

    def stream(self, x: Tensor, y: Tensor) -> Tensor:
        """The whole sequence at once."""
        return self.task.optimal(x)


@method("bayes", source="Graves et al. 2014, arXiv:1410.5401, section 4.4, after Murphy 2012")
class Bayes(Method):
    """Knows how the sequences are made, but not what is drawn: no method does better on average."""

    oracle = True

    def build(self, task: Task) -> BayesLearner:
        """A fresh learner; see `Method.build`."""
        return BayesLearner(task)

    def unsuited(self, task: Task) -> str | None:
        """Few tasks have an optimal estimator that can be computed."""
        return None if hasattr(task, "optimal") else "the task knows no optimal answer"
