"""How long a call takes: many samples, of which none is thrown away. CPU by `torch.utils.benchmark`, GPU by events."""

from __future__ import annotations

import math
import statistics
import time
import timeit
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch.utils import benchmark

Call = Callable[[], object]
MOST = 100
"""Samples of single calls."""
BLOCKS = 25
"""Short calls are timed in blocks, about so many in the time aimed at."""


class Timing(NamedTuple):
    """What the samples say, in seconds a call. calls: how many each sample is the mean of."""

    median: float
    q1: float
    q3: float
    low: float
    high: float
    n: int
    calls: int = 1

    @property
    def noise(self) -> float:
        """Interquartile range over median."""
        return (self.q3 - self.q1) / self.median if self.median else math.inf


def summarise(samples: list[float], calls: int = 1) -> Timing:
    """Median, quartiles, ends and number of all samples."""
    ordered = sorted(samples)
    q1, median, q3 = statistics.quantiles(ordered * (3 if len(ordered) == 1 else 1), n=4, method="inclusive")
    return Timing(median, q1, q3, ordered[0], ordered[-1], len(ordered), calls)


class Effort(NamedTuple):
    """How long to sample one row. least: samples, however slow a call is."""

    seconds: float
    least: int


class Clock(Protocol):
    """Times calls on one device."""

    def hot(self, call: Call, effort: Effort) -> Timing:
        """Calls one after the other: what they need is in the cache if it fits there."""

    def cold(self, call: Call, effort: Effort) -> Timing:
        """Single calls, each after the cache was filled with other data."""


@dataclass
class CPUClock:
    """Short calls in blocks by `torch.utils.benchmark`; slow or cold ones one by one by `timeit`, on which it is built.

    Before each block, `torch.utils.benchmark` makes two calls that it does not count: too many for a single cold one.
    """

    cache: int
    """Bytes of the last level."""
    threads: int = 1

    def __post_init__(self) -> None:
        self._other = torch.empty(2 * self.cache // 8, dtype=torch.int64)

    def hot(self, call: Call, effort: Effort) -> Timing:
        """See `Clock.hot`."""
        timer = benchmark.Timer("call()", globals={"call": call}, num_threads=self.threads)
        once = timer.timeit(1).mean
        if once > effort.seconds / BLOCKS:
            return self._singly(call, "pass", effort)
        calls = round(effort.seconds / BLOCKS / once)
        return summarise([timer.timeit(calls).mean for _ in range(BLOCKS)], calls)

    def cold(self, call: Call, effort: Effort) -> Timing:
        """See `Clock.cold`."""
        return self._singly(call, self._flush, effort)

    def _singly(self, call: Call, before: Call | str, effort: Effort) -> Timing:
        torch.set_num_threads(self.threads)
        timer = timeit.Timer(call, before)
        began = time.perf_counter()
        timer.timeit(1)
        count = int(effort.seconds / (time.perf_counter() - began))
        return summarise(timer.repeat(max(effort.least, min(MOST, count)), 1))

    def _flush(self) -> None:
        self._other.add_(1)


@dataclass
class CUDAClock:
    """Pairs of events around each call. The host waits before each, so that no sample hides behind another's launch."""

    cache: int
    """Bytes of the last level."""
    event: Callable[[], Any] = lambda: torch.cuda.Event(enable_timing=True)
    synchronize: Call = torch.cuda.synchronize
    device: str = "cuda"

    def __post_init__(self) -> None:
        self._other = torch.empty(2 * self.cache // 8, dtype=torch.int64, device=self.device)

    def hot(self, call: Call, effort: Effort) -> Timing:
        """See `Clock.hot`."""
        return self._samples(call, effort, lambda: None)

    def cold(self, call: Call, effort: Effort) -> Timing:
        """See `Clock.cold`."""
        return self._samples(call, effort, self._flush)

    def _samples(self, call: Call, effort: Effort, before: Call) -> Timing:
        call()
        once = self._one(call, before)
        count = max(effort.least, min(MOST, int(effort.seconds / max(once, 1e-6))))
        return summarise([self._one(call, before) for _ in range(count)])

    def _one(self, call: Call, before: Call) -> float:
        start, end = self.event(), self.event()
        before()
        self.synchronize()
        start.record()
        call()
        end.record()
        self.synchronize()
        return start.elapsed_time(end) / 1e3

    def _flush(self) -> None:
        self._other.add_(1)


def clock_of(device: str, cache: int, threads: int) -> Clock:
    """The clock of a device."""
    return CUDAClock(cache) if device == "cuda" else CPUClock(cache, threads)


def replayed(call: Call) -> Call:
    """The call captured in a CUDA graph: replaying it launches nothing from Python."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay
