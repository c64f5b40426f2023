"""Comparisons of methods: invariances, failures, seeds that differ, frames, verdicts, published figures."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats
from synthetic import by_instance, by_step, curve, evaluation, record, scored, spec

from bench import cells, frames, published, stats
from bench.errors import BenchError
from bench.frames import frame
from bench.intervals import Estimate
from bench.stats import Comparison, as_family, compare, compare_all, paired, reproductions, scores_of
from bench.verdicts import decide, margin_of, reproduction, rope, sentence

NAN = math.nan
runs = st.dictionaries(st.integers(0, 30), st.floats(0.1, 100).map(lambda v: round(v, 2)), min_size=3, max_size=10)
templates = st.builds(
    Comparison, scale=st.sampled_from(["difference", "ratio"]), margin=st.sampled_from([None, 0.5, 5.0]),
    higher_is_better=st.booleans(), failures=st.sampled_from(["excluded", "chance"]),
)  # fmt: skip


@pytest.fixture(autouse=True)
def made_up_fields(monkeypatch: pytest.MonkeyPatch) -> None:
    """Synthetic records have made-up fields: compared with registered defaults, all of them would be named."""
    monkeypatch.setattr(frames, "_changed", lambda method, values: set())


def same(a: Comparison, b: Comparison) -> None:
    """Equal but for rounding."""
    for field in dataclasses.fields(Comparison):
        x, y = getattr(a, field.name), getattr(b, field.name)
        if isinstance(x, (float, Estimate)):
            assert y == pytest.approx(x, nan_ok=True, rel=1e-6, abs=1e-9), field.name
        elif field.name != "because":
            assert x == y, field.name


# -------------------------------------------------------------------------------------------------------------- numbers


def test_the_headline_is_a_paired_t_interval() -> None:
    a, b = [0.9, 0.94, 0.95, 0.91], [0.85, 0.9, 0.93, 0.87]
    found = paired(dict(enumerate(a)), dict(enumerate(b)))
    test = scipy_stats.ttest_rel(a, b)
    assert found.difference == pytest.approx((test.statistic * 0 + 0.0375, *test.confidence_interval(0.95)))
    assert found.p == pytest.approx(test.pvalue)
    assert (found.mean_a, found.mean_b) == pytest.approx((np.mean(a), np.mean(b)))
    assert (found.verdict, found.p_flip, found.p_flip_least) == ("better", 0.125, 0.125)
    assert found.wins_seeds.value == 1


@pytest.mark.parametrize(
    ("logarithms", "text"),
    [
        ((math.log(0.000611), math.log(1.62e-6), math.log(231)), "0.00061 [0.0000016, 230]"),
        ((math.log(12.34), math.log(12.1), math.log(12.6)), "12.3 [12.1, 12.6]"),
        ((math.log(4), math.log(0.25), math.log(6.4e6)), "4.0 [0.25, 6,400,000]"),
        ((math.log(2e9), math.log(3e-8), math.log(9e12)), "2.0e+09 [3.0e-08, 9.0e+12]"),
        ((math.log(0.2), NAN, NAN), "0.200"),
        ((math.log(9.99), math.log(9.99), math.log(9.99)), "9.99 [9.99, 9.99]"),
    ],
)
def test_ratios_have_digits_of_their_own(logarithms: tuple[float, float, float], text: str) -> None:
    assert cells.times(Estimate(*logarithms)) == text


def test_a_ratio_of_decades_is_no_percentage() -> None:
    how = Comparison(a="sam", b="dnc", scale="ratio", metric="bits per sequence", higher_is_better=False)
    found = paired({0: 800.0, 1: 700.0, 2: 1000.0}, {0: 0.001, 1: 0.02, 2: 60.0}, how)
    assert found.far
    assert found.swapped.far
    assert f"a ratio of {cells.times(found.difference)} (95 % interval of the paired ratio over" in sentence(found)
    assert "%" not in sentence(found).replace("95 % interval", "").replace("80 % power", "")
    near = paired({0: 1.0, 1: 1.1, 2: 0.9}, {0: 1.01, 1: 1.12, 2: 0.92}, how)
    assert not near.far
    assert f"a difference of {cells.interval(near.shown, sign=True)} % (95 %" in sentence(near)
    assert not paired({0: 1.0, 1: 50.0, 2: 90.0}, {0: 2.0, 1: 3.0, 2: 4.0}).far, "points are points"


def test_a_ratio_is_of_geometric_means() -> None:
    found = paired({0: 1.0, 1: 2.0, 2: 4.0}, {0: 2.0, 1: 4.0, 2: 6.0}, Comparison(scale="ratio", metric="mse"))
    assert found.mean_a == pytest.approx(2)
    assert found.shown.value == pytest.approx(100 * (2 / 48 ** (1 / 3) - 1))
    assert found.shown.low < found.shown.value < found.shown.high
    assert (found.unit, Comparison(metric="accuracy").unit, Comparison(metric="bits per sequence").unit) == (
        "%", "points", "",
    )  # fmt: skip


@given(runs, runs, templates)
def test_swapping_a_and_b_turns_everything_round(a: dict[int, float], b: dict[int, float], how: Comparison) -> None:
    if len(a.keys() & b.keys()) == 0:
        return
    turned = paired(b, a, dataclasses.replace(how, a=how.b, b=how.a))
    same(paired(a, b, how).swapped, turned)
    same(paired(a, b, how), turned.swapped)


@given(runs, runs, st.floats(-50, 50), templates)
def test_adding_a_constant_changes_nothing(a: dict[int, float], b: dict[int, float], c: float, how: Comparison) -> None:
    how = dataclasses.replace(how, scale="difference")
    if len(a.keys() & b.keys()) == 0:
        return
    before = paired(a, b, how)
    after = paired({s: v + c for s, v in a.items()}, {s: v + c for s, v in b.items()}, how)
    if before.sd > 1e-6 or before.sd != before.sd:  # equal differences are no longer equal once rounded
        same(dataclasses.replace(before, mean_a=0, mean_b=0), dataclasses.replace(after, mean_a=0, mean_b=0))


@given(runs, runs, st.floats(0.1, 9), templates)
def test_a_ratio_does_not_depend_on_the_unit(
    a: dict[int, float], b: dict[int, float], c: float, how: Comparison
) -> None:
    how = dataclasses.replace(how, scale="ratio")
    if len(a.keys() & b.keys()) == 0:
        return
    before, after = paired(a, b, how), paired({s: c * v for s, v in a.items()}, {s: c * v for s, v in b.items()}, how)
    if before.sd > 1e-6 or before.sd != before.sd:
        same(dataclasses.replace(before, mean_a=0, mean_b=0), dataclasses.replace(after, mean_a=0, mean_b=0))


@given(st.lists(st.tuples(st.floats(0.1, 9), st.floats(0.1, 9)), min_size=3, max_size=9), st.randoms(), templates)
def test_the_order_of_seeds_means_nothing(pairs: list[tuple[float, float]], random: Any, how: Comparison) -> None:
    mixed = random.sample(pairs, len(pairs))
    first, second = ([dict(enumerate(column)) for column in zip(*p, strict=True)] for p in (pairs, mixed))
    same(paired(*first, how), paired(*second, how))


# --------------------------------------------------------------------------------------------------- seeds and failures


@pytest.mark.parametrize("n", [1, 2])
def test_one_or_two_seeds_give_no_interval_and_say_so(n: int) -> None:
    found = paired({s: 5.0 + s for s in range(n)}, dict.fromkeys(range(n), 1.0))
    assert math.isnan(found.difference.low)
    assert math.isnan(found.p)
    assert math.isnan(found.p_flip)
    assert found.verdict == "cannot tell"
    assert found.because == f"{n} seed{'s' * (n > 1)} give{'s' * (n == 1)} no interval"
    assert found.difference.value == pytest.approx(4 + (n - 1) / 2)


def test_unequal_seeds_are_paired_where_both_are_and_the_rest_is_named() -> None:
    a, b = {s: 50.0 + s for s in range(6)}, {s: 40.0 + 2 * s for s in range(3, 9)}
    found = paired(a, b)
    assert (found.seeds, found.only_a, found.only_b) == ((3, 4, 5), (0, 1, 2), (6, 7, 8))
    assert found.mean_a == pytest.approx(54)


def test_no_seed_in_common_is_one_sentence() -> None:
    with pytest.raises(BenchError, match=r"^x and y share no seed: x has seeds 0–2 and y has seed 7; run both"):
        paired({0: 1.0, 1: 1.0, 2: 1.0}, {7: 1.0}, Comparison(a="x", b="y"))


def test_failures_never_speak_for_who_failed() -> None:
    good, bad = {s: 90.0 + s for s in range(6)}, {s: 80.0 + 1.1 * s for s in range(6)}
    assert paired(good, bad).verdict == "better"
    failing = good | {4: NAN}
    found = paired(failing, bad, Comparison(a="x", b="y"))
    assert (found.seeds, found.diverged_a) == ((0, 1, 2, 3, 5), (4,))
    assert found.difference.low > 0
    assert (found.verdict, found.because) == ("cannot tell", "x diverged in seed 4, which the difference leaves out")
    assert paired(good, bad | {4: NAN}).verdict == "better", "the other one's failures make it no worse"
    assert paired(bad, failing).verdict == "cannot tell"
    assert paired(failing, bad).wins_seeds.value == pytest.approx(5 / 6), "a failure is lost"
    assert paired(failing, bad | {4: NAN}).wins_seeds.value == pytest.approx(5.5 / 6)
    assert paired(failing, good, Comparison(margin=1.0)).verdict == "cannot tell", "nor equivalent"


def test_failures_can_be_scored_as_chance() -> None:
    good, bad = {s: 90.0 + s for s in range(6)} | {4: NAN}, {s: 80.0 + s for s in range(6)}
    found = paired(good, bad, Comparison(failures="chance"), chance=20.0)
    assert (len(found.seeds), found.diverged_a) == (6, (4,))
    assert found.difference.value == pytest.approx((5 * 10 + 20 - 84) / 6)
    assert found.verdict == "cannot tell"
    assert paired(good, bad, Comparison(failures="chance")).seeds == (0, 1, 2, 3, 5), "where chance is not known"


def test_both_that_always_fail_leave_nothing() -> None:
    found = paired({0: NAN, 1: NAN}, {0: 1.0, 1: 1.0})
    assert (found.seeds, found.because) == ((), "0 seeds give no interval")
    assert found.wins_seeds.value == 0


def test_a_ratio_needs_positive_scores() -> None:
    with pytest.raises(BenchError, match="not above zero"):
        paired({0: 0.0}, {0: 1.0}, Comparison(scale="ratio"))


# ------------------------------------------------------------------------------------------------------------- verdicts


@pytest.mark.parametrize(
    ("low", "high", "margin", "where"),
    [(0.5, 1, 0.3, "above"), (-1, -0.5, 0.3, "below"), (-0.2, 0.2, 0.3, "inside"), (-0.2, 0.4, 0.3, "undecided"),
     (0.2, 0.4, 0.3, "undecided"), (-1, 1, None, "undecided"), (NAN, NAN, 0.3, "undecided")],
)  # fmt: skip
def test_rope(low: float, high: float, margin: float | None, where: str) -> None:
    assert rope(Estimate((low + high) / 2, low, high), margin) == where


@pytest.mark.parametrize(
    ("difference", "p", "p_equivalent", "up", "verdict"),
    [(1, 0.01, 0.9, True, "better"), (1, 0.01, 0.9, False, "worse"), (-1, 0.01, 0.9, True, "worse"),
     (-1, 0.01, 0.9, False, "better"), (1, 0.06, 0.9, True, "cannot tell"), (0.1, 0.01, 0.01, True, "equivalent"),
     (0.1, 0.2, 0.03, True, "cannot tell"), (0.0, 0.0, 0.9, True, "cannot tell"), (NAN, NAN, NAN, True, "cannot tell")],
)  # fmt: skip
def test_decide(difference: float, p: float, p_equivalent: float, up: bool, verdict: str) -> None:
    assert decide(difference, p, p_equivalent, up) == verdict


def test_margins_are_those_that_are_documented() -> None:
    assert margin_of("omniglot", "accuracy", {"way": 5}) == 0.3
    assert margin_of("omniglot", "accuracy", {"way": 20}) == 1.0
    assert margin_of("miniimagenet", "accuracy", {"way": 5}) == 1.0
    assert margin_of("sinusoid", "mse", {}) == 10.0
    assert margin_of("copy", "bits per sequence", {}) is None


def test_a_family_makes_each_comparison_harder() -> None:
    rng = np.random.default_rng(0)
    alone = [paired(dict(enumerate(rng.normal(0.9, 1, 6))), dict(enumerate(np.zeros(6)))) for _ in range(8)]
    family = as_family([*alone, paired({0: 1.0}, {0: 0.0})])
    assert {c.family for c in family} == {8}, "one seed has no p and is in no family"
    for before, after in zip(alone, family, strict=False):
        assert after.p == before.p <= after.p_holm
        assert (after.verdict == "better") <= (before.verdict == "better")
    lost = [c for c in family if c.p <= 0.05 < c.p_holm]
    assert lost
    assert {c.because for c in lost} == {"among 8 comparisons it may be chance"}


def test_the_sentence_says_what_was_found() -> None:
    a, b = {s: 91.0 + 0.1 * s for s in range(5)}, {s: 88.0 + 0.3 * s for s in range(5)}
    how = Comparison(a="mann", b="lstm", task="omniglot", setting="5-way 1-shot", margin=0.3)
    found = paired(a, b, how)
    assert sentence(found) == (
        "On omniglot, 5-way 1-shot, mann and lstm reach 91.20 against 88.60 % (mean accuracy, 5 seeds), a difference "
        "of +2.60 [+2.21, +2.99] points (95 % interval of the paired difference over seeds, Student t; p < 0.001; "
        "exact sign-flip p = 0.062, at least 0.062): mann is better."
    )
    assert sentence(found.swapped).endswith("lstm is worse.")
    assert "1 seed gives no interval" in sentence(paired({0: 1.0}, {0: 2.0}, how))
    assert sentence(paired(a | {2: NAN}, b, how)).endswith(
        "because mann diverged in seed 2, which the difference leaves out."
    )
    assert sentence(paired(a, b | {2: NAN}, how)).endswith("mann is better; lstm diverged in seed 2.")
    both = paired(a | {2: NAN}, b | {3: NAN}, dataclasses.replace(how, a="mann-ff", b="mann"))
    assert sentence(both).endswith(
        "because mann-ff diverged in seed 2, which the difference leaves out; mann diverged in seed 3."
    )
    near = {s: v + 0.01 * (-1) ** s for s, v in a.items()}
    assert sentence(paired(a, near, how)).endswith("they are equivalent within ± 0.300 points.")
    doubt = sentence(paired(a, {s: v + (-3) ** (s % 3) for s, v in a.items()}, how))
    assert "5 seeds leave both signs possible; " in doubt
    assert "seeds would find a difference of this size with 80 % power" in doubt
    far = sentence(paired(dict.fromkeys(range(8), 80.0), {s: 79.0 - 70.0 * (s == 7) for s in range(8)}, how))
    assert (
        "8 seeds leave both signs possible where some lie far from the rest, though the sign flip has p = 0.008" in far
    )


# --------------------------------------------------------------------------------------------------------------- frames


def two(n: int = 5, gap: float = 0.02, **more: Any) -> list[dict[str, Any]]:
    """mann and lstm on omniglot-online, mann better by gap."""
    rng = np.random.default_rng(1)
    made = []
    for seed in range(n):
        both = 0.8 + 0.01 * rng.normal()
        for name, mean in (("mann", both + gap + 0.003 * rng.normal()), ("lstm", both)):
            cell = spec(name, "omniglot-online", seed, fields={})
            means = [0.3, *(mean - 0.1 + 0.02 * k for k in range(9))]
            scores = evaluation(cell, mean + 0.05 * np.linspace(-1, 1, 50), by_instance=by_instance(means))
            made.append(record(cell, scores, curve=curve(mean), **more))
    return made


def test_methods_of_a_frame_are_compared_in_percent_points() -> None:
    records = two()
    (found,) = compare(frame(records), "mann", "lstm")
    means = {m: [100 * r["result"]["evaluations"][""]["mean"] for r in records if r["spec"]["method"]["name"] == m]
             for m in ("mann", "lstm")}  # fmt: skip
    assert found.difference.value == pytest.approx(np.mean(means["mann"]) - np.mean(means["lstm"]))
    assert found.p == pytest.approx(scipy_stats.ttest_rel(means["mann"], means["lstm"]).pvalue)
    assert (found.task, found.setting, found.metric, found.seeds) == (
        "omniglot-online",
        "5-way",
        "accuracy",
        (0, 1, 2, 3, 4),
    )
    assert (found.verdict, found.margin, found.family) == ("better", 1.0, 1)
    assert found.wins_episodes.value == pytest.approx(1), "each episode is better by the same amount"
    same(compare(frame(records), "lstm", "mann")[0], found.swapped)


def test_places_are_compared_too_and_an_unknown_one_is_one_sentence() -> None:
    (found,) = compare(frame(two()), "mann", "lstm", at="instance 2")
    assert found.at == "instance 2"
    assert found.mean_a == pytest.approx(compare(frame(two()), "mann", "lstm")[0].mean_a - 10)
    assert math.isnan(found.wins_episodes.value), "instances have no scores by episode"
    with pytest.raises(BenchError, match="mann has nothing at 'step 3' on omniglot-online; there are: instance 1, ins"):
        compare(frame(two()), "mann", "lstm", at="step 3")


def test_steps_are_places_even_where_the_end_diverged() -> None:
    made = []
    for seed in range(3):
        for name, first in (("maml", 0.5), ("other", 1.5)):
            cell = spec(name, "sinusoid", seed, fields={})
            steps = by_step({1: [first + 0.01 * seed] * 5, 10: [first / 2] * 5})
            made.append(record(cell, evaluation(cell, [first / 2 + 0.01 * seed**2] * 5, by_step=steps)))
    (found,) = compare(frame(made), "maml", "other", at="step 1")
    assert (found.scale, found.verdict, found.higher_is_better) == ("ratio", "better", False)
    assert found.shown_margin == pytest.approx(10)
    assert found.wins_episodes.value == 1
    (other,) = compare(frame(made), "maml", "other", margin=25)
    assert other.shown_margin == pytest.approx(25)


def test_lakes_errors_are_better_where_they_are_less() -> None:
    made = [scored(spec(name, "lake", seed, fields={}), mean + 0.001 * seed**2)
            for seed in range(4) for name, mean in (("good", 0.9), ("bad", 0.7))]  # fmt: skip
    (found,) = compare(frame(made), "good", "bad")
    assert (found.metric, found.verdict) == ("error", "better")
    assert found.difference.value == pytest.approx(-20)
    assert found.wins_episodes.value == pytest.approx(1)


def test_diverged_records_fail_and_missing_ones_do_not_count() -> None:
    records = two()
    lost = spec("mann", "omniglot-online", 7, fields={})
    also = [record(lost), scored(spec("lstm", "omniglot-online", 7, fields={}), 0.8)]
    expected = [spec("mann", "omniglot-online", 9, fields={})]
    made = frame(records + also, expected)
    (found,) = compare(made, "mann", "lstm")
    assert (found.diverged_a, found.seeds, found.only_a) == ((7,), (0, 1, 2, 3, 4), ())
    assert found.verdict == "cannot tell"
    (found,) = compare(made, "mann", "lstm", failures="chance")
    assert (found.seeds, found.diverged_a) == ((0, 1, 2, 3, 4, 7), (7,))
    assert found.difference.value < -5, "guessing is 20 %"


def test_chance_is_measured_where_it_is_not_known() -> None:
    made = [scored(spec(name, "sinusoid", seed, fields={}), mean + 0.01 * seed)
            for seed in range(3) for name, mean in (("maml", 0.5), ("other", 1.0), ("chance", 4.0))]  # fmt: skip
    made[0] = record(made[0]["spec"])
    (found,) = compare(frame(made), "maml", "other", failures="chance")
    assert found.seeds == (0, 1, 2)
    assert found.mean_a == pytest.approx((4.01 * 0.51 * 0.52) ** (1 / 3))


def test_all_pairs_are_a_family_best_first() -> None:
    third = [scored(spec("pixel-knn", "omniglot-online", s), 0.5) for s in range(5)]
    found = compare_all(frame(two() + third))
    assert [(c.a, c.b) for c in found] == [("mann", "lstm"), ("mann", "pixel-knn"), ("lstm", "pixel-knn")]
    assert {c.family for c in found} == {3}
    assert [c.p_holm for c in found] == pytest.approx(list(stats.significance.holm([c.p for c in found])))


def test_pairs_without_a_common_seed_are_left_out() -> None:
    far = [scored(spec("pixel-knn", "omniglot-online", s), 0.5) for s in range(10, 12)]
    assert [(c.a, c.b) for c in compare_all(frame(two() + far))] == [("mann", "lstm")]


@pytest.mark.parametrize(
    ("a", "b", "task", "says"),
    [("mamn", "lstm", None, "there is no recorded method 'mamn'; did you mean mann?"),
     ("mann", "lstm", "nowhere", "there is no recorded task 'nowhere'; there are: lake, omniglot-online"),
     ("mann", "hausdorff", None, "mann and hausdorff share no task and setting: mann has omniglot-online, 5-way, and "),
     ("mann", "mann", None, "'mann' and 'mann' are the same method; name two"),
     ("mann", "late", None, "mann and late share no seed: mann has seeds 0–4 and late has seeds 8, 9; run both with")],
)  # fmt: skip
def test_what_cannot_be_compared_is_one_sentence(a: str, b: str, task: str | None, says: str) -> None:
    more = [scored(spec("hausdorff", "lake"), 0.6)]
    more += [scored(spec("late", "omniglot-online", s, fields={}), 0.6) for s in (8, 9)]
    with pytest.raises(BenchError) as error:
        compare(frame(two() + more), a, b, task=task)
    assert str(error.value).startswith(says)


def test_several_forms_of_a_method_must_be_named() -> None:
    forms = [scored(spec("mann", "omniglot-online", s, fields={"slots": n}), 0.7) for s in range(3) for n in (8, 16)]
    lstm = [scored(spec("lstm", "omniglot-online", s, fields={}), 0.6) for s in range(3)]
    with pytest.raises(
        BenchError, match=r"'mann' has several forms on omniglot-online, name one of them: mann .slots=16"
    ):
        compare(frame(forms + lstm), "mann", "lstm")
    (found,) = compare(frame(forms + lstm), "mann (slots=8)", "mann (slots=16)")
    assert found.verdict == "equivalent"


def test_some_of_its_fields_name_a_form() -> None:
    made = frame([
        scored(spec("mann", "omniglot-online", s, fields={"slots": n, "gate": "none"}), 0.7)
        for s in range(3) for n in (8, 16)
    ])  # fmt: skip
    (found,) = compare(made, "mann (slots=8)", "mann (gate=none, slots=16)")
    assert {found.a, found.b} == {"mann (slots=8)", "mann (slots=16)"}
    with pytest.raises(BenchError, match="several forms"):
        compare(made, "mann (gate=none)", "mann (slots=8)")
    with pytest.raises(BenchError, match="no recorded method 'mann \\(slots=9\\)'"):
        compare(made, "mann (slots=9)", "mann (slots=8)")


def test_training_steps_name_a_form() -> None:
    made = frame([
        scored(spec(name, "omniglot-online", s, fields={"slots": 8}, budget={"steps": steps}), 0.7)
        for s in range(3) for name in ("mann", "lstm") for steps in (100, 200)
    ])  # fmt: skip
    (found,) = compare(made, "mann (steps=200)", "lstm (slots=8, steps=100)")
    assert {found.a, found.b} == {"mann (steps=200)", "lstm (steps=100)"}


def test_nothing_to_compare_is_one_sentence() -> None:
    with pytest.raises(BenchError, match="there are no records to compare"):
        compare(frame([]), "mann", "lstm")
    with pytest.raises(BenchError, match="there are no records to compare"):
        compare_all(frame([], [spec("mann", "omniglot-online", fields={})]))


def test_scores_of_a_place_leave_out_seeds_without_it() -> None:
    made = frame(two(3))
    rows = made[made["method"] == "mann"]
    assert sorted(scores_of(rows)) == [0, 1, 2]
    assert scores_of(rows, "instance 11") == {}


def test_a_seed_without_a_finite_score_after_a_step_is_not_left_out() -> None:
    made = [
        record(cell, evaluation(cell, [0.6], by_step=by_step({1: [0.6]} | ({5: [0.1]} if seed else {}))))
        for seed in range(3)
        for cell in [spec("maml", "sinusoid", seed, fields={})]
    ]
    late = scores_of(frame(made), "step 5")
    assert math.isnan(late.pop(0))
    assert late == {1: 0.1, 2: 0.1}


# ------------------------------------------------------------------------------------------------------------ published


def figure(value: float, ci95: float | None = None) -> published.Published:
    return dataclasses.replace(published.rows()[0], value=value, ci95=ci95, note="misprinted elsewhere")


SAME, OTHER = published.Match(True, (), ()), published.Match(False, ("split vinyals (paper random1200)",), ())
OURS = [98.0, 98.1, 98.2, 98.1, 98.1]


@pytest.mark.parametrize(
    ("values", "row", "match", "verdict", "because"),
    [(OURS, figure(98.2), SAME, "reproduced", ""),
     (OURS, figure(98.8), SAME, "below", ""),
     (OURS, figure(97.2), SAME, "above", ""),
     (OURS, figure(98.8, 1.0), SAME, "reproduced", ""),
     (OURS, figure(98.8), OTHER, "not comparable", "split vinyals (paper random1200)"),
     (OURS[:2], figure(98.2), SAME, "cannot tell", "2 seeds give no interval"),
     (OURS[:1], figure(98.2), SAME, "cannot tell", "1 seed gives no interval"),
     ([96.0, 98.0, 100.0], figure(98.0), SAME, "cannot tell", "the seeds are too few for the size of the gap")],
)  # fmt: skip
def test_published_figures_are_judged(
    values: list[float], row: published.Published, match: published.Match, verdict: str, because: str
) -> None:
    found = reproduction(values, row, match, 0.3)
    assert (found.verdict, found.because) == (verdict, because)
    assert found.gap.value == pytest.approx(np.mean(values) - row.value)
    assert found.discrepancies == "misprinted elsewhere"


@pytest.mark.parametrize(
    ("published", "higher_is_better", "verdict"),
    [(98.2, True, "cannot tell"), (97.2, True, "cannot tell"), (98.8, True, "below"), (98.8, False, "cannot tell"),
     (97.2, False, "above")],
)  # fmt: skip
def test_failures_do_not_speak_for_a_reproduction(published: float, higher_is_better: bool, verdict: str) -> None:
    found = reproduction(OURS, figure(published), SAME, 0.3, diverged=[5, 6], higher_is_better=higher_is_better)
    assert (found.verdict, found.diverged, found.seeds) == (verdict, (5, 6), 5)
    assert (found.because == "seeds 5, 6 diverged, which the mean leaves out") == (verdict == "cannot tell")


def test_the_gap_has_a_prediction_interval() -> None:
    found = reproduction(OURS, figure(98.2, 0.4), SAME, 0.3)
    own = scipy_stats.t.ppf(0.975, 4) * np.std(OURS, ddof=1) * math.sqrt(1 + 1 / 5)
    assert found.gap.half_width == pytest.approx(math.hypot(own, 0.4))
    assert found.tolerance == 0.4


def test_where_no_seed_could_score_otherwise_one_is_enough() -> None:
    found = reproduction([98.15], figure(98.2), SAME, 0.3, certain=True)
    assert (found.verdict, found.because) == ("reproduced", "")
    assert reproduction([97.0], figure(98.2), SAME, 0.3, certain=True).verdict == "below"
    assert reproduction([97.0], figure(98.2), OTHER, 0.3, certain=True).verdict == "not comparable"


def test_without_any_margin_nothing_is_reproduced() -> None:
    found = reproduction(OURS, figure(98.1), SAME, None)
    assert (found.verdict, found.because) == ("cannot tell", "neither the paper nor we say what difference matters")
    assert reproduction(OURS, figure(90.0), SAME, None).verdict == "above"


def test_records_are_put_beside_what_was_published() -> None:
    made = [scored(spec("protonet", "omniglot", s, fields={}), 0.98 + 0.001 * s) for s in range(3)]
    made += [scored(spec("unpublished", "omniglot", s, fields={}), 0.9) for s in range(3)]
    (found,) = reproductions(frame([*made, record(spec("protonet", "omniglot", 3, fields={}))]))
    assert found.diverged == (3,)
    (found,) = reproductions(frame(made))
    assert found.diverged == ()
    assert (found.method, found.task, found.seeds, found.metric) == ("protonet", "omniglot", 3, "accuracy")
    assert found.row.source.startswith("Snell")
    assert found.ours.value == pytest.approx(98.1)
    assert isinstance(pd.DataFrame([found]), pd.DataFrame)
    assert found.discrepancies == found.row.note != ""


def test_a_step_that_a_method_was_never_measured_after_is_no_divergence() -> None:
    made = [
        record(cell, evaluation(cell, [0.5], by_step=by_step({1: [0.5], last: [0.4 + seed / 100]})))
        for seed in range(4)
        for name, last in (("maml", 5), ("reptile", 10))
        for cell in [spec(name, "sinusoid", seed, fields={})]
    ]
    for failures in ("excluded", "chance"):
        with pytest.raises(BenchError, match=r"reptile has nothing at 'step 5' on sinusoid; there are: .*step 10"):
            compare(frame(made), "maml", "reptile", at="step 5", failures=failures)
    assert compare(frame(made), "maml", "reptile", at="step 1")
