"""The control that knows nothing."""

from __future__ import annotations

from torch import Tensor

from bench.api import Examples, Learner, Method, Task, method


class ChanceLearner(Learner):
    """Zeros: every class equally likely, every value zero."""

    def __init__(self, n_out: int) -> None:
        super().__init__()
        self.n_out = n_out

    def forward(self, support: Examples, query_x: Tensor) -> Tensor:
        """Look at nothing."""
        return query_x.new_zeros(*query_x.shape[:2], self.n_out)

    def stream(self, x: Tensor, y: Tensor) -> Tensor:
        """Look at nothing."""
        return x.new_zeros(*x.shape[:2], self.n_out)


@method("chance")
class Chance(Method):
    """Guesses: the first class always, which is right as often as any guess, since labels are dealt at random."""

    def build(self, task: Task) -> ChanceLearner:
        """A fresh learner; see `Method.build`."""
        return ChanceLearner(task.n_out)
