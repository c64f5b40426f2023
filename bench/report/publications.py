"""Ours beside the papers': the figure, the verdict, what differs between the protocols, and where it is printed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from bench import cells
from bench.cells import rows_of
from bench.frames import PERCENT
from bench.report.blocks import Block

ARXIV = "https://arxiv.org/abs/"


@dataclass(frozen=True)
class Published:
    """One figure of ours, and the one published figure that is most like it."""

    method: str
    name: str
    setting: str
    ours: str
    seeds: str
    theirs: str
    citation: str
    link: str
    same: str
    because: Sequence[str]


def beside(block: Block) -> list[Published]:
    """All figures of a block that have a published one beside them."""
    found = []
    table = block.table[block.table["published"].notna() & (block.table["n_seeds"] > 0)]
    for row in rows_of(table):
        unit = " %" if row.metric in PERCENT else ""
        place = ", ".join(filter(None, [row.setting, row.at]))
        link = ARXIV + row.arxiv if row.arxiv and all(c.isalnum() or c in "./-" for c in row.arxiv) else ""
        found.append(Published(
            block.methods[row.label], row.label, place, cells.mean(row) + unit,
            cells.seeds(map(int, row.seeds.split())),
            cells.published(row.published, None if _none(row.published_ci95) else row.published_ci95) + unit,
            cells.source(row.source, row.arxiv), link, row.same_protocol, row.because.split(", ") if row.because else [],
        ))  # fmt: skip
    return found


def _none(value: object) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))
