"""`make gpu-check` rehearsed on the CPU: it runs to the end, and one failing part costs its own results only."""

import ast
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench import gpu_check, gpu_plots, gpu_predictions
from bench.gpu_check import Part

ROOT = Path(__file__).parent.parent
RECORDS = ROOT / "results" / "profiles" / "nvidia-h200" / "gpu-check"

needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not here")


def script(*arguments, **environment):
    command = [sys.executable, "-m", "bench.gpu_check", *arguments]
    return subprocess.run(command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, timeout=3000)


@needs_triton
@pytest.mark.long
def test_a_rehearsal_passes_without_what_a_bare_machine_lacks():
    code = (
        "import runpy, sys; sys.modules.update(dict.fromkeys(['pooch', 'tabulate', 'numba', 'hypothesis']));"
        "sys.argv[1:] = ['--device', 'cpu']; runpy.run_module('bench.gpu_check', None, '__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=6000)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert "5 of 5 parts passed" in done.stdout


def test_a_failing_part_is_named_and_the_next_one_runs(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(gpu_check, "_run", lambda part, *_: "exit code 3" if part.name == "first" else "")
    assert gpu_check.check([Part("first", 9, "fails"), Part("second", 9, "passes")], "cpu", tmp_path) == ["first"]
    said = capfd.readouterr().out
    assert "FAILED first: exit code 3" in said
    assert "[2/2] second" in said
    assert "1 of 2 parts passed" in said


def test_a_part_that_crashes_or_hangs_is_ended(tmp_path):
    assert gpu_check._run(Part("no such part", 9, ""), "cpu", tmp_path, 600) == "exit code 2"
    assert gpu_check._run(Part("kernels", 9, ""), "cpu", tmp_path, 0.2) == "not done after 0 s"


def test_when_time_is_up_the_rest_is_left_out(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(gpu_check, "TOTAL", 0.0)
    assert gpu_check.check([Part("kernels", 9, "")], "cpu", tmp_path) == ["kernels"]
    assert "no time is left" in capfd.readouterr().out


def test_without_a_device_one_sentence_says_what_to_do():
    done = script(CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 2
    assert done.stderr.strip() == "error: there is no CUDA device here; rehearse with --device cpu"
    assert script("--part", "nonsense").returncode == 2


@needs_triton
def test_a_kernel_that_is_wrong_fails_its_check(monkeypatch, capfd):
    """In a process of its own, as in a check: the interpreter must be chosen before Triton is imported."""
    code = (
        "from mann.kernels import triton_checks as c; good = c.erase_and_add;"
        "c.erase_and_add = lambda *given: good(*given) * 1.01; c.main('cpu', 'erase-add heads=1')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    row = json.loads(done.stdout)
    assert row["passed"] is False
    assert row["values"] > 1e-3


def test_predictions_grow_with_what_they_depend_on():
    small, large = gpu_predictions.table(batch=16), gpu_predictions.table(batch=16, units=400)
    assert len(small) == 8
    for a, b in zip(small, large, strict=True):
        assert 0 < a.floor < a.expected
        assert b.expected > a.expected if a.controlled else b.expected == a.expected
    by_name = {row.name: row for row in small}
    assert by_name["lrua, forward"].flops == 16 * 50 * 6 * 4 * 128 * 40  # two products to read, one to write


def test_the_readme_holds_the_predictions():
    assert gpu_predictions.markdown(gpu_predictions.table()) in (ROOT / "mann" / "kernels" / "README.md").read_text()


def test_the_readme_holds_what_a_gpu_showed():
    scans, training, kernels = (json.loads((RECORDS / f"{name}.json").read_text()) for name in
                                ("scans", "training", "kernels"))  # fmt: skip
    said = (ROOT / "mann" / "kernels" / "README.md").read_text()
    assert gpu_predictions.measured(scans, training) in said
    assert f"all {len(kernels['rows'])} checks pass" in said
    assert all(row["passed"] for row in kernels["rows"])


@needs_triton
def test_the_record_of_a_gpu_has_every_kernel_in_every_dtype():
    """A check that was cut off leaves a file with fewer."""
    code = "from mann.kernels import triton_checks as c; print([n for n, _ in c.subjects(c.ODD, c.seeded())])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    rows = json.loads((RECORDS / "kernels.json").read_text())["rows"]
    checked = {(row["kernel"], row["dtype"]) for row in rows}
    dtypes = ("float64", "float32", "bfloat16")
    assert checked == {(name, dtype) for name in ast.literal_eval(done.stdout) for dtype in dtypes}


def test_pictures_are_drawn(tmp_path):
    seconds = {"median": 2e-4, "q1": 1.9e-4, "q3": 2.2e-4}
    rows = [{"scan": r.name, "predicted": r.expected, "floor": r.floor, "launched": seconds} for r in
            gpu_predictions.table()]  # fmt: skip
    gpu_plots.scans(rows, tmp_path / "scans.png")
    gpu_plots.losses({"cpu": [1.6] * 25, "cuda, scan": [1.5] * 25}, tmp_path / "losses.png")
    assert all((tmp_path / f"{name}.png").stat().st_size > 10_000 for name in ("scans", "losses"))
