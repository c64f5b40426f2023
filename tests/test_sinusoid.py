"""The sine task: its distribution, its formula, its splits and what it refuses."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from bench.api import BenchError, Episode, Examples, generator
from bench.tasks.sinusoid import Sinusoid


def fit(examples: Examples) -> tuple[Tensor, Tensor, Tensor]:
    """Amplitude, phase and largest residual of each episode: y = A cos φ sin x - A sin φ cos x is linear."""
    x, y = examples.x.double(), examples.y.double()
    design = torch.cat((x.sin(), -x.cos()), -1)
    solution = torch.linalg.lstsq(design, y).solution
    amplitude = solution.norm(dim=1).squeeze(-1)
    phase = torch.atan2(solution[:, 1, 0], solution[:, 0, 0])
    return amplitude, phase, (design @ solution - y).abs().amax((1, 2))


def many(count: int = 4000) -> Episode:
    return Sinusoid().sample("train", count, generator("sinusoid test"))


def test_shapes_and_dtypes() -> None:
    episode = Sinusoid(shot=5, query=7).sample("test", 3, generator("a"))
    for examples, n in zip(episode, (5, 7), strict=True):
        for values in examples:
            assert values.shape == (3, n, 1)
            assert values.dtype == torch.float32
    assert Sinusoid().x_shape == (1,)
    assert Sinusoid().n_out == Sinusoid().y_size == 1


def test_support_and_query_lie_on_one_sine() -> None:
    episode = many(200)
    both = Examples(*(torch.cat(pair, 1) for pair in zip(*episode, strict=True)))
    amplitude, phase, residual = fit(both)
    assert (residual < 1e-5).all()
    rebuilt = amplitude[:, None, None] * torch.sin(both.x - phase[:, None, None])
    torch.testing.assert_close(rebuilt, both.y.double(), rtol=0, atol=1e-5)


def test_other_episodes_have_other_sines() -> None:
    amplitude, phase, _ = fit(many(500).query)
    assert len(set(amplitude.tolist())) == len(set(phase.tolist())) == 500


@pytest.mark.parametrize(("which", "low", "high"), [(0, 0.1, 5.0), (1, 0.0, math.pi)])
def test_amplitude_and_phase_are_uniform(which: int, low: float, high: float) -> None:
    values = fit(many().query)[which].numpy()
    assert values.min() > low - 1e-3
    assert values.max() < high + 1e-3
    assert stats.kstest(values, "uniform", (low, high - low)).pvalue > 1e-4


def test_amplitude_and_phase_are_independent() -> None:
    amplitude, phase, _ = fit(many().query)
    assert abs(np.corrcoef(amplitude, phase)[0, 1]) < 4 / math.sqrt(4000)


@pytest.mark.parametrize("part", ["support", "query"])
def test_inputs_are_uniform(part: str) -> None:
    x = getattr(many(1000), part).x.flatten().numpy()
    assert np.abs(x).max() <= 5
    assert stats.kstest(x, "uniform", (-5, 10)).pvalue > 1e-4


def test_the_same_key_draws_the_same_bits() -> None:
    first, again = (Sinusoid().sample("test", 4, generator("a")) for _ in range(2))
    other = Sinusoid().sample("test", 4, generator("b"))
    assert torch.equal(first.query.y, again.query.y)
    assert torch.equal(first.support.x, again.support.x)
    assert not torch.equal(first.query.y, other.query.y)


def test_splits_and_seeds_share_no_sine() -> None:
    task = Sinusoid()
    drawn = [
        round(value, 6)
        for split in task.splits
        for seed in range(3)
        for episode in task.episodes(split, 20, seed)
        for value in episode.support.x[:, 0, 0].tolist()
    ]
    assert len(set(drawn)) == len(drawn) == 3 * 3 * 20


def test_training_counts_do_not_change_the_test_episodes() -> None:
    task, other = Sinusoid(), Sinusoid(train_shot=3, train_query=4)
    assert task.training() == Sinusoid(query=10)
    episode = other.training().sample("train", 2, generator("a"))
    assert episode.support.x.shape == (2, 3, 1)
    assert episode.query.x.shape == (2, 4, 1)
    mine, theirs = (next(t.episodes("test", 5, 0)) for t in (task, other))
    assert torch.equal(mine.query.x, theirs.query.x)
    assert Sinusoid(train_query=0).training().sample("train", 2, generator("a")).query.x.shape == (2, 100, 1)


def test_score_is_the_mean_squared_error_of_each_episode() -> None:
    task = Sinusoid(shot=2, query=3)
    query = task.sample("test", 2, generator("a")).query
    shifted = query.y + torch.tensor([1.0, 2.0])[:, None, None]
    torch.testing.assert_close(task.score(shifted, query.y), torch.tensor([1.0, 4.0]))
    assert (task.kind, task.metric, task.higher_is_better) == ("regression", "mse", False)


def test_predicting_zero_costs_the_variance_of_the_family() -> None:
    # E[A²]/2 times 1 - E[cos 2(x - φ)]; the phase average of that cosine vanishes
    expected = (5.0**3 - 0.1**3) / (3 * 4.9) / 2
    y = many().query.y
    assert Sinusoid().score(torch.zeros_like(y), y).mean().item() == pytest.approx(expected, rel=0.06)


def test_an_empty_support_is_an_episode() -> None:
    task = Sinusoid(shot=0)
    task.check()
    assert task.sample("test", 2, generator("a")).support.x.shape == (2, 0, 1)


@pytest.mark.parametrize("wrong", [{"shot": -1}, {"query": 0}, {"train_shot": -1}, {"train_query": -2}])
def test_impossible_counts_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(BenchError, match=next(iter(wrong))):
        Sinusoid(**wrong).check()
