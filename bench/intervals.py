"""Intervals of means."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats


def t_half_width(values: Sequence[float]) -> float:
    """Half-width of the 95 % Student t interval of a mean; NaN for fewer than two values."""
    n = len(values)
    if n < 2:
        return math.nan
    return float(stats.t.ppf(0.975, n - 1) * spread(values) / math.sqrt(n))


def episode_half_width(scores: Sequence[float]) -> float:
    """What few-shot papers print: 1.96 s / √n over the test episodes of one trained model; NaN for fewer than two."""
    return 1.96 * spread(scores) / math.sqrt(len(scores)) if len(scores) > 1 else math.nan


def spread(values: Sequence[float]) -> float:
    """Standard deviation of a sample; exactly 0 of equal values, whose mean may be rounded. NaN for fewer than two."""
    if len(values) < 2:
        return math.nan
    return float(np.std(values, ddof=1)) if min(values) < max(values) else 0.0
