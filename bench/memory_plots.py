"""Pictures of one memory at work, for `bench inspect`; each function gives a PNG, the same bytes for the same scene.

Style and colours are those of `bench.plots`. Heat maps are cividis, which does not need colour vision; what is right is
blue and solid, what is wrong red and dashed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.lines import Line2D
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.path import Path as Curve
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from torch import Tensor

from bench.plots import COLOURS, DASHES, GREY, MARKERS, STYLE, blank, png
from bench.scenes import Reads, Scene, texts
from bench.tasks.sequences import BitSequences

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = NDArray[Any]
ROWS = 128
"""At most so many slots are drawn."""
FAINT = 0.01
"""A slot whose weights never reach this part of the largest is left out."""
STEPS = 40
"""So many presentations are drawn with their characters."""
PALE = ("#E69F00", "#56B4E9", "#CC79A7")
"""Colours that black text is read on."""
RIGHT, WRONG = COLOURS[0], COLOURS[1]
DASHED = (0, (4, 1.5))
WIDTH = 14.0
"""Inches."""
SERIES = {
    "accuracy": "right predictions",
    "best_head_label": "strongest read of its class, by label",
    "best_head_image": "strongest read of its class, by image",
}


# ------------------------------------------------------------------------------------------------------------- weights


def weights(scene: Scene) -> bytes:
    """Read and write weights, slots × time, side by side; below them usage and gates, where the memory has them."""
    a = scene.addresses
    read, write = a.read[0].mean(1).numpy(), a.write[0].sum(1).numpy()
    slots = shown_slots(read, write)
    lower = [part for part, there in (("usage", a.usage is not None), ("gates", a.gates)) if there]
    heights = [_strip_height(scene), 2.5 + 0.022 * len(slots), *([2.6] if lower else [])]
    with matplotlib.rc_context(STYLE | {"axes.grid": False}):
        figure = blank((WIDTH, sum(heights) + 1.2), f"{scene.subject.title} · episode {scene.episode}")
        grid = figure.add_gridspec(len(heights), 2, height_ratios=heights)
        panels = [figure.add_subplot(grid[row, side]) for row in (0, 1) for side in (0, 1)]
        for side in (0, 1):
            _strip(panels[side], scene, side)
        _heat(panels[2], read, slots, "where it reads", f"read weight{_heads('mean', a.read)}")
        _heat(panels[3], write, slots, "where it writes", f"write weight{_heads('sum', a.write)}")
        for i, part in enumerate(lower):
            panels.append(figure.add_subplot(grid[2, i] if len(lower) == 2 else grid[2, :]))
            if part == "gates":
                _gates(panels[-1], {name: gate[0].numpy() for name, gate in a.gates.items()})
            elif a.usage is not None:
                _heat(panels[-1], a.usage[0].numpy(), slots, "usage before the step", "usage, in its own unit")
        for axes in panels:
            axes.set_xlim(0.5, scene.steps + 0.5)
            if len(axes.get_xticks()):
                axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        figure.supxlabel("\n".join(filter(None, ["step", _left_out(read, write, slots)])), fontsize=11)
        return png(figure)


def shown_slots(read: Array, write: Array) -> Array:
    """The slots worth drawing, in order: with a weight above `FAINT` of the largest; at most `ROWS`, the strongest.

    read, write: [time, slots].
    """
    parts = [w.max(0) / w.max() for w in (read, write) if w.max() > 0]
    strongest = np.max(parts, axis=0) if parts else np.ones(read.shape[1])
    slots = np.argsort(-strongest, kind="stable")[:ROWS]
    return np.sort(slots[strongest[slots] > FAINT])


def _left_out(read: Array, write: Array, slots: Array) -> str:
    rest = np.setdiff1d(np.arange(read.shape[1]), slots)
    if not len(rest):
        return ""
    if not max(read[:, rest].max(), write[:, rest].max()):
        return f"{len(rest)} of {read.shape[1]} slots left out: never read or written"
    most = [f"{name} at most {weight[:, rest].max():.2g}" for name, weight in (("read", read), ("write", write))]
    return f"{len(rest)} of {read.shape[1]} slots left out: {most[0]}, {most[1]}"


def _heat(axes: Axes, values: Array, slots: Array, title: str, label: str) -> None:
    """values: [time, all slots]; what is not finite stays grey."""
    shown = np.where(np.isfinite(values), values, np.nan)[:, slots]
    top, most = _top(shown)
    image = axes.imshow(shown.T, aspect="auto", cmap="cividis", interpolation="nearest", vmax=top,
                        extent=(0.5, len(shown) + 0.5, len(slots) - 0.5, -0.5))  # fmt: skip
    grey = not np.isfinite(shown).all()
    axes.set_facecolor("0.8")
    places = range(0, len(slots), math.ceil(len(slots) / 8))
    axes.set_yticks(places, [str(slots[p]) for p in places])
    axes.set_ylabel("slot")
    axes.set_title(title + " (grey: infinite)" * grey)
    axes.figure.colorbar(image, ax=axes, label=label, pad=0.01, fraction=0.05,
                         extend="max" if top < most else "neither")  # fmt: skip


def _top(values: Array) -> tuple[float, float]:
    """Where colours end, and the largest value: a few cells just above the rest would take all contrast from it."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return 1.0, 1.0
    most, usual = float(finite.max()), float(np.quantile(finite, 0.998))
    return (usual if 0.3 * most < usual < 0.8 * most else most), most


