"""Tasks whose episodes are made of images: what Omniglot, the procedural glyphs and miniImageNet have in common.

A task subclasses `FewShotImages` or `OnlineImages` and says where its images are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from bench.api import BenchError, Episode, Examples, Generator, Split, Task, option
from bench.tasks.sampling import Draw, Images, Ints, distinct, few_shot, one_by_one, pictures, presentations, resampled

__all__ = ["FewShotImages", "Images", "OnlineImages"]

LETTERS = 5
"""String labels have so many characters, each one of so many letters (Santoro 2016, section 4.1)."""


@dataclass(frozen=True, kw_only=True)
class FewShotImages(Task):
    """N-way K-shot classification of images: support and query, y int64 in 0..way-1, x in 0..1; of drawings, ink is 1.

    A subclass writes `images` and `classes`, and `x_shape` unless they are grey.
    """

    each: ClassVar[int] = 20
    """Images of each class."""

    way: int = option(5, "classes in an episode")
    shot: int = option(1, "labelled examples of each class")
    query: int = option(15, "examples to classify of each class")
    size: int = option(28, "side of an image in pixels")
    train_way: int = option(0, "way of the training episodes; 0: as way", training=True)
    train_shot: int = option(0, "shot of the training episodes; 0: as shot", training=True)
    train_query: int = option(0, "query of the training episodes; 0: as query", training=True)

    def images(self, split: Split) -> Images:
        """The images of a split; called for every batch, so it must be cheap."""
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
        """Refuse what the classes and images cannot give."""
        _positive(self, "size")
        for split in self.splits:
            task = self.training() if split == "train" else self
            _positive(task, "way", "shot", "query")
            _enough_classes(task, split, task.way, self.classes(split))
            if task.shot + task.query > self.each:
                raise BenchError(
                    f"{self.name}: shot {task.shot} + query {task.query} is {task.shot + task.query}, "
                    f"but a class has {self.each} images; lower one of them"
                )

    def draw(self, split: Split, batch: int, rng: Generator) -> tuple[Draw, Draw]:
        """Which images support and query show."""
        return few_shot(self.images(split), batch, self.way, self.shot, self.query, rng)

    def members(self, split: Split, batch: int, rng: Generator) -> list[list[int]]:
        """The classes of so many episodes, as rows of the images."""
        return [np.unique(row).tolist() for row in self.draw(split, batch, rng)[0].row]

    def sample(self, split: Split, batch: int, rng: Generator) -> Episode:
        """A batch of episodes: support x [batch, way * shot, *x_shape], query likewise."""
        images, shape = self.images(split), (batch, -1, *self.x_shape)
        return Episode(*(_examples(pictures(images, d).view(shape), d.label) for d in self.draw(split, batch, rng)))

    def pool(self, split: Split, count: int, rng: Generator) -> Examples:
        """Images of any class; see `Task.pool`."""
        images = self.images(split)
        drawn = one_by_one(images, count, rng)
        return _examples(pictures(images, drawn).view(1, count, *self.x_shape), drawn.label)


@dataclass(frozen=True, kw_only=True)
class OnlineImages(Task):
    """Santoro et al. 2016, section 4.2: characters shown one after another, each label one step after its image.

    Classes, their labels and quarter turns are drawn anew for each episode. Training images are also turned and
    moved a little; test images go through the same resampling without it, so that both are equally sharp. A subclass
    writes `images` (drawings at a resolution below twice `size`) and `classes`.

    With `persistent` above 1 a sequence is so many episodes in a row, each with classes, labels and turns of its own,
    so that a memory meets each with what the one before left (section 4.2.1). Instances are counted within each.
    Deviation: the paper's memory is never wiped, through all of training; here it is at the end of a sequence, since no
    state survives a call, and gradients flow through the whole sequence. A drawing may come again in a later episode.

    With `start_way` training starts with so many classes and has one more every `way_every` steps, up to `way` (the
    paper's curriculum, figure 4: from 15, one more every 10,000 episodes, which are steps here as its 100,000 in all
    are). A length of 0 grows with the classes, and so do the time and memory of a step. One-hot labels are as wide at
    first as at the end: an episode's classes take theirs at random `among` so many.
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
    persistent: int = option(1, "episodes in a row that a sequence is made of; memory passes from each on", late=True)
    start_way: int = option(0, "classes at the first training step; 0: as way throughout", training=True, late=True)
    way_every: int = option(10000, "training steps after which there is one class more", training=True, late=True)
    among: int = option(0, "one-hot labels that an episode's classes take theirs from; 0: as many as way", late=True)

    def images(self, split: Split) -> Images:
        """The drawings of a split; called for every batch, so it must be cheap."""
        raise NotImplementedError

    def classes(self, split: Split) -> int:
        """Number of classes of a split, without reading data."""
        raise NotImplementedError

    @property
    def steps(self) -> int:
        """Presentations in an episode, of which a sequence has `persistent`."""
        return self.length or 10 * self.way

    @property
    def x_shape(self) -> tuple[int, ...]:
        """A vector of pixels, or one grey channel."""
        return (self.size * self.size,) if self.flat else (1, self.size, self.size)

    @property
    def n_out(self) -> int:
        """One logit a class, or one for each letter in each place of a string."""
        return self.among or self.way if self.labels == "onehot" else LETTERS * LETTERS

    def curriculum(self, step: int) -> OnlineImages:
        """As many classes as a training step has."""
        if not self.start_way:
            return self
        way = min(self.start_way + step // self.way_every, self.way)
        return replace(self, way=way, among=self.n_out if self.labels == "onehot" else 0)

    def check(self) -> None:
        """Refuse what the classes and drawings cannot give."""
        _positive(self, "way", "steps", "size", "persistent", "way_every")
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
        if self.among and (self.among < self.way or self.labels != "onehot"):
            raise BenchError(
                f"{self.name}: among counts one-hot labels, at least as many as way: {self.among} does not fit "
                f"way={self.way} and labels={self.labels}; leave it 0"
            )
        if self.start_way < 0:
            raise BenchError(f"{self.name}: start_way must be 0 (no curriculum), or 1 or more, not {self.start_way}")
        for way in range(self.start_way, self.way) if self.start_way else ():
            replace(self, way=way, start_way=0).check()

    def draw(self, split: Split, batch: int, rng: Generator) -> Draw:
        """Which drawings so many episodes show."""
        images = self.images(split)
        return presentations(images, batch, self.way, self.steps, self.balanced, self.quarter_turns, rng)

    def members(self, split: Split, batch: int, rng: Generator) -> list[list[int]]:
        """The classes that so many sequences show, as rows of the images."""
        row = self.draw(split, batch * self.persistent, rng).row
        return [np.unique(each).tolist() for each in row.reshape(batch, -1)]

    def sample(self, split: Split, batch: int, rng: Generator) -> Episode:
        """A batch of sequences as the query, [batch, persistent · steps, *x_shape]; the support is empty."""
        episodes = batch * self.persistent
        draw = self.draw(split, episodes, rng)
        x = self.render(split, draw, rng)
        y = draw.label
        if self.labels == "string":
            y = _strings(episodes, self.way, rng)[np.arange(episodes)[:, None], y]
        elif self.among > self.way:
            y = distinct(rng, episodes, self.among, self.way)[np.arange(episodes)[:, None], y]
        in_a_row = (batch, self.persistent * self.steps)
        query = _examples(x.view(*in_a_row, *self.x_shape), y.reshape(*in_a_row, *y.shape[2:]))
        return Episode(Examples(query.x[:, :0], query.y[:, :0]), query)

    def pool(self, split: Split, count: int, rng: Generator) -> Examples:
        """Drawings of any class, moved and turned as those of an episode; see `Task.pool`."""
        drawn = one_by_one(self.images(split), count, rng, self.quarter_turns)
        return _examples(self.render(split, drawn, rng).view(1, count, *self.x_shape), drawn.label)

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
        """How often each label has been shown in its episode, up to and including now: [batch, n], from 1."""
        episodes = y.unflatten(1, (self.persistent, -1)).flatten(0, 1)
        same = episodes[:, :, None] == episodes[:, None]
        if y.ndim == 3:
            same = same.all(-1)
        return same.tril().sum(-1).view(y.shape[:2])


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
