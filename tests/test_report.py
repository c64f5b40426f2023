"""The report page without a browser: what is in it, the same bytes each time, and stores of every kind."""

from __future__ import annotations

import http.client
import itertools
import json
import math
import re
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import browsers
import pytest
import synthetic
from hypothesis import given
from hypothesis import strategies as st
from test_profiling import profile as measured_profile
from test_profiling import swept

from bench import aggregates, cells, cli, origins, records, report
from bench.charts import Mark
from bench.errors import BenchError
from bench.frames import frame
from bench.report import across, blocks, cost, curves, listing, publications, serving, speed, summary, svg
from bench.report.svg import Look, Plot, Point, Series

SECTIONS = ["summary", "across", "curves", "cost", "published", "memory", "profile", "records", "card"]


class Page(HTMLParser):
    """Ids of sections, texts, and whatever could load or run something."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.sections: list[str] = []
        self.loads: list[str] = []
        self.scripts = 0
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = dict(attributes)
        self.sections += [str(values["id"])] if tag == "section" else []
        self.scripts += tag == "script"
        self.loads += [
            f"{tag} {k}={v}" for k, v in values.items() if k in ("src", "href", "action", "srcset", "poster")
        ]
        assert not any(name.startswith("on") for name in values)

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def _block(made: list[dict[str, Any]], task: str) -> blocks.Block:
    suite = blocks.suite("synthetic", "", made, {}, False)
    return next(block for block in suite.blocks if block.task == task)


def _store(folder: Path, made: list[dict[str, Any]]) -> Path:
    for each in made:
        records.write(folder, records.Record(**each))
    return folder


# ------------------------------------------------------------------------------------------------------------ the page


def test_a_page_needs_nothing_from_outside_and_has_every_section() -> None:
    page = Page(browsers.page(browsers.rich()))
    assert page.sections == SECTIONS
    loads = [
        each for each in page.loads if not re.match(r"(use|a) href=#|link href=data:|a href=https://arxiv\.org/", each)
    ]
    assert loads == []
    assert page.scripts == 2


def test_the_same_records_give_the_same_bytes_in_any_order(tmp_path: Path) -> None:
    made = browsers.rich(range(2))
    one, other = _store(tmp_path / "one", made), _store(tmp_path / "other", made[::-1])
    assert report.render(one) == report.render(other)


def test_every_record_is_in_the_table_once_with_its_details() -> None:
    made = browsers.rich()
    found = listing.listing([blocks.suite(name, "", made, {}, False) for name in ("one", "two")])
    assert sorted(row.id for row in found.rows) == sorted({r["id"] for r in made}) == sorted(found.details)
    assert all(row.suites == ["one", "two"] for row in found.rows)
    for row in found.rows:
        details = found.details[row.id]
        assert row.method in found.parts[details["method"]]
        assert "device = a processor" in found.parts[details["env"]]
    assert all(len(column) == len(found.rows) for column in found.sort.values())


def test_a_details_command_makes_the_record_again(tmp_path: Path) -> None:
    made = cli.call(
        ["run", "-m", "chance", "-t", "sinusoid", "--seeds", "3", "--results", str(tmp_path), "--no-picture"]
    )
    assert made == 0
    record = records.load(tmp_path).records[0]
    found = listing.listing([blocks.suite("one", "", [dict(vars(record))], {}, True)])
    command = found.parts[found.details[record.id]["command"]].replace("{seed}", str(record.seed))
    assert cli.call([*command.split()[1:], "--results", str(tmp_path), "--dry-run"]) == 0
    assert len(records.load(tmp_path).records) == 1


@pytest.mark.parametrize("kind", ["empty", "one", "diverged", "newer"])
def test_any_store_gives_a_sensible_page(tmp_path: Path, kind: str) -> None:
    cell = synthetic.spec("lstm", "omniglot", fields={})
    made = {
        "empty": [],
        "one": [synthetic.scored(cell, 0.6)],
        "diverged": [
            synthetic.record(synthetic.spec(n, "omniglot", s, fields={})) for n in ("lstm", "mann") for s in (0, 1)
        ],
        "newer": [synthetic.scored(cell, 0.6)],
    }[kind]
    store = _store(tmp_path, made)
    if kind == "newer":
        later = synthetic.scored(synthetic.spec("mann", "omniglot", fields={}), 0.7) | {"schema": 2}
        path = store / "runs/omniglot/mann/s0-later.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(later))
    page = Page(report.render(store))
    assert page.sections == SECTIONS
    expected = {
        "empty": "There are no records yet",
        "one": "lstm has the best mean, 60.00 %; nothing is recorded to compare it with",
        "diverged": "diverged, in seeds 0, 1: nothing can be ranked",
        "newer": "has schema 2, newer than this version's 1",
    }
    assert expected[kind] in page.text
    assert ("1 record ·" in page.text) == (kind in ("one", "newer"))


def test_the_page_says_who_sent_what_was_imported(tmp_path: Path) -> None:
    made = [synthetic.scored(synthetic.spec("lstm", "omniglot", s, fields={}), 0.6) for s in range(3)]
    store = _store(tmp_path, made)
    assert "from Lab" not in report.render(store)
    origins.write(store, "0" * 64, "Lab <b>X</b>", {made[1]["id"]: "Lab <b>X</b>"})
    text = report.render(store)
    assert "<b>X" not in text
    machines = Page(text).text
    assert "a processor, 1 thread, from Lab <b>X</b> (1 record)" in machines
    assert "a processor, 1 thread (2 records)" in machines
    suites = blocks.gather([], records.load(store).records, store)
    found = listing.listing(suites)
    told = {i: found.parts[found.details[i]["env"]].endswith("imported, from Lab <b>X</b>") for i in found.details}
    assert told == {each["id"]: each is made[1] for each in made}


def test_a_store_of_uncommitted_code_alone_is_not_called_empty(tmp_path: Path) -> None:
    cell = synthetic.spec("lstm", "omniglot", fields={})
    text = Page(report.render(_store(tmp_path, [synthetic.scored(cell, 0.6, dirty=True)]))).text
    assert (
        "All records are left out. other: 1 record made by uncommitted code: bench report --dirty shows them." in text
    )
    assert "There are no records yet" not in text


def test_seeds_that_are_there_already_are_not_asked_for() -> None:
    """Where Holm's correction, or a failure, is in the way, and not the number of seeds."""
    made = [synthetic.scored(synthetic.spec(f"m{k}", "omniglot", s, fields={}), 0.8 + gap + 0.001 * (s % 3) * k)
            for k, gap in enumerate((0.0, 0.01, 0.3)) for s in range(3)]  # fmt: skip
    made[-1] = synthetic.record(synthetic.spec("m2", "omniglot", 2, fields={}))
    made.append(synthetic.scored(synthetic.spec("m2", "omniglot", 3, fields={}), 1.0))
    made += [synthetic.scored(synthetic.spec(f"m{k}", "omniglot", 3, fields={}), 0.8 + 0.01 * k) for k in (0, 1)]
    (ranking,) = summary.rankings(_block(made, "omniglot"), blocks.Looks(["m0", "m1", "m2"]))
    assert "not to be told from m1 and m0" in ranking.sentence
    assert "needed" not in ranking.sentence
    assert ranking.matrix is not None
    told = [cell.told for row in ranking.matrix.cells for cell in row if cell and "m2 diverged" in cell.told]
    assert told
    assert not any("seeds would find" in text for text in told)


