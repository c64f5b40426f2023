"""Do the intervals cover what they say? Simulated runs whose truth is known, judged as `bench.paired` judges records.

A score of method m, seed s and episode e is made of, on a latent scale (logits of accuracy, logarithms of squared
errors and of bits), each normal with its own spread:

    mean of m  +  seed s, shared by methods  +  training run (m, s)  +  episode e, shared by methods
               +  method × episode (m, e)  +  rest (m, s, e), and where it is said, an episode that runs away.

Accuracies are then right answers among `QUERIES`. Test episodes are fresh for each seed, as in this project, or the
same for all seeds. `simulate` measures how often intervals cover, decisions are wrong, and differences are found;
`bench.coverage` records and shows it. All is vectorised over replications, and a test holds each vectorised judgement
to the function that judges records.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import special, stats

from bench import intervals, significance
from bench.aggregates import iqm, stratified
from bench.frames import RATIOS
from bench.seeding import generator

SEEDS = (3, 5, 10, 30)
SAME = 10
"""Most seeds that meet the same test episodes."""
QUERIES = 75
CHUNK = 250
"""Replications at a time."""

EFFECT = 1.0
"""Difference that power is measured with, in standard deviations of the paired difference."""
MARGIN = 3.0
"""That of equivalence, in the same unit."""
FAMILY = 6
HEADLINE = "t, paired"
RAW = "t, paired, of the errors themselves"


@dataclass(frozen=True)
class Config:
    """How much is simulated."""

    replications: int = 8000
    episodes: int = 100
    """Test episodes a seed."""
    bootstraps: int = 1000
    """Replications of what is resampled: bootstraps, and the test classes."""
    resamples: int = 400
    """Of each bootstrap."""
    seed: int = 0


@dataclass(frozen=True)
class Scenario:
    """Two methods, and how their scores vary. Spreads are on the latent scale; pairs are of A and of B."""

    name: str
    metric: str
    mean: tuple[float, float]
    seed: float = 0.1
    run: tuple[float, float] = (0.2, 0.2)
    episode: float = 0.5
    interaction: float = 0.3
    rest: float = 0.3
    runaway: float = 0.0
    """Fraction of episodes in which a method's error is e^3 times as large."""

    @property
    def ratio(self) -> bool:
        """Whether methods are compared by ratio."""
        return self.metric in RATIOS


SCENARIOS = (
    Scenario("accuracy near 95 %", "accuracy", (3.2, 3.0)),
    Scenario("accuracy near 99 %", "accuracy", (5.0, 4.8), episode=0.8),
    Scenario("accuracy, unequal runs", "accuracy", (3.2, 3.0), run=(0.1, 0.3)),
    Scenario("accuracy, one method unstable", "accuracy", (3.2, 3.0), run=(0.1, 0.5)),
    Scenario("accuracy, runs hardly differ", "accuracy", (1.0, 0.9), run=(0.02, 0.02), interaction=0.5),
    Scenario("squared error", "mse", (0.0, 0.3), run=(0.3, 0.3), episode=1.0),
    Scenario("squared error, heavy tails", "mse", (0.0, 0.7), run=(0.6, 0.6), episode=1.2, rest=0.8, runaway=0.005),
    Scenario("squared error, unequal runs", "mse", (0.0, 0.7), run=(0.2, 0.8), episode=1.2, runaway=0.005),
    Scenario(
        "bits of a sequence, solved or nearly",
        "bits per sequence",
        (-7.0, -5.5),
        run=(0.4, 1.5),
        episode=1.0,
        interaction=0.5,
        rest=1.0,
        runaway=0.01,
    ),
)


class Entry(NamedTuple):
    """One measured frequency."""

    scenario: str
    what: str
    kind: str
    """coverage, error or power."""
    seeds: int
    n: int
    """Replications."""
    value: float


# --------------------------------------------------------------------------------------------------------------- models


