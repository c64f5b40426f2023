"""Records as a DataFrame: one row per record and evaluation setting, with names that a reader can tell apart."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, is_dataclass
from functools import cache
from typing import Any

import pandas as pd

from bench import published, registry
from bench.config import as_dict, canonical, convert, digest
from bench.errors import BenchError
from bench.records import FRACTIONS

PERCENT = frozenset({*FRACTIONS, "error rate"})
"""Metrics that are fractions in records and percent wherever people read them; others are shown as they are."""
RATIOS = frozenset({"mse", "bits per sequence"})
"""Metrics that are compared by the logarithm of their ratio: above zero, and far apart by factors."""

COLUMNS = {
    "id": "object", "task": "object", "setting": "object", "method": "object", "seed": "int64", "outcome": "object",
    "metric": "object", "higher_is_better": "bool", "mean": "float64", "n_episodes": "int64", "params": "float64",
    "train_s": "float64", "ms_step": "float64", "cpu_ms_step": "float64", "eval_s": "float64", "peak_bytes": "float64",
    "train_episodes_per_s": "float64", "steps": "int64", "selected_step": "float64", "label": "object",
    "method_name": "object", "method_version": "int64", "task_version": "int64", "evaluation": "object",
    "dirty": "bool", "commit": "object", "device": "object", "threads": "float64", "torch": "object",
    "python": "object", "started": "object", "path": "object", "fields": "object", "spec": "object",
    "scores": "object", "curve": "object", "solved": "float64", "diagnostics": "object",
}  # fmt: skip
"""Columns of a frame and their types. `fields` is the setting as a dict; `scores` what the record says of it: mean,
per_episode, by_instance, by_step. `method` names the fields that are not at their defaults and those in which records
of one setting differ, `label` the latter alone. `solved` is the validation score from which the task counts as solved.
`ms_step` is wall time of a training step, `cpu_ms_step` processor time of all threads, where it is known."""


def frame(records: Iterable[Any], expected: Iterable[Mapping[str, Any]] = ()) -> pd.DataFrame:
    """One row per record and evaluation setting, sorted by task, setting, method and seed.

    records: `Record`s, or dicts of the same shape. A diverged record has a row for each setting that it would have been
    tested in, with mean NaN; so has a setting that diverged alone, which may have scores by step. expected: specs that
    should have been recorded; those that were not become rows with the outcome "missing".
    """
    recorded = plain(records)
    measured = _measured(recorded)
    rows = [row for record in recorded for row in _rows(record, measured)]
    there = {record["id"] for record in recorded}
    for spec in expected:
        if digest(spec) not in there:
            rows += _rows({"id": digest(spec), "spec": spec, "outcome": "missing", "result": {}}, measured)
    _know_metrics(rows)
    made = pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)
    made["setting"] = pd.Series(_settings(made), index=made.index, dtype="object")
    made["method"], made["label"] = _methods(made)
    made = made.sort_values(["task", "setting", "method", "seed", "id"], key=_sort_key, kind="stable")
    return made.reset_index(drop=True)


UNCOMMITTED = "all records of {} were made by uncommitted code; --dirty takes them too"
"""What is said of a folder of which `committed` leaves nothing."""


def committed(records: Iterable[Mapping[str, Any]], dirty: bool = False) -> list[Mapping[str, Any]]:
    """Records, as dicts, without those made by code that was not committed; dirty: with them."""
    return [r for r in records if dirty or not (r.get("env") or {}).get("dirty")]


def current(records: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The records, as dicts, of the newest version of each method and of each task among them."""
    records = list(records)
    newest: dict[tuple[str, str], int] = {}
    for record in records:
        for kind in ("method", "task"):
            part = record["spec"][kind]
            newest[kind, part["name"]] = max(part["version"], newest.get((kind, part["name"]), 0))
    return [
        record
        for record in records
        if all(p["version"] == newest[k, p["name"]] for k in ("method", "task") for p in [record["spec"][k]])
    ]


