"""The optimiser against its equations, step by step."""

from __future__ import annotations

import math

import pytest
import torch

from bench.rmsprop import RMSProp


def by_hand(w: float, gradients: list[float], lr: float, decay: float, momentum: float, epsilon: float) -> float:
    n = mean = delta = 0.0
    for g in gradients:
        n = decay * n + (1 - decay) * g * g
        mean = decay * mean + (1 - decay) * g
        delta = momentum * delta - lr * g / math.sqrt(n - mean * mean + epsilon)
        w += delta
    return w


@pytest.mark.parametrize("scale", [1e-6, 1e-2, 1.0, 1e4])
def test_steps_are_those_of_the_equations(scale: float) -> None:
    gradients = [scale * g for g in (1.0, -0.5, 0.25, 2.0, 0.0, -1.0)]
    parameters = [torch.nn.Parameter(torch.tensor([0.3, -2.0], dtype=torch.float64)), torch.nn.Parameter(torch.ones(3))]
    optimiser = RMSProp([{"params": parameters[:1], "lr": 1e-2}, {"params": parameters[1:]}], lr=1e-4)
    for g in gradients:
        parameters[0].grad = torch.tensor([g, -g], dtype=torch.float64)
        optimiser.step()
    expected = [
        by_hand(0.3, gradients, 1e-2, 0.95, 0.9, 1e-4),
        by_hand(-2, [-g for g in gradients], 1e-2, 0.95, 0.9, 1e-4),
    ]
    assert parameters[0].tolist() == pytest.approx(expected, rel=1e-12)
    assert parameters[1].tolist() == [1, 1, 1]  # no gradient, no step


def test_constant_gradients_stay_finite() -> None:
    """The running variance of a constant is zero, up to rounding that must not reach the root."""
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimiser = RMSProp([parameter], lr=1e-4)
    for _ in range(2000):
        parameter.grad = torch.full((1,), 1e3)
        optimiser.step()
    assert parameter.isfinite().all()


def test_state_is_resumed_to_the_bit() -> None:
    def steps(parameter: torch.nn.Parameter, optimiser: RMSProp, numbers: range) -> None:
        for k in numbers:
            parameter.grad = torch.randn(4, generator=torch.Generator().manual_seed(k))
            optimiser.step()

    whole = torch.nn.Parameter(torch.zeros(4))
    steps(whole, RMSProp([whole], lr=0.1), range(10))
    first = torch.nn.Parameter(torch.zeros(4))
    before = RMSProp([first], lr=0.1)
    steps(first, before, range(5))
    second = torch.nn.Parameter(first.detach().clone())
    after = RMSProp([second], lr=0.1)
    after.load_state_dict(before.state_dict())
    steps(second, after, range(5, 10))
    assert torch.equal(second, whole)
