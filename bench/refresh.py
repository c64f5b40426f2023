"""`bench tables`: which suites have records, what their tables must say, and which files do not say it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench import benchmarks, files, grid, readme, records, tables, views
from bench.config import digest
from bench.errors import BenchError
from bench.records import Record

OTHER = "other"
"""Name of the table of records that belong to no suite."""


def refresh(suites: Sequence[str], results: Path, check: bool, dirty: bool) -> int:
    """Write what is stale, or with check name it; the exit code.

    Raises:
        BenchError: no such suite, or no record of it.
    """
    out, err = views.console(), views.console(stderr=True)
    loaded = records.load(results)
    for problem in loaded.problems:
        err.print(f"warning: {problem}; it is left out", soft_wrap=True)
    rendered = _rendered(suites, results, loaded.records, dirty) | ({} if suites else benchmarks.render(results, dirty))
    folder = results / "tables"
    stale = tables.check(rendered, folder)
    orphans = [] if suites else sorted(_files(folder) - rendered.keys())
    page = None if suites else _page(results, loaded.records)
    if check:
        for path in [*(folder / name for name in stale), *([page[0]] if page else [])]:
            out.print(f"stale: {path}", soft_wrap=True)
        for name in orphans:
            out.print(f"stale: {folder / name} has no records any more; delete it", soft_wrap=True)
        if not stale and not orphans and not page:
            out.print(f"{len(rendered)} files in {folder} are what the records say")
        return 1 if stale or orphans or page else 0
    for name in tables.write(rendered, folder):
        out.print(f"wrote {folder / name}", soft_wrap=True)
    if page:
        files.replace(page[0], page[1].encode())
        out.print(f"wrote the table in {page[0]}", soft_wrap=True)
    out.print(f"{len(rendered) - len(stale)} files were up to date")
    return 0


def _rendered(suites: Sequence[str], results: Path, found: Sequence[Record], dirty: bool) -> dict[str, str]:
    rendered: dict[str, str] = {}
    known: set[str] = set()
    for name in suites or grid.suites():
        # Which tables there are must not depend on the data of this machine.
        specs = [cell.spec for cell in grid.plan(name, offline=True).cells]
        mine = {digest(spec) for spec in specs}
        known |= mine
        # A task that needs data and has no record at all was left out for want of it.
        there = {r.task for r in found if r.id in mine}
        specs = [spec for spec in specs if not spec["task"]["data"] or spec["task"]["name"] in there]
        if there:
            title = str(grid.read_suite(name).get("title", ""))
            rendered |= tables.render(found, Path(name).stem, specs, title=title, dirty=dirty)
        elif suites:
            raise BenchError(f"{results} has no record of the suite {name}; `bench run {name}` makes them")
    others = [r for r in found if r.id not in known]
    if others and not suites:
        rendered |= tables.render(others, OTHER, title="Records outside of any suite", dirty=dirty)
    return rendered


def _page(results: Path, found: Sequence[Record]) -> tuple[Path, str] | None:
    """The README beside the results folder and what it should say; None where it is true or has no table of ours."""
    path = results.resolve().parent / "README.md"
    if results.resolve().name != "results":  # a folder of trials beside the committed one does not speak for it
        return None
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None

    def table(suites: Sequence[str]) -> str:
        wanted = {cell.id for name in suites for cell in grid.plan(name, offline=True).cells}
        return tables.headline([r for r in found if r.id in wanted])

    filled = readme.fill(text, table)
    return None if filled == text else (path, filled)


def _files(folder: Path) -> set[str]:
    return {p.name for kind in ("*.md", "*.csv") for p in folder.glob(kind) if p.name != "README.md"}
