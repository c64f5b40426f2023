"""Cells on other machines: executors by name, each as `concurrent.futures` has them, and the loop that feeds them.

A worker runs its cell as `bench run` of that cell alone would: its lock, checkpoints and record lie in the results
folder, which the machines share. The record is also what a job returns, so that a folder that is not shared, or is slow
to show a new file, gets it all the same; the first writer wins.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import math
import os
import re
import shutil
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

from bench import executor, files, grid, records
from bench.errors import BenchError
from bench.executor import GRACE_S, QUEUED, Outcome
from bench.grid import Cell
from bench.training import Context, Progress, device_of

CLUSTER = "slurm"
"""Which of submitit's executors takes the jobs; its local one needs no Slurm."""
SLICE_MIN = 60
"""Minutes that a Slurm job asks for; one that needs longer is queued again and resumes."""
TRAVELLING = ("BENCH_DATA", "BENCH_CACHE", "BENCH_PLUGINS")
POLL_S, TOLD_S = 0.5, 2.0
PATIENCE_S = 30.0
"""So long after its last job an executor that had a limit may still refuse the next."""
AGAIN = "what it saved is kept; run the same command again to resume"


class Ended(NamedTuple):
    """What a job returns."""

    status: Literal["done", "failed", "interrupted"]
    message: str = ""
    user_error: bool = False
    record: bytes = b""


class Job(Protocol):
    """What is needed of a `concurrent.futures.Future`; jobs of submitit have it."""

    def done(self) -> bool:
        """Whether it has ended, in whichever way."""

    def result(self) -> Ended:
        """What it returned, or the exception that ended it."""

    def cancel(self) -> Any:
        """Ask it to stop."""


class Pool(Protocol):
    """What is needed of a `concurrent.futures.Executor`; those of submitit have it."""

    def submit(self, fn: Callable[[], Ended], /) -> Job:
        """Have a function called elsewhere."""


