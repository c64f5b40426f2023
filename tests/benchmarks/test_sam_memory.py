"""How the peak memory of forward and backward grows: with steps and slots read, not with slots, where memory is sparse.

Each memory is measured alone in a fresh process (`peak_memory.py`), 8 sequences at a time. There the allocator gives
every block of 64 KiB or more back as soon as it is freed, so that what is counted is what is held, not the holes in a
heap; smaller ones count as the pages they are on.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_memory_steps import SIZES

ROOT = Path(__file__).parents[2]
STEPS = (25, 50, 100, 200)
SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "sam, exact": ("sam", {}),
    "sam, lsh": ("sam", {"search": "lsh"}),
    "sdnc, lsh": ("sdnc", {"search": "lsh"}),
    "ntm": ("ntm", {}),
}
SLOTS = {name: (256, 512, 1024, 2048) if name == "ntm" else (1024, 4096, 16384, 65536) for name in SETTINGS}
ENDS = [("sam, exact", 1024), ("sam, exact", 65536), ("sam, lsh", 1024), ("sam, lsh", 65536), ("ntm", 1024)]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")


@functools.cache
def peaks(method: str, fields: str) -> tuple[int, ...]:
    """Bytes for each of STEPS. fields: JSON."""
    script = Path(__file__).with_name("peak_memory.py")
    env: Mapping[str, str] = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(script), method, fields, *map(str, STEPS)]
    return tuple(map(int, subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout.split()))


def kept_a_step(method: str, fields: str) -> float:
    """Slope of the peak over steps, by least squares: what does not depend on their number is left out."""
    return float(np.polyfit(STEPS, peaks(method, fields), 1)[0])


def setting(name: str, **more: Any) -> tuple[str, str]:
    method, fields = SETTINGS[name]
    return method, json.dumps(SIZES | fields | more)


@pytest.mark.benchmark(group="peak memory against steps: batch 8, width 40, 4 heads, k 4")
@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize(("name", "slots"), ENDS, ids=str)
def test_steps(benchmark: Any, name: str, slots: int, steps: int) -> None:
    found = benchmark.pedantic(peaks, setting(name, slots=slots), rounds=1)
    values = [found[STEPS.index(steps)]]
    benchmark.extra_info.update(name=f"{name}, {slots:,} slots", values=values, unit="bytes")


@pytest.mark.benchmark(group="memory kept a step against slots: batch 8, width 40, 4 heads, k 4")
@pytest.mark.parametrize(("name", "slots"), [(name, slots) for name in SETTINGS for slots in SLOTS[name]], ids=str)
def test_slots(benchmark: Any, name: str, slots: int) -> None:
    values = [benchmark.pedantic(kept_a_step, setting(name, slots=slots), rounds=1)]
    benchmark.extra_info.update(name=name, values=values, unit="bytes a step")


@pytest.mark.benchmark(group="memory kept a step against k: batch 8, 4,096 slots of 40, 4 heads")
@pytest.mark.parametrize("k", [1, 2, 4, 8, 16, 32])
@pytest.mark.parametrize("name", ["sam, exact"])
def test_k(benchmark: Any, name: str, k: int) -> None:
    values = [benchmark.pedantic(kept_a_step, setting(name, slots=4096, k=k), rounds=1)]
    benchmark.extra_info.update(name=name, values=values, unit="bytes a step")
