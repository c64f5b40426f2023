"""The tables of docs/reproductions.md: what was published, what we measured, and whether the one holds.

Every figure of a suite that has a published one beside it, judged by `bench.verdicts.reproduction`. What surrounds the
tables, why something does not hold and what it would take, is written by people.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from bench import cells, stats
from bench.frames import committed, current, frame, plain
from bench.verdicts import Reproduction

PAGE = Path("docs") / "reproductions.md"


def table(records: Iterable[Any]) -> str:
    """Markdown: a row for each figure that has a published one beside it; below, what is not comparable and why.

    Of records the newest versions, made by committed code.
    """
    made = frame(current(committed(plain(records))))
    found = [] if made.empty else stats.reproductions(made)
    if not found:
        return "Not run here."
    labels = dict(zip(made["method"], made["label"], strict=True))
    reasons = list(dict.fromkeys(_reason(r) for r in found if _reason(r)))
    rows = [
        {
            "method": cells.safe(str(labels.get(r.method, r.method))),
            "setting": ", ".join(filter(None, [r.setting, r.at])),
            "ours": cells.plus_minus(r.ours.value, r.ours.half_width, r.metric),
            "seeds": cells.behind(r.seeds, r.diverged),
            "published": cells.published(r.row.value, r.row.ci95),
            "source": cells.source(r.row.citation, r.row.arxiv),
            "ours − published": cells.interval(r.gap, sign=True),
            "verdict": r.verdict + (f" ({reasons.index(_reason(r)) + 1})" if _reason(r) else ""),
        }
        for r in found
    ]
    notes = [f"{i}. {cells.safe(reason)}" for i, reason in enumerate(reasons, 1)]
    shown = cells.table(pd.DataFrame(rows), ("method", "setting", "source", "verdict"))
    return "\n\n".join([shown, *(["\n".join(notes)] if notes else [])])


def _reason(r: Reproduction) -> str:
    """Why there is no verdict, and what is known of the published figure."""
    return "; ".join(filter(None, [r.because, r.discrepancies]))
