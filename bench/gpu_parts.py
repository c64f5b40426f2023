"""The parts of `bench.gpu_check`, each with its own record: what a device computes, how fast, and beside what.

A part prints what it finds, writes it, and raises where something is not as it must be.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench import environment, files, gpu_predictions, hardware, profiling, registry, timing
from bench.api import Episode, Learner, Task, TrainedMethod
from bench.seeding import generator, torch_seed

EFFORT = timing.Effort(seconds=0.5, least=7)
"""For one time."""
AGREES = 1e-3
"""Largest relative difference of the loss of a first step between two ways to compute it."""
STEPS, EARLY, LATE = 200, 5, 50
"""Training steps compared; losses of the first `EARLY` must agree, of the last `LATE` the mean."""
NEAR = 0.1
"""Largest relative difference of the mean late loss: the order of sums alone lets two trainings part by then."""


class Wrong(Exception):
    """A part found something that must not be."""


class Once:
    """The clock of a rehearsal: one call, whose time means nothing."""

    def hot(self, call: timing.Call, effort: timing.Effort) -> timing.Timing:
        """See `timing.Clock.hot`."""
        began = time.monotonic()
        call()
        return timing.summarise([time.monotonic() - began])

    cold = hot


def clock_of(device: str) -> timing.Clock:
    """A clock for the device, which is the CPU in a rehearsal."""
    return timing.clock_of(device, hardware.last_level_cache(device), 1) if device == "cuda" else Once()


def run(name: str, device: str, out: Path) -> None:
    """Run one part; see `bench.gpu_check.PARTS`."""
    registry.load()
    folder = out / hardware.slug(hardware.device_name(device))
    {"kernels": kernels, "training": training, "scans": scans, "losses": losses, "profiles": profiles}[name](
        device, folder
    )


def write(folder: Path, name: str, device: str, content: dict[str, Any]) -> None:
    """Write a record beside the profiles, with what it was made on."""
    record = {"schema": 1, "env": environment.describe(device, torch.get_num_threads()), **content}
    record["machine"] = hardware.state(device)
    text = json.dumps(record, indent=1, sort_keys=True, allow_nan=False) + "\n"
    files.replace(folder / "gpu-check" / f"{name}.json", text.encode())


# -------------------------------------------------------------------------------------------------------------- kernels


def kernels(device: str, folder: Path) -> None:
    """Every kernel in a process of its own, several at once: most of the time goes to compiling them."""
    from mann.kernels import triton_checks

    sizes = triton_checks.PAPER if device == "cuda" else triton_checks.ODD
    names = [name for name, _ in triton_checks.subjects(sizes, triton_checks.seeded())]
    if device == "cpu":
        names = [name for name in names if name in triton_checks.REHEARSED]
    workers = min(8, os.cpu_count() or 1)
    rows: list[dict[str, Any]] = []
    with ThreadPoolExecutor(workers) as pool:
        for found in pool.map(partial(_checked, device), names):
            rows += found
            for row in found:
                says = "ok    " if row["passed"] else "FAILED"
                print(f"  {says} {row['kernel']} {row['dtype']}: {row['said']}", flush=True)
            write(folder, "kernels", device, {"sizes": sizes._asdict(), "rows": rows})
    failed = [f"{row['kernel']} {row['dtype']}" for row in rows if not row["passed"]]
    if failed:
        raise Wrong(f"{len(failed)} checks failed: {'; '.join(failed)}")


def _checked(device: str, name: str) -> list[dict[str, Any]]:
    limit = 150 if device == "cuda" else 1500
    code = "import sys; from mann.kernels.triton_checks import main; main(*sys.argv[1:])"
    command = [sys.executable, "-W", "ignore", "-c", code, device, name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return [{"kernel": name, "dtype": "any", "passed": False, "said": f"not done after {limit} s"}]
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode:
        said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1][:300]
        rows.append({"kernel": name, "dtype": "next", "passed": False, "said": said})
    return rows


# ------------------------------------------------------------------------------------------------------------- training


def setting(device: str) -> tuple[TrainedMethod, Task]:
    """Santoro's network and sizes, on invented characters: 400 + 5 inputs, 50 steps. Small in a rehearsal."""
    task, method = registry.TASKS.entries["glyphs-online"], registry.METHODS.entries["mann"]
    if device == "cpu":
        small = method(batch=2, slots=8, width=4, heads=2, controller_size=6)
        return small, task(way=2, length=4)
    return method(), task(way=5, length=50)


