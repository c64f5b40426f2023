"""The exponent of a power law: how cost grows with size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats


class Slope(NamedTuple):
    """An exponent and half its 95 % interval (Student t over the residuals): NaN below three points; both below two."""

    value: float
    half: float

    @property
    def text(self) -> str:
        """Both, with two decimals; empty where nothing was fitted."""
        if math.isnan(self.value):
            return ""
        # no minus before a zero
        return f"{round(self.value, 2) + 0.0:.2f}" + ("" if math.isnan(self.half) else f" ± {self.half:.2f}")


def slope(x: Sequence[float], y: Sequence[float], reach: float = math.inf) -> Slope:
    """Slope of log y over log x by least squares, over the largest x and those down to 1/reach of it."""
    kept = [(a, b) for a, b in zip(x, y, strict=True) if a * reach >= max(x)]
    if len(kept) < 2 or min(map(min, kept)) <= 0:
        return Slope(math.nan, math.nan)
    sizes, values = map(np.log, zip(*kept, strict=True))
    free = len(kept) - 2
    if np.ptp(values) == 0:  # what scipy divides by zero for
        return Slope(0.0, 0.0 if free else math.nan)
    fit = stats.linregress(sizes, values)
    return Slope(float(fit.slope), float(stats.t.ppf(0.975, free) * fit.stderr) if free else math.nan)
