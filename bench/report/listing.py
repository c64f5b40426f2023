"""Records as rows of a table, and each one's details: spec, command, environment. Equal parts are kept once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench import grid, registry, views
from bench.config import canonical
from bench.errors import BenchError
from bench.frames import PERCENT
from bench.report.blocks import Suite

NUMBERS = (3, 5, 6, 7)
"""Columns of the table that hold the numbers of a row."""


@dataclass(frozen=True)
class Row:
    """One record, as people read it."""

    id: str
    suites: Sequence[str]
    task: str
    method: str
    config: str
    seed: int
    outcome: str
    score: str
    cost: str
    params: str
    commit: str
    started: str
    numbers: tuple[float, float | None, float, float]
    """Seed, score, seconds and parameters, to sort by."""


@dataclass(frozen=True)
class Listing:
    """All rows, and details by id: {method, task, budget, env, data, command: indices into parts; scores, cost, times}.

    Commands have {seed} in the place of the seed.
    """

    rows: Sequence[Row]
    parts: Sequence[str]
    details: Mapping[str, Mapping[str, Any]]

    @property
    def sort(self) -> dict[int, list[float | None]]:
        """What columns of numbers are sorted by, by column."""
        return {column: [row.numbers[i] for row in self.rows] for i, column in enumerate(NUMBERS)}


def listing(suites: Sequence[Suite]) -> Listing:
    """The records of suites; one that is in several is a row once."""
    where: dict[str, list[str]] = {}
    found: dict[str, Mapping[str, Any]] = {}
    whose: dict[str, str] = {}
    for suite in suites:
        whose |= suite.whose
        for record in suite.records:
            where.setdefault(record["id"], []).append(suite.name)
            found[record["id"]] = record
    order = sorted(found.values(), key=lambda r: (r["spec"]["task"]["name"], r["spec"]["method"]["name"],
                                                  r["spec"]["seed"], r["id"]))  # fmt: skip
    parts: dict[str, int] = {}
    details = {r["id"]: _details(r, whose.get(r["id"], ""), parts) for r in order}
    return Listing([_row(r, where[r["id"]]) for r in order], list(parts), details)


def _row(record: Mapping[str, Any], suites: Sequence[str]) -> Row:
    spec, result, cost, env = record["spec"], record["result"], record["cost"], record.get("env") or {}
    own = result["evaluations"].get("") if record["outcome"] == "ok" else None
    score = views.score(result["metric"], own) if own else record["outcome"]
    value = own["mean"] if own else None
    config = views.changed(registry.METHODS, spec["method"]).replace(",", ", ")
    task = spec["task"]["name"]
    commit = str(env.get("commit") or "")[:7] + ("+" if env.get("dirty") else "")
    seconds = cost["train_s"] + cost["eval_s"]
    # Percent and other units are not one scale, but within a task they are.
    shown = None if value is None else round(100 * value if result["metric"] in PERCENT else value, 6)
    numbers = (spec["seed"], shown, round(seconds, 3), cost["params"])
    return Row(record["id"], suites, task, spec["method"]["name"], config, spec["seed"], record["outcome"], score,
               f"{seconds:,.0f} s" if seconds >= 10 else f"{seconds:.1f} s", f"{cost['params']:,}", commit,
               record["started"].partition("T")[0], numbers)  # fmt: skip


def _details(record: Mapping[str, Any], whose: str, parts: dict[str, int]) -> dict[str, Any]:
    def part(text: str) -> int:
        return parts.setdefault(text, len(parts))

    spec, env = record["spec"], {k: v for k, v in (record.get("env") or {}).items() if k != "resumed"}
    resumed = views.resumed(record.get("env") or {})
    data = record.get("data")
    scores = [[name or "as trained for", views.score(record["result"]["metric"], e), len(e["per_episode"])]
              for name, e in record["result"]["evaluations"].items()]  # fmt: skip
    return {
        **{kind: part(_pairs(f"{spec[kind]['name']} version {spec[kind]['version']}", spec[kind]["fields"]))
           for kind in ("method", "task")},
        "budget": part(_pairs("", spec["budget"])),
        "env": part("\n".join([_pairs("", env), *resumed, *([f"imported, from {whose}"] if whose else [])])),
        "data": part(f"{data['name']}, sha256 {data['sha256']}" if data else "generated, nothing read"),
        "command": part(command(spec).replace(f"--seeds {spec['seed']}", "--seeds {seed}", 1)),
        "scores": scores,
        "cost": _pairs("", record["cost"]),
        "times": f"{record['started']} to {record['finished']}",
    }  # fmt: skip


def command(spec: Mapping[str, Any]) -> str:
    """The command that makes a record again, or why there is none."""
    try:
        return grid.command(spec)
    except BenchError as error:
        return f"# not possible with this version: {' '.join(str(error).split())}"


def _pairs(title: str, values: Mapping[str, Any]) -> str:
    lines = [f"{key} = {_text(value)}" for key, value in values.items() if value is not None]
    return "\n".join([*([title] if title else []), *lines])


def _text(value: Any) -> str:
    if isinstance(value, (dict, list)):
        return canonical(value)
    return views.setting_text("", value)
