"""One op at one size: does a variant agree with the reference, what does it allocate and launch?"""

from __future__ import annotations

import math
import os
import re
import time
import warnings
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import DeviceType
from torch.autograd.profiler import profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bench import registry
from bench.errors import BenchError
from bench.operations import Draw, Op, Outputs, as_tuple, differentiable_inputs
from bench.sizes import data
from bench.timing import Call

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 1e-2}
"""Largest difference to the reference, relative to the largest number of an output or gradient."""
AUTOMATIC = ("eager", "compiled")
VIEWS = frozenset(
    f"aten::{name}"
    for name in (
        "view",
        "reshape",
        "transpose",
        "t",
        "permute",
        "unsqueeze",
        "squeeze",
        "expand",
        "expand_as",
        "view_as",
        "select",
        "slice",
        "narrow",
        "unbind",
        "split",
        "split_with_sizes",
        "chunk",
        "flatten",
        "unflatten",
        "as_strided",
        "detach",
        "alias",
        "diagonal",
        "_unsafe_view",
        "_reshape_alias",
        "empty",
        "empty_like",
        "empty_strided",
        "new_empty",
    )
)
"""Operators that compute nothing: they are no launches."""
LAUNCH = re.compile("cu(da)?(Launch(Cooperative)?Kernel|Mem(cpy|set))")
"""What a process calls to start work on a CUDA device, by the runtime or the driver."""
STEPS = 4
"""Longer sequences are not run to learn what they need: it is found for half as many steps and these, and continued."""
# The profiler would report each of its starts on stderr, from C++; it reads this when it is first used.
os.environ.setdefault("KINETO_LOG_LEVEL", "6")


class Footprint(NamedTuple):
    """Bytes: what is worked on (`sizes.data`), and what a run needs at its peak, inputs and gradients included."""

    data: int
    peak: int


class Cost(NamedTuple):
    """What one call does beside taking time. allocated, peak: bytes, in all and at once."""

    launches: int
    allocated: int
    peak: int


@dataclass(frozen=True)
class Variant:
    """A way to compute an op."""

    name: str
    function: Callable[..., Outputs]


# ------------------------------------------------------------------------------------------------------------- variants


def names_of(op: type[Op]) -> list[str]:
    """Variants of an op: eager, compiled, and those that are registered."""
    prefix = f"{op.name}."
    return [*AUTOMATIC, *sorted(n.removeprefix(prefix) for n in registry.VARIANTS.entries if n.startswith(prefix))]


def compiles(op: type[Op], name: str) -> bool:
    """Whether a variant is compiled for many seconds by its first call."""
    return name == "compiled" or (name not in AUTOMATIC and registry.VARIANTS.entries[f"{op.name}.{name}"].compiles)


def unsuited(op: type[Op], name: str, dtype: str, device: str) -> str:
    """Why a variant cannot run here, in a few words; "" where it can."""
    if name in AUTOMATIC:
        return ""
    function = registry.VARIANTS.entries[f"{op.name}.{name}"]
    if device not in function.devices:
        return f"works on {' and '.join(function.devices)} only"
    if function.dtypes is not None and dtype not in function.dtypes:
        return f"has the dtypes {', '.join(function.dtypes)}"
    return ""


def variant(op: Op, name: str) -> Variant:
    """A variant of an op at its size. What is compiled is compiled by the first call."""
    if name == "eager":
        return Variant(name, op.eager)
    if name == "compiled":
        return Variant(name, op.compiled())
    function = registry.VARIANTS.entries[f"{op.name}.{name}"]
    return Variant(name, lambda *inputs: function(op, *inputs))


# ---------------------------------------------------------------------------------------------------------------- calls


def forward(function: Callable[..., Outputs], inputs: Sequence[Tensor]) -> Call:
    """A forward pass on given inputs."""
    return lambda: function(*inputs)


def both(op: Op, function: Callable[..., Outputs], inputs: Sequence[Tensor], draw: Draw) -> Call:
    """A forward and a backward pass on given inputs, which from then on require gradients. Gives the gradients."""
    wanted = [x.requires_grad_() for x in differentiable_inputs(op, inputs)]
    outputs = as_tuple(function(*inputs))
    drawn = {i: draw.normal(*y.shape) for i, y in enumerate(outputs) if y.is_floating_point()}
    places = [i for i, y in enumerate(outputs) if y.requires_grad]
    given = [drawn[i] for i in places]
    del outputs, drawn

    def call() -> tuple[Tensor | None, ...]:
        made = as_tuple(function(*inputs))
        return torch.autograd.grad([made[i] for i in places], wanted, given, allow_unused=True)

    return call


def results(op: Op, function: Callable[..., Outputs], draw: Draw, backward: bool) -> list[Tensor]:
    """Outputs, and gradients where asked for, on fresh inputs of the draw's seed."""
    inputs = op.inputs(draw.again())
    found = [y.detach().clone() for y in as_tuple(function(*inputs))]
    if backward:
        inputs = op.inputs(draw.again())
        made: Any = both(op, function, inputs, draw.again(1))()
        wanted = differentiable_inputs(op, inputs)
        found += [torch.zeros_like(x) if g is None else g for g, x in zip(made, wanted, strict=True)]
    return found


