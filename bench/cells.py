"""Cells of Markdown tables: numbers, intervals, costs, seeds and text as people read them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sized
from itertools import groupby
from types import SimpleNamespace
from typing import Any

import pandas as pd

from bench.frames import PERCENT
from bench.intervals import Estimate

NONE = "—"
PAPERS = "± over episodes, as papers print it"
NLL = "NLL, nats a value"
ON = "on"
"""What costs were measured on; a column of tables where that differs."""
MARKS = dict.fromkeys(("cannot tell", "equivalent", "better"), "•") | {"too few seeds": "?"}
"""What stands behind a figure not told from the best of its column; the best is bold, and those worse are bare."""
APART = {"transductive": "†", "oracle": "‡"}
"""What stands behind figures that are not ranked among the others, see `frames.apart`."""
WORDS = {"accuracy": "accuracy, %", "error": "error, %", "error rate": "error, %", "mse": "mean squared error"}


LEAST, MOST = 1e-5, 1e7
"""Smaller and larger numbers are written with an exponent."""


def rows_of(table: pd.DataFrame) -> list[Any]:
    """Rows with their cells as attributes."""
    names = [*map(str, table.columns)]
    columns = (table.iloc[:, i].tolist() for i in range(len(names)))
    return [SimpleNamespace(**dict(zip(names, row, strict=True))) for row in zip(*columns, strict=True)]


def number(value: float, metric: str, like: float | None = None) -> str:
    """A score as tables print it: percent with two decimals, MSE with three digits (or the decimals of `like`)."""
    if math.isnan(value):
        return NONE
    if metric in PERCENT:
        return f"{value:.2f}"
    scale = abs(value if like is None else like)
    return _fixed(value, 2 if scale == 0 or not math.isfinite(scale) else 2 - math.floor(math.log10(scale)))


def mean(row: Any) -> str:
    """Mean ± half-width of a row of a summary, rounded by it; where seeds give none, by the interval over episodes."""
    return plus_minus(row.mean, row.half_width, row.metric, getattr(row, "episode_half_width", math.nan))


def plus_minus(value: float, half_width: float, metric: str, least: float = math.nan) -> str:
    """A score ± half its interval, both rounded by that, or the score alone rounded by the least that it is unsure."""
    if math.isnan(half_width):
        return by_uncertainty(value, metric, least)
    return " ± ".join(by_uncertainty(v, metric, half_width) for v in (value, half_width))


def by_uncertainty(value: float, metric: str, uncertainty: float) -> str:
    """A score with two digits of its uncertainty, percent to the hundredth at most; as `number` where none is known."""
    if math.isnan(value) or not (uncertainty > 0 and math.isfinite(uncertainty)):
        return number(value, metric)
    return rounded(value, max(uncertainty, 0.1) if metric in PERCENT else uncertainty)


def marked(row: Any) -> str:
    """`mean`, and how the method stands in its column; see `MARKS`."""
    text = mean(row)
    if row.standing == "best":
        text = f"**{text}**"
    elif row.standing in MARKS:
        text += f" {MARKS[row.standing]}"
    return text + beside(row)


def beside(row: Any) -> str:
    """The mark of a figure that is not ranked among the others, if it is one."""
    return f" {APART[row.apart]}" if row.apart and not math.isnan(row.mean) else ""


def rounded(value: float, uncertainty: float) -> str:
    """A number with as many decimals as its uncertainty has for two digits; three digits where that is not known."""
    if math.isnan(value):
        return NONE
    scale = uncertainty / 10 if uncertainty > 0 else abs(value) / 100
    decimals = 2 if scale == 0 or not math.isfinite(scale) else -math.floor(math.log10(scale))
    return _fixed(round(value, decimals) + 0.0, decimals)  # no minus before a zero


def _fixed(value: float, decimals: int) -> str:
    """With so many decimals, and an exponent where zeros would fill them or what is before them."""
    tiny = 0 < abs(value) < LEAST and decimals > -math.log10(LEAST)
    if not tiny and not MOST <= abs(value) < math.inf:
        return f"{value:.{max(0, decimals)}f}"
    return f"{value:.{max(0, decimals + math.floor(math.log10(abs(value))))}e}"


def interval(found: Estimate, sign: bool = False) -> str:
    """A figure and its interval in brackets, rounded by their uncertainty; sign: a plus before what is above zero."""
    ends = [rounded(v, found.half_width) for v in found]
    if sign:
        ends = [f"+{text}" if not text.startswith(("-", NONE)) and float(text) else text for text in ends]
    return ends[0] if math.isnan(found.low) else f"{ends[0]} [{ends[1]}, {ends[2]}]"


def times(logarithms: Estimate) -> str:
    """A ratio and its interval, of their logarithms, each with two digits of its own or what the interval leaves."""
    half = logarithms.half_width
    digits = max(2, 1 - math.floor(math.log10(half))) if half > 0 else 3
    ends = [significant(math.exp(v), digits) for v in logarithms]
    return ends[0] if math.isnan(logarithms.low) else f"{ends[0]} [{ends[1]}, {ends[2]}]"


def significant(value: float, digits: int) -> str:
    """So many digits, without an exponent where that can be read."""
    if not value:
        return "0"
    if not 1e-6 <= value < 1e9:
        return f"{value:.{digits - 1}e}"
    value = float(f"{value:.{digits - 1}e}")
    return f"{value:,.{max(0, digits - 1 - math.floor(math.log10(value)))}f}"


def p_value(p: float) -> str:
    """ "p = 0.012", "p < 0.001"."""
    return f"p {NONE}" if math.isnan(p) else "p < 0.001" if p < 0.001 else f"p = {p:.{2 if p >= 0.1 else 3}f}"


def episodes(row: Any) -> str:
    """The interval of the papers."""
    half = row.episode_half_width
    return "" if math.isnan(half) else f"± {by_uncertainty(half, row.metric, half)}"


def published(value: float, ci95: float | None) -> str:
    """A figure as printed in its source."""
    if math.isnan(value):
        return ""
    return repr(float(value)) + ("" if ci95 is None or math.isnan(ci95) else f" ± {float(ci95)!r}")


def source(citation: str, arxiv: str) -> str:
    """Where a figure was printed."""
    return f"{citation} (arXiv:{arxiv})" if arxiv else citation


def solved(row: Any) -> dict[str, str]:
    """How many seeds reached the task's threshold, and after how many steps: the median and the range."""
    if not row.n_tried:
        return {"solved": "", "steps to solve": ""}
    steps = ""
    if row.n_solved:
        low, high = row.steps_to_solve_min, row.steps_to_solve_max
        steps = f"{row.steps_to_solve:,.0f}" + (f" ({low:,.0f}–{high:,.0f})" if low < high else "")
    return {"solved": f"{row.n_solved} of {row.n_tried}", "steps to solve": steps or NONE}


