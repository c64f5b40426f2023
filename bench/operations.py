"""Ops: what `bench profile` times. An op says once what it computes, on which inputs, and the least that this costs.

An op is a frozen config as a method is, registered with `@op("name")`; its fields are its sizes. Faster ways to compute
it are registered with `@variant("op", "name")`, in whatever file they live.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, TypeVar

import torch
from torch import Tensor

from bench.errors import BenchError
from bench.registry import option

F = TypeVar("F", bound=Callable[..., Any])
Outputs = Tensor | tuple[Tensor, ...]


class Work(NamedTuple):
    """The least that an op must do, however it is computed: each input read once, each output written once.

    read, written: bytes. products: floating-point operations of matrix products, 2 · m · n · k each. others: all
    others, one for each addition, multiplication, division, comparison, root or exponential.
    """

    read: int
    written: int
    products: int = 0
    others: int = 0

    @property
    def traffic(self) -> int:
        """Bytes moved."""
        return self.read + self.written

    @property
    def flops(self) -> int:
        """Floating-point operations."""
        return self.products + self.others


@dataclass
class Draw:
    """Random inputs of one dtype on one device, all from one seed. On the device "meta" only their shapes are made."""

    dtype: torch.dtype = torch.float32
    device: str = "cpu"
    seed: int = 0
    generator: torch.Generator | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        if self.device != "meta":
            self.generator = torch.Generator(self.device).manual_seed(self.seed)

    def again(self, further: int = 0) -> Draw:
        """The same from the start, or with a seed so much further."""
        return Draw(self.dtype, self.device, self.seed + further)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers."""
        return torch.empty(shape, dtype=self.dtype, device=self.device).normal_(generator=self.generator)

    def uniform(self, *shape: int) -> Tensor:
        """Numbers between 0 and 1."""
        return torch.empty(shape, dtype=self.dtype, device=self.device).uniform_(generator=self.generator)

    def weights(self, *shape: int) -> Tensor:
        """Distributions over the last dimension."""
        return self.normal(*shape).softmax(-1)

    def distinct(self, below: int, *shape: int) -> Tensor:
        """Whole numbers in 0..below-1, those along the last dimension different from one another; int64."""
        *lead, count = shape
        start = torch.empty(*lead, 1, dtype=torch.int64, device=self.device)
        if self.generator is not None:
            start.random_(0, below, generator=self.generator)
        # Evenly spaced from a random start: permutations of a million slots would take longer than the op.
        return (start + torch.arange(count, device=self.device) * max(1, below // count)) % below

    def zeros(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """Zeros."""
        return torch.zeros(shape, dtype=dtype or self.dtype, device=self.device)


@dataclass(frozen=True, kw_only=True)
class Op:
    """One operation of a memory at one size. Subclasses are registered with `@op("name")`; their fields are the sizes.

    The one thing to write beside `inputs`, `reference` and `least` is the docstring: what is computed, and where from.
    Bump `version` when inputs or work change: profiles of different versions are not compared.
    """

    name: ClassVar[str]
    source: ClassVar[str]
    version: ClassVar[int] = 1
    methods: ClassVar[tuple[str, ...]] = ()
    """Methods whose memory does this: what `bench profile --memory` selects by."""
    dtypes: ClassVar[tuple[str, ...]] = ("float32", "float64")
    differentiable: ClassVar[bool] = True
    """Whether it has a gradient, to all floating-point inputs that are not in `constants`."""
    constants: ClassVar[tuple[int, ...]] = ()
    """Places of floating-point inputs that have no gradient."""
    swept: ClassVar[str] = "slots"
    """The field that grows in a sweep."""

    batch: int = option(16, "rows of a batch")

    def inputs(self, draw: Draw) -> tuple[Tensor, ...]:
        """Fresh inputs."""
        raise NotImplementedError

    # Their subclasses name the inputs, which a type checker allows for this signature only.
    def reference(self, *inputs: Any, **none: Any) -> Outputs:
        """The outputs, computed as the equations stand; what every variant is held against."""
        raise NotImplementedError

    def eager(self, *inputs: Any, **none: Any) -> Outputs:
        """The same by the operators of PyTorch, as the memory does it; the reference unless overridden."""
        return self.reference(*inputs)

    def compiled(self) -> Callable[..., Outputs]:
        """`eager` through `torch.compile`. Override it where another part is to be compiled."""
        return torch.compile(self.eager, fullgraph=True)

    def least(self, itemsize: int) -> Work:
        """The work of the forward pass. itemsize: bytes of a floating-point number."""
        raise NotImplementedError

    def held(self, dtype: torch.dtype) -> int:
        """Bytes that an op works on beside its inputs and outputs, such as the state of a sequence."""
        return 0

    def least_both(self, itemsize: int) -> Work:
        """The work of forward and backward pass together.

        Unless overridden: backward, all inputs are read again and the gradients of the outputs once, and the gradients
        of the inputs are written; a product of two matrices has two products for its gradients.
        """
        w = self.least(itemsize)
        return Work(2 * w.read + w.written, w.written + w.read, 3 * w.products, 3 * w.others)

    def check(self) -> None:
        """Refuse sizes that do not fit together; cheap.

        Raises:
            BenchError: which, and what would fit.
        """


def as_tuple(outputs: Outputs) -> tuple[Tensor, ...]:
    """Outputs of an op as a tuple."""
    return (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)


def differentiable_inputs(op: Op, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Those inputs that have a gradient."""
    return [x for i, x in enumerate(inputs) if x.is_floating_point() and i not in op.constants and op.differentiable]


def part(label: str) -> Callable[[F], F]:
    """Mark a function or method as a part of a training step, for `bench profile --trace`; costs nothing otherwise.

    label: addressing, read, write or usage.
    """

    def mark(function: F) -> F:
        function.__dict__["part"] = label
        return function

    return mark


def dtype_of(name: str, op: type[Op]) -> torch.dtype:
    """A dtype by its name.

    Raises:
        BenchError: no such dtype, or one that the op lacks.
    """
    if name not in op.dtypes:
        raise BenchError(f"{op.name} has the dtypes {', '.join(op.dtypes)}, not '{name}'")
    return getattr(torch, name)
