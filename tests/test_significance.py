"""Tests, effect sizes, power and intervals against other computations and published examples."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import integrate, stats

from bench import intervals, significance
from bench.intervals import clustered_half_width, disjoint, episode_half_width, fraction, spread, t_half_width
from bench.significance import equivalence_p, hedges, holm, power, seeds_needed, sign_flip_p, signs, t_p, wins

# R's data set `sleep`: extra hours under two drugs, ten patients (Student 1908, Cushny and Peebles 1905).
SLEEP = np.array([
    [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0],
    [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4],
])  # fmt: skip
# Darwin's maize, crossed less self-fertilised, in eighths of an inch (Fisher 1935, Design of Experiments, §§ 17, 21).
MAIZE = np.array([49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48])
differences = arrays.arrays(float, st.integers(3, 9), elements=st.floats(-100, 100).map(lambda v: round(v, 3)))


# ------------------------------------------------------------------------------------------------------------ Student t


def test_paired_t_is_rs_of_the_sleep_data() -> None:
    """`t.test(extra ~ group, data = sleep, paired = TRUE)`: t = -4.0621, p-value = 0.002833, -2.4598858 -0.7001142."""
    found = intervals.mean(SLEEP[0] - SLEEP[1])
    assert found.value == pytest.approx(-1.58)
    assert (found.low, found.high) == pytest.approx((-2.4598858, -0.7001142), abs=5e-8)
    assert t_p(SLEEP[0] - SLEEP[1]) == pytest.approx(0.002833, abs=5e-7)


def test_paired_t_is_fishers_of_darwins_maize() -> None:
    """Fisher finds t = 2.148 with 14 degrees of freedom, just significant at 5 %."""
    assert MAIZE.mean() / spread(MAIZE) * math.sqrt(15) == pytest.approx(2.148, abs=5e-4)
    assert t_p(MAIZE) == pytest.approx(0.0497, abs=5e-5)


@given(differences)
def test_t_is_scipys_and_its_interval_excludes_zero_just_where_p_is_below_5_percent(values: np.ndarray) -> None:
    if spread(values) < 1e-3:
        return
    assert t_p(values) == pytest.approx(stats.ttest_1samp(values, 0).pvalue, rel=1e-9)
    assert (abs(values.mean()) > t_half_width(values)) == (t_p(values) < 0.05)


def test_the_least_p_of_sign_flips() -> None:
    for n in (5, 30):
        assert significance.sign_flip_p(np.ones(n)) == pytest.approx(significance.least_sign_flip_p(n))


def test_equal_differences_leave_no_doubt() -> None:
    assert (t_p([0.3] * 3), t_p([0.0] * 3)) == (0, 1)
    assert (equivalence_p([0.3] * 3, 0.4), equivalence_p([0.3] * 3, 0.3)) == (0, 1)


@given(differences, st.floats(0.1, 200))
def test_equivalence_is_two_one_sided_tests_and_the_interval_within_the_margin(
    values: np.ndarray, margin: float
) -> None:
    if spread(values) < 1e-3:
        return
    above = stats.ttest_1samp(values, -margin, alternative="greater").pvalue
    below = stats.ttest_1samp(values, margin, alternative="less").pvalue
    p = equivalence_p(values, margin)
    assert p == pytest.approx(max(above, below), rel=1e-9, abs=1e-12)
    inside = abs(values.mean()) + t_half_width(values) - margin
    if abs(inside) > 1e-9:
        assert (p < 0.025) == (inside < 0)


# ---------------------------------------------------------------------------------------------------------- sign flips


def test_sign_flips_are_fishers() -> None:
    """Of 32,768 ways, 1,726 give a total of 314 or more, or -314 or less (Fisher 1935, § 21)."""
    assert MAIZE.sum() == 314
    assert sign_flip_p(MAIZE) * 2**15 == pytest.approx(1726)


@given(differences)
def test_sign_flips_are_all_of_them(values: np.ndarray) -> None:
    sums = [abs(np.dot(values, flip)) for flip in itertools.product((-1, 1), repeat=len(values))]
    slack = 1e-9 * np.abs(values).sum()
    sure = {float(np.mean([s >= abs(values.sum()) + d for s in sums])) for d in (slack, -slack)}
    if len(sure) == 1:
        assert sign_flip_p(values) == pytest.approx(sure.pop())


def test_sign_flips_are_scipys() -> None:
    values = np.random.default_rng(0).normal(0.4, 1, 9)
    found = stats.permutation_test((values,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert sign_flip_p(values) == pytest.approx(found.pvalue)


@pytest.mark.parametrize("n", range(1, 17))
def test_the_least_p_of_sign_flips_is_two_in_all(n: int) -> None:
    assert sign_flip_p(np.arange(1, n + 1)) == 2.0 ** (1 - n)


def test_many_seeds_are_flipped_at_random_and_nearly_as_if_all_were() -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(0.35, 1, 24)
    assert signs(24).shape == (significance.RANDOM, 24)
    assert sign_flip_p(values) == sign_flip_p(values), "the flips are fixed"
    assert sign_flip_p(values) == pytest.approx(t_p(values), rel=0.25)
    assert sign_flip_p(np.ones(40)) == pytest.approx(1 / (significance.RANDOM + 1)), "never 0"


def test_sign_flips_of_many_rows_are_those_of_each() -> None:
    rows = np.random.default_rng(2).normal(0.5, 1, (20, 6))
    assert sign_flip_p(rows) == pytest.approx([sign_flip_p(row) for row in rows])


# ----------------------------------------------------------------------------------------------------------------- Holm


def test_holm_is_as_published() -> None:
    """p = .01, .04, .03, .005 of four hypotheses become .03, .06, .06, .02 (Holm 1979's procedure, step by step)."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_lies_between_nothing_and_bonferroni_and_keeps_the_order(p: list[float]) -> None:
    found = holm(p)
    assert (found >= np.array(p)).all()
    assert (found <= np.minimum(1, len(p) * np.array(p) + 1e-12)).all()
    assert (np.diff(found[np.argsort(p, kind="stable")]) >= 0).all()
    by_hand = [max(min(1, p[j] * sum(q >= p[j] for q in p)) for j in range(len(p)) if p[j] <= p[i])
               for i in range(len(p))]  # fmt: skip
    assert found == pytest.approx(by_hand), "p(j) times how many are not smaller, the largest up to it"


def test_holm_leaves_out_what_has_no_p() -> None:
    assert holm([0.02, math.nan, 0.5]) == pytest.approx([0.04, math.nan, 0.5], nan_ok=True)
    assert np.isnan(holm([math.nan])).all()
    assert len(holm([])) == 0


# -------------------------------------------------------------------------------------------------------- effect, power


@pytest.mark.parametrize(("freedom", "factor"), [(2, 0.5642), (3, 0.7236), (4, 0.7979), (9, 0.9139), (19, 0.9599)])
def test_hedges_correction_is_as_tabled(freedom: int, factor: float) -> None:
    """c(m) of Hedges 1981 (J. Educ. Stat. 6:107), which is close to 1 - 3 / (4 m - 1)."""
    values = np.random.default_rng(freedom).normal(1, 1, freedom + 1)
    assert hedges(values) * spread(values) / values.mean() == pytest.approx(factor, abs=2e-4)
    assert factor == pytest.approx(1 - 3 / (4 * freedom - 1), abs=0.01)


def test_hedges_is_unbiased() -> None:
    found = [hedges(v) for v in np.random.default_rng(3).normal(0.8, 1, (4000, 5))]
    assert np.mean(found) == pytest.approx(0.8, abs=4 * np.std(found) / math.sqrt(4000))


def test_an_effect_needs_three_values_that_differ() -> None:
    assert math.isnan(hedges([1.0, 2.0]))
    assert math.isnan(hedges([1.0, 1.0, 1.0]))


def test_power_is_as_published() -> None:
    """Cohen 1988, exercise 2.5; R: `pwr.t.test(d=0.2, n=60, sig.level=0.10, type="one.sample")`: power = 0.4555818."""
    assert power(60, 0.2, alpha=0.10) == pytest.approx(0.4555818, abs=5e-8)


@pytest.mark.parametrize(("n", "effect"), [(3, 1.0), (5, 0.6), (12, -0.9), (30, 0.0)])
def test_power_is_an_integral_over_chi_square(n: int, effect: float) -> None:
    t, m, centre = stats.t.ppf(0.975, n - 1), n - 1, effect * math.sqrt(n)

    def given_spread(x: float) -> float:
        bound = t * math.sqrt(x / m)
        return (stats.norm.sf(bound - centre) + stats.norm.cdf(-bound - centre)) * stats.chi2.pdf(x, m)

    assert power(n, effect) == pytest.approx(integrate.quad(given_spread, 0, np.inf)[0], abs=1e-6)


@given(st.floats(0.05, 50), st.integers(3, 12))
def test_seeds_needed_are_the_fewest(effect: float, n: int) -> None:
    values = np.linspace(-1, 1, n)
    values = values / spread(values) + effect
    needed = seeds_needed(values)
    assert needed is not None
    assert power(needed, effect) >= 0.8 - 1e-9
    assert needed == 3 or power(needed - 1, effect) < 0.8 + 1e-9


def test_seeds_needed_have_ends() -> None:
    assert seeds_needed([0.0, 0.0, 0.0]) is None
    assert seeds_needed([-1.0, 0.0, 1.0]) is None
    assert seeds_needed([-1.0, 0.0, 1.001]) is None, "more than 9,999"
    assert seeds_needed([1.0, 1.0, 1.0]) == 3


# ------------------------------------------------------------------------------------------------- fractions and counts


def test_exact_interval_of_a_fraction_is_rs() -> None:
    """`binom.test(682, 925)`, of R's manual (Conover 1971, p. 97): 0.7076683 0.7654066."""
    found = fraction(682, 925)
    assert found.value == pytest.approx(682 / 925)
    assert (found.low, found.high) == pytest.approx((0.7076683, 0.7654066), abs=5e-8)


@given(st.integers(1, 30), st.data())
def test_exact_interval_of_a_fraction_is_scipys(n: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(0, n))
    exact = stats.binomtest(k, n).proportion_ci(method="exact")
    assert fraction(k, n)[1:] == pytest.approx((exact.low, exact.high))
    assert fraction(0.5, n).low < fraction(0.5, n).value < fraction(0.5, n).high, "ties are halves"


def test_wins_count_ties_as_halves() -> None:
    a, b = [1, 2, 3, 4], [0, 2, 4, 1]
    assert wins(a, b) == (2 + 0.5) / 4
    assert wins(a, b, higher_is_better=False) == 1 - wins(a, b)
    pairs = stats.mannwhitneyu([1], [0]).statistic
    assert wins([1], [0]) == pairs, "of one pair U is the win"
    assert math.isnan(wins([1], [1, 2]))
    assert math.isnan(wins([], []))


def test_a_mean_is_cut_to_what_is_possible() -> None:
    assert intervals.mean([0.9, 1.0, 1.0], 0, 1).high == 1
    assert math.isnan(intervals.mean([1.0, 2.0]).low)
    assert math.isnan(intervals.mean([]).value)


# ------------------------------------------------------------------------------------------------ classes and episodes


def test_with_an_episode_a_class_the_open_interval_is_students() -> None:
    """Delete-one jackknife of a mean is the textbook's standard error."""
    scores = np.random.default_rng(4).normal(size=12)
    assert clustered_half_width(scores, [[i] for i in range(12)]) == pytest.approx(t_half_width(scores))


def test_with_equal_clusters_the_open_interval_is_that_of_their_means() -> None:
    rng = np.random.default_rng(5)
    scores = rng.normal(size=(6, 4)) + rng.normal(size=(6, 1))
    members = [[c] for c in range(6) for _ in range(4)]
    assert clustered_half_width(scores.ravel(), members) == pytest.approx(t_half_width(scores.mean(1)))


def test_the_variance_behind_the_open_interval_is_that_of_the_mean_over_classes_and_episodes() -> None:
    """Scores are sums of effects of classes (variance 4, mean of those shown) and of an episode (4)."""
    rng, classes, way, n = np.random.default_rng(7), 40, 4, 200
    found, exact = [], []
    for _ in range(400):
        members = rng.random((n, classes)).argsort(-1)[:, :way]
        scores = 2 * rng.normal(size=classes)[members].mean(-1) + 2 * rng.normal(size=n)
        found.append((clustered_half_width(scores, members.tolist()) / stats.t.ppf(0.975, classes - 1)) ** 2)
        shares = np.bincount(members.ravel(), minlength=classes) / members.size
        exact.append(4 * (shares**2).sum() + 4 / n)
    assert np.mean(found) == pytest.approx(np.mean(exact), rel=0.1)


def test_the_open_interval_is_wider_where_classes_differ() -> None:
    rng = np.random.default_rng(6)
    members = rng.random((300, 30)).argsort(-1)[:, :5]
    scores = rng.normal(size=30)[members].mean(-1)
    assert clustered_half_width(scores, members.tolist()) > 2 * episode_half_width(scores)


def test_the_open_interval_needs_classes() -> None:
    assert math.isnan(clustered_half_width([1.0, 2.0], [[0], [1]]))
    assert math.isnan(clustered_half_width([1.0, 2.0, 3.0], [[0, 1], [0, 2], [0, 3]])), "class 0 is in all episodes"


def test_disjoint_episodes_share_nothing() -> None:
    members = [[0, 1], [1, 2], [2, 3], [4, 0], [4, 5]]
    kept = disjoint(members)
    assert kept == [0, 2, 4]
    assert disjoint([]) == []
