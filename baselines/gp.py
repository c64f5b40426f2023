"""The exact posterior of a Gaussian process with the prior of the task."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bench.api import Examples, Learner, Method, Task, method

JITTER = 1e-9
"""Least variance of what is seen, so that functions without noise can be solved for."""


class GPLearner(Learner):
    """Conditioning on the support, in float64; nothing is learned."""

    def __init__(self, task: Any) -> None:
        super().__init__()
        self.task = task

    def forward(self, support: Examples, query_x: Tensor) -> Tensor:
        """The posterior mean, [batch, n_query, 1]."""
        return self.posterior(support, query_x)[0]

    def distribution(self, support: Examples, query_x: Tensor) -> tuple[Tensor, Tensor] | None:
        """Of a value that would be seen; None without noise, where its density may be that of the jitter alone."""
        return self.posterior(support, query_x) if self.task.noise else None

    def posterior(self, support: Examples, query_x: Tensor) -> tuple[Tensor, Tensor]:
        """Posterior mean and standard deviation of a value that would be seen (Rasmussen and Williams 2006, eq. 2.23).

        [batch, n_query, 1] each.
        """
        task, noise = self.task, self.task.noise**2
        x, y, asked = support.x.double(), support.y.double(), query_x.double()
        seen = task.covariance(x, x) + (noise + JITTER) * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
        across = task.covariance(asked, x)
        solved = torch.linalg.solve(seen, torch.cat((y - task.mean(x)[..., None], across.mT), 2))
        mean = task.mean(asked)[..., None] + across @ solved[..., :1]
        each = asked.reshape(-1, 1, *asked.shape[2:])
        prior = task.covariance(each, each).view(asked.shape[:2])
        variance = prior - (across * solved[..., 1:].mT).sum(2) + noise
        return mean.to(query_x.dtype), variance.clamp(min=JITTER).sqrt()[..., None].to(query_x.dtype)


@method("gp", source="Rasmussen and Williams 2006, Gaussian Processes for Machine Learning, section 2.2")
class GP(Method):
    """The floor of regression: the posterior mean under the mean and covariance that the task draws its functions from.

    Where functions are no Gaussian process (sine waves), it is the best answer that is linear in the values shown.
    """

    version = 2  # 1 told a density of functions without noise
    oracle = True

    def build(self, task: Task) -> GPLearner:
        """A fresh learner; see `Method.build`."""
        return GPLearner(task)

    def unsuited(self, task: Task) -> str | None:
        """Few tasks say how their functions are drawn."""
        return None if hasattr(task, "covariance") else "the task knows no mean and covariance of its functions"
