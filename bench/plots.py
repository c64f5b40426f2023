"""The overview picture of a run: what was measured, with intervals.

Colours are Okabe and Ito's, told apart without colour vision too; each method keeps its colour and marker in all panels
of a picture. The same records give the same bytes: nothing of the time or the machine enters a file. matplotlib is
imported when the first picture is drawn.
"""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from bench.cells import rows_of
from bench.frames import PERCENT, current, frame, plain
from bench.references import ceiling
from bench.tables import summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A5C00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p", "<", ">", "h")
DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (5, 1.5, 1.2, 1.5)), (0, (8, 2)))
GREY = "0.45"
STYLE: dict[Any, Any] = {
    "figure.dpi": 100, "savefig.dpi": 160, "font.size": 11, "font.family": "DejaVu Sans", "axes.titlesize": 12,
    "axes.titleweight": "bold", "axes.titlelocation": "left", "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "axes.axisbelow": True, "grid.color": "0.9", "lines.linewidth": 2, "lines.markersize": 6.5,
    "legend.frameon": False, "svg.hashsalt": "mannbench", "svg.fonttype": "none", "figure.facecolor": "white",
    "text.parse_math": False,
}  # fmt: skip
LABELS = {"accuracy": "accuracy, %", "error": "error, % (less is better)", "error rate": "error, % (less is better)",
          "mse": "MSE (less is better)"}  # fmt: skip
AXES = {
    "instance": "how often the class has been shown, this time included",
    "step": "gradient steps on the support",
}
CEILING = "ceiling by elimination"
PANEL = (5.6, 3.9)
"""Inches."""


@dataclass(frozen=True)
class Look:
    """How a method is drawn, in every panel."""

    colour: str
    marker: str
    dash: Any


@dataclass(frozen=True)
class Panel:
    """A part of the picture."""

    title: str
    draw: Callable[[Axes], None]
    height: float = 1.0
    """Relative to PANEL."""
    named: bool = False
    """Methods are named in the panel itself."""


def overview(records: Iterable[Any], path: Path, title: str) -> None:
    """One picture (PNG or SVG, by the path's suffix) of what was measured, a panel a task.

    Online tasks: accuracy by instance, with the ceiling by elimination. Tasks measured after gradient steps: score by
    step. Others: a point a method and setting. Whiskers and bands are Student t 95 % intervals over seeds; methods with
    one seed have none.
    """
    made = _frame(records)
    table = summary(made)
    table = table[table["n_seeds"] > 0]
    looks = _looks(table["method"])
    panels = []
    for task, section in table.groupby("task", sort=False):
        wide = section.loc[section["at"].str.match("instance|step"), "setting"].unique()
        points = section[(section["at"] == "") & ~section["setting"].isin(wide)]
        if len(points):
            panels.append(_points_panel(str(task), points, looks))
        for setting in wide:
            part = section[section["setting"] == setting]
            name = f"{task}, {setting}" if setting else str(task)
            if part["at"].str.startswith("instance").any():
                fields = made.loc[(made["task"] == task) & (made["setting"] == setting), "fields"].iloc[0]
                panels.append(_lines_panel(name, part, looks, "instance", ceiling(fields)))
            else:
                panels.append(_lines_panel(name, part, looks, "step"))
    diverged = int((made.drop_duplicates("id")["outcome"] == "diverged").sum())
    note = "bars and bands: Student t 95 % interval over seeds" + f"; {diverged} diverged, not shown" * bool(diverged)
    _save(panels, looks, path, title, note)


def _frame(records: Iterable[Any]) -> pd.DataFrame:
    return frame(current(plain(records)))


def _looks(names: pd.Series) -> dict[str, Look]:
    """Colours and markers by name, in alphabetical order; chance is grey and dotted."""
    every = sorted(set(names))
    looks = {"chance": Look(GREY, ".", (0, (1, 1.5)))} if "chance" in every else {}
    for i, name in enumerate(n for n in every if n != "chance"):
        looks[name] = Look(COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)], DASHES[i % len(DASHES)])
    return looks


# -------------------------------------------------------------------------------------------------------------- panels


def _points_panel(task: str, section: pd.DataFrame, looks: dict[str, Look]) -> Panel:
    """A line a method, under the name of its setting."""
    metric = section["metric"].iloc[0]
    lines: list[tuple[str, Any]] = []
    for setting, part in section.groupby("setting", sort=False):
        lines += [(str(setting), None)] if setting else []
        lines += [("\n".join(textwrap.wrap(row.method, 26, subsequent_indent="  ")), row) for row in rows_of(part)]
    heights = [max(1.0, 0.75 * (text.count("\n") + 1)) for text, _ in lines]
    places = [sum(heights[:i]) + heights[i] / 2 for i in range(len(lines))]

    ends = float((section["mean"] + section["half_width"].fillna(0)).max())
    right = 1.08 * ends if metric == "mse" else 100.0 if metric in PERCENT else math.inf
    left = 0.0 if math.isfinite(right) else -math.inf

    def draw(axes: Axes) -> None:
        for place, (text, row) in zip(places, lines, strict=True):
            if row is None:
                axes.text(0.006, place, text, transform=axes.get_yaxis_transform(), fontweight="bold", fontsize=10.5,
                          va="center")  # fmt: skip
                continue
            look, width = looks[row.method], None
            if not math.isnan(row.half_width):  # of few seeds that differ, wider than the axis
                width = [[min(row.half_width, row.mean - left)], [min(row.half_width, right - row.mean)]]
            axes.errorbar(row.mean, place, xerr=width, fmt=look.marker, ms=8, color=look.colour, capsize=4,
                          clip_on=False)  # fmt: skip
        axes.set_yticks(places, [text if row is not None else "" for text, row in lines])
        axes.set_ylim(sum(heights) + 0.1, -0.1)
        axes.tick_params(axis="y", length=0)
        axes.grid(False, axis="y")
        axes.set_xlabel(LABELS.get(metric, metric))
        if math.isfinite(right):
            axes.set_xlim(left, right)

    return Panel(task, draw, max(0.6, (sum(heights) + 2) / 13), named=True)


