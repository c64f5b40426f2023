"""Training steps of the baselines, beside the plain way to write them and learn2learn's.

learn2learn is here twice: with our networks and memory, as methods of this project run it (`make learn2learn`), and as
its users write it, in a Python of its own that `$BENCH_LEARN2LEARN_PYTHON` names.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from peers import peer
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from baselines.l2l import LibraryMAML, LibraryProtoNet
from baselines.maml import MAML
from baselines.protonet import ProtoNet
from bench.api import BenchError, Task, TrainedMethod, generator
from bench.tasks.glyphs import Glyphs
from bench.tasks.sinusoid import Sinusoid

PROTONET = "protonet step, 1-shot 5-query, 28 × 28"
PRODUCT = "protonet step, 60-way 1-shot 5-query, beside one matrix product of as many operations as its convolutions"
SINUSOID = "maml step, sinusoid, 25 tasks, 10 shots"
CONV4 = "maml step, 5-way 1-shot 1-query, 32 tasks"
SEEDS = 10
STACK = f"maml step of {SEEDS} seeds, sinusoid, 25 tasks, 10 shots"


@pytest.fixture(autouse=True, params=[1, 2])
def threads(request: Any, benchmark: Any) -> Iterator[None]:
    """Each group with one thread and with two; its rows are called by their other parameters."""
    count, before = request.param, torch.get_num_threads()
    if count > (os.cpu_count() or 1):
        pytest.skip("more threads than cores")
    benchmark.group += f", {count} thread" + "s" * (count > 1)
    rest = [part for part in request.node.callspec.id.split("-") if part != str(count)]
    benchmark.extra_info["name"] = " ".join(rest) or request.node.originalname.removeprefix("test_").replace("_", " ")
    torch.set_num_threads(count)
    yield
    torch.set_num_threads(before)


def training_step(method: TrainedMethod, task: Task, plain: bool = False) -> Any:
    torch.manual_seed(0)
    learner = method.build(task).train()
    if plain:
        conv4 = learner.net[-1]
        conv4.forward = conv4.reference
    optimiser = method.optimiser(learner)
    episode = method.draw(task, generator("benchmark"))

    def step() -> None:
        loss = learner.loss(episode, task)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    return step


def by_learn2learn(benchmark: Any, method: TrainedMethod, task: Task) -> None:
    """A row of the peer, which others are divided by; skipped where it is not installed."""
    try:
        step = training_step(method, task)
    except BenchError as error:
        pytest.skip(str(error))
    benchmark.extra_info |= {"reference": True, "name": "learn2learn " + benchmark.extra_info["name"]}
    benchmark(step)


def as_users_write_it(benchmark: Any, work: str) -> None:
    """A row of the peer in a process of its own, with the memory that the system gives."""
    with peer("learn2learn", work, str(torch.get_num_threads())) as (step, told):
        name = f"learn2learn {benchmark.extra_info['name']}, as its users write it"
        benchmark.extra_info.update(told, reference=True, name=name)
        benchmark(step)


@pytest.mark.benchmark(group=PROTONET)
@pytest.mark.parametrize("plain", [False, True], ids=["ours", "plain"])
@pytest.mark.parametrize("way", [20, 60])
def test_protonet(benchmark: Any, way: int, plain: bool) -> None:
    benchmark.extra_info["reference"] = plain
    benchmark(training_step(ProtoNet(), Glyphs(way=way, query=5), plain))


@pytest.mark.benchmark(group=PROTONET)
@pytest.mark.parametrize("way", [20, 60])
def test_protonet_of_learn2learn(benchmark: Any, way: int) -> None:
    """Its classifier, in the same space."""
    by_learn2learn(benchmark, LibraryProtoNet(), Glyphs(way=way, query=5))


@pytest.mark.benchmark(group=PROTONET)
@pytest.mark.parametrize("way", [60])
def test_protonet_of_users_of_learn2learn(benchmark: Any, way: int) -> None:
    as_users_write_it(benchmark, "protonet")


@pytest.mark.benchmark(group=PRODUCT)
@pytest.mark.parametrize("product", [False, True], ids=["step", "product"])
def test_protonet_beside_a_product(benchmark: Any, product: bool) -> None:
    """The whole step, with what is no convolution in it, and the machine's best: one product of large matrices."""
    method, task = ProtoNet(), Glyphs(way=60, query=5)
    step = training_step(method, task)
    if product:
        with FlopCounterMode(display=False) as counter:
            training_step(method, task, plain=True)()
        operations = counter.get_flop_counts()["Global"]
        side = 1024
        rows = sum(count for op, count in operations.items() if "conv" in str(op)) // (2 * side * side)
        a, b = torch.randn(rows, side), torch.randn(side, side)
        step = lambda: a @ b  # noqa: E731
    benchmark.extra_info["reference"] = product
    benchmark(step)


