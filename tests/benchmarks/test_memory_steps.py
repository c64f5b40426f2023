"""A training step (forward, backward, optimiser) of every memory of the registry, on one thread, beside the peers'.

Sizes are those of omniglot-online with 5 classes; the glyphs need no data. A memory gets 128 slots of 40 numbers and 4
heads in whatever these are called in its fields. Where a memory has a fused scan, it is here four times: as its
reference, with each step compiled by PyTorch, fused, and as the arithmetic floor of its step.

The peers run in a Python of their own, `$BENCH_PEER_PYTHON`, which needs `pip install torch==2.13.0 numpy` and then
`pip install --no-deps dnc==1.1.0 pyflann-ibeis`: a step is asked for and answered through a pipe, so that the same
clock times all. pytorch-ntm is in no registry, so it is not here.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from peers import peer
from steps import TASK, compiled, no_scan, sized, training_step

from bench import registry
from bench.api import Backend, BenchError, TrainedMethod
from bench.floors import floor, flops, least_traffic, products

GROUP = "training step: batch 16, 50 steps of 400 pixels and 5 labels, LSTM 200, 128 slots of 40, 4 heads"
PEER_SIZES = {"input": 405, "classes": 5, "hidden": 200, "batch": 16, "steps": 50, "slots": 128, "width": 40,
              "reads": 4, "k": 4}  # fmt: skip
FAILED: list[str] = []
NAMES = ["lstm", *(name for name, cls in registry.METHODS.entries.items() if cls.__module__.startswith("mann."))]


def measure(benchmark: Any, method: TrainedMethod, name: str, backend: Backend = "reference", **more: Any) -> None:
    try:
        step, parameters = training_step(method, backend=backend)
    except BenchError as error:
        pytest.skip(str(error))
    benchmark.extra_info.update(name=name, parameters=parameters, reference=name == "lstm", **more)
    benchmark(step)


@pytest.mark.benchmark(group=GROUP)
@pytest.mark.parametrize("name", NAMES)
def test_memory(benchmark: Any, name: str) -> None:
    measure(benchmark, sized(name), name)


@pytest.mark.benchmark(group=GROUP)
@pytest.mark.parametrize("name", NAMES)
def test_fused(benchmark: Any, name: str) -> None:
    """The same by the kernels of `mann.kernels`, where the memory has some for this machine."""
    against = [name, f"{name}, compiled", f"{name} of the package dnc"]
    measure(benchmark, sized(name), f"{name}, fused", "fused", against=against)


@pytest.mark.benchmark(group=GROUP)
@pytest.mark.filterwarnings("ignore")  # a compiler talks of its own code
@pytest.mark.parametrize("name", NAMES)
def test_compiled(benchmark: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same with each step compiled by PyTorch, for the memories that have kernels."""
    if reason := no_scan(name):
        pytest.skip(reason)
    monkeypatch.setattr("mann.learner.reference", compiled)
    step, parameters = training_step(sized(name))
    try:
        step()
    except Exception as error:  # a compiler may raise anything, or there is none
        FAILED.append(f"No row: {name} cannot be compiled here ({type(error).__name__}).")
        pytest.skip(FAILED[-1])
    benchmark.extra_info.update(name=f"{name}, compiled", parameters=parameters, notes=FAILED)
    benchmark(step)


@pytest.mark.benchmark(group=GROUP)
@pytest.mark.parametrize("name", NAMES)
def test_floor(benchmark: Any, name: str) -> None:
    """What no step of these sizes can beat, by its products and least traffic: see `bench.floors`."""
    if reason := no_scan(name):
        pytest.skip(reason)
    method = sized(name)
    step, parameters = training_step(method)
    shapes = products(step)
    inputs = method.batch * TASK.steps * (400 + 5) * 4
    benchmark.extra_info.update(name=f"{name}, floor", against=[f"{name}, fused"], parameters=parameters)
    benchmark.extra_info["GFLOP of products"] = flops(shapes) / 1e9
    benchmark(floor(shapes, least_traffic(inputs, 4 * parameters)))


@pytest.mark.benchmark(group=GROUP)
def test_ntm_with_as_many_writes_as_reads(benchmark: Any) -> None:
    """As pytorch-ntm counts heads: each of its 4 reads and another of its 4 writes."""
    measure(benchmark, sized("ntm", writes=4), "ntm (writes=4)")


@pytest.mark.benchmark(group=GROUP)
@pytest.mark.parametrize("network", ["SAM", "SDNC", "DNC"])
def test_package_dnc(benchmark: Any, network: str) -> None:
    """Its sparse memories come first: what keeps them from being trained becomes a note of the last."""
    name = f"{network.lower()} of the package dnc"
    with peer("dnc", network, json.dumps(PEER_SIZES)) as (step, told):
        if "fails" in told:
            FAILED.append(f"No row: {name} cannot be trained ({told['fails'].partition(': [')[0].splitlines()[0]}).")
            pytest.skip(FAILED[-1])
        benchmark.extra_info.update(name=name, reference=True, notes=FAILED, **told)
        benchmark(step)
