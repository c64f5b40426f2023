"""Measurements beside the runs: speed, peak memory, agreement with other people's code; as records, then as tables.

`make benchmark` measures (tests/benchmarks, by pytest-benchmark) and hands the report to this module, which writes one
record a test file, `results/benchmarks/<name>.json`. Their tables are written and checked by `bench tables`. Seconds
differ from machine to machine, so ratios within one run come first.

What a benchmark puts into its `extra_info`:

- `name`: what the row is called; otherwise its parameters' id. Rows of one name that differ in one numeric parameter
  are a series: its ratios are to its own first point, and the slope of logarithms is fitted to it.
- `reference`: True where the others of its group are compared with it.
- `unit` and `values`: what was measured instead of seconds, e.g. "bytes" and a list.
- `against`: names of rows of its group that it is compared with, in a table of ratios (`bench.ratios`).
- `packages`: other people's packages it ran, by version; `notes`: sentences that belong under the table.
- Any other number or text becomes a column of its own.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

from bench import documents, files, records
from bench.config import MISSING, NONE, NUMBER, PLAIN, TEXT, TRUTH, WHOLE
from bench.errors import BenchError
from bench.ratios import ratios
from bench.slopes import slope

SCHEMA = 1
FOLDER = "benchmarks"
SHAPE: Any = {
    "schema": WHOLE,
    "name": TEXT,
    "made": TEXT,
    "env": {"dirty": TRUTH + NONE, "device": TEXT, "threads": WHOLE, "torch": TEXT, "plugins": ({...: TEXT}, *MISSING),
            ...: PLAIN},
    "packages": {...: TEXT},
    "notes": [TEXT],
    "entries": [{
        "group": TEXT, "name": TEXT, "params": {...: NUMBER}, "reference": TRUTH, "unit": TEXT, "n": WHOLE,
        "median": NUMBER, "iqr": NUMBER, "min": NUMBER, "extra": {...: PLAIN}, "against": ([TEXT], *MISSING),
    }],
}  # fmt: skip
"""What is in a file, see `config.misfit`."""
UNITS = {"s": ("ms", 1e3), "bytes": ("MiB", 2.0**-20), "bytes a step": ("KiB a step", 2.0**-10)}
"""How a unit is shown, and by what its values are multiplied; others are shown as they are."""
LEGEND = (
    "Each group was measured in one run on one machine: compare ratios, not seconds. A ratio is between medians; × is "
    "how many times the reference's a row's median is, less is better. IQR: between the quartiles of n repetitions."
)

Entry = dict[str, Any]
Record = dict[str, Any]


# ------------------------------------------------------------------------------------------------------------- records


def measured(group: str, name: str, values: Sequence[float], unit: str = "s", **more: Any) -> Entry:
    """One quantity, measured n times. more: params, reference, extra."""
    low, middle, high = np.percentile(values, [25, 50, 75])
    numbers = {"median": middle, "iqr": high - low, "min": min(values)}
    return (
        {"group": group, "name": name, "unit": unit, "n": len(values), "params": {}, "reference": False, "extra": {}}
        | {key: float(f"{value:.9g}") for key, value in numbers.items()}
        | more
    )


def record(
    name: str,
    entries: Sequence[Entry],
    env: Mapping[str, Any],
    made: str,
    packages: Mapping[str, str] | None = None,
    notes: Sequence[str] = (),
) -> Record:
    """A whole record. env: as of `environment.describe`; made: UTC, ISO 8601."""
    return {
        "schema": SCHEMA, "name": name, "made": made, "env": dict(env), "packages": dict(packages or {}),
        "notes": list(notes), "entries": list(entries),
    }  # fmt: skip


def from_report(report: Mapping[str, Any]) -> list[Record]:
    """Records out of a report of pytest-benchmark (`--benchmark-json`), one a test file, named after it.

    Raises:
        BenchError: a report that was not made by this project's benchmarks.
    """
    env = report.get("machine_info", {}).get("environment")
    if env is None:
        raise BenchError("the report does not say how it was made; let `make benchmark` make it, in this repository")
    parts: dict[str, list[Entry]] = {}
    packages: dict[str, dict[str, str]] = {}
    notes: dict[str, list[str]] = {}
    for run in report["benchmarks"]:
        name = Path(run["fullname"].partition("::")[0]).stem.removeprefix("test_").replace("_", "-")
        extra = dict(run["extra_info"])
        packages.setdefault(name, {}).update(extra.pop("packages", {}))
        notes.setdefault(name, []).extend(extra.pop("notes", []))
        entry = measured(
            run["group"] or name,
            extra.pop("name", None) or run["param"] or run["name"].removeprefix("test_").replace("_", " "),
            extra.pop("values", None) or run["stats"]["data"],
            extra.pop("unit", "s"),
            params={key: v for key, v in (run["params"] or {}).items() if type(v) in NUMBER},
            reference=extra.pop("reference", False),
            **({"against": extra.pop("against")} if extra.get("against") else {}),
        )
        entry["extra"] = {key: value for key, value in extra.items() if type(value) in PLAIN}
        parts.setdefault(name, []).append(entry)
    made = report["datetime"].partition(".")[0].partition("+")[0] + "Z"
    return [
        record(name, each, env, made, packages[name], [*dict.fromkeys(notes[name])]) for name, each in parts.items()
    ]


def write(results: Path, made: Record) -> Path:
    """Write a record; an older one of the same name is replaced.

    Raises:
        BenchError: the folder cannot be written.
    """
    path = results / FOLDER / f"{made['name']}.json"
    files.replace(path, records.short_lines(made).encode())
    return path


def load(results: Path, dirty: bool = False) -> list[Record]:
    """The records of a results folder by name; dirty: also those made by code that was not committed.

    Raises:
        BenchError: a file that is not a whole record.
    """
    loaded = []
    for path in sorted((results / FOLDER).glob("[!.]*.json")):
        content = documents.read(path, "benchmark record", SCHEMA, SHAPE)
        if content["name"] != path.stem:
            raise BenchError(f"{path} is not a whole benchmark record: its name is not that of the file")
        if dirty or not content["env"]["dirty"]:
            loaded.append(content)
    return loaded


# -------------------------------------------------------------------------------------------------------------- series


def groups(made: Record) -> dict[str, list[Entry]]:
    """The entries of a record by group, in the order in which they were measured."""
    found: dict[str, list[Entry]] = {}
    for entry in made["entries"]:
        found.setdefault(entry["group"], []).append(entry)
    return found


def along(entries: Iterable[Entry]) -> str | None:
    """The one numeric parameter in which rows of one name differ; None where a group has no series."""
    values: dict[tuple[str, str], set[float]] = {}
    for entry in entries:
        for key, value in entry["params"].items():
            values.setdefault((key, entry["name"]), set()).add(value)
    varied = {key for (key, _), seen in values.items() if len(seen) > 1}
    return varied.pop() if len(varied) == 1 else None


def series(entries: Iterable[Entry], key: str) -> dict[str, list[Entry]]:
    """Rows by name, each sorted along a parameter."""
    found: dict[str, list[Entry]] = {}
    for entry in sorted(entries, key=lambda entry: entry["params"][key]):
        found.setdefault(entry["name"], []).append(entry)
    return found


# -------------------------------------------------------------------------------------------------------------- tables


def render(loaded: Iterable[Record]) -> dict[str, str]:
    """The tables of records by file name, `<name>.md`."""
    return {f"{made['name']}.md": document(made) for made in loaded}


def document(made: Record) -> str:
    """A whole file: a section a group."""
    env = made["env"]
    packages = "".join(f", {name} {version}" for name, version in sorted(made["packages"].items()))
    threads = f"{env['threads']} thread{'s' if env['threads'] > 1 else ''}"
    where = (
        f"Measured on {env['device']} ({threads}, torch {env['torch']}{packages}), {made['made'].partition('T')[0]}."
    )
    timed = any(entry["unit"] == "s" for entry in made["entries"])
    parts = [f"# {made['name']}", *([LEGEND] if timed else []), where]
    for group, entries in groups(made).items():
        parts += [f"## {_safe(group)}", _rows(entries), *_slopes(entries), *_ratios(entries)]
    return "\n\n".join(parts + [_safe(note) for note in dict.fromkeys(made["notes"])]) + "\n"


def _rows(entries: list[Entry]) -> str:
    key = along(entries)
    unit, scale = UNITS.get(entries[0]["unit"], (entries[0]["unit"], 1.0))
    firsts = {name: points[0] for name, points in series(entries, key).items()} if key else {}
    references = [] if key else [entry for entry in entries if entry["reference"]]
    several = any(entry["n"] > 1 for entry in entries)
    extras = list(dict.fromkeys(name for entry in entries for name in entry["extra"]))
    rows = []
    for entry in entries if key else sorted(entries, key=lambda entry: entry["median"]):
        row = {"": entry["name"]}
        if key:
            first = firsts[entry["name"]]
            row[key] = f"{entry['params'][key]:,}"
            row[f"× its first {key}"] = digits(entry["median"] / first["median"]) if first["median"] else ""
        for reference in references:
            row[f"× {reference['name']}"] = digits(entry["median"] / reference["median"])
        row |= {f"median, {unit}" if several else unit: digits(scale * entry["median"])}
        if entry["n"] > 1:
            row |= {"IQR": digits(scale * entry["iqr"]), "min": digits(scale * entry["min"]), "n": str(entry["n"])}
        rows.append(row | {name.replace("_", " "): _text(entry["extra"].get(name, "")) for name in extras})
    columns = list(dict.fromkeys(column for row in rows for column in row))
    return _table([[row.get(column, "") for column in columns] for row in rows], columns)


def _slopes(entries: list[Entry]) -> list[str]:
    key = along(entries)
    rows = []
    for name, points in series(entries, key).items() if key else ():
        if text := slope([p["params"][key] for p in points], [p["median"] for p in points]).text:
            rows.append([name, text, str(len(points))])
    if not rows:
        return []
    note = (
        f"Slope of the logarithm of the median over that of {key}, ± half its 95 % interval; 1: as much again, 0: flat."
    )
    return [note, _table(rows, ["", "slope", "points"])]


def _ratios(entries: list[Entry]) -> list[str]:
    key = along(entries)
    found = ratios(entries, key)
    if not found:
        return []
    columns = ["", "beside", *([key] if key else []), "ratio"]
    rows = []
    for each in found:
        where = [f"{each.at:,}"] if key else []
        rows.append([each.name, each.other, *where, "" if each.value is None else digits(each.value)])
    if any(each.printed for each in found):
        columns += ["published", "source"]
        for row, each in zip(rows, found, strict=True):
            row += [digits(each.printed.value), each.printed.citation] if each.printed else ["", ""]
    return ["How many times as much the row beside it takes; more is better for the first.", _table(rows, columns)]


def _table(rows: list[list[str]], columns: list[str]) -> str:
    align = ["left", *["right"] * (len(columns) - 1)]
    shown = [[_safe(cell) for cell in row] for row in rows]
    return tabulate(shown, [_safe(c) for c in columns], tablefmt="pipe", disable_numparse=True, colalign=align)


def digits(value: float) -> str:
    """Three digits, and no power of ten where a plain number is short."""
    if value == 0 or not 1e-3 <= abs(value) < 1e7:
        return f"{value:.2g}"
    return f"{value:,.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def _text(value: Any) -> str:
    return digits(value) if isinstance(value, float) else f"{value:,}" if type(value) is int else str(value)


def _safe(text: str) -> str:
    """Text that stays text in a Markdown table."""
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("`", "\\`").replace("\n", " ")


# ------------------------------------------------------------------------------------------------------------- command


def main(arguments: Sequence[str]) -> int:
    """`python -m bench.benchmarks REPORT RESULTS`: records out of a report of pytest-benchmark."""
    report, results = map(Path, arguments)
    try:
        for made in from_report(json.loads(report.read_bytes())):
            print(f"wrote {write(results, made)}")
            if made["env"]["dirty"]:
                print("  it was made by code that is not committed: `bench tables` leaves it out without --dirty")
    except BenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
