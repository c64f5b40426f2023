"""Frames, summaries and tables from made-up records."""

from __future__ import annotations

import io
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from synthetic import by_instance, by_step, evaluation, points, record, scored, showcase, spec

from bench import frames, tables
from bench.cells import number, plus_minus
from bench.records import Record
from bench.references import ceiling, guessing
from bench.stats import template
from bench.tables import episode_half_width, frame, render, summary, t_half_width
from bench.tasks.glyphs import GlyphsOnline
from bench.tasks.sinusoid import Sinusoid


@pytest.fixture(autouse=True)
def made_up_fields(monkeypatch: pytest.MonkeyPatch) -> None:
    """Synthetic records have made-up fields: compared with registered defaults, all of them would be named."""
    monkeypatch.setattr(frames, "_changed", lambda method, values: set())


def protonets(means: list[float], **more: Any) -> list[dict[str, Any]]:
    return [scored(spec("protonet", "omniglot", seed, fields={}), mean, **more) for seed, mean in enumerate(means)]


def overall(records: list[dict[str, Any]]) -> pd.DataFrame:
    table = summary(frame(records))
    return table[table["at"] == ""].set_index("method")


# ------------------------------------------------------------------------------------------------------------ intervals


def test_t_interval_is_scipys() -> None:
    values = [97.1, 98.4, 96.5, 97.7, 99.0]
    low, high = stats.t.interval(0.95, 4, np.mean(values), stats.sem(values))
    assert t_half_width(values) == pytest.approx((high - low) / 2, rel=1e-12)
    assert t_half_width([1.0, 2.0, 3.0]) == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)


@pytest.mark.parametrize("values", [[], [5.0], [5.0, 6.0]])
def test_fewer_than_three_seeds_or_two_episodes_have_no_interval(values: list[float]) -> None:
    assert math.isnan(t_half_width(values))
    assert math.isnan(episode_half_width(values)) == (len(values) < 2)


def test_equal_values_have_an_interval_of_zero() -> None:
    scores = [0.05] * 20
    assert np.std(scores, ddof=1) > 0, "their rounded mean is another number"
    assert episode_half_width(scores) == t_half_width(scores) == 0


def test_episode_interval_is_what_papers_print() -> None:
    scores = [0.0, 1.0, 1.0, 0.0]
    assert episode_half_width(scores) == pytest.approx(1.96 * math.sqrt(1 / 3) / 2)


def test_summary_is_over_seeds_and_episode_interval_a_mean_of_single_seeds() -> None:
    records = protonets([0.9, 0.94, 0.95])
    row = overall(records).loc["protonet"]
    widths = [episode_half_width(r["result"]["evaluations"][""]["per_episode"]) for r in records]
    assert row["mean"] == pytest.approx(93)
    assert row["half_width"] == pytest.approx(t_half_width([90, 94, 95]))
    assert row["episode_half_width"] == pytest.approx(100 * np.mean(widths))
    assert (row["n_seeds"], row["seeds"]) == (3, "0 1 2")


# --------------------------------------------------------------------------------------------------------------- frames


def test_frame_has_a_row_a_setting() -> None:
    cell = spec("protonet", "omniglot", fields={}, task_fields={"also": ["way=20"]})
    other = spec("protonet", "omniglot", fields={}, task_fields={"way": 20})
    made = frame([record(cell, evaluation(cell, [0.9, 1.0]), evaluation(other, [0.5, 0.6, 0.7]))])
    assert list(made["setting"]) == ["5-way 1-shot", "20-way 1-shot"]
    assert list(made["evaluation"]) == ["", "way=20"]
    assert list(made["n_episodes"]) == [2, 3]
    assert list(made["mean"]) == pytest.approx([0.95, 0.6])
    assert made["path"][0] == f"runs/omniglot/protonet/s0-{made['id'][0]}.json"


def test_frame_takes_records_and_dicts() -> None:
    plain = showcase()
    assert frame([Record(**r) for r in plain]).equals(frame(plain))


