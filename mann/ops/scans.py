"""Ops made of all the others: one step of a memory, and whole sequences.

The reference is the memory itself, step by step (`mann.learner.unroll`). A whole sequence needs less traffic than its
steps: what must be moved is what the controller emits and what is read; the state can stay where it is computed. Nor is
the state an output to be compared: slots that were never touched are alike, and which of them is written first is
decided by the last bit of their usage, so that implementations leave the same rows in another order.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from bench.api import BenchError, Draw, Memory, Op, Outputs, Work, op, option
from mann.dnc import DNC
from mann.learner import unroll
from mann.lrua import LRUA, LRUAState
from mann.ntm import NTM


def lrua_work(batch: int, slots: int, width: int, heads: int) -> tuple[int, int]:
    """Products and other operations of one step: eq. 18, 19 and 23; 17 (lengths, division, softmax), 20-22, erasure."""
    cells = batch * slots * width
    return 6 * heads * cells, 2 * cells + batch * heads * slots * (4 + 2 + 3) + 2 * batch * slots


def ntm_work(batch: int, slots: int, width: int, reads: int, shifts: int) -> tuple[int, int]:
    """Products and other operations of one step with one writing head: eq. 6 and 2; 3-9."""
    heads, cells = reads + 1, batch * slots * width
    by_place = batch * heads * slots * (5 + 3 + 2 * shifts - 1 + 3)
    return 2 * (heads + reads) * cells, (2 + 4) * cells + by_place


def dnc_work(batch: int, slots: int, width: int, reads: int) -> tuple[int, int]:
    """Products and other operations of one step: content, read, and forward and backward weights; all the rest."""
    cells = batch * slots * width
    products = 2 * (2 * reads + 1) * cells + 4 * batch * reads * slots**2
    return products, (2 * 2 + 4) * cells + 5 * batch * slots**2 + batch * slots * (7 * reads + 20)


@op("lrua-step", source="Santoro et al. 2016, eq. 17-23")
class LRUAStep(Op):
    """One step of LRUA: write, read and usage; values and gates come from the controller."""

    methods = ("mann", "mann-ff")
    constants = (2,)

    slots: int = option(128, "memory slots")
    width: int = option(40, "numbers a slot holds")
    heads: int = option(4, "heads")

    @cached_property
    def cell(self) -> LRUA:
        """The memory."""
        return lrua(self)

    def check(self) -> None:
        """What the memory refuses."""
        _ = self.cell

    def inputs(self, draw: Draw) -> tuple[Tensor, ...]:
        """Interface, memory, usage and read weights."""
        b, n, w, r = self.batch, self.slots, self.width, self.heads
        return draw.normal(b, self.cell.interface_size), draw.normal(b, n, w), draw.uniform(b, n), draw.weights(b, r, n)

    def reference(self, interface: Tensor, memory: Tensor, usage: Tensor, weights: Tensor) -> Outputs:
        """`mann.lrua.LRUA`."""
        read, state = self.cell(interface, LRUAState(memory, usage, weights))
        return read, *state

    def compiled(self) -> Callable[..., Outputs]:
        """The cell is compiled."""
        cell = torch.compile(self.cell, fullgraph=True)

        def step(interface: Tensor, memory: Tensor, usage: Tensor, weights: Tensor) -> Outputs:
            read, state = cell(interface, LRUAState(memory, usage, weights))
            return read, *state

        return step

    def least(self, itemsize: int) -> Work:
        """Read the interface and the state; write what is read and the state."""
        b, n, w, r = self.batch, self.slots, self.width, self.heads
        state = b * (n * w + n + r * n)
        read, written = b * self.cell.interface_size + state, b * r * w + state
        return Work(read * itemsize, written * itemsize, *lrua_work(b, n, w, r))

    def least_both(self, itemsize: int) -> Work:
        """Usage has no gradient."""
        w, usage = self.least(itemsize), self.batch * self.slots * itemsize
        return Work(2 * w.read + w.written - usage, w.written + w.read - usage, 3 * w.products, 3 * w.others)


@op("lrua-scan", source="Santoro et al. 2016, eq. 17-23")
class LRUAScan(Op):
    """LRUA over a whole sequence, from its initial state; values and gates come from the controller."""

    methods: ClassVar[tuple[str, ...]] = ("mann", "mann-ff")

    slots: int = option(128, "memory slots")
    width: int = option(40, "numbers a slot holds")
    heads: int = option(4, "heads")
    steps: int = option(50, "length of the sequence")

    @cached_property
    def cell(self) -> Memory[Any]:
        """The memory."""
        return lrua(self)

    def check(self) -> None:
        """What the memory refuses."""
        _ = self.cell

    def inputs(self, draw: Draw) -> tuple[Tensor, ...]:
        """What a controller would emit at each step."""
        return (draw.normal(self.batch, self.steps, self.cell.interface_size),)

    def reference(self, interface: Tensor) -> Outputs:
        """What was read, step by step."""
        return unroll(self.cell, interface)[0]

    def compiled(self) -> Callable[..., Outputs]:
        """The cell is compiled, not the sequence: unrolled, it would be compiled for minutes."""
        cell = torch.compile(self.cell, fullgraph=True)

        def scan(interface: Tensor) -> Outputs:
            state, reads = self.cell.initial_state(len(interface), interface), []
            for step in interface.unbind(1):
                read, state = cell(step, state)
                reads.append(read)
            return torch.stack(reads, 1)

        return scan

    def least(self, itemsize: int) -> Work:
        """Read the interface, write what is read."""
        b, t = self.batch, self.steps
        products, others = (t * count for count in self.step_work())
        read, written = b * t * self.cell.interface_size, b * t * self.cell.read_size
        return Work(read * itemsize, written * itemsize, products, others)

    def held(self, dtype: torch.dtype) -> int:
        """The state."""
        state = self.cell.initial_state(self.batch, torch.empty(0, dtype=dtype, device="meta"))
        return sum(part.nbytes for part in state)

    def step_work(self) -> tuple[int, int]:
        """Products and other operations of a step."""
        return lrua_work(self.batch, self.slots, self.width, self.heads)


@op("ntm-scan", source="Graves et al. 2014, eq. 2-9")
class NTMScan(LRUAScan):
    """NTM over a whole sequence, from its initial state, with one writing head."""

    methods = ("ntm",)

    slots: int = option(128, "memory slots")
    width: int = option(20, "numbers a slot holds")
    heads: int = option(1, "reading heads")

    @cached_property
    def cell(self) -> Memory[Any]:
        """The memory."""
        return NTM(slots=self.slots, width=self.width, reads=self.heads)

    def step_work(self) -> tuple[int, int]:
        """See `ntm_work`."""
        return ntm_work(self.batch, self.slots, self.width, self.heads, 3)


@op("dnc-scan", source="Graves et al. 2016, Methods")
class DNCScan(LRUAScan):
    """DNC over a whole sequence, from its initial state, with links."""

    methods = ("dnc",)

    slots: int = option(128, "memory slots; the links take their square")

    @cached_property
    def cell(self) -> Memory[Any]:
        """The memory."""
        return DNC(slots=self.slots, width=self.width, reads=self.heads)

    def step_work(self) -> tuple[int, int]:
        """See `dnc_work`."""
        return dnc_work(self.batch, self.slots, self.width, self.heads)


def lrua(sizes: LRUAStep | LRUAScan) -> LRUA:
    """LRUA whose values and gates come from the controller: it has no parameters, so that its inputs are all it has.

    Raises:
        BenchError: sizes that do not fit.
    """
    if min(sizes.slots, sizes.width, sizes.heads) < 1:
        raise BenchError(f"{sizes.name} needs sizes of at least 1")
    return LRUA(slots=sizes.slots, width=sizes.width, heads=sizes.heads, write_value="separate", gate="controller")
