"""Many tasks, or many runs, in one figure: interquartile means, profiles, ranks, and what a budget of runs buys.

`across` takes normalised scores out of a frame: 0 is chance, 1 is perfect, and a run that diverged has 0. The measures
are those of Agarwal et al. 2021 (arXiv:2108.13264, the package rliable), Demšar 2006 (JMLR 7:1) and Dodge et al. 2019
(arXiv:1909.03004), computed by scipy. Each takes scores as one array of runs a task.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

from bench import memory_tables
from bench.errors import BenchError
from bench.frames import PERCENT, apart, once
from bench.intervals import FEWEST, Estimate
from bench.stats import Section

RESAMPLES = 2000
"""Of a bootstrap."""
FEWEST_TASKS = 5
"""Tasks from which ranks are tested."""

Scores = Sequence[np.ndarray]


# ------------------------------------------------------------------------------------------------------------- measures


def iqm(scores: Scores, axis: int = -1) -> Any:
    """Interquartile mean: of all runs of all tasks, without the lowest and the highest quarter, ⌊n/4⌋ runs each."""
    return stats.trim_mean(np.concatenate(scores, axis), 0.25, axis)


def stratified(scores: Scores, statistic: Callable[[Scores, int], Any] = iqm, seed: int = 0) -> Estimate:
    """A statistic with its 95 % percentile bootstrap interval; runs are drawn anew within each task.

    statistic: of scores along an axis. No interval where a task has fewer than three runs.
    """
    value = float(statistic(scores, -1))
    if min(map(len, scores)) < FEWEST:
        return Estimate(value)
    found = stats.bootstrap(
        tuple(scores), lambda *parts, axis=-1: statistic(parts, axis), n_resamples=RESAMPLES, vectorized=True,
        method="percentile", rng=np.random.default_rng(seed),
    ).confidence_interval  # fmt: skip
    return Estimate(value, float(found.low), float(found.high))


def profile(scores: Scores, thresholds: ArrayLike) -> np.ndarray:
    """Performance profile: the fraction of runs that score above each threshold, mean over tasks."""
    above = [(np.asarray(task)[:, None] > np.asarray(thresholds)).mean(0) for task in scores]
    return np.mean(above, axis=0)


def improvement(a: Scores, b: Scores) -> float:
    """P(a run of A is better than one of B), ties half: Mann and Whitney's U over all pairs, mean over tasks."""
    each = [stats.mannwhitneyu(x, y).statistic / (len(x) * len(y)) for x, y in zip(a, b, strict=True)]
    return float(np.mean(each))


class Ranks(NamedTuple):
    """Friedman's test over tasks, and by how much mean ranks must differ (Nemenyi)."""

    mean: tuple[float, ...]
    """Of each method; 1 is best, ties share."""
    statistic: float
    """χ² with methods - 1 degrees of freedom, corrected for ties."""
    p: float
    critical_difference: float


def ranks(scores: ArrayLike) -> Ranks:
    """Friedman's test of methods over tasks, higher scores better. scores: [tasks, methods].

    Raises:
        BenchError: fewer than five tasks or three methods.
    """
    table = np.asarray(scores, float)
    tasks, methods = table.shape
    if tasks < FEWEST_TASKS or methods < 3:
        raise BenchError(
            f"ranks take {FEWEST_TASKS} tasks and 3 methods at least; there are {tasks} and {methods}: compare pairs"
        )
    places = stats.rankdata(-table, axis=1)
    if (places == places[0, 0]).all():
        found: tuple[float, float] = (0.0, 1.0)  # all methods tie everywhere
    else:
        test = stats.friedmanchisquare(*table.T)
        found = float(test.statistic), float(test.pvalue)
    return Ranks(tuple(places.mean(0).tolist()), *found, critical_difference(methods, tasks))


def critical_difference(methods: int, tasks: int, alpha: float = 0.05) -> float:
    """Nemenyi: q √(k (k + 1) / 6N), with q the studentised range of k means, infinite degrees of freedom, over √2."""
    q = stats.studentized_range.ppf(1 - alpha, methods, np.inf) / math.sqrt(2)
    return float(q * math.sqrt(methods * (methods + 1) / (6 * tasks)))


