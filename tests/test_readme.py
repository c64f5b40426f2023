"""README.md, CONTRIBUTING.md and docs/scaling.md say what is true: their commands and examples run as printed."""

from __future__ import annotations

import itertools
import json
import math
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pytest

from bench import cells

ROOT = Path(__file__).parent.parent
NAMES = ("README.md", "mann/README.md", "CONTRIBUTING.md", "docs/learn2learn.md", "docs/scaling.md")
PAGES = {name: (ROOT / name).read_text(encoding="utf-8") for name in NAMES}
LONG = 1000
"""A run of so many steps, or of a suite, is planned only: with --dry-run."""
LEFT_OUT = ("gp-regression", "lake", "paired-associates", "sinusoid")
"""Tasks whose records no page names: `make tables-check` takes all there are."""
NEEDS = {
    "bench import": ("bench export",),
    "bench diff": ("bench export", "bench import"),
    "bench compare my-method": ("bench run --plugin my_method.py",),
}
"""Commands that take what others leave behind, by how they begin."""


class Block(NamedTuple):
    """Fenced code, and the last line before it."""

    language: str
    text: str
    before: str


def blocks(page: str) -> list[Block]:
    """All fenced blocks of a page, in order."""
    parts = re.split(r"^```(\w*)\n", PAGES[page], flags=re.MULTILINE)
    # Text, opening fence, code, closing fence, and so on; a closing fence has no language.
    texts, openings, code = parts[0::4], parts[1::4], parts[2::4]
    return [
        Block(language, inside, (text.strip().splitlines() or [""])[-1])
        for text, language, inside in zip(texts, openings, code, strict=False)
    ]


def commands(program: str, pages: tuple[str, ...] = tuple(PAGES)) -> list[str]:
    """Lines of the pages' fenced blocks that call a program, as printed, without their comments."""
    lines = [line for page in pages for b in blocks(page) if not b.language for line in b.text.splitlines()]
    return [line.partition(" #")[0].strip() for line in lines if line.startswith(f"{program} ")]


PYTHON = [b for page in PAGES for b in blocks(page) if b.language == "python"]
FILES = {name: b for b in PYTHON for name in ("my_method.py", "my_memory.py", "my_task.py") if name in b.before}
EXAMPLE = FILES["my_method.py"]
BENCH = commands("bench")


class Folder(NamedTuple):
    """A working folder with committed results and the pages' example files in it."""

    path: Path
    called: set[str]
    """Commands of the pages that have run here."""

    def call(self, *command: str) -> str:
        """Run a command there with this environment's programs first; its stdout."""
        search = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        environ = os.environ | {"PATH": search}
        done = subprocess.run(command, cwd=self.path, env=environ, stdin=subprocess.DEVNULL, capture_output=True,
                              text=True)  # fmt: skip
        assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}{done.stderr}"
        return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    if shutil.which("bench", path=str(Path(sys.executable).parent)) is None:
        pytest.skip("mannbench is not installed here")
    path = tmp_path_factory.mktemp("reader")
    shutil.copytree(ROOT / "results", path / "results", ignore=shutil.ignore_patterns(".bench", *LEFT_OUT))
    for name, block in FILES.items():
        (path / name).write_text(block.text)
    return Folder(path, set())


def planned(command: str) -> list[str]:
    """A command's words; long runs are only planned, and records of code that is being changed compared as well."""
    words = shlex.split(command)
    words += ["--dirty"] if words[1] == "compare" else []
    options = dict(itertools.pairwise(words))
    if words[1] == "run" and (not words[2].startswith("-") or int(options.get("--steps", 0)) >= LONG):
        words += [] if "--dry-run" in words else ["--dry-run"]
    return words


def test_pages_were_understood() -> None:
    fences = sum(len(re.findall(r"^```", text, re.MULTILINE)) for text in PAGES.values())
    assert fences == 2 * sum(len(blocks(page)) for page in PAGES)
    assert len(BENCH) >= 8
    assert len(PYTHON) >= 3
    assert len(FILES) == 3
    assert {"bench list", "bench run smoke", "bench tables", "bench doctor"} <= set(BENCH)
    assert commands("make", ("README.md",)) == ["make run", "make test"]


