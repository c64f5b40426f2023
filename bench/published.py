"""Published results beside ours, and whether both were measured under the same protocol.

`results/published.csv` holds one figure a row: which method, task and setting, the value, where it is printed, and the
paper's protocol as data. An empty protocol field means that the paper, as far as we have read it, does not say.
Accuracies and errors are in percent. Whether two protocols agree is computed from the row and the record's spec, so no
reason is typed anywhere.
"""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from bench import registry
from bench.config import canonical, convert, late_defaults
from bench.errors import BenchError

FILE = "published.csv"
PLACES = (Path(__file__).parent.parent / "results" / FILE, Path(__file__).parent / FILE)
"""In a checkout, and in an installed wheel."""
KEY = ("way", "shot", "instance", "adapt_steps", "labels")
"""Columns that say which figure of a method on a task a row is."""
DETAILS = (*KEY, "method", "task", "variant", "metric", "value", "ci95", "source", "title", "arxiv", "year", "where",
           "confidence", "note")  # fmt: skip
MEASURED = {
    "split": "split",
    "image": "image side",
    "rotations": "rotations",
    "balanced": "balanced draws",
    "persistent": "memory kept between episodes",
    "length": "presentations in an episode",
    "polarity": "polarity",
    "waves": "what is drawn of a wave",
}
"""Protocol columns that say what is measured, with their names in a sentence."""
FORM = {
    "metric_fn": "distance",
    "backbone": "backbone",
    "order": "order of gradients",
    "full_context": "full-context embeddings",
    "context": "context parameters",
    "features": "features",
    "head": "last layer",
    "transform": "transformation of features",
}
"""Those that tell a method's variants apart."""
RECIPE = {
    "batchnorm": "BatchNorm",
    "write_value": "what is written",
    "head_slots": "slots of the heads",
    "erase": "slots erased",
    "gate": "write gate",
    "read": "read relative to the write",
    "slots": "slots",
    "width": "slot width",
    "heads": "heads",
    "usage_decay": "usage decay",
    "train_way": "training way",
    "train_shot": "training shot",
}
"""The rest of the method."""
TRAINING = {
    "train_characters": "training characters",
    "augmentation": "augmentation",
    "curriculum": "curriculum",
    "inner_lr": "inner learning rate",
    "inner_steps": "inner training steps",
    "test_steps": "inner test steps",
    "optimizer": "optimiser",
    "lr": "learning rate",
    "batch": "batch",
    "train_steps": "training steps",
    "select": "checkpoint chosen on",
}
"""Facts of training, empty for methods that do not train. How many episodes test is no difference."""
COMPARED = MEASURED | FORM | RECIPE | TRAINING

CONSTANTS: dict[str, dict[str, str]] = {
    "omniglot": {"rotations": "as classes", "augmentation": "none"},
    "omniglot-online": {"persistent": "no"},
    "lake": {"split": "lake", "augmentation": "none"},
    "miniimagenet": {"split": "ravi", "augmentation": "none"},
    "sinusoid": {"waves": "amplitude and phase"},
}
"""Facts of our tasks that are not fields."""
KIN: dict[str, tuple[tuple[dict[str, str], str], ...]] = {
    "maml": (
        ({"adapts": "head"}, "anil"),
        ({"adapts": "body"}, "boil"),
        ({"rates": "each"}, "meta-sgd"),
        ({"rates": "per-step"}, "maml++"),
    ),
    "finetune": (({"head": "linear"}, "baseline"), ({"head": "cosine"}, "baseline++")),
    "r2d2": (({"backbone": "resnet12"}, "metaoptnet"),),
}
"""Names that papers have for a method of ours with certain fields; the first that fits counts."""
CLASSIFIERS = ("finetune", "simpleshot", "deep-knn")
"""Methods of ours that train on all classes at once: their training has no way and no shot."""
CHARACTERS = {"vinyals": "1028", "random1200": "1080", "background": "964"}
"""Characters that we train on; in the papers the 172 or 120 that validate are among 1200 to train on."""
FIELDS = {
    "split": ("task.split",),
    "image": ("task.size",),
    "metric_fn": ("method.metric",),
    "polarity": ("method.polarity",),
    "backbone": ("method.backbone", "method.encoder"),
    "batchnorm": ("method.batch_norm",),
    "order": ("method.order",),
    "context": ("method.context",),
    "features": ("method.features",),
    "head": ("method.head",),
    "transform": ("method.transform",),
    "write_value": ("method.write_value",),
    "head_slots": ("method.head_slots",),
    "erase": ("method.erase",),
    "gate": ("method.gate",),
    "read": ("method.read",),
    "slots": ("method.slots",),
    "width": ("method.width",),
    "heads": ("method.heads", "method.reads"),
    "usage_decay": ("method.decay",),
    "inner_lr": ("method.inner_lr",),
    "inner_steps": ("method.train_steps",),
    "test_steps": ("method.eval_steps",),
    "optimizer": ("method.optimizer",),
    "lr": ("method.lr",),
    "batch": ("method.batch",),
    "train_steps": ("budget.steps",),
}
"""Where a spec holds the same fact; the first that is there counts."""


