"""Helpers to hold a fused scan against the reference: the same sequence through both, values and all gradients.

What every scan must do is a function here, and a test of two lines in the file of its memory.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.api import Memory
from mann.controllers import LSTMController
from mann.kernels import sequence as segments
from mann.kernels.registry import Run, find
from mann.learner import State, reference
from mann.states import map_state

IN_USE: dict[str, Callable[[Tensor], Tensor]] = {
    "memory": lambda t: t,
    "weights": lambda t: t.softmax(2),
    "usage": lambda t: 3 * t.abs(),
}
"""What a part of a memory's state may be after a while, from normal numbers."""


def network(memory: Memory[Any], units: int = 6, feed_read: bool = True, dtype: torch.dtype = torch.float64) -> Any:
    """What a scan needs of a `MemoryLearner`."""
    return SimpleNamespace(
        memory=memory.to(dtype),
        controller=LSTMController(1, memory.read_size, units).to(dtype),
        interface=nn.Linear(units, memory.interface_size).to(dtype),
        feed_read=feed_read,
    )


def scan_of(net: Any, device: str = "cpu") -> Run:
    """The registered scan of a network."""
    found = find(net, device)
    assert not isinstance(found, str), found
    return found.run


def normal(*shape: int, seed: int = 0, like: Tensor, scale: float = 1.0) -> Tensor:
    """Normal numbers, the same for each dtype."""
    random = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(*shape, generator=random, dtype=torch.float64)).to(like)


def sequence(net: Any, batch: int, time: int, seed: int = 0, scale: float = 1.0) -> tuple[Tensor, State]:
    """Projected inputs, and a state in which nothing is zero."""
    like = net.interface.weight
    projected = normal(batch, time, 4 * net.controller.size, seed=seed, like=like, scale=scale)
    read = normal(batch, net.memory.read_size, seed=seed + 1, like=like)
    controller = map_state(lambda t: normal(*t.shape, seed=seed + 2, like=t), net.controller.initial_state(batch, like))
    return projected, State(controller, read, net.memory.initial_state(batch, like))


def used(net: Any, batch: int, time: int, seed: int = 0, scale: float = 1.0) -> tuple[Tensor, State]:
    """A sequence from a memory in use: no two usages tie, for rounding would break a tie differently in each path."""
    projected, state = sequence(net, batch, time, seed, scale)
    parts = {n: IN_USE[n](normal(*t.shape, seed=seed + 3, like=t)) for n, t in state.memory._asdict().items()}
    return projected, state._replace(memory=type(state.memory)(**parts))


def tensors(state: Any) -> list[Tensor]:
    """The tensors of a state."""
    return [state] if isinstance(state, Tensor) else [t for part in state for t in tensors(part)]


def results(
    run: Run, net: Any, projected: Tensor, state: State, fixed: tuple[str, ...] = (), last: bool = True
) -> dict[str, Tensor]:
    """All outputs and the gradients of all inputs and parameters, by name. fixed: of the memory's state, what has none.

    The loss weights every output number by a random one. last: the state after the last step is an output, too.
    """
    leaves = {"projected": projected.detach().clone().requires_grad_()}

    def leaf(name: str, part: Any) -> Any:
        if not isinstance(part, Tensor):
            return type(part)(*(leaf(f"{name}.{n}", t) for n, t in part._asdict().items()))
        leaves[name] = part.detach().clone().requires_grad_(name.removeprefix("before.memory.") not in fixed)
        return leaves[name]

    given = leaf("before", state)
    names = [n.replace("before", "after") for n in leaves if n != "projected"]
    hidden, reads, after = run(net, leaves["projected"], given)
    outputs = {"hidden": hidden, "reads": reads}
    if last:
        outputs |= dict(zip(names, tensors(after), strict=True))
    values = {n: t.detach().clone() for n, t in outputs.items()}  # a way back may change buffers
    parts = ("controller", "interface", "memory")
    inputs = {n: t for n, t in leaves.items() if t.requires_grad} | {
        f"{part}.{n}": p for part in parts for n, p in getattr(net, part).named_parameters() if "input" not in n
    }
    smooth = [t for t in outputs.values() if t.requires_grad]
    loss = torch.stack([(normal(*t.shape, seed=7, like=t) * t).sum() for t in smooth]).sum()
    found = torch.autograd.grad(loss, list(inputs.values()), allow_unused=True)
    gradients = {f"gradient of {n}": torch.zeros_like(t) if g is None else g
                 for (n, t), g in zip(inputs.items(), found, strict=True)}  # fmt: skip
    return values | gradients


def agree(
    net: Any, projected: Tensor, state: State, fixed: tuple[str, ...] = (), tolerance: float = 1e-10, last: bool = True
) -> None:
    """The scan gives what the reference gives: each tensor to a tolerance times its largest number, or times 1e-3."""
    expected, found = (results(run, net, projected, state, fixed, last) for run in (reference, scan_of(net)))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].shape == value.shape, name
        assert found[name].dtype == value.dtype, name
        assert torch.equal(found[name].isnan(), value.isnan()), f"{name} is NaN elsewhere"
        if not value.numel():
            continue
        apart, scale = ((t.nan_to_num().abs().max()) for t in (found[name] - value, value))
        assert apart <= tolerance * max(float(scale), 1e-3), (
            f"{name} differs by {float(apart):.3g} at a size of {float(scale):.3g}"
        )


