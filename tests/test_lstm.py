"""The LSTM baseline, and what it shares with all learners that read (x_t, y_{t-1}) step by step."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from fakes import Toy, named
from torch import Tensor
from torch.func import functional_call, grad, stack_module_state, vmap

from baselines.lstm import LSTM
from bench.api import BenchError, Examples, Task, TrainedMethod
from mann.attention import MannAttention
from mann.learner import SequenceLearner, fork, previous
from mann.lrua import Mann, MannFF


@named("images")
class Images(Task):
    """Noise; only the shapes matter."""

    @property
    def x_shape(self) -> tuple[int, ...]:
        return (1, 9, 11)

    @property
    def n_out(self) -> int:
        return 3


@named("values")
class Values(Task):
    """Regression of three values from two."""

    kind = "regression"

    @property
    def x_shape(self) -> tuple[int, ...]:
        return (2,)

    @property
    def n_out(self) -> int:
        return 3


SMALL: dict[str, Any] = {"controller_size": 7}
METHODS: dict[str, TrainedMethod] = {
    "lstm": LSTM(size=7),
    "mann": Mann(**SMALL, slots=9, width=4, heads=2),
    "mann-ff": MannFF(**SMALL, slots=9, width=4, heads=2),
    "mann-blind": Mann(**SMALL, slots=9, width=4, heads=2, feed_read=False, gate="controller", write_value="separate"),
    "mann-attention": MannAttention(**SMALL, slots=4, width=6, heads=2),
}
TASKS: dict[str, Task] = {"toy": Toy(), "images": Images(), "values": Values()}


def learner(method: TrainedMethod, task: Task) -> SequenceLearner:
    torch.manual_seed(0)
    built = method.build(task)
    assert isinstance(built, SequenceLearner)
    return built.double().eval()


def examples(task: Task, n: int, batch: int = 2, seed: int = 0) -> Examples:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, n, *task.x_shape, generator=generator, dtype=torch.float64)
    if task.kind == "regression":
        return Examples(x, torch.randn(batch, n, task.n_out, generator=generator, dtype=torch.float64))
    return Examples(x, torch.randint(task.n_out, (batch, n), generator=generator))


every_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS.keys())
every_task = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS.keys())


@every_method
@every_task
@pytest.mark.parametrize("n", [0, 1, 6])
def test_a_query_is_the_step_that_would_have_come_next(method: TrainedMethod, task: Task, n: int) -> None:
    model, support, query = learner(method, task), examples(task, n), examples(task, 3, seed=1)
    answers = model(support, query.x)
    for q in range(3):
        x, y = (torch.cat((a, b[:, q : q + 1]), 1) for a, b in zip(support, query, strict=True))
        torch.testing.assert_close(answers[:, q], model.stream(x, y)[:, -1])


@every_method
def test_a_prediction_sees_neither_its_label_nor_the_future(method: TrainedMethod) -> None:
    model, (x, y) = learner(method, Toy()), examples(Toy(), 8)
    before = model.stream(x, y)
    x2, y2 = x.clone(), y.clone()
    x2[:, 5:], y2[:, 4:] = 9.0, (y[:, 4:] + 1) % 3
    after = model.stream(x2, y2)
    assert torch.equal(after[:, :5], before[:, :5])
    assert not torch.allclose(after[:, 5:], before[:, 5:])


@every_method
def test_the_label_shown_last_matters_at_once(method: TrainedMethod) -> None:
    model, (x, y) = learner(method, Toy()), examples(Toy(), 4)
    changed = y.clone()
    changed[:, 2] = (y[:, 2] + 1) % 3
    difference = (model.stream(x, changed) - model.stream(x, y)).abs().amax((0, 2))
    assert difference[:3].max() == 0 < difference[3]


@every_method
def test_rows_of_a_batch_never_influence_each_other(method: TrainedMethod) -> None:
    model, (x, y) = learner(method, Toy()), examples(Toy(), 6, batch=3)
    changed = x.clone()
    changed[1] = -4.0
    torch.testing.assert_close(model.stream(changed, y)[[0, 2]], model.stream(x, y)[[0, 2]], rtol=0, atol=1e-14)
    torch.testing.assert_close(model.stream(x[:1], y[:1]), model.stream(x, y)[:1])


@every_method
def test_learners_are_functional(method: TrainedMethod) -> None:
    """Two seeds stacked by `torch.func` give the gradients of each by itself."""
    task = Toy()
    support, query = examples(task, 4), examples(task, 2, seed=1)
    models = [method.build(task).double() for _ in range(2)]
    parameters, buffers = stack_module_state(models)

    def loss(weights: dict[str, Tensor]) -> Tensor:
        return task.loss(functional_call(models[0], (weights, buffers), (support, query.x)), query.y)

    stacked = vmap(grad(loss))(parameters)
    task.loss(models[1](support, query.x), query.y).backward()
    for name, parameter in models[1].named_parameters():
        torch.testing.assert_close(stacked[name][1], parameter.grad)


@every_method
@every_task
def test_every_parameter_learns(method: TrainedMethod, task: Task) -> None:
    model, (x, y) = learner(method, task), examples(task, 8)
    task.loss(model.stream(x, y), y).backward()
    silent = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert silent == []


@pytest.mark.parametrize("encoder", ["mlp", "conv"])
@pytest.mark.parametrize("method", [METHODS["lstm"], METHODS["mann"]], ids=["lstm", "mann"])
def test_encoders_work_on_images(method: TrainedMethod, encoder: str) -> None:
    task = Images()
    model = learner(replace(method, encoder=encoder, encoder_size=5), task)  # type: ignore[call-arg]
    support, query = examples(task, 3), examples(task, 2, seed=1)
    answers = model(support, query.x)
    assert answers.shape == (2, 2, 3)
    torch.testing.assert_close(model(support, query.x.flip(1)), answers.flip(1))


@pytest.mark.parametrize("method", [LSTM(encoder="conv"), Mann(encoder="conv")], ids=["lstm", "mann"])
def test_a_convolution_over_no_image_is_refused(method: TrainedMethod) -> None:
    reason = method.unsuited(Toy())
    assert reason is not None
    assert "needs images" in reason
    assert method.unsuited(Images()) is None
    with pytest.raises(BenchError, match="needs images"):
        method.build(Toy())


def test_previous_labels_are_one_step_late() -> None:
    labels = torch.arange(6.0).reshape(1, 3, 2)
    assert previous(labels).tolist() == [[[0, 0], [0, 1], [2, 3]]]


def test_a_fork_repeats_rows_and_keeps_types() -> None:
    state = LSTM(size=2).build(Toy()).initial_state(2, torch.ones(1))
    state = state._replace(hidden=torch.tensor([[1.0, 1], [2, 2]]))
    copies = fork((state, ()), 2)
    assert type(copies[0]) is type(state)
    assert copies[0].hidden.tolist() == [[1, 1], [1, 1], [2, 2], [2, 2]]
    assert copies[1] == ()


@pytest.mark.parametrize("name", ["lstm", "mann", "mann-ff", "mann-attention"])
def test_a_short_training_learns_to_recall(name: str) -> None:
    """Two inputs with random labels, shown again and again: only what was seen earlier in the episode can help."""
    model = learner(METHODS[name], Values()).float()
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    generator = torch.Generator().manual_seed(1)
    losses = []
    for _ in range(80):
        pair = torch.randn(16, 1, 2, generator=generator).repeat(1, 6, 1)
        y = torch.randn(16, 1, 3, generator=generator).repeat(1, 6, 1)
        loss = (model.stream(pair, y)[:, 1:] - y[:, 1:]).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])