@pytest.mark.parametrize("command", BENCH)
def test_command_runs_as_printed(command: str, folder: Folder, request: pytest.FixtureRequest) -> None:
    if "omniglot" in command:
        request.getfixturevalue("monkeypatch").setenv("BENCH_DATA", str(request.getfixturevalue("omniglot_root")))
    words = planned(command)
    needed = tuple(name for start, names in NEEDS.items() if command.startswith(start) for name in names)
    for earlier in (c for c in BENCH if c.startswith(needed) and c not in folder.called):
        folder.call(*shlex.split(earlier))
        folder.called.add(earlier)
    said = folder.call(*words)
    folder.called.add(command)
    if "--plugin" in words:
        assert ("cells, 0 recorded" if "--dry-run" in words else "recorded now") in said
        assert "failed" not in said


@pytest.mark.parametrize("block", [b for b in PYTHON if b not in FILES.values()])
def test_python_runs_as_printed(block: Block, folder: Folder) -> None:
    folder.call("python", "-c", block.text)


def test_example_is_one_short_file_that_learns(folder: Folder) -> None:
    code = [line for line in EXAMPLE.text.splitlines() if line.strip() and not line.strip().startswith("#")]
    assert len(code) <= 25
    (command,) = (c for c in BENCH if "--plugin my_method.py" in c)
    cells = json.loads(folder.call(*shlex.split(command), "--json"))["cells"]
    means: dict[str, list[float]] = {}
    for cell in cells:
        record = json.loads((folder.path / cell["record"]).read_text())
        means.setdefault(cell["method"], []).append(record["result"]["evaluations"][""]["mean"])
    assert min(means["my-method"]) > 0.25  # five classes: a fifth is chance
    assert {len(scores) for scores in means.values()} == {3}


def test_the_memory_of_contributing_keeps_the_contract_of_memories(folder: Folder) -> None:
    environ = os.environ | {"BENCH_PLUGINS": str(folder.path / "my_memory.py")}
    command = (sys.executable, "-m", "pytest", "tests/test_memories.py", "-k", "ring", "-q", "-p", "no:cacheprovider")
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout  # 5 where there is no such test


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {m for text in PAGES.values() for m in re.findall(r"(?:^|`)make ([a-z0-9-]+)", text, re.MULTILINE)}
    assert named
    assert named <= targets


@pytest.mark.parametrize("page", PAGES)
def test_files_that_are_named_exist(page: str) -> None:
    linked = re.findall(r"\]\((?!https?:)([^)#]+)\)", PAGES[page])
    named = re.findall(r"`((?:bench|baselines|mann|tests|results)/[\w/.-]*)`", PAGES[page])
    here = (ROOT / page).parent  # a link starts from its page, a path in code from the root
    missing = [path for path in linked if not (here / path).exists()]
    missing += [path for path in named if not (ROOT / path).exists()]
    assert not missing


def test_the_answer_to_whether_a_memory_helps_is_that_of_the_table() -> None:
    table = pd.read_csv(ROOT / "results" / "tables" / "ladder.csv")
    found = {row.label: row for row in cells.rows_of(table[table["at"] == "instance 2"])}
    (text,) = [part for part in PAGES["README.md"].split("\n\n") if part.startswith("**Does a memory help?**")]
    names = ("lstm", "lstm-matched (by=params)", "lstm-matched (by=compute)", "mann", "mann (ablate=zero)",
             "mann (ablate=frozen)", "full-attention", "deep-knn (features=classifier, metric=cosine)")  # fmt: skip
    said = [figure for pair in re.findall(r"([\d.]+)(?: ± ([\d.]+))? %", text) for figure in pair if figure]
    true = [v for name in names for v in (found[name].mean, found[name].half_width) if not math.isnan(v)]
    assert said == [f"{v:.{len(s.partition('.')[2])}f}" for v, s in zip(true, said, strict=True)]
    assert found["full-attention"].standing == "worse"
    assert found["mann"].standing == "worse"
