"""Full attention: one parallel pass, the same step by step, and queries that share one cache."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from fakes import Toy
from torch import Tensor
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from bench.api import BenchError, Examples
from mann.full_attention import FullAttention, FullAttentionLearner
from mann.learner import SequenceLearner, previous
from mann.transformer import Block, sinusoids

POSITIONS = ("sinusoidal", "learned", "none")
every_position = pytest.mark.parametrize("positions", POSITIONS)
every_window = pytest.mark.parametrize("window", [1, 2, 4])


def learner(**options: Any) -> FullAttentionLearner:
    torch.manual_seed(0)
    return (
        FullAttention(**({"size": 12, "layers": 2, "heads": 3, "longest": 12} | options)).build(Toy()).double().eval()
    )


def sequence(steps: int, batch: int = 2, seed: int = 0) -> Examples:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, steps, *Toy().x_shape, generator=generator, dtype=torch.float64)
    return Examples(x, torch.randint(3, (batch, steps), generator=generator))


def attention_by_hand(block: Block, h: Tensor) -> Tensor:
    """The block for one sequence, [time, size], with loops over steps, heads and what they see."""
    q, k, v = block.inputs(block.norm(h)).chunk(3, 1)
    found, width = torch.zeros_like(h), block.size // block.heads
    for t in range(len(h)):
        for head in range(block.heads):
            part = slice(head * width, (head + 1) * width)
            scores = torch.stack([q[t, part] @ k[s, part] for s in range(t + 1)]) / math.sqrt(width)
            weights = scores.exp() / scores.exp().sum()
            found[t, part] = sum(w * v[s, part] for s, w in enumerate(weights))
    h = h + block.merge(found)
    return h + block.dense(h)


def test_a_block_is_the_equations() -> None:
    torch.manual_seed(0)
    block, h = Block(6, 3).double(), torch.randn(2, 5, 6, dtype=torch.float64)
    out, cache = block(h, block.initial_state(2, h))
    torch.testing.assert_close(out, torch.stack([attention_by_hand(block, each) for each in h]))
    assert cache.keys.shape == cache.values.shape == (2, 3, 5, 2)


@pytest.mark.parametrize("size", [1, 5, 8])
def test_sinusoids_are_the_paper_s(size: int) -> None:
    """§3.5 with i of d/2 frequencies, those of an odd width in full and the last cosine cut off."""
    half = math.ceil(size / 2)
    angle = [[p / 10_000 ** (i / half) for i in range(half)] for p in (0, 3, 70)]
    expected = [[*map(math.sin, row), *map(math.cos, row)][:size] for row in angle]
    found = sinusoids(torch.tensor([0.0, 3, 70], dtype=torch.float64), size)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


@every_position
@every_window
@pytest.mark.parametrize("cuts", [[1] * 7, [3, 1, 2, 1], [6, 1]])
def test_steps_with_a_cache_are_the_parallel_pass(positions: str, window: int, cuts: list[int]) -> None:
    model, (x, y) = learner(positions=positions, window=window), sequence(7)
    label = previous(model.encode_labels(y).double())
    whole, last = model.run(x, label, model.initial_state(2, x))
    state, parts = model.initial_state(2, x), []
    for part_x, part_label in zip(x.split(cuts, 1), label.split(cuts, 1), strict=True):
        out, state = model.run(part_x, part_label, state)
        parts.append(out)
    torch.testing.assert_close(torch.cat(parts, 1), whole)
    torch.testing.assert_close(state, last)


def test_a_token_holds_the_steps_before() -> None:
    model, (x, _) = learner(window=3), sequence(4)
    model.input = torch.nn.Identity()  # type: ignore[assignment]
    tokens = model._tokens(torch.cat((model.initial_state(2, x).tail, model._inputs(x, torch.ones(2, 4, 3))), 1))
    steps = torch.cat((torch.zeros(2, 2, tokens.shape[2] // 3), model._inputs(x, torch.ones(2, 4, 3))), 1)
    for t in range(4):
        assert torch.equal(tokens[:, t], steps[:, t : t + 3].flatten(1)), "the oldest first"


def test_a_cache_grows_by_one_key_a_step_and_leaves_the_given_one() -> None:
    model, (x, _) = learner(), sequence(4)
    state = model.initial_state(2, x)
    for t in range(4):
        before = [part.clone() for cache in state.caches for part in cache]
        _, after = model.run(x[:, t : t + 1], torch.zeros(2, 1, 3).double(), state)
        left = (part for cache in state.caches for part in cache)
        assert all(torch.equal(a, b) for a, b in zip(before, left, strict=True))
        state = after
        assert {part.shape for cache in state.caches for part in cache} == {(2, 3, t + 1, 4)}


@every_position
@every_window
@pytest.mark.parametrize("shown", [0, 1, 5])
def test_queries_that_share_a_cache_are_queries_with_a_copy_each(positions: str, window: int, shown: int) -> None:
    model, support, query = learner(positions=positions, window=window), sequence(shown), sequence(4, seed=1)
    torch.testing.assert_close(model(support, query.x), SequenceLearner.forward(model, support, query.x))


def test_places_tell_the_order_and_without_them_there_is_none() -> None:
    """One block and no positions: what was seen is a set; two blocks see through the causal mask."""
    query, support = sequence(1, seed=1), sequence(5)
    label = torch.zeros(2, 6, 3).double()
    for positions in POSITIONS:
        model = learner(positions=positions, layers=1)
        states = model.initial_state(2, query.x)
        one, other = (
            model.run(torch.cat((x, query.x), 1), label, states)[0][:, -1] for x in (support.x, support.x.flip(1))
        )
        assert torch.allclose(one, other) == (positions == "none")


def test_an_episode_longer_than_learned_positions_is_refused() -> None:
    model = learner(positions="learned", longest=5)
    assert model.stream(*sequence(5)).shape == (2, 5, 3)
    assert model(sequence(4), sequence(9).x).shape == (2, 9, 3)
    with pytest.raises(BenchError, match="longest=6 or more"):
        model.stream(*sequence(6))
    with pytest.raises(BenchError, match="longest=6 or more"):
        model(sequence(5), sequence(1).x)


@pytest.mark.parametrize(
    "wrong", [{"heads": 5}, {"layers": 0}, {"size": 0}, {"heads": 0}, {"longest": 0}, {"window": 0}]
)
def test_sizes_that_do_not_fit_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(BenchError, match="full attention needs"):
        learner(**wrong)
    with pytest.raises(BenchError, match="full attention needs"):
        FullAttention(**wrong).check()  # type: ignore[arg-type]


def test_the_learning_rate_warms_up_and_then_halves() -> None:
    method = FullAttention(lr=1.0, warmup=4, halve_every=10)
    assert [method.rate(step) for step in (0, 1, 3, 4, 9, 10, 20)] == [0.25, 0.5, 1, 1, 1, 0.5, 0.25]
    assert FullAttention(lr=1.0, warmup=0).rate(0) == 1


@every_position
def test_it_is_functional(positions: str) -> None:
    """Two seeds stacked by `torch.func` give each one's gradients; PyTorch wants its plain attention for that."""
    task = Toy()
    support, query = sequence(3), sequence(2, seed=1)
    models = [learner(positions=positions), learner(positions=positions)]
    with torch.no_grad():
        for parameter in models[1].parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    parameters, buffers = stack_module_state(models)

    def loss(weights: dict[str, Tensor]) -> Tensor:
        return task.loss(functional_call(models[0], (weights, buffers), (support, query.x)), query.y)

    with sdpa_kernel(SDPBackend.MATH):
        stacked = vmap(grad(loss))(parameters)
    task.loss(models[1](support, query.x), query.y).backward()
    for name, parameter in models[1].named_parameters():
        torch.testing.assert_close(stacked[name][1], parameter.grad)


def test_two_blocks_learn_to_bind_an_input_to_the_label_that_comes_a_step_later() -> None:
    """The same two inputs with fresh labels each episode: the answer is only in the past, one step after its input."""
    torch.manual_seed(0)
    model = FullAttention(size=32, layers=2, heads=2).build(Toy())
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    generator = torch.Generator().manual_seed(1)
    inputs, late = torch.eye(2, 4), []
    for _ in range(250):
        which = torch.randint(2, (32, 8), generator=generator)
        labels = torch.rand(32, 3, generator=generator).argsort(1)[:, :2].gather(1, which)
        logits = model.stream(inputs[which], labels)
        loss, last = (F.cross_entropy(logits[:, t:].flatten(0, 1), labels[:, t:].flatten()) for t in (1, 6))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        late.append(last.item())
    assert sum(late[-20:]) / 20 < 0.3 < math.log(2) < sum(late[:20]) / 20, "ln 2: it knows which labels, not whose"
