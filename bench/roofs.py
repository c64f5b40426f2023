"""What the hardware could do at most, measured in this process, and which of that binds an op: its verdict.

Three roofs: bytes a second of a copy, floating-point operations a second of a matrix product, and the time of an empty
launch. An op's least bytes, least operations and launches, each over its roof, are three times that it cannot beat. The
longest of them is the roof that binds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from bench.operations import Work
from bench.timing import Clock, Effort, Timing

Verdict = Literal["launch-bound", "cache-resident", "bandwidth-bound", "compute-bound", "ambiguous"]
Floor = Literal["launch", "bandwidth", "compute"]
VERDICTS: dict[Floor, Verdict] = {
    "launch": "launch-bound", "bandwidth": "bandwidth-bound", "compute": "compute-bound",
}  # fmt: skip
EXPLAINED = 0.1
"""A roof that accounts for less than this part of the time does not explain it."""
APART = 1.25
"""Two floors within this factor of each other are not told apart."""
NOISY = 0.5
"""An interquartile range above this part of the median tells nothing."""
BEATEN = 1.1
"""Beyond what noise explains of a share of launches."""
RUN = 32
"""Launches in a row, of which one is a part: what the first and the clock cost besides is no part of the others."""


@dataclass(frozen=True)
class Roofs:
    """Measured limits of one device, dtype and number of threads."""

    bandwidth: float
    """Bytes a second, read and written."""
    compute: float
    """Floating-point operations a second."""
    launch: float
    """Seconds of the smallest operator, one of a run, hot."""
    launch_cold: float
    """Seconds of one alone, after other data went through the cache."""
    cache: int
    """Bytes of the last-level cache."""
    theoretical_bandwidth: float | None = None
    """Where the device tells it."""


def measure(clock: Clock, device: str, dtype: torch.dtype, cache: int, effort: Effort, side: int) -> Roofs:
    """Measure the roofs: a copy of 4 × the cache, a product of two square matrices, and an operator on one number."""
    source = torch.ones(4 * cache // dtype.itemsize, dtype=dtype, device=device)
    target = torch.zeros_like(source)
    copy = clock.hot(lambda: target.copy_(source), effort)
    left, right, one = (torch.ones(n, n, dtype=dtype, device=device) for n in (side, side, 1))
    out = torch.empty_like(left)
    product = clock.hot(lambda: torch.mm(left, right, out=out), effort)

    def run() -> None:
        for _ in range(RUN):
            one.neg_()

    launch, cold = clock.hot(run, effort).median / RUN, clock.cold(one.neg_, effort).median
    return Roofs(2 * source.nbytes / copy.median, 2 * side**3 / product.median, launch, cold, cache)


def floors(work: Work, launches: int, roofs: Roofs, cold: bool) -> dict[Floor, float]:
    """The three times that cannot be beaten, in seconds. Of the launches of a cold call, the first is a cold one."""
    first = roofs.launch_cold if cold else roofs.launch
    return {
        "launch": first + (launches - 1) * roofs.launch if launches else 0.0,
        "bandwidth": work.traffic / roofs.bandwidth,
        "compute": work.flops / roofs.compute,
    }


def judge(
    time: Timing, work: Work, launches: int, footprint: int, roofs: Roofs, cold: bool
) -> tuple[Verdict, Floor, float]:
    """The verdict, the roof that binds, and the share of the time that it accounts for (1: at the roof).

    launches: 0 for a graph that is replayed, which launches nothing from Python. footprint: bytes of inputs, outputs
    and state. What fits into the cache and is hot does not come from memory, so that the copy's bandwidth cannot bind
    it: such a row is cache-resident, unless launches or arithmetic account for half of its time. What is hot and
    between one and two times as large as the cache comes from both, and is not judged by it. Launches that would take
    longer than the whole did are cheaper than the one that was measured, and bind nothing.
    """
    resident, partly = (not cold and footprint <= k * roofs.cache for k in (1, 2))
    found = floors(work, launches, roofs, cold)
    if resident:
        del found["bandwidth"]
    binding, *others = sorted(found, key=found.__getitem__, reverse=True)
    share = found[binding] / time.median
    if time.n < 3 or time.noise > NOISY or (binding == "launch" and share > BEATEN):
        return "ambiguous", binding, share
    if resident and share < 0.5:
        return "cache-resident", binding, share
    if share < EXPLAINED or found[binding] < APART * found[others[0]] or (partly and binding == "bandwidth"):
        return "ambiguous", binding, share
    return VERDICTS[binding], binding, share
