"""Who leads a column: the same verdicts as comparing pairs one by one, and how tables show them."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import by_instance, evaluation, record, scored, spec

from bench import frames, legends, stats
from bench.leaders import standings
from bench.tables import frame, headline, render, summary

TEMPLATES = (
    stats.Comparison(margin=0.3),
    stats.Comparison(higher_is_better=False, metric="error"),
    stats.Comparison(higher_is_better=False, metric="mse", scale="ratio", margin=math.log(1.1)),
)
each = st.dictionaries(st.integers(0, 6), st.sampled_from([0.0, 1.0, 1.01, 1.3, 2.0, 2.1, 5.5, math.nan]), max_size=7)


@pytest.fixture(autouse=True)
def made_up_fields(monkeypatch: pytest.MonkeyPatch) -> None:
    """Synthetic records have made-up fields: compared with registered defaults, all of them would be named."""
    monkeypatch.setattr(frames, "_changed", lambda method, values: set())


def slowly(scores: dict[str, dict[int, float]], template: stats.Comparison) -> dict[str, tuple[str, float]]:
    """Every pair by `paired`, all of them a family: the verdict of each method against the one of the best mean."""
    up = 1 if template.higher_is_better else -1
    finite = {name: [v for v in by.values() if not math.isnan(v)] for name, by in scores.items()}
    means = {name: up * math.fsum(values) / len(values) for name, values in finite.items() if values}
    names, pairs = list(means), []
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            try:
                pairs.append(stats.paired(scores[a], scores[b], stats.Comparison(**{**vars(template), "a": a, "b": b})))
            except stats.BenchError:
                continue
    best = max(names, key=lambda name: means[name], default="")
    found = {}
    for c in stats.as_family(pairs):
        if best in (c.a, c.b):
            other, mine = (c.b, c.swapped) if c.a == best else (c.a, c)
            few = math.isnan(c.p)
            same = means[other] == means[best]
            found[other] = ("too few seeds" if few else "best" if same else mine.verdict, c.p_holm)
    words = {name: found.get(name, ("too few seeds", math.nan)) for name in names if name != best}
    told = any(word != "too few seeds" for word, _ in words.values())
    return {best: ("best", math.nan)} | words if told else {}


@settings(max_examples=300, deadline=None)
@given(st.lists(each, min_size=1, max_size=5), st.sampled_from(TEMPLATES))
def test_standings_are_those_of_pairs_compared_one_by_one(columns: list[dict[int, float]], how: Any) -> None:
    scores = dict(zip("abcde", columns, strict=False))
    expected, found = slowly(scores, how), standings(scores, how)
    assert {name: word for name, (word, _) in found.items()} == {name: word for name, (word, _) in expected.items()}
    for name, (_, p) in expected.items():
        assert found[name].p == pytest.approx(p, rel=1e-9, abs=1e-12, nan_ok=True)


def test_adding_a_method_makes_the_others_no_surer() -> None:
    rng = np.random.default_rng(0)
    two = {name: dict(enumerate(90 - 3 * k + rng.normal(size=6))) for k, name in enumerate("ab")}
    three = two | {"c": dict(enumerate(87 + rng.normal(size=6)))}
    assert standings(three, TEMPLATES[0])["b"].p > standings(two, TEMPLATES[0])["b"].p


def four(seeds: int = 5) -> list[dict[str, Any]]:
    """One that is best, one that is as good but for chance, one that is worse, one of a single seed."""
    rng = np.random.default_rng(1)
    made = [scored(spec("lone", "omniglot", 0, fields={}), 0.6)]
    for seed in range(seeds):
        for name, mean, sd in (("best", 0.955, 0.01), ("close", 0.945, 0.01), ("worse", 0.8, 0.01)):
            made.append(scored(spec(name, "omniglot", seed, fields={}), mean + sd * rng.normal()))
    return made


def shown(made: list[dict[str, Any]], column: int = 2) -> dict[str, str]:
    """A column of the first table by method."""
    lines = [line for line in render(made, "t")["t.md"].splitlines() if line.startswith("|")]
    return {cells[1].strip(): cells[column].strip() for line in lines[2:] for cells in [line.strip("|").split("|")]}


def test_the_best_is_bold_and_who_is_not_told_from_it_has_a_dot() -> None:
    found = shown(four())
    assert found["best"].startswith("**")
    assert found["best"].endswith("**")
    assert found["close"].endswith(" •")
    assert found["worse"][-1].isdigit()
    assert found["lone"].endswith(" ?")
    table = pd.read_csv(io.StringIO(render(four(), "t")["t.csv"])).set_index("method")
    assert dict(table["standing"]) == {"best": "best", "close": "cannot tell", "worse": "worse",
                                       "lone": "too few seeds"}  # fmt: skip
    assert table.loc["worse", "standing_p"] < 0.05 < table.loc["close", "standing_p"]
    text = render(four(), "t")["t.md"]
    assert legends.MARKED in text
    assert legends.UNMARKED not in text


@pytest.mark.parametrize("seeds", [1, 2])
def test_one_or_two_seeds_mark_nothing_and_say_so(seeds: int) -> None:
    text = render(four(seeds), "t")["t.md"]
    assert not set("*•?") & set("".join(shown(four(seeds)).values()))
    assert legends.UNMARKED in text
    assert legends.MARKED not in text


def test_equal_means_are_both_best() -> None:
    made = [scored(spec(name, "omniglot", seed, fields={}), 0.9) for name in ("a", "b") for seed in range(3)]
    assert [text[:2] for text in shown(made).values()] == ["**", "**"]


def test_who_failed_is_not_shown_to_be_worse_by_the_seeds_that_are_left() -> None:
    made = [scored(spec("best", "omniglot", seed, fields={}), 0.95 + 0.001 * seed) for seed in range(5)]
    made += [scored(spec("worse", "omniglot", seed, fields={}), 0.8 + 0.002 * seed) for seed in range(5)]
    assert shown(made)["worse"][-1].isdigit()
    made[0] = record(made[0]["spec"])
    assert shown(made)["worse"].endswith(" •"), "the best diverged once: the other seeds do not speak for it"


def test_a_memory_taken_away_takes_no_part() -> None:
    made = []
    for seed in range(5):
        for ablate, mean in (("none", 0.8), ("zero", 0.9)):
            made.append(scored(spec("mann", "omniglot", seed, fields={"ablate": ablate}), mean + 0.001 * seed))
        made.append(scored(spec("lstm", "omniglot", seed, fields={}), 0.7 + 0.001 * seed))
    found = shown(made)
    assert found["mann (ablate=none)"].startswith("**")
    assert found["mann (ablate=zero)"][-1].isdigit()
    table = summary(frame(made)).set_index("method")
    assert table.loc["mann (ablate=zero)", "standing"] == ""


def transductive(seeds: int = 4) -> list[dict[str, Any]]:
    made = []
    for seed in range(seeds):
        for norm, mean in (("transductive", 0.99), ("support", 0.95)):
            made.append(scored(spec("maml", "omniglot", seed, fields={"batch_norm": norm}), mean + 0.001 * seed))
        made.append(scored(spec("lstm", "omniglot", seed, fields={}), 0.7 + 0.001 * seed))
    return made


def test_transductive_figures_are_marked_everywhere_and_never_the_best() -> None:
    found = shown(transductive())
    assert found["maml (batch_norm=transductive)"].endswith(" †")
    assert found["maml (batch_norm=support)"].startswith("**")
    files = render(transductive(), "t")
    assert legends.NOT_RANKED["transductive"] in files["t.md"]
    table = pd.read_csv(io.StringIO(files["t.csv"]), keep_default_na=False).set_index("method")
    assert dict(table["apart"]) == {
        "maml (batch_norm=transductive)": "transductive", "maml (batch_norm=support)": "", "lstm": "",
    }  # fmt: skip
    assert table.loc["maml (batch_norm=transductive)", "standing"] == ""
    alone = [r for r in transductive() if r["spec"]["method"]["fields"].get("batch_norm") != "support"]
    assert "maml (batch_norm=transductive)" in set(frame(alone)["label"]), "even where nothing else tells it apart"
    assert headline([r for r in alone if "lstm" not in str(r["spec"])]).count("†") == 2, "the figure, and what it means"
    assert "†" not in headline(transductive()), "the form of a method that is ranked stands for it"
    assert "†" not in headline([r for r in transductive() if "transductive" not in str(r["spec"])])


def test_without_normalisation_nothing_is_transductive() -> None:
    """On sinusoids MAML's network has no BatchNorm, whatever the field says."""
    cell = spec("maml", "sinusoid", fields={"batch_norm": "transductive"})
    assert set(summary(frame([record(cell, evaluation(cell, [0.3]))]))["apart"]) == {""}


