"""learn2learn's own MAML and prototypical networks on the tasks of this project.

learn2learn 0.2.0 (Arnold et al. 2020, arXiv:2008.12284) does the adapting and the classifying; episodes, losses,
training and records are those of every other method. It is imported when a learner is built, never before.
"""

from __future__ import annotations

import importlib
import math
import sys
import warnings
from collections.abc import Iterator, Set
from functools import lru_cache
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import MappingProxyType, ModuleType
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from baselines.adaptation import REPORTED, AdaptingMethod, recipe, refuse_ascent
from baselines.backbones import image_shape
from baselines.batched import EPSILON, HIDDEN, Backbone
from baselines.embedding import EmbeddingLearner, EmbeddingMethod, needs_classes
from bench.api import BenchError, Examples, Learner, Task, method, option

PACKAGES = MappingProxyType({"learn2learn": "0.2.0"})
UNUSED = ("torchvision", "gym")
"""learn2learn imports these as soon as it is imported itself; nothing that is used here needs them."""


class _Absent(MetaPathFinder, Loader):
    """Finds modules of `UNUSED` where there are none: empty ones, whose every name is a class of any arguments."""

    def __init__(self) -> None:
        self.made: list[str] = []

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(name, self, is_package=True) if name.partition(".")[0] in UNUSED else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        self.made.append(spec.name)
        module = ModuleType(spec.name)
        module.__dict__["__getattr__"] = _any_class
        return module

    def exec_module(self, module: ModuleType) -> None:
        pass


def _any_class(name: str) -> type:
    if name.startswith("__"):
        raise AttributeError(name)
    return type(name, (), {"__init__": lambda self, *positional, **named: None})


@lru_cache(maxsize=1)
def learn2learn() -> Any:
    """The package. What is not installed of `UNUSED` is stood in for while it is imported, and no longer.

    Raises:
        BenchError: it cannot be imported.
    """
    absent = _Absent()
    sys.meta_path.append(absent)  # the last to be asked: what is installed is found first
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module("learn2learn")
    except Exception as error:  # a broken installation may raise anything
        raise BenchError(
            f"learn2learn is installed but cannot be imported ({type(error).__name__}: {error}); `make learn2learn` in "
            "a clone installs it and what it imports, elsewhere pip install 'mannbench[learn2learn]' the latter"
        ) from error
    finally:
        sys.meta_path.remove(absent)
        for name in absent.made:
            sys.modules.pop(name, None)


class Norm(nn.Module):
    """BatchNorm by the statistics of the first examples; scale and shift alone where these are none."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))
        self.shift = nn.Parameter(torch.zeros(width))

    def forward(self, h: Tensor, fit: int) -> Tensor:
        """[n, width, ...] to the same, normalised by its first `fit`."""
        if fit:
            variance, mean = torch.var_mean(h[:fit], (0, *range(2, h.ndim)), correction=0, keepdim=True)
            h = (h - mean) * (variance + EPSILON).rsqrt()
        shape = (-1, *[1] * (h.ndim - 2))
        return h * self.scale.view(shape) + self.shift.view(shape)


class PlainNet(nn.Module):
    """The networks of `maml` for one task at a time, in the layers of torch.nn, as learn2learn wants them."""

    def __init__(self, backbone: Backbone, x_shape: tuple[int, ...], n_out: int, norm: bool) -> None:
        super().__init__()
        self.image = image_shape(x_shape) if backbone.startswith("conv4") else None
        self.pool = backbone == "conv4-32"
        norm = norm and backbone != "sinusoid"
        size = self.image[0] if self.image else math.prod(x_shape)
        self.layers, self.norms = nn.ModuleList(), nn.ModuleList()
        for width in HIDDEN[backbone]:
            if self.image:
                layer: nn.Module = nn.Conv2d(size, width, 3, 1 if self.pool else 2, padding=1, bias=not norm)
            else:
                layer = nn.Linear(size, width, bias=not norm)
            self.layers.append(layer)
            if norm:
                self.norms.append(Norm(width))
            size = width
        if self.image and self.pool:
            size *= (self.image[1] >> 4) * (self.image[2] >> 4)
        self.last = nn.Linear(size, n_out)

    def forward(self, x: Tensor, fit: int) -> Tensor:
        """[n, *x_shape] to [n, n_out]; the first `fit` examples give the normalisation its statistics."""
        h = x.reshape(len(x), *self.image) if self.image else x.flatten(1)
        for i, layer in enumerate(self.layers):
            h = layer(h)
            if self.norms:
                h = self.norms[i](h, fit)
            h = (F.max_pool2d(h, 2) if self.pool else h).relu()
        if self.image and not self.pool:
            h = h.mean((2, 3))
        # Places first, channels last, as `maml` flattens them.
        return self.last(h.movedim(1, -1).flatten(1))


class LibraryMAMLLearner(Learner):
    """An initialisation from which a few steps of learn2learn's MAML fit a task; one task after the other."""

    def __init__(self, config: LibraryMAML, task: Task) -> None:
        super().__init__()
        learn2learn()
        self.config = config
        self.task = task
        self.net = PlainNet(config.backbone_for(task), task.x_shape, task.n_out, config.batch_norm != "none")
        self.rate, self.eval_steps = config.adaptation(task)

    def forward(self, support: Examples, query_x: Tensor) -> Tensor:
        """Adapt to the support, then answer; the number of steps depends on the mode. Works under `no_grad`."""
        steps = self.config.train_steps if self.training else self.eval_steps
        return self.after({steps}, support, query_x)[steps]

    def by_step(self, support: Examples, query_x: Tensor) -> dict[int, Tensor]:
        """Predictions after 0, 1, 5, 10 and as many steps as `forward` takes in eval mode."""
        return self.after({*REPORTED, self.eval_steps}, support, query_x)

    def after(self, reported: Set[int], support: Examples, query_x: Tensor) -> dict[int, Tensor]:
        """Predictions after each of these numbers of steps, [batch, n_query, n_out]."""
        predictions: dict[int, list[Tensor]] = {step: [] for step in sorted(reported)}
        for x, y, asked in zip(*support, query_x, strict=True):
            for step, adapted in enumerate(self.adapt(x, y, max(reported))):
                if step in reported:
                    predictions[step].append(self.answer(adapted, x, asked))
        return {step: torch.stack(tasks) for step, tasks in predictions.items()}

    def adapt(self, x: Tensor, y: Tensor, steps: int) -> Iterator[Any]:
        """learn2learn's clone of the network after 0, 1, ... steps on the mean loss of one task's support.

        It is the same object each time. An empty support leaves it as it is; unless gradients are off, its parameters
        are a function of the network's that can be differentiated.
        """
        first = self.config.order == "first" or not torch.is_grad_enabled()
        with torch.enable_grad():
            adapted = learn2learn().algorithms.MAML(self.net, lr=self.rate, first_order=first).clone()
        yield adapted
        for _ in range(steps):
            if len(x):
                with torch.enable_grad():
                    adapted.adapt(self.task.loss(adapted(x, len(x))[None], y[None]))
            yield adapted

    def answer(self, adapted: Any, x: Tensor, asked: Tensor) -> Tensor:
        """Predictions of an adapted network, the queries normalised as the config says."""
        if self.config.batch_norm == "support":
            return adapted(torch.cat((x, asked)), len(x))[len(x) :]
        return adapted(asked, len(asked))


