"""Training that changes with its steps, and sequences of several episodes in a row."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from contract import same_bits
from fakes import StopAt, Toy, ToyNet, named

from bench import checkpoints
from bench.api import BenchError, Episode, Generator, Split, Task, generator, option
from bench.config import as_dict, canonical, override
from bench.grid import Budget, Cell
from bench.tasks.episodes import OnlineImages
from bench.tasks.glyphs import GlyphsOnline
from bench.tasks.omniglot import OmniglotOnline
from bench.tasks.sampling import Images
from bench.training import Context, Interrupted, run_cell

BUDGET = Budget(steps=7, validations=2, val_episodes=4, test_episodes=4)


@named("growing")
class Growing(Toy):
    """Noise that grows with the step; notes what trains."""

    trained: ClassVar[list[tuple[float, float]]] = []
    """Noise of each training batch, and the first number of its generator."""

    growth: float = option(0.0, "noise added by a step", training=True)

    def curriculum(self, step: int) -> Task:
        return replace(self, noise=self.noise + step * self.growth) if self.growth else super().curriculum(step)

    def sample(self, split: Split, batch: int, rng: Generator) -> Episode:
        if split == "train":
            state = rng.bit_generator.state
            self.trained.append((round(self.noise, 6), rng.random()))
            rng.bit_generator.state = state
        return super().sample(split, batch, rng)


@cache
def drawings() -> Images:
    pixels = generator("drawings").integers(256, size=(40, 20, 12, 12)).astype(np.uint8)
    return Images(pixels, np.arange(40))


@named("drawings-online")
class Drawings(OnlineImages):
    """Forty classes of noise."""

    size: int = option(8, "side of an image in pixels")

    def images(self, split: Split) -> Images:
        return drawings()

    def classes(self, split: Split) -> int:
        return 40


def trained(task: Growing, context: Context, stops: tuple[int, ...] = ()) -> list[tuple[float, float]]:
    """What each step of a cell trained on."""
    task.trained.clear()
    cell = Cell(ToyNet(), task, 3, BUDGET)
    for stop in stops:
        with pytest.raises(Interrupted):
            run_cell(cell, replace(context, stopping=StopAt(stop)))
    run_cell(cell, context)
    return list(task.trained)


# The hook


def test_without_a_plan_each_step_trains_on_the_training_task() -> None:
    task = Toy(way=3, train_way=5)
    assert task.curriculum(0) == task.curriculum(10**6) == task.training() != task


@pytest.mark.parametrize("growth", [0.0, 0.5])
def test_episodes_of_a_step_are_a_function_of_seed_and_step(growth: float, tmp_path: Path) -> None:
    """The keys are those of tasks without a plan, so that their results stay what they were."""
    task = Growing(growth=growth)
    key = ("train", "growing", task.version, canonical(task.training().setting()), 3)
    expected = [(round(0.3 + growth * k, 6), generator(*key, k).random()) for k in range(BUDGET.steps)]
    assert trained(task, Context(tmp_path)) == expected


def test_a_resumed_run_goes_on_where_its_plan_was(tmp_path: Path) -> None:
    task, cell = Growing(growth=0.5), Cell(ToyNet(), Growing(growth=0.5), 3, BUDGET)
    whole, parts = (Context(tmp_path / name) for name in ("whole", "parts"))
    once = trained(task, whole)
    assert trained(task, parts, (3, 5)) == once, "no step is trained twice or on other episodes"
    finals = [checkpoints.load(checkpoints.folder(c.results, cell.id) / "final.pt", cell.id) for c in (whole, parts)]
    same_bits(finals[1], finals[0], "final.pt")


# More classes as training goes on


def test_classes_grow_to_way() -> None:
    task = Drawings(way=6, labels="string", start_way=3, way_every=10)
    assert [task.curriculum(step).way for step in (0, 9, 10, 29, 30, 1000)] == [3, 3, 4, 5, 6, 6]
    x, y = task.curriculum(0).sample("train", 2, generator("grow")).query
    assert x.shape == (2, 30, 64)
    assert max(len({tuple(label) for label in row.tolist()}) for row in y) == 3
    assert task.training() == task
    assert task.curriculum(0).n_out == task.n_out == 25


def test_one_hot_labels_are_as_wide_as_at_the_end() -> None:
    task = Drawings(way=4, start_way=2, way_every=10)
    task.check()
    shown = [sorted(set(row)) for row in task.curriculum(0).sample("train", 40, generator("wide")).query.y.tolist()]
    assert all(len(labels) <= 2 and max(labels) < 4 for labels in shown)
    pairs = {tuple(labels) for labels in shown if len(labels) == 2}
    assert len(pairs) == 6, "two of four labels, drawn anew for each episode"
    assert task.encode(task.curriculum(0).sample("train", 1, generator("wide")).query.y).shape == (1, 20, 4)
    grown, plain = (t.sample("train", 2, generator("end")).query for t in (task.curriculum(20), Drawings(way=4)))
    assert torch.equal(grown.x, plain.x)
    assert torch.equal(grown.y, plain.y)


def test_a_start_above_way_is_way() -> None:
    task = Drawings(way=3, labels="string", start_way=5, way_every=1)
    task.check()
    assert task.curriculum(0).way == 3
    assert Drawings(way=3).curriculum(10).way == 3


def test_what_is_late_changes_no_identity() -> None:
    for cls in (OmniglotOnline, GlyphsOnline):
        new = {"persistent", "start_way", "way_every", "among"}
        assert not new & {*as_dict(cls()), *cls().setting()}
    task = OmniglotOnline(labels="string", start_way=15, persistent=2)
    assert as_dict(task)["start_way"] == 15
    assert task.setting()["persistent"] == 2, "test episodes are other ones"
    assert "start_way" not in task.setting(), "test episodes are the same"


REFUSED = [
    ("way=5,among=4", "at least as many as way"),
    ("labels=string,among=9", "among counts one-hot labels"),
    ("start_way=-1,labels=string", "start_way must be 0"),
    ("way_every=0", "way_every must be at least 1"),
    ("persistent=0", "persistent must be at least 1"),
    ("way=6,start_way=4,way_every=1,length=24,balanced=true", "multiple of way 5, not 24"),
    ("start_way=2,labels=string,length=50", "length 50 is more than 2 classes"),
]


@pytest.mark.parametrize(("fields", "says"), REFUSED)
def test_fields_that_do_not_fit_are_one_sentence(fields: str, says: str) -> None:
    with pytest.raises(BenchError, match=says):
        override(Drawings(), fields).check()


# Several episodes in a row


@pytest.mark.parametrize("labels", ["onehot", "string"])
def test_a_persistent_sequence_is_fresh_episodes_in_a_row(labels: Any) -> None:
    task = Drawings(way=3, labels=labels, persistent=4)
    x, y = task.sample("train", 2, generator("row")).query
    alone = replace(task, persistent=1).sample("train", 8, generator("row")).query
    assert x.shape == (2, 120, 64)
    assert torch.equal(x.view(8, 30, 64), alone.x)
    assert torch.equal(y.reshape(alone.y.shape), alone.y)


@pytest.mark.parametrize("labels", ["onehot", "string"])
def test_instances_begin_anew_with_each_episode(labels: Any) -> None:
    task = Drawings(way=3, labels=labels, persistent=4)
    y = task.sample("test", 2, generator("anew")).query.y
    found = task.instances(y)
    for b in range(2):
        for t in range(120):
            start = t // 30 * 30
            assert found[b, t] == sum(torch.equal(y[b, s], y[b, t]) for s in range(start, t + 1))
