"""Bundles: records with their tables in one checked zip, for a paper's supplement or for another lab.

`bench export --bundle` packs one; the same results folder gives the same bytes. `bench import` adds the records of
another lab to a store: all or, where anything is wrong, none. A bundle holds

- `runs/`: the records as they are in the store, byte for byte,
- `tables/` and `report.html`: what `bench tables` and `bench report` make of them; `pictures/` that are not stale,
- `bundle.json`: the suites, every environment with the ids of what it made, and whose the imported records are,
- `SHA256SUMS`: the digest of every other file, as `sha256sum --check` reads it; and `README.md`.
"""

from __future__ import annotations

import hashlib
import io
import re
import reprlib
import struct
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from bench import (
    __version__,
    cells,
    charts,
    documents,
    files,
    grid,
    latex,
    origins,
    records,
    refresh,
    report,
    views,
    zips,
)
from bench.config import MISSING, PLAIN, TEXT, WHOLE, canonical
from bench.errors import BenchError
from bench.records import Record

SCHEMA = 1
ABOUT, SUMS = "bundle.json", "SHA256SUMS"
SHAPE: Any = {
    "schema": WHOLE,
    "mannbench": TEXT,
    "suites": [TEXT],
    "records": WHOLE,
    "environments": [{"env": {...: (*PLAIN, {...: TEXT})}, "records": [TEXT]}],
    "origins": ({...: TEXT}, *MISSING),
}
"""What is in `bundle.json`, see `config.misfit`."""
LIMITS = zips.Limits("a bundle of mannbench", members=60_000, largest=64 << 20, total=1 << 30)
_NAME = r"[a-z0-9][a-z0-9._-]*"
_RECORD = re.compile(rf"runs/{_NAME}/{_NAME}/s\d+-[0-9a-f]{{12}}\.json")
_END = struct.Struct("<4s4H2LH")
_CONFLICTS = 5
README = """# Records of mannbench

{count} records{suites}. Each file under `runs/` is one run: its settings, scores of every test episode, learning curve,
cost, code and machine. `tables/` and `report.html` are made of nothing else.

{machines}

- `sha256sum --check SHA256SUMS` says whether every file is as it was packed.
- `bench import FILE` checks everything and adds the records to a results folder. There, `bench show ID` prints one with
  the command that makes it again, and `bench tables` makes the tables anew.
"""


# -------------------------------------------------------------------------------------------------------------- export


def export(path: Path, suites: Sequence[str], results: Path, dirty: bool, as_json: bool) -> dict[str, Any]:
    """Pack the records of suites, or all, into a zip at path; what was packed, as data.

    dirty: also records made by code that was not committed.

    Raises:
        BenchError: no such suite, nothing to pack, or the file cannot be written.
    """
    if path.suffix != ".zip":
        raise BenchError(f"a bundle's name ends in .zip; {path} does not")
    out = views.console(stderr=as_json)
    packed = members(chosen(suites, results, dirty), suites, results, dirty)
    content = zipped(packed)
    files.replace(path, content)
    count, tables, report = (sum(name.startswith(part) for name in packed) for part in ("runs", "tables", "report"))
    told = {"bundle": str(path), "sha256": _sha256(content), "bytes": len(content), "records": count,
            "files": sorted(packed)}  # fmt: skip
    out.print(f"wrote {path}: {_records(count)}, {tables} tables{', the report' * report}; {len(content):,} bytes\n"
              f"sha256 {told['sha256']}", soft_wrap=True)  # fmt: skip
    return told


def chosen(suites: Sequence[str], results: Path, dirty: bool) -> list[Record]:
    """The records of suites, or all; a file that cannot be used is named on stderr.

    Raises:
        BenchError: no such suite, or nothing to pack.
    """
    loaded = records.load(results)
    views.left_out(loaded.problems)
    wanted = {cell.id for suite in suites for cell in grid.plan(suite, offline=True).cells}
    found = [r for r in loaded.records if not suites or r.id in wanted]
    clean = [r for r in found if dirty or not r.env.get("dirty")]
    if not clean:
        of, but = f" of {', '.join(suites)}" * bool(suites), " but those of uncommitted code (--dirty)" * bool(found)
        raise BenchError(f"{results} has no record{of} to pack{but}; `bench status` counts what is there")
    return clean


def members(found: Sequence[Record], suites: Sequence[str], results: Path, dirty: bool) -> dict[str, bytes]:
    """The files of a bundle, by their paths in it."""
    made, ids, whose = refresh.collect(suites, results, found, dirty), {r.id for r in found}, origins.load(results)
    gallery = results / "pictures"
    current = made.pictures.keys() - set(charts.check(made.pictures, gallery))
    about = {
        "schema": SCHEMA, "mannbench": __version__, "suites": [Path(s).stem for s in suites], "records": len(found),
        "environments": _environments(found), "origins": {id: name for id, name in whose.items() if id in ids},
    }  # fmt: skip
    packed = {
        **{_inside(r.spec): _bytes_of(results, r) for r in found},
        **{f"tables/{file}": text.encode() for file, text in (made.tables | latex.beside(made.tables)).items()},
        **{f"pictures/{name}": documents.contents(gallery / name) for name in current},
        "report.html": report.render(results, suites, dirty=dirty).encode(),
        ABOUT: records.short_lines(about).encode(),
        "README.md": _readme(about, found).encode(),
    }
    packed[SUMS] = "".join(f"{_sha256(packed[file])}  {file}\n" for file in sorted(packed)).encode()
    return packed


