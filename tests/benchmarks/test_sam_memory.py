"""How the peak memory of forward and backward grows with steps and slots read; with slots: `test_scaling`.

Each network is measured in a fresh process, 8 sequences at a time; see `alone.peaks`.
"""

from __future__ import annotations

import functools
import json
import sys
from typing import Any

import numpy as np
import pytest
from alone import alone

STEPS = (25, 50, 100, 200)
SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "sam, exact": ("sam", {}),
    "sam, lsh": ("sam", {"search": "lsh"}),
    "ntm": ("ntm", {}),
}
ENDS = [("sam, exact", 1024), ("sam, exact", 65536), ("sam, lsh", 1024), ("sam, lsh", 65536), ("ntm", 1024)]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")


@functools.cache
def peaks(method: str, fields: str) -> tuple[int, ...]:
    """Bytes for each of STEPS. fields: JSON."""
    return tuple(alone("peaks", method=method, fields=json.loads(fields), batch=8, steps=STEPS))


def kept_a_step(method: str, fields: str) -> float:
    """Slope of the peak over steps, by least squares: what does not depend on their number is left out."""
    return float(np.polyfit(STEPS, peaks(method, fields), 1)[0])


def setting(name: str, **more: Any) -> tuple[str, str]:
    method, fields = SETTINGS[name]
    return method, json.dumps(fields | more)


@pytest.mark.benchmark(group="peak memory against steps: batch 8, width 40, 4 heads, k 4")
@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize(("name", "slots"), ENDS, ids=str)
def test_steps(benchmark: Any, name: str, slots: int, steps: int) -> None:
    found = benchmark.pedantic(peaks, setting(name, slots=slots), rounds=1)
    values = [found[STEPS.index(steps)]]
    benchmark.extra_info.update(name=f"{name}, {slots:,} slots", values=values, unit="bytes")


@pytest.mark.benchmark(group="memory kept a step against k: batch 8, 4,096 slots of 40, 4 heads")
@pytest.mark.parametrize("k", [1, 2, 4, 8, 16, 32])
@pytest.mark.parametrize("name", ["sam, exact"])
def test_k(benchmark: Any, name: str, k: int) -> None:
    values = [benchmark.pedantic(kept_a_step, setting(name, slots=4096, k=k), rounds=1)]
    benchmark.extra_info.update(name=name, values=values, unit="bytes a step")
