"""Profile files: what was measured of one op on one device. Replaced when it is measured again; compared row by row."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bench import cells, documents, files
from bench.config import MISSING, NONE, NUMBER, PLAIN, TEXT, TRUTH, WHOLE
from bench.errors import BenchError
from bench.roofs import VERDICTS

SCHEMA = 1
LARGEST = 10**18
"""Counts stay below it, so that arrays can hold them."""
STATE: Any = {...: PLAIN}
SHAPE: Any = {
    "schema": WHOLE,
    "op": TEXT,
    "version": WHOLE,
    "source": TEXT,
    "dtype": TEXT,
    "device": {"kind": TEXT, "name": TEXT},
    "env": {"commit": TEXT + NONE, "dirty": TRUTH + NONE, "source_sha256": TEXT, "torch": TEXT, "threads": WHOLE,
            "plugins": ({...: TEXT}, *MISSING), ...: PLAIN},
    "machine": {"cache": WHOLE, "before": STATE, "after": STATE},
    "roofs": {"bandwidth": NUMBER, "compute": NUMBER, "launch": NUMBER, "launch_cold": NUMBER,
              "theoretical_bandwidth": NUMBER + NONE},
    "rows": [
        {
            "sizes": {...: NUMBER},
            "variant": TEXT,
            "replay": TRUTH,
            "pass": TEXT,
            "cache": TEXT,
            "seconds": {"median": NUMBER, "q1": NUMBER, "q3": NUMBER, "low": NUMBER, "high": NUMBER},
            "n": WHOLE,
            "calls": WHOLE,
            "work": {"read": WHOLE, "written": WHOLE, "products": WHOLE, "others": WHOLE},
            "launches": WHOLE,
            "allocated": WHOLE,
            "peak": WHOLE,
            "footprint": WHOLE,
            "verdict": TEXT,
            "roof": TEXT,
            "share": NUMBER,
            "compile_s": NUMBER + NONE,
        }
    ],
    "left_out": [{"sizes": {...: NUMBER}, "variant": TEXT, "why": TEXT}],
    "started": TEXT,
    "finished": TEXT,
}  # fmt: skip
"""What is in a file, see `config.misfit`. Readers rely on it and check no types of their own."""
Change = Literal["faster", "slower", "same", "ambiguous"]
LEAST_NOISE = 0.01
"""Less than this part of a time is never called a difference."""


def path_of(out: Path, slug: str, op: str, dtype: str) -> Path:
    """Where the profile of an op lives; other dtypes than float32 are in the name."""
    return out / slug / (f"{op}.json" if dtype == "float32" else f"{op}-{dtype}.json")


def write(path: Path, profile: dict[str, Any]) -> None:
    """Write a profile, replacing an older one in one step: a line for each row.

    Raises:
        BenchError: the folder cannot be written or the disk is full.
    """
    lines = []
    for key, value in sorted(profile.items()):
        if isinstance(value, list) and value:
            text = "[\n" + ",\n".join("  " + json.dumps(row, sort_keys=True, allow_nan=False) for row in value) + "\n ]"
        else:
            text = json.dumps(value, sort_keys=True, allow_nan=False)
        lines.append(f" {json.dumps(key)}: {text}")
    files.replace(path, ("{\n" + ",\n".join(lines) + "\n}\n").encode())


def read(path: Path) -> dict[str, Any]:
    """Read a profile and check it.

    Raises:
        BenchError: not a profile, of a newer schema, damaged, or not possible.
    """
    profile = documents.read(path, "profile", SCHEMA, SHAPE)
    for i, row in enumerate(profile["rows"]):
        wrong = _contradiction(row)
        if wrong:
            raise BenchError(f"{path} is not a whole profile: rows[{i}] {wrong}")
    if min(v for v in profile["roofs"].values() if v is not None) <= 0:
        raise BenchError(f"{path} is not a whole profile: a roof is not above zero")
    return profile


def by_device(results: Path, problems: list[str] | None = None) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """The profiles of a results folder by device and dtype.

    problems: takes a sentence for each file that is not a whole profile, which is then left out.

    Raises:
        BenchError: such a file, where there is no list of problems.
    """
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for path in sorted((results / "profiles").glob("*/[!.]*.json")):
        try:
            made = read(path)
        except BenchError as problem:
            if problems is None:
                raise
            problems.append(str(problem))
            continue
        found.setdefault((made["device"]["name"], made["dtype"]), []).append(made)
    return found


def giga(rate: float) -> str:
    """Three digits, in thousands of millions."""
    return cells.significant(rate / 1e9, 3)


def rates(row: dict[str, Any]) -> dict[str, str]:
    """What a row's median and quartiles come to, as text: IQR over it, GB/s, GFLOP/s."""
    s, work = row["seconds"], row["work"]
    return {
        "IQR": f"{100 * (s['q3'] - s['q1']) / s['median']:.0f} %",
        "GB/s": giga((work["read"] + work["written"]) / s["median"]),
        "GFLOP/s": giga((work["products"] + work["others"]) / s["median"]),
    }


