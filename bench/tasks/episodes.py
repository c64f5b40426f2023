"""Episodes made from drawings of characters: what Omniglot and the procedural glyphs have in common.

A task subclasses `FewShotImages` or `OnlineImages` and says where its drawings are; everything random is here.
Drawing is split in two: `draw` chooses which drawings are shown (integers, cheap, testable), `sample` renders them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from bench.api import BenchError, Episode, Examples, Generator, Split, Task, option

Ints = NDArray[np.int64]
LETTERS = 5
"""String labels have so many characters, each one of so many letters (Santoro 2016, section 4.1)."""


class Images(NamedTuple):
    """The drawings that one split may show.

    pixels: [rows, drawings, side, side] uint8, ink 255 on paper 0; may be a memory map shared by all splits.
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
    """The drawings of a draw as they are stored (turns ignored): [batch, n, side, side] float32, ink 1, paper 0."""
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


@dataclass(frozen=True, kw_only=True)
class FewShotImages(Task):
    """N-way K-shot classification of drawings: support and query, y int64 in 0..way-1, x in 0..1 with ink 1.

    A subclass writes `images` and `classes`.
    """

    drawings: ClassVar[int] = 20
    """Drawings of each class."""

    way: int = option(5, "classes in an episode")
    shot: int = option(1, "labelled examples of each class")
    query: int = option(15, "examples to classify of each class")
    size: int = option(28, "side of an image in pixels")
    train_way: int = option(0, "way of the training episodes; 0: as way", training=True)
    train_shot: int = option(0, "shot of the training episodes; 0: as shot", training=True)
    train_query: int = option(0, "query of the training episodes; 0: as query", training=True)

    def images(self, split: Split) -> Images:
        """The drawings of a split; called for every batch, so it must be cheap."""
        raise NotImplementedError

    def classes(self, split: Split) -> int:
        """Number of classes of a split, without reading data."""
        raise NotImplementedError

    @property
    def x_shape(self) -> tuple[int, ...]:
        """One grey channel."""
        return (1, self.size, self.size)

    @property
    def n_out(self) -> int:
        """One logit a class."""
        return self.way

    def training(self) -> FewShotImages:
        """This task at the training way, shot and query."""
        return replace(
            self,
            way=self.train_way or self.way,
            shot=self.train_shot or self.shot,
            query=self.train_query or self.query,
        )

    def check(self) -> None:
        """Refuse what the classes and drawings cannot give."""
        _positive(self, "size")
        for split in self.splits:
            task = self.training() if split == "train" else self
            _positive(task, "way", "shot", "query")
            _enough_classes(task, split, task.way, self.classes(split))
            if task.shot + task.query > self.drawings:
                raise BenchError(
                    f"{self.name}: shot {task.shot} + query {task.query} is {task.shot + task.query}, "
                    f"but a class has {self.drawings} drawings; lower one of them"
                )

    def draw(self, split: Split, batch: int, rng: Generator) -> tuple[Draw, Draw]:
        """Which drawings support and query show."""
        return few_shot(self.images(split), batch, self.way, self.shot, self.query, rng)

    def sample(self, split: Split, batch: int, rng: Generator) -> Episode:
        """A batch of episodes: support x [batch, way * shot, 1, size, size], query likewise."""
        images = self.images(split)
        return Episode(*(_examples(pictures(images, d)[:, :, None], d.label) for d in self.draw(split, batch, rng)))