@dataclass(frozen=True)
class Work:
    """One cell as it travels: by its spec, for classes of plug-in files cannot be unpickled before they are loaded."""

    id: str
    spec: dict[str, Any]
    context: Context
    environ: Mapping[str, str]

    def __call__(self) -> Ended:
        """Run the cell, on the worker.

        Raises:
            SystemExit: it was told to stop. Without a result, a job that Slurm preempted is waited for until it ran
                again, and one that was cancelled is not.
        """
        os.environ.update(self.environ)
        results = self.context.results
        try:
            cell = grid.from_spec(self.spec)
            cell.task.check_data()
            if cell.id != self.id:
                raise BenchError("its worker has other data or another version of mannbench than this machine")
            context = replace(self.context, device=device_of(self.context.device), report=_teller(results))
        except BenchError as error:
            return Ended("failed", str(error), user_error=True)
        (outcome,) = executor.execute([cell], context)
        if outcome.status == "interrupted":
            raise SystemExit("interrupted")
        done = outcome.status == "done"
        record = records.path_of(results, self.spec).read_bytes() if done else b""
        return Ended(outcome.status, outcome.message, outcome.user_error, record)

    def checkpoint(self) -> Any:
        """What submitit queues again when Slurm preempts a job or its time is up."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def spread(
    name: str,
    cells: Sequence[Cell],
    context: Context,
    most: int,
    stopping: threading.Event,
    note: Callable[[Outcome], None],
) -> None:
    """Run cells as jobs of an executor, at most so many at once, until all have ended or it is time to stop.

    Raises:
        BenchError: the executor is not there, or takes no job.
    """
    results = context.results
    plain = replace(executor.plain(context), results=results.absolute())
    environ = {key: _absolute(os.environ[key]) for key in TRAVELLING if key in os.environ}
    waiting, jobs, last = deque(cells), dict[str, tuple[Cell, Job]](), dict[str, Progress]()
    busy = -math.inf  # when a job was last there
    limit, raised = most, 0.0
    with _pool(name, plain) as pool:
        try:
            while (waiting or jobs) and not stopping.is_set():
                if limit < most and time.monotonic() - raised > PATIENCE_S:
                    limit, raised = min(most, 2 * limit), time.monotonic()
                while waiting and len(jobs) < limit:
                    cell = waiting[0]
                    _news(results, cell.id).unlink(missing_ok=True)
                    try:
                        jobs[cell.id] = cell, _submitted(pool, Work(cell.id, cell.spec, plain, environ))
                    except Exception as error:
                        if time.monotonic() - busy > PATIENCE_S:
                            raise BenchError(f"{name} takes no job: {_reason(error)}") from error
                        limit, raised = max(1, len(jobs)), time.monotonic()  # no more at once than it takes now
                        break
                    busy = time.monotonic()
                    waiting.popleft()
                    context.report(Progress(cell.id, QUEUED, 0, cell.budget.steps))
                for cell, job in list(jobs.values()):
                    busy = time.monotonic()
                    if job.done():
                        del jobs[cell.id]
                        note(_outcome(name, cell, job, results))
                    elif (progress := _told(results, cell.id)) and progress != last.get(cell.id):
                        last[cell.id] = progress
                        context.report(progress)
                stopping.wait(POLL_S)
        except KeyboardInterrupt:
            if not stopping.is_set():
                raise
        finally:
            _cancel([job for _, job in jobs.values()])


def _submitted(pool: Pool, work: Work) -> Job:
    with contextlib.redirect_stderr(io.StringIO()):  # submitit prints there what it raises
        return pool.submit(work)


def _cancel(jobs: Sequence[Job]) -> None:
    """Cancel jobs, and give them a moment to save what they have."""
    signal.setitimer(signal.ITIMER_REAL, 0)  # nothing is computed here that would have to be cut off
    if not jobs:
        return
    with contextlib.suppress(Exception), ThreadPoolExecutor(16) as threads:  # one call of scancel takes its time
        list(threads.map(lambda job: job.cancel(), jobs))
    until = time.monotonic() + GRACE_S
    while time.monotonic() < until and not all(job.done() for job in jobs):
        time.sleep(0.05)


def _outcome(name: str, cell: Cell, job: Job, results: Path) -> Outcome:
    _news(results, cell.id).unlink(missing_ok=True)
    try:
        ended = job.result()
    except Exception as error:
        message = f"its {name} worker was lost ({_reason(error)}); {AGAIN}"
        executor.log_failure(results, cell, message, str(error))
        return Outcome(cell, "failed", message, user_error=True)
    if ended.status == "interrupted":  # not by us
        return Outcome(cell, "failed", f"its {name} job was cancelled; {AGAIN}", user_error=True)
    if ended.record:
        files.create(records.path_of(results, cell.spec), ended.record)
    return Outcome(cell, ended.status, ended.message, ended.user_error)


def _reason(error: Exception) -> str:
    """The line that says most of an error of submitit or Ray, which quote whole logs."""
    text = str(error)
    telling = re.findall(r"(?m)^(?:[\w.]+(?:Error|Exception): .*|.*\berror: .*)|\bstate: \w+", text)
    return (telling or text.split("\n") or [""])[-1 if telling else 0].strip()[:200] or type(error).__name__


def _absolute(paths: str) -> str:
    return os.pathsep.join(os.path.abspath(path) for path in paths.split(os.pathsep) if path)


def _news(results: Path, cell_id: str) -> Path:
    return results / ".bench" / "progress" / f"{cell_id}.json"


def _teller(results: Path) -> Callable[[Progress], None]:
    """Leaves a worker's progress in the store, for whoever waits for it; a help, never a reason to fail."""
    last = (0.0, "")

    def tell(progress: Progress) -> None:
        nonlocal last
        if time.monotonic() - last[0] > TOLD_S or progress.phase != last[1]:
            last = time.monotonic(), progress.phase
            with contextlib.suppress(BenchError):
                files.replace(_news(results, progress.id), json.dumps(asdict(progress)).encode())

    return tell


