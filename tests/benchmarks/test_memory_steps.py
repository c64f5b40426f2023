"""A training step (forward, backward, optimiser) of every memory of the registry, on one thread, beside the peers'.

Sizes are those of omniglot-online with 5 classes; the glyphs need no data. A memory gets 128 slots of 40 numbers and 4
heads in whatever these are called in its fields. The peers run in a Python of their own, `$BENCH_PEER_PYTHON`, which
needs `pip install torch==2.13.0 numpy` and then `pip install --no-deps dnc==1.1.0 pyflann-ibeis`: a step is asked for
and answered through a pipe, so that the same clock times all. pytorch-ntm is in no registry, so it is not here.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from bench import registry
from bench.api import Backend, BenchError, Task, TrainedMethod, generator
from bench.tasks.glyphs import GlyphsOnline

PEER = "BENCH_PEER_PYTHON"
GROUP = "training step: batch 16, 50 steps of 400 pixels and 5 labels, LSTM 200, 128 slots of 40, 4 heads"
SIZES: dict[str, Any] = {"slots": 128, "width": 40, "heads": 4, "reads": 4}
TASK = GlyphsOnline(size=20)
PEER_SIZES = {"input": 405, "classes": 5, "hidden": 200, "batch": 16, "steps": 50, "slots": 128, "width": 40,
              "reads": 4, "k": 4}  # fmt: skip
FAILED: list[str] = []
registry.load()
NAMES = ["lstm", *(name for name, cls in registry.METHODS.entries.items() if cls.__module__.startswith("mann."))]


def sized(name: str, **more: Any) -> TrainedMethod:
    cls = registry.METHODS.entries[name]
    fields = {f.name for f in dataclasses.fields(cls)}
    made = cls(**{key: value for key, value in SIZES.items() if key in fields} | more)
    made.check()
    return made


def training_step(
    method: TrainedMethod, task: Task = TASK, backend: Backend = "reference"
) -> tuple[Callable[[], None], int]:
    """The step, and the number of trained parameters.

    Raises:
        BenchError: the backend is "fused", and there is no fused path here.
    """
    torch.manual_seed(0)
    learner = method.build(task).train()
    learner.use(backend)
    optimiser = method.optimiser(learner)
    episode = task.sample("train", method.batch, generator("benchmark"))

    def step() -> None:
        loss = learner.loss(episode, task)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    return step, sum(p.numel() for p in learner.parameters())


def measure(benchmark: Any, method: TrainedMethod, name: str, backend: Backend = "reference") -> None:
    try:
        step, parameters = training_step(method, backend=backend)
    except BenchError as error:
        pytest.skip(str(error))
    benchmark.extra_info.update(name=name, parameters=parameters, reference=name == "lstm")
    benchmark(step)


@pytest.mark.benchmark(group=GROUP)
@pytest.mark.parametrize("name", NAMES)
def test_memory(benchmark: Any, name: str) -> None:
    measure(benchmark, sized(name), name)


@pytest.mark.benchmark(group=GROUP)
@pytest.mark.parametrize("name", NAMES)
def test_fused(benchmark: Any, name: str) -> None:
    """The same by the kernels of `mann.kernels`, where the memory has some for this machine."""
    measure(benchmark, sized(name), f"{name}, fused", "fused")


@pytest.mark.benchmark(group=GROUP)
def test_ntm_with_as_many_writes_as_reads(benchmark: Any) -> None:
    """As pytorch-ntm counts heads: each of its 4 reads and another of its 4 writes."""
    measure(benchmark, sized("ntm", writes=4), "ntm (writes=4)")


@pytest.fixture
def peer(request: pytest.FixtureRequest) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """A peer that waits for lines, and what it told of itself."""
    python = os.environ.get(PEER)
    if not python:
        pytest.skip(f"${PEER} names no Python that has the package dnc")
    command = [python, __file__.replace("test_memory_steps", "peer_steps"), request.param, json.dumps(PEER_SIZES)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process, json.loads(process.stdout.readline())
        assert process.stdin is not None
        process.stdin.close()


@pytest.mark.benchmark(group=GROUP)
@pytest.mark.parametrize("peer", ["SAM", "SDNC", "DNC"], indirect=True)
def test_package_dnc(benchmark: Any, peer: tuple[subprocess.Popen[str], dict[str, Any]]) -> None:
    """Its sparse memories come first: what keeps them from being trained becomes a note of the last."""
    process, told = peer
    name = f"{str(process.args[2]).lower()} of the package dnc"  # type: ignore[index]
    if "fails" in told:
        FAILED.append(f"No row: {name} cannot be trained ({told['fails'].partition(': [')[0].splitlines()[0]}).")
        pytest.skip(FAILED[-1])
    assert process.stdin is not None
    assert process.stdout is not None

    def step() -> None:
        print(file=process.stdin, flush=True)
        assert process.stdout.readline() == "done\n"

    benchmark.extra_info.update(name=name, reference=True, notes=FAILED, **told)
    benchmark(step)
