"""Peak memory of a memory's forward and backward pass, for `test_sam_memory`, in a process of its own:

    python peak_memory.py METHOD '{"slots": 1024}' STEPS ...

For each number of steps it prints by how many bytes the resident set at its peak was above what it was before the
sequence: all that the steps keep, and whatever they pass through. The memory is alone, without controller and
optimiser, whose own bytes would hide its. A short sequence goes before, so that what torch makes once is there already.
"""

import ctypes
import dataclasses
import json
import os
import sys
from pathlib import Path

import torch

from bench import environment, registry
from bench.tasks.glyphs import GlyphsOnline
from mann.learner import unroll

BATCH = 8


def sequence(steps: int) -> None:
    """Forward and backward over one sequence, as a training step does."""
    interface = torch.randn(BATCH, steps, memory.interface_size, generator=torch.Generator().manual_seed(steps))
    reads, _ = unroll(memory, interface.requires_grad_())
    reads.square().sum().backward()


torch.set_num_threads(1)
torch.manual_seed(0)
registry.load()
cls, fields = registry.METHODS.entries[sys.argv[1]], json.loads(sys.argv[2])
names = {f.name for f in dataclasses.fields(cls)}
memory = cls(**{key: value for key, value in fields.items() if key in names}).memory(GlyphsOnline())
sequence(3)
for steps in map(int, sys.argv[3:]):
    ctypes.CDLL(None).malloc_trim(0)  # what was freed goes back to the system, and counts when it is needed again
    environment.reset_peak_memory("cpu")
    before = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    sequence(steps)
    print(environment.peak_memory("cpu") - before, flush=True)
