"""Encoders: one input to one vector. None mixes inputs with one another (no BatchNorm: it would show the future)."""

from __future__ import annotations

import math
from typing import Literal

from torch import Tensor, nn

from bench.api import BenchError

EncoderName = Literal["flat", "mlp", "conv", "rnn"]


class Encoder(nn.Module):
    """[batch, time, *x_shape] to [batch, time, size]; each input by itself."""

    def __init__(self, x_shape: tuple[int, ...], net: nn.Module, size: int) -> None:
        super().__init__()
        self.x_shape = x_shape
        self.net = net
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        """Encode every input of every sequence."""
        batch, time = x.shape[:2]
        return self.net(x.reshape(batch * time, *self.x_shape)).reshape(batch, time, self.size)


class RowReader(nn.Module):
    """A GRU over the rows of an input, top to bottom; its last state is the code. [n, (channels,) rows, columns]."""

    def __init__(self, x_shape: tuple[int, ...], size: int) -> None:
        super().__init__()
        self.gru = nn.GRU(math.prod(x_shape[:-2]) * x_shape[-1], size, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        """Channels of a row side by side; [n, size]."""
        rows = x if x.dim() == 3 else x.transpose(1, 2).flatten(2)
        return self.gru(rows)[0][:, -1]


def unsuited_encoder(kind: str, x_shape: tuple[int, ...]) -> str | None:
    """Why an encoder cannot read inputs of a shape, in a few words; None where it can."""
    if kind == "conv" and (len(x_shape) not in (2, 3) or min(x_shape[-2:]) < 2):
        return f"encoder=conv needs images and an input here has shape {list(x_shape)}; use flat or mlp"
    if kind == "rnn" and len(x_shape) not in (2, 3):
        return f"encoder=rnn reads rows one by one and an input here has shape {list(x_shape)}; use flat or mlp"
    return None


def make_encoder(kind: str, x_shape: tuple[int, ...], size: int) -> Encoder:
    """The encoder of a name.

    "flat": the input as it is. "mlp": two layers. "conv": four blocks of convolution, images only; Conv4 at size=64, a
    small CNN below. "rnn": a GRU over rows, for sequences and images.

    size: width of the mlp's layers, channels of the conv net, units of the rnn; "flat" has none.

    Raises:
        BenchError: an encoder for inputs of another shape.
    """
    reason = unsuited_encoder(kind, x_shape)
    if reason:
        raise BenchError(reason)
    if kind == "conv":
        return _conv(x_shape, size)
    if kind == "rnn":
        return Encoder(x_shape, RowReader(x_shape, size), size)
    width = math.prod(x_shape)
    if kind == "flat":
        return Encoder(x_shape, nn.Flatten(), width)
    net = nn.Sequential(nn.Flatten(), nn.Linear(width, size), nn.ReLU(), nn.Linear(size, size), nn.ReLU())
    return Encoder(x_shape, net, size)


def _conv(x_shape: tuple[int, ...], size: int) -> Encoder:
    """Conv4 (Vinyals et al. 2016) with GroupNorm in place of BatchNorm, pooled while there is something to pool."""
    channels, (height, width) = math.prod(x_shape[:-2]), x_shape[-2:]
    layers: list[nn.Module] = [nn.Unflatten(1, (1, height))] if len(x_shape) == 2 else []
    for _ in range(4):
        layers += [nn.Conv2d(channels, size, 3, padding=1), nn.GroupNorm(1, size), nn.ReLU()]
        if min(height, width) > 1:
            layers.append(nn.MaxPool2d(2))
            height, width = height // 2, width // 2
        channels = size
    return Encoder(x_shape, nn.Sequential(*layers, nn.Flatten()), size * height * width)
