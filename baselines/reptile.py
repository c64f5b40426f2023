"""Reptile: move the initialisation towards where some steps of plain training on each task end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from baselines.adaptation import AdaptingLearner, AdaptingMethod, together
from baselines.batched import BatchedNet, Weights, answers
from bench.api import BenchError, Episode, Examples, Learner, Task, method, option
from mann.learner import refuse_below_one

DECAY, EPSILON = 0.999, 1e-8
"""Of Adam, whose β₁ is 0, as in the authors' code."""


class Adapted(NamedTuple):
    """Weights and Adam's mean squares after some steps, [tasks, *shape] each, and the mean loss of each peer before."""

    weights: Weights
    squares: Weights
    losses: Tensor


class ReptileLearner(AdaptingLearner):
    """An initialisation near which each task is solved; adaptation is Adam on a few examples at a time.

    Adam knows the size of gradients from all tasks before: begun anew, its first step would move each weight as far as
    any other.
    """

    taken: Tensor

    def __init__(self, config: Reptile, task: Task) -> None:
        super().__init__()
        self.config = config
        self.task = task
        self.train_steps, self.eval_steps = config.train_steps, config.eval_steps
        self.net = BatchedNet(config.backbone_for(task), task.x_shape, task.n_out, config.batch_norm != "none")
        for i, weight in enumerate(self.net.weights):
            self.register_buffer(f"square_{i}", torch.zeros_like(weight))
        self.register_buffer("taken", torch.zeros((), dtype=torch.int64))

    def squares(self) -> list[Tensor]:
        """Adam's mean squares of the gradients of each weight, over all steps of training; `taken` of them."""
        return [getattr(self, f"square_{i}") for i in range(len(self.net.weights))]

    def answer(self, adapted: Adapted, support: Examples, query_x: Tensor, step: int) -> Tensor:
        """Predictions of adapted weights, the queries normalised as the config says."""
        return answers(self.net, adapted.weights, support, query_x, self.config.batch_norm != "transductive")

    def loss(self, episode: Episode, task: Task) -> Tensor:
        """The loss along the way, with the gradient of Reptile: start minus mean end (Nichol et al. 2018, algorithm 2).

        All labelled examples of an episode are trained on alike, those that it has as queries too.
        """
        return self.losses([episode])[0]

    def losses(self, episodes: Sequence[Episode]) -> list[Tensor]:
        """`loss` of each of its peers on an episode of its own."""
        shown = Examples(
            torch.cat([torch.cat((support.x, query.x), 1) for support, query in episodes]),
            torch.cat([torch.cat((support.y, query.y), 1) for support, query in episodes]),
        )
        with torch.no_grad():
            path = list(self.adapt(shown, self.config.train_steps))
        along = torch.stack([adapted.losses for adapted in path[1:]]).mean(0)
        ends = zip(*(end.chunk(len(episodes)) for end in path[-1].weights), strict=True)
        squares = zip(*(end.chunk(len(episodes)) for end in path[-1].squares), strict=True)
        made = []
        for learner, loss, end, last in zip(self.peers or (self,), along, ends, squares, strict=True):
            for square, each in zip(learner.squares(), last, strict=True):
                square.copy_(each.mean(0))
            learner.taken += self.config.train_steps
            start = learner.net.weights
            pull = torch.stack([(w * (w - e.mean(0)).detach()).sum() for w, e in zip(start, end, strict=True)]).sum()
            made.append(loss + pull - pull.detach())
        return made

    def adapt(self, support: Examples, steps: int) -> Iterator[Adapted]:
        """What it is after 0, 1, ... steps. No gradient flows back.

        Each step sees the next `inner_batch` examples in the order of the support, again and again.
        """
        tasks, shown = support.x.shape[:2]
        peers = len(self.peers or (self,))
        weights: Weights = [weight.detach() for weight in self.of_tasks(lambda learner: learner.net.weights, tasks)]
        squares: Weights = self.of_tasks(lambda learner: learner.squares(), tasks)
        (taken,) = self.of_tasks(lambda learner: [learner.taken], tasks)
        losses = support.x.new_zeros(peers)
        yield Adapted(weights, squares, losses)
        size = min(shown, self.config.inner_batch)
        for step in range(1, steps + 1):
            if shown:
                at = torch.arange((step - 1) * size, step * size, device=support.x.device) % shown
                with torch.enable_grad():
                    weights = [w.detach().requires_grad_() for w in weights]
                    predictions = self.net(weights, support.x[:, at], size).chunk(peers)
                    asked = zip(predictions, support.y[:, at].chunk(peers), strict=True)
                    losses = torch.stack([self.task.loss(own, y) for own, y in asked])
                    # The loss of a batch is a mean over tasks, none of which sees the weights of another.
                    gradients = torch.autograd.grad(tasks // peers * losses.sum(), weights)
                losses = losses.detach()
                squares = [DECAY * s + (1 - DECAY) * g.square() for s, g in zip(squares, gradients, strict=True)]
                known = (1 - DECAY ** (taken + step).to(support.x)).view(-1, 1, 1)  # 1 after many steps
                weights = [
                    (w - self.config.inner_lr * g / ((s / known).sqrt() + EPSILON)).detach()
                    for w, g, s in zip(weights, gradients, squares, strict=True)
                ]
            yield Adapted(weights, squares, losses)


@method("reptile", source="Nichol et al. 2018, arXiv:1803.02999")
class Reptile(AdaptingMethod):
    """First-order meta-learning without a split of an episode: move towards the mean of adapted weights.

    The authors' recipes: Omniglot 5-way batch 5 with 10 examples a class in training (the task's train_shot and
    train_query), train_steps 5, eval_steps 50 of 5 examples; 20-way inner_batch 20, train_steps 10, inner_lr 5e-4;
    meta-steps lr 1 that fall to 0 over 100,000 and 200,000 training steps (anneal). Their figures come with and without
    transduction.

    Adam's mean squares go on from task to task, into evaluation too. Deviations: those of a batch begin where the mean
    of the batch before ended, not one where the other did; steps in evaluation take as many examples as in training; an
    episode has its examples in a random order once, not anew every time round; conv4 takes the mean over places, where
    theirs keeps all four.
    """

    version = 2  # 1 began Adam anew on each task

    batch: int = option(5, "tasks per training step")
    optimizer: Literal["adam", "rmsprop", "sgd"] = option("sgd", "what follows Reptile's direction; sgd: as the paper")
    lr: float = option(0.1, "learning rate: the share of the way towards the mean of adapted weights")
    anneal: int = option(0, "training steps over which the learning rate falls to 0, in a line; 0: it stays")
    inner_lr: float = option(1e-3, "learning rate of adaptation, by Adam")
    inner_batch: int = option(10, "examples that a step of adaptation sees")
    train_steps: int = option(5, "steps of adaptation in training")
    eval_steps: int = option(50, "steps of adaptation in evaluation")

    def check(self) -> None:
        """Refuse a recipe that cannot train, and adaptation that does nothing."""
        super().check()
        refuse_below_one(self, "inner_batch", "train_steps")
        if self.inner_lr <= 0:
            raise BenchError(f"reptile.inner_lr must be above 0, not {self.inner_lr:g}")

    def build(self, task: Task) -> ReptileLearner:
        """A fresh learner; see `Method.build`."""
        return ReptileLearner(self, task)

    def rate(self, step: int) -> float:
        """Learning rate at a step; see `TrainedMethod.rate`."""
        return super().rate(step) * (max(0.0, 1 - step / self.anneal) if self.anneal else 1.0)

    def stacks(self, task: Task) -> bool:
        """Where there are episodes; see `TrainedMethod.stacks`."""
        return not task.online

    def losses(self, learners: Sequence[Learner], episodes: Sequence[Episode], task: Task) -> list[Tensor]:
        """Those of learners of several seeds in one pass; see `TrainedMethod.losses`."""
        return together(learners).losses(episodes)
