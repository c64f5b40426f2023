"""External memories and the methods that use them: one file a memory, usable alone."""

from mann.apl import APLMemory
from mann.attention import MANN, AttentionMemory
from mann.delta import Delta
from mann.dnc import DNC
from mann.hierarchical import HCAM
from mann.hopfield import Hopfield
from mann.kaiser import KaiserMemory
from mann.learner import unroll
from mann.lrua import LRUA
from mann.neural import Neural
from mann.ntm import NTM
from mann.sam import SAM
from mann.sdnc import SDNC
from mann.states import fork, map_state

__all__ = ["DNC", "HCAM", "LRUA", "MANN", "NTM", "SAM", "SDNC", "APLMemory", "AttentionMemory", "Delta", "Hopfield",
           "KaiserMemory", "Neural", "fork", "map_state", "unroll"]  # fmt: skip
