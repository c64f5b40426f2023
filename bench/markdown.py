"""A summary of records as Markdown: one section a task, published figures beside ours, what is missing below.

Where a task measures by instance or by gradient step, there is a table a setting with these as columns and published
rows under ours; elsewhere a row a setting and method.
"""

from __future__ import annotations

import json
import math
import string
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pandas as pd

from bench import published
from bench.frames import PERCENT

NONE = "—"
MOST_CLASSES = 100_000
BESIDE = 3
"""At most so many published rows under one of ours."""
PAPERS = "± over episodes, as papers print it"
WORDS = {"accuracy": "accuracy, %", "error": "error, %", "mse": "mean squared error"}
HEADLINE = {"instance 2", "instance 10", "step 1", "step 10"}
"""Places that stand for a method measured by instance or by gradient step."""
LEGEND = (
    "Mean over seeds ± half the Student t 95 % interval over seeds; one seed gives no interval. "
    f'"{PAPERS}" is 1.96 s / √n over the test episodes of one trained model, mean over seeds: it says nothing of other '
    "seeds. Published figures are as printed; under each table, what differs between the paper's protocol and ours."
)


def document(title: str, made: pd.DataFrame, table: pd.DataFrame, left_out: Mapping[str, int]) -> str:
    """A whole file. made: the frame, table: its summary, left_out: reasons and counts of records left out."""
    parts = [f"# {title}", LEGEND]
    for reason, count in left_out.items():
        if count:
            parts.append(f"Left out: {count} record{'s' if count > 1 else ''} {reason}.")
    if table.empty:
        parts.append("There are no records.")
    for task, section in table.groupby("task", sort=False):
        parts += [f"## {task}", *_task(section, made[made["task"] == task])]
    return "\n\n".join(parts) + "\n"


def headline(table: pd.DataFrame) -> str:
    """One short table of a summary, without costs and reasons."""
    by_place = table.loc[table["at"].isin(HEADLINE), ["task", "setting"]].drop_duplicates().apply(tuple, axis=1)
    rows = [
        {
            "task": row.task,
            "setting": ", ".join(
                filter(None, [row.setting, _heading(row.at) + " instance" * row.at.startswith("i") if row.at else ""])
            ),
            "method": row.method,
            "measure": WORDS.get(row.metric, row.metric),
            "ours": _mean(row),
            "seeds": str(row.n_seeds),
            "published": _published(row.published, row.published_ci95),
            "source": _source(row.source, row.arxiv) if row.source else "",
            "same protocol": row.same_protocol,
        }
        for row in rows_of(table)
        if row.at in HEADLINE or (row.at == "" and (row.task, row.setting) not in set(by_place))
    ]
    return _table(pd.DataFrame(rows), ("task", "setting", "method", "measure", "source", "same protocol")) + "\n"


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
        notes = [f"- ({_letter(i)}) {_safe(text)}" for i, text in enumerate(self.texts)]
        return ["Same protocol, or why not:\n\n" + "\n".join(notes)] if notes else []


def _letter(index: int) -> str:
    return string.ascii_lowercase[index] if index < 26 else str(index + 1)


def _task(section: pd.DataFrame, made: pd.DataFrame) -> list[str]:
    parts = []
    wide = [str(s) for s in section.loc[section["at"].str.match("instance|step"), "setting"].unique()]
    long = section[~section["setting"].isin(wide)]
    if len(long):
        parts += [*_long(long[long["at"] == ""]), _counts(long, made)]
    for setting in wide:
        part, there = section[section["setting"] == setting], made[made["setting"] == setting]
        parts += [*([f"### {_safe(setting)}"] if setting else []), *_wide(part, there), _counts(part, made)]
    runs = long[long["at"].str.startswith("run")]
    if len(runs):
        parts += ["Error by run, %:", _runs(runs)]
    return parts


def _long(section: pd.DataFrame) -> list[str]:
    notes = Notes()
    rows = [
        {
            "setting": row.setting,
            "method": row.method,
            WORDS.get(row.metric, row.metric): _mean(row),
            "seeds": str(row.n_seeds),
            PAPERS: _episodes(row),
            "published": _published(row.published, row.published_ci95),
            "source": _source(row.source, row.arxiv) if row.source else "",
            "same protocol": notes.mark(row.same_protocol, row.because),
            "parameters": _count(row.params),
            "training time": _time(row.train_s),
        }
        for row in rows_of(section)
    ]
    return [_table(pd.DataFrame(rows), ("setting", "method", "source", "same protocol")), *notes.lines()]


