"""A summary of records as Markdown: one section a task, published figures beside ours, what is missing below.

Where a task measures by instance, group or gradient step, there is a table a setting with these as columns and
published rows under ours; elsewhere a row a setting and method. Where trained learners are tested in further settings
that no paper reports, these are columns of one table. Methods are named by what tells them apart in their task; their
other fields that are not at their defaults are listed below.
"""

from __future__ import annotations

import math
import string
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from bench import cells, frames, legends, memory_tables, published, registry
from bench.cells import NONE, PAPERS, WORDS, rows_of, safe
from bench.frames import PERCENT
from bench.references import ceiling, elimination, guessing

BESIDE = 3
"""At most so many published rows under one of ours."""
HEADLINE = {"instance 2", "instance 10", "step 1", "step 10"}
"""Places that stand for a method measured by instance or by gradient step."""
FEW = 2
"""Methods of a setting that `headline` shows."""
BY_PLACE = "instance|group|step"


def document(title: str, made: pd.DataFrame, table: pd.DataFrame, left_out: Mapping[str, int],
             pictures: Mapping[str, Iterable[tuple[str, str]]] | None = None) -> str:  # fmt: skip
    """A whole file. made: the frame, table: its summary, left_out: reasons and counts of records left out.

    pictures: for tasks, the titles of pictures and their paths from the file's folder.
    """
    parts = [f"# {title}", legends.legend(table)]
    for reason, count in left_out.items():
        if count:
            parts.append(f"Left out: {count} record{'s' if count > 1 else ''} {reason}.")
    if table.empty:
        parts.append("There are no records.")
    compared, looked_into = memory_tables.ablations(made), memory_tables.diagnostics(made)
    for name, section in table.groupby("task", sort=False):
        shown = _recorded(section)
        parts += [f"## {name}", *(_task(shown, made[made["task"] == name]) if len(shown) else _nowhere(section))]
        parts += memory_tables.ablation_table(compared[compared["task"] == name])
        parts += memory_tables.diagnostics_table(looked_into[looked_into["task"] == name])
        parts += [f"![{safe(words)}]({path})" for words, path in (pictures or {}).get(str(name), ())]
        parts += [text for text in (_counts(section, made[made["task"] == name]), _recipes(shown)) if text]
    return "\n\n".join(parts) + "\n"


def headline(table: pd.DataFrame) -> str:
    """One short table of a summary: the best few of each setting, each in its best form, without costs or reasons."""
    names = ["task", "setting", "method"]
    by_place = {*table.loc[table["at"].isin(HEADLINE), names].itertuples(index=False, name=None)}
    rows = [
        {
            "task": row.task,
            "setting": ", ".join(
                filter(None, [row.setting, _heading(row.at) + " instance" * row.at.startswith("i") if row.at else ""])
            ),
            "method": row.method,
            "measure": WORDS.get(row.metric, row.metric),
            "ours": cells.mean(row) + cells.beside(row),
            "seeds": cells.behind(row.n_seeds, _numbers(row.diverged)),
            "published": cells.published(row.published, row.published_ci95),
            "source": cells.source(row.source, row.arxiv) if row.source else "",
            "same protocol": row.same_protocol,
        }
        for row in _best(
            row
            for row in rows_of(table)
            if row.at in HEADLINE or (row.at == "" and (row.task, row.setting, row.method) not in by_place)
        )
    ]
    shown = cells.table(pd.DataFrame(rows), ("task", "setting", "method", "measure", "source", "same protocol")) + "\n"
    return shown + "".join(
        f"\n{text}\n"
        for why, text in legends.NOT_RANKED.items()
        if any(r["ours"].endswith(cells.APART[why]) for r in rows)
    )


def _best(rows: Iterable[Any]) -> list[Any]:
    """Of each setting and place the best few methods, one form each; those that are not ranked behind the others."""
    places: dict[tuple[str, ...], list[Any]] = {}
    for row in rows:
        places.setdefault((row.task, row.setting, row.at), []).append(row)

    def rank(row: Any) -> tuple[bool, float]:
        higher = row.metric != "error" and getattr(registry.TASKS.entries.get(row.task), "higher_is_better", True)
        return bool(row.apart), math.inf if math.isnan(row.mean) else -row.mean if higher else row.mean

    best: list[Any] = []
    for group in places.values():
        forms: dict[str, Any] = {}
        for row in sorted(group, key=rank):
            forms.setdefault(row.method.partition(" (")[0], row)
        best += [*forms.values()][:FEW]
    return best


