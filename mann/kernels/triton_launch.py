"""One way to start a kernel: run it, interpret it, or compile it for a device that is not here.

Inside `compiling(capability)` a launch on tensors of the device "meta" compiles the kernel with the very constants and
types that it would run with, and runs nothing; so what is checked without a GPU is what runs on one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

POINTERS = {
    torch.float32: "*fp32", torch.float64: "*fp64", torch.bfloat16: "*bf16", torch.int32: "*i32",
}  # fmt: skip
ALIGNED = 16
"""Triton assumes of pointers and numbers that are multiples of this that they are, and loads wider for it."""


class Compiled(NamedTuple):
    """A kernel compiled for a device that need not be here."""

    name: str
    warps: int
    shared: int
    """Bytes of shared memory a block."""
    kernel: Any
    """Triton's own result, with `asm`."""


_compiling: ContextVar[tuple[Any, list[Compiled]] | None] = ContextVar("compiling", default=None)


@contextmanager
def compiling(capability: int) -> Iterator[list[Compiled]]:
    """Compile every kernel launched inside for CUDA devices of a capability (80, 90): the list fills as they come."""
    found: list[Compiled] = []
    token = _compiling.set((GPUTarget("cuda", capability, 32), found))
    try:
        yield found
    finally:
        _compiling.reset(token)


def launch(kernel: Any, programs: tuple[int, ...], warps: int, **arguments: Any) -> None:
    """Start a kernel on a grid of programs, of which none may be zero for anything to happen."""
    # Products and sums are fused, as they are on CPUs; Triton's default for it changes with its version.
    options = {"num_warps": warps, "enable_fp_fusion": True}
    wanted = _compiling.get()
    if wanted is not None:
        target, found = wanted
        compiled = triton.compile(_source(kernel, arguments), target=target, options=options)
        found.append(Compiled(compiled.metadata.name, warps, compiled.metadata.shared, compiled))
    elif 0 not in programs:
        tensor = next(value for value in arguments.values() if isinstance(value, Tensor))
        with torch.cuda.device_of(tensor):  # Triton starts on the current device, whose tensors need not be these
            kernel[programs](**arguments, **options)


def _source(kernel: Any, arguments: dict[str, Any]) -> ASTSource:
    """The kernel specialised as a launch with these arguments would specialise it."""
    signature: dict[str, str] = {}
    constants: dict[tuple[int, ...], Any] = {}
    attributes: dict[tuple[int, ...], list[list[Any]]] = {}
    for index, parameter in enumerate(kernel.params):
        name, value = parameter.name, arguments[parameter.name]
        if isinstance(value, Tensor):
            signature[name] = POINTERS[value.dtype]
            aligned = value.storage_offset() * value.element_size() % ALIGNED == 0
        elif parameter.is_constexpr or value is None or value == 1:
            signature[name] = "constexpr"
            constants[(index,)] = value
            continue
        else:
            signature[name] = "i32" if abs(value) < 2**31 else "i64"
            aligned = value % ALIGNED == 0
        if aligned:
            attributes[(index,)] = [["tt.divisibility", ALIGNED]]
    return ASTSource(kernel, signature, constants, attributes)
