"""How fast memory operations are and how costs grow: rooflines of profiles, series of benchmarks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import benchmarks, profile_plots, profiles
from bench.charts import Mark
from bench.errors import BenchError
from bench.profile_views import PASSES, amount, duration
from bench.report.svg import COLOURS, DASHES, MARKERS, Look, Plot, Point, Series
from bench.slopes import slope

LABELS = {"s": "time, ms", "bytes": "peak memory, MiB", "bytes a step": "memory kept a step, KiB"}


@dataclass(frozen=True)
class Device:
    """The profiles of one device and dtype."""

    name: str
    plots: Sequence[Plot]
    rows: Sequence[Sequence[str]]
    """op, size, variant and pass, time, verdict."""


@dataclass(frozen=True)
class Measured:
    """A benchmark: where it was made, plots of its series, rows of all else (group, name, median, ratio)."""

    name: str
    where: str
    plots: Sequence[Plot]
    rows: Sequence[Sequence[str]]


def look(i: int) -> Look:
    """The i-th look of a plot whose lines are no methods."""
    return Look(i % COLOURS, (i // COLOURS + i) % DASHES, (i // COLOURS + i) % MARKERS)


def devices(results: Path, problems: list[str]) -> list[Device]:
    """Profiles by device and dtype; a file that cannot be used is named in problems and left out."""
    return [
        Device(f"{name}, {dtype}", [roofline(made), *scaling(made)], [row for p in made for row in _rows(p)])
        for (name, dtype), made in profiles.by_device(results, problems).items()
        if any(p["rows"] for p in made)
    ]


def roofline(made: Sequence[dict[str, Any]]) -> Plot:
    """As `bench.profile_plots.roofline`: a series an op, a point a size, of its fastest variant, hot."""
    series, reach = [], []
    for i, p in enumerate(sorted(made, key=lambda p: p["op"])):
        points = []
        for row, x, y, _ in profile_plots.roof_marks(p):
            told = (
                f"{y:.3g} GFLOP/s, {profiles.variant_text(row)}, {duration(row['seconds']['median'])}, {row['verdict']}"
            )
            points.append(Point(x, y, profiles.sizes_text(row["sizes"]), told))
        reach += [point.x for point in points]
        series.append(Series(p["op"], "", look(i), points, joined=False))
    newest = max(made, key=lambda p: p["finished"])
    bandwidth, compute = newest["roofs"]["bandwidth"], newest["roofs"]["compute"]
    ends = (min(reach) / 2, 2 * max(max(reach), compute / bandwidth))
    ridge = compute / bandwidth
    # One line and one name: two would end at the same height, one of them on the line.
    name = f"copy, {bandwidth / 1e9:.3g} GB/s; product, {compute / 1e9:.3g} GFLOP/s"
    heights = (ends[0] * bandwidth / 1e9, compute / 1e9, compute / 1e9)
    roofs = [Mark(name, (ends[0], ridge, ends[1]), heights, "roof")]
    note = "Forward, hot; each size of each op by its fastest variant. A mark cannot be above the roofs, but for what fits into the cache."  # noqa: E501
    return Plot(
        "Roofline", "least operations a byte, FLOP/B", "GFLOP/s", series, roofs, x_log=True, y_log=True, note=note
    )


def scaling(made: Sequence[dict[str, Any]]) -> list[Plot]:
    """A plot an op: time of a hot call as it grows, with exponents."""
    found = []
    for p in sorted(made, key=lambda p: p["op"]):
        lines = profile_plots.grown_lines(p, "time")
        if not lines:
            continue
        series = []
        for i, line in enumerate(lines):
            fit = slope(line.sizes, line.values, profile_plots.REACH).text
            exponent = f"exponent {fit}" if fit else ""
            points = [
                Point(s, 1e3 * v, profiles.count(s), duration(v)) for s, v in zip(line.sizes, line.values, strict=True)
            ]
            series.append(Series(f"{line.variant}, {PASSES[line.each]}", "", look(i), points, text=exponent))
        found.append(Plot(p["op"], profile_plots.swept_size(p), "time, ms", series, x_log=True, y_log=True))
    return found


def _rows(p: dict[str, Any]) -> list[list[str]]:
    return [
        [p["op"], profiles.sizes_text(row["sizes"]),
         f"{profiles.variant_text(row)}, {PASSES[row['pass']]}, {row['cache']}",
         duration(row["seconds"]["median"]), amount(row["peak"], "B"), row["verdict"], f"{100 * row['share']:.0f} %"]
        for row in p["rows"]
    ]  # fmt: skip


def measured(results: Path, problems: list[str]) -> list[Measured]:
    """The benchmarks of a results folder, by name; a file that cannot be used is named in problems."""
    try:
        loaded = benchmarks.load(results)
    except BenchError as problem:
        problems.append(str(problem))
        return []
    found = []
    for made in loaded:
        env, plots, rows = made["env"], [], []
        for group, entries in benchmarks.groups(made).items():
            key = benchmarks.along(entries)
            if key:
                plots.append(_series(group, entries, key))
            else:
                rows += _ratios(group, entries)
        where = f"{env['device']}, {env['threads']} thread{'s' * (env['threads'] > 1)}, torch {env['torch']}, "
        found.append(Measured(made["name"], where + made["made"].partition("T")[0], plots, rows))
    return found


def _series(group: str, entries: Sequence[dict[str, Any]], key: str) -> Plot:
    unit = str(entries[0]["unit"])
    shown, scale = benchmarks.UNITS.get(unit, (unit, 1.0))
    series = []
    for i, (name, points) in enumerate(benchmarks.series(entries, key).items()):
        x, y = [p["params"][key] for p in points], [scale * p["median"] for p in points]
        fitted = slope(x, y).text
        told = [Point(a, b, f"{a:,g}", f"{benchmarks.digits(b)} {shown}") for a, b in zip(x, y, strict=True)]
        series.append(Series(name, "", look(i), told, text=fitted and f"slope {fitted}"))
    return Plot(group[:1].upper() + group[1:], key, LABELS.get(unit, shown), series, x_log=True, y_log=True)


def _ratios(group: str, entries: Sequence[dict[str, Any]]) -> list[list[str]]:
    reference = next((e for e in entries if e["reference"]), None)
    rows = []
    for entry in sorted(entries, key=lambda entry: entry["median"]):
        shown, scale = benchmarks.UNITS.get(entry["unit"], (entry["unit"], 1.0))
        ratio = (
            f"{benchmarks.digits(entry['median'] / reference['median'])} × {reference['name']}"
            if reference and reference["median"]
            else ""
        )
        rows.append([group, entry["name"], f"{benchmarks.digits(scale * entry['median'])} {shown}", ratio])
    return rows
