"""Methods that do not learn: chance, nearest neighbours in pixels, Hausdorff distance."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from baselines.chance import Chance
from baselines.hausdorff import Hausdorff, ink_points, modified_hausdorff
from baselines.pixel_knn import LOGIT, PixelKNN
from bench import registry
from bench.api import Episode, Examples, Task, generator
from bench.tasks.glyphs import Glyphs, GlyphsOnline
from bench.tasks.lake import Lake
from bench.tasks.sinusoid import Sinusoid

GLYPHS = Glyphs(way=4, shot=2, query=3, size=20)


def drawn(task: Task, batch: int = 2) -> Episode:
    return task.sample("test", batch, generator("test"))


def empty(query: Examples) -> Examples:
    return Examples(query.x[:, :0], query.y[:, :0])


def test_the_page_of_baselines_names_them_all() -> None:
    registry.load()
    page = (Path(__file__).parent.parent / "baselines" / "README.md").read_text(encoding="utf-8")
    named = {name for row in re.findall(r"^\| (`.*?`) \|", page, re.MULTILINE) for name in re.findall(r"`(.+?)`", row)}
    assert named == {name for name, cls in registry.METHODS.entries.items() if cls.__module__.startswith("baselines.")}


def test_chance_is_right_once_in_way() -> None:
    support, query = drawn(GLYPHS, 50)
    prediction = Chance().build(GLYPHS)(support, query.x)
    assert GLYPHS.score(prediction, query.y).mean() == pytest.approx(1 / GLYPHS.way)
    assert not prediction.any()


def distance(config: PixelKNN, a: Tensor, b: Tensor) -> float:
    """Of two inputs, as the definition has it."""
    if config.polarity == "paper":
        a, b = 1 - a, 1 - b
    if config.metric == "euclid":
        return float((a - b).square().sum().sqrt())
    return -float((a * b).sum() / (a.norm() * b.norm()))


def brute(config: PixelKNN, shown: Examples, x: Tensor, n_out: int) -> Tensor:
    """Vote of the nearest of one episode's examples for one input."""
    order = sorted(range(len(shown.y)), key=lambda i: distance(config, shown.x[i], x))
    votes = torch.zeros(n_out)
    for i in order[: config.k]:
        votes[shown.y[i]] += LOGIT / min(config.k, len(order))
    return votes


@pytest.mark.parametrize("k", [1, 3, 50])
@pytest.mark.parametrize("polarity", ["ink", "paper"])
@pytest.mark.parametrize("metric", ["cosine", "euclid"])
def test_pixel_knn_is_the_brute_force_loop(metric: Any, polarity: Any, k: int) -> None:
    config = PixelKNN(metric=metric, polarity=polarity, k=k)
    support, query = drawn(GLYPHS)
    prediction = config.build(GLYPHS)(support, query.x)
    for episode in range(2):
        shown = Examples(support.x[episode], support.y[episode])
        for i, x in enumerate(query.x[episode]):
            assert_close(prediction[episode, i], brute(config, shown, x, GLYPHS.way))


@pytest.mark.parametrize("k", [1, 3])
def test_pixel_knn_streams_as_the_brute_force_loop(k: int) -> None:
    task = GlyphsOnline(way=3, length=12)
    config = PixelKNN(k=k)
    _, query = drawn(task)
    streamed = config.build(task).stream(*query)
    assert not streamed[:, 0].any()
    for t in range(1, 12):
        shown = Examples(query.x[0, :t], query.y[0, :t])
        assert_close(streamed[0, t], brute(config, shown, query.x[0, t], task.way))


@pytest.mark.parametrize("k", [1, 3, 5])
def test_of_equally_near_examples_the_first_count_and_no_later_one(k: int) -> None:
    """Among equal images nothing but their order decides, and what follows changes no answer."""
    task = GlyphsOnline(way=5, length=20)
    x, y = torch.full((1, 20, *task.x_shape), 0.5, dtype=torch.float64), torch.arange(20)[None] % 5
    learner = PixelKNN(metric="euclid", k=k).build(task)
    streamed = learner.stream(x, y)
    for t in range(1, 20):
        said = streamed[0, t].nonzero().flatten().tolist()
        assert said == [*range(min(k, t))]
        assert_close(learner.stream(x[:, : t + 1], y[:, : t + 1])[0, t], streamed[0, t])


