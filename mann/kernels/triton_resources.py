"""What a kernel takes of a device that is not here: registers, spills, shared memory, as its assembler says."""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

from triton import knobs

from mann.kernels.triton_launch import Compiled

SHARED_LIMIT = {80: 163 * 1024, 90: 227 * 1024}
"""Bytes of shared memory that one block may have (CUDA C++ programming guide, compute capabilities)."""


class Resources(NamedTuple):
    """Of one kernel. registers: a thread; the others are bytes: stack and spills a thread, shared memory a block."""

    kernel: str
    warps: int
    registers: int
    stack: int
    spill_stores: int
    spill_loads: int
    shared: int


def resources(compiled: Compiled, capability: int) -> Resources:
    """Assemble a kernel's PTX once more, verbosely, with an assembler that Triton ships and that reads its version."""
    said = _assemble(compiled.kernel.asm["ptx"], capability)

    def number(pattern: str) -> int:
        match = re.search(pattern, said)
        if match is None:
            raise ValueError(f"ptxas said nothing of {pattern!r}:\n{said}")
        return int(match[1])

    return Resources(
        compiled.name,
        compiled.warps,
        number(r"Used (\d+) registers"),
        number(r"(\d+) bytes stack frame"),
        number(r"(\d+) bytes spill stores"),
        number(r"(\d+) bytes spill loads"),
        compiled.shared,
    )


def _assemble(ptx: str, capability: int) -> str:
    suffix = "a" if capability >= 90 else ""
    said = "no ptxas found"
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "kernel.ptx"
        source.write_text(ptx)
        for tool in (knobs.nvidia.ptxas, knobs.nvidia.ptxas_blackwell):
            command = [tool.path, "-v", f"-arch=sm_{capability}{suffix}", str(source), "-o", f"{folder}/kernel.cubin"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode == 0:
                return done.stderr + done.stdout
            said = done.stderr
    raise ValueError(f"no assembler takes this kernel:\n{said}")
