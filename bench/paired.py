"""Two rows of scores by seed, compared: the interval, what stands beside it, and the verdict that follows.

The headline is Student's t over per-seed paired differences: all methods meet the same test episodes, which are fresh
for every seed, so that the differences of seeds are independent and speak of new seeds, new training episodes and new
test episodes together. Everything else stands beside it under its own name. `bench.simulation` measures what each of
these covers and how often each decision is wrong; docs/statistics.md shows it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from bench import intervals, significance, verdicts
from bench.cells import p_value
from bench.cells import seeds as listed
from bench.errors import BenchError
from bench.frames import PERCENT
from bench.intervals import FEWEST, Estimate
from bench.significance import ALPHA
from bench.verdicts import Rope, Verdict

Failures = Literal["excluded", "chance"]
Scale = Literal["difference", "ratio"]
UNKNOWN = Estimate(math.nan)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A against B in one task, setting and place. The difference is A - B, whichever direction is the better one."""

    a: str = "A"
    b: str = "B"
    task: str = ""
    setting: str = ""
    at: str = ""
    """Overall, or "instance 2", "step 1" and the like, as in the summary of `bench.tables`."""
    metric: str = "accuracy"
    higher_is_better: bool = True
    scale: Scale = "difference"
    """ratio: all of `difference`, `margin` and `sd` are natural logarithms of ratios; see `shown`."""

    seeds: tuple[int, ...] = ()
    """Those that the difference is over: both methods have a score."""
    only_a: tuple[int, ...] = ()
    only_b: tuple[int, ...] = ()
    """Seeds that only one of them was run with: left out."""
    diverged_a: tuple[int, ...] = ()
    diverged_b: tuple[int, ...] = ()
    """Seeds, of those that both were run with, in which it failed."""
    failures: Failures = "excluded"
    """excluded: failures are counted, and left out of the difference; chance: they have the score of guessing."""

    mean_a: float = math.nan
    mean_b: float = math.nan
    """Over `seeds`; geometric means where the scale is a ratio."""
    difference: Estimate = UNKNOWN
    """Mean paired difference and its Student t 95 % interval; no interval for fewer than three seeds."""
    sd: float = math.nan
    """Of the differences, over seeds."""
    p: float = math.nan
    """Student t, two-sided."""
    p_flip: float = math.nan
    """Exact sign-flip test, two-sided: in how many of the 2^n ways to swap A and B is the difference as large."""
    p_flip_least: float = math.nan
    """What so many seeds can reach at best: 2 / 2^n, or one in all random flips where not every way is tried."""
    p_equivalent: float = math.nan
    """The larger of the two one-sided p against ± margin (TOST, Schuirmann 1987)."""
    p_holm: float = math.nan
    p_flip_holm: float = math.nan
    p_equivalent_holm: float = math.nan
    """Corrected for the family (Holm 1979)."""
    family: int = 1
    """Comparisons in the family."""
    effect: float = math.nan
    """Mean over standard deviation of the paired differences, with Hedges' correction for few seeds."""
    wins_seeds: Estimate = UNKNOWN
    """P(A better than B) over seeds, ties half, failures lost; exact interval (Clopper and Pearson)."""
    wins_episodes: Estimate = UNKNOWN
    """P(A better than B) over test episodes, ties half: mean over seeds, t interval over seeds."""
    margin: float | None = None
    """Smallest difference that matters, on the scale of `difference`."""
    rope: Rope = "undecided"
    """Where the interval lies relative to ± margin."""
    seeds_needed: int | None = None
    """Seeds with which a difference of this size and spread is found with 80 % power; None: more than 9,999."""
    verdict: Verdict = "cannot tell"
    """Of A, from `p_holm` and `p_equivalent_holm`; see `judged`."""
    because: str = ""
    """Why it cannot be told, or what limits the verdict."""

    @property
    def shown(self) -> Estimate:
        """The difference as people read it: points, or percent of B."""
        return Estimate(*(_shown(self.scale, v) for v in self.difference))

    @property
    def far(self) -> bool:
        """Whether a ratio is, or may be, two or more: it is then printed as how many times B, not in percent of B."""
        return self.scale == "ratio" and any(abs(v) > math.log(2) for v in self.difference)

    @property
    def shown_margin(self) -> float | None:
        """The margin as people read it."""
        return None if self.margin is None else _shown(self.scale, self.margin)

    @property
    def flips(self) -> str:
        """Which sign flips `p_flip` is of: all of them, or as many at random as are tried."""
        return "exact sign-flip" if len(self.seeds) <= significance.EXACT else "random sign-flip"

    @property
    def unit(self) -> str:
        """Of `shown`."""
        return "%" if self.scale == "ratio" else "points" if self.metric in PERCENT else ""

    @property
    def swapped(self) -> Comparison:
        """B against A."""
        return dataclasses.replace(
            self, a=self.b, b=self.a, only_a=self.only_b, only_b=self.only_a, diverged_a=self.diverged_b,
            diverged_b=self.diverged_a, mean_a=self.mean_b, mean_b=self.mean_a, effect=-self.effect,
            difference=_minus(self.difference), wins_seeds=_rest(self.wins_seeds),
            wins_episodes=_rest(self.wins_episodes), rope=ROPES.get(self.rope, self.rope),
            verdict=VERDICTS.get(self.verdict, self.verdict),
        )  # fmt: skip