def _heads(how: str, weight: Tensor) -> str:
    return f",\n{how} of {weight.shape[2]} heads" if weight.shape[2] > 1 else ""


def _gates(axes: Axes, gates: Mapping[str, Array]) -> None:
    for i, (name, values) in enumerate(gates.items()):
        axes.plot(np.arange(1, len(values) + 1), values, color=COLOURS[i % len(COLOURS)], ls=DASHES[i % len(DASHES)],
                  marker=MARKERS[i % len(MARKERS)], ms=3.5, lw=1.5, label=name)  # fmt: skip
    if all(values.min() >= 0 and values.max() <= 1 for values in gates.values()):
        axes.set_ylim(-0.03, 1.03)
    axes.grid(True)
    axes.set_title("gates")
    axes.set_ylabel("value")
    axes.legend(ncols=len(gates), loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0.2)


def _strip_height(scene: Scene) -> float:
    return 0.3 if scene.table is not None else 0.5 + 0.07 * scene.x[0].numel()


def _strip(axes: Axes, scene: Scene, side: int) -> None:
    """What happens at each step: the class shown; else left the inputs, right what was asked and answered."""
    if scene.table is None:
        _values(axes, scene, side)
        return
    classes, names = scene.table["class_id"].to_numpy(), texts(scene)[0]
    for t, (c, name) in enumerate(zip(classes, names, strict=True)):
        colour = COLOURS[c % len(COLOURS)]
        axes.add_patch(Rectangle((t + 0.5, 0), 1, 1, color=colour, lw=0))
        if scene.steps <= 60 and len(name) <= 2:
            axes.text(t + 1, 0.47, name, ha="center", va="center", fontsize=8, fontweight="bold",
                      color="black" if colour in PALE else "white")  # fmt: skip
    axes.set_ylim(0, 1)
    axes.axis("off")
    axes.set_title("label of what is shown", fontsize=10, fontweight="normal")


def _values(axes: Axes, scene: Scene, side: int) -> None:
    """Black is 1; targets and answers in bits are shown at the scored steps only."""
    target, answer = scene.y.numpy(), scene.prediction.numpy()
    if isinstance(scene.task, BitSequences):
        scored = target[:, -1:] > 0
        target, answer = (np.where(scored, v, np.nan) for v in (target[:, :-1], scene.prediction.sigmoid().numpy()))
    asked = np.concatenate([target, answer], 1)
    values, title = ((scene.x.flatten(1).numpy(), "inputs"), (asked, "targets above, answers below"))[side]
    axes.imshow(values.T, aspect="auto", cmap="Greys", interpolation="nearest",
                extent=(0.5, scene.steps + 0.5, values.shape[1] - 0.5, -0.5))  # fmt: skip
    if side:
        axes.axhline(target.shape[1] - 0.5, color=COLOURS[0], lw=1.5)
    axes.set_facecolor("0.93")
    axes.set_title(title)
    axes.set_yticks([])
    axes.set_xticks([])


# ----------------------------------------------------------------------------------------------------------- retrieval


def retrieval(scene: Scene, reads: Reads) -> bytes:
    """Presentations in time, a lane a class; lines lead back to the one that each strongest read comes from."""
    assert scene.table is not None
    classes = scene.table["class_id"].to_numpy()[:STEPS]
    count, lanes = len(classes), int(classes.max()) + 1
    step = (WIDTH - 1.2) / count
    side = min(0.95 * step, 0.25 if image_of(scene.task, scene.x[0]) is None else 0.6)
    """Inches of a step, and of a character."""
    size = (WIDTH, (side + 0.45) * lanes + 1.9)
    with matplotlib.rc_context(STYLE | {"axes.grid": False}):
        figure = blank(size, f"{scene.subject.title} · episode {scene.episode}", layout=None)
        axes = figure.add_axes((1.0 / WIDTH, 1.0 / size[1], (WIDTH - 1.2) / WIDTH, (size[1] - 1.5) / size[1]))
        axes.set(xlim=(0.5, count + 0.5), ylim=(lanes - 0.45, -0.75))
        lane = (size[1] - 1.5) / (lanes + 0.3)
        half = side / 2 / step, side / 2 / lane
        _lanes(axes, scene, lanes)
        for t, source in enumerate(reads.source[:count]):
            if source is not None:
                _line(axes, (source + 1, classes[source]), (t + 1, classes[t]), half[1], reads.right[t])
        for t, c in enumerate(classes):
            _presentation(axes, scene, t, c, half)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("presentation" + f" (the first {count} of {scene.steps})" * (count < scene.steps))
        figure.legend(handles=_retrieval_legend(), loc="lower center", ncols=3, handlelength=3)
        figure.text(1.0 / WIDTH, 1 - 0.55 / size[1], _how(scene, reads), fontsize=11, color="0.25", va="center")
        return png(figure)


