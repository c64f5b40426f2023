"""Episodes of drawings: who may be shown with whom, chances, geometry; then Omniglot and Lake's runs on top."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats
from torch.nn import functional as F
from torch.testing import assert_close

from bench import data
from bench.api import BenchError, Examples, Split, Task
from bench.archives import LakeRuns
from bench.config import override
from bench.seeding import generator
from bench.tasks.episodes import FewShotImages, Images, OnlineImages
from bench.tasks.lake import Background, Lake
from bench.tasks.omniglot import CHARACTERS, Omniglot, OmniglotOnline
from bench.tasks.sampling import counts, distinct, few_shot, pictures, presentations, resampled

RARE = 1e-6
"""Tests of chance are of fixed seeds; a fair sampler would fail one in a million."""


def toy(classes: int = 30, drawings: int = 20, side: int = 14) -> Images:
    """Different drawings; the rows of the split are not the first ones."""
    pixels = generator("toy").integers(256, size=(classes + 5, drawings, side, side), dtype=np.uint8)
    return Images(pixels, np.arange(5, classes + 5))


class ToyImages(FewShotImages):
    name = "toy"

    def images(self, split: Split) -> Images:
        return toy(side=self.size)

    def classes(self, split: Split) -> int:
        return 30


class ToyOnline(OnlineImages):
    name = "toy-online"

    def images(self, split: Split) -> Images:
        return toy(side=35)

    def classes(self, split: Split) -> int:
        return 30


# Lots


@pytest.mark.parametrize(("n", "k"), [(6, 3), (4, 3), (5, 1), (3, 3), (9, 2)])
def test_distinct_gives_every_ordered_choice_alike(n: int, k: int) -> None:
    chosen = distinct(generator("distinct", n, k), 20_000, n, k)
    choices = list(itertools.permutations(range(n), k))
    number = {choice: i for i, choice in enumerate(choices)}
    found = np.bincount([number[tuple(row)] for row in chosen.tolist()], minlength=len(choices))
    assert stats.chisquare(found).pvalue > RARE


@pytest.mark.parametrize(("way", "shot", "query"), [(5, 5, 15), (1, 1, 1), (30, 1, 19), (2, 19, 1)])
def test_few_shot_draws_are_sound(way: int, shot: int, query: int) -> None:
    images = toy()
    support, queries = few_shot(images, 40, way, shot, query, generator("few", way))
    for part, each in ((support, shot), (queries, query)):
        assert part.row.shape == (40, way * each)
        assert np.isin(part.row, images.rows).all()
        assert (np.sort(part.label, 1) == np.repeat(np.arange(way), each)).all()
    for b in range(40):
        labels = {
            (row, label) for part in (support, queries) for row, label in zip(part.row[b], part.label[b], strict=True)
        }
        assert len(labels) == way == len({row for row, _ in labels}), "one label a class and one class a label"
        shown = [
            (row, drawn) for part in (support, queries) for row, drawn in zip(part.row[b], part.drawing[b], strict=True)
        ]
        assert len(set(shown)) == len(shown), "no drawing twice"


def test_every_class_and_drawing_is_as_likely_as_another() -> None:
    images = toy()
    support, queries = few_shot(images, 2_000, 5, 2, 3, generator("alike"))
    for part in (support, queries):
        assert stats.chisquare(np.bincount(part.row[:, 0])[5:]).pvalue > RARE
        assert stats.chisquare(np.bincount(part.drawing[:, 0], minlength=20)).pvalue > RARE


def test_unbalanced_counts_are_binomial() -> None:
    label = presentations(toy(), 4_000, 5, 10, False, True, generator("unbalanced")).label
    found = np.bincount((label == 2).sum(1), minlength=11)
    expected = stats.binom.pmf(np.arange(11), 10, 1 / 5) * 4_000
    pooled = [np.append(f[:6], f[6:].sum()) for f in (found, expected)]
    assert stats.chisquare(*pooled).pvalue > RARE
    assert found[0] > 0, "a class may be absent"


def test_balanced_counts_are_equal() -> None:
    label = presentations(toy(), 50, 5, 50, True, True, generator("balanced")).label
    assert (np.sort(label, 1) == np.repeat(np.arange(5), 10)).all()


@pytest.mark.parametrize(("length", "balanced"), [(100, False), (95, False), (50, False), (50, True)])
def test_no_presentation_comes_twice(length: int, balanced: bool) -> None:
    draw = presentations(toy(), 50, 5, length, balanced, True, generator("once", length))
    for b in range(50):
        assert len(set(zip(draw.row[b], draw.drawing[b], strict=True))) == length
        assert len(set(zip(draw.row[b], draw.label[b], draw.turn[b], strict=True))) <= 5, (
            "a class keeps its label and turn"
        )
    assert set(np.unique(draw.turn)) == {0, 1, 2, 3}
    assert not presentations(toy(), 9, 5, 50, False, False, generator("upright")).turn.any()


def test_counts_are_those_of_a_loop() -> None:
    label = generator("counts").integers(4, size=(3, 30))
    for b in range(3):
        for t in range(30):
            assert counts(label, 4)[b, t] == (label[b, : t + 1] == label[b, t]).sum()


def test_first_instances_by_elimination_reach_the_ceiling_and_no_more() -> None:
    """A guess among the labels not yet used is right (1/N) Σ 1/k of the time, which bounds every learner."""
    rng = generator("ceiling")
    label = presentations(toy(), 3_000, 5, 50, False, True, rng).label
    right = []
    for row in label:
        free = list(range(5))
        for truth in dict.fromkeys(row.tolist()):
            right.append(free[rng.integers(len(free))] == truth)
            free.remove(truth)
    ceiling = sum(1 / k for k in range(1, 6)) / 5
    assert abs(np.mean(right) - ceiling) < 4 * math.sqrt(ceiling * (1 - ceiling) / len(right))


# Pictures


def test_pictures_are_the_drawings_named() -> None:
    images = toy()
    draw = presentations(images, 3, 5, 10, False, True, generator("pictures"))
    x = pictures(images, draw)
    for b, t in itertools.product(range(3), range(10)):
        expected = torch.from_numpy(images.pixels[draw.row[b, t], draw.drawing[b, t]])
        assert_close(x[b, t], expected.float() / 255)


@pytest.mark.parametrize("quarter", range(4))
def test_quarter_turns_are_exact(quarter: int) -> None:
    x = torch.from_numpy(toy(side=35).pixels[0]).float() / 255
    still, angle = torch.zeros(20, 2), torch.full((20,), quarter * math.pi / 2)
    upright = resampled(x, 20, torch.zeros(20), still)
    assert_close(resampled(x, 20, angle, still), torch.rot90(upright, quarter, (1, 2)), rtol=0, atol=1e-5)
    assert_close(resampled(x, 35, angle, still), torch.rot90(x, quarter, (1, 2)), rtol=0, atol=1e-5)


def test_shift_moves_right_and_down_after_turning() -> None:
    x = torch.from_numpy(toy(side=20).pixels[0]).float() / 255
    shift = torch.tensor([[3 / 20, 2 / 20]]).expand(20, 2)
    moved = resampled(x, 20, torch.full((20,), math.pi / 2), shift)
    assert_close(moved[:, 2:, 3:], torch.rot90(x, 1, (1, 2))[:, :-2, :-3], rtol=0, atol=1e-5)
    assert moved[:, :2].abs().max() < 1e-5
    assert moved[:, :, :3].abs().max() < 1e-5, "outside is paper"


def test_resampling_keeps_the_ink() -> None:
    x = torch.zeros(1, 35, 35)
    x[:, 10:25, 10:25] = 1
    turned = resampled(x, 20, torch.tensor([0.3]), torch.tensor([[0.05, -0.05]]))
    assert turned.sum().item() * (35 / 20) ** 2 == pytest.approx(225, rel=0.02)


# The tasks' own rules


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_only_training_images_are_moved(split: Split) -> None:
    task = ToyOnline()
    draw = task.draw(split, 4, generator("moved"))
    one, two = (task.render(split, draw, generator("moved", key)) for key in range(2))
    assert torch.equal(one, two) == (split != "train")
    motionless = replace(task, rotation=0.0, shift=0.0).render(split, draw, generator("moved", 0))
    assert torch.equal(one, motionless) == (split != "train")


def test_motion_stays_within_its_limits() -> None:
    dot = np.zeros((35, 20, 35, 35), np.uint8)
    dot[:, :, 17, 17] = 255

    class Dot(ToyOnline):
        def images(self, split: Split) -> Images:
            return Images(dot, np.arange(35))

    task = Dot(size=35)
    x = task.render("train", task.draw("train", 8, generator("dots")), generator("dots", 1))
    at = torch.arange(35.0)
    across, down = (torch.stack([(x.sum(d) * at).sum(-1) / x.sum((1, 2)) - 17 for d in (1, 2)])).abs().amax(1)
    limit = 10 / 105 * 35
    assert limit * 0.8 < across < limit + 0.01
    assert limit * 0.8 < down < limit + 0.01


@pytest.mark.parametrize("flat", [True, False])
def test_online_shapes(flat: bool) -> None:
    episode = ToyOnline(way=3, flat=flat).sample("val", 2, generator("shapes"))
    shape = (400,) if flat else (1, 20, 20)
    assert episode.query.x.shape == (2, 30, *shape)
    assert episode.support.x.shape == (2, 0, *shape)
    assert episode.support.y.shape == (2, 0)


def strings(way: int = 15) -> tuple[ToyOnline, Examples]:
    task = ToyOnline(way=way, labels="string")
    return task, task.sample("train", 6, generator("strings")).query


def test_strings_name_their_class() -> None:
    task, (x, y) = strings()
    assert y.shape == (6, 150, 5)
    assert 0 <= y.min() <= y.max() < 5
    label = task.draw("train", 6, generator("strings")).label
    for b in range(6):
        pairs = {(tuple(s), k) for s, k in zip(y[b].tolist(), label[b].tolist(), strict=True)}
        assert len(pairs) == len({s for s, _ in pairs}) == len({k for _, k in pairs})
    letters = np.bincount(
        np.array([ToyOnline(labels="string", length=1).sample("val", 400, generator("letters")).query.y]).ravel()
    )
    assert stats.chisquare(letters).pvalue > RARE
    assert x.shape == (6, 150, 400)


def test_strings_are_encoded_and_judged_by_character() -> None:
    task, (_, y) = strings()
    assert task.n_out == task.y_size == 25
    code = task.encode(y)
    assert code.shape == (6, 150, 25)
    assert torch.equal(code.unflatten(-1, (5, 5)).argmax(-1), y)
    assert (code.sum(-1) == 5).all()
    assert task.correct(code, y).all()
    spoilt = code.clone()
    spoilt[..., 20:] = F.one_hot((y[..., 4] + 1) % 5, 5)
    assert not task.correct(spoilt, y).any(), "four of five characters are not enough"
    prediction = torch.randn(6, 150, 25, generator=torch.Generator().manual_seed(0))
    by_hand = sum(
        F.cross_entropy(prediction[..., 5 * k : 5 * k + 5].reshape(-1, 5), y[..., k].flatten()) for k in range(5)
    )
    assert_close(task.loss(prediction, y), by_hand)


@pytest.mark.parametrize("labels", ["onehot", "string"])
def test_instances_are_those_of_a_loop(labels: Any) -> None:
    task = ToyOnline(way=4, labels=labels)
    y = task.sample("val", 3, generator("instances")).query.y
    instances = task.instances(y)
    for b, t in itertools.product(range(3), range(40)):
        assert instances[b, t] == sum(torch.equal(y[b, t], y[b, s]) for s in range(t + 1))


def test_training_may_differ_from_the_test() -> None:
    task = ToyImages(way=5, shot=1, query=15, train_way=12, train_query=3, size=14)
    support, query = task.training().sample("train", 2, generator("training"))
    assert support.y.shape == (2, 12)
    assert query.y.shape == (2, 36)
    assert task.training().n_out == 12
    assert task.setting() == ToyImages(size=14).setting()
    assert task.sample("test", 2, generator("test")).query.y.shape == (2, 75)


REFUSED = [
    (ToyImages(), "way=31", "way 31 is more than the 30 classes"),
    (ToyImages(), "train_way=31", "way 31 is more than the 30 classes of its train split"),
    (ToyImages(), "shot=6", r"shot 6 \+ query 15 is 21, but a class has 20 images"),
    (ToyImages(), "train_shot=6", r"shot 6 \+ query 15"),
    (ToyImages(), "way=0", "way must be at least 1, not 0"),
    (ToyImages(), "query=0", "query must be at least 1"),
    (ToyImages(), "shot=-1", "shot must be at least 1"),
    (ToyImages(), "size=0", "size must be at least 1"),
    (ToyOnline(), "way=31", "way 31 is more than the 30 classes"),
    (ToyOnline(), "length=101", "length 101 is more than 5 classes × 20 drawings"),
    (ToyOnline(), "length=-5", "steps must be at least 1"),
    (ToyOnline(), "balanced=true,length=7", "multiple of way 5, not 7"),
    (ToyOnline(), "shift=-1", "must not be negative"),
    (Omniglot(), "way=1693", "way 1693 is more than the 688 classes of its val split"),
    (Omniglot(), "train_way=4113", "more than the 4112 classes"),
    (Omniglot(), "size=105", "more than 64"),
    (OmniglotOnline(), "way=173", "more than the 172 classes of its val split"),
    (OmniglotOnline(), "size=106", "more than the 105 pixels"),
    (Lake(), "size=106", "from 1 to 105"),
    (Lake(), "train_way=965", "way 965 is more than the 964 classes"),
    (Lake(), "train_split=omniglot-vinyals", "236 of the 1028 .* evaluation set .*Angelic/character01"),
    (Lake(), "train_split=omniglot-random1200", "of the 1080 training characters .* evaluation set"),
]


@pytest.mark.parametrize(("task", "change", "sentence"), REFUSED, ids=[f"{t.name}-{c}" for t, c, _ in REFUSED])
def test_refused(task: Task, change: str, sentence: str) -> None:
    task.check()
    with pytest.raises(BenchError, match=sentence):
        override(task, change).check()


# Omniglot without its pixels


@pytest.fixture
def blank(monkeypatch: pytest.MonkeyPatch) -> None:
    """Omniglot with empty drawings of one pixel."""

    def pixels(size: int, turned: bool = False) -> NDArray[np.uint8]:
        return np.zeros((1623 * (4 if turned else 1), 20, 1, 1), np.uint8)

    monkeypatch.setattr(data, "omniglot", lambda: SimpleNamespace(pixels=pixels))


def drawn_rows(task: Any, split: Split) -> NDArray[np.int64]:
    draws = task.draw(split, 400, generator("rows", split))
    parts = [draws] if task.online else draws
    return np.unique(np.concatenate([part.row.ravel() for part in parts]))


@pytest.mark.parametrize("split", ["vinyals", "random1200"])
@pytest.mark.parametrize("cls", [Omniglot, OmniglotOnline])
@pytest.mark.usefixtures("blank")
def test_splits_share_no_character(cls: type, split: str) -> None:
    task = cls(way=20, split=split) if task_is_online(cls) else cls(way=60, split=split, query=1)
    seen = {part: {CHARACTERS[row % 1623] for row in drawn_rows(task, part)} for part in task.splits}
    for part, characters in seen.items():
        allowed = data.split(f"omniglot-{split}", part)
        assert characters == {*allowed}, "all of its characters and no other"
    assert sum(map(len, seen.values())) == 1623


def task_is_online(cls: type) -> bool:
    return issubclass(cls, OnlineImages)


@pytest.mark.usefixtures("blank")
def test_rotations_are_classes_of_their_own() -> None:
    rows = drawn_rows(Omniglot(way=60, query=1), "test")
    assert len(rows) == Omniglot().classes("test") == 4 * 423
    assert OmniglotOnline().classes("test") == 423


@pytest.mark.usefixtures("blank")
def test_lake_trains_on_the_background_alone() -> None:
    for turned in (False, True):
        task = Lake(train_way=60, train_query=1, train_turned=turned).training()
        assert isinstance(task, Background)
        characters = {CHARACTERS[row % 1623] for row in drawn_rows(task, "train")}
        assert characters == {*data.split("lake", "background")}
        assert characters.isdisjoint(data.split("lake", "evaluation"))


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> LakeRuns:
    """Runs whose drawings are as dark as their character's number, 20 · run / 2 + place."""
    rng = generator("runs")
    labels = rng.permuted(np.tile(np.arange(20), (20, 1)), axis=1)
    places = np.tile(np.arange(20), (20, 1))
    shades = [(10 * np.arange(20)[:, None] + of).astype(np.uint8) for of in (places, labels)]
    made = LakeRuns(*(np.broadcast_to(s[..., None, None], (20, 20, 105, 105)) for s in shades), labels)
    monkeypatch.setattr(data, "lake_runs", lambda: made)
    monkeypatch.setattr("bench.tasks.lake._shrunken", lambda size: made)
    return made


