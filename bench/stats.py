"""Is A better than B, by how much, how sure: methods of a frame compared over seeds, and with published figures.

`compare` and `compare_all` take the frames of `bench.frames` and give a `Comparison` a task and setting, with p
corrected for their family; `bench.paired` is the comparison of numbers, and says what stands in one. Units: accuracies
and errors in percent points; squared errors and bits are compared by the logarithm of their ratio.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from bench import published, significance, verdicts
from bench.errors import BenchError
from bench.frames import PERCENT, RATIOS, metric_of, once, shown
from bench.paired import Comparison, Failures, as_family, paired
from bench.references import guessing
from bench.registry import unknown
from bench.verdicts import Reproduction

__all__ = ["Comparison", "Failures", "Section", "as_family", "compare", "compare_all", "paired", "places",
           "reproductions", "scores_of", "template"]  # fmt: skip


def compare(
    made: pd.DataFrame,
    a: str,
    b: str,
    *,
    task: str | None = None,
    setting: str | None = None,
    at: str = "",
    failures: Failures = "excluded",
    margin: float | None = None,
) -> list[Comparison]:
    """A against B in each task and setting that both have records of: one family.

    made: a frame of `bench.frames`. a, b: methods as the frame or its `label` names them, or a registered name of which
    there is one form in each setting. task, setting: only this one. at: "", or "instance 2", "step 1", "group 3".
    margin: the smallest difference that matters, as shown (points, or percent of squared errors and bits); else
    `verdicts.margin_of`.

    Raises:
        BenchError: an empty frame; an unknown method, task, setting or place; methods that share no task, setting or
            seed; a name that fits several methods; one method twice.
    """
    there = _of_task(made, task)
    if setting is not None:
        if setting not in set(there["setting"]):
            raise BenchError(unknown("recorded setting", setting, set(there["setting"]) - {""}))
        there = there[there["setting"] == setting]
    sections = {(str(t), str(s)): section for (t, s), section in there.groupby(["task", "setting"], sort=False)}
    named = {key: [_forms(section, name, there) for name in (a, b)] for key, section in sections.items()}
    shared = {key: forms for key, forms in named.items() if all(forms)}
    if not shared:
        has = ["; ".join(f"{t}, {s}" if s else t for (t, s), forms in named.items() if forms[i]) for i in (0, 1)]
        raise BenchError(f"{a} and {b} share no task and setting: {a} has {has[0]}, and {b} {has[1]}")
    for (where, _), each in shared.items():
        for name, forms in zip((a, b), each, strict=True):
            if len(forms) > 1:
                raise BenchError(f"'{name}' has several forms on {where}, name one of them: {'; '.join(forms)}")
    pairs = {key: (first[0], second[0]) for key, (first, second) in shared.items()}
    if any(first == second for first, second in pairs.values()):
        raise BenchError(f"'{a}' and '{b}' are the same method; name two")
    found, problems = [], []
    for key, pair in pairs.items():
        try:
            found.append(Section(sections[key], at, failures, margin).pair(*pair))
        except BenchError as problem:
            problems.append(problem)
    if not found:
        raise problems[0]
    return as_family(found)


def compare_all(
    made: pd.DataFrame,
    *,
    task: str | None = None,
    at: str = "",
    failures: Failures = "excluded",
    margin: float | None = None,
) -> list[Comparison]:
    """Every pair of methods once, best mean first; the pairs of one task and setting are a family.

    See `compare`. Pairs without a common seed or without a ratio, and methods without this place, are left out.

    Raises:
        BenchError: an empty frame, an unknown task.
    """
    compared: list[Comparison] = []
    for _, rows in _of_task(made, task).groupby(["task", "setting"], sort=False):
        section = Section(rows, at, failures, margin)
        means = {name: float(np.nanmean([*s.values(), math.nan])) if not all(map(math.isnan, s.values())) else math.nan
                 for name, s in section.scores.items()}  # fmt: skip
        worst_last = sorted(means, key=lambda name: _rank(means[name], section.template.higher_is_better))
        shared = [p for p in combinations(worst_last, 2) if section.scores[p[0]].keys() & section.scores[p[1]].keys()]
        found = []
        for pair in shared:
            with suppress(BenchError):
                found.append(section.pair(*pair))
        compared += as_family(found)
    return compared


def reproductions(made: pd.DataFrame, *, task: str | None = None) -> list[Reproduction]:
    """Ours beside the published figure most like it, wherever there is one: see `verdicts.reproduction`.

    Memories that were taken away are compared with nothing.

    Raises:
        BenchError: an empty frame, an unknown task.
    """
    found = []
    for (name, setting, method), rows in _of_task(made, task).groupby(["task", "setting", "method"], sort=False):
        metric, spec, fields = metric_of(rows), rows["spec"].iloc[0], rows["fields"].iloc[0]
        where = dict.fromkeys(["", *(place for scores in rows["scores"] for place in places(scores))])
        for at in where if spec["method"]["fields"].get("ablate", "none") == "none" else ():
            scores = scores_of(rows, at)
            values = [v for v in scores.values() if not math.isnan(v)]
            printed = published.beside(spec, fields, at)
            if not printed or not values:
                continue
            match = published.protocol_match(spec, printed[0], fields)
            margin = verdicts.margin_of(str(name), metric, fields)
            if margin is not None and metric not in PERCENT:
                margin *= printed[0].value / 100
            found.append(verdicts.reproduction(
                values, printed[0], match, margin, diverged=[s for s, v in scores.items() if math.isnan(v)],
                higher_is_better=bool(rows["higher_is_better"].iloc[0]) and metric != "error",
                certain=name == "lake" and not spec["budget"]["steps"],  # its runs are fixed
                task=str(name), setting=str(setting), method=str(method), at=at, metric=metric,
            ))  # fmt: skip
    return found


def scores_of(rows: pd.DataFrame, at: str = "") -> dict[int, float]:
    """Of one method in one setting, the score of each seed as tables show it; NaN where it diverged.

    Seeds that are missing, or have no such place, are left out; so are all where none of them was measured there.
    """
    metric, found = metric_of(rows), {}
    measured = any(_part(scores, at) for scores in rows["scores"]) or (rows["outcome"] == "diverged").all()
    for seed, outcome, scores in zip(rows["seed"], rows["outcome"], rows["scores"], strict=True):
        part = _part(scores, at)
        if part and part["mean"] is not None:  # a setting that diverged may have scores after fewer steps
            found[int(seed)] = shown(metric, part["mean"])
        elif measured and (outcome == "diverged" or (at.startswith("step ") and scores.get("by_step"))):
            found[int(seed)] = math.nan  # scores after other steps, and none that is finite after these
    return found


def _of_task(made: pd.DataFrame, task: str | None) -> pd.DataFrame:
    there = once(made[made["outcome"] != "missing"])
    if there.empty:
        raise BenchError("there are no records to compare; `bench run` makes them")
    if task is None:
        return there
    if task not in set(there["task"]):
        raise BenchError(unknown("recorded task", task, set(there["task"])))
    return there[there["task"] == task]


def _forms(section: pd.DataFrame, name: str, made: pd.DataFrame) -> list[str]:
    """The methods of a section that a name means: the one called so, those registered so, those with its fields."""
    fits = next((set(section["method"][fit]) for fit in _called(section, name) if fit.any()), set())
    if not fits and not any(fit.any() for fit in _called(made, name)):
        raise BenchError(unknown("recorded method", name, made["method_name"]))
    return sorted(fits)


def _called(rows: pd.DataFrame, name: str) -> Iterator[pd.Series[bool]]:
    """Which rows a name means, the closest reading first; "maml (adapts=head)" is any with that among its settings."""
    for column in ("method", "label", "method_name"):
        yield rows[column] == name
    method, wanted = _parts(name)
    known = [
        {*(f"{key}={value}" for key, value in spec["method"]["fields"].items()), *_parts(full)[1]}
        for spec, full in zip(rows["spec"], rows["method"], strict=True)
    ]
    yield (rows["method_name"] == method) & np.array([bool(wanted) and wanted <= each for each in known])


def _parts(name: str) -> tuple[str, set[str]]:
    """A method's name, and what stands behind it in brackets."""
    method, _, rest = name.removesuffix(")").partition(" (")
    return method, {*rest.split(", ")} if rest else set()


