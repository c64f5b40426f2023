"""Names to methods, tasks, ops and suites: built-in files, installed entry points and local plug-in files.

Built-in modules of `bench.tasks`, `baselines` and `mann` are found by listing those packages, so a new file is a
new entry. A third party's package names its module under the entry-point group `mannbench.plugins`; a single file
goes into `$BENCH_PLUGINS` (paths joined by the system's path separator). A plug-in that fails to import is named
in `failures`; everything else works.
"""

from __future__ import annotations

import difflib
import fnmatch
import functools
import hashlib
import importlib
import importlib.util
import os
import pkgutil
import re
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import MISSING, dataclass, field, fields
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, dataclass_transform

from bench.config import holds, types_of
from bench.errors import BenchError

if TYPE_CHECKING:
    from bench.api import Method, Op, Task

Kind = Literal["method", "task", "op", "variant"]
BUILT_IN = ("bench.tasks", "baselines", "mann")
ENTRY_POINTS = "mannbench.plugins"
V = TypeVar("V", bound=Callable[..., Any])


@dataclass
class Registry:
    """All entries of one kind, by name, and where each comes from."""

    kind: Kind
    entries: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, cls: Any) -> None:
        """Enter a class, or a function, under a name.

        Raises:
            BenchError: the name is taken by another one, cannot be part of a path and of a command, or would leave open
            what `--set NAME.FIELD` means.
        """
        if not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", name):
            raise BenchError(
                f"'{name}' cannot be the name of a {self.kind}: use lower-case letters, digits, '-', '_' and '.'"
            )
        old = self.entries.get(name)
        if old is not None and (old.__module__, old.__qualname__) != (cls.__module__, cls.__qualname__):
            raise BenchError(
                f"the {self.kind} name '{name}' of {cls.__module__} is taken by {old.__module__}; choose another name"
            )
        other = {"method": TASKS, "task": METHODS}.get(self.kind)
        if other and name in {"budget", *other.entries}:
            raise BenchError(f"'{name}' is something else to --set; choose another name for the {self.kind}")
        self.entries[name] = cls
        self.origins[name] = _origin or "built in"


METHODS = Registry("method")
TASKS = Registry("task")
OPS = Registry("op")
VARIANTS = Registry("variant")
"""Functions, by "op.variant"."""
REGISTRIES = (METHODS, TASKS, OPS, VARIANTS)
failures: dict[str, str] = {}
"""Plug-ins that could not be imported: origin -> what went wrong."""
RESERVED = frozenset({"name", "source", "version"})
"""What records know an entry by, which no field may hide."""
imported: dict[Path, str] = {}
"""sha256 of each plug-in file as this process imported it."""
_origin = ""
_loaded = False


def option(default: Any, help: str = "", *, late: bool = False, training: bool = False, data: bool = False) -> Any:
    """A config field with its one line of documentation.

    late: added after records existed; left out of the identity while it holds its default, so that old records stay
    valid. training: a task field that shapes training only; it does not change which test episodes are drawn. data: a
    task field that says which data the splits are made of, or how they are shown; a learner trained under one value is
    never tested under another.
    """
    return field(default=default, metadata={"help": help, "late": late, "training": training, "data": data})


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(option, field))
def method(name: str, source: str = "") -> Callable[[type[Method]], type[Method]]:
    """Register a method: the class becomes a frozen dataclass whose fields are its config."""
    return _decorator(METHODS, name, source)


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(option, field))
def task(name: str, source: str = "") -> Callable[[type[Task]], type[Task]]:
    """Register a task: the class becomes a frozen dataclass whose fields are its config."""
    return _decorator(TASKS, name, source)


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(option, field))
def op(name: str, source: str = "") -> Callable[[type[Op]], type[Op]]:
    """Register an op: the class becomes a frozen dataclass whose fields are its sizes."""
    return _decorator(OPS, name, source)


def variant(
    op: str,
    name: str,
    *,
    devices: tuple[str, ...] = ("cpu", "cuda"),
    dtypes: tuple[str, ...] | None = None,
    compiles: bool = False,
) -> Callable[[V], V]:
    """Register a function as another way to compute an op: it takes the op and its inputs, and gives its outputs.

    devices, dtypes: where it works; None: whatever the op has. compiles: for many seconds, by its first call; a call
    then counts as one launch beside those of its operators, and a quick profile does without.
    """

    def register(function: V) -> V:
        function.__dict__.update(devices=devices, dtypes=dtypes, compiles=compiles)
        VARIANTS.add(f"{op}.{name}", function)
        return function

    return register


def _decorator(registry: Registry, name: str, source: str) -> Callable[[type[Any]], type[Any]]:
    """What registers a class.

    Raises:
        BenchError: it is no class of that kind, a field has no default, has a type that is none of a config or hides
            what records know it by, or the name cannot be taken, see `Registry.add`.
    """

    def register(cls: type[Any]) -> type[Any]:
        base = getattr(importlib.import_module("bench.api"), registry.kind.capitalize())
        if not (isinstance(cls, type) and issubclass(cls, base)):
            raise BenchError(f"{name} is registered as a {registry.kind} and does not derive from {base.__name__}")
        cls = dataclass(frozen=True, kw_only=True)(cls)
        hints = types_of(cls)
        for each in fields(cls):
            if each.default is MISSING:
                raise BenchError(f"the field {each.name} of {name} has no default; give it one, by option(...)")
            if not holds(hints.get(each.name, int)):
                raise BenchError(
                    f"the field {each.name} of {name} has a type that no record holds; use int, float, bool, str, a "
                    "Literal, a tuple[T, ...] of one of these, or T | None"
                )
            if each.name in RESERVED:
                raise BenchError(f"{name} has a field called {each.name}, which is what it is registered by; rename it")
        cls.name = name
        cls.source = source
        registry.add(name, cls)
        return cls

    return register