def test_an_oracle_is_a_bound_and_ranks_nobody() -> None:
    made = [
        scored(spec(name, "sinusoid", seed, fields={}), mean * (1 + 0.01 * seed), metric="mse")
        for seed in range(4) for name, mean in (("gp", 1e-14), ("cnp", 0.1), ("chance", 4.0))
    ]  # fmt: skip
    found = shown(made)
    assert found["gp"].endswith(" ‡")
    assert found["cnp"].startswith("**")
    assert legends.NOT_RANKED["oracle"] in render(made, "t")["t.md"]
    assert headline(r for r in made if r["spec"]["method"]["name"] != "chance").count("‡") == 2, "and what it means"
    assert "gp" not in headline(made), "two others are ranked"


def test_columns_have_leaders_of_their_own() -> None:
    """One memory is better at first and the other later."""
    made = []
    for seed in range(4):
        for name, means in (("a", [0.4, 0.5]), ("b", [0.2, 0.9])):
            cell = spec(name, "omniglot-online", seed, fields={})
            parts = by_instance([m + 0.001 * seed * (2 if name == "a" else 1) for m in means])
            made.append(record(cell, evaluation(cell, [0.6 + 0.001 * seed], by_instance=parts)))
    table = summary(frame(made)).set_index(["at", "method"])["standing"]
    assert table["instance 1", "a"] == table["instance 2", "b"] == "best"
    assert table["instance 1", "b"] == table["instance 2", "a"] == "worse"
    assert table["", "a"] == table["", "b"] == "best", "equal overall"