def sureness(row: Any) -> dict[str, str]:
    """Minus the log-likelihood of the answers, of methods that say how sure they are; less is better."""
    return {NLL: "" if math.isnan(row.nll) else plus_minus(row.nll, row.nll_half_width, "nll")}


def cost(row: Any) -> dict[str, str]:
    """Size and time; wall time of a step only where the processor's is not known."""
    wall = math.nan if row.cpu_ms_step > 0 else row.ms_step
    return {
        "parameters": count(row.params),
        "CPU ms a step": milliseconds(row.cpu_ms_step),
        "wall ms a step": milliseconds(wall),
        "training time": duration(row.train_s),
        ON: row.device if row.train_s else "",  # a method that does not train has its time nowhere
    }


def count(value: float) -> str:
    """A whole number with its thousands marked."""
    return NONE if math.isnan(value) else f"{value:,.0f}"


def milliseconds(value: float) -> str:
    """Two digits at least; nothing where it was not measured."""
    return "" if math.isnan(value) else f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def duration(seconds: float) -> str:
    """Seconds, minutes or hours."""
    if math.isnan(seconds) or seconds == 0:
        return NONE
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes} m {seconds:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} m"


def seeds(numbers: Iterable[int]) -> str:
    """ "seed 3", "seeds 0, 2" or "seeds 0–4, 7"."""
    found = sorted(set(numbers))
    parts: list[str] = []
    for _, run in groupby(enumerate(found), lambda pair: pair[1] - pair[0]):
        row = [value for _, value in run]
        parts += [f"{row[0]}–{row[-1]}"] if len(row) > 2 else map(str, row)
    return f"seed{'s' * (len(found) > 1)} {', '.join(parts)}"


def behind(count: int, diverged: Sized) -> str:
    """How many seeds are behind a figure, and how many failed instead."""
    return str(count) + (f" ({len(diverged)} diverged)" if len(diverged) else "")


def table(rows: pd.DataFrame, left: Iterable[Any]) -> str:
    """A Markdown table of text, without the columns that are empty, or name one device; left: aligned so."""
    rows = rows.where(rows.notna(), "")  # cells that no row of a method has
    told = {c: set(rows[c]) - {""} for c in rows}
    rows = rows[[c for c in rows if len(told[c]) > (c == ON)]]
    align = ["left" if c in left else "right" for c in rows]
    shown = rows.map(safe).rename(columns=safe)
    return shown.to_markdown(index=False, disable_numparse=True, colalign=align)


def safe(text: str) -> str:
    """Text that stays text in a Markdown table."""
    plain = text if text.isprintable() else json.dumps(text)[1:-1]
    return plain.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("`", "\\`")