def expected_best(values: ArrayLike, higher_is_better: bool = True) -> np.ndarray:
    """Expected best of n = 1 … len(values) runs drawn with replacement (Dodge et al. 2019, equation 1).

    What stands behind a "best of n": the best of few runs must not be compared with that of many, nor with a mean.
    """
    found = np.sort(np.asarray(values, float))
    if not higher_is_better:
        return -expected_best(-found)
    n = np.arange(1, len(found) + 1)
    below = np.arange(len(found) + 1)[:, None] / max(1, len(found))  # P(a run is among the lowest k)
    return found @ (below[1:] ** n - below[:-1] ** n)


# --------------------------------------------------------------------------------------------------------------- frames


@dataclass(frozen=True)
class Across:
    """Normalised scores of methods over the same tasks and settings."""

    places: tuple[tuple[str, str], ...]
    """Task and setting."""
    scores: dict[str, list[np.ndarray]]
    """By registered name of the method, the runs at each place: (score - chance) / (perfect - chance)."""
    diverged: dict[str, int]
    """Runs that failed, which score 0."""

    @property
    def means(self) -> np.ndarray:
        """[places, methods], over runs."""
        return np.array([[float(np.mean(runs)) for runs in each] for each in self.scores.values()]).T

    @property
    def tasks(self) -> tuple[str, ...]:
        """Each once."""
        return tuple(dict.fromkeys(task for task, _ in self.places))

    @property
    def ranks(self) -> Ranks | None:
        """Of the methods over tasks, a task's settings by their mean; None where there are too few of either."""
        of = [[place for place, (task, _) in enumerate(self.places) if task == name] for name in self.tasks]
        if len(of) < FEWEST_TASKS or len(self.scores) < 3:
            return None
        return ranks([self.means[places].mean(0) for places in of])


def across(made: pd.DataFrame, methods: Sequence[str]) -> Across:
    """Scores of some methods, by registered names, over all tasks and settings that each has records of in one form.

    Memories that were taken away, transductive results and oracles take no part.

    Raises:
        BenchError: no task that they share and whose chance is known.
    """
    places: list[tuple[str, str]] = []
    scores: dict[str, list[np.ndarray]] = {name: [] for name in methods}
    diverged = dict.fromkeys(methods, 0)
    for task, setting, section, forms in _sections(made):
        if not set(methods) <= forms.keys():
            continue
        places.append((task, setting))
        perfect = 100.0 if section.template.higher_is_better else 0.0
        for name in methods:
            runs = np.array([*section.scores[forms[name]].values()])
            diverged[name] += int(np.isnan(runs).sum())
            scores[name].append(np.nan_to_num((runs - section.chance) / (perfect - section.chance), nan=0.0))
    if not places:
        raise BenchError(f"{', '.join(methods)} share no task in which each has one form and chance is known")
    return Across(tuple(places), scores, diverged)


def shared(made: pd.DataFrame) -> tuple[str, ...]:
    """The methods to take `across`, sorted: those that fill the largest table of methods × tasks, two of each at least.

    Of tables as large, that of more tasks; chance is no method, being where scores begin. Empty where there is none.
    """
    found: dict[str, set[frozenset[str]]] = {}
    for task, _, _, forms in _sections(made):
        found.setdefault(task, set()).add(frozenset(forms.keys() - {"chance"}))
    sets: set[frozenset[str]] = set()
    for here in found.values():  # every set of methods that some tasks have in common
        sets |= here | {one & other for one in here for other in sets}
    sizes = {methods: sum(any(methods <= there for there in here) for here in found.values()) for methods in sets}
    able = [methods for methods, tasks in sizes.items() if len(methods) > 1 and tasks > 1]
    best = max(able, key=lambda m: (len(m) * sizes[m], sizes[m], sorted(m)), default=frozenset())
    return tuple(sorted(best))


def _sections(made: pd.DataFrame) -> Iterator[tuple[str, str, Section, dict[str, str]]]:
    """Tasks and settings whose chance is known, and the one form there of each method that has one, by its name."""
    there = once(made[made["outcome"] != "missing"])
    alike = [memory_tables.ablation(spec) == "none" and not apart(spec, fields)
             for spec, fields in zip(there["spec"], there["fields"], strict=True)]  # fmt: skip
    for (task, setting), rows in there[np.array(alike, bool)].groupby(["task", "setting"], sort=False):
        section = Section(rows)
        if section.template.higher_is_better and section.template.metric not in PERCENT:
            continue  # what would be perfect is not known
        forms = rows.groupby("method_name")["method"].unique()
        if not math.isnan(section.chance):
            yield str(task), str(setting), section, {str(n): f[0] for n, f in forms.items() if len(f) == 1}
