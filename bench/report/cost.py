"""What a score costs: against training time, parameters and memory, and which methods nothing else beats in both."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from bench import cells
from bench.cells import rows_of
from bench.charts import Mark
from bench.frames import PERCENT
from bench.report.blocks import Block, Looks
from bench.report.svg import Look, Plot, Point, Series

MIB = 2.0**20


@dataclass(frozen=True)
class Cost:
    """A column of a frame that costs."""

    column: str
    label: str
    words: Callable[[float], str]
    scale: float = 1.0


COSTS = (
    Cost("train_s", "training time, s", cells.duration),
    Cost("params", "parameters", cells.count),
    Cost("peak_bytes", "peak memory, MiB", lambda mib: f"{mib:,.0f} MiB", 1 / MIB),
)


def plots(block: Block, looks: Looks) -> list[Plot]:
    """A plot a cost, of the setting that was trained for; what does not train is a dotted line at its score."""
    if not block.settings:
        return []
    setting = block.settings[0]
    table = block.table[(block.table["at"] == "") & (block.table["setting"] == setting) & (block.table["n_seeds"] > 0)]
    ok = block.made[(block.made["setting"] == setting) & (block.made["outcome"] == "ok")]
    own = looks.of(block, list(table["label"]))
    trains = set(ok.loc[ok["steps"] > 0, "method"])
    rows = [row for row in rows_of(table) if row.method in trains]
    others = [row for row in rows_of(table) if row.method not in trains]
    found = (_plot(block, ok, rows, others, own, cost) for cost in COSTS)
    return [plot for plot in found if plot is not None]


def _plot(block: Block, ok: pd.DataFrame, rows: Sequence[Any], others: Sequence[Any], own: Mapping[str, Look],
          cost: Cost) -> Plot | None:  # fmt: skip
    label = cost.label
    if cost.column != "params" and ok["device"].nunique() > 1:  # between devices a time or a peak tells nothing
        device = ok.groupby("device")["method"].nunique().idxmax()
        ok, label = ok[ok["device"] == device], f"{cost.label}, on {device}"
    spent = ok.groupby("method")[cost.column].mean() * cost.scale
    series = []
    for row in rows:
        x = float(spent.get(row.method, math.nan))
        if not x > 0 or math.isnan(row.mean):
            continue
        unit = " %" if row.metric in PERCENT else ""
        has = not math.isnan(row.half_width)
        told = f"{cells.mean(row)}{unit}, {cells.seeds(map(int, row.seeds.split()))}"
        series.append(Series(
            row.label, block.methods[row.label], own[row.label], [Point(x, row.mean, cost.words(x), told)],
            [row.mean - row.half_width] if has else [], [row.mean + row.half_width] if has else [], joined=False,
            text=cost.words(x),
        ))  # fmt: skip
    if len(series) < 2:
        return None
    metric = rows[0].metric
    better = 1 if ok["higher_is_better"].iloc[0] and metric != "error" else -1
    edge = front([(s.points[0].x, better * s.points[0].y) for s in series])
    series = [replace(s, labelled=i in edge, text=s.text + ", front" * (i in edge)) for i, s in enumerate(series)]
    steps = sorted((series[i].points[0].x, series[i].points[0].y) for i in edge)
    stairs = _stairs(steps)
    line = Mark("", [x for x, _ in stairs], [y for _, y in stairs], "front") if len(steps) > 1 else None
    y_log = metric not in PERCENT and min(s.points[0].y for s in series) > 0
    ends = [pick(s.points[0].x for s in series) for pick in (min, max)]
    marks = [Mark(row.label, ends, [row.mean] * 2) for row in others if not math.isnan(row.mean)]
    return Plot(
        f"Against {cost.label.partition(',')[0]}", label, cells.WORDS.get(metric, metric), series,
        [*marks, *([line] if line else [])], x_log=True, y_log=y_log,
    )  # fmt: skip


def front(points: Sequence[tuple[float, float]]) -> set[int]:
    """Which (cost, score) no other beats: none costs less and scores as much, or costs as much and scores more."""
    return {
        i
        for i, (cost, score) in enumerate(points)
        if not any((c <= cost and s > score) or (c < cost and s >= score) for c, s in points)
    }


def _stairs(steps: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """What can be had for a cost: the score of the best that costs no more."""
    found = [steps[0]]
    for x, y in steps[1:]:
        found += [(x, found[-1][1]), (x, y)]
    return found