def shades(x: torch.Tensor) -> torch.Tensor:
    return (x[..., 0, 0, 0] * 255).round().long()


@pytest.mark.usefixtures("runs")
def test_lake_test_is_its_twenty_runs_in_order() -> None:
    for count, seed in ((600, 0), (3, 1)):
        chunks = list(Lake(size=105).episodes("test", count, seed))
        support, query = (torch.cat([shades(c[k].x) for c in chunks]) for k in (0, 1))
        for part in (support, query):
            assert torch.equal(part.sort(1).values, 10 * torch.arange(20)[:, None] + torch.arange(20))


@pytest.mark.usefixtures("runs")
def test_lake_labels_follow_the_character() -> None:
    task = Lake(size=105)
    drawn = [*task.episodes("test", 20, 0), task.sample("test", 7, generator("lake"))]
    for support, query in drawn:
        assert (support.y.sort(1).values == torch.arange(20)).all()
        for b in range(len(support.y)):
            label = dict(zip(shades(support.x)[b].tolist(), support.y[b].tolist(), strict=True))
            assert query.y[b].tolist() == [label[shade] for shade in shades(query.x)[b].tolist()]


def test_lake_ignores_training_fields_at_test() -> None:
    assert Lake(train_way=5, train_split="omniglot-vinyals").setting() == Lake().setting() == {"size": 28}
    assert Lake().splits == ("train", "test")


# Real pixels


@pytest.fixture
def real(omniglot_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_DATA", str(omniglot_root))


@pytest.mark.usefixtures("real")
def test_ink_is_one_and_rare() -> None:
    for task in (Omniglot(), OmniglotOnline()):
        x = task.sample("test", 10, generator("real")).query.x
        assert x.min() == 0
        assert x.max() == pytest.approx(1)
        assert 0.02 < x.mean() < 0.2


@pytest.mark.usefixtures("real")
def test_resampling_is_as_sharp_as_shrinking_moved_or_not() -> None:
    task = OmniglotOnline()
    draw = task.draw("train", 100, generator("sharp"))
    still = replace(task, rotation=0.0, shift=0.0)
    shrunken = pictures(Images(data.omniglot().pixels(20), task.images("train").rows), draw)
    power = [
        x.square().mean().item() for x in (shrunken, *(t.render("train", draw, generator(0)) for t in (task, still)))
    ]
    assert power == pytest.approx([power[0]] * 3, rel=0.03)
