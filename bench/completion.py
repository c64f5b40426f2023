"""What the shell completes: names read from source files, so that a press of Tab imports no torch."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
CORE = (HERE / "api.py", HERE / "operations.py", HERE / "grid.py")
FOLDERS = (HERE / "tasks", HERE.parent / "baselines", HERE.parent / "mann", HERE.parent / "mann" / "ops")


class Scanned(NamedTuple):
    """A class as its source shows it."""

    kind: str
    """method, task, op or an empty string."""
    name: str
    summary: str
    fields: dict[str, str]
    """Own fields and their documentation."""
    bases: tuple[str, ...]


def scan() -> dict[str, Scanned]:
    """All classes in the built-in packages and in the files of `$BENCH_PLUGINS`, by class name."""
    plugins = [Path(p) for p in os.environ.get("BENCH_PLUGINS", "").split(os.pathsep) if p]
    found: dict[str, Scanned] = {}
    for path in [*CORE, *(p for folder in FOLDERS for p in sorted(folder.glob("*.py"))), *plugins]:
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (OSError, SyntaxError, ValueError):
            continue
        found |= {node.name: _scan(node) for node in tree.body if isinstance(node, ast.ClassDef)}
    return found


def methods(incomplete: str = "") -> list[tuple[str, str]]:
    """Names of methods that start so, each with its summary."""
    return _named("method", incomplete)


def tasks(incomplete: str = "") -> list[tuple[str, str]]:
    """Names of tasks that start so, each with its summary."""
    return _named("task", incomplete)


def ops(incomplete: str = "") -> list[tuple[str, str]]:
    """Names of ops that start so, each with its summary."""
    return _named("op", incomplete)


def suites(incomplete: str = "") -> list[tuple[str, str]]:
    """Names of suites that start so."""
    return [(p.stem, "suite") for p in sorted((HERE / "suites").glob("*.toml")) if p.stem.startswith(incomplete)]


def entries(incomplete: str = "") -> list[tuple[str, str]]:
    """What `bench list` takes."""
    kinds = [(k, f"all {k}") for k in ("methods", "tasks", "ops", "suites") if k.startswith(incomplete)]
    return kinds + methods(incomplete) + tasks(incomplete) + ops(incomplete) + suites(incomplete)


def settings(incomplete: str = "") -> list[tuple[str, str]]:
    """What `--set` takes: NAME.FIELD=, with the field's documentation."""
    classes = scan()
    owners = [c for c in classes.values() if c.kind]
    if "Budget" in classes:
        owners.append(classes["Budget"]._replace(name="budget"))
    words = [(f"{o.name}.{key}=", text) for o in owners for key, text in _all_fields(o, classes).items()]
    return sorted((word, text) for word, text in words if word.startswith(incomplete))


def ids(results: Path, incomplete: str = "") -> list[tuple[str, str]]:
    """Record ids that start so, each with the method and task it belongs to."""
    paths = sorted((results / "runs").glob(f"*/*/s*-{incomplete}*.json"))
    return [(p.stem.rpartition("-")[2], f"{p.parent.name} × {p.parent.parent.name}") for p in paths]


def _named(kind: str, incomplete: str) -> list[tuple[str, str]]:
    return sorted((c.name, c.summary) for c in scan().values() if c.kind == kind and c.name.startswith(incomplete))


def _scan(node: ast.ClassDef) -> Scanned:
    kind, name = "", node.name
    for decorator in node.decorator_list:
        match decorator:
            case ast.Call(
                func=ast.Name(id="method" | "task" | "op" as which), args=[ast.Constant(value=str(text)), *_]
            ):
                kind, name = which, text
    fields = {
        item.target.id: _help(item.value)
        for item in node.body
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name) and "ClassVar" not in _text(item)
    }
    summary = (ast.get_docstring(node) or "").partition("\n")[0]
    return Scanned(kind, name, summary, fields, tuple(b.id for b in node.bases if isinstance(b, ast.Name)))


def _text(item: ast.AnnAssign) -> str:
    return ast.unparse(item.annotation)


def _help(value: ast.expr | None) -> str:
    texts = [a.value for a in getattr(value, "args", ()) if isinstance(a, ast.Constant) and isinstance(a.value, str)]
    return texts[-1] if texts else ""


def _all_fields(entry: Scanned, classes: dict[str, Scanned]) -> dict[str, str]:
    inherited = (_all_fields(c, classes) for c in _parents(entry, classes))
    return {key: text for fields in inherited for key, text in fields.items()} | entry.fields


def _parents(entry: Scanned, classes: dict[str, Scanned]) -> Iterator[Scanned]:
    return (classes[base] for base in entry.bases if base in classes and base != entry.name)
