"""All that the author of a method, a task, a memory or an op imports: few concepts, one name each.

A **Task** draws **Episode**s and scores predictions. A **Method** is a frozen config that builds a **Learner** for a
task. A **Memory** is a cell, state in and state out. An **Op** is an operation of a memory, to be profiled. Records,
tables and the command line follow from these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import Any, ClassVar, Generic, Literal, NamedTuple, TypeVar, get_args, get_type_hints

import torch
from numpy.random import Generator
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn import functional as F

from bench import data, extras, registry
from bench.config import as_dict, build, canonical, override
from bench.errors import BenchError, MissingData, MissingPackage, Unsuited, no_room
from bench.operations import Draw, Op, Outputs, Work, part
from bench.registry import method, op, option, task, variant
from bench.rmsprop import RMSProp
from bench.seeding import generator

__all__ = [
    "Addresses", "Backend", "BenchError", "Draw", "Episode", "Examples", "Generator", "Learner", "Memory", "Method",
    "MissingData", "MissingPackage", "Op", "Outputs", "Split", "Task", "TrainedMethod", "Unsuited", "Work", "answer",
    "build", "generator", "loadable", "method", "method_of", "no_room", "op", "option", "part", "task", "variant",
]  # fmt: skip

Split = Literal["train", "val", "test"]
Backend = Literal["auto", "reference", "fused"]
"""How a learner computes: the plain way; fast code that must equal it; or the fastest that can be used here."""
CHUNK = 10
"""Evaluation episodes are drawn and answered this many at a time, whatever the method, so that they are the same."""


class Examples(NamedTuple):
    """Inputs with their labels.

    x: [batch, n, *x_shape] float32. y: [batch, n] int64 class ids in 0..way-1, or [batch, n, d] (float32 values or
    bits in regression; int64 characters of string labels).
    """

    x: Tensor
    y: Tensor


class Episode(NamedTuple):
    """One batch of episodes. In an online task the support is empty and the query is the whole sequence, in order."""

    support: Examples
    query: Examples

    def to(self, device: torch.device | str) -> Episode:
        """The same episodes on another device."""
        return Episode(*(Examples(e.x.to(device), e.y.to(device)) for e in self))


@dataclass(frozen=True, kw_only=True)
class Task:
    """Data, metric and protocol. Subclasses are registered with `@task("name")`; their fields are the config.

    A classification task need only write `x_shape`, `n_out` and `sample`. Bump `version` when its numbers change.
    """

    name: ClassVar[str]
    source: ClassVar[str]
    version: ClassVar[int] = 1
    kind: ClassVar[Literal["classification", "regression"]] = "classification"
    metric: ClassVar[str] = "accuracy"
    """What `score` is called; accuracy and error are fractions, which tables print in %."""
    higher_is_better: ClassVar[bool] = True
    online: ClassVar[bool] = False
    """True: predictions are made by `Learner.stream` over the query, each label shown one step after its input.

    Where `y_size` is 0 no label is shown at all: `answer` keeps them from the learner.
    """
    dataset: ClassVar[str | None] = None
    """Name in `bench.data` of the data set that `sample` reads; None where episodes are made from the seed alone."""
    splits: ClassVar[tuple[Split, ...]] = ("train", "val", "test")
    fixed: ClassVar[int] = 0
    """Number of test episodes where they are the same ones whatever the budget; 0 where `sample` draws them."""
    solved: ClassVar[float | None] = None
    """Validation score from which the task counts as solved; it goes into records."""
    groups: ClassVar[tuple[str, ...]] = ()
    """Names of the groups that `instances` numbers from 1; empty where it counts presentations of a class."""

    also: tuple[str, ...] = option((), "further settings to evaluate the trained learner in, e.g. way=20,shot=1")

    @property
    def x_shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        raise NotImplementedError(f"{type(self).__name__} has no x_shape")

    @property
    def n_out(self) -> int:
        """Width of a prediction: the number of classes (way), or of output values."""
        raise NotImplementedError(f"{type(self).__name__} has no n_out")

    @property
    def y_size(self) -> int:
        """Width of an encoded label; 0 in an online task that shows none."""
        return self.n_out

    def data_digest(self) -> str | None:
        """Digest of the content that `sample` reads, a part of every cell's id; override it for data of your own.

        Named without reading the data, so that records can be told apart where there is none.
        """
        return data.official(self.dataset) if self.dataset else None

    def check_data(self) -> None:
        """Make sure that the data are there and are what `data_digest` says; override it with that.

        Raises:
            MissingData, BenchError: missing, damaged, or other data.
        """
        if self.dataset:
            data.digest(self.dataset)

    def check(self) -> None:
        """Refuse fields that do not fit together; cheap, reads no data.

        Raises:
            BenchError: what does not fit, and what would.
        """

    def sample(self, split: Split, batch: int, rng: Generator) -> Episode:
        """Draw a batch of episodes; all randomness comes from rng."""
        raise NotImplementedError(f"{type(self).__name__} has no sample")

    def training(self) -> Task:
        """The task whose episodes training uses: this one unless training way, shot or query differ."""
        return self

    def curriculum(self, step: int) -> Task:
        """The task of one training step (from 0), a function of the step alone: `training()` unless there is a plan.

        The learner is built for `training()`, so the width of inputs, labels and predictions must be that task's.
        """
        return self.training()

    def evaluations(self) -> Mapping[str, Task]:
        """Settings in which one trained learner is tested, by name; the first, named "", is the task itself.

        Raises:
            BenchError: a further setting of `also` would change what the learner was trained on.
        """
        main = replace(self, also=())
        settings: dict[str, Task] = {"": main}
        fixed = [f.name for f in fields(self) if f.metadata.get("data") or f.metadata.get("training")]
        for text in self.also:
            settings[text] = override(main, text)
            for name in fixed:
                if getattr(settings[text], name) != getattr(main, name):
                    raise BenchError(
                        f"also={text} would change {name}, which shapes training; make it a task of its own"
                    )
        return settings

    def classes(self, split: Split) -> int:
        """Number of classes of a split, known without reading data; 0 where no class outlasts its episode."""
        return 0

    def pool(self, split: Split, count: int, rng: Generator) -> Examples:
        """Examples of all classes of a split, each drawn by itself, for methods that learn to tell these apart.

        x: [1, count, *x_shape]; y: [1, count] int64 in 0..classes(split)-1. Only for tasks that have `classes`.
        """
        raise NotImplementedError(f"{type(self).__name__} has no pool")

    def episodes(self, split: Split, count: int, seed: int) -> Iterator[Episode]:
        """Evaluation episodes in chunks: fresh for each seed, the same for every method and training setting.

        Raises:
            BenchError: `sample` gives more or fewer than it is asked for.
        """
        for size, rng in self.lots(split, count, seed):
            drawn = self.sample(split, size, rng)
            if isinstance(drawn, Episode) and len(drawn.query.x) != size:
                raise BenchError(f"{self.name}.sample was asked for {size} episodes and gives {len(drawn.query.x)}")
            yield drawn

    def lots(self, split: Split, count: int, seed: int) -> Iterator[tuple[int, Generator]]:
        """Of each chunk of evaluation episodes the size, and what it is drawn from."""
        for start in range(0, count, CHUNK):
            rng = generator("eval", self.name, self.version, canonical(self.setting()), split, seed, start)
            yield min(CHUNK, count - start), rng

    def members(self, split: Split, batch: int, rng: Generator) -> list[list[int]] | None:
        """Which classes each episode shows that `sample` would draw from this rng; None where there are no classes.

        Of what new test classes would be drawn from: two rotations of one character are one. Records hold intervals
        that speak of other classes where this is known.
        """
        return None

    def setting(self) -> dict[str, Any]:
        """The fields that define what is measured, without those that shape training only."""
        training_only = {f.name for f in fields(self) if f.metadata.get("training")}
        return {name: value for name, value in as_dict(self).items() if name not in training_only | {"also"}}

    def encode(self, y: Tensor) -> Tensor:
        """Labels as a network reads them: [..., y_size] float32. Zeros are the null label."""
        return F.one_hot(y, self.n_out).float() if self.kind == "classification" else y

    def loss(self, prediction: Tensor, y: Tensor) -> Tensor:
        """Training loss: mean cross-entropy in nats, or mean squared error. prediction: [batch, n, n_out]."""
        if self.kind == "regression":
            return F.mse_loss(prediction, y)
        return F.cross_entropy(prediction.flatten(0, 1), y.flatten())

    def score(self, prediction: Tensor, y: Tensor) -> Tensor:
        """One number per episode, [batch]: accuracy in 0..1, or mean squared error."""
        if self.kind == "regression":
            return (prediction - y).square().flatten(1).mean(1)
        return self.correct(prediction, y).float().mean(1)

    def correct(self, prediction: Tensor, y: Tensor) -> Tensor:
        """Which predictions are right: [batch, n] bool. Ties go to the lowest class, never to the true one."""
        return prediction.argmax(-1) == y

    def instances(self, y: Tensor) -> Tensor | None:
        """In an online task the group, from 1, in which each prediction is counted: [batch, n]; 0 for none.

        Records of accuracies hold the share of right predictions in each of the first ten groups. Unless `groups` names
        them otherwise, a group is how often the label has been shown, up to and including now.
        """
        return None


@dataclass(frozen=True, kw_only=True)
class Method:
    """A frozen config that builds a learner; registered with `@method("name")`. Its fields are the whole config.

    This base is for methods that do not train; `TrainedMethod` adds the training recipe. Bump `version` when its
    numbers change.
    """

    name: ClassVar[str]
    source: ClassVar[str]
    version: ClassVar[int] = 1
    oracle: ClassVar[bool] = False
    """It knows what its task draws from, which no other method is told: a bound, not ranked among the others."""
    packages: ClassVar[Mapping[str, str]] = MappingProxyType({})
    """What it needs beyond the project's own dependencies, distribution and version; both go into its records."""

    def build(self, task: Task) -> Learner:
        """A fresh learner for a task. Parameters are drawn from torch's global stream, which the caller seeds.

        Its parameters must not depend on more of the task than they need: a learner is rebuilt for each setting of
        `task.evaluations()` and given the trained parameters, which is possible only where their shapes agree.
        """
        raise NotImplementedError(f"{type(self).__name__} has no build")

    def check(self) -> None:
        """Refuse fields that make no sense; cheap.

        Raises:
            BenchError: which field, and what it may be.
        """

    def check_packages(self) -> None:
        """Make sure that `packages` are installed.

        Raises:
            MissingPackage: one is not, or in another version; the message says how to get it.
        """
        for package, version in self.packages.items():
            extras.require(self.name, package, version)

    def unsuited(self, task: Task) -> str | None:
        """Why this method cannot run on a task, in a few words; None where it can."""
        return None

    def protocol(self, task: Task) -> dict[str, str]:
        """What it does on a task where its fields leave that to the task, by columns of `published.csv`.

        "batchnorm": "transductive" marks its results: queries are answered with the help of one another.
        """
        return {}


