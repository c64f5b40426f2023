"""CAVIA: fast adaptation of a few context parameters, all others shared by all tasks."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from baselines.adaptation import AdaptingLearner
from baselines.backbones import dense
from bench.api import BenchError, Examples, Task, TrainedMethod, method, option
from mann.learner import refuse_below_one

HIDDEN = (40, 40)
"""Hidden units, as for MAML on sinusoids."""


class CAVIALearner(AdaptingLearner):
    """A dense network that reads, beside its input, context parameters fitted to the support from zero."""

    def __init__(self, config: CAVIA, task: Task) -> None:
        super().__init__()
        self.config = config
        self.task = task
        self.train_steps, self.eval_steps = config.train_steps, config.eval_steps
        self.net = dense(math.prod(task.x_shape) + config.context, *HIDDEN, task.n_out)

    def adapt(self, support: Examples, steps: int) -> Iterator[Tensor]:
        """Context after 0, 1, ... gradient steps, [batch, context] (Zintgraf et al. 2019, eq. 3)."""
        tasks, shown = support.x.shape[:2]
        context = support.x.new_zeros(tasks, self.config.context, requires_grad=True)
        yield context
        outer = torch.is_grad_enabled()
        for _ in range(steps):
            if shown:
                with torch.enable_grad():
                    context = context if outer else context.detach().requires_grad_()
                    # The loss of a batch is a mean over tasks, none of which sees the context of another.
                    loss = tasks * self.task.loss(self.predict(context, support.x), support.y)
                    (gradient,) = torch.autograd.grad(loss, context, create_graph=outer)
                context = context - self.config.inner_lr * gradient
            yield context

    def answer(self, adapted: Tensor, support: Examples, query_x: Tensor, step: int) -> Tensor:
        """Predictions under an adapted context."""
        return self.predict(adapted, query_x)

    def predict(self, context: Tensor, x: Tensor) -> Tensor:
        """[batch, n, *x_shape] to [batch, n, n_out]."""
        return self.net(torch.cat((x.flatten(2), context[:, None].expand(-1, x.shape[1], -1)), 2))


@method("cavia", source="Zintgraf et al. 2019, arXiv:1810.03642")
class CAVIA(TrainedMethod):
    """MAML that adapts a context vector alone, an input beside the input; the meta-gradient is of second order.

    The authors' recipe for sinusoids is the default, with 50,000 training steps; in evaluation they take one step of
    adaptation too, and more are reported by step. Theirs for images, context that scales and moves feature maps, is
    not here: images are read flat.
    """

    batch: int = option(25, "tasks per training step")
    context: int = option(5, "context parameters")
    inner_lr: float = option(1.0, "learning rate of adaptation")
    train_steps: int = option(1, "gradient steps of adaptation in training")
    eval_steps: int = option(1, "gradient steps of adaptation in evaluation")

    def check(self) -> None:
        """Refuse a recipe that cannot train, and adaptation of nothing."""
        super().check()
        refuse_below_one(self, "context")
        if self.inner_lr <= 0:
            raise BenchError(f"cavia.inner_lr must be above 0, not {self.inner_lr:g}")

    def build(self, task: Task) -> CAVIALearner:
        """A fresh learner; see `Method.build`."""
        return CAVIALearner(self, task)

    def unsuited(self, task: Task) -> str | None:
        """It needs labels to adapt to."""
        return None if task.y_size else "it learns from labels, and this task shows none"
