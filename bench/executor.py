"""Runs pending cells, here or in worker processes; survives interruption, lost workers and racing runs.

The store is the only shared truth: a cell is done when its record is there. An advisory lock keeps two runs on one
store from computing the same cell at once; without it (a file system that has none) the work is double and harmless.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import multiprocessing
import os
import queue
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from bench import files, records, registry
from bench.api import TrainedMethod
from bench.config import canonical
from bench.errors import BenchError, no_room
from bench.grid import Cell
from bench.training import Context, Interrupted, Progress, run_cell, run_stack

GRACE_S = 1.0
"""After Ctrl-C a step in flight gets this long before it is cut off; its last checkpoint remains."""
WAITING = "waiting for another run"
QUEUED = "queued"
NAMES = ("local", "slurm", "ray")
"""Where cells can run: here, or see `bench.remote`."""


@dataclass(frozen=True)
class Outcome:
    """How one cell ended in this call."""

    cell: Cell
    status: Literal["done", "failed", "interrupted"]
    message: str = ""
    """Why it failed, or what went wrong before it was done."""
    user_error: bool = False


def execute(
    cells: Sequence[Cell],
    context: Context,
    workers: int = 1,
    finished: Callable[[Outcome], None] = lambda outcome: None,
    name: str = "local",
) -> list[Outcome]:
    """Run cells that have no record yet. One cell's failure does not stop the others; Ctrl-C stops all within 2 s.

    workers: how many at once, in processes here or as jobs of the executor with that name.

    Raises:
        BenchError: the executor is not there.
    """
    outcomes: list[Outcome] = []

    def note(outcome: Outcome) -> None:
        outcomes.append(outcome)
        finished(outcome)

    with _interruptible() as stopping:
        if name != "local":
            from bench import remote  # its workers call this module

            remote.spread(name, cells, context, workers, stopping, note)
        else:
            stacks = stacked(cells, context.stack)
            if workers == 1 or len(stacks) == 1:
                _here(stacks, replace(context, stopping=stopping.is_set), note)
            else:
                _pool(stacks, context, workers, stopping, note)
    seen = {o.cell.id for o in outcomes}
    for cell in cells:
        if cell.id not in seen:
            note(Outcome(cell, "interrupted"))
    return outcomes


def failure(results: Path, cell_id: str) -> str | None:
    """Why a cell failed the last time it ran, or None."""
    try:
        return _failure_path(results, cell_id).read_text(encoding="utf-8")
    except OSError:
        return None


def _failure_path(results: Path, cell_id: str) -> Path:
    return results / ".bench" / "failures" / cell_id


def log_failure(results: Path, cell: Cell, message: str, trace: str = "") -> None:
    """Note why a cell failed, for `failure`."""
    with contextlib.suppress(BenchError):
        files.replace(_failure_path(results, cell.id), f"{message}\n\n{cell.label}\n{trace}".encode())


Stack = tuple[Cell, ...]
"""Cells that are trained in one pass."""


def stackable(cell: Cell) -> bool:
    """Whether a cell can train in one pass with others of other seeds."""
    return isinstance(cell.method, TrainedMethod) and cell.method.stacks(cell.task.training())


def stacked(cells: Sequence[Cell], most: int) -> list[Stack]:
    """Cells in stacks of at most so many that differ in their seed alone; of one, where a method trains one by one."""
    groups: dict[Any, list[Cell]] = {}
    for cell in cells:
        alone = most == 1 or not stackable(cell)
        groups.setdefault(cell.id if alone else canonical(cell.spec | {"seed": 0}), []).append(cell)
    return [tuple(group[i : i + most]) for group in groups.values() for i in range(0, len(group), most)]


def _here(stacks: Sequence[Stack], context: Context, note: Callable[[Outcome], None]) -> None:
    # A cell that another run holds is put to the end of the line, and its record is awaited there.
    waiting = list(stacks)
    while waiting:
        busy: list[Stack] = []
        for stack in waiting:
            outcomes = _attempt(stack, context)
            for outcome in outcomes:
                note(outcome)
            if any(outcome.status == "interrupted" for outcome in outcomes):
                return
            busy += _left(stack, outcomes)
        if len(busy) == len(waiting):
            context.report(Progress(busy[0][0].id, WAITING, 0, 0))
            time.sleep(0.2)
        if busy and context.stopping():
            return
        waiting = busy


def _left(stack: Stack, outcomes: Sequence[Outcome]) -> list[Stack]:
    """What of a stack another run holds."""
    left = tuple(cell for cell in stack if all(cell.id != outcome.cell.id for outcome in outcomes))
    return [left] if left else []


def _attempt(stack: Stack, context: Context) -> list[Outcome]:
    """Run those cells that no other process holds, under their locks. Where a stack fails, each is tried alone."""
    with contextlib.ExitStack() as locks:
        try:
            mine = [cell for cell in stack if locks.enter_context(_lock(context.results, cell.id))]
        except BenchError as error:
            return [_failed(cell, error, context) for cell in stack]
        new, together = list[Cell](), ""
        try:
            new = [cell for cell in mine if len(mine) > 1 and not _recorded(cell, context)]
            if len(new) > 1:
                run_stack(new, context)
        except (Interrupted, KeyboardInterrupt):
            return [Outcome(cell, "done" if _recorded(cell, context) else "interrupted") for cell in mine]
        except Exception as error:  # what is wrong with which cell shows when it is tried alone
            together = f"{len(new)} seeds in one pass failed, so each was tried alone: {_said(error)}"
        # Not before the error is gone, which holds on to all that the stack has made.
        return [_run(cell, context, together if cell in new else "") for cell in mine]


def _recorded(cell: Cell, context: Context) -> bool:
    path = records.path_of(context.results, cell.spec)
    records.check_link(path)
    return path.exists()


def _run(cell: Cell, context: Context, message: str = "") -> Outcome:
    """Run a cell whose lock is held. message: what is to be said where it is done."""
    try:
        if not _recorded(cell, context):
            run_cell(cell, context)
        with contextlib.suppress(OSError):  # an old note costs nothing
            _failure_path(context.results, cell.id).unlink(missing_ok=True)
        return Outcome(cell, "done", message)
    except (Interrupted, KeyboardInterrupt):
        return Outcome(cell, "interrupted")
    except Exception as error:
        return _failed(cell, error, context)


def _failed(cell: Cell, error: Exception, context: Context) -> Outcome:
    message = _said(error)
    log_failure(context.results, cell, message, traceback.format_exc())
    return Outcome(cell, "failed", message, isinstance(error, BenchError) or no_room(error))


def _said(error: Exception) -> str:
    if no_room(error):
        said = str(error).partition("\n")[0].rpartition("DefaultCPUAllocator: ")[2]
        said = f" ({said})" if said else ""
        return f"there is no room in memory{said}; make the batch or the sizes of the method or its task smaller"
    return str(error) if isinstance(error, BenchError) else f"{type(error).__name__}: {error}"


def _pool(
    stacks: Sequence[Stack],
    context: Context,
    workers: int,
    stopping: threading.Event,
    note: Callable[[Outcome], None],
) -> None:
    """Run cells in worker processes. Those that ran when a worker was lost are tried again alone, one by one."""
    waiting, alone = list(stacks), list[Cell]()
    while waiting and not stopping.is_set():
        lost, running = _round(waiting, context, workers, stopping, note)
        suspects = [c for c in lost if c.id in running] or lost
        alone += suspects
        waiting = [(c,) for c in lost if c not in suspects]
    for cell in alone:
        if not stopping.is_set() and _round([(cell,)], context, 1, stopping, note)[0] and not stopping.is_set():
            message = "its worker process was lost twice (killed, or out of memory); run again with fewer --workers"
            log_failure(context.results, cell, message)
            note(Outcome(cell, "failed", message))


def _round(
    stacks: Sequence[Stack],
    context: Context,
    workers: int,
    stopping: threading.Event,
    note: Callable[[Outcome], None],
) -> tuple[list[Cell], set[str]]:
    """Run cells until all ended or a worker is lost. Returns the cells that got lost, and the ids that were running."""
    spawn = multiprocessing.get_context("spawn")
    # Made anew each time: a killed process may have held their locks.
    stop, reports = spawn.Event(), spawn.Queue()
    pool = ProcessPoolExecutor(min(workers, len(stacks)), spawn, initializer=_start_worker, initargs=(stop, reports))
    lost: list[Cell] = []
    running: set[str] = set()
    doomed: list[Any] = []
    try:
        with _sigint_held():
            futures: dict[Future[list[Outcome]], Stack] = {pool.submit(_work, s, plain(context)): s for s in stacks}
        while futures:
            for progress in _news(reports):
                running.add(progress.id)
                context.report(progress)
            if stopping.is_set() and not stop.is_set():
                stop.set()
                doomed = list(pool._processes.values())  # shutdown forgets them
                pool.shutdown(wait=False, cancel_futures=True)
            for future in [f for f in futures if f.done()]:
                stack = futures.pop(future)
                if future.cancelled():
                    continue
                try:
                    outcomes = future.result()
                    for left in [] if stop.is_set() else _left(stack, outcomes):
                        context.report(Progress(left[0].id, WAITING, 0, 0))
                        time.sleep(0.1)
                        futures[pool.submit(_work, left, plain(context))] = left
                except BrokenProcessPool:
                    lost += stack
                    continue
                running -= {cell.id for cell in stack}
                for outcome in outcomes:
                    note(outcome)
    except KeyboardInterrupt:
        if not stopping.is_set():
            raise
    finally:
        for process in doomed:
            process.kill()  # safe at any moment: files are whole or not there
        pool.shutdown(wait=True, cancel_futures=True)
    return lost, running


def _news(reports: Any) -> Iterator[Progress]:
    """What workers have said by now; waits a moment for the first."""
    with contextlib.suppress(queue.Empty):
        yield reports.get(timeout=0.1)
        while True:
            yield reports.get_nowait()


@contextlib.contextmanager
def _sigint_held() -> Iterator[None]:
    """Processes started here never see Ctrl-C, not even while they import; for us it waits until the end."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_stop: Any = None
