"""What a page is made of: the records of a suite on a task, its frame and its summary; and how methods look in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from bench import grid, origins, refresh, tables
from bench.errors import BenchError
from bench.frames import committed, current, frame
from bench.records import Record
from bench.report.svg import COLOURS, DASHES, MARKERS, Look


@dataclass(frozen=True)
class Block:
    """A suite's work on one task."""

    suite: str
    task: str
    made: pd.DataFrame
    """Rows of `bench.frames` of this task."""
    table: pd.DataFrame
    """Its rows of `bench.tables.summary`."""

    @property
    def id(self) -> str:
        """A name for links within the page."""
        return f"{self.suite}-{self.task}"

    @cached_property
    def settings(self) -> list[str]:
        """Names of settings in which something was measured: what was trained for first, of that what most were."""
        there = self.table[(self.table["at"] == "") & (self.table["n_seeds"] > 0)]
        trained = set(self.made.loc[self.made["evaluation"] == "", "setting"])
        methods = {str(setting): len(rows) for setting, rows in there.groupby("setting", sort=False)}
        return sorted(methods, key=lambda s: (s not in trained, -methods[s]))

    @cached_property
    def methods(self) -> dict[str, str]:
        """Registered names by the names that tables use, full or short."""
        pairs = self.made[["method", "label", "method_name"]].drop_duplicates()
        full = dict(zip(pairs["method"], pairs["method_name"], strict=True))
        return dict(zip(pairs["label"], pairs["method_name"], strict=True)) | full


@dataclass(frozen=True)
class Suite:
    """A suite's records, what it is, and what was left out."""

    name: str
    title: str
    blocks: Sequence[Block]
    records: Sequence[Mapping[str, Any]]
    left_out: Mapping[str, int] = field(default_factory=dict)
    whose: Mapping[str, str] = field(default_factory=dict)
    """Who sent those that were imported, by id."""


def gather(names: Sequence[str], found: Sequence[Record], results: Path, dirty: bool = False) -> list[Suite]:
    """The suites that have records, in the order of their names; records of no suite come last, as "other".

    names: suites to show, else all.

    Raises:
        BenchError: a suite that does not exist, or one asked for that has no record; a note of an import that is not
            whole.
    """
    plain = [dict(vars(record)) for record in found]
    made: list[Suite] = []
    known: set[str] = set()
    for name in dict.fromkeys(names or grid.suites()):
        specs = {cell.id: cell.spec for cell in grid.plan(name, offline=True).cells}
        known |= specs.keys()
        mine = [r for r in plain if r["id"] in specs]
        if not mine:
            if names:
                raise BenchError(f"{results} has no record of the suite {name}; `bench run {name}` makes them")
            continue
        there = {r["spec"]["task"]["name"] for r in mine}
        # A task that needs data and has no record at all was left out for want of it.
        specs = {i: s for i, s in specs.items() if not s["task"]["data"] or s["task"]["name"] in there}
        title = str(grid.read_suite(name).get("title", ""))
        made.append(suite(Path(name).stem, title, mine, specs, dirty))
    others = [r for r in plain if r["id"] not in known]
    if others and not names:
        made.append(suite(refresh.OTHER, "Records outside of any suite", others, {}, dirty))
    whose = origins.load(results)
    return [replace(each, whose=whose) for each in made]


def suite(name: str, title: str, mine: Sequence[dict[str, Any]], specs: Mapping[str, Any], dirty: bool) -> Suite:
    """One suite. mine: its records as dicts; specs: what it expects, by id."""
    clean = committed(mine, dirty)
    newest = current(clean)
    left_out = {r["id"] for r in mine} - {r["id"] for r in newest}
    made = frame(newest, [spec for i, spec in specs.items() if i not in left_out])
    table = tables.summary(made)
    blocks = [
        Block(name, str(task), part, table[table["task"] == task])
        for task, part in made.groupby("task", sort=False)
        if (part["outcome"] != "missing").any()
    ]
    notes = {
        "made by uncommitted code": len(mine) - len(clean),
        "of older versions of a method or task": len(clean) - len(newest),
    }
    return Suite(name, title, blocks, newest, {why: n for why, n in notes.items() if n})


class Looks:
    """How methods look: one colour each on the whole page. In one plot markers differ, and dashes of equal colours."""

    def __init__(self, methods: Sequence[str]) -> None:
        self._order = {name: i for i, name in enumerate(m for m in dict.fromkeys(methods) if m != "chance")}

    def of(self, block: Block, labels: Sequence[str]) -> dict[str, Look]:
        """Looks of the lines of one plot by their labels; there are as many different ones as colours times markers."""
        return self._apart({label: block.methods.get(label, label) for label in labels})

    def named(self, names: Sequence[str]) -> dict[str, Look]:
        """The same of methods by their registered names."""
        return self._apart({name: name for name in names})

    def _apart(self, methods: Mapping[str, str]) -> dict[str, Look]:
        """Looks by label, of the methods that these are called."""
        taken: list[Look] = []
        for method in methods.values():
            i = self._order.get(method, -1)
            colour = i % COLOURS if i >= 0 else -1
            same = [look for look in taken if look.colour == colour]
            # Of the markers that are used least, and not yet with this colour, the first from the method's own on.
            counts = [(sum(look.marker == m for look in same), sum(look.marker == m for look in taken),
                       (m - i) % MARKERS, m) for m in range(MARKERS)]  # fmt: skip
            taken.append(Look(colour, (len(same) + 2 * (i < 0)) % DASHES, min(counts)[-1]))
        return dict(zip(methods, taken, strict=True))
