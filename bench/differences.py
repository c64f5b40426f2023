"""`bench diff`: which numbers moved between two stores, and whether beyond noise.

A number is a score of one method, task, budget and setting, overall or by instance or gradient step. Cells are the same
here whatever their version, so that one sees what a new version did. Where both stores have a seed, its two scores are
paired: they were measured on the same test episodes. What is noise:

- three seeds or more: the Student t 95 % interval of the paired differences over seeds;
- one or two seeds with the same ids: that interval over the paired episodes. It says whether these trained models
  differ, not whether others would;
- three seeds or more on either side, but not the same: Welch's t interval over seeds;
- fewer seeds, with other ids or not the same: it cannot be told.

Over seeds, squared errors and bits are compared by the logarithm of their ratio, as `bench compare` does.

A number is beyond noise where the p-value of that interval's test is, by Holm's rule over all numbers that moved: by
chance alone, one comparison in twenty says of anything that it is better or worse, however many numbers it has.

Times are not compared. Records of uncommitted code are: they are what one wants to check.
"""

from __future__ import annotations

import io
import math
import os
import subprocess
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from bench import cells, frames, records, views
from bench.config import canonical
from bench.errors import BenchError
from bench.intervals import FEWEST, Estimate, t_half_width
from bench.paired import Scale
from bench.records import Record
from bench.significance import ALPHA, holm

SAME, NOISE, UNKNOWN = "the same", "within noise", "cannot tell"
BETTER, WORSE, LOST, WON = "better", "worse", "diverges now", "diverges no longer"
MOVED = (LOST, WORSE, WON, BETTER)
"""Verdicts that are beyond noise, in the order in which they are shown."""
ROUNDING = 1e-5
"""Share of a number below which a difference is single precision in another order; one answer of 10,000 is more."""
ROWS = 100


class Key(NamedTuple):
    """Which number, but for the seed."""

    cell: str
    """Canonical JSON of what defines the cell, without its versions."""
    evaluation: str
    place: str
    metric: str
    """Records that measure something else are not compared, whatever their spec says."""


class Score(NamedTuple):
    """A number of one seed; its value is None where it diverged."""

    record: Record
    value: float | None
    per_episode: Sequence[float]


@dataclass(frozen=True)
class Difference:
    """A number in two stores; scores as records hold them, differences new minus old.

    scale: of change and half_width; natural logarithms of new over old where it is a ratio, and then old and new are
    geometric means.
    """

    task: str
    method: str
    at: str
    metric: str
    old: float
    new: float
    change: float
    half_width: float
    """Half its 95 % interval; NaN where there is none."""
    p: float
    """Of no difference, before Holm's rule; NaN where there is no interval."""
    basis: str
    """What the interval is over."""
    verdict: str
    scale: Scale = "difference"

    @property
    def moved(self) -> bool:
        """Whether beyond noise."""
        return self.verdict in MOVED


# ------------------------------------------------------------------------------------------------------------- compare


def compare(old: Iterable[Record], new: Iterable[Record]) -> list[Difference]:
    """All numbers that both have, of the newest version of each method and task in either."""
    before, after = _numbers(old), _numbers(new)
    found = [_difference(key, before[key], after[key]) for key in sorted(before.keys() & after.keys())]
    tested = [i for i, each in enumerate(found) if each.verdict in (BETTER, WORSE)]
    for i, p in zip(tested, holm([found[i].p for i in tested]), strict=True):
        if p > ALPHA:
            found[i] = replace(found[i], verdict=NOISE)
    return found


def _numbers(found: Iterable[Record]) -> dict[Key, dict[int, Score]]:
    """Scores by what they are of, then by seed."""
    numbers: dict[Key, dict[int, Score]] = {}
    for content in sorted(frames.current(frames.plain(found)), key=lambda r: r["id"]):
        record = Record(**content)
        cell = canonical(_without_versions(record.spec))
        for evaluation, place, value, per_episode in _scores(record):
            seeds = numbers.setdefault(Key(cell, evaluation, place, record.result["metric"]), {})
            seeds.setdefault(record.seed, Score(record, value, per_episode))
    return numbers