def _lines_panel(
    name: str, section: pd.DataFrame, looks: dict[str, Look], kind: str, top: float | None = None
) -> Panel:
    """Scores by instance or by step; top: ceiling of the first instance."""
    metric = section["metric"].iloc[0]
    places = section[section["at"].str.startswith(kind)]
    ticks = sorted({_index(at) for at in places["at"]})

    def draw(axes: Axes) -> None:
        for method, group in section.groupby("method", sort=False):
            look = looks[str(method)]
            part = group[group["at"].str.startswith(kind)]
            x, y, w = [_index(at) for at in part["at"]], part["mean"].to_numpy(), part["half_width"].to_numpy()
            if not x:  # a method without steps: one figure, drawn across
                x, y, w = (
                    ticks,
                    np.repeat(group["mean"].iloc[0], len(ticks)),
                    np.repeat(group["half_width"], len(ticks)),
                )
            axes.plot(x, y, color=look.colour, marker=look.marker, ls=look.dash, clip_on=False)
            if np.isfinite(w).all():
                low = np.maximum(y - w, y / 10) if metric == "mse" else y - w
                axes.fill_between(x, low, y + w, color=look.colour, alpha=0.15, lw=0)
        axes.set_xticks(ticks)
        axes.set_xlabel(AXES[kind])
        axes.set_ylabel(LABELS.get(metric, metric))
        if metric == "mse":
            axes.set_yscale("log")
            _plain_log_ticks(axes)
        elif metric in PERCENT:
            axes.set_ylim(0, 100)
        if top is not None:
            axes.plot([0.65, 1.35], [top, top], color="black", lw=3, solid_capstyle="butt", gid=CEILING)

    return Panel(name, draw)


def _plain_log_ticks(axes: Axes) -> None:
    """0.2, 0.5, 1, 2, 5 instead of powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _index(at: str) -> int:
    return int(at.split()[1])


# ---------------------------------------------------------------------------------------------------------------- file


def _save(panels: Sequence[Panel], looks: dict[str, Look], path: Path, title: str, note: str) -> None:
    import matplotlib

    with matplotlib.rc_context(STYLE):
        figure = _figure(panels, looks, title, note)
        kind = path.suffix.lstrip(".") or "png"
        metadata: dict[str, Any] = {"svg": {"Date": None}, "png": {"Software": None}}.get(kind, {})
        figure.savefig(path, format=kind, metadata=metadata)


def blank(size: tuple[float, float], title: str, points: float = 13, layout: Any = "constrained") -> Figure:
    """A figure with its title at the left and nothing else, for a file and not for a screen. size: inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout=layout)
    FigureCanvasAgg(figure)
    figure.suptitle(title, x=0.01, ha="left", fontsize=points, fontweight="bold")
    return figure


def png(figure: Figure) -> bytes:
    """A figure as PNG, the same bytes each time."""
    made = io.BytesIO()
    figure.savefig(made, format="png", metadata={"Software": None})
    return made.getvalue()


def _figure(panels: Sequence[Panel], looks: dict[str, Look], title: str, note: str) -> Figure:
    from matplotlib.lines import Line2D

    columns = 1 if len(panels) < 2 else 2 if len(panels) < 5 else 3
    rows = max(1, math.ceil(len(panels) / columns))
    heights = [max((p.height for p in panels[r * columns : (r + 1) * columns]), default=0.1) for r in range(rows)]
    size = (PANEL[0] * columns, PANEL[1] * sum(heights) + 1.4)
    figure = blank(size, title, 15)
    grid = figure.add_gridspec(rows, columns, height_ratios=heights)
    for i, panel in enumerate(panels):
        axes = figure.add_subplot(grid[i // columns, i % columns])
        panel.draw(axes)
        axes.set_title(panel.title)
    handles = [
        Line2D([], [], color=look.colour, marker=look.marker, ls=look.dash, label=name)
        for name, look in looks.items()
        if not all(panel.named for panel in panels)
    ]
    if any(line.get_gid() == CEILING for axes in figure.axes for line in axes.lines):
        handles.append(Line2D([], [], color="black", lw=3, label=CEILING))
    inches = 0.085 * max((len(str(h.get_label())) for h in handles), default=0) + 1
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=max(1, min(len(handles), int(size[0] / inches))),
        title=textwrap.fill(note if panels else f"nothing to show; {note}", int(11 * size[0])),
        handlelength=3.2,
    )
    return figure
