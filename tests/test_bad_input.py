"""Bad input and interruption: one clear sentence, exit code 2, nothing lost."""

from __future__ import annotations

import errno
import json
import os
import pickle
import re
import resource
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from shell import QUICK, TOYS, bench, end, refused, results_of, shell, start, toys  # noqa: F401

from bench import checkpoints, files, grid, records
from bench.config import canonical

pytestmark = pytest.mark.usefixtures("toys")
Capture = pytest.CaptureFixture[str]
NET = ("run", "-m", "plug-net", "-t", "plug-points", "--results", "out", "--steps", 4, *QUICK)
GLYPHS = ("run", "-m", "mann", "-t", "glyphs", "--dry-run")
SLOW = ("run", "-m", "plug-net", "-t", "plug-points", "--results", "out", "--steps", 40, "--seeds", "0-1",
        "--set", "plug-net.nap=0.05", *QUICK)  # fmt: skip


# ------------------------------------------------------------------------------------------- what is typed

TYPED = {
    "method": (("run", "-m", "plug-nett", "-t", "plug-points"), ["no method 'plug-nett'", "did you mean plug-net"]),
    "method far off": (("run", "-m", "qqq", "-t", "plug-points"), ["no method 'qqq'", "there are: .*plug-net"]),
    "pattern": (("run", "-m", "qqq*", "-t", "plug-points"), ["no method matches 'qqq\\*'", "bench list methods"]),
    "task": (("run", "-m", "plug-net", "-t", "plug-point"), ["no task 'plug-point'", "did you mean plug-points"]),
    "suite": (("run", "smok"), ["no suite 'smok'", "did you mean smoke"]),
    "suite file": (("run", "nowhere.toml"), ["no suite 'nowhere.toml'"]),
    "suite of status": (("status", "smok"), ["did you mean smoke"]),
    "entry": (("list", "plug-nett"), ["'plug-nett'", "did you mean plug-net"]),
    "nothing": (("run",), ["a suite", "-m METHOD", "-t TASK"]),
    "field": ((*NET, "--set", "plug-net.napp=1"), ["no field of plug-net 'napp'", "did you mean nap"]),
    "target": ((*NET, "--set", "plug-nett.nap=1"), ["'plug-nett'", "did you mean plug-net"]),
    "unused field": ((*NET, "--set", "mann.slots=4"), ["mann.slots fits nothing", "plug-net"]),
    "no value": ((*NET, "--set", "plug-net.nap"), ["NAME.FIELD=VALUE"]),
    "float": ((*NET, "--set", "plug-net.nap=soon"), ["plug-net.nap must be a finite number, not 'soon'"]),
    "nan": ((*NET, "--set", "plug-net.lr=nan"), ["plug-net.lr must be a finite number"]),
    "int": ((*NET, "--set", "plug-net.batch=1.5"), ["plug-net.batch must be a whole number"]),
    "bool": ((*NET, "--set", "plug-net.broken=perhaps"), ["true or false"]),
    "choice": ((*NET, "--set", "plug-net.style=plaid"), ["one of plain, fancy"]),
    "way": ((*NET, "--set", "plug-points.way=6"), ["5 classes"]),
    "way of an extra setting": ((*NET, "--set", "plug-points.also=way=6"), ["5 classes"]),
    "glyphs' way": ((*GLYPHS, "--set", "glyphs.way=2000"), ["way"]),
    "glyphs' size": ((*GLYPHS, "--set", "glyphs.size=100000"), ["glyphs: size 100000 is more than 105"]),
    "units": ((*GLYPHS, "--set", "mann.controller_size=0"), ["mann.controller_size must be at least 1, not 0"]),
    "slots": ((*GLYPHS, "--set", "mann.slots=0"), ["heads <= slots"]),
    "also of also": ((*GLYPHS, "--set", "glyphs.also=also=way=2"), ["sets also itself"]),
    "glyphs' drawings": ((*GLYPHS, "--set", "glyphs.shot=15"), ["20", "shot"]),
    "steps 0": ((*NET, "--steps", "0"), ["steps must be at least 1, not 0"]),
    "steps below 0": ((*NET, "--steps", "-3"), ["steps must be at least 1, not -3"]),
    "steps no number": ((*NET, "--steps", "many"), ["--steps"]),
    "no test": ((*NET, "--set", "budget.test_episodes=0"), ["test_episodes must be at least 1"]),
    "seeds": ((*NET, "--seeds", "1-"), ["seeds are written 0-4"]),
    "seeds backwards": ((*NET, "--seeds", "4-1"), ["'4-1' is not understood"]),
    "seeds below 0": ((*NET, "--seeds=-1"), ["'-1' is not understood"]),
    "no seeds": ((*NET, "--seeds", ""), ["seeds are written 0-4"]),
    "too many seeds": ((*NET, "--seeds", "0-999999999"), ["is not understood"]),
    "shard": ((*NET, "--shard", "3/2"), ["a shard is written i/n"]),
    "shard of nothing": ((*NET, "--shard", "", "--dry-run"), ["a shard is written i/n", "''"]),
    "stack of a dry run": ((*NET, "--stack", "0", "--dry-run"), ["--stack is at least 1, not 0"]),
    "batch without end": ((*NET, "--set", f"plug-net.batch={10**26}"), ["batch must be at most 1,000,000,000"]),
    "steps without end": ((*NET, "--steps", str(10**26)), ["budget.steps must be at most"]),
    "shard 0": ((*NET, "--shard", "0/2"), ["a shard is written i/n"]),
    "workers": ((*NET, "--workers", "0"), ["at least 1"]),
    "threads": ((*NET, "--threads", "0"), ["at least 1"]),
    "device": ((*NET, "--device", "tpu"), ["cpu, cuda or auto"]),
    "data folder": ((*NET, "--data", "nowhere"), ["no folder nowhere", "--data"]),
    "command": (("rum",), ["rum"]),
    "option": (("run", "--stepz", "3"), ["--stepz"]),
    "id": (("show", "0123", "--results", "out"), ["no record in out", "'0123'"]),
    "no id": (("show", "", "--results", "out"), ["no record"]),
    "tables of nothing": (("tables", "smoke", "--results", "out"), ["out has no record", "bench run smoke"]),
    "long name": (("run", "s" * 5000), ["cannot be read: File name too long"]),
    "long file": (("list", "s" * 5000 + ".toml"), ["cannot be read: File name too long"]),
    "tables of an empty store": (("tables", "--results", "out"), ["there are no records in out", "bench run"]),
    "tables of no suite": (("tables", "smok"), ["did you mean smoke"]),
    "data set": (("data", "check", "omnigloss"), ["omnigloss"]),
}  # fmt: skip