def test_what_was_trained_elsewhere_is_another_method() -> None:
    five = spec("protonet", "omniglot", fields={}, task_fields={"also": ["way=20"]})
    twenty = spec("protonet", "omniglot", fields={}, task_fields={"way": 20})
    made = frame([record(five, evaluation(five, [0.9]), evaluation(twenty, [0.5])), scored(twenty, 0.6)])
    there = made[made["setting"] == "20-way 1-shot"]
    assert sorted(there["method"]) == ["protonet", "protonet (trained way=5)"]


def test_differing_fields_name_methods() -> None:
    cells = [spec("mann", "omniglot", fields={"slots": slots, "width": 40}) for slots in (128, 256)]
    cells.append(spec("mann", "omniglot", 1, fields={"slots": 128, "width": 40}))
    made = frame([scored(cell, 0.5) for cell in cells])
    assert list(made["method"]) == ["mann (slots=128)", "mann (slots=128)", "mann (slots=256)"]


def test_budgets_are_not_averaged() -> None:
    cells = [spec("mann", "omniglot", steps, fields={}, budget={"steps": steps}) for steps in (100, 200)]
    assert len(overall([scored(cell, 0.5) for cell in cells])) == 2


def test_late_fields_name_methods_only_where_they_are() -> None:
    cells = [spec("mann", "omniglot", fields={}), spec("mann", "omniglot", fields={"norm": "layer"})]
    assert set(frame([scored(c, 0.5) for c in cells])["method"]) == {"mann", "mann (norm=layer)"}


def test_fields_of_the_task_name_settings() -> None:
    cells = [spec("mann", "omniglot", fields={}, task_fields={"split": split}) for split in ("vinyals", "random1200")]
    made = frame([scored(c, 0.5) for c in cells])
    assert set(made["setting"]) == {"5-way 1-shot, split=vinyals", "5-way 1-shot, split=random1200"}
    assert set(made["method"]) == {"mann"}


def test_settings_sort_as_numbers() -> None:
    cells = [spec("mann", "omniglot", fields={}, task_fields={"way": way}) for way in (20, 5, 100)]
    made = frame([scored(c, 0.5) for c in cells])
    assert list(made["setting"]) == ["5-way 1-shot", "20-way 1-shot", "100-way 1-shot"]


def test_no_records_make_an_empty_frame_with_all_columns() -> None:
    made = frame([])
    assert len(made) == 0
    assert set(made.columns) == set(frame(showcase()).columns)
    assert "There are no records." in render([], "empty")["empty.md"]


# ---------------------------------------------------------------------------------- what is missing, diverged, left out


def test_diverged_records_count_and_do_not_average() -> None:
    records = [*protonets([0.9, 0.94]), record(spec("protonet", "omniglot", 2, fields={}))]
    row = overall(records).loc["protonet"]
    assert row["mean"] == pytest.approx(92)
    assert (row["n_seeds"], row["diverged"]) == (2, "2")
    text = render(records, "t")["t.md"]
    assert "2 cells recorded, 0 missing, 1 diverged." in text
    assert "Diverged: seed 2 of protonet." in text


def test_only_diverged_records_still_make_a_table() -> None:
    text = render([record(spec("protonet", "omniglot", fields={}))], "t")["t.md"]
    assert "| 5-way 1-shot | protonet |" in " ".join(text.split())
    assert "0 cells recorded, 0 missing, 1 diverged." in text


def test_a_diverged_record_joins_its_settings() -> None:
    fields = {"also": ["way=20"]}
    ok, bad = (spec("protonet", "omniglot", seed, fields={}, task_fields=fields) for seed in (0, 1))
    twenty = spec("protonet", "omniglot", fields={}, task_fields={"way": 20})
    table = overall([record(ok, evaluation(ok, [0.9]), evaluation(twenty, [0.5])), record(bad)])
    assert list(table["setting"]) == ["5-way 1-shot", "20-way 1-shot"]
    assert list(table["diverged"]) == ["1", "1"]


