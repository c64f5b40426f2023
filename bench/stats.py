"""Is A better than B, by how much, how sure: pairs of methods, compared over seeds.

The headline is Student's t over per-seed paired differences: all methods meet the same test episodes, which are fresh
for every seed, so that the differences of seeds are independent and speak of new seeds, new training episodes and new
test episodes together. Everything else stands beside it under its own name. `bench.simulation` measures what each of
these covers and how often each decision is wrong; docs/statistics.md shows it.

`paired` is the comparison of numbers; `compare` and `compare_all` take the frames of `bench.frames`. Units: accuracies
and errors in percent points; mean squared errors are compared by the logarithm of their ratio.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from bench import intervals, published, significance, verdicts
from bench.cells import seeds as listed
from bench.errors import BenchError
from bench.frames import PERCENT, metric_of, once, shown
from bench.intervals import Estimate
from bench.references import guessing
from bench.registry import unknown
from bench.significance import ALPHA, FEWEST
from bench.verdicts import Reproduction, Rope, Verdict

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
    """What so many seeds can reach at best: 2 / 2^n."""
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
    def shown_margin(self) -> float | None:
        """The margin as people read it."""
        return None if self.margin is None else _shown(self.scale, self.margin)

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


# --------------------------------------------------------------------------------------------------------------- arrays


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
    difference = intervals.mean(differences, fewest=FEWEST)
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
        p_flip_least=2.0 ** (1 - len(seeds)) if seeds else math.nan,
        p_equivalent=significance.equivalence_p(differences, margin) if enough and margin is not None else math.nan,
        effect=significance.hedges(differences),
        wins_seeds=intervals.fraction(won, len(shared)),
        wins_episodes=intervals.mean(by_episode, 0, 1, FEWEST),
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
    elif verdict == "cannot tell":
        because = (
            f"among {family} comparisons it may be chance" if c.p <= ALPHA
            else f"{len(c.seeds)} seeds leave both signs possible"
        )  # fmt: skip
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


# --------------------------------------------------------------------------------------------------------------- frames


def compare(
    made: pd.DataFrame,
    a: str,
    b: str,
    *,
    task: str | None = None,
    at: str = "",
    failures: Failures = "excluded",
    margin: float | None = None,
) -> list[Comparison]:
    """A against B in each task and setting that both have records of: one family.

    made: a frame of `bench.frames`. a, b: methods as the frame or its `label` names them, or a registered name of which
    there is one form in each setting. task: only this one. at: "", or "instance 2", "step 1", "group 3". margin: the
    smallest difference that matters, as shown (points, or percent of a squared error); else `verdicts.margin_of`.

    Raises:
        BenchError: an empty frame; an unknown method, task or place; methods that share no task, setting or seed; a
            name that fits several methods; one method twice.
    """
    there = _of_task(made, task)
    sections = {(str(t), str(s)): section for (t, s), section in there.groupby(["task", "setting"], sort=False)}
    named = {key: [_forms(section, name, there) for name in (a, b)] for key, section in sections.items()}
    shared = {key: forms for key, forms in named.items() if all(forms)}
    if not shared:
        has = ["; ".join(f"{t}, {s}" if s else t for (t, s), forms in named.items() if forms[i]) for i in (0, 1)]
        raise BenchError(f"{a} and {b} share no task and setting: {a} has {has[0]}, and {b} {has[1]}")
    for (where, _), each in shared.items():
        for name, forms in zip((a, b), each, strict=True):
            if len(forms) > 1:
                raise BenchError(f"'{name}' has several forms on {where}, name one of them: {'; '.join(forms)}")
    pairs = {key: (first[0], second[0]) for key, (first, second) in shared.items()}
    if any(first == second for first, second in pairs.values()):
        raise BenchError(f"'{a}' and '{b}' are the same method; name two")
    found, problems = [], []
    for key, pair in pairs.items():
        try:
            found.append(Section(sections[key], at, failures, margin).pair(*pair))
        except BenchError as problem:
            problems.append(problem)
    if not found:
        raise problems[0]
    return as_family(found)


def compare_all(
    made: pd.DataFrame,
    *,
    task: str | None = None,
    at: str = "",
    failures: Failures = "excluded",
    margin: float | None = None,
) -> list[Comparison]:
    """Every pair of methods once, best mean first; the pairs of one task and setting are a family.

    See `compare`. Pairs without a common seed, and methods without this place, are left out.

    Raises:
        BenchError: an empty frame, an unknown task.
    """
    compared: list[Comparison] = []
    for _, rows in _of_task(made, task).groupby(["task", "setting"], sort=False):
        section = Section(rows, at, failures, margin)
        means = {name: float(np.nanmean([*s.values(), math.nan])) if not all(map(math.isnan, s.values())) else math.nan
                 for name, s in section.scores.items()}  # fmt: skip
        worst_last = sorted(means, key=lambda name: _rank(means[name], section.template.higher_is_better))
        shared = [p for p in combinations(worst_last, 2) if section.scores[p[0]].keys() & section.scores[p[1]].keys()]
        compared += as_family(section.pair(*pair) for pair in shared)
    return compared


def reproductions(made: pd.DataFrame, *, task: str | None = None) -> list[Reproduction]:
    """Ours beside the published figure most like it, wherever there is one: see `verdicts.reproduction`.

    Memories that were taken away are compared with nothing.

    Raises:
        BenchError: an empty frame, an unknown task.
    """
    found = []
    for (name, setting, method), rows in _of_task(made, task).groupby(["task", "setting", "method"], sort=False):
        metric, spec, fields = metric_of(rows), rows["spec"].iloc[0], rows["fields"].iloc[0]
        where = dict.fromkeys(["", *(place for scores in rows["scores"] for place in places(scores))])
        for at in where if spec["method"]["fields"].get("ablate", "none") == "none" else ():
            values = [v for v in scores_of(rows, at).values() if not math.isnan(v)]
            printed = published.beside(spec, fields, at)
            if not printed or not values:
                continue
            match = published.protocol_match(spec, printed[0], fields)
            margin = verdicts.margin_of(str(name), metric, fields)
            if margin is not None and metric not in PERCENT:
                margin *= printed[0].value / 100
            found.append(verdicts.reproduction(
                values, printed[0], match, margin,
                task=str(name), setting=str(setting), method=str(method), at=at, metric=metric,
            ))  # fmt: skip
    return found


def scores_of(rows: pd.DataFrame, at: str = "") -> dict[int, float]:
    """Of one method in one setting, the score of each seed as tables show it; NaN where it diverged.

    Seeds that are missing, or have no such place, are left out.
    """
    metric, found = metric_of(rows), {}
    for seed, outcome, scores in zip(rows["seed"], rows["outcome"], rows["scores"], strict=True):
        part = _part(scores, at)
        if part and part["mean"] is not None:  # a setting that diverged may have scores after fewer steps
            found[int(seed)] = shown(metric, part["mean"])
        elif outcome == "diverged":
            found[int(seed)] = math.nan
    return found


def _of_task(made: pd.DataFrame, task: str | None) -> pd.DataFrame:
    there = once(made[made["outcome"] != "missing"])
    if there.empty:
        raise BenchError("there are no records to compare; `bench run` makes them")
    if task is None:
        return there
    if task not in set(there["task"]):
        raise BenchError(unknown("recorded task", task, set(there["task"])))
    return there[there["task"] == task]


def _forms(section: pd.DataFrame, name: str, made: pd.DataFrame) -> list[str]:
    """The methods of a section that a name means: the one called so, or those registered so."""
    for column in ("method", "label", "method_name"):
        fits = sorted(set(section.loc[section[column] == name, "method"]))
        if fits:
            return fits
    if not any((made[column] == name).any() for column in ("method", "label")):
        known = set(made["method_name"])
        if name not in known:
            raise BenchError(unknown("recorded method", name, known))
    return []


class Section:
    """The rows of one task and setting, read once: scores by method and seed, and scores by episode."""

    def __init__(self, rows: pd.DataFrame, at: str = "", failures: Failures = "excluded",
                 margin: float | None = None) -> None:  # fmt: skip
        first, metric, self.rows = rows.iloc[0], metric_of(rows), rows
        ratio = metric == "mse"
        matters = verdicts.margin_of(first["task"], metric, first["fields"]) if margin is None else margin
        self.template = Comparison(
            task=str(first["task"]), setting=str(first["setting"]), at=at, metric=metric,
            higher_is_better=bool(first["higher_is_better"]) and metric != "error",
            scale="ratio" if ratio else "difference", failures=failures,
            margin=math.log1p(matters / 100) if ratio and matters is not None else matters,
        )  # fmt: skip
        self.scores: dict[str, dict[int, float]] = {}
        self.episodes: dict[str, dict[int, np.ndarray]] = {}
        for name, group in rows.groupby("method", sort=False):
            self.scores[str(name)] = scores_of(group, at)
            self.episodes[str(name)] = {
                int(seed): np.array([shown(metric, v) for v in part.get("per_episode", ())])
                for seed, s in zip(group["seed"], group["scores"], strict=True)
                if (part := _part(s, at))
            }
        self.chance = _chance(rows, metric, at)

    def pair(self, a: str, b: str) -> Comparison:
        """Two of its methods.

        Raises:
            BenchError: one of them has nothing at this place; or see `paired`.
        """
        for name in (a, b):
            if not self.scores[name]:
                known = sorted({place for scores in self.rows["scores"] for place in places(scores)}, key=_by_number)
                there = f"there are: {', '.join(known)}" if known else "only the whole was measured"
                raise BenchError(f"{name} has nothing at '{self.template.at}' on {self.template.task}; {there}")
        first, second = self.episodes[a], self.episodes[b]
        up = self.template.higher_is_better
        won = {s: significance.wins(first[s], second[s], up) for s in first.keys() & second.keys()}
        template = dataclasses.replace(self.template, a=a, b=b)
        return paired(self.scores[a], self.scores[b], template, chance=self.chance, episodes=won)


def _rank(mean: float, higher_is_better: bool) -> tuple[bool, float]:
    return math.isnan(mean), -mean if higher_is_better else mean


def _chance(section: pd.DataFrame, metric: str, at: str) -> float:
    """What guessing scores in a section, as shown: exactly where that is known, else as `chance` was measured there."""
    guess = guessing(section["fields"].iloc[0]) if metric in PERCENT else None
    if guess is not None:
        return 100 - guess if metric == "error" else guess
    beside = section[(section["method_name"] == "chance") & (section["outcome"] == "ok")]
    return math.nan if beside.empty else float(np.mean([*scores_of(beside, at).values()]))


def _part(scores: Mapping[str, Any], at: str) -> Mapping[str, Any] | None:
    """What a record says of one place: a mean, and scores by episode where it has them."""
    kind, _, number = at.partition(" ")
    if not at:
        return scores or None
    if kind == "step":
        return (scores.get("by_step") or {}).get(number)
    if at not in places(scores):
        return None
    return {"mean": scores["by_instance"]["mean"][int(number) - 1]}


def places(scores: Mapping[str, Any]) -> list[str]:
    """Where else than overall a record's scores of one setting were measured."""
    by = scores.get("by_instance") or {"mean": ()}
    kind = "group" if by.get("groups") else "instance"
    return [f"{kind} {k + 1}" for k in range(len(by["mean"]))] + [f"step {k}" for k in scores.get("by_step") or ()]


def _by_number(place: str) -> tuple[str, int]:
    kind, _, number = place.partition(" ")
    return kind, int(number)
