"""What a memory does, and what is left without it: tables of diagnostics and of ablations, from a frame of records.

**Ablations.** A method is compared with itself, its memory taken away (the field `ablate`): the same in all else, seed
by seed on the same test episodes, so that the interval of the difference is that of a paired comparison.

**Diagnostics.** Means over seeds of the numbers of `bench.diagnostics`, and its forgetting curve.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from bench import cells
from bench.config import canonical
from bench.frames import PERCENT, once
from bench.intervals import t_half_width

ABLATIONS = {"none": "as it is", "zero": "reads are zero", "frozen": "nothing kept", "other": "another episode's"}
CONTROLS = ("lstm", "full-attention")
"""Methods that stand beside ablations: these names, and those that begin with one of them."""
SECOND = 2
"""An online task is compared at this instance too: the first that needs a memory."""
SHOWN = {
    "retrieval_label": "strongest read finds its class, %",
    "best_head_label": "best head, %",
    "erased_label": "erased while needed, %",
    "own_write": "reads what it just wrote, %",
    "redundancy_label": "slots a class",
    "write_slots": "slots written a step",
    "read_slots": "slots read a step",
}
"""Numbers of a record's diagnostics that a reader needs, and what they are called."""
CURVES = ("accuracy", "retrieval_label", "best_head_label")
"""Forgetting curves that tables and pictures show."""


# ----------------------------------------------------------------------------------------------------------- ablations


def ablations(made: pd.DataFrame) -> pd.DataFrame:
    """A row per task, setting, ablated method, place (overall, the second instance) and ablation; as trained only.

    `difference` is the memory as it is less the ablated one, mean over the seeds that both have, with half its Student
    t 95 % interval. Controls have rows with no ablation. Percent where `bench.frames` says so. Empty without ablations.
    """
    ok = made[(made["outcome"] == "ok") & (made["evaluation"] == "")]
    rows: list[dict[str, Any]] = []
    for (task, setting), section in ok.groupby(["task", "setting"], sort=False):
        keys = pd.Series([_without(spec) for spec in section["spec"]], index=section.index)
        kinds = pd.Series([ablation(spec) for spec in section["spec"]], index=section.index)
        ablated = set(keys[kinds != "none"])
        controls = section[[str(n).startswith(CONTROLS) and k not in ablated for n, k in
                            zip(section["method_name"], keys, strict=True)]]  # fmt: skip
        groups: list[tuple[pd.DataFrame, pd.Series | None]]
        groups = [(g, kinds[g.index]) for key, g in section.groupby(keys, sort=False) if key in ablated]
        groups += [(g, None) for _, g in controls.groupby("method", sort=False)] if ablated else []
        for group, kind in groups:
            rows += [{"task": task, "setting": setting} | row for row in _compared(group, kind)]
    columns = ["task", "setting", "method", "at", "metric", "ablation", "mean", "half_width", "n_seeds", "difference",
               "difference_half_width", "n_pairs", "records"]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


def _compared(group: pd.DataFrame, kinds: pd.Series | None) -> list[dict[str, Any]]:
    """Rows of one method with and without its memory, or of one control (kinds is None)."""
    metric = group["metric"].iloc[0]
    parts = {"": group} if kinds is None else {k: group[kinds == k] for k in ABLATIONS if (kinds == k).any()}
    whole = parts.get("none", group)
    name = whole["label"].iloc[0] if kinds is None or "none" in parts else f"{group['method_name'].iloc[0]}"
    rows = []
    for at in ("", f"instance {SECOND}"):
        scores = {kind: _scores(part, at, metric) for kind, part in parts.items()}
        for kind, by_seed in scores.items():
            if not by_seed:
                continue
            base = scores.get("none", {}) if kind not in ("", "none") else {}
            pairs = [base[seed] - value for seed, value in by_seed.items() if seed in base]
            rows.append({
                "method": name, "at": at, "metric": metric, "ablation": kind, "mean": _mean(by_seed.values()),
                "half_width": t_half_width([*by_seed.values()]), "n_seeds": len(by_seed), "difference": _mean(pairs),
                "difference_half_width": t_half_width(pairs), "n_pairs": len(pairs),
                "records": " ".join(parts[kind]["id"]),
            })  # fmt: skip
    return rows


def _scores(part: pd.DataFrame, at: str, metric: str) -> dict[int, float]:
    """A place's scores by seed, in the unit of the tables."""
    scale = 100 if metric in PERCENT else 1
    found = {}
    for seed, scores in zip(part["seed"], part["scores"], strict=True):
        by = scores.get("by_instance")
        means = (by["mean"] if by and not by.get("groups") else [])[SECOND - 1 : SECOND] if at else [scores["mean"]]
        if means and means[0] is not None:
            found[seed] = scale * means[0]
    return found


def ablation(spec: Mapping[str, Any]) -> str:
    """What a cell's memory is taken away by; "none" where it is as it is, or there is none."""
    return str(spec["method"]["fields"].get("ablate", "none"))


