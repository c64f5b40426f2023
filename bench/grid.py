"""From suites and command-line choices to cells: method x task x seed x budget, each with an id."""

from __future__ import annotations

import copy
import fnmatch
import numbers
import re
import reprlib
import shlex
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from bench import registry
from bench.api import Method, Task, TrainedMethod
from bench.config import as_dict, build, convert, digest
from bench.errors import BenchError, MissingData, MissingPackage, Unsuited

SUITES = Path(__file__).parent / "suites"
LARGEST_SEED = 10**9 - 1


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How long a cell trains and how much it is evaluated; the same for all methods that are compared."""

    steps: int = registry.option(2000, "training steps, each of `batch` episodes")
    validations: int = registry.option(20, "evenly spaced validations, the last after the last step; 0: none")
    val_episodes: int = registry.option(200, "validation episodes, the same each time")
    test_episodes: int = registry.option(600, "test episodes, touched once")
    select: Literal["best", "last"] = registry.option(
        "best", "which parameters are tested: best on validation, or last"
    )

    def check(self) -> None:
        """Refuse impossible numbers.

        Raises:
            BenchError: which number, and what it may be.
        """
        for name in ("steps", "test_episodes"):
            if getattr(self, name) < 1:
                raise BenchError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.validations < 0 or (self.validations and self.val_episodes < 1):
            raise BenchError("validations must be 0 or more, and val_episodes at least 1")

    def validation_steps(self) -> list[int]:
        """Steps (counted from 1) after which validation runs."""
        count = min(self.validations, self.steps)  # more would fall on the same steps
        return sorted({max(1, self.steps * (i + 1) // count) for i in range(count)})


@dataclass(frozen=True)
class Cell:
    """One unit of work. Its id is a digest of its spec: changed spec, changed cell."""

    method: Method
    task: Task
    seed: int
    budget: Budget

    @cached_property
    def spec(self) -> dict[str, Any]:
        """All that defines the result; device, workers, paths and verbosity are outside it."""
        return {
            "method": {"name": self.method.name, "version": self.method.version, "fields": as_dict(self.method)},
            "task": {
                "name": self.task.name,
                "version": self.task.version,
                "fields": as_dict(self.task),
                "data": self.task.data_digest(),
            },
            "seed": self.seed,
            "budget": as_dict(self.budget),
        }

    @cached_property
    def id(self) -> str:
        """12 hex digits of the sha256 of the spec's canonical JSON."""
        return digest(self.spec)

    @property
    def label(self) -> str:
        """The cell as a person names it."""
        return f"{self.method.name} × {self.task.name} · seed {self.seed}"


@dataclass(frozen=True)
class Plan:
    """Cells to run, and what was left out and why."""

    cells: list[Cell]
    notes: list[str] = field(default_factory=list)