def test_seeds_that_diverged_late_count_where_they_have_scores() -> None:
    """Without their scores after one step, those that are left would look better than all five were."""
    cells = [spec("maml", "sinusoid", seed, fields={}) for seed in range(3)]
    whole = [
        record(c, evaluation(c, [0.2], by_step=by_step({1: [v], 10: [0.2]})))
        for c, v in zip(cells[:2], (0.4, 0.6), strict=True)
    ]
    lost = record(cells[2], evaluation(cells[2], [0.2], by_step=by_step({1: [2.0]})))
    lost["result"]["evaluations"][""] |= {"mean": None, "per_episode": []}
    lost["result"]["diverged"] = [""]
    table = summary(frame([*whole, lost])).set_index("at")
    assert table.loc["step 1", "mean"] == pytest.approx(1)
    assert list(table["n_seeds"]) == [2, 3, 2]
    assert list(table["diverged"]) == ["2", "", "2"]
    text = " ".join(render([*whole, lost], "t")["t.md"].split())
    assert "1.0 ± 2.2 (3 seeds)" in text
    assert "Diverged: seed 2 of maml." in text


def test_missing_cells_are_counted() -> None:
    records = protonets([0.9, 0.94])
    expected = [spec("protonet", "omniglot", seed, fields={}) for seed in range(4)]
    text = render(records, "t", expected)["t.md"]
    assert "2 cells recorded, 2 missing, 0 diverged." in text
    assert "Missing: seeds 2, 3 of protonet." in text


def test_records_outside_the_suite_are_left_out() -> None:
    records = protonets([0.9, 0.5])
    assert render(records, "t", [records[0]["spec"]]) == render(records[:1], "t", [records[0]["spec"]])


def test_unequal_seeds_are_told() -> None:
    records = [*protonets([0.9, 0.94, 0.92]), scored(spec("chance", "omniglot", 1), 0.2)]
    text = render(records, "t")["t.md"]
    assert "Seeds differ (seeds 0–2 in all): only seed 1 of chance." in text
    assert "Seeds differ" not in render(protonets([0.9, 0.94]), "t")["t.md"]
    expected = [*(r["spec"] for r in records), spec("mann", "omniglot", fields={})]
    text = render(records, "t", expected)["t.md"]
    assert "Missing: seed 0 of mann. Seeds differ (seeds 0–2 in all): only seed 1 of chance." in text, (
        "mann has no seeds to differ"
    )


def test_dirty_records_are_left_out_unless_asked() -> None:
    records = [*protonets([0.9]), scored(spec("protonet", "omniglot", 1, fields={}), 0.5, dirty=True)]
    expected = [r["spec"] for r in records]
    text = render(records, "t", expected)["t.md"]
    assert "Left out: 1 record made by uncommitted code." in text
    assert "1 cell recorded, 0 missing" in text
    assert "90.00" in text
    assert "70.00" in render(records, "t", expected, dirty=True)["t.md"]


@pytest.mark.parametrize("newer", [(2, 1), (1, 2)])
def test_only_the_newest_version_is_shown(newer: tuple[int, int]) -> None:
    old, new = (spec("protonet", "omniglot", fields={}, versions=v) for v in ((1, 1), newer))
    text = render([scored(old, 0.5), scored(new, 0.9)], "t")["t.md"]
    assert "90.00" in text
    assert "50.00" not in text
    assert "(version" not in text
    assert "Left out: 1 record of older versions" in text


# --------------------------------------------------------------------------------------------------- what tables say


def test_one_seed_prints_no_interval() -> None:
    line = next(line for line in render(protonets([0.9]), "t")["t.md"].splitlines() if "protonet" in line)
    assert "| 90.00 |" in " ".join(line.split())


def test_published_figures_stand_beside_ours() -> None:
    text = render(protonets([0.9, 0.91]), "t")["t.md"]
    assert "98.8" in text
    assert "Snell et al. 2017, Table 1 (arXiv:1703.05175)" in text
    assert "training way 5 (paper 60)" in text
    row = overall(protonets([0.9, 0.91])).loc["protonet"]
    assert (row["published"], row["same_protocol"]) == (98.8, "no")


def test_online_tables_are_by_instance_with_counts_and_ceiling() -> None:
    cells = [spec("mann", "omniglot-online", seed, fields={}) for seed in (0, 1)]
    means = [0.3, 0.8, 0.9, 0.91, 0.92, 0.93, 0.94, 0.95, 0.96, 0.98]
    records = [record(c, evaluation(c, [0.8, 0.9], by_instance=by_instance(means))) for c in cells]
    table = summary(frame(records)).set_index("at")
    assert list(table.index) == ["", *(f"instance {k}" for k in (1, 2, 3, 4, 5, 10))]
    assert table.loc["instance 2", "mean"] == pytest.approx(80)
    assert table.loc["instance 2", "count"] == 2 * 480
    assert table.loc["instance 2", "published"] == 82.8
    text = " ".join(render(records, "t")["t.md"].split())
    assert "| ceiling by elimination | | 45.67 |" in text
    assert "| answers behind each, a seed | | 500 | 480 |" in text
    assert "| guessing, exactly | | 20.00 |" in text
    assert "published: Santoro et al. 2016, Table 1" in text


