"""CAVIA: fast adaptation of a few context parameters, all others shared by all tasks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from baselines.adaptation import AdaptingLearner, AdaptingMethod, joint
from baselines.backbones import dense
from baselines.batched import HIDDEN, BatchedNet, Weights, answers
from bench.api import BenchError, Episode, Examples, Learner, Task, method, option

MODULATED = 2
"""The convolution, counted from zero, whose maps the context scales and moves: the third, as in the paper."""


class CAVIALearner(AdaptingLearner):
    """A network with context parameters, which are fitted to the support from zero.

    A dense network reads them beside its input. In a convolutional one a linear map of them scales and moves the
    normalised maps of the third layer (FiLM; Zintgraf et al. 2019, section 3.3).
    """

    def __init__(self, config: CAVIA, task: Task) -> None:
        super().__init__()
        self.config, self.task = config, task
        backbone, image = config.backbone_for(task), config.convolutional(task)
        self.context, self.train_steps, self.eval_steps = config.sizes(task)
        self.net: Any = (
            BatchedNet(backbone, task.x_shape, task.n_out, config.batch_norm != "none")
            if image
            else dense(math.prod(task.x_shape) + self.context, *HIDDEN[backbone], task.n_out)
        )
        self.film = nn.Linear(self.context, 2 * HIDDEN[backbone][MODULATED]) if image else None

    def adapt(self, support: Examples, steps: int) -> Iterator[Tensor]:
        """Context after 0, 1, ... gradient steps, [batch, context] (Zintgraf et al. 2019, eq. 3)."""
        tasks, shown = support.x.shape[:2]
        context = support.x.new_zeros(tasks, self.context, requires_grad=True)
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
        if self.film is None:
            return self.predict(adapted, query_x)
        inductive = self.config.batch_norm != "transductive"
        return answers(self.net, self.weights(self.film(adapted)), support, query_x, inductive)

    def predict(self, context: Tensor, x: Tensor) -> Tensor:
        """[batch, n, *x_shape] to [batch, n, n_out]; images are normalised by the statistics of all of x."""
        if self.film is None:
            told = torch.cat((x.flatten(2), context[:, None].expand(-1, x.shape[1], -1)), 2)
            return side_by_side([peer.net for peer in self.peers], told) if self.peers else self.net(told)
        return self.net(self.weights(self.film(context)), x, x.shape[1])

    def weights(self, film: Tensor) -> Weights:
        """Those for each task, all shared but scale and shift (else weight and bias) of the modulated layer.

        film: [batch, 2 · channels], by how much more than once the maps are scaled, and how far moved.
        """
        made = [w.expand(len(film), *w.shape) for w in self.net.weights]
        scale, shift = film[:, None].chunk(2, -1)
        last = (3 if self.net.norm else 2) * (MODULATED + 1) - 1
        made[last - 1] = made[last - 1] * (1 + scale)
        made[last] = made[last] * (1 + scale) + shift
        return made


def side_by_side(nets: Sequence[nn.Sequential], x: Tensor) -> Tensor:
    """What dense networks of one shape make of inputs [batch, n, size], each of its share of the batch in order."""
    h = x.reshape(len(nets), -1, x.shape[-1])
    for layers in zip(*nets, strict=True):
        if isinstance(layers[0], nn.Linear):
            weight, bias = (torch.stack(same) for same in zip(*((m.weight, m.bias) for m in layers), strict=True))
            h = torch.baddbmm(bias[:, None], h, weight.mT)
        else:
            h = layers[0](h)
    return h.view(*x.shape[:-1], -1)


@method("cavia", source="Zintgraf et al. 2019, arXiv:1810.03642")
class CAVIA(AdaptingMethod):
    """MAML that adapts a context vector alone; the meta-gradient is of second order.

    The authors' recipe for sinusoids is the default, with 50,000 training steps; in evaluation they take one step of
    adaptation too, and more are reported by step. Theirs for miniImageNet: backbone conv4-32 (or wider), 100 context
    parameters, two steps, batch 4 (1-shot) or 2 (5-shot), transductive. Deviations: scales start near 1, not near 0,
    and are applied before the pooling; weights start as PyTorch's do, and the learning rate does not fall.
    """

    batch: int = option(25, "tasks per training step")
    context: int = option(0, "context parameters; 0: 5, or 100 for images")
    inner_lr: float = option(1.0, "learning rate of adaptation")
    train_steps: int = option(0, "gradient steps of adaptation in training; 0: 1, or 2 for images")
    eval_steps: int = option(0, "gradient steps of adaptation in evaluation; 0: as many as in training")

    def check(self) -> None:
        """Refuse a recipe that cannot train."""
        super().check()
        if self.inner_lr <= 0:
            raise BenchError(f"cavia.inner_lr must be above 0, not {self.inner_lr:g}")

    def convolutional(self, task: Task) -> bool:
        """Whether its network for a task is normalised, with a layer that the context modulates."""
        return self.backbone_for(task) in ("conv4", "conv4-32")

    def sizes(self, task: Task) -> tuple[int, int, int]:
        """Context parameters, and steps of adaptation in training and in evaluation, that 0 means for a task."""
        image = self.convolutional(task)
        train_steps = self.train_steps or (2 if image else 1)
        return self.context or (100 if image else 5), train_steps, self.eval_steps or train_steps

    def protocol(self, task: Task) -> dict[str, str]:
        """What adapts and how often, too; see `Method.protocol`."""
        steps = dict(zip(("context", "inner_steps", "test_steps"), map(str, self.sizes(task)), strict=True))
        return super().protocol(task) | steps | ({} if self.convolutional(task) else {"batchnorm": "none"})

    def build(self, task: Task) -> CAVIALearner:
        """A fresh learner; see `Method.build`."""
        return CAVIALearner(self, task)

    def stacks(self, task: Task) -> bool:
        """With dense networks; see `TrainedMethod.stacks`."""
        return not task.online and not self.convolutional(task)

    def losses(self, learners: Sequence[Learner], episodes: Sequence[Episode], task: Task) -> list[Tensor]:
        """Those of learners of several seeds in one pass; see `TrainedMethod.losses`."""
        return joint(learners, episodes, task)
