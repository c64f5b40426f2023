"""An LSTM matched to a memory method in parameters or in arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from fakes import Toy
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from baselines.lstm import LSTM
from baselines.matched import LSTMMatched, compute, nearest, params, quadratic
from bench import registry
from bench.api import BenchError, Examples, Task
from bench.tasks.copying import Copy
from bench.tasks.glyphs import GlyphsOnline
from mann.learner import MemoryMethod, SequenceLearner

registry.load()
MEMORIES = sorted(name for name, cls in registry.METHODS.entries.items() if issubclass(cls, MemoryMethod))
IMAGES = GlyphsOnline(flat=False, size=12)
TASKS: dict[str, Task] = {"toy": Toy(), "copy": Copy(), "images": IMAGES, "string": replace(IMAGES, labels="string")}


def counted(learner: nn.Module) -> int:
    return sum(p.numel() for p in learner.parameters())


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS.keys())
@pytest.mark.parametrize("of", MEMORIES)
def test_parameters_are_those_of_the_memory_to_one_percent(of: str, task: Task) -> None:
    method = LSTMMatched(of=of)
    assert counted(method.build(task)) == pytest.approx(counted(method.matched.build(task)), rel=0.01)


@pytest.mark.parametrize("encoder", ["mlp", "conv", "rnn"])
def test_the_encoder_is_that_of_the_memory(encoder: str) -> None:
    method = LSTMMatched(settings=f"encoder={encoder},encoder_size=24")
    own, theirs = method.build(IMAGES), method.matched.build(IMAGES)
    assert [p.shape for p in own.encoder.parameters()] == [p.shape for p in theirs.encoder.parameters()]
    assert counted(own) == pytest.approx(counted(theirs), rel=0.01)


def test_no_other_size_is_nearer() -> None:
    task, method = Toy(), LSTMMatched(settings="slots=16,width=8")
    wanted = counted(method.matched.build(task))
    size = method.size(task)
    misses = [abs(counted(LSTM(size=s).build(task)) - wanted) for s in (size - 1, size, size + 1)]
    assert min(misses) == misses[1]


@pytest.mark.parametrize("settings", ["", "controller=feed-forward,encoder=conv,encoder_size=8", "ablate=other"])
@pytest.mark.parametrize("of", ["mann", "sam"])
def test_operations_are_those_of_the_memory_to_five_percent(of: str, settings: str) -> None:
    """Counted over a sequence of the task, not the one that the size was sought with; the LSTM's step by step."""
    task, method = replace(IMAGES, length=50), LSTMMatched(of=of, settings=settings, by="compute")
    x, label = torch.randn(2, task.length, *task.x_shape), torch.randn(2, task.length, task.y_size)
    memory = method.matched.build(task)
    memory.use("reference")
    with FlopCounterMode(display=False) as counter:
        memory.run(x, label, memory.initial_state(2, x))[0].sum().backward()
    ours, (rows, steps, width) = method.build(task), (2, task.length, method.size(task))
    with FlopCounterMode(display=False) as around:  # encoder and output: the LSTM itself is not counted on the CPU
        ours.run(x, label, ours.initial_state(2, x))[0].sum().backward()
    inputs = 2 * 3 * rows * steps * 4 * width * width  # hidden to gates: forward, and two gradients
    inputs += 2 * 2 * rows * steps * 4 * width * (ours.encoder.size + task.y_size)  # input to gates: no gradient of x
    if settings.count("encoder=conv"):
        inputs += 2 * rows * steps * 4 * width * ours.encoder.size
    assert inputs + around.get_total_flops() == pytest.approx(counter.get_total_flops(), rel=0.05)


def test_a_count_is_of_both_passes() -> None:
    learner, task = LSTMMatched().matched.build(Toy()), Toy()
    assert params(learner, task) == counted(learner)
    assert compute(learner, task) == compute(learner, task) > 2 * counted(learner)
    assert all(p.grad is None or not p.grad.isnan().any() for p in learner.parameters())


@pytest.mark.parametrize("by", ["params", "compute"])
def test_a_size_is_one_in_all_settings_of_a_task_and_takes_no_random_number(by: str) -> None:
    method = LSTMMatched(of="ntm", by=by)  # type: ignore[arg-type]
    torch.manual_seed(3)
    before = torch.get_rng_state()
    assert method.size(Copy(length=7)) == method.size(Copy(length=120))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_larger_memory_gets_a_larger_lstm() -> None:
    small, large = (LSTMMatched(settings=f"width={width}").size(Toy()) for width in (20, 80))
    assert small < large


@pytest.mark.parametrize("cost", [params, compute])
@pytest.mark.parametrize("encoder", ["flat", "conv", "rnn"])
def test_three_sizes_tell_all(encoder: str, cost: Callable[[SequenceLearner, Task], int]) -> None:
    def at(size: int) -> int:
        with torch.device("meta"):
            return cost(LSTM(size=size, encoder=encoder, encoder_size=5).build(IMAGES), IMAGES)  # type: ignore[arg-type]

    assert quadratic(at(1), at(2), at(3))(57) == at(57)


@pytest.mark.parametrize("wanted", range(1, 40))
def test_nearest(wanted: int) -> None:
    best = min(range(1, 40), key=lambda n: (abs(n * n + n - wanted), n))
    assert nearest(lambda n: n * n + n, wanted) == best


@pytest.mark.parametrize(
    ("method", "sentence"),
    [
        (LSTMMatched(of="man"), "there is no method 'man'; did you mean mann"),
        (LSTMMatched(of="lstm-matched"), "must be a method around a memory, such as mann, and 'lstm-matched' is none"),
        (LSTMMatched(of="protonet"), "'protonet' is none"),
        (LSTMMatched(settings="slot=3"), "there is no field of mann 'slot'; did you mean slots"),
        (LSTMMatched(settings="slots"), "'slots' is not a setting"),
        (LSTMMatched(settings="slots=2"), "LRUA needs"),
    ],
)
def test_what_cannot_be_matched_is_refused(method: LSTMMatched, sentence: str) -> None:
    with pytest.raises(BenchError, match=sentence):
        method.check()


def test_what_does_not_suit_the_memory_does_not_suit_its_match() -> None:
    assert LSTMMatched(settings="encoder=conv").unsuited(Copy())
    assert LSTMMatched(settings="encoder=conv").unsuited(IMAGES) is None


def test_it_answers() -> None:
    x = torch.randn(2, 5, *IMAGES.x_shape)
    support = Examples(x, torch.zeros(2, 5, dtype=torch.int64))
    assert LSTMMatched().build(IMAGES)(support, x[:, :3]).shape == (2, 3, IMAGES.n_out)
