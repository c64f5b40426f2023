"""Embedding networks that baselines share. Nothing is registered here."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.grad import conv2d_weight

Backbone = Literal["auto", "conv4", "conv4-32", "resnet12", "mlp"]

CHANNELS = 64
CHUNK = 16
"""Images that the first layer works on at once: what it makes of them (6 MB at 28 × 28) stays in the cache."""


def image_shape(x_shape: tuple[int, ...]) -> tuple[int, int, int] | None:
    """Channels, height and width of inputs that are images; a vector of 16² or more numbers is one if it is square.

    None where inputs are not images.
    """
    if len(x_shape) == 3:
        return x_shape[0], x_shape[1], x_shape[2]
    if len(x_shape) == 2:
        return 1, x_shape[0], x_shape[1]
    side = math.isqrt(math.prod(x_shape))
    return (1, side, side) if side >= 16 and x_shape == (side * side,) else None


class Conv4(nn.Module):
    """Four blocks of 3 × 3 convolution, BatchNorm, ReLU and 2 × 2 max-pooling (Vinyals et al. 2016: 64 channels).

    [n, channels, height, width], sides of at least 16, to [n, size]: 64 at 28 × 28, 1600 at 84 × 84. The convolutions
    have no bias: the normalisation would take it away again. `forward` gives what `reference` gives, values and
    gradients, in about a third of the time on a CPU:

    - Pooling comes before ReLU; they commute, and ReLU has a quarter of the work.
    - Channels are the last dimension in memory, which the convolutions want.
    - The first layer, a ninth of the arithmetic but most of the memory traffic, is `_first`.
    """

    def __init__(self, channels: int, height: int, width: int, filters: int = CHANNELS) -> None:
        super().__init__()
        inputs = [channels, *[filters] * 3]
        self.convolutions = nn.ModuleList(nn.Conv2d(n, filters, 3, padding=1, bias=False) for n in inputs)
        self.norms = nn.ModuleList(nn.BatchNorm2d(filters) for _ in inputs)
        self.size = filters * (height >> 4) * (width >> 4)

    def forward(self, x: Tensor) -> Tensor:
        """Embed images; in training mode BatchNorm sees all of x. The input gets no gradient on a CPU."""
        if x.device.type != "cpu" or x.requires_grad:
            return self.reference(x)
        h = self._first(x)
        for convolution, norm in zip(self.convolutions[1:], self.norms[1:], strict=True):
            h = F.max_pool2d(norm(convolution(h)), 2).relu()
        return h.flatten(1)

    def reference(self, x: Tensor) -> Tensor:
        """The same, as the paper says it."""
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = F.max_pool2d(norm(convolution(x)).relu(), 2)
        return x.flatten(1)

    def _first(self, x: Tensor) -> Tensor:
        """The first block, without its full-size output [n, filters, height, width].

        A convolution is linear in its patches, so the mean and variance of its output follow from those of the
        patches, and the normalisation becomes a scale of the weights, before, and a shift, after pooling.
        """
        weight, norm = cast(Tensor, self.convolutions[0].weight), cast(nn.BatchNorm2d, self.norms[0])
        if self.training:
            mean, variance = _output_moments(x, weight)
            _follow(norm, mean, variance, x.numel() // x.shape[1])
        else:
            mean, variance = cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)
        scale = norm.weight * (variance + norm.eps).rsqrt()
        pooled = _ConvolveMax.apply(x, _four_shifts(weight * scale[:, None, None, None]))
        return (pooled + (norm.bias - mean * scale)).relu().permute(0, 3, 1, 2)


def _output_moments(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance, [out], of a 3 × 3 convolution's output over all images and places, from x alone."""
    _, _, height, width = x.shape
    padded = F.pad(x, (1, 1, 1, 1)).transpose(0, 1)
    patches = torch.stack([padded[:, :, i : i + height, j : j + width] for i in range(3) for j in range(3)], 1)
    patches = patches.flatten(2).flatten(0, 1)
    centre = patches.mean(1, keepdim=True)
    patches -= centre
    covariance = patches @ patches.T / patches.shape[1]
    rows = weight.flatten(1)
    return (rows @ centre)[:, 0], ((rows @ covariance) * rows).sum(1)


def _follow(norm: Any, mean: Tensor, variance: Tensor, n: int) -> None:
    """Move BatchNorm's running averages as it does itself, the variance without bias."""
    with torch.no_grad():
        norm.running_mean.lerp_(mean, norm.momentum)
        norm.running_var.lerp_(variance * n / (n - 1), norm.momentum)
        norm.num_batches_tracked.add_(1)


def _four_shifts(weight: Tensor) -> Tensor:
    """3 × 3 kernels as they act at the four places of a pooling window: [4 * out, in, 4, 4], to be used at stride 2."""
    shifts = [F.pad(weight, (j, 1 - j, i, 1 - i)) for i in range(2) for j in range(2)]
    return torch.cat(shifts).contiguous(memory_format=torch.channels_last)


