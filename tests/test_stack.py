"""Several seeds in one pass: each is trained as it would be alone, and keeps what is its own."""

from __future__ import annotations

import copy
import math
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import StopAt, Toy, ToyNearest, ToyNet, named
from shell import QUICK, bench, refused, toys  # noqa: F401
from torch import Tensor, nn
from torch.testing import assert_close

from baselines.adaptation import joint
from baselines.cavia import CAVIA
from baselines.maml import MAML, MAMLLearner
from baselines.r2d2 import R2D2
from baselines.reptile import Reptile
from bench import checkpoints, executor, frames, interface, records
from bench.api import BenchError, Episode, Examples, Learner, Task, TrainedMethod, option
from bench.grid import Budget, Cell
from bench.seeding import generator
from bench.tasks.glyphs import Glyphs
from bench.tasks.sinusoid import Sinusoid
from bench.training import Context, Interrupted, run_cell, run_stack

BUDGET = Budget(steps=6, validations=3, val_episodes=8, test_episodes=8)
FORMS: dict[str, Any] = {
    name: MAML(inner_lr=0.05, **fields) for name, fields in {
        "second": {}, "first": {"order": "first"}, "three steps": {"train_steps": 3}, "head": {"adapts": "head"},
        "body": {"adapts": "body"}, "each": {"rates": "each"}, "per-step": {"rates": "per-step", "train_steps": 2},
        "norm": {"batch_norm": "per-step", "train_steps": 2}, "transductive": {"batch_norm": "transductive"},
    }.items()
} | {
    "reptile": Reptile(inner_lr=0.05), "reptile, few": Reptile(inner_batch=4, train_steps=3),
    "cavia": CAVIA(), "cavia, two steps": CAVIA(train_steps=2, context=3), "r2d2": R2D2(batch=2),
}  # fmt: skip


def cells(seeds: int = 3, method: MAML | None = None, task: Task | None = None, **budget: Any) -> list[Cell]:
    made = method or MAML(batch=4, inner_lr=0.05)
    return [Cell(made, task or Sinusoid(), seed, replace(BUDGET, **budget)) for seed in range(seeds)]


@contextmanager
def store(**more: Any) -> Iterator[Context]:
    with tempfile.TemporaryDirectory() as folder:
        yield Context(Path(folder), **more)


def close(one: records.Record, other: records.Record) -> None:
    """Equal but for rounding."""
    assert (one.id, one.outcome) == (other.id, other.outcome)
    assert one.result["selected_step"] == other.result["selected_step"]
    for a, b in zip(one.result["curve"], other.result["curve"], strict=True):
        assert (a["loss"], a["val"]) == pytest.approx((b["loss"], b["val"]), rel=1e-5)
    for name, found in one.result["evaluations"].items():
        assert found["per_episode"] == pytest.approx(other.result["evaluations"][name]["per_episode"], rel=1e-4)


# ------------------------------------------------------------------------------------------------------------ gradients


@pytest.mark.parametrize("task", [Sinusoid(), Glyphs(way=3)], ids=["sinusoid", "glyphs"])
@pytest.mark.parametrize("form", FORMS)
def test_losses_and_gradients_are_those_of_each_alone(form: str, task: Task) -> None:
    method = FORMS[form]
    training_task = task.training()
    if reason := method.unsuited(task) or ("" if method.stacks(training_task) else "one by one here"):
        pytest.skip(reason)
    torch.manual_seed(0)
    learners = [method.build(training_task).double().train() for _ in range(3)]
    drawn = [training_task.sample("train", 2, generator("stack", form, i)) for i in range(3)]
    episodes = [Episode(*(type(e)(e.x.double(), e.y.double() if e.y.is_floating_point() else e.y) for e in episode))
                for episode in drawn]  # fmt: skip
    twins = copy.deepcopy(learners)
    together = method.losses(learners, episodes, training_task)
    for learner, twin, episode, loss in zip(learners, twins, episodes, together, strict=True):
        alone = twin.loss(episode, training_task)
        assert_close(loss, alone, rtol=1e-10, atol=1e-12)
        for (name, a), (_, b) in zip(learner.named_buffers(), twin.named_buffers(), strict=True):
            assert_close(a, b, msg=name)
        found = [torch.autograd.grad(each, list(of.parameters()), retain_graph=True, allow_unused=True)
                 for each, of in ((loss, learner), (alone, twin))]  # fmt: skip
        for a, b in zip(*found, strict=True):
            assert (a is None) == (b is None)
            if a is not None and b is not None:
                assert_close(a, b, rtol=1e-8, atol=1e-10)
        others = [p for other in learners if other is not learner for p in other.parameters()]
        reached = torch.autograd.grad(loss, others, retain_graph=True, allow_unused=True)
        assert all(g is None or not g.any() for g in reached), "a loss depends on its own learner alone"


