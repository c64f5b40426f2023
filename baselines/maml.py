"""Model-agnostic meta-learning, all tasks of a meta-batch adapted in one pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from baselines.adaptation import AdaptingLearner, AdaptingMethod, joint, recipe, refuse_ascent
from baselines.batched import BatchedNet, Weights, answers
from bench.api import BenchError, Episode, Examples, Learner, Task, method, option


class MAMLLearner(AdaptingLearner):
    """An initialisation from which a few gradient steps on a task's support set fit the task."""

    trained: Tensor

    def __init__(self, config: MAML, task: Task) -> None:
        super().__init__()
        self.config = config
        self.task = task
        self.net = BatchedNet(config.backbone_for(task), task.x_shape, task.n_out, config.batch_norm != "none")
        self.train_steps = config.train_steps
        rate, self.eval_steps = config.adaptation(task)
        self.steps = max(config.train_steps, 1)
        weights, head = self.net.weights, len(self.net.weights) - 2
        self.affine: set[int] = set()
        if config.batch_norm == "per-step" and self.net.norm:
            self.affine = {i for i in range(head) if i % 3}
            for i in self.affine:
                weights[i] = nn.Parameter(weights[i].detach().repeat(self.steps + 1, 1))
        part = {"all": range(head + 2), "head": range(head, head + 2), "body": range(head)}[config.adapts]
        self.adapted = [i for i in part if i not in self.affine]
        self.rates: Sequence[float] | nn.ParameterList = [rate] * len(self.adapted)
        if config.rates != "fixed":
            shapes = [weights[i].shape if config.rates == "each" else (self.steps, 1, 1) for i in self.adapted]
            self.rates = nn.ParameterList(torch.full(shape, rate) for shape in shapes)
        if config.multi_step:
            self.register_buffer("trained", torch.zeros((), dtype=torch.int64))

    def loss(self, episode: Episode, task: Task) -> Tensor:
        """The loss after adaptation; in the first `multi_step` training steps, a mean over all steps of adaptation."""
        if not self.config.multi_step or int(self.trained) >= self.config.multi_step:
            return super().loss(episode, task)
        shares = importance(int(self.trained) / self.config.multi_step, self.steps)
        self.trained += 1
        (x, y), support = episode.query, episode.support
        path = enumerate(self.adapt(support, self.steps))
        losses = [task.loss(self.answer(weights, support, x, step), y) for step, weights in path if step]
        return torch.stack([share * loss for share, loss in zip(shares, losses, strict=True)]).sum()

    def forward(self, support: Examples, query_x: Tensor) -> Tensor:
        """Adapt to the support, then answer; see `Learner.forward`."""
        net, shown, asked = self.net, support.x.shape[1], query_x.shape[1]
        once = self.training and self.train_steps == 1 and torch.is_grad_enabled()
        if once and shown and not net.image and not net.norm and self.config.rates == "fixed":
            sizes = [weight.shape for weight in net.weights[::2]]
            # Products of `after_one_step`, and those of weights for each task.
            if shown * asked * sum(i + o for i, o in sizes) <= (shown + 1) * sum(i * o for i, o in sizes):
                return self.after_one_step(support, query_x)
        return super().forward(support, query_x)

    def after_one_step(self, support: Examples, query_x: Tensor) -> Tensor:
        """What `forward` gives after a step of a dense network, without weights for each task.

        A step takes α Σ_k h_k δ_kᵀ from the weights W of a layer and α Σ_k δ_k from its bias b, where h_k is what the
        layer sees of example k, and δ_k the gradient of what it makes of that. So it makes of q, afterwards,

            q W + b - α Σ_k (q · h_k + 1) δ_k,

        which costs less while examples are few, and W meets all tasks in one product.
        """
        peers = [list(learner.net.weights) for learner in self.peers or (self,)]
        weights = [torch.stack(same) for same in zip(*peers, strict=True)]
        layers = list(zip(weights[::2], weights[1::2], strict=True))
        second = self.config.order == "second"

        def through(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
            return torch.baddbmm(bias, x.reshape(len(peers), -1, x.shape[-1]), weight).view(*x.shape[:2], -1)

        seen, made = [support.x.reshape(*support.x.shape[:2], -1)], []
        for layer in layers:
            made.append(through(seen[-1], *layer))
            seen.append(made[-1].relu())
        moved = sorted({i // 2 for i in self.adapted})
        # The loss of a batch is a mean over tasks, none of which sees the weights of another.
        loss = len(support.x) * self.task.loss(made[-1], support.y)
        back = torch.autograd.grad(loss, [made[i] for i in moved], create_graph=second)
        moves = {i: (seen[i] if second else seen[i].detach(), each) for i, each in zip(moved, back, strict=True)}
        x = query_x.reshape(*query_x.shape[:2], -1)
        for i, layer in enumerate(layers):
            out = through(x, *layer)
            if i in moves:
                shown, gradients = moves[i]
                out = torch.baddbmm(out, 1 + _Products.apply(x, shown), gradients, alpha=-self.rates[0])
            x = out.relu()
        return out

    def adapt(self, support: Examples, steps: int) -> Iterator[Weights]:
        """Weights after 0, 1, ... steps of gradient descent on each task's mean loss (Finn et al. 2017, algorithm 2).

        They are a function of the parameters that can be differentiated, unless gradients are off. An empty support
        leaves them as they are.
        """
        tasks, shown = support.x.shape[:2]
        weights: Weights = self.of_tasks(lambda learner: learner.net.weights, tasks)
        learned = self.config.rates != "fixed"
        rates: Sequence[Any] = self.of_tasks(lambda learner: learner.rates, tasks) if learned else list(self.rates)
        yield weights
        outer = torch.is_grad_enabled()
        second = outer and self.config.order == "second"
        for step in range(steps):
            if shown:
                with torch.enable_grad():
                    weights = weights if outer else [w.detach().requires_grad_() for w in weights]
                    # The loss of a batch is a mean over tasks, none of which sees the weights of another.
                    loss = tasks * self.task.loss(self.net(self.at(step, weights), support.x, shown), support.y)
                    gradients = torch.autograd.grad(loss, [weights[i] for i in self.adapted], create_graph=second)
                moved = dict(zip(self.adapted, self.moves(rates, step, gradients), strict=True))
                weights = [w - moved[i] if i in moved else w for i, w in enumerate(weights)]
            yield weights

    def moves(self, rates: Sequence[Any], step: int, gradients: Sequence[Tensor]) -> list[Tensor]:
        """Gradients times their rates; steps beyond those of training have the rates of the last."""
        if self.config.rates == "per-step":
            rates = [rate[:, min(step, self.steps - 1)] for rate in rates]
        return [rate * gradient for rate, gradient in zip(rates, gradients, strict=True)]

    def at(self, step: int, weights: Weights) -> Weights:
        """Weights with the scales and shifts of a step, where each has its own."""
        k = min(step, self.steps)
        return [w[:, k : k + 1] if i in self.affine else w for i, w in enumerate(weights)]

    def answer(self, adapted: Weights, support: Examples, query_x: Tensor, step: int) -> Tensor:
        """Predictions of weights after so many steps, the queries normalised as the config says."""
        return answers(self.net, self.at(step, adapted), support, query_x, self.config.batch_norm != "transductive")


class _Products(torch.autograd.Function):
    """x @ shown.mT: [tasks, queries, i] and [tasks, examples, i] to [tasks, queries, examples].

    torch gives `shown` a gradient that is a transposed view, in which the derivative of a ReLU takes 25 times as long.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, shown: Tensor) -> Tensor:
        ctx.save_for_backward(x, shown)
        return x @ shown.mT

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        x, shown = ctx.saved_tensors
        return gradient @ shown, gradient.mT @ x


def importance(progress: float, steps: int) -> list[float]:
    """Shares of the losses after 1, 2, ... steps (Antoniou et al. 2019, section 4): at first equal, then the last.

    progress: from 0, the start, to 1. As in the authors' code no share falls below .03 / steps.
    """
    early = max((1 - progress) / steps, 0.03 / steps)
    return [early] * (steps - 1) + [1 - early * (steps - 1)]


@method("maml", source="Finn et al. 2017, arXiv:1703.03400")
class MAML(AdaptingMethod):
    """Learn an initialisation by the loss after adaptation. The meta-loss is the mean over tasks and their queries.

    The authors' recipes: Omniglot 5-way as the defaults are; 20-way inner_lr .1, train_steps and eval_steps 5, batch
    16; sinusoids batch 25; miniImageNet backbone conv4-32, inner_lr .01, train_steps 5, eval_steps 10, batch 4 (1-shot)
    or 2 (5-shot), where they also clip each element of the meta-gradient to 10. Their code starts dense weights near 0
    and biases at 0, and adapts to sinusoids at .001 unless told otherwise, where the paper says .01. They normalise
    queries by the statistics of the queries (transductive): there each query sees the others. The default is not, and
    its figures are not comparable with theirs.

    Its kin are fields:

    - order=first: first-order MAML.
    - adapts=head: ANIL (Raghu et al. 2020, arXiv:1909.09157); adapts=body: BOIL (Oh et al. 2021, arXiv:2008.08882).
    - rates=each: Meta-SGD (Li et al. 2017, arXiv:1707.09835), a learned rate for every weight, of either sign. All
      start at inner_lr, where the paper draws them from .005 to .1.
    - MAML++ (Antoniou et al. 2019, arXiv:1810.09502) is rates=per-step batch_norm=per-step train_steps=5 inner_lr=.1
      batch=8 multi_step=5000 (miniImageNet: inner_lr .01, batch 2): a learned rate for each step and tensor; scales and
      shifts of each step, which are not adapted; the queries scored after every step at first. Statistics are those of
      the support, where its code takes those of the batch, and queries after k steps have scales and shifts of their
      own, where its code has those of the k-th; its cosine schedule is not here.
    """

    batch: int = option(32, "tasks per training step")
    order: Literal["second", "first"] = option("second", "first: ignore how the inner gradient moves with its start")
    inner_lr: float = option(0.0, "learning rate of adaptation; 0: .4 for classes, .01 for regression")
    train_steps: int = option(1, "gradient steps of adaptation in training")
    eval_steps: int = option(
        0, "gradient steps of adaptation in evaluation; 0: 3 for classes, 10 for values, train_steps with learned rates"
    )
    batch_norm: Literal["support", "transductive", "none", "per-step"] = option(  # type: ignore[assignment]
        "support",
        "statistics for a query: its support's, those of all queries, or no normalisation; "
        "per-step: the support's, with a scale and shift for each step of adaptation",
    )
    adapts: Literal["all", "head", "body"] = option("all", "what adaptation changes; head: the last layer", late=True)
    rates: Literal["fixed", "each", "per-step"] = option(
        "fixed", "inner_lr, or learned: for each weight, or for every step and tensor", late=True
    )
    multi_step: int = option(
        0, "training steps in which queries are scored after earlier steps too, less and less; 0: none", late=True
    )

    def check(self) -> None:
        """Refuse a recipe that cannot train."""
        super().check()
        refuse_ascent(self, self.inner_lr)
        if self.multi_step and not self.train_steps:
            raise BenchError("maml.multi_step scores queries after each of train_steps, and there are none")

    def adaptation(self, task: Task) -> tuple[float, int]:
        """The learning rate of adaptation and its steps in evaluation that 0 means for a task."""
        rate, steps = recipe(task)
        return self.inner_lr or rate, self.eval_steps or (steps if self.rates == "fixed" else self.train_steps)

    def protocol(self, task: Task) -> dict[str, str]:
        """The rate and the steps too; see `Method.protocol`."""
        rate, steps = self.adaptation(task)
        return super().protocol(task) | {"inner_lr": str(rate), "test_steps": str(steps)}

    def build(self, task: Task) -> MAMLLearner:
        """A fresh learner; see `Method.build`."""
        return MAMLLearner(self, task)

    def unsuited(self, task: Task) -> str | None:
        """What learns steps of adaptation from queries needs episodes that have them."""
        if task.online and self.multi_step:
            return "multi_step scores an episode's queries after each step, and an online task has none; leave it 0"
        return super().unsuited(task)

    def stacks(self, task: Task) -> bool:
        """Where all steps count alike; see `TrainedMethod.stacks`."""
        return not self.multi_step and not task.online

    def losses(self, learners: Sequence[Learner], episodes: Sequence[Episode], task: Task) -> list[Tensor]:
        """Those of learners of several seeds in one pass; see `TrainedMethod.losses`."""
        return joint(learners, episodes, task)
