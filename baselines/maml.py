"""Model-agnostic meta-learning, all tasks of a meta-batch adapted in one pass."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from baselines.backbones import image_shape
from bench.api import Examples, Learner, Task, TrainedMethod, method, option

Backbone = Literal["conv4", "mlp", "sinusoid"]
Weights = Sequence[Tensor]
"""One tensor for each parameter of a `BatchedNet`, [tasks, *shape]: every task has weights of its own."""

HIDDEN: dict[Backbone, tuple[int, ...]] = {"conv4": (64,) * 4, "mlp": (256, 128, 64, 64), "sinusoid": (40, 40)}
EPSILON = 1e-3
"""Added to variances, as in the authors' code; it also bounds what a support of few examples can do to a query."""
REPORTED = (0, 1, 5, 10)
"""`by_step` reports predictions after so many steps, as Finn et al. do for sinusoids."""


class BatchedNet(nn.Module):
    """A network applied with other weights to each task: every layer is one batched matrix product.

    conv4: four 3 × 3 convolutions of stride 2 with 64 channels, then the mean over places (Finn et al. 2017, for
    Omniglot). mlp: dense layers of 256, 128, 64 and 64. sinusoid: dense layers of 40 and 40, never normalised. Each
    hidden layer is product, normalisation, ReLU. Scale and shift of the normalisation adapt like all weights, where
    the authors' code has a shift only, and does not adapt it.
    """

    def __init__(self, backbone: Backbone, x_shape: tuple[int, ...], n_out: int, norm: bool) -> None:
        super().__init__()
        self.image = image_shape(x_shape) if backbone == "conv4" else None
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
                h = patches(h)
            rows = h.reshape(tasks, -1, weight.shape[1])
            if self.norm:
                rows = _normalised(rows, weight, fit * rows.shape[1] // n, *affine)
            else:
                rows = torch.baddbmm(affine[0], rows, weight)
            h = rows.relu().view(*h.shape[:-1], -1)
        if self.image:
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


def patches(x: Tensor) -> Tensor:
    """What a 3 × 3 convolution of stride 2 and padding 1 sees: [n, h, w, c] to [n, h / 2, w / 2, 9 * c], rounded up.

    With it the convolutions of all tasks are one batched matrix product, differentiable any number of times.
    """
    return _Patches.apply(x)


class _Patches(torch.autograd.Function):
    """A linear map, so the derivative of its derivative is itself again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        _, *ctx.places, channels = x.shape
        windows = nn.functional.pad(x, (0, 0, 1, 1, 1, 1)).unfold(1, 3, 2).unfold(2, 3, 2)
        return windows.permute(0, 1, 2, 4, 5, 3).reshape(*windows.shape[:3], 9 * channels)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _Unpatch.apply(gradient, *ctx.places)


class _Unpatch(torch.autograd.Function):
    """The transpose of `_Patches`: adds each patch where it came from."""

    @staticmethod
    def forward(ctx: Any, windows: Tensor, height: int, width: int) -> Tensor:
        n, _, _, size = windows.shape
        whole = windows.new_zeros(n, height, width, size // 9)
        for k, part in enumerate(windows.split(size // 9, -1)):
            (to_y, from_y), (to_x, from_x) = _line(k // 3, height), _line(k % 3, width)
            whole[:, to_y, to_x] += part[:, from_y, from_x]
        return whole

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return _Patches.apply(gradient), None, None


def _line(offset: int, length: int) -> tuple[slice, slice]:
    """Places along a side that column `offset` (0, 1 or 2) of the windows shows, and the windows that show them."""
    windows = (length + 1) // 2
    if offset == 0:  # column 0 of the first window is padding
        return slice(1, 2 * windows - 2, 2), slice(1, windows)
    places = range(offset - 1, length, 2)
    return slice(offset - 1, length, 2), slice(0, len(places))


class MAMLLearner(Learner):
    """An initialisation from which a few gradient steps on a task's support set fit the task."""

    def __init__(self, config: MAML, task: Task) -> None:
        super().__init__()
        self.config = config
        self.task = task
        self.net = BatchedNet(config.backbone_for(task), task.x_shape, task.n_out, config.batch_norm != "none")
        regression = task.kind == "regression"
        self.rate = config.inner_lr or (0.01 if regression else 0.4)
        self.eval_steps = config.eval_steps or (10 if regression else 3)

    def forward(self, support: Examples, query_x: Tensor) -> Tensor:
        """Adapt to the support, then answer; the number of steps depends on the mode. Works under `no_grad`."""
        steps = self.config.train_steps if self.training else self.eval_steps
        *_, weights = self.adapt(support, steps)
        return self.answer(weights, support, query_x)

    def by_step(self, support: Examples, query_x: Tensor) -> dict[int, Tensor]:
        """Predictions after 0, 1, 5, 10 and as many steps as `forward` takes in eval mode."""
        reported = {*REPORTED, self.eval_steps}
        path = enumerate(self.adapt(support, max(reported)))
        return {step: self.answer(weights, support, query_x) for step, weights in path if step in reported}

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
        for _ in range(steps):
            if shown:
                with torch.enable_grad():
                    weights = weights if outer else [w.detach().requires_grad_() for w in weights]
                    # The loss of a batch is a mean over tasks, none of which sees the weights of another.
                    loss = tasks * self.task.loss(self.net(weights, support.x, shown), support.y)
                    gradients = torch.autograd.grad(loss, weights, create_graph=second)
                weights = [w - self.rate * g for w, g in zip(weights, gradients, strict=True)]
            yield weights

    def answer(self, weights: Weights, support: Examples, query_x: Tensor) -> Tensor:
        """Predictions of adapted weights, the queries normalised as the config says."""
        if self.net.norm and self.config.batch_norm == "support":
            shown = support.x.shape[1]
            return self.net(weights, torch.cat((support.x, query_x), 1), shown)[:, shown:]
        return self.net(weights, query_x, query_x.shape[1])


@method("maml", source="Finn et al. 2017, arXiv:1703.03400")
class MAML(TrainedMethod):
    """Learn an initialisation by the loss after adaptation. The meta-loss is the mean over tasks and their queries.

    The authors' recipes: Omniglot 5-way as the defaults are; 20-way inner_lr .1, train_steps and eval_steps 5, batch
    16; sinusoids batch 25. They normalise queries by the statistics of the queries (transductive): there each query
    sees the others. The default is not, and its figures are not comparable with theirs.
    """

    batch: int = option(32, "tasks per training step")
    order: Literal["second", "first"] = option("second", "first: ignore how the inner gradient moves with its start")
    inner_lr: float = option(0.0, "learning rate of adaptation; 0: .4 for classes, .01 for regression")
    train_steps: int = option(1, "gradient steps of adaptation in training")
    eval_steps: int = option(0, "gradient steps of adaptation in evaluation; 0: 3 for classes, 10 for regression")
    backbone: Literal["auto", "conv4", "mlp", "sinusoid"] = option(
        "auto", "conv4: stride 2, 64 channels; mlp: 256-128-64-64; sinusoid: 40-40; auto: by the task's inputs"
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

    def build(self, task: Task) -> MAMLLearner:
        """A fresh learner; see `Method.build`."""
        return MAMLLearner(self, task)

    def unsuited(self, task: Task) -> str | None:
        """It needs labels to adapt to, and convolutions need images."""
        if not task.y_size:
            return "it learns from labels, and this task shows none"
        if self.backbone == "conv4" and not image_shape(task.x_shape):
            return f"backbone=conv4 needs images and an input here has shape {list(task.x_shape)}; use mlp"
        return None
