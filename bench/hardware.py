"""What a profile is measured on: caches, memory, and the state of the device before and after."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench import environment

GPU_STATE = (
    "driver_version",
    "clocks.sm",
    "clocks.mem",
    "temperature.gpu",
    "power.draw",
    "clocks_event_reasons.active",
)
"""What nvidia-smi is asked for: MHz, degrees Celsius, watts, and a bit mask of reasons to throttle."""


def device_name(device: str) -> str:
    """The processor's or the accelerator's model name."""
    name = environment.device_name(device)
    return name if device == "cuda" else f"{name}, {os.cpu_count()} cores"


def slug(name: str) -> str:
    """A device's name as a folder's."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "device"


def last_level_cache(device: str) -> int:
    """Bytes of the largest cache: L2 of an accelerator, usually L3 of a processor; 32 MiB where nothing tells."""
    if device == "cuda":
        import torch

        return torch.cuda.get_device_properties(0).L2_cache_size
    sizes = [_kibibytes(p) for p in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")]
    if not sizes and sys.platform == "darwin":
        sizes = [int(_output("sysctl", "-n", "hw.l2cachesize") or 0)]
    return max(sizes, default=0) or 32 * 2**20


def free_memory(device: str) -> int:
    """Bytes that can still be allocated: of the accelerator, or of the machine, or what a container's limit leaves."""
    if device == "cuda":
        import torch

        return torch.cuda.mem_get_info()[0]
    page = os.sysconf("SC_PAGE_SIZE")
    free = os.sysconf("SC_PHYS_PAGES") * page
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemAvailable:"):
            free = int(line.split()[1]) * 1024
    limit, used = (_lines(f"/sys/fs/cgroup/memory.{name}") for name in ("max", "current"))
    if limit and used and limit[0].isdecimal():
        free = min(free, int(limit[0]) - int(used[0]))
    return free


def state(device: str) -> dict[str, Any]:
    """Clocks, temperature, power, throttling and load now, as far as the device tells; nothing is set."""
    if device == "cuda":
        told = _output("nvidia-smi", f"--query-gpu={','.join(GPU_STATE)}", "--format=csv,noheader,nounits")
        values = told.splitlines()[0].split(", ") if told else []
        return dict(zip(GPU_STATE, values, strict=False))
    clocks = [float(line.partition(":")[2]) for line in _lines("/proc/cpuinfo") if line.startswith("cpu MHz")]
    heat = [int(lines[0]) / 1000 for p in sorted(Path("/sys/class/thermal").glob("thermal_zone*/temp"))
            if (lines := _lines(str(p))) and lines[0].lstrip("-").isdecimal()]  # fmt: skip
    found: dict[str, Any] = {"load": round(os.getloadavg()[0], 2)}
    if clocks:
        found["mhz"] = round(max(clocks))
    if heat:
        found["celsius"] = max(heat)
    return found


def theoretical_bandwidth(device: str) -> float | None:
    """Bytes a second that the memory's clock and width would allow, where the device tells them."""
    if device != "cuda":
        return None
    import torch

    told = torch.cuda.get_device_properties(0)
    clock, width = getattr(told, "memory_clock_rate", 0), getattr(told, "memory_bus_width", 0)
    return 2e3 * clock * width / 8 or None  # kHz, bits; two transfers a cycle


def _kibibytes(path: Path) -> int:
    """A size as the kernel writes it: 32768K, 32M."""
    text = "".join(_lines(str(path)))
    units = {"K": 2**10, "M": 2**20, "G": 2**30}
    return int(text[:-1]) * units[text[-1]] if re.fullmatch(r"\d+[KMG]", text) else 0


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def _output(*command: str) -> str:
    if shutil.which(command[0]) is None:
        return ""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
