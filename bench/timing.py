"""How long a call takes: many samples, of which none is thrown away. CPU by `torch.utils.benchmark`, GPU by events."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch.utils import benchmark

Call = Callable[[], object]
LEAST, MOST = 7, 100
"""Samples."""


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
    """`torch.utils.benchmark` with its own choice of block sizes."""

    cache: int
    """Bytes of the last level."""
    threads: int = 1

    def __post_init__(self) -> None:
        self._other = torch.empty(2 * self.cache // 8, dtype=torch.int64)

    def hot(self, call: Call, seconds: float) -> Timing:
        """See `Clock.hot`."""
        timer = self._timer(call)
        once = timer.timeit(1).mean
        made = timer.blocked_autorange(min_run_time=max(seconds, (LEAST - 0.5) * once))
        return summarise(made.times, made.number_per_run)

    def cold(self, call: Call, seconds: float) -> Timing:
        """See `Clock.cold`."""
        timer = self._timer(call, self._flush)
        once = timer.timeit(1).mean
        # `timeit` warms up with two calls of its own before the one it reports, each after a flush.
        count = max(LEAST, min(MOST, int(seconds / (3 * (once + self._flush_s)))))
        return summarise([timer.timeit(1).mean for _ in range(count)])

    def _flush(self) -> None:
        self._other.add_(1)

    @property
    def _flush_s(self) -> float:
        return 2 * self._other.nbytes / 1e10

    def _timer(self, call: Call, before: Call = lambda: None) -> benchmark.Timer:
        names: dict[str, Any] = {"call": call, "before": before}
        return benchmark.Timer("call()", "before()", globals=names, num_threads=self.threads)


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
