"""Records to tables, Markdown and CSV: pure functions, the same bytes for the same records.

`summary` is the one table behind all: a row per task, setting, method and place (overall, an instance, a group of a
task, a gradient step, a run), with its interval, costs, how many seeds solved the task, the published figure and the
ids of its records. The CSV is that table; the Markdown shows it to people. What memories do in their slots, and without
them, is in tables of its own: see `bench.memory_tables`.

The interval is Student's t over seeds, 95 %. What papers print, 1.96 s / √n over the episodes of one trained model, is
beside it under that name: it leaves out that another seed would have trained another model. So do the intervals over
disjoint episodes and by class, which speak of other test classes too; the CSV has them, and the standard deviation over
seeds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from bench import files, leaders, markdown, memory_tables, pictures, published, stats
from bench.cells import rows_of
from bench.charts import Picture
from bench.config import digest
from bench.frames import PERCENT, apart, committed, current, frame, metric_of, once, plain, shown, spent
from bench.intervals import episode_half_width, spread, t_half_width

__all__ = ["check", "episode_half_width", "frame", "headline", "render", "report", "summary", "t_half_width", "write"]

INSTANCES = (1, 2, 3, 4, 5, 10)
RUNS = 20
"""Lake's runs."""
OPEN = ("disjoint", "clustered")
"""Intervals over episodes that speak of other test classes, in a record's `open`: see `bench.intervals`."""


# ------------------------------------------------------------------------------------------------------------- summary


def summary(made: pd.DataFrame) -> pd.DataFrame:
    """A frame summed up over seeds; see the module. Accuracies and errors are in percent, costs are means over seeds.

    `count` is the number of answers behind an accuracy by instance or group, of all seeds; `half_width` is NaN for one
    seed. `nll` is minus the log-likelihood in nats a value, where a method tells a distribution. `n_solved` of
    `n_tried` seeds reached the task's `threshold` in validation, first after `steps_to_solve` steps (median of those
    that did), and `unsolved` did not; a seed that diverged did not either, wherever it had been. `standing` is best, or
    the verdict of a method against the best one of its column, `standing_p` its p by Holm: see `bench.leaders`.
    Memories that were taken away have none, nor has what stands `apart`, see `frames.apart`.
    """
    rows: list[dict[str, Any]] = []
    for (task, setting), section in once(made).groupby(["task", "setting"], sort=False):
        groups = [_group(str(task), str(setting), str(name), g) for name, g in section.groupby("method", sort=False)]
        sign = -1 if bool(section["higher_is_better"].iloc[0]) and metric_of(section) != "error" else 1
        ranked = [row for group in sorted(groups, key=lambda g: _rank(g[0], sign)) for row in group]
        _judge(ranked, section)
        rows += ranked
    columns = ["task", "setting", "method", "label", "at", "metric", "mean", "half_width", "episode_half_width",
               "disjoint_half_width", "clustered_half_width", "sd", "nll", "nll_half_width", "standing",
               "standing_p", "apart", "n_seeds", "seeds", "count", "diverged", "missing", "threshold",
               "n_solved", "n_tried", "unsolved", "steps_to_solve", "steps_to_solve_min", "steps_to_solve_max",
               "params", "train_s", "ms_step", "cpu_ms_step", "device", "published", "published_ci95", "source",
               "arxiv", "same_protocol", "because", "records"]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


def _rank(row: Mapping[str, Any], sign: int) -> tuple[bool, float, str]:
    return math.isnan(row["mean"]), 0.0 if math.isnan(row["mean"]) else sign * row["mean"], row["method"]


def _judge(rows: list[dict[str, Any]], section: pd.DataFrame) -> None:
    """Say of each row of a setting how its method stands in its column."""
    for at in dict.fromkeys(row["at"] for row in rows if not row["at"].startswith("run ")):
        column = {row["method"]: row for row in rows if row["at"] == at}
        scores = {name: row["by_seed"] for name, row in column.items() if row["competes"]}
        for name, found in leaders.standings(scores, stats.template(section, at)).items():
            column[name] |= {"standing": found.word, "standing_p": found.p}


