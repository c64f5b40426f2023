"""Kin of MAML: ANIL, BOIL, Meta-SGD, MAML++'s parts, Reptile, CAVIA."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close

from baselines.batched import EPSILON
from baselines.cavia import CAVIA
from baselines.l2l import LibraryMAML
from baselines.maml import MAML, importance
from baselines.reptile import Reptile
from bench.api import BenchError, Episode, Examples, TrainedMethod, generator
from bench.tasks.glyphs import Glyphs, GlyphsOnline
from bench.tasks.sinusoid import Sinusoid

TASK = Glyphs(way=3, shot=2, query=2, size=20)
WAVES = Sinusoid(shot=5, query=6)


def drawn(task: Any, batch: int = 3, seed: int = 0) -> Episode:
    episode = task.sample("train", batch, generator("adaptation", seed))
    return Episode(*(Examples(e.x.double(), e.y.double() if e.y.is_floating_point() else e.y) for e in episode))


def learner_of(method: TrainedMethod, task: Any = TASK) -> Any:
    torch.manual_seed(0)
    return method.build(task).double()


def path(learner: Any, episode: Episode, steps: int = 2) -> list[list[Tensor]]:
    with torch.no_grad():
        return [list(weights) for weights in learner.adapt(episode.support, steps)]


# What adapts, and how fast


@pytest.mark.parametrize("adapts", ["all", "head", "body"])
def test_only_what_shall_adapt_moves(adapts: Any) -> None:
    learner = learner_of(MAML(adapts=adapts, backbone="mlp"))
    start, *_, end = path(learner, drawn(TASK))
    moved = [not torch.equal(a, b) for a, b in zip(start, end, strict=True)]
    head = [False] * (len(moved) - 2) + [True] * 2
    assert moved == {"all": [True] * len(moved), "head": head, "body": [not m for m in head]}[adapts]


@pytest.mark.parametrize("change", [{"rates": "each"}, {"rates": "per-step"}, {"batch_norm": "per-step"}],
                         ids=lambda c: next(iter(c)))  # fmt: skip
@pytest.mark.parametrize("steps", [1, 3])
def test_learned_rates_and_scales_begin_as_maml(change: dict[str, Any], steps: int) -> None:
    """Before training they are those of MAML: the same answers where nothing that they leave out would have moved."""
    plain = MAML(train_steps=steps, eval_steps=5, adapts="head", backbone="mlp")
    episode = drawn(TASK)
    expected = learner_of(plain)(episode.support, episode.query.x)
    learner = learner_of(MAML(train_steps=steps, eval_steps=5, adapts="head", backbone="mlp", **change))
    assert_close(learner(episode.support, episode.query.x), expected)
    shown = learner.eval().by_step(episode.support, episode.query.x)
    assert_close(shown[5], learner_of(plain).eval().by_step(episode.support, episode.query.x)[5])


@pytest.mark.parametrize("change", [{"rates": "each"}, {"rates": "per-step"}, {"batch_norm": "per-step"}],
                         ids=lambda c: next(iter(c)))  # fmt: skip
@pytest.mark.parametrize("order", ["second", "first"])
def test_all_that_is_learned_has_a_gradient(change: dict[str, Any], order: Any) -> None:
    learner, episode = learner_of(MAML(train_steps=2, order=order, backbone="mlp", **change)), drawn(TASK)
    learner.loss(episode, TASK).backward()
    for name, parameter in learner.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name
        if change.get("rates") == "per-step" and "rates" in name:
            assert parameter.grad.all(), f"{name}: the rate of a step"


def test_rates_of_each_weight_multiply_its_gradient() -> None:
    plain, learner = learner_of(MAML(inner_lr=1.0), WAVES), learner_of(MAML(rates="each", inner_lr=1.0), WAVES)
    torch.manual_seed(1)
    with torch.no_grad():
        for rate in learner.rates:
            rate.normal_()
    episode = drawn(WAVES)
    start, one = path(plain, episode, 1)
    _, other = path(learner, episode, 1)
    for a, b, c, rate in zip(start, one, other, learner.rates, strict=True):
        assert_close(c - a, rate.detach() * (b - a))


def test_steps_beyond_training_have_its_last_rate() -> None:
    learner = learner_of(MAML(rates="per-step", train_steps=2), WAVES)
    with torch.no_grad():
        for rate in learner.rates:
            rate[1] = 0
    steps = path(learner, drawn(WAVES), 5)
    assert not torch.equal(steps[1][0], steps[0][0])
    for later in steps[2:]:
        assert torch.equal(later[0], steps[1][0])


def test_importance_moves_to_the_last_step() -> None:
    """Antoniou et al.'s code with five steps: shares of a fifth at first, .006 each and the rest at the end."""
    assert importance(0.0, 5) == pytest.approx([0.2] * 5)
    assert importance(2.0, 5) == pytest.approx([0.006] * 4 + [0.976])
    assert all(sum(importance(p / 7, 3)) == pytest.approx(1) for p in range(9))


