"""The arithmetic floor of a training step: its matrix products alone, and the least traffic, run as they are.

What a step must do at least, however it is written: the products of its reference, forward and backward, shape by shape
at the speed at which this machine makes products of these shapes, one after the other with all they need in the cache;
and reading and writing once what cannot be kept from step to step, at the speed of a copy of as many bytes. The two do
not overlap on one thread that computes; all that is no product (exponentials, sums, the choice of slots) is left out,
as are the memory's state and what is kept for the way back, which may stay in a cache. So the floor is below what can
be reached, by the more the less of a memory's work is products. Each product is called from Python, which costs it a
microsecond or two that a loop within a kernel would not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

Shape = tuple[int, int, int, int]
"""batch, m, k, n of a product [batch, m, k] × [batch, k, n]."""
aten = torch.ops.aten
OPERANDS = {aten.mm: 0, aten.bmm: 0, aten.mv: 0, aten.addmm: 1, aten.baddbmm: 1, aten.addmv: 1}
"""Products, and at which argument their factors begin."""


class _Products(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.shapes: Counter[Shape] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        at = OPERANDS.get(func.overloadpacket)
        if at is not None:
            left, right = args[at], args[at + 1]
            batch = left.shape[0] if left.dim() == 3 else 1
            self.shapes[batch, left.shape[-2], left.shape[-1], right.shape[-1] if right.dim() > 1 else 1] += 1
        return func(*args, **(kwargs or {}))


def products(call: Callable[[], object]) -> Counter[Shape]:
    """The matrix products of a call, by shape."""
    with _Products() as mode:
        call()
    return mode.shapes


def flops(shapes: Counter[Shape]) -> int:
    """Floating-point operations of products, 2 · batch · m · k · n each."""
    return sum(2 * count * batch * m * k * n for (batch, m, k, n), count in shapes.items())


def least_traffic(inputs: int, parameters: int) -> int:
    """Bytes that a step with Adam moves at least, out of the bytes of inputs and of parameters.

    Inputs are read. Parameters and both moments are read and written, gradients written.
    """
    return inputs + 7 * parameters


def floor(shapes: Counter[Shape], traffic: int) -> Callable[[], None]:
    """A call that makes the products and a copy which moves that many bytes, in float32."""
    made = []
    for (batch, m, k, n), count in shapes.items():
        left, right, out = (torch.rand(batch, rows, columns) for rows, columns in ((m, k), (k, n), (m, n)))
        pairs = (left[0], right[0], out[0]) if batch == 1 else (left, right, out)
        made.append((torch.mm if batch == 1 else torch.bmm, *pairs, count))
    source = torch.zeros(traffic // 8)  # float32, read and written
    target = torch.empty_like(source)

    def call() -> None:
        for product, left, right, out, count in made:
            for _ in range(count):
                product(left, right, out=out)
        target.copy_(source)

    return call
