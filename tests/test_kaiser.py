from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from bench.api import BenchError, Episode, Examples, Task, generator
from bench.tasks.glyphs import GlyphsOnline
from mann.kaiser import FLOOR, Kaiser, KaiserLearner, KaiserMemory, KaiserState, best, not_of_classes

TASK = GlyphsOnline(way=3, length=9, size=20)


def sequence(steps: int, batch: int = 2, width: int = 3, classes: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    keys = F.normalize(torch.randn(batch, steps, width, dtype=torch.float64, generator=rng), dim=2)
    return keys, torch.randint(classes, (batch, steps), generator=rng)


def fill(memory: KaiserMemory, keys: Tensor, values: Tensor, state: KaiserState | None = None) -> list[KaiserState]:
    states = [memory.initial_state(len(keys), keys) if state is None else state]
    for key, value in zip(keys.unbind(1), values.unbind(1), strict=True):
        states.append(memory.write(key, value, states[-1])[0])
    return states


def learner(task: Task = TASK, **options: Any) -> KaiserLearner:
    torch.manual_seed(0)
    return Kaiser(**{"width": 8, "encoder_size": 16} | options).build(task).double()


def transcription(
    keys: np.ndarray, values: np.ndarray, slots: int, noise: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Kaiser 2017, §2, for one sequence; written from the paper, with empty slots apart."""
    k: list[Any] = [None] * slots
    v, a = [-1] * slots, [0] * slots
    for t, (q, value) in enumerate(zip(keys, values, strict=True)):
        full = [n for n in range(slots) if k[n] is not None]
        near = max(full, key=lambda n: float(q @ k[n])) if full else None
        if near is not None and v[near] == value:
            chosen, new = near, q + k[near]
        else:
            free = [n for n in range(slots) if k[n] is None]
            chosen, new = free[0] if free else max(full, key=lambda n: a[n] + noise(t)[n]), q
        k[chosen], v[chosen] = new / np.sqrt(new @ new), int(value)
        a = [age + 1 for age in a]
        a[chosen] = 0
    ages = [float(age) if key is not None else np.inf for age, key in zip(a, k, strict=True)]
    return np.array([key if key is not None else np.zeros(keys.shape[1]) for key in k]), np.array(v), np.array(ages)


@pytest.mark.parametrize("age_noise", [0.0, 3.0])
@pytest.mark.parametrize("slots", [1, 4, 30])
def test_equals_the_transcription_of_the_paper(slots: int, age_noise: float) -> None:
    memory = KaiserMemory(slots=slots, width=3, age_noise=age_noise)
    keys, values = sequence(25)
    states = fill(memory, keys, values)
    for row in range(2):
        expected = transcription(
            keys[row].numpy(), values[row].numpy(), slots, lambda t, row=row: memory.noise(states[t])[row].numpy()
        )
        for found, wanted in zip(states[-1][:3], expected, strict=True):
            np.testing.assert_allclose(found[row].numpy(), wanted, rtol=1e-12, atol=1e-12)


def test_a_hit_turns_the_key_to_the_mean_and_makes_it_young() -> None:
    memory = KaiserMemory(slots=4, width=2, age_noise=0.0)
    keys = torch.tensor([[[1.0, 0], [0, -1], [0, 1]]]).double()
    state = fill(memory, keys[:, :2], torch.tensor([[7, 8]]))[-1]
    after, slot = memory.write(torch.tensor([[0.6, 0.8]]).double(), torch.tensor([7]), state)
    assert slot.tolist() == [0]
    torch.testing.assert_close(after.keys[0, 0], torch.tensor([1.6, 0.8]).double() / math.hypot(1.6, 0.8))
    assert after.ages[0, :2].tolist() == [0, 1]
    assert after.values[0].tolist() == [7, 8, -1, -1]


def test_a_miss_goes_to_the_oldest_slot() -> None:
    memory = KaiserMemory(slots=3, width=3, age_noise=0.0)
    keys = torch.eye(3).double()[None]
    full = fill(memory, keys, torch.tensor([[0, 1, 2]]))[-1]
    young = memory.write(keys[:, 0], torch.tensor([0]), full)[0]
    after, slot = memory.write(keys[:, 0], torch.tensor([5]), young)
    assert slot.tolist() == [1]
    assert torch.equal(after.keys[0, 1], keys[0, 0])
    assert after.values[0].tolist() == [0, 5, 2]


def test_noise_is_bounded_spread_and_the_same_again() -> None:
    memory = KaiserMemory(slots=500, width=3, age_noise=8.0)
    state = memory.initial_state(2, torch.zeros(1).double())
    draws = torch.stack([memory.noise(state._replace(step=torch.full((2,), step))) for step in range(40)])
    assert draws.abs().max() <= 8
    assert torch.equal(draws[3], memory.noise(state._replace(step=torch.full((2,), 3))))
    uniform = draws[:, 0] / 16 + 0.5
    counts = torch.histc(uniform, 10, 0, 1) / uniform.numel()
    assert (counts - 0.1).abs().max() < 0.01
    for one, two in ((uniform[:-1], uniform[1:]), (uniform[:, :-1], uniform[:, 1:])):
        assert abs(torch.corrcoef(torch.stack((one.flatten(), two.flatten())))[0, 1]) < 0.05


def test_keys_have_unit_length_and_rows_never_influence_each_other() -> None:
    memory = KaiserMemory(slots=5, width=3)
    keys, values = sequence(20, batch=3)
    other = keys.clone()
    other[1] = -other[1].flip(0)
    a, b = fill(memory, keys, values)[-1], fill(memory, other, values)[-1]
    torch.testing.assert_close(a.keys.norm(dim=2), torch.ones(3, 5).double())
    for one, two in zip(a, b, strict=True):
        assert torch.equal(one[[0, 2]], two[[0, 2]])
    assert not torch.equal(a.keys[1], b.keys[1])


def test_room_for_fewer_slots_changes_nothing_that_is_found() -> None:
    memory = KaiserMemory(slots=50, width=3)
    keys, values = sequence(12)
    whole = fill(memory, keys, values)[-1]
    small = fill(memory, keys, values, memory.initial_state(2, keys, writes=12))[-1]
    assert small.keys.shape[1] == 12
    for one, two in zip(whole[:3], small[:3], strict=True):
        assert torch.equal(one[:, :12], two)
    assert (whole.values[:, 12:] == -1).all()


def test_the_state_is_left_as_it_was_and_survives_a_file() -> None:
    memory = KaiserMemory(slots=5, width=3)
    keys, values = sequence(4)
    state = fill(memory, keys, values)[-1]
    before = [part.clone() for part in state]
    memory.write(keys[:, 0], values[:, 1], state)
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    for other in (before, torch.load(file, weights_only=True)):
        assert all(torch.equal(a, b) for a, b in zip(state, other, strict=True))


def test_remembers_across_episodes_when_asked_and_not_otherwise() -> None:
    net = learner(slots=20)
    first, second = (TASK.sample("train", 2, generator(key)).query for key in ("a", "b"))
    x = first.x.double()
    start = net.memory.initial_state(2, x)
    _, state = net.follow(x, first.y, start)
    trail, _ = net.follow(second.x.double(), second.y, state)
    assert torch.equal(trail.values[:, 0], state.values)
    both, _ = net.follow(torch.cat((x, second.x.double()), 1), torch.cat((first.y, second.y), 1), start)
    torch.testing.assert_close(trail.similarities, both.similarities[:, 9:])
    alone = net.stream(second.x.double(), second.y)
    net.stream(x, first.y)
    assert torch.equal(net.stream(second.x.double(), second.y), alone)


def test_predictions_are_votes_of_the_nearest() -> None:
    net = learner(neighbours=2, inverse_temperature=1.0)
    similarities = torch.tensor([0.9, 0.1, 0.8, 0.0]).double()
    values = torch.tensor([2, 0, 0, -1])
    weights = torch.tensor([0.9, 0.8]).double().softmax(0)
    expected = torch.stack((weights[1] + FLOOR, torch.tensor(FLOOR).double(), weights[0] + FLOOR)).log()
    torch.testing.assert_close(net.predict(similarities, values), expected)
    empty = net.predict(similarities, torch.full((4,), -1))
    torch.testing.assert_close(empty, torch.full((3,), math.log(FLOOR)).double())


def test_one_neighbour_answers_as_the_paper_does() -> None:
    net = learner(neighbours=1)
    query = TASK.sample("train", 3, generator("one")).query
    trail, _ = net.follow(query.x.double(), query.y)
    for t in range(1, 9):
        stored = trail.similarities[:, t].masked_fill(trail.values[:, t] < 0, -math.inf)
        nearest = trail.values[:, t].gather(1, stored.argmax(1, keepdim=True)).squeeze(1)
        assert torch.equal(net.predict(trail.similarities, trail.values)[:, t].argmax(1), nearest)


def test_of_equally_near_slots_the_first_answers() -> None:
    """Where it writes, the first is the nearest too."""
    alike, values = torch.full((4,), 0.5).double(), torch.tensor([2, 0, 1, -1])
    assert learner(neighbours=1).confidence(alike, values).tolist() == [1, 0, 0, 0]
    assert learner(neighbours=2).confidence(alike, values).tolist() == [0.5, 0.5, 0, 0]


def test_the_loss_is_the_margin_over_the_nearest_of_each_kind() -> None:
    net = learner(margin=0.3)
    episode = TASK.sample("train", 2, generator("loss"))
    x, y = episode.query.x.double(), episode.query.y
    trail, _ = net.follow(x, y)
    total = 0.0
    for b in range(2):
        for t in range(9):
            right, wrong = [0.0], [0.0]
            for s, v in zip(trail.similarities[b, t].tolist(), trail.values[b, t].tolist(), strict=True):
                if v >= 0:
                    (right if v == y[b, t] else wrong).append(s)
            p, n = (max(each[1:] or each) for each in (right, wrong))
            total += max(0.0, n - p + 0.3) / 18
    loss = net.loss(Episode(episode.support, Examples(x, y)), TASK)
    assert loss.item() == pytest.approx(total)


def test_the_largest_of_none_is_zero_without_gradient() -> None:
    similarities = torch.tensor([[-0.5, -0.2], [0.3, 0.4]]).double().requires_grad_()
    found = best(similarities, torch.tensor([[True, False], [False, False]]))
    assert found.tolist() == [-0.5, 0.0]
    found.sum().backward()
    assert similarities.grad is not None
    assert similarities.grad.tolist() == [[1, 0], [0, 0]]


def test_training_separates_the_classes() -> None:
    net = learner(encoder="flat")
    optimiser = torch.optim.Adam(net.parameters(), 1e-2)
    rng = torch.Generator().manual_seed(0)

    def episode(batch: int) -> Episode:
        # Three numbers tell the class, ten others do not.
        y = torch.randint(3, (batch, 9), generator=rng)
        x = 3 * torch.randn(batch, 9, 400, dtype=torch.float64, generator=rng)
        x[..., :3] = 5 * F.one_hot(y, 3).double()
        x[..., 13:] = 0
        return Episode(Examples(x[:, :0], y[:, :0]), Examples(x, y))

    def accuracy() -> float:
        query = episode(100).query
        return float((net.stream(*query).argmax(2) == query.y)[:, 5:].double().mean())

    before = accuracy()
    for _ in range(150):
        optimiser.zero_grad()
        net.loss(episode(16), TASK).backward()
        optimiser.step()
    assert accuracy() > max(0.8, before + 0.2)


def test_its_trace_tells_where_it_reads_and_writes() -> None:
    net = learner()
    query = TASK.sample("train", 2, generator("trace")).query
    found = net.trace(query.x.double(), query.y)
    assert found.read.shape == found.write.shape == (2, 9, 1, 9)
    assert not found.read[:, 0].any()
    torch.testing.assert_close(found.read[:, 1:].sum(3), torch.ones(2, 8, 1).double())
    assert (found.write.sum(3) == 1).all()
    assert found.usage is not None
    assert (found.usage[:, 0] == -math.inf).all()


def test_what_shows_no_class_ids_is_refused() -> None:
    assert not_of_classes(TASK) is None
    assert "string" in str(not_of_classes(GlyphsOnline(labels="string")))


@pytest.mark.parametrize("wrong", [{"slots": 0}, {"width": 0}, {"age_noise": -1.0}])
def test_sizes_that_do_not_fit_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(BenchError, match="at least 1"):
        KaiserMemory(**wrong)
    with pytest.raises(BenchError, match="kaiser"):
        Kaiser(**wrong).check()


@pytest.mark.parametrize("wrong", [{"neighbours": 0}, {"inverse_temperature": 0.0}, {"margin": -0.1}])
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(BenchError, match="neighbours of at least 1"):
        Kaiser(**wrong).check()
