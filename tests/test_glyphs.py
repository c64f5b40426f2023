"""The procedural characters: their splits, variety and difficulty, and the two tasks on them."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from bench.api import BenchError, Task, generator
from bench.tasks import glyphs
from bench.tasks.glyphs import Characters, Glyphs, GlyphsOnline, draw, glyph_images, invent, rasterise

VERSION_1 = "92eb81b13714139c"
"""First digits of the sha256 of the validation drawings. Where they differ, the task's `version` must."""


def nearest(way: int, shot: int = 1, episodes: int = 200) -> float:
    """Accuracy of the Euclidean nearest neighbour in pixels on test episodes."""
    task = Glyphs(way=way, shot=shot, query=5)
    scores = []
    for support, query in task.episodes("test", episodes, seed=0):
        pairs = torch.cdist(query.x.flatten(2), support.x.flatten(2)).argmin(2)
        scores.append((support.y.gather(1, pairs) == query.y).float().mean())
    return float(torch.stack(scores).mean())


def hashes(images: NDArray[np.uint8]) -> set[bytes]:
    return {hashlib.sha256(image).digest() for image in images.reshape(-1, *images.shape[2:])}


def straight_line(start: tuple[float, float], end: tuple[float, float]) -> Characters:
    """One character of one drawn stroke; the others are there but do not count."""
    knots = np.zeros((1, glyphs.STROKES, 4, 2))
    knots[0, 0] = np.linspace(start, end, 4)
    knots[0, 1:] = np.linspace((-1, -1), (1, 1), 4)
    return Characters(knots, np.arange(glyphs.STROKES)[None] < 1)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_images_have_ink_on_paper(split: str) -> None:
    images = glyph_images(split)
    assert images.shape == (glyphs.CLASSES[split], 20, 28, 28)
    assert images.dtype == np.uint8
    assert (images.max((2, 3)) == 255).all()
    assert (images.min((2, 3)) == 0).all()
    ink = (images > 127).mean((2, 3))
    assert ink.min() > 0.01
    assert ink.max() < 0.5


def test_splits_share_no_drawing_and_classes_none_either() -> None:
    seen = [hashes(glyph_images(split)) for split in glyphs.CLASSES]
    total = sum(glyphs.CLASSES.values()) * glyphs.DRAWINGS
    assert len(set.union(*seen)) == sum(map(len, seen)) == total


def test_splits_share_no_program() -> None:
    programs = [
        {character.tobytes() for character in invent(count, generator("glyphs", glyphs.VERSION, split)).knots}
        for split, count in glyphs.CLASSES.items()
    ]
    assert len(set.union(*programs)) == sum(map(len, programs)) == sum(glyphs.CLASSES.values())


def test_generation_is_a_function_of_its_key() -> None:
    first, again, other = (draw(invent(3, generator(k)), 28, generator(k, "hand")) for k in ("a", "a", "b"))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert hashlib.sha256(glyph_images("val")).hexdigest().startswith(VERSION_1)


def test_cached_images_cannot_be_changed() -> None:
    assert glyph_images("val") is glyph_images("val")
    with pytest.raises(ValueError, match="read-only"):
        glyph_images("val")[0, 0, 0, 0] = 1


def test_all_sizes_show_the_same_drawings() -> None:
    small, large = glyph_images("val", 14)[:10] / 255, glyph_images("val", 28)[:10] / 255
    pooled = large.reshape(10, 20, 14, 2, 14, 2).mean((3, 5))
    same = np.corrcoef(small.reshape(200, -1), pooled.reshape(200, -1))[:200, 200:]
    assert (same.argmax(1) == np.arange(200)).mean() > 0.99


def test_drawings_of_a_class_differ_but_less_than_classes_do() -> None:
    images = torch.from_numpy(glyph_images("test").reshape(-1, 20, 784) / 255).float()
    within = torch.cdist(images, images)
    own = within[:, ~torch.eye(20, dtype=torch.bool)]
    assert own.min() > 0.5
    assert own.mean() < torch.cdist(images[:-1], images[1:]).mean()


