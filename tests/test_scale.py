"""The simulated scale: ten thousand cells planned, sharded and resumed; a hundred thousand records loaded."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import synthetic
from shell import toys  # noqa: F401

from bench import grid, records, running
from bench.config import digest

CELLS, RECORDS = 10_000, 100_000


def write(results: Path, spec: dict[str, Any], text: str) -> Path:
    """A record's file as `records.write` leaves it, without waiting for the disk."""
    path = records.path_of(results, spec)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def spent(began: float) -> float:
    """Seconds of this processor since then: the machine may have other things to do."""
    return time.process_time() - began


@pytest.mark.long
@pytest.mark.usefixtures("toys")
def test_ten_thousand_cells_are_planned_sharded_and_resumed_within_ten_seconds(tmp_path: Path) -> None:
    began = time.process_time()
    plan = grid.plan(methods=["mann", "lstm"], tasks=["copy", "paired-associates"], seeds=f"0-{CELLS // 4 - 1}")
    parts = [grid.shard(plan.cells, f"{i}/16") for i in range(1, 17)]
    planned = spent(began)
    assert len(plan.cells) == sum(map(len, parts)) == CELLS
    assert len({cell.id for part in parts for cell in part}) == CELLS
    done = [cell for part in parts[::2] for cell in part]
    for cell in done:
        write(tmp_path, cell.spec, records.short_lines(synthetic.scored(cell.spec, 0.5)))
    began = time.process_time()
    store = running.look_up(tmp_path, plan.cells)
    resumed = spent(began)
    print(f"planned and sharded {planned:.1f} s, looked up {len(done)} records of {CELLS} cells {resumed:.1f} s")
    assert not store.problems
    assert {cell.id for cell in store.pending} == {cell.id for part in parts[1::2] for cell in part}
    assert planned + resumed <= 10


@pytest.mark.long
def test_a_hundred_thousand_records_are_loaded_within_a_minute(tmp_path: Path) -> None:
    means = [0.01 * k for k in range(10)]
    size = 0
    for i in range(RECORDS):
        cell = synthetic.spec("mann", "omniglot-online", i, fields={"slots": 128})
        if i % 1000 == 0:  # a thousand share their scores, for the sake of time
            scores = [round((7919 * k + i) % 1_000_003 / 1_000_003, 7) for k in range(600)]
            parts = synthetic.evaluation(cell, scores, by_instance=synthetic.by_instance(means))
            text = records.short_lines(synthetic.record(cell, parts, curve=synthetic.points(scores[:20])))
            was = [f'"id": "{digest(cell)}"', f'"seed": {i},']
        mine = text.replace(was[0], f'"id": "{digest(cell)}"').replace(was[1], f'"seed": {i},')
        size += write(tmp_path, cell, mine).stat().st_size
    began, wall = time.process_time(), time.monotonic()
    loaded = records.load(tmp_path)
    seconds = spent(began)
    print(
        f"{len(loaded.records)} records, {size / 2**30:.1f} GiB: {seconds:.1f} s, {time.monotonic() - wall:.1f} s wall"
    )
    assert not loaded.problems
    assert len(loaded.records) == RECORDS
    assert seconds <= 60
