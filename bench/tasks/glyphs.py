"""Characters of invented alphabets, made from a fixed key: the data that is always there, with no file to read.

A character is a random program of two to four pen strokes; a drawing repeats it with an unsteady hand. In style and
in difficulty for pixel neighbours the drawings are close to Omniglot's (Lake et al. 2015), of which nothing is used.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.api import BenchError, Generator, Split, generator, option, task
from bench.tasks.episodes import FewShotImages, Images, OnlineImages

Array = NDArray[np.float64]

VERSION = 1
CLASSES: dict[Split, int] = {"train": 600, "val": 100, "test": 300}
DRAWINGS = 20

STROKES = 4
CELLS = np.stack(np.meshgrid((-1, 0, 1), (-1, -1 / 3, 1 / 3, 1)), -1).reshape(-1, 2)
CELL_SPREAD = 0.15
STRAIGHT = 0.4
BEND = 0.7
COUNTS = {2: 0.3, 3: 0.4, 4: 0.3}
JOINS = {"end": 0.4, "start": 0.25, "middle": 0.2, "apart": 0.15}

EXTENT = 0.68
KNOT_JITTER, STROKE_JITTER, SHIFT = 0.07, 0.05, 0.12
ROTATION, SHEAR, LOG_SCALE = 0.2, 0.2, 0.15
PEN = (0.10, 0.15)
SEGMENTS = 32
CHUNK = 100
LARGEST = 105
"""Side of an image in pixels, as of Omniglot's drawings; all 20,000 are kept at hand."""


class Characters(NamedTuple):
    """Programs of characters in a frame of -1..1, y pointing down.

    knots: [n, STROKES, 4, 2] control points of cubic Bézier strokes. drawn: [n, STROKES] bool, which strokes count.
    """

    knots: Array
    drawn: NDArray[np.bool_]


@cache
def glyph_images(split: Split, size: int = 28) -> NDArray[np.uint8]:
    """All drawings of a split: [classes, 20, size, size], ink 255 on paper 0; made once a process, read-only.

    Classes of different splits come from different random streams. Every size shows the same drawings. Arithmetic is
    in float64 and rounded to 256 grey levels, so that machines whose last bits differ still agree on the images.
    """
    rng = generator("glyphs", VERSION, split)
    images = draw(invent(CLASSES[split], rng), size, rng)
    images.setflags(write=False)
    return images


def invent(count: int, rng: Generator) -> Characters:
    """Random programs of `count` characters, each scaled and centred to fill the frame.

    Strokes end in different cells of a loose 3×4 grid; all but the first may start on the end, the start or the middle
    of the stroke before. A stroke is straight, or bent at each third of its length to either side.
    """
    cells = rng.permuted(np.tile(np.arange(len(CELLS)), (count, 1)), axis=1)[:, : 2 * STROKES]
    ends = CELLS[cells].reshape(count, STROKES, 2, 2) + rng.uniform(-CELL_SPREAD, CELL_SPREAD, (count, STROKES, 2, 2))
    bend = rng.normal(0, BEND, (count, STROKES, 2, 1)) * (rng.random((count, STROKES, 1, 1)) >= STRAIGHT)
    join = rng.choice(len(JOINS), (count, STROKES, 1), p=list(JOINS.values()))
    knots = np.empty((count, STROKES, 4, 2))
    for s in range(STROKES):
        start, end = ends[:, s, 0], ends[:, s, 1]
        if s > 0:
            before = knots[:, s - 1]
            start = np.choose(join[:, s], (before[:, 3], before[:, 0], _bezier(before, np.array([0.5]))[:, 0], start))
        along = end - start
        across = np.stack((-along[:, 1], along[:, 0]), -1)
        inner = (start + along * third / 3 + across * bend[:, s, third - 1] for third in (1, 2))
        knots[:, s] = np.stack((start, *inner, end), 1)
    drawn = np.arange(STROKES) < rng.choice(np.array(list(COUNTS)), (count, 1), p=list(COUNTS.values()))
    return Characters(_fit(knots, drawn), drawn)


def draw(characters: Characters, size: int, rng: Generator) -> NDArray[np.uint8]:
    """Twenty drawings of each character: [n, 20, size, size].

    Each is a hand of its own (no drawer is shared between characters, whose style could give labels away): control
    points and strokes wobble, the whole is scaled, sheared, turned and shifted, and the pen's width changes.
    """
    knots, drawn = np.repeat(characters.knots, DRAWINGS, 0), np.repeat(characters.drawn, DRAWINGS, 0)
    count = len(knots)
    knots = knots + rng.normal(0, KNOT_JITTER, knots.shape) + rng.normal(0, STROKE_JITTER, (count, STROKES, 1, 2))
    knots = EXTENT * knots @ _affine(count, rng)[:, None] + rng.normal(0, SHIFT, (count, 1, 1, 2))
    # a pen no wider than a pixel would break into dots at low resolution
    pen = rng.uniform(*PEN, count) * (1 + 4 / size)
    chunks = [slice(i, i + CHUNK) for i in range(0, count, CHUNK)]
    images = np.concatenate([rasterise(Characters(knots[c], drawn[c]), pen[c], size) for c in chunks])
    return images.reshape(-1, DRAWINGS, size, size)


