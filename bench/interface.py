"""The harness from Python: `bench.run` and `bench.load`, the same as the command line."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bench import executor as executors
from bench import grid, provenance, records
from bench.api import Backend
from bench.errors import BenchError
from bench.training import Context, Progress, backend_of, device_named, device_of

if TYPE_CHECKING:
    import pandas as pd


def run(
    suite: str | None = None,
    *,
    methods: str | Sequence[str] = (),
    tasks: str | Sequence[str] = (),
    seeds: str | int | Iterable[int] | None = None,
    set: str | Sequence[str] = (),
    steps: int | None = None,
    data: str | os.PathLike[str] | None = None,
    results: str | os.PathLike[str] = "results",
    workers: int = 1,
    threads: int | None = None,
    device: str = "cpu",
    backend: Backend = "auto",
    executor: str = "local",
    stack: int = 1,
    report: Callable[[Progress], None] = lambda progress: None,
) -> list[records.Record]:
    """Run a grid and return its records; cells that are recorded already are not run again.

    Args:
        suite: name of a suite or path of a .toml file; or give methods and tasks.
        methods, tasks: names or patterns such as "mann*", or one of them.
        seeds: "0-4" or integers.
        set: settings such as "mann.slots=256", or one of them.
        steps: training steps; short for set=["budget.steps=..."].
        data: folder of data sets; default `$BENCH_DATA`.
        results: folder of records.
        workers, threads: processes, and torch threads in each.
        device: cpu, cuda or auto.
        backend: auto, reference or fused: how it is computed; records say what ran.
        executor: local, slurm or ray; workers are then jobs at once.
        stack: seeds at once in one pass, of methods that can; the same but for rounding, and records say how many.
        report: called with a `Progress` as work goes on.

    Warns of records and checkpoints that another state of a plug-in, or another copy of the data, made.

    Raises:
        BenchError: something in the request or a record is wrong, or cells failed; finished records are kept.
        KeyboardInterrupt: Ctrl-C; run again to resume.
    """
    if data is not None:
        os.environ["BENCH_DATA"] = str(data)
    methods, tasks, set = ([each] if isinstance(each, str) else each for each in (methods, tasks, set))
    plan = grid.plan(suite, methods, tasks, seeds, set, steps)
    context = context_for(Path(results), executor, workers, threads, device, backend_of(backend), stack, report)
    paths = {c.id: records.path_of(context.results, c.spec) for c in plan.cells}
    recorded = {c.id: records.read(paths[c.id]) for c in plan.cells if paths[c.id].exists()}
    pending = [c for c in plan.cells if c.id not in recorded]
    for said in provenance.stale(context.results, plan.cells, recorded, pending):
        warnings.warn(said, stacklevel=2)
    if pending:
        executors.preflight(context.results)
        outcomes = executors.execute(pending, context, workers, name=executor)
        if any(o.status == "interrupted" for o in outcomes):
            raise KeyboardInterrupt
        failed = [o for o in outcomes if o.status == "failed"]
        if failed:
            raise BenchError(f"{len(failed)} of {len(pending)} cells failed; the first: {failed[0].message}")
    return [recorded.get(c.id) or records.read(paths[c.id]) for c in plan.cells]


def load(results: str | os.PathLike[str] = "results") -> pd.DataFrame:
    """All records of a results folder as a DataFrame, one row per record and evaluation setting."""
    from bench import tables

    return tables.frame(records.load(Path(results)).records)


def context_for(
    results: Path,
    executor: str,
    workers: int,
    threads: int | None,
    device: str,
    backend: Backend,
    stack: int = 1,
    report: Callable[[Progress], None] = lambda progress: None,
) -> Context:
    """How to run cells. On other machines each worker finds its device itself, and has one thread unless told.

    Raises:
        BenchError: no such executor or device, fewer than one worker, thread or seed at once, or several elsewhere.
    """
    if stack < 1:
        raise BenchError(f"--stack is at least 1, not {stack}")
    if executors.named(executor) == "local":
        device, threads = device_of(device), threads_for(workers, threads)
    elif stack > 1:
        raise BenchError("--stack is for cells that run here: with --executor slurm or ray each job runs one cell")
    else:
        device, threads = device_named(device), threads_for(workers, 1 if threads is None else threads)
    return Context(results, device, threads, backend, report, stack=stack)


def threads_for(workers: int, threads: int | None) -> int:
    """Torch threads per worker: as asked for, else `$OMP_NUM_THREADS`, else the cores shared out.

    Raises:
        BenchError: fewer than one worker or thread.
    """
    if workers < 1 or (threads is not None and threads < 1):
        raise BenchError("workers and threads must be at least 1")
    usual = os.environ.get("OMP_NUM_THREADS", "")
    return threads or (int(usual) if usual.isdecimal() else 0) or max(1, (os.cpu_count() or 1) // workers)
