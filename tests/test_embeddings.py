"""Methods that compare embeddings: matching and relation networks, R2-D2, siamese networks, graphs, SNAIL."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close

from baselines.backbones import ResNet12, make_backbone, unsuited_backbone
from baselines.embedding import EmbeddingLearner, EmbeddingMethod
from baselines.gnn import GNN, Edges
from baselines.matching import ABSENT, Matching
from baselines.protonet import ProtoNet
from baselines.r2d2 import R2D2
from baselines.relation import Relation
from baselines.siamese import Siamese
from baselines.snail import SNAIL, TemporalConvolution
from bench.api import BenchError, Episode, Examples, generator
from bench.tasks.glyphs import Glyphs, GlyphsOnline
from bench.tasks.sinusoid import Sinusoid

TASK = Glyphs(way=3, shot=2, query=2, size=20)


def drawn(task: Any = TASK, batch: int = 2) -> Episode:
    episode = task.sample("train", batch, generator("embeddings"))
    return Episode(*(Examples(part.x.double(), part.y) for part in episode))


def learner_of(method: EmbeddingMethod, task: Any = TASK) -> Any:
    """In eval mode, its normalisations not at their start."""
    torch.manual_seed(0)
    learner = method.build(task).double()
    with torch.no_grad():
        learner.train()(*_support_and_queries(task))
    return learner.eval()


def _support_and_queries(task: Any) -> tuple[Examples, Tensor]:
    episode = drawn(task, 8)
    return episode.support, episode.query.x


def embedded(learner: EmbeddingLearner, episode: Episode) -> tuple[Tensor, Tensor, Tensor]:
    """Support, labels and queries as `compare` gets them."""
    shown, asked = learner.embed(episode.support.x), learner.embed(episode.query.x)
    return shown, learner.labels(episode.support.y, shown), asked


@pytest.mark.parametrize("kind", [ProtoNet, Matching, R2D2, Relation])
def test_transductive_uses_the_statistics_at_hand_and_keeps_its_averages(kind: Any) -> None:
    learner = learner_of(kind(batch_norm="transductive"))
    before = copy.deepcopy(learner.state_dict())
    episode = drawn(batch=3)
    answer = learner(episode.support, episode.query.x)
    for name, value in learner.state_dict().items():
        assert torch.equal(value, before[name]), f"{name} has moved"
    assert not learner.training
    for i in range(3):  # one episode at a time in training mode: then the statistics are its own
        trained = copy.deepcopy(learner).train()
        own = trained(Examples(episode.support.x[i : i + 1], episode.support.y[i : i + 1]), episode.query.x[i : i + 1])
        assert_close(answer[i : i + 1], own)


def test_resnet12_has_the_size_that_is_published() -> None:
    """12.4 million parameters, as is told of MetaOptNet's."""
    net = ResNet12(3)
    assert round(sum(p.numel() for p in net.parameters()) / 1e6, 1) == 12.4
    assert net.eval()(torch.rand(2, 3, 84, 84)).shape == (2, 640)


@pytest.mark.parametrize("name", ["auto", "conv4", "conv4-32", "resnet12", "mlp"])
def test_backbones_give_the_size_that_they_say(name: Any) -> None:
    net, size = make_backbone(name, (1, 28, 28))
    assert net.eval()(torch.rand(2, 1, 28, 28)).shape == (2, size)


def test_backbones_refuse_what_they_cannot_read() -> None:
    assert "needs images" in str(unsuited_backbone("conv4", (5,)))
    assert "16 × 16" in str(unsuited_backbone("resnet12", (1, 8, 8)))
    assert unsuited_backbone("auto", (5,)) is None
    assert unsuited_backbone("mlp", (1, 8, 8)) is None


# Matching


@pytest.mark.parametrize("scale", [1.0, 10.0])
def test_matching_is_the_loop_of_its_definition(scale: float) -> None:
    learner, episode = learner_of(Matching(scale=scale)), drawn()
    shown, _, asked = embedded(learner, episode)
    answer = learner(episode.support, episode.query.x)
    for b in range(2):
        for q in range(asked.shape[1]):
            similar = scale * torch.stack([F.cosine_similarity(asked[b, q], s, 0) for s in shown[b]])
            weights = similar.exp() / similar.exp().sum()
            for way in range(3):
                expected = sum(w for w, y in zip(weights, episode.support.y[b], strict=True) if y == way)
                assert_close(answer[b, q, way], torch.as_tensor(expected).log())


def test_matching_never_rules_a_class_out() -> None:
    """One without examples has the least probability, not minus infinity."""
    learner, episode = learner_of(Matching()), drawn()
    y = torch.zeros_like(episode.support.y)
    answer = learner(Examples(episode.support.x, y), episode.query.x)
    assert_close(answer.exp()[..., 1:], torch.full_like(answer[..., 1:], ABSENT))