def _without(spec: Mapping[str, Any]) -> str:
    """A cell but for its seed and ablation."""
    fields = {k: v for k, v in spec["method"]["fields"].items() if k != "ablate"}
    return canonical({**spec, "seed": 0, "method": {**spec["method"], "fields": fields}})


def ablation_table(table: pd.DataFrame) -> list[str]:
    """A task's ablations side by side, as Markdown."""
    if table.empty:
        return []
    rows = []
    for (setting, method, at), group in table.groupby(["setting", "method", "at"], sort=False):
        line = {"setting": str(setting), "method": str(method), "where": _where(str(at))}
        for row in cells.rows_of(group):
            line[ABLATIONS.get(row.ablation, ABLATIONS["none"])] = cells.mean(row)
            if row.ablation == "zero" and row.n_pairs:
                line["paired difference to zero"] = difference_text(row)
        rows.append(line)
    columns = ["setting", "method", "where", *ABLATIONS.values(), "paired difference to zero"]
    shown = pd.DataFrame(rows, columns=columns, dtype=object).fillna("")
    metric = table["metric"].iloc[0]
    what = cells.WORDS.get(metric, metric).capitalize()
    shown = shown.drop(columns=[c for c in ("setting", "where") if shown[c].nunique() < 2])
    return [
        f"Does the memory do anything? {what}, with the memory as it is or taken away; controls have none:",
        cells.table(shown, ("setting", "method", "where")),
    ]


def _where(at: str) -> str:
    return "2nd instance" if at else "overall"


def difference_text(row: Any) -> str:
    """A paired difference with its sign, ± half its interval."""
    text = cells.plus_minus(row.difference, row.difference_half_width, row.metric)
    return f"{'+' * (row.difference > 0)}{text}"


# --------------------------------------------------------------------------------------------------------- diagnostics


def diagnostics(made: pd.DataFrame) -> pd.DataFrame:
    """A row per task, setting, method and number, and per age of a forgetting curve; as trained only.

    `value` and `chance` are means over the `n_seeds` seeds that have one, in the units of `bench.diagnostics`. Empty
    where no record has any.
    """
    there = once(made[(made["outcome"] == "ok") & (made["evaluation"] == "") & made["diagnostics"].notna()])
    rows: list[dict[str, Any]] = []
    for (task, setting, method), group in there.groupby(["task", "setting", "method"], sort=False):
        shared = {"task": task, "setting": setting, "method": method, "label": group["label"].iloc[0]}
        found = [d for d in group["diagnostics"] if d]
        for name in dict.fromkeys(name for d in found for name in d["numbers"]):
            each = [d["numbers"][name] for d in found if name in d["numbers"]]
            rows.append(shared | {"number": name, "age": "", "records": " ".join(group["id"])}
                        | _over(each, "value") | {"chance": _mean(_known(e["chance"] for e in each))})  # fmt: skip
        for name in CURVES:
            curves = [d["forgetting"] for d in found if name in d["forgetting"]]
            for i, age in enumerate(curves[0]["age"] if curves else ()):
                each = [{"value": c[name][i]} for c in curves if i < len(c[name])]
                rows.append(shared | {"number": name, "age": age, "records": " ".join(group["id"])}
                            | _over(each, "value"))  # fmt: skip
    columns = ["task", "setting", "method", "label", "number", "age", "value", "half_width", "chance", "n_seeds",
               "records"]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


def _over(each: list[dict[str, Any]], key: str) -> dict[str, Any]:
    values = _known(e[key] for e in each)
    return {"value": _mean(values), "half_width": t_half_width(values), "n_seeds": len(values)}


def _known(values: Iterable[float | None]) -> list[float]:
    return [v for v in values if v is not None]


def _mean(values: Iterable[float]) -> float:
    found = [*values]
    return math.fsum(found) / len(found) if found else math.nan


def diagnostics_table(table: pd.DataFrame) -> list[str]:
    """A task's diagnostics, a row a method, as Markdown; chance in brackets."""
    numbers = table[(table["age"] == "") & table["number"].isin(SHOWN)]
    if numbers.empty:
        return []
    rows = []
    for (setting, label), group in numbers.groupby(["setting", "label"], sort=False):
        line = {"setting": str(setting), "method": str(label)}
        for row in cells.rows_of(group):
            scale = 100 if "%" in SHOWN[row.number] else 1
            parts = [cells.NONE if math.isnan(v) else f"{scale * v:.1f}" for v in (row.value, row.chance)]
            line[SHOWN[row.number]] = parts[0] if row.number == "read_slots" else f"{parts[0]} ({parts[1]})"
        rows.append(line | {"seeds": str(group["n_seeds"].max())})
    shown = pd.DataFrame(rows, columns=["setting", "method", *SHOWN.values(), "seeds"], dtype=object).fillna("")
    shown = shown.drop(columns=["setting"] if shown["setting"].nunique() < 2 else [])
    return [
        "What the memory does in its slots on the first test episodes, mean over seeds. In brackets chance: of the "
        "first two columns, a slot drawn from those that have an owner; of the others, a memory of the same size that "
        "writes each vector into a slot drawn at random:",
        cells.table(shown, ("setting", "method")),
    ]
