"""Records: what happened to one cell. Written once, never changed; a folder of JSON files is the whole store."""

from __future__ import annotations

import gc
import os
import re
import reprlib
import textwrap
from collections.abc import Container, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from bench import documents, files
from bench.config import MISSING, NONE, NUMBER, PLAIN, TEXT, TRUTH, WHOLE, canonical, digest
from bench.errors import BenchError

SCHEMA = 1
ANY: Any = (*PLAIN, [PLAIN], {...: PLAIN})
FIELDS: Any = {"also": ([TEXT], *MISSING), ...: (*PLAIN, [PLAIN])}
SCORES: Any = {"mean": NUMBER, "per_episode": [NUMBER]}
BEFORE: Any = {
    "commit": TEXT + NONE + MISSING,
    "source": TEXT + NONE + MISSING,
    "plugins": ({...: TEXT}, *MISSING),
    "data": TEXT + NONE + MISSING,
    ...: ANY,
}
"""What was another in the part before a resumption."""
SHAPE: Any = {
    "schema": WHOLE,
    "id": TEXT,
    "spec": {
        "method": {"name": TEXT, "version": WHOLE, "fields": FIELDS},
        "task": {"name": TEXT, "version": WHOLE, "fields": FIELDS, "data": TEXT + NONE},
        "seed": WHOLE,
        "budget": {"steps": WHOLE, "validations": WHOLE + MISSING, "test_episodes": WHOLE + MISSING, ...: PLAIN},
    },
    "outcome": TEXT,
    "result": {
        "metric": TEXT,
        "higher_is_better": TRUTH,
        "selected_step": WHOLE + NONE,
        "solved": NUMBER + MISSING,
        "curve": [{"step": WHOLE, "loss": NUMBER + NONE, "val": NUMBER + NONE, ...: ANY}],
        "evaluations": {
            ...: {
                "mean": NUMBER + NONE,
                "per_episode": [NUMBER],
                "by_instance": (*NONE, {"mean": [NUMBER + NONE], "n": [WHOLE], "groups": ([TEXT], *MISSING)}),
                "by_step": (*NONE, {...: SCORES}),
                "nll": (SCORES, *MISSING),
                "setting": FIELDS,
                "open": (
                    {"disjoint": NUMBER + NONE, "clustered": NUMBER + NONE, "episodes": WHOLE, "classes": WHOLE},
                    *MISSING,
                ),
                ...: ANY,
            }
        },
        "diverged": ([TEXT], *MISSING),
        "diagnostics": (
            {
                "episodes": WHOLE,
                "numbers": {...: {"value": NUMBER + NONE, "chance": NUMBER + NONE, "n": WHOLE}},
                "forgetting": {...: [PLAIN]},
            },
            *MISSING,
        ),
        ...: ANY,
    },
    "cost": {
        "train_s": NUMBER,
        "eval_s": NUMBER,
        "params": WHOLE,
        "peak_bytes": WHOLE,
        "train_episodes_per_s": NUMBER + NONE,
        ...: ANY,
    },
    "data": (*NONE, {"name": TEXT, "sha256": TEXT + NONE}),
    "env": {
        "commit": TEXT + NONE + MISSING,
        "dirty": TRUTH + NONE + MISSING,
        "device": TEXT + NONE + MISSING,
        "threads": WHOLE + MISSING,
        "backend": TEXT + MISSING,
        "plugins": ({...: TEXT}, *MISSING),
        "packages": ({...: TEXT}, *MISSING),
        "resumed": ([{"before": (BEFORE, *MISSING), ...: PLAIN}], *MISSING),
        ...: ANY,
    },
    "started": TEXT,
    "finished": TEXT,
}
"""What is in a file, see `config.misfit`. Readers rely on it and check no types of their own."""
LARGEST = 10**18
"""Seeds, steps and versions stay below it, so that arrays can hold them."""
ENDLESS = 1e150
"""Scores of this size are no better than infinite: statistics could not take their squares."""
FRACTIONS = ("accuracy", "error")
"""Metrics from 0 to 1, which tables print in %."""


