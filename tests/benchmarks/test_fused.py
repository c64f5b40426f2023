"""What fused scans cost beside their steps: the first use, memory over long sequences, and two processes at once.

Which memories have a scan is asked from the registry. All measurements are made in processes of their own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import alone
import pytest
from steps import no_scan

from bench import registry

NAMES = [name for name, cls in registry.METHODS.entries.items() if cls.__module__.startswith("mann.")]
LENGTHS = (50, 500, 5000)
SECONDS = 8.0
GIB = 2**30

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")


def needs_scan(name: str) -> None:
    if reason := no_scan(name):
        pytest.skip(reason)


def first_use(name: str, cache: Path) -> float:
    """Seconds, in a new process that keeps its compiled code in a folder."""
    env = os.environ | {"PYTHONPATH": str(alone.ROOT), "OMP_NUM_THREADS": "1", "NUMBA_CACHE_DIR": str(cache)}
    command = [sys.executable, alone.__file__, "first_use", json.dumps({"method": name})]
    return float(subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout)


@pytest.mark.benchmark(group="first use of a fused scan: import and compile, or load what is compiled")
@pytest.mark.parametrize("cache", ["nothing compiled", "again in a new process"])
@pytest.mark.parametrize("name", NAMES)
def test_first_use(benchmark: Any, name: str, cache: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Compiled code is kept on disk, for all processes: the second row loads what the first one left."""
    needs_scan(name)
    folder = tmp_path_factory.getbasetemp() / f"compiled-{name}"
    values = [benchmark.pedantic(first_use, (name, folder), rounds=1)]
    benchmark.extra_info.update(name=f"{name}, {cache}", values=values)


@pytest.mark.benchmark(group="peak memory of the whole process against steps: mann, 128 slots of 40, 4 heads, LSTM 200")
@pytest.mark.parametrize("steps", LENGTHS)
@pytest.mark.parametrize("batch", [1, 16])
@pytest.mark.parametrize("backend", ["fused", "reference"])
def test_peak_memory(benchmark: Any, backend: str, batch: int, steps: int) -> None:
    """Forward and backward. The reference stops where it would take too long and too much."""
    if backend == "reference" and batch * steps > 5000:
        pytest.skip("the reference takes minutes and gigabytes")
    question = {"method": "mann", "fields": {}, "batch": batch, "steps": steps, "backend": backend}
    values = [benchmark.pedantic(alone.alone, ("process_peak",), question, rounds=1)]
    benchmark.extra_info.update(name=f"{backend}, batch {batch}", values=values, unit="bytes")


@pytest.mark.benchmark(group="training steps a second of two processes at once, a thread each, beside one alone: mann")
@pytest.mark.parametrize("backend", ["fused", "reference"])
def test_two_at_once(benchmark: Any, backend: str, tmp_path: Path) -> None:
    """Two seeds or two cells at once on two cores: the loss is that of both together, beside twice one alone."""

    def rates(processes: int) -> list[float]:
        folder = tmp_path / str(processes)
        folder.mkdir()
        question = {"method": "mann", "backend": backend, "seconds": SECONDS}
        asked = [alone.ask("endings", **question, folder=str(folder), processes=processes) for _ in range(processes)]
        return alone.common_rates([alone.answer(server) for server in asked])

    (one,), two = benchmark.pedantic(lambda: (rates(1), rates(2)), rounds=1)
    benchmark.extra_info.update(name=f"{backend}, both together", values=[sum(two)], unit="steps a second")
    benchmark.extra_info.update({"one alone": one, "loss, %": 100 * (1 - sum(two) / (2 * one))})
    if (os.cpu_count() or 1) < 2:
        benchmark.extra_info["notes"] = ["This machine has one core, which the two share."]


@pytest.mark.long
def test_five_thousand_steps_fit_into_two_gibibytes() -> None:
    """Of the whole process, with 16 episodes at once."""
    needs_scan("mann")
    found = alone.alone("process_peak", method="mann", fields={}, batch=16, steps=5000, backend="fused")
    assert found <= 2 * GIB