def template(rows: pd.DataFrame, at: str = "", failures: Failures = "excluded",
             margin: float | None = None) -> Comparison:  # fmt: skip
    """What is compared in one task, setting and place, and on which scale; see `compare`."""
    first, metric = rows.iloc[0], metric_of(rows)
    ratio = metric in RATIOS
    matters = verdicts.margin_of(first["task"], metric, first["fields"]) if margin is None else margin
    return Comparison(
        task=str(first["task"]), setting=str(first["setting"]), at=at, metric=metric,
        higher_is_better=bool(first["higher_is_better"]) and metric != "error",
        scale="ratio" if ratio else "difference", failures=failures,
        margin=math.log1p(matters / 100) if ratio and matters is not None else matters,
    )  # fmt: skip


class Section:
    """The rows of one task and setting, read once: scores by method and seed, and scores by episode."""

    def __init__(self, rows: pd.DataFrame, at: str = "", failures: Failures = "excluded",
                 margin: float | None = None) -> None:  # fmt: skip
        metric, self.rows = metric_of(rows), rows
        self.template = template(rows, at, failures, margin)
        self.scores: dict[str, dict[int, float]] = {}
        self.episodes: dict[str, dict[int, np.ndarray]] = {}
        for name, group in rows.groupby("method", sort=False):
            self.scores[str(name)] = scores_of(group, at)
            self.episodes[str(name)] = {
                int(seed): np.array([shown(metric, v) for v in part.get("per_episode", ())])
                for seed, s in zip(group["seed"], group["scores"], strict=True)
                if (part := _part(s, at))
            }
        self.chance = _chance(rows, metric, at)

    def pair(self, a: str, b: str) -> Comparison:
        """Two of its methods.

        Raises:
            BenchError: one of them has nothing at this place; or see `paired`.
        """
        for name in (a, b):
            if not self.scores[name]:
                known = sorted({place for scores in self.rows["scores"] for place in places(scores)}, key=_by_number)
                there = f"there are: {', '.join(known)}" if known else "only the whole was measured"
                raise BenchError(f"{name} has nothing at '{self.template.at}' on {self.template.task}; {there}")
        first, second = self.episodes[a], self.episodes[b]
        up = self.template.higher_is_better
        won = {s: significance.wins(first[s], second[s], up) for s in first.keys() & second.keys()}
        template = dataclasses.replace(self.template, a=a, b=b)
        return paired(self.scores[a], self.scores[b], template, chance=self.chance, episodes=won)