def draw(scenario: Scenario, rng: np.random.Generator, count: int, seeds: int, episodes: int,
         fresh: bool = True) -> np.ndarray:  # fmt: skip
    """Scores [count, 2, seeds, episodes]: accuracies in percent, or errors."""
    each = seeds if fresh else 1
    latent = np.array(scenario.mean)[:, None, None] + scenario.seed * rng.normal(size=(count, 1, seeds, 1))
    latent = latent + np.array(scenario.run)[:, None, None] * rng.normal(size=(count, 2, seeds, 1))
    latent = latent + scenario.episode * rng.normal(size=(count, 1, each, episodes))
    latent = latent + scenario.interaction * rng.normal(size=(count, 2, each, episodes))
    latent = latent + scenario.rest * rng.normal(size=(count, 2, seeds, episodes))
    if scenario.runaway:
        latent = latent + 3.0 * (rng.random(latent.shape) < scenario.runaway)
    if scenario.ratio:
        return np.exp(latent)
    return 100 / QUERIES * rng.binomial(QUERIES, special.expit(latent))


def truth(scenario: Scenario) -> float:
    """The difference of expected scores, A - B, exactly: over seeds, runs and episodes."""
    low, high = (_expected(scenario, mean, run) for mean, run in zip(scenario.mean, scenario.run, strict=True))
    return low - high


def _expected(scenario: Scenario, mean: float, run: float) -> float:
    s = scenario
    variance = s.seed**2 + run**2 + s.episode**2 + s.interaction**2 + s.rest**2
    if s.ratio:
        return math.exp(mean + variance / 2) * (1 + s.runaway * math.expm1(3.0))
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    return float(100 * special.expit(mean + math.sqrt(variance) * nodes) @ weights / weights.sum())


# ----------------------------------------------------------------------------------------------------------- judgements


