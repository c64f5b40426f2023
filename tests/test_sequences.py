"""Graves's algorithmic tasks: what is shown, what is scored, what is hidden, and the oracle of the N-grams."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fakes import ToyNearest, ToyOnline
from scipy import stats
from torch import Tensor

from baselines.bayes import Bayes
from baselines.chance import Chance
from baselines.lstm import LSTM
from bench import grid
from bench.api import BenchError, Episode, Examples, Learner, answer, generator
from bench.config import override
from bench.grid import Budget, Cell
from bench.tasks.copying import Copy, RepeatCopy
from bench.tasks.ngram import NGram
from bench.tasks.recall import AssociativeRecall
from bench.tasks.sequences import BitSequences
from bench.tasks.sorting import PrioritySort
from bench.training import Context, run_cell

TASKS = [Copy(), RepeatCopy(), AssociativeRecall(), PrioritySort(), NGram()]


def named(task: BitSequences) -> str:
    return task.name


def parts(task: BitSequences, batch: int = 4, key: Any = "sequences") -> tuple[Tensor, Tensor, Tensor]:
    """Inputs, bits to answer and where they are scored."""
    x, y = task.sample("train", batch, generator(key)).query
    return x, y[..., :-1], y[..., -1]


def lengths(task: BitSequences, draws: int = 400) -> list[int]:
    return [parts(task, 1, key)[0].shape[1] for key in range(draws)]


# What is shown and what is asked


@pytest.mark.parametrize("length", [1, 7, 20])
def test_copy_asks_for_what_it_showed(length: int) -> None:
    x, bits, scored = parts(Copy(length=length))
    assert x.shape == (4, 2 * length + 1, 9)
    assert torch.equal(bits[:, length + 1 :], x[:, :length, :8])
    assert x[:, :, 8].nonzero()[:, 1].tolist() == [length] * 4, "one delimiter"
    assert not x[:, length, :8].any()
    assert not x[:, length + 1 :].any(), "nothing is shown while it is asked"
    assert torch.equal(scored, (torch.arange(2 * length + 1) > length).float().expand(4, -1))


def test_bits_are_fair_and_of_their_own_in_each_sequence() -> None:
    x, _, _ = parts(Copy(length=20), 200)
    ones = int(x[:, :20, :8].sum())
    assert stats.binomtest(ones, 200 * 20 * 8).pvalue > 1e-6
    assert len({row.numpy().tobytes() for row in x}) == 200


def test_a_batch_has_one_length_and_all_are_drawn_alike() -> None:
    counts = np.bincount([(time - 1) // 2 for time in lengths(Copy(longest=5))], minlength=6)
    assert counts[0] == 0
    assert stats.chisquare(counts[1:]).pvalue > 1e-6
    items = np.bincount([(time - 8) // 4 for time in lengths(AssociativeRecall())], minlength=7)
    assert not items[:2].any()
    assert stats.chisquare(items[2:]).pvalue > 1e-6


def test_the_length_of_an_evaluation_may_be_beyond_training() -> None:
    settings = Copy(also=("length=40", "length=120")).evaluations()
    assert [next(t.episodes("test", 3, 0)).query.x.shape[1] for t in settings.values()][1:] == [81, 241]


def test_repeat_copy_asks_for_copies_and_an_end() -> None:
    task = RepeatCopy(length=3, repeats=4)
    x, bits, scored = parts(task)
    assert x.shape == (4, 3 + 1 + 12 + 1, 10)
    shown, asked = x[:, :3, :8], bits[:, 4:]
    for k in range(4):
        assert torch.equal(asked[:, 3 * k : 3 * k + 3, :8], shown)
    assert asked[:, :, 8].nonzero()[:, 1].tolist() == [12] * 4, "one end marker, at the end"
    assert not asked[:, 12, :8].any()
    assert torch.equal(x[:, 3, 8:], torch.tensor([1, task.scaled(4)]).expand(4, -1))
    assert not x[:, 4:].any()
    assert scored.sum(1).tolist() == [13] * 4


def test_the_number_of_repeats_is_scaled() -> None:
    for most in (2, 9, 10):
        numbers = [RepeatCopy(most=most).scaled(k) for k in range(1, most + 1)]
        assert abs(np.mean(numbers)) < 1e-12
        assert abs(np.var(numbers) - 1) < 1e-12
    assert RepeatCopy(most=1).scaled(1) == 0


def test_a_number_of_repeats_is_shown_in_a_test_as_in_training() -> None:
    settings = RepeatCopy(also=("repeats=20",)).evaluations()
    assert next(settings["repeats=20"].episodes("test", 1, 0)).query.x.max() == np.float32(RepeatCopy().scaled(20))
    with pytest.raises(BenchError, match="most=20 would change most"):
        RepeatCopy(also=("most=20",)).evaluations()


def test_recall_asks_for_the_item_after_the_query() -> None:
    seen = set()
    for key in range(60):
        x, bits, scored = parts(AssociativeRecall(), 3, key)
        for row, asked in zip(x, bits, strict=True):
            starts = row[:, 6].nonzero()[:, 0].tolist()
            first, last = row[:, 7].nonzero()[:, 0].tolist()
            items = [row[s + 1 : s + 4, :6] for s in starts]
            query = row[first + 1 : last, :6]
            place = next(i for i, item in enumerate(items) if torch.equal(item, query))
            assert torch.equal(asked[last + 1 :], items[place + 1])
            assert first == 4 * len(items)
            assert last + 4 == len(row)
            assert not row[last + 1 :].any()
            seen.add((len(items), place))
        assert scored[:, -3:].all()
        assert scored.sum(1).tolist() == [3] * 3
    assert seen == {(n, i) for n in range(2, 7) for i in range(n - 1)}, "each item but the last is asked for"


@pytest.mark.parametrize(("fields", "kept"), [("also=", 16), ("length=6", 4), ("kept=20", 20), ("length=1", 1)])
def test_sort_asks_for_the_highest_priorities_first(fields: str, kept: int) -> None:
    task = override(PrioritySort(), fields)
    x, bits, scored = parts(task)
    assert scored.sum(1).tolist() == [kept] * 4
    for row, asked in zip(x, bits, strict=True):
        shown = sorted(row[: task.length], key=lambda step: -step[8].item())
        assert torch.equal(asked[-kept:], torch.stack(shown[:kept])[:, :8])
        assert row[:, 9].nonzero()[:, 0].tolist() == [task.length]
        assert not row[task.length + 1 :].any()
        assert row[: task.length, 8].abs().max() <= 1


# N-grams


def test_ngram_asks_for_each_next_bit_once_its_context_is_there() -> None:
    x, bits, scored = parts(NGram())
    assert x.shape == (4, 199, 1)
    assert scored.sum(1).tolist() == [195] * 4
    assert scored[:, 4:].all()
    assert torch.equal(bits[:, 4:-1], x[:, 5:])


def test_a_context_is_followed_by_ones_as_often_as_a_draw_from_beta_says() -> None:
    x, _, _ = parts(NGram(n=3, length=4000), 300)
    bits = x[..., 0].numpy()
    after = [row[2:][(row[:-2] == 0) & (row[1:-1] == 1)] for row in bits]
    rates = [values.mean() for values in after if len(values) > 200]
    assert len(rates) > 200
    assert stats.kstest(rates, stats.beta(0.5, 0.5).cdf).pvalue > 1e-6


@pytest.mark.parametrize(("n", "time"), [(2, 40), (3, 12), (6, 60), (6, 5), (6, 3)])
def test_the_oracle_counts_as_the_paper_does(n: int, time: int) -> None:
    """Equation 10, bit by bit."""
    x = torch.from_numpy(generator("oracle").integers(2, size=(2, time, 1))).double()
    found = NGram(n=n).optimal(x).sigmoid()
    for row, probabilities in zip(x[..., 0].int().tolist(), found[..., 0].tolist(), strict=True):
        counts: dict[tuple[int, ...], list[int]] = {}
        for t in range(time):
            if t >= n - 1:
                counts.setdefault(tuple(row[t - n + 1 : t]), [0, 0])[row[t]] += 1
            zeros, ones = counts.get(tuple(row[t - n + 2 : t + 1]), (0, 0)) if t >= n - 2 else (0, 0)
            assert math.isclose(probabilities[t], (ones + 0.5) / (ones + zeros + 1), rel_tol=1e-9)


def test_nobody_predicts_better_than_the_oracle() -> None:
    """Bolder, more careful or forgetful estimators pay more; less than the entropy of the tables nobody can pay."""
    task = NGram()
    x, y = task.sample("test", 400, generator("better")).query
    best = task.optimal(x)
    cost = task.score(best, y).mean()
    for other in (0.8 * best, 1.2 * best, torch.cat((torch.zeros(400, 100, 1), task.optimal(x[:, 100:])), 1)):
        assert task.score(other, y).mean() > cost + 0.5
    entropy = 195 * (2 * math.log(2) - 1) / math.log(2)  # of a bit whose probability is drawn from Beta(1/2, 1/2)
    assert entropy < cost < 195 * 0.7
    learner = Bayes().build(task)
    assert torch.equal(answer(learner, Episode(Examples(x[:, :0], y[:, :0]), Examples(x, y)), task), best)


# Loss and score


@pytest.mark.parametrize("task", TASKS, ids=named)
def test_the_score_is_cross_entropy_in_bits_over_scored_steps_alone(task: BitSequences) -> None:
    x, bits, scored = parts(task)
    y = torch.cat((bits, scored[..., None]), 2)
    prediction = torch.randn(*x.shape[:2], task.n_out, generator=torch.Generator().manual_seed(0))
    right = torch.where(bits > 0, prediction.sigmoid(), 1 - prediction.sigmoid()).log2()
    by_hand = torch.stack([-right[b][scored[b] > 0].sum() for b in range(4)])
    torch.testing.assert_close(task.score(prediction, y), by_hand)
    torch.testing.assert_close(task.loss(prediction, y), by_hand.mean() * math.log(2))
    elsewhere = prediction + 100 * (1 - scored[..., None])
    assert torch.equal(task.score(elsewhere, y), task.score(prediction, y))
    assert torch.equal(task.loss(elsewhere, y), task.loss(prediction, y))
    torch.testing.assert_close(task.score(0 * prediction, y), scored.sum(1) * task.n_out)
    assert task.score(1000 * (2 * bits - 1), y).tolist() == [0] * 4
    assert task.correct(2 * bits - 1, y).all()
    assert not task.correct(1 - 2 * bits, y).any()


def test_a_sequence_without_a_scored_step_has_no_loss() -> None:
    prediction = torch.ones(2, 3, 8, requires_grad=True)
    loss = Copy().loss(prediction, torch.zeros(2, 3, 9))
    loss.backward()
    assert loss == 0
    assert prediction.grad is not None
    assert not prediction.grad.any()


# Nothing is fed back


class Nosy(Learner):
    """Notes the labels that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, support: Examples, query_x: Tensor) -> Tensor:
        self.seen.append(support.y)
        return query_x.new_zeros(*query_x.shape[:2], 8)


