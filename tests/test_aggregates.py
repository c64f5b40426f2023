"""Measures over many tasks and runs, against their published formulas and examples."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from synthetic import record, scored, spec

from bench import frames
from bench.aggregates import (
    Across,
    across,
    critical_difference,
    expected_best,
    improvement,
    iqm,
    profile,
    ranks,
    shared,
    stratified,
)
from bench.errors import BenchError
from bench.frames import frame

# Demšar 2006, Table 6: AUC of C4.5 with parameters m and cf tuned, or not, on 14 data sets of UCI.
# The last but one is printed as .975 twice, with the ranks 2 and 3.
DEMSAR = np.array([
    [0.763, 0.768, 0.771, 0.798], [0.599, 0.591, 0.590, 0.569], [0.954, 0.971, 0.968, 0.967],
    [0.628, 0.661, 0.654, 0.657], [0.882, 0.888, 0.886, 0.898], [0.936, 0.931, 0.916, 0.931],
    [0.661, 0.668, 0.609, 0.685], [0.583, 0.583, 0.563, 0.625], [0.775, 0.838, 0.866, 0.875],
    [1.000, 1.000, 1.000, 1.000], [0.940, 0.962, 0.965, 0.962], [0.619, 0.666, 0.614, 0.669],
    [0.972, 0.981, 0.9751, 0.975], [0.957, 0.978, 0.946, 0.970],
])  # fmt: skip
# R's `?friedman.test`: three ways to round first base, 22 players, seconds (Hollander and Wolfe 1973, p. 140).
ROUNDING = np.array([
    [5.40, 5.50, 5.55], [5.85, 5.70, 5.75], [5.20, 5.60, 5.50], [5.55, 5.50, 5.40], [5.90, 5.85, 5.70],
    [5.45, 5.55, 5.60], [5.40, 5.40, 5.35], [5.45, 5.50, 5.35], [5.25, 5.15, 5.00], [5.85, 5.80, 5.70],
    [5.25, 5.20, 5.10], [5.65, 5.55, 5.45], [5.60, 5.35, 5.45], [5.05, 5.00, 4.95], [5.50, 5.50, 5.40],
    [5.45, 5.55, 5.50], [5.55, 5.55, 5.35], [5.45, 5.50, 5.55], [5.50, 5.45, 5.25], [5.65, 5.60, 5.40],
    [5.70, 5.65, 5.55], [6.30, 6.30, 6.25],
])  # fmt: skip
runs = st.lists(st.lists(st.floats(0, 1), min_size=3, max_size=6).map(np.array), min_size=1, max_size=5)


@pytest.fixture(autouse=True)
def made_up_fields(monkeypatch: pytest.MonkeyPatch) -> None:
    """Synthetic records have made-up fields: compared with registered defaults, all of them would be named."""
    monkeypatch.setattr(frames, "_changed", lambda method, values: set())


# -------------------------------------------------------------------------------------------------------------- rliable


@given(runs)
def test_iqm_is_the_mean_of_the_middle_half(scores: list[np.ndarray]) -> None:
    """Agarwal et al. 2021, § 4.3: the lowest and the highest 25 % of all runs are dropped."""
    values = sorted(v for task in scores for v in task)
    cut = len(values) // 4
    assert iqm(scores) == pytest.approx(np.mean(values[cut : len(values) - cut]))


def test_iqm_lies_between_mean_and_median() -> None:
    scores = [np.array([0.0, 1.0, 2.0, 3.0]), np.array([4.0, 5.0, 6.0, 100.0])]
    assert iqm(scores) == (2 + 3 + 4 + 5) / 4
    assert iqm([task[[3, 1, 0, 2]] for task in scores[::-1]]) == iqm(scores)


@given(runs, st.lists(st.floats(-0.1, 1.1), min_size=1, max_size=5))
def test_a_profile_is_counted(scores: list[np.ndarray], thresholds: list[float]) -> None:
    """§ 4.2: run-score distributions, mean over tasks of the fraction of runs above τ."""
    found = profile(scores, thresholds)
    by_hand = [sum(sum(v > t for v in task) / len(task) for task in scores) / len(scores) for t in thresholds]
    assert found == pytest.approx(by_hand)
    assert (np.diff(profile(scores, sorted(thresholds))) <= 0).all(), "it falls"


@given(runs, runs)
def test_improvement_is_counted_over_pairs(a: list[np.ndarray], b: list[np.ndarray]) -> None:
    """§ 4.3: mean over tasks of P(X > Y) + P(X = Y) / 2 over all pairs of runs."""
    tasks = min(len(a), len(b))
    a, b = a[:tasks], b[:tasks]
    by_hand = [np.mean([(x > y) + (x == y) / 2 for x, y in itertools.product(p, q)]) for p, q in zip(a, b, strict=True)]
    assert improvement(a, b) == pytest.approx(np.mean(by_hand))
    assert improvement(a, b) + improvement(b, a) == pytest.approx(1)


def test_the_bootstrap_draws_within_tasks() -> None:
    apart = [np.array([0.0, 0.0, 0.0]), np.array([1.0, 1.0, 1.0])]
    found = stratified(apart, lambda parts, axis: np.mean(np.concatenate(parts, axis), axis))
    assert found == (0.5, 0.5, 0.5), "tasks stay as many as they are"


def test_the_bootstrap_is_a_percentile_interval() -> None:
    rng = np.random.default_rng(0)
    scores = [rng.normal(m, 0.1, 8) for m in (0.2, 0.5, 0.9)]
    found = stratified(scores)
    drawn = [iqm([task[rng.integers(8, size=8)] for task in scores]) for _ in range(4000)]
    assert found.value == iqm(scores)
    assert (found.low, found.high) == pytest.approx(np.percentile(drawn, [2.5, 97.5]), abs=0.01)
    assert stratified(scores) == found, "its seed is fixed"
    assert stratified(scores, seed=1) != found


def test_two_runs_of_a_task_give_no_interval() -> None:
    found = stratified([np.array([0.1, 0.2]), np.array([0.1, 0.2, 0.3])])
    assert math.isnan(found.low)
    assert found.value == pytest.approx(0.1666666)


# ---------------------------------------------------------------------------------------------------- Friedman, Nemenyi


def test_ranks_are_demsars() -> None:
    """His average ranks, and χ² = 9.28, which he does not correct for ties."""
    found = ranks(DEMSAR)
    assert found.mean == pytest.approx((3.143, 2.000, 2.893, 1.964), abs=5e-4)
    plain = 12 * 14 / (4 * 5) * (sum(r**2 for r in found.mean) - 4 * 25 / 4)
    assert plain == pytest.approx(9.28, abs=5e-3)
    assert found.statistic > plain
    assert found.p == pytest.approx(stats.chi2.sf(found.statistic, 3))
    assert found.critical_difference == pytest.approx(1.25, abs=5e-3)


def test_friedman_is_rs() -> None:
    """Friedman chi-squared = 11.143, df = 2, p-value = 0.003805."""
    found = ranks(-ROUNDING)
    assert found.statistic == pytest.approx(11.143, abs=5e-4)
    assert found.p == pytest.approx(0.003805, abs=5e-7)


@pytest.mark.parametrize(
    ("methods", "at_5", "at_10"),
    [(2, 1.960, 1.645), (3, 2.343, 2.052), (4, 2.569, 2.291), (5, 2.728, 2.459), (6, 2.850, 2.589), (7, 2.949, 2.693),
     (8, 3.031, 2.780), (9, 3.102, 2.855), (10, 3.164, 2.920)],
)  # fmt: skip
def test_critical_values_are_demsars(methods: int, at_5: float, at_10: float) -> None:
    """Table 5a: critical values for the two-tailed Nemenyi test."""
    for alpha, q in ((0.05, at_5), (0.10, at_10)):
        assert critical_difference(methods, 7, alpha) / math.sqrt(methods * (methods + 1) / 42) == pytest.approx(
            q, abs=1.1e-3
        )


def test_ranks_do_not_depend_on_the_order_of_tasks_or_methods() -> None:
    mixed = ranks(DEMSAR[::-1][:, [2, 0, 3, 1]])
    found = ranks(DEMSAR)
    assert mixed.mean == pytest.approx([found.mean[i] for i in (2, 0, 3, 1)])
    assert mixed.statistic == pytest.approx(found.statistic)


def test_methods_that_always_tie_do_not_differ() -> None:
    found = ranks(np.ones((6, 3)))
    assert (found.mean, found.statistic, found.p) == ((2, 2, 2), 0, 1)


@pytest.mark.parametrize("shape", [(4, 5), (9, 2)])
def test_few_tasks_or_methods_are_not_ranked(shape: tuple[int, int]) -> None:
    with pytest.raises(BenchError, match="ranks take 5 tasks and 3 methods at least"):
        ranks(np.random.default_rng(0).normal(size=shape))


# --------------------------------------------------------------------------------------------------------- best of many


@given(st.lists(st.floats(0, 1), min_size=1, max_size=5), st.booleans())
def test_the_expected_best_is_that_of_all_draws(values: list[float], up: bool) -> None:
    """Dodge et al. 2019, equation 1: the mean over all ways to draw n runs with replacement."""
    found = expected_best(values, up)
    pick = max if up else min
    for n in range(1, len(values) + 1):
        every = [pick(draw) for draw in itertools.product(values, repeat=n)]
        assert found[n - 1] == pytest.approx(np.mean(every), abs=1e-9)


def test_the_best_of_one_is_the_mean() -> None:
    assert expected_best([0.1, 0.5, 0.6])[0] == pytest.approx(0.4)
    assert expected_best([3.0, 1.0], higher_is_better=False)[1] == pytest.approx(1.5)


# --------------------------------------------------------------------------------------------------------------- frames


def test_scores_are_between_chance_and_perfect() -> None:
    made = [scored(spec(name, "omniglot", s, fields={}, task_fields={"way": way}), mean)
            for s in range(3) for way in (5, 20) for name, mean in (("protonet", 1.0), ("maml", 0.6))]  # fmt: skip
    made += [scored(spec(name, "sinusoid", s, fields={}), mean)
             for s in range(3) for name, mean in (("protonet", 1.0), ("maml", 0.5), ("chance", 4.0))]  # fmt: skip
    made[0] = record(made[0]["spec"])  # protonet, 5-way, seed 0
    found = across(frame(made), ["protonet", "maml"])
    assert found.places == (("omniglot", "5-way 1-shot"), ("omniglot", "20-way 1-shot"), ("sinusoid", "10-shot"))
    assert found.diverged == {"protonet": 1, "maml": 0}
    assert found.scores["protonet"][0] == pytest.approx([0, 1, 1]), "a run that failed scores as chance"
    assert found.scores["maml"][1] == pytest.approx([(0.6 - 0.05) / 0.95] * 3)
    assert found.scores["maml"][2] == pytest.approx([1 - 0.5 / 4] * 3)
    assert found.means.shape == (3, 2)
    assert found.means[0] == pytest.approx([2 / 3, 0.5])


def over(*there: tuple[str, str, dict[str, Any]], seeds: int = 3) -> pd.DataFrame:
    """A frame of methods on tasks, with fields of theirs."""
    return frame([scored(spec(name, task, s, fields=fields), 0.5 + 0.1 * s)
                  for name, task, fields in there for s in range(seeds)])  # fmt: skip


def test_the_largest_table_of_methods_and_tasks_is_taken() -> None:
    wide = [(name, task, {}) for name in ("a", "b", "c") for task in ("omniglot", "omniglot-online")]
    assert shared(over(*wide)) == ("a", "b", "c")
    more = [*wide, *((name, "paired-associates", {}) for name in ("a", "b"))]
    assert shared(over(*more)) == ("a", "b"), "as large, of more tasks"
    fourth = [("d", "omniglot", {}), ("d", "omniglot-online", {})]
    assert shared(over(*more, *fourth)) == ("a", "b", "c", "d")
    assert shared(over(*more, ("chance", "omniglot", {}), ("chance", "omniglot-online", {}))) == ("a", "b")


def test_no_two_methods_on_two_tasks_share_nothing() -> None:
    assert shared(over(("a", "omniglot", {}), ("b", "omniglot", {}))) == ()
    assert shared(over(("a", "omniglot", {}), ("a", "omniglot-online", {}))) == ()
    assert shared(over(("a", "omniglot", {}), ("b", "omniglot-online", {}))) == ()
    assert shared(frame([])) == ()


def test_methods_in_two_forms_are_left_out_but_ablations_and_transductive_results_are_no_forms() -> None:
    two = [(name, task, {}) for name in ("a", "b") for task in ("omniglot", "omniglot-online")]
    assert shared(over(*two, ("a", "omniglot", {"slots": 5}))) == ()
    assert shared(over(*two, ("a", "omniglot", {"ablate": "zero"}))) == ("a", "b")
    assert shared(over(*two, ("a", "omniglot", {"batch_norm": "transductive"}))) == ("a", "b")


def test_ranks_of_scores_are_over_tasks_not_settings() -> None:
    scores = {name: [np.array([v]) for v in values] for name, values in
              (("a", (0.9, 0.1, 0.9, 0.9, 0.9, 0.9)), ("b", (0.5,) * 6), ("c", (0.2,) * 6))}  # fmt: skip
    places = (("t0", "x"), ("t0", "y"), *((f"t{k}", "") for k in range(1, 5)))
    found = Across(places, scores, dict.fromkeys(scores, 0))
    assert found.ranks is not None
    # In t0 the mean of a over both settings is that of b: they tie there.
    assert found.ranks.mean == pytest.approx([1.1, 1.9, 3.0])
    assert Across(places[:5], {n: s[:5] for n, s in scores.items()}, {}).ranks is None


def test_tasks_that_not_all_have_are_left_out_and_none_is_one_sentence() -> None:
    made = [scored(spec(name, "omniglot", 0, fields={}), 0.9) for name in ("protonet", "maml")]
    made += [scored(spec("maml", "lake", 0, fields={}), 0.9)]
    assert across(frame(made), ["protonet", "maml"]).places == (("omniglot", "5-way 1-shot"),)
    with pytest.raises(BenchError, match="protonet, hausdorff share no task"):
        across(frame(made), ["protonet", "hausdorff"])
