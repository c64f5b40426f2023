from __future__ import annotations

import io
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.api import BenchError
from mann import MANN
from mann.attention import AttentionMemory, AttentionState
from mann.learner import fork


def filled(
    slots: int, stored: int, batch: int = 2, heads: int = 2, width: int = 3
) -> tuple[AttentionMemory, AttentionState]:
    memory = AttentionMemory(slots=slots, width=heads * width, heads=heads)
    generator = torch.Generator().manual_seed(0)
    state = memory.initial_state(batch, torch.zeros(1, dtype=torch.float64))
    for _ in range(stored):
        key, value = torch.randn(2, batch, heads * width, dtype=torch.float64, generator=generator)
        state = memory.write(key, value, state)
    return memory, state


def test_the_first_example_of_the_readme() -> None:
    model = MANN(input_size=10, memory_size=100, hidden_size=64)
    output = model(torch.randn(1, 10))
    assert output.shape == (1, 64)
    assert output.isfinite().all()


def test_a_read_is_softmax_attention_over_what_is_stored() -> None:
    memory, state = filled(slots=7, stored=4)
    query = torch.linspace(-2, 2, 12, dtype=torch.float64).reshape(2, 6)
    read, _ = memory.read(query, state)
    expected = F.scaled_dot_product_attention(
        query.reshape(2, 2, 1, 3), state.keys[:, :, :4], state.values[:, :, :4]
    ).reshape(2, 6)
    torch.testing.assert_close(read, expected)


def test_weights_sum_to_one_and_empty_slots_get_none() -> None:
    memory, state = filled(slots=7, stored=4)
    weights = memory.weights(-100 * torch.ones(2, 6, dtype=torch.float64), state)
    torch.testing.assert_close(weights.sum(2), torch.ones(2, 2, dtype=torch.float64))
    assert (weights[:, :, 4:] == 0).all()


def test_an_empty_memory_reads_as_zeros_with_zero_gradient() -> None:
    memory, state = filled(slots=5, stored=0)
    query = torch.randn(2, 6, dtype=torch.float64, requires_grad=True)
    read, _ = memory.read(query, state)
    read.sum().backward()
    assert (read == 0).all()
    assert query.grad is not None
    assert (query.grad == 0).all()


def test_first_writes_fill_empty_slots_in_order_then_the_oldest_goes() -> None:
    memory = AttentionMemory(slots=3, width=1, heads=1, threshold=1.0)  # no read ever counts as an access
    state = memory.initial_state(1, torch.zeros(1))
    for step, stored in enumerate([[1, 0, 0], [1, 2, 0], [1, 2, 3], [4, 2, 3], [4, 5, 3]], 1):
        _, state = memory(torch.tensor([[0.0, 0.0, step]]), state)
        assert state.values.flatten().tolist() == stored


def test_the_slot_not_read_for_longest_is_overwritten() -> None:
    memory = AttentionMemory(slots=3, width=2, heads=1)
    state = memory.initial_state(1, torch.zeros(1))
    directions = torch.tensor([[1.0, 0], [-1, 0], [0, 1]])
    for key in directions:
        state = memory.write(key[None], key[None], state)
    for index in (0, 2, 0):  # slot 1 is never read
        _, state = memory.read(100 * directions[index][None], state)
    assert state.age.tolist() == [[0, 3, 1]]
    state = memory.write(torch.tensor([[9.0, 9]]), torch.tensor([[7.0, 8]]), state)
    assert state.values[0, 0].tolist() == [[1, 0], [7, 8], [0, 1]]
    assert state.keys[0, 0].tolist() == [[1, 0], [9, 9], [0, 1]]
    assert state.age.tolist() == [[0, 0, 1]]


