"""How far a study of growth can go: what the next size would cost, from what the last one did."""

from __future__ import annotations

from typing import NamedTuple

SHARE = 0.6
"""Of the free memory, what a measurement may take."""
PATIENCE = 60.0
"""Seconds that one point may take."""


class Cost(NamedTuple):
    """What one point took: in all, with making what it needs."""

    size: int
    seconds: float
    bytes: int


def why_not(last: Cost, size: int, power: float, free: int, what: str) -> str | None:
    """Why a size is not measured, in a sentence, or None. power: of the size, with which costs grow at most.

    Costs that do not grow, as that of a start, are taken to grow as well, so that a small size tells too much for one
    far above it: sizes should follow one another within a factor of four or so.
    """
    factor = (size / last.size) ** power
    took, needed = factor * last.seconds, int(factor * last.bytes)
    if needed > SHARE * free:
        return (
            f"{what} stops at {last.size:,} slots: {size:,} would take {needed / 2**30:.1f} GiB, "
            f"more than {SHARE:.0%} of the {free / 2**30:.1f} GiB that were free."
        )
    if took > PATIENCE:
        return f"{what} stops at {last.size:,} slots: {size:,} would take {took:.0f} s, more than {PATIENCE:.0f} s."
    return None
