"""What `MemoryLearner` does with a sequence, by Triton's scans: one launch instead of some thirty a step.

With an LSTM that sees what was read, the controller is in the scan. Where the controller does not see reads
(`feed_read=False`) it runs first, over the whole sequence, and the memory follows in a scan of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mann.controllers import LSTMState
from mann.lrua import LRUA
from mann.states import map_state

if TYPE_CHECKING:
    from mann.learner import MemoryLearner, State


def scan(learner: MemoryLearner, projected: Tensor, state: State) -> tuple[Tensor, Tensor, State]:
    """`mann.learner.reference(learner, projected, state)` for LRUA or NTM behind an LSTM, at least one step.

    Raises:
        BenchError: no Triton or device, a dtype without a kernel, or a memory too large for one block.
    """
    from mann.kernels.triton_lrua import lrua_controlled, lrua_scan
    from mann.kernels.triton_ntm import ntm_controlled, ntm_scan
    from mann.kernels.triton_scan import Controller

    alone: Any
    controlled: Any
    alone, controlled = (lrua_scan, lrua_controlled) if isinstance(learner.memory, LRUA) else (ntm_scan, ntm_controlled)
    controller, read, memory = state
    lstm: Any = learner.controller
    if learner.feed_read:
        linear = learner.interface
        given = Controller(projected, lstm.recurrent, linear.weight, linear.bias, read, *controller)
        out, memory = controlled(learner.memory, given, memory)
        controller, read = LSTMState(out.hidden[:, -1], out.cell), out.reads[:, -1]
        return out.hidden, out.reads, _as(projected, type(state)(controller, read, memory))
    steps = []
    for step in projected.unbind(1):
        h, controller = lstm(step, read, controller)
        steps.append(h)
    hidden = torch.stack(steps, 1)
    reads, memory = alone(learner.memory, learner.interface(hidden), memory)
    return hidden, reads, _as(projected, type(state)(controller, read, memory))


def _as(projected: Tensor, state: State) -> State:
    """The state in the dtype that it came in: kernels keep it in float32 at least."""
    return map_state(lambda tensor: tensor.to(projected.dtype), state)
