"""What another plug-in file made, or another copy of the data, is said wherever it would pass for the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import browsers
import pytest
from fakes import StopAt
from shell import QUICK, TOYS, bench, toys  # noqa: F401

from bench import data, provenance, records, registry
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
        assert f"3 records were made by another {TOYS.name} than this" in said
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
    assert expected in browsers.page([], mixed=provenance.mixed(records.load(Path("out")).records))


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
    (said,) = provenance.stale(Path("out"), [cell], [], [cell])
    assert f"1 cell was begun by another {TOYS.name} than this" in said
    assert f"out/.bench/checkpoints/{cell.id}" in said
    record = run_cell(cell, context)
    (segment,) = record.env["resumed"]
    assert segment["before"] == {"plugins": {TOYS.name: OLD}}
    assert f"with {TOYS.name} 000000000000" in bench(capsys, "show", record.id, "--results", "out").out


def test_a_cell_that_the_same_code_began_has_nothing_to_say() -> None:
    (cell,) = plan(None, ["plug-net"], ["plug-points"], None, [], 4).cells
    with pytest.raises(Interrupted):
        run_cell(cell, Context(Path("out"), stopping=StopAt(2)))
    assert provenance.stale(Path("out"), [cell], [], [cell]) == []
    assert "before" not in run_cell(cell, Context(Path("out"))).env["resumed"][0]


def test_records_from_another_copy_of_the_data_are_said_to_be(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench(capsys, "run", *GRID, "--seeds", "0-1")
    mine = {"name": "miniimagenet", "sha256": "a" * 64}
    one, other = (replace(record, data=mine) for record in records.load(Path("out")).records)
    monkeypatch.setattr(data, "digest", lambda name: mine["sha256"])
    assert provenance.stale(Path("out"), [], [one, other], []) == []
    assert not provenance.mixed([one, other])
    other = replace(other, data=mine | {"sha256": "b" * 64})
    (said,) = provenance.stale(Path("out"), [], [one, other], [])
    assert said == "1 record was made from another copy of miniimagenet than this; nothing is run again for that"
    (said,) = provenance.mixed([one, other])
    assert said.endswith("made with more than one miniimagenet")