def test_matching_learns_from_queries_that_it_gets_most_wrong() -> None:
    learner = learner_of(Matching(scale=100.0))
    shown = torch.eye(3)[None]
    asked = torch.tensor([[[0.9, 0.3, 0.3]]]).requires_grad_()
    answer = learner.compare(shown, torch.eye(3)[None], asked)
    assert answer[0, 0, 1] < -50
    answer[0, 0, 1].backward()
    assert asked.grad is not None
    assert asked.grad.norm() > 1


def test_full_context_is_the_paper_s_recurrence() -> None:
    """For one query, by the LSTM's own equations."""
    learner, episode = learner_of(Matching(reads=3)), drawn()
    shown, _, asked = embedded(learner, episode)
    g = shown + learner.around(shown)[0][..., : learner.size] + learner.around(shown)[0][..., learner.size :]
    assert_close(learner.in_context(shown), g)
    cell, f = learner.reader, asked[1, 0]
    hidden, memory = f, torch.zeros_like(f)
    for _ in range(3):
        recalled = (g[1] @ hidden).softmax(0) @ g[1]
        gates = cell.weight_ih @ torch.cat((f, recalled)) + cell.bias_ih + cell.weight_hh @ hidden + cell.bias_hh
        i, forget, new, out = gates.chunk(4)
        memory = forget.sigmoid() * memory + i.sigmoid() * new.tanh()
        hidden = out.sigmoid() * memory.tanh() + f
    assert_close(learner.attended(asked, g)[1, 0], hidden)


def test_a_single_read_sees_the_support() -> None:
    learner, episode = learner_of(Matching(reads=1)), drawn()
    shown, _, asked = embedded(learner, episode)
    assert not torch.allclose(learner.attended(asked, shown), learner.attended(asked, shown.flip(0)))


@pytest.mark.parametrize("reads", [0, 2])
def test_only_full_context_knows_the_order_of_the_support(reads: int) -> None:
    learner, episode = learner_of(Matching(reads=reads)), drawn()
    x, y = episode.support
    forth = learner(episode.support, episode.query.x)
    back = learner(Examples(x.flip(1), y.flip(1)), episode.query.x)
    assert torch.allclose(forth, back) == (reads == 0)


# Relation


def test_relation_is_the_loop_over_pairs() -> None:
    learner, episode = learner_of(Relation()), drawn()
    shown, _, asked = embedded(learner, episode)
    answer = learner(episode.support, episode.query.x)
    for b in range(2):
        for way in range(3):
            summed = shown[b][episode.support.y[b] == way].sum(0)
            for q in range(asked.shape[1]):
                pair = torch.cat((summed, asked[b, q]))
                assert_close(answer[b, q, way], learner.relate(pair[None])[0, 0])


def test_relation_trains_by_squared_error_of_scores() -> None:
    learner, episode = learner_of(Relation()), drawn()
    scores = learner(episode.support, episode.query.x).sigmoid()
    wanted = F.one_hot(episode.query.y, 3)
    assert_close(learner.loss(episode, TASK), (scores - wanted).square().mean())


# R2-D2


def test_r2d2_is_ridge_regression_in_its_other_form() -> None:
    learner, episode = learner_of(R2D2(ridge=0.3)), drawn()
    shown, labels, asked = embedded(learner, episode)
    shown, asked = (torch.cat((x, torch.ones_like(x[..., :1])), -1) for x in (shown, asked))
    mean, eye = 1 / shown.shape[1], torch.eye(learner.size + 1, dtype=torch.float64)
    weights = torch.linalg.solve(mean * shown.mT @ shown + 0.3 * eye, mean * shown.mT @ labels)
    assert_close(learner(episode.support, episode.query.x), 10 * asked @ weights, rtol=1e-6, atol=1e-8)


def test_r2d2_regresses_values() -> None:
    """Fitted to a curve without noise, it goes through the points the more exactly the smaller λ is."""
    task = Sinusoid(shot=6, query=5)
    episode = drawn(task)
    errors = []
    for ridge in (1.0, 1e-2, 1e-6):
        answer = learner_of(R2D2(ridge=ridge), task)(episode.support, episode.support.x)
        errors.append(float((answer - episode.support.y).detach().abs().max()))
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.05


def test_r2d2_refuses_a_system_that_may_have_no_solution() -> None:
    with pytest.raises(BenchError, match="ridge must be above 0"):
        R2D2(ridge=0.0).check()


def test_a_system_without_a_solution_diverges_and_does_not_raise() -> None:
    learner = learner_of(R2D2(ridge=1e-30))
    shown = torch.ones(1, 3, 4, requires_grad=True)
    answer = learner.compare(shown, torch.eye(3)[None], torch.ones(1, 2, 4))
    assert not answer.isfinite().all()
    answer.sum().backward()
    with pytest.raises(BenchError, match=r"scale must not be negative, but is -5"):
        R2D2(scale=-5.0).check()


# Siamese