def _wide(section: pd.DataFrame, made: pd.DataFrame) -> list[str]:
    notes, metric = Notes(), section["metric"].iloc[0]
    places = ["", *sorted(set(section["at"]) - {""}, key=_index)]
    names = {at: _heading(at) for at in places}
    rows: list[dict[str, str]] = []
    for method, group in section.groupby("method", sort=False):
        cells = {row.at: row for row in rows_of(group)}
        first = cells[""]
        rows.append(
            {"method": str(method)}
            | {names[at]: _mean(cell) + _other_seeds(cell, first) for at, cell in cells.items()}
            | {"seeds": str(first.n_seeds), "parameters": _count(first.params), "training time": _time(first.train_s)}
        )
        widths = {names[at]: _episodes(cell) for at, cell in cells.items()}
        if any(widths.values()):
            rows.append({"method": PAPERS} | widths)
        rows += _beside(made[made["method"] == method], names, notes)
    rows += _references(section, made, names)
    columns = ["method", *names.values(), "seeds", "parameters", "training time", "same protocol"]
    shown = pd.DataFrame(rows, columns=columns, dtype=object).fillna("")
    measure = WORDS.get(metric, metric).capitalize()
    return [f"{measure}:", _table(shown, ("method", "same protocol")), *notes.lines()]


def _other_seeds(cell: Any, first: Any) -> str:
    """How many seeds are behind a cell, where that is not what the table's column says."""
    return f" ({cell.n_seeds} seeds)" if cell.n_seeds not in (0, first.n_seeds) else ""


def _beside(made: pd.DataFrame, names: Mapping[str, str], notes: Notes) -> list[dict[str, str]]:
    """Published rows for one of our methods in one setting."""
    spec, fields = made["spec"].iloc[0], made["fields"].iloc[0]
    found = published.lookup(spec["method"]["name"], spec["task"]["name"], **fields)
    kinds: dict[tuple[str, ...], list[published.Published]] = {}
    for row in published.closest(spec, found, fields):
        if _place(row) in names:
            kinds.setdefault((row.citation, row.variant, *row.protocol.values()), []).append(row)
    lines = []
    for rows in list(kinds.values())[:BESIDE]:
        match = published.protocol_match(spec, rows[0], fields)
        variant = f", {rows[0].variant}" if rows[0].variant else ""
        lines.append(
            {"method": f"published: {_source(rows[0].citation, rows[0].arxiv)}{variant}"}
            | {names[_place(row)]: _published(row.value, row.ci95) for row in rows}
            | {"same protocol": notes.mark(match.verdict, match.because)}
        )
    return lines


def _place(row: published.Published) -> str:
    for kind, key in (("instance", "instance"), ("step", "adapt_steps")):
        if key in row.key:
            return f"{kind} {row.key[key]}"
    return "nowhere"


def _references(section: pd.DataFrame, made: pd.DataFrame, names: Mapping[str, str]) -> list[dict[str, str]]:
    """Guessing, the ceiling of the first instance, and how many answers are behind each column."""
    places = [at for at in names if at.startswith("instance")]
    guess, top = guessing(made["fields"].iloc[0]), ceiling(made["fields"].iloc[0])
    if not places or guess is None:
        return []
    rows = [{"method": "guessing, exactly"} | {names[at]: f"{guess:.2f}" for at in places}]
    if top is not None and "instance 1" in names:
        rows.append({"method": "ceiling by elimination", names["instance 1"]: f"{top:.2f}"})
    most = section[section["at"] != ""].sort_values("n_seeds", kind="stable").groupby("at").last()
    each = {names[at]: f"{most['count'][at] / max(1, most['n_seeds'][at]):.0f}" for at in places}
    return [*rows, {"method": "answers behind each, a seed"} | each]


def guessing(fields: Mapping[str, Any]) -> float | None:
    """Accuracy in percent of guessing in a setting: one of `way` classes, or of 5^5 strings; None without classes."""
    if fields.get("labels") == "string":
        return 100 / 5**5
    return 100 / _way(fields) if _way(fields) else None


def ceiling(fields: Mapping[str, Any]) -> float | None:
    """Best possible accuracy in percent when a class is first shown, by ruling out labels already used: (1/N) Σ 1/k.

    None for strings, nearly all of which are never used.
    """
    way = _way(fields)
    if not way or fields.get("labels") == "string":
        return None
    return 100 / way * sum(1 / k for k in range(1, way + 1))


def _way(fields: Mapping[str, Any]) -> int:
    """Classes of an episode; 0 where the setting has none, or the field of that name is something else."""
    way = fields.get("way")
    return way if isinstance(way, int) and 0 < way <= MOST_CLASSES else 0


def rows_of(table: pd.DataFrame) -> list[Any]:
    """Rows with their cells as attributes."""
    return [SimpleNamespace(**{str(k): v for k, v in row.items()}) for row in table.to_dict("records")]