_reports: Any = None


def _start_worker(stop: Any, reports: Any) -> None:
    global _stop, _reports
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides, and tells through the event
    _stop, _reports = stop, reports
    threading.Thread(target=_die_with_parent, args=(os.getppid(),), daemon=True).start()
    registry.load()  # cells of plug-in files cannot be unpickled before


def _die_with_parent(parent: int) -> None:
    """A worker whose parent was killed must not go on holding its cell."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _work(stack: Stack, context: Context) -> list[Outcome]:
    for cell in stack:
        _reports.put(Progress(cell.id, "starting", 0, cell.budget.steps))
    last: dict[str, float] = {}

    def report(progress: Progress) -> None:
        if time.monotonic() - last.get(progress.id, -math.inf) > 0.2 or progress.phase != "training":
            last[progress.id] = time.monotonic()
            _reports.put(progress)

    return _attempt(stack, replace(context, report=report, stopping=_stop.is_set))


def plain(context: Context) -> Context:
    """A context that can be pickled: nobody to report to, and nothing that stops it."""
    return replace(context, report=_ignore, stopping=_never)


def _ignore(progress: Progress) -> None:
    pass


def _never() -> bool:
    return False


@contextlib.contextmanager
def _lock(results: Path, cell_id: str) -> Iterator[bool]:
    """An advisory lock on a cell; the system frees it when the process ends, however it ends."""
    path = results / ".bench" / "locks" / cell_id
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_CREAT | os.O_RDWR, 0o644)
    except OSError as error:
        raise BenchError(f"cannot write in {results}: {error.strerror}; choose another --results folder") from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        except OSError:
            pass  # a file system without locks
        yield True
    finally:
        os.close(handle)


@contextlib.contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """First Ctrl-C sets the event; a step that takes longer than the grace period, or a second Ctrl-C, is cut off."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def ask(signum: int, frame: Any) -> None:
        if event.is_set():
            raise KeyboardInterrupt
        event.set()
        signal.setitimer(signal.ITIMER_REAL, GRACE_S)

    def cut(signum: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)}
    signal.signal(signal.SIGINT, ask)
    signal.signal(signal.SIGTERM, ask)
    signal.signal(signal.SIGALRM, cut)
    try:
        yield event
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


def named(choice: str) -> str:
    """An executor's name.

    Raises:
        BenchError: there is no such executor.
    """
    if choice not in NAMES:
        raise BenchError(registry.unknown("executor", choice, NAMES))
    return choice


def preflight(results: Path) -> None:
    """Make sure that the results folder can be written, before any work is spent.

    Raises:
        BenchError: it cannot.
    """
    probe = results / ".bench" / f"probe-{os.getpid()}"
    files.replace(probe, canonical({"pid": os.getpid()}).encode())
    probe.unlink(missing_ok=True)