@dataclass
class Notes:
    """Lettered notes under a table; equal notes share a letter."""

    texts: list[str] = field(default_factory=list)

    def mark(self, same: str, because: str) -> str:
        """The cell for "same protocol": the verdict, and the letter of the note that says why."""
        if not because:
            return same
        if because not in self.texts:
            self.texts.append(because)
        return f"{same} ({_letter(self.texts.index(because))})"

    def lines(self) -> list[str]:
        """The notes as one list."""
        notes = [f"- ({_letter(i)}) {safe(text)}" for i, text in enumerate(self.texts)]
        return ["Same protocol, or why not:\n\n" + "\n".join(notes)] if notes else []


def _letter(index: int) -> str:
    return string.ascii_lowercase[index] if index < 26 else str(index + 1)


# -------------------------------------------------------------------------------------------------------------- layouts


def _recorded(section: pd.DataFrame) -> pd.DataFrame:
    """Without the methods that a setting has no record of: they are named below, once."""
    there = (section["n_seeds"] > 0) | (section["diverged"] != "")
    return section[there.groupby([section["setting"], section["method"]]).transform("any")]


def _task(section: pd.DataFrame, made: pd.DataFrame) -> list[str]:
    parts: list[str] = []
    wide = [str(s) for s in section.loc[section["at"].str.match(BY_PLACE), "setting"].unique()]
    long = section[~section["setting"].isin(wide)]
    further = (
        section["setting"].nunique() > 1 and (made["evaluation"] != "").any() and section["published"].isna().all()
    )
    if further:
        parts += _by_setting(section[section["at"] == ""], made)
    elif len(long):
        parts += _long(long[long["at"] == ""])
    for setting in wide:
        part, there = section[section["setting"] == setting], made[made["setting"] == setting]
        parts += [*([f"### {safe(setting)}"] if setting else []), *_wide(part, there, costs=not further)]
    runs = long[long["at"].str.startswith("run")]
    if len(runs):
        parts += ["Error by run, %:", _runs(runs)]
    return parts


def _nowhere(section: pd.DataFrame) -> list[str]:
    """A task that nobody has run here: what others published."""
    return ["Nothing is recorded yet.", *_long(section[section["at"] == ""], run=False)]


def _long(section: pd.DataFrame, run: bool = True) -> list[str]:
    notes = Notes()
    rows = [
        {
            "setting": row.setting,
            "method": row.label,
            WORDS.get(row.metric, row.metric): cells.marked(row) if run else "not run here",
            **({"seeds": str(row.n_seeds), PAPERS: cells.episodes(row)} if run else {}),
            "published": cells.published(row.published, row.published_ci95),
            "source": cells.source(row.source, row.arxiv) if row.source else "",
            "same protocol": notes.mark(row.same_protocol, row.because),
            **({**cells.sureness(row), **cells.solved(row), **cells.cost(row)} if run else {}),
        }
        for row in rows_of(section)
    ]
    return [cells.table(pd.DataFrame(rows), ("setting", "method", "source", "same protocol")), *notes.lines()]


def _by_setting(section: pd.DataFrame, made: pd.DataFrame) -> list[str]:
    """Overall scores, a column a setting."""
    trained = set(made.loc[made["evaluation"] == "", "setting"])
    names = {s: f"{s} (as trained)" if {s} == trained else str(s) for s in section["setting"].unique()}
    metric = section["metric"].iloc[0]
    # In the order of the setting that was trained, where there is one; a method is best or worst there.
    order = section.sort_values("setting", key=lambda s: ~s.isin(trained), kind="stable")["method"].unique()
    rows = []
    for method in order:
        found = rows_of(section[section["method"] == method])
        first = next((row for row in found if row.n_tried), found[0])
        rows.append(
            {"method": first.label}
            | {names[row.setting]: cells.marked(row) + _other_seeds(row, first) for row in found}
            | {"seeds": str(first.n_seeds), **cells.sureness(first), **cells.solved(first), **cells.cost(first)}
        )
    further = [name for name in rows[0] if name not in {"method", *names.values()}]
    shown = pd.DataFrame(rows, columns=["method", *names.values(), *further], dtype=object).fillna("")
    return [f"{WORDS.get(metric, metric).capitalize()}, by setting:", cells.table(shown, ("method",))]