@dataclass(frozen=True)
class Record:
    """One immutable result; `spec` alone defines its id."""

    id: str
    spec: dict[str, Any]
    """Method, task, seed and budget, with every field."""
    outcome: Literal["ok", "diverged"]
    result: dict[str, Any]
    """metric, higher_is_better, selected_step, curve, diverged (the settings whose scores were not finite), and
    evaluations {setting: mean (None where it diverged), per_episode, by_instance, by_step, nll, setting, open};
    diagnostics where a memory has addresses, see `bench.diagnostics`. nll is there where the method tells how sure it
    is, in nats a value. open is there where the classes of the test episodes are known, see `intervals.opened`:
    half-widths alone, since the classes would be several times as long as the scores."""
    cost: dict[str, Any]
    """train_s, train_cpu_s, eval_s, params, peak_bytes, train_episodes_per_s."""
    data: dict[str, Any] | None
    env: dict[str, Any]
    started: str
    """UTC, ISO 8601."""
    finished: str
    schema: int = SCHEMA

    @property
    def method(self) -> str:
        """Registered name of the method."""
        return self.spec["method"]["name"]

    @property
    def task(self) -> str:
        """Registered name of the task."""
        return self.spec["task"]["name"]

    @property
    def seed(self) -> int:
        """The seed."""
        return self.spec["seed"]


@dataclass(frozen=True)
class Loaded:
    """All readable records of a store, and one sentence for each file that could not be used."""

    records: list[Record] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def path_of(results: Path, spec: dict[str, Any]) -> Path:
    """Where the record of a spec lives."""
    return results / "runs" / spec["task"]["name"] / spec["method"]["name"] / f"s{spec['seed']}-{digest(spec)}.json"


def dump(record: Record) -> str:
    """The text of a record's file."""
    return short_lines(asdict(record))


def short_lines(content: dict[str, Any]) -> str:
    """Canonical JSON in short lines: sorted keys, no NaN, lists of numbers wrapped."""
    text = canonical(content, indent=1)
    # A real line break follows the bracket: inside a string there is none, so that text such as "[1, 2]" is safe.
    numbers = re.compile(r"\[\n\s*(-?\d[^\[\]{}\"a-df-zA-DF-Z]*?)\s*\]")
    return numbers.sub(lambda m: "[\n" + textwrap.fill(re.sub(r"\s+", " ", m[1]), 116) + "\n]", text) + "\n"


def write(results: Path, record: Record) -> Path:
    """Write a record once; where one with this id is already there, that one stays.

    Raises:
        BenchError: the folder cannot be written, the disk is full, or `read` would not take what was measured.
    """
    path, content = path_of(results, record.spec), dump(record).encode()
    parse(content, str(path))
    files.create(path, content)
    return path


def read(path: Path) -> Record:
    """Read one record and check it.

    Raises:
        BenchError: not JSON, a newer schema, a NaN, missing parts, or an id that does not match its spec.
    """
    return parse(documents.contents(path), str(path))


def parse(data: bytes, name: str) -> Record:
    """The record of a file's bytes, checked as `read` does; name is what messages call it."""
    content = documents.decode(data, name, "record", SCHEMA, SHAPE)
    wrong = _contradiction(content)
    if wrong:
        raise BenchError(f"{name} is not a whole record: {wrong}")
    record = Record(**content)
    if digest(record.spec) != record.id:
        raise BenchError(f"{name} has the id {record.id}, but its spec gives {digest(record.spec)}; it was altered")
    return record


def load(results: Path) -> Loaded:
    """Read all records of a results folder, sorted by path. Unusable files are named, skipped and left alone."""
    loaded = Loaded()
    seen: set[str] = set()
    with _uncollected():
        for path in _paths(results, loaded.problems):
            try:
                record = read(path)
            except BenchError as problem:
                loaded.problems.append(str(problem))
                continue
            if record.id not in seen:
                seen.add(record.id)
                loaded.records.append(record)
    return loaded


def of(results: Path, task: str, method: str, besides: Container[str] = ()) -> list[Record]:
    """The readable records of a method on a task. besides: ids of those that are not wanted."""
    found = []
    for path in sorted((results / "runs" / task / method).glob("[!.]*.json")):
        if path.stem.rpartition("-")[2] not in besides:
            with suppress(BenchError):
                found.append(read(path))
    return found


