"""What the benchmarks are made of: full memories, questions to other processes, rates while all run."""

from __future__ import annotations

import sys
from typing import Any

import alone
import pytest
import torch
from fill import filled, recall
from steps import sized

from bench.tasks.glyphs import GlyphsOnline

KINDS: list[tuple[str, dict[str, Any]]] = [
    ("ntm", {}), ("mann", {}), ("dnc", {}), ("mann-attention", {}), ("hcam", {}), ("sam", {}),
    ("sam", {"search": "lsh"}), ("sdnc", {"search": "lsh"}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "fields"), KINDS, ids=str)
def test_a_full_memory_is_one_that_can_take_a_step(name: str, fields: dict[str, Any]) -> None:
    torch.manual_seed(0)
    memory = sized(name, slots=64, **fields).memory(GlyphsOnline())
    state = filled(memory, 2)
    empty = memory.initial_state(2, torch.zeros(()))
    interface = torch.randn(2, memory.interface_size, requires_grad=True)
    read, _ = memory(interface, state)
    read.sum().backward()
    assert read.isfinite().all()
    assert interface.grad is not None
    assert not torch.equal(read, memory(interface, empty)[0]), "it reads what is stored"
    found = recall(memory, state, 0.3)
    assert (found != []) == (fields.get("search") == "lsh")
    assert all(0.7 < share <= 1 for share in found)


def test_rates_are_those_of_the_time_in_which_all_ran() -> None:
    early, late = [0.0, 1.0, 2.0, 3.0, 4.0], [2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0]
    assert alone.common_rates([early, late]) == [1.0, 2.0]
    assert alone.common_rates([late]) == [2.0]


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
def test_questions_are_answered_by_other_processes(capfd: pytest.CaptureFixture[str]) -> None:
    fields = {"slots": 16, "width": 8, "controller_size": 8}
    small, large = alone.alone("peaks", method="ntm", fields=fields, batch=2, steps=[20, 200], backend="reference")
    assert 0 < small < large
    full = alone.alone("steps_of_full_memory", method="sam", fields=fields | {"search": "lsh"}, batch=2, seconds=0)
    assert min(full["seconds"]) > 0
    assert len(full["recall"]) == 2
    with pytest.raises(alone.Failed):
        alone.alone("peaks", method="no-such-memory", fields={}, batch=1, steps=[1])
    assert "no-such-memory" in capfd.readouterr().err
