"""Every registered method and task is held to the contract of `contract.py`, on small settings of every task."""

from __future__ import annotations

import dataclasses
import os
import typing
from pathlib import Path
from typing import Any, Literal

import contract
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench import registry
from bench.api import BenchError, Method, MissingData, MissingPackage, Task, TrainedMethod

SMALL: dict[str, Any] = {
    "way": 3, "shot": 1, "query": 2, "length": 6, "size": 20, "load": 3, "items": 2, "repeats": 2, "n": 3,
    "steps": 3, "eval_steps": 2, "longest": 16, "batch": 2,
}  # fmt: skip
"""Fields of a task that make it small, and its episodes of one length; fields of a method that make it quick."""
LARGE = {"resnet12"}
"""Choices that take seconds a step: `make test-long` holds all methods to them, `make test` one."""
OTHERWISE: dict[str, Any] = {"labels": "string", "flat": False, "shot": 2, "query": 1}
"""Where a task has one of these fields, a second small task that differs in them: its test ids end in a star."""


def own(reg: registry.Registry) -> dict[str, type]:
    """What the project or a plug-in registers, without the fakes of tests."""
    registry.load()
    fakes = ("test_", "fakes", "conftest")
    return {name: cls for name, cls in sorted(reg.entries.items()) if not cls.__module__.startswith(fakes)}


def small(cls: type, **more: Any) -> Any:
    names = {f.name for f in dataclasses.fields(cls)}
    return cls(**{name: value for name, value in (SMALL | more).items() if name in names})


def label(config: Method | Task) -> str:
    return config.name if config == small(type(config)) else f"{config.name}*"


def absent(cls: type[Method]) -> str:
    """What keeps a method from running here; empty where nothing does."""
    try:
        cls().check_packages()
        return ""
    except MissingPackage as missing:
        return str(missing)


HERE = [cls for cls in own(registry.METHODS).values() if not absent(cls)]
METHODS: list[Method] = [small(cls) for cls in HERE]
FREE = [cls for cls in own(registry.TASKS).values() if cls.dataset is None]
TASKS: list[Task] = list(dict.fromkeys(task for cls in FREE for task in (small(cls), small(cls, **OTHERWISE))))
DATA_TASKS: list[Task] = [small(cls) for cls in own(registry.TASKS).values() if cls.dataset is not None]


def form(task: Task) -> tuple[Any, ...]:
    """All that a method can tell of a task but its data; for a method, one task of a form stands for all."""
    support, query = task.sample(task.splits[0], 1, contract.generator("form"))
    counts = None if task.online else (support.x.shape[1], query.x.shape[1])
    return task.kind, task.online, bool(task.y_size), support.x.ndim, support.y.ndim, counts


FORMS = {task: form(task) for task in TASKS}
PAIRS = [
    pytest.param(method, task, id=f"{label(method)}-{label(task)}")
    for method in METHODS
    for task in {FORMS[task]: task for task in reversed(TASKS) if method.unsuited(task) is None}.values()
]
DEFAULT_PAIRS = [p for p in PAIRS if p.values[1] == small(type(p.values[1]))]
ONLINE = [p for p in PAIRS if hasattr(p.values[1], "balanced") and p.values[1].labels == "onehot"]
"""Where the limits of `knows_no_more_than_it_may` are known."""


@pytest.mark.parametrize("check", [c for name, c in contract.METHOD_CHECKS.items() if name != "resumes"])
@pytest.mark.parametrize(("method", "task"), PAIRS)
def test_method(method: Method, task: Task, check: Any) -> None:
    check(method, task)


@pytest.mark.parametrize(("method", "task"), DEFAULT_PAIRS)
@settings(max_examples=2, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(stops=st.lists(st.integers(1, 6), min_size=1, max_size=2))
def test_resumes(method: Method, task: Task, stops: list[int]) -> None:
    contract.resumes(method, task, stops)


def alternatives(cls: type) -> list[Method]:
    """The method with each of its own named choices and switches set otherwise, one at a time."""
    found = []
    shared = {f.name for f in dataclasses.fields(TrainedMethod)}
    for name, kind in typing.get_type_hints(cls).items():
        if name in shared:
            continue
        values = (False, True) if kind is bool else typing.get_args(kind) if typing.get_origin(kind) is Literal else ()
        found += [(name, value) for value in values if value != getattr(cls(), name)]
    config: Any = cls
    return [
        pytest.param(
            small(cls, **{name: value}),
            id=f"{config.name}-{name}={value}",
            marks=[pytest.mark.long] if value in LARGE and config.name != "protonet" else [],
        )
        for name, value in found
    ]


@pytest.mark.parametrize("method", [a for cls in HERE for a in alternatives(cls)])
def test_every_choice_of_a_method(method: Method) -> None:
    tasks = (small(cls, way=2) for cls in FREE if cls.kind == "classification" and not cls.online)
    task = next((t for t in tasks if method.unsuited(t) is None), None)
    assert task, "a choice that suits no small task is not held to the contract"
    contract.answers_have_the_right_form(method, task)
    if getattr(method, "ablate", "none") == "other":
        with pytest.raises((AssertionError, BenchError), match="episode"):
            contract.episodes_do_not_meet(method, task)
        return
    contract.hides_the_future(method, task)
    contract.episodes_do_not_meet(method, task)
    if method.name == "deep-knn":  # queries may meet and seldom change a vote
        return
    if "transductive" in dataclasses.asdict(method).values():
        with pytest.raises(AssertionError, match="a query"):
            contract.queries_do_not_meet(method, task)
    else:
        contract.queries_do_not_meet(method, task)


@pytest.mark.parametrize("train_steps", [0, 5])
@pytest.mark.parametrize(("method", "task"), ONLINE)
def test_knows_no_more_than_it_may(method: Method, task: Task, train_steps: int) -> None:
    contract.knows_no_more_than_it_may(method, dataclasses.replace(task, balanced=True), train_steps)


@pytest.mark.parametrize("check", contract.TASK_CHECKS.values())
@pytest.mark.parametrize("task", TASKS, ids=label)
def test_task(task: Task, check: Any) -> None:
    check(task)


@pytest.mark.parametrize("check", contract.TASK_CHECKS.values())
@pytest.mark.parametrize("task", DATA_TASKS, ids=label)
def test_task_of_a_data_set(task: Task, check: Any, omniglot_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "BENCH_DATA", str(omniglot_root))
    try:
        task.sample(task.splits[-1], 1, contract.generator("here"))
    except MissingData as missing:
        pytest.skip(str(missing))
    check(task)


def test_every_method_runs_on_a_task() -> None:
    suited = {p.values[0].name for p in PAIRS}
    assert suited == {m.name for m in METHODS}, "a method that suits no small task is not held to the contract"


@pytest.mark.parametrize("name", own(registry.METHODS))
def test_a_method_whose_packages_are_not_here_is_not_held_to_the_contract(name: str) -> None:
    missing = absent(registry.METHODS.entries[name])
    if missing:
        pytest.skip(missing)
    assert name in {m.name for m in METHODS}


def test_defaults_pass_their_own_checks() -> None:
    for cls in (*own(registry.METHODS).values(), *own(registry.TASKS).values()):
        cls().check()