@pytest.mark.parametrize("case", TYPED)
def test_what_was_typed(capsys: Capture, case: str, tmp_path: Path) -> None:
    command, words = TYPED[case]
    refused(bench(capsys, *command), *words)
    assert not list(tmp_path.rglob("*.json"))


def test_suite_that_is_no_suite(capsys: Capture, tmp_path: Path) -> None:
    for content, words in (("not toml", "not valid TOML"), ("title = 'x'", r"no \[\[grid\]\]"),
                           ("[[grid]]\nmethods = ['plug-net']", "needs methods and tasks")):  # fmt: skip
        (tmp_path / "mine.toml").write_text(content)
        refused(bench(capsys, "run", "mine.toml"), words)


BLOCK = "[[grid]]\nmethods = ['plug-net']\ntasks = ['plug-points']\n"


WRONG = ["grid = 5", "[[grid]]\nmethods = 5\ntasks = []", BLOCK + "seeds = true", BLOCK + "seeds = 10000000000",
         BLOCK + "optional = 'no'", BLOCK + "budget = []"]  # fmt: skip


@pytest.mark.parametrize("content", WRONG)
def test_suite_of_wrong_types_is_refused_by_every_command(capsys: Capture, content: str, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(content)
    for command in ("list", "run", "status", "tables"):
        refused(bench(capsys, command, "mine.toml"))


def test_damaged_data_do_not_stop_the_count(capsys: Capture, tmp_path: Path) -> None:
    (tmp_path / "far.toml").write_text(
        "[[grid]]\nmethods = ['plug-net']\ntasks = ['plug-data']\nseeds = '0-4'\noptional = true\n"
    )
    for name in ("images_background.zip", "images_evaluation.zip"):
        (tmp_path / "data" / name).write_bytes(b"no zip")
    said = bench(capsys, "status", "far.toml", "--results", "out")
    assert said.code == 0, said
    assert "5 pending" in said.out
    assert "images_background.zip" in said.out
    refused(bench(capsys, "run", "far.toml"), "images_background.zip")


def test_no_data_names_the_path_and_the_command(capsys: Capture, tmp_path: Path) -> None:
    for extra in ([], ["--data", "data"]):
        said = bench(capsys, "run", "-m", "plug-net", "-t", "plug-data", *extra)
        refused(said, str(tmp_path / "data"), "bench data get omniglot")
    planned = bench(capsys, "run", "-m", "plug-net", "-t", "plug-data", "--dry-run")
    assert planned.code == 0
    assert "1 cell, 0 recorded, 1 to run" in planned.out
    assert "none of these can run here: " in planned.err
    assert "bench data get omniglot" in planned.err


def test_no_cuda(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    refused(bench(capsys, *NET, "--device", "cuda"), "no CUDA device here", "--device cpu")
    assert bench(capsys, *NET, "--device", "auto").code == 0


# ------------------------------------------------------------------------------------------------ the folder


def test_results_folder_that_cannot_be_written(capsys: Capture, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file stands here")
    refused(bench(capsys, *NET), "cannot write", "out", "choose another")
    (tmp_path / "out").unlink()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "runs").write_text("and here")
    said = bench(capsys, *NET)
    refused(said, "cannot write", "runs")
    assert (tmp_path / "out" / "runs").read_text() == "and here"


def no_room(monkeypatch: pytest.MonkeyPatch, when: Callable[[], bool]) -> None:
    real = os.fsync

    def fsync(handle: int) -> None:
        if stat.S_ISREG(os.fstat(handle).st_mode) and when():
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle)

    monkeypatch.setattr(files.os, "fsync", fsync)


def test_full_disk_at_the_start(capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    no_room(monkeypatch, lambda: True)
    refused(bench(capsys, *NET), "the disk is full", "make room")
    assert not list((tmp_path / "out").rglob("*.tmp"))


def test_disk_that_fills_up_loses_no_finished_record(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with monkeypatch.context() as patch:
        no_room(patch, lambda: bool(list((tmp_path / "out").rglob("s0-*.json"))))
        said = bench(capsys, *NET, "--seeds", "0-1")
    refused(said, "seed 1", "the disk is full")
    first = results_of(tmp_path / "out")
    assert len(first) == 1
    assert not list((tmp_path / "out").rglob("*.tmp"))
    assert bench(capsys, *NET, "--seeds", "0-1").code == 0
    assert first.items() < results_of(tmp_path / "out").items()


def test_file_size_limit_of_the_system(capsys: Capture, tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, hard))
    try:
        said = bench(capsys, *NET)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    refused(said, "cannot write", "large")
    assert not list((tmp_path / "out").rglob("*.tmp"))
    assert bench(capsys, *NET).code == 0


# --------------------------------------------------------------------------------------------------- records


def broken(text: str) -> Iterator[tuple[str, str, str]]:
    """(what, content, words) of records that cannot be used, made from a good one."""
    good = json.loads(text)
    yield "not JSON", text[: len(text) // 2], "is not a record"
    yield "empty", "", "is not a record"
    yield "binary", "\x00\x01", "is not a record"
    yield "another JSON", "[1, 2]", "no schema number"
    yield "newer schema", canonical(good | {"schema": 99}), "schema 99, newer than"
    yield "NaN", text.replace('"mean":', '"mean": NaN, "was":', 1), "NaN"
    yield "other id", canonical(good | {"id": "0" * 12}), "has the id 000000000000"
    yield "other spec", canonical(good | {"spec": good["spec"] | {"seed": 77}}), "its spec gives"
    yield "missing part", canonical({k: v for k, v in good.items() if k != "cost"}), "not a whole record"
    yield "wrong type", canonical(good | {"result": 3}), "not a whole record: result is 3"
    yield "wrong type inside", canonical(good | {"env": good["env"] | {"resumed": [3]}}), r"env.resumed[0] is 3"
    yield "half a character", canonical(good | {"started": "\ud800"}), "surrogates not allowed"
    yield "deep", "[" * 100_000, "is not a record"


def test_records_that_cannot_be_used_are_named_skipped_and_kept(capsys: Capture, tmp_path: Path) -> None:
    assert bench(capsys, *NET, "--seeds", "0-1").code == 0
    first, second = sorted((tmp_path / "out" / "runs").rglob("*.json"))
    good = second.read_text()
    for what, content, words in broken(good):
        second.write_text(content)
        status = bench(capsys, "status", "--results", "out")
        assert status.code == 0, what
        assert status.err.count("warning: ") == 1, what
        assert str(second.relative_to(tmp_path)) in status.err, what
        assert words in status.err, what
        assert "1 done" in status.out, what
        run = bench(capsys, *NET, "--seeds", "0-1")
        assert run.code == 2, what
        assert words in run.err, what
        refused(bench(capsys, "show", second.stem.partition("-")[2], "--results", "out"), re.escape(words))
        assert second.read_text() == content, what
        assert bench(capsys, "show", first.stem.partition("-")[2], "--results", "out").code == 0
    second.write_text(good)
    assert bench(capsys, *NET, "--seeds", "0-1").code == 0


def test_ambiguous_id(capsys: Capture, tmp_path: Path) -> None:
    bench(capsys, *NET, "--seeds", "0-19", "--steps", 1)
    ids = [p.stem.partition("-")[2] for p in (tmp_path / "out" / "runs").rglob("*.json")]
    digit = next(i[0] for i in ids if sum(other.startswith(i[0]) for other in ids) > 1)
    refused(bench(capsys, "show", digit, "--results", "out"), "give more digits")


# ----------------------------------------------------------------------------------------------- checkpoints


def cell() -> grid.Cell:
    settings = [s for s in QUICK if "=" in s]
    return grid.plan(None, ["plug-net"], ["plug-points"], "0", settings, 4).cells[0]


class Payload:
    """Creates a file when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return (open, ("executed", "w"))


def test_pickle_offered_as_a_checkpoint_is_refused_unread(capsys: Capture, tmp_path: Path) -> None:
    path = checkpoints.folder(tmp_path / "out", cell().id) / "step-2.pt"
    path.parent.mkdir(parents=True)
    for write in (lambda: path.write_bytes(pickle.dumps(Payload())), lambda: torch.save({"x": Payload()}, path)):
        write()
        content = path.read_bytes()
        refused(bench(capsys, *NET), "step-2.pt", "refused", "delete it")
        assert not (tmp_path / "executed").exists()
        assert path.read_bytes() == content
    torch.load(path, weights_only=False)["x"].close()
    assert (tmp_path / "executed").exists()  # the payload works, it was the reader that refused


def test_checkpoints_of_another_spec_version_or_shape(capsys: Capture, tmp_path: Path) -> None:
    path = checkpoints.folder(tmp_path / "out", cell().id) / "step-2.pt"
    checkpoints.save(path, "0" * 12, {"step": 2})
    refused(bench(capsys, *NET), "belongs to another spec", "delete it")
    torch.save({"format": 99}, path)
    refused(bench(capsys, *NET), "not a checkpoint of this version")
    path.write_bytes(b"cut off")
    refused(bench(capsys, *NET), "refused")
    path.unlink()
    assert bench(capsys, *NET).code == 0


# ---------------------------------------------------------------------------------------------- other runs


def test_two_processes_on_one_store(tmp_path: Path) -> None:
    racers = [start(*SLOW, "--json", cwd=tmp_path) for _ in range(2)]
    said = [end(racer) for racer in racers]
    assert [s.code for s in said] == [0, 0], said
    assert all([c["status"] for c in s.json["cells"]] == ["done", "done"] for s in said)
    assert len(results_of(tmp_path / "out")) == 2
    assert not records.load(tmp_path / "out").problems


def test_lost_worker_costs_its_own_cell_alone(tmp_path: Path) -> None:
    blocks = [{"methods": ["plug-die"], "seeds": "0"}, {"methods": ["plug-net"], "seeds": "0-1"}]
    budget = "tasks = ['plug-points']\nbudget = { steps = 3, validations = 0, test_episodes = 20 }\n"
    lines = [f"[[grid]]\n{budget}" + "".join(f"{k} = {v!r}\n" for k, v in block.items()) for block in blocks]
    (tmp_path / "mine.toml").write_text("".join(lines))
    command = ("run", "mine.toml", "--results", "out", "--workers", 2, "--json", "--no-picture")
    said = shell(*command, cwd=tmp_path)
    status = [(c["method"], c["status"]) for c in said.json["cells"]]
    assert said.code == 1
    assert sorted(status) == [("plug-die", "failed"), ("plug-net", "done"), ("plug-net", "done")]
    assert "worker process was lost" in said.err
    assert "Traceback" not in said.err


# ---------------------------------------------------------------------------------------------- interruption


def interrupt(folder: Path, *command: object, kill: int = signal.SIGINT) -> tuple[subprocess.Popen[str], float]:
    """Start a run, and stop it once a cell trains; the moment of the signal."""
    mark = folder / "training"
    process = start(*command, cwd=folder, PLUG_MARK=str(mark))
    deadline = time.monotonic() + 100
    while not mark.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, kill)
    return process, time.monotonic()


@pytest.mark.parametrize("workers", [1, 2])
def test_ctrl_c_says_how_to_resume_and_the_result_is_the_same(capsys: Capture, workers: int, tmp_path: Path) -> None:
    command = (*SLOW, "--workers", workers)
    said = end(interrupt(tmp_path, *command)[0])
    assert said.code == 130, said
    assert "Traceback" not in said.err
    last = said.err.splitlines()[-1]
    assert last.startswith("stopped; run the same command again to resume: bench run -m plug-net ")
    assert last.endswith(f"--workers {workers}")
    assert not list((tmp_path / "out" / "runs").rglob("s*.json"))
    stopped = list((tmp_path / "out" / ".bench" / "checkpoints").rglob("step-*.pt"))
    assert stopped or workers > 1  # a worker on a crowded machine may not have had its turn within the grace period
    again = shell(*command, cwd=tmp_path)
    assert again.code == 0, again
    resumed = [r.env.get("resumed") for r in records.load(tmp_path / "out").records]
    assert any(resumed) == bool(stopped)
    straight = ("--results", "straight", "--set", "plug-net.nap=0")
    assert bench(capsys, *SLOW, *straight).code == 0
    found = [list(results_of(tmp_path / folder).values()) for folder in ("out", "straight")]
    assert sorted(found[0], key=str) == sorted(found[1], key=str)


@pytest.mark.parametrize("workers", [1, 2])
def test_ctrl_c_cuts_a_step_that_takes_for_ever(workers: int, tmp_path: Path) -> None:
    for_ever = ["plug-net.nap=600" if str(a).startswith("plug-net.nap") else a for a in SLOW]
    process, sent = interrupt(tmp_path, *for_ever, "--workers", workers)
    said = end(process, timeout=60)
    assert said.code == 130
    assert "resume" in said.err
    print(f"stopped after {time.monotonic() - sent:.2f} s")


def test_sigterm_is_an_interruption_too(tmp_path: Path) -> None:
    said = end(interrupt(tmp_path, *SLOW, kill=signal.SIGTERM)[0])
    assert said.code == 130
    assert "resume" in said.err


def kill_often(folder: Path, kills: int, cells: int) -> None:
    command = ["run", "-m", "plug-net", "-t", "plug-points", "--steps", 8,
               "--seeds", f"0-{cells - 1}", "--set", "plug-net.nap=0.005", *QUICK]  # fmt: skip
    script = Path(__file__).parent / "crash.py"
    done = subprocess.run(
        [sys.executable, script, "out", str(kills), "0", *map(str, command)],
        cwd=folder, capture_output=True, text=True, env={**os.environ, "BENCH_PLUGINS": str(TOYS)},
    )  # fmt: skip
    assert done.returncode == 0, done
    counts = json.loads(done.stdout.splitlines()[-1])["records"]
    print(counts)
    assert len(counts) == kills
    assert any(0 < count < cells for count in counts), "no kill hit the middle of the run"
    from bench import cli

    assert cli.call([*map(str, command), "--results", "straight"]) == 0
    assert results_of(folder / "straight") == results_of(folder / "out")
    assert len(results_of(folder / "out")) == cells


def test_kill_9_at_any_moment_loses_nothing(tmp_path: Path) -> None:
    kill_often(tmp_path, kills=30, cells=25)


@pytest.mark.long
def test_kill_9_a_thousand_times(tmp_path: Path) -> None:
    kill_often(tmp_path, kills=1000, cells=800)


# --------------------------------------------------------------------------------------------------- plug-ins


def test_entry_point_that_fails_to_import_is_named_and_all_else_works(tmp_path: Path) -> None:
    info = tmp_path / "site" / "someones-0.1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: someones\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text("[mannbench.plugins]\ntheirs = someones_methods\n")
    (tmp_path / "site" / "someones_methods.py").write_text("import something_that_is_not_installed\n")
    said = shell("list", "methods", cwd=tmp_path, PYTHONPATH=str(tmp_path / "site"))
    assert said.code == 0
    assert "plug-net" in said.out
    assert "Traceback" not in said.err
    warnings = [line for line in said.err.splitlines() if line.startswith("warning: ")]
    assert len(warnings) == 1
    assert "entry point theirs" in warnings[0]
    assert "something_that_is_not_installed" in warnings[0]


def test_plugin_files_that_fail_are_named_and_all_else_works(tmp_path: Path) -> None:
    (tmp_path / "quits.py").write_text("raise SystemExit('bye')\n")
    (tmp_path / "typo.py").write_text("def broken(:\n")
    options = [a for name in ("quits.py", "typo.py", "gone.py") for a in ("--plugin", name)]
    said = shell("list", "methods", *options, cwd=tmp_path)
    assert said.code == 0
    assert "plug-net" in said.out
    assert "Traceback" not in said.err
    for words in ("quits.py", "typo.py", "gone.py", "bye", "SyntaxError", "no file"):
        assert words in said.err
    (tmp_path / "taken.py").write_text(
        "from bench.api import Method, method\n@method('chance')\nclass Mine(Method):\n    pass\n"
    )
    for name, why in (("typo.py", "SyntaxError"), ("gone.py", "no file"), ("taken.py", "'chance'.* is taken by")):
        said = shell("run", "-m", "chance", "-t", "plug-points", "--results", "out", "--plugin", name, cwd=tmp_path)
        refused(said, f"--plugin {name} could not be loaded, and nothing is run")
        assert re.search(why, said.err)
        assert not (tmp_path / "out").exists(), "the built-in method did not run in its place"


RAISES = """
from bench.api import TrainedMethod, method
from baselines.protonet import ProtoNet

def raising(name):
    def boom(self, *arguments):
        raise ZeroDivisionError("boom")
    own = {name: boom, "build": lambda self, task: ProtoNet().build(task)}
    method("bad-" + name)(type("Bad", (TrainedMethod,), own))

for name in ("check", "unsuited", "protocol", "stacks"):
    raising(name)
"""


@pytest.mark.parametrize("hook", ["check", "unsuited", "protocol", "stacks"])
def test_a_plugin_that_fails_while_a_run_is_planned_is_one_sentence(hook: str, tmp_path: Path) -> None:
    (tmp_path / "raises.py").write_text(RAISES)
    said = shell("run", "-m", f"bad-{hook}", "-t", "plug-points", *QUICK, "--plugin", "raises.py", cwd=tmp_path)
    refused(said, r"the plug-in \S*raises.py failed in line 7, in boom: ZeroDivisionError: boom; BENCH_DEBUG=1 shows")


def test_a_plugin_that_came_to_fail_spoils_no_tables(tmp_path: Path) -> None:
    mine = RAISES.replace("own = {name: boom, ", "own = {").replace('"check", "unsuited", "protocol", "stacks"', '"m",')
    (tmp_path / "raises.py").write_text(mine)
    options = ("--results", "out", "--plugin", "raises.py")
    assert shell("run", "-m", "bad-m", "-t", "plug-points", *QUICK, *options, cwd=tmp_path).code == 0
    (tmp_path / "raises.py").write_text(mine.replace("own = {", 'own = {"protocol": boom, '))
    said = shell("tables", "--dirty", *options, cwd=tmp_path)
    assert said.code == 0, said.err
    assert "bad-m" in (tmp_path / "out" / "tables" / "other.md").read_text()


def test_ctrl_c_while_modules_are_imported_is_quiet(tmp_path: Path) -> None:
    """The signal comes when typer, and when torch, is about to be imported."""
    for module, command in (("typer", "--help"), ("torch", "list")):
        code = (
            "import os, signal, sys\n"
            "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # tests in the background are deaf to it
            "class Interrupt:\n"
            "    def find_spec(self, name, *rest):\n"
            f"        if name == {module!r}: os.kill(os.getpid(), signal.SIGINT)\n"
            "sys.meta_path.insert(0, Interrupt())\n"
            "from bench.cli import main\n"
            f"sys.argv = ['bench', {command!r}]\n"
            "sys.exit(main())\n"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
        assert (done.returncode, done.stdout, done.stderr) == (130, "", ""), module