def test_a_score_of_zero_is_not_said_to_lack_seeds() -> None:
    made = [synthetic.scored(synthetic.spec(name, "copy", s, fields={}), mean + mean * s / 10, 0.0)
            for name, mean in (("ntm", 0.0), ("lstm", 2.0)) for s in range(3)]  # fmt: skip
    (ranking,) = summary.rankings(_block(made, "copy"), blocks.Looks(["ntm", "lstm"]))
    assert ranking.sentence == "ntm has the best mean, 0.00 ± 0.00; a score of zero has no ratio to that of lstm."


def test_what_is_far_off_leaves_room_for_the_others() -> None:
    means = {"gp": 1e-14, "cnp": 0.1, "maml": 0.3, "ntm": 0.5, "lstm": 1e30}
    made = [synthetic.scored(synthetic.spec(name, "sinusoid", s, fields={}), mean, 0.0)
            for name, mean in means.items() for s in range(3)]  # fmt: skip
    (ranking,) = summary.rankings(_block(made, "sinusoid"), blocks.Looks(list(means)))
    assert ranking.forest.label == "mean squared error, logarithmic; at its ends: beyond it"
    places = [bar.middle for bar in ranking.forest.bars]
    assert places[0] == 0
    assert places[-1] == 100
    assert places[2] - places[1] > 5
    near = summary.axis([0.1, 0.3, 5.0], [math.nan] * 3, "mse")
    assert summary.axis_label("mse", near, [0.1, 0.3, 5.0]) == "mean squared error, logarithmic"


