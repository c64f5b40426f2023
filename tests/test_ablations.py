"""The memory taken away: what is read, what is kept, and whose."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import contract
import pytest
import torch
from fakes import Toy, ToyOnline
from torch import Tensor

from bench.api import BenchError, Examples, Memory
from bench.grid import Budget, Cell
from mann import LRUA, Hopfield, unroll
from mann.ablations import ABLATIONS, Frozen, OtherEpisode, Zeroed
from mann.learner import MemoryLearner, fork
from mann.lrua import Mann
from mann.states import map_state

SIZES: dict[str, Any] = {"slots": 5, "width": 3, "heads": 2}
METHOD = Mann(**SIZES, controller_size=6)
MEMORIES: dict[str, Memory[Any]] = {
    "lrua": LRUA(**SIZES).double(),
    "lrua-before": LRUA(**SIZES, read="before").double(),
    "hopfield": Hopfield(**SIZES),
}
every_memory = pytest.mark.parametrize("memory", MEMORIES.values(), ids=MEMORIES.keys())


def interfaces(memory: Memory[Any], steps: int = 6, batch: int = 3, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, steps, memory.interface_size, generator=generator, dtype=torch.float64)


def learner(**options: Any) -> MemoryLearner:
    torch.manual_seed(0)
    return replace(METHOD, **options).build(Toy()).double().eval()


@every_memory
def test_zero_reads_zeros(memory: Memory[Any]) -> None:
    steps = interfaces(memory)
    reads, _ = unroll(Zeroed(memory), steps)
    assert reads.shape == unroll(memory, steps)[0].shape
    assert (reads == 0).all()
    assert Zeroed(memory).addresses(steps[:, 0], memory.initial_state(3, steps)) is None


@every_memory
def test_frozen_is_always_at_its_first_step(memory: Memory[Any]) -> None:
    steps = interfaces(memory)
    reads, _ = unroll(Frozen(memory), steps)
    for t in range(6):
        torch.testing.assert_close(reads[:, t], memory(steps[:, t], memory.initial_state(3, steps))[0])
    assert not torch.allclose(reads, unroll(memory, steps)[0])
    found = Frozen(memory).addresses(steps[:, 0], memory.initial_state(3, steps))
    assert found is not None
    assert (found.write == 0).all()


@every_memory
def test_other_reads_what_the_episode_before_wrote(memory: Memory[Any]) -> None:
    """At the last step, from the memory that the neighbour's steps made; all earlier steps are the neighbour's own."""
    steps = interfaces(memory)
    reads, _ = unroll(OtherEpisode(memory), steps)
    _, written = unroll(memory, steps[:, :-1])
    for row in range(3):
        neighbour = map_state(lambda tensor, n=(row - 1) % 3: tensor[n : n + 1], written)  # type: ignore[misc]
        expected, _ = memory(steps[row : row + 1, -1], neighbour)
        torch.testing.assert_close(reads[row : row + 1, -1], expected)


@every_memory
def test_other_reads_nothing_of_its_own_past(memory: Memory[Any]) -> None:
    steps = interfaces(memory)
    changed = steps.clone()
    changed[1, :-1] = interfaces(memory, seed=1)[1, :-1]
    one, other = (unroll(OtherEpisode(memory), each)[0][:, -1] for each in (steps, changed))
    assert torch.equal(one[1], other[1])
    assert not torch.equal(one[2], other[2])


@every_memory
@pytest.mark.parametrize("batch", [2, 3])
@pytest.mark.parametrize("copies", [1, 2, 3])
def test_other_is_never_a_branch_of_the_same_episode(memory: Memory[Any], batch: int, copies: int) -> None:
    """After a fork a query is answered from the neighbour's memory too, and the order of queries does not matter."""
    ablated = OtherEpisode(memory)
    steps, question = interfaces(memory, batch=batch), interfaces(memory, 1, batch, seed=2)[:, 0]
    _, state = unroll(ablated, steps)
    alone, _ = ablated(question, state)
    branches, _ = ablated(question.repeat_interleave(copies, 0), fork(state, copies))
    torch.testing.assert_close(branches, alone.repeat_interleave(copies, 0))


def test_other_reads_there_and_writes_here() -> None:
    memory = MEMORIES["lrua"]
    ablated, steps = OtherEpisode(memory), interfaces(memory)
    _, state = unroll(ablated, steps[:, :-1])
    found, own = ablated.addresses(steps[:, -1], state), memory.addresses(steps[:, -1], state.memory)
    there = memory.addresses(steps[:, -1], map_state(lambda tensor: tensor.roll(1, 0), state.memory))
    assert found is not None
    assert own is not None
    assert there is not None
    torch.testing.assert_close(found.read, there.read)
    torch.testing.assert_close(found.write, own.write)


