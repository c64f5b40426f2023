"""Records: what happened to one cell. Written once, never changed; a folder of JSON files is the whole store."""

from __future__ import annotations

import json
import math
import re
import textwrap
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from bench import files
from bench.config import canonical, digest
from bench.errors import BenchError

SCHEMA = 1


@dataclass(frozen=True)
class Record:
    """One immutable result; `spec` alone defines its id."""

    id: str
    spec: dict[str, Any]
    """Method, task, seed and budget, with every field."""
    outcome: Literal["ok", "diverged"]
    result: dict[str, Any]
    """metric, higher_is_better, selected_step, curve, diverged (the settings whose scores were not finite), and
    evaluations {setting: mean, per_episode, by_instance, by_step, setting}."""
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
    """Canonical JSON in short lines: sorted keys, no NaN, lists of numbers wrapped."""
    text = canonical(asdict(record), indent=1)
    # A real line break follows the bracket: inside a string there is none, so that text such as "[1, 2]" is safe.
    numbers = re.compile(r"\[\n\s*(-?\d[^\[\]{}\"a-df-zA-DF-Z]*?)\s*\]")
    return numbers.sub(lambda m: "[\n" + textwrap.fill(re.sub(r"\s+", " ", m[1]), 116) + "\n]", text) + "\n"


def write(results: Path, record: Record) -> Path:
    """Write a record once; where one with this id is already there, that one stays.

    Raises:
        BenchError: the folder cannot be written or the disk is full.
    """
    path = path_of(results, record.spec)
    files.create(path, dump(record).encode())
    return path


def read(path: Path) -> Record:
    """Read one record and check it.

    Raises:
        BenchError: not JSON, a newer schema, a NaN, missing parts, or an id that does not match its spec.
    """
    try:
        content = json.loads(path.read_bytes(), parse_constant=_no_nan)
    except OSError as error:
        raise BenchError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise BenchError(f"{path} is not a record: {error}") from None
    schema = content.get("schema") if isinstance(content, dict) else None
    if not isinstance(schema, int):
        raise BenchError(f"{path} is not a record: it has no schema number")
    if schema > SCHEMA:
        raise BenchError(
            f"{path} has schema {schema}, newer than this version's {SCHEMA}; upgrade mannbench to read it"
        )
    try:
        record = Record(**content)
        _check(record)
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise BenchError(f"{path} is not a whole record: {error}") from None
    if digest(record.spec) != record.id:
        raise BenchError(f"{path} has the id {record.id}, but its spec gives {digest(record.spec)}; it was altered")
    return record


def load(results: Path) -> Loaded:
    """Read all records of a results folder, sorted by path. Unusable files are named, skipped and left alone."""
    loaded = Loaded()
    seen: set[str] = set()
    for path in sorted((results / "runs").glob("*/*/*.json")):
        if path.name.startswith("."):
            continue
        try:
            record = read(path)
        except BenchError as problem:
            loaded.problems.append(str(problem))
            continue
        if record.id not in seen:
            seen.add(record.id)
            loaded.records.append(record)
    return loaded


def find(results: Path, prefix: str) -> tuple[Path, Record]:
    """The record whose id starts with the given digits.

    Raises:
        BenchError: none, or more than one.
    """
    found = [p for p in _paths(results) if p.stem.rpartition("-")[2].startswith(prefix)]
    if not prefix or not found:
        raise BenchError(f"no record in {results} has an id that starts with '{prefix}'; `bench status` lists them")
    if len(found) > 1:
        ids = ", ".join(p.stem.rpartition("-")[2] for p in found[:5])
        raise BenchError(f"'{prefix}' fits {len(found)} records ({ids}, …); give more digits")
    return found[0], read(found[0])


def _paths(results: Path) -> Iterator[Path]:
    return (p for p in sorted((results / "runs").glob("*/*/s*-*.json")) if not p.name.startswith("."))


def _no_nan(text: str) -> None:
    raise ValueError(f"it holds {text}")


def _check(record: Record) -> None:
    for part in ("method", "task"):
        entry = record.spec[part]
        if not isinstance(entry["name"], str) or not isinstance(entry["fields"], dict):
            raise ValueError(f"its {part} has no name or fields")
        if not isinstance(entry["version"], int):
            raise ValueError(f"its {part} has no version number")
    if not isinstance(record.spec["seed"], int) or not isinstance(record.spec["budget"], dict):
        raise ValueError("its seed or budget is missing")
    if record.outcome not in ("ok", "diverged"):
        raise ValueError(f"its outcome is '{record.outcome}'")
    if not isinstance(record.result["metric"], str) or not isinstance(record.result["curve"], list):
        raise ValueError("its result has no metric or curve")
    evaluations = record.result["evaluations"]
    if record.outcome == "ok" and "" not in evaluations:
        raise ValueError("it has no evaluation")
    for evaluation in evaluations.values():
        float(evaluation["mean"])
        if not all(isinstance(v, (int, float)) for v in evaluation["per_episode"]):
            raise ValueError("its scores are not numbers")
        if not math.isfinite(evaluation["mean"] + sum(evaluation["per_episode"])):
            raise ValueError("it holds a score that is not finite")
    if not isinstance(record.cost, dict) or not isinstance(record.env, dict):
        raise ValueError("its cost or environment is missing")
