"""How fast episodes are drawn from memory on one thread: `pytest tests/benchmarks --benchmark-only`.

The drawings are made up, of Omniglot's number and size; nothing of the time depends on what they show.
"""

from __future__ import annotations

import functools
import statistics
import timeit
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from peers import peer

from bench.api import Split
from bench.seeding import generator
from bench.tasks.episodes import FewShotImages, Images, OnlineImages


@functools.cache
def drawings(rows: int, side: int) -> Images:
    pixels = generator("drawings").integers(256, size=(rows, 20, side, side), dtype=np.uint8)
    return Images(pixels, np.arange(rows))


class FewShot(FewShotImages):
    name = "few-shot"

    def images(self, split: Split) -> Images:
        return drawings(4 * 1028, 28)


class Online(OnlineImages):
    name = "online"

    def images(self, split: Split) -> Images:
        return drawings(1028, 35)


SETTINGS: dict[str, tuple[Any, int]] = {
    "5-way 5-shot 15-query x 1": (FewShot(way=5, shot=5), 1),
    "5-way 5-shot 15-query x 16": (FewShot(way=5, shot=5), 16),
    "60-way 1-shot 5-query x 1": (FewShot(way=60, shot=1, query=5), 1),
    "online 5-way x 16, moved": (Online(), 16),
    "online 5-way x 16, still": (replace(Online(), rotation=0.0, shift=0.0), 16),
    "online 15-way x 16, moved": (Online(way=15), 16),
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_sampling(benchmark: Callable[..., Any], setting: str) -> None:
    """Seconds a batch; extra_info has episodes a second."""
    task, batch = SETTINGS[setting]
    rng = generator("benchmark")
    benchmark(task.sample, "train", batch, rng)
    benchmark.extra_info["episodes_per_s"] = round(batch / benchmark.stats.stats.median)  # type: ignore[attr-defined]


def test_beside_learn2learn(benchmark: Callable[..., Any]) -> None:
    """Our 5-way 5-shot 15-query episodes, 16 in a batch, beside learn2learn's sampler, in one run on one thread."""
    task, batch = SETTINGS["5-way 5-shot 15-query x 16"]
    with peer("learn2learn", "sampling", "1") as (sample, told):
        seconds = timeit.repeat(sample, number=1, repeat=500)
        benchmark(task.sample, "train", batch, generator("benchmark"))
    benchmark.extra_info.update(  # type: ignore[attr-defined]
        told,
        episodes_per_s=round(batch / benchmark.stats.stats.median),  # type: ignore[attr-defined]
        learn2learn_episodes_per_s=round(1 / statistics.median(seconds)),
    )
