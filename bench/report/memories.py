"""What memories do in their slots: numbers, ablations, curves by age and load, and pictures of chosen episodes."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import cells, memory_tables
from bench.cells import rows_of
from bench.report.blocks import Block

PICTURES = "memory-*.png"
WIDE = 1400
"""Pixels of a picture on the page, at most."""
COLOURS = 64


@dataclass(frozen=True)
class Table:
    """A small table: heads, and rows of a method's registered name and cells."""

    name: str
    caption: str
    heads: Sequence[str]
    rows: Sequence[tuple[str, Sequence[str]]]


@dataclass(frozen=True)
class Shot:
    """A picture of one episode, small."""

    name: str
    words: str
    source: str
    """data: URI."""
    width: int
    height: int


def tables(block: Block) -> list[Table]:
    """Ablations and diagnostics of a block, as `bench.memory_tables` has them."""
    found = []
    ablations = memory_tables.ablations(block.made)
    if not ablations.empty:
        rows = []
        for row in rows_of(ablations):
            difference = "" if not row.n_pairs or math.isnan(row.difference) else memory_tables.difference_text(row)
            kind = memory_tables.ABLATIONS.get(row.ablation, "control without a memory")
            where = "2nd instance" if row.at else "overall"
            line = [row.method, where, kind, cells.mean(row), str(row.n_seeds), difference]
            rows.append((block.methods.get(row.method, ""), line))
        metric = ablations["metric"].iloc[0]
        found.append(Table(
            f"Ablations on {block.task} ({block.suite})",
            "Does the memory do anything? Each method with its memory as it is, and taken away; the difference is "
            "paired over seeds, memory as it is less taken away.",
            ["method", "where", "memory", cells.WORDS.get(metric, metric), "seeds", "difference"], rows,
        ))  # fmt: skip
    looked_into = memory_tables.diagnostics(block.made)
    numbers = looked_into[(looked_into["age"] == "") & looked_into["number"].isin(memory_tables.SHOWN)]
    if not numbers.empty:
        rows = []
        for label, group in numbers.groupby("label", sort=False):
            values = dict.fromkeys(memory_tables.SHOWN, "")
            for row in rows_of(group):
                scale = 100 if "%" in memory_tables.SHOWN[row.number] else 1
                shown = [cells.NONE if math.isnan(v) else f"{scale * v:.1f}" for v in (row.value, row.chance)]
                values[row.number] = shown[0] if row.number == "read_slots" else f"{shown[0]} ({shown[1]})"
            rows.append(
                (block.methods.get(str(label), ""), [str(label), *values.values(), str(group["n_seeds"].max())])
            )
        found.append(Table(
            f"Diagnostics on {block.task} ({block.suite})",
            "What the memory does in its slots on the first test episodes, mean over seeds; in brackets chance.",
            ["method", *memory_tables.SHOWN.values(), "seeds"], rows,
        ))  # fmt: skip
    return found


def shots(results: Path) -> list[Shot]:
    """Pictures of chosen episodes that lie beside the records, small enough for a page."""
    from PIL import Image, UnidentifiedImageError

    found = []
    for path in sorted((results / "pictures").glob(PICTURES)):
        try:
            with Image.open(path) as image:
                kept = image.convert("RGB")
        except (OSError, UnidentifiedImageError, Image.DecompressionBombError):
            continue
        kept.thumbnail((WIDE, WIDE * 2))
        small = io.BytesIO()
        kept.quantize(COLOURS, dither=Image.Dither.NONE).save(small, "png", optimize=True)
        method, _, task = path.stem.removeprefix("memory-").partition("-")
        words = f"{method}, {task}".replace("-", " ")
        source = "data:image/png;base64," + base64.b64encode(small.getvalue()).decode()
        found.append(Shot(path.stem, words, source, kept.width, kept.height))
    return found