VERDICTS: dict[Verdict, Verdict] = {"better": "worse", "worse": "better"}
ROPES: dict[Rope, Rope] = {"above": "below", "below": "above"}
"""What is said when A and B change places."""


def _shown(scale: Scale, value: float) -> float:
    return 100 * math.expm1(value) if scale == "ratio" else value


def _minus(e: Estimate) -> Estimate:
    return Estimate(-e.value, -e.high, -e.low)


def _rest(e: Estimate) -> Estimate:
    return Estimate(1 - e.value, 1 - e.high, 1 - e.low)


def paired(
    a: Mapping[int, float],
    b: Mapping[int, float],
    template: Comparison = Comparison(),
    *,
    chance: float = math.nan,
    episodes: Mapping[int, float] | None = None,
) -> Comparison:
    """Compare scores by seed, NaN where the run diverged; a family of one.

    template: says what is compared, and how: `scale` (a ratio takes logarithms, of scores above zero), `margin` (on
    that scale), `failures`, `higher_is_better`. chance: what failures score under failures="chance"; they stay excluded
    where it is not known. episodes: by seed, the fraction of test episodes in which A is better.

    Raises:
        BenchError: no seed in common, or a ratio of scores that are not above zero.
    """
    names, scale, margin = (template.a, template.b), template.scale, template.margin
    shared = sorted(a.keys() & b.keys())
    if not shared:
        has = " and ".join(f"{name} has {listed(seeds)}" for name, seeds in zip(names, (a, b), strict=True))
        raise BenchError(f"{names[0]} and {names[1]} share no seed: {has}; run both with the same seeds")
    sign = 1 if template.higher_is_better else -1
    won = sum(_won(sign * a[s], sign * b[s]) for s in shared)
    filled = chance if template.failures == "chance" else math.nan
    pairs = {s: [filled if math.isnan(v) else v for v in (a[s], b[s])] for s in shared}
    seeds = [s for s in shared if not any(map(math.isnan, pairs[s]))]
    values = np.array([pairs[s] for s in seeds]).reshape(-1, 2)
    if scale == "ratio":
        if (values <= 0).any():
            raise BenchError(f"a score of {names[0]} or {names[1]} is not above zero: no ratio can be taken of it")
        values = np.log(values)
    means = values.mean(0) if seeds else np.full(2, math.nan)
    differences, enough = values[:, 0] - values[:, 1], len(seeds) >= FEWEST
    difference = intervals.mean(differences)
    by_episode = [episodes[s] for s in seeds if s in episodes and not math.isnan(episodes[s])] if episodes else []
    return judged(dataclasses.replace(
        template,
        seeds=tuple(seeds),
        only_a=tuple(sorted(a.keys() - b.keys())), only_b=tuple(sorted(b.keys() - a.keys())),
        diverged_a=tuple(s for s in shared if math.isnan(a[s])),
        diverged_b=tuple(s for s in shared if math.isnan(b[s])),
        mean_a=float(np.exp(means[0]) if scale == "ratio" else means[0]),
        mean_b=float(np.exp(means[1]) if scale == "ratio" else means[1]),
        difference=difference,
        sd=intervals.spread(differences),
        p=significance.t_p(differences) if enough else math.nan,
        p_flip=float(significance.sign_flip_p(differences)) if enough else math.nan,
        p_flip_least=significance.least_sign_flip_p(len(seeds)) if seeds else math.nan,
        p_equivalent=significance.equivalence_p(differences, margin) if enough and margin is not None else math.nan,
        effect=significance.hedges(differences),
        wins_seeds=intervals.fraction(won, len(shared)),
        wins_episodes=intervals.mean(by_episode, 0, 1),
        rope=verdicts.rope(difference, margin),
        seeds_needed=significance.seeds_needed(differences) if enough else None,
    ))  # fmt: skip


