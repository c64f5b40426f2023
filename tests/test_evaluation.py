"""What counts as an answer, and in which settings one learner may be tested."""

from __future__ import annotations

import io
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fakes import Prototypes, Toy, ToyNet, ToyOnline, named
from rich.console import Console
from synthetic import scored, spec
from torch import Tensor

from bench import intervals, records, tables, views
from bench.api import BenchError, Episode, Examples, Learner, Method, Task, option, shown
from bench.config import as_dict
from bench.grid import Budget, Cell
from bench.registry import METHODS, Registry
from bench.tasks.glyphs import Glyphs, GlyphsOnline
from bench.tasks.omniglot import CHARACTERS, Omniglot
from bench.tasks.sampling import Images
from bench.training import Context, run_cell

BUDGET = Budget(steps=0, validations=0, val_episodes=0, test_episodes=20, select="last")


class Stepping(Learner):
    """Right without a step; broken after five."""

    def __init__(self, task: Task, broken: bool) -> None:
        super().__init__()
        self.task, self.broken = task, broken

    def forward(self, support: Examples, query_x: Tensor) -> Tensor:
        answer = query_x.new_zeros(*query_x.shape[:2], self.task.n_out)
        if self.broken:
            answer[0, 0, 0] = math.nan
        return answer

    def by_step(self, support: Examples, query_x: Tensor) -> dict[int, Tensor]:
        answer = query_x.new_zeros(*query_x.shape[:2], self.task.n_out)
        return {0: answer, 5: answer * math.nan}


@named("stepping")
class SteppingMethod(Method):
    broken: bool = option(False, "whether one answer is NaN")

    def build(self, task: Task) -> Learner:
        return Stepping(task, self.broken)


def query(**parts: Any) -> Any:
    """Changes parts of an episode's query, each by a function."""
    return lambda made: made._replace(
        query=made.query._replace(**{k: f(getattr(made.query, k)) for k, f in parts.items()})
    )


def endless(made: Episode) -> Episode:
    return Episode(made.support, made.query._replace(x=made.query.x / 0))


