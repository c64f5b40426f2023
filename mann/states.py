"""What is done to a state of any kind: nested tuples of tensors whose first dimension is the batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor


def map_state(function: Callable[[Tensor], Tensor], state: Any) -> Any:
    """The state with a function applied to each of its tensors; named tuples stay what they are."""
    if isinstance(state, Tensor):
        return function(state)
    parts = [map_state(function, part) for part in state]
    return type(state)(*parts) if hasattr(state, "_fields") else type(state)(parts)


def fork(state: Any, copies: int) -> Any:
    """A state with each row `copies` times in a row: one branch a query. The given state is left as it was."""
    return map_state(lambda tensor: tensor.repeat_interleave(copies, 0), state)
