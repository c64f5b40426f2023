"""External memories and the methods that use them: one file a memory, usable alone."""

from mann.attention import MANN

__all__ = ["MANN"]
