"""Profiles in a terminal: progress, rows, roofs and comparisons. Nothing here measures."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from bench import profiles, registry, views
from bench.errors import BenchError
from bench.roofs import Roofs

ROWS = 150
"""Longer tables are cut; the files hold all rows."""
EVERY_S = 10.0
"""Seconds between lines where the output is no terminal."""
PASSES = {"forward": "forward", "both": "forward + backward"}


def amount(number: float, unit: str) -> str:
    """A number with a unit: 1024's powers for bytes, 1000's for all else."""
    base, letters = (1024.0, ["", "Ki", "Mi", "Gi", "Ti"]) if unit == "B" else (1000.0, ["", "k", "M", "G", "T", "P"])
    power = min(len(letters) - 1, int(math.log(number, base))) if number >= base else 0
    return f"{number / base**power:.3g} {letters[power]}{unit}".rstrip()


def duration(seconds: float) -> str:
    """A time in the unit that suits it."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"


@contextmanager
def progress(plans: Sequence[Any], steps: Callable[[Any], int], out: Console) -> Iterator[Callable[[str], None]]:
    """A function to be called before each measurement: a bar in a terminal, a line now and then elsewhere."""
    total, done, told = sum(map(steps, plans)), 0, 0.0
    if out.is_terminal:
        columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
        with Progress(*columns, console=out, transient=True) as bar:
            task = bar.add_task("", total=total)

            def move(what: str) -> None:
                nonlocal done
                bar.update(task, completed=done, description=what)
                done += 1

            yield move
        return

    def say(what: str) -> None:
        nonlocal done, told
        if time.monotonic() - told > EVERY_S:
            out.print(f"{done}/{total} {what}", soft_wrap=True)
            told = time.monotonic()
        done += 1

    yield say


def rows_table(made: Sequence[dict[str, Any]]) -> Table:
    """One line a row."""
    right = ("time", "±", "n", "GB/s", "GFLOP/s", "op/s", "alloc.", "× cache", "% roof")
    table = views.table("op", "size", "variant", "pass", *right[:-1], "verdict", right[-1], right=right, padding=(0, 0))
    rows = [(p, row) for p in made for row in p["rows"]]
    for p, row in rows[:ROWS]:
        table.add_row(p["op"], *_cells(p, row))
    if len(rows) > ROWS:
        table.caption = f"… and {len(rows) - ROWS} more rows in the files"
    return table


def _cells(p: dict[str, Any], row: dict[str, Any]) -> list[str]:
    median, rates = row["seconds"]["median"], profiles.rates(row)
    return [
        size_text(p, row),
        profiles.variant_text(row),
        ("fwd" if row["pass"] == "forward" else "f+b") + f" {row['cache']}",
        duration(median),
        rates["IQR"],
        str(row["n"]),
        rates["GB/s"],
        rates["GFLOP/s"],
        amount(1 / median, ""),
        amount(row["allocated"], "B"),
        f"{row['footprint'] / p['machine']['cache']:.2g}",
        row["verdict"],
        share_text(row),
    ]


def share_text(row: dict[str, Any]) -> str:
    """% of the roof that binds; nothing where none does for sure."""
    return "·" if row["verdict"] in ("cache-resident", "ambiguous") else f"{100 * row['share']:.0f}"


def size_text(profile: dict[str, Any], row: dict[str, Any]) -> str:
    """The size that grows, and others that are not the op's defaults."""
    op = registry.OPS.entries.get(profile["op"])
    if op is None:
        return profiles.sizes_text(row["sizes"])
    usual = vars(op())
    return profiles.sizes_text({k: v for k, v in row["sizes"].items() if k == op.swept or usual.get(k) != v})


def roofs_text(limits: Roofs, profile: dict[str, Any]) -> str:
    """The roofs and where they were measured."""
    known = profile["roofs"]["theoretical_bandwidth"]
    copy, product = (profiles.giga(each) for each in (limits.bandwidth, limits.compute))
    return (
        f"roofs of {profile['device']['name']}, {profile['env']['threads']} threads, {profile['dtype']}: "
        f"copy {copy} GB/s"
        + (f" (of {profiles.giga(known)} by its clock)" if known else "")
        + f", matrix product {product} GFLOP/s, empty launch {duration(limits.launch)} hot and "
        f"{duration(limits.launch_cold)} cold; cache {amount(limits.cache, 'B')}"
    )


def comparison(old: dict[str, Any], new: dict[str, Any], out: Console) -> dict[str, Any]:
    """Print two profiles of one op row by row; the same as data.

    Raises:
        BenchError: they cannot be compared.
    """
    found, differs = profiles.compare(old, new), profiles.same_machine(old, new)
    if differs:
        out.print(
            f"different machines, so this compares them and not the code: {differs}", style="bold", soft_wrap=True
        )
    numbers = ("old", "new", "new / old")
    title = f"{new['op']}: {_commit(old)} → {_commit(new)}"
    table = views.table("size", "pass", "variant", "cache", *numbers, "is", right=numbers, title=title)
    for row in found:
        table.add_row(*row.key, duration(row.old), duration(row.new), f"{row.ratio:.3g}", row.change)
    out.print(table)
    counts = {
        change: sum(row.change == change for row in found) for change in ("faster", "slower", "same", "ambiguous")
    }
    out.print(", ".join(f"{n} {change}" for change, n in counts.items()))
    return {"differs": differs, "counts": counts, "rows": [vars(row) for row in found]}


def _commit(profile: dict[str, Any]) -> str:
    commit = profile["env"]["commit"]
    return (commit[:10] if commit else profile["env"]["source_sha256"][:10]) + (
        ", with changes" if profile["env"]["dirty"] else ""
    )


def draw(folder: Path, dtype: str, err: Console) -> list[Path]:
    """The pictures of a device from all profiles of a dtype that lie in its folder: a help, never a reason to fail."""
    found = []
    for path in sorted(folder.glob("*.json")):
        try:
            profile = profiles.read(path)
        except BenchError as problem:
            err.print(f"warning: {problem}; it is not in the pictures", soft_wrap=True)
            continue
        if profile["dtype"] == dtype:
            found.append(profile)
    try:
        from bench import profile_plots

        return profile_plots.save(folder, found)
    except Exception as error:
        err.print(f"warning: no picture: {type(error).__name__}: {error}", soft_wrap=True)
        return []