@method("maml-l2l", source="Arnold et al. 2020, arXiv:2008.12284, learn2learn 0.2.0")
class LibraryMAML(AdaptingMethod):
    """MAML by the package learn2learn, with the networks and recipes of `maml`, which it equals but for rounding.

    learn2learn adapts one task after the other, and its examples normalise queries by the queries (transductive) and
    support by the support; the default here is that of `maml`.
    """

    packages = PACKAGES

    batch: int = option(32, "tasks per training step")
    order: Literal["second", "first"] = option("second", "first: ignore how the inner gradient moves with its start")
    inner_lr: float = option(0.0, "learning rate of adaptation; 0: .4 for classes, .01 for regression")
    train_steps: int = option(1, "gradient steps of adaptation in training")
    eval_steps: int = option(0, "gradient steps of adaptation in evaluation; 0: 3 for classes, 10 for regression")

    def check(self) -> None:
        """Refuse a recipe that cannot train."""
        super().check()
        refuse_ascent(self, self.inner_lr)

    def adaptation(self, task: Task) -> tuple[float, int]:
        """The learning rate of adaptation and its steps in evaluation that 0 means for a task."""
        rate, steps = recipe(task)
        return self.inner_lr or rate, self.eval_steps or steps

    def protocol(self, task: Task) -> dict[str, str]:
        """The rate and the steps too; see `Method.protocol`."""
        rate, steps = self.adaptation(task)
        return super().protocol(task) | {"inner_lr": str(rate), "test_steps": str(steps)}

    def build(self, task: Task) -> LibraryMAMLLearner:
        """A fresh learner; see `Method.build`."""
        self.check_packages()
        return LibraryMAMLLearner(self, task)


class LibraryProtoNetLearner(EmbeddingLearner):
    """learn2learn's classifier by class means, in the space that `protonet` learns."""

    def __init__(self, config: LibraryProtoNet, task: Task) -> None:
        learn2learn()
        super().__init__(config, task)

    def compare(self, shown: Tensor, labels: Tensor, asked: Tensor) -> Tensor:
        """Minus the squared distance to each class's prototype.

        learn2learn gives a column to the classes that are there; one without examples has the prototype 0, as in
        `protonet`.
        """
        rows = []
        for points, one_hot, queries in zip(shown, labels, asked, strict=True):
            unseen = (one_hot.sum(0) == 0).nonzero().flatten()
            classifier = learn2learn().nn.PrototypicalClassifier()
            nothing = points.new_zeros(len(unseen), points.shape[1])
            classifier.fit_(torch.cat((points, nothing)), torch.cat((one_hot.argmax(1), unseen)))
            rows.append(classifier(queries))
        return torch.stack(rows)


@method("protonet-l2l", source="Arnold et al. 2020, arXiv:2008.12284, learn2learn 0.2.0")
class LibraryProtoNet(EmbeddingMethod):
    """Prototypical networks by the package learn2learn, with the networks and recipe of `protonet`, which it equals."""

    packages = PACKAGES

    batch: int = option(1, "episodes per training step")
    halve_every: int = option(2000, "halve the learning rate every so many steps; 0: never")

    def build(self, task: Task) -> LibraryProtoNetLearner:
        """A fresh learner; see `Method.build`."""
        self.check_packages()
        return LibraryProtoNetLearner(self, task)

    def unsuited(self, task: Task) -> str | None:
        """It needs classes."""
        return needs_classes(task, "prototypes are") or super().unsuited(task)