def test_the_loss_of_several_steps_is_their_weighted_mean() -> None:
    learner, episode = learner_of(MAML(train_steps=3, multi_step=4), WAVES), drawn(WAVES)
    with torch.no_grad():
        scored = [
            WAVES.loss(learner.answer(weights, episode.support, episode.query.x, k), episode.query.y)
            for k, weights in enumerate(path(learner, episode, 3))
        ]
    for progress in (0.0, 0.25, 0.5):
        expected = sum(share * loss for share, loss in zip(importance(progress, 3), scored[1:], strict=True))
        assert_close(learner.loss(episode, WAVES).detach(), torch.as_tensor(expected))


# Reptile


def test_reptile_adapts_as_adam_does() -> None:
    """One task after another, by PyTorch's Adam on a net of its own, the examples in turn."""
    learner = learner_of(Reptile(inner_batch=4, inner_lr=0.03), WAVES)
    episode = drawn(WAVES)
    *_, (ends, _, _) = learner.adapt(episode.support, 6)
    for b in range(3):
        own = [w.detach().clone().requires_grad_() for w in learner.net.weights]
        optimiser = torch.optim.Adam(own, 0.03, betas=(0.0, 0.999))
        for step in range(6):
            at = [(4 * step + k) % 5 for k in range(4)]
            x, y = episode.support.x[b : b + 1, at], episode.support.y[b : b + 1, at]
            optimiser.zero_grad()
            WAVES.loss(learner.net([w[None] for w in own], x, 4), y).backward()
            optimiser.step()
        for end, expected in zip(ends, own, strict=True):
            assert_close(end[b], expected.detach())


def test_reptile_s_adam_goes_on_from_task_to_task() -> None:
    """With one task at a time it is PyTorch's, whose state outlives the weights that are put back."""
    learner, tasks = learner_of(Reptile(inner_lr=0.03, train_steps=2), WAVES), [drawn(WAVES, seed=k) for k in range(3)]
    start = [w.detach().clone() for w in learner.net.weights]
    own = [w.clone().requires_grad_() for w in start]
    optimiser = torch.optim.Adam(own, 0.03, betas=(0.0, 0.999))
    for support, query in tasks:
        x, y = (torch.cat(parts, 1)[:1] for parts in zip(support, query, strict=True))
        ends = [adapted.weights for adapted in learner.adapt(Examples(x, y), 2)][-1]
        learner.loss(Episode(Examples(x, y), Examples(x[:, :0], y[:, :0])), WAVES)
        for weight, first in zip(own, start, strict=True):
            weight.data.copy_(first)
        for step in range(2):
            at = [(10 * step + k) % x.shape[1] for k in range(10)]
            optimiser.zero_grad()
            WAVES.loss(learner.net([w[None] for w in own], x[:, at], 10), y[:, at]).backward()
            optimiser.step()
        for end, expected in zip(ends, own, strict=True):
            assert_close(end[0], expected.detach())
    assert int(learner.taken) == 6


def test_a_whole_reptile_step_goes_to_the_mean_of_the_ends() -> None:
    method = Reptile(lr=1.0)
    learner, episode = learner_of(method, WAVES), drawn(WAVES)
    shown = Examples(*(torch.cat(parts, 1) for parts in zip(*episode, strict=True)))
    *_, (ends, _, _) = learner.adapt(shown, method.train_steps)
    optimiser = method.optimiser(learner)
    learner.loss(episode, WAVES).backward()
    optimiser.step()
    for weight, end in zip(learner.net.weights, ends, strict=True):
        assert_close(weight.detach(), end.mean(0))


def test_reptile_s_loss_is_that_of_its_steps() -> None:
    learner, episode = learner_of(Reptile(train_steps=3), WAVES), drawn(WAVES)
    shown = Examples(*(torch.cat(parts, 1) for parts in zip(*episode, strict=True)))
    losses = torch.stack([adapted.losses for adapted in list(learner.adapt(shown, 3))[1:]])
    assert_close(learner.loss(episode, WAVES).detach(), losses.mean())


def test_reptile_s_rate_falls_in_a_line() -> None:
    assert [Reptile(lr=1.0, anneal=4).rate(step) for step in range(6)] == [1, 0.75, 0.5, 0.25, 0, 0]
    assert Reptile(lr=1.0).rate(10**6) == 1
    with pytest.raises(BenchError, match="inner_lr must be above 0"):
        Reptile(inner_lr=0.0).check()
    for method in (MAML(inner_lr=-1.0), LibraryMAML(inner_lr=-1.0)):
        with pytest.raises(BenchError, match=f"{method.name}.inner_lr must not be negative"):
            method.check()
    with pytest.raises(BenchError, match="there are none"):
        MAML(multi_step=2, train_steps=0).check()
    assert "an online task has none" in str(MAML(multi_step=2).unsuited(GlyphsOnline()))