def _without_versions(spec: Mapping[str, Any]) -> dict[str, Any]:
    task = spec["task"]
    # In which further settings a model is tested does not change what it is.
    fields = {key: value for key, value in task["fields"].items() if key != "also"}
    return {"method": [spec["method"]["name"], spec["method"]["fields"]], "task": [task["name"], fields, task["data"]],
            "budget": spec["budget"]}  # fmt: skip


def _scores(record: Record) -> Iterator[tuple[str, str, float | None, Sequence[float]]]:
    """Setting, place, value and episodes of all that a record measured."""
    evaluations = record.result["evaluations"] if record.outcome == "ok" else {}
    lost = ["", *record.spec["task"]["fields"].get("also", ())] if record.outcome != "ok" else []
    for name in dict.fromkeys([*lost, *record.result.get("diverged", ())]):
        if name not in evaluations:
            yield name, "", None, ()
    for name, scores in evaluations.items():
        yield name, "", scores["mean"], scores["per_episode"]
        for step, at in (scores["by_step"] or {}).items():
            yield name, f"step {step}", at["mean"], at["per_episode"]
        by = scores["by_instance"] or {"mean": ()}
        kinds = by.get("groups") or [f"instance {k}" for k in range(1, len(by["mean"]) + 1)]
        for place, value in zip(kinds, by["mean"], strict=False):
            if value is not None:
                yield name, place, value, ()


def _difference(key: Key, old: Mapping[int, Score], new: Mapping[int, Score]) -> Difference:
    first = next(iter(new.values())).record
    method, task = views.names(first.spec)
    before, after = (_known(scores, old.keys() & new.keys()) for scores in (old, new))
    test, verdict = _judged(before, after, bool(first.result["higher_is_better"]), key.metric in frames.RATIOS)
    at = ", ".join(filter(None, (key.evaluation, key.place)))
    return Difference(
        task, method, at, first.result["metric"], _mean(before, test.scale), _mean(after, test.scale), test.change,
        test.half_width, test.p, test.basis, verdict, test.scale,
    )  # fmt: skip


def _known(scores: Mapping[int, Score], common: Iterable[int]) -> dict[int, Score]:
    """Those of the seeds that both have; all where they have none in common."""
    return {seed: scores[seed] for seed in sorted(set(common) or scores)}


class Tested(NamedTuple):
    """Change, half its interval, p, what these are over, and on which scale."""

    change: float
    half_width: float
    p: float
    basis: str
    scale: Scale = "difference"


def _judged(old: Mapping[int, Score], new: Mapping[int, Score], higher_is_better: bool,
            ratio: bool) -> tuple[Tested, str]:  # fmt: skip
    """The test of a number, and the verdict before Holm's rule. ratio: of logarithms, where there are three of each."""
    failed = [{seed for seed, score in scores.items() if score.value is None} for scores in (old, new)]
    paired = old.keys() == new.keys()
    basis = _count(len(old)) if paired else f"{len(old)} and {len(new)} other seeds"
    if failed[0] != failed[1] and (paired or not all(failed)):
        return Tested(math.nan, math.nan, math.nan, basis), LOST if failed[1] - failed[0] else WON
    pairs = [(old[s], new[s]) for s in old if paired and s not in failed[0]]
    if paired and all(_close(a.value, b.value) for a, b in pairs):
        return Tested(_mean(new) - _mean(old), math.nan, math.nan, basis), SAME
    before, after = _values(old), _values(new)
    able = ratio and all(len(values) >= FEWEST and min(values) > 0 for values in (before, after))
    scale: Scale = "ratio" if able else "difference"
    test = _paired(pairs, scale) if paired else _welch(before, after, basis, scale)
    verdict = UNKNOWN if math.isnan(test.p) else BETTER if (test.change > 0) == higher_is_better else WORSE
    return test, verdict


