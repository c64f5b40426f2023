"""Records to charts: how methods learn, what they get right by instance, by age and by load, and what they retrieve.

Each function takes the frame of one task and gives a chart, or None where the records hold nothing to draw. Methods are
named as in the tables, and ordered from best to worst.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from bench.cells import rows_of
from bench.charts import Chart, Line, Mark, Panel, short
from bench.frames import PERCENT, RATIOS, once
from bench.intervals import t_half_width
from bench.memory_tables import diagnostics
from bench.references import ceiling, elimination, guessing

POINTS = 3
"""Fewer validations than this are no curve."""
FAR = 1000
"""What does not train and errs so many times less than the best point of any curve is named below the picture."""
LEAST = 30
"""Where a seed has fewer answers than this, its accuracy by instance or age is noise and left out."""
BANDS = (
    "Bands: Student t 95 % interval over seeds, none for one seed. What a seed was asked fewer than "
    f"{LEAST} times is left out."
)
ORDER = "Names from best to worst, a few at a time; the others are behind them in grey."
UNITS = {"accuracy": "accuracy, %", "error": "error, %", "mse": "mean squared error"}
WITHOUT = (
    " Without binding: guessing among the values that were shown and not asked for yet; what is old is asked for late, "
    "when few are left. Chance is left out."
)


def charts(made: pd.DataFrame, name: str) -> dict[str, dict[str, Chart]]:
    """All pictures of a suite by task and file name. made: its frame; name: the suite's."""
    found: dict[str, dict[str, Chart]] = {}
    for task, section in made.groupby("task", sort=False):
        stem = name if task == name else f"{name}-{task}"
        drawn = {f"{stem}-{kind}.png": build(section, str(task)) for kind, build in KINDS.items()}
        found[str(task)] = {file: chart for file, chart in drawn.items() if chart is not None}
    return found


def _chart(title: str, note: str, panels: list[Panel], rank: Mapping[str, float]) -> Chart | None:
    names = dict.fromkeys(line.name for panel in panels for line in panel.lines)
    order = sorted(names, key=lambda name: (-rank.get(name, -math.inf), name))
    return Chart(title, " ".join(filter(None, [ORDER * (len(order) > 5), note])), order, panels) if order else None


def _where(part: pd.DataFrame, column: str, test: Callable[[Any], bool]) -> pd.DataFrame:
    return part[part[column].map(test).astype(bool)]


def _means(part: pd.DataFrame) -> dict[str, float]:
    """Overall score by label, as a rank: the higher the better."""
    ok = part[part["outcome"] == "ok"]
    sign = 1 if ok.empty or ok["higher_is_better"].iloc[0] else -1
    return {str(label): sign * float(mean) for label, mean in ok.groupby("label")["mean"].mean().items()}


def _line(name: str, x: Iterable[float], columns: Iterable[list[float]]) -> Line:
    """Means and intervals over seeds; columns: the values of the seeds at each x, in percent or as they are."""
    values = [*columns]
    y = [math.fsum(v) / len(v) if v else math.nan for v in values]
    half = [t_half_width(v) for v in values]
    there = any(math.isfinite(h) for h in half)
    low, high = ([a + s * h for a, h in zip(y, half, strict=True)] if there else [] for s in (-1, 1))
    return Line(name, tuple(x), short(y), short(low), short(high))


# ------------------------------------------------------------------------------------------------------------ learning


def learning(made: pd.DataFrame, task: str) -> Chart | None:
    """Validation score against training step: seeds thin, their mean thick, the threshold from which a task is solved.

    Where the axis is logarithmic the mean is geometric. Seeds that diverged end in a cross and are in no mean. What
    does not train is a dotted line at its test score.
    """
    own = curved(made)
    panels, rank, below = [], dict[str, float](), set[str]()
    for setting, part in own.groupby("setting", sort=False):
        metric = part["metric"].iloc[0]
        percent, sign = metric in PERCENT, 1 if part["higher_is_better"].iloc[0] else -1
        last = max(_validated(c)[-1][0] for c in part["curve"])
        # Of what goes to zero and below, such as a reward, there are no logarithms; errors of zero are off the axis.
        least = min(v for c in part["curve"] for _, v in _validated(c))
        log = not percent and (metric in RATIOS or least > 0)
        lines = [_curve(str(label), group, percent, log) for label, group in part.groupby("label", sort=False)]
        for line in lines:
            known = [sign * v for v in line.y if v is not None]
            rank[line.name] = max(rank.get(line.name, -math.inf), max(known, default=-math.inf))
        scale, unit = (100, " %") if percent else (1, "")
        marks = [
            Mark(f"solved: {scale * t:g}{unit}", (0, last), short([scale * t] * 2), "threshold")
            for t in part["solved"].dropna().unique()[:1]
            if t > 0 or not log
        ]
        untrained = made[(made["setting"] == setting) & (made["steps"] == 0) & (made["outcome"] == "ok")]
        for label, mean in untrained.groupby("label")["mean"].mean().items():
            if log and mean <= max(least, 0) / FAR:
                below.add(f"{label} (test)")
            else:
                marks.append(Mark(f"{label} (test)", (0, last), short([scale * mean] * 2)))
        name = str(setting) if own["setting"].nunique() > 1 else ""
        y_label = f"validation, {UNITS.get(metric, metric)}"
        panels.append(Panel(name, "training steps", y_label, lines, marks, log=log, percent=percent))
    note = "Thin: seeds; thick: their mean" + ", geometric" * any(p.log for p in panels) + "."
    note += " ×: a seed that diverged." if any(any(line.broken) for p in panels for line in p.lines) else ""
    note += f" Far below all curves: {', '.join(sorted(below))}." if below else ""
    return _chart(f"{task}: learning", note, panels, rank)


