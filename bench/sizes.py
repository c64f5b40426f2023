"""Which sizes to profile: lists and ranges as typed, and the sweep that is used where nothing is said."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace

import torch

from bench.config import override
from bench.errors import BenchError
from bench.operations import Draw, Op

UNITS = {"": 1, "k": 2**10, "K": 2**10, "M": 2**20}
BEYOND, QUICK_BEYOND = 4, 1
"""A sweep ends where inputs and outputs are so many times as large as the last-level cache."""
FLOPS, QUICK_FLOPS = 3 * 10**9, 5 * 10**7
"""A sweep that nobody asked for goes no further than this many operations in a forward pass."""
FIRST = {"slots": 64, "width": 16}
QUICK = 2
"""Sizes of a quick sweep: the smallest and the largest."""


def parse(text: str, name: str) -> list[int]:
    """Sizes as "128", "64,256,1k" or "64..1M", which goes up by factors of four, or of two where four would miss.

    Raises:
        BenchError: not a list of positive whole numbers, or a range whose ends are no powers of two apart.
    """
    found = list(itertools.chain.from_iterable(_part(part.strip(), text, name) for part in text.split(",")))
    return list(dict.fromkeys(found))


def _part(part: str, text: str, name: str) -> list[int]:
    ends = [_number(end) for end in part.split("..")]
    if len(ends) > 2 or None in ends:
        raise BenchError(f"--{name} takes sizes as 128, 64,256,1k or 64..1M, not '{text}'")
    low, high = ends[0], ends[-1]
    assert low is not None
    assert high is not None
    ratio = high // low
    if low > high or high % low or ratio & (ratio - 1):
        raise BenchError(f"--{name} {part}: a range doubles or quadruples from its first number to reach its last")
    step = 4 if (ratio.bit_length() - 1) % 2 == 0 else 2
    return [low * step**i for i in range((ratio.bit_length() - 1) // (step // 2) + 1)]


def _number(text: str) -> int | None:
    match = re.fullmatch(r"([1-9]\d{0,11})([kKM]?)", text.strip())
    return int(match[1]) * UNITS[match[2]] if match else None


def points(op: type[Op], asked: Mapping[str, Sequence[int]], settings: Sequence[str], dtype: torch.dtype, cache: int,
           quick: bool) -> list[Op]:  # fmt: skip
    """The op at each size asked for; in a sweep of the field that it grows by where none was asked for.

    asked: values by field; those of fields that the op lacks are left out. settings: as "steps=20", for this op.

    Raises:
        BenchError: a setting or sizes that do not fit.
    """
    base = op()
    for setting in settings:
        base = override(base, setting)
    known = {f.name for f in fields(op)}
    grid = {name: values for name, values in asked.items() if name in known}
    made = [replace(base, **dict(zip(grid, values, strict=True))) for values in itertools.product(*grid.values())]
    for point in made:
        positive(point)
    if op.swept in known and op.swept not in grid and op.swept not in named(settings):
        made = [point for each in made for point in sweep(each, dtype, cache, quick)]
    for point in made:
        point.check()
    return made


def named(settings: Sequence[str]) -> set[str]:
    """The fields that settings set, as "steps=20,width=8"."""
    return {part.partition("=")[0].strip() for setting in settings for part in setting.split(",")}


def sweep(op: Op, dtype: torch.dtype, cache: int, quick: bool) -> list[Op]:
    """From a size that fits into a core's own cache to one of `BEYOND` last-level caches, by factors of four.

    A quick one has the first and the last size, and ends earlier.
    """
    flops, beyond = (QUICK_FLOPS, QUICK_BEYOND) if quick else (FLOPS, BEYOND)
    found: list[Op] = []
    size = FIRST.get(op.swept, 1)
    while True:
        grown = replace(op, **{op.swept: size})
        work = grown.least(dtype.itemsize)
        if found and work.flops > flops:
            break
        found.append(grown)
        if data(grown, dtype) >= beyond * cache:
            break
        size *= 4
    return [found[0], found[-1]] if quick and len(found) > QUICK else found


def data(op: Op, dtype: torch.dtype) -> int:
    """Bytes of inputs and outputs, and of what is worked on between them."""
    given = sum(x.nbytes for x in op.inputs(Draw(dtype, "meta")))
    return given + op.least(dtype.itemsize).written + op.held(dtype)


def positive(op: Op) -> None:
    """Refuse sizes below one.

    Raises:
        BenchError: which.
    """
    for f in fields(op):
        value = getattr(op, f.name)
        if isinstance(value, int) and value < 1:
            raise BenchError(f"{op.name}.{f.name} must be at least 1, not {value}")
