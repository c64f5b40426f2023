"""How entries, cells and records look in a terminal; nothing here computes a result or writes a file."""

from __future__ import annotations

import hashlib
import inspect
import math
import os
import re
import shlex
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench import registry
from bench.config import describe
from bench.errors import BenchError
from bench.provenance import concerned_plugins
from bench.records import Record

WIDE = 140
"""Columns where the output is no terminal and `$COLUMNS` does not say."""
FEW = 5
"""At most so many files that could not be used are named."""
BARS = "▁▂▃▄▅▆▇█"
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class Pipe(Console):
    """A console that lets its caller say what a closed pipe means; rich itself would end with the code 1.

    What commands a terminal is shown as a sequence of characters: records may come from anywhere.
    """

    def render_str(self, text: str, **options: Any) -> Text:
        """As rich does."""
        return super().render_str(CONTROL.sub(lambda found: ascii(found[0])[1:-1], text), **options)

    def on_broken_pipe(self) -> None:
        """Pass on what was caught."""
        raise BrokenPipeError


def console(stderr: bool = False) -> Console:
    """A console that prints names and messages as they are, never as markup."""
    made = Pipe(stderr=stderr, markup=False, highlight=False, emoji=False)
    if not made.is_terminal and "COLUMNS" not in os.environ:
        made.width = WIDE
    return made


def left_out(problems: Sequence[str]) -> None:
    """Warn of files that could not be used, one sentence each, and of more than a few how many more there are."""
    err = console(stderr=True)
    for problem in problems[:FEW]:
        err.print(f"warning: {problem}; it is left out", soft_wrap=True)
    more = len(problems) - FEW
    if more > 0:
        err.print(f"warning: {more} more file{'s are' if more > 1 else ' is'} left out")


def warn(said: Iterable[str]) -> None:
    """Print each sentence as a warning."""
    err = console(stderr=True)
    for each in said:
        err.print(f"warning: {each}", soft_wrap=True)


def table(*columns: str, right: Iterable[str] = (), **options: Any) -> Table:
    """An empty table; columns named in right hold numbers."""
    made = Table(box=SIMPLE_HEAD, pad_edge=False, title_justify="left", title_style="bold", **options)
    for name in columns:
        made.add_column(name, justify="right" if name in right else "left", overflow="fold")
    return made


# ---------------------------------------------------------------------------------------------------------- bench list


def entry(reg: registry.Registry, name: str) -> dict[str, Any]:
    """A method or task as data: what it is, where it comes from, and its fields."""
    cls = registry.get(reg, name)
    hints = typing.get_type_hints(cls)
    return {
        "name": name,
        "kind": reg.kind,
        "summary": _paragraphs(cls)[0],
        "description": _paragraphs(cls)[1:],
        "source": cls.source,
        "origin": reg.origins.get(name, ""),
        "version": cls.version,
        "fields": [
            {
                "name": f.name,
                "type": describe(hints[f.name]),
                "default": None if f.default is MISSING else f.default,
                "help": f.metadata.get("help", ""),
            }
            for f in fields(cls)
        ],
    }


def suite(name: str) -> dict[str, Any]:
    """A suite as data: its title and its grid."""
    from bench.grid import read_suite

    content = read_suite(name)
    return {"name": name, "kind": "suite", "summary": str(content.get("title", "")), "grid": content.get("grid", [])}


def entries_table(title: str, entries: Sequence[Mapping[str, Any]]) -> Table:
    """One line an entry."""
    if entries and entries[0]["kind"] == "suite":
        made = table("name", "what", "methods", "tasks", title=title)
        for e in entries:
            parts = [sorted({_name_of(item) for block in e["grid"] for item in block.get(k, ())})
                     for k in ("methods", "tasks")]  # fmt: skip
            made.add_row(e["name"], e["summary"], *map(", ".join, parts))
        return made
    made = table("name", "what", "source", "from", title=title)
    for e in entries:
        made.add_row(e["name"], e["summary"], e["source"], e["origin"])
    return made