def test_a_learner_is_given_no_label() -> None:
    task, learner = Copy(length=2), Nosy()
    episode = task.sample("train", 3, generator("nosy"))
    assert answer(learner, episode, task).shape == (3, 5, 8)
    assert [tuple(y.shape) for y in learner.seen] == [(3, t, 0) for t in range(5)]
    online = ToyOnline(way=8)
    shown = online.sample("train", 3, generator("nosy"))
    answer(learner, shown, online)
    assert torch.equal(learner.seen[-1], shown.query.y[:, :-1]), "where labels are shown, they are"


@pytest.mark.parametrize("task", TASKS, ids=named)
def test_an_encoded_label_is_empty(task: BitSequences) -> None:
    _, y = task.sample("train", 2, generator("empty")).query
    assert task.y_size == 0
    assert task.encode(y).shape == (*y.shape[:2], 0)
    assert task.encode(y[..., :0]).shape == (*y.shape[:2], 0)


# Learning and records


def test_an_lstm_learns_a_small_copy() -> None:
    task, config = Copy(bits=4, length=2), LSTM(size=48, lr=1e-2)
    torch.manual_seed(0)
    learner = config.build(task)
    optimiser, losses = config.optimiser(learner), []
    for step in range(250):
        optimiser.zero_grad()
        loss = learner.loss(task.sample("train", 16, generator("learn", step)), task)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert abs(np.mean(losses[:3]) - 8 * math.log(2)) < 0.4
    assert np.mean(losses[-25:]) < 2


