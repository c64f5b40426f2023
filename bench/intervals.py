"""Intervals, 95 %: of means over seeds or episodes, of fractions.

What each covers is measured by `bench.simulation`. Half-widths are NaN where there are too few values.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

LEVEL = 0.95
FEWEST = 3
"""Seeds from which an interval is given: that of two is ± six times their difference."""


class Estimate(NamedTuple):
    """A figure and the ends of its interval, NaN where there is none."""

    value: float
    low: float = math.nan
    high: float = math.nan

    @property
    def half_width(self) -> float:
        """Half the length of the interval."""
        return (self.high - self.low) / 2


def t_half_width(values: Sequence[float]) -> float:
    """Half-width of the 95 % Student t interval of a mean; NaN for fewer than three values."""
    n = len(values)
    if n < FEWEST:
        return math.nan
    return float(stats.t.ppf(0.975, n - 1) * spread(values) / math.sqrt(n))


def episode_half_width(scores: Sequence[float]) -> float:
    """What few-shot papers print: 1.96 s / √n over the test episodes of one trained model; NaN for fewer than two.

    "Closed": it speaks of new episodes of the same test classes, not of other classes, nor of another trained model.
    """
    return 1.96 * spread(scores) / math.sqrt(len(scores)) if len(scores) > 1 else math.nan


def clustered_half_width(scores: Sequence[float], members: Sequence[Sequence[int]]) -> float:
    """ "Open" interval over the episodes of one trained model, which share classes: it speaks of other test classes.

    t of C - 1 degrees of freedom times √V, with C classes and V = (C - 1)/C Σ (m_c - m̄)² - (k - 1) s²/n: the jackknife
    over classes (m_c is the mean of the n_c episodes without class c; Efron and Stein 1981, Ann. Statist. 9:586), less
    what it counts too often of the variance between episodes, each of which is left out with each of its classes:
    k = n (C - 1)/C Σ (1/n_c - 1/n), about the classes of an episode. Where scores are sums of effects of classes and of
    an episode, V is the variance of their mean. It is at least s²/n. Why closed intervals are too narrow: Lafargue et
    al. 2024 (arXiv:2409.02850), who disjoin episodes: see `disjoint`.

    members: the classes of each episode, any integers. NaN for fewer than three classes, or where one is in all
    episodes.
    """
    flat = [name for episode in members for name in episode]
    names, index = np.unique(np.array(flat, dtype=int), return_inverse=True)
    has = np.zeros((len(scores), len(names)))
    has[np.repeat(np.arange(len(scores)), [len(episode) for episode in members]), index] = 1
    without = len(scores) - has.sum(0)
    if len(names) < 3 or not without.all():
        return math.nan
    found = np.asarray(scores, float)
    left = (found.sum() - found @ has) / without
    n, count = len(found), len(names)
    closed = spread(found) ** 2 / n
    often = n * (count - 1) / count * float((1 / without - 1 / n).sum())
    variance = (count - 1) * left.var() - (often - 1) * closed
    return float(stats.t.ppf(0.975, count - 1) * math.sqrt(max(variance, closed)))


def disjoint(members: Sequence[Sequence[int]]) -> list[int]:
    """Episodes, in their order, that share no member (class, or image) with one taken before: the first always.

    `t_half_width` over their scores is the interval of Lafargue et al. 2024: wider, and open.
    """
    taken: set[int] = set()
    kept = []
    for i, episode in enumerate(members):
        if taken.isdisjoint(episode):
            taken.update(episode)
            kept.append(i)
    return kept


def opened(scores: Sequence[float], members: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Both open intervals over the episodes of one trained model, as a record holds them.

    disjoint and clustered: half-widths, None where there are too few episodes or classes; episodes: how many are
    disjoint; classes: how many were shown in all.
    """
    apart = disjoint(members)
    widths = {
        "disjoint": t_half_width([scores[i] for i in apart]),
        "clustered": clustered_half_width(scores, members),
    }
    known = {name: None if math.isnan(half) else float(f"{half:.7g}") for name, half in widths.items()}
    return {**known, "episodes": len(apart), "classes": len({name for episode in members for name in episode})}


def fraction(successes: float, n: int) -> Estimate:
    """A fraction with its exact interval (Clopper and Pearson 1934); half successes stand for ties."""
    if not n:
        return Estimate(math.nan)
    low = stats.beta.ppf(0.025, successes, n - successes + 1) if successes > 0 else 0.0
    high = stats.beta.ppf(0.975, successes + 1, n - successes) if successes < n else 1.0
    return Estimate(successes / n, float(low), float(high))


def mean(values: Sequence[float], low: float = -math.inf, high: float = math.inf) -> Estimate:
    """A mean with its Student t interval, cut to what is possible; no interval for fewer than three values."""
    if not len(values):
        return Estimate(math.nan)
    centre, half = float(np.mean(values)), t_half_width(values)
    return Estimate(centre, *(float(np.clip(end, low, high)) for end in (centre - half, centre + half)))


def spread(values: ArrayLike) -> Any:
    """Standard deviation of a sample; exactly 0 of equal values, whose mean may be rounded. NaN for fewer than two."""
    found = np.asarray(values, float)
    if len(found) < 2:
        return math.nan
    return float(np.std(found, ddof=1)) if found.min() < found.max() else 0.0
