"""Every memory that goes behind a controller is held to one contract; a new one is found through the registry."""

from __future__ import annotations

import dataclasses
import io
from typing import Any

import pytest
import torch
from test_contract import own, small
from torch import Tensor

from bench import registry
from bench.api import BenchError, Memory, Task, generator
from bench.tasks.glyphs import GlyphsOnline
from mann import DNC, LRUA, NTM, SAM, SDNC, Delta, KaiserMemory
from mann.ablations import ABLATIONS
from mann.controllers import CONTROLLERS
from mann.learner import MemoryLearner, MemoryMethod, unroll
from mann.states import fork, map_state

SIZES: dict[str, Any] = {"slots": 8, "width": 4, "heads": 2, "reads": 2, "writes": 1, "k": 3, "controller_size": 6}
TASK: Task = small(GlyphsOnline, way=2)
MADE = {name: cls for name, cls in own(registry.METHODS).items() if issubclass(cls, MemoryMethod)}
ALL = pytest.mark.parametrize("name", MADE)


def fields_of(name: str) -> set[str]:
    return {f.name for f in dataclasses.fields(MADE[name])}


def config(name: str, **more: Any) -> MemoryMethod:
    made = MADE[name](**{key: value for key, value in (SIZES | more).items() if key in fields_of(name)})
    made.check()
    return made


def cell(name: str, dtype: torch.dtype = torch.float64) -> Memory[Any]:
    torch.manual_seed(0)
    return config(name).memory(TASK).to(dtype)


def interfaces(memory: Memory[Any], batch: int, time: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return scale * torch.randn(batch, time, memory.interface_size, generator=random, dtype=torch.float64)


def copied(state: Any) -> Any:
    return map_state(torch.clone, state)


def tensors(state: Any) -> list[Tensor]:
    return [state] if isinstance(state, Tensor) else [t for part in state for t in tensors(part)]


@ALL
@pytest.mark.parametrize("batch", [1, 3])
def test_a_step_has_the_declared_form(name: str, batch: int) -> None:
    memory = cell(name)
    x = interfaces(memory, batch, 1)[:, 0]
    state = memory.initial_state(batch, x)
    assert hasattr(state, "_fields"), "a state is a named tuple"
    read, after = memory(x, state)
    assert read.shape == (batch, memory.read_size)
    assert read.dtype == torch.float64
    assert type(after) is type(state)
    assert all(len(t) == batch for t in tensors(after)), "the batch is the first dimension"


@ALL
def test_without_a_state_a_step_is_the_first(name: str) -> None:
    memory = cell(name)
    x = interfaces(memory, 3, 2)
    with torch.no_grad():
        first, state = memory(x[:, 0])
        second, _ = memory(x[:, 1], state)
        assert torch.equal(torch.stack((first, second), 1), unroll(memory, x)[0])


@ALL
def test_an_interface_of_another_shape_is_refused(name: str) -> None:
    memory = cell(name)
    size = memory.interface_size
    for shape in ((size,), (2, size + 1), (2, 2 * size), (2, 1, size)):
        with pytest.raises(BenchError, match=rf"takes an interface of \[batch, {size}\], not"):
            memory(torch.zeros(shape))


@ALL
def test_gradients_are_those_of_differences(name: str) -> None:
    memory = cell(name)
    x = interfaces(memory, 1, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: unroll(memory, x)[0], (x,), atol=1e-4, rtol=1e-3)


@ALL
def test_rows_never_influence_each_other(name: str) -> None:
    memory = cell(name)
    x = interfaces(memory, 3, 12)
    whole, _ = unroll(memory, x)
    changed = torch.cat((x[:1], interfaces(memory, 2, 12, seed=1)))
    torch.testing.assert_close(unroll(memory, changed)[0][0], whole[0])
    torch.testing.assert_close(unroll(memory, x[:1])[0][0], whole[0])


@ALL
def test_a_state_can_be_kept_and_taken_up_again(name: str) -> None:
    memory = cell(name)
    x = interfaces(memory, 2, 10)
    with torch.no_grad():
        whole, _ = unroll(memory, x)
        _, state = unroll(memory, x[:, :4])
        file = io.BytesIO()
        torch.save(state, file)
        file.seek(0)
        again = torch.load(file, weights_only=True)
        assert type(again) is type(state)
        torch.testing.assert_close(unroll(memory, x[:, 4:], again)[0], whole[:, 4:])


@ALL
def test_branches_leave_their_parent_as_it_was(name: str) -> None:
    memory = cell(name)
    x = interfaces(memory, 2, 10)
    with torch.no_grad():
        whole, _ = unroll(memory, x)
        _, state = unroll(memory, x[:, :5])
        branches = fork(state, 3)
        unroll(memory, interfaces(memory, 6, 4, seed=2), branches)
        torch.testing.assert_close(unroll(memory, x[:, 5:], state)[0], whole[:, 5:])


@ALL
def test_a_step_is_a_function_of_its_state(name: str) -> None:
    memory = cell(name)
    x = interfaces(memory, 2, 6)
    with torch.no_grad():
        _, state = unroll(memory, x[:, :5])
        first, _ = memory(x[:, 5], copied(state) if memory.consumes_state else state)
        second, _ = memory(x[:, 5], state)
    assert torch.equal(first, second)


@ALL
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4])
def test_a_thousand_steps_stay_finite(name: str, scale: float) -> None:
    memory = cell(name, torch.float32)
    x = interfaces(memory, 2, 1000, scale=scale).float()
    with torch.no_grad():
        reads, state = unroll(memory, x[:, :-8])
    x = x[:, -8:].requires_grad_()
    last, _ = unroll(memory, x, copied(map_state(Tensor.detach, state)))
    last.square().mean().backward()
    assert reads.isfinite().all()
    assert last.isfinite().all()
    assert x.grad is not None
    assert x.grad.isfinite().all()


