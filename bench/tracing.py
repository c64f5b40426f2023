"""Where the time of one training step goes: a `torch.profiler` trace, and the share of each part.

Parts are marked where they are defined (`bench.api.part`), or are children of the learner by name. They become ranges
of the profiler while a trace is taken, and only then. A backward operator belongs to the part whose forward operator it
is the gradient of: autograd numbers both alike.
"""

from __future__ import annotations

import functools
import os
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn
from torch.autograd import DeviceType
from torch.autograd.profiler import profile, record_function

from bench import hardware, profile_views, registry, views
from bench.api import Episode, Learner, Task, TrainedMethod, generator
from bench.config import override
from bench.errors import BenchError
from bench.interface import threads_for
from bench.seeding import torch_seed
from bench.training import device_of

if TYPE_CHECKING:
    from bench.profiling import Request

TASK, METHOD = "glyphs-online", "mann"
# The profiler would report each of its starts on stderr, from C++; it reads this when it is first used.
os.environ.setdefault("KINETO_LOG_LEVEL", "6")
WARM = 2
"""Steps before the one that is traced."""
CHILDREN = {"encoder": "encoder", "controller": "controller", "interface": "controller", "memory": "memory, rest",
            "output": "output"}  # fmt: skip
"""Parts that are children of a learner, by name. What of the memory is marked as a part of its own is told apart."""
PARTS = ("encoder", "controller", "addressing", "read", "write", "usage", "memory, rest", "output", "loss", "optimiser",
         "other")  # fmt: skip
PREFIX, BACKWARD = "part: ", "autograd::engine::evaluate_function"
Owner = tuple[Any, str, Callable[..., Any], str]


class Span(NamedTuple):
    """One event. start, end: nanoseconds; sequence: autograd's number, -1 for none; of: what launched a kernel."""

    name: str
    thread: int
    start: int
    end: int
    sequence: int = -1
    id: int = 0
    of: int = 0
    kernel: bool = False


@dataclass
class Share:
    """Seconds of a part, in the forward and in the backward pass."""

    forward: float = 0.0
    backward: float = 0.0

    @property
    def both(self) -> float:
        """All of it."""
        return self.forward + self.backward


def run(request: Request, as_json: bool = False) -> dict[str, Any]:
    """Trace one training step of a method; print the shares, write the trace. The call as data.

    Raises:
        BenchError: no such method, or one that is not trained.
    """
    out = views.console(stderr=as_json)
    device, threads = device_of(request.device), threads_for(1, request.threads)
    torch.set_num_threads(threads)
    method, task = registry.get(registry.METHODS, request.memory or METHOD)(), registry.get(registry.TASKS, TASK)()
    for setting in request.settings:
        owner, _, change = setting.partition(".")
        if owner not in (method.name, TASK):
            raise BenchError(f"--set {setting} fits nothing here; a trace is of {method.name} on {TASK}")
        method, task = (override(c, change) if c.name == owner else c for c in (method, task))
    if not isinstance(method, TrainedMethod):
        raise BenchError(f"{method.name} is not trained, so that there is no training step to trace")
    method.check()
    task.check()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch_seed("init", method.name, 0))
        learner = method.build(task.training()).to(device)
    path = request.out / hardware.slug(hardware.device_name(device)) / "traces" / f"{method.name}.json"
    spans = trace(learner, method, task, device, path)
    found = shares(spans, device == "cuda")
    total = sum(share.both for share in found.values())
    right = ("forward", "backward", "share")
    title = f"one training step of {method.name} on {TASK}, batch {method.batch}, {threads} threads"
    table = views.table("part", *right, right=right)
    for part, share in found.items():
        times = (profile_views.duration(s) if s else "·" for s in (share.forward, share.backward))
        table.add_row(part, *times, f"{100 * share.both / total:.1f} %")
    out.print(title, style="bold")
    out.print(table)
    out.print(f"{profile_views.duration(total)} in all under the profiler, which slows small operators most: "
              "the shares are what to look at", soft_wrap=True)  # fmt: skip
    out.print(f"{path} (open it in a browser at ui.perfetto.dev)", soft_wrap=True)
    parts = {
        part: {"forward_s": s.forward, "backward_s": s.backward, "share": s.both / total} for part, s in found.items()
    }
    return {"method": method.name, "task": TASK, "parts": parts, "trace": str(path)}


def trace(learner: Learner, method: TrainedMethod, task: Task, device: str, path: Path) -> list[Span]:
    """Train for some steps, the last of them profiled; write its trace and give its events."""
    optimiser = method.optimiser(learner)
    episode = method.draw(task, generator("trace", task.name)).to(device)
    learner.train()
    for _ in range(WARM):
        step(learner, optimiser, episode, task)
    with labelled(learner, task), profile(use_device="cuda" if device == "cuda" else None) as prof:
        step(learner, optimiser, episode, task)
        if device == "cuda":
            torch.cuda.synchronize()
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".tmp")
    os.close(handle)
    try:
        prof.export_chrome_trace(part)
        os.replace(part, path)
    finally:
        Path(part).unlink(missing_ok=True)
    assert prof.kineto_results is not None
    return [
        Span(e.name(), e.start_thread_id(), e.start_ns(), e.end_ns(), e.sequence_nr(), e.correlation_id(),
             e.linked_correlation_id(), e.device_type() == DeviceType.CUDA)
        for e in prof.kineto_results.events()
    ]  # fmt: skip