def load() -> None:
    """Import everything that registers itself; once a process. Failures of plug-ins are collected, never raised."""
    global _loaded
    if _loaded:
        return
    _loaded = True
    for package in BUILT_IN:
        for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
            if not module.name.startswith("_"):
                importlib.import_module(f"{package}.{module.name}")
    for point in entry_points(group=ENTRY_POINTS):
        origin = f"entry point {point.name} ({point.value})"
        _try(origin, point.load)
    for path in plugin_files():
        _try(f"file {path}", functools.partial(_import_file, path))


def plugin_files() -> list[Path]:
    """The files that `$BENCH_PLUGINS` names, each once."""
    named = filter(None, os.environ.get("BENCH_PLUGINS", "").split(os.pathsep))
    return list({Path(path).resolve(): Path(path) for path in named}.values())


def plugin_digests() -> dict[str, str]:
    """sha256 of each of `plugin_files`, by its name: as it was imported, should it have changed or gone since."""
    return {
        name: imported.get(path.resolve()) or hashlib.sha256(path.read_bytes()).hexdigest()
        for path, name in plugin_names().items()
        if path.resolve() in imported or path.is_file()
    }


def plugin_names() -> dict[Path, str]:
    """What records call each of `plugin_files`: by the name of the file, where two share it with their folders."""
    files = plugin_files()
    alike = Counter(path.name for path in files)
    return {path: path.name if alike[path.name] == 1 else "/".join(path.resolve().parts[-2:]) for path in files}


def plugin_of(registry: Registry, name: str) -> str | None:
    """What records call the plug-in file that an entry comes from; None where it comes from none."""
    kind, _, path = registry.origins.get(name, "").partition(" ")
    return plugin_names().get(Path(path), Path(path).name) if kind == "file" else None


def blame(error: BaseException) -> str:
    """The sentence for an error out of a plug-in's code, with its last place there; empty for one from elsewhere."""
    made = traceback.extract_tb(error.__traceback__)
    frame = next((f for f in reversed(made) if Path(f.filename).resolve() in imported), None)
    if frame is None:
        return ""
    what = f"{type(error).__name__}: {error}"
    return f"the plug-in {frame.filename} failed in line {frame.lineno}, in {frame.name}: {what}"


def _try(origin: str, importer: Callable[[], object]) -> None:
    global _origin
    _origin = origin
    before = [(registry, dict(registry.entries), dict(registry.origins)) for registry in REGISTRIES]
    try:
        importer()
    except (KeyboardInterrupt, MemoryError):
        raise
    except BaseException as error:  # a stranger's module may raise anything, SystemExit included
        failures[origin] = f"{type(error).__name__}: {error}"
        for registry, entries, origins in before:  # half a plug-in is none
            registry.entries, registry.origins = entries, origins
    finally:
        _origin = ""


def _import_file(path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    place = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]  # two files may have one name
    name = f"bench_plugin_{path.stem}_{place}"
    while name in sys.modules:  # another folder's file of the same name
        name += "_2"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    imported[path.resolve()] = hashlib.sha256(path.read_bytes()).hexdigest()
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)


def get(registry: Registry, name: str) -> type[Any]:
    """The class registered under a name.

    Raises:
        BenchError: no such name; the message offers the nearest ones.
    """
    load()
    if name not in registry.entries:
        kin = known_as(name) if registry is METHODS else ""
        raise BenchError(kin or unknown(registry.kind, name, registry.entries, f"bench list {registry.kind}s"))
    return registry.entries[name]


def known_as(name: str) -> str:
    """The sentence for a name that papers have for a form of a method that is registered; empty for others."""
    from bench.published import KIN

    for method, kin in KIN.items():
        for values, told in kin:
            if told == name.lower():
                form = " ".join(f"--set {method}.{key}={value}" for key, value in values.items())
                return f"{name} is a form of {method}: bench run -m {method} {form}"
    return ""


def match(registry: Registry, pattern: str) -> list[str]:
    """Names that a shell pattern matches, sorted; a plain name matches itself.

    Raises:
        BenchError: nothing matches.
    """
    load()
    if not any(c in pattern for c in "*?["):
        get(registry, pattern)
        return [pattern]
    names = sorted(fnmatch.filter(registry.entries, pattern))
    if not names:
        raise BenchError(f"no {registry.kind} matches '{pattern}'; `bench list {registry.kind}s` shows all of them")
    return names


def unknown(kind: str, name: str, known: Iterable[str], listing: str = "") -> str:
    """The sentence for a name that does not exist, with did-you-mean."""
    known = sorted({*known})
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if near:
        return f"there is no {kind} '{name}'; did you mean {' or '.join(near)}?"
    where = f" (`{listing}` describes them)" if listing else ""
    return f"there is no {kind} '{name}'; " + (f"there are: {', '.join(known)}{where}" if known else "there is none")