def test_an_instance_that_never_came_is_no_number() -> None:
    cell = spec("mann", "omniglot-online", fields={})
    records = [record(cell, evaluation(cell, [0.8], by_instance=by_instance([0.3, None])))]
    table = summary(frame(records)).set_index("at")
    assert math.isnan(table.loc["instance 2", "mean"])
    assert "nan" not in render(records, "t")["t.md"]


@pytest.mark.parametrize(("way", "top"), [(5, 45.67), (10, 29.29), (15, 22.12), (20, 17.99)])
def test_ceiling_by_elimination(way: int, top: float) -> None:
    assert ceiling({"way": way}) == pytest.approx(top, abs=0.005)
    assert guessing({"way": way}) == pytest.approx(100 / way)
    assert ceiling({"way": way, "labels": "string"}) is None
    assert guessing({"way": way, "labels": "string"}) == pytest.approx(0.032)
    for other in (-1, 0, 2.5, "many", [5], None, 10**18):
        assert guessing({"way": other}) is ceiling({"way": other}) is None


def test_labels_drawn_among_more_are_harder_to_guess() -> None:
    task = GlyphsOnline(way=3, among=7, length=30)
    y = next(task.episodes("test", 10, 0)).query.y
    assert len(y.unique()) > 3
    assert guessing({"way": 3, "among": 7}) == pytest.approx(100 / 7)
    assert ceiling({"way": 3, "among": 7}) == pytest.approx(100 * (1 / 7 + 1 / 6 + 1 / 5) / 3)
    assert ceiling({"way": 3, "among": 0}) == ceiling({"way": 3})


def test_sinusoid_is_by_gradient_steps() -> None:
    cell = spec("maml", "sinusoid", fields={}, task_fields={"shot": 5})
    steps = by_step({0: [3.0, 4.0], 1: [0.6, 0.8], 5: [0.4, 0.4], 10: [0.3, 0.35]})
    table = summary(frame([record(cell, evaluation(cell, [0.6, 0.8], by_step=steps))])).set_index("at")
    assert list(table.index) == ["", "step 0", "step 1", "step 5", "step 10"]
    assert table.loc["step 1", "mean"] == pytest.approx(0.7)
    assert list(table["published"].dropna()) == [0.67, 0.38, 0.35]
    assert math.isnan(table.loc["", "published"])


def test_kin_stand_beside_the_figures_of_their_own_paper() -> None:
    cell = spec("maml", "sinusoid", fields={"rates": "each"}, task_fields={"shot": 5})
    found = evaluation(cell, [0.4, 0.5], by_step=by_step({1: [0.4, 0.5]}))
    text = render([record(cell, found)], "t")["t.md"]
    assert "Finn et al. 2017" not in text
    assert "| 0.9 ± 0.16 |" in re.sub(" +", " ", text)


def test_lake_is_an_error_by_run() -> None:
    cell = spec("hausdorff", "lake")
    scores = [1 - k / 20 for k in range(20)]
    records = [record(cell, evaluation(cell, scores))]
    table = summary(frame(records)).set_index("at")
    assert table.loc["", "mean"] == pytest.approx(100 * np.mean([k / 20 for k in range(20)]))
    assert table.loc["run 4", "mean"] == pytest.approx(15)
    assert table.loc["", "published"] == 38.8
    assert "Error by run, %:" in render(records, "t")["t.md"]


def test_lakes_runs_that_all_failed_are_no_figures() -> None:
    table = summary(frame([record(spec("hausdorff", "lake"))]))
    assert table["mean"].isna().all()
    assert "—" in render([record(spec("hausdorff", "lake"))], "t")["t.md"]


