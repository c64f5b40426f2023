"""One call that checks the GPU kernels on a device and measures what they gain: `python -m bench.gpu_check`.

Nothing needs to be installed but torch and the packages of `bench`; no network. Each part is a process of its own with
a time limit: one that fails, hangs or takes the device's context down costs its own results only. What is found is
written as soon as a part is done, to `results/profiles/<device>/`. With `--device cpu` the same is rehearsed at small
sizes, kernels in Triton's interpreter; its times mean nothing and are not kept.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

TOTAL = 530.0
"""Seconds for all parts together."""
PATIENCE = {"cuda": 1.0, "cpu": 10.0}
"""Limits are so many times as long: a rehearsal is not about time, and runs beside other tests."""
OUT = Path("results") / "profiles"


@dataclass(frozen=True)
class Part:
    """A part of the check: a function of `bench.gpu_parts`, and its time limit in seconds."""

    name: str
    limit: float
    says: str


PARTS = (
    Part("kernels", 200, "every kernel against its reference, values and gradients"),
    Part("training", 150, "one training step: eager, compiled, graph, fused"),
    Part("scans", 90, "scans beside what was predicted for an H100"),
    Part("losses", 120, "training steps on CPU and device, losses compared"),
    Part("profiles", 240, "quick profiles, roofline and scaling"),
)


def main(
    device: Annotated[str, typer.Option(help="cuda, or cpu for a rehearsal.")] = "cuda",
    out: Annotated[Path, typer.Option(help="Folder of profiles.")] = OUT,
    part: Annotated[list[str] | None, typer.Option(help="Only this part; may be given again.")] = None,
    inside: Annotated[bool, typer.Option(hidden=True)] = False,
) -> None:
    """Check and measure the GPU kernels; exit code 1 where a part failed."""
    known = [p.name for p in PARTS]
    if device not in ("cuda", "cpu") or not set(part or known) <= set(known):
        _refuse(f"--device is cuda or cpu, --part one of {', '.join(known)}")
    if device == "cpu":
        os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported, here and in every part
    elif not _cuda():
        _refuse("there is no CUDA device here; rehearse with --device cpu")
    if inside:
        from bench import gpu_parts

        try:
            for name in part or known:
                gpu_parts.run(name, device, out)
        except gpu_parts.Wrong as error:
            print(f"  {error}", flush=True)
            raise typer.Exit(1) from None
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = out if device == "cuda" else Path(scratch)
        failed = check([p for p in PARTS if p.name in (part or known)], device, folder)
    raise typer.Exit(1 if failed else 0)


def check(parts: list[Part], device: str, out: Path) -> list[str]:
    """Run parts one after the other. Returns those that failed, and says why."""
    began, patience = time.monotonic(), PATIENCE[device]
    failed: list[str] = []
    for number, part in enumerate(parts, 1):
        print(f"[{number}/{len(parts)}] {part.name}: {part.says}", flush=True)
        left = patience * TOTAL - (time.monotonic() - began)
        wrong = _run(part, device, out, min(patience * part.limit, left)) if left > 1 else "no time is left for it"
        if wrong:
            failed.append(part.name)
            print(f"FAILED {part.name}: {wrong}", flush=True)
    took = time.monotonic() - began
    print(f"{len(parts) - len(failed)} of {len(parts)} parts passed in {took:.0f} s; results in {out}", flush=True)
    if failed:
        print(f"failed: {', '.join(failed)}", flush=True)
    return failed


def _run(part: Part, device: str, out: Path, limit: float) -> str:
    """Run one part in a process group of its own; what went wrong, or ""."""
    command = [sys.executable, "-m", "bench.gpu_check", "--device", device, "--out", str(out), "--part", part.name]
    with subprocess.Popen([*command, "--inside"], start_new_session=True) as process:
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            return f"not done after {limit:.0f} s"
        except BaseException:
            os.killpg(process.pid, 9)
            raise
    return f"exit code {code}" if code else ""


def _cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def _refuse(sentence: str) -> None:
    print(f"error: {sentence}", file=sys.stderr)
    raise typer.Exit(2)


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    app()