@pytest.mark.benchmark(group=SINUSOID)
@pytest.mark.parametrize("order", ["second", "first"])
def test_maml_sinusoid_of_learn2learn(benchmark: Any, order: Any) -> None:
    by_learn2learn(benchmark, LibraryMAML(batch=25, order=order), Sinusoid().training())


@pytest.mark.benchmark(group=CONV4)
@pytest.mark.parametrize("batch_norm", ["support", "transductive"])
def test_maml_conv4_of_learn2learn(benchmark: Any, batch_norm: Any) -> None:
    by_learn2learn(benchmark, LibraryMAML(batch_norm=batch_norm), Glyphs(query=1))


@pytest.mark.benchmark(group=CONV4)
@pytest.mark.parametrize("batch_norm", ["transductive"])
def test_maml_conv4_of_users_of_learn2learn(benchmark: Any, batch_norm: Any) -> None:
    """Its own network and example, which normalise queries by the queries."""
    as_users_write_it(benchmark, "maml")


@pytest.mark.benchmark(group=SINUSOID)
@pytest.mark.parametrize("order", ["second", "first"])
def test_maml_sinusoid(benchmark: Any, order: Any) -> None:
    benchmark(training_step(MAML(batch=25, order=order), Sinusoid().training()))


@pytest.mark.benchmark(group=STACK)
@pytest.mark.parametrize("together", [False, True], ids=["one after another", "in one pass"])
def test_maml_sinusoid_of_many_seeds(benchmark: Any, together: bool) -> None:
    method, task = MAML(batch=25), Sinusoid().training()
    learners = [method.build(task).train() for _ in range(SEEDS)]
    optimisers = [method.optimiser(learner) for learner in learners]
    episodes = [method.draw(task, generator("benchmark", seed)) for seed in range(SEEDS)]

    def step() -> None:
        for optimiser in optimisers:
            optimiser.zero_grad()
        if together:
            torch.stack(method.losses(learners, episodes, task) or []).sum().backward()
        else:
            for learner, episode in zip(learners, episodes, strict=True):
                learner.loss(episode, task).backward()
        for optimiser in optimisers:
            optimiser.step()

    benchmark.extra_info["reference"] = not together
    benchmark(step)


@pytest.mark.benchmark(group=CONV4)
@pytest.mark.parametrize("batch_norm", ["support", "transductive"])
def test_maml_conv4(benchmark: Any, batch_norm: Any) -> None:
    benchmark(training_step(MAML(batch_norm=batch_norm), Glyphs(query=1)))


@pytest.mark.benchmark(group=CONV4)
def test_maml_conv4_one_task_at_a_time(benchmark: Any) -> None:
    """The usual way: a loop over tasks, convolutions with one task's weights, normalised batch by batch."""
    torch.manual_seed(0)
    sizes = ((1, 64), (64, 64), (64, 64), (64, 64))
    weights = [p for i, o in sizes for p in (torch.randn(o, i, 3, 3) / 10, torch.ones(o), torch.zeros(o))]
    weights = [p.requires_grad_() for p in [*weights, torch.randn(5, 64) / 10, torch.zeros(5)]]
    support, query = Glyphs(query=1).sample("train", 32, generator("benchmark"))

    def net(weights: Any, x: Any) -> Any:
        for k in range(0, 12, 3):
            kernel, scale, shift = weights[k : k + 3]
            x = F.conv2d(x, kernel, stride=2, padding=1)
            x = F.batch_norm(x, None, None, scale, shift, training=True).relu()
        return F.linear(x.mean((2, 3)), *weights[-2:])

    def step() -> None:
        for task in range(32):
            inner = F.cross_entropy(net(weights, support.x[task]), support.y[task])
            gradients = torch.autograd.grad(inner, weights, create_graph=True)
            adapted = [w - 0.4 * g for w, g in zip(weights, gradients, strict=True)]
            (F.cross_entropy(net(adapted, query.x[task]), query.y[task]) / 32).backward()

    benchmark.extra_info["reference"] = True
    benchmark(step)
