"""What `bench run`, `bench run --dry-run` and `bench status` do: plan against store, progress, a table at the end."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from bench import checkpoints, executor, grid, live, origins, provenance, records, views
from bench.api import Backend, TrainedMethod
from bench.errors import BenchError
from bench.executor import Outcome, stackable
from bench.grid import Cell
from bench.interface import context_for
from bench.records import Record
from bench.training import Context

DONE, FAILED, USER_ERROR, INTERRUPTED = 0, 1, 2, 130
NAMED = 10
ROWS = 100
"""Longer tables are cut; `bench status` counts them all."""


@dataclass(frozen=True)
class Request:
    """Cells to run, and how."""

    suite: str | None
    cells: Sequence[Cell]
    notes: Sequence[str]
    results: Path
    workers: int = 1
    threads: int | None = None
    device: str = "cpu"
    backend: Backend = "auto"
    executor: str = "local"
    stack: int = 1
    picture: bool = True


@dataclass(frozen=True)
class Store:
    """Which of some cells are recorded; problems has one sentence for each record that cannot be used."""

    recorded: dict[str, Record]
    pending: list[Cell]
    problems: list[str]


def look_up(results: Path, cells: Sequence[Cell]) -> Store:
    """Sort cells by what the store has."""
    store = Store({}, [], [])
    for cell in cells:
        path = records.path_of(results, cell.spec)
        if not path.exists():
            store.pending.append(cell)
            continue
        try:
            store.recorded[cell.id] = records.read(path)
        except BenchError as problem:
            store.problems.append(
                f"{problem}; its cell counts as neither done nor pending until the file is moved away"
            )
    return store


def planned(plan: Callable[..., grid.Plan]) -> grid.Plan:
    """The cells of a `grid.plan`; where their data or a package is missing here, all are named, with a note."""
    try:
        return plan()
    except BenchError as problem:
        offline = plan(offline=True)
        return replace(offline, notes=[*offline.notes, f"none of these can run here: {problem}"])


def _context(request: Request) -> Context:
    return context_for(
        request.results, request.executor, request.workers, request.threads, request.device, request.backend,
        request.stack,
    )  # fmt: skip


def dry_run(request: Request, as_json: bool) -> tuple[int, dict[str, Any]]:
    """Print the cells and what is recorded; run nothing."""
    out = views.console(stderr=as_json)
    _context(replace(request, device="cpu"))  # what a run would refuse, this does; its device may be elsewhere
    store = look_up(request.results, request.cells)
    _say_notes(request, store)
    made = views.table("id", "method", "task", "seed", "recorded", right=("seed",))
    for cell in request.cells:
        made.add_row(cell.id, *views.names(cell.spec), str(cell.seed), "yes" if cell.id in store.recorded else "no")
    out.print(made)
    out.print(f"{_cells(len(request.cells))}, {len(store.recorded)} recorded, {len(store.pending)} to run")
    status = {c.id: "pending" for c in store.pending} | dict.fromkeys(store.recorded, "recorded")
    return DONE, _told(request, status, {})


def run(request: Request, as_json: bool) -> tuple[int, dict[str, Any]]:
    """Run what is not recorded; the exit code, and the call as data."""
    out, err = views.console(stderr=as_json), views.console(stderr=True)
    context = _context(request)
    store = look_up(request.results, request.cells)
    _say_notes(request, store)
    begun = checkpoints.begun(request.results, (c.id for c in store.pending))
    out.print(
        f"{_cells(len(request.cells))}: {len(store.recorded)} recorded already, {len(store.pending)} to run"
        + (f", {len(begun)} of them from a checkpoint" if begun else "")
    )
    outcomes: list[Outcome] = []
    if store.pending:
        executor.preflight(request.results)
        if request.executor != "local":
            out.print(f"{request.executor}: at most {request.workers} at once (--workers)")
        with live.display(store.pending, err) as display:
            context.report = display.report
            outcomes = executor.execute(
                store.pending, context, request.workers, lambda o: display.finished(o, _ended(request.results, o)),
                request.executor,
            )  # fmt: skip
    new = look_up(request.results, [o.cell for o in outcomes if o.status == "done"]).recorded
    failed = [o for o in outcomes if o.status == "failed"]
    interrupted = any(o.status == "interrupted" for o in outcomes)
    shown = list((new or ({} if failed else store.recorded)).values())
    rows = [(r, "diverged" if r.outcome != "ok" else "done" if r.id in new else "recorded") for r in shown[:ROWS]]
    if rows or failed:
        out.print(views.results_table(rows, [(o.cell.spec, "failed", o.cell.id) for o in failed[:ROWS]]))
        if len(shown) > ROWS:
            out.print(f"… and {len(shown) - ROWS} more; `bench status` counts them all")
    if new:
        out.print(f"{len(new)} recorded now, {len(store.recorded)} skipped because they were recorded already")
    if any(record.env.get("dirty") for record in new.values()):
        out.print("mannbench's own code here has changes that are not committed: tables and comparisons leave these "
                  "records out unless --dirty is given", soft_wrap=True)  # fmt: skip
    for said in dict.fromkeys(" ".join(o.message.split()) for o in outcomes if o.status == "done" and o.message):
        err.print(f"warning: {said}", soft_wrap=True)
    for o in failed[:NAMED]:
        err.print(f"error: {o.cell.label} failed: {' '.join(o.message.split())}{_log(request, o.cell)}", soft_wrap=True)
    if len(failed) > NAMED:
        counts = _command("status", request.suite, request.results)
        err.print(f"error: {len(failed) - NAMED} more failed; `{counts}` names them", soft_wrap=True)
    status = {o.cell.id: o.status for o in outcomes} | dict.fromkeys(store.recorded, "recorded")
    told = _told(request, status | {r.id: "diverged" for r in new.values() if r.outcome != "ok"},
                 {o.cell.id: o.message for o in outcomes})  # fmt: skip
    if interrupted:
        return INTERRUPTED, told
    everything = [*store.recorded.values(), *new.values()]
    if everything:
        told["picture"] = _draw(request, everything) if request.picture else None
        if told["picture"]:
            out.print(f"picture: {told['picture']}", soft_wrap=True)
        out.print(f"next: {_next(request, everything)}", soft_wrap=True)
    if any(not o.user_error for o in failed):
        return FAILED, told
    return (USER_ERROR if failed or store.problems else DONE), told


def status(suite: str | None, results: Path, as_json: bool) -> dict[str, Any]:
    """Count cells by method, task and steps of training: those of a suite, or all that left a trace in the store."""
    out, err = views.console(stderr=as_json), views.console(stderr=True)
    counts: dict[tuple[str, str, int], dict[str, int]] = {}

    def count(spec: Any, what: str) -> None:
        key = (*views.names(spec), spec["budget"]["steps"])
        counts.setdefault(key, dict.fromkeys(("done", "pending", "diverged", "failed"), 0))[what] += 1

    failures: dict[str, str] = {}
    machines: list[dict[str, Any]] = []
    if suite is None:
        loaded = records.load(results)
        problems, known = loaded.problems, {r.id for r in loaded.records}
        unfinished = sorted(checkpoints.known(results) - known)
        for record in loaded.records:
            count(record.spec, "done" if record.outcome == "ok" else "diverged")
        if whose := origins.load(results):
            machines = origins.rows(origins.machine(record, whose) for record in loaded.records)
        folder = results / ".bench" / "failures"
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            why = executor.failure(results, path.name)
            if path.name not in known and not path.name.startswith(".") and why:
                failures[path.name] = _blame(why)
    else:
        plan = planned(partial(grid.plan, suite))
        store = look_up(results, plan.cells)
        problems, unfinished = store.problems, [cell.id for cell in store.pending]
        for note in plan.notes:
            out.print(note, soft_wrap=True)
        for cell in plan.cells:
            why = executor.failure(results, cell.id)
            if cell.id in store.recorded:
                count(cell.spec, "done" if store.recorded[cell.id].outcome == "ok" else "diverged")
            elif cell in store.pending:
                count(cell.spec, "failed" if why else "pending")
                failures |= {cell.id: _blame(why)} if why else {}
    for problem in problems:
        err.print(f"warning: {problem}", soft_wrap=True)
    rows = [{"method": m, "task": t, "steps": steps} | row for (m, t, steps), row in counts.items()]
    if rows:
        numbers = ("done", "pending", "diverged", "failed")
        made = views.table("method", "task", "steps", *numbers, right=("steps", *numbers))
        for row in rows:
            made.add_row(str(row["method"]), str(row["task"]), *(str(row[k] or "·") for k in ("steps", *numbers)))
        out.print(made)
    if machines:
        out.print(origins.table(machines))
    total = {k: sum(row[k] for row in counts.values()) for k in ("done", "pending", "diverged", "failed")}
    total["failed"] = max(total["failed"], len(failures))
    out.print(", ".join(f"{n} {k}" for k, n in total.items() if suite or k != "pending") + f" in {results}")
    begun = checkpoints.begun(results, unfinished)
    if begun:
        named = [f"{cell_id} at step {step}" for cell_id, step in [*begun.items()][:NAMED]]
        more = ", …" if len(begun) > NAMED else ""
        out.print(
            f"{_cells(len(begun))} begun and not ended, for the same command to go on with: {', '.join(named)}{more}",
            soft_wrap=True,
        )
    for cell_id, why in failures.items():
        out.print(f"failed: {why} (log: {results / '.bench' / 'failures' / cell_id})", soft_wrap=True)
    if suite and total["pending"] + total["failed"]:
        out.print(f"next: {_command('run', suite, results)}", soft_wrap=True)
    return {"rows": rows, "total": total, "failures": failures, "begun": begun, "problems": problems,
            "machines": machines}  # fmt: skip


def _say_notes(request: Request, store: Store) -> None:
    err = views.console(stderr=True)
    for note in request.notes:
        err.print(f"note: {note}", soft_wrap=True)
    alone = {c.method.name for c in request.cells if isinstance(c.method, TrainedMethod) and not stackable(c)}
    if request.stack > 1 and alone:
        err.print(f"note: --stack changes nothing here for {', '.join(sorted(alone))}: one seed after another")
    stale = provenance.stale(request.results, request.cells, store.recorded, store.pending)
    for problem in [*store.problems, *stale]:
        err.print(f"warning: {problem}", soft_wrap=True)


def _ended(results: Path, outcome: Outcome) -> str:
    if outcome.status != "done":
        return " ".join(outcome.message.split()) or outcome.status
    try:
        record = records.read(records.path_of(results, outcome.cell.spec))
    except BenchError as problem:
        return str(problem)
    if record.outcome != "ok":
        return record.outcome
    metric = record.result["metric"]
    return f"{metric} {views.score(metric, record.result['evaluations'][''])}"


def _told(request: Request, status: dict[str, str], messages: dict[str, str]) -> dict[str, Any]:
    cells = [
        {
            "id": c.id,
            "method": c.method.name,
            "task": c.task.name,
            "seed": c.seed,
            "status": status.get(c.id, "unusable record"),
            "message": messages.get(c.id, ""),
            "record": str(records.path_of(request.results, c.spec)),
        }
        for c in request.cells
    ]
    return {"cells": cells, "notes": list(request.notes)}


def _draw(request: Request, shown: Sequence[Record]) -> str | None:
    """The overview picture: a help, never a reason to fail."""
    name = Path(request.suite).stem if request.suite else "run"
    path = request.results / "pictures" / f"{name}.png"
    part = path.with_name(f".{name}-{os.getpid()}.png")
    try:
        from bench import plots

        path.parent.mkdir(parents=True, exist_ok=True)
        plots.overview(list(shown), part, name)
        os.replace(part, path)
    except Exception as error:
        views.console(stderr=True).print(f"warning: no picture: {type(error).__name__}: {error}", soft_wrap=True)
        return None
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)
    return str(path)


def _log(request: Request, cell: Cell) -> str:
    path = request.results / ".bench" / "failures" / cell.id
    return f" (log: {path})" if path.is_file() else ""


def _next(request: Request, shown: Sequence[Record]) -> str:
    if request.suite and {r.id for r in shown} <= {c.id for c in grid.plan(request.suite, offline=True).cells}:
        return _command("tables", request.suite, request.results)
    return _command("show", shown[-1].id, request.results)


def _command(verb: str, what: str | None, results: Path) -> str:
    where = [] if results == Path("results") else ["--results", str(results)]
    return shlex.join(["bench", verb, *([what] if what else []), *where])


def _blame(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return f"{lines[1]}: {lines[0]}" if len(lines) > 1 else text.strip()


def _cells(count: int) -> str:
    return f"{count} cell{'s' if count != 1 else ''}"
