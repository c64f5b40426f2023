"""`MemoryLearner.run` by Triton's scans: one launch a sequence instead of some thirty a step.

With an LSTM that sees what was read, the controller is in the scan. Where the controller does not see reads
(`feed_read=False`), any controller runs first, over the whole sequence, and the memory follows in a scan of its own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mann.controllers import LSTMController, LSTMState
from mann.kernels.triton_support import missing, oversized
from mann.learner import MemoryLearner, State
from mann.lrua import LRUA
from mann.ntm import NTM


def unsuited(learner: MemoryLearner, device: torch.device) -> str | None:
    """Why the scans cannot run a learner on a device, in one sentence; None where they can."""
    memory: Any = learner.memory
    controller = learner.controller
    if type(memory) not in (LRUA, NTM):
        return f"the GPU scans have the memories LRUA and NTM, not {type(memory).__name__}; use backend=reference"
    if learner.feed_read and type(controller) is not LSTMController:
        name = type(controller).__name__
        return f"the GPU scans have an LSTM where the controller sees reads, not {name}; use backend=reference"
    return missing(device) or oversized(memory.options.slots, memory.options.width)


def run(learner: MemoryLearner, x: Tensor, label: Tensor, state: State) -> tuple[Tensor, State]:
    """`learner.run(x, label, state)`.

    Raises:
        BenchError: no Triton or device, a dtype without a kernel, or a memory too large for one block.
    """
    from mann.kernels.triton_lrua import lrua_controlled, lrua_scan
    from mann.kernels.triton_ntm import ntm_controlled, ntm_scan
    from mann.kernels.triton_scan import Controller

    scan: Any
    controlled: Any
    scan, controlled = (lrua_scan, lrua_controlled) if isinstance(learner.memory, LRUA) else (ntm_scan, ntm_controlled)
    projected = learner.controller.project(torch.cat((learner.encoder(x), label), -1))
    controller, read, memory = state
    if learner.feed_read:
        assert isinstance(learner.controller, LSTMController)
        linear = learner.interface
        given = Controller(projected, learner.controller.recurrent, linear.weight, linear.bias, read, *controller)
        out, memory = controlled(learner.memory, given, memory)
        hidden, reads = out.hidden, out.reads
        controller, read = LSTMState(hidden[:, -1], out.cell), reads[:, -1]
    else:
        steps = []
        for step in projected.unbind(1):
            h, controller = learner.controller(step, read, controller)
            steps.append(h)
        hidden = torch.stack(steps, 1)
        reads, memory = scan(learner.memory, learner.interface(hidden), memory)
    return learner.output(torch.cat((hidden, reads), -1)), State(controller, read, memory)
