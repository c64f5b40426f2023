"""What a scan should take on an H100, on paper: the figure that `bench.gpu_check` holds its first measurement against.

`python -m bench.gpu_predictions` prints the tables of `mann/kernels/README.md`. Two figures a scan: a floor, which no
version can beat (the longest of bytes, arithmetic and one launch), and what is expected of this one. A block runs alone
on its multiprocessor, step after step, so it is expected to wait more than to work: for its weights from the L2 cache,
and for the latencies of everything that depends on what came just before.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mann.lrua import LRUA
from mann.ntm import NTM

# Nominal figures of the H100 SXM (NVIDIA, H100 Tensor Core GPU datasheet and Hopper architecture whitepaper).
HBM = 3.35e12
"""Bytes a second."""
FLOPS = 67e12
"""Float32 operations a second outside tensor cores."""
PROCESSORS = 132
CLOCK = FLOPS / (PROCESSORS * 128 * 2)
"""Cycles a second that go with them: 128 fused multiply-adds a cycle and multiprocessor."""
# Not in the datasheet; assumed, in the order of magnitude of published microbenchmarks (Luo et al. 2025,
# arXiv:2501.12084), until measured.
L2_PORT = 64
"""Bytes a cycle from the L2 cache to one multiprocessor."""
SHARED_PORT = 128
"""Bytes a cycle from shared memory: 32 banks of 4."""
L2_WAIT, SHARED_WAIT, SHUFFLE_WAIT, BARRIER = 280, 30, 25, 30
"""Cycles from asking to having: from the L2 cache, from shared memory, from a neighbour's register; and a barrier."""
LAUNCH = 5e-6
"""Seconds of one launch."""
REDUCTION = 5 * SHUFFLE_WAIT + 2 * SHARED_WAIT + BARRIER
"""Cycles of a sum over all threads of a block: five shuffles in a warp, then over warps through shared memory."""


@dataclass(frozen=True)
class Prediction:
    """Of one scan at Santoro's sizes. Seconds; bytes and operations of all episodes together."""

    name: str
    memory: Callable[[Any], Any]
    """The memory, from sizes with `slots` and `width`."""
    controlled: bool
    backward: bool
    """Forward and backward pass together."""
    traffic: float
    flops: float
    weights_wait: float
    """Expected wait for weights."""
    latency: float
    """Expected wait for everything else."""

    @property
    def floor(self) -> float:
        """What no version can beat."""
        return max(self.traffic / HBM, self.flops / FLOPS, LAUNCH)

    @property
    def expected(self) -> float:
        """What this version should take."""
        return LAUNCH * (2 if self.backward else 1) + self.weights_wait + self.latency


def lrua(sizes: Any) -> LRUA:
    """Santoro's memory, values and gates from the controller."""
    return LRUA(
        slots=sizes.slots, width=sizes.width, heads=min(4, sizes.slots), write_value="separate", gate="controller"
    )


def ntm(sizes: Any) -> NTM:
    """One reading head and one writing head at the same size."""
    return NTM(slots=sizes.slots, width=sizes.width)


def table(batch: int = 16, steps: int = 50, slots: int = 128, width: int = 40, units: int = 200) -> list[Prediction]:
    """All scans: each memory, alone and behind an LSTM, forward, and forward with backward."""

    @dataclass
    class At:
        slots: int
        width: int

    return [
        _predict(name, make(At(slots, width)), make, batch, steps, units, controlled, backward)
        for name, make in (("lrua", lrua), ("ntm", ntm))
        for controlled in (False, True)
        for backward in (False, True)
    ]


