"""Who is ahead and how surely: what was compared, the ranking with its intervals, every pair's verdict, a sentence."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from bench import cells, stats, verdicts
from bench.cells import rows_of
from bench.errors import BenchError
from bench.frames import PERCENT
from bench.intervals import FEWEST
from bench.memory_tables import ablation
from bench.paired import Comparison
from bench.report.blocks import Block, Looks
from bench.report.svg import Look, Scale, Tick, ticks

APART = {
    "transductive": "transductive: queries help each other, not comparable with those that do without",
    "oracle": "an oracle: it knows what the task draws from, a bound for the others",
}
REACH = 100
"""A logarithmic axis ends at so many times its median and at such a part of it: an exact or an exploded method would
leave the others no room."""


@dataclass(frozen=True)
class Bar:
    """A row of a forest plot. low, middle, high: percent of the axis; low and high are NaN without an interval."""

    name: str
    method: str
    look: Look
    score: str
    seeds: str
    note: str
    failed: bool
    """The note says so."""
    papers: str
    records: Sequence[str]
    """Their ids."""
    low: float
    middle: float
    high: float


@dataclass(frozen=True)
class Forest:
    """A ranking on one axis, in percent of its width. label: what it measures."""

    bars: Sequence[Bar]
    ticks: Sequence[Tick]
    label: str


@dataclass(frozen=True)
class Verdict:
    """A cell of a matrix: a word, and all that is behind it, in words; the same words both ways."""

    word: str
    told: str


@dataclass(frozen=True)
class Matrix:
    """Every method against every other; cells by row and column, None on the diagonal and where nothing is shared."""

    names: Sequence[str]
    methods: Sequence[str]
    cells: Sequence[Sequence[Verdict | None]]


@dataclass(frozen=True)
class Ranking:
    """One setting of a block."""

    setting: str
    forest: Forest
    matrix: Matrix | None
    sentence: str
    paper: str
    """The comparison of the first two as one would write it in a paper; empty where there is none."""


def rankings(block: Block, looks: Looks) -> list[Ranking]:
    """A ranking a setting, in the order of `Block.settings`."""
    found = []
    for setting in block.settings:
        table = block.table[(block.table["at"] == "") & (block.table["setting"] == setting)]
        shown = table[(table["n_seeds"] > 0) | (table["diverged"] != "")]
        own = looks.of(block, list(shown["label"]))
        section = block.made[block.made["setting"] == setting]
        rivals = _rivals(shown, section)
        compared = _compared(section[section["method"].isin(rivals["method"])])
        labels = dict(zip(shown["method"], shown["label"], strict=True))
        found.append(Ranking(
            setting, forest(block, shown, own), matrix(rivals, labels, block, compared),
            sentence(rivals, labels, compared), _paper(rivals, compared),
        ))  # fmt: skip
    return found


def _rivals(table: pd.DataFrame, section: pd.DataFrame) -> pd.DataFrame:
    """Rows that compete, as in tables: not memories that were taken away, nor what stands apart; else all."""
    whole = {m for m, spec in zip(section["method"], section["spec"], strict=True) if ablation(spec) == "none"}
    competing = table[table["method"].isin(whole) & (table["apart"] == "")]
    return table if competing.empty else competing


def forest(block: Block, table: pd.DataFrame, looks: Mapping[str, Look]) -> Forest:
    """The methods of one setting, best first, on a common axis: logarithmic for errors that span decades."""
    rows = rows_of(table)
    metric = rows[0].metric if rows else "accuracy"
    known = [row for row in rows if not math.isnan(row.mean)]
    scale = axis([row.mean for row in known], [row.half_width for row in known], metric)
    bars = []
    for row in rows:
        has = not math.isnan(row.half_width) and not math.isnan(row.mean)
        low, high = (row.mean - row.half_width, row.mean + row.half_width) if has else (math.nan, math.nan)
        notes = [f"{words} in {cells.seeds(map(int, text.split()))}" for words, text in
                 (("diverged", row.diverged), ("missing", row.missing)) if text]  # fmt: skip
        notes += [APART[row.apart]] if row.apart else []
        bars.append(Bar(
            row.label, block.methods[row.label], looks[row.label],
            cells.mean(row) + " %" * (metric in PERCENT) if row.n_seeds else "diverged",
            cells.seeds(map(int, row.seeds.split())) if row.seeds else "", "; ".join(notes), bool(row.diverged),
            cells.episodes(row), row.records.split(),
            *(place(v, scale) for v in (low, row.mean, high)),
        ))  # fmt: skip
    return Forest(bars, ticks(scale, 5), axis_label(metric, scale, [row.mean for row in known]))


def axis(values: Sequence[float], half_widths: Sequence[float], metric: str) -> Scale:
    """The axis of means with intervals, 0 to 100: of percent what there is, else from zero, or logarithmic."""
    if metric in PERCENT and values:
        widths = [0.0 if math.isnan(w) else w for w in half_widths]
        low, high = (pick(v + s * w for v, w in zip(values, widths, strict=True)) for pick, s in ((min, -1), (max, 1)))
        room = max(1.0, 0.06 * (high - low))
        return Scale(max(0.0, low - room), min(100.0, high + room), 0.0, 100.0, False)
    if values and min(values) > 0 and max(values) / min(values) > 20:
        middle = statistics.median(values)
        low, high = max(min(values), middle / REACH), min(max(values), middle * REACH)
        return Scale(low / 1.5, high * 1.5, 0.0, 100.0, True)
    ends = [v + (0.0 if math.isnan(w) else w) for v, w in zip(values, half_widths, strict=True)]
    return Scale(min([0.0, *values]), 1.05 * max([*ends, 1e-9]), 0.0, 100.0, False)


def axis_label(metric: str, scale: Scale, values: Sequence[float]) -> str:
    """What an axis shows, and how."""
    off = any(not scale.low <= v <= scale.high for v in values)
    return cells.WORDS.get(metric, metric) + ", logarithmic" * scale.log + "; at its ends: beyond it" * off


def place(value: float, scale: Scale) -> float:
    """Where a value is on an axis, no further than its ends; NaN for NaN."""
    if math.isnan(value):
        return math.nan
    return min(100.0, max(0.0, scale(max(value, scale.low))))


# ----------------------------------------------------------------------------------------------------------- verdicts


def _compared(section: pd.DataFrame) -> list[Comparison]:
    try:
        return stats.compare_all(section)
    except BenchError:
        return []


def matrix(table: pd.DataFrame, labels: Mapping[str, str], block: Block,
           compared: Sequence[Comparison]) -> Matrix | None:  # fmt: skip
    """Every pair's verdict, rows against columns; None where no pair has seeds enough for any."""
    if all(len(c.seeds) < FEWEST for c in compared):
        return None
    methods = [m for m in table["method"] if any(m in (c.a, c.b) for c in compared)]
    both = {pair: Verdict(word, told) for c in compared for told in [_told(c, labels)]
            for pair, word in (((c.a, c.b), c.verdict), ((c.b, c.a), c.swapped.verdict))}  # fmt: skip
    names = [labels[m] for m in methods]
    return Matrix(
        names, [block.methods[name] for name in names], [[both.get((a, b)) for b in methods] for a in methods]
    )