@ALL
def test_addresses_are_weights(name: str) -> None:
    memory = cell(name)
    x = interfaces(memory, 2, 9)
    with torch.no_grad():
        _, state = unroll(memory, x[:, :8])
        found = memory.addresses(x[:, 8], copied(state) if memory.consumes_state else state)
        if found is None:
            return
        for weights in (found.read, found.write):
            assert weights.ndim == 3
            assert len(weights) == 2
            assert (weights >= 0).all()
        assert found.read.shape[2] == found.write.shape[2]
        assert (found.read.sum(2) <= 1 + 1e-6).all()
        assert found.usage is None or found.usage.shape == found.write[:, 0].shape
        assert all(gate.shape == (2,) for gate in found.gates.values())


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        (name, {size: 0})
        for name in MADE
        for size in ("slots", "width", "heads", "reads", "k")
        if size in fields_of(name)
    ]
    + [
        ("mann", {"heads": 9, "slots": 8}),
        ("mann", {"decay": 1.5}),
        ("ntm", {"reads": 9, "slots": 8}),
        ("ntm", {"slots": 2}),
        ("dnc", {"reads": 9, "slots": 8}),
        ("sam", {"k": 9, "slots": 8}),
        ("sdnc", {"links": 9, "slots": 8}),
        ("mann-attention", {"width": 7, "heads": 2}),
        ("mann-attention", {"threshold": -0.1}),
        ("hcam", {"width": 7, "heads": 2}),
        ("hcam", {"near": 99}),
        ("hopfield", {"beta": 0.0}),
        ("neural-memory", {"ceiling": 0.0}),
    ],
)
def test_sizes_that_do_not_fit_are_refused_before_anything_runs(name: str, settings: dict[str, Any]) -> None:
    random = torch.get_rng_state()
    MADE[name]().check()
    with pytest.raises(BenchError, match=r"needs|shifts by|is a multiple"):
        MADE[name](**settings).check()
    assert torch.equal(torch.get_rng_state(), random), "a check draws nothing"


@pytest.mark.parametrize(
    ("sizes", "says"),
    [({"slots": 10**9, "width": 10**9}, "ntm: there is no room for its memory"), ({"slots": 10**30}, "at most")],
)
def test_a_memory_without_room_is_refused(sizes: dict[str, int], says: str) -> None:
    with pytest.raises(BenchError, match=says):
        MADE["ntm"](start="learned", **sizes).check()


@ALL
@pytest.mark.parametrize("controller", CONTROLLERS)
def test_any_controller_drives_it(name: str, controller: str) -> None:
    torch.manual_seed(0)
    learner = config(name, controller=controller).build(TASK)
    episode = TASK.sample("train", 2, generator("memories"))
    learner.loss(episode, TASK).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in learner.parameters())
    assert sum(p.grad is not None for p in learner.parameters()) > 3


@ALL
@pytest.mark.parametrize("ablate", ABLATIONS)
def test_any_part_of_it_can_be_taken_away(name: str, ablate: str) -> None:
    torch.manual_seed(0)
    learner = config(name, ablate=ablate).build(TASK)
    episode = TASK.sample("train", 2, generator("memories"))
    learner.loss(episode, TASK).backward()
    if ablate == "zero":
        assert isinstance(learner, MemoryLearner)
        x = torch.randn(2, learner.memory.interface_size)
        assert not learner.memory(x, learner.memory.initial_state(2, x))[0].any()


@pytest.mark.parametrize(
    ("cell", "options", "says"),
    [
        (NTM, {"start": "zeros"}, "ntm.start must be one of constant, random, learned, not 'zeros'"),
        (LRUA, {"head_slots": "own"}, "lrua.head_slots must be one of shared, per-head"),
        (SAM, {"search": "annoy"}, "sam.search must be one of exact, lsh"),
        (SDNC, {"usage": "u3"}, "sdnc.usage must be one of u1, u2"),
        (Delta, {"rule": "hebb"}, "delta.rule must be one of delta, sum"),
        (DNC, {"slots": 8.5}, "dnc.slots must be a whole number, not 8.5"),
        (LRUA, {"reads": 4}, "no field of lrua 'reads'"),
        (KaiserMemory, {"slot": 4}, "no field of kaiser 'slot'; did you mean slots"),
    ],
)
def test_options_that_there_are_not_are_refused_by_a_cell_alone(cell: Any, options: Any, says: str) -> None:
    with pytest.raises(BenchError, match=says):
        cell(**options)
