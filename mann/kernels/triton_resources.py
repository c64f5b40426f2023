"""What a kernel takes of a device that is not here: registers, spills, shared memory, as its assembler says."""

from __future__ import annotations

import re
import subprocess
import tempfile
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor
from triton import knobs

from mann.kernels.triton_launch import Compiled, compiling
from mann.lrua import LRUA
from mann.ntm import NTM

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
    form: str = ""
    """Of a scan: alone, or with LSTM."""


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


def paper(capability: int, dtype: torch.dtype = torch.float32) -> list[Resources]:
    """Every kernel as it would run at Santoro's sizes: 50 steps, 128 × 40, four heads, an LSTM of 200 units."""
    from mann.kernels.triton_content import content_read
    from mann.kernels.triton_lrua import lrua_controlled, lrua_scan
    from mann.kernels.triton_ntm import ntm_controlled, ntm_scan
    from mann.kernels.triton_scan import Controller
    from mann.kernels.triton_write import erase_and_add

    batch, steps, slots, width, heads, units = 16, 50, 128, 40, 4, 200

    def draw(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=dtype, device="meta", requires_grad=True)

    memory: Any
    cases: list[tuple[str, Any]] = [
        ("", lambda: content_read(draw(batch, heads, width), draw(batch, slots, width))[0]),
        ("", lambda: erase_and_add(draw(batch, slots, width), draw(batch, 1, slots), *(draw(batch, 1, width),) * 2)),
    ]
    for memory, scan, controlled in (
        (
            LRUA(slots=slots, width=width, heads=heads, write_value="separate", gate="controller"),
            lrua_scan,
            lrua_controlled,
        ),
        (NTM(slots=slots, width=width), ntm_scan, ntm_controlled),
    ):
        state = memory.initial_state(batch, torch.empty(0, device="meta"))
        size, read = memory.interface_size, memory.read_size
        given = Controller(
            draw(batch, steps, 4 * units), draw(read + units, 4 * units), draw(size, units), draw(size),
            draw(batch, read), draw(batch, units), draw(batch, units),
        )  # fmt: skip
        cases.append(("alone", partial(scan, memory, draw(batch, steps, size), state)))
        cases.append(("with LSTM", partial(controlled, memory, given, state)))
    rows = []
    for form, case in cases:
        with compiling(capability) as found:
            out = case()
            first = out if isinstance(out, Tensor) else out[0]
            (first if isinstance(first, Tensor) else first.reads).sum().backward()
        rows += [resources(each, capability)._replace(form=form) for each in found]
    return rows


def markdown() -> str:
    """The table of `mann/kernels/README.md`: `python -m mann.kernels.triton_resources`."""
    lines = [
        f"Compiled by Triton {triton.__version__} at float32:\n",
        "| kernel | form | threads | device | registers | spilled, bytes | shared, bytes |",
        "|---|---|---|---|---|---|---|",
    ]
    for capability in SHARED_LIMIT:
        for r in paper(capability):
            numbers = (r.registers, r.spill_stores + r.spill_loads, r.shared)
            start = f"| `{r.kernel}` | {r.form} | {32 * r.warps} | sm_{capability} | "
            lines.append(start + " | ".join(map(str, numbers)) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(markdown(), end="")
