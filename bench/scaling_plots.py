"""How time and memory grow, as pictures: both axes logarithmic, a panel a group of series in `bench.benchmarks`.

Style and colours are those of `bench.plots`; the same records give the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.benchmarks import UNITS, Entry, Record, along, groups, series
from bench.charts import Picture, stamped
from bench.config import digest
from bench.plots import COLOURS, DASHES, GREY, MARKERS, STYLE, blank
from bench.slopes import slope

if TYPE_CHECKING:
    from matplotlib.axes import Axes

EDITION = 1
"""Raise it when the picture is to be drawn anew though its data are the same."""
NAME = "scaling.png"
PANEL = (6.6, 5.4)
"""Inches."""
COLUMNS = 2
LABELS = {"s": "time, ms", "bytes": "peak memory, MiB", "bytes a step": "memory kept a step, KiB"}


@dataclass(frozen=True)
class Scaling:
    """One picture, a panel a group: its series, with their slopes below it. A name looks the same in each panel."""

    panels: Sequence[tuple[str, list[Entry]]]

    @property
    def digest(self) -> str:
        """Of all that is drawn."""
        return digest([EDITION, self.panels], 64)

    def png(self) -> bytes:
        """The picture."""
        import matplotlib

        names = list(dict.fromkeys(entry["name"] for _, entries in self.panels for entry in entries))
        columns = min(COLUMNS, len(self.panels))
        rows = math.ceil(len(self.panels) / columns)
        with matplotlib.rc_context(STYLE):
            figure = blank((PANEL[0] * columns, PANEL[1] * rows + 0.6), "How costs grow", 15)
            for i, (group, entries) in enumerate(self.panels):
                _panel(figure.add_subplot(rows, columns, i + 1), group, entries, names)
            return stamped(figure, self.digest)


def pictures(made: Iterable[Record]) -> dict[str, Picture]:
    """The picture of all series of some records, by file name; none where there is no series."""
    panels = [(group, entries) for record in made for group, entries in groups(record).items() if along(entries)]
    return {NAME: Scaling(panels)} if panels else {}


def _panel(axes: Axes, group: str, entries: list[Entry], names: Sequence[str]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    key = along(entries)
    assert key is not None
    unit = entries[0]["unit"]
    shown, scale = UNITS.get(unit, (unit, 1.0))
    ticks = sorted({entry["params"][key] for entry in entries})
    for name, points in series(entries, key).items():
        i = names.index(name)
        x, y = [p["params"][key] for p in points], [scale * p["median"] for p in points]
        fitted = slope(x, y).text
        label = f"{name}: slope {fitted}" if fitted else name
        look: dict[str, Any] = {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)]}
        axes.plot(x, y, ls=DASHES[i % len(DASHES)], label=label, **look)
    low, high = (scale * pick(entry["median"] for entry in entries) for pick in (min, max))
    axes.plot((ticks[0], ticks[-1]), (low, low * ticks[-1] / ticks[0]), color=GREY, lw=1, ls=":", label="slope 1")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_ylim(0.7 * low, 1.5 * high)
    axes.yaxis.set_major_locator(LogLocator(subs=(1,) if high > 30 * low else (1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xticks(ticks, [_binary(tick) if ticks[-1] % 1024 == 0 else f"{tick:,}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel(f"{key} (Ki: 1,024)" if ticks[-1] % 1024 == 0 else key)
    axes.set_ylabel(LABELS.get(unit, shown))
    title, _, sizes = group.partition(": ")
    axes.set_title(title[:1].upper() + title[1:], pad=22)
    axes.text(0, 1.025, sizes, transform=axes.transAxes, fontsize=9.5, color="0.3")
    axes.legend(fontsize=9.5, handlelength=3.2, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.14))


def _binary(number: float) -> str:
    for unit, name in ((2**20, "Mi"), (2**10, "Ki")):
        if number >= unit:
            return f"{number / unit:g} {name}"
    return f"{number:g}"