def test_better_methods_come_first() -> None:
    accuracy = [scored(spec(name, "omniglot", fields={}), mean) for name, mean in (("a", 0.3), ("b", 0.8))]
    error = [scored(spec(name, "lake", fields={}), mean) for name, mean in (("a", 0.3), ("b", 0.8))]
    loss = [scored(spec(name, "sinusoid", fields={}), mean) for name, mean in (("a", 3.0), ("b", 0.8))]
    for records in (accuracy, error, loss):
        assert list(overall(records).index) == ["b", "a"]


@pytest.mark.parametrize(
    ("value", "metric", "text"),
    [
        (38.75, "error", "38.75"),
        (100.0, "accuracy", "100.00"),
        (0.67, "mse", "0.670"),
        (1.128, "mse", "1.13"),
        (12.34, "mse", "12.3"),
        (1234.5, "mse", "1234"),
        (0.0, "mse", "0.00"),
        (0.00123, "mse", "0.00123"),
        (math.nan, "mse", "—"),
    ],
)
def test_numbers(value: float, metric: str, text: str) -> None:
    assert number(value, metric) == text


@pytest.mark.parametrize(
    ("value", "half", "metric", "least", "text"),
    [
        (98.0437, 0.4619, "accuracy", math.nan, "98.04 ± 0.46"),
        (93.951, 1.497, "accuracy", 0.18, "94.0 ± 1.5"),
        (65.13, 12.4, "accuracy", math.nan, "65 ± 12"),
        (99.9871, 0.0123, "accuracy", math.nan, "99.99 ± 0.01"),
        (20.0, 0.0, "accuracy", math.nan, "20.00 ± 0.00"),
        (86.4712, math.nan, "accuracy", 1.34, "86.5"),
        (86.4712, math.nan, "accuracy", math.nan, "86.47"),
        (0.32201, 0.12928, "mse", math.nan, "0.32 ± 0.13"),
        (1234.5, 512.0, "mse", math.nan, "1230 ± 510"),
        (math.nan, math.nan, "mse", math.nan, "—"),
    ],
)
def test_figures_are_rounded_by_their_uncertainty(
    value: float, half: float, metric: str, least: float, text: str
) -> None:
    assert plus_minus(value, half, metric, least) == text


def test_text_of_others_stays_text() -> None:
    name = "a|b<img src=x>\n$x$"
    text = render([scored(spec("mann", "omniglot", fields={"note": note}), 0.5) for note in (name, "plain")], "t")[
        "t.md"
    ]
    assert "<img" not in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.replace("\\|", "").count("|") for line in rows}) == 1


# ---------------------------------------------------------------------------------------------------------------- files


def test_the_same_records_give_the_same_bytes_in_any_order() -> None:
    records = showcase()
    expected = [r["spec"] for r in records]
    assert render(records, "s", expected) == render(records[::-1], "s", expected[::-1])


def test_every_figure_is_traced_to_records() -> None:
    records = showcase()
    table = pd.read_csv(io.StringIO(render(records, "s")["s.csv"]), dtype={"records": str})
    assert {id for text in table["records"] for id in text.split()} == {r["id"] for r in records}
    for row in table[table["at"] == ""].itertuples():
        assert len(str(row.records).split()) >= row.n_seeds


def test_stale_files_are_found_and_written(tmp_path: Path) -> None:
    rendered = render(protonets([0.9, 0.91]), "s")
    folder = tmp_path / "tables"
    assert tables.check(rendered, folder) == ["s.csv", "s.md"]
    assert tables.write(rendered, folder) == ["s.csv", "s.md"]
    assert tables.check(rendered, folder) == []
    newer = render(protonets([0.9, 0.92]), "s")
    assert tables.check(newer, folder) == ["s.csv", "s.md"]
    (folder / "s.md").write_text(rendered["s.md"].replace("±", "+-"))
    assert tables.write(rendered, folder) == ["s.md"]


def test_headline_is_one_table() -> None:
    text = tables.headline(showcase(), methods=["mann", "maml", "hausdorff"])
    lines = text.splitlines()
    assert all(line.startswith("|") for line in lines)
    assert {line.split("|")[3].strip() for line in lines[2:]} == {"mann", "maml", "hausdorff"}
    assert "5-way, 2nd instance" in text


