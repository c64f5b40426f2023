"""Solved seeds, ages, loads, ablations and diagnostics in tables, from made-up records."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from synthetic import SLOTLESS, ablated, by_instance, copied, diagnosed, evaluation, points, probed, record, spec

from bench import frames, pictures, references, tables
from bench.cells import milliseconds, seeds
from bench.memory_tables import ablations, diagnostics
from bench.seeding import generator
from bench.tables import first_reached, frame, render, summary, t_half_width
from bench.tasks.probe import PairedAssociates


@pytest.fixture(autouse=True)
def made_up_fields(monkeypatch: pytest.MonkeyPatch) -> None:
    """Synthetic records have made-up fields: compared with registered defaults, all of them would be named."""
    monkeypatch.setattr(frames, "_changed", lambda method, values: set())


def copies(curves: dict[int, list[float | None]], **budget: Any) -> list[dict[str, Any]]:
    """A record of copying a seed; the one whose curve ends in None diverged."""
    made = []
    for seed, values in curves.items():
        cell = spec("ntm", "copy", seed, fields={}, budget=budget)
        parts = [] if values and values[-1] is None else [evaluation(cell, [values[-1] or 1.0] * 2)]
        made.append(record(cell, *parts, curve=points(values)))
    return made


def words(text: str) -> str:
    return " ".join(text.split())


def row(text: str, start: str) -> list[str]:
    """The cells of the table row whose first cell is this."""
    (line,) = (line for line in text.splitlines() if line.startswith(f"| {start} "))
    return [cell.strip() for cell in line.strip("|").split("|")]


# --------------------------------------------------------------------------------------------------------------- solved


def test_solved_is_the_first_validation_as_good_as_the_threshold() -> None:
    fall, rise = points([5.0, 0.1, 7.0, 0.01]), points([0.2, None, 0.95, 1.0])
    assert first_reached(fall, 0.1, higher_is_better=False) == 200, "as good counts, though it got worse again"
    assert first_reached(fall, 0.001, higher_is_better=False) is None
    assert first_reached(rise, 0.95, higher_is_better=True) == 300
    assert first_reached([], 0.95, higher_is_better=True) is None


def test_seeds_that_solve_a_task_are_counted_and_failures_named() -> None:
    curves = {0: [9.0, 0.05], 1: [0.05, 0.05], 2: [9.0, 9.0], 3: [0.01, None], 4: [9.0, 9.0, 9.0, 0.05]}
    (overall,) = summary(frame(copies(curves))).to_dict("records")
    assert (overall["n_solved"], overall["n_tried"], overall["unsolved"]) == (3, 5, "2 3")
    assert (overall["steps_to_solve"], overall["steps_to_solve_min"], overall["steps_to_solve_max"]) == (200, 100, 400)
    assert overall["threshold"] == 0.1
    text = render(copies(curves), "t")["t.md"]
    assert "| 3 of 5 | 200 (100–400) |" in words(text)
    assert "Diverged: seed 3 of ntm. Not solved (never 0.1 bits per sequence or less in validation): seeds 2, 3" in text


def test_what_was_not_validated_or_has_no_threshold_is_not_judged() -> None:
    for records in (copies({0: [9.0]}, validations=0), [r for r in probed([0]) if r["spec"]["budget"]["steps"] == 0]):
        table = summary(frame(records))
        assert set(table["n_tried"]) == {0}
        assert "solved" not in render(records, "t")["t.md"].lower()


def test_only_the_setting_that_was_trained_is_judged() -> None:
    table = summary(frame(copied()))
    judged = table[table["n_tried"] > 0]
    assert set(judged["setting"]) == {"length=0"}
    assert set(judged["method"]) == set(table["method"]) - {"chance"}


# ---------------------------------------------------------------------------------------------------------------- costs


def test_a_step_costs_processor_time_where_it_is_known() -> None:
    cell = spec("ntm", "copy", fields={})  # 2,000 steps
    both, wall = (record(cell, evaluation(cell, [1.0] * 2), cost=c, train_s=100.0) for c in ({"train_cpu_s": 30.0}, {}))
    (known,), (unknown,) = (summary(frame([r])).to_dict("records") for r in (both, wall))
    assert (known["ms_step"], known["cpu_ms_step"]) == (50, 15)
    assert unknown["ms_step"] == 50
    assert math.isnan(unknown["cpu_ms_step"])
    assert "| CPU ms a step |" in words(render([both], "t")["t.md"])
    assert "| wall ms a step |" in words(render([wall], "t")["t.md"])
    assert "wall ms" not in render([both], "t")["t.md"]
    for env in ({"cuda": "12.8"}, {"resumed": [{"step": 1000}]}):
        other = record(cell, evaluation(cell, [1.0] * 2), cost={"train_cpu_s": 30.0})
        other["env"] |= env
        text = words(render([other], "t")["t.md"])
        assert "| wall ms a step |" in text, "beside a GPU it says nothing; of a resumed run a part may be left out"
        assert "CPU ms" not in text


@pytest.mark.parametrize(("value", "text"), [(1234.5, "1,234"), (31.6, "32"), (3.16, "3.2"), (0.4567, "0.46")])
def test_milliseconds(value: float, text: str) -> None:
    assert milliseconds(value) == text


# ------------------------------------------------------------------------------------------------------ missing, named


@pytest.mark.parametrize(
    ("numbers", "text"),
    [([3], "seed 3"), ([2, 0], "seeds 0, 2"), ([0, 1], "seeds 0, 1"), ([0, 1, 2, 3, 7, 8], "seeds 0–3, 7, 8")],
)
def test_seeds_in_words(numbers: list[int], text: str) -> None:
    assert seeds(numbers) == text


def test_what_is_missing_is_said_once_a_method_and_takes_no_rows() -> None:
    records = probed(methods=("ntm", "dnc"))
    more = probed(range(5), methods=("ntm", "dnc", "sam", "hcam"))
    text = render(records, "t", [r["spec"] for r in more])["t.md"]
    assert text.count("Missing:") == 1
    assert "Missing: seeds 3, 4 of chance, dnc, ntm, pixel-knn; seeds 0–4 of hcam, sam." in text
    assert not [line for line in text.splitlines() if line.startswith("| sam")]


def test_missing_and_recorded_cells_of_a_method_are_one_row() -> None:
    """A record's fields come sorted, those of an expected cell as they are declared."""
    kept = [record(c, evaluation(c, [0.5] * 2)) for c in [spec("ntm", "copy", 0, fields={"slots": 8, "a": 1})]]
    expected = [spec("ntm", "copy", seed, fields={"slots": n, "a": 1}) for seed in (0, 1) for n in (8, 16)]
    backwards = [s | {"method": s["method"] | {"fields": dict(reversed(s["method"]["fields"].items()))}}
                 for s in expected]  # fmt: skip
    table = summary(frame(kept, backwards))
    assert sorted(table["method"]) == ["ntm (slots=16)", "ntm (slots=8)"]
    assert dict(zip(table["method"], table["missing"], strict=True)) == {"ntm (slots=8)": "1", "ntm (slots=16)": "0 1"}