def print_entry(out: Console, e: Mapping[str, Any]) -> None:
    """A method or task with its fields: what --set takes."""
    out.print(f"{e['kind']} {e['name']}, version {e['version']}", style="bold")
    for line in (e["summary"], *e["description"], e["source"] and f"source: {e['source']}", f"from: {e['origin']}"):
        if line:
            out.print(line)
    fields_table = table("--set", "default", "type", "what")
    for f in e["fields"]:
        fields_table.add_row(f"{e['name']}.{f['name']}", setting_text(f["name"], f["default"]), f["type"], f["help"])
    out.print(fields_table)


def print_suite(out: Console, s: Mapping[str, Any]) -> None:
    """A suite with its blocks."""
    out.print(f"suite {s['name']}: {s['summary']}", style="bold")
    blocks = table("methods", "tasks", "seeds", "budget", "")
    for block in s["grid"]:
        names = [", ".join(map(_name_of_full, block.get(k, ()))) for k in ("methods", "tasks")]
        budget = ", ".join(f"{k}={v}" for k, v in block.get("budget", {}).items())
        optional = "left out where its data is missing" if block.get("optional") else ""
        blocks.add_row(*names, str(block.get("seeds", "0")), budget, optional)
    out.print(blocks)


def setting_text(key: str, value: Any) -> str:
    """A field's value as --set takes it."""
    if value is None:
        return "none"
    if isinstance(value, (tuple, list)):
        return ("+" if any(isinstance(v, str) for v in value) else ",").join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


# ------------------------------------------------------------------------------------------------------ cells, records


def changed(reg: registry.Registry, entry: Mapping[str, Any]) -> str:
    """The fields of a spec's method or task that differ from today's defaults, as "way=20,shot=1"."""
    cls = reg.entries.get(entry["name"])
    defaults = (
        {f.name: list(f.default) if isinstance(f.default, tuple) else f.default for f in fields(cls)} if cls else {}
    )
    return ",".join(
        f"{key}={setting_text(key, value)}"
        for key, value in entry["fields"].items()
        if key != "also" and (key not in defaults or defaults[key] != value)
    )


def names(spec: Mapping[str, Any]) -> tuple[str, str]:
    """Method and task of a spec as a person tells them apart: the name and what differs from the defaults."""
    both = (registry.METHODS, spec["method"]), (registry.TASKS, spec["task"])
    method, task = (f"{e['name']} {changed(reg, e)}".strip() for reg, e in both)
    return method, task


def score(metric: str, evaluation: Mapping[str, Any]) -> str:
    """Mean over episodes ± the papers' closed 95 % interval, 1.96 σ/√n: accuracy in percent, errors as they are."""
    mean, half = evaluation["mean"], half_width(evaluation["per_episode"])
    if mean is None:
        return "diverged"
    if metric == "accuracy":
        return f"{100 * mean:.2f}" + (f" ± {100 * half:.2f}" if half is not None else "") + " %"
    return f"{mean:.4g}" + (f" ± {half:.2g}" if half is not None else "")


def half_width(per_episode: Sequence[float]) -> float | None:
    """Half the papers' 95 % interval over episodes; None for fewer than two."""
    if len(per_episode) < 2:
        return None
    spread = float(np.std(per_episode, ddof=1)) if min(per_episode) < max(per_episode) else 0.0
    return 1.96 * spread / math.sqrt(len(per_episode))


def results_table(rows: Sequence[tuple[Record, str]], failed: Sequence[tuple[Mapping[str, Any], str, str]]) -> Table:
    """What a run touched: records with their outcome, then failed cells as (spec, outcome, id)."""
    scored = "score ± over episodes"
    made = table("method", "task", "seed", scored, "outcome", "seconds", "id", right=("seed", scored, "seconds"))
    for record, outcome in rows:
        method, task = names(record.spec)
        seconds = f"{record.cost['train_s'] + record.cost['eval_s']:.1f}"
        evaluations = record.result["evaluations"].items() if record.outcome == "ok" else [("", None)]
        for name, evaluation in evaluations:
            value = score(record.result["metric"], evaluation) if evaluation else "–"
            shown = (str(record.seed), value, outcome, seconds, record.id)
            made.add_row(*((method, task, *shown) if not name else ("", f"  {name}", "", value)))
    for spec, outcome, cell_id in failed:
        made.add_row(*names(spec), str(spec["seed"]), "–", outcome, "", cell_id, style="red")
    return made