def test_the_headline_has_the_best_two_of_each_place() -> None:
    steps = {"a": (0.5, 0.1), "b": (0.4, 0.2), "c": (0.3, 0.3), "d": (0.2, 0.4), "e": (0.1, 0.5)}
    made = []
    for name, (first, tenth) in steps.items():
        cell = spec(name, "sinusoid", fields={}, task_fields={"shot": 5})
        made.append(record(cell, evaluation(cell, [tenth] * 2, by_step=by_step({1: [first] * 2, 10: [tenth] * 2}))))
    rows = [[cell.strip() for cell in line.split("|")] for line in tables.headline(made).splitlines()[2:]]
    assert [row[3] for row in rows if "1 step" in row[2]] == ["e", "d"]
    assert [row[3] for row in rows if "10 steps" in row[2]] == ["a", "b"]


def test_the_headline_has_one_form_of_a_method() -> None:
    made = [scored(spec("maml", "omniglot", fields={"order": order}), score)
            for order, score in (("first", 0.97), ("second", 0.96))]  # fmt: skip
    made.append(scored(spec("zzz", "omniglot", fields={}), 0.2))
    rows = [[cell.strip() for cell in line.split("|")] for line in tables.headline(made).splitlines()[2:]]
    assert [row[3] for row in rows] == ["maml (order=first)", "zzz"]


def test_the_headline_has_no_method_whose_memory_was_taken_away() -> None:
    made = [scored(spec("mann", "omniglot-online", fields={"ablate": ablate}), score)
            for ablate, score in (("none", 0.8), ("zero", 0.95))]  # fmt: skip
    text = tables.headline(made)
    assert "80.00" in text
    assert "ablate" not in text


def test_costs_of_different_devices_have_no_mean() -> None:
    cells = [spec("maml", "omniglot", fields={}, seed=seed) for seed in range(2)]
    one, other = (scored(cell, 0.9, train_s=seconds) for cell, seconds in zip(cells, (300.0, 30.0), strict=True))
    (row,) = summary(frame([one, other])).to_dict("records")
    assert (row["train_s"], row["device"]) == (165, "a processor")
    assert "| on |" not in " ".join(render([one, other], "t")["t.md"].split())
    other["env"]["device"] = "a GPU"
    (row,) = summary(frame([one, other])).to_dict("records")
    assert math.isnan(row["train_s"])
    assert math.isnan(row["ms_step"])
    assert row["params"] == 1000
    beside = scored(spec("protonet", "omniglot", fields={}), 0.8, train_s=60.0)
    text = " ".join(render([one, other, beside], "t")["t.md"].split())
    assert "a GPU or a processor |" in text
    assert "| 1 m 00 s | a processor |" in text
    one["env"]["resumed"] = [{"step": 1, "device": "a GPU"}]
    (row,) = summary(frame([one])).to_dict("records")
    assert row["device"] == "a GPU and a processor"
    assert math.isnan(row["ms_step"])


def test_the_headline_has_what_takes_no_steps_beside_what_does() -> None:
    steps, plain = spec("maml", "sinusoid", fields={}), spec("cnp", "sinusoid", fields={})
    made = [record(steps, evaluation(steps, [0.5], by_step=by_step({1: [0.5], 10: [0.4]}))), scored(plain, 0.01, 1.0)]
    rows = [[cell.strip() for cell in line.split("|")] for line in tables.headline(made).splitlines()[2:]]
    assert {(row[2], row[3]) for row in rows if len(row) > 3} == {
        ("10-shot, 1 step", "maml"), ("10-shot, 10 steps", "maml"), ("10-shot", "cnp"),
    }  # fmt: skip


def test_the_headline_counts_what_diverged() -> None:
    made = [scored(spec("protonet", "omniglot", s, fields={}), 0.97) for s in range(3)]
    made += [record(spec("protonet", "omniglot", s, fields={})) for s in (3, 4)]
    assert "| 3 (2 diverged) |" in tables.headline(made)


def test_what_is_missing_is_measured_as_its_task_is() -> None:
    cell = spec("maml", "sinusoid", fields={})
    for recorded in ([], [record(spec("chance", "sinusoid"), evaluation(cell, [4.0]))]):
        table = summary(frame(recorded, [cell]))
        assert set(table["metric"]) == {Sinusoid.metric}


