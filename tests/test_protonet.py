"""Prototypical networks and the Conv4 they share with others."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close

from baselines.backbones import Conv4, image_shape
from baselines.protonet import ProtoNet, ProtoNetLearner, squared_distances
from bench.api import Episode, Examples, Learner, generator
from bench.tasks.glyphs import Glyphs, GlyphsOnline
from bench.tasks.sinusoid import Sinusoid

TASK = Glyphs(way=4, shot=2, query=3, size=20)


def learner(task: Any = TASK, seed: int = 0) -> ProtoNetLearner:
    torch.manual_seed(seed)
    return ProtoNet().build(task).double().eval()


def drawn(task: Any = TASK, batch: int = 2) -> Episode:
    episode = task.sample("train", batch, generator("protonet"))
    return Episode(*(Examples(part.x.double(), part.y) for part in episode))


def images(*shape: int) -> Tensor:
    """Strokes on blank paper: whole windows of one value, where pooling has ties."""
    rng = generator("images", *shape)
    coarse = torch.from_numpy(rng.random((*shape[:2], 7, 7)) < 0.3).double()
    return F.interpolate(coarse, size=shape[2:]) * torch.from_numpy(rng.choice([0.5, 1.0], (shape[0], 1, 1, 1)))


def busy(net: Conv4) -> Conv4:
    """With normalisations that are not at their start: scales of both signs, averages that moved."""
    for norm in net.norms:
        for value in (norm.weight, norm.bias, norm.running_mean):
            torch.nn.init.normal_(value)
        torch.nn.init.uniform_(norm.running_var, 0.5, 2)
    return net


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("shape", [(40, 1, 28, 28), (3, 1, 20, 17), (5, 3, 33, 16)])
def test_conv4_is_its_reference(shape: tuple[int, ...], mode: str) -> None:
    torch.manual_seed(0)
    fast = busy(Conv4(*shape[1:]).double()).train(mode == "train")
    slow = copy.deepcopy(fast)
    x = images(*shape)
    ours, reference = fast(x), slow.reference(x)
    assert ours.shape == (shape[0], fast.size)
    assert_close(ours, reference, rtol=1e-7, atol=1e-9)
    direction = torch.randn_like(ours)
    for result in (ours, reference):
        (result * direction).sum().backward()
    for (name, p), q in zip(fast.named_parameters(), slow.parameters(), strict=True):
        assert_close(
            p.grad, q.grad, rtol=1e-6, atol=1e-8 * float(q.grad.abs().max()), msg=lambda m, n=name: f"{n}: {m}"
        )
    for a, b in zip(fast.buffers(), slow.buffers(), strict=True):
        assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_conv4_is_its_reference_in_float32() -> None:
    torch.manual_seed(0)
    net, x = Conv4(1, 28, 28), images(60, 1, 28, 28).float()
    assert_close(net(x), copy.deepcopy(net).reference(x), rtol=1e-3, atol=1e-3)


def test_squared_distances_are_cdist_squared() -> None:
    a, b = torch.randn(2, 5, 7, dtype=torch.float64), torch.randn(2, 3, 7, dtype=torch.float64)
    assert_close(squared_distances(a, b), torch.cdist(a, b).square())


def test_logits_are_minus_squared_distances_to_class_means() -> None:
    net, (support, query) = learner(), drawn()
    logits = net(support, query.x)
    shown, asked = net.embed(support.x), net.embed(query.x)
    for episode in range(2):
        means = torch.stack([shown[episode][support.y[episode] == c].mean(0) for c in range(TASK.way)])
        assert_close(logits[episode], -torch.cdist(asked[episode], means).square(), rtol=1e-9, atol=1e-9)


def test_a_class_without_examples_has_prototype_zero() -> None:
    net, (support, query) = learner(), drawn()
    absent = Examples(support.x, support.y.clamp(max=TASK.way - 2))
    asked = net.embed(query.x)
    assert_close(net(absent, query.x)[..., -1], -asked.square().sum(-1), rtol=1e-9, atol=1e-9)


def test_with_nothing_shown_all_classes_are_alike() -> None:
    net, (_, query) = learner(), drawn()
    prior = net(Examples(query.x[:, :0], query.y[:, :0]), query.x)
    assert_close(prior, prior[..., :1].expand_as(prior))


def test_renaming_the_classes_renames_the_answers() -> None:
    net, (support, query) = learner(), drawn()
    names = torch.tensor([2, 0, 3, 1])
    renamed = net(Examples(support.x, names[support.y]), query.x)
    assert_close(renamed[..., names], net(support, query.x))


def first_answer(net: Learner, support: Examples, x: Tensor) -> Tensor:
    return copy.deepcopy(net)(support, x)[:, 0]


def test_queries_meet_in_training_only() -> None:
    """Training normalises by the whole batch, as the authors' code; were eval mode to do so, this is how it shows."""
    net, (support, query) = learner(), drawn()
    others = query.x.clone()
    others[:, 1:] = 1 - others[:, 1:]
    assert_close(first_answer(net, support, others), first_answer(net, support, query.x))
    net.train()
    assert not torch.allclose(first_answer(net, support, others), first_answer(net, support, query.x))


def test_parameters_do_not_know_the_number_of_classes() -> None:
    wide = learner(Glyphs(way=20, size=20), seed=1)
    wide.load_state_dict(learner().state_dict())
    assert_close(wide.embed(drawn().query.x), learner().embed(drawn().query.x))


def test_a_flat_square_is_an_image() -> None:
    flat = drawn(GlyphsOnline(way=3, length=6)).query.x
    net = learner(GlyphsOnline(way=3))
    whole = learner(GlyphsOnline(way=3, flat=False))
    assert_close(net.embed(flat), whole.embed(flat.view(*flat.shape[:2], 1, 20, 20)))
    assert image_shape((400,)) == (1, 20, 20)
    assert image_shape((9,)) is None  # too few to be an image
    assert image_shape((401,)) is None


def test_training_lowers_the_loss() -> None:
    torch.manual_seed(0)
    method, task = ProtoNet(), Glyphs(way=5, shot=1, query=3, size=16)
    net = method.build(task)
    optimiser = method.optimiser(net)
    losses = []
    for step in range(25):
        loss = net.loss(task.sample("train", 1, generator("step", step)), task)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert sum(losses[-8:]) < 0.8 * sum(losses[:8])


def test_rate_halves() -> None:
    assert ProtoNet().rate(1999) == 1e-3
    assert ProtoNet().rate(4000) == 0.25e-3


def test_refuses_what_has_no_prototypes() -> None:
    assert "regression" in str(ProtoNet().unsuited(Sinusoid()))
    assert "labels=onehot" in str(ProtoNet().unsuited(GlyphsOnline(labels="string")))
    assert "16 × 16" in str(ProtoNet().unsuited(Glyphs(size=12)))
    assert ProtoNet().unsuited(TASK) is None