def _runs(section: pd.DataFrame) -> str:
    names = section["method"] + section["setting"].map(lambda s: f", {s}" if section["setting"].nunique() > 1 else "")
    grid = section.assign(name=names).pivot(index="at", columns="name", values="mean")[list(dict.fromkeys(names))]
    grid = grid.loc[sorted(grid.index, key=_index)]
    grid.loc["mean"] = grid.mean()
    shown = grid.map(lambda v: NONE if math.isnan(v) else f"{v:.2f}")
    shown.insert(0, "run", [str(at).removeprefix("run ") for at in grid.index])
    return _table(shown, ())


def _counts(section: pd.DataFrame, made: pd.DataFrame) -> str:
    """What is behind a table: cells, what is missing or diverged, unequal seeds, machines."""
    rows = section[section["at"] == ""]
    here = made[made["setting"].isin(rows["setting"])]
    cells = here.drop_duplicates("id")["outcome"].value_counts()
    n = cells.get("ok", 0)
    lines = [f"{n} cell{'s' if n != 1 else ''} recorded, {cells.get('missing', 0)} missing, "
             f"{cells.get('diverged', 0)} diverged."]  # fmt: skip
    for kind in ("diverged", "missing"):
        lines += [f"{kind.capitalize()}: {_safe(text)}." for text in [_seeds(rows, kind)] if text]
    every = {seed for text in rows["seeds"] for seed in text.split()}
    lacking = {
        f"{row.method} {row.seeds.replace(' ', ', ')}"
        for row in rows_of(rows)
        if row.seeds and {*row.seeds.split()} != every
    }
    if lacking:
        lines.append(f"Seeds differ ({', '.join(sorted(every, key=int))} in all): {_safe('; '.join(sorted(lacking)))}.")
    ok = here[here["outcome"] == "ok"]
    machines = sorted({f"{d} ({t:.0f} thread{'s' if t > 1 else ''})" for d, t in zip(ok["device"], ok["threads"],
                                                                                    strict=True) if d})  # fmt: skip
    if machines:
        lines.append(f"Times on {_safe('; '.join(machines))}.")
    return " ".join(lines)


def _seeds(rows: pd.DataFrame, kind: str) -> str:
    several = rows["setting"].nunique() > 1
    found = [(row, getattr(row, kind).replace(" ", ", ")) for row in rows_of(rows) if getattr(row, kind)]
    return "; ".join(f"{row.method}{f' at {row.setting}' if several else ''} seed {seeds}" for row, seeds in found)


# --------------------------------------------------------------------------------------------------------------- cells


def number(value: float, metric: str, like: float | None = None) -> str:
    """A score as tables print it: percent with two decimals, MSE with three digits (or the decimals of `like`)."""
    if math.isnan(value):
        return NONE
    if metric in PERCENT:
        return f"{value:.2f}"
    scale = abs(value if like is None else like)
    decimals = 2 if scale == 0 or not math.isfinite(scale) else max(0, 2 - math.floor(math.log10(scale)))
    return f"{value:.{decimals}f}"


def _mean(row: Any) -> str:
    text = number(row.mean, row.metric)
    return text if math.isnan(row.half_width) else f"{text} ± {number(row.half_width, row.metric, row.mean)}"


def _episodes(row: Any) -> str:
    return "" if math.isnan(row.episode_half_width) else f"± {number(row.episode_half_width, row.metric, row.mean)}"


def _published(value: float, ci95: float | None) -> str:
    if math.isnan(value):
        return ""
    return repr(float(value)) + ("" if ci95 is None or math.isnan(ci95) else f" ± {float(ci95)!r}")


def _source(citation: str, arxiv: str) -> str:
    return f"{citation} (arXiv:{arxiv})" if arxiv else citation


def _count(value: float) -> str:
    return NONE if math.isnan(value) else f"{value:,.0f}"


def _time(seconds: float) -> str:
    if math.isnan(seconds) or seconds == 0:
        return NONE
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes} m {seconds:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} m"


def _index(at: Any) -> int:
    return int(str(at).split()[1])


def _heading(at: str) -> str:
    kind, _, n = at.partition(" ")
    if not at:
        return "overall"
    if kind == "step":
        return f"{n} step{'s' if n != '1' else ''}"
    return n + {"1": "st", "2": "nd", "3": "rd"}.get(n, "th")


def _table(rows: pd.DataFrame, left: Iterable[Any]) -> str:
    rows = rows.where(rows.notna(), "")  # cells that no row of a method has
    rows = rows[[c for c in rows if (rows[c] != "").any()]]
    align = ["left" if c in left else "right" for c in rows]
    shown = rows.map(_safe).rename(columns=_safe)
    return shown.to_markdown(index=False, disable_numparse=True, colalign=align)


def _safe(text: str) -> str:
    """Text that stays text in a Markdown table."""
    plain = text if text.isprintable() else json.dumps(text)[1:-1]
    return plain.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("`", "\\`")
