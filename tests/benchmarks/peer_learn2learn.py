"""A script for another Python, one that has learn2learn: does its work as its users do, a piece for each line.

    peer_learn2learn.py sampling|protonet|maml THREADS

A line on standard input asks for a piece, an episode or a training step; the first answer is what ran, as JSON, those
that follow are "done". Pixels are noise: no time depends on what they show.
"""

import importlib.abc
import importlib.machinery
import json
import sys
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

import learn2learn as l2l  # noqa: E402
import torch  # noqa: E402
from torch import nn  # noqa: E402


def sampling():
    """A 5-way task of 20 drawings a class by its fused sampler, from a data set in memory of Omniglot's size."""
    transforms = l2l.data.transforms
    drawings, labels = torch.rand(1623 * 20, 1, 28, 28), torch.arange(1623).repeat_interleave(20)
    dataset = l2l.data.MetaDataset(torch.utils.data.TensorDataset(drawings, labels))
    steps = [transforms.FusedNWaysKShots(dataset, n=5, k=20), transforms.LoadData(dataset),
             transforms.RemapLabels(dataset), transforms.ConsecutiveLabels(dataset)]  # fmt: skip
    tasks = l2l.data.Taskset(dataset, steps, num_tasks=-1)
    assert tasks.sample()[0].shape == (100, 1, 28, 28)
    return tasks.sample


def protonet(way=60, query=5):
    """A step of Snell et al.'s network in the layers of torch.nn, with learn2learn's classifier."""
    sizes = [(1, 64), (64, 64), (64, 64), (64, 64)]
    layers = [(nn.Conv2d(i, o, 3, padding=1), nn.BatchNorm2d(o), nn.ReLU(), nn.MaxPool2d(2)) for i, o in sizes]
    net = nn.Sequential(*[layer for block in layers for layer in block], nn.Flatten())
    optimiser, classifier = torch.optim.Adam(net.parameters(), 1e-3), l2l.nn.PrototypicalClassifier()
    x, support = torch.rand(way * (1 + query), 1, 28, 28), torch.arange(way)
    asked = support.repeat_interleave(query)

    def step():
        z = net(x)
        classifier.fit_(z[:way], support)
        loss = nn.functional.cross_entropy(classifier(z[way:]), asked)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    return step


def maml(tasks=32, way=5):
    """A step of its example for Omniglot: its network, adapted in one step, one query a class, second order."""
    learner = l2l.algorithms.MAML(l2l.vision.models.OmniglotCNN(way), lr=0.5)
    optimiser = torch.optim.Adam(learner.parameters(), 3e-3)
    x, y = torch.rand(tasks, 2, way, 1, 28, 28), torch.arange(way)

    def step():
        optimiser.zero_grad()
        for support, query in x:
            adapted = learner.clone()
            adapted.adapt(nn.functional.cross_entropy(adapted(support), y))
            nn.functional.cross_entropy(adapted(query), y).backward()
        for p in learner.parameters():
            p.grad.mul_(1 / tasks)
        optimiser.step()

    return step


torch.set_num_threads(int(sys.argv[2]))
torch.manual_seed(0)
piece = {"sampling": sampling, "protonet": protonet, "maml": maml}[sys.argv[1]]()
print(json.dumps({"packages": {"learn2learn": l2l.__version__}}), flush=True)
for _ in sys.stdin:
    piece()
    print("done", flush=True)