def judged(c: Comparison, corrected: Corrected | None = None, family: int = 1) -> Comparison:
    """A comparison with its p corrected for a family (None: of one), and the verdict that follows.

    Failures that are left out never speak for the method that failed: it is then neither better nor equivalent.
    """
    p = corrected or Corrected(c.p, c.p_flip, c.p_equivalent)
    verdict, because = verdicts.decide(c.difference.value, p.t, p.equivalent, c.higher_is_better), ""
    failed = [(name, lost) for name, diverged, wins in ((c.a, c.diverged_a, "better"), (c.b, c.diverged_b, "worse"))
              if (lost := set(diverged) - set(c.seeds)) and verdict in (wins, "equivalent")]  # fmt: skip
    if len(c.seeds) < FEWEST:
        because = "1 seed gives no interval" if len(c.seeds) == 1 else f"{len(c.seeds)} seeds give no interval"
    elif failed:
        verdict = "cannot tell"
        because = " and ".join(f"{n} diverged in {listed(lost)}, which the difference leaves out" for n, lost in failed)
    elif verdict == "cannot tell" and c.p <= ALPHA:
        because = f"among {family} comparisons it may be chance"
    elif verdict == "cannot tell":
        because = f"{len(c.seeds)} seeds leave both signs possible"
        if c.p_flip <= ALPHA:  # the t interval has them, wide as it is by a seed far off
            because += f" where some lie far from the rest, though the sign flip has {p_value(c.p_flip)}"
    return dataclasses.replace(c, p_holm=p.t, p_flip_holm=p.flip, p_equivalent_holm=p.equivalent, family=family,
                               verdict=verdict, because=because)  # fmt: skip


class Corrected(NamedTuple):
    """The p of a comparison, corrected for its family."""

    t: float
    flip: float
    equivalent: float


def as_family(comparisons: Iterable[Comparison]) -> list[Comparison]:
    """The comparisons with p corrected for all of them together, those without a p aside, and verdicts that follow."""
    family = list(comparisons)
    each = [significance.holm([getattr(c, p) for c in family]).tolist() for p in ("p", "p_flip", "p_equivalent")]
    count = sum(not math.isnan(c.p) for c in family)
    return [judged(c, Corrected(*p), count) for c, *p in zip(family, *each, strict=True)]


def _won(a: float, b: float) -> float:
    """1 where a is better, ½ where neither is; NaN is worse than any number."""
    if math.isnan(a) or math.isnan(b):
        return (math.isnan(b) - math.isnan(a) + 1) / 2
    return float(np.sign(a - b) + 1) / 2
