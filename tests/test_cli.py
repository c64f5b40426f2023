"""The command line: what each command prints, what it leaves behind, and how fast it is there."""

from __future__ import annotations

import inspect
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fakes import StopAt
from shell import QUICK, TOYS, bench, end, refused, results_of, shell, start, toys  # noqa: F401
from typer.models import OptionInfo

from bench import cli, completion, environment, executor, live, registry, views
from bench.errors import no_room
from bench.grid import plan, suites
from bench.published import KIN
from bench.training import Context, Interrupted, Progress, run_cell

pytestmark = pytest.mark.usefixtures("toys")
COMMANDS = [[], ["list"], ["run"], ["status"], ["show"], ["compare"], ["inspect"], ["profile"], ["tables"], ["report"],
            ["export"], ["import"], ["diff"], ["doctor"], ["data"], ["data", "list"], ["data", "get"],
            ["data", "check"]]  # fmt: skip
NET = ("run", "-m", "plug-net", "-t", "plug-points", "--results", "out", "--steps", 4, *QUICK)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_shows_an_example(capsys: pytest.CaptureFixture[str], command: list[str]) -> None:
    said = bench(capsys, *command, "--help")
    assert said.code == 0
    assert "Example" in said.out
    assert f"bench {' '.join(command)}".strip() in said.out


