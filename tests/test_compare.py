"""`bench compare`: one screen, the same as data, and one sentence for what cannot be compared."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from synthetic import by_step, evaluation, points, record, scored, spec

from bench import cli, comparing, frames, records, stats
from bench.comparing import Request
from bench.errors import BenchError
from bench.records import Record

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def made_up_fields(monkeypatch: pytest.MonkeyPatch) -> None:
    """Synthetic records have made-up fields: compared with registered defaults, all of them would be named."""
    monkeypatch.setattr(frames, "_changed", lambda method, values: set())


def store(folder: Path, made: list[dict[str, Any]]) -> Path:
    """A results folder with some records."""
    for content in made:
        records.write(folder, Record(**content))
    return folder


def pair(n: int = 5, task: str = "omniglot", settings: int = 1) -> list[dict[str, Any]]:
    """protonet and maml; maml costs twice as much."""
    made = []
    for seed in range(n):
        for name, mean, cost in (("protonet", 0.98, 1), ("maml", 0.95, 2)):
            for way in (5, 20, 10, 15)[:settings]:
                cell = spec(name, task, seed, fields={}, task_fields={"way": way})
                end = mean + 0.002 * seed + 0.001 * (seed * cost % 3)
                made.append(scored(cell, end, curve=points([0.5, 0.7, end], 100), params=1000 * cost,
                                   train_s=10.0 * cost))  # fmt: skip
    return made


def screen(capsys: Capture, *arguments: str | Path) -> str:
    assert cli.call(["compare", *map(str, arguments)]) == 0
    return capsys.readouterr().out


def test_the_screen_says_all_of_it(tmp_path: Path, capsys: Capture) -> None:
    text = screen(capsys, "protonet", "maml", "--results", store(tmp_path, pair()))
    assert "A protonet against B maml" in text
    for part in ("omniglot, 5-way 1-shot", "98.48", "sign flip p = 0.062 (5 seeds reach 0.062)", "effect ",
                 "(Hedges, paired)", "A is better in 100 % [48, 100] of seeds", "margin ± 0.3 pt: the interval is ab",
                 "parameters ×0.5", "training s ×0.5", "A ▁▄█", "validation 50.00 → 98.48, steps 100 to 300",
                 "protonet is better."):  # fmt: skip
        assert part in text, part
    lines = [line for line in text.splitlines() if not line.startswith("  On ")]
    assert max(map(len, lines)) <= 140, "but for the sentence it fits a terminal"
    assert len(lines) <= 24


def test_many_settings_are_a_table_alone(tmp_path: Path, capsys: Capture) -> None:
    text = screen(capsys, "protonet", "maml", "--results", store(tmp_path, pair(settings=4)))
    assert "p (of 4, Holm)" in text
    assert text.count("better") == 4
    assert "--setting NAME shows fewer in full" in text
    one = screen(capsys, "protonet", "maml", "--setting", "10-way 1-shot", "--results", tmp_path)
    assert "On omniglot, 10-way 1-shot, protonet and maml reach" in one
    assert "Holm" not in one


def test_several_tasks_are_narrowed_by_the_task(tmp_path: Path, capsys: Capture) -> None:
    more = [scored(spec(name, "lake", s, fields={}), 0.5 + 0.1 * (name == "maml")) for name in ("protonet", "maml")
            for s in range(3)]  # fmt: skip
    text = screen(capsys, "protonet", "maml", "--results", store(tmp_path, pair(settings=3) + more))
    assert "-t TASK shows fewer in full" in text


def test_the_screen_names_who_is_missing(tmp_path: Path, capsys: Capture) -> None:
    made = [r for r in pair() if (r["spec"]["method"]["name"], r["spec"]["seed"]) != ("maml", 4)]
    made.append(record(spec("protonet", "omniglot", 7, fields={})))
    made.append(scored(spec("maml", "omniglot", 7, fields={}), 0.95))
    text = screen(capsys, "protonet", "maml", "--results", store(tmp_path, made))
    assert "only A has seed 4; A diverged in seed 7 (failures are counted, and left out)" in text
    assert "cannot tell" in text
    text = screen(capsys, "protonet", "maml", "--failures", "chance", "--results", tmp_path)
    assert "A diverged in seed 7 (failures are scored as chance)" in text


def test_failures_that_cannot_be_scored_are_not_said_to_be(tmp_path: Path, capsys: Capture) -> None:
    made = [scored(spec(name, "copy", s, fields={}), 1.0 + s + 5 * (name == "lstm")) for name in ("ntm", "lstm")
            for s in range(4) if (name, s) != ("lstm", 3)]  # fmt: skip
    store(tmp_path, [*made, record(spec("lstm", "copy", 3, fields={}))])
    asked = ("ntm", "lstm", "--failures", "chance", "--results", tmp_path)
    assert "B diverged in seed 3 (what chance scores is not known here: failures are counted, and left out)" in screen(
        capsys, *asked
    )
    store(tmp_path, [scored(spec("chance", "copy"), 84.0, 1.0)])
    assert "B diverged in seed 3 (failures are scored as chance)" in screen(capsys, *asked)


def test_one_seed_says_that_there_is_no_interval(tmp_path: Path, capsys: Capture) -> None:
    text = screen(capsys, "protonet", "maml", "--results", store(tmp_path, pair(1)))
    assert "whether they differ cannot be told, because 1 seed gives no interval." in text
    assert "nan" not in text


@pytest.mark.filterwarnings("error")
def test_scores_after_different_steps_are_called_that(tmp_path: Path, capsys: Capture) -> None:
    made = []
    for seed in range(3):
        made.append(scored(spec("chance", "sinusoid", seed), 3.0))
        for name, last in (("cavia", 1), ("maml", 10)):
            cell, errors = spec(name, "sinusoid", seed, fields={}), {1: [0.4, 0.5 + seed], 10: [0.1, 0.2 + seed]}
            made.append(record(cell, evaluation(cell, errors[last], by_step=by_step(errors))))
    folder = store(tmp_path, made)
    text = screen(capsys, "cavia", "maml", "--results", folder)
    assert "A is scored after 1 of its steps and B after 10: --at 'step N' compares them after as many" in text
    for asked in (("cavia", "maml", "--at", "step 10"), ("cavia", "chance")):
        assert "is scored after" not in screen(capsys, *asked, "--results", folder)


def test_other_budgets_are_called_that(tmp_path: Path, capsys: Capture) -> None:
    made, said = [], ("A was trained for", "A was tested on")
    for seed in range(3):
        for name, steps, episodes in (("protonet", 40, 20), ("maml", 3000, 600), ("r2d2", 3000, 600)):
            cell = spec(name, "omniglot", seed, fields={})
            cell["budget"] |= {"steps": steps, "test_episodes": episodes}
            made.append(record(cell, evaluation(cell, [0.5] * episodes)))
    folder = store(tmp_path, made)
    text = screen(capsys, "protonet", "maml", "--results", folder)
    assert "A was trained for 40 steps and B for 3,000" in text
    assert "A was tested on 20 episodes and B on 600" in text
    assert not any(words in screen(capsys, "r2d2", "maml", "--results", folder) for words in said)


def test_times_of_different_devices_have_no_ratio(tmp_path: Path, capsys: Capture) -> None:
    made = pair(2)
    asked = ("protonet", "maml", "--json", "--results")
    (told,) = json.loads(screen(capsys, *asked, store(tmp_path / "one", made)))
    assert "train_s" in told["cost"]
    for each in made:
        if each["spec"]["method"]["name"] == "maml":
            each["env"]["device"] = "a GPU"
    (told,) = json.loads(screen(capsys, *asked, store(tmp_path / "two", made)))
    assert set(told["cost"]) == {"params"}


def test_json_is_the_comparison(tmp_path: Path, capsys: Capture) -> None:
    (told,) = json.loads(screen(capsys, "protonet", "maml", "--json", "--results", store(tmp_path, pair(1))))
    assert told["difference"]["low"] is None, "JSON has no NaN"
    assert told["difference"]["value"] == pytest.approx(3)
    assert told["cost"]["params"] == {"a": 1000, "b": 2000, "ratio": 0.5}
    assert told["sentence"].startswith("On omniglot")


def test_the_margin_is_a_setting(tmp_path: Path) -> None:
    store(tmp_path, pair())
    (wide,) = comparing.compare(Request("protonet", "maml", tmp_path, margin=10), quiet=True)
    assert (wide["margin"], wide["verdict"]) == (10, "equivalent")


def test_curves_are_means_over_the_seeds_compared(tmp_path: Path) -> None:
    made = frames.frame(records.load(store(tmp_path, pair(3))).records)
    (found,) = stats.compare(made, "protonet", "maml")
    steps, values = comparing.curve(made, found, "protonet")
    assert steps == [100, 200, 300]
    assert values == pytest.approx([50, 70, found.mean_a])


def test_settings_that_were_not_trained_for_have_no_curve(tmp_path: Path) -> None:
    cell = spec("protonet", "omniglot", fields={}, task_fields={"also": ["way=20"]})
    other = evaluation(cell, [0.9] * 5, setting={"way": 20, "shot": 1, "query": 15, "size": 28, "split": "vinyals"})
    one = record(cell, evaluation(cell, [0.95] * 5), other, curve=points([0.5, 0.9], 100))
    two = record(
        spec("maml", "omniglot", fields={}, task_fields={"also": ["way=20"]}), evaluation(cell, [0.9] * 5), other
    )
    made = frames.frame([one, two])
    lengths = {c.setting: len(comparing.curve(made, c, "protonet")[0]) for c in stats.compare(made, "protonet", "maml")}
    assert lengths == {"5-way 1-shot": 2, "20-way 1-shot": 0}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [(("protonett", "maml"), "there is no recorded method 'protonett'; did you mean protonet?"),
     (("protonet", "maml", "-t", "omniglott"), "there is no recorded task 'omniglott'; did you mean omniglot?"),
     (("protonet", "maml", "--setting", "6-way"), "there is no recorded setting '6-way'; there are: 5-way 1-shot"),
     (("protonet", "maml", "--at", "step 5"), "protonet has nothing at 'step 5' on omniglot; only the whole was meas"),
     (("protonet", "hausdorff"), "protonet and hausdorff share no task and setting"),
     (("protonet", "other"), "protonet and other share no seed: protonet has seeds 0–4 and other has seed 9"),
     (("maml", "maml"), "'maml' and 'maml' are the same method; name two"),
     (("protonet", "maml", "--margin", "0"), "--margin must be above zero, not 0"),
     (("protonet", "maml", "--margin", "nan"), "--margin must be above zero, not nan"),
     (("protonet", "maml", "--failures", "hidden"), "--failures must be excluded or chance, not 'hidden'")],
)  # fmt: skip
def test_what_cannot_be_compared_is_one_sentence(
    tmp_path: Path, capsys: Capture, arguments: tuple[str, ...], says: str
) -> None:
    more = [scored(spec("hausdorff", "lake"), 0.6), scored(spec("other", "omniglot", 9, fields={}), 0.6)]
    store(tmp_path, pair() + more)
    assert cli.call(["compare", *arguments, "--results", str(tmp_path)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"error: {says}")
    assert err.count("\n") == 1


def test_an_empty_store_is_one_sentence(tmp_path: Path, capsys: Capture) -> None:
    assert cli.call(["compare", "a", "b", "--results", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"error: there are no records in {tmp_path}; `bench run` makes them\n"


def test_records_of_uncommitted_code_are_compared_only_if_asked(tmp_path: Path) -> None:
    made = pair()
    for content in made:
        content["env"]["dirty"] = True
    store(tmp_path, made)
    with pytest.raises(BenchError, match="made by uncommitted code; --dirty takes them too"):
        comparing.compare(Request("protonet", "maml", tmp_path), quiet=True)
    (found,) = comparing.compare(Request("protonet", "maml", tmp_path, dirty=True), quiet=True)
    assert not math.isnan(found["p"])


def test_unreadable_records_are_named_and_left_out(tmp_path: Path, capsys: Capture) -> None:
    store(tmp_path, pair())
    (tmp_path / "runs" / "omniglot" / "maml" / "s0-000000000000.json").write_text("{")
    screen(capsys, "protonet", "maml", "--results", tmp_path)
    comparing.compare(Request("protonet", "maml", tmp_path))
    assert "it is left out" in capsys.readouterr().err
