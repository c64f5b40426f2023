from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bench.api import BenchError
from mann.hierarchical import HCAM, HCAMOptions, HCAMState
from mann.learner import fork
from mann.states import map_state

SIZES = {"slots": 12, "width": 4, "heads": 2, "block": 3, "near": 2}


def interfaces(memory: HCAM, steps: int, batch: int = 2, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(steps, batch, memory.interface_size, dtype=torch.float64, generator=generator)


def run(memory: HCAM, steps: Tensor, state: HCAMState | None = None) -> tuple[Tensor, list[HCAMState]]:
    states = [memory.initial_state(steps.shape[1], steps) if state is None else state]
    reads = []
    for interface in steps:
        read, new = memory(interface, states[-1])
        reads.append(read)
        states.append(new)
    return torch.stack(reads), states


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max())
    return e / e.sum()


def transcription(interface: np.ndarray, o: HCAMOptions) -> tuple[np.ndarray, np.ndarray]:
    """Lampinen 2021, §2, for one sequence: reads, and the weight of each slot for each head at each step."""
    ring: list[list[tuple[np.ndarray, np.ndarray]]] = [[] for _ in range(o.slots // o.block)]
    order: list[int] = []
    reads = np.zeros((len(interface), o.width))
    weights = np.zeros((len(interface), o.heads, len(ring), o.block))
    for t, step in enumerate(interface):
        q, k, v = step.reshape(3, o.width)
        fit = {i: float(np.mean([key for key, _ in ring[i]], 0) @ q) / np.sqrt(o.width) for i in order}
        full = [i for i in order if len(ring[i]) == o.block]
        chosen = sorted(full, key=lambda i: -fit[i])[: o.near] + [i for i in order if len(ring[i]) < o.block]
        if chosen:
            for i, r in zip(chosen, softmax(np.array([fit[i] for i in chosen])), strict=True):
                for h in range(o.heads):
                    part = slice(h * o.width // o.heads, (h + 1) * o.width // o.heads)
                    near = np.array([key[part] @ q[part] for key, _ in ring[i]]) / np.sqrt(o.width / o.heads)
                    for c, w in enumerate(softmax(near)):
                        reads[t, part] += r * w * ring[i][c][1][part]
                        weights[t, h, i, c] = r * w
        if not order or len(ring[order[-1]]) == o.block:
            place = t // o.block % len(ring)
            ring[place] = []
            order = [i for i in order if i != place] + [place]
        ring[order[-1]].append((k, v))
    return reads, weights.reshape(len(interface), o.heads, -1)


@pytest.mark.parametrize(("block", "near"), [(1, 1), (1, 2), (1, 4), (3, 1), (3, 2), (3, 4), (4, 2), (12, 1)])
def test_equals_the_transcription_of_the_paper(block: int, near: int) -> None:
    memory = HCAM(**SIZES | {"block": block, "near": near})
    steps = interfaces(memory, steps=30)
    reads, states = run(memory, steps)
    addresses = [memory.addresses(step, state) for step, state in zip(steps, states, strict=False)]
    for row in range(2):
        expected, weights = transcription(steps[:, row].numpy(), memory.options)
        np.testing.assert_allclose(reads[:, row].numpy(), expected, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose([a.read[row].numpy() for a in addresses], weights, rtol=1e-10, atol=1e-12)


def test_with_all_blocks_chosen_and_one_item_each_it_is_attention() -> None:
    memory = HCAM(slots=8, width=4, heads=1, block=1, near=8)
    steps = interfaces(memory, steps=7)
    reads, _ = run(memory, steps)
    query, key, value = steps.transpose(0, 1).chunk(3, 2)
    earlier = torch.ones(7, 7, dtype=torch.bool).tril(-1)
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=earlier)[:, 1:]
    torch.testing.assert_close(reads.transpose(0, 1)[:, 1:], expected)
    assert not reads[0].any()


def test_gradients() -> None:
    memory = HCAM(**SIZES)
    steps = interfaces(memory, steps=11, batch=2)
    _, states = run(memory, steps)
    assert len(states[-1].blocks) > memory.options.near, "something must be left out"
    assert torch.autograd.gradcheck(lambda s: run(memory, s)[0], steps.requires_grad_(), fast_mode=True)


def test_what_was_written_gets_gradients_in_all_chosen_blocks() -> None:
    memory = HCAM(**SIZES)
    steps = interfaces(memory, steps=11, batch=1).requires_grad_()
    reads, states = run(memory, steps)
    chosen = memory.addresses(steps[-1], states[-2]).read[0].sum(0) > 0
    reads[-1].sum().backward()
    assert steps.grad is not None
    value = steps.grad[:10, 0, 8:].abs().sum(1) > 0
    assert torch.equal(value, chosen[:10])
    assert chosen.sum() == 2 * 3 + 1


def filled(memory: HCAM, batch: int = 2, seed: int = 3) -> HCAMState:
    """A state with all places taken."""
    generator = torch.Generator().manual_seed(seed)
    o = memory.options
    shape = (memory.places, batch, memory.block, 2 * o.width)
    blocks = torch.randn(shape, dtype=torch.float64, generator=generator)
    start = memory.initial_state(batch, blocks)
    return start._replace(blocks=tuple(blocks), summaries=blocks[..., : o.width].mean(2).transpose(0, 1))


def test_blocks_that_are_not_chosen_are_not_touched() -> None:
    memory = HCAM(slots=100, width=4, heads=2, block=10, near=2)
    state = filled(memory, batch=1)
    interface = interfaces(memory, 1, batch=1)[0]
    chosen, _ = memory.choose(interface.chunk(3, 1)[0], state)
    spoilt = tuple(b if i in chosen[0].tolist() else b * math.nan for i, b in enumerate(state.blocks))
    expected, _ = memory(interface, state)
    read, after = memory(interface, state._replace(blocks=spoilt))
    assert torch.equal(read, expected)
    assert len(after.blocks) == memory.places - 1
    assert all(a is b for a, b in zip(after.blocks, spoilt[1:], strict=True)), "a block was copied"


class Count(TorchDispatchMode):
    """Counts the numbers that each operation takes and gives."""

    touched = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        views = {"view", "_unsafe_view", "slice", "split", "unsqueeze", "expand", "transpose", "detach", "select", "t"}
        if func.overloadpacket.__name__ not in views:
            self.touched += sum(x.numel() for x in tree_leaves((args, result)) if isinstance(x, Tensor))
        return result


def touched(slots: int, steps: int = 3) -> int:
    memory = HCAM(slots=slots, width=4, heads=2, near=2)
    interface = interfaces(memory, steps, batch=1).requires_grad_()
    state = filled(memory, batch=1)
    state = map_state(lambda x: x.requires_grad_() if x.is_floating_point() else x, state)
    with Count() as count:
        run(memory, interface, state)[0].sum().backward()
    return count.touched


def test_the_cost_of_a_step_forward_and_backward_grows_with_the_root_of_the_slots() -> None:
    few, many = touched(32**2), touched(128**2)
    assert many / few < 6, "16 times the slots, 4 times the blocks and items of a block"
    assert many < 3 * 128**2 * 8 / 2, "less than half a pass over the memory for each of the three steps"


def test_the_oldest_block_makes_room() -> None:
    memory = HCAM(**SIZES)
    steps = interfaces(memory, 16)
    _, states = run(memory, steps)
    assert [len(s.blocks) * 3 + s.open.shape[1] for s in states] == [*range(13), 10, 11, 12, 10]
    keys = torch.cat((*states[13].blocks, states[13].open), 1)[..., :4]
    assert torch.equal(keys, steps[3:13, :, 4:8].transpose(0, 1))
    torch.testing.assert_close(states[13].summaries[:, 0], steps[3:6, :, 4:8].mean(0))


def test_a_slot_is_the_same_place_as_long_as_it_holds_the_same_item() -> None:
    memory = HCAM(**SIZES)
    steps = interfaces(memory, 30)
    state = memory.initial_state(2, steps)
    for t, interface in enumerate(steps):
        found = memory.addresses(interface, state)
        assert found.write.argmax(2).tolist() == [[t % 12]] * 2
        assert (found.write.sum(2) == 1).all()
        assert found.usage is not None
        assert found.usage.sum(1).tolist() == [len(state.blocks) * 3 + state.open.shape[1]] * 2
        torch.testing.assert_close(found.read.sum(2), torch.full((2, 2), float(t > 0)).double())
        _, state = memory(interface, state)


def test_a_query_like_a_stored_key_reads_its_value() -> None:
    memory = HCAM(slots=16, width=16, heads=1, block=4, near=1)
    keys, values = 200 * torch.eye(16).double(), torch.randn(16, 16).double()
    state = memory.initial_state(1, keys)
    for key, value in zip(keys, values, strict=True):
        state = memory.write(key[None], value[None], state)
    for key, value in zip(keys, values, strict=True):
        torch.testing.assert_close(memory.read(key[None], state), value[None])


def test_rows_of_a_batch_never_influence_each_other() -> None:
    memory = HCAM(**SIZES)
    steps = interfaces(memory, 20, batch=3)
    changed = steps.clone()
    changed[:, 1] = torch.flip(changed[:, 1], (0, 1)) * 3
    a, b = run(memory, steps)[0], run(memory, changed)[0]
    torch.testing.assert_close(a[:, [0, 2]], b[:, [0, 2]], rtol=1e-12, atol=1e-12)
    assert not torch.allclose(a[:, 1], b[:, 1])


def test_the_state_is_left_as_it_was_is_forked_and_survives_a_file() -> None:
    memory = HCAM(**SIZES)
    state = run(memory, interfaces(memory, 8))[1][-1]
    before = map_state(torch.clone, state)
    interface = interfaces(memory, 1, seed=1)[0]
    read, _ = memory(interface, state)
    twice, _ = memory(interface.repeat_interleave(2, 0), fork(state, 2))
    torch.testing.assert_close(twice, read.repeat_interleave(2, 0))
    file = io.BytesIO()
    torch.save(tuple(state), file)
    file.seek(0)
    for other in (before, HCAMState(*torch.load(file, weights_only=True))):
        assert all(torch.equal(a, b) for a, b in zip(tree_leaves(tuple(state)), tree_leaves(tuple(other)), strict=True))


@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4])
def test_nothing_breaks_on_zero_or_huge_inputs(scale: float) -> None:
    memory = HCAM(slots=16, width=4, heads=2)
    pattern = torch.ones(100, 2, memory.interface_size)
    pattern[::2, :, ::3] = -1
    steps = (scale * pattern).requires_grad_()
    reads, _ = run(memory, steps)
    reads.sum().backward()
    assert reads.isfinite().all()
    assert steps.grad is not None
    assert steps.grad.isfinite().all()
    with torch.no_grad():
        assert run(memory, steps.detach().repeat(10, 1, 1))[0].isfinite().all()


@pytest.mark.parametrize(("slots", "block"), [(128, 8), (64, 8), (1024, 32), (1, 1), (7, 1), (12, 3)])
def test_blocks_are_as_near_to_the_root_as_divisors_go(slots: int, block: int) -> None:
    assert HCAM(slots=slots, width=4, near=1).block == block


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"slots": 0}, "at least 1"),
        ({"near": 0}, "at least 1"),
        ({"block": -1}, "at least 1"),
        ({"width": 41}, "multiple of heads"),
        ({"block": 7}, "multiple of block"),
        ({"slots": 16, "near": 5}, "no more near blocks"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(wrong: dict[str, int], why: str) -> None:
    with pytest.raises(BenchError, match=why):
        HCAM(**wrong)
