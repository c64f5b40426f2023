"""One cell from spec to record, and many cells by the executor: resume, selection, divergence, races, kills."""

from __future__ import annotations

import copy
import io
import json
import math
import multiprocessing
import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from contract import same_bits
from fakes import StopAt, Toy, ToyNearest, ToyNet, ToyOnline, named, register
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from torch import Tensor

from baselines.maml import MAML
from baselines.protonet import ProtoNet
from baselines.simpleshot import SimpleShot
from bench import checkpoints, environment, executor, grid, records, registry, training, views
from bench.api import (
    BenchError,
    Episode,
    Examples,
    Generator,
    Learner,
    Method,
    Split,
    Task,
    TrainedMethod,
    Unsuited,
    option,
)
from bench.grid import Budget, Cell
from bench.tasks.glyphs import Glyphs
from bench.training import Context, Interrupted, Progress, device_of, run_cell

BUDGET = Budget(steps=6, validations=3, val_episodes=12, test_episodes=12)
QUESTIONS = 6 + 3 * 2 + 2
"""How often `stopping` is asked: each step, and each chunk of ten evaluation episodes."""


def cell_of(method: Method | None = None, task: Task | None = None, seed: int = 0, **budget: Any) -> Cell:
    return Cell(method or ToyNet(), task or Toy(), seed, replace(BUDGET, **budget))


@contextmanager
def store(**more: Any) -> Iterator[Context]:
    with tempfile.TemporaryDirectory() as folder:
        yield Context(Path(folder), **more)


def final(context: Context, cell: Cell) -> dict[str, Any]:
    return checkpoints.load(checkpoints.folder(context.results, cell.id) / "final.pt", cell.id)


def finish(cell: Cell, context: Context, stops: list[int]) -> records.Record:
    """Run a cell, interrupted at each of these questions in turn, until it has a record."""
    for k in stops:
        try:
            return run_cell(cell, replace(context, stopping=StopAt(k)))
        except Interrupted:
            pass
    return run_cell(cell, context)


def without_numbers_of_the_machine(record: records.Record) -> dict[str, Any]:
    return {"id": record.id, "spec": record.spec, "outcome": record.outcome, "result": record.result,
            "params": record.cost["params"], "data": record.data}  # fmt: skip


@pytest.mark.parametrize("method", ["gp", "cnp"])
def test_what_tells_how_sure_it_is_has_a_record_that_can_be_read(method: str) -> None:
    waves = registry.TASKS.entries["gp-regression"](query=5)
    trained = issubclass(registry.METHODS.entries[method], TrainedMethod)
    budget = BUDGET if trained else Budget(steps=0, validations=0, val_episodes=0, test_episodes=12, select="last")
    with store() as context:
        record = run_cell(Cell(registry.METHODS.entries[method](), waves, 0, budget), context)
        assert len(record.result["evaluations"][""]["nll"]["per_episode"]) == 12
        found = records.load(context.results)
        assert (found.problems, found.records) == ([], [record])


def test_what_cannot_be_read_is_not_written() -> None:
    with store() as context:
        record = run_cell(cell_of(), context)
        damaged = replace(record, id="0" * 12, spec=record.spec | {"seed": 1}, result=record.result | {"metric": 3})
        with pytest.raises(BenchError, match="not a whole record"):
            records.write(context.results, damaged)
        assert len(records.load(context.results).records) == 1


# Resume

CELLS = {
    "best": cell_of(),
    "last": cell_of(select="last"),
    "blind": cell_of(validations=0, val_episodes=0, select="last"),
    "rmsprop": cell_of(ToyNet(optimizer="rmsprop", halve_every=2, clip=0.1)),
    "online": cell_of(task=ToyOnline(), seed=3),
    "other settings": cell_of(task=Toy(train_way=4, also=("way=2,shot=3", "noise=1"))),
}


