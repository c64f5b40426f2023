"""Cells on other machines: submitit's local executor, a stand-in for Slurm, a Ray of one machine, and threads."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from shell import QUICK, TOYS, Said, bench, end, refused, results_of, toys  # noqa: F401

from bench import executor, grid, records, remote
from bench.errors import BenchError
from bench.training import Context

pytestmark = pytest.mark.usefixtures("toys")
Capture = pytest.CaptureFixture[str]
NET = ("run", "-m", "plug-net", "-t", "plug-points", "--results", "out", "--steps", 4, *QUICK)
SLOW = ("run", "-m", "plug-net", "-t", "plug-points", "--results", "out", "--steps", 60, "--seeds", "0-1",
        "--set", "plug-net.nap=0.1", *QUICK)  # fmt: skip
# A checkpoint after every step, and submitit's executor that needs no Slurm.
MAIN = """
import functools, sys
from bench import cli, interface, remote, training
interface.Context = functools.partial(training.Context, checkpoint_s=0.0)
if "local" in sys.argv[1]:
    import submitit
    remote.CLUSTER, submitit.Job._results_timeout_s = "local", 1
del sys.argv[1]
sys.exit(cli.main())
"""
PACKAGES = {"slurm": "submitit", "ray": "ray"}


lost = pytest.mark.parametrize("name", ["slurm", pytest.param("ray", marks=pytest.mark.long)], indirect=True)
"""Ray takes half a minute to start and to end each time."""


@pytest.fixture(params=PACKAGES)
def name(request: pytest.FixtureRequest) -> str:
    """An executor, where its package is installed."""
    package = PACKAGES[request.param]
    pytest.importorskip(package, reason=f"{package} is not installed: pip install 'mannbench[{request.param}]'")
    return request.param


def start(*arguments: object, cluster: str = "local", **environ: str) -> subprocess.Popen[str]:
    """Start a command line that runs cells elsewhere."""
    return subprocess.Popen(
        [sys.executable, "-c", MAIN, cluster, *map(str, arguments)], text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "BENCH_PLUGINS": str(TOYS), **environ},
    )  # fmt: skip


def until(true: Any, process: subprocess.Popen[str]) -> None:
    """Wait for something, as long as a process runs."""
    deadline = time.monotonic() + 100
    while not true():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def worker(process: subprocess.Popen[str], mark: Path) -> int:
    """The process that trains, once it has saved a checkpoint."""
    until(lambda: mark.exists() and mark.read_text() and list(Path("out").rglob("step-*.pt")), process)
    return int(mark.read_text())


def straight(capsys: Capture, *command: object) -> list[Any]:
    """What the command finds in one go and in this process."""
    assert bench(capsys, *command, "--results", "straight", "--set", "plug-net.nap=0").code == 0
    return sorted(results_of(Path("straight")).values(), key=str)


def found() -> list[Any]:
    return sorted(results_of(Path("out")).values(), key=str)


# ------------------------------------------------------------------------------- submitit and Ray, as they are


def test_jobs_find_what_one_process_finds(name: str, capsys: Capture) -> None:
    command = (*NET, "-m", "plug-crash", "--seeds", "0-1", "--json")
    process = start(*command, "--executor", name, "--workers", 2, PLUG_PROCESS="1")
    said = end(process)
    assert said.code == 1, said
    assert [c["status"] for c in said.json["cells"]] == ["done", "failed"] * 2
    assert said.json["cells"][1]["message"] == "RuntimeError: the [bold]crash[/bold] was asked for"
    assert f"{name}: at most 2 at once" in said.err
    assert "Traceback" not in said.err
    assert found() == straight(capsys, *NET, "--seeds", "0-1")
    loaded = records.load(Path("out"))
    assert not loaded.problems
    for record in loaded.records:  # the machine of a record is the worker's
        assert record.env["device"].startswith("processor of ")
        assert record.env["device"] != f"processor of {process.pid}"
        assert record.env["threads"] == 1


@lost
def test_a_killed_worker_costs_one_sentence_and_resumes(name: str, capsys: Capture, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    process = start(*SLOW, "--executor", name, PLUG_MARK=str(mark))
    os.kill(worker(process, mark), signal.SIGKILL)
    said = end(process)
    refused(said, rf"seed 0 failed: its {name} worker was lost \(.+\); what it saved is kept; run the same command")
    assert [r.seed for r in records.load(Path("out")).records] == [1]
    again = end(start(*SLOW, "--executor", name))
    assert again.code == 0, again
    assert [bool(r.env.get("resumed")) for r in records.load(Path("out")).records] == [True, False]
    assert found() == straight(capsys, *SLOW)


@lost
def test_ctrl_c_cancels_the_jobs_and_keeps_their_checkpoints(name: str, capsys: Capture, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    process = start(*SLOW, "--executor", name, PLUG_MARK=str(mark))
    job = worker(process, mark)
    process.send_signal(signal.SIGINT)
    said = end(process)
    assert said.code == 130, said
    # submitit's stand-in for Slurm writes the trace of its own end on our stderr, before or after our sentence.
    again = "stopped; run the same command again to resume: bench run "
    assert sum(line.startswith(again) for line in said.err.splitlines()) == 1, said
    deadline = time.monotonic() + 20
    with contextlib.suppress(ProcessLookupError):
        while time.monotonic() < deadline:
            os.kill(job, 0)
            time.sleep(0.1)
        pytest.fail("the job goes on")
    assert not records.load(Path("out")).records
    assert list(Path("out").rglob("step-*.pt"))
    again = end(start(*SLOW, "--executor", name))
    assert again.code == 0, again
    assert any(r.env.get("resumed") for r in records.load(Path("out")).records)
    assert found() == straight(capsys, *SLOW)


def test_a_job_whose_time_is_up_is_queued_again_and_resumes(capsys: Capture, tmp_path: Path) -> None:
    pytest.importorskip("submitit", reason="submitit is not installed: pip install 'mannbench[slurm]'")
    mark = tmp_path / "mark"
    process = start(*SLOW, "--seeds", "0", "--executor", "slurm", PLUG_MARK=str(mark))
    os.kill(worker(process, mark), signal.SIGUSR2)  # what Slurm sends
    said = end(process)
    assert said.code == 0, said
    assert records.load(Path("out")).records[0].env["resumed"]
    assert found() == straight(capsys, *SLOW, "--seeds", "0")


# ------------------------------------------------------------------------------------ a stand-in for Slurm

COMMANDS = {
    "sbatch": """
        [ "$(ls $FAKE | grep -c running)" -ge "$SLOTS" ] && { echo "sbatch: error: too many jobs" >&2; exit 1; }
        id=$(( $(ls $FAKE | wc -l) + 1 )); cp "$1" $FAKE/$id.sh; touch $FAKE/$id.running
        ( SLURM_JOB_ID=$id setsid bash "$1"; rm $FAKE/$id.running ) </dev/null >$FAKE/$id.log 2>&1 &
        echo "Submitted batch job $id" """,
    "srun": """
        while [[ $1 == -* ]]; do case $1 in --output|--error) shift 2;; *) shift;; esac; done
        exec "$@" """,
    "sacct": """
        echo "JobID|State|NodeList"
        for id in "$@"; do [[ $id == [0-9]* ]] && { [ -e $FAKE/$id.running ] && echo "$id|RUNNING|here" ||
            echo "$id|COMPLETED|here"; }; done; true """,
    "scancel": "true",
}  # fmt: skip


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Slurm's commands as far as submitit calls them; jobs run here. The folder has what was submitted."""
    pytest.importorskip("submitit", reason="submitit is not installed: pip install 'mannbench[slurm]'")
    (tmp_path / "bin").mkdir()
    (tmp_path / "slurm").mkdir()
    for command, text in COMMANDS.items():
        (tmp_path / "bin" / command).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (tmp_path / "bin" / command).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("FAKE", str(tmp_path / "slurm"))
    monkeypatch.setenv("SLOTS", "9")
    return tmp_path / "slurm"