def disagreement(expected: Sequence[Tensor], found: Sequence[Tensor]) -> float:
    """Largest difference of any pair of tensors, relative to the largest number of the expected one.

    What is small beside the other tensors, as a gradient that cancels out, counts as a hundredth of the largest of all.
    Infinite where a whole number or a shape differs, or where a number is not finite, or where one has more tensors.
    """
    if len(expected) != len(found):
        return math.inf
    largest = [a.abs().max().item() for a in expected if a.is_floating_point() and a.numel()]
    worst, least = 0.0, max([*largest, torch.finfo(torch.float32).tiny]) / 100
    for a, b in zip(expected, found, strict=True):
        if a.shape != b.shape or (not a.is_floating_point() and not torch.equal(a, b)):
            return math.inf
        if a.is_floating_point() and a.numel():
            difference = (a.double() - b.double()).abs().max().item() / max(a.abs().max().item(), least)
            worst = max(worst, difference if math.isfinite(difference) else math.inf)
    return worst


def check(op: Op, variant: Variant, draw: Draw, backward: bool) -> float:
    """Hold a variant against the reference. Returns the seconds of its first calls, in which it may be compiled.

    Raises:
        BenchError: it disagrees, or does not run.
    """
    began = time.monotonic()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a compiler talks of its own code
            found = results(op, variant.function, draw, backward)
    except Exception as error:  # a kernel may raise anything
        raise BenchError(f"does not run: {type(error).__name__}: {' '.join(str(error).split())[:200]}") from error
    took = time.monotonic() - began
    if variant.name == "eager" and type(op).eager is Op.eager:
        return took  # it is the reference
    off = disagreement(results(op, op.reference, draw, backward), found)
    if off > TOLERANCE[draw.dtype]:
        raise BenchError(f"disagrees with the reference by {off:.1e}, so it is not timed")
    return took


# --------------------------------------------------------------------------------------------------------------- memory


class _Live(TorchDispatchMode):
    """Bytes of the storages that are alive among those made under it."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.known: dict[int, Any] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._note(tensor.untyped_storage())
        return out

    def _note(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self.known:
            return

        def gone(_: object) -> None:
            self.known.pop(key, None)
            self.now -= size

        self.known[key] = weakref.ref(storage, gone)
        self.now += size
        self.peak = max(self.peak, self.now)


def footprint(op: Op, dtype: torch.dtype, backward: bool) -> Footprint:
    """What an op would need, found without allocating it: `eager` runs on tensors that have a shape and no memory."""
    given = sum(x.nbytes for x in op.inputs(Draw(dtype, "meta")))
    written = op.least(dtype.itemsize).written
    steps = getattr(op, "steps", 0)
    try:
        if steps > STEPS:  # a sequence needs as much again for each further step
            few, more = (_peak(replace(op, steps=n), dtype, backward) for n in (STEPS // 2, STEPS))  # type: ignore[call-arg]
            peak = more + (more - few) * (steps - STEPS) // (STEPS - STEPS // 2)
        else:
            peak = _peak(op, dtype, backward)
    except (RuntimeError, NotImplementedError):  # it looks at values, which are not there
        peak = (6 if backward else 3) * written
    return Footprint(data(op, dtype), given + peak)


def _peak(op: Op, dtype: torch.dtype, backward: bool) -> int:
    """Most bytes alive at once in a run of `eager`, the inputs left out."""
    draw = Draw(dtype, "meta")
    inputs = op.inputs(draw)
    with _Live() as live:
        call = both(op, op.eager, inputs, draw) if backward else forward(op.eager, inputs)
        call()
    return live.peak


def cost(call: Call, device: str, compiled: bool) -> Cost:
    """Launches and bytes of one call, from a profiled run that is not timed.

    A launch is a kernel or copy on an accelerator, an operator called from Python or autograd on a CPU unless it is one
    of VIEWS; one of a compiled graph counts once, beside the operators it calls.
    """
    with profile(use_device="cuda" if device == "cuda" else None, profile_memory=True) as prof:
        kept = call()
        if device == "cuda":
            torch.cuda.synchronize()
    del kept
    # The events as they were collected: to nest them as `prof.events()` does takes seconds for a long sequence.
    assert prof.kineto_results is not None
    kind = DeviceType.CUDA if device == "cuda" else DeviceType.CPU
    every = prof.kineto_results.events()
    events = [e for e in every if e.device_type() == kind]
    now = peak = allocated = 0
    for e in events:
        if e.name() == "[memory]":
            now += e.nbytes()
            allocated += max(0, e.nbytes())
            peak = max(peak, now)
    if device == "cuda":
        # Counted where they are called: an H200 showed calls here, and no kernels.
        launches = sum(LAUNCH.match(e.name()) is not None for e in every if e.device_type() == DeviceType.CPU)
    else:
        spans = [
            (e.start_thread_id(), e.start_ns(), e.end_ns())
            for e in events
            if e.name().startswith("aten::") and e.name() not in VIEWS
        ]
        launches = compiled + outermost(spans)
    return Cost(max(1, launches), allocated, peak)


def outermost(spans: list[tuple[int, int, int]]) -> int:
    """How many spans (thread, start, end) do not lie within another of their thread."""
    count, thread, until = 0, None, 0
    for where, start, end in sorted(spans, key=lambda span: (span[0], span[1], -span[2])):
        if where != thread or start >= until:
            count, thread, until = count + 1, where, end
    return count