def step(learner: Learner, optimiser: torch.optim.Optimizer, episode: Episode, task: Task) -> None:
    """One training step as `bench.training` makes it, without checks."""
    loss = learner.loss(episode, task)
    with record_function(f"{PREFIX}optimiser"):
        optimiser.zero_grad()
    loss.backward()
    with record_function(f"{PREFIX}optimiser"):
        optimiser.step()


# --------------------------------------------------------------------------------------------------------------- ranges


@contextmanager
def labelled(learner: Learner, task: Task) -> Iterator[None]:
    """While it lasts, parts of the learner and the task's loss are ranges of the profiler."""
    owners = list(_owners(learner, task))
    try:
        for owner, name, function, label in owners:
            object.__setattr__(owner, name, _ranged(function, label))
        yield
    finally:
        for owner, name, function, _ in reversed(owners):
            if isinstance(owner, (nn.Module, Task)):
                owner.__dict__.pop(name, None)  # what its class has is found again
            else:
                setattr(owner, name, function)


def _owners(learner: Learner, task: Task) -> Iterator[Owner]:
    """Where each function to be labelled is looked up when it is called: owner, name, function, label."""
    yield task, "loss", task.loss, "loss"
    for child, label in CHILDREN.items():
        module = getattr(learner, child, None)
        for name in ("forward", "project"):
            if isinstance(module, nn.Module) and hasattr(module, name):
                yield module, name, getattr(module, name), label
    seen: set[str] = set()
    for module in learner.modules():
        for cls in type(module).__mro__:
            for name, function in vars(cls).items():
                if getattr(function, "part", None) and getattr(type(module), name) is function:
                    yield module, name, getattr(module, name), function.part
            home = sys.modules.get(cls.__module__)
            if home is not None and cls.__module__ not in seen and not cls.__module__.startswith("torch"):
                seen.add(cls.__module__)
                for name, function in list(vars(home).items()):
                    if getattr(function, "part", None) and callable(function):
                        yield home, name, function, function.part


def _ranged(function: Callable[..., Any], label: str) -> Callable[..., Any]:
    @functools.wraps(function)
    def inner(*arguments: Any, **named: Any) -> Any:
        with record_function(PREFIX + label):
            return function(*arguments, **named)

    return inner


# --------------------------------------------------------------------------------------------------------------- shares


def shares(spans: Sequence[Span], kernels: bool) -> dict[str, Share]:
    """Seconds of each part, in the order of PARTS, others last; those that took none are left out.

    A span's own time, without that of the spans inside it, belongs to the innermost part around it; in the backward
    pass, to the part of the forward operator with the same sequence number. kernels: count the time of kernels, each
    for the operator that launched it, in place of that of operators.
    """
    found: dict[str, Share] = defaultdict(Share)
    placed = list(_placed([s for s in spans if not s.kernel]))
    forward = {span.sequence: label for span, label, of, _ in placed if span.sequence >= 0 and of is None}
    by_id: dict[int, tuple[str, bool]] = {}
    for span, label, of, own in placed:
        part = forward.get(of, "other") if of is not None and label == "other" else label
        if span.id:
            by_id[span.id] = (part, of is not None)
        if not kernels:
            _add(found[part], own / 1e9, of is not None)
    for span in (s for s in spans if kernels and s.kernel and not s.name.startswith(PREFIX)):
        part, backward = by_id.get(span.of, ("other", False))
        _add(found[part], (span.end - span.start) / 1e9, backward)
    order = [*PARTS, *sorted(set(found) - set(PARTS))]
    return {part: found[part] for part in order if part in found and found[part].both > 0}


def _add(share: Share, seconds: float, backward: bool) -> None:
    if backward:
        share.backward += seconds
    else:
        share.forward += seconds


def _placed(spans: Sequence[Span]) -> Iterator[tuple[Span, str, int | None, int]]:
    """Each span with its part, the sequence number of the backward node it is in, and its own time."""
    order = sorted(spans, key=lambda s: (s.thread, s.start, -s.end))
    own = {i: s.end - s.start for i, s in enumerate(order)}
    told: list[tuple[str, int | None]] = []
    stack: list[int] = []
    for i, span in enumerate(order):
        while stack and (order[stack[-1]].thread != span.thread or order[stack[-1]].end <= span.start):
            stack.pop()
        label, of = told[stack[-1]] if stack else ("other", None)
        if stack:
            own[stack[-1]] -= span.end - span.start
        if span.name.startswith(PREFIX):
            label = span.name.removeprefix(PREFIX)
        elif span.name.startswith(BACKWARD):
            label, of = "other", span.sequence
        told.append((label, of))
        stack.append(i)
    for i, span in enumerate(order):
        yield span, *told[i], own[i]
