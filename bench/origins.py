"""Whose machines records come from: what each says of its own, and who sent those that were imported.

An import that adds records leaves one file, `results/imports/<first digits of its sha256>.json`: records themselves are
never changed, and their ids do not depend on who ran them.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rich.table import Table

from bench import documents, files, records, views
from bench.config import TEXT, WHOLE
from bench.errors import BenchError
from bench.records import Record

SCHEMA = 1
FOLDER = "imports"
SHAPE: Any = {"schema": WHOLE, "bundle": TEXT, "from": TEXT, "records": {...: TEXT}}
"""What is in a file: sha256 of the bundle, who sent it, and for the id of each record whose it is."""
LONGEST = 100


class Machine(NamedTuple):
    """Where a record was made; as its environment says, or empty."""

    whose: str
    """Empty where it was made here."""
    device: str
    threads: str
    platform: str
    python: str
    torch: str


def write(results: Path, bundle: str, sender: str, whose: Mapping[str, str]) -> tuple[Path, bool]:
    """Note an import once; the file, and whether it is new. A second import of a bundle may add what the first left.

    Raises:
        BenchError: the folder cannot be written.
    """
    content = {"schema": SCHEMA, "bundle": bundle, "from": sender, "records": dict(whose)}
    data = records.short_lines(content).encode()
    path = results / FOLDER / f"{hashlib.sha256(data).hexdigest()[:12]}.json"
    return path, files.create(path, data)


def load(results: Path) -> dict[str, str]:
    """Whose each imported record is, by id; of two imports of one record, the first by name.

    Raises:
        BenchError: a file that is not whole.
    """
    found: dict[str, str] = {}
    for path in sorted((results / FOLDER).glob("[!.]*.json")):
        content = documents.read(path, "note of an import", SCHEMA, SHAPE)
        for name in {content["from"], *content["records"].values()}:
            check(name, str(path))
        found = content["records"] | found
    return found


def check(name: str, where: str) -> str:
    """A sender's name, if it is one line of at most `LONGEST` printable characters.

    Raises:
        BenchError: it is not.
    """
    if not 0 < len(name) <= LONGEST or not name.isprintable():
        raise BenchError(f"{where} names a sender in more than one line of {LONGEST} printable characters; shorten it")
    return name


def machine(record: Record, whose: Mapping[str, str]) -> Machine:
    """Where a record was made, and whose it is."""
    told = (record.env.get(key) for key in Machine._fields[1:])
    return Machine(whose.get(record.id, ""), *("" if each is None else _plain(str(each)) for each in told))


def rows(machines: Iterable[Machine]) -> list[dict[str, Any]]:
    """A row a machine, with the number of its records."""
    return [found._asdict() | {"records": count} for found, count in sorted(Counter(machines).items())]


def table(found: Iterable[Mapping[str, Any]]) -> Table:
    """Those rows as a terminal shows them."""
    made = views.table(*Machine._fields, "records", right=("threads", "records"))
    for row in found:
        made.add_row(*map(str, ({**row, "whose": row["whose"] or "made here"}).values()))
    return made


def _plain(text: str) -> str:
    return text if text.isprintable() else json.dumps(text)
