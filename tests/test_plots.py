"""Pictures are drawn for every kind of record, say what they must, and are the same bytes each time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from synthetic import record, scored, showcase, spec

from bench import plots


def svg(records: list[dict[str, Any]], tmp_path: Path) -> str:
    plots.overview(records, tmp_path / "a.svg", "title of it")
    return (tmp_path / "a.svg").read_text(encoding="utf-8")


def test_overview_has_a_panel_a_task_and_names_every_method(tmp_path: Path) -> None:
    text = svg(showcase(), tmp_path)
    for words in (
        "title of it", "omniglot", "omniglot-online, 5-way", "sinusoid, 10-shot", "lake", "5-way 1-shot", "protonet",
        "hausdorff", "mann", "lstm", "ceiling by elimination", "gradient steps on the support", "accuracy, %",
        "Student t 95 %", "1 diverged, not shown",
    ):  # fmt: skip
        assert words in text
    assert text.count("omniglot-online") == 1


@pytest.mark.parametrize(
    "records",
    [
        [],
        [record(spec("mann", "omniglot", fields={}))],
        [scored(spec("mann", "sinusoid", fields={}), 2.0)],
        [scored(spec("mann", "omniglot", 0, fields={"note": "$x^{"}), 0.5),
         scored(spec("mann", "omniglot", 0, fields={"note": "<b>"}), 0.6)],
        showcase([0]),
        showcase([0, 1]),
    ],
    ids=["none", "diverged", "one", "hostile", "one seed", "two seeds"],
)  # fmt: skip
def test_odd_records_are_drawn_without_a_warning(records: list[dict[str, Any]], tmp_path: Path) -> None:
    plots.overview(records, tmp_path / "a.png", "odd")
    with Image.open(tmp_path / "a.png") as image:
        assert image.format == "PNG"


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_the_same_records_give_the_same_bytes(suffix: str, tmp_path: Path) -> None:
    for name, records in (("a", showcase([0, 1])), ("b", showcase([0, 1])[::-1])):
        plots.overview(records, tmp_path / f"{name}.{suffix}", "t")
    assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()


@pytest.mark.parametrize(("metric", "means"), [("accuracy", [0.0, 1.0, 1.0]), ("mse", [0.1, 0.1, 40.0])])
def test_no_interval_leaves_its_axis(
    metric: str, means: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, original = [], plots._figure
    monkeypatch.setattr(plots, "_figure", lambda *args: seen.append(original(*args)) or seen[-1])
    made = [scored(spec("mann", "omniglot", seed, fields={}), 0.5) for seed in range(3)]
    for each, mean in zip(made, means, strict=True):
        each["result"] |= {"metric": metric, "higher_is_better": metric == "accuracy"}
        each["result"]["evaluations"][""] |= {"mean": mean, "per_episode": [mean]}
    plots.overview(made, tmp_path / "a.png", "t")
    (axes,) = seen[0].axes
    (bar,) = [segment[:, 0] for each in axes.collections for segment in each.get_segments()]
    left, right = axes.get_xlim()
    assert left <= bar.min() < bar.max() <= right


def test_nothing_of_the_time_is_in_a_file(tmp_path: Path) -> None:
    assert "<dc:date>" not in svg(showcase([0]), tmp_path)
    plots.overview(showcase([0]), tmp_path / "a.png", "t")
    with Image.open(tmp_path / "a.png") as image:
        assert not image.info.keys() & {"Software", "Creation Time", "date"}


def test_methods_look_different_without_colour() -> None:
    looks = plots._looks(plots.pd.Series([f"m{i}" for i in range(11)]))
    assert len({(look.marker, str(look.dash)) for look in looks.values()}) == 11
    assert len({look.colour for look in list(looks.values())[:8]}) == 8


def test_text_does_not_overlap_within_a_panel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    original = plots._figure

    def keep(*args: Any) -> Any:
        seen.append(original(*args))
        return seen[-1]

    monkeypatch.setattr(plots, "_figure", keep)
    fields = [{"slots": 2**k, "write_value": "separate" if k % 2 else "key"} for k in range(1, 8)]
    long = [scored(spec("mann", "omniglot", fields=f), 0.1 * k) for k, f in enumerate(fields)]
    for records in (showcase(), long):
        plots.overview(records, tmp_path / "a.png", "t")
        figure = seen[-1]
        renderer = figure.canvas.get_renderer()
        for axes in figure.axes:
            labels = [t for t in (*axes.get_xticklabels(), *axes.get_yticklabels(), *axes.texts) if t.get_text()]
            boxes = [t.get_window_extent(renderer) for t in labels]
            assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
        with Image.open(tmp_path / "a.png") as image:
            pixels = np.asarray(image.convert("L"))
        edges = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
        assert (edges > 250).mean() > 0.999  # nothing is cut off at the border
