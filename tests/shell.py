"""How tests run the command line: in this process where they can, in another where they must."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from bench import cli, registry

TOYS = Path(__file__).parent / "plugin_toys.py"
QUICK = ("--set", "budget.test_episodes=20", "--set", "budget.val_episodes=10", "--set", "budget.validations=2",
         "--threads", "1", "--no-picture")  # fmt: skip
MAIN = "import sys; from bench.cli import main; sys.exit(main())"


class Said(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The methods, tasks and ops of plugin_toys.py, an empty data folder, and a fresh folder to work in."""
    for reg in registry.REGISTRIES:
        monkeypatch.setattr(reg, "entries", dict(reg.entries))
        monkeypatch.setattr(reg, "origins", dict(reg.origins))
    monkeypatch.setattr(registry, "failures", {})
    registry._try(f"file {TOYS}", lambda: registry._import_file(TOYS))
    assert not registry.failures
    (tmp_path / "data").mkdir()
    monkeypatch.setenv("BENCH_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("BENCH_PLUGINS", str(TOYS))
    monkeypatch.delenv("BENCH_DEBUG", raising=False)
    monkeypatch.chdir(tmp_path)


def bench(capsys: pytest.CaptureFixture[str], *arguments: object) -> Said:
    """Run a command line in this process."""
    capsys.readouterr()
    code = cli.call([str(a) for a in arguments])
    return Said(code, *capsys.readouterr())


def start(*arguments: object, cwd: Path, **environ: str) -> subprocess.Popen[str]:
    """Start a command line in a process and a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", MAIN, *map(str, arguments)], cwd=cwd, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "BENCH_PLUGINS": str(TOYS), **environ},
    )  # fmt: skip


def end(process: subprocess.Popen[str], timeout: float = 120) -> Said:
    """Wait for a process."""
    try:
        out, err = process.communicate(timeout=timeout)
    finally:
        process.kill()
    return Said(process.returncode, out, err)


def shell(*arguments: object, cwd: Path, **environ: str) -> Said:
    """Run a command line in a process of its own."""
    return end(start(*arguments, cwd=cwd, **environ))


def refused(said: Said, *words: str) -> None:
    """Exit code 2 and exactly one sentence, which has these words."""
    errors = [line for line in said.err.splitlines() if line.startswith("error: ")]
    assert said.code == 2, said
    assert len(errors) == 1, said.err
    assert "Traceback" not in said.err + said.out
    for word in words:
        assert re.search(word, errors[0]), (word, errors[0])


def results_of(folder: Path) -> dict[str, Any]:
    """What each record of a store found, by id: all that must not depend on how the run went."""
    paths = sorted((folder / "runs").glob("*/*/s*.json"))
    contents = [json.loads(p.read_text()) for p in paths]
    return {c["id"]: (c["outcome"], c["result"]) for c in contents}