def t_interval(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means along the last axis, and `intervals.t_half_width`, many at a time."""
    n = values.shape[-1]
    return values.mean(-1), stats.t.ppf(0.975, n - 1) * values.std(-1, ddof=1) / math.sqrt(n)


def welch_interval(means: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Differences of two means and half-widths of Welch's interval. means: [count, 2, seeds]."""
    n = means.shape[-1]
    a, b = np.moveaxis(means.var(-1, ddof=1) / n, 1, 0)
    with np.errstate(invalid="ignore"):  # equal means on both sides have none
        freedom = (a + b) ** 2 * (n - 1) / (a**2 + b**2)
    return means[:, 0].mean(-1) - means[:, 1].mean(-1), stats.t.ppf(0.975, freedom) * np.sqrt(a + b)


def t_p(values: np.ndarray) -> np.ndarray:
    """`significance.t_p`, many at a time."""
    n = values.shape[-1]
    return 2 * stats.t.sf(np.abs(values.mean(-1)) / values.std(-1, ddof=1) * math.sqrt(n), n - 1)


def equivalence_p(values: np.ndarray, margin: float | np.ndarray) -> np.ndarray:
    """`significance.equivalence_p`, many at a time."""
    n = values.shape[-1]
    return stats.t.sf((margin - np.abs(values.mean(-1))) / values.std(-1, ddof=1) * math.sqrt(n), n - 1)


def reproduced(ours: np.ndarray, paper: np.ndarray, half_width: np.ndarray) -> np.ndarray:
    """Whether a figure is called neither above nor below, with a margin of 0: `verdicts.reproduction`, many at a time.

    ours: [count, seeds]; paper, half_width: [count].
    """
    mean, half = t_interval(ours)
    return np.abs(mean - paper) <= np.hypot(half * math.sqrt(ours.shape[-1] + 1), half_width)


def wins_interval(won: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Ends of `intervals.fraction`, for numbers of wins among n."""
    known, index = np.unique(won, return_inverse=True)
    ends = np.array([intervals.fraction(float(k), n)[1:] for k in known])
    return ends[index, 0], ends[index, 1]


# ----------------------------------------------------------------------------------------------------------- simulation


def simulate(config: Config = Config(), scenarios: Sequence[Scenario] = SCENARIOS) -> list[Entry]:
    """All frequencies, in a fixed order; the same for the same config."""
    found = [entry for scenario in scenarios for entry in _scenario(scenario, config)]
    return [*found, *_classes(config), *_tasks(config)]


class Drawn(NamedTuple):
    """What is kept of replications."""

    means: np.ndarray
    """[count, 2, seeds], over episodes."""
    same: np.ndarray
    """[count, 2, `SAME`], where all seeds meet the same episodes."""
    wins: np.ndarray
    """[count, seeds]: the fraction of episodes in which A scores higher, ties half."""
    closed: np.ndarray
    """[count, 3]: the papers' half-widths for the first seed, of A, of B, and of their difference by episode."""
    few: np.ndarray
    """[bootstraps, 2, `SAME`, episodes]: the scores themselves."""


def _drawn(scenario: Scenario, config: Config) -> Drawn:
    parts: list[Drawn] = []
    for i, start in enumerate(range(0, config.replications, CHUNK)):
        count = min(CHUNK, config.replications - start)
        rng = generator("simulation", config.seed, scenario.name, i)
        scores = draw(scenario, rng, count, max(SEEDS), config.episodes)
        same = draw(scenario, rng, count, SAME, config.episodes, fresh=False)
        a, b = scores[:, 0, 0], scores[:, 1, 0]
        closed = 1.96 * np.stack([x.std(-1, ddof=1) for x in (a, b, a - b)], -1) / math.sqrt(config.episodes)
        wins = (np.sign(scores[:, 0] - scores[:, 1]).mean(-1) + 1) / 2
        few = scores[: max(0, config.bootstraps - start), :, :SAME]
        parts.append(Drawn(scores.mean(-1), same.mean(-1), wins, closed, few.copy()))
    return Drawn(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def _scenario(scenario: Scenario, config: Config) -> Iterator[Entry]:
    drawn = _drawn(scenario, config)
    for kind, what, seeds, found in _judged(scenario, config, drawn):
        yield Entry(scenario.name, what, kind, seeds, len(found), round(float(np.mean(found)), 6))


Judged = tuple[str, str, int, np.ndarray]
"""Kind, what, seeds, and for each replication whether it is so."""


def _judged(scenario: Scenario, config: Config, drawn: Drawn) -> Iterator[Judged]:
    exact, few = truth(scenario), slice(config.bootstraps)
    raw = drawn.means[:, 0] - drawn.means[:, 1]
    scale = np.log if scenario.ratio else np.asarray
    means = scale(drawn.means)
    differences = means[:, 0] - means[:, 1]
    # That of logarithms has no closed form; the mean of all is at least a hundred times as sure as that of one.
    centre = float(differences.mean()) if scenario.ratio else exact
    same = np.subtract(*np.moveaxis(scale(drawn.same), 1, 0))
    for n in SEEDS:
        yield "coverage", HEADLINE, n, _within(differences[:, :n], centre)
        yield "coverage", "t, unpaired (Welch)", n, _inside(welch_interval(means[:, :, :n]), centre)
        if scenario.ratio:
            yield "coverage", RAW, n, _within(raw[:, :n], exact)
        yield "coverage", "bootstrap over seeds (BCa)", n, _bca(raw[few, :n], exact, config)
        if n <= SAME:
            yield "coverage", "bootstrap over seeds and episodes", n, _two_level(drawn.few[:, :, :n], exact, config)
            yield "coverage", "t, paired, same episodes for all seeds", n, _within(same[:, :n], centre)
        low, high = wins_interval((np.sign(differences[:, :n]) + 1).sum(-1) / 2, n)
        target = float((np.sign(differences).mean() + 1) / 2)
        yield "coverage", "P(A > B) over seeds", n, (low <= target) & (target <= high)
        yield "coverage", "P(A > B) over episodes", n, _within(drawn.wins[:, :n], float(drawn.wins.mean()))
        yield from _decisions(differences[:, :n] - centre, float(differences.std()))
        if not scenario.ratio and n < max(SEEDS):
            ours = drawn.means[:, 0, 1 : n + 1]
            yield "error", "not reproduced", n, ~reproduced(ours, drawn.means[:, 0, 0], drawn.closed[:, 0])
    gap = np.abs(raw[:, 0] - exact)
    yield "coverage", "one seed, over episodes", 1, gap <= np.hypot(drawn.closed[:, 0], drawn.closed[:, 1])
    yield "coverage", "one seed, over episodes, paired", 1, gap <= drawn.closed[:, 2]


def _within(values: np.ndarray, target: float) -> np.ndarray:
    return _inside(t_interval(values), target)


def _inside(interval: tuple[np.ndarray, np.ndarray], target: float) -> np.ndarray:
    return np.abs(interval[0] - target) <= interval[1]


def _bca(differences: np.ndarray, target: float, config: Config) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)  # equal differences have no interval: not covered
        found = stats.bootstrap(
            (differences,), np.mean, axis=-1, n_resamples=config.resamples, method="BCa", batch=50,
            rng=generator("simulation", config.seed, "bca"),
        ).confidence_interval  # fmt: skip
    return (found.low <= target) & (target <= found.high)


def _two_level(scores: np.ndarray, target: float, config: Config) -> np.ndarray:
    """Percentile bootstrap of [count, 2, seeds, episodes]: seeds with replacement, and episodes within each."""
    rng = generator("simulation", config.seed, "two-level")
    difference = scores[:, 0] - scores[:, 1]
    count, seeds, episodes = difference.shape
    found = []
    for _ in range(config.resamples):
        s = rng.integers(seeds, size=(count, seeds, 1))
        e = rng.integers(episodes, size=(count, seeds, episodes))
        found.append(difference[np.arange(count)[:, None, None], s, e].mean((1, 2)))
    low, high = np.percentile(found, [2.5, 97.5], axis=0)
    return (low <= target) & (target <= high)


def _decisions(differences: np.ndarray, sd: float) -> Iterator[Judged]:
    """Errors and power of decisions. differences: [count, seeds], of mean 0 and standard deviation sd."""
    n = differences.shape[-1]
    some = differences[:2000]  # sign flips of thirty seeds are many
    p = t_p(differences)
    yield "error", "t: different", n, p <= significance.ALPHA
    yield "error", "sign flip: different", n, _flip(some) <= significance.ALPHA
    families = p[: len(p) // FAMILY * FAMILY].reshape(-1, FAMILY)
    yield "error", f"t: one of {FAMILY} different", n, families.min(-1) <= significance.ALPHA
    yield "error", f"t, Holm: one of {FAMILY} different", n, FAMILY * families.min(-1) <= significance.ALPHA
    margin = MARGIN * sd
    at_margin = differences + margin
    yield "error", "equivalent, at the margin", n, equivalence_p(at_margin, margin) <= significance.ALPHA / 2
    yield "power", "equivalent", n, equivalence_p(differences, margin) <= significance.ALPHA / 2
    yield "power", "t: different", n, t_p(differences + EFFECT * sd) <= significance.ALPHA
    yield "power", "sign flip: different", n, _flip(some + EFFECT * sd) <= significance.ALPHA


def _flip(differences: np.ndarray) -> np.ndarray:
    return np.concatenate([significance.sign_flip_p(part) for part in np.array_split(differences, 20)])


# -------------------------------------------------------------------------------------------------- test classes, tasks


def _classes(config: Config) -> Iterator[Entry]:
    """Intervals over the episodes of one trained model, for its mean over other test classes: 20 of them, and 200."""
    way, count = 5, 6 * config.episodes
    for classes in (20, 200):
        rng = generator("simulation", config.seed, "classes", classes)
        inside: dict[str, list[bool]] = {}
        for _ in range(config.bootstraps):
            members = rng.random((count, classes)).argsort(-1)[:, :way]
            scores = 5 * rng.normal(size=classes)[members].mean(-1) + 5 * rng.normal(size=count)
            apart = intervals.disjoint(members.tolist())
            found = {
                "one model, over episodes (closed)": (scores, intervals.episode_half_width(scores)),
                "one model, by class (open)": (scores, intervals.clustered_half_width(scores, members.tolist())),
                "one model, disjoint episodes (open)": (scores[apart], intervals.t_half_width(scores[apart])),
            }
            for what, (values, half) in found.items():
                inside.setdefault(what, []).append(abs(values.mean()) <= half)
        for what, each in inside.items():
            yield Entry(f"{classes} test classes", what, "coverage", 1, len(each), round(float(np.mean(each)), 6))


def _tasks(config: Config) -> Iterator[Entry]:
    """The stratified bootstrap of the interquartile mean over five tasks, each with its own mean and spread."""
    spread = np.array([0.02, 0.05, 0.05, 0.1, 0.2])
    mean = np.array([0.95, 0.8, 0.6, 0.5, 0.3])
    rng = generator("simulation", config.seed, "tasks")
    target = float(iqm([rng.normal(m, s, 1_000_000) for m, s in zip(mean, spread, strict=True)]))
    for n in SEEDS:
        runs = rng.normal(mean[:, None], spread[:, None], (config.bootstraps, len(mean), n))
        found = [stratified([*each], seed=i) for i, each in enumerate(runs)]
        inside = [e.low <= target <= e.high for e in found]
        yield Entry("five tasks", "interquartile mean", "coverage", n, len(inside), round(float(np.mean(inside)), 6))
