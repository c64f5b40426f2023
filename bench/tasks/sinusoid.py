"""Few-shot regression of sine waves (Finn et al. 2017, section 5.1)."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from bench.api import Episode, Generator, Split, task
from bench.tasks.functions import FewShotFunctions

AMPLITUDE = (0.1, 5.0)
PHASE = (0.0, np.pi)
INPUT = (-5.0, 5.0)


@task("sinusoid", source="Finn et al. 2017, arXiv:1703.03400")
class Sinusoid(FewShotFunctions):
    """Regress y = A sin(x - φ) from a few points; the score is the mean squared error.

    A ~ U[0.1, 5], φ ~ U[0, π] and x ~ U[-5, 5], for support and queries alike; the sign of φ is that of the authors'
    code. All splits have this distribution and differ by their random stream only.

    Deviation: the authors' code asks as many queries as shots, in training and at test. Training does so here at the
    default fields, but a test episode asks 100, which leaves the expected error as it is and lowers its noise.
    """

    noise: ClassVar[float] = 0.0

    @property
    def x_shape(self) -> tuple[int, ...]:
        """One real input."""
        return (1,)

    def mean(self, x: Tensor) -> Tensor:
        """Mean over sine waves at [batch, n, 1]: [batch, n]."""
        return -sum(AMPLITUDE) / 2 * (2 / math.pi) * x[..., 0].cos()

    def covariance(self, a: Tensor, b: Tensor) -> Tensor:
        """Covariance over sine waves of their values at [batch, n, 1] and [batch, m, 1]: [batch, n, m]."""
        low, high = AMPLITUDE
        square = (high**3 - low**3) / (3 * (high - low))  # the mean of A²
        # Over half a period of φ, cos(a + b - 2φ) averages out.
        return square / 2 * (a - b.mT).cos() - self.mean(a)[:, :, None] * self.mean(b)[:, None]

    def sample(self, split: Split, batch: int, rng: Generator) -> Episode:
        """Draw sine waves and points on them: x and y are [batch, shot or query, 1] float32."""
        amplitude = rng.uniform(*AMPLITUDE, (batch, 1, 1))
        phase = rng.uniform(*PHASE, (batch, 1, 1))
        x = rng.uniform(*INPUT, (batch, self.shot + self.query, 1))
        y = amplitude * np.sin(x - phase)
        return self.episode(torch.from_numpy(x), torch.from_numpy(y))