def test_siamese_loss_is_the_mean_over_pairs_of_either_kind() -> None:
    learner, episode = learner_of(Siamese()), drawn()
    x, y = torch.cat((episode.support.x, episode.query.x), 1), torch.cat((episode.support.y, episode.query.y), 1)
    points, losses = learner.embed(x).sigmoid(), {True: [], False: []}  # type: ignore[var-annotated]
    for b in range(2):
        for i in range(x.shape[1]):
            for j in range(i):
                logit = learner.weigh((points[b, i] - points[b, j]).abs())[0]
                same = bool(y[b, i] == y[b, j])
                losses[same].append(F.softplus(-logit if same else logit))
    expected = sum(torch.stack(kind).mean() for kind in losses.values()) / 2
    assert_close(learner.loss(episode, TASK), torch.as_tensor(expected))


def test_siamese_knows_what_it_has_seen() -> None:
    """The same image has distance 0: with weights below zero no other pair is more alike."""
    learner, episode = learner_of(Siamese()), drawn()
    with torch.no_grad():
        learner.weigh.weight.copy_(-learner.weigh.weight.abs())
    answer = learner(episode.support, episode.support.x)
    assert torch.equal(answer.argmax(-1), episode.support.y)


def test_siamese_tells_unlike_classes_apart_and_from_one_that_is_not_shown() -> None:
    learner = learner_of(Siamese())
    shown, asked = torch.zeros(1, 2, learner.size).double(), torch.zeros(1, 1, learner.size).double()
    shown[0, 0], shown[0, 1] = 1.0, 2.0
    with torch.no_grad():
        learner.weigh.weight.fill_(-10.0)
        learner.weigh.bias.fill_(-30.0)
    labels = F.one_hot(torch.tensor([[2, 0]]), TASK.way).double()
    first, absent, third = learner.compare(shown, labels, asked)[0, 0, :3]
    assert third > first > absent


def test_siamese_trains_on_a_single_input_without_a_word() -> None:
    learner, episode = learner_of(Siamese()), drawn()
    one = Episode(
        Examples(*(part[:, :0] for part in episode.support)), Examples(*(part[:, :1] for part in episode.query))
    )
    loss = learner.loss(one, TASK)
    loss.backward()
    assert loss == 0


# GNN


def test_edges_are_shares_of_the_others() -> None:
    torch.manual_seed(0)
    nodes = torch.randn(2, 5, 7, dtype=torch.float64)
    weights = Edges(7).double()(nodes)
    assert_close(weights.sum(2), torch.ones(2, 5, dtype=torch.float64))
    assert not weights.diagonal(dim1=1, dim2=2).any()


def test_a_graph_has_no_order() -> None:
    learner, episode = learner_of(GNN()), drawn()
    x, y = episode.support
    order = torch.randperm(x.shape[1], generator=torch.Generator().manual_seed(1))
    assert_close(
        learner(Examples(x[:, order], y[:, order]), episode.query.x), learner(episode.support, episode.query.x)
    )


# SNAIL


def test_convolutions_look_back_as_far_as_they_say() -> None:
    torch.manual_seed(0)
    block = TemporalConvolution(3, 8, 4).double()
    x = torch.randn(1, 20, 3, dtype=torch.float64, requires_grad=True)
    answer = block(x)
    assert answer.shape == (1, 20, block.size)
    (gradient,) = torch.autograd.grad(answer[0, 15].sum(), x)
    seen = gradient[0].any(1).nonzero().flatten().tolist()
    assert seen == list(range(8, 16))


def test_convolutions_that_reach_before_the_first_step_find_zeros_and_cost_no_memory() -> None:
    torch.manual_seed(0)
    block = TemporalConvolution(3, 10**9, 2).double()
    x = torch.randn(2, 5, 3, dtype=torch.float64)
    h = x.mT
    for k, convolution in enumerate(block.blocks):
        now, before = h, torch.zeros_like(h) if k > 2 else F.pad(h, (2**k, 0))[..., :5]
        taps = convolution.weight.unbind(2)
        value, gate = (
            sum(w @ part for w, part in zip(taps, (before, now), strict=True))
            .add(convolution.bias[:, None])
            .chunk(2, 1)
        )
        h = torch.cat((h, value.tanh() * gate.sigmoid()), 1)
    torch.testing.assert_close(block(x), h.mT)


def test_snail_sees_a_label_beside_its_image() -> None:
    """In an episode: the same images with other labels are another support."""
    learner, episode = learner_of(SNAIL()), drawn()
    x, y = episode.support
    assert not torch.allclose(
        learner(Examples(x, (y + 1) % 3), episode.query.x), learner(episode.support, episode.query.x)
    )


def test_what_a_sequence_alone_cannot_normalise_is_refused() -> None:
    task = GlyphsOnline(flat=False)
    assert "set protonet.batch=16" in str(ProtoNet().unsuited(task))
    assert ProtoNet(batch=2).unsuited(task) is ProtoNet(backbone="mlp").unsuited(task) is None
    assert "dealt anew" in str(Siamese().unsuited(GlyphsOnline(flat=False, persistent=2)))
