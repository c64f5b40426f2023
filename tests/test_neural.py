from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves

from bench.api import BenchError
from mann.delta import Delta
from mann.learner import fork
from mann.neural import KEEP, Neural, NeuralState, answer, surprise

SIZES = {"width": 3, "heads": 2, "hidden": 4}


def cell(**options: Any) -> Neural:
    torch.manual_seed(0)
    return Neural(**SIZES | options).double()


def interfaces(memory: Neural, steps: int, batch: int = 2, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(steps, batch, memory.interface_size, dtype=torch.float64, generator=generator)


def gated(memory: Neural, steps: Tensor, **gates: float) -> Tensor:
    """The same steps with some of the gates before σ set."""
    steps = steps.clone()
    heads = memory.options.heads
    for name, value in gates.items():
        start = 3 * memory.read_size + ("step", "momentum", "forget").index(name) * heads
        steps[..., start : start + heads] = value
    return steps


def run(memory: Neural, steps: Tensor, state: NeuralState | None = None) -> tuple[Tensor, NeuralState]:
    state = memory.initial_state(steps.shape[1], steps) if state is None else state
    reads = []
    for interface in steps:
        read, state = memory(interface, state)
        reads.append(read)
    return torch.stack(reads), state


def network(weights: list[Tensor], x: Tensor) -> Tensor:
    for layer in weights[:-1]:
        x = F.silu(layer.T @ x)
    return weights[-1].T @ x


def transcription(memory: Neural, interface: Tensor) -> Tensor:
    """Behrouz 2025, §3.1, for one sequence; head by head, with gradients by `backward`."""
    o = memory.options
    size = o.heads * o.width
    reads = torch.zeros(len(interface), o.heads, o.width, dtype=torch.float64)
    for h in range(o.heads):
        weights = [layer[h].detach() for layer in memory.start]
        momentum = [torch.zeros_like(layer) for layer in weights]
        for t, step in enumerate(interface):
            q, k, v = (step[i * size + h * o.width :][: o.width] for i in range(3))
            q, k = (F.silu(x) / F.silu(x).norm() for x in (q, k))
            theta, eta, alpha = (step[3 * size + i * o.heads + h] for i in range(3))
            leaves = [layer.clone().requires_grad_() for layer in weights]
            (0.5 * (network(leaves, k) - v.tanh()).square().sum()).backward()
            gradients = [leaf.grad for leaf in leaves]
            norm = torch.sqrt(sum((g.square().sum() for g in gradients), torch.tensor(0.0)))
            scale = min(1.0, o.limit / float(norm)) * o.ceiling * theta.sigmoid()
            momentum = [eta.sigmoid() * s - scale * g for s, g in zip(momentum, gradients, strict=True)]
            keep = 1 - (alpha - KEEP).sigmoid()
            weights = [keep * w + s for w, s in zip(weights, momentum, strict=True)]
            reads[t, h] = network(weights, q)
    return reads.flatten(1)


@pytest.mark.parametrize("limit", [0.3, 10.0])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_equals_the_transcription_of_the_paper(depth: int, limit: float) -> None:
    memory = cell(depth=depth, limit=limit)
    steps = interfaces(memory, 8)
    reads, _ = run(memory, steps)
    for row in range(2):
        torch.testing.assert_close(reads[:, row], transcription(memory, steps[:, row]), rtol=1e-10, atol=1e-12)


def test_surprise_is_the_slope_of_the_error_of_each_network() -> None:
    memory = cell()
    weights = memory.initial_state(2, torch.zeros(1).double()).weights
    keys, values = torch.randn(2, 2, 2, 1, 3).double()
    found = surprise(weights, keys, values)

    def error(shift: float, layer: int, row: int, head: int, i: int, j: int) -> float:
        changed = [part.clone() for part in weights]
        changed[layer][row, head, i, j] += shift
        return float(0.5 * (answer(tuple(changed), keys) - values)[row, head].square().sum().detach())

    for place in ((0, 0, 1, 2, 3), (1, 1, 0, 3, 2), (0, 1, 1, 0, 0)):
        slope = (error(1e-5, *place) - error(-1e-5, *place)) / 2e-5
        np.testing.assert_allclose(found[place[0]][place[1:]].item(), slope, rtol=1e-6, atol=1e-9)


def test_a_matrix_without_momentum_and_forgetting_is_the_delta_rule() -> None:
    memory = cell(depth=1, ceiling=1.0, limit=1e6)
    torch.nn.init.zeros_(memory.start[0])
    delta = Delta(width=3, heads=2)
    steps = gated(memory, interfaces(memory, 10), momentum=-100.0, forget=-100.0)
    values = slice(12, 18)
    plain = steps[..., :20].clone()
    plain[..., values] = plain[..., values].tanh()
    state, expected = delta.initial_state(2, steps), []
    for step in plain:
        read, state = delta(step, state)
        expected.append(read)
    torch.testing.assert_close(run(memory, steps)[0], torch.stack(expected), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("limit", [0.3, 10.0])
def test_gradients_flow_through_the_learning_of_the_memory(limit: float) -> None:
    memory = cell(heads=1, limit=limit)
    steps = gated(memory, interfaces(memory, 3, batch=1), step=1.0).requires_grad_()

    def reads(steps: Tensor, *start: Tensor) -> Tensor:
        state = NeuralState(start, tuple(torch.zeros_like(layer) for layer in start))
        return run(memory, steps, state)[0][-1]

    start = [layer.detach().unsqueeze(0).requires_grad_() for layer in memory.start]
    assert torch.autograd.gradcheck(reads, (steps, *start), fast_mode=True)
    reads(steps, *start).sum().backward()
    assert steps.grad is not None
    assert (steps.grad[1, 0, 3:] != 0).all(), "key, value and gates of a step reach the last read"


def test_closed_gates_change_nothing_and_an_open_one_forgets_all() -> None:
    memory = cell()
    steps = interfaces(memory, 1)
    state = run(memory, interfaces(memory, 3, seed=1))[1]
    closed = {"step": -800.0, "momentum": -800.0, "forget": -800.0}
    _, same = run(memory, gated(memory, steps, **closed), state)
    assert all(torch.equal(a, b) for a, b in zip(same.weights, state.weights, strict=True))
    _, gone = run(memory, gated(memory, steps, **closed | {"forget": 800.0}), state)
    assert not any(layer.any() for layer in gone.weights)
    _, moving = run(memory, gated(memory, steps, **closed | {"momentum": 800.0}), state)
    for before, after, momentum in zip(state.weights, moving.weights, state.momentum, strict=True):
        torch.testing.assert_close(after, before + momentum)


def test_a_gradient_is_never_longer_than_the_limit() -> None:
    memory = cell(limit=0.01, ceiling=1.0)
    steps = gated(memory, interfaces(memory, 1), step=800.0)
    moved = run(memory, steps)[1].momentum
    norms = torch.stack([layer.square().sum((2, 3)) for layer in moved]).sum(0).sqrt()
    torch.testing.assert_close(norms, torch.full((2, 2), 0.01).double())


def test_a_value_written_again_and_again_is_read_by_its_key() -> None:
    memory = cell(width=8, hidden=16, ceiling=0.5)
    steps = gated(memory, interfaces(memory, 1), step=10.0, momentum=-10.0, forget=-100.0)
    steps[..., :16] = steps[..., 16:32]
    reads, _ = run(memory, steps.repeat(200, 1, 1))
    torch.testing.assert_close(reads[-1], steps[0, :, 32:48].tanh(), rtol=1e-3, atol=1e-3)


def test_rows_of_a_batch_and_heads_never_influence_each_other() -> None:
    memory = cell()
    steps = interfaces(memory, 6, batch=3)
    changed = steps.clone()
    changed[:, 1] = 5
    a, b = run(memory, steps)[0], run(memory, changed)[0]
    assert torch.equal(a[:, [0, 2]], b[:, [0, 2]])
    assert not torch.allclose(a[:, 1], b[:, 1])
    changed = steps.clone()
    for start in (0, 6, 12):
        changed[..., start : start + 3] += 1
    changed[..., [18, 20, 22]] += 1
    c = run(memory, changed)[0]
    assert torch.equal(a[..., 3:], c[..., 3:])
    assert not torch.allclose(a[..., :3], c[..., :3])


def test_the_state_is_left_as_it_was_is_forked_and_survives_a_file() -> None:
    memory = cell()
    state = run(memory, interfaces(memory, 3))[1]
    before = [part.clone() for part in tree_leaves(tuple(state))]
    interface = interfaces(memory, 1, seed=1)[0]
    read, _ = memory(interface, state)
    torch.testing.assert_close(
        memory(interface.repeat_interleave(2, 0), fork(state, 2))[0], read.repeat_interleave(2, 0)
    )
    file = io.BytesIO()
    torch.save(tuple(state), file)
    file.seek(0)
    for other in (before, tree_leaves(torch.load(file, weights_only=True))):
        assert all(torch.equal(a, b) for a, b in zip(tree_leaves(tuple(state)), other, strict=True))


def test_it_reads_the_same_without_gradients() -> None:
    memory = cell()
    steps = interfaces(memory, 4)
    with torch.no_grad():
        quiet = run(memory, steps)[0]
    assert torch.equal(quiet, run(memory, steps)[0])


def test_it_has_no_addresses() -> None:
    memory = cell()
    step = interfaces(memory, 1)[0]
    assert memory.addresses(step, memory.initial_state(2, step)) is None


@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4])
def test_nothing_breaks_on_zero_or_huge_inputs(scale: float) -> None:
    memory = cell().float()
    pattern = torch.ones(60, 2, memory.interface_size)
    pattern[::2, :, ::3] = -1
    steps = (scale * pattern).requires_grad_()
    reads, _ = run(memory, steps)
    reads.sum().backward()
    assert reads.isfinite().all()
    for each in (steps, *memory.start):
        assert each.grad is not None
        assert each.grad.isfinite().all()


@pytest.mark.parametrize("scale", [0.0, 1e4])
def test_a_thousand_steps_stay_finite_with_nothing_forgotten(scale: float) -> None:
    memory = cell().float()
    steps = gated(memory, scale * interfaces(memory, 50).float(), step=scale, momentum=scale, forget=-scale)
    with torch.no_grad():
        assert run(memory, steps.repeat(20, 1, 1))[0].isfinite().all()


@pytest.mark.parametrize("wrong", [{"heads": 0}, {"width": 0}, {"depth": 0}, {"hidden": 0}, {"ceiling": 0.0}])
def test_sizes_that_do_not_fit_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(BenchError, match="at least 1"):
        Neural(**wrong)
