"""RMSProp as Graves wrote it, the recipe of NTM, of Santoro et al. 2016, and of their reproductions."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class RMSProp(torch.optim.Optimizer):
    """Graves 2013, arXiv:1308.0850, eq. 38-41; defaults are his, the learning rate apart.

        n ← decay n + (1 - decay) g²        ḡ ← decay ḡ + (1 - decay) g
        Δ ← momentum Δ - lr g / √(n - ḡ² + ε)        w ← w + Δ

    `torch.optim.RMSprop(centered=True)` is another rule: it adds ε outside of the root and multiplies the learning rate
    after the momentum. With ε = 1e-4 it moves a parameter whose gradients are small up to 100 times as far as this.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        lr: float = 1e-4,
        decay: float = 0.95,
        momentum: float = 0.9,
        epsilon: float = 1e-4,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "decay": decay, "momentum": momentum, "epsilon": epsilon})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            keep, momentum = group["decay"], group["momentum"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                if not self.state[p]:
                    self.state[p] = {name: torch.zeros_like(p) for name in ("square", "mean", "delta")}
                square, mean, delta = (self.state[p][name] for name in ("square", "mean", "delta"))
                square.mul_(keep).addcmul_(p.grad, p.grad, value=1 - keep)
                mean.lerp_(p.grad, 1 - keep)
                # n - ḡ² is a variance: rounding may make it a little less than zero, never less than -ε by far.
                root = torch.addcmul(square, mean, mean, value=-1).clamp_(min=0).add_(group["epsilon"]).sqrt_()
                p.add_(delta.mul_(momentum).addcdiv_(p.grad, root, value=-group["lr"]))