def test_a_record_says_how_many_ran_also_where_the_last_steps_were_taken_alone() -> None:
    with store() as context:
        with pytest.raises(Interrupted):
            run_stack(cells(), replace(context, stopping=StopAt(9)))
        assert [run_cell(cell, context).env.get("stacked") for cell in cells()] == [3, 3, 3]


def test_what_cannot_be_joined_is_computed_one_by_one() -> None:
    assert not MAML(multi_step=5).stacks(Sinusoid())
    assert not CAVIA().stacks(Glyphs())
    with store() as context, store() as apart:
        together = run_stack(cells(method=MAML(batch=2, multi_step=5, train_steps=2)), context)
        for cell, record in zip(cells(method=MAML(batch=2, multi_step=5, train_steps=2)), together, strict=True):
            assert record.result == run_cell(cell, apart).result, "to the bit"
            assert "stacked" not in record.env


# -------------------------------------------------------------------------------------------------------------- records


def test_records_are_those_of_each_alone_and_say_how_many_ran() -> None:
    with store() as context, store() as apart:
        together, alone = run_stack(cells(), context), [run_cell(cell, apart) for cell in cells()]
        assert {r.id: r for r in records.load(context.results).records} == {r.id: r for r in together}
    for one, other in zip(together, alone, strict=True):
        close(one, other)
        assert one.env["stacked"] == 3
        assert "stacked" not in other.env
    made = frames.frame(together)
    assert made["ms_step"].isna().all(), "no step was one cell's own"
    assert frames.frame(alone)["ms_step"].notna().all()


@pytest.mark.parametrize("stop", [2, 5, 11, 20, 26])
def test_interrupted_stacks_resume_together_or_alone(stop: int) -> None:
    with store() as apart:
        alone = [run_cell(cell, apart) for cell in cells()]
    with store() as context:
        with pytest.raises(Interrupted):
            run_stack(cells(), replace(context, stopping=StopAt(stop)))
        (first, *rest) = cells()
        resumed = [run_cell(first, context)] if not records.path_of(context.results, first.spec).exists() else []
        left = [cell for cell in rest if not records.path_of(context.results, cell.spec).exists()]
        resumed += run_stack(left, context) if left else []
        found = {record.id: record for record in records.load(context.results).records}
        for other in alone:
            close(found[other.id], other)


@pytest.mark.parametrize("stop", [1, 2, 5, 9, 10, 14, 31])
def test_an_interrupted_stack_that_goes_on_as_one_finds_the_same_to_the_bit(stop: int) -> None:
    """Rounding depends on how many take a step together: no seed may be a step ahead of the others."""
    made = cells(method=R2D2(batch=4), steps=8, validations=2)
    with store() as apart, store() as context:
        whole = run_stack(made, apart)
        with pytest.raises(Interrupted):
            run_stack(made, replace(context, stopping=StopAt(stop)))
        left = [cell for cell in made if not records.path_of(context.results, cell.spec).exists()]
        begun = [checkpoints.latest(context.results, cell.id) for cell in left]
        assert len({saved["step"] if saved else 0 for saved in begun}) == 1
        run_stack(left, context)
        found = {record.id: record.result for record in records.load(context.results).records}
        assert found == {record.id: record.result for record in whole}


