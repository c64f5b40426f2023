"""A script for another Python, one that has learn2learn: draws 5-way tasks of 20 drawings a class as fast as it can.

Prints the episodes a second (median), from a data set in memory of Omniglot's size, by its fused N-way K-shot sampler.
"""

import importlib.abc
import importlib.machinery
import json
import statistics
import sys
import time
import types


class Absent(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """learn2learn imports torchvision, gym and Pillow at once, and needs neither here."""

    def find_spec(self, name, path=None, target=None):
        """Any module below the two."""
        if name.partition(".")[0] in ("torchvision", "gym", "PIL"):
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec):
        """A module in which every name is a class that takes any arguments."""
        module = types.ModuleType(spec.name)
        module.__getattr__ = _any_class
        return module

    def exec_module(self, module):
        """There is nothing to run."""


def _any_class(name):
    if name.startswith("__"):
        raise AttributeError(name)
    return type(name, (), {"__init__": lambda self, *positional, **named: None})


sys.meta_path.insert(0, Absent())

import learn2learn  # noqa: E402
import torch  # noqa: E402
from learn2learn.data.transforms import ConsecutiveLabels, FusedNWaysKShots, LoadData, RemapLabels  # noqa: E402

torch.set_num_threads(1)
drawings = torch.rand(1623 * 20, 1, 28, 28)
dataset = learn2learn.data.MetaDataset(
    torch.utils.data.TensorDataset(drawings, torch.arange(1623).repeat_interleave(20))
)
steps = [FusedNWaysKShots(dataset, n=5, k=20), LoadData(dataset), RemapLabels(dataset), ConsecutiveLabels(dataset)]
tasks = learn2learn.data.Taskset(dataset, steps, num_tasks=-1)
assert tasks.sample()[0].shape == (100, 1, 28, 28)
seconds = []
for _ in range(500):
    began = time.perf_counter()
    tasks.sample()
    seconds.append(time.perf_counter() - began)
print(json.dumps({"version": learn2learn.__version__, "episodes_per_s": 1 / statistics.median(seconds)}))
