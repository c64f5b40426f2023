"""The registry: names, patterns, plug-ins and what they do wrong."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import field
from pathlib import Path

import pytest
from fakes import Toy, ToyNet, ToyOnline, register

from bench import registry
from bench.api import Learner, Method, Task
from bench.errors import BenchError

PLUGIN = '''
"""A third party's method in one file."""
import torch
from bench.api import Examples, Learner, Method, Task, method, option


class Zeros(Learner):
    def __init__(self, n_out: int) -> None:
        super().__init__()
        self.n_out = n_out

    def forward(self, support: Examples, query_x: torch.Tensor) -> torch.Tensor:
        return query_x.new_zeros(*query_x.shape[:2], self.n_out)


@method("{name}", source="nobody")
class AlwaysZero(Method):
    """Answers zero."""

    level: int = option(0, "a number")

    def build(self, task: Task) -> Learner:
        return Zeros(task.n_out)
'''


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, Toy, ToyOnline, ToyNet)


def in_a_process(plugins: list[Path], code: str) -> str:
    """Output of code run with plug-ins in a fresh process."""
    env = os.environ | {"BENCH_PLUGINS": os.pathsep.join(map(str, plugins))}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.usefixtures("toys")
def test_a_name_is_found_and_a_near_one_offered() -> None:
    assert registry.get(registry.TASKS, "toy") is Toy
    with pytest.raises(BenchError, match=r"there is no task 'toy-onlin'; did you mean .*toy-online"):
        registry.get(registry.TASKS, "toy-onlin")
    with pytest.raises(BenchError, match=r"there is no method '@@@'; there are: .*toy-net.* \(`bench list methods`"):
        registry.get(registry.METHODS, "@@@")


@pytest.mark.usefixtures("toys")
def test_patterns_match_in_order() -> None:
    assert registry.match(registry.TASKS, "toy*") == ["toy", "toy-online"]
    assert registry.match(registry.TASKS, "toy") == ["toy"]
    assert registry.match(registry.METHODS, "t?y-n[e]t") == ["toy-net"]
    with pytest.raises(BenchError, match=r"no task matches 'nothing\*'; `bench list tasks`"):
        registry.match(registry.TASKS, "nothing*")


def test_a_name_is_taken_once() -> None:
    reg = registry.Registry("task")
    reg.add("toy", Toy)
    reg.add("toy", Toy)
    with pytest.raises(BenchError, match="the task name 'toy' of fakes is taken by fakes; choose another name"):
        reg.add("toy", ToyOnline)
    assert reg.entries == {"toy": Toy}
    for name in ("budget", "protonet"):
        with pytest.raises(BenchError, match=f"'{name}' is something else to --set; choose another name for the task"):
            reg.add(name, Toy)


def test_registering_makes_a_frozen_dataclass_of_keywords(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "METHODS", registry.Registry("method"))

    @registry.method("one", source="me")
    class One(Method):
        level: int = registry.option(2, "a number")

        def build(self, task: Task) -> Learner:
            raise NotImplementedError

    assert (One.name, One.source, One().level, One(level=3) == One(level=3)) == ("one", "me", 2, True)
    assert hash(One()) == hash(One(level=2))
    with pytest.raises(AttributeError):
        One().level = 4  # type: ignore[misc]
    with pytest.raises(TypeError):
        One(4)  # type: ignore[misc]


def test_what_cannot_be_an_entry_is_refused_when_it_is_registered() -> None:
    class Bare(Method):
        """Has a field without a default."""

        width: int

    class Hiding(Method):
        """Would be recorded as a prototypical network."""

        name: str = "protonet"

    class Nested(Method):
        """Records hold no list of lists."""

        sizes: tuple[tuple[int, ...], ...] = ((1, 2),)

    class Made(Method):
        """A default that is made anew each time may differ."""

        sizes: tuple[int, ...] = field(default_factory=lambda: (8, 8))

    class Alone:
        """Is no method."""

    wrong = {
        "has no default; give it one": Bare,
        "the field sizes of refused has no default": Made,
        "the field sizes of refused has a type that no record holds; use int": Nested,
        "has a field called name, which is what it is registered by": Hiding,
        "is registered as a method and does not derive from Method": Alone,
    }
    for said, cls in wrong.items():
        with pytest.raises(BenchError, match=said):
            registry.method("refused")(cls)  # type: ignore[type-var]
    with pytest.raises(BenchError, match="does not derive from Task"):
        registry.task("refused")(ToyNet)  # type: ignore[type-var]
    assert "refused" not in registry.METHODS.entries
    assert "refused" not in registry.TASKS.entries


def test_everything_registered_says_where_it_comes_from_and_what_it_is() -> None:
    for reg in (registry.METHODS, registry.TASKS, registry.OPS):
        for name, cls in reg.entries.items():
            assert reg.origins[name]
            assert cls.name == name
            assert (cls.__doc__ or "").strip(), f"{name} has no docstring"


def test_plugins_are_loaded_and_broken_ones_named(tmp_path: Path) -> None:
    good, bad, rude, taken = (tmp_path / f"{name}.py" for name in ("good", "bad", "rude", "taken"))
    good.write_text(PLUGIN.replace("{name}", "always-zero"))
    bad.write_text("import no_such_module_anywhere\n")
    rude.write_text("raise SystemExit('I leave')\n")
    taken.write_text(PLUGIN.replace("{name}", "always-zero"))
    missing, folder = tmp_path / "missing.py", tmp_path
    code = """if True:
        from bench import registry
        print(registry.get(registry.METHODS, 'always-zero').__module__, registry.METHODS.origins['always-zero'])
        for origin, why in registry.failures.items():
            print(origin, '->', why)
        print(len(registry.match(registry.TASKS, '*')), 'tasks')
    """
    out = in_a_process([bad, good, rude, taken, missing, folder], code)
    assert re.search(rf"bench_plugin_good_\w+ file {re.escape(str(good))}", out)
    assert f"file {bad} -> ModuleNotFoundError: No module named 'no_such_module_anywhere'" in out
    assert f"file {rude} -> SystemExit: I leave" in out
    assert f"file {taken} -> BenchError: the method name 'always-zero' of bench_plugin_taken_" in out
    assert f"file {missing} -> FileNotFoundError: there is no file {missing}" in out
    assert f"file {folder} ->" in out
    assert "0 tasks" not in out


def test_an_entry_point_that_fails_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class Point:
        name, value = "strange", "strange_package.methods"

        def load(self) -> None:
            raise ImportError("libstrange.so is missing")

    monkeypatch.setattr(registry, "_loaded", False)
    monkeypatch.setattr(registry, "entry_points", lambda group: [Point()] if group == "mannbench.plugins" else [])
    monkeypatch.setattr(registry, "failures", {})
    monkeypatch.delenv("BENCH_PLUGINS", raising=False)
    registry.load()
    origin = "entry point strange (strange_package.methods)"
    assert registry.failures == {origin: "ImportError: libstrange.so is missing"}
    assert registry.match(registry.TASKS, "*")


def test_two_files_of_one_name_do_not_replace_each_other(tmp_path: Path) -> None:
    files = [tmp_path / folder / "mine.py" for folder in ("a", "b")]
    for path in files:
        path.parent.mkdir()
        path.write_text(PLUGIN.replace("{name}", "always-zero"))
    code = (
        "from bench import registry; registry.load(); print(registry.METHODS.origins['always-zero'], registry.failures)"
    )
    out = in_a_process(files, code)
    assert out.startswith(f"file {files[0]} ")
    assert "is taken by" in out