def _paired(pairs: Sequence[tuple[Score, Score]], scale: Scale) -> Tested:
    """Student's t over seeds, or over the episodes of few seeds."""
    on = math.log if scale == "ratio" else float
    each = [on(_value(new)) - on(_value(old)) for old, new in pairs]
    repeated = all(
        old.record.id == new.record.id and 1 < len(old.per_episode) == len(new.per_episode) for old, new in pairs
    )
    change, basis = float(np.mean(each)), _count(len(pairs))
    if len(pairs) < FEWEST and repeated:
        each = np.concatenate([np.subtract(new.per_episode, old.per_episode) for old, new in pairs]).tolist()
        basis = f"{len(each)} episodes, {basis}"
    return Tested(change, t_half_width(each), _p(change, t_half_width(each), len(each) - 1), basis, scale)


def _p(change: float, half_width: float, freedom: int) -> float:
    """The two-sided p-value of a change whose interval is that wide."""
    if half_width == 0:
        return float(change == 0)
    return float(2 * stats.t.sf(abs(change) / half_width * stats.t.ppf(0.975, freedom), freedom))


def _welch(old: Sequence[float], new: Sequence[float], basis: str, scale: Scale) -> Tested:
    """Welch's t of seeds that are not the same."""
    if scale == "ratio":
        old, new = ([math.log(v) for v in values] for values in (old, new))
    change = float(np.mean(new) - np.mean(old)) if old and new else math.nan
    if min(len(old), len(new)) < FEWEST:
        return Tested(change, math.nan, math.nan, basis, scale)
    if min(old) == max(old) and min(new) == max(new):  # what scipy divides by zero for
        return Tested(change, 0.0, _p(change, 0.0, 1), basis, scale)
    test = stats.ttest_ind(new, old, equal_var=False)
    low, high = test.confidence_interval(0.95)
    return Tested(change, float(high - low) / 2, float(test.pvalue), basis, scale)


def _value(score: Score) -> float:
    return math.nan if score.value is None else score.value


def _close(a: float | None, b: float | None) -> bool:
    return a == b or (a is not None and b is not None and abs(a - b) <= ROUNDING * max(abs(a), abs(b)))


def _values(scores: Mapping[int, Score]) -> list[float]:
    return [_value(score) for score in scores.values() if score.value is not None]


def _mean(scores: Mapping[int, Score], scale: Scale = "difference") -> float:
    values = _values(scores)
    if scale == "ratio":
        return float(np.exp(np.mean(np.log(values))))
    return float(np.mean(values)) if values else math.nan


def _count(n: int) -> str:
    return f"{n} seed{'s' * (n != 1)}"


# ---------------------------------------------------------------------------------------------------------------- read


def records_at(where: str, results: Path) -> list[Record]:
    """The records of a results folder, or of the folder `results` at a git revision; the work tree is not touched.

    Raises:
        BenchError: neither, no record there, or one that is not whole.
    """
    folder = Path(where)
    if not folder.is_dir():
        return _at_revision(where, results)
    loaded = records.load(folder)
    if loaded.problems:
        raise BenchError(loaded.problems[0])
    if not loaded.records:
        raise BenchError(f"there is no record in {folder / 'runs'}; give a results folder or a git revision")
    return loaded.records


def _at_revision(revision: str, results: Path) -> list[Record]:
    folder = results.resolve()
    start = next(path for path in (folder, *folder.parents) if path.is_dir())
    commit = (
        b"" if revision.startswith("-") else _git(start, "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}")
    )
    if not commit:
        raise BenchError(f"'{revision}' is neither a folder of results nor a git revision of the folder {results}")
    found_top = _git(start, "rev-parse", "--show-toplevel").decode().removesuffix("\n")
    if not found_top:
        raise BenchError(f"{folder} is in no work tree of git, so it has no revisions; name two folders of results")
    top = Path(found_top)
    inside = (folder.relative_to(top) / "runs").as_posix()
    packed = _git(top, "--literal-pathspecs", "archive", "--format=tar", commit.decode().strip(), inside)
    found: dict[str, Record] = {}
    with tarfile.open(fileobj=io.BytesIO(packed or bytes(tarfile.RECORDSIZE))) as archive:
        for member in archive:
            file = archive.extractfile(member) if member.isfile() else None
            parts = PurePosixPath(member.name).relative_to(inside).parts if file else ()
            if file and len(parts) == 3 and parts[2].endswith(".json") and not parts[2].startswith("."):
                record = records.parse(file.read(), f"{revision}:{member.name}")
                found.setdefault(record.id, record)
    if not found:
        raise BenchError(f"the revision '{revision}' has no record in {inside}")
    return [*found.values()]


