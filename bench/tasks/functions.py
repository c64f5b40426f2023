"""What regression of functions from a few points has in common. Nothing is registered here."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from bench.api import BenchError, Episode, Examples, Task, option


@dataclass(frozen=True, kw_only=True)
class FewShotFunctions(Task):
    """Regress a function from a few points; the score is the mean squared error at queries.

    A subclass writes `x_shape` and `sample`, and `mean` and `covariance` if it knows them: of a function's values
    without noise, over all functions, from which the method `gp` answers.
    """

    kind: ClassVar = "regression"
    metric: ClassVar[str] = "mse"
    higher_is_better: ClassVar[bool] = False

    shot: int = option(10, "support points of an episode")
    query: int = option(100, "query points of an episode")
    train_shot: int = option(0, "support points in training; 0: as many as shot", training=True)
    train_query: int = option(10, "query points in training; 0: as many as query", training=True)

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
                raise BenchError(f"{self.name}.{name} must be 0 or more, not {getattr(self, name)}")
        if self.query < 1:
            raise BenchError(f"{self.name}.query must be 1 or more, not {self.query}: no query, nothing to score")

    def training(self) -> Task:
        """Training's counts of points in place of the test's."""
        return replace(self, shot=self.train_shot or self.shot, query=self.train_query or self.query)

    def episode(self, x: Tensor, y: Tensor) -> Episode:
        """Points [batch, shot + query, d] and their values [batch, shot + query, 1] as float32: support, then query."""
        points = Examples(x.float(), y.float())
        return Episode(
            Examples(*(each[:, : self.shot] for each in points)), Examples(*(each[:, self.shot :] for each in points))
        )