def test_a_setting_that_diverged_alone_is_named() -> None:
    cell = spec("ntm", "copy", fields={}, task_fields={"also": ["length=40"]})
    lost = record(cell, *(evaluation(cell, [0.05] * 2, setting={"bits": 8, "length": n, "longest": 20})
                          for n in (0, 40)))  # fmt: skip
    lost["result"]["evaluations"]["length=40"] |= {"mean": None, "per_episode": []}
    lost["result"]["diverged"] = ["length=40"]
    assert "Diverged: seed 0 of ntm at length=40." in render([lost], "t")["t.md"]


def test_methods_are_named_by_what_tells_them_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "_changed", lambda method, values: {"clip"} & set(values))
    cells = [spec("ntm", "copy", fields={"clip": 10.0, "slots": n}) for n in (8, 16)]
    cells.append(spec("dnc", "copy", fields={"clip": 10.0}))
    made = frame([record(c, evaluation(c, [0.5] * 2)) for c in cells])
    assert set(made["method"]) == {"dnc (clip=10)", "ntm (clip=10, slots=16)", "ntm (clip=10, slots=8)"}
    assert set(made["label"]) == {"dnc", "ntm (slots=16)", "ntm (slots=8)"}
    text = render([record(c, evaluation(c, [0.5] * 2)) for c in cells], "t")["t.md"]
    assert "Not at their defaults:\n\n- dnc: clip=10\n- ntm (slots=16): clip=10, slots=16\n" in text


def test_a_short_name_that_two_methods_of_a_task_have_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "_changed", lambda method, values: {"lr"})
    cells = [spec("ntm", "copy", fields={"lr": lr}, task_fields={"length": n}) for lr, n in ((0.1, 0), (0.2, 40))]
    made = frame([record(c, evaluation(c, [0.5] * 2)) for c in cells])
    assert set(made["label"]) == set(made["method"]) == {"ntm (lr=0.1)", "ntm (lr=0.2)"}


# ------------------------------------------------------------------------------------------------------ ages and loads


