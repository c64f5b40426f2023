"""The numbers of memories whose answers are known: one slot a class, a ring, one slot for all, all slots alike."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from fakes import ToyNearest, ToyOnline
from torch import Tensor
from torch.nn import functional as F

from bench import registry
from bench.api import Addresses, BenchError, Task
from bench.attribution import ages, class_ids, contents, credits, entropy, identities, observe, random_addresses
from bench.diagnostics import NUMBERS, Number, examine, forgetting, short, summary, trace
from bench.grid import Budget, Cell
from bench.training import Context, run_cell
from mann.learner import MemoryMethod

CLASSES = torch.tensor([[0, 1, 0, 2, 1, 0, 2, 2, 1, 0]])
SLOTS = 6
GLYPHS = {"way": 3, "length": 12}


def one_hot(slots: Tensor) -> Tensor:
    """One head that puts all weight on a slot: [batch, time] to [batch, time, 1, slots]."""
    return F.one_hot(slots, SLOTS).float().unsqueeze(2)


def late(classes: Tensor, first: int) -> Tensor:
    """The class whose label each step sees; something else in the first step, which sees none."""
    return F.pad(classes, (1, 0), value=first)[:, :-1]


def table(read: Tensor, write: Tensor, classes: Tensor = CLASSES, correct: Tensor | None = None) -> pd.DataFrame:
    return observe(Addresses(read, write), classes, torch.ones_like(classes).bool() if correct is None else correct)


def values(of: pd.DataFrame) -> dict[str, float | None]:
    return {name: number(of).value for name, number in NUMBERS.items()}


def test_one_slot_a_class_is_perfect_by_image() -> None:
    found = values(table(one_hot(CLASSES), one_hot(CLASSES)))
    assert found["retrieval_image"] == found["best_head_image"] == found["redundancy_image"] == 1
    assert found["erased_image"] == 0
    assert found["own_write"] == 1
    assert found["overlap_same_class"] == pytest.approx(1)
    assert found["overlap_other_class"] == 0
    assert found["overlap"] == pytest.approx((6 + 3 + 3) / 45)  # pairs of four, three and three among ten
    assert found["write_entropy"] == found["read_entropy"] == 0
    assert found["write_slots"] == found["read_slots"] == 1


def test_one_slot_a_label_is_perfect_by_label_and_not_by_image() -> None:
    found = table(one_hot(CLASSES), one_hot(late(CLASSES, SLOTS - 1)))
    # owned by label before the seven: one slot, two, then always three
    chance = (1 + 1 / 2 + 5 / 3) / 7
    assert NUMBERS["retrieval_label"](found) == Number(1.0, pytest.approx(chance), 7)  # type: ignore[arg-type]
    # by image a slot is its own only where the class came twice in a row before
    assert found["right_image"].sum() == 0
    assert NUMBERS["erased_label"](found).value == 0


def test_who_is_known_by_label_two_presentations_later() -> None:
    classes = torch.tensor([[0, 0, 0, 1]])
    found = table(one_hot(classes), one_hot(classes), classes)
    assert found["known_image"].tolist() == [False, True, True, False]
    assert found["known_label"].tolist() == [False, False, True, False]


def test_a_ring_forgets_what_is_older_than_its_slots() -> None:
    steps = torch.arange(10)[None]
    ring = one_hot(steps % 3)
    # read where the class was written last, whatever is there now
    last = steps - ages(CLASSES).clamp(min=1)
    found = table(one_hot(last.clamp(min=0) % 3), ring)
    old = ages(CLASSES) > 3
    known = ages(CLASSES) > 0
    expected = ((known & ~old).sum() / known.sum()).item()
    assert values(found)["erased_image"] == pytest.approx(1 - expected)
    assert values(found)["retrieval_image"] == pytest.approx(expected)
    assert values(found)["redundancy_image"] == 1  # three slots, three classes in the last three steps
    # of the ages 3 and 4, three and two times, the ring has lost the latter
    assert forgetting(found)["retrieval_image"] == [1, 1, 0.6, None, None, None]


def test_one_slot_for_all_holds_the_last_class_only() -> None:
    slot = torch.zeros_like(CLASSES)
    found = table(one_hot(slot), one_hot(slot))
    repeats = int((CLASSES[:, 1:] == CLASSES[:, :-1]).sum())
    assert values(found)["retrieval_image"] == pytest.approx(repeats / 7)
    assert NUMBERS["retrieval_image"](found).chance == pytest.approx(repeats / 7)  # reading at random finds as much
    assert values(found)["erased_image"] == pytest.approx(1 - repeats / 7)
    assert values(found)["overlap"] == values(found)["overlap_other_class"] == pytest.approx(1)
    assert values(found)["redundancy_image"] == pytest.approx(1 / 3)


def test_uniform_writes_hold_nothing() -> None:
    even = torch.full((1, 10, 1, SLOTS), 1 / SLOTS)
    found = values(table(even, even))
    assert found["write_entropy"] == pytest.approx(math.log(SLOTS))
    assert found["write_slots"] == pytest.approx(SLOTS)
    assert found["overlap"] == pytest.approx(1)
    assert found["erased_image"] == 1
    assert found["redundancy_image"] == 0


def test_the_best_head_is_told_from_the_others() -> None:
    classes = torch.tensor([[0, 1, 0, 1, 0, 1]])
    right, wrong = one_hot(classes), one_hot(1 - classes)
    found = table(torch.cat((wrong, right, 2 * wrong), 2) / 4, one_hot(classes), classes)
    assert values(found)["retrieval_image"] == 0
    assert values(found)["best_head_image"] == 1
    assert forgetting(found)["best_head_image"][1] == 1
    assert forgetting(found)["retrieval_image"][1] == 0


def test_writing_nothing_leaves_nothing_to_measure() -> None:
    nothing = torch.zeros(1, 10, 1, SLOTS)
    found = {name: number(table(nothing, nothing)) for name, number in NUMBERS.items()}
    for name in ("overlap", "write_entropy", "read_slots"):
        assert found[name].value is None
        assert found[name].n == 0
    assert found["retrieval_image"].value == 0
    assert found["retrieval_image"].chance is None or math.isnan(found["retrieval_image"].chance)
    assert found["erased_image"].value == 1
    assert found["own_write"].value == 0


def test_no_class_twice_is_no_number() -> None:
    classes = torch.arange(5)[None]
    found = summary(table(one_hot(classes), one_hot(classes), classes))
    assert found["numbers"]["retrieval_image"] == {"value": None, "chance": None, "n": 0}
    assert found["forgetting"]["accuracy"] == [None] * 6


def test_shares_are_what_is_written_over_what_is_left() -> None:
    write = torch.zeros(1, 3, 2, SLOTS)
    write[0, 0, :, 0] = 0.3  # heads add up: 0.6 of slot 0
    write[0, 1, :, 0] = 0.8  # to no more than the whole
    write[0, 2, 0, 1] = 0.25
    before = list(contents(write, torch.eye(3)[None]))
    assert len(before) == 4
    torch.testing.assert_close(before[1][0, 0], torch.tensor([0.6, 0, 0]))
    torch.testing.assert_close(before[2][0, 0], torch.tensor([0, 1.0, 0]))
    torch.testing.assert_close(before[3][0, 1], torch.tensor([0, 0, 0.25]))


def test_age_counts_presentations_in_between() -> None:
    found = table(one_hot(CLASSES), one_hot(CLASSES), correct=torch.arange(10)[None] != 7)
    assert found["age"].tolist() == [0, 0, 2, 0, 3, 3, 3, 1, 4, 4]
    curve = forgetting(found)
    assert curve["age"] == ["1", "2", "3–4", "5–8", "9–16", "17+"]
    assert curve["n"] == [1, 1, 5, 0, 0, 0]
    assert curve["accuracy"] == [0.0, 1.0, 1.0, None, None, None]


@pytest.mark.parametrize(("age", "bucket"), [(1, 0), (2, 1), (3, 2), (4, 2), (5, 3), (8, 3), (9, 4), (16, 4), (17, 5)])
def test_an_age_is_in_its_bucket(age: int, bucket: int) -> None:
    classes = torch.cat((torch.zeros(1), torch.arange(1, age), torch.zeros(1))).long()[None]
    slots = torch.zeros(1, age + 1, 1, SLOTS)
    assert forgetting(table(slots, slots, classes))["n"] == [int(i == bucket) for i in range(6)]


def test_labels_and_strings_become_numbers_in_order() -> None:
    assert class_ids(torch.tensor([[7, 3, 7, 0]])).tolist() == [[0, 1, 0, 2]]
    strings = torch.tensor([[[1, 2], [2, 1], [1, 2], [1, 1]]])
    assert class_ids(strings).tolist() == [[0, 1, 0, 2]]
    assert credits(torch.tensor([[0, 1]]), "label").tolist() == [[[0, 0], [1, 0]]]


def test_a_label_of_the_next_episode_is_another_class() -> None:
    task = registry.get(registry.TASKS, "glyphs-online")(way=2, length=3, persistent=2)
    y = torch.tensor([[0, 1, 0, 0, 0, 1]])
    assert identities(task, y).tolist() == [[0, 1, 0, 2, 2, 3]]


def test_entropy_is_of_what_is_there() -> None:
    assert entropy(torch.tensor([2.0, 2.0, 0.0])).item() == pytest.approx(math.log(2))
    assert entropy(torch.zeros(3)).isnan()


def test_random_memory_has_the_same_form_and_is_the_same_each_time() -> None:
    like = Addresses(torch.rand(2, 5, 3, SLOTS), torch.rand(2, 5, 2, SLOTS))
    one, two = random_addresses(like), random_addresses(like)
    for part in ("read", "write"):
        assert getattr(one, part).shape == getattr(like, part).shape
        assert torch.equal(getattr(one, part), getattr(two, part))
        assert (getattr(one, part).sum(-1) == 1).all()


def test_chance_is_what_a_random_memory_has() -> None:
    torch.manual_seed(0)
    classes = torch.randint(5, (40, 50))
    slots = 32
    where = torch.randint(slots, (40, 50))
    weights = F.one_hot(where, slots).float().unsqueeze(2)
    read = F.one_hot(torch.randint(slots, (40, 50)), slots).float().unsqueeze(2)
    found = {name: number(table(read, weights, classes)) for name, number in NUMBERS.items()}
    for name in ("erased_image", "erased_label", "redundancy_image", "overlap", "own_write"):
        assert found[name].value == pytest.approx(found[name].chance, rel=0.2, abs=0.02), name
    assert found["overlap"].value == pytest.approx(1 / slots, rel=0.1)
    # a slot that was never written has no owner: random reads find them, chance does not count them
    assert found["retrieval_image"].value < found["retrieval_image"].chance < 0.25  # type: ignore[operator]


def test_numbers_are_short_and_plain() -> None:
    assert short(0.123456789) == 0.12346
    assert short(None) is None
    assert short(math.nan) is None


# In records


def glyphs(**more: Any) -> Task:
    return registry.get(registry.TASKS, "glyphs-online")(**GLYPHS | more)


def mann(**more: Any) -> MemoryMethod:
    return registry.get(registry.METHODS, "mann")(slots=16, width=4, controller_size=8, batch=2, **more)


def cell(method: Any, task: Task) -> Cell:
    return Cell(method, task, 0, Budget(steps=2, validations=1, val_episodes=2, test_episodes=12))


def test_a_record_has_the_numbers_of_its_first_test_episodes(tmp_path: Path) -> None:
    record = run_cell(cell(mann(), glyphs()), Context(tmp_path))
    found = record.result["diagnostics"]
    assert found["episodes"] == 12
    assert found["numbers"].keys() == NUMBERS.keys()
    assert found["numbers"]["own_write"]["n"] == 12 * 12
    # accuracy by age is what the evaluation says of all but first presentations
    curve, by = found["forgetting"], record.result["evaluations"][""]["by_instance"]
    right = sum(a * n for a, n in zip(curve["accuracy"], curve["n"], strict=True) if n)
    assert right == pytest.approx(sum(m * n for m, n in zip(by["mean"][1:], by["n"][1:], strict=True) if n), abs=0.01)


@pytest.mark.parametrize(
    ("method", "task"),
    [("mann", "glyphs"), ("lstm", "glyphs-online"), ("mann", "sinusoid")],
    ids=["no sequence", "no addresses", "no classes"],
)
def test_a_record_without_them_does_not_mention_them(method: str, task: str, tmp_path: Path) -> None:
    small = {"slots": 16} if method == "mann" else {}
    made = registry.get(registry.METHODS, method)(batch=2, **small)
    of = registry.get(registry.TASKS, task)(**({"way": 2, "query": 1} if task == "glyphs" else {}))
    record = run_cell(cell(made, of), Context(tmp_path))
    assert "diagnostics" not in record.result


def test_learners_without_addresses_have_no_trace() -> None:
    task = ToyOnline()
    x, y = next(task.episodes("test", 1, 0)).query
    learner = ToyNearest().build(task)
    assert learner.trace(x, y) is None
    assert examine(learner, task, 1, 0) is None


# Traces


def memories() -> list[str]:
    registry.load()
    return sorted(n for n, c in registry.METHODS.entries.items() if issubclass(c, MemoryMethod))


@pytest.mark.parametrize("name", memories())
def test_a_trace_has_every_step_and_changes_nothing(name: str) -> None:
    task = glyphs()
    method = registry.get(registry.METHODS, name)()
    torch.manual_seed(0)
    learner = method.build(task).eval()
    x, y = next(task.episodes("test", 2, 0)).query
    before, parameters = learner.stream(x, y), {k: v.clone() for k, v in learner.state_dict().items()}
    found, again = (trace(learner, task, x, y) for _ in range(2))
    assert torch.equal(learner.stream(x, y), before)
    assert all(torch.equal(v, parameters[k]) for k, v in learner.state_dict().items())
    assert not learner.memory._forward_pre_hooks
    if found is None:
        return
    assert again is not None
    slots = found.read.shape[3]
    for part in (found.read, found.write):
        assert part.shape[:2] == (2, 12)
        assert part.shape[3] == slots
        assert not part.requires_grad
    assert found.usage is None or found.usage.shape == (2, 12, slots)
    assert all(gate.shape == (2, 12) for gate in found.gates.values())
    assert torch.equal(found.read, again.read)
    # the past alone decides: a shorter sequence leaves the same trace
    short_trace = trace(learner, task, x[:, :5], y[:, :5])
    assert short_trace is not None
    torch.testing.assert_close(short_trace.write, found.write[:, :5])


def test_a_trace_is_what_the_memory_says_at_each_step() -> None:
    task = glyphs()
    torch.manual_seed(0)
    learner = mann().build(task).eval()
    x, y = next(task.episodes("test", 2, 0)).query
    found = trace(learner, task, x, y)
    seen: list[Addresses] = []
    hook = learner.memory.register_forward_pre_hook(lambda memory, step: seen.append(memory.addresses(*step)))
    learner.stream(x, y)
    hook.remove()
    assert found is not None
    for t, step in enumerate(seen):
        assert torch.equal(found.read[:, t], step.read)
        assert torch.equal(found.write[:, t], step.write)


def test_an_error_in_a_trace_leaves_no_hook(monkeypatch: pytest.MonkeyPatch) -> None:
    task = glyphs()
    learner = mann().build(task).eval()
    x, y = next(task.episodes("test", 2, 0)).query

    def fail(*_: Any) -> None:
        raise BenchError("no")

    monkeypatch.setattr(learner.memory, "addresses", fail)
    with pytest.raises(BenchError):
        learner.trace(x, y)
    assert not learner.memory._forward_pre_hooks
