"""MAML against plain code that adapts one task at a time, and against the package `higher`."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from baselines.batched import EPSILON, patches
from baselines.maml import MAML, MAMLLearner
from bench.api import Episode, Examples, Task, generator
from bench.tasks.glyphs import Glyphs, GlyphsOnline
from bench.tasks.sinusoid import Sinusoid

SINUSOID = Sinusoid(shot=5, query=4, train_query=4)
IMAGES = Glyphs(way=3, shot=2, query=1, size=10)
VECTORS = GlyphsOnline(way=3, length=6, size=4)
"""Sixteen numbers, too few for `conv4`; its sequences are cut into support and query."""
LARGER = Glyphs(way=3, shot=2, query=1, size=19)
TASKS: dict[str, Task] = {"sinusoid": SINUSOID, "conv4": IMAGES, "conv4-32": LARGER, "mlp": VECTORS}


def drawn(task: Task, batch: int = 3) -> Episode:
    episode = task.sample("train", batch, generator("maml"))
    if task.online:
        x, y = episode.query
        episode = Episode(Examples(x[:, :4], y[:, :4]), Examples(x[:, 4:], y[:, 4:]))
    return Episode(*(Examples(p.x.double(), p.y.double() if p.y.is_floating_point() else p.y) for p in episode))


def learner(task: Task, **config: Any) -> MAMLLearner:
    torch.manual_seed(0)
    return MAML(**config).build(task).double()


def plain(net: MAMLLearner, weights: list[Tensor], x: Tensor, fit: Tensor) -> Tensor:
    """One task's predictions for x, each layer normalised by the statistics of `fit`; both [n, *x_shape]."""
    left = list(weights)
    conv, pool = net.net.image is not None, net.net.pool
    h, f = (part.view(-1, *net.task.x_shape) if conv else part.flatten(1) for part in (x, fit))
    while len(left) > 2:
        weight = left.pop(0)
        if conv:
            kernel = weight.view(3, 3, -1, weight.shape[1]).permute(3, 2, 0, 1)
            h, f = (F.conv2d(part, kernel, stride=1 if pool else 2, padding=1) for part in (h, f))
        else:
            h, f = h @ weight, f @ weight
        if net.net.norm:
            dims, shape = ((0, 2, 3), (-1, 1, 1)) if conv else ((0,), (-1,))
            mean, spread = f.mean(dims), (f.var(dims, correction=0) + EPSILON).sqrt()
            scale, shift = left.pop(0)[0], left.pop(0)[0]
            h, f = (
                (part - mean.view(shape)) / spread.view(shape) * scale.view(shape) + shift.view(shape)
                for part in (h, f)
            )
        else:
            bias = left.pop(0)[0]
            h, f = (part + (bias[:, None, None] if conv else bias) for part in (h, f))
        h, f = (F.max_pool2d(part.relu(), 2) if pool else part.relu() for part in (h, f))
    if conv:
        h = h.permute(0, 2, 3, 1).flatten(1) if pool else h.mean((2, 3))
    return h @ left[0] + left[1][0]


def plain_answer(net: MAMLLearner, weights: list[Tensor], support_x: Tensor, query_x: Tensor) -> Tensor:
    support = net.config.batch_norm == "support"
    return plain(net, weights, query_x, support_x if support else query_x)