@pytest.mark.parametrize("kind", CELLS)
@settings(max_examples=4, deadline=None)
@given(stops=st.lists(st.integers(1, QUESTIONS), min_size=1, max_size=3))
def test_resume_at_any_moment_equals_uninterrupted_to_the_bit(kind: str, stops: list[int]) -> None:
    cell = CELLS[kind]
    with store() as whole, store() as parts:
        expected, resumed = run_cell(cell, whole), finish(cell, parts, stops)
        assert without_numbers_of_the_machine(resumed) == without_numbers_of_the_machine(expected)
        same_bits(final(parts, cell), final(whole, cell), "final.pt")
        if stops[0] <= BUDGET.steps:
            assert resumed.env["resumed"], "a record says where it was taken up again"
        assert "resumed" not in expected.env


@settings(max_examples=5, deadline=None)
@given(st.integers(1, 6))
def test_resume_from_a_checkpoint_on_time_equals_uninterrupted(step: int) -> None:
    """Killed without a word: what the last timed checkpoint holds is enough."""

    def die(progress: Progress) -> None:
        if progress.phase == "training" and progress.step == step:
            raise MemoryError

    cell = cell_of()
    with store() as whole, store(checkpoint_s=0) as parts:
        with pytest.raises(MemoryError):
            run_cell(cell, replace(parts, report=die))
        saved = checkpoints.latest(parts.results, cell.id)
        assert (saved["step"] if saved else 0) == step - 1
        expected, resumed = run_cell(cell, whole), run_cell(cell, parts)
        assert resumed.result == expected.result
        same_bits(final(parts, cell), final(whole, cell), "final.pt")


