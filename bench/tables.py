"""Records to tables, Markdown and CSV: pure functions, the same bytes for the same records.

`summary` is the one table behind all: a row per task, setting, method and place (overall, an instance, a gradient
step, a run), with its interval, costs, the published figure and the ids of its records. The CSV is that table; the
Markdown shows it to people.

The interval is Student's t over seeds, 95 %. What papers print, 1.96 s / √n over the episodes of one trained model, is
beside it under that name: it leaves out that another seed would have trained another model.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from bench import files, markdown, published, registry
from bench.config import digest
from bench.frames import PERCENT, current, frame, plain

__all__ = ["check", "episode_half_width", "frame", "headline", "render", "summary", "t_half_width", "write"]

INSTANCES = (1, 2, 3, 4, 5, 10)
RUNS = 20
"""Lake's runs."""


def t_half_width(values: Sequence[float]) -> float:
    """Half-width of the 95 % Student t interval of a mean; NaN for fewer than two values."""
    n = len(values)
    if n < 2:
        return math.nan
    return float(stats.t.ppf(0.975, n - 1) * spread(values) / math.sqrt(n))


def episode_half_width(scores: Sequence[float]) -> float:
    """What few-shot papers print: 1.96 s / √n over the test episodes of one trained model; NaN for fewer than two."""
    return 1.96 * spread(scores) / math.sqrt(len(scores)) if len(scores) > 1 else math.nan


def spread(values: Sequence[float]) -> float:
    """Standard deviation of a sample; exactly 0 of equal values, whose mean may be rounded. NaN for fewer than two."""
    if len(values) < 2:
        return math.nan
    return float(np.std(values, ddof=1)) if min(values) < max(values) else 0.0


# ------------------------------------------------------------------------------------------------------------- summary


def summary(made: pd.DataFrame) -> pd.DataFrame:
    """A frame summed up over seeds; see the module. Accuracies and errors are in percent, costs are means over seeds.

    `count` is the number of answers behind an accuracy by instance, of all seeds; `half_width` is NaN for one seed.
    """
    rows: list[dict[str, Any]] = []
    # Cells that differ in their further settings alone measured the same thing here: one of them counts.
    order = made["outcome"].map(["ok", "diverged", "missing"].index)
    once = made.loc[order.sort_values(kind="stable").index].drop_duplicates(["task", "setting", "method", "seed"])
    for (task, setting), section in once.sort_index().groupby(["task", "setting"], sort=False):
        groups = [_group(str(task), str(setting), str(name), g) for name, g in section.groupby("method", sort=False)]
        sign = -1 if bool(section["higher_is_better"].iloc[0]) and _metric(section) != "error" else 1
        for group in sorted(groups, key=lambda g: _rank(g[0], sign)):
            rows += group
    columns = ["task", "setting", "method", "at", "metric", "mean", "half_width", "episode_half_width", "sd", "n_seeds",
               "seeds", "count", "diverged", "missing", "params", "train_s", "published", "published_ci95", "source",
               "arxiv", "same_protocol", "because", "records"]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


def _rank(row: Mapping[str, Any], sign: int) -> tuple[bool, float, str]:
    return math.isnan(row["mean"]), 0.0 if math.isnan(row["mean"]) else sign * row["mean"], row["method"]


def _metric(section: pd.DataFrame) -> str:
    """What a section's figures are called: the records' metric, but Lake's runs are published as errors."""
    known, task = section["metric"].dropna(), section["task"].iloc[0]
    metric = known.iloc[0] if len(known) else getattr(registry.TASKS.entries.get(task), "metric", "accuracy")
    return "error" if (task, metric) == ("lake", "accuracy") else metric


def _shown(metric: str, value: float | None) -> float:
    """A record's score in the unit of the tables."""
    if value is None:
        return math.nan
    return value if metric not in PERCENT else 100 * (1 - value if metric == "error" else value)


def _group(task: str, setting: str, method: str, group: pd.DataFrame) -> list[dict[str, Any]]:
    metric, ok = _metric(group), group[group["outcome"] == "ok"]
    shared = {
        "task": task,
        "setting": setting,
        "method": method,
        "metric": metric,
        "diverged": _joined(group.loc[group["outcome"] == "diverged", "seed"]),
        "missing": _joined(group.loc[group["outcome"] == "missing", "seed"]),
        "params": ok["params"].mean(),
        "train_s": ok["train_s"].mean(),
        "records": " ".join(group.loc[group["outcome"] != "missing", "id"]),
    }
    spec, fields = group["spec"].iloc[0], group["fields"].iloc[0]
    rows = []
    for at, there, values, errors, count in _places(task, metric, group):
        found = _beside(spec, fields, at)
        match = published.protocol_match(spec, found[0], fields) if found else None
        rows.append({
            **shared,
            "at": at,
            "n_seeds": there["seed"].nunique(),
            "seeds": _joined(there["seed"]),
            "mean": float(np.mean(values)) if values else math.nan,
            "half_width": t_half_width(values),
            "episode_half_width": float(np.mean(errors)) if errors else math.nan,
            "sd": spread(values),
            "count": count,
            "published": found[0].value if found else math.nan,
            "published_ci95": found[0].ci95 if found else None,
            "source": found[0].citation if found else "",
            "arxiv": found[0].arxiv if found else "",
            "same_protocol": match.verdict if match else "",
            "because": match.because if match else "",
        })  # fmt: skip
    return rows