def test_ages_are_columns_and_loads_are_settings() -> None:
    records = probed(methods=("ntm", "lstm"))
    table = summary(frame(records))
    four = table[(table["setting"] == "load=4") & (table["method"] == "ntm")].set_index("at")
    assert list(four.index)[:6] == ["", *(f"group {k}: age {a}" for k, a in enumerate(("1", "2", "3-4", "5-8"), 1)),
                                    "group 5: age 9-16"]  # fmt: skip
    wanted = [100 * r["result"]["evaluations"]["load=4"]["by_instance"]["mean"][2] for r in records[:3]]
    assert four.loc["group 3: age 3-4", "mean"] == pytest.approx(np.mean(wanted))
    assert math.isnan(four.loc["group 5: age 9-16", "mean"]), "at load 4 no item gets so old"
    text = render(records, "t")["t.md"]
    assert "| method | load=0 (as trained) | load=2 | load=4 | load=8 | load=12 | load=16 |" in words(text)
    section = text.partition("### load=4")[2].partition("###")[0]
    assert row(section, "method") == ["method", "overall", "age 1", "age 2", "age 3-4", "age 5-8", "seeds"]
    assert row(section, "guessing, exactly")[2:6] == ["6.25"] * 4
    assert row(section, "answers behind each, a seed")[2:6] == ["100"] * 4


def test_elimination_is_what_the_best_guesser_reaches() -> None:
    """By age too: who rules out what was asked for, played out on the task's own episodes."""
    for load, fields in ((6, {"load": 6}), (0, {"most": 4}), (6, {"load": 6, "asked": 3})):
        task = PairedAssociates(**fields)
        found = references.elimination({"values": 16, "most": task.most, "load": load, "asked": task.asked})
        assert found is not None
        right: dict[int, list[float]] = {}
        overall = []
        for k in range(400):
            y = task.sample("test", 10, generator("eliminate", k)).query.y
            groups, n = task.instances(y), int((task.ages(y) == 0)[0].sum())
            asked = y.shape[1] - n
            chances = [1 / (n - j) for j in range(asked)]
            overall.append(np.mean(chances))
            for line in groups[:, n:].tolist():
                for group, chance in zip(line, chances, strict=True):
                    right.setdefault(group, []).append(chance)
        assert found[0] == pytest.approx(100 * np.mean(overall), rel=0.05)
        assert set(found[1]) == set(right)
        for group, values in right.items():
            assert found[1][group] == pytest.approx(100 * np.mean(values), abs=5 * 100 * np.std(values) /
                                                    math.sqrt(len(values)) + 1)  # fmt: skip


@pytest.mark.parametrize("fields", [{}, {"way": 5}, {"most": -1, "values": 3}, {"most": 10**9, "values": 3, "load": 2}])
def test_other_tasks_have_no_elimination_by_age(fields: dict[str, Any]) -> None:
    assert references.elimination(fields) is None


# ----------------------------------------------------------------------------------------------------------- ablations


def test_ablations_stand_side_by_side_with_the_paired_difference() -> None:
    records = ablated()
    found = ablations(frame(records))
    second = found[(found["at"] == "instance 2") & (found["method"] == "mann")].set_index("ablation")
    assert list(second.index) == ["none", "zero", "frozen", "other"]
    ours = [r["result"]["evaluations"][""]["by_instance"]["mean"][1] for r in records
            if r["spec"]["method"]["name"] == "mann"]  # fmt: skip
    assert second.loc["none", "mean"] == pytest.approx(100 * np.mean(ours[0::4]))
    pairs = [100 * (a - b) for a, b in zip(ours[0::4], ours[1::4], strict=True)]
    assert second.loc["zero", "difference"] == pytest.approx(np.mean(pairs))
    assert second.loc["zero", "difference_half_width"] == pytest.approx(t_half_width(pairs), abs=1e-9)
    assert second.loc["zero", "half_width"] > 1, "seeds differ by more than what they have in common"
    text = render(records, "t")["t.md"]
    assert "Does the memory do anything? Accuracy, %" in text
    section = text.partition("Does the memory do anything?")[2]
    assert "| mann | 2nd instance |" in words(section)
    assert "+35.00 ± 0.00" in section
    assert "| lstm | overall |" in words(section)
    assert text.count("published: Santoro et al. 2016") == 2, "beside the method and the LSTM, not beside ablations"
    written = pd.read_csv(io.StringIO(render(records, "t")["t-ablations.csv"]))
    assert len(written) == len(found)


def test_without_ablations_there_is_no_such_table() -> None:
    records = [r for r in ablated() if "ablate" not in r["spec"]["method"]["fields"]]
    assert ablations(frame(records)).empty
    assert "Does the memory do anything?" not in render(records, "t")["t.md"]
    assert "t-ablations.csv" not in render(records, "t")