def test_slurm_gets_scripts_that_run(cluster: Path, capsys: Capture) -> None:
    said = end(start(*NET, "--seeds", "0-2", "--executor", "slurm", "--workers", 3, "--threads", 2, cluster="slurm"))
    assert said.code == 0, said
    assert found() == straight(capsys, *NET, "--seeds", "0-2")
    assert [r.env["threads"] for r in records.load(Path("out")).records] == [2, 2, 2]
    scripts = [path.read_text() for path in cluster.glob("*.sh")]
    assert len(scripts) == 3
    for line in ("--cpus-per-task=2", "--time=60", "--requeue", "--job-name=mannbench", "--signal=USR2@90"):
        assert f"#SBATCH {line}\n" in scripts[0]
    assert "--gpus" not in scripts[0]
    assert "srun --unbuffered" in scripts[0]


def test_where_slurm_takes_fewer_jobs_at_once_the_rest_waits(cluster: Path) -> None:
    said = end(start(*NET, "--seeds", "0-2", "--executor", "slurm", "--workers", 3, cluster="slurm", SLOTS="1"))
    assert said.code == 0, said
    assert len(found()) == 3


def test_what_slurm_refuses_is_one_sentence(cluster: Path) -> None:
    said = end(start(*NET, "--executor", "slurm", cluster="slurm", SLOTS="0"))
    refused(said, "slurm takes no job: sbatch: error: too many jobs$")