def test_what_was_left_out_is_said() -> None:
    made = [synthetic.scored(synthetic.spec("lstm", "omniglot", s, fields={}, versions=(v, 1)), 0.5, dirty=s == 2)
            for v, s in ((1, 0), (2, 0), (2, 1), (2, 2))]  # fmt: skip
    text = Page(browsers.page(made)).text
    assert "1 record made by uncommitted code" in text
    assert "1 record of older versions" in text


def test_an_unknown_suite_or_one_without_records_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.call(["report", "--results", str(tmp_path / "nowhere")]) == 2
    assert "there is no folder" in capsys.readouterr().err
    for suite, words in (("smok", "did you mean smoke?"), ("smoke", "has no record of the suite smoke")):
        assert cli.call(["report", suite, "--results", str(tmp_path), "-o", str(tmp_path / "page.html")]) == 2
        said = capsys.readouterr().err
        assert words in said
        assert said.count("\n") == 1
        assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize("count", [1, 7])
def test_files_that_cannot_be_read_are_named_on_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], count: int
) -> None:
    store = _store(tmp_path, [synthetic.scored(synthetic.spec("lstm", "omniglot", fields={}), 0.6)])
    for k in range(count):
        (store / f"runs/omniglot/lstm/s{k}-broken.json").write_text("{")
    assert cli.call(["report", "--results", str(store), "--out", str(tmp_path / "page.html")]) == 0
    said = capsys.readouterr().err.splitlines()
    assert all(f"s{k}-broken.json" in line for k, line in enumerate(said[:5]))
    assert said[5:] == (["warning: 2 more files are left out"] if count == 7 else [])
    assert len(said) == min(count, 6)
    text = Page((tmp_path / "page.html").read_text()).text
    assert all(f"s{k}-broken.json" in text for k in range(count)), "the page names them all"


def test_the_command_writes_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = _store(tmp_path / "results", [synthetic.scored(synthetic.spec("lstm", "omniglot", fields={}), 0.6)])
    out = tmp_path / "sub" / "page.html"
    assert cli.call(["report", "--results", str(store), "--out", str(out)]) == 0
    assert str(out) in capsys.readouterr().out
    assert Page(out.read_text()).sections == SECTIONS


# ------------------------------------------------------------------------------------------------------- what is shown


def test_the_ranking_is_that_of_the_means_with_the_interval_of_the_tables() -> None:
    block = _block(synthetic.showcase(range(4)), "omniglot")
    found = summary.rankings(block, blocks.Looks(["protonet"]))[0]
    rows = block.table[(block.table["at"] == "") & (block.table["setting"] == found.setting)]
    assert [bar.name for bar in found.forest.bars] == list(rows["label"])
    first, last = found.forest.ticks[0], found.forest.ticks[-1]
    scale = (last.at - first.at) / (float(last.text) - float(first.text))
    for bar, mean, half in zip(found.forest.bars, rows["mean"], rows["half_width"], strict=True):
        assert bar.middle == pytest.approx(first.at + scale * (mean - float(first.text)), abs=0.11)
        assert bar.high - bar.low == pytest.approx(scale * (min(100, mean + half) - (mean - half)), abs=0.11)
        assert bar.score == cells.plus_minus(mean, half, "accuracy") + " %"


