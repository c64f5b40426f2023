"""Regression of functions drawn from a Gaussian process (Santoro et al. 2016, section 4.3; Garnelo et al. 2018)."""

from __future__ import annotations

import torch
from torch import Tensor

from bench.api import BenchError, Episode, Generator, Split, option, task
from bench.tasks.functions import FewShotFunctions

INPUT = (-2.0, 2.0)
JITTER = 1e-9
"""Added to variances so that functions can be drawn without noise."""


@task("gp-regression", source="Santoro et al. 2016, arXiv:1605.06065, section 4.3")
class GaussianProcess(FewShotFunctions):
    """Regress functions of one to three inputs from a few points; the score is the mean squared error.

    Functions have mean 0 and the covariance exp(-|a - b|² / 2 l²); inputs are uniform in [-2, 2] in each dimension, and
    what is seen and asked has normal noise. All splits have this distribution and differ by their random stream only.
    The method `gp` is the posterior that made them, below which no error can be.

    Deviations: the paper says neither length scale nor noise, nor how many points, but those of its pictures; it shows
    functions one point after another, here a support is shown and queries are asked.
    """

    dimensions: int = option(1, "inputs of a function: 1, 2 or 3")
    query: int = option(50, "query points of an episode")
    length_scale: float = option(0.5, "distance over which a function changes")
    noise: float = option(0.1, "standard deviation of what is added to each value")
    train_query: int = option(20, "query points in training; 0: as many as query", training=True)

    @property
    def x_shape(self) -> tuple[int, ...]:
        """The inputs of a function."""
        return (self.dimensions,)

    def check(self) -> None:
        """Refuse what is no function, and episodes without a query.

        Raises:
            BenchError: which field, and what it may be.
        """
        super().check()
        if self.dimensions not in (1, 2, 3):
            raise BenchError(f"gp-regression.dimensions must be 1, 2 or 3, not {self.dimensions}")
        if self.length_scale <= 0 or self.noise < 0:
            raise BenchError(
                f"gp-regression: length_scale must be above 0 and noise not below it, not {self.length_scale:g} "
                f"and {self.noise:g}"
            )

    def mean(self, x: Tensor) -> Tensor:
        """Prior mean of a function at [batch, n, dimensions]: [batch, n]."""
        return x.new_zeros(x.shape[:2])

    def covariance(self, a: Tensor, b: Tensor) -> Tensor:
        """Prior covariance of a function's values, without noise: [batch, n, d] and [batch, m, d] to [batch, n, m]."""
        return torch.exp(-0.5 * (torch.cdist(a, b) / self.length_scale).square())

    def sample(self, split: Split, batch: int, rng: Generator) -> Episode:
        """Draw functions and points on them: x [batch, n, dimensions] and y [batch, n, 1] float32."""
        count = self.shot + self.query
        x = torch.from_numpy(rng.uniform(*INPUT, (batch, count, self.dimensions)))
        factor = torch.linalg.cholesky(self.covariance(x, x) + JITTER * torch.eye(count))
        values = factor @ torch.from_numpy(rng.standard_normal((batch, count, 1)))
        y = values + self.noise * torch.from_numpy(rng.standard_normal((batch, count, 1)))
        return self.episode(x, y)
