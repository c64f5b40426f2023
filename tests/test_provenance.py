"""What another plug-in file made, or another copy of the data, is said wherever it would pass for the same."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import synthetic
from fakes import StopAt
from shell import QUICK, TOYS, bench, toys  # noqa: F401

from bench import checkpoints, data, interface, provenance, records, registry, report
from bench.grid import plan
from bench.training import Context, Interrupted, run_cell

pytestmark = pytest.mark.usefixtures("toys")
GRID = ("-m", "plug-net", "-t", "plug-points", "--results", "out", "--steps", 4, *QUICK)
OLD = "0" * 64


def edited(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the plug-in had been another file until now."""
    monkeypatch.setitem(registry.imported, TOYS.resolve(), OLD)


def test_records_of_another_plugin_are_said_to_be(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench(capsys, "run", *GRID, "--seeds", "0-1")
    assert "another" not in bench(capsys, "run", *GRID, "--seeds", "0-2").err
    edited(monkeypatch)
    for more in (["--seeds", "0-1", "--dry-run"], ["--seeds", "3"]):  # nothing of it is to run, or is recorded
        said = bench(capsys, "run", *GRID, *more).err
        assert f"3 records were made with another {TOYS.name} than this" in said
        assert "raise `version`" in said
    assert bench(capsys, "run", *GRID, "-m", "chance", "--seeds", "0").err.count("another") == 1


def test_what_is_pooled_is_said_to_be_made_with_two(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    both = (*GRID, "-m", "chance")
    bench(capsys, "run", *both, "--seeds", "0-1")
    compare = ("compare", "plug-net", "chance", "--results", "out", "--dirty")
    assert "more than one" not in bench(capsys, *compare).err
    edited(monkeypatch)
    bench(capsys, "run", *both, "--seeds", "2-3")
    expected = f"seeds of plug-net on plug-points that are pooled were made with more than one {TOYS.name}"
    for command in (compare, ("tables", "--results", "out", "--dirty")):
        assert expected in bench(capsys, *command).err, command
    assert expected in report.render(Path("out"), dirty=True)


def test_a_built_in_method_on_a_built_in_task_owes_a_plugin_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("run", "-m", "chance", "-t", "glyphs", "--results", "out", *QUICK)
    bench(capsys, *command, "--seeds", "0")
    edited(monkeypatch)
    assert "another" not in bench(capsys, *command, "--seeds", "0-1").err
    made = records.load(Path("out")).records
    assert [record.env["plugins"][TOYS.name] == OLD for record in made] == [False, True]
    assert not provenance.mixed(made)


def test_a_cell_that_another_plugin_began_says_so_before_it_goes_on_and_in_its_record(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    context = Context(Path("out"))
    (cell,) = plan(None, ["plug-net"], ["plug-points"], None, [], 4).cells
    with monkeypatch.context() as before:
        edited(before)
        with pytest.raises(Interrupted):
            run_cell(cell, replace(context, stopping=StopAt(2)))
    (said,) = provenance.stale(Path("out"), [cell], {}, [cell])
    assert f"1 cell was begun with another {TOYS.name} than this" in said
    assert f"out/.bench/checkpoints/{cell.id}" in said
    record = run_cell(cell, context)
    (segment,) = record.env["resumed"]
    assert segment["before"] == {"plugins": {TOYS.name: OLD}}
    assert f"with {TOYS.name} 000000000000" in bench(capsys, "show", record.id, "--results", "out").out


def test_a_cell_that_the_same_code_began_has_nothing_to_say() -> None:
    (cell,) = plan(None, ["plug-net"], ["plug-points"], None, [], 4).cells
    with pytest.raises(Interrupted):
        run_cell(cell, Context(Path("out"), stopping=StopAt(2)))
    assert provenance.stale(Path("out"), [cell], {}, [cell]) == []
    assert "before" not in run_cell(cell, Context(Path("out"))).env["resumed"][0]


def test_records_from_another_copy_of_the_data_are_said_to_be(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench(capsys, "run", *GRID, "--seeds", "0-1")
    mine = {"name": "miniimagenet", "sha256": "a" * 64}
    both = {record.id: replace(record, data=mine) for record in records.load(Path("out")).records}
    (cell, second) = plan(None, ["plug-net"], ["plug-points"], "0-1", QUICK[1:6:2], 4).cells
    assert both.keys() == {cell.id, second.id}
    monkeypatch.setattr(type(cell.task), "dataset", "miniimagenet")
    monkeypatch.setattr(data, "digest", lambda name: mine["sha256"])
    assert provenance.stale(Path("gone"), [cell, second], both, []) == []
    assert not provenance.mixed(both.values(), dirty=True)
    both[cell.id] = replace(both[cell.id], data=mine | {"sha256": "b" * 64})
    (said,) = provenance.stale(Path("gone"), [cell, second], both, [])
    assert said.startswith("1 record was made with another miniimagenet than this: nothing is run again")
    assert "version" not in said
    (said,) = provenance.mixed(both.values(), dirty=True)
    assert said.endswith("made with more than one miniimagenet")


def test_a_cell_begun_on_another_copy_of_the_data_is_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    (cell,) = plan(None, ["plug-net"], ["plug-points"], None, [], 4).cells
    with pytest.raises(Interrupted):
        run_cell(cell, Context(Path("out"), stopping=StopAt(2)))
    monkeypatch.setattr(type(cell.task), "dataset", "miniimagenet")
    monkeypatch.setattr(data, "digest", lambda name: "a" * 64)
    assert provenance.stale(Path("out"), [cell], {}, [cell]) == [], "of which data the checkpoint is it does not say"
    made = {"commit": None, "source": "0", "plugins": {}, "data": "b" * 64}
    monkeypatch.setattr(provenance, "notes", lambda content: {"made": made})
    (said,) = provenance.stale(Path("out"), [cell], {}, [cell])
    assert said.startswith("1 cell was begun with another miniimagenet than this and will go on from there")


# ----------------------------------------------------------------------------------------------------------- by itself

HERE = "1" * 64


def made(seed: int = 0, version: int = 1, plugins: dict[str, str] | None = None, **env: Any) -> records.Record:
    cell = synthetic.spec("plug-net", "omniglot", seed, fields={})
    cell["method"]["version"] = version
    record = synthetic.scored(cell, 0.5)
    record["env"] |= {"plugins": {TOYS.name: HERE} if plugins is None else plugins} | env
    return records.Record(**record)


@pytest.mark.parametrize(
    ("pool", "warned"),
    [([made(0), made(1)], False),
     ([made(0), made(1, plugins={TOYS.name: OLD})], True),
     ([made(0, plugins={TOYS.name: OLD}), made(1), made(0, 2), made(1, 2)], False),
     ([made(0), made(1, plugins={TOYS.name: OLD}, dirty=True)], False),
     ([made(0, plugins={TOYS.name: HERE, "b.py": OLD}), made(1, plugins={TOYS.name: HERE, "b.py": HERE})], False),
     ([made(0, plugins={"renamed.py": HERE}), made(1)], False),
     ([made(0, plugins={"renamed.py": OLD}), made(1)], True),
     ([made(0), made(1, resumed=[{"step": 3, "before": {"plugins": {TOYS.name: OLD}}}])], True),
     ([made(0), made(1, resumed=[{"step": 3, "before": {"plugins": {"b.py": OLD}}}])], False),
     ([made(0), made(1, resumed=[{"step": 3, "before": {"commit": "2"}}])], False)],
    ids=["alike", "another", "of an old version", "uncommitted", "of a bystander", "renamed", "renamed and edited",
         "before a resumption", "of a bystander, before", "of another commit"],
)  # fmt: skip
def test_only_what_is_pooled_and_concerned_counts(pool: list[records.Record], warned: bool) -> None:
    assert bool(provenance.mixed(pool)) == warned


@pytest.mark.parametrize(
    "content", [{}, {"notes": "{"}, {"notes": '{"made": [1]}'}, {"notes": '{"made": {"plugins": null}}'}]
)
def test_a_damaged_checkpoint_is_left_to_its_cell(content: dict[str, Any]) -> None:
    (cell,) = plan(None, ["plug-net"], ["plug-points"], None, [], 4).cells
    checkpoints.save_step(Path("out"), cell.id, 2, content)
    assert provenance.stale(Path("out"), [cell], {}, [cell]) == []


def test_a_plugin_that_is_gone_since_it_was_imported_is_still_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_cell(plan(None, ["chance"], ["plug-points"], None, [], 4).cells[0], Context(Path("out")))
    (cell,) = plan(None, ["chance"], ["plug-points"], "1", [], 4).cells
    monkeypatch.setenv("BENCH_PLUGINS", str(tmp_path / "gone.py"))
    for digests in ({}, {(tmp_path / "gone.py").resolve(): OLD}):
        monkeypatch.setattr(registry, "imported", digests)
        assert registry.plugin_digests() == {path.name: digest for path, digest in digests.items()}
        assert provenance.stale(Path("out"), [cell], {}, [cell]) == []


def test_two_plugin_files_of_one_name_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [tmp_path / folder / "my.py" for folder in ("a", "b")]
    for path in paths:
        path.parent.mkdir()
        path.write_text(f"# {path.parent.name}")
    monkeypatch.setenv("BENCH_PLUGINS", os.pathsep.join(map(str, [*paths, TOYS])))
    digests = registry.plugin_digests()
    assert digests.keys() == {"a/my.py", "b/my.py", TOYS.name}
    assert len(set(digests.values())) == 3
    monkeypatch.setitem(registry.METHODS.origins, "plug-net", f"file {paths[1]}")
    assert registry.plugin_of(registry.METHODS, "plug-net") == "b/my.py"


def test_inspect_says_that_a_record_is_of_another_plugin(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    id = bench(capsys, "run", *GRID, "--json").json["cells"][0]["id"]
    with monkeypatch.context() as changed:
        edited(changed)
        assert (
            f"{id} was made with another {TOYS.name} than this" in bench(capsys, "inspect", id, "--results", "out").err
        )
    assert "another" not in bench(capsys, "inspect", id, "--results", "out").err


def test_from_python_it_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {"methods": "chance", "tasks": "plug-points", "results": "out"}
    interface.run(**options)
    edited(monkeypatch)
    with pytest.warns(UserWarning, match=f"1 record was made with another {TOYS.name}"):
        assert len(interface.run(**options)) == 1