def curved(made: pd.DataFrame) -> pd.DataFrame:
    """The rows that have a learning curve, each seed of a method once."""
    return once(_where(made[made["evaluation"] == ""], "curve", lambda c: len(_validated(c)) >= POINTS))


def _validated(curve: list[dict[str, Any]]) -> list[tuple[int, float]]:
    return [(p["step"], p["val"]) for p in curve if p["val"] is not None]


def _curve(name: str, group: pd.DataFrame, percent: bool, log: bool) -> Line:
    scale = 100 if percent else 1
    rows = sorted(rows_of(group), key=lambda row: row.seed)
    curves = [[(step, scale * v) for step, v in _validated(row.curve) if v > 0 or not log] for row in rows]
    whole = [dict(c) for c, row in zip(curves, rows, strict=True) if row.outcome == "ok" or row.n_episodes]
    steps = sorted(set.intersection(*(set(c) for c in whole))) if whole else []
    means = [_average([c[step] for c in whole], log) for step in steps]
    seeds = tuple((tuple(step for step, _ in c), short(v for _, v in c)) for c in curves)
    broken = tuple(row.outcome != "ok" and not row.n_episodes for row in rows)
    return Line(name, tuple(steps), short(means), seeds=seeds, broken=broken)


def _average(values: list[float], log: bool) -> float:
    return math.exp(math.fsum(map(math.log, values)) / len(values)) if log else math.fsum(values) / len(values)


# ----------------------------------------------------------------------------------------------- by instance, age, load


def instances(made: pd.DataFrame, task: str) -> Chart | None:
    """Accuracy by how often a class has been shown, a panel a setting; guessing, and the ceiling of the first time."""
    panels = []
    ok = once(made[made["outcome"] == "ok"])
    for setting, part in _where(ok, "scores", partial(_by, named=False)).groupby("setting", sort=False):
        fields, count = part["fields"].iloc[0], max(len(s["by_instance"]["mean"]) for s in part["scores"])
        lines = [_line(str(label), range(1, count + 1), _percent(group, range(count)))
                 for label, group in part[part["method_name"] != "chance"].groupby("label", sort=False)]  # fmt: skip
        last = max((k for line in lines for k, v in zip(line.x, line.y, strict=True) if v is not None), default=1)
        guess, top = guessing(fields), ceiling(fields)
        marks = [] if guess is None else [Mark("guessing", (1, last), short([guess] * 2))]
        marks += [] if top is None else [Mark("", (0.75, 1.25), short([top] * 2), "bar")]
        panels.append(Panel(str(setting), "how often the class has been shown", "accuracy, %", lines, marks,
                            [(k, str(k)) for k in range(1, int(last) + 1)], percent=True))  # fmt: skip
    note = BANDS + " Black: the ceiling of the first time, by elimination." * any(len(p.marks) > 1 for p in panels)
    return _chart(f"{task}: accuracy by instance", note, panels, _means(made[made["evaluation"] == ""]))


def ages(made: pd.DataFrame, task: str) -> Chart | None:
    """Accuracy against age at one load, and overall against load over slots: binding and forgetting.

    The load of the left panel is the largest that was trained; memories without slots take the commonest number.
    """
    ok = _where(once(made[made["outcome"] == "ok"]), "fields", lambda f: {"load", "most"} <= set(f))
    ok = _where(ok, "scores", partial(_by, named=True))
    if ok.empty:
        return None
    loads = ok["fields"].map(lambda f: f["load"])
    most = ok["fields"].iloc[0]["most"]
    left = ok[loads == (most if (loads == most).any() else 0)]
    names = left["scores"].iloc[0]["by_instance"]["groups"]
    columns = [k for k in range(len(names)) if any(s["by_instance"]["n"][k] >= LEAST for s in left["scores"])]
    others = elimination(left["fields"].iloc[0])
    by_age = [_line(str(label), range(len(columns)), _percent(group, columns)) for label, group in _methods(left)]
    marks = (
        []
        if others is None
        else [Mark("without binding", tuple(range(len(columns))), short(others[1].get(k + 1) for k in columns))]
    )
    load = left["fields"].iloc[0]["load"]
    title = f"{load} items stored" if load else f"1 to {most} items stored"
    panels = [Panel(title, "age: presentations since the item was stored", "accuracy, %", by_age, marks,
                    [(i, names[k].removeprefix("age ").replace("-", "–")) for i, k in enumerate(columns)],
                    percent=True)]  # fmt: skip
    right = _by_load(ok[loads > 0], most)
    return _chart(f"{task}: what is recalled, by age and by load", BANDS + WITHOUT,
                  [*panels, *([right] if right else [])], _means(made[made["evaluation"] == ""]))  # fmt: skip