@pytest.mark.parametrize(("threshold", "age"), [(0.2, [0, 0]), (0.6, [1, 1])])
def test_a_read_counts_as_access_above_the_threshold(threshold: float, age: list[float]) -> None:
    memory = AttentionMemory(slots=2, width=2, heads=1, threshold=threshold)
    state = memory.initial_state(1, torch.zeros(1))
    for _ in range(2):
        state = memory.write(torch.ones(1, 2), torch.ones(1, 2), state)
    assert memory.read(torch.ones(1, 2), state)[1].age.tolist() == [age]


def test_a_memory_step_reads_before_it_writes_and_leaves_the_state_alone() -> None:
    memory, state = filled(slots=4, stored=2)
    before = [part.clone() for part in state]
    interface = torch.randn(2, memory.interface_size, dtype=torch.float64)
    read, after = memory(interface, state)
    torch.testing.assert_close(read, memory.read(interface[:, :6], state)[0])
    assert all(torch.equal(a, b) for a, b in zip(state, before, strict=True))
    torch.testing.assert_close(after.values[:, :, 2].flatten(1), interface[:, 12:])


def test_gradients_reach_back_through_memory() -> None:
    memory = AttentionMemory(slots=3, width=4, heads=2)

    def reads(steps: Tensor) -> Tensor:
        state = memory.initial_state(2, steps)
        collected = []
        for interface in steps:
            read, state = memory(interface, state)
            collected.append(read)
        return torch.stack(collected)

    steps = torch.randn(5, 2, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(2), requires_grad=True)
    assert torch.autograd.gradcheck(reads, (steps,))


class PerImage(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 25, 8))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


VARIANTS: dict[str, dict[str, Any]] = {
    "mlp": {"input_size": 5},
    "heads": {"input_size": 5, "heads": 4},
    "output": {"input_size": 5, "output_size": 3},
    "cnn": {"input_size": (1, 5, 5), "encoder": PerImage},
    "rnn": {"input_size": 5, "encoder": lambda: nn.RNN(5, 8, batch_first=True)},
    "gru": {"input_size": 5, "encoder": lambda: nn.GRU(5, 8, num_layers=2, batch_first=True)},
    "lstm": {"input_size": 5, "encoder": lambda: nn.LSTM(5, 8, batch_first=True)},
}


def make(variant: str) -> tuple[MANN, Tensor]:
    torch.manual_seed(0)
    options = dict(VARIANTS[variant])
    if "encoder" in options:
        options["encoder"] = options["encoder"]()
    model = MANN(memory_size=4, hidden_size=8, **options).double()
    return model, torch.randn(3, 7, *model.input_shape, dtype=torch.float64)


every_variant = pytest.mark.parametrize("variant", VARIANTS)


@every_variant
def test_a_sequence_equals_its_steps_with_the_state_carried(variant: str) -> None:
    model, x = make(variant)
    whole = model(x)
    state, steps = model.initial_state(3, x), []
    for t in range(7):
        output, state = model(x[:, t], state)
        steps.append(output)
    torch.testing.assert_close(torch.stack(steps, 1), whole)
    first, state = model(x[:, :3], return_state=True)
    second, _ = model(x[:, 3:], state)
    torch.testing.assert_close(torch.cat((first, second), 1), whole)


@every_variant
def test_the_past_matters_and_the_future_and_other_rows_do_not(variant: str) -> None:
    model, x = make(variant)
    before = model(x)
    late, early, row = x.clone(), x.clone(), x.clone()
    late[:, 4:], early[:, 0], row[1] = 3.0, 3.0, 3.0
    assert torch.equal(model(late)[:, :4], before[:, :4])
    assert not torch.allclose(model(early)[:, -1], before[:, -1])
    torch.testing.assert_close(model(row)[[0, 2]], before[[0, 2]], rtol=0, atol=1e-14)


@every_variant
def test_every_parameter_learns(variant: str) -> None:
    model, x = make(variant)
    model(x).square().sum().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


