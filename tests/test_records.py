"""Records: written once, canonical, checked when read."""

from __future__ import annotations

import errno
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from copy import copy
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from fakes import Toy, ToyNet
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from bench import records, tables, views
from bench.config import digest
from bench.errors import BenchError
from bench.grid import Budget, Cell
from bench.records import Record

finite = st.floats(allow_nan=False, allow_infinity=False)
text = st.text() | st.sampled_from(["[1, 2]", "a [ 3,  4 ] b", "[1.5]", "\n[1,\n2\n]\n", "NaN", "é\u2028"])
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | finite | text,
    lambda inner: st.lists(inner) | st.dictionaries(text, inner) | st.lists(finite, max_size=300),
    max_leaves=15,
)


def record(mean: float = 0.5, seed: int = 0, **more: Any) -> Record:
    """A whole record with made-up numbers."""
    spec = Cell(ToyNet(), Toy(), seed, Budget()).spec
    evaluation = {"mean": mean, "per_episode": [mean, mean], "by_instance": None, "by_step": None, "setting": {}}
    made = Record(
        id=digest(spec),
        spec=spec,
        outcome="ok",
        result={"metric": "accuracy", "higher_is_better": True, "selected_step": 3, "curve": [],
                "evaluations": {"": evaluation}},
        cost={"train_s": 1.0, "eval_s": 1.0, "params": 3, "peak_bytes": 1, "train_episodes_per_s": 2.0},
        data=None,
        env={"commit": "abc"},
        started="2024-01-01T00:00:00Z",
        finished="2024-01-01T00:00:01Z",
    )  # fmt: skip
    return replace(made, **more)


def write_text(results: Path, content: str, name: str = "toy/toy-net/s0-0.json") -> Path:
    path = results / "runs" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return path


@settings(max_examples=40)
@given(result=st.dictionaries(text, json_values), env=st.dictionaries(text, json_values))
def test_a_dump_gives_the_record_back(result: dict[str, Any], env: dict[str, Any]) -> None:
    made = record(result=result, env=env)
    assert Record(**json.loads(records.dump(made))) == made


@given(st.lists(finite | st.integers(), max_size=500))
def test_numbers_make_short_lines(numbers: list[float]) -> None:
    lines = records.dump(record(result={"per_episode": [float(f"{n:.7g}") for n in numbers]})).splitlines()
    assert max(map(len, lines)) <= 130
    assert len(lines) < 70 + len(numbers) / 5


def test_a_dump_is_canonical() -> None:
    one = record(env={"b": 1, "a": [1, 2]})
    two = record(env={"a": [1, 2], "b": 1})
    assert records.dump(one) == records.dump(two)
    assert records.dump(one).endswith("}\n")
    assert records.dump(Record(**json.loads(records.dump(one)))) == records.dump(one)
    with pytest.raises(ValueError, match="JSON"):
        records.dump(record(mean=float("nan")))


def test_write_then_read(tmp_path: Path) -> None:
    path = records.write(tmp_path, record())
    assert path.relative_to(tmp_path).as_posix() == f"runs/toy/toy-net/s0-{record().id}.json"
    assert records.read(path) == record()
    assert records.load(tmp_path) == records.Loaded([record()], [])
    assert [p.name for p in path.parent.iterdir()] == [path.name], "no temporary file stays"


def test_the_first_writer_wins(tmp_path: Path) -> None:
    path = records.write(tmp_path, record(mean=0.1))
    before = path.read_bytes()
    assert records.write(tmp_path, record(mean=0.9)) == path
    assert path.read_bytes() == before


WRITER = """
import json, sys
from pathlib import Path
from bench import records
results, mean = Path(sys.argv[1]), float(sys.argv[2])
made = [records.Record(**json.loads(line)) for line in sys.stdin]
print("ready", flush=True)
while not (results / "go").exists():
    pass
for each in made:
    each.result["evaluations"][""] |= {"mean": mean, "per_episode": [mean] * 600}
    records.write(results, each)
assert "torch" not in sys.modules, "the store needs no torch"
"""


