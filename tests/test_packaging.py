"""The wheel in an environment of its own, the pinned versions, and the Makefile."""

from __future__ import annotations

import json
import os
import re
import shutil
import site
import subprocess
import sys
import tomllib
import venv
import zipfile
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PYTHONS = ("3.11", "3.12", "3.13")
SYSTEMS = ("linux", "darwin")


# ------------------------------------------------------------------------------------------------------------ the wheel


class Installed(NamedTuple):
    """An environment in which the wheel is installed, and an empty folder outside the checkout to work in."""

    environment: Path
    folder: Path

    def run(self, program: str, *arguments: str) -> str:
        """Run a program of the environment there; its stdout. Nothing of the developer's own setting reaches it."""
        environ = {k: v for k, v in os.environ.items() if not k.startswith(("BENCH_", "PYTHON", "COV"))}
        environ |= {"HOME": str(self.folder), "BENCH_CACHE": str(self.folder / "cache")}
        done = subprocess.run([str(self.environment / "bin" / program), *arguments], cwd=self.folder, env=environ,
                              stdin=subprocess.DEVNULL, capture_output=True, text=True)  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built without a network."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The wheel in a new environment, which sees the other packages of this one but not the checkout."""
    here = Installed(tmp_path_factory.mktemp("environment"), tmp_path_factory.mktemp("elsewhere"))
    venv.create(here.environment, with_pip=False)
    command = ["-m", "pip", "--python", str(here.environment / "bin" / "python"), "install", "--quiet", "--no-deps"]
    done = subprocess.run([sys.executable, *command, str(wheel)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    # Folders named in a .pth are searched last, and .pth files in them, such as the checkout's own, are not read.
    others = [p for p in (*site.getsitepackages(), site.getusersitepackages()) if Path(p).is_dir()]
    (packages,) = here.environment.glob("lib/python*/site-packages")
    (packages / "others.pth").write_text("\n".join(others) + "\n")
    return here


def test_wheel_holds_code_and_data_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
        about = {name.partition(".dist-info/")[2]: name for name in archive.namelist() if ".dist-info/" in name}
        assert archive.read("bench/published.csv") == (ROOT / "results" / "published.csv").read_bytes()
        assert archive.read(about["licenses/LICENSE"]) == (ROOT / "LICENSE").read_bytes()
        scripts = archive.read(about["entry_points.txt"]).decode()
    packages = [p for name in ("bench", "baselines", "mann") for p in (ROOT / name).rglob("*")]
    wanted = {str(p.relative_to(ROOT)) for p in packages if p.is_file() and "__pycache__" not in p.parts}
    assert held == wanted | {"bench/published.csv"}
    assert {Path(name).suffix for name in held} <= {".py", ".toml", ".txt", ".csv", ".md", ".j2", ".css", ".js"}
    assert "bench = bench.cli:main" in scripts


def test_installed_wheel_is_what_runs(installed: Installed) -> None:
    code = "import json, bench, baselines, mann; print(json.dumps([m.__file__ for m in (bench, baselines, mann)]))"
    found = json.loads(installed.run("python", "-c", code))
    assert len(found) == 3
    assert all(Path(file).is_relative_to(installed.environment) for file in found), found


def test_installed_command(installed: Installed) -> None:
    assert "bench run smoke" in installed.run("bench", "--help")
    listed = json.loads(installed.run("bench", "list", "--json"))
    assert {"chance", "mann", "protonet", "maml"} <= {m["name"] for m in listed["methods"]}
    assert {"glyphs", "omniglot", "sinusoid"} <= {t["name"] for t in listed["tasks"]}
    assert {s["name"] for s in listed["suites"]} == {p.stem for p in (ROOT / "bench" / "suites").glob("*.toml")}
    ran = installed.run("bench", "run", "-m", "chance", "-t", "glyphs", "--results", "x")
    assert "1 recorded now" in ran
    assert "picture: x/pictures/run.png" in ran
    assert (installed.folder / "x" / "pictures" / "run.png").is_file()
    installed.run("bench", "tables", "--dirty", "--results", "x")
    assert any("chance" in p.read_text() for p in (installed.folder / "x" / "tables").glob("*.md"))
    installed.run("bench", "report", "--dirty", "--results", "x")
    assert "<title>mannbench report: other</title>" in (installed.folder / "report.html").read_text()


def test_installed_data_files(installed: Installed) -> None:
    code = (
        "from bench import data, published\n"
        "assert len(data.split('omniglot-vinyals', 'train')) == 1028\n"
        "assert published.rows()\n"
    )
    installed.run("python", "-c", code)


def test_installed_building_block(installed: Installed) -> None:
    code = (
        "import torch\n"
        "from mann import MANN\n"
        "model = MANN(input_size=10, memory_size=100, hidden_size=64)\n"
        "print(model(torch.randn(1, 10)).shape[0])\n"
    )
    assert installed.run("python", "-c", code).strip() == "1"


# ------------------------------------------------------------------------------------------------------ pinned versions


def pins() -> dict[str, str]:
    """constraints.txt: version by name."""
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    matches = [re.fullmatch(r"([A-Za-z0-9_.-]+)==([0-9][A-Za-z0-9.]*)", line) for line in lines]
    assert all(matches), [line for line, match in zip(lines, matches, strict=True) if not match]
    return {canonicalize_name(m[1]): m[2] for m in matches if m}


def project() -> dict[str, object]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def declared() -> list[Requirement]:
    """What the project itself asks for: to be built, to run, to be tested."""
    content = project()
    about, build = content["project"], content["build-system"]
    assert isinstance(about, dict)
    assert isinstance(build, dict)
    texts = [*build["requires"], *about["dependencies"], *about["optional-dependencies"]["dev"]]
    return [Requirement(text) for text in texts]


def applies(requirement: Requirement) -> bool:
    """Whether a requirement holds on any Python and system we support, without extras."""
    marker = requirement.marker
    if marker is None:
        return True
    systems = [(p, s) for p in PYTHONS for s in SYSTEMS]
    return any(
        marker.evaluate({"python_version": p, "python_full_version": f"{p}.0", "sys_platform": s,
                         "platform_system": s.capitalize(), "os_name": "posix", "extra": ""})
        for p, s in systems
    )  # fmt: skip


def needed() -> set[str]:
    """Everything that the project needs, directly or not, as far as it is installed here."""
    found: set[str] = set()
    waiting = [r for r in declared() if applies(r)]
    while waiting:
        name = canonicalize_name(waiting.pop().name)
        if name in found:
            continue
        found.add(name)
        try:
            waiting += map(Requirement, metadata.requires(name) or [])
        except metadata.PackageNotFoundError:
            pytest.fail(f"{name} is needed but not installed here: pip install -e '.[dev]'")
        # torch for CUDA pins the libraries that it needs itself, and torch for the CPU needs none of them.
        waiting = [r for r in waiting if applies(r) and not r.name.startswith(("nvidia", "cuda", "triton"))]
    return found


def for_learn2learn() -> list[Requirement]:
    """What `make learn2learn` adds; it need not be installed."""
    about = project()["project"]
    assert isinstance(about, dict)
    return [Requirement(text) for text in about["optional-dependencies"]["learn2learn"]]


def test_constraints_pin_all_that_is_needed_and_nothing_else() -> None:
    assert set(pins()) == needed() | {canonicalize_name(r.name) for r in for_learn2learn()}


def test_constraints_satisfy_what_is_declared() -> None:
    for requirement in [*declared(), *for_learn2learn()]:
        version = pins()[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), (str(requirement), version)


def test_supported_pythons_are_the_same_everywhere() -> None:
    about = project()["project"]
    assert isinstance(about, dict)
    classified = [c.rpartition(" ")[2] for c in about["classifiers"] if re.search(r":: 3\.\d+$", c)]
    assert tuple(classified) == PYTHONS
    assert about["requires-python"] == f">={PYTHONS[0]}"
    assert all(f"python{version}" in (ROOT / "Makefile").read_text() for version in PYTHONS)


# --------------------------------------------------------------------------------------------------------- the Makefile


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A folder with a space in its name that has the Makefile and an environment of stand-ins that say what they do."""
    if shutil.which("make") is None:
        pytest.skip("there is no make")
    folder = tmp_path / "a clone"
    programs = folder / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, folder)
    for name in ("python", "bench", "ruff", "mypy"):
        (programs / name).write_text(f'#!/bin/sh\necho "{name} $* | data=$BENCH_DATA constraint=$PIP_CONSTRAINT"\n')
        (programs / name).chmod(0o755)
    return folder


def make(folder: Path, *arguments: str, code: int = 0, **environ: str) -> str:
    """Run make; stdout and stderr together."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("BENCH_", "MAKE", "MFLAGS", "PIP_"))}
    done = subprocess.run(["make", *arguments], cwd=folder, env=kept | environ, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)  # fmt: skip
    assert done.returncode == code, done.stdout
    return done.stdout


def test_make_help_lists_all_targets(clone: Path) -> None:
    listed = set(re.findall(r"^  make ([a-z0-9-]+) +\S", make(clone, "help"), re.MULTILINE))
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text().replace("\\\n", " "), re.MULTILINE)
    assert phony
    assert listed == set(phony[1].split())
    assert make(clone) == make(clone, "help")


def test_make_run_installs_once_with_pins_alone(clone: Path) -> None:
    first = make(clone, "run", PIP_CONSTRAINT="/nowhere.txt")
    assert "pip install --quiet --constraint constraints.txt --editable . | data= constraint=\n" in first
    assert re.search(r"^bench run smoke --results out --workers \d+ ", first, re.MULTILINE)
    again = make(clone, "run")
    assert "install" not in again
    assert "bench run smoke" in again
    (clone / "constraints.txt").touch()
    os.utime(clone / "constraints.txt", (2e9, 2e9))
    assert "pip install" in make(clone, "run")


def test_make_finds_omniglot_beside_the_clone(clone: Path, tmp_path: Path) -> None:
    assert "data= " in make(clone, "run")
    (tmp_path / "shared" / "data" / "omniglot").mkdir(parents=True)
    beside = re.search(r"^bench .*data=(.*) constraint", make(clone, "run"), re.MULTILINE)
    assert beside
    assert Path(beside[1]).resolve() == tmp_path / "shared" / "data"
    assert "data=/mine " in make(clone, "run", BENCH_DATA="/mine")


def test_make_without_a_suitable_python(clone: Path, tmp_path: Path) -> None:
    said = make(clone, "run", "PYTHON=/no/such/python", code=2)
    assert "error: /no/such/python is not Python 3.11, 3.12 or 3.13; install one" in said
    old = tmp_path / "old python"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    assert f"error: {old} is not Python 3.11" in make(clone, "run", f"PYTHON={old}", code=2)
    assert not (clone / ".venv" / ".run").exists()