def sparkline(values: Sequence[float | None], width: int = 60, ends: tuple[float, float] | None = None) -> str:
    """Values as a line of bars, · where there is none; long series are thinned. ends: of the scale, else their own."""
    step = max(1, math.ceil(len(values) / width))
    thinned = [v if v is not None and math.isfinite(v) else None for v in values][step - 1 :: step]
    known = [v for v in thinned if v is not None]
    if not known:
        return ""
    low, high = ends or (min(known), max(known))
    scale = (len(BARS) - 1) / (high - low) if high > low else 0.0
    return "".join("·" if v is None else BARS[round((v - low) * scale)] for v in thinned)


def print_record(out: Console, record: Record, path: Path) -> None:
    """One record as a person reads it."""
    out.print(f"{record.method} × {record.task} · seed {record.seed}: {record.outcome}", style="bold")
    out.print(f"id {record.id}, {record.started} to {record.finished}\n{path}\n", soft_wrap=True)
    _print_spec(out, record)
    _print_result(out, record)
    _print_curve(out, record)
    _print_pairs(out, "cost", record.cost)
    _print_pairs(out, "environment", {k: v for k, v in record.env.items() if k != "resumed"})
    for line in resumed(record.env):
        out.print(line)
    if record.data:
        out.print(f"data {record.data['name']}, sha256 {record.data['sha256']}", soft_wrap=True)
    out.print(f"\nmake it again:\n  {again(record)}", soft_wrap=True)


def resumed(env: Mapping[str, Any]) -> list[str]:
    """A line for each time that a cell was taken up again."""
    return [
        f"resumed at step {segment.get('step')} with commit {segment.get('commit')}"
        + (f", until then {', '.join(until)}" if (until := _until(segment)) else "")
        for segment in env.get("resumed", ())
    ]


def _until(segment: Mapping[str, Any]) -> list[str]:
    """Where the part before a resumption was made, and by what else."""
    before = segment.get("before", {})
    others = {name: before.get(name) for name in ("commit", "data")} | before.get("plugins", {})
    if before.get("source") and not before.get("commit"):
        others["sources"] = before["source"]  # one commit, uncommitted changes
    on = [f"on {segment['device']}"] if segment.get("device") else []
    return on + [f"with {name} {digest[:12]}" for name, digest in others.items() if digest]


def again(record: Record) -> str:
    """The command that makes a record again, with a warning where today's code would make another."""
    from bench import grid

    try:
        text, same = grid.command(record.spec), grid.from_spec(record.spec).id == record.id
    except BenchError as error:
        options = _plugin_options(record)
        missing = f"\n  (it was made with{options})" if options else ""
        return f"not possible with this version or without its data: {error}{missing}"
    text += _plugin_options(record)
    return text if same else f"{text}\n  (code or data have changed since: this gives another id)"


def _plugin_options(record: Record) -> str:
    """--plugin options for the files that a record was made with. It holds their names and sha256: those that are
    loaded here are given by their path, and a comment names the others. Where its method and its task are here, from
    files of these names or from none, the files that hold neither are left out."""
    recorded = record.env.get("plugins", {})
    concerned = concerned_plugins(record.spec["method"]["name"], record.spec["task"]["name"])
    if concerned is not None and concerned <= recorded.keys():
        recorded = {name: digest for name, digest in recorded.items() if name in concerned}
    here = {name: path for path, name in registry.plugin_names().items() if path.is_file()}
    options = "".join(f" --plugin {shlex.quote(str(here.get(name, name)))}" for name in recorded)
    same = {n for n, p in here.items() if hashlib.sha256(p.read_bytes()).hexdigest() == recorded.get(n)}
    others = [f"{name} with sha256 {digest[:12]}…" for name, digest in recorded.items() if name not in same]
    return options + (f"  # was {', '.join(others)}: the record does not say where that is" if others else "")