def plan(
    suite: str | None = None,
    methods: Sequence[str] = (),
    tasks: Sequence[str] = (),
    seeds: str | int | Iterable[int] | None = None,
    settings: Sequence[str] = (),
    steps: int | None = None,
    offline: bool = False,
) -> Plan:
    """Expand choices into cells. With a suite, methods and tasks narrow it down, and seeds take the place of its own;
    without, they make the grid.

    settings: "mann.slots=256", "omniglot.way=20", "budget.validations=5"; the part before the dot may be a pattern.
    offline: name the cells without looking for their data, to compare them with records.

    Raises:
        BenchError: unknown names, malformed settings, or nothing left to run.
    """
    if suite is not None:
        blocks = read_suite(suite)["grid"]
    elif methods and tasks:
        blocks = [{"methods": list(methods), "tasks": list(tasks)}]
    else:
        raise BenchError(
            f"say what to run: a suite ({', '.join(suites())}), or at least one -m METHOD and one -t TASK; "
            "`bench list` shows them"
        )
    changes = _parse_settings([*settings, *([f"budget.steps={steps}"] if steps is not None else [])])
    cells: dict[str, Cell] = {}
    notes: list[str] = []
    used: set[int] = set()
    for block in blocks:
        budget = _apply(build(Budget, block.get("budget", {})), "budget", changes, used)
        budget.check()
        all_methods = _entries(registry.METHODS, block["methods"])
        all_tasks = _entries(registry.TASKS, block["tasks"])
        if suite is not None:
            all_methods = _narrow(registry.METHODS, all_methods, methods)
            all_tasks = _narrow(registry.TASKS, all_tasks, tasks)
        all_methods = [_apply(m, m.name, changes, used) for m in all_methods]
        all_tasks = [_apply(t, t.name, changes, used) for t in all_tasks]
        for m in all_methods:
            m.check()
        if not offline:
            all_methods = _with_packages(all_methods, block, notes)
        for t in all_tasks:
            t.check()
            for name, each in t.evaluations().items():
                _check_further(t, name, each)
        block_seeds = parse_seeds(seeds if seeds is not None else block.get("seeds", "0"))
        try:
            for t in all_tasks if all_methods and not offline else ():
                t.check_data()
            for seed in block_seeds:
                for t in all_tasks:
                    for m in all_methods:
                        reason = m.unsuited(t)
                        if not reason and seed == block_seeds[0]:
                            m.protocol(t)  # what tables will ask fails here or nowhere
                        if reason:
                            note = f"{m.name} does not run on {t.name}: {reason}"
                            notes += [note] if note not in notes else []
                        else:
                            cell = Cell(m, t, seed, _fit(budget, m, t))
                            cells.setdefault(cell.id, cell)
        except MissingData as missing:
            if not block.get("optional"):
                raise
            notes.append(f"left out {', '.join(t.name for t in all_tasks)}: {missing}")
    for i, (target, key, _) in enumerate(changes):
        if i not in used:
            raise BenchError(f"--set {target}.{key} fits nothing in this run; {_settable(cells.values())}")
    if not cells:
        raise Unsuited("; ".join(notes)) if notes else BenchError("nothing to run: no cell matches these choices")
    return Plan(list(cells.values()), notes)


def suites() -> list[str]:
    """Names of the suites that travel with the project."""
    return sorted(path.stem for path in SUITES.glob("*.toml"))