def _lanes(axes: Axes, scene: Scene, lanes: int) -> None:
    assert scene.table is not None
    names = dict(zip(scene.table["class_id"], texts(scene)[0], strict=True))
    for c in range(lanes):
        axes.axhline(c, color="0.9", lw=1, zorder=0)
    axes.set_yticks(range(lanes), [names[c] for c in range(lanes)])
    axes.set_ylabel("label")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)


def _presentation(axes: Axes, scene: Scene, t: int, c: int, half: tuple[float, float]) -> None:
    """A character, or a square, in a frame of its class's colour; a cross where the prediction is wrong."""
    assert scene.table is not None
    x, y = t + 1, float(c)
    picture = image_of(scene.task, scene.x[t])
    box = (x - half[0], x + half[0], y + half[1], y - half[1])
    colour = COLOURS[c % len(COLOURS)]
    if picture is not None:
        axes.imshow(picture, cmap="Greys", vmin=0, vmax=0.8, extent=box, aspect="auto", zorder=3)
    axes.add_patch(Rectangle((box[0], box[3]), 2 * half[0], 2 * half[1], fill=picture is None, facecolor=colour,
                             edgecolor=colour, lw=2, zorder=4))  # fmt: skip
    if not scene.table["correct"][t]:
        axes.plot(x, box[2] + 0.11, marker="X", color="black", ms=6, mec="white", mew=0.5, zorder=5, clip_on=False)


def _line(axes: Axes, start: tuple[float, float], end: tuple[float, float], half: float, right: bool) -> None:
    """From a read back to its source: an arc within a lane, a curve across lanes."""
    (x0, y0), (x1, y1) = start, end
    if y0 == y1:
        lift = min(0.24, 0.08 + 0.015 * (x1 - x0))
        points = [(x0, y0 - half), (x0 + 0.2, y0 - half - lift), (x1 - 0.2, y0 - half - lift), (x1, y1 - half)]
    else:
        down = half if y1 > y0 else -half
        middle = (y0 + y1) / 2
        points = [(x0, y0 + down), (x0, middle), (x1, middle), (x1, y1 - down)]
    curve = Curve(points, [Curve.MOVETO] + [Curve.CURVE4] * 3)
    colour, dash = (RIGHT, "-") if right else (WRONG, DASHED)
    axes.add_patch(PathPatch(curve, fill=False, lw=1.6, zorder=2, color=colour, ls=dash, alpha=0.85))


def _retrieval_legend() -> list[Line2D]:
    return [
        Line2D([], [], color=RIGHT, lw=2, label="its strongest read is of its own class"),
        Line2D([], [], color=WRONG, lw=2, ls=DASHED, label="of another class"),
        Line2D([], [], color="black", marker="X", ls="", ms=7, label="wrong prediction"),
    ]


def _how(scene: Scene, reads: Reads) -> str:
    count = scene.addresses.read.shape[2]
    head = (
        ""
        if count == 1
        else f"mean of {count} read heads; "
        if reads.head is None
        else f"read head {reads.head + 1} of {count}; "
    )
    known = [right for source, right in zip(reads.source, reads.right, strict=True) if source is not None]
    return (
        f"A line leads back to the presentation whose {reads.by} was shown when the slot now read most was written "
        f"({head}{sum(known)} of {len(known)} right)"
    )


def image_of(task: Any, x: Tensor) -> Array | None:
    """An input as a grey or colour picture, [side, side] or [side, side, 3]; None where it is none."""
    side = getattr(task, "size", 0)
    if x.ndim == 1 and side * side == len(x):
        return x.view(side, side).numpy()
    if x.ndim == 3 and len(x) in (1, 3):
        return x.permute(1, 2, 0).squeeze(2).numpy()
    return None


# ---------------------------------------------------------------------------------------------------------- forgetting


def forgetting(found: Mapping[str, Any], title: str) -> bytes:
    """Accuracy and retrieval precision of the best heads against age. found: as of `diagnostics.summary`."""
    curve, chance = found["forgetting"], found["numbers"]["retrieval_label"]["chance"]
    with matplotlib.rc_context(STYLE):
        figure = blank((9, 5), title)
        axes = figure.add_subplot()
        places = range(len(curve["age"]))
        for i, (key, label) in enumerate(SERIES.items()):
            values = [math.nan if v is None else 100 * v for v in curve[key]]
            axes.plot(places, values, color=COLOURS[i], marker=MARKERS[i], ls=DASHES[i], label=label, clip_on=False)
        if chance is not None:
            axes.axhline(100 * chance, color=GREY, lw=1.5, ls=(0, (1, 1.5)), zorder=1, label="read at random, by label")
        axes.set_xticks(places, [f"{age}\nn = {n}" for age, n in zip(curve["age"], curve["n"], strict=True)])
        axes.set(ylim=(0, 100), ylabel="%", xlabel="presentations since the class was last shown")
        figure.legend(loc="outside lower center", ncols=2)
        return png(figure)