def gradient_is_that_of_differences(net: Any, projected: Tensor, state: State, fixed: tuple[str, ...] = ()) -> None:
    """Of everything, by torch's own check. Takes the network's parameters away from it."""
    modules = ((net.controller, ["recurrent"]), (net.interface, ["weight", "bias"]),
               (net.memory, [name for name, _ in net.memory.named_parameters()]))  # fmt: skip
    places = [(module, name) for module, names in modules for name in names]
    still = [name in fixed for name in (*state.controller._fields, "read", *state.memory._fields)]
    inputs = [projected, *(getattr(*place) for place in places), *tensors(state)]
    wanted = [True] * (1 + len(places)) + [not fix for fix in still]
    leaves = [t.detach().clone().requires_grad_(want) for t, want in zip(inputs, wanted, strict=True)]
    for module, name in places:
        delattr(module, name)

    def outputs(projected: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        for (module, name), value in zip(places, rest[: len(places)], strict=True):
            setattr(module, name, value)
        parts = iter(rest[len(places) :])
        hidden, reads, after = scan_of(net)(net, projected, map_state(lambda _: next(parts), state))
        return hidden, reads, *(t for t in tensors(after) if t.requires_grad)

    assert torch.autograd.gradcheck(outputs, leaves, eps=1e-6, atol=1e-5, rtol=1e-4)


Used = Callable[..., tuple[Tensor, State]]
"""As `used`, for memories whose state is in use in a way of its own."""


def gradient_can_be_differentiated_again(net: Any, *parameters: Tensor, used: Used = used) -> None:
    """As that of the reference. parameters: by which, besides the inputs."""
    found = []
    for run in (reference, scan_of(net)):
        projected, state = used(net, batch=2, time=3)
        projected.requires_grad_()
        hidden, reads, _ = run(net, projected, state)
        (first,) = torch.autograd.grad(hidden.square().sum() + reads.sum(), projected, create_graph=True)
        found.append(torch.autograd.grad(first.square().sum(), (projected, *parameters)))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def given_stays_as_it_was_and_backward_can_run_twice(net: Any, used: Used = used) -> State:
    """Returns the state after."""
    projected, state = used(net, batch=2, time=4)
    before = [t.clone() for t in (projected, *tensors(state))]
    leaf = projected.clone().requires_grad_()
    hidden, reads, after = scan_of(net)(net, leaf, state)
    assert all(torch.equal(a, b) for a, b in zip(before, (projected, *tensors(state)), strict=True))
    twice = [torch.autograd.grad(hidden.sum() + reads.sum(), leaf, retain_graph=True)[0] for _ in range(2)]
    assert torch.equal(*twice)
    return after


def twice_the_same_bits_and_threads_do_not_matter(net: Any, fixed: tuple[str, ...] = (), used: Used = used) -> None:
    """Of a batch of seven."""
    given = used(net, batch=7, time=9)
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 1, 2, 2, 3):
            torch.set_num_threads(count)
            found.append(results(scan_of(net), net, *given, fixed))
    finally:
        torch.set_num_threads(threads)
    for name, value in found[0].items():
        assert torch.equal(found[1][name], value), name
        assert torch.equal(found[2][name], found[3][name]), name
        if not name.startswith(("gradient of controller.", "gradient of interface.", "gradient of memory.")):
            assert torch.equal(found[2][name], value), f"{name}: only sums over the batch depend on threads"
            assert torch.equal(found[4][name], value), name


def segments_give_the_same(
    monkeypatch: pytest.MonkeyPatch, net: Any, room: int, fixed: tuple[str, ...] = (), used: Used = used
) -> None:
    """Where traces have only `room` bytes and are computed again."""
    given = used(net, batch=2, time=11)
    whole = results(scan_of(net), net, *given, fixed)
    monkeypatch.setattr(segments, "ROOM", room)
    parts = results(scan_of(net), net, *given, fixed)
    for name, value in whole.items():
        if name == "gradient of controller.recurrent":  # a sum over time, now of sums
            torch.testing.assert_close(parts[name], value, rtol=1e-12, atol=1e-14)
        else:
            assert torch.equal(parts[name], value), name
    agree(net, *given, fixed)


def without_gradients_the_same_bits(net: Any, used: Used = used) -> None:
    """Of a sequence of several segments."""
    projected, state = used(net, batch=2, time=2 * segments.FLEETING + 3)
    with_, without = scan_of(net)(net, projected.clone().requires_grad_(), state), None
    with torch.no_grad():
        without = scan_of(net)(net, projected, state)
    assert all(torch.equal(a, b) for a, b in zip(tensors(with_), tensors(without), strict=True))
    assert not without[0].requires_grad


LONG = """
import resource, torch
from fused import network, scan_of, sequence
from mann.dnc import DNC
from mann.lrua import LRUA
from mann.ntm import NTM
torch.manual_seed(0)
net = network({memory}, 200, dtype=torch.float32)
projected, state = sequence(net, 16, {steps})
hidden, reads, _ = scan_of(net)(net, projected.requires_grad_(), state)
(hidden.sum() + reads.sum()).backward()
assert projected.grad.isfinite().all()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def so_many_steps_take_less_than(steps: int, mebibytes: int, memory: str) -> None:
    """memory: Python that makes one."""
    command = [sys.executable, "-c", LONG.format(steps=steps, memory=memory)]
    done = subprocess.run(command, capture_output=True, text=True, cwd="tests")
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < mebibytes, f"{done.stdout} MiB"
