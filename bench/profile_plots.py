"""Two kinds of pictures of a device's profiles: how far ops are from the roofs, and how time and memory grow.

Style and colours are those of `bench.plots`; the same profiles give the same bytes.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from bench import files, profiles, registry
from bench.plots import COLOURS, DASHES, GREY, MARKERS, STYLE, blank, png
from bench.profile_views import PASSES, amount
from bench.slopes import slope

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PANEL = (3.7, 3.0)
COLUMNS = 4
REACH = 64
"""A slope is fitted over the largest size and those down to this part of it."""
DECADE = 10**0.75
"""A panel spans at least this factor either way."""
LOOKS = {"forward": "-", "both": DASHES[2]}


class Line(NamedTuple):
    """One variant and pass of an op as it grows."""

    variant: str
    each: str
    sizes: list[int]
    values: list[float]


def save(folder: Path, made: Sequence[dict[str, Any]]) -> list[Path]:
    """Write roofline.png, scaling-time.png and scaling-memory.png of the profiles of one device and dtype."""
    if not made:
        return []
    suffix = "" if made[0]["dtype"] == "float32" else f"-{made[0]['dtype']}"
    pictures = {"roofline": roofline(made)}
    if any(grown_lines(p, "time") for p in made):
        pictures |= {"scaling-time": scaling(made, "time"), "scaling-memory": scaling(made, "memory")}
    paths = []
    for name, content in pictures.items():
        paths.append(folder / f"{name}{suffix}.png")
        files.replace(paths[-1], content)
    return paths


# ------------------------------------------------------------------------------------------------------------- roofline


def roofline(made: Sequence[dict[str, Any]]) -> bytes:
    """Least operations a byte against operations a second; a mark an op and size, of its fastest variant, hot."""
    with matplotlib.rc_context(STYLE):
        figure = blank((12.5, 7.6), f"Roofline: {made[0]['device']['name']}, {made[0]['dtype']}")
        axes = figure.add_subplot()
        reach = [x for p in made for _, x, _, _ in roof_marks(p)]
        handles = _roofs(axes, made, (min(reach) / 2, 2 * max(reach)))
        for i, p in enumerate(sorted(made, key=lambda p: p["op"])):
            marks = list(roof_marks(p))
            colour, marker = COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]
            axes.plot([m[1] for m in marks], [m[2] for m in marks], color=colour, lw=1, alpha=0.5, zorder=2)
            for row, x, y, size in marks:
                resident = row["footprint"] <= p["machine"]["cache"]
                axes.plot(x, y, marker=marker, color=colour, ms=5 + size, mew=1.3, ls="", zorder=3,
                          mfc="white" if resident else colour)  # fmt: skip
            handles.append(Line2D([], [], color=colour, marker=marker, ls="", ms=8, label=p["op"]))
        handles += [Line2D([], [], color=GREY, marker="o", ls="", mfc=fill, ms=8, label=label)
                    for fill, label in (("white", "fits into the cache"), (GREY, "does not"))]  # fmt: skip
        axes.set(xscale="log", yscale="log", xlabel="least operations a byte (FLOP / B)", ylabel="GFLOP/s")
        _plain(axes.xaxis)
        _plain(axes.yaxis)
        figure.legend(handles=handles, loc="outside right center", title="forward, hot; the larger,\nthe more slots")
        return png(figure)


def _roofs(axes: Axes, made: Sequence[dict[str, Any]], ends: tuple[float, float]) -> list[Line2D]:
    """The roofs of the newest profile; those of others that differ by more than a tenth are thin. Their legend."""
    newest = max(made, key=lambda p: p["finished"])
    x = np.geomspace(*ends, 200)
    drawn: list[tuple[float, float]] = []
    for p in [newest, *made]:
        bandwidth, compute = p["roofs"]["bandwidth"], p["roofs"]["compute"]
        if any(abs(bandwidth / b - 1) < 0.1 and abs(compute / c - 1) < 0.1 for b, c in drawn):
            continue
        style: dict[str, Any] = {"color": GREY, "lw": 1, "ls": DASHES[1]} if drawn else {"color": "black", "lw": 2.5}
        axes.plot(x, np.minimum(x * bandwidth, compute) / 1e9, zorder=1, **style)
        drawn.append((bandwidth, compute))
    bandwidth, compute = drawn[0]
    legend = [Line2D([], [], color="black", lw=2.5, label="roofs"),
              Line2D([], [], color=GREY, lw=1, ls=DASHES[1], label="of another run")][: len(drawn)]  # fmt: skip
    if ends[1] * bandwidth > compute:
        axes.text(ends[1], 1.1 * compute / 1e9, f"matrix product, {profiles.giga(compute)} GFLOP/s", ha="right",
                  va="bottom")  # fmt: skip
    axes.text(ends[0], 5 * ends[0] * bandwidth / 1e9, f"copy, {profiles.giga(bandwidth)} GB/s", ha="left",
              va="bottom")  # fmt: skip
    return legend


def roof_marks(p: dict[str, Any]) -> Iterator[tuple[dict[str, Any], float, float, float]]:
    """Row, FLOP / B, GFLOP/s and size of mark, for each size in order."""
    fastest: dict[str, dict[str, Any]] = {}
    for row in p["rows"]:
        key = profiles.sizes_text(row["sizes"])
        if row["pass"] == "forward" and row["cache"] == "hot":
            best = fastest.setdefault(key, row)
            if row["seconds"]["median"] < best["seconds"]["median"]:
                fastest[key] = row
    for i, row in enumerate(sorted(fastest.values(), key=lambda row: row["footprint"])):
        work = row["work"]
        flops = max(1, work["products"] + work["others"])
        yield row, flops / (work["read"] + work["written"]), flops / row["seconds"]["median"] / 1e9, min(6.0, 1.2 * i)


# -------------------------------------------------------------------------------------------------------------- scaling


def scaling(made: Sequence[dict[str, Any]], what: str) -> bytes:
    """A panel an op: time of a hot call, or bytes allocated at its peak, against the size that grows."""
    shown = [p for p in sorted(made, key=lambda p: p["op"]) if grown_lines(p, what)]
    names = sorted({line.variant for p in shown for line in grown_lines(p, what)}, key=lambda n: (n != "eager", n))
    rows = math.ceil(len(shown) / COLUMNS)
    titles = {"time": "Time of a hot call", "memory": "Bytes allocated at the peak of a call"}
    with matplotlib.rc_context(STYLE | {"font.size": 10}):
        figure = blank((PANEL[0] * min(COLUMNS, max(2, len(shown))), PANEL[1] * rows + 1.3),
                         f"{titles[what]}: {made[0]['device']['name']}, {made[0]['dtype']}")  # fmt: skip
        for i, p in enumerate(shown):
            axes = figure.add_subplot(rows, min(COLUMNS, len(shown)), i + 1)
            _panel(axes, p, what, names)
        handles = [Line2D([], [], color=COLOURS[i % len(COLOURS)], marker=MARKERS[i % len(MARKERS)], ls="", label=name)
                   for i, name in enumerate(names)]  # fmt: skip
        handles += [Line2D([], [], color=GREY, ls=ls, label=PASSES[each]) for each, ls in LOOKS.items()
                    if any(line.each == each for p in shown for line in grown_lines(p, what))]  # fmt: skip
        note = (
            f"in each panel: exponent of growth from 1/{REACH} of the largest size on; ±: 95 %, of three sizes or more"
        )
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles),
                      title=textwrap.fill(note, int(11 * figure.get_size_inches()[0])))  # fmt: skip
        return png(figure)


def _panel(axes: Axes, p: dict[str, Any], what: str, names: Sequence[str]) -> None:
    lines, labels = grown_lines(p, what), []
    for line in lines:
        i = names.index(line.variant)
        axes.plot(line.sizes, line.values, color=COLOURS[i % len(COLOURS)], marker=MARKERS[i % len(MARKERS)], ms=5,
                  ls=LOOKS[line.each])  # fmt: skip
        if text := slope(line.sizes, line.values, REACH).text:
            mark = {"forward": "", "both": ", f + b"}[line.each]
            labels.append(f"{line.variant}{mark}: {text}")
    axes.set(xscale="log", yscale="log", xlabel=swept_size(p), title=p["op"])
    axes.set_xticks(sorted({size for line in lines for size in line.sizes}))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: profiles.count(round(value))))
    axes.xaxis.set_minor_formatter(NullFormatter())
    unit = "s" if what == "time" else "B"
    low, high = axes.get_ylim()
    middle = math.sqrt(low * high)
    low, high = min(low, middle / DECADE), max(high, middle * DECADE)  # what is flat looks flat
    axes.yaxis.set_major_locator(LogLocator(base=10 if what == "time" else 2, numticks=6))
    if what == "memory":  # tens of bytes lie between round numbers of KiB
        axes.yaxis.minorticks_off()
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _tick(value, unit)))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_ylim(low, high * (high / low) ** (0.1 + 0.11 * len(labels)))  # room for the text
    axes.text(0.03, 0.97, "\n".join(labels), transform=axes.transAxes, va="top", fontsize=8.5)


def grown_lines(p: dict[str, Any], what: str) -> list[Line]:
    """Lines of at least two sizes, the other sizes being those with the longest sweep."""
    swept = swept_size(p)
    found: dict[tuple[str, str, str], dict[int, float]] = {}
    for row in p["rows"]:
        if row["cache"] != "hot" or swept not in row["sizes"]:
            continue
        rest = profiles.sizes_text({k: v for k, v in row["sizes"].items() if k != swept})
        line = found.setdefault((rest, profiles.variant_text(row), row["pass"]), {})
        value = row["seconds"]["median"] if what == "time" else row["peak"]
        if value > 0:
            line[row["sizes"][swept]] = value
    counts: dict[str, int] = {}
    for (rest, *_), line in found.items():
        counts[rest] = counts.get(rest, 0) + len(line)
    longest = max(counts, key=counts.__getitem__, default="")
    return [Line(variant, each, sorted(line), [line[s] for s in sorted(line)])
            for (rest, variant, each), line in found.items() if rest == longest and len(line) > 1]  # fmt: skip


def swept_size(p: dict[str, Any]) -> str:
    """Name of the size in which an op grows."""
    op = registry.OPS.entries.get(p["op"])
    return op.swept if op else "slots"


def _tick(value: float, unit: str) -> str:
    if unit == "B":
        return amount(value, "B")
    for name, scale in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if value >= 0.999 * scale:
            return f"{value / scale:g} {name}"
    return f"{value * 1e9:g} ns"


def _plain(axis: Any) -> None:
    axis.set_major_locator(LogLocator(base=10))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