def _five(tasks: int = 5, seeds: int = 3) -> list[dict[str, Any]]:
    """Three methods on so many tasks; c failed once, and one method has but one task."""
    names = ("omniglot", "omniglot-online", "paired-associates", "sinusoid", "copy")
    made = [synthetic.scored(synthetic.spec("lone", "omniglot", fields={}), 0.5)]
    for task in names[:tasks]:
        error = task in synthetic.METRICS
        for s in range(seeds):
            for name, score in (("a", 0.9), ("b", 0.7), ("c", 0.4), ("chance", 0.1)):
                cell = synthetic.spec(name, task, s, fields={})
                value = 2 * (1 - score - 0.01 * s) if error else score + 0.01 * s
                made.append(synthetic.scored(cell, value))
    lost = next(i for i, r in enumerate(made) if r["spec"]["method"]["name"] == "c")
    made[lost] = synthetic.record(made[lost]["spec"])
    return made


names_in_plots = st.lists(
    st.tuples(st.floats(1, 1000), st.floats(0, 100), st.text("mn", min_size=1, max_size=60)), min_size=1, max_size=8
)


@given(names_in_plots)
def test_names_in_a_plot_are_never_over_each_other_and_stay_inside(points: list[tuple[float, float, str]]) -> None:
    series = [Series(name, name, Look(0, 0, 0), [Point(x, y, "", "")], joined=False, labelled=True)
              for x, y, name in points]  # fmt: skip
    drawn = svg.layout(Plot("t", "x", "y", series, x_log=True)).drawn
    labels = [d.label for d in drawn if d.label]
    assert len(labels) == len(points)
    assert not any(a.touches(b) for a, b in itertools.combinations(labels, 2))
    for label, (_, _, name) in zip(labels, points, strict=True):
        assert label.ends[0] >= svg.LEFT - svg.LETTER
        assert label.ends[1] <= svg.WIDTH - svg.RIGHT + svg.LETTER
        assert label.text == name or (label.text[-1] == "…" and name.startswith(label.text[:-1]))


def test_one_seed_at_the_top_does_not_speak_for_the_others() -> None:
    made = [synthetic.scored(synthetic.spec("lone", "omniglot", fields={}), 0.99)]
    made += [
        synthetic.scored(synthetic.spec(name, "omniglot", s, fields={}), mean + 0.001 * s)
        for name, mean in (("a", 0.9), ("b", 0.5)) for s in range(3)
    ]  # fmt: skip
    found = summary.rankings(_block(made, "omniglot"), blocks.Looks([]))[0]
    assert found.sentence == "lone has the best mean, 99.00 %, over 1 seed: too few to tell it from any other."
    few = [r for r in made if r["spec"]["seed"] == 0]
    found = summary.rankings(_block(few, "omniglot"), blocks.Looks([]))[0]
    assert found.sentence.endswith("too few to tell any two methods apart.")
    alone = [r for r in made if r["spec"]["method"]["name"] != "lone"]
    found = summary.rankings(_block([r for r in alone if r in few or "'a'" in str(r)], "omniglot"), blocks.Looks([]))[0]
    assert "over 3 seeds, of which others share 1: too few" in found.sentence