@dataclass(frozen=True, kw_only=True)
class TrainedMethod(Method):
    """A method trained by gradient descent over episodes; the fields are its recipe."""

    batch: int = option(16, "episodes per training step")
    lr: float = option(1e-3, "learning rate")
    optimizer: Literal["adam", "rmsprop", "sgd"] = option(
        "adam", "rmsprop: as Graves 2013, decay .95, momentum .9, ε 1e-4; sgd: plain"
    )
    halve_every: int = option(0, "halve the learning rate every so many steps; 0: never")
    clip: float = option(0.0, "clip the gradient's global norm; 0: never")

    def check(self) -> None:
        """Refuse a recipe that cannot train, and whole numbers below zero.

        Raises:
            BenchError: which field, and what it may be.
        """
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, int) and value < 0:
                raise BenchError(f"{self.name}.{f.name} must not be negative, but is {value}")
        if self.batch < 1:
            raise BenchError(f"{self.name}.batch must be at least 1, not {self.batch}")
        if self.lr <= 0 or self.clip < 0:
            raise BenchError(f"{self.name}.lr must be above 0 and clip not below it, not {self.lr:g} and {self.clip:g}")

    def optimiser(self, learner: Learner) -> torch.optim.Optimizer:
        """The optimiser of a fresh learner; override for parameter groups or another rule."""
        if self.optimizer == "adam":
            return torch.optim.Adam(learner.parameters(), self.lr, fused=True)
        if self.optimizer == "sgd":
            return torch.optim.SGD(learner.parameters(), self.lr)
        return RMSProp(learner.parameters(), self.lr)

    def draw(self, task: Task, rng: Generator) -> Episode:
        """What one training step sees; override it for training that is not by episodes of the task."""
        return task.sample("train", self.batch, rng)

    def stacks(self, task: Task) -> bool:
        """Whether `losses` works for a task, and is worth it; cheap."""
        return False

    def losses(self, learners: Sequence[Learner], episodes: Sequence[Episode], task: Task) -> list[Tensor]:
        """Training losses of its learners of several seeds, each on its own episode, in one pass.

        `bench run --stack` trains small learners so, which spend their time on calls. The default maps `loss` over
        stacked parameters and buffers (`torch.func.vmap`): for learners of one shape, on episodes of equal shapes,
        whose loss draws nothing, changes no buffer and takes no gradient of its own. Override it for others, or to be
        faster. A loss must depend on the parameters of its own learner alone, and be that of `loss` but for rounding.
        """
        module = _Loss(learners[0], task)
        own = [dict([*each.named_parameters("learner"), *each.named_buffers("learner")]) for each in learners]
        stacked = {name: torch.stack([each[name] for each in own]) for name in own[0]}
        tensors = [torch.stack(same) for same in zip(*((*e.support, *e.query) for e in episodes), strict=True)]
        return list(vmap(lambda parameters, *episode: functional_call(module, parameters, episode))(stacked, *tensors))

    def rate(self, step: int) -> float:
        """Learning rate at a step (from 0)."""
        return self.lr * 0.5 ** (step // self.halve_every) if self.halve_every else self.lr


def method_of(name: str, settings: str = "") -> Method:
    """A registered method with fields set as "slots=64,width=20" says, for a method that is measured against another.

    Raises:
        BenchError: no such method or field, or a value of a wrong type.
    """
    config: Method = registry.get(registry.METHODS, name)()
    return override(config, settings) if settings else config


class Learner(nn.Module):
    """What a method builds. `forward` is the one thing to write; the rest has defaults.

    A learner is a function of its inputs and parameters: no state survives a call, and episodes of a batch never
    influence each other in `eval()` mode.
    """

    backend: Backend = "auto"
    """How it computes; see `use`. What it computes is the same but for rounding."""
    ran: frozenset[str] = frozenset()
    """Which of "reference" and "fused" have been at work; empty where there is one way only."""

    def use(self, backend: Backend, compiling: Callable[[], None] = lambda: None) -> None:
        """Compute this way from now on. Compiles what has to be, and calls `compiling` if that takes a while.

        Raises:
            BenchError: fused, and that cannot be had.
        """
        if backend == "fused":
            raise BenchError("there is no fused path for this method; use the backend auto or reference")
        self.backend = backend

    def forward(self, support: Examples, query_x: Tensor) -> Tensor:
        """Answer each query from the support alone.

        query_x: [batch, n_query, *x_shape]. Returns [batch, n_query, n_out] (logits or values). Queries do not see
        one another. With an empty support (n = 0) the learner answers with its prior.
        """
        raise NotImplementedError(f"{type(self).__name__} has no forward")

    def stream(self, x: Tensor, y: Tensor) -> Tensor:
        """Answer a sequence online: out[:, t] sees x[:, :t+1] and y[:, :t] alone.

        x: [batch, time, *x_shape], y: [batch, time, ...]. Returns [batch, time, n_out]. The default adapts anew on
        each prefix; override it where that is quadratic.
        """
        steps = [self(Examples(x[:, :t], y[:, :t]), x[:, t : t + 1]) for t in range(x.shape[1])]
        return torch.cat(steps, 1)

    def loss(self, episode: Episode, task: Task) -> Tensor:
        """Training loss of a batch of episodes; a scalar."""
        return task.loss(answer(self, episode, task), episode.query.y)

    def by_step(self, support: Examples, query_x: Tensor) -> dict[int, Tensor]:
        """Predictions after so many adaptation steps, for methods that have steps; otherwise empty."""
        return {}

    def distribution(self, support: Examples, query_x: Tensor) -> tuple[Tensor, Tensor] | None:
        """Mean and standard deviation of normal predictions, [batch, n_query, n_out] each, in regression; else None.

        The mean is what `forward` answers. Records of those that have one hold their log-likelihood beside the score.
        """
        return None

    def trace(self, x: Tensor, y: Tensor) -> Addresses | None:
        """Where every step of `stream(x, y)` reads and writes, stacked along time; None where there are no addresses.

        read and write: [batch, time, heads, slots]; usage: [batch, time, slots] or None; gates: [batch, time] each. No
        gradient; predictions stay what they are, and nothing is kept.
        """
        return None


class _Loss(nn.Module):
    """A learner's loss as a module's `forward`, which is what `functional_call` calls."""

    def __init__(self, learner: Learner, task: Task) -> None:
        super().__init__()
        self.learner, self.task = learner, task

    def forward(self, *tensors: Tensor) -> Tensor:
        return self.learner.loss(Episode(Examples(*tensors[:2]), Examples(*tensors[2:])), self.task)


def answer(learner: Learner, episode: Episode, task: Task) -> Tensor:
    """Predictions for the episode's queries under the task's protocol: [batch, n_query, n_out].

    Raises:
        BenchError: the learner answers in another shape. More columns than classes would go unnoticed else.
    """
    x, y = episode.query
    if task.online:
        prediction = learner.stream(x, shown(y, task))
    else:
        prediction = learner(episode.support, x)
    check_shapes(learner, episode, task, prediction)
    return prediction


def shown(y: Tensor, task: Task) -> Tensor:
    """The labels of an online task as a learner gets them: nothing of them where `y_size` is 0."""
    if task.y_size:
        return y
    return y[..., :0] if y.dim() > 2 else torch.zeros_like(y)


def check_shapes(learner: Learner, episode: Episode, task: Task, *predictions: Tensor) -> None:
    """Refuse what is not [batch, n_query, n_out].

    Raises:
        BenchError: it is not.
    """
    expected = (*episode.query.x.shape[:2], task.n_out)
    for found in predictions:
        if found.shape != expected:
            raise BenchError(
                f"{type(learner).__name__} answers {task.name} with {list(found.shape)}; [batch, n_query, n_out] is "
                f"{list(expected)}"
            )


State = TypeVar("State", bound=tuple[Any, ...])


class Addresses(NamedTuple):
    """Where one step of a memory reads and writes: what `bench inspect` draws and `bench.diagnostics` measures.

    read: [batch, read heads, slots], weights of this step's reads. write: [batch, write heads, slots], weights of its
    writes. usage: [batch, slots], in use (high) or free (low) before the step, in the memory's own unit; None where it
    keeps none. gates: named scalars of the step, each [batch]; may be empty.
    """

    read: Tensor
    write: Tensor
    usage: Tensor | None = None
    gates: Mapping[str, Tensor] = MappingProxyType({})


def loadable(kind: type[State]) -> type[State]:
    """Let `torch.load(weights_only=True)` make a NamedTuple of a class, and of those its fields are annotated with.

    `Memory` does it for the state that it names; for others it is a decorator.
    """
    if isinstance(kind, type) and issubclass(kind, tuple) and hasattr(kind, "_fields"):
        torch.serialization.add_safe_globals([kind])
        for part in get_type_hints(kind).values():
            loadable(part)
    return kind


class Memory(nn.Module, Generic[State]):
    """An external memory as a cell, like `nn.LSTMCell`: state in, state out, nothing hidden, no reset.

    The state is a NamedTuple of tensors whose first dimension is the batch; `class DNC(Memory[DNCState])` names it.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for base in cls.__dict__.get("__orig_bases__", ()):
            for kind in get_args(base):
                loadable(kind)

    interface_size: int
    """Width of what a controller must emit at each step."""
    read_size: int
    """Width of what it gets back."""
    consumes_state: ClassVar[bool] = False
    """True: a step changes the state that it is given, which serves once; copy a state to step from it again."""

    def __call__(self, interface: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """One step, see `forward`; without a state the first one.

        Raises:
            BenchError: an interface of another shape.
        """
        if interface.shape[1:] != (self.interface_size,):
            wanted, name = f"[batch, {self.interface_size}]", type(self).__name__
            raise BenchError(f"{name} takes an interface of {wanted}, not {list(interface.shape)}")
        state = self.initial_state(len(interface), interface) if state is None else state
        step: tuple[Tensor, State] = super().__call__(interface, state)
        return step

    def initial_state(self, batch: int, like: Tensor) -> State:
        """The state before the first step, with `like`'s dtype and device."""
        raise NotImplementedError(f"{type(self).__name__} has no initial_state")

    def forward(self, interface: Tensor, state: State) -> tuple[Tensor, State]:
        """One step. interface: [batch, interface_size]. Returns what was read, [batch, read_size], and the state."""
        raise NotImplementedError(f"{type(self).__name__} has no forward")

    def addresses(self, interface: Tensor, state: State) -> Addresses | None:
        """Where a step from this state would read and write; None for a memory that has no addresses."""
        return None