def test_the_seeds_of_a_stack_keep_checkpoints_of_the_same_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: dict[int, list[str]] = {}
    save = checkpoints.save_step

    def note(results: Path, id: str, step: int, state: dict[str, Any]) -> None:
        kept.setdefault(step, []).append(id)
        save(results, id, step, state)

    monkeypatch.setattr(checkpoints, "save_step", note)
    with store(checkpoint_s=0.02) as context:
        run_stack(cells(steps=40, validations=1), context)
    assert kept
    assert all(len(ids) == 3 for ids in kept.values())


def test_cells_at_different_steps_go_on_side_by_side() -> None:
    with store() as context, store() as apart:
        with pytest.raises(Interrupted):
            run_cell(cells()[1], replace(context, stopping=StopAt(4)))
        together = run_stack(cells(), context)
        for record, cell in zip(together, cells(), strict=True):
            close(record, run_cell(cell, apart))
        assert [bool(record.env.get("resumed")) for record in together] == [False, True, False]


def test_one_that_diverges_leaves_the_others_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    real = MAML.losses

    def losses(self: MAML, learners: Sequence[Learner], episodes: Sequence[Episode], task: Task) -> list[Tensor] | None:
        found = real(self, learners, episodes, task)
        assert found is not None
        nonlocal asked
        asked += 1
        return [found[0] * math.nan, *found[1:]] if asked == 3 else found

    asked = 0
    with store() as context, store() as apart:
        monkeypatch.setattr(MAML, "losses", losses)
        together = run_stack(cells(), context)
        monkeypatch.undo()
        assert [record.outcome for record in together] == ["diverged", "ok", "ok"]
        for record, cell in zip(together[1:], cells()[1:], strict=True):
            close(record, run_cell(cell, apart))


# ------------------------------------------------------------------------------------------------------------- executor


@named("together")
class Together(MAML):
    """Counts how many it was asked for at once."""

    sick: bool = option(False, "it cannot train several")

    def build(self, task: Task) -> MAMLLearner:
        ALIVE.append(sum(learner() is not None for learner in FAILED))
        return super().build(task)

    def losses(self, learners: Sequence[Learner], episodes: Sequence[Episode], task: Task) -> list[Tensor] | None:
        ASKED.append(len(learners))
        if self.sick:
            FAILED.extend(map(weakref.ref, learners))
            raise RuntimeError("out of memory")
        return joint(learners, episodes, task)


ASKED: list[int] = []
FAILED: list[weakref.ref[Learner]] = []
"""Learners of stacks that failed."""
ALIVE: list[int] = []
"""How many of them were left when a learner was made."""


def test_only_cells_that_differ_in_their_seed_are_stacked() -> None:
    ours, others = cells(5), cells(2, steps=7)
    plain = [Cell(replace(cells()[0].method, batch=5), Sinusoid(), 0, BUDGET)]  # type: ignore[arg-type]
    found = executor.stacked([*ours, *others, *plain], 3)
    assert [[cell.seed for cell in stack] for stack in found] == [[0, 1, 2], [3, 4], [0, 1], [0]]
    assert all(len(stack) == 1 for stack in executor.stacked(ours, 1))


def test_methods_without_joint_losses_train_one_by_one() -> None:
    every = [Cell(method, Toy(), seed, BUDGET) for method in (ToyNet(), ToyNearest()) for seed in range(2)]
    assert all(len(stack) == 1 for stack in executor.stacked(every, 10))


@pytest.mark.parametrize("workers", [1, 2])
def test_the_executor_runs_stacks(workers: int) -> None:
    with store(stack=2) as context:
        outcomes = executor.execute(cells(4), context, workers)
        assert [o.status for o in outcomes] == ["done"] * 4
        assert [r.env["stacked"] for r in records.load(context.results).records] == [2] * 4