def test_an_ablation_is_compared_with_its_own_method_alone() -> None:
    cells = [spec("mann", "omniglot-online", fields={"slots": n, **late}) for n in (8, 16) for late in
             ({}, {"ablate": "zero"})]  # fmt: skip
    means = (0.9, 0.5, 0.8, 0.6)
    found = ablations(frame([record(c, evaluation(c, [m] * 2, by_instance=by_instance([m, m])))
                             for c, m in zip(cells, means, strict=True)]))  # fmt: skip
    zero = found[(found["ablation"] == "zero") & (found["at"] == "")]
    assert dict(zip(zero["method"], zero["difference"].round(6), strict=True)) == {
        "mann (slots=8)": 40, "mann (slots=16)": 20,
    }  # fmt: skip


def test_only_an_ablation_recorded_still_makes_a_row() -> None:
    records = [r for r in ablated() if r["spec"]["method"]["fields"].get("ablate") == "zero"]
    found = ablations(frame(records))
    assert set(found["ablation"]) == {"zero"}
    assert found["difference"].isna().all()
    assert "nan" not in render(records, "t")["t.md"]


# --------------------------------------------------------------------------------------------------------- diagnostics


def test_diagnostics_are_means_over_seeds() -> None:
    cells = [spec("mann", "omniglot-online", seed, fields={}) for seed in range(3)]
    records = [record(c, evaluation(c, [0.5] * 2), diagnostics=diagnosed(p)) for c, p in
               zip(cells, (0.2, 0.4, 0.9), strict=True)]  # fmt: skip
    found = diagnostics(frame(records))
    precision = found[(found["number"] == "retrieval_label") & (found["age"] == "")].iloc[0]
    assert precision["value"] == pytest.approx(0.5)
    assert precision["half_width"] == pytest.approx(t_half_width([0.2, 0.4, 0.9]))
    assert (precision["chance"], precision["n_seeds"]) == (pytest.approx(0.2), 3)
    curve = found[(found["number"] == "best_head_label") & (found["age"] != "")]
    assert list(curve["age"]) == ["1", "2", "3–4", "5–8", "9–16", "17+"]
    assert list(curve["value"]) == pytest.approx([0.5 * 0.93**k for k in range(6)])
    text = render(records, "t")["t.md"]
    header = next(line for line in text.splitlines() if "strongest read finds its class, %" in line)
    assert header.count("|") - 1 <= 9
    assert "| mann | 50.0 (20.0) | 50.0 (20.0) | 10.0 (20.0) |" in words(text)
    assert "t-diagnostics.csv" in render(records, "t")


def test_a_number_that_nobody_could_measure_is_a_dash() -> None:
    cell = spec("mann", "omniglot-online", fields={})
    numbers = diagnosed(0.5)
    numbers["numbers"]["erased_label"] = {"value": None, "chance": None, "n": 0}
    numbers["forgetting"]["accuracy"][5] = None
    text = render([record(cell, evaluation(cell, [0.5] * 2), diagnostics=numbers)], "t")
    assert "| — (—) |" in words(text["t.md"])
    assert "nan" not in "".join(text.values())


def test_memories_without_addresses_have_no_row() -> None:
    found = diagnostics(frame(probed()))
    assert not set(found["label"]) & {*SLOTLESS, "chance", "pixel-knn"}


# -------------------------------------------------------------------------------------------------------------- whole


@pytest.mark.parametrize("name", ["probed", "copied", "ablated"])
def test_documents_are_the_same_in_any_order_and_name_every_record(name: str) -> None:
    few = ("mann", "sam", "lstm")
    made = {"probed": lambda: probed(methods=few), "copied": lambda: copied(methods=few), "ablated": ablated}[name]()
    expected = [r["spec"] for r in made]
    rendered = render(made, "s", expected)
    assert rendered == render(made[::-1], "s", expected[::-1])
    table = pd.read_csv(io.StringIO(rendered["s.csv"]), dtype={"records": str})
    assert {id for text in table["records"] for id in text.split()} == {r["id"] for r in made}
    assert "nan" not in rendered["s.md"]
    assert tables.headline(made)


def test_a_seed_whose_cells_differ_in_further_settings_counts_once() -> None:
    cells = [spec("lstm", "omniglot-online", seed, fields={}, task_fields={"also": also})
             for seed in range(3) for also in ([], ["way=3"])]  # fmt: skip
    made = frame([
        record(cell, *[evaluation(cell, [0.9])] * (1 + len(cell["task"]["fields"]["also"])),
               diagnostics=diagnosed(0.8), curve=points([0.1, 0.2, 0.3]))
        for cell in cells
    ])  # fmt: skip
    own = made[made["evaluation"] == ""]
    assert set(diagnostics(own)["n_seeds"]) == {3}
    chart = pictures.learning(own, "omniglot-online")
    assert chart is not None
    assert [len(line.seeds) for panel in chart.panels for line in panel.lines] == [3]
