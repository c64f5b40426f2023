"""The arithmetic floor of a step: its products are those that PyTorch counts, and running it makes just these."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from bench.api import generator
from bench.floors import floor, flops, least_traffic, products
from bench.registry import METHODS
from bench.tasks.glyphs import GlyphsOnline


@pytest.mark.parametrize("name", ["mann", "ntm", "dnc"])
def test_the_products_of_a_training_step_are_those_that_pytorch_counts(name: str) -> None:
    task = GlyphsOnline(size=6, length=5)
    learner = METHODS.entries[name](controller_size=8, slots=6, width=4).build(task)
    learner.use("reference")
    episode = task.sample("train", 2, generator("floor"))

    def step() -> None:
        learner.loss(episode, task).backward()

    with FlopCounterMode(display=False) as counter:
        step()
    found = products(step)
    assert flops(found) == counter.get_total_flops() > 0
    assert (1, 2, 8, learner.memory.interface_size) in found, "the interface of each step"


def test_running_a_floor_makes_its_products_and_nothing_else() -> None:
    a, b, c = torch.rand(3, 4), torch.rand(4, 5), torch.rand(2, 3, 4)

    def call() -> None:
        a @ b
        F.linear(a, b.T, torch.rand(5))
        torch.bmm(c, c.mT)
        b @ torch.rand(5)
        a + 1

    shapes = products(call)
    assert shapes == {(1, 3, 4, 5): 2, (2, 3, 4, 3): 1, (1, 4, 5, 1): 1}
    assert flops(shapes) == 2 * (2 * 60 + 72 + 20)
    run = floor(shapes, traffic=800)
    assert products(run) == shapes
    with torch.profiler.profile() as profile:
        run()
    copies = [event for event in profile.events() if event.name == "aten::copy_"]
    assert len(copies) == 1


def test_the_least_traffic_of_a_step_with_adam() -> None:
    assert least_traffic(inputs=100, parameters=10) == 100 + 10 * (3 + 4)
