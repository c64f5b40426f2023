"""Choices to cells: expansion, settings, suites, seeds, shards, identity, and the command that makes a cell again."""

from __future__ import annotations

import dataclasses
import shlex
import typing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import Toy, ToyNearest, ToyNet, ToyOnline, register
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench import grid, registry
from bench.api import MissingData, Task
from bench.config import LARGEST
from bench.errors import BenchError, Unsuited
from bench.grid import Budget, Cell
from bench.tasks.lake import Lake

SAFE = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(autouse=True)
def _toys(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, Toy, ToyOnline, ToyNet, ToyNearest)


def suite(tmp_path: Path, text: str) -> str:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    return str(path)


def replanned(command: str) -> list[Cell]:
    """The cells that a printed command asks for."""
    words = shlex.split(command)
    assert words[:2] == ["bench", "run"]
    options: dict[str, list[str]] = {}
    for flag, value in zip(words[2::2], words[3::2], strict=True):
        options.setdefault(flag, []).append(value)
    steps = options.pop("--steps", None)
    plan = grid.plan(
        methods=options.pop("-m"), tasks=options.pop("-t"), seeds=options.pop("--seeds")[0],
        settings=options.pop("--set", []), steps=int(steps[0]) if steps else None,
    )  # fmt: skip
    assert not options
    return plan.cells


# The grid


def test_a_grid_is_method_times_task_times_seed() -> None:
    plan = grid.plan(methods=["toy-n*"], tasks=["toy", "toy-online"], seeds="0-2")
    assert len(plan.cells) == 2 * 2 * 3
    assert len({c.id for c in plan.cells}) == 12
    assert plan.notes == []
    assert [c.seed for c in plan.cells] == [0] * 4 + [1] * 4 + [2] * 4, "whole seeds come early"


def test_a_cell_asked_for_twice_runs_once() -> None:
    assert len(grid.plan(methods=["toy-net", "toy-n*"], tasks=["toy", "toy"], seeds="0,0,0-1").cells) == 2 * 2


def test_settings_reach_fields_by_name_and_by_pattern() -> None:
    choices: dict[str, Any] = {"methods": ["toy-net"], "tasks": ["toy", "toy-online"]}
    cells = grid.plan(**choices, settings=["toy*.way=2", "toy-net.lr=0.5", "budget.validations=3"], steps=7).cells
    assert {c.task.way for c in cells} == {2}  # type: ignore[attr-defined]
    assert {c.method.lr for c in cells} == {0.5}  # type: ignore[attr-defined]
    assert {(c.budget.steps, c.budget.validations) for c in cells} == {(7, 3)}


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("way=2", "--set takes NAME.FIELD=VALUE"),
        ("toy.way", "--set takes NAME.FIELD=VALUE"),
        ("tyo.way=2", "there is no method, task or budget 'tyo'; did you mean toy"),
        ("toy.wya=2", "there is no field of toy 'wya'; did you mean way"),
        ("toy.way=two", "toy.way must be a whole number, not 'two'"),
        ("toy-online.way=2", "fits nothing in this run; it can set fields of budget, toy, toy-net"),
        ("toy*.nothing=2", "fits nothing in this run"),
        ("budget.step=2", "did you mean steps"),
        ("budget.steps=0", "steps must be at least 1, not 0"),
        ("budget.test_episodes=0", "test_episodes must be at least 1"),
        ("budget.validations=-1", "validations must be 0 or more"),
        ("budget.val_episodes=0", "val_episodes at least 1"),
        ("budget.select=worst", "best, last"),
        ("toy.also=way", "is not a setting"),
        ("toy.also=wya=2", "did you mean way"),
        ("toy.also=also=way=2", "toy.also=also=way=2 sets also itself; further settings are joined by +"),
        ("toy.also=way=2,also=", "sets also itself"),
    ],
)
def test_a_wrong_setting_is_one_sentence(setting: str, says: str) -> None:
    with pytest.raises(BenchError) as caught:
        grid.plan(methods=["toy-net"], tasks=["toy"], settings=[setting])
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("choices", "says"),
    [
        ({}, "say what to run"),
        ({"methods": ["toy-net"]}, "say what to run"),
        ({"methods": ["toy-nte"], "tasks": ["toy"]}, "did you mean toy-net"),
        ({"methods": ["zzz*"], "tasks": ["toy"]}, "no method matches 'zzz*'"),
        ({"suite": "smokey"}, "there is no suite 'smokey'"),
        ({"methods": ["toy-net"], "tasks": ["toy"], "steps": 0}, "steps must be at least 1"),
    ],
)
def test_a_wrong_choice_is_one_sentence(choices: dict[str, Any], says: str) -> None:
    with pytest.raises(BenchError) as caught:
        grid.plan(**choices)
    assert says in str(caught.value)