def test_help_and_completion_import_nothing_heavy() -> None:
    code = (
        "import sys; from bench import cli, completion; cli.call(['run', '--help']); completion.settings(''); "
        "print(sorted({'torch', 'numpy', 'pandas', 'rich', 'bench.api', 'bench.grid'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("command", [("list",), ("list", "--json"), ("--help",)], ids=" ".join)
def test_whoever_stops_reading_ends_it_quietly(tmp_path: Path, command: tuple[str, ...]) -> None:
    """As `bench list | head -1`: the code of a process that a closed pipe ended, and no trace."""
    process = start(*command, cwd=tmp_path)
    assert process.stdout
    process.stdout.close()
    process.stdout = None
    said = end(process)
    assert said.code == 141
    assert said.err == ""


def test_version_and_no_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench(capsys, "--version").out.startswith("mannbench ")
    assert "Usage" in "".join(bench(capsys)[1:])


def test_list_names_everything_with_source_and_origin(capsys: pytest.CaptureFixture[str]) -> None:
    found = bench(capsys, "list", "--json").json
    assert {m["name"] for m in found["methods"]} == set(registry.METHODS.entries)
    assert {t["name"] for t in found["tasks"]} == set(registry.TASKS.entries)
    assert {o["name"] for o in found["ops"]} == set(registry.OPS.entries)
    assert {s["name"] for s in found["suites"]} == set(suites())
    net = next(m for m in found["methods"] if m["name"] == "plug-net")
    assert net["source"] == "nobody 2026"
    assert net["origin"] == f"file {TOYS}"
    assert net["summary"] == "A linear classifier."
    shown = bench(capsys, "list", "methods").out
    assert all(name in shown for name in registry.METHODS.entries)
    assert "plug-points" not in shown


def test_names_of_papers_are_known_as_forms_of_a_method(capsys: pytest.CaptureFixture[str]) -> None:
    for command in (("list", "ANIL"), ("run", "-m", "ANIL", "-t", "glyphs")):
        refused(bench(capsys, *command), "ANIL is a form of maml: bench run -m maml --set maml.adapts=head")
    assert "MAML++" in bench(capsys, "list", "maml").out
    for kin in KIN.values():
        for _, told in kin:
            if told not in registry.METHODS.entries:
                assert "is a form of" in registry.known_as(told)


def test_list_one_shows_what_set_takes(capsys: pytest.CaptureFixture[str]) -> None:
    shown = bench(capsys, "list", "plug-net").out
    assert "plug-net.style" in shown
    assert "one of plain, fancy" in shown
    assert "seconds that a training step sleeps" in shown
    fields = bench(capsys, "list", "plug-net", "--json").json["fields"]
    assert {f["name"]: f["default"] for f in fields}["nap"] == 0.0
    assert "budget" in bench(capsys, "list", suites()[0]).out


def test_run_records_skips_and_ends_with_a_table(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    first = bench(capsys, *NET, "--seeds", "0-1")
    assert first.code == 0, first
    assert "2 cells: 0 recorded already, 2 to run" in first.out
    assert "2 recorded now, 0 skipped" in first.out
    assert "\r" not in first.err
    before = {p: p.read_bytes() for p in (tmp_path / "out" / "runs").rglob("*.json")}
    assert len(before) == 2
    assert all(p.stem.partition("-")[2] in first.out for p in before)
    again = bench(capsys, *NET, "--seeds", "0-2")
    assert "3 cells: 2 recorded already, 1 to run" in again.out
    assert "1 recorded now, 2 skipped" in again.out
    assert before.items() <= {p: p.read_bytes() for p in (tmp_path / "out" / "runs").rglob("*.json")}.items()
    nothing = bench(capsys, *NET, "--seeds", "0-2")
    assert nothing.out.count("recorded ") >= 3  # shows what is there, though it ran nothing
    assert f"next: bench show {nothing.out.rpartition('bench show ')[2].split()[0]} --results out" in nothing.out


def test_run_json_is_alone_on_stdout(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    said = bench(capsys, *NET, "-m", "plug-crash", "--set", "plug-net.broken=yes", "--json")
    cells = {c["method"]: c for c in said.json["cells"]}
    assert said.code == 1
    assert cells["plug-net"]["status"] == "diverged"
    assert (tmp_path / cells["plug-net"]["record"]).is_file()
    assert cells["plug-crash"]["status"] == "failed"
    assert "RuntimeError" in cells["plug-crash"]["message"]
    assert "crash" in said.err
    assert [c["status"] for c in bench(capsys, *NET, "--dry-run", "--json").json["cells"]] == ["pending"]


def test_dry_run_runs_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    said = bench(capsys, *NET, "--seeds", "0-2", "--dry-run")
    assert said.code == 0
    assert "3 cells, 0 recorded, 3 to run" in said.out
    assert not (tmp_path / "out").exists()
    bench(capsys, *NET, "--seeds", "1")
    told = bench(capsys, *NET, "--seeds", "0-2", "--dry-run", "--json").json["cells"]
    assert [c["status"] for c in told] == ["pending", "recorded", "pending"]


def test_patterns_and_settings_reach_the_cells(capsys: pytest.CaptureFixture[str]) -> None:
    command = ("run", "-m", "plug-*", "-t", "plug-p*", "--dry-run", "--json", "--results", "out")
    assert {c["method"] for c in bench(capsys, *command).json["cells"]} == {"plug-net", "plug-crash", "plug-die"}
    base = bench(capsys, *NET, "--dry-run", "--json").json["cells"][0]["id"]
    other = bench(capsys, *NET, "--set", "plug-net.style=fancy", "--dry-run", "--json").json["cells"][0]["id"]
    assert base != other
    assert "style=fancy" in bench(capsys, *NET, "--set", "plug-*.style=fancy", "--dry-run").out


def test_shards_cover_the_grid_once(capsys: pytest.CaptureFixture[str]) -> None:
    command = (*NET, "--seeds", "0-6", "--dry-run", "--json")
    parts = [[c["id"] for c in bench(capsys, *command, "--shard", f"{i}/3").json["cells"]] for i in (1, 2, 3)]
    whole = [c["id"] for c in bench(capsys, *command).json["cells"]]
    assert sorted(id for part in parts for id in part) == sorted(whole)
    assert all(len(part) < len(whole) for part in parts)


def test_what_has_no_room_is_said_in_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    said = bench(capsys, "run", "-m", "cnp", "-t", "sinusoid", "--set", "cnp.size=100000000", "--results", "out")
    assert said.code == 2
    assert "there is no room in memory (can't allocate memory: you tried to allocate" in said.err
    assert "make the batch or the sizes of the method or its task smaller" in said.err
    assert "Error: " not in said.err


@pytest.mark.parametrize(
    ("error", "full"),
    [(MemoryError(), True), (OSError(12, "Cannot allocate memory"), True), (OSError(2, "No such file"), False),
     (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), True), (RuntimeError("shapes differ"), False),
     (RuntimeError("Storage size calculation overflowed with sizes=[9]"), True), (KeyError("memory"), False)],
)  # fmt: skip
def test_which_errors_say_that_memory_is_full(error: Exception, full: bool) -> None:
    assert no_room(error) == full
    assert executor._said(error).startswith("there is no room in memory") == full
    assert "()" not in executor._said(MemoryError())


def test_failed_cells_do_not_stop_others_and_name_their_log(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    said = bench(capsys, *NET, "-m", "plug-crash")
    assert said.code == 1
    assert "[bold]crash[/bold]" in said.err  # printed as it is, not as markup
    assert "1 recorded now" in said.out
    log = said.err.partition("(log: ")[2].partition(")")[0]
    assert "Traceback" in (tmp_path / log).read_text()
    counted = bench(capsys, "status", "--results", "out")
    assert "1 done" in counted.out
    assert "1 failed" in counted.out
    assert log in counted.out


def test_status_of_a_suite_counts_every_cell(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    grid = {"methods": '["plug-net", "plug-crash"]', "tasks": '["plug-points"]', "seeds": '"0-2"',
            "budget": "{ steps = 3, validations = 0, test_episodes = 20 }"}  # fmt: skip
    (tmp_path / "mine.toml").write_text("[[grid]]\n" + "".join(f"{k} = {v}\n" for k, v in grid.items()))
    bench(capsys, "run", "mine.toml", "--results", "out", "-m", "plug-net", "--seeds", "0-1", "--no-picture")
    bench(capsys, "run", "mine.toml", "--results", "out", "-m", "plug-crash", "--seeds", "0", "--no-picture")
    total = bench(capsys, "status", "mine.toml", "--results", "out", "--json").json["total"]
    assert total == {"done": 2, "pending": 3, "diverged": 0, "failed": 1}
    assert "next: bench run mine.toml --results out" in bench(capsys, "status", "mine.toml", "--results", "out").out


def test_status_tells_budgets_apart(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for steps, seeds in ((3, "0-1"), (4, "0")):
        bench(capsys, *NET, "--steps", steps, "--seeds", seeds)
    rows = bench(capsys, "status", "--results", "out", "--json").json["rows"]
    assert sorted((row["steps"], row["done"]) for row in rows) == [(3, 2), (4, 1)]


def test_status_and_run_tell_of_cells_that_were_begun(capsys: pytest.CaptureFixture[str]) -> None:
    (cell,) = plan(None, ["plug-net"], ["plug-points"], None, QUICK[1:6:2], 4).cells
    with pytest.raises(Interrupted):
        run_cell(cell, Context(Path("out"), stopping=StopAt(3)))
    ((id, step),) = bench(capsys, "status", "--results", "out", "--json").json["begun"].items()
    assert (id, step > 0) == (cell.id, True)
    assert f"1 cell begun and not ended, for the same command to go on with: {id} at step {step}" in bench(
        capsys, "status", "--results", "out"
    ).out.replace("\n", " ")
    assert "1 to run, 1 of them from a checkpoint" in bench(capsys, *NET).out
    assert bench(capsys, "status", "--results", "out", "--json").json["begun"] == {}


def test_show_of_a_method_that_is_not_here_knows_no_defaults(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    id = bench(capsys, *NET, "--json").json["cells"][0]["id"]
    assert "defaults are not known" not in bench(capsys, "show", id, "--results", "out").out
    monkeypatch.delitem(registry.METHODS.entries, "plug-net")
    shown = bench(capsys, "show", id, "--results", "out").out
    assert "its defaults are not known: no method of this name is here (--plugin?)" in shown
    assert "not the defaults" not in shown.partition("task")[0]


def test_status_of_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert "0 done" in bench(capsys, "status", "--results", "nowhere").out


def test_show_prints_the_command_that_makes_the_same_record(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    import shlex

    changes = ("--set", "plug-net.style=fancy", "--set", "plug-points.way=2", "--set", "plug-points.also=way=2",
               "--seeds", 3)  # fmt: skip
    cell = bench(capsys, *NET, *changes, "--json").json["cells"][0]
    said = bench(capsys, "show", cell["id"][:6], "--results", "out")
    assert said.code == 0
    for part in (cell["id"], cell["record"], "style=fancy", "accuracy", "±", "training loss", "peak_bytes", "n = 20"):
        assert part in said.out
    printed = said.out.partition("make it again:")[2].strip().splitlines()[0]
    command = shlex.split(printed)
    assert command[0] == "bench"
    rerun = bench(capsys, *command[1:], "--results", "elsewhere", "--no-picture", "--json").json["cells"][0]
    assert rerun["id"] == cell["id"]
    assert results_of(tmp_path / "elsewhere") == results_of(tmp_path / "out")
    assert bench(capsys, "show", cell["id"], "--results", "out", "--json").json["id"] == cell["id"]


def test_show_names_the_plugins_of_a_record(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "my plug.py").write_text("")
    cell = bench(capsys, *NET, "--plugin", "my plug.py", "--json").json["cells"][0]
    show = ("show", cell["id"], "--results", "out")
    digest = bench(capsys, *show, "--json").json["env"]["plugins"]["plugin_toys.py"]

    def printed() -> str:
        return bench(capsys, *show).out.partition("make it again:")[2].strip()

    assert printed().endswith(f" --plugin {TOYS}")  # the other was loaded, and is not used
    with monkeypatch.context() as gone:
        gone.delitem(registry.METHODS.entries, "plug-net")  # nothing tells now which files are used
        options = f"(it was made with --plugin '{tmp_path}/my plug.py' --plugin {TOYS}"
        assert "there is no method 'plug-net'" in printed()
        assert f"{options})" in printed()
        (tmp_path / "my plug.py").write_text("changed = True")
        assert f"{options}  # was my plug.py with sha256 e3b0c44298fc…" in printed()
    monkeypatch.setenv("BENCH_PLUGINS", "")
    assert printed().endswith(" --plugin plugin_toys.py  # was plugin_toys.py with sha256 "
                              f"{digest[:12]}…: the record does not say where that is")  # fmt: skip


def test_show_passes_no_command_on_to_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    cell = bench(capsys, *NET, "--json").json["cells"][0]
    path = Path(cell["record"])
    content = json.loads(path.read_text())
    content["env"]["device"] = content["result"]["metric"] = "red\x1b[31m\x9b31m"
    path.write_text(json.dumps(content))
    said = bench(capsys, "show", cell["id"], "--results", "out").out
    assert said.count(r"red\x1b[31m\x9b31m") >= 2
    assert not {"\x1b", "\x9b"} & {*said}


def test_show_of_a_method_that_is_gone(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    cell = bench(capsys, *NET, "--json").json["cells"][0]
    monkeypatch.delitem(registry.METHODS.entries, "plug-net")
    said = bench(capsys, "show", cell["id"], "--results", "out")
    assert said.code == 0
    assert "there is no method 'plug-net'" in said.out


def test_picture_is_a_help_never_a_reason_to_fail(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from types import SimpleNamespace

    import bench as package

    def draw(records: list[object], path: Path, title: str) -> None:
        path.write_text(title) if len(records) == 1 else path.unlink()

    fake = SimpleNamespace(overview=draw)
    monkeypatch.setitem(sys.modules, "bench.plots", fake)  # type: ignore[arg-type]
    monkeypatch.setattr(package, "plots", fake, raising=False)
    command = [a for a in NET if a != "--no-picture"]
    said = bench(capsys, *command)
    assert "picture: out/pictures/run.png" in said.out
    assert [p.name for p in (tmp_path / "out" / "pictures").iterdir()] == ["run.png"]
    failed = bench(capsys, *command, "--seeds", "0-1")
    assert failed.code == 0
    assert "no picture" in failed.err
    shutil.rmtree(tmp_path / "out")
    (tmp_path / "out" / ".bench").mkdir(parents=True)
    for in_the_way in ("out/pictures", "out/.bench/failures"):
        (tmp_path / in_the_way).touch()
    failed = bench(capsys, *command)
    assert failed.code == 0
    assert "no picture" in failed.err


def test_a_pipe_in_place_of_a_record_is_named_and_left_out(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    cell = bench(capsys, *NET, "--seeds", "0-1", "--json").json["cells"][0]
    (path,) = (tmp_path / "out" / "runs").rglob(f"*{cell['id']}.json")
    path.unlink()
    os.mkfifo(path)
    said = bench(capsys, "status", "--results", "out")
    assert f"{path.name} cannot be read: it is no regular file" in said.err


def test_runs_and_tables_tell_where_uncommitted_code_made_all(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    told = "not committed: tables and comparisons leave these records out"
    code = environment.source()
    monkeypatch.setattr(environment, "source", lambda: code | {"dirty": False})
    assert told not in bench(capsys, *NET, "--seeds", "1", "--results", "clean").out
    monkeypatch.setattr(environment, "source", lambda: code | {"dirty": True})
    assert told in bench(capsys, *NET).out
    said = "all records of out were made by uncommitted code; --dirty takes them too"
    assert f"warning: {said}" in bench(capsys, "tables", "--results", "out").err


def suite_file(folder: Path) -> str:
    (folder / "mine.toml").write_text(
        "title = 'Mine'\n[[grid]]\nmethods = ['plug-net']\ntasks = ['plug-points']\nseeds = '0-2'\n"
        "budget = { steps = 3, validations = 0, test_episodes = 20 }\n"
        "[[grid]]\nmethods = ['plug-net']\ntasks = ['plug-data']\noptional = true\n"
    )
    return "mine.toml"


def test_tables_are_written_checked_and_named_when_stale(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    mine, out = suite_file(tmp_path), ("--results", "out", "--dirty")
    ran = bench(capsys, "run", mine, "--results", "out", "--seeds", "0-1", "--no-picture")
    assert "left out plug-data" in ran.err
    assert "next: bench tables mine.toml --results out" in ran.out
    stale = bench(capsys, "tables", mine, *out, "--check")
    assert stale.code == 1
    assert "stale: out/tables/mine.csv" in stale.out
    assert not (tmp_path / "out" / "tables").exists()
    assert bench(capsys, "tables", mine, *out).code == 0
    written = {p.name: p.read_bytes() for p in (tmp_path / "out" / "tables").iterdir()}
    assert set(written) == {"mine.md", "mine.csv", "mine.tex"}
    assert b"Mine" in written["mine.md"]
    assert b"plug-data" not in written["mine.md"]  # no record and no data: it was left out, not missed
    assert bench(capsys, "tables", mine, *out, "--check").code == 0
    (tmp_path / "out" / "tables" / "mine.md").write_text("by hand")
    assert bench(capsys, "tables", mine, *out, "--check").out.splitlines() == ["stale: out/tables/mine.md"]
    assert bench(capsys, "tables", mine, *out).code == 0
    assert {p.name: p.read_bytes() for p in (tmp_path / "out" / "tables").iterdir()} == written


def test_tables_without_a_suite_take_all_records(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    refused(bench(capsys, "tables", "--results", "out", "--check"), "no folder out")
    bench(capsys, *NET)
    assert bench(capsys, "tables", "--results", "out", "--dirty").code == 0
    assert "plug-net" in (tmp_path / "out" / "tables" / "other.md").read_text()
    (tmp_path / "out" / "tables" / "gone.md").write_text("of a suite that is no more")
    said = bench(capsys, "tables", "--results", "out", "--dirty", "--check")
    assert said.code == 1
    assert "gone.md is of no suite here that has records" in said.out


def test_what_is_done_can_be_counted_without_the_data(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "far.toml").write_text("[[grid]]\nmethods = ['plug-net']\ntasks = ['plug-data']\nseeds = '0-4'\n")
    said = bench(capsys, "status", "far.toml", "--results", "out")
    assert said.code == 0
    assert "5 pending" in said.out
    assert "bench data get omniglot" in said.out


def test_data_list_shows_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    listing = bench(capsys, "data", "list", "--json").json
    assert {"name", "found", "digest", "licence", "source"} == set(listing[0])
    assert all(e["found"] is None for e in listing)
    assert "bench data get omniglot" in bench(capsys, "data", "list").out


def test_doctor_is_plain_text_that_says_how_to_get_what_is_missing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from bench import environment

    monkeypatch.setattr(environment, "package", lambda name: None if name == "learn2learn" else "1.0")
    said = bench(capsys, "doctor")
    assert said.code == 0
    assert "\x1b" not in said.out
    for part in ("torch", "BLAS", "threads", "GPU", "GiB free", "--no-deps", "bench data get omniglot", str(TOYS)):
        assert part in said.out
    assert bench(capsys, "doctor", "--json").json["optional"]["learn2learn"].startswith("missing")


def test_completion_of_names_and_fields() -> None:
    assert {"plug-net", "plug-crash"} <= {n for n, _ in completion.methods("plug-")}
    assert {n for n, _ in completion.tasks("plug-p")} == {"plug-points"}
    assert {n for n, _ in completion.suites()} == set(suites())
    settings = dict(completion.settings("plug-net."))
    assert settings["plug-net.nap="] == "seconds that a training step sleeps"
    assert settings["plug-net.lr="] == "learning rate"  # inherited
    assert ("budget.steps=", "training steps, each of `batch` episodes") in completion.settings("budget")


def test_completion_knows_every_built_in_name_and_field() -> None:
    from dataclasses import fields

    offered = {word for word, _ in completion.settings()}
    for reg in (registry.METHODS, registry.TASKS, registry.OPS):
        for name, cls in reg.entries.items():
            if reg.origins[name] == "built in" or name.startswith("plug-"):
                assert {f"{name}.{f.name}=" for f in fields(cls)} <= offered, name


def test_completion_through_the_shell(tmp_path: Path) -> None:
    said = shell(cwd=tmp_path, _BENCH_COMPLETE="complete_bash", COMP_WORDS="bench run -m plug-", COMP_CWORD="3")
    assert "plug-net" in said.out.split()


def test_bars_in_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    import io

    from rich.console import Console

    from bench import grid
    from bench.executor import Outcome

    cells = grid.plan(None, ["plug-net"], ["plug-points"], "0-1").cells
    out = Console(file=io.StringIO(), force_terminal=True, width=110, highlight=False)
    with live.display(cells, out) as display:
        display.report(Progress(cells[0].id, "training", 1, 10, 0.5))
        display.report(Progress(cells[0].id, "testing", 10, 10))
        display.finished(Outcome(cells[0], "done"), "accuracy 50 %")
    text = out.file.getvalue()  # type: ignore[attr-defined]
    assert "1/2 cells" in text
    assert f"done   {cells[0].label}: accuracy 50 % (1/2" in text


def test_plain_lines_come_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    from rich.console import Console

    from bench import grid

    cells = grid.plan(None, ["plug-net"], ["plug-points"], "0").cells
    clock = [0.0]
    monkeypatch.setattr(live.time, "monotonic", lambda: clock[0])
    out = Console(file=io.StringIO(), width=200)
    with live.display(cells, out) as display:
        for step in range(1, 1001):
            clock[0] += 0.1
            display.report(Progress(cells[0].id, "training", step, 2000, 0.25))
    lines = out.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert 8 <= len(lines) <= 10
    assert "loss 0.25" in lines[-1]
    assert "10 steps/s" in lines[-1]
    assert "left" in lines[-1]
    assert "\r" not in out.file.getvalue()  # type: ignore[attr-defined]


def test_sparkline() -> None:
    assert views.sparkline([0, 1, None, 7]) == "▁▂·█"
    assert views.sparkline([]) == ""
    assert views.sparkline([3.0, 3.0]) == "▁▁"
    assert len(views.sparkline([float(i) for i in range(1000)], 60)) <= 60


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.2, "0 s"), (59.7, "1 min 00 s"), (190, "3 min 10 s"), (7500, "2 h 05 min")]
)
def test_duration(seconds: float, said: str) -> None:
    assert live.duration(seconds) == said


def test_papers_interval_is_1_96_standard_errors() -> None:
    scores = [0.0, 1.0] * 50
    assert views.half_width(scores) == pytest.approx(1.96 * 0.5025189 / 10, rel=1e-6)
    assert views.half_width([1.0]) is None
    assert views.score("accuracy", {"mean": 0.5, "per_episode": scores}) == "50.00 ± 9.85 %"


def test_narrow_terminal_and_no_colour(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("NO_COLOR", "1")
    said = bench(capsys, *NET)
    assert said.code == 0
    assert "\x1b" not in said.out


def test_a_reader_that_leaves_is_no_error(tmp_path: Path) -> None:
    process = start("list", cwd=tmp_path)
    assert process.stdout is not None
    process.stdout.close()
    process.stdout = None
    said = end(process)
    assert "Traceback" not in said.err
    assert "Broken" not in said.err


def test_plugin_option_and_two_workers(tmp_path: Path) -> None:
    command = (*NET, "--plugin", TOYS, "--workers", 2, "--seeds", "0-2", "--json")
    said = shell(*command, cwd=tmp_path, BENCH_PLUGINS="")
    assert said.code == 0, said.err
    assert [c["status"] for c in said.json["cells"]] == ["done"] * 3


def test_json_stays_alone_on_stdout_when_plugins_print(tmp_path: Path) -> None:
    (tmp_path / "loud.py").write_text("print('hello')\n")
    for command in (("list", "methods"), (*NET, "--workers", 2, "--seeds", "0-1")):
        said = shell(*command, "--plugin", "loud.py", "--json", cwd=tmp_path)
        assert said.code == 0, said.err
        assert said.json
        assert "hello" in said.err


def test_what_the_system_refuses_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    found = bench(capsys, "show", "ab12", "--results", "x" * 300)
    assert found.code == 2
    assert "name too long" in found.err.lower()
    assert len(found.err.splitlines()) == 1


def test_debug_shows_the_trace(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from bench.errors import BenchError

    monkeypatch.setenv("BENCH_DEBUG", "1")
    with pytest.raises(BenchError):
        bench(capsys, "run", "nonsense")


def test_python_interface_gives_the_same_ids(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    import bench as package

    told = bench(capsys, *NET, "--json").json["cells"][0]["id"]
    changes = ["budget.test_episodes=20", "budget.val_episodes=10", "budget.validations=2"]
    records = package.run(methods=["plug-net"], tasks=["plug-points"], set=changes, steps=4, results=tmp_path / "out")
    assert [r.id for r in records] == [told]
    assert json.loads(json.dumps(records[0].spec)) == records[0].spec
    assert os.environ["BENCH_DATA"]
    again = package.run(methods="plug-net", tasks="plug-points", set=changes, steps=4, results=tmp_path / "out",
                        seeds=np.arange(1))  # fmt: skip
    assert again == records, "one name is a name, and a number of NumPy's a number"


@pytest.mark.parametrize(
    ("name", "ours", "theirs"),
    [
        ("OMP_WAIT_POLICY", "PASSIVE", "ACTIVE"),
        ("THP_MEM_ALLOC_ENABLE", "1", "0"),
        ("MALLOC_TRIM_THRESHOLD_", str(256 << 20), "131072"),
    ],
)
def test_how_torch_waits_and_takes_memory_is_ours_to_say_unless_the_user_does(
    name: str, ours: str, theirs: str
) -> None:
    code = f"import bench.cli, os, sys; print(os.environ['{name}'], 'torch' in sys.modules)"
    for given, found in (({}, ours), ({name: theirs}, theirs)):
        environment = {k: v for k, v in os.environ.items() if k != name} | given
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
        assert done.stdout.split() == [found, "False"]


def test_an_option_whose_metavar_is_its_name_says_its_name() -> None:
    """Typer 0.27 takes such a metavar for the name: `--DEVICE`."""
    for command in (*cli.app.registered_commands, *cli.data_app.registered_commands):
        assert command.callback is not None
        for name, parameter in inspect.signature(command.callback, eval_str=True).parameters.items():
            for option in getattr(parameter.annotation, "__metadata__", ()):
                if not isinstance(option, OptionInfo):
                    continue
                alike = (getattr(option, "metavar", None) or "").lower() == name
                # In an annotation typer keeps the first name as what is elsewhere the default.
                assert not alike or str(option.default).startswith("-"), (
                    f"{command.callback.__name__}: name --{name} itself"
                )
