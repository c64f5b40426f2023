"""Helpers to hold a fused scan against the reference: the same sequence through both, values and all gradients."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from bench.api import Memory
from mann.controllers import LSTMController
from mann.kernels.registry import Run, find
from mann.learner import State, reference
from mann.states import map_state


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