def test_the_task_refuses_fields_that_do_not_fit_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def check(self: Toy) -> None:
        if self.way > 12:
            raise BenchError(f"way {self.way} is more than 12 classes")

    monkeypatch.setattr(Toy, "check", check)
    for setting in ("toy.way=13", "toy.also=way=14"):
        with pytest.raises(BenchError, match="more than 12 classes"):
            grid.plan(methods=["toy-net"], tasks=["toy"], settings=[setting])


def test_a_further_setting_needs_the_test_split_alone() -> None:
    cells = grid.plan(methods=["chance"], tasks=["glyphs"], settings=["glyphs.also=way=200"]).cells
    assert cells[0].task.also == ("way=200",)
    for setting in ("glyphs.also=way=301", "glyphs.way=200"):
        with pytest.raises(BenchError, match=r"way \d+ is more than the \d+ classes of its (test|val) split"):
            grid.plan(methods=["chance"], tasks=["glyphs"], settings=[setting])


SIZES = ["lstm.size", "lstm.encoder_size", "mann.controller_size", "mann.slots", "mann-ff.width", "mann.heads",
         "mann-attention.encoder_size", "mann-attention.slots", "maml.batch", "protonet.batch"]  # fmt: skip


@pytest.mark.parametrize("field", SIZES)
def test_sizes_below_one_are_refused_before_any_work(field: str) -> None:
    with pytest.raises(BenchError, match=r"at least 1|>= 1"):
        grid.plan(methods=[field.partition(".")[0]], tasks=["glyphs"], settings=[f"{field}=0"])


def test_what_does_not_go_together_is_left_out_and_said() -> None:
    plan = grid.plan(methods=["toy-*"], tasks=["sinusoid", "toy"])
    assert [(c.method.name, c.task.name) for c in plan.cells if c.method.name == "toy-net"] == [("toy-net", "toy")]
    assert plan.notes == ["toy-net does not run on sinusoid: it needs classes"]
    with pytest.raises(Unsuited, match="toy-net does not run on sinusoid: it needs classes"):
        grid.plan(methods=["toy-net"], tasks=["sinusoid"])


# Suites


