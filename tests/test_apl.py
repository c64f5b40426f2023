from __future__ import annotations

import io
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from bench.api import BenchError, Episode, Examples, Task, generator
from bench.tasks.glyphs import Glyphs, GlyphsOnline
from mann.apl import APL, APLLearner, APLMemory, APLState, nearness

TASK = GlyphsOnline(way=3, length=9, size=20)
SMALL = {"width": 4, "encoder_size": 16, "size": 8, "label_width": 3, "neighbours": 3}


def learner(task: Task = TASK, **options: Any) -> APLLearner:
    torch.manual_seed(0)
    return APL(**SMALL | options).build(task).double()


def examples(task: Task = TASK, key: str = "a", batch: int = 2) -> Examples:
    query = task.sample("train", batch, generator(key)).query
    return Examples(query.x.double(), query.y)


def embeddings(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def transcription(net: APLLearner, x: Tensor, y: Tensor, slots: int) -> tuple[Tensor, list[int]]:
    """Ramalho and Garnelo 2019, §2, for one sequence: logits, and the steps that wrote; lists and loops."""
    k, way = net.memory.options.neighbours, TASK.n_out
    memory: list[tuple[Tensor, int]] = []
    logits, wrote = [], []
    for t, embedding in enumerate(net.embed(x[None])[0].detach()):
        near = sorted(memory, key=lambda item: float((item[0] - embedding).square().sum()))[:k]
        near += [(torch.zeros_like(embedding), -1)] * (k - len(near))
        keys, labels = torch.stack([e for e, _ in near]), torch.tensor([label for _, label in near])
        found = net.decoder(embedding[None], keys[None], labels[None])[0]
        logits.append(found)
        if -found.log_softmax(0)[y[t]] > net.threshold:
            if len(memory) < slots:
                memory.append((embedding, int(y[t])))
            else:
                memory[len(wrote) % slots] = (embedding, int(y[t]))
            wrote.append(t)
    assert net.threshold == pytest.approx(0.75 * math.log(way))
    return torch.stack(logits), wrote


@pytest.mark.parametrize("slots", [3, 4, 100])
def test_equals_the_transcription_of_the_paper(slots: int) -> None:
    net = learner(slots=slots)
    x, y = examples(batch=4)
    trail, _ = net.follow(net.embed(x), y)
    assert 0 < trail.wrote.sum() < trail.wrote.numel(), "some steps must write and some not"
    for row in range(4):
        expected, wrote = transcription(net, x[row], y[row], slots)
        torch.testing.assert_close(net.stream(x, y)[row], expected)
        assert trail.wrote[row].nonzero().ravel().tolist() == wrote


def test_the_nearest_come_first_and_empty_slots_last() -> None:
    memory = APLMemory(slots=5, width=2, neighbours=4)
    state = memory.initial_state(1, torch.zeros(1).double())
    here = torch.tensor([True])
    for place, label in ((1.0, 7), (0.5, 8), (-3.0, 9)):
        state = memory.write(torch.tensor([[place, 0]]).double(), torch.tensor([label]), here, state)
    found = memory.nearest(torch.zeros(1, 1, 2).double(), state)
    assert found.labels[0, 0].tolist() == [8, 7, 9, -1]
    assert found.slots[0, 0, :3].tolist() == [1, 0, 2]
    assert found.embeddings[0, 0, :, 0].tolist() == [0.5, 1.0, -3.0, 0.0]


def test_only_rows_that_are_to_write_do_and_the_oldest_makes_room() -> None:
    memory = APLMemory(slots=2, width=3, neighbours=1)
    state = memory.initial_state(2, torch.zeros(1).double())
    items = embeddings(3, 2, 3)
    for step, item in enumerate(items):
        state = memory.write(item, torch.tensor([step, step]), torch.tensor([True, step == 1]), state)
    assert state.labels.tolist() == [[2, 1], [1, -1]]
    assert state.written.tolist() == [3, 1]
    assert torch.equal(state.embeddings[0], items[[2, 1], 0])
    assert torch.equal(state.embeddings[1, 0], items[1, 1])
    assert not state.embeddings[1, 1].any()


@pytest.mark.parametrize(("sigma", "writes"), [(0.0, 9), (100.0, 0)])
def test_the_threshold_decides_what_is_written(sigma: float, writes: int) -> None:
    net = learner(sigma=sigma)
    _, state = net.follow(net.embed(examples().x), examples().y)
    assert state.written.tolist() == [writes] * 2


def test_what_is_stored_gets_no_gradient_and_the_query_does() -> None:
    net = learner(sigma=0.0)
    x, y = examples()
    x.requires_grad_()
    net.stream(x, y)[:, -1].sum().backward()
    assert x.grad is not None
    assert x.grad[:, -1].any()
    assert not x.grad[:, :-1].any()


def test_the_order_of_neighbours_does_not_matter_and_their_labels_do() -> None:
    net = learner()
    query, near, labels = embeddings(2, 4), embeddings(2, 3, 4, seed=1), torch.tensor([[0, 1, -1], [2, 2, 0]])
    expected = net.decoder(query, near, labels)
    order = [2, 0, 1]
    torch.testing.assert_close(net.decoder(query, near[:, order], labels[:, order]), expected)
    assert not torch.allclose(net.decoder(query, near, labels.flip(1)), expected)


def test_the_decoder_has_the_gradients_of_finite_differences() -> None:
    net = learner()
    inputs = (embeddings(2, 4).requires_grad_(), embeddings(2, 3, 4, seed=1).requires_grad_())
    labels = torch.tensor([[0, 1, -1], [2, 2, 0]])
    assert torch.autograd.gradcheck(lambda q, e: net.decoder(q, e, labels), inputs, fast_mode=True)


def test_nearness_is_the_softmax_of_minus_the_squared_distances() -> None:
    found = nearness(torch.zeros(1, 2), torch.tensor([[[1.0, 0], [0, 2]]]))
    torch.testing.assert_close(found, torch.tensor([[-1.0, -4.0]]).softmax(1))


def test_support_is_taken_in_as_a_stream_is() -> None:
    task = Glyphs(way=3, shot=2, query=1, size=20)
    net = learner(task)
    support, query = (Examples(e.x.double(), e.y) for e in task.sample("train", 2, generator("s")))
    _, state = net.follow(net.embed(support.x), support.y)
    queries = net.embed(query.x)
    expected = net.decode(queries, net.memory.nearest(queries, state))
    torch.testing.assert_close(net(support, query.x), expected)


def test_remembers_across_episodes_when_asked_and_not_otherwise() -> None:
    net = learner(slots=30, sigma=0.0)
    first, second = examples(key="a"), examples(key="b")
    one, two = net.embed(first.x), net.embed(second.x)
    start = net.memory.initial_state(2, one)
    _, state = net.follow(one, first.y, start)
    trail, _ = net.follow(two, second.y, state)
    both, _ = net.follow(torch.cat((one, two), 1), torch.cat((first.y, second.y), 1), start)
    assert torch.equal(trail.neighbours.labels, both.neighbours.labels[:, 9:])
    assert (trail.neighbours.labels[:, 0] >= 0).all()
    alone = net.stream(*second)
    net.stream(*first)
    assert torch.equal(net.stream(*second), alone)


def test_the_state_is_left_as_it_was_and_survives_a_file() -> None:
    memory = APLMemory(slots=3, width=4, neighbours=2)
    state = APLState(embeddings(2, 3, 4), torch.tensor([[0, 1, 2], [3, -1, -1]]), torch.tensor([3, 1]))
    before = [part.clone() for part in state]
    memory.write(embeddings(2, 4, seed=2), torch.tensor([5, 5]), torch.tensor([True, True]), state)
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    for other in (before, torch.load(file, weights_only=True)):
        assert all(torch.equal(a, b) for a, b in zip(state, other, strict=True))


def test_training_learns_to_name_by_the_nearest() -> None:
    net = learner(encoder="flat", width=16, size=32)
    optimiser = torch.optim.Adam(net.parameters(), 3e-3)
    rng = torch.Generator().manual_seed(0)
    codes = torch.randn(30, 400, dtype=torch.float64, generator=rng)

    def episode(batch: int) -> Episode:
        # Which label a code has is drawn for each episode.
        y = torch.randint(3, (batch, 9), generator=rng)
        x = codes[torch.rand(batch, 30, generator=rng).argsort(1)[:, :3].gather(1, y)]
        return Episode(Examples(x[:, :0], y[:, :0]), Examples(x, y))

    for _ in range(150):
        optimiser.zero_grad()
        net.loss(episode(16), TASK).backward()
        optimiser.step()
    query = episode(200).query
    right = net.stream(*query).argmax(2) == query.y
    shown = (query.y[:, :, None] == query.y[:, None]).tril(-1).any(2)
    assert right[shown].double().mean() > 0.9
    trail, _ = net.follow(net.embed(query.x), query.y)
    assert trail.wrote.double().mean() < 0.6, "who knows the class is not surprised"


def test_its_trace_tells_where_it_reads_and_writes() -> None:
    net = learner()
    found = net.trace(*examples())
    assert found.read.shape == found.write.shape == (2, 9, 1, 9)
    assert not found.read[:, 0].any()
    assert (found.read.sum(3) <= 1 + 1e-9).all()
    trail, _ = net.follow(net.embed(examples().x), examples().y)
    assert torch.equal(found.write.sum((2, 3)) > 0, found.gates["surprise"] > net.threshold)
    assert torch.equal(found.gates["surprise"], trail.surprise)


def test_the_surprise_is_the_loss_of_the_answer() -> None:
    net = learner()
    x, y = examples()
    trail, _ = net.follow(net.embed(x), y)
    loss = F.cross_entropy(net.stream(x, y).flatten(0, 1), y.flatten(), reduction="none")
    torch.testing.assert_close(trail.surprise.flatten(), loss)


@pytest.mark.parametrize("wrong", [{"slots": 4}, {"neighbours": 0}, {"width": 0}])
def test_sizes_of_the_memory_that_do_not_fit_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(BenchError, match="neighbours <= slots"):
        APLMemory(**wrong)
    with pytest.raises(BenchError, match="neighbours <= slots"):
        APL(**wrong).check()


@pytest.mark.parametrize("wrong", [{"size": 5}, {"heads": 0}, {"label_width": 0}, {"sigma": -1.0}])
def test_sizes_of_the_decoder_that_do_not_fit_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(BenchError, match="multiple of heads"):
        APL(**wrong).check()
