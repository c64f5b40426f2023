"""Methods that learn to tell all training classes apart: fine-tuning, SimpleShot, nearest neighbours of features."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from baselines.deep_knn import CODE, DeepKNN
from baselines.finetune import DECAY, MOMENTUM, RATE, SCALES, SHOWN, Finetune
from baselines.pretraining import PretrainedMethod
from baselines.simpleshot import FOLLOW, SCALE, SimpleShot
from bench.api import Episode, Examples, Split, generator
from bench.tasks.glyphs import Glyphs, GlyphsOnline
from bench.tasks.lake import Lake
from bench.tasks.sampling import Images
from bench.tasks.sinusoid import Sinusoid

TASK = Glyphs(way=3, shot=2, query=2, size=20)
KINDS: list[PretrainedMethod] = [Finetune(), Finetune(head="cosine"), SimpleShot(), DeepKNN()]


def drawn(task: Any = TASK, batch: int = 2) -> Episode:
    episode = task.sample("val", batch, generator("pretraining"))
    return Episode(*(Examples(part.x.double(), part.y) for part in episode))


def learner_of(method: PretrainedMethod, task: Any = TASK) -> Any:
    torch.manual_seed(0)
    return method.build(task).double().eval()


@pytest.mark.parametrize("task", [TASK, GlyphsOnline(way=3), GlyphsOnline(way=3, flat=False)], ids=lambda t: t.name)
def test_a_pool_is_of_all_classes_alike(task: Any) -> None:
    x, y = task.pool("train", 4000, generator("pool"))
    assert x.shape == (1, 4000, *task.x_shape)
    assert y.shape == (1, 4000)
    counts = np.bincount(y[0].numpy(), minlength=task.classes("train"))
    assert len(counts) == task.classes("train")
    expected = 4000 / len(counts)
    assert counts.max() < expected + 6 * expected**0.5 + 6


def test_a_label_of_the_pool_is_a_class() -> None:
    """Images of one number are of one drawn class, whenever they come."""
    x, y = TASK.pool("train", 20_000, generator("pool"))
    images = TASK.images("train")
    for i in range(0, 20_000, 997):
        of_class = images.pixels[images.rows[int(y[0, i])]]
        assert any(np.array_equal((x[0, i, 0].numpy() * 255).round(), each) for each in of_class)


@pytest.mark.parametrize("method", KINDS, ids=lambda m: m.name)
def test_training_touches_no_other_split(method: PretrainedMethod, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: set[Split] = set()
    images = Glyphs.images

    def spied(self: Glyphs, split: Split) -> Images:
        asked.add(split)
        return images(self, split)

    monkeypatch.setattr(Glyphs, "images", spied)
    method.build(TASK).loss(method.draw(TASK, generator("draw")), TASK).backward()
    assert asked == {"train"}


@pytest.mark.parametrize("method", [*KINDS, DeepKNN(features="autoencoder")], ids=lambda m: m.name)
def test_learns_what_it_is_shown(method: PretrainedMethod) -> None:
    """The same images again and again: the loss goes down by a third at least."""
    torch.manual_seed(0)
    learner = method.build(TASK).train()
    episode = method.draw(TASK, generator("learn"))
    optimiser, losses = torch.optim.Adam(learner.parameters(), 3e-3), []
    for _ in range(30):
        loss = learner.loss(episode, TASK)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 2 / 3 * losses[0]


@pytest.mark.parametrize("head", ["linear", "cosine"])
def test_fine_tuning_is_the_loop_over_episodes(head: Any) -> None:
    """A layer of PyTorch's, fitted by its optimiser to one episode after another."""
    learner, episode = learner_of(Finetune(head=head, epochs=3)), drawn()
    answer = learner(episode.support, episode.query.x)
    for b in range(2):
        shown, y = learner.embed(episode.support.x[b : b + 1])[0].detach(), episode.support.y[b]
        layer = nn.Linear(learner.size, 3).double()
        with torch.no_grad():
            layer.weight.copy_(learner.first)
            layer.bias.zero_()
        if head == "cosine":
            layer.bias = None
            layer = nn.utils.parametrizations.weight_norm(layer)
        optimiser = torch.optim.SGD(layer.parameters(), RATE, MOMENTUM, dampening=MOMENTUM, weight_decay=DECAY)

        def logits(x: Any, layer: nn.Linear = layer) -> Any:
            return layer(x) if head == "linear" else layer(SCALES[0] * F.normalize(x, dim=-1))

        for start in 3 * [*range(0, len(y), SHOWN)]:
            at = slice(start, start + SHOWN)
            optimiser.zero_grad()
            F.cross_entropy(logits(shown[at]), y[at]).backward()
            optimiser.step()
        assert_close(answer[b], logits(learner.embed(episode.query.x[b : b + 1])[0]))