def one_task(episode: Episode, i: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    (sx, sy), (qx, qy) = episode
    return sx[i], sy[i : i + 1], qx[i], qy[i : i + 1]


def meta_loss(net: MAMLLearner, episode: Episode, task: Task) -> Tensor:
    """Ours, by support and query in online tasks too."""
    return task.loss(net(episode.support, episode.query.x), episode.query.y)


def plain_loss(net: MAMLLearner, episode: Episode, task: Task) -> Tensor:
    """The meta-loss by a loop over tasks, differentiated twice by PyTorch."""
    total, count = torch.zeros((), dtype=torch.float64), len(episode.query.x)
    for i in range(count):
        sx, sy, qx, qy = one_task(episode, i)
        weights = list(net.net.weights)
        for _ in range(net.config.train_steps):
            loss = task.loss(plain(net, weights, sx, sx)[None], sy)
            gradients = torch.autograd.grad(loss, weights, create_graph=True)
            if net.config.order == "first":
                gradients = tuple(g.detach() for g in gradients)
            weights = [w - net.rates[0] * g for w, g in zip(weights, gradients, strict=True)]
        total = total + task.loss(plain_answer(net, weights, sx, qx)[None], qy) / count
    return total


class Plain(nn.Module):
    """One task's network as `higher` wants it."""

    def __init__(self, net: MAMLLearner) -> None:
        super().__init__()
        self.owner = [net]
        self.weights = net.net.weights

    def forward(self, x: Tensor) -> Tensor:
        return plain(self.owner[0], list(self.weights), x, x)


def higher_loss(net: MAMLLearner, episode: Episode, task: Task) -> Tensor:
    """The meta-loss by `higher`; queries normalised among themselves."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        higher = pytest.importorskip("higher", reason="the package higher is not installed: pip install -e '.[dev]'")
    total, count, model = torch.zeros((), dtype=torch.float64), len(episode.query.x), Plain(net)
    for i in range(count):
        sx, sy, qx, qy = one_task(episode, i)
        inner = torch.optim.SGD(model.parameters(), lr=net.rates[0])
        with higher.innerloop_ctx(model, inner, copy_initial_weights=False, track_higher_grads=True) as (copied, steps):
            for _ in range(net.config.train_steps):
                steps.step(task.loss(copied(sx)[None], sy))
            total = total + task.loss(copied(qx)[None], qy) / count
    return total


def assert_same_gradients(net: MAMLLearner, ours: Tensor, theirs: Tensor) -> None:
    assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
    gradients = [torch.autograd.grad(loss, list(net.net.weights)) for loss in (ours, theirs)]
    for a, b in zip(*gradients, strict=True):
        assert b.abs().max() > 0
        assert_close(a, b, rtol=1e-6, atol=1e-6 * float(b.abs().max()))


def variants() -> Iterator[tuple[str, str, str, int]]:
    for backbone in TASKS:
        for batch_norm in ("support", "transductive", "none"):
            for order, steps in (("second", 1), ("second", 3), ("first", 2)):
                yield backbone, batch_norm, order, steps


@pytest.mark.parametrize(("backbone", "batch_norm", "order", "steps"), list(variants()))
def test_meta_gradient_is_that_of_one_task_at_a_time(backbone: str, batch_norm: str, order: str, steps: int) -> None:
    task = TASKS[backbone]
    net = learner(task, backbone=backbone, batch_norm=batch_norm, order=order, train_steps=steps, inner_lr=0.1).train()
    episode = drawn(task)
    assert_same_gradients(net, meta_loss(net, episode, task), plain_loss(net, episode, task))


@pytest.mark.parametrize("backbone", list(TASKS))
def test_meta_gradient_is_that_of_higher(backbone: str) -> None:
    task = TASKS[backbone]
    net = learner(task, backbone=backbone, batch_norm="transductive", train_steps=2, inner_lr=0.1).train()
    episode = drawn(task)
    assert_same_gradients(net, meta_loss(net, episode, task), higher_loss(net, episode, task))


def meta_gradient(task: Task, **config: Any) -> Tensor:
    net = learner(task, **config).train()
    gradients = torch.autograd.grad(net.loss(drawn(task), task), list(net.net.weights))
    return torch.cat([g.flatten() for g in gradients])


@pytest.mark.parametrize("adapts", ["all", "head", "body"])
@pytest.mark.parametrize("order", ["second", "first"])
@pytest.mark.parametrize("task", [SINUSOID, VECTORS], ids=["sinusoid", "classes"])
def test_one_step_without_weights_for_each_task_is_the_same(task: Task, order: str, adapts: str) -> None:
    made = learner(task, order=order, adapts=adapts, batch_norm="none").train()
    (support, query) = drawn(task)
    found, expected = made.after_one_step(support, query.x), super(MAMLLearner, made).forward(support, query.x)
    assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert_close(made(support, query.x), found, rtol=0, atol=0)
    for a, b in zip(
        *(torch.autograd.grad(task.loss(p, query.y), list(made.parameters())) for p in (found, expected)), strict=True
    ):
        assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_orders_differ_by_a_term_in_the_inner_rate() -> None:
    """Their losses are equal; the gradients differ by -rate × Hessian × gradient, so in proportion to the rate."""

    def gap(rate: float) -> Tensor:
        second, first = (meta_gradient(SINUSOID, order=order, inner_lr=rate) for order in ("second", "first"))
        return (second - first).norm()

    assert gap(1e-3) > 0
    assert float(gap(1e-4) / gap(1e-5)) == pytest.approx(10, rel=0.05)


def first_answer(net: MAMLLearner, support: Examples, x: Tensor) -> Tensor:
    return net(support, x)[:, 0].detach()


@pytest.mark.parametrize("batch_norm", ["support", "none", "transductive"])
@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("backbone", ["conv4", "conv4-32", "mlp"])
def test_queries_meet_in_transductive_mode_only(backbone: str, batch_norm: str, mode: str) -> None:
    task = TASKS[backbone]
    net = learner(task, backbone=backbone, batch_norm=batch_norm).train(mode == "train")
    support, query = drawn(task)
    others = query.x.clone()
    others[:, 1:] = 1 - others[:, 1:]
    met = not torch.allclose(first_answer(net, support, query.x), first_answer(net, support, others))
    assert met == (batch_norm == "transductive")


def test_more_steps_fit_the_support_better() -> None:
    net = learner(SINUSOID).eval()
    support, _ = drawn(SINUSOID)
    steps = net.by_step(support, support.x)
    assert list(steps) == [0, 1, 5, 10]
    losses = [SINUSOID.loss(each, support.y).item() for each in steps.values()]
    assert losses == sorted(losses, reverse=True)
    assert losses[0] > losses[-1]


def test_by_step_ends_where_forward_does() -> None:
    net = learner(SINUSOID, eval_steps=3).eval()
    support, query = drawn(SINUSOID)
    steps = net.by_step(support, query.x)
    assert list(steps) == [0, 1, 3, 5, 10]
    assert_close(steps[3], net(support, query.x))
    assert_close(steps[1], learner(SINUSOID, eval_steps=1).eval()(support, query.x))


def test_the_mode_chooses_the_number_of_steps() -> None:
    net = learner(IMAGES, train_steps=1, eval_steps=2)
    support, query = drawn(IMAGES)
    by_step = learner(IMAGES, eval_steps=2).eval().by_step(support, query.x)
    assert_close(net.train()(support, query.x), by_step[1])
    assert_close(net.eval()(support, query.x), by_step[2])


@pytest.mark.parametrize("backbone", list(TASKS))
def test_with_nothing_shown_no_step_is_taken(backbone: str) -> None:
    task = TASKS[backbone]
    net = learner(task, backbone=backbone).eval()
    _, (x, y) = drawn(task)
    nothing = Examples(x[:, :0], y[:, :0])
    steps = net.by_step(nothing, x)
    assert net(nothing, x).isfinite().all()
    assert all(torch.equal(each, steps[0]) for each in steps.values())


@pytest.mark.parametrize("backbone", list(TASKS))
def test_gradients_off_gives_the_same_without_a_graph(backbone: str) -> None:
    task = TASKS[backbone]
    net = learner(task, backbone=backbone).eval()
    support, query = drawn(task)
    with torch.no_grad():
        alone = net(support, query.x)
        assert not alone.requires_grad
        assert all(not each.requires_grad for each in net.by_step(support, query.x).values())
    assert_close(alone, net(support, query.x).detach())


def test_renaming_classes_and_their_outputs_renames_the_answers() -> None:
    support, query = drawn(IMAGES)
    names = torch.tensor([2, 0, 1])
    net, renamed = learner(IMAGES).eval(), learner(IMAGES).eval()
    with torch.no_grad():
        for ours, other in zip(list(renamed.net.weights)[-2:], list(net.net.weights)[-2:], strict=True):
            ours[:, names] = other
        answer = renamed(Examples(support.x, names[support.y]), query.x)
        assert_close(answer[..., names], net(support, query.x))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("height", "width"), [(5, 4), (1, 3), (2, 2), (7, 8)])
def test_patches_make_a_convolution_and_can_be_differentiated_twice(height: int, width: int, stride: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, height, width, 3, dtype=torch.float64, requires_grad=True)
    kernel = torch.randn(4, 3, 3, 3, dtype=torch.float64)
    convolved = F.conv2d(x.permute(0, 3, 1, 2), kernel, stride=stride, padding=1)
    assert_close(patches(x, stride) @ kernel.permute(2, 3, 1, 0).flatten(0, 2), convolved.permute(0, 2, 3, 1))
    assert torch.autograd.gradcheck(patches, (x, stride))
    assert torch.autograd.gradgradcheck(patches, (x, stride))


def test_defaults_follow_the_task() -> None:
    assert learner(SINUSOID).rates[0] == 0.01
    assert learner(IMAGES).rates[0] == 0.4
    assert learner(IMAGES, inner_lr=0.1).rates[0] == 0.1
    assert [MAML().backbone_for(task) for task in TASKS.values()] == ["sinusoid", "conv4", "conv4", "mlp"]
    assert "conv4" in str(MAML(backbone="conv4").unsuited(SINUSOID))
    assert "16 × 16 at least" in str(MAML(backbone="conv4-32").unsuited(IMAGES))
    assert MAML(backbone="conv4-32").unsuited(LARGER) is None
    assert MAML().unsuited(SINUSOID) is None


def test_string_labels_are_learned_as_they_are_scored() -> None:
    task = GlyphsOnline(way=3, length=6, labels="string")
    _, (x, y) = task.sample("train", 2, generator("strings"))
    net = MAML().build(task)
    loss = net.loss(Episode(Examples(x[:, :4], y[:, :4]), Examples(x, y)), task)
    loss.backward()
    assert net.stream(x, y).shape == (2, 6, 25)


def test_learned_rates_are_for_the_steps_of_training() -> None:
    """More of them diverge: nothing has kept the rates small enough for those."""
    assert learner(SINUSOID).eval_steps == 10
    assert learner(SINUSOID, rates="each").eval_steps == 1
    assert learner(SINUSOID, rates="per-step", train_steps=3).eval_steps == 3
    assert learner(SINUSOID, rates="each", eval_steps=2).eval_steps == 2


def test_the_loss_over_all_steps_ends_with_its_training_steps() -> None:
    """After them it is that of the last step alone."""
    net = learner(SINUSOID, multi_step=2, train_steps=3)
    episode = SINUSOID.sample("train", 2, generator("multi-step"))
    episode = Episode(*(Examples(e.x.to(next(net.parameters())), e.y.to(next(net.parameters()))) for e in episode))
    early = [net.train().loss(episode, SINUSOID).item() for _ in range(2)]
    last = SINUSOID.loss(net(episode.support, episode.query.x), episode.query.y).item()
    assert early[0] != pytest.approx(last)
    assert net.loss(episode, SINUSOID).item() == last == net.loss(episode, SINUSOID).item()