def _contradiction(row: dict[str, Any]) -> str:
    """What no shape can say."""
    s = row["seconds"]
    if not 0 < s["low"] <= s["q1"] <= s["median"] <= s["q3"] <= s["high"] < LARGEST:
        return "has times that are not in order, or not above zero"
    counts = [row[k] for k in ("n", "calls", "launches", "allocated", "peak", "footprint")]
    counts += [*row["work"].values(), *row["sizes"].values()]
    if min(row["n"], row["calls"], row["launches"]) < 1 or min(counts) < 0 or max(counts) >= LARGEST:
        return "has counts that cannot be"
    if row["pass"] not in ("forward", "both") or row["cache"] not in ("hot", "cold"):
        return f"has the pass {row['pass'][:20]!r} and the cache {row['cache'][:20]!r}"
    if row["verdict"] not in (*VERDICTS.values(), "cache-resident", "ambiguous") or row["roof"] not in VERDICTS:
        return f"has the verdict {row['verdict'][:20]!r} by the roof {row['roof'][:20]!r}"
    return ""


# -------------------------------------------------------------------------------------------------------------- compare


@dataclass(frozen=True)
class Compared:
    """One row of two profiles. ratio: new median over old."""

    key: tuple[str, ...]
    old: float
    new: float
    ratio: float
    change: Change


def same_machine(old: dict[str, Any], new: dict[str, Any]) -> str:
    """What differs between the machines of two profiles, in words; "" where nothing does."""
    differences = [
        f"{name}: {a} against {b}"
        for name, a, b in (
            ("device", old["device"]["name"], new["device"]["name"]),
            ("threads", old["env"]["threads"], new["env"]["threads"]),
            ("torch", old["env"]["torch"], new["env"]["torch"]),
            ("memory", *(made["env"].get("memory") or "as the system has it" for made in (old, new))),
        )
        if a != b
    ]
    return "; ".join(differences)


def compare(old: dict[str, Any], new: dict[str, Any]) -> list[Compared]:
    """The rows that two profiles of one op share, in the order of the new one.

    Raises:
        BenchError: another op, version or dtype, or no row in common.
    """
    for key in ("op", "version", "dtype"):
        if old[key] != new[key]:
            raise BenchError(f"profiles of different {key}s cannot be compared: {old[key]} and {new[key]}")
    before = {row_key(row): row for row in old["rows"]}
    found = list(_compared(before, new["rows"]))
    if not found:
        raise BenchError(f"the two profiles of {new['op']} have no row in common; measure the same sizes and variants")
    return found


def _compared(before: dict[tuple[str, ...], Any], rows: list[dict[str, Any]]) -> Iterator[Compared]:
    for row in rows:
        key = row_key(row)
        if key in before:
            a, b = before[key]["seconds"]["median"], row["seconds"]["median"]
            yield Compared(key, a, b, b / a, change(before[key], row))


def change(old: dict[str, Any], new: dict[str, Any]) -> Change:
    """Whether a row became faster, by the noise of both measurements.

    The same: the medians differ by no more than the smaller noise (interquartile range over median, 1 % at least).
    Faster or slower: by more than both noises together. In between, and with fewer than three samples: ambiguous.
    """
    noises = [max(LEAST_NOISE, (r["seconds"]["q3"] - r["seconds"]["q1"]) / r["seconds"]["median"]) for r in (old, new)]
    difference = new["seconds"]["median"] / old["seconds"]["median"] - 1
    if min(old["n"], new["n"]) < 3:
        return "ambiguous"
    # As a change from the smaller to the larger, so that the order of the two does not matter.
    size = max(difference, -difference / (1 + difference))
    if size <= min(noises):
        return "same"
    return "ambiguous" if size <= sum(noises) else "slower" if difference > 0 else "faster"


def row_key(row: dict[str, Any]) -> tuple[str, ...]:
    """What makes two rows the same measurement: sizes, pass, variant and cache."""
    return sizes_text(row["sizes"]), row["pass"], variant_text(row), row["cache"]


def variant_text(row: dict[str, Any]) -> str:
    """The variant, and whether it was replayed from a graph."""
    return row["variant"] + (", graph" if row["replay"] else "")


def sizes_text(sizes: dict[str, Any]) -> str:
    """Sizes in words, the swept ones first."""
    order = ["slots", "width", "heads", "batch"]
    names = sorted(sizes, key=lambda name: (order.index(name) if name in order else len(order), name))
    return " ".join(f"{name}={count(sizes[name])}" for name in names)


def count(number: float) -> str:
    """A whole number with k for 1024 and M for 1024² where it is a multiple; others as they are."""
    if isinstance(number, int):
        for unit, letter in ((2**20, "M"), (2**10, "k")):
            if number and number % unit == 0:
                return f"{number // unit}{letter}"
    return f"{number:g}" if isinstance(number, float) else str(number)