def _predict(
    name: str, cell: Any, make: Callable[[Any], Any], batch: int, steps: int, units: int, controlled: bool,
    backward: bool,
) -> Prediction:  # fmt: skip
    heads = cell.options.heads if name == "lrua" else cell.heads
    cells, read, size = cell.options.slots * cell.options.width, cell.read_size, cell.interface_size
    passes = 3 if backward else 1  # backward has the products of forward again, and two for their gradients
    flops = float(passes * batch * steps * 6 * heads * cells)
    # What must come from and go to memory: interface (or projections), reads; the history of the memory to go back by.
    traffic = 4.0 * batch * steps * ((4 * units if controlled else size) + read) * passes
    traffic += 4.0 * batch * steps * cells * (2 if backward else 0)
    waits = 0.0
    if controlled:
        weights = (read + units) * 4 * units + units * size
        flops += passes * batch * steps * 2 * weights
        waits = steps * (2 if backward else 1) * 4 * weights / L2_PORT / CLOCK
    reductions, loads = _chain(name, heads, backward)
    cycles = float(reductions * REDUCTION + loads * L2_WAIT)
    # Elementwise work on the tile, padded to powers of two, by one multiprocessor: 128 operations a cycle.
    cycles += passes * 6 * heads * _padded(cell.options.slots) * _padded(cell.options.width) / 128
    if controlled:
        cycles += (2 if backward else 1) * 4 * (L2_WAIT + BARRIER)
    label = f"{name}{' + lstm' if controlled else ''}, {'forward + backward' if backward else 'forward'}"
    return Prediction(label, make, controlled, backward, traffic, flops, waits, steps * cycles / CLOCK)


def _chain(name: str, heads: int, backward: bool) -> tuple[int, int]:
    """Reductions over the block and loads that wait for the step's own results, one after the other, a step."""
    if name == "lrua":  # a search for each least used slot; length, cosine, maximum, sum and read of each head
        forward, back = (1 + 5) * heads + 1, (6 + 3) * heads + 2
        return (forward + back, 4 * heads + 5 * heads) if backward else (forward, 2 * heads)
    forward, back = 8 * heads + 1, 14 * heads + 2  # also three shifts, through shared memory, and a second softmax
    return (forward + back, 4 * heads + 6 * heads) if backward else (forward, 4 * heads)


def _padded(size: int) -> int:
    return 1 << (size - 1).bit_length()


def markdown(rows: list[Prediction]) -> str:
    """The predictions as a table."""
    lines = [
        "| scan | from memory, MB | operations, M | floor, µs | waiting for weights, µs | else, µs | expected, µs |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        seconds = (r.floor, r.weights_wait, r.latency, r.expected)
        numbers = (r.traffic / 1e6, r.flops / 1e6, *(1e6 * each for each in seconds))
        lines.append(f"| {r.name} | " + " | ".join(f"{n:.3g}" if n < 1000 else f"{n:.0f}" for n in numbers) + " |")
    return "\n".join(lines) + "\n"


def measured(scans: Mapping[str, Any], training: Mapping[str, Any]) -> str:
    """What `bench.gpu_check` recorded of scans and of a training step, as two tables."""
    lines = [
        "| scan | launched, µs | replayed, µs | expected on an H100, µs | replayed / expected |",
        "|---|---|---|---|---|",
    ]
    for r in scans["rows"]:
        launched, replayed = (r[way]["median"] for way in ("launched", "replayed"))
        figures = (launched, replayed, r["predicted"])
        lines.append(f"| {r['scan']} | " + " | ".join(f"{1e6 * s:.0f}" for s in figures)
                     + f" | {replayed / r['predicted']:.2f} |")  # fmt: skip
    lines += ["", "| a training step | ms | times as fast as eager |", "|---|---|---|"]
    lines += [f"| {r['way']} | {1e3 * r['seconds']['median']:.3g} | {r['ratio']:.3g} |" for r in training["rows"]
              if "seconds" in r]  # fmt: skip
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(markdown(table()), end="")
    for folder in sorted(Path("results", "profiles").glob("*/gpu-check")):
        paths = [folder / f"{name}.json" for name in ("scans", "training")]
        if not all(path.is_file() for path in paths):  # a check that was cut off, or of one part
            continue
        records = [json.loads(path.read_text()) for path in paths]
        print(f"\n{records[0]['env']['device']}:\n\n{measured(*records)}", end="")