def test_across_tasks_is_what_the_measures_say() -> None:
    made = _five()
    found = across.overview([blocks.suite("synthetic", "", made, {}, False)], blocks.Looks(["a", "b", "c"]))
    assert found is not None
    assert found.sentence.startswith("a, b and c over 5 tasks: copy, omniglot, ")
    scores = aggregates.across(frame(made), ["a", "b", "c"])
    for row in found.iqm.rows:
        estimate = aggregates.stratified(scores.scores[row.method])
        assert row.text == cells.interval(estimate)
        assert row.low < row.middle < row.high
        assert row.failed == ("1 diverged" if row.method == "c" else "")
        assert row.runs == "15"
    assert [row.method for row in found.iqm.rows] == [s.name for s in found.profile.series] == ["a", "b", "c"]
    for series in found.profile.series:
        x, y = [p.x for p in series.points], [p.y for p in series.points]
        assert y == pytest.approx(100 * aggregates.profile(scores.scores[series.name], x))
        assert y[0] >= y[-1]
    assert found.ranks is not None
    assert [(row.method, row.text) for row in found.ranks.rows] == [("a", "1.00"), ("b", "2.00"), ("c", "3.00")]
    apart = aggregates.critical_difference(3, 5)
    assert f"{apart:.2f} apart" in found.ranked
    a, b, c = found.ranks.rows
    assert a.high > b.low, "one rank is less than the critical difference"
    assert a.high < c.low, "two are more"
    assert len(found.budgets) == 5
    for plot, place in zip(found.budgets, range(5), strict=True):
        for series in plot.series:
            best = aggregates.expected_best(scores.scores[series.name][place])
            assert [p.y for p in series.points] == pytest.approx(best)


@pytest.mark.parametrize("seeds", [1, 3])
def test_few_tasks_have_no_ranks_and_few_runs_no_interval(seeds: int) -> None:
    text = browsers.page(_five(2, seeds))
    assert "Ranks are tested from 5 tasks and three methods on; here are 2 and 3." in Page(text).text
    assert ("Mean ranks over tasks" in text) is False
    assert ("What the best of several runs is worth" in text) == (seeds > 1)
    found = across.overview([blocks.suite("synthetic", "", _five(2, seeds), {}, False)], blocks.Looks([]))
    assert found is not None
    assert math.isnan(found.iqm.rows[0].low) == (seeds < 3)


def test_one_task_is_not_looked_across() -> None:
    assert "It takes two methods that share two tasks" in Page(browsers.page(_five(1))).text


def test_a_transductive_method_is_named_and_noted_as_such() -> None:
    made = [
        synthetic.scored(synthetic.spec("maml", "omniglot", s, fields={"batch_norm": norm}), 0.9 + 0.01 * s)
        for norm in ("transductive", "support") for s in range(3)
    ]  # fmt: skip
    ranking = summary.rankings(_block(made, "omniglot"), blocks.Looks([]))[0]
    bars = ranking.forest.bars
    assert ranking.sentence.startswith("maml (batch_norm=support) has the best mean")
    assert {bar.name: bar.note for bar in bars} == {
        "maml (batch_norm=transductive)": summary.APART["transductive"], "maml (batch_norm=support)": "",
    }  # fmt: skip


def test_a_memory_that_was_taken_away_is_drawn_and_does_not_compete() -> None:
    found = summary.rankings(_block(synthetic.ablated(range(3)), "omniglot-online"), blocks.Looks([]))[0]
    assert any("ablate" in bar.name for bar in found.forest.bars)
    assert "ablate" not in found.sentence + found.paper
    assert found.matrix is None or not any("ablate" in name for name in found.matrix.names)


def test_the_setting_of_most_methods_comes_first() -> None:
    made = [synthetic.scored(synthetic.spec(name, "omniglot", fields={}, task_fields={"way": way}), 0.9)
            for name, way in (("m0", 5), ("m0", 20), ("m1", 20))]  # fmt: skip
    assert _block(made, "omniglot").settings == ["20-way 1-shot", "5-way 1-shot"]


def test_verdicts_are_opposite_across_the_diagonal_and_the_sentence_agrees() -> None:
    block = _block(synthetic.showcase(range(6)), "omniglot")
    found = summary.rankings(block, blocks.Looks([]))[0]
    grid, opposite = found.matrix, {"better": "worse", "worse": "better"}
    assert grid is not None
    for i, row in enumerate(grid.cells):
        for k, cell in enumerate(row):
            other = grid.cells[k][i]
            assert (cell is None) == (i == k) == (other is None)
            if cell and other:
                assert other.word == opposite.get(cell.word, cell.word)
                assert other.told == cell.told
    assert found.sentence.startswith(f"{grid.names[0]} has the best mean")
    assert {cell.word for cell in grid.cells[0] if cell} == {"better"}
    assert "better than" in found.sentence
    assert grid.names[0] in found.paper
    assert "Student t" in found.paper