@dataclass(frozen=True)
class Published:
    """One published figure."""

    method: str
    """Name in our registry, or the one it would have."""
    variant: str
    """What sets it apart from the paper's main form; empty for that."""
    task: str
    key: dict[str, str]
    """Those of KEY that the row has."""
    metric: str
    """accuracy, error (both in percent) or mse."""
    value: float
    ci95: float | None
    """Half-width of the interval over test episodes, as printed."""
    source: str
    title: str
    arxiv: str
    year: int | None
    where: str
    confidence: str
    """verified (read in a copy of the source or of a work that quotes it), or from memory."""
    note: str
    protocol: dict[str, str]
    """What the paper says of its protocol, by column."""

    @property
    def by_others(self) -> bool:
        """A reproduction, not the authors' own figure."""
        return self.variant.startswith(("reproduction", "reimplementation", "as run by"))

    @property
    def citation(self) -> str:
        """Source, place and, where so, that nobody has looked it up."""
        doubt = ", from memory" if self.confidence == "from memory" else ""
        return f"{self.source}, {self.where}{doubt}"


@dataclass(frozen=True)
class Match:
    """Whether a record was made under a paper's protocol, and why not."""

    same: bool
    reasons: tuple[str, ...]
    unstated: tuple[str, ...]
    """What a record says of its protocol and the paper, as far as we have read it, does not."""

    @property
    def verdict(self) -> str:
        """yes, no, or as far as stated."""
        return ("as far as stated" if self.unstated else "yes") if self.same else "no"

    @property
    def because(self) -> str:
        """What differs, or else what cannot be compared."""
        if self.reasons:
            return ", ".join(self.reasons)
        return f"not stated: {', '.join(self.unstated)}" if self.unstated else ""

    @property
    def text(self) -> str:
        """A sentence, such as "no, because split vinyals (paper random1200)"."""
        if not self.same:
            return f"no, because {self.because}"
        return f"yes, as far as stated ({self.because})" if self.because else "yes"

    def __iter__(self) -> Iterator[Any]:
        """(same, text)."""
        return iter((self.same, self.text))


@cache
def rows() -> tuple[Published, ...]:
    """All published figures, in the order of the file.

    Raises:
        BenchError: the file is not there or a row of it is malformed; it names the line.
    """
    path = next((p for p in PLACES if p.is_file()), None)
    if path is None:
        raise BenchError(f"there is no {FILE} in {' or '.join(str(p.parent) for p in PLACES)}; install mannbench anew")
    with path.open(newline="", encoding="utf-8") as file:
        return tuple(_parse(path, line, row) for line, row in enumerate(csv.DictReader(file), 2))


