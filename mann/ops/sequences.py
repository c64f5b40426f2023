"""Ops of what training spends its time in: a whole sequence of an LSTM and the memory that it drives.

The reference is `mann.learner.reference`, step by step; `fused` is the scan that a learner would get here. Other than
in `mann.ops.scans`, what is read is fed back, so that no step can begin before the last one has ended.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call

from bench.api import Draw, Memory, Op, Outputs, Work, op, option, variant
from mann.controllers import LSTMController
from mann.kernels import registry
from mann.learner import State, reference
from mann.ops.scans import DNCScan, LRUAScan, NTMScan


class Network(nn.Module):
    """What of a `MemoryLearner` a scan looks at. Its parameters are stand-ins for the inputs of an op."""

    backend = "fused"
    feed_read = True

    def __init__(self, memory: Memory[Any], units: int) -> None:
        super().__init__()
        self.memory = memory
        self.controller = LSTMController(1, memory.read_size, units)
        del self.controller.input  # its part of the gates is given
        self.interface = nn.Linear(units, memory.interface_size)

    def forward(self, projected: Tensor, scan: Callable[..., Any]) -> tuple[Tensor, Tensor]:
        """Hidden states and reads, from the initial state."""
        batch = len(projected)
        read = projected.new_zeros(batch, self.memory.read_size)
        state = State(
            self.controller.initial_state(batch, projected), read, self.memory.initial_state(batch, projected)
        )
        hidden, reads, _ = scan(self, projected, state)
        return hidden, reads


@op("lrua-lstm-scan", source="Santoro et al. 2016, §3.1, eq. 17-23")
class LRUASequence(Op):
    """LRUA behind an LSTM over a whole sequence, from its initial state; the inputs' part of the gates is given."""

    methods: ClassVar[tuple[str, ...]] = ("mann",)
    alone: ClassVar[type[LRUAScan]] = LRUAScan
    """The op of the memory by itself."""

    slots: int = option(128, "memory slots")
    width: int = option(40, "numbers a slot holds")
    heads: int = option(4, "heads")
    steps: int = option(50, "length of the sequence")
    units: int = option(200, "of the LSTM")

    @cached_property
    def scan(self) -> LRUAScan:
        """The memory by itself."""
        return self.alone(batch=self.batch, slots=self.slots, width=self.width, heads=self.heads, steps=self.steps)

    @cached_property
    def network(self) -> Network:
        """LSTM and memory, whatever torch would have drawn next being left as it is."""
        with torch.random.fork_rng(devices=[]):
            return Network(self.scan.cell, self.units)

    def check(self) -> None:
        """What the memory refuses."""
        self.scan.check()

    def inputs(self, draw: Draw) -> tuple[Tensor, ...]:
        """W x + b of each step; recurrent weights, weights and bias of the interface, at the size of trained ones."""
        cell, units = self.scan.cell, self.units
        size = units**-0.5
        return (
            draw.normal(self.batch, self.steps, 4 * units),
            draw.normal(cell.read_size + units, 4 * units).mul_(size),
            draw.normal(cell.interface_size, units).mul_(size),
            draw.normal(cell.interface_size).mul_(size),
        )

    def through(self, scan: Callable[..., Any], projected: Tensor, recurrent: Tensor, weight: Tensor, bias: Tensor
                ) -> Outputs:  # fmt: skip
        """Hidden states and what was read, by a scan as `mann.learner.reference`."""
        given = {"controller.recurrent": recurrent, "interface.weight": weight, "interface.bias": bias}
        found: tuple[Tensor, Tensor] = functional_call(self.network, given, (projected, scan))
        return found

    def reference(self, *inputs: Any) -> Outputs:
        """Step by step."""
        return self.through(reference, *inputs)

    def compiled(self) -> Callable[..., Outputs]:
        """A step is compiled, not the sequence: unrolled, it would be compiled for minutes."""

        def step(network: Any, x: Tensor, read: Tensor, controller: Any, memory: Any) -> tuple[Any, ...]:
            h, controller = network.controller(x, read, controller)
            read, memory = network.memory(network.interface(h), memory)
            return h, controller, read, memory

        quick = torch.compile(step, fullgraph=True)

        def scan(network: Any, projected: Tensor, state: State) -> tuple[Tensor, Tensor, State]:
            controller, read, memory = state
            hidden, reads = [], []
            for x in projected.unbind(1):
                h, controller, read, memory = quick(network, x, read, controller, memory)
                hidden.append(h)
                reads.append(read)
            return torch.stack(hidden, 1), torch.stack(reads, 1), State(controller, read, memory)

        return lambda *inputs: self.through(scan, *inputs)

    def least(self, itemsize: int) -> Work:
        """Read the inputs, write hidden states and reads. An LSTM has some 25 operations a unit beside its products."""
        cell, b, t, u = self.scan.cell, self.batch, self.steps, self.units
        products, others = self.scan.step_work()
        weights = (cell.read_size + u) * 4 * u + u * cell.interface_size
        read = b * t * 4 * u + weights + cell.interface_size
        written = b * t * (u + cell.read_size)
        return Work(
            read * itemsize,
            written * itemsize,
            t * (products + 2 * b * weights),
            t * (others + b * (25 * u + cell.interface_size)),
        )

    def held(self, dtype: torch.dtype) -> int:
        """The state of the memory."""
        return self.scan.held(dtype)


@op("ntm-lstm-scan", source="Graves et al. 2014, eq. 2-9")
class NTMSequence(LRUASequence):
    """NTM with one writing head behind an LSTM over a whole sequence, as `lrua-lstm-scan`."""

    methods = ("ntm",)
    alone = NTMScan


@op("dnc-lstm-scan", source="Graves et al. 2016, Methods")
class DNCSequence(LRUASequence):
    """DNC with links behind an LSTM over a whole sequence, as `lrua-lstm-scan`."""

    methods = ("dnc",)
    alone = DNCScan


@variant("lrua-lstm-scan", "fused", compiles=True)
@variant("ntm-lstm-scan", "fused", compiles=True)
@variant("dnc-lstm-scan", "fused", compiles=True)
def fused(self: LRUASequence, projected: Tensor, *weights: Tensor) -> Outputs:
    """The scan that a learner on this device gets: numba on a CPU, Triton on a GPU."""

    def scan(network: Any, projected: Tensor, state: State) -> tuple[Tensor, Tensor, State]:
        found = registry.choose(network, projected, state)
        assert found is not None  # the network's backend asks for it
        return found(network, projected, state)

    return self.through(scan, projected, *weights)
