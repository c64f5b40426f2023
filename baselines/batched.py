"""Networks of which each task has weights of its own, in one pass. Nothing is registered here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from baselines.backbones import image_shape
from bench.api import Examples

Backbone = Literal["conv4", "conv4-32", "mlp", "sinusoid"]
Weights = Sequence[Tensor]
"""One tensor for each parameter of a `BatchedNet`, [tasks, *shape]: every task has weights of its own."""

HIDDEN: dict[Backbone, tuple[int, ...]] = {
    "conv4": (64,) * 4, "conv4-32": (32,) * 4, "mlp": (256, 128, 64, 64), "sinusoid": (40, 40),
}  # fmt: skip
EPSILON = 1e-3
"""Added to variances, as in the authors' code; it also bounds what a support of few examples can do to a query."""


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
    # Before they are scaled, so that those which equal the mean become `shift` exactly: 0 at first, where else rounding
    # would decide what a ReLU lets through.
    rows = rows - fitted.mean(1, keepdim=True)
    centred = rows[:, :fit]
    if narrow:
        covariance = centred.mT @ centred / fit
        variance = ((covariance @ weight) * weight).sum(1, keepdim=True)
    else:
        variance = centred.square().mean(1, keepdim=True)
    scale = scale * (variance + EPSILON).rsqrt()
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


def answers(net: BatchedNet, weights: Weights, support: Examples, query_x: Tensor, inductive: bool) -> Tensor:
    """Predictions for queries, normalised by the statistics of the support, or (not inductive) by their own."""
    if net.norm and inductive:
        shown = support.x.shape[1]
        return net(weights, torch.cat((support.x, query_x), 1), shown)[:, shown:]
    return net(weights, query_x, query_x.shape[1])