@pytest.mark.parametrize("seeds", [1, 2])
def test_few_seeds_tell_nothing_and_it_says_so(seeds: int) -> None:
    found = summary.rankings(_block(synthetic.showcase(range(seeds)), "omniglot"), blocks.Looks([]))[0]
    assert found.matrix is None
    assert found.paper == ""
    assert f"over {seeds} seed{'s' * (seeds > 1)}: too few to tell" in found.sentence


def test_learning_curves_have_bands_where_seeds_are_and_crosses_where_they_diverged() -> None:
    block = _block(synthetic.copied(range(3), ("ntm", "sam", "lstm")), "copy")
    kind = curves.kinds(block, blocks.Looks(["ntm", "sam", "lstm"]), ["learning"])[0]
    series = {s.name.partition(" ")[0]: s for s in kind.plots[0].series}
    for name in ("ntm", "sam"):
        point, low, high = series[name].points[5], series[name].low[5], series[name].high[5]
        assert low is not None
        assert high is not None
        assert low < point.y < high
        assert low * high == pytest.approx(point.y**2, rel=1e-9)  # of logarithms
        assert "95 % interval" in point.told
        assert [seed for seed, _ in series[name].seeds] == [
            "seed 0",
            "seed 1",
            "seed 2",
        ]
    assert series["lstm"].broken == {"seed 1"}
    threshold, rows = curves.solved(block, blocks.Looks([]))
    assert "0.1 or better" in threshold
    assert rows[-1].count == "0 of 3"
    assert math.isnan(rows[-1].middle)


def test_instances_show_how_many_answers_and_the_ceiling() -> None:
    block = _block(synthetic.showcase(), "omniglot-online")
    plot = curves.kinds(block, blocks.Looks([]), ["instances"])[0].plots[0]
    assert plot.ticks[0] == (1, "1\nn 500")
    assert plot.ticks[4] == (5, "5\nn 420")
    assert [m.kind for m in plot.marks] == ["line", "bar"]
    assert plot.marks[1].y[0] == pytest.approx(100 / 5 * (1 + 1 / 2 + 1 / 3 + 1 / 4 + 1 / 5), rel=1e-5)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=12))
def test_the_front_is_what_nothing_beats(points: list[tuple[int, int]]) -> None:
    found = cost.front(points)
    for i, (c, s) in enumerate(points):
        beaten = any(a <= c and b >= s and (a, b) != (c, s) for a, b in points)
        assert (i in found) != beaten
    assert found


def test_costs_leave_out_what_does_not_train_and_name_the_front() -> None:
    made = [synthetic.scored(synthetic.spec(name, "omniglot", seed, fields=fields), mean, params=params, train_s=train)
            for seed in range(3) for name, fields, mean, params, train in
            (("lstm", {}, 0.5, 10, 10.0), ("mann", {}, 0.8, 100, 50.0), ("ntm", {}, 0.7, 200, 60.0),
             ("chance", None, 0.2, 0, 0.0))]  # fmt: skip
    plots = cost.plots(_block(made, "omniglot"), blocks.Looks([]))
    assert len(plots) == 3
    for plot in plots[:2]:
        assert {s.name for s in plot.series if s.labelled} == {"lstm", "mann"}
        assert len(plot.series) == 3
        assert [m.name for m in plot.marks] == ["chance", ""]


