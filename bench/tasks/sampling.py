"""Which images an episode shows, all at random and vectorised over a batch, and what they look like.

Drawing lots (`few_shot`, `presentations`: integers, cheap, testable) is apart from making images (`pictures`,
`resampled`).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from bench.api import Generator

Ints = NDArray[np.int64]


class Images(NamedTuple):
    """The images, such as drawings, that one split may show.

    pixels: [rows, drawings, side, side] uint8, ink 255 on paper 0, or [rows, drawings, 3, side, side] in colour; may be
    a memory map shared by all splits.
    rows: [classes] int64, the rows of `pixels` that are this split's classes.
    """

    pixels: NDArray[np.uint8]
    rows: Ints


class Draw(NamedTuple):
    """Which drawings a batch of episodes shows, each [batch, n] int64.

    row and drawing index `Images.pixels`; label is the class within its episode, 0..way-1; turn is a rotation by
    so many quarters anticlockwise.
    """

    row: Ints
    drawing: Ints
    label: Ints
    turn: Ints


def distinct(rng: Generator, rows: int, n: int, k: int) -> Ints:
    """In each row k different integers below n, in random order, every ordered choice equally likely: [rows, k]."""
    if k * k > 2 * n:
        return rng.random((rows, n)).argsort(1)[:, :k]
    picks = rng.integers(n, size=(rows, k))
    while (again := _repeats(picks)).any():  # a row passes with probability about exp(-k²/2n) ≥ 1/e
        picks[again] = rng.integers(n, size=(int(again.sum()), k))
    return picks


def _repeats(picks: Ints) -> NDArray[np.bool_]:
    """Which rows hold a number twice: [rows]."""
    ordered = np.sort(picks, axis=1)
    return (ordered[:, 1:] == ordered[:, :-1]).any(1)


def few_shot(images: Images, batch: int, way: int, shot: int, query: int, rng: Generator) -> tuple[Draw, Draw]:
    """Support and query drawings of N-way K-shot episodes: classes, their labels, drawings and order all random.

    Returns draws of [batch, way * shot] and [batch, way * query]; no drawing is in both.
    """
    classes = images.rows[distinct(rng, batch, len(images.rows), way)]
    shown = distinct(rng, batch * way, images.pixels.shape[1], shot + query).reshape(batch, way, shot + query)
    return _in_random_order(classes, shown[..., :shot], rng), _in_random_order(classes, shown[..., shot:], rng)


def _in_random_order(classes: Ints, shown: Ints, rng: Generator) -> Draw:
    """classes: [batch, way]; shown: [batch, way, each]."""
    batch, way, each = shown.shape
    order = distinct(rng, batch, way * each, way * each)
    label = order // each
    row = np.take_along_axis(classes, label, 1)
    return Draw(row, np.take_along_axis(shown.reshape(batch, -1), order, 1), label, np.zeros_like(label))


def one_by_one(images: Images, count: int, rng: Generator, turned: bool = False) -> Draw:
    """Drawings of all classes, each drawn by itself: [1, count]. The label is the class's place in `images.rows`."""
    label, drawing = (rng.integers(n, size=(1, count)) for n in (len(images.rows), images.pixels.shape[1]))
    turn = rng.integers(4, size=(1, count)) if turned else np.zeros((1, count), np.int64)
    return Draw(images.rows[label], drawing, label, turn)


def presentations(
    images: Images, batch: int, way: int, length: int, balanced: bool, turned: bool, rng: Generator
) -> Draw:
    """Sequences for the online protocol, [batch, length]; no drawing comes twice in a sequence.

    Unbalanced, each presentation draws its class uniformly (Santoro 2016; a class may be absent), except that a class
    whose drawings are used up is drawn no more.
    """
    drawings = images.pixels.shape[1]
    classes = images.rows[distinct(rng, batch, len(images.rows), way)]
    if balanced:
        label = distinct(rng, batch, length, length) % way
    else:
        label = _uniform_labels(batch, length, way, drawings, rng)
    shown = distinct(rng, batch * way, drawings, drawings).reshape(batch, way, drawings)
    episode = np.arange(batch)[:, None]
    turns = rng.integers(4, size=(batch, way)) if turned else np.zeros((batch, way), np.int64)
    drawing = shown[episode, label, counts(label, way) - 1]
    return Draw(classes[episode, label], drawing, label, turns[episode, label])


def _uniform_labels(batch: int, length: int, way: int, limit: int, rng: Generator) -> Ints:
    """Labels drawn uniformly with no label more than `limit` times in a row."""
    label = rng.integers(way, size=(batch, length))
    while (over := counts(label, way) > limit).any():
        label[over] = rng.integers(way, size=int(over.sum()))
    return label


def counts(label: Ints, way: int) -> Ints:
    """How often each label has come up to and including now, from 1: [batch, n]."""
    so_far = (label[..., None] == np.arange(way)).cumsum(1)
    return np.take_along_axis(so_far, label[..., None], 2)[..., 0]


def pictures(images: Images, draw: Draw) -> Tensor:
    """The drawings of a draw as they are stored (turns ignored), 255 as 1: [batch, n, side, side] float32, or in colour
    [batch, n, 3, side, side]."""
    drawings, *shape = images.pixels.shape[1:]
    ink = np.take(images.pixels.reshape(-1, *shape), draw.row * drawings + draw.drawing, axis=0)
    return torch.from_numpy(ink).float().div_(255)


def resampled(pixels: Tensor, size: int, angle: Tensor, shift: Tensor) -> Tensor:
    """Images turned about their centre, then moved, and read bilinearly on a size × size grid; outside is paper.

    pixels: [n, side, side]; angle: [n] radians anticlockwise; shift: [n, 2] right and down, in widths of the image.
    Returns [n, size, size]. There is no filter against aliasing: `side` should be below twice `size`.
    """
    cos, sin = angle.cos(), angle.sin()
    # Where in the source an output point p lies: R⁻¹(p - s), in coordinates from -1 to 1 with y down.
    inverse = torch.stack([cos, -sin, sin, cos], 1).view(-1, 2, 2)
    origin = -(inverse @ (2 * shift)[..., None])
    points = torch.cat([inverse, origin], 2) @ _grid(size)  # F.affine_grid does this ten times slower
    at = points.view(-1, 2, size, size).permute(0, 2, 3, 1)
    return F.grid_sample(pixels[:, None], at, align_corners=False)[:, 0]


def _grid(size: int) -> Tensor:
    """Centres of the pixels of a size × size image as x, y, 1: [3, size²]."""
    centre = (2 * torch.arange(size) + 1) / size - 1
    return torch.stack([centre.repeat(size), centre.repeat_interleave(size), torch.ones(size * size)])