def test_a_suite_makes_blocks_and_the_command_line_narrows_them(tmp_path: Path) -> None:
    path = suite(
        tmp_path,
        """
        [[grid]]
        methods = ["toy-net", {name = "toy-net", width = 9}]
        tasks = [{name = "toy", way = 2}]
        seeds = "0-1"
        budget = {steps = 5}

        [[grid]]
        methods = ["toy-nearest"]
        tasks = ["toy", "toy-online"]
        """,
    )
    assert len(grid.plan(path).cells) == 2 * 2 + 2
    assert {c.budget.steps for c in grid.plan(path).cells} == {5, 0}
    assert len(grid.plan(path, methods=["toy-net"], seeds="7").cells) == 2
    assert [c.task.name for c in grid.plan(path, tasks=["*-online"]).cells] == ["toy-online"]
    with pytest.raises(BenchError, match="no cell matches"):
        grid.plan(path, methods=["toy-net"], tasks=["toy-online"])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("grid = ", "is not valid TOML"),
        ("title = 'x'", r"no [[grid]] block"),
        ("grid = []", r"no [[grid]] block"),
        ("[[grid]]\nmethods = ['toy-net']", "needs methods and tasks"),
        ("[[grid]]\nmethods = ['toy-net']\ntasks = ['toy']\nseed = 3", "needs methods and tasks, and may have seeds"),
        ("[[grid]]\nmethods = [{width = 3}]\ntasks = ['toy']", "by its name, or as a table with a name and fields"),
        ("[[grid]]\nmethods = [3]\ntasks = ['toy']", "a method is given by its name"),
        ("[[grid]]\nmethods = 'toy-net'\ntasks = ['toy']", "methods"),
        ("[[grid]]\nmethods = ['toy-net']\ntasks = ['toy']\nbudget = 5", "budget"),
        ("[[grid]]\nmethods = ['toy-net']\ntasks = ['toy']\nbudget = {step = 5}", "did you mean steps"),
        ("[[grid]]\nmethods = ['toy-net']\ntasks = [{name = 'toy', way = 'x'}]", "toy.way must be a whole number"),
        ("[[grid]]\nmethods = ['toy-net']\ntasks = ['toy']\nseeds = 'x'", "seeds are written"),
        ("[[grid]]\nmethods = ['toy-net']\ntasks = ['toy']\nseeds = 1.5", "seeds are"),
        ("[[grid]]\nmethods = []\ntasks = ['toy']", "nothing to run"),
        ("grid = 5", "no [[grid]] block"),
        ("seeds = '0-9'\n[[grids]]\n[[grid]]\nmethods = ['toy-net']\ntasks = ['toy']", "'grids', 'seeds' at its top"),
        ("title = 5\n[[grid]]\nmethods = ['toy-net']\ntasks = ['toy']", "must be a text, not 5"),
        ("grid = [5]", "needs methods and tasks"),
        ("[[grid]]\nmethods = 5\ntasks = ['toy']", "methods of a [[grid]] block of"),
        ("[[grid]]\nmethods = ['toy-net']\ntasks = ['toy']\noptional = 'no'", "must be true or false, not 'no'"),
        ("[[grid]]\nmethods = ['toy-net']\ntasks = ['toy']\nseeds = true", "seeds are whole numbers"),
        ("[[grid]]\nmethods = ['toy-net']\ntasks = ['toy']\nseeds = 10000000000", "from 0 to 999,999,999, not 1000"),
        ("[[grid]]\nmethods = ['toy-net']\ntasks = ['toy']\nseeds = '0-10000000000'", "is not understood"),
        ("[[grid]]\nmethods = [{name = 'toy-net', lr = 1" + "0" * 400 + "}]\ntasks = ['toy']", "a finite number"),
        ("[[grid]]\nmethods = ['toy-net']\ntasks = [{name = 'toy', way = " + "9" * 5000 + "}]", "is not valid TOML"),
        ("x = " + "[" * 5000, "is not valid TOML"),
    ],
)
def test_a_wrong_suite_is_one_sentence(text: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(BenchError) as caught:
        grid.plan(suite(tmp_path, text))
    assert says in str(caught.value)
    assert len(str(caught.value)) < 400


def test_a_suite_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"there is no suite '.*none.toml'"):
        grid.plan(str(tmp_path / "none.toml"))
    (tmp_path / "folder.toml").mkdir()
    with pytest.raises(BenchError, match=r"the suite .* cannot be read: Is a directory"):
        grid.plan(str(tmp_path / "folder.toml"))
    for end in ("", ".toml"):
        with pytest.raises(BenchError, match=r"the suite x{200}… cannot be read: File name too long"):
            grid.plan("x" * 5000 + end)


