"""External memories and the methods that use them: one file a memory, usable alone."""

from mann.attention import MANN, AttentionMemory
from mann.hopfield import Hopfield
from mann.learner import unroll
from mann.lrua import LRUA

__all__ = ["LRUA", "MANN", "AttentionMemory", "Hopfield", "unroll"]
