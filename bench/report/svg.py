"""Plots as SVG: what a page shows, prints, and reads out is one drawing, made here.

There is no second drawing by a chart library in the browser: every place, tick and word is computed here, the page's
script finds the point nearest to the pointer and shows the words that stand with it. So the page is the same without
JavaScript and on paper, the same bytes for the same records, weighs kilobytes, and takes its colours from the style
sheet, light or dark. Ticks are matplotlib's.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from bench.charts import Mark, spaced

WIDTH, HEIGHT = 480, 300
LEFT, RIGHT, TOP, BOTTOM = 62, 16, 14, 46
"""Room around the axes, in units of the drawing."""
COLOURS, DASHES, MARKERS = 8, 5, 8
"""So many of each are in the style sheet and the page."""
MARKED = 10
"""At most so many points of a line bear its marker."""
LINE, LETTER = 13, 7
"""Height of a line of text, and width of a letter, about."""
SPAN = 1e30
"""A logarithmic axis ends this far below its top; what is lower is left out, as zero is."""
MOST, LEAST, ALL = 80, 12, 5000
"""Longer lines are thinned to MOST points; of single seeds further, to no less than LEAST, if all had over ALL."""


class Look(NamedTuple):
    """How a series is drawn: numbers of a colour, a dash and a marker. Colour -1 is grey."""

    colour: int
    dash: int
    marker: int


class Point(NamedTuple):
    """A place and what is told of it. where: the place on the x axis in words, told: the value in words."""

    x: float
    y: float
    where: str
    told: str


@dataclass(frozen=True)
class Series:
    """One method. low, high: its interval at each point, if it has one. method: what filters know it by.

    seeds: thin lines, each with a name; broken: the names of those that end in a cross. text: a few words beside the
    name in the legend. joined: a line, else markers alone. labelled: its name stands at its last point.
    """

    name: str
    method: str
    look: Look
    points: Sequence[Point]
    low: Sequence[float | None] = ()
    high: Sequence[float | None] = ()
    seeds: Sequence[tuple[str, Sequence[Point]]] = ()
    broken: frozenset[str] = frozenset()
    text: str = ""
    joined: bool = True
    labelled: bool = False


@dataclass(frozen=True)
class Plot:
    """Series over one pair of axes. ticks: places on the x axis and their texts, where they are no plain numbers."""

    title: str
    x_label: str
    y_label: str
    series: Sequence[Series]
    marks: Sequence[Mark] = ()
    ticks: Sequence[tuple[float, str]] = ()
    x_log: bool = False
    y_log: bool = False
    percent: bool = False
    note: str = ""


class Tick(NamedTuple):
    """A tick and its text; at: units of the drawing."""

    at: float
    text: str


class Label(NamedTuple):
    """A name in a plot: its place, on which side of that it begins, and as much of the text as there is room for."""

    x: float
    y: float
    anchor: str
    text: str

    @property
    def ends(self) -> tuple[float, float]:
        """From where to where on the x axis, about."""
        wide = LETTER * len(self.text)
        return (self.x - wide, self.x) if self.anchor == "end" else (self.x, self.x + wide)

    def touches(self, other: Label) -> bool:
        """Whether two would be written over each other."""
        (a, b), (c, d) = self.ends, other.ends
        return abs(self.y - other.y) < LINE - 0.5 and a < d and c < b


@dataclass
class Drawn:
    """A series as paths. places: of its points [x, y, where, told]; seeds: (path, cross or None, name, places)."""

    series: Series
    path: str = ""
    band: str = ""
    markers: list[tuple[float, float]] = field(default_factory=list)
    whiskers: str = ""
    places: list[tuple[float, float, str, str]] = field(default_factory=list)
    seeds: list[tuple[str, tuple[float, float] | None, str, list[tuple[float, float, str, str]]]] = field(
        default_factory=list
    )
    label: Label | None = None


class Reference(NamedTuple):
    """A mark as a path, and where its name stands."""

    kind: str
    name: str
    path: str
    x: float
    y: float


@dataclass(frozen=True)
class Picture:
    """A plot laid out: all that a template needs."""

    plot: Plot
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    drawn: Sequence[Drawn]
    references: Sequence[Reference]
    width: int = WIDTH
    height: int = HEIGHT
    box: tuple[int, int, int, int] = (LEFT, TOP, WIDTH - RIGHT, HEIGHT - BOTTOM)

    @property
    def summary(self) -> str:
        """What a screen reader says first."""
        names = ", ".join(d.series.name for d in self.drawn)
        return f"{self.plot.title}: {self.plot.y_label} against {self.plot.x_label}; {names}"

    @property
    def hover(self) -> dict[str, list[object]]:
        """What the script needs. grids: [x …], [where …] of lines; lines: series, seed or "", grid, [y …], told.

        told is one text, a line a point.
        """
        grids: dict[tuple[tuple[float, ...], tuple[str, ...]], int] = {}
        lines: list[object] = []
        for i, each in enumerate(self.drawn):
            for name, places in [("", each.places), *((name, places) for _, _, name, places in each.seeds)]:
                if places:
                    xs, ys, where, told = zip(*places, strict=True)
                    lines.append([i, name, grids.setdefault((xs, where), len(grids)), ys, "\n".join(told)])
        return {"grids": list(grids), "lines": lines}


class Scale(NamedTuple):
    """A linear or logarithmic axis from low..high to start..end."""

    low: float
    high: float
    start: float
    end: float
    log: bool

    def shows(self, value: float) -> bool:
        """Whether a value has a place: on a logarithmic axis, what is too low has none."""
        return not self.log or value >= self.low

    def __call__(self, value: float) -> float:
        """The place of a value, to a tenth of a unit."""
        a, b, v = (math.log(x) for x in (self.low, self.high, value)) if self.log else (self.low, self.high, value)
        return round(self.start + (self.end - self.start) * (v - a) / (b - a), 1)


def layout(plot: Plot) -> Picture:
    """Lay a plot out. What cannot be on a logarithmic axis is left out."""
    xs = [p.x for s in plot.series for p in _all(s) if math.isfinite(p.y)] + [x for m in plot.marks for x in m.x]
    ys = [p.y for s in plot.series for p in _all(s)]
    # A band over three seeds can span decades: it is cut where the lines end. A whisker is shown whole.
    ys += [v for s in plot.series if not s.joined for v in (*s.low, *s.high) if v is not None]
    ys += [v for m in plot.marks for v in m.y if v is not None]
    x = _scale(xs, LEFT, WIDTH - RIGHT, plot.x_log, tight=any(s.joined for s in plot.series) and not plot.ticks)
    y = _scale([0.0, 100.0] if plot.percent else ys, HEIGHT - BOTTOM, TOP, plot.y_log, zero=not plot.percent)
    x_ticks = [Tick(x(v), text) for v, text in plot.ticks] or ticks(x, 6)
    each = max(LEAST, min(MOST, ALL // max(1, sum(len(s.seeds) for s in plot.series))))
    references = [r for m in plot.marks if (r := _reference(m, x, y))]
    drawn = [_drawn(s, x, y, each) for s in plot.series]
    _labels_apart(drawn)
    return Picture(plot, _thinned(x_ticks), ticks(y, 6), drawn, _apart(references))


def _all(series: Series) -> Iterable[Point]:
    yield from series.points
    for _, points in series.seeds:
        yield from points


def _scale(values: Sequence[float], start: float, end: float, log: bool, tight: bool = False,
           zero: bool = False) -> Scale:  # fmt: skip
    known = [v for v in values if math.isfinite(v) and (v > 0 or not log)] or [1.0]
    low, high = min(known), max(known)
    if log:
        low = max(low, high / SPAN)
        low, high = (low / 1.25, high * 1.25) if not tight or low == high else (low, high)
        return Scale(low, high, start, end, True)
    if zero and 0 < low < 0.5 * high:
        low = 0.0
    room = (high - low or abs(high) or 1.0) * (0.0 if tight and high > low else 0.04)
    if low - room == high + room:  # of a number too small for a part of it
        room = 0.04
    return Scale(low if zero and low == 0 else low - room, high + room, start, end, False)


def ticks(scale: Scale, most: int) -> list[Tick]:
    """Ticks of an axis, at plain numbers."""
    from matplotlib.ticker import LogLocator, MaxNLocator

    if scale.log:
        decades = math.log10(scale.high / scale.low)
        subs = (1.0,) if decades > 2.5 else (1.0, 2.0, 5.0) if decades > 0.7 else tuple(range(1, 10))
        values = LogLocator(subs=subs, numticks=20).tick_values(scale.low, scale.high)
        step = max(1, math.ceil(decades / most)) if decades > 2.5 else 1
        values = [v for v in values if round(math.log10(v)) % step == 0] if step > 1 else values
    else:
        values = MaxNLocator(nbins=most, steps=[1, 2, 2.5, 5, 10]).tick_values(scale.low, scale.high)
    inside = [float(v) for v in values if scale.low * (1 - 1e-9) <= v <= scale.high * (1 + 1e-9)]
    return [Tick(scale(v), plain(v)) for v in inside]


def _thinned(found: list[Tick]) -> list[Tick]:
    """Ticks without those whose text would touch the text before."""
    kept: list[Tick] = []
    end = -math.inf
    for tick in found:
        first, *more = tick.text.split("\n")
        half = max(4.1 * len(first), *(3.2 * len(text) for text in more), 0.0)
        if tick.at - half >= end:
            kept.append(tick)
            end = tick.at + half + 4
    return kept


def plain(value: float) -> str:
    """A number as an axis has it: 5,000 and 1.5M, 0.01 and 1e-05, 1e+15."""
    if 1e6 <= abs(value) < 1e15:
        for unit, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
            if abs(value) >= unit:
                return f"{value / unit:g}{letter}"
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e15 else f"{value:g}"


def _drawn(series: Series, x: Scale, y: Scale, most: int) -> Drawn:
    made = Drawn(series)
    made.places = _places(series.points, x, y)
    if series.joined:
        made.path = _path(made.places)
        every = max(1, math.ceil(len(made.places) / MARKED))
        # From the end backwards: the last point is the one that counts.
        made.markers = [(p[0], p[1]) for p in made.places[::-1][::every]]
    else:
        made.markers = [(p[0], p[1]) for p in made.places]
    if series.low:
        ends = [(p.x, low, high) for p, low, high in zip(series.points, series.low, series.high, strict=True)
                if low is not None and high is not None]  # fmt: skip
        lows = [(x(a), y(min(max(low, y.low), y.high))) for a, low, _ in ends]
        highs = [(x(a), y(min(max(high, y.low), y.high))) for a, _, high in ends]
        if series.joined and len(ends) > 1:
            made.band = _path([*highs, *lows[::-1]]) + "Z"
        elif not series.joined:
            made.whiskers = "".join(f"M{a} {b}V{d}" for (a, b), (_, d) in zip(lows, highs, strict=True))
    for name, points in series.seeds:
        places = _places(points, x, y, most)
        cross = (places[-1][0], places[-1][1]) if places and name in series.broken else None
        made.seeds.append((_path(places), cross, name, places))
    if series.labelled and made.places:
        made.label = _label(series.name, *made.places[-1][:2])
    return made


def _label(name: str, x: float, y: float) -> Label:
    """A name beside a point: right of it, or left where there is not the room but more of it."""
    left, right = x - 9 - LEFT, WIDTH - RIGHT - x - 9
    at_right = LETTER * len(name) > right and left > right
    most = max(1, int(max(left if at_right else right, 0) / LETTER))
    text = name if len(name) <= most else name[: most - 1].rstrip() + "…"
    return Label(x - 9, y - 6, "end", text) if at_right else Label(x + 9, y - 6, "start", text)


def _labels_apart(drawn: Sequence[Drawn]) -> None:
    """Move names down until none is written over another."""
    placed: list[Label] = []
    for each in sorted((d for d in drawn if d.label), key=lambda d: d.label.y if d.label else 0):
        label = each.label
        assert label
        while under := [other for other in placed if label.touches(other)]:
            label = label._replace(y=round(max(other.y for other in under) + LINE, 1))
        placed.append(label)
        each.label = label


def _places(points: Sequence[Point], x: Scale, y: Scale, most: int = MOST) -> list[tuple[float, float, str, str]]:
    every = max(1, math.ceil(len(points) / most))
    kept = points[::-1][::every][::-1]
    return [(x(p.x), y(p.y), p.where, p.told) for p in kept
            if math.isfinite(p.y) and x.shows(p.x) and y.shows(p.y)]  # fmt: skip


def _path(places: Sequence[tuple[float, ...]] | Sequence[tuple[float, float, str, str]]) -> str:
    return "M" + "L".join(f"{p[0]:g} {p[1]:g}" for p in places) if places else ""


def _reference(mark: Mark, x: Scale, y: Scale) -> Reference | None:
    points = [(x(a), y(b)) for a, b in zip(mark.x, mark.y, strict=True)
              if b is not None and x.shows(a) and y.shows(b)]  # fmt: skip
    points = [(min(max(a, LEFT), WIDTH - RIGHT), b) for a, b in points]
    if not points:
        return None
    return Reference(mark.kind, mark.name, _path(points), points[-1][0], points[-1][1] - 5)


def _apart(references: Sequence[Reference]) -> list[Reference]:
    """Names of marks above their ends, moved apart where they would overlap."""
    named = sorted((r for r in references if r.name), key=lambda r: r.y)
    middles = spaced([r.y / HEIGHT for r in named], [LINE / HEIGHT] * len(named))
    moved = {id(r): HEIGHT * middle for r, middle in zip(named, middles, strict=True)}
    return [r._replace(y=round(moved.get(id(r), r.y), 1)) for r in references]