def once(made: pd.DataFrame) -> pd.DataFrame:
    """The rows of a frame, one a task, setting, method and seed.

    Cells that differ in their further settings alone measured the same thing here: one of them counts.
    """
    order = made["outcome"].map(["ok", "diverged", "missing"].index).sort_values(kind="stable").index
    return made.loc[order].drop_duplicates(["task", "setting", "method", "seed"]).sort_index()


def metric_of(section: pd.DataFrame) -> str:
    """What a section's figures are called: the records' metric, but Lake's runs are published as errors.

    "error" is that of an accuracy; what records themselves call so is an error already, and has another name here.
    """
    metric, task = section["metric"].iloc[0], section["task"].iloc[0]
    return "error" if (task, metric) == ("lake", "accuracy") else "error rate" if metric == "error" else metric


def shown(metric: str, value: float | None) -> float:
    """A record's score in the unit of the tables."""
    if value is None:
        return math.nan
    if metric not in PERCENT:
        return value
    return round(100 * (1 - value if metric == "error" else value), 10)  # 155 of 400 is 38.75, not a bit less


def transductive(spec: Mapping[str, Any], fields: Mapping[str, Any]) -> bool:
    """Whether a query is answered with the help of its episode's other queries, which no other learner sees."""
    return published.facts(spec, fields).get("batchnorm") == "transductive"


def apart(spec: Mapping[str, Any], fields: Mapping[str, Any]) -> str:
    """Why a result is not ranked among others: it is "transductive", an "oracle"'s (`Method.oracle`), or ""."""
    registry.load()
    if getattr(registry.METHODS.entries.get(spec["method"]["name"]), "oracle", False):
        return "oracle"
    return "transductive" if transductive(spec, fields) else ""


def plain(records: Iterable[Any]) -> list[dict[str, Any]]:
    """Records as dicts."""
    return [asdict(r) if is_dataclass(r) and not isinstance(r, type) else dict(r) for r in records]


def _rows(record: Mapping[str, Any], measured: Mapping[str, set[str]]) -> list[dict[str, Any]]:
    spec, result = record["spec"], record["result"]
    env, cost = record.get("env") or {}, record.get("cost") or {}
    method, task = spec["method"], spec["task"]
    shared = {
        "id": record["id"],
        "task": task["name"],
        "setting": "",
        "method": "",
        "seed": spec["seed"],
        "outcome": record["outcome"],
        "metric": result.get("metric"),
        "higher_is_better": result.get("higher_is_better"),
        **{key: cost.get(key) for key in ("params", "train_s", "eval_s", "peak_bytes", "train_episodes_per_s")},
        **_step_times(spec["budget"]["steps"], cost, env),
        "steps": spec["budget"]["steps"],
        "selected_step": result.get("selected_step"),
        "method_name": method["name"],
        "method_version": method["version"],
        "task_version": task["version"],
        "dirty": bool(env.get("dirty")),
        **{key: env.get(key) for key in ("commit", "threads", "torch", "python")},
        "device": " and ".join(sorted(_devices(env))) or None,
        "started": record.get("started"),
        "path": f"runs/{task['name']}/{method['name']}/s{spec['seed']}-{record['id']}.json",
        "spec": spec,
        "curve": result.get("curve") or [],
        "solved": result.get("solved"),
        "diagnostics": result.get("diagnostics"),
    }
    evaluations = result.get("evaluations") if record["outcome"] == "ok" else None
    if not evaluations:
        settings = _would_be(spec, measured.get(task["name"]))
        return [
            shared | {"evaluation": name, "mean": None, "n_episodes": 0, "fields": fields, "scores": {}}
            for name, fields in settings.items()
        ]
    lost = [
        shared
        | {"outcome": "diverged", "evaluation": name, "mean": None, "n_episodes": 0, "fields": fields, "scores": {}}
        for name, fields in _would_be(spec, measured.get(task["name"])).items()
        if name in result.get("diverged", ()) and name not in evaluations
    ]
    return lost + [
        shared
        | {
            "outcome": "diverged" if scores["mean"] is None else "ok",
            "evaluation": name,
            "mean": scores["mean"],
            "n_episodes": len(scores["per_episode"]),
            "fields": scores.get("setting", {}),
            "scores": scores,
        }
        for name, scores in evaluations.items()
    ]


