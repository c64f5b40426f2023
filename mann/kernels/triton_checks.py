"""Every kernel held against its reference, values and gradients: in the interpreter, or on a device.

The reference computes in float64 from the same numbers. Differences are relative: |found - expected| / |expected|, by
Euclidean norm of each output or gradient. Where the usages of the slots that LRUA may write to, or that of the next
one, come closer than `CLOSE`, rounding decides which it writes to; such rows of a batch are left out of the comparison
(their gradients are made zero) and counted.
"""

from __future__ import annotations

import copy
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mann.addressing import content, erase_and_add, queries
from mann.controllers import LSTMController, LSTMState
from mann.kernels import triton_content, triton_lrua, triton_ntm, triton_write
from mann.kernels.triton_scan import Controller
from mann.lrua import LRUA, LRUAState
from mann.ntm import NTM, NTMState

CLOSE = {torch.float64: 1e-11, torch.float32: 1e-5, torch.bfloat16: 1e-5}
"""Usages, which are of the order of one, that rounding may order otherwise; they are float32 at least."""
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3, torch.bfloat16: 2e-2}
"""Largest relative difference. float32: chains of fifty steps; bfloat16: what is read is rounded to 8 bits."""


REHEARSED = ("content heads=2 soft", "erase-add heads=3", "lrua (paper) + lstm", "ntm")
"""Kernels that a rehearsal on a CPU runs, in the interpreter."""


class Sizes(NamedTuple):
    """Of a check. `many`: slots where a memory need not fit on a chip."""

    batch: int
    steps: int
    slots: int
    width: int
    units: int
    many: int


ODD = Sizes(2, 3, 7, 5, 6, 70)
"""Sizes that fill no block."""
PAPER = Sizes(16, 50, 128, 40, 200, 65536 + 1)
"""Santoro et al. 2016, §4.1."""


@dataclass
class Subject:
    """A kernel and its reference: functions of the same tensors. module: what has parameters of its own, or None."""

    fast: Callable[[Any, list[Tensor]], Sequence[Tensor]]
    reference: Callable[[Any, list[Tensor]], Sequence[Tensor]]
    inputs: list[Tensor]
    module: nn.Module | None = None
    constants: tuple[int, ...] = ()
    """Places of inputs without gradient."""
    narrow: tuple[int, ...] | None = None
    """Places of inputs that may be bfloat16; None: all."""
    usages: list[Tensor] = field(default_factory=list)
    """Filled by the reference: usage before each step, [batch, slots]."""
    written: int = 0
    """How many of the least used slots are written to."""


class Result(NamedTuple):
    """Largest relative differences; whether a second run gave the same bits; rows of the batch that were compared."""

    values: float
    gradients: float
    repeatable: bool
    rows: int
    of: int

    def passed(self, dtype: torch.dtype) -> bool:
        """Whether the kernel may be used: at least half of the rows must tell."""
        return self.repeatable and 2 * self.rows >= self.of and max(self.values, self.gradients) <= TOLERANCE[dtype]


# ------------------------------------------------------------------------------------------------------------- subjects


def _normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def content_subject(s: Sizes, g: torch.Generator, heads: int, soft: bool) -> Subject:
    """Content addressing and reading."""
    keys, memory = _normal(g, s.batch, heads, s.width), _normal(g, s.batch, s.many, s.width)

    def reference(_: Any, inputs: list[Tensor]) -> Sequence[Tensor]:
        if not soft:
            return LRUA(slots=s.many, width=s.width, heads=heads).read(*inputs)
        weights = content(inputs[1], inputs[0])
        return (weights @ inputs[1]).flatten(1), weights

    if soft:
        keys = queries(keys, torch.full((s.batch, heads, 1), 3.0, dtype=torch.float64))
    return Subject(lambda _, inputs: triton_content.content_read(inputs[0], inputs[1], soft), reference, [keys, memory])


def write_subject(s: Sizes, g: torch.Generator, heads: int) -> Subject:
    """Erase and add."""
    inputs = [
        _normal(g, s.batch, s.many, s.width),
        (3 * _normal(g, s.batch, heads, s.many)).softmax(2),
        _normal(g, s.batch, heads, s.width).sigmoid(),
        _normal(g, s.batch, heads, s.width),
    ]
    return Subject(
        lambda _, given: [triton_write.erase_and_add(*given)], lambda _, given: [erase_and_add(*given)], inputs
    )


class Controlled(nn.Module):
    """A memory behind an LSTM, as in `MemoryLearner`."""

    def __init__(self, memory: Any, units: int) -> None:
        super().__init__()
        self.memory = memory
        self.controller = LSTMController(5, memory.read_size, units)
        self.interface = nn.Linear(units, memory.interface_size)


