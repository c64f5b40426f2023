"""What rows of a benchmark's table are beside others: ratios that were asked for, and what others published of them.

A benchmark puts `against`, a list of names, into its `extra_info`: rows of its own group. Along a series the ratio is
taken wherever both have a point.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from bench import published

COSTS = {"s": "time", "bytes": "memory"}
"""What `results/published.csv` calls a ratio of such units."""


class Ratio(NamedTuple):
    """How many times as much the other takes. at: the value of the group's parameter; None where there is none.

    value: None where one of both was not measured there. printed: what others published for the same place.
    """

    name: str
    other: str
    at: int | float | None
    value: float | None
    printed: published.Published | None


def ratios(entries: Sequence[dict[str, Any]], key: str | None) -> list[Ratio]:
    """All ratios that the entries of one group ask for, by name and place. key: along which parameter, see `along`."""
    medians = {(entry["name"], _at(entry, key)): entry["median"] for entry in entries}
    pairs = {(entry["name"], other): entry["unit"] for entry in entries for other in entry.get("against", ())}
    found = []
    for (name, other), unit in pairs.items():
        printed = {p.protocol.get("slots"): p for p in _published(name, other, unit)} if key == "slots" else {}
        mine, others = ({at for who, at in medians if who == each} for each in (name, other))
        more = {int(at) for at in printed if at is not None and int(at) in mine}
        for at in sorted((mine & others) | more, key=lambda at: at or 0):
            both = (name, at) in medians and (other, at) in medians and medians[name, at] > 0
            value = medians[other, at] / medians[name, at] if both else None
            found.append(Ratio(name, other, at, value, printed.get(str(at))))
    return found


def _at(entry: dict[str, Any], key: str | None) -> int | float | None:
    return entry["params"].get(key) if key else None


def _published(name: str, other: str, unit: str) -> Iterable[published.Published]:
    """Rows of the file whose method and variant read as "NAME against OTHER"."""
    wanted, cost = f"{name} against {other}", COSTS.get(unit)
    found = (row for row in published.rows() if row.metric == "ratio" and row.task == cost)
    return (row for row in found if f"{row.method}, {row.variant}" == wanted)