def test_fine_tuning_leaves_the_embedding_alone() -> None:
    learner, episode = learner_of(Finetune(epochs=3)), drawn()
    learner(episode.support, episode.query.x)
    assert all(p.grad is None for p in learner.parameters())


def test_simpleshot_is_the_nearest_centred_mean() -> None:
    learner, episode = learner_of(SimpleShot()), drawn()
    learner.centre.uniform_()
    answer = learner(episode.support, episode.query.x)
    shown, asked = (
        F.normalize(learner.embed(x) - learner.centre, dim=-1) for x in (episode.support.x, episode.query.x)
    )
    for way in range(3):
        mean = torch.stack([s[y == way].mean(0) for s, y in zip(shown, episode.support.y, strict=True)])
        assert_close(answer[..., way], -SCALE * (asked - mean[:, None]).square().sum(-1))


def test_simpleshot_follows_the_mean_of_training() -> None:
    torch.manual_seed(0)
    method, rng = SimpleShot(), generator("centre")
    learner = method.build(TASK).train()
    means = []
    for _ in range(round(1 / FOLLOW) + 2):
        episode = method.draw(TASK, rng)
        learner.loss(episode, TASK)
        with torch.no_grad():
            means.append(learner.embed(episode.query.x)[0].mean(0))
        if len(means) == 1 / FOLLOW:
            assert_close(learner.centre, torch.stack(means).mean(0), rtol=1e-4, atol=1e-6)
            whole = learner.centre.clone()
    for mean in means[-2:]:
        whole.lerp_(mean, FOLLOW)
    assert_close(learner.centre, whole, rtol=1e-4, atol=1e-6)


def test_deep_knn_copies_the_label_of_the_nearest() -> None:
    learner, episode = learner_of(DeepKNN(metric="euclid")), drawn()
    answer = learner(episode.support, episode.query.x).argmax(-1)
    shown, asked = learner.embed(episode.support.x), learner.embed(episode.query.x)
    assert torch.equal(answer, episode.support.y.gather(1, torch.cdist(asked, shown).argmin(2)))


def test_the_autoencoder_has_a_narrow_middle() -> None:
    learner = learner_of(DeepKNN(features="autoencoder"))
    assert learner.embed(drawn().query.x).shape == (2, 6, CODE)
    assert learner.classifier(torch.zeros(1, CODE, dtype=torch.float64)).shape == (1, 400)


def test_what_has_no_classes_cannot_pretrain() -> None:
    assert "none that outlast an episode" in str(DeepKNN().unsuited(Sinusoid()))
    assert "labels=onehot" in str(Finetune().unsuited(GlyphsOnline(labels="string")))
    assert DeepKNN().unsuited(GlyphsOnline(labels="string")) is None


def test_lake_s_pool_is_of_its_background(omniglot_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is trained for Lake's runs; the characters of these are in no pool."""
    monkeypatch.setitem(os.environ, "BENCH_DATA", str(omniglot_root))
    task = Lake()
    assert (task.classes("train"), task.classes("test")) == (964, 0)
    x, y = task.pool("train", 50, generator("lake"))
    assert x.shape == (1, 50, 1, 28, 28)
    assert int(y.min()) >= 0
    assert int(y.max()) < 964
    learner = SimpleShot().build(task)
    assert learner.state_dict()["classifier.weight"].shape[0] == 964
    assert SimpleShot().unsuited(task) is None
