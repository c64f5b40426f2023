"""Charts hold what records say, pictures show charts, and `bench tables` draws them anew when records differ."""

from __future__ import annotations

import copy
import io
import math
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.text import Annotation, Text
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from shell import bench
from synthetic import SLOTLESS, ablated, by_instance, copied, evaluation, points, probed, record, scored, spec

from bench import charts, frames, pictures, plots, records, references
from bench import report as page
from bench.charts import Chart, Line, Mark, Panel, short, spaced
from bench.frames import frame
from bench.intervals import t_half_width

FEW = ("mann", "ntm", "lstm")


@pytest.fixture(autouse=True)
def made_up_fields(monkeypatch: pytest.MonkeyPatch) -> None:
    """Synthetic records have made-up fields: compared with registered defaults, all of them would be named."""
    monkeypatch.setattr(frames, "_changed", lambda method, values: set())


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawn in few pixels, faster."""
    for name in ("figure.dpi", "savefig.dpi"):
        monkeypatch.setitem(plots.STYLE, name, 80)


def drawn(made: list[dict[str, Any]], task: str, kind: str) -> Chart:
    return pictures.charts(frame(made), "s")[task][f"s-{task}-{kind}.png"]


def lines(panel: Panel) -> dict[str, Line]:
    return {line.name: line for line in panel.lines}


def marks(panel: Panel) -> dict[str, Mark]:
    return {mark.name: mark for mark in panel.marks}


# ------------------------------------------------------------------------------------------------- what charts hold


def test_pictures_are_drawn_of_what_records_hold() -> None:
    kinds = {
        "paired-associates": (probed(methods=FEW), {"learning", "ages", "retrieval"}),
        "copy": (copied(methods=FEW), {"learning"}),
        "omniglot-online": (ablated(), {"learning", "instances", "retrieval"}),
    }
    for task, (made, expected) in kinds.items():
        assert set(pictures.charts(frame(made), "s")[task]) == {f"s-{task}-{kind}.png" for kind in expected}
        assert set(pictures.charts(frame(made), task)[task]) == {f"{task}-{kind}.png" for kind in expected}


@pytest.mark.parametrize(
    "made",
    [
        [],
        [record(spec("ntm", "copy", fields={}))],
        [scored(spec("protonet", "omniglot", fields={}), 0.5)],
        [scored(spec("chance", "copy"), 84.0, 1.0)],
        [record(c, evaluation(c, [1.0] * 2), curve=points([5.0, 1.0])) for c in [spec("ntm", "copy", fields={})]],
    ],
    ids=["none", "diverged", "no curve", "untrained", "two points"],
)
def test_where_there_is_nothing_to_draw_there_is_no_picture(made: list[dict[str, Any]]) -> None:
    assert not [name for found in pictures.charts(frame(made), "s").values() for name in found]


def test_learning_curves_are_seeds_and_their_geometric_mean() -> None:
    curves = {0: [80.0, 8.0, 0.08], 1: [80.0, 0.5, 0.02], 2: [70.0, 3.0, None]}
    made = []
    for seed, values in curves.items():
        cell = spec("ntm", "copy", seed, fields={})
        made.append(record(cell, *([] if seed == 2 else [evaluation(cell, [0.1] * 2)]), curve=points([90.0, *values])))
    made.append(scored(spec("chance", "copy"), 84.0, 1.0))
    (panel,) = drawn(made, "copy", "learning").panels
    (line,) = panel.lines
    assert panel.log
    assert line.x == (100, 200, 300, 400)
    assert line.y == pytest.approx((90, 80, 2, 0.04)), "of the seeds that did not diverge"
    assert [seed[1] for seed in line.seeds] == [(90, 80, 8, 0.08), (90, 80, 0.5, 0.02), (90, 70, 3)]
    assert line.broken == (False, False, True)
    assert marks(panel)["solved: 0.1"].y == (0.1, 0.1)
    assert marks(panel)["chance (test)"].y == (84, 84)


def test_what_errs_far_less_than_all_curves_does_not_flatten_them() -> None:
    made = [scored(spec("maml", "sinusoid", fields={}), 0.3, metric="mse", curve=points([3.0, 1.0, 0.3]))]
    made += [
        scored(spec(name, "sinusoid", fields={}), mean, metric="mse") for name, mean in (("gp", 1e-14), ("cnp", 1e-3))
    ]
    for each in made[1:]:
        each["spec"]["budget"]["steps"] = 0
    chart = drawn(made, "sinusoid", "learning")
    assert set(marks(chart.panels[0])) == {"cnp (test)"}
    assert "Far below all curves: gp (test)." in chart.note


def test_learning_curves_of_accuracy_are_in_percent() -> None:
    (panel,) = drawn(probed(methods=FEW), "paired-associates", "learning").panels
    assert panel.percent
    assert not panel.log
    assert marks(panel)["solved: 95 %"].y == (95, 95)
    assert {"pixel-knn (test)", "chance (test)"} <= set(marks(panel))
    seeds = np.array([[v or 0 for v in y] for _, y in lines(panel)["ntm"].seeds])
    assert lines(panel)["ntm"].y == pytest.approx(seeds.mean(0), rel=1e-5)


@pytest.mark.parametrize("values", [[-3.0, -1.0, 0.0], [-3.0, -2.0, -1.0]])
def test_what_may_be_negative_has_a_linear_axis(values: list[float]) -> None:
    made = []
    for seed in range(3):
        made.append(scored(spec("ntm", "copy", seed, fields={}), -1.0, curve=points([v + seed for v in values])))
        made[-1]["result"] |= {"metric": "reward", "higher_is_better": True, "solved": -0.5}
    chart = drawn(made, "copy", "learning")
    (panel,) = chart.panels
    (line,) = panel.lines
    assert not panel.log
    assert "geometric" not in chart.note
    assert line.y == pytest.approx([v + 1 for v in values])
    assert marks(panel)["solved: -0.5"].y == (-0.5, -0.5)
    (block,) = page.blocks.suite("mine", "", made, {}, False).blocks
    (plot,) = page.curves.kinds(block, page.blocks.Looks(["ntm"]), ["learning"])[0].plots
    half = t_half_width([0.0, 1.0, 2.0])
    assert not plot.y_log
    assert [*plot.series[0].low] == pytest.approx([v + 1 - half for v in values])


def test_seeds_of_unequal_steps_are_averaged_where_all_are() -> None:
    cells = [spec("ntm", "copy", seed, fields={}) for seed in (0, 1)]
    made = [record(c, evaluation(c, [0.1] * 2), curve=points(v))
            for c, v in zip(cells, ([8.0, 4.0, 2.0, 1.0], [8.0, None, 2.0, 1.0]), strict=True)]  # fmt: skip
    (line,) = drawn(made, "copy", "learning").panels[0].lines
    assert line.x == (100, 300, 400)


def test_accuracy_by_instance_has_interval_guessing_and_ceiling() -> None:
    made = ablated()
    (panel,) = drawn(made, "omniglot-online", "instances").panels
    values = [100 * r["result"]["evaluations"][""]["by_instance"]["mean"][1] for r in made
              if r["spec"]["method"]["fields"].get("ablate") == "zero"]  # fmt: skip
    zero = lines(panel)["mann (ablate=zero)"]
    assert zero.x == tuple(range(1, 11))
    assert zero.y[1] == pytest.approx(np.mean(values), rel=1e-5)
    assert (zero.high[1] or 0) - (zero.low[1] or 0) == pytest.approx(2 * t_half_width(values), rel=1e-4)
    assert marks(panel)["guessing"].y == (20, 20)
    assert [m.y for m in panel.marks if m.kind == "bar"] == [short([references.ceiling({"way": 5})] * 2)]


def test_what_was_hardly_asked_is_no_point() -> None:
    cell = spec("mann", "omniglot-online", fields={})
    made = [record(cell, evaluation(cell, [0.5] * 2, by_instance=by_instance([0.2, 0.7, 1.0, None], n=75)))]
    made[0]["result"]["evaluations"][""]["by_instance"]["n"] = [75, 30, 29, 0]
    (panel,) = drawn(made, "omniglot-online", "instances").panels
    assert lines(panel)["mann"].y == (20, 70, None, None)
    assert [text for _, text in panel.ticks] == ["1", "2"]


def test_age_and_load_are_one_picture() -> None:
    made = probed(methods=FEW)
    chart = drawn(made, "paired-associates", "ages")
    left, right = chart.panels
    assert left.title == "8 items stored"
    assert [text for _, text in left.ticks] == ["1", "2", "3–4", "5–8", "9–16"]
    found = [r["result"]["evaluations"] for r in made if r["spec"]["method"]["name"] == "ntm"]
    old = [100 * e["load=8"]["by_instance"]["mean"][4] for e in found]
    assert lines(left)["ntm"].y[4] == pytest.approx(np.mean(old), rel=1e-5)
    assert lines(right)["ntm"].x == lines(right)["lstm"].x == (0.25, 0.5, 1, 1.5, 2), "the LSTM has no slots: 8 it is"
    full = [100 * e["load=16"]["mean"] for e in found]
    assert lines(right)["ntm"].y[4] == pytest.approx(np.mean(full), rel=1e-5)
    assert marks(right)["without binding"].y[1] == pytest.approx(100 * (1 + 1 / 2 + 1 / 3 + 1 / 4) / 4, rel=1e-5)
    assert chart.names[0] == "pixel-knn"
    assert "chance" not in chart.names


def test_memories_of_unequal_slots_are_compared_at_equal_load_over_slots() -> None:
    made = copy.deepcopy(probed(methods=("mann", "ntm", "dnc")))
    for r in made:
        if r["spec"]["method"]["name"] == "dnc":
            r["spec"]["method"]["fields"]["slots"] = 16
    right = drawn(made, "paired-associates", "ages").panels[1]
    assert lines(right)["dnc"].x == (0.125, 0.25, 0.5, 0.75, 1)
    assert lines(right)["ntm"].x[-1] == 2
    assert right.ticks == ()


def test_only_memories_with_addresses_retrieve() -> None:
    chart = drawn(probed(methods=FEW), "paired-associates", "retrieval")
    assert set(chart.names) == set(FEW) - set(SLOTLESS)
    accuracy, reads = chart.panels
    assert marks(reads)["read at random"].y == (20, 20)
    assert not accuracy.marks
    assert lines(reads)["ntm"].y[1] == pytest.approx(0.93 * (lines(reads)["ntm"].y[0] or 0), rel=1e-4)


# -------------------------------------------------------------------------------------------------------------- digest


def test_a_digest_is_of_the_data_alone() -> None:
    made = copied(methods=FEW)
    first = drawn(made, "copy", "learning")
    assert drawn(made[::-1], "copy", "learning").digest == first.digest
    changed = copy.deepcopy(made)
    changed[0]["result"]["curve"][3]["val"] *= 1 + 1e-12
    assert drawn(changed, "copy", "learning").digest == first.digest, "machines differ in the last bits of a mean"
    changed[0]["result"]["curve"][3]["val"] *= 1.01
    assert drawn(changed, "copy", "learning").digest != first.digest


def test_pictures_are_stale_when_they_show_something_else(tmp_path: Path) -> None:
    one, other = (drawn(copied(seeds, FEW), "copy", "learning") for seeds in ([0], [0, 1]))
    assert charts.check({"a.png": one}, tmp_path) == ["a.png"]
    assert charts.write({"a.png": one}, tmp_path) == ["a.png"]
    assert charts.check({"a.png": one}, tmp_path) == charts.write({"a.png": one}, tmp_path) == []
    assert charts.check({"a.png": other}, tmp_path) == ["a.png"]
    again = io.BytesIO((tmp_path / "a.png").read_bytes())
    with Image.open(again) as image:
        text = PngInfo()
        text.add_text(charts.KEY, image.info[charts.KEY])
        image.convert("RGB").save(tmp_path / "a.png", pnginfo=text)
    assert charts.check({"a.png": one}, tmp_path) == [], "other bytes, as of another machine, of the same data"
    for content in (b"", b"\x89PNG\r\n\x1a\n", b"text"):
        (tmp_path / "a.png").write_bytes(content)
        assert charts.check({"a.png": one}, tmp_path) == ["a.png"]
    Image.new("L", (2, 2)).save(tmp_path / "a.png")
    assert charts.check({"a.png": one}, tmp_path) == ["a.png"]
    (tmp_path / "b.png").mkdir()
    assert charts.digest_of(tmp_path / "b.png") is None


def test_the_same_chart_is_the_same_bytes() -> None:
    made = ablated([0, 1])
    a, b = (charts.draw(drawn(order, "omniglot-online", "instances")) for order in (made, made[::-1]))
    assert a == b
    with Image.open(io.BytesIO(a)) as image:
        assert set(image.info) - {"dpi"} == {charts.KEY}


def test_tables_draws_and_checks_pictures(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for r in copied([0], FEW):
        records.write(Path("out"), records.Record(**r))
    command = ("tables", "--results", "out")
    said = bench(capsys, *command, "--check")
    assert "stale: out/pictures/other-copy-learning.png" in said.out
    assert not Path("out/pictures").exists()
    assert "wrote out/pictures/other-copy-learning.png" in bench(capsys, *command).out
    assert "](../pictures/other-copy-learning.png)" in Path("out/tables/other.md").read_text()
    Image.new("L", (2, 2)).save("out/pictures/mine.png")
    shot = Path("out/pictures/other-copy-learning.png")
    Path("out/pictures/gone-learning.png").write_bytes(shot.read_bytes())
    with monkeypatch.context() as patch:
        patch.setattr(charts, "draw", lambda chart: pytest.fail("to check is not to draw"))
        said = bench(capsys, *command, "--check")
        assert said.code == 1
        assert said.out.splitlines() == [
            "stale: out/pictures/gone-learning.png is of no suite here that has records; delete it, unless it is of a "
            "suite of yours"
        ]
        Path("out/pictures/gone-learning.png").unlink()
        assert bench(capsys, *command, "--check").code == 0
    before = shot.read_bytes()
    for r in copied([1], FEW):
        records.write(Path("out"), records.Record(**r))
    assert "stale: out/pictures/other-copy-learning.png" in bench(capsys, *command, "--check").out
    assert bench(capsys, *command).code == 0
    assert shot.read_bytes() != before


# ------------------------------------------------------------------------------------------------------------- drawing


@given(st.lists(st.tuples(st.floats(-0.2, 1.2), st.integers(1, 3)), max_size=9))
def test_labels_never_overlap_and_stay_in_order(pairs: list[tuple[float, int]]) -> None:
    pairs.sort()
    wanted, heights = [p[0] for p in pairs], [0.05 * p[1] for p in pairs]
    found = spaced(wanted, heights)
    for i in range(1, len(found)):
        assert found[i] - found[i - 1] >= (heights[i] + heights[i - 1]) / 2 - 1e-9
    if sum(heights) <= 1 and found:
        assert found[0] >= heights[0] / 2 - 1e-9
        assert found[-1] <= 1 - heights[-1] / 2 + 1e-9


def test_labels_with_room_stay_where_they_are() -> None:
    assert spaced([0.2, 0.5, 0.9], [0.05] * 3) == pytest.approx([0.2, 0.5, 0.9])
    assert spaced([0.5, 0.5], [0.1] * 2) == pytest.approx([0.45, 0.55])


@pytest.mark.parametrize(
    ("made", "task", "kind"),
    [
        (lambda: probed([0, 1]), "paired-associates", "ages"),
        (lambda: copied([0, 1]), "copy", "learning"),
        (lambda: ablated([0, 1]), "omniglot-online", "instances"),
    ],
    ids=["ages", "learning", "instances"],
)
def test_pictures_are_whole_and_every_method_stands_out_once(made: Any, task: str, kind: str) -> None:
    chart = drawn(made(), task, kind)
    with matplotlib.rc_context(plots.STYLE):
        figure, buffer = charts.figure(chart), io.BytesIO()
        figure.savefig(buffer)
        renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    with Image.open(buffer) as image:
        pixels = np.asarray(image.convert("L"))
    edges = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    assert (edges > 250).all(), "nothing is cut off at the border"
    named = [text.get_text().replace("\n ", " ") for axes in figure.axes for text in axes.texts]
    assert {n: named.count(n) for n in chart.names} == dict.fromkeys(chart.names, len(chart.panels))
    for axes in figure.axes:
        texts = [t for t in (*axes.texts, *axes.get_xticklabels()) if t.get_text()]
        boxes = [Text.get_window_extent(t, renderer) for t in texts]  # an annotation's own has its line in it
        assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
        names = [t for t in axes.texts if isinstance(t, Annotation)]
        assert names
        left = min(Text.get_window_extent(t, renderer).x0 for t in names)
        ends = [t.arrow_patch.get_window_extent(renderer).x1 for t in names if t.arrow_patch]
        assert max(ends) < left, "lines end before the names begin, and cross none"
        bold = [line for line in axes.lines if line.get_lw() == 2.2]
        for look in ("marker", "color"):
            assert len({getattr(line, f"get_{look}")() for line in bold}) == len(bold)


def test_lines_that_stand_out_together_have_dashes_of_their_own() -> None:
    assert len(set(map(str, plots.DASHES[: charts.GROUP]))) == len(set(plots.MARKERS[: charts.GROUP])) == charts.GROUP


def test_odd_charts_are_drawn_without_a_warning() -> None:
    nothing = Line("a", (1, 2), (None, None))
    broken = Line("b", (), (), seeds=(((1,), (5.0,)), ((), ())), broken=(True, True))
    hostile = Line("$x^{ <b> a very long name that has to be wrapped somewhere", (1, 2), (1.0, 3.0), (0.5, 2), (2, 4.0))
    for log in (False, True):
        panel = Panel("$", "x", "y", (nothing, broken, hostile), (Mark("m$", (1, 2), (None, 2.0)),), log=log)
        assert charts.draw(Chart("t", "n", ("a", "b", hostile.name), (panel,)))


def test_short_has_six_digits_and_no_nan() -> None:
    assert short([1 / 3, math.nan, None, math.inf, 123456789]) == (0.333333, None, None, None, 123457000)