def test_a_missing_cell_ranks_nobody() -> None:
    cells = {name: [spec(name, "sinusoid", seed, fields={}) for seed in range(3)] for name in ("maml", "zcnp")}
    recorded = [scored(c, {"maml": 0.3, "zcnp": 4.0}[name] + 0.01 * c["seed"]) for name in cells for c in cells[name]]
    made = frame(recorded, [spec("anil", "sinusoid", fields={})])
    assert made["outcome"].iloc[0] == "missing"
    table = summary(made)
    assert list(table["method"])[:2] == ["maml", "zcnp"]
    assert table["standing"].iloc[0] == "best"
    assert not template(made).higher_is_better


def test_how_sure_a_method_is_stands_beside_its_error() -> None:
    cells = [spec("gp", "sinusoid", seed) for seed in range(3)]
    told = [record(c, evaluation(c, [0.1, 0.3], nll={"mean": v, "per_episode": [v, v]}))
            for c, v in zip(cells, (-0.5, -0.6, -0.7), strict=True)]  # fmt: skip
    silent = [scored(spec("chance", "sinusoid", seed), 1.0) for seed in range(3)]
    table = summary(frame(told + silent)).set_index("method")
    assert table.loc["gp", "nll"] == pytest.approx(-0.6)
    assert table.loc["gp", "nll_half_width"] == pytest.approx(t_half_width([-0.5, -0.6, -0.7]))
    assert math.isnan(table.loc["chance", "nll"])
    text = render(told + silent, "t")["t.md"]
    assert "NLL, nats a value" in text
    assert "-0.60 ± 0.25" in text
    assert "minus the log-likelihood" in text
    assert "NLL" not in render(silent, "t")["t.md"]


def measured(metric: str, higher_is_better: bool, scores: dict[str, float], **more: Any) -> list[dict[str, Any]]:
    """Three seeds a method on a task whose metric is another."""
    made = []
    for name, mean in scores.items():
        for seed in range(3):
            made.append(scored(spec(name, "copy", seed, fields={}), mean + 0.001 * seed, 0.01, **more))
            made[-1]["result"] |= {"metric": metric, "higher_is_better": higher_is_better}
    return made


def test_an_error_that_is_recorded_as_one_is_shown_as_it_is() -> None:
    made = measured("error", False, {"good": 0.1, "bad": 0.3})
    table = summary(frame(made))
    assert table["method"].str.partition(" ")[0].tolist() == ["good", "bad"]
    assert table["mean"].tolist() == pytest.approx([10.1, 30.1])
    assert table["standing"].tolist() == ["best", "worse"]
    text = render(made, "mine")["mine.md"]
    assert "error, %" in text
    assert "**10.10 ± 0.25**" in text


@pytest.mark.parametrize(("higher_is_better", "text"), [(True, "-2 reward or more"), (False, "-2 reward or less")])
def test_the_threshold_of_a_task_is_said_in_its_direction(higher_is_better: bool, text: str) -> None:
    values = points([-3.0, -3.0, -3.0] if higher_is_better else [-1.0, -1.0, -1.0])
    made = measured("reward", higher_is_better, {"mann": -1.5}, curve=values)
    for each in made:
        each["result"]["solved"] = -2.0
    assert f"Not solved (never {text} in validation)" in render(made, "mine")["mine.md"]


def test_tiny_and_huge_numbers_have_an_exponent() -> None:
    assert plus_minus(1.8e30, 4e30, "mse") == "1.8e+30 ± 4.0e+30"
    assert plus_minus(2.0, 4e30, "mse") == "0 ± 4.0e+30"
    assert [number(value, "mse") for value in (1.234e7, 123456.7, math.inf)] == ["1.23e+07", "123457", "inf"]
    assert plus_minus(3.306e-14, 8.6e-16, "mse") == "3.306e-14 ± 8.6e-16"
    assert plus_minus(-9.4426781, 4.1e-7, "nll") == "-9.44267810 ± 4.1e-07"
    assert [number(value, "mse") for value in (3.3e-14, 2e-4, 0.0)] == ["3.30e-14", "0.000200", "0.00"]