def rasterise(characters: Characters, pen: Array, size: int) -> NDArray[np.uint8]:
    """Anti-aliased images of characters: [n, size, size], ink 255.

    Ink is the integral along the strokes of a smooth bump, (1 - d²)³ in x times the same in y for d < 1 pen, so an
    image is one product of two matrices. Clipping its steep flank gives a line of even darkness with soft edges.
    """
    points = _bezier(characters.knots, np.linspace(0, 1, SEGMENTS + 1))
    middle = ((points[..., 1:, :] + points[..., :-1, :]) / 2).reshape(len(pen), -1, 2)
    length = np.linalg.norm(np.diff(points, axis=-2), axis=-1) * characters.drawn[..., None]
    pixels = (np.arange(size) + 0.5) * 2 / size - 1
    distance = (middle[..., None] - pixels) / pen[:, None, None, None]
    core = np.maximum(1 - distance * distance, 0)
    bump = core * core * core
    weight = length.reshape(len(pen), -1, 1) / pen[:, None, None]
    ink = bump[:, :, 1].swapaxes(1, 2) @ (bump[:, :, 0] * weight)
    return np.rint(255 * np.clip(2.5 * (ink - 0.1), 0, 1)).astype(np.uint8)


def _bezier(knots: Array, at: Array) -> Array:
    """Points of cubic Bézier curves [..., 4, 2] at times in 0..1: [..., times, 2]."""
    back = 1 - at
    return np.stack((back**3, 3 * at * back**2, 3 * at**2 * back, at**3), -1) @ knots


def _fit(knots: Array, drawn: NDArray[np.bool_]) -> Array:
    """The same characters with their drawn strokes centred and their longer side from -1 to 1."""
    points = _bezier(knots, np.linspace(0, 1, SEGMENTS + 1))
    mask = drawn[..., None, None]
    low = points.min((1, 2), where=mask, initial=np.inf)
    high = points.max((1, 2), where=mask, initial=-np.inf)
    half = ((high - low) / 2).max(-1)
    return (knots - ((low + high) / 2)[:, None, None]) / half[:, None, None, None]


def _affine(count: int, rng: Generator) -> Array:
    """Random scaling, shear and rotation, in this order, of row vectors: [count, 2, 2]."""
    angle, shear = rng.normal(0, ROTATION, count), rng.normal(0, SHEAR, count)
    cos, sin = np.cos(angle), np.sin(angle)
    rows = ((cos, sin), (shear * cos - sin, shear * sin + cos))
    scale = np.exp(rng.normal(0, LOG_SCALE, (count, 2, 1)))
    return scale * np.stack([np.stack(row, -1) for row in rows], 1)


@task("glyphs", source="procedural characters; protocol of Vinyals et al. 2016, arXiv:1606.04080")
class Glyphs(FewShotImages):
    """N-way K-shot episodes of invented characters: 600 classes to train on, 100 to validate, 300 to test.

    Nearest neighbours in pixels reach about 50 % (5-way 1-shot) and 28 % (20-way), an embedding network over 95 %.
    """

    version = VERSION

    def images(self, split: Split) -> Images:
        """All drawings of a split, made on the first call."""
        return _images(split, self.size)

    def classes(self, split: Split) -> int:
        """600, 100 or 300."""
        return CLASSES[split]

    def check(self) -> None:
        """Refuse what the classes and drawings cannot give."""
        super().check()
        _small_enough(self.name, self.size)


@task("glyphs-online", source="procedural characters; protocol of Santoro et al. 2016, arXiv:1605.06065")
class GlyphsOnline(OnlineImages):
    """Invented characters shown one after another, each label one step late; the classes are those of `glyphs`.

    Training images are not turned or moved further by default: one drawing differs enough from the next.
    """

    version = VERSION

    rotation: float = option(0.0, "training images turn by up to so many degrees either way", training=True)
    shift: float = option(0.0, "training images move by up to so many 105ths of their side", training=True)

    def images(self, split: Split) -> Images:
        """All drawings of a split at 1.4 times the side they are resampled to, made on the first call."""
        return _images(split, round(1.4 * self.size))

    def classes(self, split: Split) -> int:
        """600, 100 or 300."""
        return CLASSES[split]

    def check(self) -> None:
        """Refuse what the classes and drawings cannot give."""
        super().check()
        _small_enough(self.name, self.size)


def _small_enough(name: str, size: int) -> None:
    if size > LARGEST:
        raise BenchError(f"{name}: size {size} is more than {LARGEST}, too large to keep all drawings at hand")


def _images(split: Split, size: int) -> Images:
    return Images(glyph_images(split, size), np.arange(CLASSES[split]))
