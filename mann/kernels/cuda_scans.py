"""LRUA and NTM behind an LSTM on a GPU, registered with `mann.kernels.registry`: one launch a sequence.

Before a scan first runs a learner, it is held against the reference on the very device, with the learner's own sizes
and options, on a few steps: no two devices compile a kernel alike. Where it disagrees it is not used.
"""

from __future__ import annotations

import functools
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import torch

from mann.controllers import LSTMController
from mann.kernels import triton_checks, triton_learner
from mann.kernels.registry import scan
from mann.kernels.triton_support import missing, oversized
from mann.lrua import LRUA
from mann.ntm import NTM

if TYPE_CHECKING:
    from mann.learner import MemoryLearner

DTYPES = (torch.float32, torch.bfloat16, torch.float64)


def unsuited(learner: MemoryLearner) -> str | None:
    """Why the scan cannot run a learner, or None."""
    memory: Any = learner.memory
    kind: Any = type(memory)
    weight = learner.interface.weight
    reason = missing(weight.device) or oversized(memory.options.slots, memory.options.width)
    return reason or _verified(
        kind, memory.options, learner.controller.size, learner.feed_read, weight.device, weight.dtype
    )


@functools.cache
def _verified(
    memory: type[Any], options: Any, units: int, feed_read: bool, device: torch.device, dtype: torch.dtype
) -> str | None:
    """Why a scan is not to be trusted here, or None. Whatever it draws, the global streams stay as they are."""
    generator = triton_checks.seeded()
    with torch.random.fork_rng(devices=[]), torch.inference_mode(False), torch.enable_grad():
        cell = memory(**{f.name: getattr(options, f.name) for f in fields(options)})
        sizes = triton_checks.Sizes(8, 4, options.slots, options.width, units, 1)
        try:
            subject = triton_checks.scan_subject(sizes, generator, cell, feed_read)
            result = triton_checks.compare(subject, str(device), dtype, generator)
        except Exception as error:  # a compiler or a device may raise anything
            return f"the scan does not run on this device: {type(error).__name__}: {str(error)[:200]}"
    if result.passed(dtype):
        return None
    if 2 * result.rows < result.of:
        return f"usages came too close to check the scan on this device: {result.rows} of {result.of} rows could tell"
    return (
        f"the scan disagrees with the reference on this device, by {result.values:.1e} in values and "
        f"{result.gradients:.1e} in gradients"
    )


for _memory in (LRUA, NTM):
    scan(_memory, LSTMController, lambda dtype: None, "cuda", DTYPES, unsuited)(triton_learner.scan)
