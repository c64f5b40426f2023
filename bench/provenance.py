"""Whether records and checkpoints were made by the plug-in files, and from the copies of data, that are here now.

A cell's id says which version of a method made it. Whoever edits a plug-in and leaves its version as it was gets cells
with the same ids, as whoever has another copy of a data set does. Records tell: each has digests of both.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import checkpoints, data, records, registry
from bench.config import canonical
from bench.errors import BenchError
from bench.grid import Cell
from bench.records import Record
from bench.training import notes

FEW = 5
PARTS = (("method", registry.METHODS), ("task", registry.TASKS))


def stale(results: Path, cells: Sequence[Cell], recorded: Iterable[Record], pending: Sequence[Cell]) -> list[str]:
    """A sentence for each plug-in and data set of some cells that was another when records or checkpoints were made.

    recorded, pending: what the store has of the cells. Of plug-ins all records of the same methods on the same tasks
    are asked, for tables pool them.
    """
    mine = {cell.id: names for cell in cells if (names := _plugins_of(cell))}
    pairs = {(c.task.name, c.method.name): (mine[c.id], c.spec) for c in cells if c.id in mine}
    other: dict[str, set[str]] = defaultdict(set)
    begun: dict[str, list[str]] = defaultdict(list)
    for (task, method), (names, spec) in pairs.items():
        for record in records.of(results, task, method):
            if all(record.spec[kind]["version"] == spec[kind]["version"] for kind, _ in PARTS):
                for name in _differing(record.env.get("plugins", {}), names):
                    other[name].add(record.id)
    for cell in pending:
        if cell.id in mine and (made := _made(results, cell)):
            for name in _differing(made.get("plugins", {}), mine[cell.id]):
                begun[name].append(cell.id)
    said = [
        f"{_count(len(ids), 'record')} made by another {name} than this: nothing is run again for that, and tables "
        f"pool old with new; if the change alters results, raise `version` in it"
        for name, ids in sorted(other.items())
    ]
    said += [
        f"{_count(len(ids), 'cell')} begun by another {name} than this and will go on from there, as the record will "
        f"say; to begin anew, raise `version` in it or delete {_folders(results, ids)}"
        for name, ids in sorted(begun.items())
    ]
    return said + _copies(recorded)


def mixed(found: Iterable[Record]) -> list[str]:
    """A sentence for each method and task whose records are pooled though plug-ins or data differed."""
    groups: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for record in found:
        if record.data or record.env.get("plugins"):
            groups[record.method, record.task].append(record)
    said = []
    for (method, task), group in sorted(groups.items()):
        names = _several(group, lambda r: {r.data["name"]: r.data["sha256"]} if r.data else {})
        if not all(name in reg.entries and not registry.plugin_of(reg, name)
                   for (_, reg), name in zip(PARTS, (method, task), strict=True)):  # fmt: skip
            names |= _several(group, lambda r: r.env.get("plugins", {}))
        said += [f"seeds of {method} on {task} that are pooled were made with more than one {name}"
                 for name in sorted(names)]  # fmt: skip
    return said


def _several(group: Sequence[Record], digests: Callable[[Record], Mapping[str, str]]) -> set[str]:
    """The names that have more than one digest among records that differ in their seed alone."""
    every: dict[str, set[str]] = defaultdict(set)
    for record in group:
        for name, digest in digests(record).items():
            every[name].add(digest)
    pooled: dict[tuple[str, str], set[str]] = defaultdict(set)
    for record in group:
        for name, digest in digests(record).items():
            if len(every[name]) > 1:  # rare, and a spec takes long to write
                pooled[canonical(record.spec | {"seed": 0}), name].add(digest)
    return {name for (_, name), found in pooled.items() if len(found) > 1}


def _copies(recorded: Iterable[Record]) -> list[str]:
    """Of data that people keep in copies of their own: which records were made from another copy."""
    others: dict[str, int] = defaultdict(int)
    here: dict[str, str | None] = {}
    for record in recorded:
        if record.data and record.data["name"] in data.BY_HAND:
            name = record.data["name"]
            if name not in here:
                here[name] = _digest(name)
            others[name] += here[name] not in (None, record.data["sha256"])
    return [f"{_count(n, 'record')} made from another copy of {name} than this; nothing is run again for that"
            for name, n in sorted(others.items()) if n]  # fmt: skip


def _folders(results: Path, ids: Sequence[str]) -> str:
    named = ", ".join(str(checkpoints.folder(results, id)) for id in ids[:FEW])
    return named + (f" and {len(ids) - FEW} more" if len(ids) > FEW else "")


def _digest(name: str) -> str | None:
    try:
        return data.digest(name)
    except BenchError:
        return None


def _plugins_of(cell: Cell) -> set[str]:
    """The names of the plug-in files that a cell's method and task come from."""
    found = (registry.plugin_of(reg, getattr(cell, kind).name) for kind, reg in PARTS)
    return {name for name in found if name}


def _differing(made: Mapping[str, str], names: Iterable[str]) -> list[str]:
    """The plug-ins whose digest is not that of the file here; one that is not known of by this name says nothing."""
    here = registry.plugin_digests()
    return [name for name in names if name in made and made[name] != here.get(name)]


def _made(results: Path, cell: Cell) -> dict[str, Any]:
    """What made a cell's checkpoint; empty where there is none, or none that can be used."""
    try:
        saved = checkpoints.latest(results, cell.id)
        return notes(saved).get("made", {}) if saved else {}
    except BenchError:
        return {}


def _count(n: int, what: str) -> str:
    return f"{n} {what}{' was' if n == 1 else 's were'}"