def read_suite(name: str) -> dict[str, Any]:
    """A suite's content: by name, or from a path to a .toml file.

    Raises:
        BenchError: no such suite, not valid TOML, or blocks that are not as they must be.
    """
    path = Path(name) if name.endswith(".toml") else SUITES / f"{name}.toml"
    shown = name if len(name) <= 200 else f"{name[:200]}…"
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BenchError(registry.unknown("suite", shown, suites(), "bench list suites")) from None
    except OSError as error:
        raise BenchError(f"the suite {shown} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise BenchError(f"the suite {shown} is not valid TOML: {error}") from None
    if strange := sorted(content.keys() - {"title", "grid"}):
        raise BenchError(f"the suite {shown} has {', '.join(map(reprlib.repr, strange))} at its top, where title and "
                         "[[grid]] blocks may be; methods, tasks, seeds and budget go into a block")  # fmt: skip
    if not isinstance(content.get("title", ""), str):
        raise BenchError(f"the title of the suite {shown} must be a text, not {reprlib.repr(content['title'])}")
    _check_blocks(shown, content.get("grid"))
    return content


def _check_blocks(name: str, blocks: Any) -> None:
    known = {"methods", "tasks", "seeds", "budget", "optional"}
    kinds = {"methods": (list, "a list"), "tasks": (list, "a list"), "budget": (dict, "a table"),
             "optional": (bool, "true or false")}  # fmt: skip
    if not isinstance(blocks, list) or not blocks:
        raise BenchError(f"the suite {name} has no [[grid]] block; it needs one with methods and tasks")
    for block in blocks:
        if not isinstance(block, dict) or not {"methods", "tasks"} <= set(block) <= known:
            raise BenchError(
                f"a [[grid]] block of {name} needs methods and tasks, and may have seeds, budget, optional"
            )
        for key, (kind, words) in kinds.items():
            if not isinstance(block.get(key, kind()), kind):
                raise BenchError(f"{key} of a [[grid]] block of {name} must be {words}, not {reprlib.repr(block[key])}")
        parse_seeds(block.get("seeds", "0"))


def parse_seeds(seeds: str | int | Iterable[int]) -> list[int]:
    """Seeds from "0-4", "3", "0,2,5-7" or integers, without repeats, in order.

    Raises:
        BenchError: malformed, empty, negative or above 999,999,999.
    """
    if isinstance(seeds, str):
        found: list[int] = []
        for part in seeds.split(","):
            ends = re.fullmatch(r"\s*(\d{1,9})(?:-(\d{1,9}))?\s*", part)
            if not ends or (ends[2] and int(ends[2]) < int(ends[1])) or int(ends[2] or 0) - int(ends[1]) > 100_000:
                raise BenchError(f"seeds are written 0-4, 3 or 0,2,5-7; {reprlib.repr(seeds)} is not understood")
            found += range(int(ends[1]), int(ends[2] or ends[1]) + 1)
    else:
        found = list(seeds) if isinstance(seeds, Iterable) else [seeds]
        for seed in found:  # a number of NumPy's is one too
            if not isinstance(seed, numbers.Integral) or isinstance(seed, bool) or not 0 <= seed <= LARGEST_SEED:
                raise BenchError(f"seeds are whole numbers from 0 to {LARGEST_SEED:,}, not {reprlib.repr(seed)}")
        found = [int(seed) for seed in found]
    if not found:
        raise BenchError("no seeds given; write 0-4, 3 or 0,2,5-7")
    return list(dict.fromkeys(found))


def shard(cells: Sequence[Cell], text: str) -> list[Cell]:
    """The i-th of n parts, "i/n" with i from 1: over all i each cell appears exactly once.

    Raises:
        BenchError: not of that form.
    """
    parts = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    if not parts or not 1 <= int(parts[1]) <= int(parts[2]):
        raise BenchError(f"a shard is written i/n with i from 1 to n, such as 2/4; '{text}' is not understood")
    # By id alone, so that machines whose lists differ (one lacks a data set) still agree on who runs what.
    return [c for c in cells if int(c.id, 16) % int(parts[2]) == int(parts[1]) - 1]


def from_spec(spec: Mapping[str, Any]) -> Cell:
    """The cell of a recorded spec, as the code of today understands it.

    Raises:
        BenchError: the method, the task or one of their fields no longer exists.
    """
    method = build(registry.get(registry.METHODS, spec["method"]["name"]), spec["method"]["fields"])
    task = build(registry.get(registry.TASKS, spec["task"]["name"]), spec["task"]["fields"])
    return Cell(method, task, spec["seed"], build(Budget, spec["budget"]))


def command(spec: Mapping[str, Any]) -> str:
    """The command that makes a spec's record again: every field that differs from today's default is spelled out."""
    cell = from_spec(spec)
    parts = [f"bench run -m {cell.method.name} -t {cell.task.name} --seeds {cell.seed}"]
    budget = cell.budget
    if isinstance(cell.method, TrainedMethod):
        parts.append(f"--steps {budget.steps}")
    for target, config in ((cell.method.name, cell.method), (cell.task.name, cell.task), ("budget", budget)):
        for f in fields(config):
            value = getattr(config, f.name)
            untrained = config is budget and not isinstance(cell.method, TrainedMethod) and f.name != "test_episodes"
            if value == f.default or untrained or (config is budget and f.name == "steps"):
                continue
            if isinstance(value, tuple):
                value = ("+" if value and isinstance(value[0], str) else ",").join(map(str, value))
            value = "none" if value is None else value
            parts.append(f"--set {shlex.quote(f'{target}.{f.name}={value}')}")
    return " ".join(parts)


def _check_further(task: Task, name: str, setting: Task) -> None:
    """Check a setting that a trained learner is tested in: of the splits it draws from the test split alone."""
    if setting.also or re.search(r"(^|,)\s*also\s*=", name):
        raise BenchError(f"{task.name}.also={name} sets also itself; further settings are joined by +: way=5+way=20")
    setting = copy.copy(setting)
    object.__setattr__(setting, "splits", ("test",))
    setting.check()


def _fit(budget: Budget, method: Method, task: Task) -> Budget:
    """The budget as this cell can spend it, so that what cannot matter does not change the id."""
    budget = replace(budget, test_episodes=max(budget.test_episodes, task.fixed))
    if not isinstance(method, TrainedMethod):
        return replace(budget, steps=0, validations=0, val_episodes=0, select="last")
    if "val" not in task.splits or budget.validations == 0:
        return replace(budget, validations=0, val_episodes=0, select="last")
    return budget


def _entries(reg: registry.Registry, items: Sequence[str | Mapping[str, Any]]) -> list[Any]:
    """Configs from names, patterns, or tables with a name and fields."""
    configs = []
    for item in items:
        values = dict(item) if isinstance(item, Mapping) else {"name": item}
        name = values.pop("name", None)
        if not isinstance(name, str):
            raise BenchError(f"a {reg.kind} is given by its name, or as a table with a name and fields, not {item!r}")
        configs += [build(registry.get(reg, n), values) for n in registry.match(reg, name)]
    return list(dict.fromkeys(configs))


def _narrow(reg: registry.Registry, configs: list[Any], patterns: Sequence[str]) -> list[Any]:
    wanted = {name for pattern in patterns for name in registry.match(reg, pattern)}
    return [c for c in configs if not patterns or c.name in wanted]


def _with_packages(methods: list[Method], block: Mapping[str, Any], notes: list[str]) -> list[Method]:
    """Methods whose packages are installed. One that a pattern matched, or an optional block names, is left out."""
    asked = () if block.get("optional") else [i if isinstance(i, str) else i["name"] for i in block["methods"]]
    found = []
    for m in methods:
        try:
            m.check_packages()
            found.append(m)
        except MissingPackage as missing:
            if m.name in asked:
                raise
            note = f"left out: {missing}"
            notes += [note] if note not in notes else []
    return found


def _parse_settings(settings: Sequence[str]) -> list[tuple[str, str, str]]:
    parsed = []
    for text in settings:
        match = re.fullmatch(r"([^=]+)\.([\w]+)=(.*)", text, re.DOTALL)
        if not match:
            raise BenchError(f"--set takes NAME.FIELD=VALUE, such as mann.slots=256; '{text}' is not understood")
        target, key, value = match.groups()
        known = {*registry.METHODS.entries, *registry.TASKS.entries, "budget"}
        if not fnmatch.filter(known, target):
            registry.load()
            known |= {*registry.METHODS.entries, *registry.TASKS.entries}
            if not fnmatch.filter(known, target):
                raise BenchError(registry.unknown("method, task or budget", target, known))
        parsed.append((target, key, value))
    return parsed


def _apply(config: Any, name: str, changes: Sequence[tuple[str, str, str]], used: set[int]) -> Any:
    for i, (target, key, value) in enumerate(changes):
        if not fnmatch.fnmatchcase(name, target):
            continue
        is_pattern = target != name
        if is_pattern and key not in {f.name for f in fields(config)}:
            continue
        config = replace(config, **{key: convert(type(config), key, value)})
        used.add(i)
    return config


def _settable(cells: Iterable[Cell]) -> str:
    names = {name for c in cells for name in (c.method.name, c.task.name)}
    return f"it can set fields of {', '.join(sorted(names | {'budget'}))}"
