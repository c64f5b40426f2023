"""Tests of paired differences, corrections, effect sizes, power: pure functions on arrays, each checked against others.

scipy has the distributions. Differences are per seed, A - B; those of t may have NaN for seeds that a pair lacks.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import special, stats

from bench.intervals import FEWEST, spread

ALPHA = 0.05
EXACT = 16
"""Seeds up to which all sign flips are tried."""
RANDOM = 9999
"""Flips that are tried by chance for more seeds."""
POWER = 0.8
CERTAIN = 40
"""Noncentrality above which power is 1, and the noncentral t no longer computed."""
MOST = 9999
"""Seeds beyond which no number is named."""


def t_p(differences: ArrayLike) -> Any:
    """Two-sided p of Student's t for a mean of zero, along the last axis; of equal ones 0, or 1 where all are zero."""
    n, mean, se = _moments(differences)
    with np.errstate(divide="ignore", invalid="ignore"):
        p = np.where(se == 0, mean == 0, 2 * stats.t.sf(np.abs(mean) / se, n - 1))
    return float(p) if p.ndim == 0 else p


def equivalence_p(differences: ArrayLike, margin: float) -> Any:
    """The larger p of two one-sided t tests, mean above -margin and mean below margin, along the last axis."""
    n, mean, se = _moments(differences)
    inside = margin - np.abs(mean)
    with np.errstate(divide="ignore", invalid="ignore"):
        p = np.where(se == 0, inside <= 0, stats.t.sf(inside / se, n - 1))
    return float(p) if p.ndim == 0 else p


def _moments(values: ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How many there are, their mean and its standard error (exactly 0 of equal ones), each along the last axis."""
    found = np.asarray(values, float)
    there = ~np.isnan(found)
    n = there.sum(-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.where(there, found, 0).sum(-1) / n
        squares = np.where(there, found - mean[..., None], 0) ** 2
        se = np.sqrt(squares.sum(-1) / (n - 1) / n)
    low, high = np.where(there, found, np.inf).min(-1), np.where(there, found, -np.inf).max(-1)
    return n, mean, np.where((n > 1) & (low == high), 0.0, se)


def least_sign_flip_p(n: int) -> float:
    """The smallest p that `sign_flip_p` can give for n differences."""
    return 2.0 ** (1 - n) if n <= EXACT else 1 / (RANDOM + 1)


def sign_flip_p(differences: ArrayLike) -> Any:
    """Two-sided p of the mean over all 2^n sign flips, along the last axis; above 16 values over 9,999 random ones.

    Under the hypothesis that A and B are exchangeable within a seed it is exact (Fisher 1935). Random flips have a
    fixed seed, and count the data as one of them.
    """
    found = np.asarray(differences, float)
    n = found.shape[-1]
    observed = np.abs(found.sum(-1))
    slack = 1e-12 * np.abs(found).sum(-1)  # sums of the same numbers in another order
    sums = np.abs(found @ signs(n).T)
    extreme = (sums >= (observed - slack)[..., None]).sum(-1)
    p = extreme / len(signs(n)) if n <= EXACT else (extreme + 1) / (len(signs(n)) + 1)
    return float(p) if p.ndim == 0 else p


@lru_cache(maxsize=4)
def signs(n: int) -> np.ndarray:
    """Sign flips, [count, n] of ±1: half of all for up to 16 (the other half mirrors them), else random ones."""
    if n > EXACT:
        return np.random.default_rng(0).choice((-1.0, 1.0), (RANDOM, n))
    flips = 1 - 2.0 * (np.arange(2 ** max(0, n - 1))[:, None] >> np.arange(n) & 1)
    flips.flags.writeable = False
    return flips


def holm(p: ArrayLike) -> np.ndarray:
    """p corrected for a family so that any false rejection has at most the nominal rate (Holm 1979); NaN stays out."""
    given = np.asarray(p, float)
    corrected = np.full(given.shape, math.nan)
    order = np.argsort(given, kind="stable")[: int(np.isfinite(given).sum())]
    steps = given[order] * np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return corrected


def hedges(differences: ArrayLike) -> float:
    """Mean over standard deviation of paired differences, times Γ(m/2) / (√(m/2) Γ((m-1)/2)), m = n - 1 (Hedges 1981).

    NaN for fewer than three, or where they do not differ.
    """
    found = np.asarray(differences, float)
    m, sd = len(found) - 1, spread(found)
    if m < 2 or sd == 0:
        return math.nan
    correction = math.exp(special.gammaln(m / 2) - special.gammaln((m - 1) / 2)) / math.sqrt(m / 2)
    return float(correction * found.mean() / sd)


def power(n: int, effect: float, alpha: float = ALPHA) -> float:
    """Of the two-sided paired t test with n pairs, where the mean is `effect` standard deviations: noncentral t."""
    t, centre = stats.t.ppf(1 - alpha / 2, n - 1), abs(effect) * math.sqrt(n)
    if centre > CERTAIN:
        return 1.0
    wrong_side = stats.nct.cdf(-t, n - 1, centre) if centre < 6 else 0.0  # scipy loses it there; it is below 1e-8
    return float(stats.nct.sf(t, n - 1, centre) + wrong_side)


def seeds_needed(differences: ArrayLike) -> int | None:
    """The fewest pairs, from three, with which t finds a difference of this mean and spread with 80 % power.

    It takes the observed effect for the true one, so it is a guess: rough for few seeds. None above 9,999.
    """
    found = np.asarray(differences, float)
    sd, mean = spread(found), float(found.mean())
    if mean == 0:
        return None
    if sd == 0 or power(FEWEST, mean / sd) >= POWER:
        return FEWEST
    low, high = FEWEST, 2 * FEWEST  # power rises with n
    while power(high, mean / sd) < POWER:
        low, high = high, 2 * high
        if low > MOST:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(middle, mean / sd) >= POWER else (middle, high)
    return high if high <= MOST else None


def wins(a: ArrayLike, b: ArrayLike, higher_is_better: bool = True) -> float:
    """The fraction of shared episodes in which A is better, ties half; NaN where they are not as many."""
    first, second = np.asarray(a, float), np.asarray(b, float)
    if first.shape != second.shape or not first.size:
        return math.nan
    gain = np.sign(first - second).mean()
    return float(((gain if higher_is_better else -gain) + 1) / 2)