@pytest.mark.parametrize(
    ("cls", "name", "makes", "says"),
    [
        (SteppingMethod, "build", lambda made: None, "stepping.build must give Learner, not NoneType"),
        (Toy, "sample", tuple, "toy.sample must give Episode, not tuple"),
        (
            Toy,
            "sample",
            lambda made: Episode(tuple(made.support), made.query),
            "support of toy.sample must give Examples",
        ),
        (
            Toy,
            "sample",
            query(x=Tensor.numpy),
            "toy.sample must give a tensor of float32 as x of the query, not a ndarray",
        ),
        (Toy, "sample", query(x=Tensor.double), "float32 as x of the query, not a Tensor of torch.float64"),
        (Toy, "sample", query(y=Tensor.int), "of int64 or float32 as y of the query, not a Tensor of torch.int32"),
        (Toy, "sample", query(x=lambda x: x.unsqueeze(2)), r"toy.sample must give as query x \[batch, n, 4\] and y"),
        (Toy, "sample", query(y=lambda y: y[:, :1]), r"x \[batch, n, 4\] and y \[batch, n, …\], not .* and \[\d+, 1\]"),
        (Toy, "sample", endless, "toy draws episodes whose inputs are not finite"),
    ],
)
def test_what_a_plugin_makes_must_be_of_its_kind(
    cls: Any, name: str, makes: Any, says: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """No learner, no episode, inputs of which nothing can be known: one sentence that names who made it."""
    own = getattr(cls, name)
    monkeypatch.setattr(cls, name, lambda *arguments: makes(own(*arguments)))
    with pytest.raises(BenchError, match=says):
        run_cell(Cell(SteppingMethod(), Toy(), 0, BUDGET), Context(tmp_path))


@pytest.mark.parametrize("task", [Toy(), ToyOnline()])
def test_nan_answer_is_a_divergence_not_a_class(task: Task, tmp_path: Path) -> None:
    assert run_cell(Cell(SteppingMethod(), task, 0, BUDGET), Context(tmp_path)).outcome == "ok"
    record = run_cell(Cell(SteppingMethod(broken=True), task, 0, BUDGET), Context(tmp_path))
    assert record.outcome == "diverged"
    assert record.result["evaluations"] == {}


@named("wide")
class Wide(Method):
    more: int = option(1, "answers beyond the classes")

    def build(self, task: Task) -> Learner:
        answers = Stepping(task, broken=False)
        answers.task = replace(task, way=task.n_out + self.more)
        return answers


@pytest.mark.parametrize("task", [Toy(), ToyOnline()])
@pytest.mark.parametrize("more", [1, -1])
def test_an_answer_with_other_columns_than_classes_is_refused(task: Task, more: int, tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=rf"Stepping answers .* \[batch, n_query, n_out\] is .* {task.n_out}\]"):
        run_cell(Cell(Wide(more=more), task, 0, BUDGET), Context(tmp_path))


@named("narrow")
class Narrow(Method):
    def build(self, task: Task) -> Learner:
        return Stepping(task, broken=task.n_out > 3)


def test_a_further_setting_that_diverged_is_lost_alone(tmp_path: Path) -> None:
    record = run_cell(Cell(Narrow(), Toy(also=("way=4", "shot=2")), 0, BUDGET), Context(tmp_path))
    assert record.outcome == "ok"
    assert record.result["diverged"] == ["way=4"]
    assert set(record.result["evaluations"]) == {"", "shot=2", "way=4"}
    lost = record.result["evaluations"]["way=4"]
    assert (lost["mean"], lost["per_episode"], set(lost["by_step"])) == (None, [], {"0"}), "what was finite is kept"
    assert records.load(tmp_path).problems == []
    made = tables.frame(records.load(tmp_path).records)
    assert dict(zip(made["evaluation"], made["outcome"], strict=True)) == {
        "": "ok", "shot=2": "ok", "way=4": "diverged",
    }  # fmt: skip


def test_a_step_that_diverged_has_no_score_and_the_record_stands(tmp_path: Path) -> None:
    record = run_cell(Cell(SteppingMethod(), Toy(), 0, BUDGET), Context(tmp_path))
    assert set(record.result["evaluations"][""]["by_step"]) == {"0"}
    assert records.load(tmp_path).records == [record]


def test_steps_are_not_asked_of_online_tasks(tmp_path: Path) -> None:
    record = run_cell(Cell(SteppingMethod(), ToyOnline(), 0, BUDGET), Context(tmp_path))
    assert record.result["evaluations"][""]["by_step"] is None


@pytest.mark.parametrize("also", ["split=random1200", "train_way=20", "way=20,split=random1200"])
def test_further_settings_cannot_move_the_training_data(also: str) -> None:
    with pytest.raises(BenchError, match="shapes training"):
        Omniglot(also=(also,)).evaluations()


def test_further_settings_are_whole_tasks() -> None:
    task = Glyphs(way=5, also=("way=20", "shot=5"))
    assert task.evaluations() == {
        "": Glyphs(way=5), "way=20": Glyphs(way=20), "shot=5": Glyphs(way=5, shot=5),
    }  # fmt: skip


@named("two-rates")
class TwoRates(ToyNet):
    def optimiser(self, learner: Learner) -> torch.optim.Optimizer:
        assert isinstance(learner, Prototypes)
        return torch.optim.SGD([{"params": [learner.scale], "lr": 0.0}, {"params": learner.net.parameters()}], self.lr)


def test_groups_of_parameters_keep_their_own_rates(tmp_path: Path) -> None:
    method = TwoRates(lr=0.1, halve_every=2)
    cell = Cell(method, Toy(), 0, Budget(steps=4, validations=0, val_episodes=0, test_episodes=5, select="last"))
    run_cell(cell, Context(tmp_path))
    final = torch.load(tmp_path / ".bench" / "checkpoints" / cell.id / "final.pt", weights_only=True)["learner"]
    torch.manual_seed(0)
    fresh = method.build(Toy()).state_dict()
    assert final["scale"] == fresh["scale"]
    assert not torch.equal(final["net.1.bias"], fresh["net.1.bias"])


def test_cells_that_measured_the_same_count_once_a_seed(tmp_path: Path) -> None:
    for also in ((), ("way=4",)):
        run_cell(Cell(SteppingMethod(), replace(Toy(), also=also), 0, BUDGET), Context(tmp_path))
    summed = tables.summary(tables.frame(records.load(tmp_path).records))
    row = summed[(summed["at"] == "") & summed["setting"].str.startswith("3-way")]
    assert row["n_seeds"].tolist() == [1]
    assert math.isnan(row["half_width"].iloc[0])


def test_cells_of_another_validation_are_told_apart(tmp_path: Path) -> None:
    for validations in (1, 2):
        budget = Budget(steps=2, validations=validations, val_episodes=2, test_episodes=5)
        run_cell(Cell(ToyNet(), Toy(), 0, budget), Context(tmp_path))
    made = tables.frame(records.load(tmp_path).records)
    assert made["method"].nunique() == 2


@pytest.mark.parametrize("name", ["a/b", "", "..", "Mine", "x y", "-m"])
def test_a_name_must_fit_paths_and_commands(name: str) -> None:
    with pytest.raises(BenchError, match="cannot be the name"):
        Registry("method").add(name, SteppingMethod)
    assert name not in METHODS.entries


def test_fields_that_are_not_defaults_are_in_the_name_of_a_method() -> None:
    mann = METHODS.entries["mann"]
    for config, name in ((mann(), "mann"), (mann(gate="controller"), "mann (gate=controller)")):
        made = tables.frame([scored(spec("mann", "omniglot-online", 0, fields=as_dict(config)), 0.5)])
        assert made["method"].tolist() == [name]


# ---------------------------------------------------------------------------------------------- which classes are shown


@pytest.mark.parametrize("task", [Glyphs(way=3, query=2), GlyphsOnline(way=3, persistent=2, rotation=0.0, shift=0.0)])
def test_members_are_the_classes_that_episodes_show(task: Glyphs | GlyphsOnline) -> None:
    """Found again in the images themselves, chunk by chunk."""
    images = task.images("test")
    shown = [m for size, rng in task.lots("test", 12, 7) for m in task.members("test", size, rng)]
    episodes = [e for chunk in task.episodes("test", 12, 7) for e in zip(*chunk.support, *chunk.query, strict=True)]
    assert len(shown) == len(episodes) == 12
    if isinstance(task, GlyphsOnline):
        draws = [task.draw("test", 2 * size, rng) for size, rng in task.lots("test", 12, 7)]
        rows = np.concatenate([draw.row for draw in draws]).reshape(12, -1)
        assert [sorted(set(row)) for row in rows.tolist()] == shown
        return
    for classes, (support, *_) in zip(shown, episodes, strict=True):
        drawings = torch.from_numpy(images.pixels[classes]).flatten(0, 1).float() / 255
        assert len(classes) == 3
        assert all((drawings == image[0]).flatten(1).all(1).any() for image in support)


def test_rotations_of_a_character_are_one_class_of_an_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.zeros((4 * len(CHARACTERS), 20, 1, 1), np.uint8)
    rows = np.array([3, 5, 3 + len(CHARACTERS), 5 + 2 * len(CHARACTERS)])
    monkeypatch.setattr(Omniglot, "images", lambda self, split: Images(pixels, rows))
    found = Omniglot(way=4, query=1).members("test", 2, np.random.default_rng(0))
    assert found == [[3, 5], [3, 5]]


def test_records_hold_open_intervals_of_what_was_tested(tmp_path: Path) -> None:
    task = Glyphs(way=2, query=2, also=("shot=2",))
    record = run_cell(Cell(METHODS.entries["pixel-knn"](), task, 3, BUDGET), Context(tmp_path))
    records.read(records.path_of(tmp_path, record.spec))
    for name, each in task.evaluations().items():
        members = [m for size, rng in each.lots("test", 20, 3) for m in each.members("test", size, rng)]
        scores = record.result["evaluations"][name]["per_episode"]
        found = record.result["evaluations"][name]["open"]
        apart = intervals.disjoint(members)
        assert found["episodes"] == len(apart) > 2
        assert found["classes"] == len({c for m in members for c in m})
        assert found["disjoint"] == pytest.approx(intervals.t_half_width([scores[i] for i in apart]), rel=1e-6)
        assert found["clustered"] == pytest.approx(intervals.clustered_half_width(scores, members), rel=1e-6)
    table = tables.summary(tables.frame([record]))
    opened = record.result["evaluations"][""]["open"]
    row = table[table["setting"].str.contains("1-shot")].iloc[0]
    assert row["disjoint_half_width"] == pytest.approx(100 * opened["disjoint"])
    assert row["clustered_half_width"] == pytest.approx(100 * opened["clustered"])
    out = io.StringIO()
    views.print_record(Console(file=out, width=200), record, tmp_path)
    assert f"over {opened['episodes']} disjoint episodes" in out.getvalue()


def test_tasks_without_classes_have_no_open_interval(tmp_path: Path) -> None:
    record = run_cell(Cell(SteppingMethod(), Toy(), 0, BUDGET), Context(tmp_path))
    assert "open" not in record.result["evaluations"][""]
    assert math.isnan(tables.summary(tables.frame([record]))["clustered_half_width"].iloc[0])


@pytest.mark.parametrize("shape", [(2, 6), (2, 6, 4)])
def test_labels_that_are_not_shown_keep_their_steps(shape: tuple[int, ...]) -> None:
    """Nothing of them is left, whether a label is one class or several values."""

    @named("hiding")
    class Hiding(ToyOnline):
        y_size = 0  # type: ignore[assignment]

    y = torch.randint(1, 5, shape)
    assert torch.equal(shown(y, ToyOnline()), y)
    assert shown(y, Hiding()).shape[:2] == y.shape[:2]
    assert not shown(y, Hiding()).any()