def test_suites_that_travel_with_the_project_are_whole() -> None:
    for name in grid.suites():
        for block in grid.read_suite(name)["grid"]:
            for key, reg in (("methods", registry.METHODS), ("tasks", registry.TASKS)):
                for item in block[key]:
                    assert registry.match(reg, item if isinstance(item, str) else item["name"])


def test_a_block_without_its_data_is_left_out_only_where_it_may(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def missing(self: Task) -> None:
        raise MissingData("somewhere is not here")

    monkeypatch.setattr(ToyOnline, "check_data", missing)
    text = """
        [[grid]]
        methods = ["toy-net"]
        tasks = ["toy"]
        [[grid]]
        methods = ["toy-net"]
        tasks = ["toy-online"]
    """
    with pytest.raises(MissingData, match="somewhere is not here"):
        grid.plan(suite(tmp_path, text))
    plan = grid.plan(suite(tmp_path, text + "optional = true"))
    assert [c.task.name for c in plan.cells] == ["toy"]
    assert plan.notes == ["left out toy-online: somewhere is not here"]


# Seeds and shards


@given(st.lists(st.integers(0, 10**6), min_size=1, unique=True))
def test_seeds_survive_their_text(seeds: list[int]) -> None:
    assert grid.parse_seeds(",".join(map(str, seeds))) == seeds
    assert grid.parse_seeds(seeds) == seeds


def test_seeds_may_be_numbers_of_numpy() -> None:
    seeds = [*grid.parse_seeds(np.arange(3)), *grid.parse_seeds(np.int64(7))]
    assert seeds == [0, 1, 2, 7]
    assert {type(seed) for seed in seeds} == {int}, "JSON knows no others"


@given(st.integers(0, 1000), st.integers(0, 50))
def test_a_range_of_seeds_holds_both_ends(start: int, more: int) -> None:
    assert grid.parse_seeds(f"{start}-{start + more}") == list(range(start, start + more + 1))


@pytest.mark.parametrize("seeds", ["", "x", "1-", "-1", "3-1", "1,,2", "1.5", "0-999999999", "0-10000000000", [-1],
                                   [1.5], ["1"], [], [False], True, 10**9])  # fmt: skip
def test_malformed_seeds_are_refused(seeds: Any) -> None:
    with pytest.raises(BenchError, match="seeds"):
        grid.parse_seeds(seeds)


@SAFE
@given(st.integers(1, 40), st.integers(1, 12), st.randoms())
def test_shards_cover_the_grid_exactly_once(count: int, parts: int, random: Any) -> None:
    cells = [Cell(ToyNearest(), Toy(), seed, Budget()) for seed in range(count)]
    sharded = []
    for i in range(1, parts + 1):
        random.shuffle(cells)  # each machine may list the grid in another order
        sharded += [c.seed for c in grid.shard(cells, f"{i}/{parts}")]
    assert sorted(sharded) == list(range(count))


@pytest.mark.parametrize("text", ["", "1", "0/2", "3/2", "1/0", "-1/2", "1/2/3", "a/b", "1 /2"])
def test_malformed_shards_are_refused(text: str) -> None:
    with pytest.raises(BenchError, match="a shard is written i/n"):
        grid.shard([], text)


# Identity


def test_the_id_is_a_digest_of_the_spec_alone() -> None:
    cell = Cell(ToyNet(), Toy(), 0, Budget())
    assert len(cell.id) == 12
    assert cell.id == Cell(ToyNet(), Toy(), 0, Budget()).id
    others = [
        Cell(ToyNet(width=6), Toy(), 0, Budget()), Cell(ToyNet(), Toy(way=2), 0, Budget()),
        Cell(ToyNet(), Toy(), 1, Budget()), Cell(ToyNet(), Toy(), 0, Budget(steps=1)),
        Cell(ToyNet(), Toy(also=("way=2",)), 0, Budget()), Cell(ToyNearest(), Toy(), 0, Budget()),
    ]  # fmt: skip
    assert len({cell.id, *(c.id for c in others)}) == 7


def test_a_new_version_is_a_new_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    before = Cell(ToyNet(), Toy(), 0, Budget()).id
    monkeypatch.setattr(ToyNet, "version", 2)
    after = Cell(ToyNet(), Toy(), 0, Budget()).id
    monkeypatch.setattr(Toy, "version", 4)
    assert len({before, after, Cell(ToyNet(), Toy(), 0, Budget()).id}) == 3


def test_what_cannot_matter_does_not_change_the_id(monkeypatch: pytest.MonkeyPatch) -> None:
    def ids(method: str, **choices: Any) -> set[str]:
        return {c.id for c in grid.plan(methods=[method], tasks=["toy"], **choices).cells}

    untrained = ids("toy-nearest")
    assert ids("toy-nearest", steps=5) == untrained
    assert ids("toy-nearest", settings=["budget.validations=3", "budget.select=last"]) == untrained
    assert ids("toy-nearest", settings=["budget.test_episodes=3"]) != untrained
    blind = ids("toy-net", settings=["budget.validations=0"])
    assert ids("toy-net", settings=["budget.validations=0", "budget.val_episodes=7", "budget.select=last"]) == blind
    monkeypatch.setattr(Toy, "splits", ("train", "test"))
    assert ids("toy-net") == blind


@given(st.integers(1, 500), st.integers(0, 50) | st.just(10**9))
def test_validations_are_spread_and_end_at_the_last_step(steps: int, validations: int) -> None:
    points = Budget(steps=steps, validations=validations).validation_steps()
    assert len(points) == min(steps, validations)
    assert points == sorted(set(points))
    if points:
        assert points[0] >= 1
        assert points[-1] == steps


# The command that makes a cell again

words = st.text(
    st.characters(codec="utf-8", exclude_characters="+,=\x00\n\r", exclude_categories=["Cc", "Cs"]), min_size=1
)
finite = st.floats(allow_nan=False, allow_infinity=False)


@SAFE
@given(
    method=st.builds(
        ToyNet,
        lr=st.floats(0, exclude_min=True, allow_infinity=False),
        batch=st.integers(1, LARGEST),
        sizes=st.lists(st.integers(-LARGEST, LARGEST), max_size=3).map(tuple),
        notes=st.lists(words, max_size=3).map(tuple),
        mode=st.text(st.characters(codec="utf-8", exclude_characters="\x00")),
        flag=st.booleans(),
        optimizer=st.sampled_from(["adam", "rmsprop"]),
    )
    | st.builds(ToyNearest, width=st.integers(-LARGEST, LARGEST)),
    task=st.builds(
        Toy,
        way=st.integers(1, 9),
        also=st.sampled_from([(), ("way=2,shot=1",), ("way=2,shot=1", "way=4,noise=0.5")]),
        train_way=st.integers(0, 9),
    ),
    budget=st.builds(
        Budget,
        steps=st.integers(1, 10**6),
        validations=st.integers(0, 30),
        val_episodes=st.integers(1, 500),
        test_episodes=st.integers(1, 500),
        select=st.sampled_from(["best", "last"]),
    ),
    seed=st.integers(0, 10**6),
)
def test_the_printed_command_makes_the_same_cell(method: Any, task: Task, budget: Budget, seed: int) -> None:
    cell = Cell(method, task, seed, grid._fit(budget, method, task))
    assert [c.id for c in replanned(grid.command(cell.spec))] == [cell.id]


def _changed(config: Any) -> list[Any]:
    """Configs with each field set otherwise, one at a time."""
    hints = typing.get_type_hints(type(config))
    changed = []
    for f in dataclasses.fields(config):
        value, kind = getattr(config, f.name), hints[f.name]
        if typing.get_origin(kind) is typing.Literal:
            others: list[Any] = [choice for choice in typing.get_args(kind) if choice != value]
        elif kind is bool:
            others = [not value]
        elif kind in (int, float):
            others = [value + 1]
        elif kind is str:
            others = [value + ' it\'s "1,2"+3']
        else:
            item = typing.get_args(kind)[0]
            others = [(*value, {int: 3, float: 1e-05, str: "way=2"}[item]), ()]
        changed += [dataclasses.replace(config, **{f.name: other}) for other in others]
    return changed


def test_every_field_of_everything_registered_is_set_by_the_printed_command(monkeypatch: pytest.MonkeyPatch) -> None:
    for cls in (Task, *registry.TASKS.entries.values()):
        monkeypatch.setattr(cls, "check", lambda self: None)
        monkeypatch.setattr(cls, "check_data", lambda self: None)
        monkeypatch.setattr(cls, "data_digest", lambda self: None)
        monkeypatch.setattr(cls, "evaluations", lambda self: {})
    for cls in registry.METHODS.entries.values():
        monkeypatch.setattr(cls, "check", lambda self: None)
        monkeypatch.setattr(cls, "check_packages", lambda self: None)
        monkeypatch.setattr(cls, "unsuited", lambda self, task: None)
    cells = [Cell(m, Toy(), 0, Budget()) for cls in registry.METHODS.entries.values() for m in _changed(cls())]
    cells += [Cell(ToyNet(), t, 0, Budget()) for cls in registry.TASKS.entries.values() for t in _changed(cls())]
    for cell in cells:
        fitted = dataclasses.replace(cell, budget=grid._fit(cell.budget, cell.method, cell.task))
        assert [c.id for c in replanned(grid.command(fitted.spec))] == [fitted.id]


def test_a_spec_of_something_gone_is_a_sentence() -> None:
    spec = Cell(ToyNet(), Toy(), 0, Budget()).spec
    assert grid.from_spec(spec) == Cell(ToyNet(), Toy(), 0, Budget())
    for part, name in (("method", "toy-net"), ("task", "toy")):
        with pytest.raises(BenchError, match=f"there is no {part} 'gone'"):
            grid.from_spec(spec | {part: spec[part] | {"name": "gone"}})
        with pytest.raises(BenchError, match=f"there is no field of {name} 'gone'"):
            grid.from_spec(spec | {part: spec[part] | {"fields": {"gone": 1}}})
    with pytest.raises(BenchError, match="field of budget 'gone'"):
        grid.from_spec(spec | {"budget": {"gone": 1}})


def test_a_task_whose_test_episodes_are_fixed_has_all_of_them_in_its_budget() -> None:
    lake, few = Lake(), Budget(test_episodes=10)
    assert grid._fit(few, ToyNet(), lake).test_episodes == 20
    assert grid._fit(Budget(test_episodes=600), ToyNet(), lake).test_episodes == 600
    assert grid._fit(few, ToyNet(), Toy()).test_episodes == 10


def test_what_was_narrowed_out_of_a_suite_is_not_there_to_be_set() -> None:
    with pytest.raises(BenchError, match=r"--set maml\.inner_lr fits nothing in this run"):
        grid.plan("smoke", ["protonet"], ["glyphs"], settings=["maml.inner_lr=0.4"])


def test_a_block_of_which_no_method_is_left_needs_no_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_DATA", str(tmp_path))
    suite = tmp_path / "mine.toml"
    suite.write_text('title = "x"\n[[grid]]\nmethods = ["protonet"]\ntasks = ["glyphs"]\n'
                     '[[grid]]\nmethods = ["maml"]\ntasks = ["omniglot"]\n')  # fmt: skip
    assert {c.task.name for c in grid.plan(str(suite), ["protonet"]).cells} == {"glyphs"}
    with pytest.raises(MissingData):
        grid.plan(str(suite))