def test_times_of_different_devices_are_not_in_one_plot() -> None:
    made = [synthetic.scored(synthetic.spec(name, "omniglot", fields={}), mean, params=params, train_s=train)
            for name, mean, params, train in
            (("lstm", 0.5, 10, 10.0), ("mann", 0.8, 100, 50.0), ("ntm", 0.7, 200, 1.0))]  # fmt: skip
    made[2]["env"]["device"] = "a GPU"
    train, params, peak = cost.plots(_block(made, "omniglot"), blocks.Looks([]))
    assert [sorted(s.name for s in plot.series) for plot in (train, params)] == [
        ["lstm", "mann"],
        ["lstm", "mann", "ntm"],
    ]
    assert train.x_label == "training time, s, on a processor"
    assert len(peak.series) == 2


def test_published_figures_are_judged_linked_and_explained() -> None:
    block = _block(
        [r for r in synthetic.showcase() if r["spec"]["method"]["name"] in ("lstm", "mann")], "omniglot-online"
    )
    found = publications.beside(block)
    assert found is not None
    assert {row.verdict for row in found.rows} == {"not comparable"}
    for row in found.rows:
        assert row.link.startswith("https://arxiv.org/abs/")
        assert row.differences
        assert "arXiv" in row.citation
        assert 0 <= row.theirs_at <= 100
    assert publications.beside(_block(synthetic.ablated(), "omniglot-online")) is not None
    assert publications._link("javascript:alert(1)") == ""


def test_profiles_become_rooflines_and_benchmarks_series(tmp_path: Path) -> None:
    made = measured_profile(*swept(1.0))
    folder = tmp_path / "profiles" / "a-cpu"
    folder.mkdir(parents=True)
    (folder / f"{made['op']}.json").write_text(json.dumps(made))
    (folder / "broken.json").write_text("{}")
    problems: list[str] = []
    device = speed.devices(tmp_path, problems)[0]
    assert len(problems) == 1
    assert "broken.json" in problems[0]
    roofline = device.plots[0]
    assert roofline.title == "Roofline"
    assert [s.name for s in roofline.series] == [made["op"]]
    assert len(device.rows) == len(made["rows"])
    assert any("GB/s" in mark.name for mark in roofline.marks)
    assert "Roofline" in Page(browsers.page([], devices=[device])).text


# ----------------------------------------------------------------------------------------------------------------- svg

FINITE = st.floats(-1e6, 1e6, allow_nan=False)


@given(st.lists(st.tuples(FINITE, FINITE), min_size=1, max_size=200), st.booleans(), st.booleans())
def test_everything_drawn_is_inside_the_axes(points: list[tuple[float, float]], x_log: bool, y_log: bool) -> None:
    given = [Point(abs(x) + 0.1, y, "there", "that") for x, y in sorted(points, key=lambda p: abs(p[0]))]
    series = Series("a", "a", Look(0, 0, 0), given, [p.y - 1 for p in given], [p.y + 1 for p in given])
    picture = svg.layout(Plot("", "", "", [series], [Mark("m", (0.1, 1e6), (1.0, 1.0))], x_log=x_log, y_log=y_log))
    left, top, right, bottom = picture.box
    places = [*picture.drawn[0].places, *((t.at, bottom, "", "") for t in picture.x_ticks),
              *((left, t.at, "", "") for t in picture.y_ticks)]  # fmt: skip
    assert all(left - 0.1 <= p[0] <= right + 0.1 and top - 0.1 <= p[1] <= bottom + 0.1 for p in places)
    assert len(picture.drawn[0].places) <= svg.MOST
    ends = [float(n) for n in re.findall(r"-?[\d.]+", picture.drawn[0].band)]
    assert all(top - 0.1 <= y <= bottom + 0.1 for y in ends[1::2])
    shown = [p for p in given if p.y > 1e-20 or not y_log]
    if shown:
        assert picture.drawn[0].places[-1][0] == pytest.approx(max(p[0] for p in picture.drawn[0].places))


def test_ticks_are_plain_and_do_not_touch() -> None:
    assert [svg.plain(v) for v in (0.001, 20.0, 5000.0, 1.5e6, 2e9, 1e15)] == [
        "0.001",
        "20",
        "5,000",
        "1.5M",
        "2G",
        "1e+15",
    ]
    found = [svg.Tick(10.0 * k, "10,000") for k in range(10)]
    kept = svg._thinned(found)
    assert 1 < len(kept) < 10
    assert all(b.at - a.at > 40 for a, b in itertools.pairwise(kept))