def _know_metrics(rows: list[dict[str, Any]]) -> None:
    """Cells without a result are measured as the others of their task, or as it says: no row may rank the rest."""
    known = {row["task"]: (row["metric"], row["higher_is_better"]) for row in rows if row["metric"] is not None}
    for row in rows:
        task = registry.TASKS.entries.get(row["task"])
        declared = getattr(task, "metric", "accuracy"), getattr(task, "higher_is_better", True)
        row["metric"], row["higher_is_better"] = known.get(row["task"], declared)


def after(rows: pd.DataFrame) -> int | None:
    """The gradient steps after which one method's score as a whole is taken; None where none or several would give it.

    Steps may tie in some seeds, at chance or at 100 %: it is the one that all seeds agree on.
    """
    found = [
        {int(step) for step, at in (scores.get("by_step") or {}).items() if at["per_episode"] == scores["per_episode"]}
        for scores in rows["scores"]
    ]
    common = set.intersection(*filter(None, found)) if any(found) else set()
    return common.pop() if len(common) == 1 else None


def _devices(env: Mapping[str, Any]) -> set[str]:
    """What a cell was trained and tested on: more than one where it was resumed elsewhere."""
    return {name for each in (env, *env.get("resumed", ())) if (name := each.get("device"))}


def spent(seeds: pd.DataFrame, cost: str) -> float:
    """Mean of a cost over seeds; NaN where they ran on different devices, of which no mean tells anything."""
    if cost != "params" and seeds["device"].nunique() > 1:
        return math.nan
    return float(seeds[cost].mean())


def _step_times(steps: int, cost: Mapping[str, Any], env: Mapping[str, Any]) -> dict[str, float]:
    """Milliseconds a training step.

    Of seeds that were trained in one pass there are none: they took their steps together. Nor of a cell that was begun
    on one device and ended on another. Processor time says nothing of a GPU. Nor is it known of a record that was
    resumed: checkpoints did not always hold it, and that of the part before may be left out.
    """
    if env.get("stacked") or len(_devices(env)) > 1:
        return {}
    seconds = {"ms_step": cost.get("train_s")}
    if not env.get("cuda") and not env.get("resumed"):
        seconds["cpu_ms_step"] = cost.get("train_cpu_s")
    return {name: 1000 * spent / steps for name, spent in seconds.items() if spent and steps}


def _measured(records: list[dict[str, Any]]) -> dict[str, set[str]]:
    """By task, the fields that define what is measured, as its records say."""
    found: dict[str, set[str]] = {}
    for record in records:
        for scores in ((record["result"] or {}).get("evaluations") or {}).values():
            found.setdefault(record["spec"]["task"]["name"], set()).update(scores.get("setting", {}))
    return found


def _would_be(spec: Mapping[str, Any], measured: set[str] | None) -> dict[str, dict[str, Any]]:
    """The settings that a spec would be evaluated in, by name."""
    fields = spec["task"]["fields"]
    base = {
        key: value
        for key, value in fields.items()
        if key != "also" and (key in measured if measured else not key.startswith("train_"))
    }
    settings = {"": base}
    for text in fields.get("also", ()):
        changes = (part.partition("=") for part in text.split(",") if "=" in part)
        named = ((key.strip(), value.strip()) for key, _, value in changes)
        settings[text] = base | {key: _value(spec["task"]["name"], key, value) for key, value in named}
    return settings


def _value(task: str, key: str, text: str) -> Any:
    """A field's value as records have it; of a task that is not registered, as it looks."""
    registry.load()
    try:
        value = convert(registry.TASKS.entries[task], key, text)
    except (KeyError, BenchError):
        with suppress(ValueError):
            return json.loads(text)
        return text
    return list(value) if isinstance(value, tuple) else value


def _settings(made: pd.DataFrame) -> list[str]:
    """A name for each row's setting: way and shot, then whatever else differs within the task."""
    varying = {task: _varying(group["fields"]) - {"way", "shot"} for task, group in made.groupby("task")}
    return [_setting(fields, varying[task]) for task, fields in zip(made["task"], made["fields"], strict=True)]


