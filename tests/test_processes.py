"""Gaussian and neural processes: the task, its exact posterior, conditional neural processes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch.testing import assert_close

from baselines.cnp import CNP, LEAST
from baselines.gp import GP
from baselines.pixel_knn import PixelKNN
from bench.api import BenchError, Episode, Examples, generator
from bench.grid import Budget, Cell
from bench.tasks.gaussian import GaussianProcess
from bench.tasks.glyphs import Glyphs
from bench.tasks.sinusoid import Sinusoid
from bench.training import Context, evaluate, run_cell

TASK = GaussianProcess()


def drawn(task: Any, batch: int = 4, key: str = "processes") -> Episode:
    return task.sample("test", batch, generator(key))


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_functions_have_the_covariance_that_is_said(dimensions: int) -> None:
    """Products of values, over many functions, at distances that are alike."""
    task = GaussianProcess(dimensions=dimensions, shot=2, query=1, noise=0.2, length_scale=0.9)
    (x, y), _ = drawn(task, 40_000)
    expected = task.covariance(x.double(), x.double())
    product = (y[:, 0, 0] * y[:, 1, 0]).double()
    for low, high in ((0, 0.5), (0.5, 1), (1, 2)):
        near = ((x[:, 0] - x[:, 1]).norm(dim=1) >= low) & ((x[:, 0] - x[:, 1]).norm(dim=1) < high)
        error = 5 / math.sqrt(int(near.sum()))
        assert float(product[near].mean()) == pytest.approx(float(expected[near, 0, 1].mean()), abs=error)
    assert float(y.var()) == pytest.approx(1 + 0.2**2, rel=0.03)


def test_gp_is_the_normal_distribution_conditioned() -> None:
    """Against the ratio of joint densities, by scipy: p(query | support) = p(query, support) / p(support)."""
    task = GaussianProcess(shot=4, query=1, noise=0.3)
    support, query = drawn(task)
    mean, spread = GP().build(task).distribution(support, query.x)  # type: ignore[attr-defined]
    for b in range(4):
        x = torch.cat((query.x, support.x), 1)[b : b + 1].double()
        covariance = (task.covariance(x, x)[0] + 0.3**2 * torch.eye(5)).numpy()
        values = torch.cat((query.y, support.y), 1)[b, :, 0].double().numpy()
        joint = stats.multivariate_normal(np.zeros(5), covariance).logpdf(values)
        seen = stats.multivariate_normal(np.zeros(4), covariance[1:, 1:]).logpdf(values[1:])
        ours = stats.norm(float(mean[b, 0, 0]), float(spread[b, 0, 0])).logpdf(values[0])
        assert ours == pytest.approx(joint - seen, abs=1e-4)


def test_gp_is_as_unsure_as_it_says() -> None:
    support, query = drawn(TASK, 400)
    mean, spread = GP().build(TASK).distribution(support, query.x)  # type: ignore[attr-defined]
    z = (query.y - mean) / spread
    assert float(z.square().mean()) == pytest.approx(1, abs=0.05)
    assert float(z.mean()) == pytest.approx(0, abs=0.1)


def test_nothing_answers_better_than_the_posterior() -> None:
    support, query = drawn(TASK, 200)
    floor = TASK.score(GP().build(TASK)(support, query.x), query.y)
    nearest = TASK.score(PixelKNN(metric="euclid").build(TASK)(support, query.x), query.y)
    assert floor.mean() < nearest.mean()
    assert TASK.noise**2 * 0.9 < floor.mean()


def test_shown_nothing_a_gp_answers_its_prior() -> None:
    _, query = drawn(Sinusoid())
    empty = Examples(query.x[:, :0], query.y[:, :0])
    learner = GP().build(Sinusoid())
    assert learner.distribution(empty, query.x) is None, "it has no noise, so that values shown would have no density"
    mean, spread = learner.posterior(empty, query.x)  # type: ignore[operator]
    assert_close(mean, Sinusoid().mean(query.x.double())[..., None].float())
    assert_close(spread.double()[..., 0].square(), Sinusoid().covariance(query.x.double(), query.x.double())
                 .diagonal(dim1=1, dim2=2), rtol=1e-4, atol=1e-4)  # fmt: skip


def test_moments_of_sine_waves_are_those_of_the_waves() -> None:
    x = torch.tensor([[[-4.0], [0.3], [2.0]]], dtype=torch.float64)
    rng = generator("waves")
    amplitude, phase = rng.uniform(0.1, 5, 400_000), rng.uniform(0, math.pi, 400_000)
    values = amplitude * np.sin(x[0].numpy() - phase)
    assert np.allclose(Sinusoid().mean(x)[0], values.mean(1), atol=0.03)
    assert np.allclose(Sinusoid().covariance(x, x)[0], np.cov(values), atol=0.06)


def test_two_points_tell_a_sine_wave() -> None:
    task = Sinusoid(shot=3)
    support, query = drawn(task, 50)
    assert float(task.score(GP().build(task)(support, query.x), query.y).median()) < 1e-6


def test_gp_needs_a_prior() -> None:
    assert "no mean and covariance" in str(GP().unsuited(Glyphs()))
    assert GP().unsuited(TASK) is None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dimensions": 4}, "must be 1, 2 or 3"),
        ({"query": 0}, "query must be 1 or more"),
        ({"length_scale": 0.0}, "length_scale must be above 0"),
    ],
)
def test_tasks_that_make_no_sense_are_refused(fields: Any, message: str) -> None:
    with pytest.raises(BenchError, match=message):
        GaussianProcess(**fields).check()


# Conditional neural processes


@pytest.mark.parametrize("heads", [0, 4])
def test_cnp_does_not_know_the_order_of_the_support(heads: int) -> None:
    torch.manual_seed(0)
    learner = CNP(size=16, heads=heads).build(TASK).double()
    (x, y), query = drawn(TASK)
    x, y, asked = x.double(), y.double(), query.x.double()
    forth, back = learner(Examples(x, y), asked), learner(Examples(x.flip(1), y.flip(1)), asked)
    assert_close(forth, back)


def test_cnp_trains_by_the_density_of_its_answers() -> None:
    torch.manual_seed(0)
    learner, episode = CNP(size=16).build(TASK), drawn(TASK)
    mean, spread = (part.detach().numpy() for part in learner.distribution(episode.support, episode.query.x))  # type: ignore[attr-defined]
    assert spread.min() >= LEAST
    expected = -stats.norm(mean, spread).logpdf(episode.query.y.numpy()).mean()
    assert float(learner.loss(episode, TASK).detach()) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("heads", [0, 4])
def test_cnp_learns_to_use_the_support(heads: int) -> None:
    """After a short training it answers better than the prior, whose error is 1."""
    torch.manual_seed(0)
    task = GaussianProcess(length_scale=1.0, shot=10, query=20)
    learner = CNP(size=64, heads=heads).build(task)
    optimiser = torch.optim.Adam(learner.parameters(), 2e-3)
    for step in range(300):
        loss = learner.loss(task.sample("train", 16, generator("cnp", step)), task)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    support, query = drawn(task, 100)
    with torch.no_grad():
        assert task.score(learner(support, query.x), query.y).mean() < 0.7


def test_cnp_refuses_what_it_cannot_do() -> None:
    assert "predicts values" in str(CNP().unsuited(Glyphs()))
    with pytest.raises(BenchError, match=r"cnp\.heads must divide cnp\.size"):
        CNP(size=10, heads=4).check()


def test_a_record_holds_how_likely_the_values_were(tmp_path: Path) -> None:
    cell = Cell(GP(), TASK, 0, Budget(steps=0, validations=0, test_episodes=20))
    record = run_cell(cell, Context(tmp_path))
    told = record.result["evaluations"][""]["nll"]
    support, query = next(TASK.episodes("test", 20, 0))
    mean, spread = GP().build(TASK).distribution(support, query.x)  # type: ignore[misc]
    expected = -stats.norm(mean, spread).logpdf(query.y).mean((1, 2))
    assert told["per_episode"][: len(expected)] == pytest.approx(expected.tolist(), rel=1e-4)
    assert told["mean"] == pytest.approx(np.mean(told["per_episode"]), rel=1e-5)
    unsure = Cell(PixelKNN(metric="euclid"), TASK, 0, Budget(steps=0, validations=0, test_episodes=20))
    assert "nll" not in run_cell(unsure, Context(tmp_path)).result["evaluations"][""]


def test_an_answer_that_is_no_number_is_a_divergence_and_no_accident(tmp_path: Path) -> None:
    learner = CNP(size=8).build(TASK)
    with torch.no_grad():
        next(learner.parameters()).fill_(math.nan)
    assert torch.isnan(learner.loss(drawn(TASK), TASK))
    found = evaluate(learner, TASK, "test", 4, 0, Context(tmp_path), whole=True)
    assert math.isnan(found["mean"])
    assert "nll" not in found