def _group(task: str, setting: str, method: str, group: pd.DataFrame) -> list[dict[str, Any]]:
    metric, ok = metric_of(group), group[group["outcome"] == "ok"]
    shared = {
        "task": task,
        "setting": setting,
        "method": method,
        "label": group["label"].iloc[0],
        "metric": metric,
        "missing": _joined(group.loc[group["outcome"] == "missing", "seed"]),
        **_solved(group),
        **{key: spent(ok, key) for key in ("params", "train_s", "ms_step", "cpu_ms_step")},
        "device": " or ".join(sorted(ok["device"].dropna().unique())),
        "records": " ".join(group.loc[group["outcome"] != "missing", "id"]),
    }
    spec, fields = group["spec"].iloc[0], group["fields"].iloc[0]
    whole, beside = memory_tables.ablation(spec) == "none", apart(spec, fields)
    rows = []
    scale = 100 if metric in PERCENT else 1
    sure = [scores["nll"]["mean"] for scores in ok["scores"] if "nll" in scores]
    for at, there, values, errors, count in _places(task, metric, group[["outcome", "seed", "scores"]]):
        found = published.beside(spec, fields, at) if whole else []
        match = published.protocol_match(spec, found[0], fields) if found else None
        by_seed = stats.scores_of(group, at)
        rows.append({
            **shared,
            "diverged": _joined(seed for seed, score in by_seed.items() if math.isnan(score)),
            "at": at,
            "standing": "",
            "apart": beside,
            "competes": whole and not beside,
            "by_seed": by_seed,
            "n_seeds": there["seed"].nunique(),
            "seeds": _joined(there["seed"]),
            "mean": float(np.mean(values)) if values else math.nan,
            "half_width": t_half_width(values),
            "episode_half_width": float(np.mean(errors)) if errors else math.nan,
            **{f"{name}_half_width": scale * _open(there, name) if not at else math.nan for name in OPEN},
            "sd": spread(values),
            "nll": float(np.mean(sure)) if sure and not at else math.nan,
            "nll_half_width": t_half_width(sure) if not at else math.nan,
            "count": count,
            "published": found[0].value if found else math.nan,
            "published_ci95": found[0].ci95 if found else None,
            "source": found[0].citation if found else "",
            "arxiv": found[0].arxiv if found else "",
            "same_protocol": match.verdict if match else "",
            "because": match.because if match else "",
        })  # fmt: skip
    return rows


def _open(there: pd.DataFrame, name: str) -> float:
    """Mean over seeds of an interval that speaks of other test classes, in the records' unit, where they have it."""
    found = [half for scores in there["scores"] if (half := (scores.get("open") or {}).get(name)) is not None]
    return float(np.mean(found)) if found else math.nan


def _solved(group: pd.DataFrame) -> dict[str, Any]:
    """Seeds that solved the task, which is judged on validation in training, so in the task's own setting alone."""
    tried = [
        row
        for row in rows_of(group[group["evaluation"] == ""])
        if row.outcome != "missing" and row.spec["budget"].get("validations") and not math.isnan(row.solved)
    ]
    if not tried:
        return {"n_solved": 0, "n_tried": 0, "unsolved": ""}
    steps = {
        row.seed: first_reached(row.curve, row.solved, row.higher_is_better) if row.outcome == "ok" else None
        for row in tried
    }
    reached = [step for step in steps.values() if step is not None]
    return {
        "threshold": tried[0].solved,
        "n_solved": len(reached),
        "n_tried": len(steps),
        "unsolved": _joined(seed for seed, step in steps.items() if step is None),
        "steps_to_solve": float(np.median(reached)) if reached else math.nan,
        "steps_to_solve_min": min(reached, default=math.nan),
        "steps_to_solve_max": max(reached, default=math.nan),
    }


def first_reached(curve: Sequence[Mapping[str, Any]], threshold: float, higher_is_better: bool) -> int | None:
    """The first validation step at which a curve is as good as a threshold; None where it never is."""
    sign = 1 if higher_is_better else -1
    good = (p["step"] for p in curve if p["val"] is not None and sign * p["val"] >= sign * threshold)
    return next(good, None)


