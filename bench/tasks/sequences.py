"""What Graves's algorithmic tasks share: bits in, bits out, and no label ever fed back (Graves et al. 2014, §4).

An episode is one sequence, answered at its last steps. The answers are logits of bits. Targets travel as y, [batch,
time, bits + 1] float32: the bits, then a channel that is 1 at the steps that are scored and 0 elsewhere. A network is
shown none of it: an encoded label has width 0.

The sequences of a batch share their length, so that nothing is padded: training draws one length a batch, and
evaluation one for every chunk of ten episodes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from bench.api import BenchError, Episode, Examples, Generator, Task

__all__ = ["BitSequences", "answered_last", "drawn", "random_bits"]


@dataclass(frozen=True, kw_only=True)
class BitSequences(Task):
    """A sequence of bits to be answered with bits; a subclass writes `channels`, `n_out` and `sample`.

    The score is the paper's "bits per sequence": cross-entropy in base 2, summed over all scored bits of a sequence,
    not the number of wrong bits. Knowing nothing costs one bit a bit.
    """

    kind = "regression"
    metric = "bits per sequence"
    higher_is_better = False
    online: ClassVar[bool] = True

    @property
    def channels(self) -> int:
        """Numbers shown at a step."""
        raise NotImplementedError

    @property
    def x_shape(self) -> tuple[int, ...]:
        """The channels."""
        return (self.channels,)

    @property
    def y_size(self) -> int:
        """No label is fed back."""
        return 0

    def check(self) -> None:
        """Refuse counts below one, or below zero where zero means that they are drawn.

        Raises:
            BenchError: which field, and what it may be.
        """
        for f in fields(self):
            value, least = getattr(self, f.name), 0 if f.default == 0 else 1
            if isinstance(value, int) and value < least:
                raise BenchError(f"{self.name}.{f.name} must be at least {least}, not {value}")

    def encode(self, y: Tensor) -> Tensor:
        """Nothing: [..., 0]."""
        return y[..., :0]

    def loss(self, prediction: Tensor, y: Tensor) -> Tensor:
        """Cross-entropy of a sequence in nats, summed over its scored bits; mean over the batch.

        The sum, since the papers' recipes are made for it: their clipping at 10 and RMSProp's ε would mean something
        else for the mean over bits, whose gradients are hundreds of times smaller.
        """
        return (_nats(prediction, y) * y[..., -1:]).sum() / len(y)

    def score(self, prediction: Tensor, y: Tensor) -> Tensor:
        """Cross-entropy in bits, summed over a sequence: [batch]."""
        return (_nats(prediction, y) * y[..., -1:]).sum((1, 2)) / math.log(2)

    def correct(self, prediction: Tensor, y: Tensor) -> Tensor:
        """Steps whose bits are all right, scored or not: [batch, n] bool. A logit of 0 says 0."""
        return ((prediction > 0) == (y[..., :-1] > 0.5)).all(-1)


def _nats(prediction: Tensor, y: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(prediction, y[..., :-1], reduction="none")


def answered_last(x: NDArray[Any], target: NDArray[Any]) -> Episode:
    """The episode in which the last steps of x are scored against target.

    x: [batch, time, channels]; target: [batch, n, bits] with n <= time.
    """
    (batch, time), (n, bits) = x.shape[:2], target.shape[1:]
    y = np.zeros((batch, time, bits + 1), np.float32)
    y[:, time - n :] = np.concatenate((target, np.ones((batch, n, 1))), 2)
    query = Examples(torch.from_numpy(x.astype(np.float32)), torch.from_numpy(y))
    return Episode(Examples(query.x[:, :0], query.y[:, :0]), query)


def random_bits(rng: Generator, *shape: int) -> NDArray[np.int64]:
    """Fair bits."""
    return rng.integers(2, size=shape)


def drawn(fixed: int, least: int, most: int, rng: Generator) -> int:
    """A count for a batch: the fixed one, or where that is 0, one from least to most, equally likely."""
    return fixed or int(rng.integers(least, most + 1))