@dataclass(frozen=True, kw_only=True)
class OnlineImages(Task):
    """Santoro et al. 2016, section 4.2: characters shown one after another, each label one step after its image.

    Classes, their labels and quarter turns are drawn anew for each episode. Training images are also turned and
    moved a little; test images go through the same resampling without it, so that both are equally sharp. A subclass
    writes `images` (drawings at a resolution below twice `size`) and `classes`.
    """

    online: ClassVar[bool] = True
    drawings: ClassVar[int] = 20

    way: int = option(5, "classes in an episode")
    length: int = option(0, "presentations in an episode; 0: ten times way")
    balanced: bool = option(False, "every class equally often; otherwise each presentation draws its class")
    labels: Literal["onehot", "string"] = option("onehot", "string: five characters of five letters, drawn anew")
    quarter_turns: bool = option(True, "turn each class by a multiple of 90 degrees, drawn for every episode")
    size: int = option(20, "side of an image in pixels")
    flat: bool = option(True, "pixels as a vector; false: as an image of one channel")
    rotation: float = option(11.25, "training images turn by up to so many degrees either way", training=True)
    shift: float = option(10.0, "training images move by up to so many 105ths of their side", training=True)

    def images(self, split: Split) -> Images:
        """The drawings of a split; called for every batch, so it must be cheap."""
        raise NotImplementedError

    def classes(self, split: Split) -> int:
        """Number of classes of a split, without reading data."""
        raise NotImplementedError

    @property
    def steps(self) -> int:
        """Presentations in an episode."""
        return self.length or 10 * self.way

    @property
    def x_shape(self) -> tuple[int, ...]:
        """A vector of pixels, or one grey channel."""
        return (self.size * self.size,) if self.flat else (1, self.size, self.size)

    @property
    def n_out(self) -> int:
        """One logit a class, or one for each letter in each place of a string."""
        return self.way if self.labels == "onehot" else LETTERS * LETTERS

    def check(self) -> None:
        """Refuse what the classes and drawings cannot give."""
        _positive(self, "way", "steps", "size")
        for split in self.splits:
            _enough_classes(self, split, self.way, self.classes(split))
        if self.steps > self.way * self.drawings:
            raise BenchError(
                f"{self.name}: length {self.steps} is more than {self.way} classes × {self.drawings} drawings; "
                f"at most {self.way * self.drawings} without showing a drawing twice"
            )
        if self.balanced and self.steps % self.way:
            raise BenchError(f"{self.name}: a balanced length must be a multiple of way {self.way}, not {self.steps}")
        if self.rotation < 0 or self.shift < 0:
            raise BenchError(f"{self.name}: rotation {self.rotation} and shift {self.shift} must not be negative")

    def draw(self, split: Split, batch: int, rng: Generator) -> Draw:
        """Which drawings the sequences show."""
        images = self.images(split)
        return presentations(images, batch, self.way, self.steps, self.balanced, self.quarter_turns, rng)

    def sample(self, split: Split, batch: int, rng: Generator) -> Episode:
        """A batch of sequences as the query, [batch, steps, *x_shape]; the support is empty."""
        draw = self.draw(split, batch, rng)
        x = self.render(split, draw, rng).view(batch, self.steps, *self.x_shape)
        y = draw.label
        if self.labels == "string":
            y = _strings(batch, self.way, rng)[np.arange(batch)[:, None], y]
        query = _examples(x, y)
        return Episode(Examples(query.x[:, :0], query.y[:, :0]), query)

    def render(self, split: Split, draw: Draw, rng: Generator) -> Tensor:
        """Images of a draw, [batch * n, size, size]; only training images are moved and turned at random."""
        pixels = pictures(self.images(split), draw).flatten(0, 1)
        angle = draw.turn.ravel() * (math.pi / 2)
        shift = np.zeros((len(pixels), 2))
        if split == "train":
            angle = angle + np.deg2rad(rng.uniform(-self.rotation, self.rotation, angle.shape))
            shift = rng.uniform(-self.shift / 105, self.shift / 105, shift.shape)
        return resampled(pixels, self.size, torch.from_numpy(angle).float(), torch.from_numpy(shift).float())

    def encode(self, y: Tensor) -> Tensor:
        """One-hot label, or five one-hots of five side by side: [..., y_size] float32."""
        if self.labels == "onehot":
            return super().encode(y)
        return F.one_hot(y, LETTERS).flatten(-2).float()

    def loss(self, prediction: Tensor, y: Tensor) -> Tensor:
        """Cross-entropy in nats, mean over presentations; of a string, the sum over its characters."""
        if self.labels == "onehot":
            return super().loss(prediction, y)
        return LETTERS * F.cross_entropy(prediction.reshape(-1, LETTERS), y.flatten())

    def correct(self, prediction: Tensor, y: Tensor) -> Tensor:
        """Right class, or all five characters right: [batch, n] bool."""
        if self.labels == "onehot":
            return super().correct(prediction, y)
        return (prediction.unflatten(-1, (LETTERS, LETTERS)).argmax(-1) == y).all(-1)

    def instances(self, y: Tensor) -> Tensor:
        """How often each label has been shown up to and including now: [batch, n], from 1."""
        same = y[:, :, None] == y[:, None]
        if y.ndim == 3:
            same = same.all(-1)
        return same.tril().sum(-1)


def _strings(batch: int, way: int, rng: Generator) -> Ints:
    """A different string for each class: [batch, way, LETTERS], letters in 0..LETTERS-1."""
    number = distinct(rng, batch, LETTERS**LETTERS, way)
    return number[..., None] // LETTERS ** np.arange(LETTERS) % LETTERS


def _examples(x: Tensor, y: Ints) -> Examples:
    return Examples(x, torch.from_numpy(np.ascontiguousarray(y)))


def _positive(task: Task, *names: str) -> None:
    for name in names:
        if getattr(task, name) < 1:
            raise BenchError(f"{task.name}: {name} must be at least 1, not {getattr(task, name)}")


def _enough_classes(task: Task, split: Split, way: int, classes: int) -> None:
    if way > classes:
        raise BenchError(f"{task.name}: way {way} is more than the {classes} classes of its {split} split")