def _setting(fields: Mapping[str, Any], varying: set[str]) -> str:
    counts = " ".join(f"{fields[key]}-{key}" for key in ("way", "shot") if key in fields)
    return ", ".join([*filter(None, [counts]), *_pairs({k: v for k, v in fields.items() if k in varying})])


def _methods(made: pd.DataFrame) -> tuple[pd.Series, pd.Series]:
    """Two names for each row's method: its registered name, then its fields that are not today's defaults and whatever
    differs among its cells in one setting; and the latter alone, where a task has one method of that shorter name."""
    names, labels = made["method_name"].copy(), made["method_name"].copy()
    configs = pd.Series([_config(spec, fields) for spec, fields in zip(made["spec"], made["fields"], strict=True)],
                        index=made.index, dtype=object)  # fmt: skip
    for (_, _, name), group in made.groupby(["task", "setting", "method_name"]):
        varying = _varying(configs[group.index], absent=True)  # a late field is absent at its default
        for i in group.index:
            if transductive(made["spec"][i], made["fields"][i]):  # then it is never left unsaid
                varying = varying | {"batch_norm"}
            telling = varying | _changed(str(name), made["spec"][i]["method"]["fields"])
            names[i], labels[i] = (_named(str(name), configs[i], keys) for keys in (telling, varying))
    several = names.groupby([made["task"], labels]).transform("nunique") > 1
    return names, labels.where(~several, names)


def _named(name: str, config: Mapping[str, Any], keys: set[str]) -> str:
    shown = ", ".join(_pairs({k: v for k, v in config.items() if k in keys}))
    return f"{name} ({shown})" if shown else name


def _changed(method: str, values: Mapping[str, Any]) -> set[str]:
    """Fields that a method's config holds at other than their defaults; none of a method that is not registered."""
    registry.load()
    cls = registry.METHODS.entries.get(method)
    defaults = _defaults(cls) if cls else {}
    return {k for k, v in values.items() if k in defaults and canonical(v) != defaults[k]}


@cache
def _defaults(cls: type[Any]) -> dict[str, str]:
    """The canonical text of a class's defaults, as records hold them; "" of a late one, which then is left out."""
    recorded = as_dict(cls())
    return {f.name: canonical(recorded[f.name]) if f.name in recorded else "" for f in dataclasses.fields(cls)}


def _config(spec: Mapping[str, Any], measured: Mapping[str, Any]) -> dict[str, Any]:
    """All of a cell that may set it apart from others tested in the same setting; not the seed.

    What its training has a name for that its method has as well is called "trained" so.
    """
    task = spec["task"]
    trained = {
        (f"trained {key}" if key in measured else key): value
        for key, value in task["fields"].items()
        if key != "also" and not (key in measured and measured[key] == value)
    }
    data = {"data": str(task["data"])[:12]} if task.get("data") else {}
    versions = {"version": spec["method"]["version"], "task version": task["version"]}
    config = dict(sorted(spec["method"]["fields"].items()))
    for part in (trained, spec["budget"], data, versions):
        config |= {(f"trained {key}" if key in config else key): value for key, value in part.items()}
    return config


def _varying(configs: Iterable[Mapping[str, Any]], absent: bool = False) -> set[str]:
    """Keys that have more than one value; absent: not to have a key is a value too."""
    configs = list(configs)
    values: dict[str, set[str]] = {key: set() for config in configs for key in config}
    for config in configs:
        for key in values if absent else config:
            values[key].add(canonical(config[key]) if key in config else "")
    return {key for key, found in values.items() if len(found) > 1}


def _pairs(values: Mapping[str, Any]) -> list[str]:
    return [f"{key}={_text(value)}" for key, value in values.items()]


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return "+".join(map(_text, value))
    short = f"{value:g}" if isinstance(value, float) else ""
    return short if short and float(short) == value else str(value)  # two rates must not have one name


def _sort_key(column: pd.Series) -> pd.Series:
    """Numbers inside a setting's name sort as numbers: 5-way before 20-way."""
    if column.name != "setting":
        return column
    return column.str.replace(r"\d+", lambda m: m[0].zfill(9), regex=True)