class Spent(Memory[tuple[Tensor]]):
    """Counts its steps in place, so that a state serves once: what `consumes_state` declares."""

    interface_size, read_size, consumes_state = 1, 1, True

    def initial_state(self, batch: int, like: Tensor) -> tuple[Tensor]:
        return (like.new_zeros(batch, 1),)

    def forward(self, interface: Tensor, state: tuple[Tensor]) -> tuple[Tensor, tuple[Tensor]]:
        state[0].add_(1)
        return state[0].clone(), state


def test_a_memory_that_uses_its_state_up_is_given_copies() -> None:
    steps = torch.zeros(2, 4, 1)
    assert unroll(Frozen(Spent()), steps)[0].flatten().tolist() == [1] * 8
    assert unroll(OtherEpisode(Spent()), steps)[0][0].flatten().tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize("ablate", ABLATIONS)
def test_a_network_keeps_its_size_and_answers_otherwise(ablate: str) -> None:
    whole, part = learner(), learner(ablate=ablate)
    assert [p.shape for p in whole.parameters()] == [p.shape for p in part.parameters()]
    episode = contract.episodes_of(Toy(), batch=3)
    answers = [each(episode.support, episode.query.x) for each in (whole, part)]
    assert not torch.allclose(*answers)
    assert answers[1].isfinite().all()


@pytest.mark.parametrize("ablate", ["zero", "frozen"])
def test_without_what_was_written_only_the_controller_remembers(ablate: str) -> None:
    """A feed-forward controller that does not see the last read then knows the present step alone."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 5, 4, generator=generator, dtype=torch.float64), torch.tensor([[0, 1, 2, 0, 1]] * 2)
    options = {"controller": "feed-forward", "feed_read": False}
    changed = x.clone()
    changed[:, :3] += 1
    for kind, same in ((ablate, True), ("none", False)):
        model = learner(**options, ablate=kind)
        assert torch.equal(model.stream(x, y)[:, 3:], model.stream(changed, y)[:, 3:]) == same


@pytest.mark.parametrize("ablate", ["zero", "frozen"])
@pytest.mark.parametrize("task", [Toy(), ToyOnline()], ids=["toy", "toy-online"])
@pytest.mark.parametrize("name", [n for n in contract.METHOD_CHECKS if n not in ("gradients_arrive", "resumes")])
def test_an_ablation_that_keeps_to_its_row_meets_the_contract(ablate: Any, task: Any, name: str) -> None:
    contract.METHOD_CHECKS[name](replace(METHOD, ablate=ablate), task)


@pytest.mark.parametrize(
    "name",
    ["answers_have_the_right_form", "hides_the_future", "hides_the_answer", "queries_do_not_meet", "keeps_nothing",
     "training_hides_the_answers", "gradients_arrive", "same_seed_same_bits"],
)  # fmt: skip
@pytest.mark.parametrize("task", [Toy(), ToyOnline()], ids=["toy", "toy-online"])
def test_other_meets_the_rest_of_the_contract(task: Any, name: str) -> None:
    contract.METHOD_CHECKS[name](replace(METHOD, ablate="other"), task)


def test_other_mixes_episodes_and_nothing_else_does() -> None:
    for ablate in ("none", *ABLATIONS):
        method = replace(METHOD, ablate=ablate)
        if ablate == "other":
            with pytest.raises(AssertionError, match="an episode sees the others"):
                contract.episodes_do_not_meet(method, Toy())
        else:
            contract.episodes_do_not_meet(method, Toy())


def test_other_needs_another_episode() -> None:
    x = torch.zeros(1, 2, 4).double()
    with pytest.raises(BenchError, match="two episodes or more"):
        learner(ablate="other")(Examples(x, torch.zeros(1, 2, dtype=torch.int64)), x)
    with pytest.raises(BenchError, match="batch=2 or more"):
        replace(METHOD, ablate="other", batch=1).check()
    replace(METHOD, ablate="other", batch=2).check()
    replace(METHOD, ablate="frozen", batch=1).check()


def test_ids_of_networks_that_keep_their_memory_are_as_before() -> None:
    """The field is late: a cell of `ablate=none` has the id it had before there were ablations."""
    budget = Budget(steps=3, validations=2, val_episodes=2, test_episodes=2)
    ids = [Cell(replace(METHOD, ablate=kind), Toy(), 0, budget).id for kind in ("none", *ABLATIONS)]
    assert len(set(ids)) == 4
    assert "ablate" not in str(Cell(METHOD, Toy(), 0, budget).spec)