@pytest.mark.parametrize("recorded", [0, 1])
def test_where_a_stack_fails_each_is_tried_alone(recorded: int) -> None:
    ASKED.clear(), FAILED.clear(), ALIVE.clear()
    sick = cells(3, Together(batch=2, sick=True))
    with store(stack=3) as context:
        executor.execute(sick[:recorded], context)
        outcomes = {o.cell.seed: o for o in executor.execute(sick, context)}
        assert [o.status for o in outcomes.values()] == ["done"] * 3
        assert [3 - recorded] == ASKED
        said = [outcomes[seed].message for seed in range(3)]
        ours = f"{3 - recorded} seeds in one pass failed, so each was tried alone: "
        assert [message.startswith(ours) for message in said] == [seed >= recorded for seed in range(3)]
        assert not any("stacked" in r.env for r in records.load(context.results).records)
    assert not any(ALIVE), "what had failed was still in memory"


def test_a_link_to_nowhere_in_a_stack_fails_that_cell_alone() -> None:
    with store(stack=3) as context:
        path = records.path_of(context.results, cells()[1].spec)
        path.parent.mkdir(parents=True)
        path.symlink_to("nowhere")
        outcomes = {o.cell.seed: o for o in executor.execute(cells(3), context)}
        assert [outcomes[seed].status for seed in range(3)] == ["done", "failed", "done"]
        assert "link" in outcomes[1].message


def test_a_damaged_checkpoint_of_one_fails_that_one_alone() -> None:
    with store(stack=3) as context:
        home = checkpoints.folder(context.results, cells()[1].id)
        home.mkdir(parents=True)
        (home / "step-000000001.pt").write_bytes(b"no checkpoint")
        found = {o.cell.seed: o for o in executor.execute(cells(3), context)}
        alone = executor.execute([cells()[1]], replace(context, stack=1))
        assert found[1].status == alone[0].status
        assert {found[0].status, found[2].status} == {"done"}


def test_an_interrupted_stack_says_so_of_each() -> None:
    with store(stack=3) as context:
        (stack,) = executor.stacked(cells(3), 3)
        outcomes = executor._attempt(stack, replace(context, stopping=StopAt(9)))
        assert [o.status for o in outcomes] == ["interrupted"] * 3
        assert [o.status for o in executor.execute(cells(3), context)] == ["done"] * 3
        assert all(r.env["resumed"] for r in records.load(context.results).records)


@pytest.mark.usefixtures("toys")
def test_the_option(capsys: pytest.CaptureFixture[str]) -> None:
    command = ("run", "-m", "maml", "-t", "sinusoid", "--steps", 3, "--seeds", "0-2", "--results", "out", *QUICK)
    refused(bench(capsys, *command, "--stack", 0), "--stack is at least 1, not 0")
    refused(bench(capsys, *command, "--stack", 2, "--executor", "slurm"), "each job runs one cell")
    assert bench(capsys, *command, "--stack", 2, "--json").code == 0
    assert sorted(r.env.get("stacked", 1) for r in records.load(Path("out")).records) == [1, 2, 2]
    command = ("run", "-m", "maml", "-m", "protonet", "-m", "chance", "-t", "glyphs", *command[3:])
    said = bench(capsys, *command, "--stack", 2, "--dry-run")
    assert "note: --stack changes nothing here for protonet: one seed after another" in said.err
    assert "--stack" not in bench(capsys, *command, "--dry-run").err
    with pytest.raises(BenchError, match="at least 1"):
        interface.run(methods="maml", tasks="sinusoid", stack=0)


class Offset(Learner):
    """Adds what it drew when it was built, and does not learn."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.randn(1))
        self.register_buffer("drawn", torch.randn(1))

    def forward(self, support: Examples, query_x: Tensor) -> Tensor:
        return self.slope * query_x + self.drawn


def test_each_learner_of_a_stack_has_its_own_buffers() -> None:
    task = Sinusoid()
    learners, episodes = [Offset() for _ in range(3)], [task.sample("train", 2, generator(k)) for k in range(3)]
    found = TrainedMethod.losses(MAML(), learners, episodes, task)
    for loss, learner, episode in zip(found, learners, episodes, strict=True):
        assert_close(loss, learner.loss(episode, task))
