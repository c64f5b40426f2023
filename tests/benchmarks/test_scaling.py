"""Time and peak memory against the number of slots, dense memories beside sparse and hierarchical ones.

As Rae et al. (2016, arXiv:1610.09027, Figure 1) measured: words of 32 numbers, 4 heads, an LSTM of 100 units; time is
that of one forward and backward pass through one step of a full memory with 8 episodes at once, memory what 100 steps
of one episode add to the process. Each point has a process of its own (`alone.py`) and each pass an input of its own,
so that it does not find its rows in the cache. What runs is what a user gets, fused or not (column backend).

A dense memory stops where its next size would take more than 60 % of the free memory, or a minute; the record says
where and why. `$BENCH_MOST_SLOTS` ends all series earlier, to rehearse.
"""

from __future__ import annotations

import functools
import os
import statistics
import sys
import time
import timeit
from typing import Any

import pytest
import torch
from alone import NOISE, Failed, alone

from bench.growth import Cost, why_not
from bench.hardware import free_memory
from bench.operations import Draw
from mann.ops import cpu
from mann.ops.dense import Read

SIZES = {"width": 32, "controller_size": 100}
MOST = int(os.environ.get("BENCH_MOST_SLOTS", 2**20))
SLOTS = [n for n in (4**k for k in range(3, 11)) if n <= MOST]
HELD = [n for n in SLOTS if n != 4**9]
"""Slots at which memory is measured."""
PAPER = 2048
"""Where the paper compares DNC and SDNC."""
LSH: dict[str, Any] = {"search": "lsh"}
SETTINGS: dict[str, tuple[str, dict[str, Any], list[str]]] = {
    "ntm": ("ntm", {}, []),
    "mann": ("mann", {}, []),
    "dnc": ("dnc", {}, []),
    "attention": ("mann-attention", {}, []),
    "hcam": ("hcam", {}, ["attention"]),
    "sam, exact": ("sam", {}, ["ntm"]),
    "sam, lsh": ("sam", LSH, ["ntm", "mann", "sam, exact"]),
    "sdnc, lsh": ("sdnc", LSH, ["dnc"]),
}
"""Method, fields, and what it is compared with."""
POWER = {"dnc": 2}
"""With which power of the slots costs grow; 1 where it is not told."""
STEPS = 100
SECONDS = 1.0
NOTES: list[str] = [
    f"Recall: of {NOISE:g} times their own length away from a stored row, keys whose nearest row the index finds, and "
    "the share of the four nearest that it does."
]
LAST: dict[tuple[str, str], Cost] = {}

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")


def points(sizes: list[int]) -> list[tuple[str, int]]:
    paper = [PAPER] if PAPER <= MOST else []
    return [(name, n) for name in SETTINGS for n in sorted(sizes + (paper if "dnc" in name else []))]


def question(name: str, slots: int) -> dict[str, Any]:
    method, fields, _ = SETTINGS[name]
    return {"method": method, "fields": SIZES | fields | {"slots": slots}}


def may_run(what: str, name: str, slots: int) -> None:
    """Skip a size that is too large here, and all that follow it."""
    last = LAST.get((what, name))
    reason = last and why_not(last, slots, POWER.get(name, 1), free_memory("cpu"), f"{name} ({what})")
    if reason:
        if not any(note.startswith(f"{name} ({what})") for note in NOTES):
            NOTES.append(reason)
        pytest.skip(reason)


@functools.cache
def compiled(name: str) -> None:
    """Let its kernels be compiled and kept: that takes longer than a small point, from which the next are foretold."""
    alone("steps_of_full_memory", **question(name, SLOTS[0]), batch=1, seconds=0.0)


def measured(benchmark: Any, what: str, name: str, slots: int, question_name: str, **more: Any) -> Any:
    may_run(what, name, slots)
    compiled(name)
    began = time.monotonic()
    try:
        found = benchmark.pedantic(alone, (question_name,), question(name, slots) | more, rounds=1)
    except Failed:
        NOTES.append(f"{name} ({what}) has no point at {slots:,} slots: its process was ended, or failed.")
        pytest.fail(NOTES[-1])
    used = found["bytes"] if isinstance(found, dict) else found[0]
    LAST[what, name] = Cost(slots, time.monotonic() - began, used)
    benchmark.extra_info.update(name=name, against=SETTINGS[name][2], notes=NOTES)
    return found


@pytest.mark.benchmark(
    group="time of one step against slots: forward and backward, batch 8, width 32, 4 heads, LSTM 100"
)
@pytest.mark.parametrize(("name", "slots"), points(SLOTS), ids=str)
def test_time(benchmark: Any, name: str, slots: int) -> None:
    found = measured(benchmark, "time", name, slots, "steps_of_full_memory", batch=8, seconds=SECONDS)
    benchmark.extra_info.update(values=found["seconds"], backend=found["backend"])
    benchmark.extra_info.update(zip(("recall", "recall of 4"), found["recall"], strict=False))


@pytest.mark.benchmark(group="peak memory of 100 steps against slots: forward and backward, batch 1, width 32, 4 heads")
@pytest.mark.parametrize(("name", "slots"), points(HELD), ids=str)
def test_memory(benchmark: Any, name: str, slots: int) -> None:
    values = measured(benchmark, "memory", name, slots, "peaks", batch=1, steps=[STEPS])
    benchmark.extra_info.update(values=values, unit="bytes")


@pytest.mark.benchmark(group="reading a whole memory: batch 1, width 40, 4 heads")
@pytest.mark.parametrize("slots", [SLOTS[-1]])
@pytest.mark.parametrize("name", ["torch.bmm", "numba"])
def test_dense_read(benchmark: Any, name: str, slots: int) -> None:
    """Bytes of memory and weights a second, beside those of a copy of the memory (read and written) in this process."""
    torch.set_num_threads(1)
    op = Read(batch=1, slots=slots, width=40, heads=4)
    weights, memory = op.inputs(Draw())
    target = torch.empty_like(memory)
    read = op.eager if name == "torch.bmm" else lambda *inputs: cpu.read(op, *inputs)
    copies = timeit.repeat(lambda: target.copy_(memory), number=1, repeat=11)[1:]
    benchmark(read, weights, memory)
    rate = op.least(4).traffic / benchmark.stats.stats.median
    share = 100 * rate / (2 * memory.nbytes / statistics.median(copies))
    benchmark.extra_info.update({"name": f"{name}, {slots:,} slots", "GB a second": rate / 1e9, "% of a copy's": share})
