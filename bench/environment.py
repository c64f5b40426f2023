"""Where a result was made: code, packages, machine. Goes into every record and into `bench doctor`."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import resource
import subprocess
import sys
from collections.abc import Collection
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import bench

ROOT = Path(bench.__file__).parent.parent
PACKAGES = ("bench", "baselines", "mann")
MEMORY = ("THP_MEM_ALLOC_ENABLE", "MALLOC_TRIM_THRESHOLD_")
"""Variables that say how large the pages of tensors are, and what is kept of those that are freed."""


@lru_cache(maxsize=1)
def source() -> dict[str, Any]:
    """The code as this process started with it: commit, whether code files differ from it, digest of all sources."""
    names = sorted(p for package in PACKAGES for p in (ROOT / package).rglob("*.py"))
    content = hashlib.sha256()
    for path in names:
        content.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    commit, dirty = None, None
    if _git("ls-files", "bench/api.py"):
        commit = _git("rev-parse", "HEAD")
        dirty = uncommitted(*(f"{package}/**.py" for package in PACKAGES))
    return {"version": bench.__version__, "commit": commit, "dirty": dirty, "source_sha256": content.hexdigest()}


def uncommitted(*paths: str) -> bool:
    """Whether files of the repository, named as git does, differ from what is committed."""
    return bool(_git("status", "--porcelain", "--", *paths))


def describe(device: str, threads: int, packages: Collection[str] = ()) -> dict[str, Any]:
    """The environment of a record; packages: distributions that its method needs besides."""
    import torch

    from bench import registry

    plugins = registry.plugin_digests()
    return (
        source()
        | ({"plugins": plugins} if plugins else {})
        | ({"packages": {name: version(name) for name in packages}} if packages else {})
        | {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": version("numpy"),
            "cuda": torch.version.cuda if device == "cuda" else None,
            "platform": f"{platform.system()} {platform.machine()}",
            "device": device_name(device),
            "cores": os.cpu_count(),
            "threads": threads,
            "memory": " ".join(f"{name}={os.environ[name]}" for name in MEMORY if name in os.environ) or None,
            "precision": "float32",
        }
    )


def device_name(device: str) -> str:
    """The model name of the GPU, or of the processor."""
    if device != "cuda":
        return cpu_name()
    import torch

    return torch.cuda.get_device_name()


def cpu_name() -> str:
    """The processor's model name."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def package(name: str) -> str | None:
    """Installed version of a distribution, or None."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def reset_peak_memory(device: str) -> None:
    """Start counting peak memory anew, where the system allows."""
    if device == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats()
    elif sys.platform == "linux":
        # A container may forbid it: the peak is then the process's, an upper bound.
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")


def peak_memory(device: str) -> int:
    """Peak bytes since the reset: allocated by torch on a GPU, resident set of the process on a CPU."""
    if device == "cuda":
        import torch

        return torch.cuda.max_memory_allocated()
    if sys.platform == "linux":
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