def test_racing_writers_leave_one_whole_record_each(tmp_path: Path) -> None:
    made = [record(seed=seed) for seed in range(40)]
    lines = "".join(json.dumps(asdict(each)) + "\n" for each in made)
    writers = []
    for mean in ("0.25", "0.75"):
        command = [sys.executable, "-c", WRITER, str(tmp_path), mean]
        writer = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert writer.stdin
        writer.stdin.write(lines)
        writer.stdin.close()
        writers.append(writer)
    for writer in writers:
        assert writer.stdout
        assert writer.stdout.readline() == "ready\n"
    (tmp_path / "go").touch()
    for writer in writers:
        assert writer.wait(120) == 0
        writer.stdout.close()  # type: ignore[union-attr]
    loaded = records.load(tmp_path)
    assert sorted(r.id for r in loaded.records) == sorted(r.id for r in made)
    assert loaded.problems == []
    for each in loaded.records:
        scores = each.result["evaluations"][""]
        assert scores["mean"] in (0.25, 0.75)
        assert scores["per_episode"] == [scores["mean"]] * 600, "one writer's record, not a mixture"
    assert not list((tmp_path / "runs").rglob("*.tmp"))


def test_files_without_hard_links_still_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_link(*args: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_link)
    path = records.write(tmp_path, record(mean=0.1))
    records.write(tmp_path, record(mean=0.9))
    assert records.read(path) == record(mean=0.1)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def _without(*keys: str) -> str:
    content = json.loads(records.dump(record()))
    inner = content
    for key in keys[:-1]:
        inner = inner[key]
    del inner[keys[-1]]
    return json.dumps(content)


def _with(**changes: Any) -> str:
    return json.dumps(json.loads(records.dump(record())) | changes)


def _evaluated(**changes: Any) -> str:
    evaluation = record().result["evaluations"][""] | changes
    return _with(result=record().result | {"evaluations": {"": evaluation}})


def _seeded(seed: int) -> str:
    spec = record().spec | {"seed": seed}
    return _with(spec=spec, id=digest(spec))


BAD = {
    "not json": ("{", "is not a record"),
    "empty": ("", "is not a record"),
    "binary": ("\x00\x01", "is not a record"),
    "a list": ("[1]", "no schema number"),
    "deep": ("[" * 100_000, "is not a record"),
    "no schema": (_without("schema"), "no schema number"),
    "text schema": (_with(schema="1"), "no schema number"),
    "newer": (_with(schema=records.SCHEMA + 1), "newer than this version's"),
    "nan": (records.dump(record()).replace("0.5", "NaN", 1), "it holds NaN"),
    "infinite": (records.dump(record()).replace("0.5", "-Infinity", 1), "it holds -Infinity"),
    "overflowing": (records.dump(record()).replace("0.5", "1e999", 1), "is inf"),
    "altered": (_with(spec=Cell(ToyNet(), Toy(), 1, Budget()).spec), "it was altered"),
    "no spec": (_without("spec"), "not a whole record"),
    "no seed": (_without("spec", "seed"), "not a whole record"),
    "no method": (_without("spec", "method", "name"), "not a whole record"),
    "no version": (_without("spec", "task", "version"), "not a whole record"),
    "no evaluation": (_with(result=record().result | {"evaluations": {}}), "has none in the task's own setting"),
    "strange outcome": (_with(outcome="fine"), "outcome is 'fine'"),
    "strange evaluations": (_with(result=record().result | {"evaluations": {"": 3}}), "not a whole record"),
    "text scores": (
        _with(result=record().result | {"evaluations": {"": {"mean": 1, "per_episode": ["a"]}}}),
        "per_episode[0] is 'a'",
    ),
    "unknown part": (_with(more=1), "more is unknown"),
    "other id": (_with(id="../../0\n1"), "id is"),
    "text cost": (_with(cost=record().cost | {"train_s": "soon"}), "cost.train_s is 'soon'"),
    "truth for a number": (_with(cost=record().cost | {"params": True}), "cost.params is True"),
    "many threads": (_with(env={"threads": [1]}), "env.threads is [1]"),
    "text step": (_with(result=record().result | {"selected_step": "3"}), "result.selected_step is '3'"),
    "another mean": (_evaluated(mean=0.9), "a mean that its episodes do not have"),
    "more than all": (_evaluated(mean=1.5, per_episode=[]), "a mean that is no fraction"),
    "huge scores": (_evaluated(mean=1e308, per_episode=[1e308, 1e308]), "has a score of 1e+150 or more"),
    "a huge step": (_evaluated(by_step={"1": {"mean": 1, "per_episode": [-1e200]}}), "has a score of 1e+150 or more"),
    "diverged and scored": (_with(outcome="diverged"), "outcome is 'diverged' and result.evaluations has scores"),
    "another setting": (_evaluated(setting={"way": 99}), "another setting than its spec"),
    "many episodes": (_evaluated(per_episode=[0.5] * 601), "more episodes than its budget"),
    "short counts": (_evaluated(by_instance={"mean": [0.5], "n": []}), "other counts than means"),
    "named steps": (_evaluated(by_step={"x": {"mean": 1, "per_episode": [1]}}), "a step that is no number"),
    "half a character": (_with(env={"device": "\ud800"}), "surrogates not allowed"),
    "endless": (records.dump(record()).replace('"params": 3', f'"params": 1{"0" * 400}'), "it holds 1000"),
    "large seed": (_seeded(10**18), "spec has a seed, version or number of steps that is too large"),
    "deep extra": (_with(env={"more": [[1]]}), "env.more[0] is [1]"),
}  # fmt: skip