def _wide(section: pd.DataFrame, made: pd.DataFrame, costs: bool) -> list[str]:
    """Scores by place; costs: and what they cost."""
    notes, metric = Notes(), section["metric"].iloc[0]
    there = section.groupby("at")["n_seeds"].max() > 0
    places = ["", *sorted(set(there.index[there]) - {""}, key=_index)]
    grouped = any(at.startswith("group") for at in places)
    names = {at: _heading(at) for at in places}
    steps, silent = {at for at in places if at.startswith("step")}, False
    rows: list[dict[str, str]] = []
    for method, group in section.groupby("method", sort=False):
        found = {row.at: row for row in rows_of(group)}
        first = found[""]
        silent |= 0 < len(steps & found.keys()) < len(steps)
        rows.append(
            {"method": first.label}
            | {names[at]: cells.marked(cell) + _other_seeds(cell, first) for at, cell in found.items() if at in names}
            | {"seeds": str(first.n_seeds)}
            | ({**cells.sureness(first), **cells.solved(first), **cells.cost(first)} if costs else {})
        )
        widths = {names[at]: cells.episodes(cell) for at, cell in found.items() if at in names}
        if any(widths.values()) and not grouped:
            rows.append({"method": PAPERS} | widths)
        rows += _beside(made[made["method"] == method], names, notes)
    rows += _references(section, made, names)
    columns = [
        "method",
        *names.values(),
        *(k for k in rows[0] if k not in {"method", *names.values()}),
        "same protocol",
    ]
    shown = pd.DataFrame(rows, columns=columns, dtype=object).fillna("")
    measure = WORDS.get(metric, metric).capitalize()
    below = ["No figure after some steps: no seed has a finite one there, or the method does not tell it."] * silent
    below += _unlike(section, made)
    return [f"{measure}:", cells.table(shown, ("method", "same protocol")), *below, *notes.lines()]


def _unlike(section: pd.DataFrame, made: pd.DataFrame) -> list[str]:
    """After how many gradient steps methods are scored overall, where that differs."""
    methods: dict[int, list[str]] = {}
    for label, group in section.groupby("label", sort=False):
        step = frames.after(made[made["method"] == group["method"].iloc[0]])
        if step is not None:
            methods.setdefault(step, []).append(str(label))
    if len(methods) < 2:
        return []
    most = max(methods, key=lambda step: len(methods[step]))
    others = " and ".join(f"{step} ({', '.join(map(safe, methods[step]))})" for step in sorted(methods.keys() - {most}))
    return [f"Gradient steps before overall: {most}, but {others}; columns by steps compare after as many."]


def _other_seeds(cell: Any, first: Any) -> str:
    """How many seeds are behind a cell, and how many diverged, where that is not what the table's column says."""
    lost = {*_numbers(cell.diverged)} - {*_numbers(first.diverged)}
    if not lost and cell.n_seeds in (0, first.n_seeds):
        return ""
    return f" ({cell.n_seeds} seed{'s' * (cell.n_seeds != 1)}{f', {len(lost)} diverged' * bool(lost)})"


def _beside(made: pd.DataFrame, names: Mapping[str, str], notes: Notes) -> list[dict[str, str]]:
    """Published rows for one of our methods in one setting."""
    spec, fields = made["spec"].iloc[0], made["fields"].iloc[0]
    if memory_tables.ablation(spec) != "none":  # nobody has published that
        return []
    found = published.lookup(published.published_name(spec), spec["task"]["name"], **fields)
    kinds: dict[tuple[str, ...], list[published.Published]] = {}
    for row in published.closest(spec, found, fields):
        if _place(row) in names:
            kinds.setdefault((row.citation, row.variant, *row.protocol.values()), []).append(row)
    lines = []
    for rows in list(kinds.values())[:BESIDE]:
        match = published.protocol_match(spec, rows[0], fields)
        variant = f", {rows[0].variant}" if rows[0].variant else ""
        lines.append(
            {"method": f"published: {cells.source(rows[0].citation, rows[0].arxiv)}{variant}"}
            | {names[_place(row)]: cells.published(row.value, row.ci95) for row in rows}
            | {"same protocol": notes.mark(match.verdict, match.because)}
        )
    return lines


def _place(row: published.Published) -> str:
    for kind, key in (("instance", "instance"), ("step", "adapt_steps")):
        if key in row.key:
            return f"{kind} {row.key[key]}"
    return "nowhere"


def _references(section: pd.DataFrame, made: pd.DataFrame, names: Mapping[str, str]) -> list[dict[str, str]]:
    """What can be had without a memory, and how many answers are behind each column."""
    places, fields = [at for at in names if at.startswith(("instance", "group"))], made["fields"].iloc[0]
    guess, top, others = guessing(fields), ceiling(fields), elimination(fields)
    if not places or guess is None:
        return []
    rows = [{"method": "guessing, exactly"} | {names[at]: f"{guess:.2f}" for at in places}]
    if top is not None and "instance 1" in names:
        rows.append({"method": "ceiling by elimination", names["instance 1"]: f"{top:.2f}"})
    if others is not None and places[0].startswith("group"):
        by_group = {names[at]: f"{others[1][_index(at)]:.2f}" for at in places if _index(at) in others[1]}
        rows.append({"method": "elimination without binding", names[""]: f"{others[0]:.2f}"} | by_group)
    most = section[section["at"] != ""].sort_values("n_seeds", kind="stable").groupby("at").last()
    each = {names[at]: f"{most['count'][at] / max(1, most['n_seeds'][at]):.0f}" for at in places}
    return [*rows, {"method": "answers behind each, a seed"} | each]


