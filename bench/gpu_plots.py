"""Two pictures of `bench.gpu_check`: scans beside what was predicted, and losses on CPU and device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from bench import files
from bench.plots import COLOURS, DASHES, STYLE, blank, png

WINDOW = 10
"""Losses are drawn as means of so many steps."""


def scans(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Time of each scan, launched and replayed from a graph, with quartiles; the prediction and the floor beside it."""
    with matplotlib.rc_context(STYLE):
        figure = blank((8.6, 0.62 * len(rows) + 2.2), "Scans against the prediction")
        axes = figure.add_subplot()
        place = np.arange(len(rows))
        for kind, marker, colour, at in (("launched", "o", COLOURS[0], 0.16), ("replayed", "s", COLOURS[1], -0.16)):
            made = [(i, row[kind]) for i, row in enumerate(rows) if kind in row]
            if not made:
                continue
            middle = np.array([1e6 * seconds["median"] for _, seconds in made])
            ends = np.array([[1e6 * seconds[q] for _, seconds in made] for q in ("q1", "q3")])
            axes.errorbar(middle, [i + at for i, _ in made], xerr=np.abs(ends - middle), fmt=marker, color=colour,
                          label=f"{kind}, median and quartiles")  # fmt: skip
        axes.plot([1e6 * row["predicted"] for row in rows], place, "|", ms=18, mew=2.5, color="black",
                  label="predicted for an H100")  # fmt: skip
        axes.plot([1e6 * row["floor"] for row in rows], place, "<", color="0.45", label="floor of an H100")
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.set_yticks(place, [row["scan"] for row in rows])
        axes.invert_yaxis()
        axes.set_xlabel("time of a sequence of 50 steps, 16 episodes at once, µs")
        _finish(figure, path, 2)


def losses(curves: Mapping[str, Sequence[float]], path: Path) -> None:
    """Training losses by step, means of `WINDOW` steps."""
    with matplotlib.rc_context(STYLE):
        figure = blank((7.2, 4.4), "The same training on CPU and device")
        axes = figure.add_subplot()
        for i, (name, curve) in enumerate(curves.items()):
            count = max(1, min(WINDOW, len(curve)))
            whole = len(curve) // count * count
            means = np.array(curve[:whole]).reshape(-1, count).mean(1)
            steps = np.arange(len(means)) * count + (count + 1) / 2
            axes.plot(steps, means, color=COLOURS[i], ls=DASHES[i], marker="os^"[i], ms=5, label=name)
        axes.set_xlabel("training step")
        axes.set_ylabel("loss, nats")
        _finish(figure, path, 3)


def _finish(figure: Figure, path: Path, columns: int) -> None:
    figure.legend(loc="outside lower center", ncols=columns)
    files.replace(path, png(figure))
