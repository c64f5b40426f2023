"""A training step against the number of slots, on one thread: sparse access memory, exact and by index, beside NTM.

Sizes are those of `test_memory_steps`, but for 8 sequences of 20 steps, which is what NTM, whose memory is copied each
step, has room for. NTM stops where a step takes seconds and gigabytes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from test_memory_steps import sized, training_step

from bench.tasks.glyphs import GlyphsOnline

TASK = GlyphsOnline(size=20, length=20)
SLOTS = [1024, 2048, 4096, 8192, 16384, 32768, 65536]
SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "sam, exact": ("sam", {}),
    "sam, lsh": ("sam", {"search": "lsh"}),
    "sdnc, lsh": ("sdnc", {"search": "lsh"}),
    "ntm": ("ntm", {}),
}
MOST = {"ntm": 16384}
POINTS = [(name, slots) for name in SETTINGS for slots in SLOTS if slots <= MOST.get(name, slots)]


@pytest.mark.benchmark(group="training step against slots: batch 8, 20 steps, LSTM 200, width 40, 4 heads")
@pytest.mark.parametrize(("name", "slots"), POINTS, ids=lambda value: str(value))
def test_slots(benchmark: Any, name: str, slots: int) -> None:
    method, fields = SETTINGS[name]
    step, _ = training_step(replace(sized(method, **fields), batch=8, slots=slots), TASK)
    benchmark.extra_info["name"] = name
    benchmark(step)