def _runs(section: pd.DataFrame) -> str:
    names = section["label"] + section["setting"].map(lambda s: f", {s}" if section["setting"].nunique() > 1 else "")
    grid = section.assign(name=names).pivot(index="at", columns="name", values="mean")[list(dict.fromkeys(names))]
    grid = grid.loc[sorted(grid.index, key=_index)]
    grid.loc["mean"] = grid.mean()
    shown = grid.map(lambda v: NONE if math.isnan(v) else f"{v:.2f}")
    shown.insert(0, "run", [str(at).removeprefix("run ") for at in grid.index])
    return cells.table(shown, ())


# --------------------------------------------------------------------------------------------------- below the tables


def _counts(section: pd.DataFrame, made: pd.DataFrame) -> str:
    """What is behind a task's tables: cells, what is missing, diverged or not solved, unequal seeds, machines."""
    outcomes = made.drop_duplicates("id")["outcome"].value_counts()
    n = outcomes.get("ok", 0)
    lines = [f"{n} cell{'s' if n != 1 else ''} recorded, {outcomes.get('missing', 0)} missing, "
             f"{outcomes.get('diverged', 0)} diverged."]  # fmt: skip
    rows = section[section["at"] == ""]
    for kind in ("diverged", "missing", "unsolved"):
        text = _by_seeds(rows, kind)
        name = (
            f"Not solved (never {_threshold(made)} in validation)" if text and kind == "unsolved" else kind.capitalize()
        )
        lines += [f"{name}: {safe(text)}."] if text else []
    lines += _unequal(rows)
    ok = made[made["outcome"] == "ok"]
    machines = sorted({f"{d} ({t:.0f} thread{'s' if t > 1 else ''})" for d, t in zip(ok["device"], ok["threads"],
                                                                                    strict=True) if d})  # fmt: skip
    if machines:
        lines.append(f"Times on {safe('; '.join(machines))}.")
    return " ".join(lines)


def _threshold(made: pd.DataFrame) -> str:
    known = made.dropna(subset=["solved"]).iloc[0]
    value = f"{100 * known['solved']:g} %" if known["metric"] in PERCENT else f"{known['solved']:g} {known['metric']}"
    return f"{value} or {'more' if known['higher_is_better'] else 'less'}"


def _by_seeds(rows: pd.DataFrame, kind: str) -> str:
    """Methods by their seeds that are missing and so on, each once; a setting is named where others are not alike."""
    found: dict[tuple[int, ...], list[str]] = {}
    for label, group in rows.groupby("label"):
        where: dict[tuple[int, ...], list[str]] = {}
        for row in rows_of(group):
            where.setdefault(_numbers(getattr(row, kind)), []).append(row.setting)
        for numbers, settings in where.items():
            alike = len(where) == 1 or kind == "unsolved"
            if numbers:
                found.setdefault(numbers, []).append(f"{label}{'' if alike else ' at ' + ' and at '.join(settings)}")
    return "; ".join(f"{cells.seeds(numbers)} of {', '.join(labels)}" for numbers, labels in found.items())


def _unequal(rows: pd.DataFrame) -> list[str]:
    """Methods that have not all seeds that others have."""
    each: dict[str, set[int]] = {}
    for row in rows_of(rows):
        each.setdefault(row.label, set()).update(_numbers(row.seeds))
    every = set().union(*each.values())
    lacking: dict[tuple[int, ...], list[str]] = {}
    for label, numbers in sorted(each.items()):
        if numbers and numbers != every:
            lacking.setdefault(tuple(sorted(numbers)), []).append(label)
    text = "; ".join(f"{cells.seeds(numbers)} of {', '.join(labels)}" for numbers, labels in lacking.items())
    return [f"Seeds differ ({cells.seeds(every)} in all): only {safe(text)}."] if lacking else []


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split())


def _recipes(section: pd.DataFrame) -> str:
    """The fields of each method that are not at their defaults, where its name in the tables does not say them."""
    pairs = section[["label", "method"]].drop_duplicates().sort_values("label", kind="stable")
    lines = [f"- {safe(label)}: {safe(method[method.index('(') + 1 : -1])}"
             for label, method in zip(pairs["label"], pairs["method"], strict=True) if label != method]  # fmt: skip
    return "Not at their defaults:\n\n" + "\n".join(lines) if lines else ""


def _index(at: Any) -> int:
    return int(str(at).split()[1].rstrip(":"))


def _heading(at: str) -> str:
    kind, _, n = at.partition(" ")
    if not at:
        return "overall"
    if kind == "group":
        return n.partition(": ")[2]
    if kind == "step":
        return f"{n} step{'s' if n != '1' else ''}"
    return n + {"1": "st", "2": "nd", "3": "rd"}.get(n, "th")
