"""Model-agnostic meta-learning, all tasks of a meta-batch adapted in one pass."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from baselines.backbones import image_shape, unsuited_image
from bench.api import Episode, Examples, Learner, Task, TrainedMethod, method, option

Backbone = Literal["conv4", "conv4-32", "mlp", "sinusoid"]
Weights = Sequence[Tensor]
"""One tensor for each parameter of a `BatchedNet`, [tasks, *shape]: every task has weights of its own."""

HIDDEN: dict[Backbone, tuple[int, ...]] = {
    "conv4": (64,) * 4, "conv4-32": (32,) * 4, "mlp": (256, 128, 64, 64), "sinusoid": (40, 40),
}  # fmt: skip
EPSILON = 1e-3
"""Added to variances, as in the authors' code; it also bounds what a support of few examples can do to a query."""
REPORTED = (0, 1, 5, 10)
"""`by_step` reports predictions after so many steps, as Finn et al. do for sinusoids."""


class BatchedNet(nn.Module):
    """A network applied with other weights to each task: every layer is one batched matrix product.

    conv4: four 3 × 3 convolutions of stride 2 with 64 channels, then the mean over places (Finn et al. 2017, for
    Omniglot). conv4-32: four of stride 1 with 32 channels, each followed by 2 × 2 max-pooling, and all places (Finn et
    al., for miniImageNet). mlp: dense layers of 256, 128, 64 and 64. sinusoid: dense layers of 40 and 40, never
    normalised. Each hidden layer is product, normalisation, ReLU. Scale and shift of the normalisation adapt like all
    weights, where the authors' code has a shift only, and does not adapt it.
    """

    def __init__(self, backbone: Backbone, x_shape: tuple[int, ...], n_out: int, norm: bool) -> None:
        super().__init__()
        self.image = image_shape(x_shape) if backbone in ("conv4", "conv4-32") else None
        self.pool = backbone == "conv4-32"
        self.norm = norm and backbone != "sinusoid"
        self.weights = nn.ParameterList()
        inputs = self.image[0] if self.image else math.prod(x_shape)
        for width in HIDDEN[backbone]:
            fan_in = 9 * inputs if self.image else inputs
            self._add(_uniform(fan_in, (fan_in, width)))
            if self.norm:
                self._add(torch.ones(1, width))
            self._add(torch.zeros(1, width) if self.norm else _uniform(fan_in, (1, width)))
            inputs = width
        if self.image and self.pool:
            inputs *= (self.image[1] >> 4) * (self.image[2] >> 4)
        self._add(_uniform(inputs, (inputs, n_out)))
        self._add(_uniform(inputs, (1, n_out)))

    def _add(self, value: Tensor) -> None:
        self.weights.append(nn.Parameter(value))

    def forward(self, weights: Weights, x: Tensor, fit: int) -> Tensor:
        """[tasks, n, *x_shape] to [tasks, n, n_out]; the first `fit` examples give the normalisation its statistics."""
        tasks, n = x.shape[:2]
        each = 3 if self.norm else 2
        hidden, (last, bias) = weights[:-2], weights[-2:]
        h = x.reshape(tasks * n, *self.image).permute(0, 2, 3, 1) if self.image else x.reshape(tasks * n, -1)
        for weight, *affine in (hidden[i : i + each] for i in range(0, len(hidden), each)):
            if self.image:
                h = patches(h, 1 if self.pool else 2)
            rows = h.reshape(tasks, -1, weight.shape[1])
            if self.norm:
                rows = _normalised(rows, weight, fit * rows.shape[1] // n, *affine)
            else:
                rows = torch.baddbmm(affine[0], rows, weight)
            h = rows.view(*h.shape[:-1], -1)
            h = (_pooled(h) if self.pool else h).relu()  # pooling and ReLU commute
        if self.image and not self.pool:
            h = h.mean((1, 2))
        return torch.baddbmm(bias, h.view(tasks, n, -1), last)


def _uniform(fan_in: int, shape: tuple[int, ...]) -> Tensor:
    """PyTorch's initialisation of dense and convolutional layers."""
    return torch.empty(shape).uniform_(-1, 1) / math.sqrt(fan_in)


def _normalised(rows: Tensor, weight: Tensor, fit: int, scale: Tensor, shift: Tensor) -> Tensor:
    """The product [tasks, rows, width] normalised by mean and variance of each task's first `fit` rows.

    With fit = 0 it is not normalised. Where the inputs are narrower than the product (the nine pixels of a first
    convolution), its moments come from theirs: it is linear in them, and the wide product is touched once only.
    """
    if not fit:
        return torch.baddbmm(shift, rows, weight * scale)
    narrow = weight.shape[1] < weight.shape[2]
    fitted = rows[:, :fit] if narrow else (rows := rows @ weight)[:, :fit]
    mean = fitted.mean(1, keepdim=True)
    centred = fitted - mean
    if narrow:
        covariance = centred.mT @ centred / fit
        mean, variance = mean @ weight, ((covariance @ weight) * weight).sum(1, keepdim=True)
    else:
        variance = centred.square().mean(1, keepdim=True)
    scale = scale * (variance + EPSILON).rsqrt()
    shift = shift - mean * scale
    return torch.baddbmm(shift, rows, weight * scale) if narrow else torch.addcmul(shift, rows, scale)


def _pooled(x: Tensor) -> Tensor:
    """Largest of each 2 × 2 places: [n, h, w, c] to [n, h / 2, w / 2, c], rounded down."""
    _, height, width, _ = x.shape
    return x[:, : height & -2, : width & -2].unflatten(1, (-1, 2)).unflatten(3, (-1, 2)).amax((2, 4))


def patches(x: Tensor, stride: int = 2) -> Tensor:
    """What a 3 × 3 convolution of padding 1 sees: [n, h, w, c] to [n, h / stride, w / stride, 9 * c], rounded up.

    With it the convolutions of all tasks are one batched matrix product, differentiable any number of times.
    """
    return _Patches.apply(x, stride)


class _Patches(torch.autograd.Function):
    """A linear map, so the derivative of its derivative is itself again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, stride: int) -> Tensor:
        _, *places, channels = x.shape
        ctx.sizes = (*places, stride)
        windows = nn.functional.pad(x, (0, 0, 1, 1, 1, 1)).unfold(1, 3, stride).unfold(2, 3, stride)
        return windows.permute(0, 1, 2, 4, 5, 3).reshape(*windows.shape[:3], 9 * channels)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _Unpatch.apply(gradient, *ctx.sizes), None


class _Unpatch(torch.autograd.Function):
    """The transpose of `_Patches`: adds each patch where it came from."""

    @staticmethod
    def forward(ctx: Any, windows: Tensor, height: int, width: int, stride: int) -> Tensor:
        n, _, _, size = windows.shape
        ctx.stride = stride
        whole = windows.new_zeros(n, height, width, size // 9)
        for k, part in enumerate(windows.split(size // 9, -1)):
            (to_y, from_y), (to_x, from_x) = _line(k // 3, height, stride), _line(k % 3, width, stride)
            whole[:, to_y, to_x] += part[:, from_y, from_x]
        return whole

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        return _Patches.apply(gradient, ctx.stride), None, None, None


def _line(offset: int, length: int, stride: int) -> tuple[slice, slice]:
    """Places along a side that column `offset` (0, 1 or 2) of the windows shows, and the windows that show them."""
    first = 1 if offset == 0 else 0  # column 0 of the first window is padding
    start = first * stride + offset - 1
    count = max(0, min(-(-length // stride) - first, -(-(length - start) // stride)))
    return slice(start, start + count * stride, stride), slice(first, first + count)


class MAMLLearner(Learner):
    """An initialisation from which a few gradient steps on a task's support set fit the task."""

    trained: Tensor

    def __init__(self, config: MAML, task: Task) -> None:
        super().__init__()
        self.config = config
        self.task = task
        self.net = BatchedNet(config.backbone_for(task), task.x_shape, task.n_out, config.batch_norm != "none")
        regression = task.kind == "regression"
        self.eval_steps = config.eval_steps or (10 if regression else 3)
        self.steps = max(config.train_steps, 1)
        weights, head = self.net.weights, len(self.net.weights) - 2
        self.affine: set[int] = set()
        if config.batch_norm == "per-step" and self.net.norm:
            self.affine = {i for i in range(head) if i % 3}
            for i in self.affine:
                weights[i] = nn.Parameter(weights[i].detach().repeat(self.steps + 1, 1))
        part = {"all": range(head + 2), "head": range(head, head + 2), "body": range(head)}[config.adapts]
        self.adapted = [i for i in part if i not in self.affine]
        rate = config.inner_lr or (0.01 if regression else 0.4)
        self.rates: Sequence[float] | nn.ParameterList = [rate] * len(self.adapted)
        if config.rates != "fixed":
            shapes = [weights[i].shape if config.rates == "each" else (self.steps, 1, 1) for i in self.adapted]
            self.rates = nn.ParameterList(torch.full(shape, rate) for shape in shapes)
        if config.multi_step:
            self.register_buffer("trained", torch.zeros((), dtype=torch.int64))

    def forward(self, support: Examples, query_x: Tensor) -> Tensor:
        """Adapt to the support, then answer; the number of steps depends on the mode. Works under `no_grad`."""
        steps = self.config.train_steps if self.training else self.eval_steps
        *_, weights = self.adapt(support, steps)
        return self.answer(weights, support, query_x, steps)

    def by_step(self, support: Examples, query_x: Tensor) -> dict[int, Tensor]:
        """Predictions after 0, 1, 5, 10 and as many steps as `forward` takes in eval mode."""
        reported = {*REPORTED, self.eval_steps}
        path = enumerate(self.adapt(support, max(reported)))
        return {step: self.answer(weights, support, query_x, step) for step, weights in path if step in reported}

    def loss(self, episode: Episode, task: Task) -> Tensor:
        """The loss after adaptation; with `multi_step` a mean over all steps, which becomes that of the last."""
        if not self.config.multi_step or task.online:
            return super().loss(episode, task)
        shares = importance(int(self.trained) / self.config.multi_step, self.steps)
        self.trained += 1
        (x, y), support = episode.query, episode.support
        path = enumerate(self.adapt(support, self.steps))
        losses = [task.loss(self.answer(weights, support, x, step), y) for step, weights in path if step]
        return torch.stack([share * loss for share, loss in zip(shares, losses, strict=True)]).sum()

    def adapt(self, support: Examples, steps: int) -> Iterator[Weights]:
        """Weights after 0, 1, ... steps of gradient descent on each task's mean loss (Finn et al. 2017, algorithm 2).

        They are a function of the parameters that can be differentiated, unless gradients are off. An empty support
        leaves them as they are.
        """
        tasks, shown = support.x.shape[:2]
        weights: Weights = [weight.expand(tasks, *weight.shape) for weight in self.net.weights]
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
                moved = dict(zip(self.adapted, self.moves(step, gradients), strict=True))
                weights = [w - moved[i] if i in moved else w for i, w in enumerate(weights)]
            yield weights

    def moves(self, step: int, gradients: Sequence[Tensor]) -> list[Tensor]:
        """Gradients times their rates; steps beyond those of training have the rates of the last."""
        rates: Sequence[Any] = list(self.rates)
        if self.config.rates == "per-step":
            rates = [rate[min(step, self.steps - 1)] for rate in rates]
        return [rate * gradient for rate, gradient in zip(rates, gradients, strict=True)]

    def at(self, step: int, weights: Weights) -> Weights:
        """Weights with the scales and shifts of a step, where each has its own."""
        k = min(step, self.steps)
        return [w[:, k : k + 1] if i in self.affine else w for i, w in enumerate(weights)]

    def answer(self, weights: Weights, support: Examples, query_x: Tensor, step: int) -> Tensor:
        """Predictions of weights after so many steps, the queries normalised as the config says."""
        return answers(self.net, self.at(step, weights), support, query_x, self.config.batch_norm != "transductive")


def answers(net: BatchedNet, weights: Weights, support: Examples, query_x: Tensor, inductive: bool) -> Tensor:
    """Predictions for queries, normalised by the statistics of the support, or (not inductive) by their own."""
    if net.norm and inductive:
        shown = support.x.shape[1]
        return net(weights, torch.cat((support.x, query_x), 1), shown)[:, shown:]
    return net(weights, query_x, query_x.shape[1])


def importance(progress: float, steps: int) -> list[float]:
    """Shares of the losses after 1, 2, ... steps (Antoniou et al. 2019, section 4): at first equal, then the last.

    progress: from 0, the start, to 1. As in the authors' code no share falls below .03 / steps.
    """
    early = max((1 - progress) / steps, 0.03 / steps)
    return [early] * (steps - 1) + [1 - early * (steps - 1)]


@dataclass(frozen=True, kw_only=True)
class AdaptingMethod(TrainedMethod):
    """A method that adapts the weights of a `BatchedNet` to each task."""

    backbone: Literal["auto", "conv4", "conv4-32", "mlp", "sinusoid"] = option(
        "auto",
        "conv4: stride 2, 64 channels; conv4-32: pooled; mlp: 256-128-64-64; sinusoid: 40-40; auto: by the inputs",
    )
    batch_norm: Literal["support", "transductive", "none"] = option(
        "support", "statistics for a query: its support's, those of all queries, or no normalisation"
    )

    def backbone_for(self, task: Task) -> Backbone:
        """The network that auto means for a task."""
        if self.backbone != "auto":
            return self.backbone
        if image_shape(task.x_shape):
            return "conv4"
        return "sinusoid" if task.kind == "regression" else "mlp"

    def unsuited(self, task: Task) -> str | None:
        """It needs labels to adapt to, and convolutions need images."""
        if not task.y_size:
            return "it learns from labels, and this task shows none"
        image = image_shape(task.x_shape)
        if self.backbone in ("conv4", "conv4-32") and not image:
            return f"backbone={self.backbone} needs images and an input here has shape {list(task.x_shape)}; use mlp"
        return unsuited_image(task.x_shape) if self.backbone == "conv4-32" else None


@method("maml", source="Finn et al. 2017, arXiv:1703.03400")
class MAML(AdaptingMethod):
    """Learn an initialisation by the loss after adaptation. The meta-loss is the mean over tasks and their queries.

    The authors' recipes: Omniglot 5-way as the defaults are; 20-way inner_lr .1, train_steps and eval_steps 5, batch
    16; sinusoids batch 25; miniImageNet backbone conv4-32, inner_lr .01, train_steps 5, eval_steps 10, batch 4 (1-shot)
    or 2 (5-shot), where they also clip each element of the meta-gradient to 10. They normalise queries by the
    statistics of the queries (transductive): there each query sees the others. The default is not, and its figures are
    not comparable with theirs.

    Its kin are fields:

    - order=first: first-order MAML.
    - adapts=head: ANIL (Raghu et al. 2020, arXiv:1909.09157); adapts=body: BOIL (Oh et al. 2021, arXiv:2008.08882).
    - rates=each: Meta-SGD (Li et al. 2017, arXiv:1707.09835), a learned rate for every weight, of either sign. All
      start at inner_lr, where the paper draws them from .005 to .1.
    - MAML++ (Antoniou et al. 2019, arXiv:1810.09502) is rates=per-step batch_norm=per-step multi_step=5000: a learned
      rate for each step and tensor; scales and shifts of each step, which are not adapted; the queries scored after
      every step at first. Statistics are those of the support, where its code takes those of the batch; its cosine
      schedule is not here.
    """

    batch: int = option(32, "tasks per training step")
    order: Literal["second", "first"] = option("second", "first: ignore how the inner gradient moves with its start")
    inner_lr: float = option(0.0, "learning rate of adaptation; 0: .4 for classes, .01 for regression")
    train_steps: int = option(1, "gradient steps of adaptation in training")
    eval_steps: int = option(0, "gradient steps of adaptation in evaluation; 0: 3 for classes, 10 for regression")
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

    def build(self, task: Task) -> MAMLLearner:
        """A fresh learner; see `Method.build`."""
        return MAMLLearner(self, task)