def _told(c: Comparison, labels: Mapping[str, str]) -> str:
    parts = []
    if not math.isnan(c.difference.value):
        a, b = (labels.get(name, name) for name in (c.a, c.b))
        if c.scale == "difference":
            parts.append(f"{a} less {b}: {cells.interval(c.shown, sign=True)} {c.unit}".rstrip())
        elif c.far:
            parts.append(f"{a}: {cells.times(c.difference)} times {b}")
        else:
            parts.append(f"{a}: {cells.interval(c.shown, sign=True)} {c.unit} of {b}")
        parts.append(cells.seeds(c.seeds))
    if not math.isnan(c.difference.low):
        parts.append(f"{cells.p_value(c.p_holm)}, Holm over {c.family}")
        parts.append(f"{c.flips} {cells.p_value(c.p_flip)}, at least {c.p_flip_least:.2g}")
        if c.shown_margin is not None:
            parts.append(f"what matters: ± {cells.rounded(c.shown_margin, 0)} {c.unit}".rstrip())
    parts += [c.because] if c.because else []
    if needed := verdicts.missing(c):
        parts.append(f"{needed:,} seeds would find a difference of this size with 80 % power")
    return "; ".join(parts)


def _paper(table: pd.DataFrame, compared: Sequence[Comparison]) -> str:
    first = list(table["method"][:2])
    both = next((c for c in compared if [c.a, c.b] == first and len(c.seeds) >= FEWEST), None)
    return verdicts.sentence(both) if both else ""


def sentence(table: pd.DataFrame, labels: Mapping[str, str], compared: Sequence[Comparison]) -> str:
    """Who is best, who cannot be told from it, and what is missing for that."""
    ranked = rows_of(table[table["n_seeds"] > 0])
    if not ranked:
        return "Every run diverged: there is nothing to rank."
    best = ranked[0]
    unit = " %" if best.metric in PERCENT else ""
    text = f"{best.label} has the best mean, {cells.mean(best)}{unit}"
    if len(ranked) == 1:
        return text + "; nothing is recorded to compare it with."
    against = {c.b if c.a == best.method else c.a: c if c.a == best.method else c.swapped
               for c in compared if best.method in (c.a, c.b)}  # fmt: skip
    by_word: dict[str, list[str]] = {}
    for row in ranked[1:]:
        pair = against.get(row.method)
        word: str = pair.verdict if pair is not None and len(pair.seeds) >= FEWEST else "few"
        if pair is None and not {*row.seeds.split()}.isdisjoint(best.seeds.split()):
            word = "zero"
        by_word.setdefault(word, []).append(row.label)
    if len(by_word) == 1 and "few" in by_word:
        n = max((len(c.seeds) for c in against.values()), default=0)
        others = any(len(c.seeds) >= FEWEST for c in compared)
        apart = "it from any other" if others else "any two methods apart"
        shares = f", of which others share {n}" if n < best.n_seeds else ""
        return f"{text}, over {best.n_seeds} seed{'s' * (best.n_seeds != 1)}{shares}: too few to tell {apart}."
    parts = [text]
    if "better" in by_word:
        parts.append(f"better than {_list(by_word['better'])}")
    if "equivalent" in by_word:
        parts.append(f"equivalent to {_list(by_word['equivalent'])}")
    if "worse" in by_word:
        parts.append(f"worse, seed by seed, than {_list(by_word['worse'])}")
    if "cannot tell" in by_word:
        pairs = [c for row in ranked[1:] if (c := against.get(row.method))]
        needed = [seeds for c in pairs if (seeds := verdicts.missing(c))]
        hint = f" (up to {max(needed):,} seeds needed)" if needed else ""
        parts.append(f"not to be told from {_list(by_word['cannot tell'])}{hint}")
    if "zero" in by_word:
        parts.append(f"a score of zero has no ratio to that of {_list(by_word['zero'])}")
    if "few" in by_word:
        parts.append(f"with {_list(by_word['few'])} it shares fewer than {FEWEST} seeds")
    return "; ".join(parts) + "."


def _list(names: Sequence[str]) -> str:
    if len(names) > 6:
        return f"{', '.join(names[:5])} and {len(names) - 5} more"
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