def _places(
    task: str, metric: str, group: pd.DataFrame
) -> Iterable[tuple[str, pd.DataFrame, list[float], list[float], int | None]]:
    """All that records of one method measured: where, which rows of the frame, each one's mean, ± over episodes, n."""
    scale = 1 if metric not in PERCENT else 100
    ok = group[group["outcome"] == "ok"]

    def over(there: pd.DataFrame, parts: list[Any]) -> tuple[pd.DataFrame, list[float], list[float], None]:
        widths = [scale * episode_half_width(p["per_episode"]) for p in parts]
        return there, [shown(metric, p["mean"]) for p in parts], [w for w in widths if not math.isnan(w)], None

    yield "", *over(ok, list(ok["scores"]))
    named = next((by["groups"] for s in ok["scores"] if (by := s.get("by_instance")) and by.get("groups")), None)
    kinds = (
        {k: f"group {k}: {name}" for k, name in enumerate(named, 1)}
        if named
        else {k: f"instance {k}" for k in INSTANCES}
    )
    for k, at in kinds.items() if any(s.get("by_instance") for s in ok["scores"]) else ():
        there = ok[[_instance(s, k) is not None for s in ok["scores"]]]
        means = [shown(metric, _instance(s, k)) for s in there["scores"]]
        yield at, there, means, [], sum(s["by_instance"]["n"][k - 1] for s in there["scores"])
    # A setting that diverged may have scores after fewer steps.
    for step in sorted({int(step) for s in group["scores"] for step in s.get("by_step") or ()}):
        there = group[[str(step) in (s.get("by_step") or ()) for s in group["scores"]]]
        yield f"step {step}", *over(there, [s["by_step"][str(step)] for s in there["scores"]])
    if task == "lake":
        for run in range(RUNS):
            there = ok[np.array([len(s["per_episode"]) > run for s in ok["scores"]], bool)]
            errors = [[shown(metric, v) for v in s["per_episode"][run::RUNS]] for s in there["scores"]]
            yield f"run {run + 1}", there, [float(np.mean(e)) for e in errors], [], None


def _instance(scores: Mapping[str, Any], k: int) -> float | None:
    """Accuracy at the k-th instance, or in the k-th group, where a record has it."""
    means = (scores.get("by_instance") or {"mean": ()})["mean"]
    return means[k - 1] if len(means) >= k else None


def _joined(seeds: Iterable[int]) -> str:
    return " ".join(str(s) for s in sorted(set(seeds)))


# --------------------------------------------------------------------------------------------------------------- files


class Report(NamedTuple):
    """Tables, as text, and pictures, as what is drawn, by file name."""

    tables: dict[str, str]
    pictures: dict[str, Picture]


def report(
    records: Iterable[Any],
    name: str,
    expected: Iterable[Mapping[str, Any]] | None = None,
    *,
    title: str = "",
    dirty: bool = False,
) -> Report:
    """The tables of a suite, `<name>.md`, `<name>.csv` and CSVs of ablations and diagnostics, if any; its pictures.

    records: `Record`s, or dicts of that shape. expected: the specs of the suite's cells; other records are then left
    out, and cells without a record are counted. dirty: also records made by code that was not committed.
    """
    recorded, specs = plain(records), {digest(spec): spec for spec in expected or ()}
    if expected is not None:
        recorded = [r for r in recorded if r["id"] in specs]
    clean = committed(recorded, dirty)
    newest = current(clean)
    left_out = {r["id"] for r in recorded} - {r["id"] for r in newest}
    made = frame(newest, [spec for id, spec in specs.items() if id not in left_out])
    notes = {
        "made by uncommitted code": len(recorded) - len(clean),
        "of older versions of a method or task": len(clean) - len(newest),
    }
    table, charts = summary(made), pictures.charts(made, name)
    links = {task: [(chart.title, f"../pictures/{file}") for file, chart in drawn.items()]
             for task, drawn in charts.items()}  # fmt: skip
    texts = {f"{name}.md": markdown.document(title or name, made, table, notes, links), f"{name}.csv": to_csv(table)}
    for kind, more in (("ablations", memory_tables.ablations(made)), ("diagnostics", memory_tables.diagnostics(made))):
        texts |= {} if more.empty else {f"{name}-{kind}.csv": to_csv(more)}
    return Report(texts, {file: chart for drawn in charts.values() for file, chart in drawn.items()})


def render(records: Iterable[Any], name: str, expected: Iterable[Mapping[str, Any]] | None = None,
           **options: Any) -> dict[str, str]:  # fmt: skip
    """The tables of `report` alone."""
    return report(records, name, expected, **options).tables


def headline(records: Iterable[Any], methods: Sequence[str] = (), tasks: Sequence[str] = ()) -> str:
    """One short Markdown table, for a README: ours and the published figure, newest versions, committed code only.

    methods, tasks: names to keep; all where there are none.
    """
    kept = [
        r
        for r in committed(plain(records))
        if memory_tables.ablation(r["spec"]) == "none"  # no form of a method, but a method without its memory
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