def test_many_seeds_share_the_points_that_a_plot_may_have() -> None:
    line = [Point(k, k % 7, "", "") for k in range(100)]
    plot = Plot("", "", "", [Series("a", "a", Look(0, 0, 0), line, seeds=[(f"seed {k}", line) for k in range(300)])])
    drawn = svg.layout(plot).drawn[0]
    assert len(drawn.places) <= svg.MOST
    assert all(svg.LEAST / 2 < len(places) <= 16 for _, _, _, places in drawn.seeds)


def test_methods_keep_their_colour_and_variants_differ_in_dash_and_marker() -> None:
    names = [f"m{k}" for k in range(20)]
    made = [
        synthetic.scored(synthetic.spec(name, "omniglot", fields={"slots": s}), 0.5) for name in names for s in (1, 2)
    ]
    block = _block(made, "omniglot")
    found = blocks.Looks([*names, "chance"]).of(block, sorted(block.made["label"]))
    assert len(set(found.values())) == len(found)
    by_method: dict[str, set[int]] = {}
    for label, look in found.items():
        by_method.setdefault(block.methods[label], set()).add(look.colour)
    assert all(len(colours) == 1 for colours in by_method.values())
    few = blocks.Looks(names).of(block, sorted(block.made["label"])[::2][:8])
    assert len({look.marker for look in few.values()}) == 8


# ------------------------------------------------------------------------------------------------------------- serving


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    store = _store(tmp_path, [synthetic.scored(synthetic.spec("lstm", "omniglot", fields={}), 0.6)])
    server = serving.server(serving.Pages(store, lambda: report.render(store, live=True)), 0)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield store, server.server_port
    server.shutdown()
    server.server_close()
    thread.join()


def _get(port: int, path: str, host: str = "") -> tuple[int, str]:
    connection = http.client.HTTPConnection(serving.HOST, port, timeout=60)
    connection.request("GET", path, headers={"Host": host} if host else {})
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text


def test_the_served_page_follows_the_records(served: tuple[Path, int]) -> None:
    store, port = served
    status, page = _get(port, "/")
    state = _get(port, "/state")[1]
    assert status == 200
    assert "connect-src 'self'" in page
    assert "<b>1</b> record" in page
    assert _get(port, "/state")[1] == state
    (store / "runs" / "s1-0.json").symlink_to("nowhere")
    assert _get(port, "/state")[0] == 200
    (store / "runs" / "s1-0.json").unlink()
    _store(store, [synthetic.scored(synthetic.spec("mann", "omniglot", fields={}), 0.7)])
    assert _get(port, "/state")[1] != state
    assert "<b>2</b> records" in _get(port, "/")[1]
    state = _get(port, "/state")[1]
    origins.write(store, "0" * 64, "Lab of X", {records.load(store).records[0].id: "Lab of X"})
    assert _get(port, "/state")[1] != state


def test_it_serves_this_machine_and_nothing_but_the_page(served: tuple[Path, int]) -> None:
    _, port = served
    assert _get(port, "/state", "example.org:80")[0] == 403
    assert _get(port, "/state", f"localhost:{port}")[0] == 200
    assert _get(port, "/state", "localhost")[0] == 200
    assert _get(port, "/../../etc/passwd")[0] == 404
    with pytest.raises(BenchError, match="--port 0 takes any"):
        serving.server(serving.Pages(Path(), str), port)
    with pytest.raises(BenchError, match="cannot serve"):
        serving.server(serving.Pages(Path(), str), 70_000)


def test_a_frame_of_no_records_has_no_blocks() -> None:
    assert blocks.suite("none", "", [], {}, False).blocks == []
    assert frame([]).empty


def test_looks_of_lines_that_are_no_methods_do_not_repeat() -> None:
    assert len({(each.colour, each.marker) for each in map(speed.look, range(64))}) == 64
