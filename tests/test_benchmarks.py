"""Benchmark records: from pytest-benchmark's report to a file, and from files to tables and a picture."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from bench import benchmarks, charts, published, scaling_plots
from bench.config import misfit
from bench.errors import BenchError
from bench.growth import PATIENCE, SHARE, Cost, why_not
from bench.ratios import ratios
from bench.refresh import refresh
from bench.slopes import slope

ENV = {"commit": "0" * 40, "dirty": False, "device": "a processor", "threads": 1, "torch": "2", "source_sha256": "0"}


def run(name: str, seconds: list[float], group: str = "steps", **more: Any) -> dict[str, Any]:
    return {
        "group": group, "name": f"test_it[{name}]", "fullname": "tests/benchmarks/test_some_steps.py::test_it",
        "param": name, "params": {"name": name}, "extra_info": {}, "stats": {"data": seconds},
    } | more  # fmt: skip


def report(*runs: dict[str, Any], **env: Any) -> dict[str, Any]:
    info = {"environment": ENV | env, "node": "a machine"}
    return {"machine_info": info, "datetime": "2026-01-02T03:04:05.678901+00:00", "benchmarks": list(runs)}


def growing(name: str, power: float, **extra: Any) -> list[dict[str, Any]]:
    return [
        run(name, [1e-3 * n**power], params={"slots": n}, extra_info={"name": name} | extra) for n in (4, 8, 16, 32)
    ]


def test_a_report_becomes_a_record_a_file_of_tests() -> None:
    other = run("x", [1.0], fullname="tests/benchmarks/test_other.py::test_it")
    extra = {"reference": True, "packages": {"dnc": "1.1.0"}, "notes": ["so it is"], "parameters": 7, "list": [1]}
    first, second = benchmarks.from_report(report(run("a", [3.0, 1.0, 2.0, 9.0], extra_info=extra), other))
    assert (first["name"], second["name"]) == ("some-steps", "other")
    assert first["made"] == "2026-01-02T03:04:05Z"
    assert first["packages"] == {"dnc": "1.1.0"}
    assert first["notes"] == ["so it is"]
    (entry,) = first["entries"]
    assert (entry["name"], entry["n"], entry["median"], entry["min"]) == ("a", 4, 2.5, 1.0)
    assert entry["iqr"] == pytest.approx(stats.iqr([3, 1, 2, 9]))
    assert entry["reference"]
    assert entry["extra"] == {"parameters": 7}


def test_nothing_of_the_machine_but_what_it_is_enters_a_record(tmp_path: Path) -> None:
    given = report(run("a", [1.0])) | {"commit_info": {"project": "/home/someone"}}
    (made,) = benchmarks.from_report(given)
    text = benchmarks.write(tmp_path, made).read_text()
    assert "/home" not in text
    assert "a machine" not in text


def test_values_take_the_place_of_seconds() -> None:
    given = run("a", [1.0], extra_info={"unit": "bytes", "values": [2**20, 3 * 2**20]})
    (made,) = benchmarks.from_report(report(given))
    assert made["entries"][0]["median"] == 2 * 2**20
    assert "2.00" in benchmarks.document(made)
    assert "median, MiB" in benchmarks.document(made)


def test_a_report_of_another_project_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BenchError, match="make benchmark"):
        benchmarks.from_report({"machine_info": {}, "benchmarks": []})
    (tmp_path / "report.json").write_text(json.dumps({"machine_info": {}, "benchmarks": []}))
    assert benchmarks.main([str(tmp_path / "report.json"), str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("error: the report does not say")


def test_ratios_are_to_the_reference_of_the_group() -> None:
    runs = [run("slow", [0.4]), run("mine", [0.1], extra_info={"reference": True}), run("fast", [0.05])]
    (made,) = benchmarks.from_report(report(*runs))
    rows = [line.split("|")[1:4] for line in benchmarks.document(made).splitlines() if line.startswith("|")]
    found = {cells[0].strip(): cells[1].strip() for cells in rows}
    assert found == {
        "": "× mine",
        "fast": "0.500",
        "mine": "1.00",
        "slow": "4.00",
        **{k: found[k] for k in found if "-" in k},
    }


def test_series_are_compared_with_their_first_point_and_have_a_slope() -> None:
    (made,) = benchmarks.from_report(report(*growing("line", 1.0), *growing("flat", 0.0)))
    assert benchmarks.along(made["entries"]) == "slots"
    text = benchmarks.document(made)
    assert "× its first slots" in text
    assert "8.00" in text
    assert "1.00 ± 0.00" in text
    assert " 0.00 ± 0.00" in text


def test_along_is_what_rows_of_one_name_differ_in() -> None:
    entries = [
        benchmarks.measured("g", f"{slots} slots", [1.0], params={"slots": slots, "steps": steps})
        for slots in (1, 2)
        for steps in (5, 6)
    ]
    assert benchmarks.along(entries) == "steps"
    assert benchmarks.along(entries[::2]) is None
    assert benchmarks.along([entry | {"name": "one"} for entry in entries]) is None


def test_the_slope_is_that_of_logarithms_with_its_interval() -> None:
    x, noise = np.array([1.0, 2, 4, 8, 16]), np.array([1.1, 0.9, 1.05, 0.95, 1.0])
    y = 3 * x**0.5 * noise
    value, half = slope(x.tolist(), y.tolist())
    design = np.stack([np.ones(5), np.log(x)], 1)
    solved, (residual,), *_ = np.linalg.lstsq(design, np.log(y), rcond=None)
    error = math.sqrt(residual / 3 * np.linalg.inv(design.T @ design)[1, 1])
    assert value == pytest.approx(solved[1])
    assert half == pytest.approx(3.182446 * error, rel=1e-5)
    assert math.isnan(slope([1, 2], [1, 2]).half)
    assert all(map(math.isnan, slope([1, 2, 3], [1, 0, 2])))


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        ({"schema": 99}, "newer than this version"),
        ({"entries": [{"group": 1}]}, "entries"),
        ({"name": "other"}, "name is not that of the file"),
        ({"env": {}}, "env"),
    ],
)
def test_what_is_no_record_is_named(change: dict[str, Any], wrong: str, tmp_path: Path) -> None:
    (made,) = benchmarks.from_report(report(run("a", [1.0])))
    path = benchmarks.write(tmp_path, made)
    path.write_text(json.dumps(made | change))
    with pytest.raises(BenchError, match=wrong):
        benchmarks.load(tmp_path)


def test_bench_tables_writes_and_checks_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (made,) = benchmarks.from_report(report(run("a", [1.0])))
    benchmarks.write(tmp_path, made)
    assert refresh((), tmp_path, check=True, dirty=False) == 1
    assert refresh((), tmp_path, check=False, dirty=False) == 0
    assert (tmp_path / "tables" / "some-steps.md").read_text() == benchmarks.document(made)
    assert refresh((), tmp_path, check=True, dirty=False) == 0
    benchmarks.write(tmp_path, made | {"env": ENV | {"dirty": True}})
    capsys.readouterr()
    assert refresh((), tmp_path, check=True, dirty=False) == 1, "a record of uncommitted code has no table"
    assert refresh((), tmp_path, check=True, dirty=True) == 0


def test_text_stays_text_in_a_table() -> None:
    (made,) = benchmarks.from_report(report(run("a|b", [1.0]), run("<c>\n", [2.0])))
    lines = [line for line in benchmarks.document(made).splitlines() if line.startswith("|")]
    assert len(lines) == 4
    assert "a\\|b" in lines[2]
    assert "&lt;c>" in lines[3]


def test_the_picture_is_the_same_for_the_same_records(tmp_path: Path) -> None:
    made = benchmarks.from_report(report(*growing("line", 1.0), *growing("flat", 0.0)))
    found = scaling_plots.pictures(made)
    assert charts.write(found, tmp_path) == ["scaling.png"]
    first = (tmp_path / "scaling.png").read_bytes()
    assert first == found["scaling.png"].png()
    assert charts.check(scaling_plots.pictures(made), tmp_path) == []
    slower = benchmarks.from_report(report(*growing("line", 1.1), *growing("flat", 0.0)))
    assert charts.check(scaling_plots.pictures(slower), tmp_path) == ["scaling.png"]
    assert scaling_plots.pictures(benchmarks.from_report(report(run("a", [1.0])))) == {}


def test_rows_are_set_beside_those_that_they_are_against() -> None:
    runs = [run("a, floor", [0.1], extra_info={"against": ["a, fused"]}), run("a, fused", [0.2]), run("a", [0.6])]
    runs[1]["extra_info"] = {"against": ["a", "not measured"]}
    (made,) = benchmarks.from_report(report(*runs))
    found = {(r.name, r.other): r.value for r in ratios(made["entries"], None)}
    assert found == {("a, floor", "a, fused"): pytest.approx(2), ("a, fused", "a"): pytest.approx(3)}
    text = benchmarks.document(made)
    assert "beside" in text
    assert "published" not in text
    assert misfit(made, benchmarks.SHAPE) == ""


def test_a_series_has_its_ratios_where_both_have_a_point_and_where_others_printed_one() -> None:
    (printed,) = (r for r in published.rows() if (r.method, r.variant, r.task) == ("sdnc", "lsh against dnc", "time"))
    place = int(printed.protocol["slots"])
    sizes = {"dnc": (64, 256), "sdnc, lsh": (64, 256, place, 4 * place)}
    runs = [
        run(name, [1e-6 * n ** (2 if name == "dnc" else 1)], params={"slots": n}, extra_info={"name": name} | (
            {"against": ["dnc"]} if name != "dnc" else {}))
        for name, all_sizes in sizes.items() for n in all_sizes
    ]  # fmt: skip
    (made,) = benchmarks.from_report(report(*runs))
    found = ratios(made["entries"], "slots")
    assert [(r.at, r.printed and r.printed.value) for r in found] == [(64, None), (256, None), (place, printed.value)]
    assert [r.value for r in found] == [pytest.approx(64), pytest.approx(256), None]
    text = benchmarks.document(made)
    assert f"{printed.value:g}" in text
    assert printed.citation in text
    in_bytes = [entry | {"unit": "bytes"} for entry in made["entries"]]
    assert ratios(in_bytes, "slots")[-1].printed.task == "memory"  # type: ignore[union-attr]


def test_one_measurement_among_many_has_no_spread_but_the_same_column() -> None:
    (made,) = benchmarks.from_report(report(run("a", [1.0]), run("b", [1.0, 2.0, 3.0])))
    head, _, once, _ = (line.split("|")[1:-1] for line in benchmarks.document(made).splitlines() if "|" in line)
    assert [cell.strip() for cell in head] == ["", "median, ms", "IQR", "min", "n"]
    assert [cell.strip() for cell in once] == ["a", "1,000", "", "", ""]


def test_growth_stops_before_memory_or_patience_runs_out() -> None:
    last = Cost(1024, seconds=PATIENCE / 5, bytes=2**30)
    assert why_not(last, 4096, 1, free=2**40, what="ntm") is None
    assert "60 s" in (why_not(last, 4096, 2, free=2**40, what="dnc") or "")
    assert why_not(last, 4096, 1, free=math.ceil(4 * 2**30 / SHARE), what="ntm") is None
    reason = why_not(last, 4096, 1, free=int(3.9 * 2**30 / SHARE), what="ntm (time)")
    assert (
        reason
        == "ntm (time) stops at 1,024 slots: 4,096 would take 4.0 GiB, more than 60% of the 6.5 GiB that were free."
    )
