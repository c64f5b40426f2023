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
LEAST, MOST = 7, 100
"""Samples."""
BLOCKS = 25
"""Quick calls are timed in blocks, about so many in the time aimed at."""


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


class Clock(Protocol):
    """Times calls on one device."""

    def hot(self, call: Call, seconds: float) -> Timing:
        """Calls one after the other for about so many seconds: what they need is in the cache if it fits there."""

    def cold(self, call: Call, seconds: float) -> Timing:
        """Single calls, each after the cache was filled with other data."""


@dataclass
class CPUClock:
    """Quick calls in blocks by `torch.utils.benchmark`; slow or cold ones one by one by `timeit`, on which it is built.

    Before each block, `torch.utils.benchmark` makes two calls that it does not count: too many for a single cold one.
    """

    cache: int
    """Bytes of the last level."""
    threads: int = 1

    def __post_init__(self) -> None:
        self._other = torch.empty(2 * self.cache // 8, dtype=torch.int64)

    def hot(self, call: Call, seconds: float) -> Timing:
        """See `Clock.hot`."""
        timer = benchmark.Timer("call()", globals={"call": call}, num_threads=self.threads)
        once = timer.timeit(1).mean
        if once > seconds / BLOCKS:
            return self._singly(call, "pass", seconds)
        calls = round(seconds / BLOCKS / once)
        return summarise([timer.timeit(calls).mean for _ in range(BLOCKS)], calls)

    def cold(self, call: Call, seconds: float) -> Timing:
        """See `Clock.cold`."""
        return self._singly(call, self._flush, seconds)

    def _singly(self, call: Call, before: Call | str, seconds: float) -> Timing:
        torch.set_num_threads(self.threads)
        timer = timeit.Timer(call, before)
        began = time.perf_counter()
        timer.timeit(1)
        count = int(seconds / (time.perf_counter() - began))
        return summarise(timer.repeat(max(LEAST, min(MOST, count)), 1))

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

    def hot(self, call: Call, seconds: float) -> Timing:
        """See `Clock.hot`."""
        return self._samples(call, seconds, lambda: None)

    def cold(self, call: Call, seconds: float) -> Timing:
        """See `Clock.cold`."""
        return self._samples(call, seconds, self._flush)

    def _samples(self, call: Call, seconds: float, before: Call) -> Timing:
        call()
        once = self._one(call, before)
        count = max(LEAST, min(MOST, int(seconds / max(once, 1e-6))))
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