def _print_spec(out: Console, record: Record) -> None:
    spec = record.spec
    for reg, part in ((registry.METHODS, "method"), (registry.TASKS, "task")):
        values = ", ".join(f"{k}={setting_text(k, v)}" for k, v in spec[part]["fields"].items())
        out.print(f"{part:7} {spec[part]['name']} v{spec[part]['version']}: {values or 'no fields'}")
        different = changed(reg, spec[part])
        if spec[part]["name"] not in reg.entries:
            out.print(f"        its defaults are not known: no {part} of this name is here (--plugin?)")
        else:
            out.print(f"        not the defaults: {different}" if different else "        all at their defaults")
    out.print("budget  " + ", ".join(f"{k}={v}" for k, v in spec["budget"].items()) + "\n")


def _print_result(out: Console, record: Record) -> None:
    if record.outcome != "ok":
        out.print("diverged: the loss or a prediction was not finite; it counts as a failure in tables", style="red")
        return
    metric = record.result["metric"]
    out.print(f"{metric} on test episodes (± is the papers' closed 95 % interval over episodes of this one seed)")
    for name, evaluation in record.result["evaluations"].items():
        line = f"  {name or 'as trained for'}: {score(metric, evaluation)}, n = {len(evaluation['per_episode'])}"
        out.print(line, style="bold")
        if evaluation.get("open"):
            out.print(f"    {_open(metric, evaluation['open'])}")
        if evaluation.get("by_instance"):
            out.print(_instances(evaluation["by_instance"]))
        if evaluation.get("by_step"):
            out.print(_steps(metric, evaluation["by_step"]))


def _open(metric: str, found: Mapping[str, Any]) -> str:
    """The intervals that speak of other test classes too."""
    scale, unit = (100, " %") if metric == "accuracy" else (1, "")
    halves = {f"over {found['episodes']} disjoint episodes": found["disjoint"],
              f"by class ({found['classes']} classes)": found["clustered"]}  # fmt: skip
    known = [f"± {scale * half:.2g}{unit} {how}" for how, half in halves.items() if half is not None]
    return f"of other test classes, of this seed: {', '.join(known) or 'too few to tell'}"


def _instances(by: Mapping[str, Any]) -> Table:
    named = by.get("groups")
    made = table("" if named else "instance", *(named or (str(i + 1) for i in range(len(by["mean"])))))
    made.add_row("accuracy %", *("–" if m is None else f"{100 * m:.1f}" for m in by["mean"]))
    made.add_row("n", *map(str, by["n"]))
    return made


def _steps(metric: str, by: Mapping[str, Any]) -> Table:
    made = table("after steps", metric, right=("after steps", metric))
    for step in sorted(by, key=int):
        made.add_row(step, score(metric, by[step]))
    return made


def _print_curve(out: Console, record: Record) -> None:
    curve = record.result["curve"]
    for key, what in (("loss", "training loss"), ("val", f"validation {record.result['metric']}")):
        points = [p.get(key) for p in curve]
        known = [p for p in points if p is not None]
        if known:
            line = f"{what:21} {sparkline(points)}  {known[0]:.4g} → {known[-1]:.4g}"
            out.print(f"{line}, steps {curve[0]['step']} to {curve[-1]['step']}")
    if curve and record.outcome == "ok":
        out.print(f"tested after step {record.result.get('selected_step')}\n")


def _print_pairs(out: Console, title: str, values: Mapping[str, Any]) -> None:
    out.print(f"{title}: " + ", ".join(f"{k} {_value(k, v)}" for k, v in values.items() if v is not None))


def _value(key: str, value: Any) -> str:
    if key == "peak_bytes" and isinstance(value, int):
        return f"{value:,} ({value / 2**20:,.0f} MiB)"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _paragraphs(cls: type[Any]) -> list[str]:
    """Of a docstring, each in one line unless it is a list; at least one."""
    text = inspect.cleandoc(cls.__doc__ or "")
    # A dataclass without a docstring is given its signature for one.
    parts = [""] if text.startswith(f"{cls.__name__}(") else text.split("\n\n")
    return [re.sub(r"\n(?!- )\s*", " ", part) for part in parts]


def _name_of(item: Any) -> str:
    return str(item.get("name")) if isinstance(item, Mapping) else str(item)


def _name_of_full(item: Any) -> str:
    if not isinstance(item, Mapping):
        return str(item)
    values = ", ".join(f"{k}={v}" for k, v in item.items() if k != "name")
    return f"{item.get('name')} ({values})" if values else _name_of(item)