def _parse(path: Path, line: int, row: Mapping[str, str]) -> Published:
    try:
        return Published(
            key={name: row[name] for name in KEY if row[name]},
            value=float(row["value"]),
            ci95=float(row["ci95"]) if row["ci95"] else None,
            year=int(row["year"]) if row["year"] else None,
            protocol={name: text for name, text in row.items() if name not in DETAILS and text},
            **{name: row[name] for name in ("method", "variant", "task", "metric", "source", "title", "arxiv", "where",
                                            "confidence", "note")},
        )  # fmt: skip
    except (KeyError, TypeError, ValueError) as error:
        raise BenchError(f"{path}, line {line}, is malformed: {error}") from None


def lookup(method: str | None, task: str, **setting: Any) -> list[Published]:
    """Figures of a method (None: of any) on a task in a setting.

    Of the setting only way, shot, instance, adapt_steps and labels count; those that are not given match all rows.
    """
    wanted = {name: str(value) for name, value in setting.items() if name in KEY and value is not None}
    return [
        row
        for row in rows()
        if row.task == task
        and method in (None, row.method)
        and all(row.key.get(name, text) == text for name, text in wanted.items())
    ]


def published_name(spec: Mapping[str, Any]) -> str:
    """The name under which papers report what a spec says: the method's, or that of a kin."""
    name, fields = spec["method"]["name"], spec["method"]["fields"]
    kin = (told for wanted, told in KIN.get(name, ()) if wanted.items() <= fields.items())
    return next(kin, name)


def beside(spec: Mapping[str, Any], setting: Mapping[str, Any], at: str = "") -> list[Published]:
    """Published figures for one of ours, the most alike first.

    at: overall, or "instance 2", "step 1" and the like; nothing is published by group or by run.
    """
    kind, _, number = at.partition(" ")
    column = {"instance": "instance", "step": "adapt_steps"}.get(kind)
    if kind in ("run", "group"):
        return []
    place = {column: number} if column else {}
    task = spec["task"]["fields"] | dict(setting)
    if task.get("among") not in (None, 0, task.get("way")):  # papers deal as many labels as there are classes
        return []
    found = lookup(published_name(spec), spec["task"]["name"], **{**setting, **place})
    found = [row for row in found if {*row.key} & {"instance", "adapt_steps"} == {*place}]
    return closest(spec, found, setting)


def closest(spec: Mapping[str, Any], found: list[Published], setting: Mapping[str, Any]) -> list[Published]:
    """The rows in order of likeness: form of the method, by its authors, measurement, main form, what agrees."""
    ours = facts(spec, setting)

    def rank(row: Published) -> tuple[int, bool, int, bool, int]:
        differences = [len(_reasons(ours, row, columns)) for columns in (FORM, MEASURED, COMPARED)]
        unstated = sum(name in ours and name not in row.protocol for name in COMPARED)
        return differences[0], row.by_others, differences[1], bool(row.variant), differences[2] + unstated

    return sorted(found, key=rank)


def protocol_match(spec: Mapping[str, Any], row: Published, setting: Mapping[str, Any] | None = None) -> Match:
    """Compare a record's protocol with a paper's, field by field; unpacks into (same, text).

    setting: the fields of the evaluation, where it differs from the task trained on.
    """
    ours = facts(spec, setting or {})
    reasons = _reasons(ours, row, COMPARED)
    unstated = [words for name, words in COMPARED.items() if name in ours and name not in row.protocol]
    return Match(not reasons, tuple(reasons), tuple(unstated))


