"""Which fast scan runs a learner, if any: by types of memory and controller, device, and what surrounds the call.

A scan does what `mann.learner.reference` does, for one type of memory and one of controller. It is registered by
`@scan(Memory, Controller)` in a module here whose name starts with the type of device, as `cpu_lrua.py`; such modules
are imported when they are first asked for, so that nothing depends on what they need. A third party's scan may be
registered from anywhere.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from bench.api import BenchError, Memory
from mann.controllers import Controller

if TYPE_CHECKING:
    from mann.learner import MemoryLearner, State

Run = Callable[["MemoryLearner", Tensor, "State"], tuple[Tensor, Tensor, "State"]]
"""As `mann.learner.reference`."""
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
NEEDS = {"numba": "fast", "triton": "gpu"}
"""Packages that modules here may lack, and the extra that brings each."""
PATIENCE_S = 1.0
"""Compiling is announced when it takes longer."""


@dataclass(frozen=True)
class Scan:
    """A registered scan. dtypes: of all its tensors, which share one. unsuited: why it cannot run this learner."""

    run: Run
    compile: Callable[[torch.dtype], None]
    dtypes: tuple[torch.dtype, ...]
    unsuited: Callable[[MemoryLearner], str | None]


SCANS: dict[tuple[str, type[Memory[Any]], type[Controller]], Scan] = {}
"""By type of device, memory and controller."""


def scan(
    memory: type[Memory[Any]],
    controller: type[Controller],
    compile: Callable[[torch.dtype], None],
    device: str = "cpu",
    dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.float64),
    unsuited: Callable[[MemoryLearner], str | None] = lambda learner: None,
) -> Callable[[Run], Run]:
    """Register a scan. compile: called once a process and dtype before it runs, to do what takes long the first time.

    What compile draws at random is no part of the caller's stream: whether code was compiled must not change a result.
    Exactly these types: a subclass may do otherwise, and gets the reference until it is registered as well.
    """

    @functools.cache
    def once(dtype: torch.dtype) -> None:
        # Whoever calls may be in inference mode, or have another device by default.
        with torch.random.fork_rng(devices=[]), torch.inference_mode(False), torch.device("cpu"):
            compile(dtype)

    def register(run: Run) -> Run:
        SCANS[device, memory, controller] = Scan(run, once, dtypes, unsuited)
        return run

    return register


def prepare(learner: MemoryLearner, compiling: Callable[[], None]) -> str | None:
    """Compile the scan that would run a learner as it is. Returns why none would, or None.

    compiling: called if that takes longer than a moment.
    """
    like = next(learner.interface.parameters(), torch.empty(0))
    found = find(learner, like.device.type)
    if isinstance(found, str):
        return found
    if like.dtype not in found.dtypes:
        return _wrong_type(like.dtype)
    with _announced(compiling):
        found.compile(like.dtype)
        return found.unsuited(learner)


def choose(learner: MemoryLearner, projected: Tensor, state: State) -> Run | None:
    """The scan for a call, or None for the reference, as `learner.backend` says.

    Raises:
        BenchError: `fused` is asked for and cannot be had here.
    """
    if learner.backend == "reference":
        return None
    found = find(learner, projected.device.type)
    reason = found if isinstance(found, str) else refusal(found, learner, projected, state)
    if isinstance(found, Scan) and reason is None:
        with _announced(_say_so):
            found.compile(projected.dtype)
        return found.run
    if learner.backend == "fused":
        raise BenchError(f"the fused path cannot be used: {reason}; use the backend auto or reference")
    return None


def find(learner: MemoryLearner, device: str) -> Scan | str:
    """The scan for a learner's memory and controller, or why there is none."""
    lacking = _load(device)
    memory, controller = type(learner.memory), type(learner.controller)
    known = SCANS.get((device, memory, controller))
    if type(learner.interface) is not nn.Linear or learner.interface.bias is None:
        return "its interface is another module than an nn.Linear with a bias"
    if known:
        return known
    if lacking:
        return f"{lacking} is not installed (pip install 'mannbench[{NEEDS[lacking]}]')"
    return f"there is no scan for {memory.__name__} behind {controller.__name__} on the device {device}"


def refusal(found: Scan, learner: MemoryLearner, projected: Tensor, state: State) -> str | None:
    """Why a scan cannot take a call, or None."""
    parts = (learner.controller, learner.interface, learner.memory)
    modules = [module for part in parts for module in part.modules()]
    if any(getattr(module, name) for module in modules for name in HOOKS) or any("forward" in vars(m) for m in modules):
        return "a module inside the scan has hooks, or a forward of its own"
    if torch.compiler.is_compiling():
        return "torch.compile is at work"
    # What transforms a function must see its single operations. There is no public way to ask.
    if torch._C._functorch.peek_interpreter_stack() is not None or forward_ad._current_level >= 0:
        return "a transform of torch.func or forward-mode differentiation is at work"
    if torch.is_autocast_enabled(projected.device.type):
        return "autocast is on"
    tensors = [projected, *_tensors(state), *(p for part in parts for p in part.parameters())]
    # Places and clocks are whole numbers, whatever the type of the rest.
    if any((t.is_floating_point() and t.dtype != projected.dtype) or t.device != projected.device for t in tensors):
        return "its tensors are of several types or on several devices"
    if projected.dtype not in found.dtypes:
        return _wrong_type(projected.dtype)
    if not projected.numel():
        return "the sequence is empty"
    with _announced(_say_so):
        return found.unsuited(learner)


def _wrong_type(dtype: torch.dtype) -> str:
    return f"it does not compute in {str(dtype).removeprefix('torch.')}"


def _tensors(state: Any) -> Iterator[Tensor]:
    if isinstance(state, Tensor):
        yield state
    else:
        for part in state:
            yield from _tensors(part)


@functools.cache
def _load(device: str) -> str | None:
    """Import the modules for a device. Returns the package that one of them lacks, or None."""
    import mann.kernels

    for module in pkgutil.iter_modules(mann.kernels.__path__):
        if module.name.startswith(f"{device}_"):
            try:
                importlib.import_module(f"mann.kernels.{module.name}")
            except ModuleNotFoundError as error:
                if error.name not in NEEDS:
                    raise
                return error.name
    return None


def _say_so() -> None:
    print("compiling a fused scan, once on this machine", file=sys.stderr, flush=True)


@contextmanager
def _announced(compiling: Callable[[], None]) -> Iterator[None]:
    """Call it if what is inside takes longer than a moment."""
    timer = threading.Timer(PATIENCE_S, compiling)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
