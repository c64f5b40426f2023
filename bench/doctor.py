"""What this machine has and lacks, as plain text for a bug report."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench import environment, extras
from bench.errors import BenchError

PACKAGES = (
    "torch", "numpy", "scipy", "pandas", "matplotlib", "seaborn", "typer", "rich", "pillow", "pooch", "tabulate",
    "jinja2",
)  # fmt: skip


def examine(results: Path) -> dict[str, Any]:
    """Everything `bench doctor` reports, as plain values."""
    return {
        "mannbench": _code(),
        "python": _python(),
        "packages": {name: environment.package(name) for name in PACKAGES},
        "torch": _torch(),
        "data": _data(),
        "folders": _folders(results),
        "plug-ins": _plugins(),
        "optional": {n: environment.package(n) or f"missing; {e.purpose}: {e.how}" for n, e in extras.EXTRAS.items()},
    }


def text(report: Mapping[str, Any]) -> str:
    """The report as lines to paste; what is missing says how to get it."""
    lines: list[str] = []
    for title, content in report.items():
        lines += ["", title]
        for key, value in content.items():
            first, *rest = str("missing" if value is None else value).splitlines() or [""]
            lines += [f"  {key}: {first}", *(f"    {line}" for line in rest)]
    return "\n".join(lines[1:])


def _code() -> dict[str, Any]:
    code = environment.source()
    state = {True: "changed since", False: "unchanged", None: "not a git checkout"}[code["dirty"]]
    return {
        "version": code["version"],
        "commit": f"{code['commit'] or 'none'} ({state})",
        "sources": code["source_sha256"],
        "folder": environment.ROOT,
    }


def _python() -> dict[str, Any]:
    return {
        "version": f"{platform.python_version()} ({sys.executable})",
        "system": platform.platform(),
        "processor": f"{environment.cpu_name()}, {os.cpu_count()} cores",
        "memory": _memory(),
    }


def _memory() -> str:
    try:
        pages, free, size = (os.sysconf(f"SC_{n}") for n in ("PHYS_PAGES", "AVPHYS_PAGES", "PAGE_SIZE"))
    except (ValueError, OSError):
        return "unknown"
    return f"{pages * size / 2**30:.1f} GiB, {free * size / 2**30:.1f} GiB free"


def _torch() -> dict[str, Any]:
    import torch

    config = torch.__config__.show()
    blas = next((p.strip() for p in config.replace("\n", ",").split(",") if "BLAS_INFO" in p), "")
    variables = {k: os.environ[k] for k in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES")
                 if k in os.environ}  # fmt: skip
    return {
        "threads": f"{torch.get_num_threads()} within an operation, {torch.get_num_interop_threads()} between",
        "BLAS": blas.partition("=")[2] or ("MKL" if torch.backends.mkl.is_available() else "unknown"),
        "oneDNN": torch.backends.mkldnn.is_available(),
        "vector instructions": torch.backends.cpu.get_cpu_capability(),
        "variables": ", ".join(f"{k}={v}" for k, v in variables.items()) or "none set",
        "GPU": _gpu(),
    }


def _gpu() -> str:
    import torch

    if not torch.cuda.is_available():
        built = torch.version.cuda
        return f"none found (torch is built {f'for CUDA {built}' if built else 'without CUDA'})"
    found = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return "; ".join(f"{p.name}, {p.total_memory / 2**30:.0f} GiB, sm_{p.major}{p.minor}" for p in found)


def _data() -> dict[str, Any]:
    from bench import data

    looked = {"$BENCH_DATA": os.environ.get("BENCH_DATA") or f"not set; looked in {data.data_root()}"}
    for each in data.listing():
        looked[each.name] = str(each.found) if each.found else f"missing; {each.remedy}"
    return looked


def _folders(results: Path) -> dict[str, Any]:
    from bench import data

    return {name: _folder(path) for name, path in (("results", results), ("cache", data.cache_root()))}


def _folder(path: Path) -> str:
    there = next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
    free = f"{shutil.disk_usage(there).free / 2**30:.1f} GiB free"
    if not os.access(there, os.W_OK) or not there.is_dir():
        return f"{path.absolute()}: cannot be written; {free}"
    return f"{path.absolute()}{'' if there == path.absolute() else ' (not made yet)'}, {free}"


def _plugins() -> dict[str, Any]:
    from bench import registry

    registry.load()
    try:
        origins = {o for reg in (registry.METHODS, registry.TASKS) for o in reg.origins.values()} - {"built in"}
    except BenchError as error:
        return {"registry": str(error)}
    loaded = dict.fromkeys(sorted(origins), "loaded")
    return loaded | {o: f"failed: {why}" for o, why in registry.failures.items()} or {"none": "installed"}
