"""Fast forms of what the memories do; each has its readable reference in `mann`."""

from mann.kernels import triton_ops

__all__ = ["triton_ops"]