def test_scores_of_both_signs_are_rounded_for_themselves() -> None:
    """What is left of large scores that cancel is as precise as they are, not as itself."""
    scores = {"per_episode": [1234567.0, -1234567.0], "mean": 0.05}
    content = json.loads(_evaluated(**scores))
    content["result"]["metric"] = "return"
    assert records.parse(json.dumps(content).encode(), "x").result["evaluations"][""]["mean"] == 0.05
    content["result"]["evaluations"][""]["mean"] = 5.0
    with pytest.raises(BenchError, match="a mean that its episodes do not have"):
        records.parse(json.dumps(content).encode(), "x")


def test_a_folder_that_cannot_be_looked_into_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed, listing = tmp_path / "runs" / "copy", os.scandir
    closed.mkdir(parents=True)

    def scandir(path: Any) -> Any:
        if Path(path) == closed:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return listing(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert records.load(tmp_path).problems == [f"{closed} cannot be read: Permission denied"]
    assert records.load(tmp_path / "none").problems == []


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_record_is_named_skipped_and_left_alone(kind: str, tmp_path: Path) -> None:
    content, says = BAD[kind]
    good = records.write(tmp_path, record(seed=3))
    path = write_text(tmp_path, content)
    with pytest.raises(BenchError, match=r"record|schema|id") as caught:
        records.read(path)
    assert says in str(caught.value)
    assert str(path) in str(caught.value)
    loaded = records.load(tmp_path)
    assert loaded.records == [records.read(good)]
    assert loaded.problems == [str(caught.value)]
    assert path.read_text(encoding="utf-8") == content


WRONG = [None, True, -1, 2.5, "a\n|<b>`[red]", [None], [[1]], {"1": {"mean": 1}}, "LEFT OUT"]


def _places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a JSON value; of a list its first item only."""
    yield at
    if isinstance(value, (dict, list)):
        for key in value if isinstance(value, dict) else range(min(1, len(value))):
            yield from _places(value[key], (*at, key))


def _put(value: Any, at: tuple[Any, ...], new: Any) -> Any:
    if not at:
        return new
    made = copy(value)
    made[at[0]] = _put(value[at[0]], at[1:], new)
    if new == "LEFT OUT" and len(at) == 1:
        del made[at[0]]
    return made


def _everything() -> dict[str, Any]:
    """A whole record with all parts that there are."""
    spec = Cell(ToyNet(), Toy(also=("way=2", "way=1")), 0, Budget()).spec
    scores = {"mean": 0.5, "per_episode": [0.25, 0.75]}
    point = {"step": 3, "loss": 0.1, "val": 0.5, "val_by_instance": [0.5, None]}
    online = scores | {"by_instance": {"mean": [0.5, None], "n": [4, 0]}, "by_step": None, "setting": {"way": 3}}
    adapted = scores | {"by_instance": None, "by_step": {"0": scores, "10": scores}, "setting": {"way": 2}}
    result = {"curve": [point, point], "evaluations": {"": online, "way=2": adapted}, "diverged": ["way=1"]}
    env = {"commit": "a", "dirty": False, "device": "a processor", "threads": 1, "python": "3.11.1",
           "plugins": {"mine.py": "0"}, "resumed": [{"step": 1, "commit": None, "source": "0",
                                                "before": {"commit": "1", "plugins": {"mine.py": "2"}}}]}  # fmt: skip
    data = {"name": "x", "sha256": "0"}
    made = record(spec=spec, id=digest(spec), result=record().result | result, env=env, data=data)
    return json.loads(records.dump(made))


@pytest.mark.filterwarnings("ignore:.*encountered:RuntimeWarning")
def test_a_record_with_anything_in_any_place_is_refused_or_can_be_shown(tmp_path: Path) -> None:
    good, out = _everything(), Console(file=io.StringIO(), width=140, markup=False)
    path, usable, refused = tmp_path / "s0-0.json", list[Record](), list[str]()
    for at in _places(good):
        for wrong in WRONG:
            content = _put(good, at, wrong)
            if at[:1] == ("spec",) and len(at) > 1:
                content["id"] = digest(content["spec"])
            path.write_text(json.dumps(content))
            try:
                usable.append(records.read(path))
            except BenchError as problem:
                refused.append(str(problem))
    assert len(refused) > len(usable) > 100
    assert all(text.startswith(f"{path} ") and len(text.splitlines()) == 1 for text in refused)
    for each in usable:
        views.print_record(out, each, path)
        views.names(each.spec)
    out.print(views.results_table([(r, "done") for r in usable], []))
    others = [replace(r, id=f"{i:012x}") for i, r in enumerate(usable)]
    for i in range(0, len(others), 100):
        tables.render(others[i : i + 100], "all", dirty=True)


def test_a_missing_file_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="cannot be read"):
        records.read(tmp_path / "none.json")


def test_loading_nothing_gives_nothing(tmp_path: Path) -> None:
    assert records.load(tmp_path) == records.Loaded([], [])


def test_a_copy_of_a_record_counts_once(tmp_path: Path) -> None:
    path = records.write(tmp_path, record())
    path.with_name("s0-copy.json").write_bytes(path.read_bytes())
    assert len(records.load(tmp_path).records) == 1


def test_a_record_is_found_by_the_start_of_its_id(tmp_path: Path) -> None:
    made = [record(seed=seed) for seed in range(3)]
    for each in made:
        records.write(tmp_path, each)
    assert records.find(tmp_path, made[1].id[:6])[1] == made[1]
    with pytest.raises(BenchError, match=r"no record in .* starts with 'zz'"):
        records.find(tmp_path, "zz")
    with pytest.raises(BenchError, match="no record"):
        records.find(tmp_path, "")
    many = [record(seed=seed) for seed in range(17)]  # two of seventeen ids begin with the same digit
    for each in many:
        records.write(tmp_path, each)
    digit = next(c for c in "0123456789abcdef" if sum(m.id.startswith(c) for m in many) > 1)
    with pytest.raises(BenchError, match=f"'{digit}' fits .* records .*; give more digits"):
        records.find(tmp_path, digit)
