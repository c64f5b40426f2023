"""The simulation: judged as records are, true to its model, and what it found where it was recorded."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from bench import charts, coverage, published, readme, refresh, significance, simulation, stats, verdicts
from bench.errors import BenchError
from bench.simulation import HEADLINE, RAW, SCENARIOS, SEEDS, Config, Entry, Scenario, draw, simulate, truth

UNSTABLE = "accuracy, one method unstable"
"""The one scenario in which the headline covers less than it says."""
ROOT = Path(__file__).resolve().parent.parent
QUICK = Config(replications=1500, episodes=40, bootstraps=100, resamples=200)
RECORD = coverage.load(ROOT / "results")
PAGE = ROOT / coverage.PAGE


def tolerance(p: float, n: int) -> float:
    """Three and a half standard errors of a frequency."""
    return 3.5 * math.sqrt(p * (1 - p) / n)


# -------------------------------------------------------------------------- vectorised judgements are those of records


@settings(max_examples=25)
@given(st.integers(3, 12), st.integers(0, 2**32 - 1), st.floats(0, 2), st.floats(0.2, 3))
def test_judgements_are_those_of_records(n: int, seed: int, gap: float, margin: float) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.normal(gap, 1, (6, n)), rng.normal(0, 0.5, (6, n))
    mean, half = simulation.t_interval(a - b)
    p, flips = simulation.t_p(a - b), significance.sign_flip_p(a - b)
    equivalent = simulation.equivalence_p(a - b, margin)
    low, high = simulation.wins_interval((a > b).sum(-1), n)
    how = stats.Comparison(margin=margin)
    for i in range(6):
        found = stats.paired(dict(enumerate(a[i])), dict(enumerate(b[i])), how)
        assert (mean[i], half[i]) == pytest.approx((found.difference.value, found.difference.half_width), rel=1e-10)
        assert (p[i], flips[i]) == pytest.approx((found.p, found.p_flip), rel=1e-10)
        assert equivalent[i] == pytest.approx(found.p_equivalent, rel=1e-10)
        assert (low[i], high[i]) == pytest.approx(found.wins_seeds[1:], rel=1e-10)
        says = "equivalent" if equivalent[i] <= 0.025 else "better" if p[i] <= 0.05 and mean[i] > 0 else \
            "worse" if p[i] <= 0.05 else "cannot tell"  # fmt: skip
        assert found.verdict == says


@settings(max_examples=25)
@given(st.integers(3, 12), st.integers(0, 2**32 - 1))
def test_reproduction_is_that_of_records(n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    ours, paper, width = rng.normal(0, 1, (6, n)), rng.normal(0, 2, 6), rng.uniform(0.1, 1, 6)
    found = simulation.reproduced(ours, paper, width)
    row = published.rows()[0]
    for i in range(6):
        at = published.Published(**{**row.__dict__, "value": float(paper[i]), "ci95": float(width[i])})
        judged = verdicts.reproduction(ours[i].tolist(), at, published.Match(True, (), ()), 0.0)
        assert found[i] == (judged.verdict not in ("above", "below"))


def test_welch_is_scipys() -> None:
    means = np.random.default_rng(0).normal(size=(5, 2, 4)) * np.array([1, 3])[:, None]
    mean, half = simulation.welch_interval(means)
    for i, (a, b) in enumerate(means):
        ends = scipy_stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
        assert (mean[i] - half[i], mean[i] + half[i]) == pytest.approx((ends.low, ends.high))


def test_the_bootstrap_of_two_levels_is_too_narrow_for_few_seeds_and_not_for_many() -> None:
    rng = np.random.default_rng(1)
    scores = rng.normal(size=(150, 2, 20, 1)) + 0.1 * rng.normal(size=(150, 2, 20, 15))
    few, many = (simulation._two_level(scores[:, :, :n], 0.0, Config(resamples=200)).mean() for n in (3, 20))
    assert few < 0.88 < many <= 1


# ------------------------------------------------------------------------------------------------------------ the model


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: s.name)
def test_the_truth_is_the_mean_of_what_is_drawn(scenario: Scenario) -> None:
    scores = draw(scenario, np.random.default_rng(2), 4000, 4, 25)
    differences = (scores[:, 0] - scores[:, 1]).mean((1, 2))
    assert differences.mean() == pytest.approx(truth(scenario), abs=4 * differences.std() / math.sqrt(4000))


def test_the_same_episodes_are_the_same_for_all_seeds() -> None:
    still = Scenario("only episodes", "mse", (0.0, 1.0), seed=0, run=(0, 0), rest=0, interaction=0.5)
    fixed = draw(still, np.random.default_rng(3), 2, 4, 7, fresh=False)
    assert (fixed == fixed[:, :, :1]).all()
    fresh = draw(still, np.random.default_rng(3), 2, 4, 7)
    assert not (fresh == fresh[:, :, :1]).all()
    assert fresh.shape == fixed.shape == (2, 2, 4, 7)


def test_accuracies_are_counts_of_right_answers() -> None:
    scores = draw(SCENARIOS[0], np.random.default_rng(4), 3, 2, 5)
    assert ((scores >= 0) & (scores <= 100)).all()
    assert scores * simulation.QUERIES / 100 == pytest.approx(np.round(scores * simulation.QUERIES / 100))


# -------------------------------------------------------------------------------------------------- a small simulation


@pytest.fixture(scope="module")
def quick() -> pd.DataFrame:
    chosen = [s for s in SCENARIOS if s.name in ("accuracy near 95 %", "squared error, unequal runs")]
    return pd.DataFrame(simulate(QUICK, chosen))


def test_the_headline_covers_95_percent(quick: pd.DataFrame) -> None:
    rows = quick[quick["what"] == HEADLINE]
    assert len(rows) == 2 * len(SEEDS)
    assert (abs(rows["value"] - 0.95) < tolerance(0.95, QUICK.replications)).all()


def test_what_papers_print_does_not(quick: pd.DataFrame) -> None:
    assert (quick.loc[quick["what"].str.startswith("one seed"), "value"] < 0.8).all()
    one = quick[quick["scenario"] == "20 test classes"].set_index("what")["value"]
    assert one["one model, over episodes (closed)"] < 0.6 < 0.85 < one["one model, by class (open)"]


def test_squared_errors_themselves_are_too_skewed_for_t(quick: pd.DataFrame) -> None:
    assert (quick.loc[quick["what"] == RAW, "value"] < 0.93).all()
    few = quick[(quick["what"] == "bootstrap over seeds (BCa)") & (quick["seeds"] <= 5)]
    assert (few["value"] < 0.9).all()


def test_decisions_are_wrong_as_often_as_they_say(quick: pd.DataFrame) -> None:
    wrong = quick[quick["kind"] == "error"].set_index("what")
    assert (wrong.loc["t: different", "value"] < 0.05 + tolerance(0.05, QUICK.replications)).all()
    assert (wrong.loc["sign flip: different", "value"] < 0.05 + tolerance(0.05, QUICK.replications)).all()
    families = QUICK.replications // simulation.FAMILY
    assert (wrong.loc["t, Holm: one of 6 different", "value"] < 0.05 + tolerance(0.05, families)).all()
    assert (wrong.loc["t: one of 6 different", "value"] > 0.15).all()
    assert (wrong.loc["equivalent, at the margin", "value"] < 0.025 + tolerance(0.025, QUICK.replications)).all()


def test_power_is_as_computed(quick: pd.DataFrame) -> None:
    rows = quick[(quick["kind"] == "power") & (quick["what"] == "t: different")]
    for row in rows.itertuples():
        p = significance.power(int(row.seeds), simulation.EFFECT)
        assert row.value == pytest.approx(p, abs=0.02 + tolerance(p, QUICK.replications))


def test_the_same_config_gives_the_same_entries() -> None:
    tiny = Config(replications=12, episodes=5, bootstraps=4, resamples=20)
    first, again = simulate(tiny, SCENARIOS[:1]), simulate(tiny, SCENARIOS[:1])
    assert first == again
    assert len({(e.scenario, e.what, e.kind, e.seeds) for e in first}) == len(first)
    assert first != simulate(Config(replications=12, episodes=5, bootstraps=4, resamples=20, seed=1), SCENARIOS[:1])


# ----------------------------------------------------------------------------------------------------------- the record


def entries() -> pd.DataFrame:
    assert RECORD, "results/simulations/statistics.json is there"
    return coverage.frame(RECORD)


def test_the_record_is_of_committed_code_and_whole() -> None:
    assert RECORD
    assert RECORD["env"]["dirty"] is False
    assert RECORD["config"] == Config().__dict__
    assert [s["name"] for s in RECORD["scenarios"]] == [s.name for s in SCENARIOS]
    assert RECORD["seconds"] <= 300


def test_recorded_coverage_of_the_headline_is_94_to_96_percent() -> None:
    rows = entries()
    rows = rows[(rows["what"] == HEADLINE) & (rows["seeds"] >= 5)]
    usual = rows[rows["scenario"] != UNSTABLE]["value"]
    assert len(usual) == 3 * (len(SCENARIOS) - 1)
    assert usual.between(0.94, 0.96).all()
    assert rows[rows["scenario"] == UNSTABLE]["value"].between(0.93, 0.95).all()


def test_what_the_page_says_in_words_is_what_was_found() -> None:
    rows = entries().set_index(["kind", "what", "seeds"]).sort_index()["value"]
    assert rows["error", "t: one of 6 different"].min() > 0.24
    assert rows["power", "t: different", 5].between(0.36, 0.44).all(), "two of five cases"
    assert (rows["power", "sign flip: different", 5] == 0).all()
    assert [f"{2.0 ** (1 - n):.2g}" for n in (5, 6, 10)] == ["0.062", "0.031", "0.002"]
    papers = entries()[lambda e: (e["what"] == coverage.PAPERS) & e["scenario"].str.startswith("accuracy")]
    assert 0.3 < papers["value"].min() < 0.36, "of accuracies, a third of cases at worst, says the README"
    same = rows["coverage", "t, paired, same episodes for all seeds"]
    assert same[3].min() > same[5].min() > same[10].min(), "more seeds make it more wrong"
    few = rows["coverage"]
    assert (few["bootstrap over seeds (BCa)", 5].to_numpy() < few[HEADLINE, 5].to_numpy()).all()


def test_the_page_and_the_picture_are_what_the_record_says() -> None:
    assert RECORD
    text = PAGE.read_text(encoding="utf-8")
    assert readme.fill(text, lambda names: coverage.table(RECORD, names)) == text
    assert text.count("<!-- begin table of simulated ") == len(coverage.TABLES)
    assert charts.check(coverage.pictures(RECORD), ROOT / "results" / "pictures") == []


def test_bench_tables_says_where_the_page_is_stale(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = tmp_path / "results"
    shutil.copytree(ROOT / "results" / "simulations", results / "simulations")
    (results / published.FILE).touch()
    page = tmp_path / coverage.PAGE
    page.parent.mkdir()
    page.write_text(PAGE.read_text(encoding="utf-8").replace("94.7", "95.0"), encoding="utf-8")
    assert refresh.refresh([], results, check=True, dirty=False) == 1
    out = capsys.readouterr().out
    assert str(page) in out
    assert coverage.PICTURE in out
    assert refresh.refresh([], results, check=False, dirty=False) == 0
    assert page.read_bytes() == PAGE.read_bytes()
    assert refresh.refresh([], results, check=True, dirty=False) == 0


def test_a_table_that_there_is_not_is_one_sentence() -> None:
    assert RECORD
    for names in (["simulated", "nonsense"], ["smoke"]):
        with pytest.raises(BenchError, match="asks for a table of"):
            coverage.table(RECORD, names)


def test_a_record_is_written_and_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = [Entry("a", HEADLINE, "coverage", 3, 10, 0.9)]
    monkeypatch.setattr(simulation, "simulate", lambda config: made)
    assert coverage.main([str(tmp_path)]) == 0
    loaded = coverage.load(tmp_path)
    assert loaded
    assert coverage.frame(loaded).to_dict("records") == [made[0]._asdict()]
    assert coverage.load(tmp_path / "nowhere") is None
    (tmp_path / coverage.FILE).write_text("{}")
    with pytest.raises(BenchError, match="is not a record of simulations"):
        coverage.load(tmp_path)
    (tmp_path / "file").touch()
    assert coverage.main([str(tmp_path / "file")]) == 2


@pytest.mark.long
def test_the_whole_simulation_gives_the_record_again() -> None:
    rows: Any = entries().set_index(["scenario", "what", "kind", "seeds"])["value"]
    for entry in simulate():
        recorded = rows[entry.scenario, entry.what, entry.kind, entry.seeds]
        assert entry.value == pytest.approx(recorded, abs=0.002), "but for a rounding that differs between machines"
