"""Line charts as data, and their drawing: readable with many lines, without colour vision, without a legend.

A `Chart` is all that is drawn, so its digest says whether a picture shows what the records say, on any machine: the
bytes of a PNG depend on fonts and libraries, the digest in its text does not.

Five lines at a time stand out, each with its own colour, dash and marker and its name at its end; all others are behind
them in grey. matplotlib is imported when the first chart is drawn.
"""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from bench import files
from bench.config import digest

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

EDITION = 3
"""Raise it when charts are to be drawn anew though their data are the same."""
KEY = "Digest"
"""Name of the PNG text that holds a chart's digest."""
GROUP = 5
"""So many lines stand out in one panel."""
COLUMNS = 2
SIZE = (5.2, 3.3)
"""Inches of a panel with its labels."""
LABEL = 0.066
"""Height of a line of a label, as a part of a panel's."""
TITLE = 50
"""Letters of a panel's title in a line."""
WRAP = 24
COLOURS = 128
"""Of a picture's file."""


@dataclass(frozen=True)
class Line:
    """One method. y: mean over seeds, None where there is none. low, high: ends of its interval, if it has one.

    seeds: each seed's (x, y), drawn thin. broken: of each seed, whether it diverged after its last point.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    low: Sequence[float | None] = ()
    high: Sequence[float | None] = ()
    seeds: Sequence[tuple[Sequence[float], Sequence[float | None]]] = ()
    broken: Sequence[bool] = ()


@dataclass(frozen=True)
class Mark:
    """What lines are compared with. kind: "line" (grey and dotted), "threshold" (black and dashed), "bar" (short).

    One without a name is named in the chart's note.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    kind: str = "line"


@dataclass(frozen=True)
class Panel:
    """Lines over one pair of axes. ticks: places on the x axis and their texts, if they are not plain numbers."""

    title: str
    x_label: str
    y_label: str
    lines: Sequence[Line]
    marks: Sequence[Mark] = ()
    ticks: Sequence[tuple[float, str]] = ()
    log: bool = False
    percent: bool = False


@dataclass(frozen=True)
class Chart:
    """One picture. names: all lines' names, in the order in which they take turns to stand out."""

    title: str
    note: str
    names: Sequence[str]
    panels: Sequence[Panel]

    @property
    def digest(self) -> str:
        """Of all that is drawn."""
        return digest([EDITION, asdict(self)], 64)

    def png(self) -> bytes:
        """The picture."""
        return draw(self)


class Picture(Protocol):
    """What a gallery holds: a `Chart`, or the like of one."""

    @property
    def digest(self) -> str:
        """Of all that is drawn."""

    def png(self) -> bytes:
        """The file."""


def short(values: Iterable[float | None]) -> tuple[float | None, ...]:
    """Six digits, so that the last bit of a mean, which differs between machines, is in no digest; NaN is None."""
    return tuple(None if v is None or not math.isfinite(v) else float(f"{v:.6g}") for v in values)


# --------------------------------------------------------------------------------------------------------------- files


def check(charts: Mapping[str, Picture], folder: Path) -> list[str]:
    """Names of the pictures that are not there, or drawn from other data, sorted."""
    return sorted(name for name, chart in charts.items() if digest_of(folder / name) != chart.digest)


def write(charts: Mapping[str, Picture], folder: Path) -> list[str]:
    """Draw what is stale, and return the names.

    Raises:
        BenchError: the folder cannot be written.
    """
    stale = check(charts, folder)
    for name in stale:
        files.replace(folder / name, charts[name].png())
    return stale


def digest_of(path: Path) -> str | None:
    """The digest in a picture; None where the file is no PNG of ours."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            return str(image.info[KEY]) if KEY in image.info else None
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError):
        return None


# ------------------------------------------------------------------------------------------------------------- drawing


def draw(chart: Chart) -> bytes:
    """A PNG: the same bytes for the same chart on the same machine."""
    import matplotlib

    from bench.plots import STYLE

    with matplotlib.rc_context(STYLE):
        return stamped(figure(chart), chart.digest)


def stamped(made: Figure, digest: str) -> bytes:
    """A figure as a small PNG that holds a digest."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    drawn, small = io.BytesIO(), io.BytesIO()
    made.savefig(drawn, format="png")
    text = PngInfo()
    text.add_text(KEY, digest)
    with Image.open(drawn) as image:  # lines and text need few colours: a third of the bytes
        image.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(small, "png", pnginfo=text, optimize=True)
    return small.getvalue()


