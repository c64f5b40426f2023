"""What is said of figures: better, worse, equivalent or cannot tell; reproduced or not; and in one sentence.

Pure functions of numbers; what they rest on is computed in `bench.paired`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from bench import cells, intervals
from bench.frames import PERCENT
from bench.intervals import FEWEST, Estimate
from bench.published import Match, Published
from bench.significance import ALPHA

if TYPE_CHECKING:
    from bench.paired import Comparison

Verdict = Literal["better", "worse", "equivalent", "cannot tell"]
Reproduced = Literal["reproduced", "below", "above", "not comparable", "cannot tell"]
Rope = Literal["above", "below", "inside", "undecided"]
POINTS = {"omniglot 5-way": 0.3}
"""Smallest difference of accuracies that matters, in points, where it is not `POINT`: near the ceiling."""
POINT = 1.0
RELATIVE = 10.0
"""Smallest relative difference of mean squared errors that matters, in percent."""


def margin_of(task: str, metric: str, fields: Mapping[str, Any]) -> float | None:
    """The smallest difference that matters by default: in points of accuracy, or in percent of a squared error.

    None for other metrics: nobody has said what matters there, so nothing is called equivalent.
    """
    if metric in PERCENT:
        return POINTS.get(f"{task} {fields.get('way')}-way", POINT)
    return RELATIVE if metric == "mse" else None


def rope(difference: Estimate, margin: float | None) -> Rope:
    """Where an interval lies relative to the region of practical equivalence, ± margin (Kruschke 2018)."""
    low, high = difference.low, difference.high
    if margin is None or math.isnan(low):
        return "undecided"
    if low > margin:
        return "above"
    if high < -margin:
        return "below"
    return "inside" if -margin < low and high < margin else "undecided"


def decide(difference: float, p: float, p_equivalent: float, higher_is_better: bool) -> Verdict:
    """A verdict from the difference A - B, its p and that of two one-sided tests, both corrected for the family.

    Within the margin comes first: a difference can be real and too small to matter.
    """
    if p_equivalent <= ALPHA / 2:
        return "equivalent"
    if p <= ALPHA and difference:
        return "better" if (difference > 0) == higher_is_better else "worse"
    return "cannot tell"


def sentence(c: Comparison) -> str:
    """What one would write in a paper."""
    where = f"{c.task}, {c.setting}" if c.setting else c.task
    where += f", {c.at}" if c.at else ""
    many = f"{len(c.seeds)} seed{'s' * (len(c.seeds) != 1)}"
    unit = f" {c.unit}" if c.unit else ""
    means = (f"{cells.number(c.mean_a, c.metric)} against {cells.number(c.mean_b, c.metric)}"
             f"{' %' if c.metric in PERCENT else ''}")  # fmt: skip
    said = f"On {where}, {c.a} and {c.b} reach {means} ({_measure(c)}, {many})"
    if math.isnan(c.difference.low):
        return f"{said}; whether they differ cannot be told, because {c.because}."
    what, shown = "difference", f"{cells.interval(c.shown, sign=True)}{unit}"
    if c.far:
        what, shown = "ratio", cells.times(c.difference)
    evidence = (
        f"a {what} of {shown} (95 % interval of the paired {what} over seeds, Student t; "
        f"{cells.p_value(c.p_holm)}{f', Holm over {c.family}' if c.family > 1 else ''}; "
        f"{c.flips} {cells.p_value(c.p_flip)}, at least {c.p_flip_least:.2g})"
    )
    margin = "" if c.shown_margin is None else f"{cells.rounded(c.shown_margin, 0)}{unit}"
    needed = missing(c)
    more = f"; {needed:,} seeds would find a difference of this size with 80 % power" if needed else ""
    end = {
        "better": f"{c.a} is better",
        "worse": f"{c.a} is worse",
        "equivalent": f"they are equivalent within ± {margin}",
        "cannot tell": f"which is better cannot be told, because {c.because}{more}",
    }[c.verdict]
    failed = [f"{name} diverged in {cells.seeds(lost)}" for name, lost in ((c.a, c.diverged_a), (c.b, c.diverged_b))
              if lost and f" and {name} diverged in" not in f" and {c.because}"]  # fmt: skip
    return f"{said}, {evidence}: {end}{'; ' * bool(failed)}{' and '.join(failed)}."


def missing(c: Comparison) -> int | None:
    """Seeds that it would take to tell, where those that are there leave both signs possible; else None."""
    return c.seeds_needed if c.p > ALPHA and c.verdict == "cannot tell" else None


def _measure(c: Comparison) -> str:
    return {"accuracy": "mean accuracy", "error": "mean error", "mse": "geometric mean squared error"}.get(
        c.metric, f"{'geometric ' * (c.scale == 'ratio')}mean {c.metric}"
    )


# ----------------------------------------------------------------------------------------------------------- published


@dataclass(frozen=True)
class Reproduction:
    """Ours beside a published figure, both as tables show them."""

    task: str
    setting: str
    method: str
    at: str
    metric: str
    ours: intervals.Estimate
    """Mean over seeds and its t interval."""
    seeds: int
    """Those that the mean is over."""
    diverged: tuple[int, ...]
    """Those that failed, and are in no mean."""
    row: Published
    match: Match
    gap: intervals.Estimate
    """Ours minus published, with the interval in which it lies if the paper's model is one more seed of ours."""
    tolerance: float | None
    """The smallest difference that matters, or the paper's half-width if larger; None where neither is known."""
    verdict: Reproduced
    because: str
    """Why it is not comparable, or cannot be told."""

    @property
    def discrepancies(self) -> str:
        """What is known to be wrong or contradictory about the published figure."""
        return self.row.note


