"""Methods over several tasks: interquartile means, performance profiles, ranks, and what a best of n runs is worth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from bench import aggregates, cells
from bench.aggregates import Across, Ranks
from bench.frames import current, frame
from bench.intervals import Estimate
from bench.report.blocks import Looks, Suite
from bench.report.svg import Look, Plot, Point, Scale, Series, Tick, ticks

SCORE = "score: 0 chance, 1 perfect"
LOWEST, THRESHOLDS = -1.0, 61
"""A profile begins at chance, or with the lowest score if that is less, but not below LOWEST."""


@dataclass(frozen=True)
class Row:
    """A method on an axis. low, middle, high: percent of it; low and high are NaN without an interval."""

    method: str
    look: Look
    text: str
    runs: str
    failed: str
    low: float
    middle: float
    high: float


@dataclass(frozen=True)
class Axis:
    """Rows of methods, best first."""

    rows: Sequence[Row]
    ticks: Sequence[Tick]
    label: str


@dataclass(frozen=True)
class Overview:
    """All that is shown of some methods over the tasks that they share."""

    sentence: str
    iqm: Axis
    profile: Plot
    ranks: Axis | None
    ranked: str
    """What the ranks say, or why there are none."""
    budgets: Sequence[Plot]


def overview(suites: Sequence[Suite], looks: Looks) -> Overview | None:
    """The methods of a page over tasks, as trained for; None where no two methods share two tasks."""
    records = {r["id"]: r for suite in suites for r in suite.records}
    made = frame(current([records[i] for i in sorted(records)]))
    made = made[made["evaluation"] == ""]
    methods = aggregates.shared(made)
    return of(aggregates.across(made, methods), looks, made) if methods else None


def of(found: Across, looks: Looks, made: pd.DataFrame) -> Overview:
    """The same of scores that were taken out of a frame."""
    own = looks.named(list(found.scores))
    means = {name: aggregates.stratified(scores) for name, scores in found.scores.items()}
    order = sorted(means, key=lambda name: (-means[name].value, name))
    alone = [sum(task == other for other, _ in found.places) == 1 for task, _ in found.places]
    where = [task if one else f"{task} ({setting})" for one, (task, setting) in zip(alone, found.places, strict=True)]
    said = f"{_list(order)} over {len(found.tasks)} tasks: {_list(where)}."
    ranks = found.ranks
    return Overview(
        said, _iqm(found, means, order, own), _profile(found, means, order, own),
        _ranks(ranks, list(found.scores), own) if ranks else None, _ranked(found, ranks),
        [plot for i in range(len(where)) if (plot := _budget(found, i, where[i], order, own))],
    )  # fmt: skip


def _iqm(found: Across, means: dict[str, Estimate], order: Sequence[str], own: dict[str, Look]) -> Axis:
    ends = [v for e in means.values() for v in e if not math.isnan(v)]
    scale = Scale(min(0.0, *ends), max(1.0, *ends), 0.0, 100.0, False)
    rows = []
    for name in order:
        runs, lost = sum(map(len, found.scores[name])), found.diverged[name]
        text = cells.interval(means[name]) if not math.isnan(means[name].low) else f"{means[name].value:.2f}"
        rows.append(Row(name, own[name], text, f"{runs}", f"{lost} diverged" if lost else "",
                        *(math.nan if math.isnan(v) else scale(v) for v in
                          (means[name].low, means[name].value, means[name].high))))  # fmt: skip
    return Axis(rows, ticks(scale, 5), SCORE)


def _profile(found: Across, means: dict[str, Estimate], order: Sequence[str], own: dict[str, Look]) -> Plot:
    """The fraction of runs above each score."""
    least = min(float(runs.min()) for scores in found.scores.values() for runs in scores)
    places = np.linspace(max(LOWEST, min(0.0, least)), 1.0, THRESHOLDS)
    series = []
    for name in order:
        above = 100 * aggregates.profile(found.scores[name], places)
        points = [Point(float(x), float(y), f"above {x:.2f}", f"{y:.0f} % of runs")
                  for x, y in zip(places, above, strict=True)]  # fmt: skip
        series.append(Series(name, name, own[name], points, text=f"{means[name].value:.2f}"))
    return Plot("Performance profiles", SCORE, "runs that score above it, %", series, percent=True)


def _ranks(ranks: Ranks, names: Sequence[str], own: dict[str, Look]) -> Axis:
    """Mean ranks, each with half the critical difference on either side: those that do not touch differ."""
    half = ranks.critical_difference / 2
    scale = Scale(min(1.0, *(r - half for r in ranks.mean)), max(len(names), *(r + half for r in ranks.mean)),
                  0.0, 100.0, False)  # fmt: skip
    rows = [Row(name, own[name], f"{rank:.2f}", "", "", *(scale(v) for v in (rank - half, rank, rank + half)))
            for rank, name in sorted(zip(ranks.mean, names, strict=True))]  # fmt: skip
    return Axis(rows, ticks(scale, 5), "mean rank, 1 is best")


def _ranked(found: Across, ranks: Ranks | None) -> str:
    if ranks is None:
        return (f"Ranks are tested from {aggregates.FEWEST_TASKS} tasks and three methods on; here are "
                f"{len(found.tasks)} and {len(found.scores)}.")  # fmt: skip
    return (
        f"Mean ranks over {len(found.tasks)} tasks: Friedman χ² = {ranks.statistic:.2f}, {cells.p_value(ranks.p)}. Two "
        f"methods differ where their mean ranks are more than {ranks.critical_difference:.2f} apart (Nemenyi, 5 %): "
        "where their bars do not touch."
    )


def _budget(found: Across, place: int, where: str, order: Sequence[str], own: dict[str, Look]) -> Plot | None:
    """What the best of n runs is expected to score; None where no method has two."""
    series = []
    for name in order:
        best = aggregates.expected_best(found.scores[name][place])
        points = [Point(n, float(y), f"best of {n}", f"{y:.2f}") for n, y in enumerate(best, 1)]
        series.append(Series(name, name, own[name], points, text=f"{best[0]:.2f} to {best[-1]:.2f}"))
    most = max(len(s.points) for s in series)
    if most < 2:
        return None
    numbers = [(float(n), str(n)) for n in range(1, most + 1)]
    return Plot(f"Best of n runs: {where}", "runs", SCORE, series, ticks=numbers)


def _list(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
