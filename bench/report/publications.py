"""Ours beside the papers': both figures, the verdict, what differs between the protocols, and where it is printed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from bench import cells, stats
from bench.errors import BenchError
from bench.frames import PERCENT
from bench.report.blocks import Block
from bench.report.summary import axis, axis_label, place
from bench.report.svg import Tick, ticks

ARXIV = "https://arxiv.org/abs/"
SIGNS = {"reproduced": "✓", "below": "▼", "above": "▲", "not comparable": "≠", "cannot tell": "?"}


@dataclass(frozen=True)
class Beside:
    """One figure of ours, and the one published figure that is most like it. low to theirs_at: percent of the axis."""

    method: str
    name: str
    where: str
    ours: str
    seeds: str
    theirs: str
    citation: str
    link: str
    verdict: str
    sign: str
    gap: str
    because: str
    same: str
    differences: Sequence[str]
    note: str
    low: float
    middle: float
    high: float
    theirs_at: float


@dataclass(frozen=True)
class Published:
    """All figures of a block, on one axis."""

    rows: Sequence[Beside]
    ticks: Sequence[Tick]
    label: str


def beside(block: Block) -> Published | None:
    """All figures of a block that have a published one beside them; None where there is none."""
    try:
        found = stats.reproductions(block.made)
    except BenchError:
        return None
    if not found:
        return None
    metric = found[0].metric
    values = [v for r in found for v in (r.ours.value, r.row.value)]
    scale = axis(values, [w for r in found for w in (r.ours.half_width, math.nan)], metric)
    labels = dict(zip(block.made["method"], block.made["label"], strict=True))
    rows = []
    for r in found:
        unit = " %" if r.metric in PERCENT else ""
        points = " points" if r.metric in PERCENT else ""
        rows.append(Beside(
            block.methods[r.method], labels.get(r.method, r.method), ", ".join(filter(None, [r.setting, r.at])),
            cells.plus_minus(r.ours.value, r.ours.half_width, r.metric) + unit, cells.behind(r.seeds, r.diverged),
            cells.published(r.row.value, r.row.ci95) + unit,
            cells.source(r.row.citation, r.row.arxiv), _link(r.row.arxiv), r.verdict, SIGNS[r.verdict],
            cells.interval(r.gap, sign=True) + points, r.because if r.match.same else "", r.match.verdict,
            r.match.because.split(", ") if r.match.because else [], r.discrepancies,
            *(place(v, scale) for v in (r.ours.low, r.ours.value, r.ours.high, r.row.value)),
        ))  # fmt: skip
    return Published(rows, ticks(scale, 5), axis_label(metric, scale, values))


def _link(arxiv: str) -> str:
    return ARXIV + arxiv if arxiv and all(c.isalnum() or c in "./-" for c in arxiv) else ""