def zipped(packed: Mapping[str, bytes]) -> bytes:
    """A zip archive that depends on nothing but its members."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name in sorted(packed):
            info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            info.create_system, info.external_attr, info.compress_type = 3, 0o100644 << 16, zipfile.ZIP_DEFLATED
            archive.writestr(info, packed[name])
    return buffer.getvalue()


def _bytes_of(results: Path, record: Record) -> bytes:
    path = records.path_of(results, record.spec)
    if not path.is_file():
        raise BenchError(f"the record {record.id} is not at {path}, where its spec says; move its file there")
    return documents.contents(path)


def _environments(found: Sequence[Record]) -> list[dict[str, Any]]:
    """Each environment, apart from how a run was resumed, with what it made."""
    made: dict[str, dict[str, Any]] = {}
    for record in sorted(found, key=lambda r: r.id):
        env = {key: value for key, value in record.env.items() if key != "resumed"}
        made.setdefault(canonical(env), {"env": env, "records": []})["records"].append(record.id)
    return [made[key] for key in sorted(made)]


def _readme(about: Mapping[str, Any], found: Sequence[Record]) -> str:
    machines = pd.DataFrame(origins.rows(origins.machine(r, about["origins"]) for r in found)).astype(str)
    return README.format(
        count=len(found), suites=f" of {', '.join(about['suites'])}" if about["suites"] else "",
        machines=cells.table(machines, ("whose", "device")),
    )  # fmt: skip


def _records(count: int) -> str:
    return f"{count} record{'s' * (count != 1)}"


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _inside(spec: Mapping[str, Any]) -> str:
    return records.path_of(Path(), dict(spec)).as_posix()


# -------------------------------------------------------------------------------------------------------------- import


@dataclass(frozen=True)
class Contents:
    """What a checked bundle holds against a store: paths in both, by what is to be done with them."""

    new: list[str] = field(default_factory=list)
    same: list[str] = field(default_factory=list)
    """Here to the byte."""
    repeated: list[str] = field(default_factory=list)
    """Here with the same result, made at another time or place; the first writer wins."""
    conflicts: dict[str, str] = field(default_factory=dict)
    """Here with another result, and what both found."""
    whose: dict[str, str] = field(default_factory=dict)
    """By id."""
    machines: list[origins.Machine] = field(default_factory=list)


def take(path: Path, results: Path, sender: str, ours: bool, as_json: bool) -> dict[str, Any]:
    """Add the records of a bundle to a store, all or none; what was done, as data.

    sender: who sent it; the file's name where it is empty. ours: where a record is here with another result, keep it
    and take the rest.

    Raises:
        BenchError: no bundle, an unsafe or damaged one, a member that is not as it was packed, a record that is not
            whole or has an id that is not its spec's, or a conflict. Nothing has then been written.
    """
    out = views.console(stderr=as_json)
    sender = origins.check(sender or path.stem, "--from" if sender else f"the name of {path}")
    content = _read(path)
    bundle = _sha256(content)
    try:
        archive = zipfile.ZipFile(io.BytesIO(content))
    except zips.DAMAGE as error:
        raise BenchError(f"{path} is damaged ({error}); get it anew") from error
    with archive:
        packed = zips.Members(archive, path, LIMITS)
        found = _compared(path, packed, results, sender)
        if found.conflicts and not ours:
            raise BenchError(
                f"{path} has other results for {_named(found.conflicts)}; nothing was imported; "
                "--ours keeps what is here and takes the rest"
            )
        _write(packed, found, results, bundle, sender)
    kept = f", {len(found.conflicts)} kept as they are here against other results" * bool(found.conflicts)
    out.print(f"{_records(len(found.new))} imported into {results} from {sender}, {len(found.same)} were here already, "
              f"{len(found.repeated)} were run here too with the same result{kept}\nsha256 {bundle}",
              soft_wrap=True)  # fmt: skip
    out.print(origins.table(origins.rows(found.machines)))
    return {
        "bundle": str(path), "sha256": bundle, "from": sender, "imported": found.new, "same": found.same,
        "repeated": found.repeated, "conflicts": found.conflicts, "machines": origins.rows(found.machines),
    }  # fmt: skip


def _read(path: Path) -> bytes:
    """A bundle's bytes, not too many, with a directory of members that is not too long to be read."""
    if not path.is_file():
        raise BenchError(f"there is no file {path}; `bench export --bundle` makes bundles")
    if path.stat().st_size > LIMITS.total:
        raise BenchError(f"{path} is not {LIMITS.kind}: it has more than {LIMITS.total} bytes")
    content = documents.contents(path)
    # Python holds every entry of the directory in memory before anyone can count them. Bundles end with the record that
    # says how many there are, in the form that has room for 65,535.
    end = content[-_END.size :]
    fits = len(end) == _END.size and end.startswith(b"PK\5\6") and content[-_END.size - 20 :][:4] != b"PK\6\7"
    *_, length, _, comment = _END.unpack(end) if fits else (0, 0, 1)
    if comment:
        raise BenchError(f"{path} is not {LIMITS.kind}, or not all of it; get it anew")
    if length > 256 * LIMITS.members:
        raise BenchError(f"{path} is not {LIMITS.kind}: the list of its members has {length} bytes")
    return content