@every_variant
def test_a_call_changes_neither_the_state_nor_the_next_call(variant: str) -> None:
    model, x = make(variant)
    _, state = model(x, return_state=True)
    kept = fork(state, 1)
    assert torch.equal(model(x[:, 0], state)[0], model(x[:, 0], state)[0])
    assert torch.equal(model(x), model(x))
    torch.testing.assert_close(tuple(state.memory), tuple(kept.memory), rtol=0, atol=0)
    branch, _ = model(x[:1, 0].repeat(2, *[1] * len(model.input_shape)), fork(model(x[:1], return_state=True)[1], 2))
    torch.testing.assert_close(branch[0], branch[1])


def test_the_output_alone_unless_the_state_is_asked_for() -> None:
    model, x = make("mlp")
    assert isinstance(model(x), Tensor)
    output, state = model(x, return_state=True)
    assert isinstance(model(x, state, return_state=False), Tensor)
    torch.testing.assert_close(output, model(x))


def test_two_hundred_steps_of_zero_or_huge_inputs_stay_finite() -> None:
    torch.manual_seed(0)
    model = MANN(input_size=5, memory_size=8, hidden_size=8)
    for scale in (0.0, 1e4, -1e4):
        x = torch.full((2, 200, 5), scale, requires_grad=True)
        output = model(x)
        output.sum().backward()
        assert output.isfinite().all()
        assert x.grad is not None
        assert x.grad.isfinite().all()


def test_it_learns() -> None:
    """Four cues, each with a random bit; then one of the cues without its bit."""
    torch.manual_seed(0)
    model = MANN(input_size=5, memory_size=6, hidden_size=32, output_size=1)
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    losses = []
    for _ in range(60):
        cues = torch.eye(4)[torch.stack([torch.randperm(4) for _ in range(32)])]
        bits = torch.randint(2, (32, 4, 1)).float()
        asked = torch.randint(4, (32, 1, 1))
        question = torch.cat((cues.gather(1, asked.expand(-1, 1, 4)), torch.zeros(32, 1, 1)), 2)
        x = torch.cat((torch.cat((cues, 2 * bits - 1), 2), question), 1)
        loss = F.binary_cross_entropy_with_logits(model(x)[:, -1], bits.gather(1, asked)[:, 0])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) / 10 < 0.9 * math.log(2)


@pytest.mark.parametrize("shape", [(10,), (1, 9), (1, 2, 3, 10), (1, 0, 10)])
def test_inputs_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(BenchError, match=r"\[batch, time"):
        MANN(input_size=10, memory_size=4, hidden_size=8)(torch.zeros(shape))


@pytest.mark.parametrize(
    "wrong",
    [
        {"memory_size": 0},
        {"hidden_size": 9, "heads": 2},
        {"input_size": 0},
        {"encoder": nn.GRU(5, 8)},
        {"encoder": nn.GRU(5, 8, batch_first=True, bidirectional=True)},
        {"encoder": nn.LSTM(5, 7, batch_first=True)},
    ],
)
def test_sizes_that_do_not_fit_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(BenchError, match="hidden_size"):
        MANN(**{"input_size": 5, "memory_size": 4, "hidden_size": 8} | wrong)


@pytest.mark.parametrize("wrong", [{"slots": 0}, {"heads": 0}, {"width": 6, "heads": 4}])
def test_a_memory_of_odd_sizes_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(BenchError, match="multiple of heads"):
        AttentionMemory(**wrong)


def test_the_state_of_a_whole_network_survives_a_file() -> None:
    model = MANN(input_size=3, memory_size=4, hidden_size=2, encoder=nn.LSTM(3, 2, batch_first=True))
    _, state = model(torch.randn(2, 5, 3), return_state=True)
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    again = torch.load(file, weights_only=True)
    x = torch.randn(2, 3)
    torch.testing.assert_close(model(x, again)[0], model(x, state)[0])


def test_an_encoder_that_does_nothing_is_an_encoder() -> None:
    empty = torch.nn.Sequential()
    assert MANN(input_size=8, memory_size=4, hidden_size=8, encoder=empty).encoder is empty
