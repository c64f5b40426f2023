"""`bench compare A B`: one screen on whether A is better, by how much, how sure, at what cost; and a sentence."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console

from bench import cells, frames, provenance, records, stats, verdicts, views
from bench.errors import BenchError
from bench.stats import Comparison, Failures

COSTS = {"params": "parameters", "cpu_ms_step": "CPU ms a step", "ms_step": "wall ms a step", "train_s": "training s"}
COLOURS = {"better": "green", "worse": "red", "equivalent": "cyan", "cannot tell": "yellow"}
ROPES = {"above": "above it", "below": "below it", "inside": "within it", "undecided": "partly within it"}
HOW = {"excluded": "counted, and left out", "chance": "scored as chance"}
WIDTH = 40
"""Of a curve."""
DETAILED = 3
"""Comparisons up to which each is shown in full: with more it would be no screen."""


@dataclass(frozen=True)
class Request:
    """What `bench compare` was asked."""

    a: str
    b: str
    results: Path
    task: str | None = None
    setting: str | None = None
    at: str = ""
    failures: str = "excluded"
    margin: float | None = None
    dirty: bool = False


def compare(request: Request, quiet: bool = False) -> list[dict[str, Any]]:
    """Print the screen, unless quiet; the comparisons as data.

    Raises:
        BenchError: see `stats.compare`; a margin that is none, or failures that are neither excluded nor chance.
    """
    if request.margin is not None and not (math.isfinite(request.margin) and request.margin > 0):
        raise BenchError(f"--margin must be above zero, not {request.margin:g}: the smallest difference that matters")
    failures: dict[str, Failures] = {"excluded": "excluded", "chance": "chance"}
    if request.failures not in failures:
        raise BenchError(f"--failures must be excluded or chance, not '{request.failures}'")
    made = _frame(request)
    found = stats.compare(made, request.a, request.b, task=request.task, setting=request.setting,
                          at=request.at, failures=failures[request.failures], margin=request.margin)  # fmt: skip
    costs = [cost(made, c) for c in found]
    if not quiet:
        show(views.console(), made, found, costs)
    return [{**_plain(asdict(c)), "shown": _plain(c.shown._asdict()), "unit": c.unit, "cost": _plain(cost),
             "sentence": verdicts.sentence(c)} for c, cost in zip(found, costs, strict=True)]  # fmt: skip


def _frame(request: Request) -> pd.DataFrame:
    loaded = records.load(request.results)
    views.left_out(loaded.problems)
    found = frames.plain(loaded.records)
    clean = frames.committed(found, request.dirty)
    if found and not clean:
        raise BenchError(frames.UNCOMMITTED.format(request.results))
    if not found:
        raise BenchError(f"there are no records in {request.results}; `bench run` makes them")
    named = {name.partition(" ")[0] for name in (request.a, request.b)}
    shown = (r for r in loaded.records if r.method in named and request.task in (None, r.task))
    views.warn(provenance.mixed(shown, request.dirty))
    return frames.frame(frames.current(clean))


def cost(made: pd.DataFrame, c: Comparison) -> dict[str, dict[str, float]]:
    """Costs of A, of B, and A over B: means over the seeds compared; only what both have, on one device."""
    found = {}
    rows = [_rows(made, c, name) for name in (c.a, c.b)]
    alike = pd.concat(rows)["device"].nunique() < 2
    for key in COSTS:
        a, b = (frames.spent(each, key) if alike or key == "params" else math.nan for each in rows)
        if a > 0 and b > 0:
            found[key] = {"a": a, "b": b, "ratio": a / b}
    return found


def curve(made: pd.DataFrame, c: Comparison, name: str) -> tuple[list[int], list[float]]:
    """Steps, and validation at each: mean over the seeds compared that were validated there, as shown."""
    rows = _rows(made, c, name)
    rows = rows[rows["evaluation"] == ""]  # other settings were never validated in
    points: dict[int, list[float]] = {}
    for each in rows["curve"]:
        for point in each:
            if point.get("val") is not None:
                points.setdefault(point["step"], []).append(frames.shown(c.metric, point["val"]))
    steps = sorted(points)
    return steps, [float(np.mean(points[s])) for s in steps]


def _unlike(made: pd.DataFrame, c: Comparison) -> list[str]:
    """What else than the methods differs between the two: training steps, test episodes, steps before the score."""
    both = [_rows(made, c, name) for name in (c.a, c.b)]
    said = []
    trained = [{spec["budget"]["steps"] for spec in rows["spec"]} for rows in both]
    if trained[0] != trained[1] and all(map(min, trained)):
        said.append("A was trained for {} steps and B for {}".format(*map(_either, trained)))
    tested = [{*rows.loc[rows["outcome"] == "ok", "n_episodes"]} for rows in both]
    if tested[0] != tested[1] and all(tested):
        said.append("A was tested on {} episodes and B on {}".format(*map(_either, tested)))
    a, b = map(frames.after, both)
    if not c.at and None not in (a, b) and a != b:
        said.append(f"A is scored after {a} of its steps and B after {b}: --at 'step N' compares them after as many")
    return said


def _either(numbers: Iterable[int]) -> str:
    return " or ".join(f"{n:,}" for n in sorted(numbers))


def _rows(made: pd.DataFrame, c: Comparison, name: str) -> pd.DataFrame:
    there = (made["task"] == c.task) & (made["setting"] == c.setting) & (made["method"] == name)
    return frames.once(made[there & made["seed"].isin(c.seeds)])


# --------------------------------------------------------------------------------------------------------------- screen


def show(out: Console, made: pd.DataFrame, found: list[Comparison], costs: Iterable[Mapping[str, Any]]) -> None:
    """The screen: a line a comparison, then what stands beside each."""
    family = found[0].family
    p = f"p (of {family}, Holm)" if family > 1 else "p"
    rows = views.table("where", "A", "B", "A - B [95 %]", p, "seeds", "verdict of A",
                       right=("A", "B", "A - B [95 %]", p, "seeds"),
                       title=f"A {_one(c.a for c in found)} against B {_one(c.b for c in found)}")  # fmt: skip
    for c in found:
        rows.add_row(
            _where(c), cells.number(c.mean_a, c.metric), cells.number(c.mean_b, c.metric),
            _difference(c), cells.p_value(c.p_holm)[1:].removeprefix(" = ").strip(),
            str(len(c.seeds)), c.verdict, style=COLOURS[c.verdict],
        )  # fmt: skip
    out.print(rows)
    if len(found) > DETAILED:
        only = "-t TASK" if len({c.task for c in found}) > 1 else "--setting NAME"
        out.print(f"{only} shows fewer in full: sign flips, effect, wins, margin, cost, curves and a sentence each.")
        return
    for c, spent in zip(found, costs, strict=True):
        out.print(_where(c), style="bold")
        for line in filter(None, [*_unlike(made, c), _doubt(c), _wins(c), _seeds(c), _costs(spent)]):
            out.print(f"  {line}")
        _curves(out, made, c)
        out.print(f"  {verdicts.sentence(c)}", style="italic", soft_wrap=True)


def _difference(c: Comparison) -> str:
    return f"×{cells.times(c.difference)}" if c.far else cells.interval(c.shown, sign=True) + _unit(c)


def _where(c: Comparison) -> str:
    return ", ".join(filter(None, [c.task, c.setting, c.at]))


def _doubt(c: Comparison) -> str:
    if math.isnan(c.p):
        return ""
    more = "over 9,999" if c.seeds_needed is None else f"{c.seeds_needed:,}"
    return (
        f"sign flip {cells.p_value(c.p_flip)} ({len(c.seeds)} seeds reach {c.p_flip_least:.2g}); effect "
        f"{cells.rounded(c.effect, 1)} (Hedges, paired); for 80 % power at this effect: {more} seeds"
    )


def _wins(c: Comparison) -> str:
    won = [f"{_percent(wins)} of {what}" for wins, what in ((c.wins_seeds, "seeds"), (c.wins_episodes, "episodes"))
           if not math.isnan(wins.value)]  # fmt: skip
    margin = "no margin says what difference matters"
    if c.shown_margin is not None:
        margin = f"margin ± {c.shown_margin:.3g}{_unit(c)}"
        margin += "" if math.isnan(c.difference.low) else f": the interval is {ROPES[c.rope]}"
    return "; ".join([f"A is better in {' and '.join(won)}", margin])


def _seeds(c: Comparison) -> str:
    """Who is missing."""
    left = [("only A has", c.only_a), ("only B has", c.only_b), ("A diverged in", c.diverged_a),
            ("B diverged in", c.diverged_b)]  # fmt: skip
    found = "; ".join(f"{what} {cells.seeds(seeds)}" for what, seeds in left if seeds)
    failed = {*c.diverged_a, *c.diverged_b}
    if not failed:
        return found
    if c.failures == "chance" and failed - set(c.seeds):
        return f"{found} (what chance scores is not known here: failures are {HOW['excluded']})"
    return f"{found} (failures are {HOW[c.failures]})"


def _costs(spent: Mapping[str, Any]) -> str:
    each = ", ".join(f"{COSTS[key]} ×{value['ratio']:.3g}" for key, value in spent.items())
    return f"cost of A over B: {each}" if each else ""


def _curves(out: Console, made: pd.DataFrame, c: Comparison) -> None:
    both = {letter: curve(made, c, name) for letter, name in (("A", c.a), ("B", c.b))}
    values = [v for _, line in both.values() for v in line]
    for letter, (steps, line) in both.items():
        if len(line) > 1:
            bars = views.sparkline(line, WIDTH, ends=(min(values), max(values)))
            ends = " → ".join(cells.number(v, c.metric) for v in (line[0], line[-1]))
            out.print(f"  {letter} {bars}  validation {ends}, steps {steps[0]:,} to {steps[-1]:,}")


def _one(names: Iterable[str]) -> str:
    """A name, without its settings where these differ from task to task."""
    found = set(names)
    return found.pop() if len(found) == 1 else min(name.partition(" (")[0] for name in found)


def _unit(c: Comparison) -> str:
    return {"%": " %", "points": " pt"}.get(c.unit, "")


def _percent(wins: Any) -> str:
    ends = "" if math.isnan(wins.low) else f" [{100 * wins.low:.0f}, {100 * wins.high:.0f}]"
    return f"{100 * wins.value:.0f} %{ends}"


def _plain(value: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _plain(v) for key, v in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return _plain(value._asdict())
    return [_plain(v) for v in value] if isinstance(value, (tuple, list)) else value
