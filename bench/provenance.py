"""Whether records and checkpoints were made by the plug-in files, and from the copies of data, that are here now.

A cell's id says which version of a method made it. Whoever edits a plug-in and leaves its version as it was gets cells
with the same ids, as whoever has another copy of a data set does. Records tell: each has digests of both, and of what
was another before it was resumed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import checkpoints, data, records, registry
from bench.config import canonical
from bench.errors import BenchError
from bench.grid import Cell
from bench.records import Record
from bench.training import notes

FEW = 5
Digests = Mapping[str, str]
"""By name: of the plug-in files that a cell comes from, and of data that people keep in copies of their own."""


def stale(results: Path, cells: Sequence[Cell], recorded: Mapping[str, Record], pending: Sequence[Cell]) -> list[str]:
    """A sentence for each plug-in and data set of some cells that was another when records or checkpoints were made.

    recorded, by id, and pending: what the store has of the cells. Of plug-ins, the records of the same methods on the
    same tasks are asked too, for tables pool them.
    """
    here = _here(cells)
    other: dict[str, set[str]] = defaultdict(set)
    begun: dict[str, list[str]] = defaultdict(list)
    for cell in cells:
        if cell.id in here and cell.id in recorded:
            for name in _others(recorded[cell.id], here[cell.id]):
                other[name].add(cell.id)
    for task, method in dict.fromkeys((c.task.name, c.method.name) for c in cells if _plugins_of(c)):
        cell = next(c for c in cells if (c.task.name, c.method.name) == (task, method))
        for record in records.of(results, task, method, besides=recorded):
            if all(record.spec[kind]["version"] == cell.spec[kind]["version"] for kind in ("method", "task")):
                for name in _others(record, here.get(cell.id, {})):
                    other[name].add(record.id)
    for cell in pending:
        if cell.id in here and (made := _made(results, cell)):
            for name in _differing(here[cell.id], made["plugins"], made["data"]):
                begun[name].append(cell.id)
    said = [
        f"{_count(len(ids), 'record')} made with another {name} than this: nothing is run again for that, and tables "
        f"pool old with new{_remedy(name, '; if the change alters results, raise `version` in it')}"
        for name, ids in sorted(other.items())
    ]
    said += [
        f"{_count(len(ids), 'cell')} begun with another {name} than this and will go on from there, as the record will "
        f"say; to begin anew, {_remedy(name, 'raise `version` in it or ')}delete {_folders(results, ids)}"
        for name, ids in sorted(begun.items())
    ]
    return said


def differing(record: Record, cell: Cell) -> list[str]:
    """The plug-ins and data sets of a cell that were others when its record was made."""
    return sorted(_others(record, _here([cell]).get(cell.id, {})))


def mixed(found: Iterable[Record], dirty: bool = False) -> list[str]:
    """A sentence for each method and task whose records are pooled though plug-ins or data differed.

    Those that no table shows are left out: of older versions and, unless dirty, by uncommitted code.
    """
    groups: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for record in found:
        if (record.data or record.env.get("plugins")) and (dirty or not record.env.get("dirty")):
            groups[record.method, record.task].append(record)
    newest: dict[tuple[str, str], int] = defaultdict(int)
    for (method, task), group in groups.items():
        for kind, name in (("method", method), ("task", task)):
            newest[kind, name] = max(newest[kind, name], *(record.spec[kind]["version"] for record in group))
    said = []
    for (method, task), group in sorted(groups.items()):
        now = [r for r in group if all(r.spec[kind]["version"] == newest[kind, name]
                                       for kind, name in (("method", method), ("task", task)))]  # fmt: skip
        said += [f"seeds of {method} on {task} that are pooled were made with more than one {name}"
                 for name in sorted(_several(now, concerned_plugins(method, task)))]  # fmt: skip
    return said


def _several(group: Sequence[Record], concerned: set[str] | None) -> set[str]:
    """The names that have more than one digest among records that differ in their seed alone."""
    every: dict[str, set[str]] = defaultdict(set)
    for record in group:
        for name, digest in _used(record, concerned):
            every[name].add(digest)
    suspects = {name for name, found in every.items() if len(found) > 1}
    pooled: dict[tuple[str, str], set[str]] = defaultdict(set)
    for record in group if suspects else ():
        cell = canonical(record.spec | {"seed": 0})
        for name, digest in _used(record, concerned):
            pooled[cell, name].add(digest)
    return {name for (_, name), found in pooled.items() if len(found) > 1}


def _used(record: Record, concerned: set[str] | None) -> Iterator[tuple[str, str]]:
    """Names and digests of the plug-ins that concern a record, and of its data, before a resumption too."""
    plugins = record.env.get("plugins", {})
    for name in plugins if concerned is None else concerned:
        # A file that is not known by this name was renamed: it is one of those that are.
        digest = plugins.get(name) or ",".join(sorted(plugins.values()))
        if digest:
            yield name, digest
    if record.data and record.data["sha256"]:
        yield record.data["name"], record.data["sha256"]
    for before in _before(record):
        yield from ((n, d) for n, d in before.get("plugins", {}).items() if concerned is None or n in concerned)
        if record.data and before.get("data"):
            yield record.data["name"], before["data"]


def concerned_plugins(method: str, task: str) -> set[str] | None:
    """The plug-in files that a method and a task come from; None where one of them is not here to tell."""
    if method not in registry.METHODS.entries or task not in registry.TASKS.entries:
        return None
    found = {registry.plugin_of(registry.METHODS, method), registry.plugin_of(registry.TASKS, task)}
    return {name for name in found if name}


def _here(cells: Iterable[Cell]) -> dict[str, Digests]:
    """What is here now of that which cells depend on, by their ids; those that depend on nothing of it are left out."""
    plugins, copies = registry.plugin_digests(), dict[str, dict[str, str]]()
    found: dict[str, Digests] = {}
    for cell in cells:
        dataset = cell.task.dataset
        if dataset in data.BY_HAND and dataset not in copies:
            copies[dataset] = _copy(dataset)
        digests = {name: plugins[name] for name in _plugins_of(cell) if name in plugins} | copies.get(dataset or "", {})
        if digests:
            found[cell.id] = digests
    return found


def _copy(dataset: str) -> dict[str, str]:
    try:
        return {dataset: data.digest(dataset)}
    except BenchError:
        return {}


def _plugins_of(cell: Cell) -> set[str]:
    """The names of the plug-in files that a cell's method and task come from."""
    return concerned_plugins(cell.method.name, cell.task.name) or set()