def reproduction(
    values: Sequence[float], row: Published, match: Match, margin: float | None, *,
    diverged: Sequence[int] = (), higher_is_better: bool = True, certain: bool = False,
    task: str = "", setting: str = "", method: str = "", at: str = "", metric: str = "accuracy",
) -> Reproduction:  # fmt: skip
    """Judge whether a published figure was reproduced. values: ours by seed, as shown; margin: in the same unit.

    A paper reports one trained model, or does not say how many: under the hypothesis that it is one more seed of ours,
    the gap varies by our spread √(1 + 1/n) and by the paper's interval over episodes, h / 1.96. Outside of that
    interval, and further off than the margin: above or below. Within it, no further off than the tolerance, and with
    our own interval no wider than that: reproduced. Otherwise the seeds are too few to tell. Seeds that diverged are
    left out, and never speak for us: what is then reproduced, or better than published, cannot be told. certain: no
    seed could score otherwise, as where nothing is learned and the episodes are fixed; one is then enough.
    """
    ours = intervals.mean(values)
    gap = ours.value - row.value
    half = math.nan
    if len(values) >= FEWEST:
        own = ours.half_width * math.sqrt(len(values) + 1)  # t · s · √(1 + 1/n)
        half = math.hypot(own, row.ci95 or 0.0)
    between = intervals.Estimate(gap, gap - half, gap + half)
    known = [w for w in (margin, row.ci95) if w is not None]
    tolerance = max(known) if known else None
    if certain:
        verdict, because = _reproduced(intervals.Estimate(gap, gap, gap), 0.0, tolerance, margin or 0.0)
    else:
        verdict, because = _reproduced(between, ours.half_width, tolerance, margin or 0.0)
    if diverged and verdict in ("reproduced", "above" if higher_is_better else "below"):
        verdict, because = "cannot tell", f"{cells.seeds(diverged)} diverged, which the mean leaves out"
    if not match.same:
        verdict, because = "not comparable", match.because
    elif len(values) < FEWEST and not certain:
        because = "1 seed gives no interval" if len(values) == 1 else f"{len(values)} seeds give no interval"
    return Reproduction(
        task, setting, method, at, metric, ours, len(values), tuple(diverged), row, match, between, tolerance, verdict,
        because,
    )  # fmt: skip


def _reproduced(gap: intervals.Estimate, own: float, tolerance: float | None, margin: float) -> tuple[Reproduced, str]:
    if gap.low > 0 and gap.value > margin:
        return "above", ""
    if gap.high < 0 and gap.value < -margin:
        return "below", ""
    if tolerance is None:
        return "cannot tell", "neither the paper nor we say what difference matters"
    if abs(gap.value) <= tolerance and own <= tolerance:
        return "reproduced", ""
    return "cannot tell", "the seeds are too few for the size of the gap"