def batch(task: Task, method: TrainedMethod, step: int) -> Episode:
    """The training episodes of a step."""
    return task.sample("train", method.batch, generator("gpu-check", step))


def learner(task: Task, method: TrainedMethod, device: str, scan: bool) -> Learner:
    """The same fresh learner each time; with a scan, its sequences run by the kernels."""
    torch.manual_seed(torch_seed("gpu-check"))
    made: Any = method.build(task).to(device)
    made.use("reference")
    if scan and device == "cuda":
        made.use("fused")
    elif scan:  # on a CPU the registry has other scans
        from mann.kernels import triton_learner

        made.run = partial(_interpreted, triton_learner.scan, made)
    return made


def _interpreted(scan: Any, made: Any, x: Tensor, label: Tensor, state: Any) -> tuple[Tensor, Any]:
    """`MemoryLearner.run` by a scan in Triton's interpreter."""
    hidden, reads, state = scan(made, made.controller.project(torch.cat((made.encoder(x), label), -1)), state)
    return made.output(torch.cat((hidden, reads), -1)), state


def stepper(made: Learner, task: Task, episode: Episode, lr: float, device: str) -> Callable[[], Tensor]:
    """A training step: loss, gradients, Adam. Gives the loss, on the device."""
    optimiser = torch.optim.Adam(made.parameters(), lr, capturable=device == "cuda")

    def step() -> Tensor:
        optimiser.zero_grad()
        loss = made.loss(episode, task)
        loss.backward()
        optimiser.step()
        return loss.detach()

    return step


def training(device: str, folder: Path) -> None:
    """Time a training step in each way, and its ratio to the eager one."""
    method, task = setting(device)
    episode = batch(task, method, 0).to(device)
    clock = clock_of(device)
    ways = ["eager", "fused"] if device == "cpu" else ["eager", "graph", "fused", "fused, graph", "compiled"]
    first = math.nan
    rows: list[dict[str, Any]] = []
    for way in ways:
        try:
            loss, took, compile_s = _timed(way, method, task, episode, device, clock)
        except Exception as error:  # one way that does not run leaves the others their rows
            rows.append({"way": way, "error": f"{type(error).__name__}: {str(error)[:300]}"})
            print(f"  {way}: {rows[-1]['error']}", flush=True)
            continue
        first = loss if way == "eager" else first
        ratio = rows[0]["seconds"]["median"] / took.median if rows and "seconds" in rows[0] else 1.0
        agrees = abs(loss - first) <= AGREES * abs(first)
        rows.append({"way": way, "loss": loss, "agrees": agrees, "ratio": ratio, "seconds": took._asdict(),
                     "compile_s": compile_s})  # fmt: skip
        print(f"  {way}: {1e3 * took.median:.3g} ms, {ratio:.3g} times as fast as eager, loss {loss:.6f}", flush=True)
        write(folder, "training", device, {"method": method.name, "task": task.name, "rows": rows})
    write(folder, "training", device, {"method": method.name, "task": task.name, "rows": rows})
    wrong = [row["way"] for row in rows if not row.get("agrees")]
    if wrong:
        raise Wrong(f"these ways do not run, or do not agree with the eager loss {first:.6f}: {', '.join(wrong)}")


def _timed(
    way: str, method: TrainedMethod, task: Task, episode: Episode, device: str, clock: timing.Clock
) -> tuple[float, timing.Timing, float]:
    """The first loss, the time of a step, and the seconds of the first one, in which kernels are compiled."""
    made: Any = learner(task, method, device, "fused" in way)
    if way == "compiled":  # cells, not the sequence: unrolled, fifty steps are compiled for many minutes
        made.memory.compile()
        made.controller.compile()
    step = stepper(made, task, episode, method.lr, device)
    began = time.monotonic()
    loss = step().item()
    compile_s = time.monotonic() - began
    call: timing.Call = timing.replayed(step) if "graph" in way else step
    return loss, clock.hot(call, EFFORT), compile_s