def figure(chart: Chart) -> Figure:
    """Panels of as many groups of lines side by side, their groups below; other panels below one another, over all."""
    from bench.plots import blank

    count = max(1, math.ceil(len(chart.names) / GROUP))
    size = math.ceil(len(chart.names) / count)  # 14 lines are 5, 5 and 4, and 6 are 3 and 3
    groups = [chart.names[i * size : (i + 1) * size] for i in range(count)]
    columns = min(COLUMNS, count if len(chart.panels) == 1 else len(chart.panels))
    places: list[tuple[int, int, int, Panel, list[Sequence[str]]]] = []
    rows = 0
    for row in _rows(chart.panels):
        shown = [[group for group in groups if _has(panel, group)] or [groups[0]] for panel in row]
        if len(row) > 1 and len({*map(len, shown)}) == 1:
            places += [(rows, column, 1, *each) for column, each in enumerate(zip(row, shown, strict=True))]
            rows += len(shown[0])
            continue
        for panel, own in zip(row, shown, strict=True):
            places.append((rows, 0, columns, panel, own))
            rows += math.ceil(len(own) / columns)
    inches = (max(SIZE[0] * columns, 7.0), SIZE[1] * rows + 1.0)
    made = blank(inches, chart.title, 14)
    made.supxlabel("\n".join(textwrap.wrap(chart.note, int(12.5 * inches[0]))), fontsize=10, x=0.01, ha="left",
                   color="0.25")  # fmt: skip
    grid = made.add_gridspec(rows, columns)
    for top, left, across, panel, own in places:
        for i, group in enumerate(own):
            axes = made.add_subplot(grid[top + i // across, left + i % across])
            _panel(axes, panel, group)
            axes.set_title(textwrap.fill(panel.title, TITLE) if i < across else "")
            axes.set_xlabel(panel.x_label if i + across >= len(own) else "")
    return made


def _has(panel: Panel, names: Sequence[str]) -> bool:
    return any(line.name in names for line in panel.lines)


def _rows(panels: Sequence[Panel]) -> list[Sequence[Panel]]:
    return [panels[i : i + COLUMNS] for i in range(0, len(panels), COLUMNS)]


def _panel(axes: Axes, panel: Panel, group: Sequence[str]) -> None:
    from bench.plots import COLOURS, DASHES, GREY, MARKERS

    labels: list[tuple[str, str, float, float]] = []
    for line in panel.lines:
        if line.name not in group:
            for x, y in [(line.x, line.y)] if any(v is not None for v in line.y) else line.seeds:
                axes.plot(x, _gaps(y), color="0.82", lw=1, zorder=1)
    for mark in panel.marks:
        x, y = mark.x, _gaps(mark.y)
        if mark.kind == "bar":
            axes.plot(x, y, color="black", lw=3, solid_capstyle="butt", zorder=4)
        elif mark.kind == "threshold":
            axes.plot(x, y, color="black", lw=1.2, ls=(0, (6, 3)), zorder=1.5)
        else:
            axes.plot(x, y, color=GREY, lw=1.6, ls=(0, (1, 1.5)), zorder=1.5)
        if mark.name:
            labels.append((mark.name, GREY if mark.kind == "line" else "black", *_end(x, mark.y)))
    for line in panel.lines:
        if line.name in group:
            i = group.index(line.name)
            _line(axes, line, COLOURS[(0, 1, 2, 7, 3)[i]], MARKERS[i], DASHES[i])
            ends = [_end(line.x, line.y)] if any(v is not None for v in line.y) else [_end(*s) for s in line.seeds]
            labels += [(line.name, COLOURS[(0, 1, 2, 7, 3)[i]], *ends[0])] if ends else []
    _axes(axes, panel)
    _name(axes, [label for label in labels if label[2] == label[2]])


def _line(axes: Axes, line: Line, colour: str, marker: str, dash: Any) -> None:
    for (x, y), broken in zip(line.seeds, line.broken or [False] * len(line.seeds), strict=True):
        axes.plot(x, _gaps(y), color=colour, lw=0.8, alpha=0.5, zorder=2)
        if broken and len(x):
            axes.plot(x[-1:], _gaps(y[-1:]), color=colour, marker="x", ms=9, mew=2.5, zorder=6, clip_on=False)
    if line.low:
        axes.fill_between(line.x, _gaps(line.low), _gaps(line.high), color=colour, alpha=0.13, lw=0, zorder=1.2)
    every = max(1, len(line.x) // 8)
    axes.plot(line.x, _gaps(line.y), color=colour, ls=dash, marker=marker, lw=2.2, markevery=every, ms=6, zorder=3,
              mec="white", mew=0.7)  # fmt: skip


def _gaps(values: Sequence[float | None]) -> list[float]:
    return [math.nan if v is None else v for v in values]


def _end(x: Sequence[float], y: Sequence[float | None]) -> tuple[float, float]:
    """The last point that is there."""
    there = [(a, b) for a, b in zip(x, y, strict=True) if b is not None]
    return there[-1] if there else (math.nan, math.nan)


def _axes(axes: Axes, panel: Panel) -> None:
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axes.set_ylabel(panel.y_label)
    if panel.ticks:
        axes.set_xticks([place for place, _ in panel.ticks], [text for _, text in panel.ticks])
    if panel.percent:
        axes.set_ylim(0, 102)
        axes.set_yticks(range(0, 101, 20))
    elif panel.log:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.margins(x=0.02)


def _name(axes: Axes, labels: list[tuple[str, str, float, float]]) -> None:
    """Names at the ends of lines, moved apart where they would overlap, with a thin line back to the end."""
    axes.autoscale_view()
    to_axes = axes.transScale + axes.transLimits
    placed = []
    for name, colour, x, y in labels:
        text = "\n".join(textwrap.wrap(name, WRAP, subsequent_indent=" ", break_long_words=False))
        at = to_axes.transform((x, y))
        placed.append((float(at[1]), text, colour, (x, y)))
    placed.sort(key=lambda p: (p[0], p[1]))
    heights = [LABEL * (1 + text.count("\n")) for _, text, _, _ in placed]
    for place, (_, text, colour, end) in zip(spaced([p[0] for p in placed], heights), placed, strict=True):
        axes.annotate(text, end, (1.035, place), "data", "axes fraction", color=colour, fontsize=9.5, va="center",
                      ha="left", linespacing=1.0, annotation_clip=False, zorder=5,
                      arrowprops={"arrowstyle": "-", "color": colour, "lw": 0.7, "shrinkA": 0, "shrinkB": 2,
                                  "alpha": 0.6, "relpos": (0, 0.5)})  # fmt: skip


def spaced(wanted: Sequence[float], heights: Sequence[float]) -> list[float]:
    """Middles as near to the wanted ones (ascending) as is possible without overlap, within 0..1 if there is room."""
    blocks: list[tuple[list[int], float, float]] = []  # members, middle of the block, height
    for i, (middle, height) in enumerate(zip(wanted, heights, strict=True)):
        block = ([i], _inside(middle, height), height)
        while blocks and blocks[-1][1] + blocks[-1][2] / 2 > block[1] - block[2] / 2:
            members, tall = blocks[-1][0] + block[0], blocks.pop()[2] + block[2]
            below, best = 0.0, []
            for k in members:
                best.append(wanted[k] - below - heights[k] / 2)
                below += heights[k]
            block = (members, _inside(sum(best) / len(best) + tall / 2, tall), tall)
        blocks.append(block)
    found = [0.0] * len(wanted)
    for members, middle, tall in blocks:
        low = middle - tall / 2
        for k in members:
            found[k] = low + heights[k] / 2
            low += heights[k]
    return found


def _inside(middle: float, height: float) -> float:
    return min(max(middle, height / 2), max(1 - height / 2, height / 2))