def test_pixel_knn_gives_the_value_of_the_nearest_point() -> None:
    task = Sinusoid(shot=5, query=7)
    support, query = drawn(task)
    prediction = PixelKNN(metric="euclid").build(task)(support, query.x)
    nearest = (query.x - support.x.transpose(1, 2)).abs().argmin(2)
    assert_close(prediction, support.y.gather(1, nearest[..., None]))


def test_polarity_changes_the_cosine_and_not_the_distance() -> None:
    support, query = drawn(GLYPHS, 20)

    def answers(metric: Any) -> list[Tensor]:
        learners = (PixelKNN(metric=metric, polarity=p).build(GLYPHS) for p in ("ink", "paper"))
        return [learner(support, query.x) for learner in learners]

    assert not torch.equal(*answers("cosine"))
    assert torch.equal(*answers("euclid"))


def test_pixel_knn_refuses_what_it_cannot_do() -> None:
    assert "metric=euclid" in str(PixelKNN().unsuited(Sinusoid()))
    assert PixelKNN(metric="euclid").unsuited(Sinusoid()) is None
    assert "at least 1" in str(PixelKNN(k=0).unsuited(GLYPHS))


@pytest.mark.parametrize("method", [Chance(), PixelKNN(), Hausdorff()], ids=lambda m: m.name)
def test_nothing_shown_every_class_is_equally_likely(method: Any) -> None:
    _, query = drawn(GLYPHS)
    prior = method.build(GLYPHS)(empty(query), query.x)
    assert torch.equal(prior, torch.zeros(2, GLYPHS.way * GLYPHS.query, GLYPHS.way))


def naive_hausdorff(a: Tensor, b: Tensor) -> float:
    def one_way(p: Tensor, q: Tensor) -> float:
        return sum(min(float((u - v).norm()) for v in q) for u in p) / len(p)

    return max(one_way(a, b), one_way(b, a))


def naive_points(image: Tensor) -> Tensor:
    rows = [(i, j) for i in range(len(image)) for j in range(len(image[0])) if image[i, j] > 0.5]
    points = torch.tensor(rows, dtype=torch.float64)
    return points - points.mean(0)


def test_hausdorff_is_the_naive_loop_and_symmetric() -> None:
    rng = generator("hausdorff")
    images = torch.from_numpy(rng.random((6, 9, 12)) < 0.2).float()
    for a, b in zip(images[:3], images[3:], strict=True):
        ours = modified_hausdorff(ink_points(a), ink_points(b))
        assert float(ours) == pytest.approx(naive_hausdorff(naive_points(a), naive_points(b)), rel=1e-9)
        assert modified_hausdorff(ink_points(b), ink_points(a)) == pytest.approx(float(ours), rel=1e-12)
        assert modified_hausdorff(ink_points(a), ink_points(a)) == pytest.approx(0, abs=1e-5)


def test_hausdorff_does_not_see_where_a_drawing_is() -> None:
    image = torch.zeros(20, 20)
    image[3:6, 4:9] = 1
    moved = image.roll((7, 5), (0, 1))
    assert_close(ink_points(image), ink_points(moved))
    assert_close(ink_points(torch.zeros(4, 4)), torch.zeros(1, 2, dtype=torch.float64))


def test_hausdorff_takes_the_nearest_example() -> None:
    support, query = drawn(Glyphs(way=3, shot=1, query=1), 1)
    answer = Hausdorff().build(Glyphs(way=3))(support, query.x)
    for i, image in enumerate(query.x[0, :, 0]):
        apart = [naive_hausdorff(ink_points(image), ink_points(other)) for other in support.x[0, :, 0]]
        assert answer[0, i].argmax() == support.y[0, apart.index(min(apart))]


def test_hausdorff_needs_images() -> None:
    assert "not images" in str(Hausdorff().unsuited(Sinusoid()))
    assert Hausdorff().unsuited(GlyphsOnline()) is None  # 400 numbers are 20 × 20


def test_hausdorff_reproduces_lake(omniglot_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Published as 38.8 % error; run by run, one of 20 counts five percent."""
    monkeypatch.setitem(os.environ, "BENCH_DATA", str(omniglot_root))
    task = Lake(size=105)
    first = next(task.episodes("test", 20, 0))
    half = Episode(*(Examples(part.x[:4], part.y[:4]) for part in first))
    score = task.score(Hausdorff().build(task)(half.support, half.query.x), half.query.y)
    assert_close(1 - score, torch.tensor([0.45, 0.35, 0.4, 0.25]))