def _places(
    task: str, metric: str, group: pd.DataFrame
) -> Iterable[tuple[str, pd.DataFrame, list[float], list[float], int | None]]:
    """All that records of one method measured: where, which rows of the frame, each one's mean, ± over episodes, n."""
    scale = 1 if metric not in PERCENT else 100
    ok = group[group["outcome"] == "ok"]

    def over(there: pd.DataFrame, parts: list[Any]) -> tuple[pd.DataFrame, list[float], list[float], None]:
        widths = [scale * episode_half_width(p["per_episode"]) for p in parts]
        return there, [_shown(metric, p["mean"]) for p in parts], [w for w in widths if not math.isnan(w)], None

    yield "", *over(ok, list(ok["scores"]))
    for k in INSTANCES if any(s.get("by_instance") for s in ok["scores"]) else ():
        there = ok[[_instance(s, k) is not None for s in ok["scores"]]]
        means = [_shown(metric, _instance(s, k)) for s in there["scores"]]
        yield f"instance {k}", there, means, [], sum(s["by_instance"]["n"][k - 1] for s in there["scores"])
    # A setting that diverged may have scores after fewer steps.
    for step in sorted({int(step) for s in group["scores"] for step in s.get("by_step") or ()}):
        there = group[[str(step) in (s.get("by_step") or ()) for s in group["scores"]]]
        yield f"step {step}", *over(there, [s["by_step"][str(step)] for s in there["scores"]])
    if task == "lake":
        for run in range(RUNS):
            errors = [[_shown(metric, v) for v in s["per_episode"][run::RUNS]] for s in ok["scores"]]
            yield f"run {run + 1}", ok, [float(np.mean(e)) for e in errors if e], [], None


def _instance(scores: Mapping[str, Any], k: int) -> float | None:
    """Accuracy at the k-th instance, where a record has it."""
    means = (scores.get("by_instance") or {"mean": ()})["mean"]
    return means[k - 1] if len(means) >= k else None


def _beside(spec: Mapping[str, Any], fields: Mapping[str, Any], at: str) -> list[published.Published]:
    """Published figures for one of ours, the most alike first."""
    kind, _, number = at.partition(" ")
    column = {"instance": "instance", "step": "adapt_steps"}.get(kind)
    if kind == "run":
        return []
    place = {column: number} if column else {}
    found = published.lookup(spec["method"]["name"], spec["task"]["name"], **{**fields, **place})
    found = [row for row in found if {*row.key} & {"instance", "adapt_steps"} == {*place}]
    return published.closest(spec, found, fields)


def _joined(seeds: pd.Series) -> str:
    return " ".join(str(s) for s in sorted(set(seeds)))


# --------------------------------------------------------------------------------------------------------------- files


def render(
    records: Iterable[Any],
    name: str,
    expected: Iterable[Mapping[str, Any]] | None = None,
    *,
    title: str = "",
    dirty: bool = False,
) -> dict[str, str]:
    """The tables of a suite by file name: `<name>.md` and `<name>.csv`.

    records: `Record`s, or dicts of that shape. expected: the specs of the suite's cells; other records are then left
    out, and cells without a record are counted. dirty: also records made by code that was not committed.
    """
    recorded, specs = plain(records), {digest(spec): spec for spec in expected or ()}
    if expected is not None:
        recorded = [r for r in recorded if r["id"] in specs]
    clean = [r for r in recorded if dirty or not (r.get("env") or {}).get("dirty")]
    newest = current(clean)
    left_out = {r["id"] for r in recorded} - {r["id"] for r in newest}
    made = frame(newest, [spec for id, spec in specs.items() if id not in left_out])
    notes = {
        "made by uncommitted code": len(recorded) - len(clean),
        "of older versions of a method or task": len(clean) - len(newest),
    }
    table = summary(made)
    return {f"{name}.md": markdown.document(title or name, made, table, notes), f"{name}.csv": to_csv(table)}


def headline(records: Iterable[Any], methods: Sequence[str] = (), tasks: Sequence[str] = ()) -> str:
    """One short Markdown table, for a README: ours and the published figure, newest versions, committed code only.

    methods, tasks: names to keep; all where there are none.
    """
    kept = [
        r
        for r in plain(records)
        if not (r.get("env") or {}).get("dirty")
        and (not methods or r["spec"]["method"]["name"] in methods)
        and (not tasks or r["spec"]["task"]["name"] in tasks)
    ]
    return markdown.headline(summary(frame(current(kept))))


def to_csv(table: pd.DataFrame) -> str:
    """A summary as CSV, six digits."""
    return table.to_csv(index=False, float_format="%.6g", lineterminator="\n")


def check(rendered: Mapping[str, str], folder: Path) -> list[str]:
    """Names of the files in a folder that are not there or not what was rendered, sorted."""
    return sorted(
        name
        for name, text in rendered.items()
        if not (folder / name).is_file() or (folder / name).read_bytes() != text.encode()
    )


def write(rendered: Mapping[str, str], folder: Path) -> list[str]:
    """Write what is stale, and return the names.

    Raises:
        BenchError: the folder cannot be written.
    """
    stale = check(rendered, folder)
    for name in stale:
        files.replace(folder / name, rendered[name].encode())
    return stale