def _git(folder: Path, *arguments: str) -> bytes:
    """What git prints; nothing where it fails or is not there."""
    # A hook of git sets these for its own repository.
    outside = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], env=outside, capture_output=True, timeout=300)
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return b""
    return done.stdout if done.returncode == 0 else b""


# ---------------------------------------------------------------------------------------------------------------- show


def run(old: str, new: str, results: Path, as_json: bool) -> tuple[int, dict[str, Any]]:
    """Print what moved; 1 where anything did beyond noise, else 0, and all differences as data.

    Raises:
        BenchError: a store that cannot be read, or two that have no number in common.
    """
    out = views.console(stderr=as_json)
    stores = [records_at(where, results) for where in (old, new)]
    found = compare(*stores)
    if not found:
        raise BenchError(f"{old} and {new} have no method, task and budget in common; there is nothing to compare")
    order = (*MOVED, UNKNOWN, NOISE, SAME)
    shown = sorted((d for d in found if d.verdict != SAME), key=lambda d: order.index(d.verdict))
    if shown:
        made = views.table("task", "method", "at", "metric", "old", "new", "change", "over", "",
                           right=("old", "new", "change"))  # fmt: skip
        for each in shown[:ROWS]:
            made.add_row(each.task, each.method, each.at, each.metric, *_texts(each), each.basis, each.verdict)
        out.print(made)
    if len(shown) > ROWS:
        out.print(f"… and {len(shown) - ROWS} more; --json has them all")
    counts = Counter(each.verdict for each in found)
    out.print(f"{len(found)} numbers: " + ", ".join(f"{counts[kind]} {kind}" for kind in order[::-1] if counts[kind]))
    ids = [{record.id for record in store} for store in stores]
    out.print(f"{len(ids[0] & ids[1])} cells are in both, {len(ids[0] - ids[1])} in the old store alone, "
              f"{len(ids[1] - ids[0])} in the new alone")  # fmt: skip
    if tested := sum(counts[kind] for kind in (BETTER, WORSE, NOISE)):
        out.print(
            f"Intervals are at 95 % each; verdicts are at 95 % for all {tested} numbers that moved together (Holm)"
        )
    told = {
        "moved": sum(each.moved for each in found), "counts": dict(counts),
        "differences": [_plain(each) for each in found if each.verdict != SAME],
        "only_old": sorted(ids[0] - ids[1]), "only_new": sorted(ids[1] - ids[0]),
    }  # fmt: skip
    return int(any(each.moved for each in found)), told


def _texts(each: Difference) -> tuple[str, str, str]:
    """Old, new and change ± half its interval, as tables print scores; of a ratio new in times old."""
    if each.scale == "ratio":
        low, high = each.change - each.half_width, each.change + each.half_width
        times = cells.times(Estimate(each.change, low, high))
        return cells.number(each.old, each.metric), cells.number(each.new, each.metric), f"×{times}"
    scale = 100 if each.metric in frames.PERCENT else 1
    size = scale * max(abs(each.old), abs(each.new))
    old, new, change, half = (
        cells.number(scale * v, each.metric, size) for v in (each.old, each.new, each.change, each.half_width)
    )
    sign = "+" if each.change > 0 else ""
    return old, new, f"{sign}{change}" + ("" if math.isnan(each.half_width) else f" ± {half}")


def _plain(each: Difference) -> dict[str, Any]:
    return {key: None if value != value else value for key, value in asdict(each).items()}