def _others(record: Record, here: Digests) -> set[str]:
    """Of what is here, the names of what was another when a record was made, or begun."""
    found = {*_differing(here, record.env.get("plugins", {}), record.data["sha256"] if record.data else None)}
    for before in _before(record):
        changed = {name: digest for name, digest in here.items() if name in before.get("plugins", {})}
        found |= {*_differing(changed, before.get("plugins", {}), None)}
        if record.data and before.get("data"):
            found |= {*_differing({k: v for k, v in here.items() if k == record.data["name"]}, {}, before["data"])}
    return found


def _differing(here: Digests, plugins: Digests, copy: str | None) -> list[str]:
    """The names whose digest here is not what was used. A plug-in is looked for under any name: it may be renamed."""
    return [
        name
        for name, digest in here.items()
        if (copy not in (None, digest) if name in data.BY_HAND else plugins and digest not in plugins.values())
    ]


def _before(record: Record) -> list[dict[str, Any]]:
    """What was another before each resumption of a record."""
    return [segment["before"] for segment in record.env.get("resumed", ()) if segment.get("before")]


def _made(results: Path, cell: Cell) -> dict[str, Any] | None:
    """What made a cell's checkpoint, see `training._made`; None where there is none that tells."""
    try:
        saved = checkpoints.latest(results, cell.id, lazily=True)
        made = notes(saved)["made"] if saved else None
        return {"plugins": dict(made["plugins"]), "data": made["data"]} if made else None
    except (BenchError, LookupError, TypeError, ValueError):  # the cell itself will say what is wrong with it
        return None


def _remedy(name: str, words: str) -> str:
    return "" if name in data.BY_HAND else words


def _folders(results: Path, ids: Sequence[str]) -> str:
    named = ", ".join(str(checkpoints.folder(results, id)) for id in ids[:FEW])
    return named + (f" and {len(ids) - FEW} more" if len(ids) > FEW else "")


def _count(n: int, what: str) -> str:
    return f"{n} {what}{' was' if n == 1 else 's were'}"
