"""`bench tables`: which suites have records, what their tables and pictures must say, and which files do not say it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from bench import (
    benchmarks,
    charts,
    coverage,
    data,
    files,
    frames,
    grid,
    latex,
    profile_tables,
    provenance,
    published,
    readme,
    records,
    reproductions,
    scaling_plots,
    tables,
    views,
)
from bench.errors import BenchError
from bench.records import Record

OTHER = "other"
"""Name of the table of records that belong to no suite."""


def refresh(suites: Sequence[str], results: Path, check: bool, dirty: bool) -> int:
    """Write what is stale, or with check name it; the exit code.

    Raises:
        BenchError: no such suite, or no record of it; no record at all; or no such folder, to check.
    """
    if check:  # a mistyped name must not pass for tables that are true
        records.check_folder(results)
    out, loaded = views.console(), records.load(results)
    views.left_out(loaded.problems)
    asked = {cell.id for name in suites for cell in grid.plan(name, offline=True).cells}
    views.warn(provenance.mixed((r for r in loaded.records if not suites or r.id in asked), dirty))
    if loaded.records and not dirty and all(r.env.get("dirty") for r in loaded.records):
        views.warn([frames.UNCOMMITTED.format(results)])
    found = collect(suites, results, loaded.records, dirty)
    if not suites:
        measured = benchmarks.load(results, dirty)
        found.tables.update(benchmarks.render(measured))
        found.tables.update(profile_tables.render(profile_tables.load(results, dirty)))
        found.pictures.update(scaling_plots.pictures(measured))
        found.pictures.update(coverage.pictures(coverage.load(results)))
    found.tables.update(latex.beside(found.tables))
    folder, gallery = results / "tables", results / "pictures"
    orphans = [] if suites else _orphans(folder, gallery, found)
    if not found.tables and not found.pictures and not orphans:
        raise BenchError(f"there are no records in {results}; `bench run` makes them")
    stale = [*(folder / name for name in tables.check(found.tables, folder)),
             *(gallery / name for name in charts.check(found.pictures, gallery))]  # fmt: skip
    pages = {} if suites else _pages(results, loaded.records)
    if check:
        for path in [*stale, *pages]:
            out.print(f"stale: {path}", soft_wrap=True)
        for path in orphans:
            out.print(
                f"stale: {path} is of no suite here that has records; delete it, unless it is of a suite of yours",
                soft_wrap=True,
            )
        if not stale and not orphans and not pages:
            out.print(f"{len(found.tables)} tables and {len(found.pictures)} pictures are what the records say")
        return 1 if stale or orphans or pages else 0
    written = [*(folder / name for name in tables.write(found.tables, folder)),
               *(gallery / name for name in charts.write(found.pictures, gallery))]  # fmt: skip
    for path in written:
        out.print(f"wrote {path}", soft_wrap=True)
    for path, text in pages.items():
        files.replace(path, text.encode())
        out.print(f"wrote the table in {path}", soft_wrap=True)
    out.print(f"{len(found.tables) + len(found.pictures) - len(written)} files were up to date")
    return 0


def collect(suites: Sequence[str], results: Path, found: Sequence[Record], dirty: bool) -> tables.Report:
    """The tables and pictures of records: of these suites, or of all and of what belongs to none.

    Raises:
        BenchError: no such suite, or no record of it.
    """
    whole = tables.Report({}, {})
    known: set[str] = set()
    for name in suites or grid.suites():
        # Which tables there are must not depend on the data of this machine.
        cells = grid.plan(name, offline=True).cells
        mine = {cell.id for cell in cells}
        known |= mine
        there = {r.task for r in found if r.id in mine}
        # A task that needs data and has no record at all was left out for want of it; but where the data cannot be
        # downloaded, what others published is shown meanwhile.
        if suites or _committed(results):
            there |= {cell.task.name for cell in cells if cell.task.dataset in data.BY_HAND}
        specs = [cell.spec for cell in cells if not cell.spec["task"]["data"] or cell.task.name in there]
        if there:
            title = str(grid.read_suite(name).get("title", ""))
            _add(whole, tables.report(found, Path(name).stem, specs, title=title, dirty=dirty))
        elif suites:
            raise BenchError(f"{results} has no record of the suite {name}; `bench run {name}` makes them")
    others = [r for r in found if r.id not in known]
    if others and not suites:
        _add(whole, tables.report(others, OTHER, title="Records outside of any suite", dirty=dirty))
    return whole


def _add(whole: tables.Report, part: tables.Report) -> None:
    whole.tables.update(part.tables)
    whole.pictures.update(part.pictures)


def _committed(results: Path) -> bool:
    """Whether this folder speaks for the project: it has the published figures beside its records."""
    return (results / published.FILE).is_file()


def _pages(results: Path, found: Sequence[Record]) -> dict[Path, str]:
    """The pages beside the results folder that have tables of ours and are not true, and what they should say."""
    root = results.resolve().parent
    if not _committed(results):
        return {}

    def of(suites: Sequence[str]) -> list[Record]:
        wanted = {cell.id for name in suites for cell in grid.plan(name, offline=True).cells}
        return [r for r in found if r.id in wanted]

    def of_suites(suites: Sequence[str]) -> str:
        return tables.headline(of(suites))

    def reproduced(suites: Sequence[str]) -> str:
        return "\n\n".join(reproductions.table(of([name])) for name in suites)

    texts: dict[Path, Callable[[Sequence[str]], str]] = {
        root / "README.md": of_suites,
        root / reproductions.PAGE: reproduced,
    }
    simulated = coverage.load(results)
    if simulated:
        texts[root / coverage.PAGE] = lambda names: coverage.table(simulated, names)
    stale = {}
    for path, table in texts.items():
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        filled = readme.fill(text, table)
        if filled != text:
            stale[path] = filled
    return stale


def _orphans(folder: Path, gallery: Path, found: tables.Report) -> list[Path]:
    """Tables, and pictures of `bench.charts`, that no records stand behind."""
    kinds = ("*.md", "*.csv", "*.tex")
    kept = [p for kind in kinds for p in folder.glob(kind) if p.name not in {*found.tables, "README.md"}]
    drawn = [p for p in gallery.glob("*.png") if p.name not in found.pictures and charts.digest_of(p)]
    return sorted([*kept, *drawn])