def _compared(path: Path, packed: zips.Members, results: Path, sender: str) -> Contents:
    """Check every member, and sort the records by what the store has of them."""
    sums = _sums(path, packed)
    about = documents.decode(packed[ABOUT], f"{ABOUT} of {path}", "bundle", SCHEMA, SHAPE)
    earlier = {id: origins.check(name, f"{ABOUT} of {path}") for id, name in about.get("origins", {}).items()}
    found, known, mine = Contents(), origins.load(results), {r.id for r in records.load(results).records}
    harmless = {"new": found.new, "same": found.same, "repeated": found.repeated}
    for name in packed:
        data = packed[name]
        if name != SUMS and _sha256(data) != sums[name]:
            raise BenchError(f"{path} is not as it was packed: {reprlib.repr(name)} has another sha256; get it anew")
        if not name.startswith("runs/"):
            continue
        shown = f"{reprlib.repr(name)} of {path}"
        if not _RECORD.fullmatch(name):
            raise BenchError(f"{shown} is not where a record can be: runs/TASK/METHOD/sSEED-ID.json")
        record = records.parse(data, shown)
        if _inside(record.spec) != name:
            raise BenchError(f"{shown} holds the record of {reprlib.repr(_inside(record.spec))}; it was altered")
        standing = _standing(results / name, data, record)
        if standing == "new" and record.id in mine:
            raise BenchError(
                f"the record {record.id} is in {results}, but not at {results / name}, where its spec says; "
                "move its file there"
            )
        if standing in harmless:
            harmless[standing].append(name)
        else:
            found.conflicts[name] = standing
        found.whose[record.id] = earlier.get(record.id, sender) if standing == "new" else known.get(record.id, "")
        found.machines.append(origins.machine(record, found.whose))
    if about["records"] != len(found.machines):
        raise BenchError(f"{path} says that it holds {about['records']} records, but has {len(found.machines)}")
    return found


def _sums(path: Path, packed: zips.Members) -> dict[str, str]:
    """The digests that a bundle gives of all its members."""
    for name in (ABOUT, SUMS):
        if name not in packed:
            raise BenchError(f"{path} is not {LIMITS.kind}: it has no {name}")
    lines = packed[SUMS].decode(errors="replace").removesuffix("\n").split("\n")
    parts = [re.fullmatch(r"([0-9a-f]{64}) [ *](.+)", line) for line in lines]
    sums = {part[2]: part[1] for part in parts if part}
    if len(sums) < len(lines):
        raise BenchError(f"{SUMS} of {path} has lines that are not a sha256 and a name, or a name twice; get it anew")
    odd = sums.keys() ^ (set(packed) - {SUMS})
    if odd:
        raise BenchError(f"{path} and its {SUMS} do not agree on {reprlib.repr(min(odd))}; get it anew")
    return sums


def _standing(path: Path, data: bytes, record: Record) -> str:
    """How a record stands to the store: new, same, repeated, or else what both found."""
    records.check_link(path)
    if not path.exists():
        return "new"
    if documents.contents(path) == data:
        return "same"
    mine = records.read(path)
    if (mine.outcome, mine.result) == (record.outcome, record.result):
        return "repeated"
    return f"{record.method} × {record.task}, seed {record.seed}: {_score(mine)} here, {_score(record)} there"


def _score(record: Record) -> str:
    own = record.result["evaluations"].get("")
    return views.score(record.result["metric"], own) if own and record.outcome == "ok" else record.outcome


def _named(conflicts: Mapping[str, str]) -> str:
    ids = [f"{Path(name).stem.rpartition('-')[2]} ({what})" for name, what in conflicts.items()]
    more = f" and {len(ids) - _CONFLICTS} more" if len(ids) > _CONFLICTS else ""
    return ", ".join(ids[:_CONFLICTS]) + more


def _write(packed: zips.Members, found: Contents, results: Path, bundle: str, sender: str) -> None:
    """Write the new records, or, where one cannot be written or was written meanwhile with another result, none.

    The note of the import comes first: who is killed here and imports again loses no origin.
    """
    whose = {id: found.whose[id] for name in found.new for id in [Path(name).stem.rpartition("-")[2]]}
    made: list[Path] = []
    try:
        if whose:
            note, new = origins.write(results, bundle, sender, whose)
            made += [note] if new else []
        for name in found.new:
            data = packed[name]
            if files.create(results / name, data):
                made.append(results / name)
            elif _standing(results / name, data, records.parse(data, name)) not in ("same", "repeated"):
                raise BenchError(f"{results / name} was written meanwhile with another result; import again")
    except BaseException:
        for path in made:
            path.unlink(missing_ok=True)
        raise