@pytest.mark.parametrize("method", [MAML(), MAML(order="first"), Reptile(eval_steps=2), CAVIA(backbone="conv4-32")])
@pytest.mark.parametrize("size", [16, 20])
def test_one_example_alone_is_normalised_to_nothing(method: TrainedMethod, size: int) -> None:
    """Its own mean taken from it leaves exact zeros, so that rounding decides nothing: single as double precision."""
    task = Glyphs(way=2, shot=1, query=2, size=size)
    learner, episode = learner_of(method, task), drawn(task)
    support = Examples(episode.support.x[:, :1], episode.support.y[:, :1])
    with torch.no_grad():
        exact = learner.eval()(support, episode.query.x)
        single = learner.float()(Examples(support.x.float(), support.y), episode.query.x.float())
        alone = learner(Examples(support.x[:1].float(), support.y[:1]), episode.query.x[:1].float())
    assert_close(single.double(), exact, rtol=1e-3, atol=1e-3)
    assert_close(alone, single[:1], rtol=1e-3, atol=1e-3)


# CAVIA


def test_cavia_fits_its_context_alone() -> None:
    learner, episode = learner_of(CAVIA(inner_lr=0.5, train_steps=2), WAVES), drawn(WAVES)
    answer = learner(episode.support, episode.query.x)
    for b in range(3):
        context = torch.zeros(5, dtype=torch.float64)
        for _ in range(2):
            context = context.detach().requires_grad_()
            inputs = torch.cat((episode.support.x[b], context.expand(5, -1)), 1)
            (learner.net(inputs) - episode.support.y[b]).square().mean().backward()
            context = context.detach() - 0.5 * context.grad
        inputs = torch.cat((episode.query.x[b], context.expand(6, -1)), 1)
        assert_close(answer[b], learner.net(inputs))


def test_cavia_s_meta_gradient_goes_through_adaptation() -> None:
    """Central differences of the loss along a random direction of all parameters."""
    learner, episode = learner_of(CAVIA(inner_lr=0.1, train_steps=2), WAVES), drawn(WAVES)
    learner.loss(episode, WAVES).backward()
    torch.manual_seed(2)
    directions = [torch.randn_like(p) for p in learner.parameters()]
    slope = sum(float((p.grad * d).sum()) for p, d in zip(learner.parameters(), directions, strict=True))

    def moved(by: float) -> float:
        other = copy.deepcopy(learner)
        with torch.no_grad():
            for p, d in zip(other.parameters(), directions, strict=True):
                p.add_(by * d)
        return float(other.loss(episode, WAVES).detach())

    assert slope == pytest.approx((moved(1e-6) - moved(-1e-6)) / 2e-6, rel=1e-4)


@pytest.mark.parametrize("batch_norm", ["support", "transductive", "none"])
def test_cavia_scales_and_moves_the_maps_of_the_third_convolution(batch_norm: Any) -> None:
    """Beside convolutions task by task, adaptation included."""
    learner = learner_of(CAVIA(context=7, inner_lr=0.1, batch_norm=batch_norm), TASK)
    support, query = drawn(TASK)
    weights = [p.detach() for p in learner.net.weights]

    def plain(context: Tensor, x: Tensor, fit: Tensor) -> Tensor:
        left, h, f = list(weights), x.view(-1, *TASK.x_shape), fit.view(-1, *TASK.x_shape)
        for layer in range(4):
            kernel = left.pop(0)
            kernel = kernel.view(3, 3, -1, kernel.shape[1]).permute(3, 2, 0, 1)
            h, f = (F.conv2d(part, kernel, stride=2, padding=1) for part in (h, f))
            if batch_norm != "none":
                mean, spread = f.mean((0, 2, 3)), (f.var((0, 2, 3), correction=0) + EPSILON).sqrt()
                scale, shift = left.pop(0)[0], left.pop(0)[0]
                h, f = (
                    (part - mean[:, None, None]) / spread[:, None, None] * scale[:, None, None] + shift[:, None, None]
                    for part in (h, f)
                )
            else:
                bias = left.pop(0)[0]
                h, f = (part + bias[:, None, None] for part in (h, f))
            if layer == 2:
                more, by = learner.film(context)[:, None, None].chunk(2)
                h, f = (part * (1 + more) + by for part in (h, f))
            h, f = h.relu(), f.relu()
        return h.mean((2, 3)) @ left[0] + left[1]

    answer = learner.eval()(support, query.x)
    for b in range(3):
        context = torch.zeros(7, dtype=torch.float64, requires_grad=True)
        for _ in range(2):
            loss = F.cross_entropy(plain(context, support.x[b], support.x[b]), support.y[b])
            context = context - 0.1 * torch.autograd.grad(loss, context)[0]
        fit = query.x[b] if batch_norm == "transductive" else support.x[b]
        assert_close(answer[b], plain(context, query.x[b], fit), rtol=1e-8, atol=1e-10)


def test_cavia_answers_without_gradients_too() -> None:
    learner, episode = learner_of(CAVIA(), WAVES).eval(), drawn(WAVES)
    with torch.no_grad():
        quiet = learner.by_step(episode.support, episode.query.x)
    loud = learner.by_step(episode.support, episode.query.x)
    assert set(quiet) == {0, 1, 5, 10}
    for step in quiet:
        assert_close(quiet[step], loud[step].detach())
    assert "shows none" in str(CAVIA().unsuited(type("Mute", (Sinusoid,), {"y_size": 0})()))
