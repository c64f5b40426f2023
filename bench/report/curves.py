"""Learning curves, accuracy by instance, age and load, and time to threshold: the charts of `bench.pictures`, live."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from bench import cells, pictures
from bench.cells import rows_of
from bench.charts import Line, Panel
from bench.frames import PERCENT
from bench.intervals import t_half_width
from bench.report.blocks import Block, Looks
from bench.report.svg import Look, Plot, Point, Series

TITLES = {
    "learning": "Learning curves",
    "instances": "Accuracy by instance",
    "ages": "Recall",
    "retrieval": "Retrieval",
}


@dataclass(frozen=True)
class Kind:
    """Plots of one kind, and the note that belongs under them."""

    title: str
    note: str
    plots: Sequence[Plot]


def kinds(block: Block, looks: Looks, names: Iterable[str]) -> list[Kind]:
    """What the records of a block have to show of some kinds of `bench.pictures.KINDS`."""
    found = []
    for name in names:
        kind = TITLES[name]
        chart = pictures.KINDS[name](block.made, block.task)
        if chart is None:
            continue
        own = looks.of(block, chart.names)
        plots = [
            plot(panel, block, own, chart.names, title=f"{kind}: {panel.title}" if panel.title else kind,
                 ticks=_counts(block.made, panel) if name == "instances" else panel.ticks, bands=name == "learning")
            for panel in chart.panels
        ]  # fmt: skip
        found.append(Kind(kind, chart.note.removeprefix(pictures.ORDER).strip(), plots))
    return found


def plot(panel: Panel, block: Block, looks: Mapping[str, Look], names: Sequence[str], title: str,
         ticks: Sequence[tuple[float, str]], bands: bool) -> Plot:  # fmt: skip
    """A panel of a chart as a plot: the best line first, values in words."""
    metric = "accuracy" if panel.percent else "mse"
    texts = {place: text.replace("\n", ", ") for place, text in panel.ticks}

    def where(x: float) -> str:
        return texts.get(x) or f"{x:,g}"

    series = []
    for line in sorted(panel.lines, key=lambda line: names.index(line.name)):
        line = _banded(line, panel.log) if bands else line
        # Where seeds share no step there is no mean, and the seeds are all there is.
        seeds = _seeds(line, block, panel.title, where, metric)
        points = [
            Point(x, math.nan if y is None else y, where(x), _told(line, i, metric))
            for i, (x, y) in enumerate(zip(line.x, line.y, strict=True))
        ]
        broken = frozenset(name for (name, _), b in zip(seeds, line.broken, strict=False) if b)
        last = next((v for v in reversed(line.y) if v is not None), None)
        series.append(Series(
            line.name, block.methods.get(line.name, line.name), looks[line.name], points, line.low, line.high,
            seeds if len(seeds) > 1 or broken or not points else [], broken,
            text="" if last is None else cells.number(last, metric) + " %" * panel.percent,
        ))  # fmt: skip
    return Plot(title, panel.x_label, panel.y_label, series, panel.marks, ticks, y_log=panel.log, percent=panel.percent)


def _told(line: Line, i: int, metric: str) -> str:
    y = line.y[i]
    if y is None:
        return ""
    unit = " %" if metric in PERCENT else ""
    ends = [v for side in (line.low, line.high) for v in side[i : i + 1] if v is not None]
    interval = " to ".join(cells.number(v, metric, y) for v in ends)
    return cells.number(y, metric) + unit + f", 95 % interval {interval}{unit}" * (len(ends) == 2)


def _banded(line: Line, log: bool) -> Line:
    """A learning curve with the interval over seeds that its mean has: of logarithms where that is geometric."""
    whole = [dict(zip(x, y, strict=True)) for (x, y), broken in zip(line.seeds, line.broken, strict=True) if not broken]
    low: list[float | None] = []
    high: list[float | None] = []
    for step, mean in zip(line.x, line.y, strict=True):
        values = [v for seed in whole if (v := seed.get(step)) is not None]
        half = t_half_width([math.log(v) for v in values] if log else values)
        if mean is None or math.isnan(half):
            return line
        low.append(mean * math.exp(-half) if log else mean - half)
        high.append(mean * math.exp(half) if log else mean + half)
    return Line(line.name, line.x, line.y, low, high, line.seeds, line.broken)


def _seeds(line: Line, block: Block, setting: str, where: Callable[[float], str],
           metric: str) -> list[tuple[str, list[Point]]]:  # fmt: skip
    """The curves of a line's seeds, by their names; setting: "" where the task has one."""
    if not line.seeds:
        return []
    own = pictures.curved(block.made)
    own = own[(own["label"] == line.name) & ((own["setting"] == setting) | (setting == ""))]
    names = [f"seed {n}" for n in sorted(own["seed"])]
    unit = " %" if metric in PERCENT else ""
    return [
        (name, [Point(a, math.nan if b is None else b, where(a), "" if b is None else cells.number(b, metric) + unit)
                for a, b in zip(x, y, strict=True)])
        for name, (x, y) in zip(names, line.seeds, strict=True)
    ]  # fmt: skip


def _counts(made: pd.DataFrame, panel: Panel) -> list[tuple[float, str]]:
    """Instances, and below each how many answers a seed is behind it."""
    ok = made[(made["outcome"] == "ok") & ((made["setting"] == panel.title) | (panel.title == ""))]
    counts = [by["n"] for scores in ok["scores"] if (by := scores.get("by_instance")) and not by.get("groups")]
    most: list[int] = max(counts, key=sum, default=[])
    return [(k, f"{text}\nn {most[int(k) - 1]:,}" if k <= len(most) else text) for k, text in panel.ticks]


# ------------------------------------------------------------------------------------------------- time to threshold


@dataclass(frozen=True)
class Solved:
    """How soon a method reached the task's threshold; low, middle, high: percent of the axis."""

    name: str
    method: str
    look: Look
    count: str
    steps: str
    low: float
    middle: float
    high: float


def solved(block: Block, looks: Looks) -> tuple[str, list[Solved]]:
    """What counts as solved, and a row a method, the soonest first; no row where the task has no threshold."""
    table = block.table[(block.table["at"] == "") & (block.table["n_tried"] > 0)]
    table = table.drop_duplicates("method").sort_values(["steps_to_solve", "method"], na_position="last")
    if table.empty:
        return "", []
    most = max(block.made["steps"].max(), 1)
    own = looks.of(block, list(table["label"]))
    rows = [
        Solved(row.label, block.methods[row.label], own[row.label], cells.solved(row)["solved"],
               cells.solved(row)["steps to solve"], *(_part(v, most) for v in
               (row.steps_to_solve_min, row.steps_to_solve, row.steps_to_solve_max)))
        for row in rows_of(table)
    ]  # fmt: skip
    first = rows_of(table)[0]
    value = f"{100 * first.threshold:g} %" if first.metric in PERCENT else f"{first.threshold:g}"
    return f"validation at {value} or better", rows


def _part(value: float, most: float) -> float:
    return math.nan if math.isnan(value) else round(100 * value / most, 2)