# ------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize("command", ["sbatch", "srun", "scancel", "sacct"])
def test_a_command_of_slurm_that_is_not_there(
    command: str, cluster: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bin" / command).unlink()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    refused(bench(capsys, *NET, "--executor", "slurm"), f"no {command} on the path", "login node", "--shard I/N")


@pytest.mark.parametrize("name", PACKAGES)
def test_an_extra_that_is_not_installed(name: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, PACKAGES[name], None)
    refused(bench(capsys, *NET, "--executor", name), rf"pip install 'mannbench\[{name}\]' brings it")


def test_what_no_machine_has_is_told(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    machines = [{"CPU": 2.0, "memory": 9.0}, {"CPU": 8.0}, {"CPU": 1.0, "GPU": 1.0}]
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for fits in ({"CPU": 8}, {"CPU": 1, "GPU": 1}):
        remote._check_room(machines, fits)
    with pytest.raises(
        BenchError, match=r"needs 9 CPUs on one machine, and Ray's have 8 CPUs at most; lower --threads"
    ):
        remote._check_room(machines, {"CPU": 9})
    with pytest.raises(
        BenchError, match="needs 2 CPUs and 1 GPU on one machine, and Ray's have 8 CPUs and 1 GPU at most"
    ):
        remote._check_room(machines, {"CPU": 2, "GPU": 1})
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    remote._check_room([], {"CPU": 1, "GPU": 1})
    said = capsys.readouterr().err
    assert said.startswith(
        "note: a cell needs 1 CPU and 1 GPU on one machine, and Ray's have 0 CPUs and 0 GPUs at most"
    )
    assert "wait until the cluster grows" in said


def test_a_ray_cluster_that_is_not_there(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason="ray is not installed: pip install 'mannbench[ray]'")
    for address in ("127.0.0.1:1", "ray://127.0.0.1:1", "127.0.0.1:99999"):
        monkeypatch.setenv("RAY_ADDRESS", address)
        refused(bench(capsys, *NET, "--executor", "ray"), f"no Ray cluster answers at .*{address}")


TYPED = {
    "executor": (("--executor", "slrum"), "no executor 'slrum'; did you mean slurm"),
    "when only planned": (("--executor", "slrum", "--dry-run"), "no executor 'slrum'"),
    "workers": (("--executor", "slurm", "--workers", "0"), "at least 1"),
    "threads": (("--executor", "ray", "--threads", "0"), "at least 1"),
    "device": (("--executor", "ray", "--device", "tpu"), "cpu, cuda or auto"),
}


@pytest.mark.parametrize("typed", TYPED)
def test_options_that_do_not_fit(typed: str, capsys: Capture) -> None:
    options, words = TYPED[typed]
    refused(bench(capsys, *NET, *options), words)


# ------------------------------------------------------------------------------- the loop, with threads as jobs


class Threads(ThreadPoolExecutor):
    """Any executor of `concurrent.futures` will do; this one may take few jobs, and have a store of its own."""

    def __init__(self, most: int = 9, results: Path | None = None) -> None:
        super().__init__(4)
        self.most, self.results, self.futures = most, results, list[Future[Any]]()

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        if sum(not f.done() for f in self.futures) >= self.most:
            raise RuntimeError("sbatch: error: no more")
        if self.results and isinstance(fn, remote.Work):
            fn = replace(fn, context=replace(fn.context, results=self.results))
        self.futures.append(super().submit(fn, *args, **kwargs))
        return self.futures[-1]


def run(pool: Threads, monkeypatch: pytest.MonkeyPatch, seeds: str = "0-2", most: int = 3, **context: Any) -> list[Any]:
    """Statuses and messages of plug-net's cells by seed."""

    @contextlib.contextmanager
    def made(name: str, context: Context) -> Iterator[Threads]:
        with pool:
            yield pool

    monkeypatch.setattr(remote, "_pool", made)
    cells = grid.plan(None, ["plug-net"], ["plug-points"], seeds, ["budget.test_episodes=20"], 4).cells
    outcomes = executor.execute(cells, Context(Path("out"), **context), most, name="slurm")
    return [(o.status, o.message) for o in sorted(outcomes, key=lambda o: o.cell.seed)]


def test_a_store_that_is_not_shared_gets_its_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(Threads(results=tmp_path / "there"), monkeypatch) == [("done", "")] * 3
    assert results_of(Path("out")) == results_of(tmp_path / "there")
    assert len(found()) == 3


def test_no_more_jobs_at_once_than_asked_for_or_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    for pool, most in ((Threads(most=2), 9), (Threads(), 1)):
        assert run(pool, monkeypatch, most=most) == [("done", "")] * 3


def test_other_data_or_another_version_there_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    from_spec = grid.from_spec
    monkeypatch.setattr(grid, "from_spec", lambda spec: replace(from_spec(spec), seed=7))
    assert run(Threads(), monkeypatch, "0") == [
        ("failed", "its worker has other data or another version of mannbench than this machine")
    ]


def test_a_device_that_the_worker_lacks_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    ((status, message),) = run(Threads(), monkeypatch, "0", device="cuda")
    assert (status, message.split(";")[0]) == ("failed", "there is no CUDA device here")


def test_a_job_that_somebody_else_cancelled_is_no_interruption_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote.Work, "__call__", lambda self: remote.Ended("interrupted"))
    ((status, message),) = run(Threads(), monkeypatch, "0")
    assert status == "failed"
    assert message.startswith("its slurm job was cancelled; ")


def test_what_is_told_to_stop_leaves_no_result_for_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    cell = grid.plan(None, ["plug-net"], ["plug-points"], "0").cells[0]
    work = remote.Work(cell.id, cell.spec, Context(Path("out")), {})
    monkeypatch.setattr(executor, "execute", lambda cells, context: [executor.Outcome(cells[0], "interrupted")])
    with pytest.raises(SystemExit):
        work()
    assert remote._call(work) == remote.Ended("interrupted")


def test_progress_of_jobs_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "POLL_S", 0.001)
    monkeypatch.setattr(remote, "TOLD_S", 0.0)
    said: list[Any] = []
    run(Threads(), monkeypatch, "0", report=said.append)
    assert said[0].phase == executor.QUEUED
    assert len(said) == len(set(map(str, said)))
    assert not list(Path("out/.bench/progress").glob("*.json"))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Job 7 (task: 0) with path x\nhas not produced any output (state: OUT_OF_MEMORY)\nError:", "OUT_OF_MEMORY"),
        ("ray::_call() (pid=3)\n  File x\nModuleNotFoundError: No module named 'bench'", "No module named 'bench'"),
        ("sbatch: error: Batch job submission failed: Invalid account", "Invalid account"),
        ("The worker died unexpectedly while executing this task.\nMore.", "died unexpectedly"),
        ("", "RuntimeError"),
    ],
)
def test_an_error_that_quotes_logs_is_told_in_a_line(text: str, reason: str) -> None:
    told = remote._reason(RuntimeError(text))
    assert reason in told
    assert "\n" not in told