def facts(spec: Mapping[str, Any], setting: Mapping[str, Any]) -> dict[str, str]:
    """A spec's protocol in the words of the file. Methods that do not train have no training facts."""
    method, task = spec["method"]["name"], spec["task"]["name"]
    trained = dict(spec["task"]["fields"])
    known = dict(CONSTANTS.get(task, {}))
    parts = {
        "method": _late(method) | spec["method"]["fields"],
        "task": trained | dict(setting),
        "budget": spec["budget"],
    }
    for name, places in FIELDS.items():
        for part, _, key in (place.partition(".") for place in places):
            if key in parts[part]:
                known[name] = str(parts[part][key])
                break
    if "quarter_turns" in trained:
        known["rotations"] = "drawn per class" if parts["task"]["quarter_turns"] else "none"
        known["augmentation"] = " and ".join(_moved(trained)) or "none"
    if trained.get("train_turned"):
        known["augmentation"] = "rotations as classes"
    if parts["task"].get("persistent", 1) > 1:
        known["persistent"] = "yes"
    if "balanced" in trained:
        known["balanced"] = "yes" if parts["task"]["balanced"] else "no"
        if isinstance(parts["task"].get("way"), int):
            known["length"] = str(parts["task"].get("length") or 10 * parts["task"]["way"])
    if trained.get("start_way"):
        known["curriculum"] = f"from {trained['start_way']} classes on"
    known |= _meant(spec, known)
    characters = CHARACTERS.get(str(trained.get("train_split", trained.get("split"))))
    if characters:
        known["train_characters"] = characters
    for name, key in (("train_way", "way"), ("train_shot", "shot")):
        if method not in CLASSIFIERS and (trained.get(name) or trained.get(key)):
            known[name] = str(trained.get(name) or trained[key])
    known["select"] = "validation" if spec["budget"].get("select") == "best" else "nothing (last step)"
    if not spec["budget"]["steps"]:
        known = {name: text for name, text in known.items() if name not in TRAINING and not name.startswith("train_")}
    return known


def _moved(trained: Mapping[str, Any]) -> Iterator[str]:
    """How training images are turned and moved; by how much, where Santoro et al. do so by another."""
    for name, theirs in (("rotation", 11.25), ("shift", 10.0)):
        if trained.get(name):
            yield name if trained[name] == theirs else f"{name} by {trained[name]}"


def _late(method: str) -> dict[str, Any]:
    """What specs of a method leave out; nothing of one that is not registered."""
    registry.load()
    cls = registry.METHODS.entries.get(method)
    return late_defaults(cls) if cls else {}


def _meant(spec: Mapping[str, Any], known: Mapping[str, str]) -> dict[str, str]:
    """What 0 and auto mean of a method on a task; of what is recorded, or is no field of the method."""
    cls = registry.METHODS.entries.get(spec["method"]["name"])

    def told(name: str) -> bool:
        return name in known or not any(hasattr(cls, place.removeprefix("method.")) for place in FIELDS.get(name, ()))

    meant = _protocol(canonical(spec["method"]), canonical(spec["task"]))
    return {name: text for name, text in meant.items() if told(name)}


@cache
def _protocol(method: str, task: str) -> dict[str, str]:
    """`Method.protocol` of the parts of a spec, without values of another version; nothing where one is unknown."""
    registry.load()
    found: list[Any] = []
    for registered, part in ((registry.METHODS, json.loads(method)), (registry.TASKS, json.loads(task))):
        cls = registered.entries.get(part["name"])
        if cls is None:
            return {}
        today = {}
        for f in dataclasses.fields(cls):
            with suppress(BenchError, KeyError):
                today[f.name] = convert(cls, f.name, part["fields"][f.name])
        found.append(cls(**today))
    try:
        told: dict[str, str] = dict(found[0].protocol(found[1]))
    except Exception as error:  # no reason to show nothing of all other records; `bench run` refuses such a plug-in
        if not registry.blame(error):
            raise
        return {}
    if told.get("batchnorm") == "transductive" and found[1].online:  # where no step sees a later one
        told["batchnorm"] = "inductive"
    return told


def _reasons(ours: Mapping[str, str], row: Published, columns: Mapping[str, str]) -> list[str]:
    return [
        f"{words} {_number(ours[name])} (paper {_number(row.protocol[name])})"
        for name, words in columns.items()
        if name in ours and name in row.protocol and not _equal(ours[name], row.protocol[name])
    ]


def _equal(a: str, b: str) -> bool:
    try:
        return float(a) == float(b)
    except ValueError:
        return a == b


def _number(text: str) -> str:
    return f"{int(text):,}" if text.isdecimal() else text