def _convolve(x: Tensor, weight: Tensor) -> Tensor:
    """[n, in, height, width] to [n, height / 2, width / 2, 4, out]: all four outputs of each pooling window."""
    return F.conv2d(x, weight, stride=2, padding=1).permute(0, 2, 3, 1).unflatten(3, (4, -1))


class _ConvolveMax(torch.autograd.Function):
    """Largest of the four convolutions of `_four_shifts` at each place: [n, height / 2, width / 2, out].

    Chunk by chunk, and once more in the backward pass, which is cheaper than to write the output out and read it.
    Where several are largest (blank paper) they share the gradient.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        x = x.to(memory_format=torch.channels_last)
        largest = torch.cat([_convolve(part, weight).amax(3) for part in x.split(CHUNK)])
        ctx.save_for_backward(x, weight, largest)
        return largest

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        x, weight, largest = ctx.saved_tensors
        total = torch.zeros_like(weight)
        for part, top, flow in zip(*(t.split(CHUNK) for t in (x, largest, gradient)), strict=True):
            share = _convolve(part, weight)
            torch.eq(share, top.unsqueeze(3), out=share)
            share *= (flow / share.sum(3)).unsqueeze(3)
            total += conv2d_weight(part, weight.shape, share.flatten(3).permute(0, 3, 1, 2), stride=2, padding=1)
        return None, total


class ResNet12(nn.Module):
    """Four residual blocks of three 3 × 3 convolutions, each halved by max-pooling, then the mean over places.

    64, 160, 320 and 640 channels, BatchNorm and LeakyReLU of slope .1 (Lee et al. 2019, MetaOptNet, arXiv:1904.03758).
    [n, channels, height, width], sides of at least 16, to [n, 640]. Deviations: no DropBlock, and a mean where
    MetaOptNet keeps all places.
    """

    size = 640

    def __init__(self, channels: int) -> None:
        super().__init__()
        widths = (64, 160, 320, self.size)
        self.blocks = nn.ModuleList(_Residual(n, m) for n, m in zip((channels, *widths), widths, strict=False))

    def forward(self, x: Tensor) -> Tensor:
        """Embed images."""
        x = x.contiguous(memory_format=torch.channels_last)
        for block in self.blocks:
            x = block(x)
        return x.mean((2, 3))


class _Residual(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.path = nn.Sequential(
            *_normalised(inputs, outputs, 3), nn.LeakyReLU(0.1),
            *_normalised(outputs, outputs, 3), nn.LeakyReLU(0.1),
            *_normalised(outputs, outputs, 3),
        )  # fmt: skip
        self.beside = nn.Sequential(*_normalised(inputs, outputs, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(F.leaky_relu(self.path(x) + self.beside(x), 0.1), 2)


def _normalised(inputs: int, outputs: int, side: int) -> tuple[nn.Module, nn.Module]:
    return nn.Conv2d(inputs, outputs, side, padding=side // 2, bias=False), nn.BatchNorm2d(outputs)


def make_backbone(name: Backbone, x_shape: tuple[int, ...]) -> tuple[nn.Module, int]:
    """A network from [n, *x_shape] to [n, size], and its size.

    "auto" is Conv4 for images and "mlp" for vectors: two dense layers, without BatchNorm, which needs many examples.
    """
    image = image_shape(x_shape)
    if name == "mlp" or not image:
        net = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(x_shape), 256), nn.ReLU(), nn.Linear(256, CHANNELS))
        return net, CHANNELS
    if name == "resnet12":
        resnet = ResNet12(image[0])
        return nn.Sequential(nn.Flatten(), nn.Unflatten(1, image), resnet), resnet.size
    conv4 = Conv4(*image, 32 if name == "conv4-32" else CHANNELS)
    return nn.Sequential(nn.Flatten(), nn.Unflatten(1, image), conv4), conv4.size


def unsuited_backbone(name: Backbone, x_shape: tuple[int, ...]) -> str | None:
    """Why a backbone cannot read inputs of a shape; None where it can."""
    image = image_shape(x_shape)
    if name == "mlp" or (name == "auto" and not image):
        return None
    if not image:
        return f"backbone={name} needs images and an input here has shape {list(x_shape)}; use mlp"
    return unsuited_image(x_shape)


def unsuited_image(x_shape: tuple[int, ...]) -> str | None:
    """Why a backbone that halves an image four times cannot read one of a shape; None where it can."""
    image = image_shape(x_shape)
    if image and min(image[1:]) < 16:
        size = f"{image[1]} × {image[2]}"
        return f"the backbone halves an image four times and this one is {size}; 16 × 16 at least, or use backbone=mlp"
    return None


def dense(*sizes: int) -> nn.Sequential:
    """Dense layers of these sizes, the first that of the input, with ReLU between them."""
    layers = [layer for n, m in pairwise(sizes) for layer in (nn.Linear(n, m), nn.ReLU())]
    return nn.Sequential(*layers[:-1])