def scan_subject(s: Sizes, g: torch.Generator, memory: Any, controlled: bool) -> Subject:
    """A sequence of a memory, from a state in which no two slots are alike."""
    lrua = isinstance(memory, LRUA)
    heads = memory.options.heads if lrua else memory.heads
    state = [_normal(g, s.batch, s.slots, s.width), (3 * _normal(g, s.batch, heads, s.slots)).softmax(2)]
    if lrua:
        # The more slots, the closer the least used ones: from a wider range, they lie as far apart as the paper's.
        state.insert(1, _normal(g, s.batch, s.slots).abs() * max(1.0, s.slots / PAPER.slots))
    kind: Any = LRUAState if lrua else NTMState
    usages: list[Tensor] = []
    module = memory
    if controlled:
        module = Controlled(memory, s.units)
        for parameter in module.parameters():  # further from linear than at the start of training
            parameter.data = _normal(g, *parameter.shape) / math.sqrt(s.units)
        first = [_normal(g, s.batch, memory.read_size), *_normal(g, 2, s.batch, s.units).tanh()]
        inputs = [_normal(g, s.batch, s.steps, 4 * s.units), *state, *first]
    else:
        inputs = [_normal(g, s.batch, s.steps, memory.interface_size), *state]
    constants = (2,) if lrua else ()
    return Subject(partial(_scan, kind), partial(_loop, kind, usages), inputs, module, constants, (0,), usages, heads)


def _scan(kind: Any, module: Any, inputs: list[Tensor]) -> Sequence[Tensor]:
    count = len(kind._fields)
    x, state, first = inputs[0], kind(*inputs[1 : 1 + count]), inputs[1 + count :]
    lrua = kind is LRUAState
    if not first:
        scan: Any = triton_lrua.lrua_scan if lrua else triton_ntm.ntm_scan
        reads, state = scan(module, x, state)
        return [reads, state.memory, state.weights]
    linear = module.interface
    scan = triton_lrua.lrua_controlled if lrua else triton_ntm.ntm_controlled
    given = Controller(x, module.controller.recurrent, linear.weight, linear.bias, *first)
    out, state = scan(module.memory, given, state)
    return [*out, state.memory, state.weights]


def _loop(kind: Any, usages: list[Tensor], module: Any, inputs: list[Tensor]) -> Sequence[Tensor]:
    count = len(kind._fields)
    x, state, first = inputs[0], kind(*inputs[1 : 1 + count]), inputs[1 + count :]
    memory = module.memory if first else module
    read, controller = (first[0], LSTMState(*first[1:])) if first else (None, None)
    usages.clear()
    reads, hidden = [], []
    for step in x.unbind(1):
        if kind is LRUAState:
            usages.append(state.usage)
        if controller is not None:
            h, controller = module.controller(step, read, controller)
            hidden.append(h)
            step = module.interface(h)
        read, state = memory(step, state)
        reads.append(read)
    made = [torch.stack(reads, 1), state.memory, state.weights]
    if controller is not None:
        made[1:1] = [torch.stack(hidden, 1), controller.cell]
    return made


# --------------------------------------------------------------------------------------------------------------- checks


def compare(subject: Subject, device: str, dtype: torch.dtype, generator: torch.Generator) -> Result:
    """Run a kernel twice and its reference once, forward and backward."""
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    narrow = range(len(subject.inputs)) if subject.narrow is None else subject.narrow
    inputs = [x.to(device, dtype if i in narrow else wide) for i, x in enumerate(subject.inputs)]
    module = copy.deepcopy(subject.module)
    module = module.to(device, dtype) if isinstance(module, nn.Module) else None
    exact_module = copy.deepcopy(module).double() if isinstance(module, nn.Module) else None
    expected, wanted = _outputs(subject.reference, exact_module, [x.double() for x in inputs], subject.constants)
    rows = _clear(subject.usages, len(inputs[0]), subject.written, CLOSE[dtype]).to(device)
    masks = [rows.view(-1, *[1] * (y.dim() - 1)) for y in expected]
    seeds = [
        torch.randn(y.shape, generator=generator, dtype=torch.float64).to(device) * m
        for y, m in zip(expected, masks, strict=True)
    ]
    exact = torch.autograd.grad(expected, wanted, seeds)
    runs = []
    for _ in range(2):
        found, wanted = _outputs(subject.fast, module, inputs, subject.constants)
        gradients = torch.autograd.grad(found, wanted, [seed.to(y.dtype) for seed, y in zip(seeds, found, strict=True)])
        runs.append(([y.detach() for y in found], gradients))
    (found, gradients), again = runs
    same = all(
        torch.equal(a, b) for one, two in zip(runs[0], again, strict=True) for a, b in zip(one, two, strict=True)
    )
    values = max(difference(a * m, b * m) for a, b, m in zip(expected, found, masks, strict=True))
    return Result(values, max(map(difference, exact, gradients)), same, int(rows.sum()), len(rows))


def difference(expected: Tensor, found: Tensor) -> float:
    """|found - expected| / |expected|; infinite where anything is not finite."""
    off = (found.double() - expected.double()).norm() / expected.double().norm().clamp_min(1e-12)
    return off.item() if off.isfinite() else math.inf