def test_a_record_says_when_a_task_counts_as_solved(tmp_path: Path) -> None:
    budget = Budget(steps=2, validations=1, val_episodes=2, test_episodes=2)
    record = run_cell(Cell(LSTM(size=4), Copy(also=("length=3",)), 0, budget), Context(tmp_path))
    assert record.result["metric"] == "bits per sequence"
    assert record.result["solved"] == Copy.solved == 0.1
    assert not record.result["higher_is_better"]
    assert record.result["evaluations"][""]["by_instance"] is None
    assert record.result["evaluations"]["length=3"]["mean"] == pytest.approx(24, rel=0.3)
    chance = run_cell(Cell(Chance(), Copy(length=5), 0, budget), Context(tmp_path))
    assert chance.result["evaluations"][""]["mean"] == 40
    assert "solved" not in run_cell(Cell(ToyNearest(), ToyOnline(), 0, budget), Context(tmp_path)).result


def test_the_suite_names_cells_that_can_run() -> None:
    plan = grid.plan("algorithmic", offline=True)
    assert {c.task.name for c in plan.cells} >= {t.name for t in TASKS}
    assert not plan.notes


REFUSED = [
    (Copy(), "length=-1", "copy.length must be at least 0, not -1"),
    (Copy(), "longest=0", "copy.longest must be at least 1"),
    (Copy(), "bits=0", "copy.bits must be at least 1"),
    (RepeatCopy(), "repeats=-2", "repeats must be at least 0"),
    (AssociativeRecall(), "items=1", "the last item has no successor"),
    (AssociativeRecall(), "most=1", "the last item has no successor"),
    (PrioritySort(), "kept=21", "kept 21 is more than the 20 vectors shown"),
    (NGram(), "n=1", "n must be 2 to 16"),
    (NGram(), "length=5", "length at least n, not 6 and 5"),
]


@pytest.mark.parametrize(("task", "fields", "says"), REFUSED)
def test_fields_that_do_not_fit_are_one_sentence(task: BitSequences, fields: str, says: str) -> None:
    with pytest.raises(BenchError, match=says):
        override(task, fields).check()
