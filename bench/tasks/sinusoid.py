"""Few-shot regression of sine waves (Finn et al. 2017, section 5.1)."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from bench.api import BenchError, Episode, Examples, Generator, Split, Task, option, task

AMPLITUDE = (0.1, 5.0)
PHASE = (0.0, np.pi)
INPUT = (-5.0, 5.0)


@task("sinusoid", source="Finn et al. 2017, arXiv:1703.03400")
class Sinusoid(Task):
    """Regress y = A sin(x - φ) from a few points; the score is the mean squared error.

    A ~ U[0.1, 5], φ ~ U[0, π] and x ~ U[-5, 5], for support and queries alike; the sign of φ is that of the authors'
    code. All splits have this distribution and differ by their random stream only.

    Deviation: the authors' code asks as many queries as shots, in training and at test. Training does so here at the
    default fields, but a test episode asks 100, which leaves the expected error as it is and lowers its noise.
    """

    kind = "regression"
    metric = "mse"
    higher_is_better = False

    shot: int = option(10, "support points of an episode")
    query: int = option(100, "query points of an episode")
    train_shot: int = option(0, "support points in training; 0: as many as shot", training=True)
    train_query: int = option(10, "query points in training; 0: as many as query", training=True)

    @property
    def x_shape(self) -> tuple[int, ...]:
        """One real input."""
        return (1,)

    @property
    def n_out(self) -> int:
        """One real output."""
        return 1

    def check(self) -> None:
        """Refuse negative counts, and episodes without a query.

        Raises:
            BenchError: which field, and what it may be.
        """
        for name in ("shot", "train_shot", "train_query"):
            if getattr(self, name) < 0:
                raise BenchError(f"sinusoid.{name} must be 0 or more, not {getattr(self, name)}")
        if self.query < 1:
            raise BenchError(f"sinusoid.query must be 1 or more, not {self.query}: no query, nothing to score")

    def training(self) -> Task:
        """Training's counts of points in place of the test's."""
        return replace(self, shot=self.train_shot or self.shot, query=self.train_query or self.query)

    noise: ClassVar[float] = 0.0

    def mean(self, x: Tensor) -> Tensor:
        """Mean over sine waves at [batch, n, 1]: [batch, n]."""
        return -sum(AMPLITUDE) / 2 * (2 / math.pi) * x[..., 0].cos()

    def covariance(self, a: Tensor, b: Tensor) -> Tensor:
        """Covariance over sine waves of their values at [batch, n, 1] and [batch, m, 1]: [batch, n, m]."""
        low, high = AMPLITUDE
        square = (high**3 - low**3) / (
            3 * (high - low)
        )  # mean of A²; over half a period of φ its own wave averages out
        return square / 2 * (a - b.mT).cos() - self.mean(a)[:, :, None] * self.mean(b)[:, None]

    def sample(self, split: Split, batch: int, rng: Generator) -> Episode:
        """Draw sine waves and points on them: x and y are [batch, shot or query, 1] float32."""
        amplitude = rng.uniform(*AMPLITUDE, (batch, 1, 1))
        phase = rng.uniform(*PHASE, (batch, 1, 1))
        x = rng.uniform(*INPUT, (batch, self.shot + self.query, 1))
        y = amplitude * np.sin(x - phase)
        points = Examples(*(torch.from_numpy(values.astype(np.float32)) for values in (x, y)))
        return Episode(
            Examples(*(values[:, : self.shot] for values in points)),
            Examples(*(values[:, self.shot :] for values in points)),
        )