def _by_load(ok: pd.DataFrame, most: int) -> Panel | None:
    loads = sorted({f["load"] for f in ok["fields"]})
    if len(loads) < 2:
        return None
    given = [s["method"]["fields"].get("slots") for s in ok["spec"]]
    known = [n for n in given if type(n) is int and n > 0]
    usual = max(sorted(set(known)), key=known.count) if known else most
    slots = pd.Series([n if type(n) is int and n > 0 else usual for n in given], index=ok.index)
    at = ok["fields"].map(lambda f: f["load"])
    lines = []
    for label, group in _methods(ok):
        own = slots[group.index].iloc[0]
        columns = [[100 * v for v in group.loc[at[group.index] == n, "mean"]] for n in loads]
        lines.append(_line(label, [n / own for n in loads], columns))
    fields = ok["fields"].iloc[0]
    free = [elimination(dict(fields) | {"load": n}) for n in loads]
    marks = [Mark("without binding", tuple(n / usual for n in loads), short(f and f[0] for f in free))]
    alike = set(known) <= {usual}
    ticks = [(n / usual, f"{n / usual:g}\n{n}") for n in loads]
    label = "items stored / slots" + f" (/ {usual} where there are no slots)" * (known != given)
    label += "; below: items" * alike
    return Panel("all ages, by load", label, "accuracy, %", lines, marks, ticks if alike else (), percent=True)


def _methods(part: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    named = part[part["method_name"] != "chance"]
    return [(str(label), group) for label, group in named.groupby("label", sort=False)]


def _by(scores: Mapping[str, Any], named: bool) -> bool:
    by = scores.get("by_instance")
    return by is not None and bool(by.get("groups")) == named


def _percent(group: pd.DataFrame, columns: Iterable[int]) -> list[list[float]]:
    """For each column of an accuracy by instance or group, the values of seeds with enough answers, in percent."""
    found = [[*zip(s["by_instance"]["mean"], s["by_instance"]["n"], strict=True)] for s in group["scores"]]
    return [
        [100 * mean for by in found for mean, n in by[k : k + 1] if mean is not None and n >= LEAST] for k in columns
    ]


# ---------------------------------------------------------------------------------------------------------- retrieval


def retrieval(made: pd.DataFrame, task: str) -> Chart | None:
    """Forgetting curves of the diagnostics: accuracy, and how often the best head's strongest read finds its class."""
    table = diagnostics(made)
    curves = table[table["age"] != ""]
    if curves.empty:
        return None
    titles = {"accuracy": "right predictions", "best_head_label": "strongest reads of their own class, best head"}
    several = curves["setting"].nunique() > 1
    panels = []
    for setting, part in curves.groupby("setting", sort=False):
        ticks = [*enumerate(dict.fromkeys(part["age"]))]
        for number, words in titles.items():
            lines = []
            for label, group in part[part["number"] == number].groupby("label", sort=False):
                half = 100 * group["half_width"].to_numpy()
                y = 100 * group["value"].to_numpy()
                low, high = (short(y - half), short(y + half)) if np.isfinite(half).any() else ((), ())
                lines.append(Line(str(label), tuple(range(len(group))), short(y), low, high))
            chance = table.loc[(table["setting"] == setting) & (table["number"] == "retrieval_label")
                               & (table["age"] == ""), "chance"].mean()  # fmt: skip
            marks = []
            if number != "accuracy" and math.isfinite(chance):
                marks = [Mark("read at random", (0, len(ticks) - 1), short([100 * chance] * 2))]
            title, x_label = words + f", {setting}" * several, "presentations since the class was last shown"
            panels.append(Panel(title, x_label, "right, %", lines, marks, ticks, percent=True))
    found = curves[curves["number"] == "best_head_label"].groupby("label")["value"].mean()
    return _chart(f"{task}: what memories find again", BANDS, panels, {str(k): float(v) for k, v in found.items()})


KINDS: dict[str, Callable[[pd.DataFrame, str], Chart | None]] = {
    "learning": learning, "instances": instances, "ages": ages, "retrieval": retrieval,
}  # fmt: skip
