"""`bench report`: records as one page that opens from disk, needs no network, and says how it was made.

`render` is a pure function of what is in a results folder: the same records give the same bytes. Python computes and
words every number, jinja2 puts them into a page (everything escaped), `svg` draws; the page's script filters, sorts and
shows what is already there. A strict content security policy lets nothing else run and nothing be fetched.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from bench import __version__, provenance, records
from bench.cells import seeds
from bench.errors import BenchError
from bench.report import across, blocks, card, cost, curves, listing, memories, publications, speed, summary, svg
from bench.report.blocks import Block, Looks, Suite

TEMPLATE = "page.html.j2"


def render(results: Path, suites: Sequence[str] = (), *, dirty: bool = False, live: bool = False,
           problems: list[str] | None = None) -> str:  # fmt: skip
    """The page of a results folder as HTML. suites: only these; live: it asks its server whether records are new.

    problems: is given a sentence for each file that could not be used; the page has them too.

    Raises:
        BenchError: no such suite, or one that has no record.
    """
    loaded = records.load(results)
    gathered = blocks.gather(suites, loaded.records, results, dirty)
    problems = [] if problems is None else problems
    problems += loaded.problems
    alone = bool(suites)
    devices = [] if alone else speed.devices(results, problems)
    measured = [] if alone else speed.measured(results, problems)
    shown = {record["id"] for suite in gathered for record in suite.records}
    mixed = provenance.mixed((record for record in loaded.records if record.id in shown), dirty)
    return page(gathered, problems, devices, measured, [] if alone else memories.shots(results),
                mixed=mixed, live=live)  # fmt: skip


class Texts:
    """Texts that a page holds once, by number."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def number(self, text: str) -> int:
        """The number of a text."""
        return self._numbers.setdefault(text, len(self._numbers))

    @property
    def texts(self) -> list[str]:
        """All of them."""
        return list(self._numbers)


def page(
    gathered: Sequence[Suite],
    problems: Sequence[str] = (),
    devices: Sequence[speed.Device] = (),
    measured: Sequence[speed.Measured] = (),
    shots: Sequence[memories.Shot] = (),
    *,
    mixed: Sequence[str] = (),
    live: bool = False,
) -> str:
    """The page of some suites. mixed: a sentence for each pool of records that were not made alike."""
    every = [block for suite in gathered for block in suite.blocks]
    rows = listing.listing(gathered)
    methods = sorted({row.method for row in rows.rows})
    looks = Looks(methods)
    numbers = {
        kind: {name: i for i, name in enumerate(names)}
        for kind, names in (
            ("method", methods),
            ("task", sorted({row.task for row in rows.rows})),
            ("suite", [suite.name for suite in gathered]),
        )
    }
    hover: list[Any] = []
    pairs = Texts()

    def figure(plot: svg.Plot) -> svg.Picture:
        made = svg.layout(plot)
        hover.append(made.hover)
        return made

    script = _text("page.js") + (_text("live.js") if live else "")
    return _environment().get_template(TEMPLATE).render(
        suites=gathered, blocks=every, parts=[_block(block, looks) for block in every], rows=rows, numbers=numbers,
        overview=[_overview(block) for block in every], figure=figure, hover=hover, pairs=pairs, problems=problems,
        mixed=mixed,
        across=across.overview(gathered, looks), devices=devices, measured=measured, shots=shots,
        card=card.card(gathered), rules=card.rules(),
        version=__version__, live=live, style=_text("style.css"), script=script, script_hash=_hash(script),
        nan=math.isnan,
    )  # fmt: skip


def _block(block: Block, looks: Looks) -> dict[str, Any]:
    """All that sections show of a block."""
    threshold, solved = curves.solved(block, looks)
    return {
        "rankings": summary.rankings(block, looks),
        "curves": curves.kinds(block, looks, ("learning", "instances")),
        "threshold": threshold,
        "solved": solved,
        "costs": cost.plots(block, looks),
        "published": publications.beside(block),
        "memory": curves.kinds(block, looks, ("ages", "retrieval")),
        "tables": memories.tables(block),
    }


def _overview(block: Block) -> dict[str, Any]:
    """A row of the first table: what was compared, and on how much."""
    cells = block.made.drop_duplicates("id")
    counts = cells["outcome"].value_counts()
    there = cells[cells["outcome"] != "missing"]
    each = there.groupby("method")["seed"].nunique()
    low, high = int(each.min()), int(each.max())
    return {
        "settings": len(block.settings), "methods": there["method"].nunique(),
        "seeds": f"{low}" if low == high else f"{low} to {high}", "which": seeds(map(int, there["seed"])),
        **{name: int(counts.get(name, 0)) for name in ("ok", "diverged", "missing")},
    }  # fmt: skip


@cache
def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("bench.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    made.policies["json.dumps_kwargs"] = {"sort_keys": True, "separators": (",", ":"), "ensure_ascii": False}
    return made


@cache
def _text(name: str) -> str:
    return resources.files("bench.report").joinpath("templates", name).read_text(encoding="utf-8")


def _hash(script: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


__all__ = ["BenchError", "page", "render"]
