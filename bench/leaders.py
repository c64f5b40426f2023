"""Who leads a column of a table: the best mean, those that are not told from it, and those that are worse.

Verdicts are those of `bench.stats.compare_all`: Student's t over paired differences of common seeds, with Holm's
correction over all pairs of the column, since which one is best is read off the same figures. Here many pairs are
judged at a time, and nothing else is computed of them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Literal, NamedTuple

import numpy as np

from bench import significance
from bench.intervals import FEWEST, Estimate
from bench.paired import Comparison, Corrected, judged
from bench.verdicts import Verdict

Word = Literal["best", "too few seeds"] | Verdict


class Standing(NamedTuple):
    """best, the verdict of a method against the best one, or too few seeds in common with it; and p, by Holm."""

    word: Word
    p: float = math.nan


def standings(scores: Mapping[str, Mapping[int, float]], template: Comparison) -> dict[str, Standing]:
    """How each method stands in one column; empty where the best shares three seeds with no other: nothing is told.

    scores: of each method by seed, as tables show them, NaN where it diverged. template: scale, margin and direction,
    as for `bench.paired`. The best is the one whose mean over its own seeds is; equal means are both best.
    """
    names = [name for name, by in scores.items() if not all(map(math.isnan, by.values()))]
    if len(names) < 2:
        return {}
    seeds = sorted(set().union(*(scores[name] for name in names)))
    table = np.array([[scores[name].get(seed, math.nan) for seed in seeds] for name in names])
    # Exact sums: equal scores in another order of seeds are an equal mean.
    sums = [math.fsum(row[~np.isnan(row)]) / np.count_nonzero(~np.isnan(row)) for row in table]
    means = np.array(sums) * (1 if template.higher_is_better else -1)
    best = int(means.argmax())
    if template.scale == "ratio":
        with np.errstate(divide="ignore", invalid="ignore"):
            table = np.log(table)  # of zero there is no ratio: its pairs have no p
    first, second = np.triu_indices(len(names), 1)
    with np.errstate(invalid="ignore"):
        differences = table[first] - table[second]
    both = ~np.isnan(table[first]) & ~np.isnan(table[second])
    zero = np.isinf(table[first]) | np.isinf(table[second])
    enough = (both.sum(1) >= FEWEST) & ~(both & zero).any(1)
    each = [significance.t_p(differences), np.full(len(first), math.nan)]
    if template.margin is not None:
        each[1] = significance.equivalence_p(differences, template.margin)
    p, equivalent = (significance.holm(np.where(enough, found, math.nan)) for found in each)
    found = {}
    for i in np.flatnonzero((first == best) | (second == best)):
        other = int(first[i] + second[i] - best)
        ran = [s for s in seeds if s in scores[names[best]] and s in scores[names[other]]]
        lost = [[s for s in ran if math.isnan(scores[names[k]][s])] for k in (other, best)]
        if not enough[i]:
            found[names[other]] = Standing("too few seeds")
            continue
        gap = float(np.nanmean(differences[i])) * (1 if first[i] == other else -1)
        pair = judged(dataclasses.replace(
            template, a=names[other], b=names[best], seeds=tuple(s for s in ran if s not in {*lost[0], *lost[1]}),
            diverged_a=tuple(lost[0]), diverged_b=tuple(lost[1]), difference=Estimate(gap), p=float(each[0][i]),
        ), Corrected(float(p[i]), math.nan, float(equivalent[i])))  # fmt: skip
        found[names[other]] = Standing("best" if means[other] == means[best] else pair.verdict, float(p[i]))
    told = any(standing.word != "too few seeds" for standing in found.values())
    return {names[best]: Standing("best")} | found if told else {}