def test_a_moment_of_too_many_jobs_is_not_for_ever(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Capture
) -> None:
    """Refused once, an executor is asked for as many as before, though not at once."""
    at_once, jobs, refusals, now = [], set[Future[Any]](), [True], [0.0]

    class Busy:
        def submit(self, fn: Any) -> Future[Any]:
            if len(jobs) == 1 and refusals and refusals.pop():
                raise RuntimeError("sbatch: error: Socket timed out")
            jobs.add(job := Future())
            at_once.append(len(jobs))
            return job

    def tick(self: Any, seconds: float) -> bool:
        now[0] += remote.PATIENCE_S + 1
        for job in list(jobs):
            jobs.remove(job)
            job.set_result(remote.Ended("done", "", False, b""))
        return False

    monkeypatch.setattr(remote, "_pool", lambda name, context: contextlib.nullcontext(Busy()))
    monkeypatch.setattr(remote, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=time.sleep))
    monkeypatch.setattr(type(stopping := threading.Event()), "wait", tick)
    cells = grid.plan(None, ["chance"], ["glyphs"], "0-29", (), None).cells
    remote.spread("slurm", cells, Context(tmp_path), 4, stopping, lambda outcome: None)
    assert len(at_once) == 30
    assert at_once[0] == 1
    assert max(at_once) > 2  # ended jobs count until they are looked at