# --------------------------------------------------------------------------------------------------------------- losses


def losses(device: str, folder: Path) -> None:
    """The same training on the CPU and on the device, by reference and by scan: losses side by side."""
    method, task = setting(device)
    count = STEPS if device == "cuda" else 3
    episodes = [batch(task, method, step) for step in range(count)]
    torch.set_num_threads(min(8, os.cpu_count() or 1))
    curves: dict[str, list[float]] = {}
    for name, where, scan in (
        ("cpu", "cpu", False),
        (f"{device}, eager", device, False),
        (f"{device}, scan", device, True),
    ):
        made = learner(task, method, where, scan)
        optimiser = method.optimiser(made)
        curve = []
        for episode in episodes:
            optimiser.zero_grad()
            loss = made.loss(episode.to(where), task)
            loss.backward()
            optimiser.step()
            curve.append(loss.item())
        curves[name] = curve
        print(
            f"  {name}: first loss {curve[0]:.6f}, mean of the last {len(curve[-LATE:])}: {_late(curve):.4f}",
            flush=True,
        )
        write(folder, "losses", device, {"method": method.name, "task": task.name, "losses": curves})
    from bench import gpu_plots

    gpu_plots.losses(curves, folder / "gpu-check" / "losses.png")
    base = curves["cpu"]
    for name, curve in curves.items():
        early = max(abs(a - b) / abs(a) for a, b in zip(base[:EARLY], curve[:EARLY], strict=True))
        late = abs(_late(curve) / _late(base) - 1)
        if not (early <= AGREES and late <= NEAR):
            raise Wrong(f"{name} parts from the CPU: {early:.1e} in the first {EARLY} losses, {late:.1%} in the last")


def _late(curve: list[float]) -> float:
    return sum(curve[-LATE:]) / len(curve[-LATE:])


# ---------------------------------------------------------------------------------------------------------------- scans


def scans(device: str, folder: Path) -> None:
    """Scans at the paper's sizes beside `bench.gpu_predictions`, launched and replayed from a graph."""
    from mann.kernels import triton_checks

    sizes = triton_checks.PAPER if device == "cuda" else triton_checks.ODD._replace(slots=8, width=4, units=4, steps=2)
    clock = clock_of(device)
    rows = []
    table = gpu_predictions.table(sizes.batch, sizes.steps)
    for predicted in table if device == "cuda" else (table[0], table[-1]):
        subject = triton_checks.scan_subject(
            sizes, triton_checks.seeded(), predicted.memory(sizes), predicted.controlled
        )
        call = triton_checks.runner(subject, device, predicted.backward)
        call()
        row: dict[str, Any] = {"scan": predicted.name, "predicted": predicted.expected, "floor": predicted.floor}
        row["launched"] = clock.hot(call, EFFORT)._asdict()
        if device == "cuda":
            row["replayed"] = clock.hot(timing.replayed(call), EFFORT)._asdict()
        rows.append(row)
        measured = (row.get("replayed") or row["launched"])["median"]
        print(f"  {predicted.name}: {1e6 * measured:.0f} µs, predicted {1e6 * predicted.expected:.0f} µs on an H100",
              flush=True)  # fmt: skip
        write(folder, "scans", device, {"sizes": sizes._asdict(), "rows": rows})
    if device == "cuda":
        from bench import gpu_plots

        gpu_plots.scans(rows, folder / "gpu-check" / "scans.png")


def profiles(device: str, folder: Path) -> None:
    """`bench profile --quick` of the ops that have kernels, and its pictures: roofline and scaling."""
    ops = ("content", "erase-add", "lrua-step", "lrua-scan", "ntm-scan")
    request = profiling.Request(ops=ops, device=device, backward=True, quick=True, out=folder.parent)
    if device == "cpu":
        request = replace(request, ops=ops[:2], backward=False, sizes={"slots": [64]})
    profiling.run(request)
