"""Where a training step's time goes: ranges that come and go, and shares by synthetic and real traces."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from shell import bench, toys  # noqa: F401

from bench import registry, tracing
from bench.tracing import BACKWARD, PREFIX, Span, labelled, shares

Capture = pytest.CaptureFixture[str]
NODE = f"{BACKWARD}: MulBackward0"
QUICK = ("--threads", 1, "--set", "glyphs-online.way=2")


def span(name: str, start: int, end: int, sequence: int = -1, **more: int | bool) -> Span:
    return Span(name, 1, start * 10**9, end * 10**9, sequence, **more)  # type: ignore[arg-type]


def test_a_part_has_its_own_time_without_that_of_parts_inside() -> None:
    found = shares(
        [
            span(f"{PREFIX}memory, rest", 0, 20),
            span(f"{PREFIX}read", 2, 8),
            span("aten::bmm", 3, 5),
            span("aten::add", 10, 12),
            span("aten::mul", 25, 28),
        ],
        kernels=False,
    )
    assert {part: s.forward for part, s in found.items()} == {"read": 6, "memory, rest": 14, "other": 3}
    assert list(found) == ["read", "memory, rest", "other"]
    assert all(s.backward == 0 for s in found.values())


def test_a_backward_operator_belongs_to_its_forward_operator() -> None:
    found = shares(
        [
            span(f"{PREFIX}write", 0, 4),
            span("aten::mul", 1, 2, sequence=7),
            span("aten::exp", 5, 6, sequence=8),
            span(NODE, 10, 15, sequence=7),
            span("MulBackward0", 11, 14, sequence=7),
            span("aten::mul", 12, 13),
            span(NODE, 20, 21, sequence=8),
            span(NODE, 22, 24, sequence=99),
        ],
        kernels=False,
    )
    assert (found["write"].forward, found["write"].backward) == (4, 5)
    assert (found["other"].forward, found["other"].backward) == (1, 3)


def test_threads_do_not_nest_in_each_other() -> None:
    other = span("aten::add", 1, 3)._replace(thread=2)
    found = shares([span(f"{PREFIX}read", 0, 4), other], kernels=False)
    assert (found["read"].both, found["other"].both) == (4, 2)


def test_kernels_count_for_what_launched_them() -> None:
    found = shares(
        [
            span(f"{PREFIX}read", 0, 4),
            span("aten::bmm", 1, 2, sequence=3, id=50),
            span(NODE, 5, 6, sequence=3, id=60),
            span("gemm", 10, 17, of=50, kernel=True),
            span("gemm_backward", 20, 22, of=60, kernel=True),
            span("memset", 30, 31, of=0, kernel=True),
            span(f"{PREFIX}read", 10, 17, kernel=True),
        ],
        kernels=True,
    )
    assert (found["read"].forward, found["read"].backward, found["other"].both) == (7, 2, 1)


def test_ranges_come_and_go_and_change_no_result() -> None:
    method, task = registry.get(registry.METHODS, "ntm")(slots=8), registry.get(registry.TASKS, "glyphs-online")()
    torch.manual_seed(0)
    learner = method.build(task)
    episode = task.sample("train", 2, tracing.generator("test"))
    functions = {name: f for name, f in vars(tracing.sys.modules["mann.ntm"]).items() if getattr(f, "part", None)}
    assert {"content", "erase_and_add", "weighted_read"} <= set(functions)
    before = learner.loss(episode, task)
    with labelled(learner, task):
        assert torch.equal(learner.loss(episode, task), before)
        assert all(vars(tracing.sys.modules["mann.ntm"])[name] is not f for name, f in functions.items())
    assert all(vars(tracing.sys.modules["mann.ntm"])[name] is f for name, f in functions.items())
    assert "forward" not in vars(learner.memory)
    assert "loss" not in vars(task)
    with pytest.raises(ZeroDivisionError), labelled(learner, task):
        raise ZeroDivisionError
    assert all(vars(tracing.sys.modules["mann.ntm"])[name] is f for name, f in functions.items())


@pytest.mark.usefixtures("toys")
@pytest.mark.parametrize("method", ["mann", "ntm", "dnc", "sam"])
def test_a_trace_tells_the_parts_of_a_step(method: str, capsys: Capture) -> None:
    said = bench(capsys, "profile", "--trace", "--memory", method, *QUICK, "--set", f"{method}.slots=16", "--set",
                 f"{method}.batch=2", "--out", "profiles", "--json")  # fmt: skip
    assert said.code == 0, said.err
    parts = said.json["parts"]
    assert sum(p["share"] for p in parts.values()) == pytest.approx(1)
    usage = set() if method == "ntm" else {"usage"}
    read = set() if method == "sam" else {"read"}
    assert {"controller", "addressing", "write", "loss", "optimiser"} | usage | read <= set(parts)
    assert parts["controller"]["backward_s"] > 0
    assert parts["addressing"]["backward_s"] > 0
    assert parts["optimiser"]["backward_s"] == 0
    assert parts.get("other", {"share": 0})["share"] < 0.3
    (path,) = Path("profiles").glob(f"*/traces/{method}.json")
    names = {event.get("name") for event in json.loads(path.read_text())["traceEvents"]}
    assert {f"{PREFIX}controller", f"{PREFIX}optimiser", f"{PREFIX}loss"} <= names
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.usefixtures("toys")
def test_a_learner_without_parts_is_traced_as_well(capsys: Capture) -> None:
    said = bench(capsys, "profile", "--trace", "--memory", "protonet", *QUICK, "--out", "profiles")
    assert said.code == 0, said.err
    assert "optimiser" in said.out
    assert "other" in said.out