def _outputs(
    function: Callable[[Any, list[Tensor]], Sequence[Tensor]], module: nn.Module | None, inputs: list[Tensor],
    constants: tuple[int, ...],
) -> tuple[list[Tensor], list[Tensor]]:  # fmt: skip
    """Outputs, and what they are differentiated by."""
    inputs = [x.detach().clone().requires_grad_(i not in constants) for i, x in enumerate(inputs)]
    outputs = list(function(module, inputs))
    wanted = [x for x in inputs if x.requires_grad]
    used = [] if module is None else [p for name, p in module.named_parameters() if "controller.input" not in name]
    return outputs, wanted + used


def _clear(usages: list[Tensor], batch: int, written: int, close: float) -> Tensor:
    """1.0 for each row in which it was always clear which slots are written to, and in which order, else 0.0."""
    rows = torch.ones(batch, dtype=torch.float64)
    for usage in usages:
        least = usage.detach().sort(1).values[:, : written + 1]
        if least.shape[1] > 1:  # one slot is always the one
            rows *= (least.diff(dim=1).amin(1) > close).double().to(rows.device)
    return rows


def subjects(sizes: Sizes, generator: torch.Generator) -> Iterator[tuple[str, Subject]]:
    """Every kernel, in the settings that take different ways through it."""
    for heads, soft in ((1, False), (4, False), (2, True)):
        yield f"content heads={heads} {'soft' if soft else 'norms'}", content_subject(sizes, generator, heads, soft)
    for heads in (1, 3):
        yield f"erase-add heads={heads}", write_subject(sizes, generator, heads)
    memories: dict[str, Any] = {
        "lrua (paper)": LRUA(slots=sizes.slots, width=sizes.width, heads=4),
        "lrua (separate, gated, per-head, before)": LRUA(
            slots=sizes.slots, width=sizes.width, heads=4, write_value="separate", gate="controller",
            head_slots="per-head", read="before",
        ),
        "lrua (separate, gated, erase all)": LRUA(
            slots=sizes.slots, width=sizes.width, heads=3, write_value="separate", gate="controller", erase="all"
        ),
        "ntm": NTM(slots=sizes.slots, width=sizes.width),
        "ntm (2 reads, 2 writes, shift 2, before)": NTM(
            slots=sizes.slots, width=sizes.width, reads=2, writes=2, shift=2, read="before"
        ),
    }  # fmt: skip
    for name, memory in memories.items():
        for controlled in (False, True):
            yield f"{name}{' + lstm' if controlled else ''}", scan_subject(sizes, generator, memory, controlled)
    yield "lrua step", scan_subject(sizes._replace(steps=1), generator, memories["lrua (paper)"], False)
    yield "ntm step", scan_subject(sizes._replace(steps=1), generator, memories["ntm"], False)


def seeded(seed: int = 0) -> torch.Generator:
    """On the CPU: the same numbers for every device."""
    return torch.Generator().manual_seed(seed)


def runner(subject: Subject, device: str, backward: bool) -> Callable[[], object]:
    """A call of a kernel on inputs that stay, for timing; with backward, also the gradients."""
    module = None if subject.module is None else copy.deepcopy(subject.module).to(device, torch.float32)
    wanted: list[Tensor] = []
    if module is not None:
        wanted = [p for name, p in module.named_parameters() if "controller.input" not in name]
    inputs = [x.to(device, torch.float32) for x in subject.inputs]
    if not backward:
        for parameter in wanted:
            parameter.requires_grad_(False)
        return lambda: subject.fast(module, inputs)
    wanted = [x.requires_grad_() for i, x in enumerate(inputs) if i not in subject.constants] + wanted
    seeds = [torch.ones_like(y) for y in subject.fast(module, inputs)]
    return lambda: torch.autograd.grad(subject.fast(module, inputs), wanted, seeds)


def main(device: str, name: str) -> None:
    """Check one kernel in all dtypes; a line of JSON each. For `bench.gpu_check`, which gives it a process.

    Memory that nobody wrote is filled with NaN, so that what a kernel leaves out shows.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS is not deterministic
    torch.use_deterministic_algorithms(True)
    sizes = PAPER if device == "cuda" else ODD
    for dtype in TOLERANCE if device == "cuda" else (torch.float32,):
        generator = seeded()
        subject = next(subject for each, subject in subjects(sizes, generator) if each == name)
        result = compare(subject, device, dtype, generator)
        said = (
            f"values {result.values:.1e}, gradients {result.gradients:.1e}, "
            f"{'same' if result.repeatable else 'OTHER'} bits again, {result.rows} of {result.of} rows"
        )
        row = {"kernel": name, "dtype": str(dtype).split(".")[1], "passed": result.passed(dtype), "said": said}
        print(json.dumps(row | _finite(result._asdict())), flush=True)


def _finite(numbers: dict[str, Any]) -> dict[str, Any]:
    return {key: value if math.isfinite(value) else None for key, value in numbers.items()}