def test_characters_fill_their_frame() -> None:
    knots, drawn = invent(50, generator("frame"))
    assert ((drawn.sum(1) >= 2) & drawn[:, 0]).all()
    points = glyphs._bezier(knots, np.linspace(0, 1, glyphs.SEGMENTS + 1))[drawn]
    owner = np.repeat(np.arange(50), drawn.sum(1))
    for character in range(50):
        extent = np.abs(points[owner == character]).max((0, 1))
        assert extent.max() == pytest.approx(1)


def test_a_line_is_drawn_where_it_is_and_evenly_dark() -> None:
    image = rasterise(straight_line((-0.5, 0.25), (0.5, 0.25)), np.array([0.15]), 40)[0]
    rows, columns = np.nonzero(image)
    assert rows.mean() == pytest.approx((0.25 + 1) * 20 - 0.5)  # y points down
    assert columns.mean() == pytest.approx(19.5)
    assert np.ptp(image[:, 14:26].astype(int), axis=1).max() <= 2
    assert ((image > 0) & (image < 255)).any(), "no soft edge"


def test_strokes_that_do_not_count_leave_no_ink() -> None:
    line = straight_line((-0.5, 0.0), (0.5, 0.0))
    moved = line.knots.copy()
    moved[:, 1:] += 0.3
    pen = np.array([0.15])
    assert np.array_equal(rasterise(line, pen, 28), rasterise(line._replace(knots=moved), pen, 28))
    assert not rasterise(line._replace(drawn=np.zeros_like(line.drawn)), pen, 28).any()


def test_a_broader_pen_leaves_more_ink() -> None:
    line = straight_line((-0.5, -0.5), (0.5, 0.5))
    thin, broad = (rasterise(line, np.array([pen]), 28).sum(dtype=int) for pen in glyphs.PEN)
    assert thin < broad


@pytest.mark.parametrize(("way", "low", "high"), [(5, 0.40, 0.60), (20, 0.20, 0.35)])
def test_pixel_neighbours_are_above_chance_and_far_from_solving_it(way: int, low: float, high: float) -> None:
    assert low < nearest(way) < high


def test_pixel_neighbours_gain_from_shots() -> None:
    assert nearest(5, shot=5, episodes=100) > nearest(5, episodes=100) + 0.1


def test_episode_shapes() -> None:
    support, query = Glyphs(way=3, shot=2, query=4).sample("test", 2, generator("a"))
    assert support.x.shape == (2, 6, 1, 28, 28)
    assert query.x.shape == (2, 12, 1, 28, 28)
    assert support.x.dtype == torch.float32
    assert support.y.dtype == torch.int64
    support, query = GlyphsOnline(way=3).sample("test", 2, generator("a"))
    assert support.x.shape == (2, 0, 400)
    assert query.x.shape == (2, 30, 400)


@pytest.mark.parametrize("task", [Glyphs(size=20), GlyphsOnline(size=12), GlyphsOnline(flat=False)])
def test_sizes(task: Task) -> None:
    episode = task.sample("val", 2, generator("a"))
    assert episode.query.x.shape[2:] == task.x_shape
    assert 0.5 < episode.query.x.max() <= 1


def test_online_images_share_the_classes_of_glyphs() -> None:
    assert GlyphsOnline().images("test").pixels is glyph_images("test", 28)
    assert np.array_equal(Glyphs().images("test").rows, np.arange(300))


@pytest.mark.parametrize(
    "task",
    [
        Glyphs(way=101),
        Glyphs(way=0),
        Glyphs(shot=10, query=11),
        Glyphs(train_way=601),
        GlyphsOnline(way=101),
        Glyphs(size=10**6),
        GlyphsOnline(size=glyphs.LARGEST + 1),
    ],
)
def test_what_the_classes_cannot_give_is_refused(task: Task) -> None:
    with pytest.raises(BenchError, match=task.name):
        task.check()


@pytest.mark.parametrize(
    "task", [Glyphs(), Glyphs(way=20, shot=5), Glyphs(train_way=60, train_query=5), GlyphsOnline()]
)
def test_sensible_settings_are_accepted(task: Task) -> None:
    task.check()
    assert (task.dataset, task.version) == (None, glyphs.VERSION)