def _told(results: Path, cell_id: str) -> Progress | None:
    try:
        return Progress(**json.loads(_news(results, cell_id).read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


@contextlib.contextmanager
def _pool(name: str, context: Context) -> Iterator[Pool]:
    """The executor of a name."""
    if name == "slurm":
        yield _slurm(context)
    else:
        with _ray(context) as pool:
            yield pool


def _slurm(context: Context) -> Pool:
    try:
        import submitit
    except ImportError:
        raise BenchError("--executor slurm needs submitit; pip install 'mannbench[slurm]' brings it") from None
    needed = ("sbatch", "srun", "scancel", "sacct") if CLUSTER == "slurm" else ()
    for command in needed:
        if not shutil.which(command):
            raise BenchError(
                f"there is no {command} on the path; --executor slurm runs on a login node, where jobs are submitted; "
                "elsewhere give each machine a part: --shard I/N"
            )
    logging.getLogger("submitit").setLevel(logging.ERROR)  # the rest would go to our stdout
    pool = submitit.AutoExecutor(context.results / ".bench" / "jobs", cluster=CLUSTER, slurm_max_num_timeout=10**6)
    pool.update_parameters(
        name="mannbench",
        timeout_min=SLICE_MIN,
        cpus_per_task=context.threads,
        gpus_per_node=1 if context.device == "cuda" else None,
        slurm_additional_parameters={"requeue": True},
        slurm_srun_args=[f"--cpus-per-task={context.threads}"],  # srun does not take it over from sbatch
    )
    return pool


@contextlib.contextmanager
def _ray(context: Context) -> Iterator[Pool]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere unless the user says so
    try:
        import ray
    except ImportError:
        raise BenchError("--executor ray needs Ray; pip install 'mannbench[ray]' brings it") from None
    _check_reachable(os.environ.get("RAY_ADDRESS", ""))
    terminate = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:
        raise BenchError(f"Ray does not start, or its cluster is not there: {_reason(error)}") from error
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, terminate)  # Ray's would end us on the spot

    needs = {"CPU": context.threads} | ({"GPU": 1} if context.device == "cuda" else {})

    class Task:
        def __init__(self, reference: Any) -> None:
            self.reference = reference

        def done(self) -> bool:
            return bool(ray.wait([self.reference], timeout=0)[0])

        def result(self) -> Ended:
            return ray.get(self.reference)

        def cancel(self) -> None:
            ray.cancel(self.reference)

    class Tasks:
        # A lost task is ours to tell of, and to resume when the user says so.
        call = ray.remote(num_cpus=needs["CPU"], num_gpus=needs.get("GPU", 0), max_retries=0)(_call)

        def submit(self, fn: Callable[[], Ended], /) -> Task:
            return Task(self.call.remote(fn))

    try:
        _check_room([node["Resources"] for node in ray.nodes() if node["Alive"]], needs)
        yield Tasks()
    finally:
        ray.shutdown()


def _check_room(machines: Sequence[Mapping[str, float]], needs: Mapping[str, int]) -> None:
    """Ray itself would wait without a word for a machine that has what a cell needs.

    Raises:
        BenchError: no machine has it; a cluster that we were sent to may grow, so there it is a note.
    """
    if any(all(machine.get(kind, 0) >= count for kind, count in needs.items()) for machine in machines):
        return
    most = {kind: max((machine.get(kind, 0) for machine in machines), default=0) for kind in needs}
    short = f"a cell needs {_counted(needs)} on one machine, and Ray's have {_counted(most)} at most"
    if "RAY_ADDRESS" not in os.environ:
        raise BenchError(f"{short}; lower --threads, or choose --device cpu")
    print(f"note: {short}; cells wait until the cluster grows (Ctrl-C ends the wait)", file=sys.stderr)


def _counted(resources: Mapping[str, float]) -> str:
    return " and ".join(f"{count:g} {kind}{'s' if count != 1 else ''}" for kind, count in resources.items())


def _check_reachable(address: str) -> None:
    """Ray itself would wait for minutes, and answer no Ctrl-C meanwhile."""
    if found := re.fullmatch(r"(?:ray://)?(.+):(\d+)", address):
        try:
            socket.create_connection((found[1], int(found[2])), timeout=10).close()
        except (OSError, OverflowError) as error:
            raise BenchError(f"no Ray cluster answers at $RAY_ADDRESS, {address}: {error}") from None


def _call(fn: Callable[[], Ended]) -> Ended:
    try:
        return fn()
    except SystemExit:  # would end Ray's worker
        return Ended("interrupted")