def _rank(mean: float, higher_is_better: bool) -> tuple[bool, float]:
    return math.isnan(mean), -mean if higher_is_better else mean


def _chance(section: pd.DataFrame, metric: str, at: str) -> float:
    """What guessing scores in a section, as shown: exactly where that is known, else as `chance` was measured there."""
    guess = guessing(section["fields"].iloc[0]) if metric in PERCENT else None
    if guess is not None:
        return guess if metric == "accuracy" else 100 - guess
    beside = section[(section["method_name"] == "chance") & (section["outcome"] == "ok")]
    found = {} if beside.empty else scores_of(beside, at)  # none after steps, which it does not take
    return float(np.mean([*found.values()])) if found else math.nan


def _part(scores: Mapping[str, Any], at: str) -> Mapping[str, Any] | None:
    """What a record says of one place: a mean, and scores by episode where it has them."""
    at = at.partition(":")[0]  # tables say what a group is
    kind, _, number = at.partition(" ")
    if not at:
        return scores or None
    if kind == "step":
        return (scores.get("by_step") or {}).get(number)
    if at not in places(scores):
        return None
    return {"mean": scores["by_instance"]["mean"][int(number) - 1]}


def places(scores: Mapping[str, Any]) -> list[str]:
    """Where else than overall a record's scores of one setting were measured."""
    by = scores.get("by_instance") or {"mean": ()}
    kind = "group" if by.get("groups") else "instance"
    return [f"{kind} {k + 1}" for k in range(len(by["mean"]))] + [f"step {k}" for k in scores.get("by_step") or ()]


def _by_number(place: str) -> tuple[str, int]:
    kind, _, number = place.partition(" ")
    return kind, int(number)
