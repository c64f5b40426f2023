"""The binding-and-forgetting probe: ages, loads, and the curves that records hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from baselines.chance import Chance
from baselines.pixel_knn import PixelKNN
from bench.api import BenchError, generator
from bench.config import override
from bench.grid import Budget, Cell
from bench.tasks.probe import AGES, PairedAssociates
from bench.training import INSTANCES, Context, run_cell

BUDGET = Budget(test_episodes=40)


@pytest.mark.parametrize(("load", "asked"), [(1, 0), (2, 0), (9, 0), (9, 3), (4, 20)])
def test_items_are_stored_once_then_asked_for_once(load: int, asked: int) -> None:
    x, y = PairedAssociates(load=load, asked=asked).sample("train", 5, generator("items")).query
    times = load + min(asked or load, load)
    assert x.shape == (5, times, 24)
    for keys, values in zip(x, y, strict=True):
        assert len(set(values[:load].tolist())) == load, "no two items share a value"
        assert len(set(values[load:].tolist())) == times - load, "none is asked for twice"
        for key, value in zip(keys[load:], values[load:].tolist(), strict=True):
            stored = values[:load].tolist().index(value)
            assert torch.equal(key, keys[stored]), "a value keeps its key"


def test_ages_are_those_of_a_loop() -> None:
    task = PairedAssociates(load=12)
    y = task.sample("test", 20, generator("ages")).query.y
    ages, groups = task.ages(y), task.instances(y)
    for b in range(20):
        for t in range(24):
            before = [s for s in range(t) if y[b, s] == y[b, t]]
            age = t - before[0] if before else 0
            assert ages[b, t] == age
            assert groups[b, t] == (0 if age == 0 else next(k for k, most in enumerate(AGES, 1) if age <= most))


def test_groups_have_names_that_say_their_ages() -> None:
    task = PairedAssociates(values=400, load=400)
    assert len(task.groups) == INSTANCES == len(AGES) + 1
    y = task.sample("test", 2, generator("names")).query.y
    for age, group in zip(task.ages(y).flatten().tolist(), task.instances(y).flatten().tolist(), strict=True):
        if age:
            low, _, high = task.groups[group - 1].removeprefix("age ").removeprefix("over ").partition("-")
            assert int(low) < age if "over" in task.groups[group - 1] else int(low) <= age <= int(high or low)


def test_which_item_is_asked_when_is_chance() -> None:
    task = PairedAssociates(load=5)
    y = task.sample("test", 2000, generator("order")).query.y
    first_asked = (y[:, :5] == y[:, 5:6]).int().argmax(1)
    assert stats.chisquare(np.bincount(first_asked, minlength=5)).pvalue > 1e-6
    one = PairedAssociates(load=8, asked=1)
    ages = one.ages(one.sample("test", 4000, generator("one")).query.y)[:, -1]
    assert stats.chisquare(np.bincount(ages, minlength=9)[1:]).pvalue > 1e-6, "asked for one, all ages are as likely"


def test_loads_are_drawn_up_to_most() -> None:
    loads = [PairedAssociates(most=4).sample("train", 1, generator(k)).query.x.shape[1] // 2 for k in range(400)]
    counts = np.bincount(loads, minlength=5)
    assert counts[0] == 0
    assert stats.chisquare(counts[1:]).pvalue > 1e-6


def test_the_score_counts_answers_to_questions_only() -> None:
    task = PairedAssociates(load=4)
    y = task.sample("test", 3, generator("score")).query.y
    right = torch.nn.functional.one_hot(y, 16).float()
    stored_only, asked_only = right.clone(), right.clone()
    stored_only[:, 4:] = 0
    asked_only[:, :4] = 0
    stored_only[..., 0] += 0.5 * (y != 0)  # ties and zeros go to class 0
    assert task.score(right, y).tolist() == [1, 1, 1] == task.score(asked_only, y).tolist()
    assert (task.score(stored_only, y) < 0.5).all()
    half = right.clone()
    half[:, 4:6] = 1 - half[:, 4:6]
    assert task.score(half, y).tolist() == [0.5] * 3


def test_without_binding_elimination_is_the_best_there_is() -> None:
    """Who guesses among the values shown and not yet asked for is right in 1/n Σ 1/k, as the docstring says."""
    rng, n = generator("elimination"), 6
    y = PairedAssociates(load=n).sample("test", 3000, rng).query.y.numpy()
    right = []
    for row in y:
        left = row[:n].tolist()
        for value in row[n:].tolist():
            right.append(left[rng.integers(len(left))] == value)
            left.remove(value)
    expected = sum(1 / k for k in range(1, n + 1)) / n
    assert abs(np.mean(right) - expected) < 4 * np.sqrt(expected / len(right))


def test_records_hold_both_curves(tmp_path: Path) -> None:
    task = PairedAssociates(also=("load=1", "load=8", "load=16"))
    record = run_cell(Cell(PixelKNN(metric="euclid"), task, 0, BUDGET), Context(tmp_path))
    found = record.result["evaluations"]
    assert [found[name]["mean"] for name in found] == [1, 1, 1, 1], "a perfect memory forgets nothing at any load"
    eight = found["load=8"]["by_instance"]
    assert eight["groups"] == list(task.groups)
    assert sum(eight["n"]) == 8 * BUDGET.test_episodes, "questions are counted, and only those"
    assert eight["mean"] == [1] * 5 + [None] * 5, "ages 1 to 15"
    assert found["load=1"]["by_instance"]["n"] == [BUDGET.test_episodes] + [0] * 9
    assert record.result["solved"] == 0.95
    chance = run_cell(Cell(Chance(), task, 0, BUDGET), Context(tmp_path))
    assert chance.result["evaluations"]["load=16"]["mean"] == pytest.approx(1 / 16)


REFUSED = [
    ("values=7", "8 items need as many values, not 7"),
    ("load=17", "17 items need as many values, not 16"),
    ("width=0", "width must be at least 1"),
    ("asked=-1", "asked must be at least 0"),
    ("values=1,most=1", "values must be at least 2"),
]


@pytest.mark.parametrize(("fields", "says"), REFUSED)
def test_fields_that_do_not_fit_are_one_sentence(fields: str, says: str) -> None:
    with pytest.raises(BenchError, match=says):
        override(PairedAssociates(), fields).check()