def test_seeds_that_are_not_finite_after_a_step_are_counted_there() -> None:
    made = [
        record(cell, evaluation(cell, [0.6 + seed / 100], by_step=by_step({1: [0.6 + seed / 100]} | late)))
        for seed in range(4)
        for late in [{5: [9.0 + seed]} if seed < 2 else {}]
        for cell in [spec("maml", "sinusoid", seed, fields={})]
    ]
    table = summary(frame(made)).set_index("at")
    assert list(table.loc[["", "step 1", "step 5"], "diverged"]) == ["", "", "2 3"]
    assert list(table.loc[["", "step 1", "step 5"], "n_seeds"]) == [4, 4, 2]
    text = render(made, "x")["x.md"]
    assert " (2 seeds, 2 diverged)" in text
    assert "No figure after some steps" not in text
    cell = spec("maml", "sinusoid", 0, fields={"order": "first"})
    made.append(record(cell, evaluation(cell, [0.5], by_step=by_step({1: [0.5]}))))
    assert "No figure after some steps" in render(made, "x")["x.md"]


def stepped(name: str, scored: int, values: dict[int, list[float]]) -> list[dict[str, Any]]:
    cells = [spec(name, "sinusoid", seed) for seed in range(3)]
    return [record(cell, evaluation(cell, values[scored], by_step=by_step(values))) for cell in cells]


def test_a_table_says_where_overall_is_after_other_numbers_of_steps() -> None:
    values = {1: [0.5, 0.7], 10: [0.2, 0.4]}
    made = stepped("maml", 10, values) + stepped("reptile", 10, values)
    said = "Gradient steps before overall: 10, but 1 (cavia);"
    assert said in render(made + stepped("cavia", 1, values), "x")["x.md"]
    assert "Gradient steps before overall" not in render(made, "x")["x.md"]


def test_steps_that_tie_by_chance_are_not_taken_for_the_answer() -> None:
    one = stepped("maml", 10, {1: [0.2, 0.4], 10: [0.4, 0.2]})
    assert frames.after(frame(one)) == 10
    assert "Gradient steps before overall" not in render(one, "x")["x.md"]
    same = stepped("maml", 10, {1: [0.2, 0.4], 10: [0.2, 0.4]})
    assert frames.after(frame(same)) is None, "none can be told from the other"
    assert frames.after(frame(same[:2] + one[2:])) == 10, "where one seed tells, it counts"


def test_a_field_that_its_task_has_for_training_too_still_tells_forms_apart() -> None:
    """Both NTM and the online tasks call something a shift, and a plug-in may count steps of its own."""
    for key in ("shift", "steps"):
        cells = [spec("ntm", "omniglot-online", seed, fields={key: value}, task_fields={"shift": 9})
                 for value in (2, 3) for seed in (0, 1)]  # fmt: skip
        made = frame([record(cell, evaluation(cell, [0.5])) for cell in cells])
        assert list(made["method"]) == [f"ntm ({key}=2)"] * 2 + [f"ntm ({key}=3)"] * 2


def test_a_setting_is_read_as_its_task_reads_it() -> None:
    """Whether a seed diverged or not, it stands in one row."""
    for text, true in (("balanced=yes", {"balanced": True}), ("way=3, length=12", {"way": 3, "length": 12})):
        fields = {"also": [text]}
        ok, bad = (spec("lstm", "omniglot-online", seed, fields={}, task_fields=fields) for seed in (0, 1))
        other = evaluation(ok, [0.5])
        other["setting"] |= true
        rows = frame([record(ok, evaluation(ok, [0.9]), other), record(bad)])
        there = rows[rows["evaluation"] == text]
        assert there["setting"].nunique() == 1
        assert sorted(there["outcome"]) == ["diverged", "ok"]


def test_groups_are_judged_as_all_columns_are() -> None:
    made = []
    for seed in range(4):
        for name, mean in (("mann", 0.9), ("ntm", 0.5)):
            cell = spec(name, "omniglot-online", seed, fields={})
            by = {"mean": [mean + seed / 100], "n": [500], "groups": ["age 1-2"]}
            made.append(record(cell, evaluation(cell, [mean + seed / 100], by_instance=by)))
    table = summary(frame(made))
    assert list(table[table["at"] == "group 1: age 1-2"]["standing"]) == list(table[table["at"] == ""]["standing"])
    assert set(table["standing"]) == {"best", "worse"}