@pytest.mark.parametrize(
    "method",
    [ProtoNet(batch=1), SimpleShot(batch=8), MAML(batch=2, multi_step=5, train_steps=2), ToyNet()],
    ids=lambda method: method.name,
)
def test_cut_off_in_the_middle_of_a_step_equals_uninterrupted(method: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What follows the forward passes, as running averages do, has not followed the lost one when it is made again."""
    task = Toy() if isinstance(method, ToyNet) else Glyphs(size=16, query=2)
    cell, gradients, moved = cell_of(method, task), training._gradients, []

    def cut(asked: Any) -> Any:
        if not moved and asked[0].step == 3:
            before = copy.deepcopy(asked[0].learner)
            gradients(asked)
            now = zip(before.buffers(), asked[0].learner.buffers(), strict=True)
            moved.append(any(not a.equal(b) for a, b in now))
            raise KeyboardInterrupt
        return gradients(asked)

    with store() as whole, store() as parts:
        expected = run_cell(cell, whole)
        monkeypatch.setattr(training, "_gradients", cut)
        with pytest.raises(KeyboardInterrupt):
            run_cell(cell, parts)
        saved = checkpoints.latest(parts.results, cell.id)
        assert saved is not None
        assert saved["step"] == 3
        resumed = run_cell(cell, parts)
        assert without_numbers_of_the_machine(resumed) == without_numbers_of_the_machine(expected)
        same_bits(final(parts, cell), final(whole, cell), "final.pt")
    assert moved == [any(True for _ in method.build(task).buffers())]


def test_a_record_names_the_device_of_the_part_before(monkeypatch: pytest.MonkeyPatch) -> None:
    cell = cell_of()
    with store() as context:
        for k, name in ((2, "a GPU"), (3, "another")):
            monkeypatch.setattr(environment, "device_name", lambda device, name=name: name)
            with pytest.raises(Interrupted):
                run_cell(cell, replace(context, stopping=StopAt(k)))
        monkeypatch.setattr(environment, "device_name", lambda device: "here")
        record = run_cell(cell, context)
    assert record.env["device"] == "here"
    assert [part["device"] for part in record.env["resumed"]] == ["a GPU", "another"]
    said = io.StringIO()
    views.print_record(Console(file=said, width=200), record, Path("record.json"))
    assert "until then on a GPU" in said.getvalue()


def test_the_last_two_checkpoints_are_kept_and_none_of_a_finished_cell() -> None:
    cell = cell_of()
    with store(checkpoint_s=0) as context:
        with pytest.raises(Interrupted):
            run_cell(cell, replace(context, stopping=StopAt(9)))
        home = checkpoints.folder(context.results, cell.id)
        assert len(list(home.glob("step-*.pt"))) == checkpoints.KEEP
        run_cell(cell, context)
        assert [p.name for p in home.iterdir()] == ["final.pt"]


def _pickle(path: Path) -> None:
    class Anything:
        def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
            return os.system, (f"touch {path.parent / 'owned'}",)

    torch.save({"format": checkpoints.FORMAT, "learner": Anything()}, path)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:100]), "is not a checkpoint of tensors and numbers"),
        (lambda path: path.write_bytes(b""), "is not a checkpoint of tensors and numbers"),
        (_pickle, "is not a checkpoint of tensors and numbers"),
        (lambda path: torch.save([1], path), "not a checkpoint of this version"),
        (lambda path: torch.save({"format": 99}, path), "not a checkpoint of this version"),
        (lambda path: checkpoints.save(path, "another", {"step": 1}), "belongs to another spec"),
    ],
    ids=["cut", "empty", "pickle", "list", "newer", "another"],
)
def test_a_checkpoint_that_cannot_be_used_is_refused(spoil: Callable[[Path], object], says: str) -> None:
    cell = cell_of()
    with store() as context:
        with pytest.raises(Interrupted):
            run_cell(cell, replace(context, stopping=StopAt(3)))
        path = next(checkpoints.folder(context.results, cell.id).glob("step-*.pt"))
        spoil(path)
        with pytest.raises(BenchError) as caught:
            run_cell(cell, context)
        assert says in str(caught.value)
        assert str(path) in str(caught.value)
        assert not (path.parent / "owned").exists()


# What a record says


def test_a_record_holds_what_happened() -> None:
    cell = cell_of()
    with store() as context:
        record = run_cell(cell, context)
        assert records.read(records.path_of(context.results, cell.spec)) == record
    assert (record.id, record.spec, record.outcome) == (cell.id, cell.spec, "ok")
    assert [p["step"] for p in record.result["curve"]] == BUDGET.validation_steps()
    assert all(0 <= p["val"] <= 1 and p["loss"] > 0 for p in record.result["curve"])
    scores = record.result["evaluations"][""]
    assert len(scores["per_episode"]) == BUDGET.test_episodes
    assert scores["mean"] == pytest.approx(sum(scores["per_episode"]) / BUDGET.test_episodes)
    assert scores["setting"] == {"way": 3, "shot": 1, "query": 2, "noise": 0.3, "label": "plain"}
    assert (scores["by_instance"], scores["by_step"]) == (None, None)
    assert record.cost["params"] == sum(p.numel() for p in ToyNet().build(Toy()).parameters())
    assert record.cost["train_episodes_per_s"] > 0
    assert record.cost["peak_bytes"] > 0


def test_the_curve_holds_the_mean_loss_since_the_point_before() -> None:
    with store() as context:
        coarse = run_cell(cell_of(validations=1), context).result["curve"]
        fine = run_cell(cell_of(validations=6), context).result["curve"]
    assert len(fine) == 6
    assert coarse[0]["loss"] == pytest.approx(sum(p["loss"] for p in fine) / 6)


def test_without_validation_the_curve_has_losses_and_the_last_parameters_count() -> None:
    cell = cell_of(steps=40, validations=0, val_episodes=0, select="last")
    with store() as context:
        result = run_cell(cell, context).result
        assert final(context, cell)["step"] == 40
    assert [p["step"] for p in result["curve"]] == list(range(2, 41, 2))
    assert all(p["val"] is None for p in result["curve"])
    assert result["selected_step"] == 40


def test_online_a_record_holds_accuracy_by_instance_with_the_count_behind_each() -> None:
    with store() as context:
        result = run_cell(cell_of(task=ToyOnline(way=3, each=4)), context).result
    by_instance = result["evaluations"][""]["by_instance"]
    assert by_instance["n"] == [3 * BUDGET.test_episodes] * 4 + [0] * 6
    assert [mean is None for mean in by_instance["mean"]] == [False] * 4 + [True] * 6
    overall = sum(m for m in by_instance["mean"] if m is not None) / 4
    assert overall == pytest.approx(result["evaluations"][""]["mean"])
    assert result["curve"][0]["val_by_instance"] is not None


def test_by_step_scores_are_recorded_where_a_method_has_steps() -> None:
    class Steps(Learner):
        def forward(self, support: Examples, query_x: Tensor) -> Tensor:
            return query_x.new_zeros(*query_x.shape[:2], 3)

        def by_step(self, support: Examples, query_x: Tensor) -> dict[int, Tensor]:
            return {k: self(support, query_x) for k in (0, 1, 10)}

    @named("steps")
    class Stepping(Method):
        """Has steps."""

        def build(self, task: Task) -> Learner:
            return Steps()

    with store() as context:
        scores = run_cell(cell_of(Stepping(), steps=0), context).result["evaluations"][""]
    assert {k: v["per_episode"] for k, v in scores["by_step"].items()} == dict.fromkeys(
        ["0", "1", "10"], scores["per_episode"]
    )


def test_a_method_that_does_not_train_is_tested_only() -> None:
    cell = grid.Cell(ToyNearest(), Toy(), 0, grid._fit(BUDGET, ToyNearest(), Toy()))
    Toy.drawn.clear()
    with store() as context:
        record = run_cell(cell, context)
        assert not checkpoints.folder(context.results, cell.id).exists()
    assert {split for split, _ in Toy.drawn} == {"test"}
    assert record.result["curve"] == []
    assert record.cost["train_episodes_per_s"] is None
    assert record.result["evaluations"][""]["mean"] > 0.5


# Splits


def test_training_and_validation_never_touch_the_test_split() -> None:
    Toy.drawn.clear()
    with store() as context:
        run_cell(cell_of(task=Toy(also=("way=2",))), context)
    splits = [split for split, _ in Toy.drawn]
    first = splits.index("test")
    assert splits[:first].count("train") == BUDGET.steps
    assert set(splits[first:]) == {"test"}
    assert len(splits[first:]) == 2 * 2, "two settings of twelve episodes, ten at a time: each touched once"
    assert [way for split, way in Toy.drawn if split == "test"] == [3, 3, 2, 2]


def test_episodes_of_an_evaluation_are_the_same_for_all_methods_and_training_settings() -> None:
    def episodes(task: Task, seed: int = 0, split: str = "test") -> list[Tensor]:
        return [e.query.x for e in task.episodes(split, 25, seed)]  # type: ignore[arg-type]

    base = episodes(Toy())
    assert [len(x) for x in base] == [10, 10, 5]
    same = (Toy(train_way=7), Toy(also=("way=2",)), next(iter(Toy(also=("way=2",)).evaluations().values())))
    for task in same:
        assert all(torch.equal(a, b) for a, b in zip(base, episodes(task), strict=True))
    for others in (episodes(Toy(), seed=1), episodes(Toy(noise=0.31)), episodes(Toy(), split="val")):
        assert not any(torch.equal(a, b) for a, b in zip(base, others, strict=True))
    assert torch.equal(next(iter(Toy().episodes("test", 10, 0))).query.x, base[0]), "a longer list begins the same"


def test_a_setting_named_in_also_is_tested_as_if_it_were_the_task() -> None:
    task, other = Toy(also=("way=2,shot=3",)), Toy(way=2, shot=3)
    with store() as context:
        both = run_cell(cell_of(ToyNearest(), task, steps=0), context).result["evaluations"]
        alone = run_cell(cell_of(ToyNearest(), other, steps=0), context).result["evaluations"]
    assert list(both) == ["", "way=2,shot=3"]
    assert both["way=2,shot=3"] == alone[""]


def test_training_episodes_differ_by_seed_and_step_and_not_by_method() -> None:
    seen: dict[tuple[int, str], list[bytes]] = {}

    @named("noting")
    class Noting(ToyNet):
        """Notes what it is trained on."""

        level: int = option(0, "a number")

        def build(self, task: Task) -> Learner:
            learner = super().build(task)
            honest = learner.loss
            drawn = seen.setdefault((current[0], self.name + str(self.level)), [])

            def loss(episode: Episode, task: Task) -> Tensor:
                drawn.append(episode.query.x.numpy().tobytes())
                return honest(episode, task)

            learner.loss = loss  # type: ignore[method-assign]
            return learner

    current = [0]
    with store() as context:
        for seed, level in ((0, 0), (0, 1), (1, 0)):
            current[0] = seed
            run_cell(cell_of(Noting(level=level), seed=seed), context)
    a, b, c = seen.values()
    assert a == b
    assert not set(a) & set(c)
    assert len(set(a)) == BUDGET.steps


# Selection and divergence


@named("fading")
class Fading(TrainedMethod):
    """Starts perfect and forgets: each step adds noise to what it answers, so that the first validation is the best."""

    batch: int = option(2, "episodes per training step")
    lr: float = option(0.3, "learning rate")

    def build(self, task: Task) -> Learner:
        return Faded()


class Faded(Learner):
    """Answers right with logits that shrink past zero."""

    def __init__(self) -> None:
        super().__init__()
        self.skill = torch.nn.Parameter(torch.ones(()))

    def forward(self, support: Examples, query_x: Tensor) -> Tensor:
        near = -(query_x[:, :, None] - support.x[:, None]).square().sum(-1)
        return self.skill * (near @ torch.nn.functional.one_hot(support.y, int(support.y.max()) + 1).to(near.dtype))

    def loss(self, episode: Episode, task: Task) -> Tensor:
        return self.skill


def test_best_selects_by_validation_and_last_the_last() -> None:
    with store() as context:
        best, last = cell_of(Fading()), cell_of(Fading(), select="last")
        found = {c: run_cell(c, context) for c in (best, last)}
        skills = {c: final(context, c)["learner"]["skill"].item() for c in found}
    assert [found[c].result["selected_step"] for c in (best, last)] == [2, 6]
    assert [p["val"] for p in found[best].result["curve"]] == [p["val"] for p in found[last].result["curve"]]
    assert skills[best] > 0 > skills[last]
    means = [found[c].result["evaluations"][""]["mean"] for c in (best, last)]
    assert means[0] > 0.7
    assert means[1] < 0.3


def test_where_less_is_better_the_lowest_validation_is_selected() -> None:
    @named("toy-error")
    class Error(Toy):
        """Scored by error."""

        higher_is_better = False

        def score(self, prediction: Tensor, y: Tensor) -> Tensor:
            return 1 - super().score(prediction, y)

    with store() as context:
        result = run_cell(cell_of(Fading(), Error()), context).result
    assert result["selected_step"] == 2
    assert result["higher_is_better"] is False
    assert result["evaluations"][""]["mean"] < 0.3


@named("exploding")
class Exploding(Fading):
    """Its loss becomes NaN or infinite after so many steps."""

    after: int = option(3, "steps that go well")
    value: float = option(0.0, "1 / this is added then")

    def build(self, task: Task) -> Learner:
        return Exploded(self.after, self.value)


class Exploded(Faded):
    """Counts steps in a buffer, so that a resumed run explodes at the same step."""

    def __init__(self, after: int, value: float) -> None:
        super().__init__()
        self.after, self.value = after, value
        self.register_buffer("steps", torch.zeros(()))

    def loss(self, episode: Episode, task: Task) -> Tensor:
        self.steps += 1
        bad = self.steps > self.after
        return self.skill + (torch.where(bad, torch.inf, 0.0) if self.value else torch.where(bad, torch.nan, 0.0))


@pytest.mark.parametrize("value", [0.0, 1.0], ids=["nan", "inf"])
@pytest.mark.parametrize("stops", [[], [3]], ids=["whole", "resumed"])
def test_divergence_is_an_outcome_and_is_recorded_once(value: float, stops: list[int]) -> None:
    cell = cell_of(Exploding(value=value))
    Toy.drawn.clear()
    with store() as context:
        record = finish(cell, context, stops)
        assert records.load(context.results).records == [record]
        assert [o.status for o in executor.execute([cell], context)] == ["done"], "it is not tried again"
    assert record.outcome == "diverged"
    assert record.result["evaluations"] == {}
    assert record.result["curve"][-1] == {"step": 4, "loss": None, "val": None, "val_by_instance": None}
    assert "test" not in {split for split, _ in Toy.drawn}


@named("parabola")
class Parabola(Fading):
    """Its loss overflows once it is thrown far enough."""

    def build(self, task: Task) -> Learner:
        learner = Faded()
        learner.loss = lambda episode, task: learner.skill.square()  # type: ignore[method-assign, assignment]
        return learner


def test_a_learning_rate_that_is_too_high_diverges_and_does_not_fail() -> None:
    with store() as context:
        record = run_cell(cell_of(Parabola(lr=1e30)), context)
    assert record.outcome == "diverged"


@pytest.mark.parametrize("value", [math.nan, -math.inf, 1e200])
def test_scores_that_are_not_finite_or_as_good_as_infinite_make_a_diverged_record(value: float) -> None:
    @named(f"toy-{value}")
    class Scored(Toy):
        """Its score is one number."""

        metric = "score"

        def score(self, prediction: Tensor, y: Tensor) -> Tensor:
            return torch.full((len(prediction),), value, dtype=torch.float64)

    with store() as context:
        record = run_cell(cell_of(ToyNearest(), Scored(), steps=0), context)
        assert record.outcome == "diverged"
        assert records.read(records.path_of(context.results, record.spec)) == record


def test_scores_and_episodes_of_other_numbers_than_asked_for_are_refused() -> None:
    @named("toy-mean")
    class Meant(Toy):
        """Its score is the mean over episodes."""

        def score(self, prediction: Tensor, y: Tensor) -> Tensor:
            return super().score(prediction, y).mean()

    @named("toy-more")
    class More(Toy):
        """Draws one episode more than it is asked for."""

        def sample(self, split: Split, batch: int, rng: Generator) -> Episode:
            return super().sample(split, batch + 1, rng)

    @named("toy-long")
    class Long(Toy):
        """Has one test episode more than it is asked for."""

        def episodes(self, split: Split, count: int, seed: int) -> Iterator[Episode]:
            yield from super().episodes(split, count + 1, seed)

    @named("toy-points")
    class Points(Toy):
        """Its accuracy is in points."""

        def score(self, prediction: Tensor, y: Tensor) -> Tensor:
            return 100 + super().score(prediction, y)

    with store() as context:
        with pytest.raises(BenchError, match=r"toy-long.episodes was asked for \d+ and gives \d+; say so by `fixed`"):
            run_cell(cell_of(ToyNearest(), Long(), steps=0), context)
        with pytest.raises(BenchError, match=r"toy-points.score must be from 0 to 1, as its metric is called accuracy"):
            run_cell(cell_of(ToyNearest(), Points(), steps=0), context)
        with pytest.raises(BenchError, match=r"toy-mean.score must give one score an episode, \[\d+\], not \[\]"):
            run_cell(cell_of(ToyNearest(), Meant(), steps=0), context)
        with pytest.raises(BenchError, match=r"toy-more.sample was asked for \d+ episodes and gives"):
            run_cell(cell_of(ToyNearest(), More(), steps=0), context)
        assert records.load(context.results).records == []


# What does not fit


@named("fixed-way")
class FixedWay(ToyNet):
    """Its parameters depend on way, as those of a network with one logit a class do."""

    def build(self, task: Task) -> Learner:
        learner = super().build(task)
        learner.head = torch.nn.Linear(task.n_out, task.n_out)
        return learner


@pytest.mark.parametrize(
    ("task", "where"),
    [(Toy(train_way=5), "do not fit the test setting; use"), (Toy(also=("way=2",)), r"\(way=2\); use")],
    ids=["train_way", "also"],
)
def test_other_sizes_in_training_than_in_tests_are_one_sentence(task: Task, where: str) -> None:
    Toy.drawn.clear()
    with store() as context, pytest.raises(Unsuited, match=where):
        run_cell(cell_of(FixedWay(), task), context)
    assert Toy.drawn == [], "it is said before any work"


def test_a_method_unsuited_to_a_further_setting_says_so() -> None:
    @named("few")
    class Few(ToyNet):
        """Takes three classes at most."""

        def unsuited(self, task: Task) -> str | None:
            return "too many classes" if task.n_out > 3 else None

    with store() as context, pytest.raises(Unsuited, match="few does not run on toy with way=4: too many classes"):
        run_cell(cell_of(Few(), Toy(also=("way=4",))), context)


@pytest.mark.parametrize("choice", ["tpu", "", "CPU"])
def test_an_unknown_device_is_refused(choice: str) -> None:
    with pytest.raises(BenchError, match="the device is cpu, cuda or auto"):
        device_of(choice)


def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert [device_of("cpu"), device_of("auto")] == ["cpu", "cpu"]
    with pytest.raises(BenchError, match="there is no CUDA device here"):
        device_of("cuda")


# What leaves no trace


def test_a_run_leaves_torchs_random_stream_alone() -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    with store() as context:
        run_cell(cell_of(), context)
    assert torch.equal(torch.rand(3), expected)


def test_results_do_not_depend_on_what_ran_before() -> None:
    with store() as one, store() as two:
        first = run_cell(cell_of(), one).result
        torch.manual_seed(99)
        run_cell(cell_of(seed=5), two)
        assert run_cell(cell_of(), two).result == first


def test_a_record_reproduces_itself_from_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, Toy, ToyNet)
    cell = cell_of(ToyNet(width=6, sizes=()), Toy(way=2, also=("way=3", "noise=1.5")), seed=4)
    with store() as one, store() as two:
        record = run_cell(cell, one)
        again = grid.from_spec(json.loads(records.dump(record))["spec"])
        assert again.id == record.id
        assert run_cell(again, two).result == record.result


# The executor


@named("failing")
class FailingMethod(ToyNet):
    """Cannot be built."""

    sentence: str = option("", "what a user error says; empty: a bug")

    def build(self, task: Task) -> Learner:
        if self.sentence:
            raise BenchError(self.sentence)
        raise RuntimeError("a bug")


def test_one_failure_does_not_stop_the_others_and_stays_pending() -> None:
    cells = [cell_of(FailingMethod()), cell_of(), cell_of(FailingMethod(sentence="too wide"))]
    with store() as context:
        outcomes = executor.execute(cells, context)
        assert [(o.status, o.message, o.user_error) for o in outcomes] == [
            ("failed", "RuntimeError: a bug", False), ("done", "", False), ("failed", "too wide", True),
        ]  # fmt: skip
        log = executor.failure(context.results, cells[0].id)
        assert log is not None
        assert log.startswith("RuntimeError: a bug\n")
        assert "Traceback" in log
        assert executor.failure(context.results, cells[1].id) is None
        assert len(records.load(context.results).records) == 1
        FailingMethod.build, before = ToyNet.build, FailingMethod.build  # type: ignore[method-assign]
        try:
            assert {o.status for o in executor.execute(cells, context)} == {"done"}
        finally:
            FailingMethod.build = before  # type: ignore[method-assign]
        assert executor.failure(context.results, cells[0].id) is None, "what succeeded is no failure any more"


def test_recorded_cells_are_not_run_again() -> None:
    with store() as context:
        executor.execute([cell_of()], context)
        Toy.drawn.clear()
        assert [o.status for o in executor.execute([cell_of()], context)] == ["done"]
    assert Toy.drawn == []


@pytest.mark.parametrize("phase", ["training", "testing"])
def test_ctrl_c_stops_all_and_the_next_call_goes_on(phase: str) -> None:
    cells = [cell_of(seed=seed) for seed in range(3)]
    pressed = []

    def press(progress: Progress) -> None:
        if progress.phase == phase and progress.id == cells[1].id and not pressed:
            pressed.append(progress.step)
            os.kill(os.getpid(), signal.SIGINT)

    handler = signal.getsignal(signal.SIGINT)
    with store() as context, store() as whole:
        outcomes = executor.execute(cells, replace(context, report=press))
        assert {o.cell.seed: o.status for o in outcomes} == {0: "done", 1: "interrupted", 2: "interrupted"}
        assert checkpoints.latest(context.results, cells[1].id)["step"] == pressed[0]  # type: ignore[index]
        assert signal.getsignal(signal.SIGINT) is handler
        assert {o.status for o in executor.execute(cells, context)} == {"done"}
        executor.execute(cells, whole)
        results = [[r.result for r in records.load(c.results).records] for c in (context, whole)]
        assert results[0] == results[1]


def _race(results: Path, start: Any, answers: Any) -> None:
    cells = [cell_of(seed=seed, steps=30) for seed in range(6)]
    start.wait()
    answers.put([o.status for o in executor.execute(cells, Context(results))])


def test_two_runs_on_one_store_leave_one_record_a_cell_and_both_succeed(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    start, answers = spawn.Event(), spawn.Queue()
    runs = [spawn.Process(target=_race, args=(tmp_path, start, answers)) for _ in range(2)]
    for run in runs:
        run.start()
    start.set()
    assert [answers.get(timeout=120) for _ in runs] == [["done"] * 6] * 2
    for run in runs:
        run.join(60)
        assert run.exitcode == 0
    loaded = records.load(tmp_path)
    assert loaded.problems == []
    assert sorted(r.seed for r in loaded.records) == list(range(6))
    assert not list((tmp_path / "runs").rglob("*.tmp"))
    assert all("resumed" not in r.env for r in loaded.records), "no cell was computed by both in turn"


def test_a_cell_that_another_run_holds_is_awaited_and_not_computed() -> None:
    cells = [cell_of(seed=seed) for seed in range(2)]
    said = []

    def report(progress: Progress) -> None:
        said.append((progress.id, progress.phase))
        if progress.phase == executor.WAITING:
            run_cell(cells[0], other)  # the other run gets done
            held.__exit__(None, None, None)

    with store(report=report) as context:
        other = replace(context, report=lambda progress: None)
        held = executor._lock(context.results, cells[0].id)
        assert held.__enter__()
        outcomes = executor.execute(cells, context)
    assert [(o.cell.seed, o.status) for o in outcomes] == [(1, "done"), (0, "done")]
    assert (cells[0].id, "training") not in said


def test_workers_give_what_one_process_gives(tmp_path: Path) -> None:
    cells = [cell_of(seed=seed) for seed in range(3)] + [cell_of(FailingMethod(sentence="too wide"))]
    with store() as alone, store() as pool:
        executor.execute(cells, alone)
        outcomes = executor.execute(cells, pool, workers=2)
        assert sorted(o.status for o in outcomes) == ["done", "done", "done", "failed"]
        results = [[(r.id, r.result) for r in records.load(c.results).records] for c in (alone, pool)]
        assert results[0] == results[1]