@contextmanager
def _uncollected() -> Iterator[None]:
    """No search for cycles: records have none, and among a hundred thousand it takes a quarter of the time."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


def find(results: Path, prefix: str) -> tuple[Path, Record]:
    """The record whose id starts with the given digits.

    Raises:
        BenchError: none, or more than one.
    """
    problems: list[str] = []
    found = [p for p in _paths(results, problems) if p.stem.rpartition("-")[2].startswith(prefix)]
    if problems and not found:
        raise BenchError(problems[0])
    if not prefix or not found:
        raise BenchError(
            f"no record in {results} has an id that starts with '{prefix}'; `bench run SUITE --dry-run` lists ids"
        )
    if len(found) > 1:
        ids = ", ".join(p.stem.rpartition("-")[2] for p in found[:5])
        raise BenchError(f"'{prefix}' fits {len(found)} records ({ids}, …); give more digits")
    return found[0], read(found[0])


def check_folder(results: Path) -> None:
    """Refuse a store that is not there.

    Raises:
        BenchError: no such folder.
    """
    if not results.is_dir():
        raise BenchError(f"there is no folder {results}; --results takes a folder of records, which `bench run` makes")


def check_link(path: Path) -> None:
    """Refuse a record's place where nothing can be written and nothing is.

    Raises:
        BenchError: a link to nowhere, as a store whose files were not fetched has.
    """
    if path.is_symlink() and not path.exists():
        raise BenchError(f"{path} is a link to a file that is not here; get the file, or delete the link")


def _paths(results: Path, problems: list[str]) -> list[Path]:
    """The files TASK/METHOD/*.json, sorted; a folder that cannot be looked into is a problem."""
    runs, found = results / "runs", []

    def note(error: OSError) -> None:
        if not isinstance(error, (FileNotFoundError, NotADirectoryError)):  # no record yet
            problems.append(f"{error.filename} cannot be read: {error.strerror}")

    for folder, below, names in os.walk(runs, onerror=note, followlinks=True):
        depth = len(Path(folder).relative_to(runs).parts)
        if depth == 2:
            below.clear()
            found += [Path(folder) / n for n in names if n.endswith(".json") and not n.startswith(".")]
    return sorted(found, key=lambda path: path.parts)  # in the order of paths, which compare slowly


def _contradiction(content: dict[str, Any]) -> str:
    """What no shape can say."""
    outcome, evaluations, spec = content["outcome"], content["result"]["evaluations"], content["spec"]
    counts = (spec["seed"], spec["budget"]["steps"], spec["method"]["version"], spec["task"]["version"])
    if max(map(abs, counts)) >= LARGEST:
        return "spec has a seed, version or number of steps that is too large"
    if not re.fullmatch("[0-9a-f]{12}", content["id"]):
        return f"id is {reprlib.repr(content['id'])}"
    if outcome not in ("ok", "diverged"):
        return f"outcome is {reprlib.repr(outcome)}"
    if outcome == "ok" and evaluations.get("", {"mean": None})["mean"] is None:
        return "result.evaluations has none in the task's own setting"
    if outcome == "diverged" and evaluations:
        return "outcome is 'diverged' and result.evaluations has scores"
    if evaluations and not evaluations[""]["setting"].items() <= spec["task"]["fields"].items():
        return "result.evaluations[''] has another setting than its spec"
    for name, scores in evaluations.items():
        if scores["mean"] is None and name not in content["result"].get("diverged", ()):
            return f"result.evaluations[{reprlib.repr(name)}] has no mean and is not said to have diverged"
        episodes, mean = scores["per_episode"], scores["mean"]
        if len(episodes) > spec["budget"].get("test_episodes", LARGEST):
            return f"result.evaluations[{reprlib.repr(name)}] has more episodes than its budget"
        for part in (scores, *(scores["by_step"] or {}).values(), scores.get("nll", {})):
            kept = [*part.get("per_episode", ()), part.get("mean") or 0]
            if not -ENDLESS < min(kept) <= max(kept) < ENDLESS:
                return f"result.evaluations[{reprlib.repr(name)}] has a score of {ENDLESS:g} or more"
        near = 1e-6 * max(1.0, *map(abs, episodes)) if episodes else 0.0  # each is rounded for itself
        if episodes and mean is not None and abs(mean - fmean(episodes)) > near:
            return f"result.evaluations[{reprlib.repr(name)}] has a mean that its episodes do not have"
        if content["result"]["metric"] in FRACTIONS and mean is not None and not 0 <= mean <= 1:
            return f"result.evaluations[{reprlib.repr(name)}] has a mean that is no fraction"
        by_instance, by_step = scores["by_instance"], scores["by_step"]
        if by_instance and len(by_instance["mean"]) != len(by_instance["n"]):
            return f"result.evaluations[{reprlib.repr(name)}].by_instance has other counts than means"
        if not all(step.isdecimal() and len(step) < 10 for step in by_step or ()):
            return f"result.evaluations[{reprlib.repr(name)}].by_step has a step that is no number"
    return ""
