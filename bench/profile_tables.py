"""A summary of all profiles as one table: each op at its largest size, by its fastest variant."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from bench import cells, profile_plots, profiles
from bench.profile_views import PASSES, duration, share_text
from bench.slopes import slope

Profiles = Mapping[tuple[str, str], Sequence[dict[str, Any]]]
"""By device and dtype."""
NAME = "profiles.md"
LEGEND = (
    "Each op at the largest size that was measured, hot, by its fastest variant; every size, cold calls and how to "
    "read them: [profiles](../profiles/README.md). GB/s and GFLOP/s count the least that an op must do. % of roof: the "
    "part of the time that what binds accounts for, by roofs measured in the same process. × eager: how many times the "
    "time of the plain PyTorch it takes, less is better. Exponent: of growth with the size named first, ± half its "
    "95 % interval."
)


def load(results: Path, dirty: bool = False) -> Profiles:
    """The profiles of a results folder that have rows; dirty: also those made by code that was not committed.

    Raises:
        BenchError: a file that is not a whole profile.
    """
    found = {
        where: [p for p in made if p["rows"] and (dirty or not p["env"]["dirty"])]
        for where, made in profiles.by_device(results).items()
    }
    return {where: made for where, made in found.items() if made}


def render(loaded: Profiles) -> dict[str, str]:
    """The table by its file's name; none where there are no profiles."""
    if not loaded:
        return {}
    parts = ["# Memory operations", LEGEND]
    for (device, dtype), made in loaded.items():
        newest = max(made, key=lambda p: p["finished"])
        roofs, env = newest["roofs"], newest["env"]
        parts += [
            f"## {cells.safe(device)}, {dtype}",
            f"{env['threads']} thread{'s' * (env['threads'] > 1)}, torch {env['torch']}, "
            f"{newest['finished'].partition('T')[0]}: copy {profiles.giga(roofs['bandwidth'])} GB/s, matrix product "
            f"{profiles.giga(roofs['compute'])} GFLOP/s, empty launch {duration(roofs['launch'])}.",
            _table(made),
        ]
    return {NAME: "\n\n".join(parts) + "\n"}


def _table(made: Sequence[dict[str, Any]]) -> str:
    rows = [row for p in sorted(made, key=lambda p: p["op"]) for row in _rows(p)]
    return cells.table(pd.DataFrame(rows), ("op", "size", "pass", "variant", "verdict"))


def _rows(p: dict[str, Any]) -> Iterator[dict[str, str]]:
    swept = profile_plots.swept_size(p)
    for each, words in PASSES.items():
        hot = [row for row in p["rows"] if row["pass"] == each and row["cache"] == "hot"]
        if not hot:
            continue
        largest = max(hot, key=lambda row: (row["sizes"].get(swept, 0), row["footprint"]))["sizes"]
        there = {profiles.variant_text(row): row for row in hot if row["sizes"] == largest}
        variant, row = min(there.items(), key=lambda item: item[1]["seconds"]["median"])
        eager, median = there.get("eager, graph" if row["replay"] else "eager"), row["seconds"]["median"]
        line = next((g for g in profile_plots.grown_lines(p, "time") if (g.variant, g.each) == (variant, each)), None)
        yield {
            "op": p["op"],
            "size": profiles.sizes_text(largest),
            "pass": words,
            "variant": variant,
            "time": duration(median),
            **profiles.rates(row),
            "verdict": row["verdict"],
            "% of roof": share_text(row).replace("·", ""),
            "× eager": f"{median / eager['seconds']['median']:.2f}" if eager else "",
            "exponent": slope(line.sizes, line.values, profile_plots.REACH).text if line else "",
        }
