"""A learner around any memory: encoder, controller, memory, output. One class serves them all.

At each step the controller reads (e(x_t), y_{t-1}, r_{t-1}) and gives h_t; a linear map of h_t is the memory's
interface; the memory gives r_t; the prediction is a linear map of (h_t, r_t) (Santoro et al. 2016, §3.1).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from bench.api import Addresses, Backend, BenchError, Examples, Learner, Memory, Task, TrainedMethod, no_room, option
from mann.ablations import ABLATIONS, AblationName
from mann.controllers import CONTROLLERS, Controller, ControllerName
from mann.encoders import Encoder, EncoderName, make_encoder, unsuited_encoder
from mann.kernels import registry
from mann.states import fork

__all__ = ["MemoryLearner", "MemoryMethod", "SequenceLearner", "fork", "previous", "shared_fields", "unroll"]


class State(NamedTuple):
    """All that passes from one step to the next. read: [batch, read_size]; the others are NamedTuples of tensors."""

    controller: Any
    read: Tensor
    memory: Any


S = TypeVar("S", bound=tuple[Any, ...])


def unroll(memory: Memory[S], interface: Tensor, state: S | None = None) -> tuple[Tensor, S]:
    """A memory by itself over a sequence, as `nn.LSTM` is to `nn.LSTMCell`. interface: [batch, time, interface_size].

    Returns what was read, [batch, time, read_size], and the state after the last step; without a state, from the
    initial one.
    """
    state = memory.initial_state(len(interface), interface) if state is None else state
    reads = []
    for step in interface.unbind(1):
        read, state = memory(step, state)
        reads.append(read)
    return torch.stack(reads, 1), state


def previous(labels: Tensor) -> Tensor:
    """Labels one step late, the null label (zeros) first. labels: [batch, time, y_size]."""
    return torch.cat((torch.zeros_like(labels[:, :1]), labels[:, :-1]), 1)


class SequenceLearner(Learner):
    """A learner that reads (x_t, y_{t-1}) step by step; both protocols follow from `run`.

    A query is the step that would have come next: `forward(support, q)` is the last output of `stream` over the
    support and q.
    """

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.encode_labels = task.encode
        self.y_size = task.y_size

    def initial_state(self, batch: int, like: Tensor) -> Any:
        """The state before the first step, with `like`'s dtype and device."""
        raise NotImplementedError(f"{type(self).__name__} has no initial_state")

    def run(self, x: Tensor, label: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Run a sequence. x: [batch, time, *x_shape]; label: the labels shown, [batch, time, y_size].

        Returns predictions [batch, time, n_out] and the state after the last step.
        """
        raise NotImplementedError(f"{type(self).__name__} has no run")

    def stream(self, x: Tensor, y: Tensor) -> Tensor:
        """Answer a sequence in one pass; see `Learner.stream`."""
        label = previous(self.encode_labels(y).to(x.dtype))
        return self.run(x, label, self.initial_state(len(x), x))[0]

    def forward(self, support: Examples, query_x: Tensor) -> Tensor:
        """Run the support, then fork the state once a query; see `Learner.forward`."""
        batch, queries = query_x.shape[:2]
        state = self.initial_state(batch, query_x)
        last = query_x.new_zeros(batch, 1, self.y_size)
        if support.x.shape[1]:
            label = self.encode_labels(support.y).to(query_x.dtype)
            _, state = self.run(support.x, previous(label), state)
            last = label[:, -1:]
        prediction, _ = self.run(query_x.flatten(0, 1).unsqueeze(1), fork(last, queries), fork(state, queries))
        return prediction.reshape(batch, queries, -1)


class MemoryLearner(SequenceLearner):
    """Encoder, controller, memory and a linear output.

    feed_read: whether the controller sees what was read at the step before (the paper: yes).
    """

    def __init__(
        self, task: Task, encoder: Encoder, controller: Controller, memory: Memory[Any], feed_read: bool = True
    ) -> None:
        super().__init__(task)
        self.encoder = encoder
        self.controller = controller
        self.memory = memory
        self.feed_read = feed_read
        self.interface = nn.Linear(controller.size, memory.interface_size)
        self.output = nn.Linear(controller.size + memory.read_size, task.n_out)

    def initial_state(self, batch: int, like: Tensor) -> State:
        """See `SequenceLearner.initial_state`."""
        read = like.new_zeros(batch, self.memory.read_size)
        return State(self.controller.initial_state(batch, like), read, self.memory.initial_state(batch, like))

    def run(self, x: Tensor, label: Tensor, state: State) -> tuple[Tensor, State]:
        """See `SequenceLearner.run`; by a fused scan where there is one and `backend` lets it."""
        projected = self.controller.project(torch.cat((self.encoder(x), label), -1))
        fused = registry.choose(self, projected, state)
        self.ran |= {"fused" if fused else "reference"}
        hidden, reads, state = (fused or reference)(self, projected, state)
        return self.output(torch.cat((hidden, reads), -1)), state

    def use(self, backend: Backend, compiling: Callable[[], None] = lambda: None) -> None:
        """See `Learner.use`."""
        reason = None if backend == "reference" else registry.prepare(self, compiling)
        if backend == "fused" and reason:
            raise BenchError(f"the fused path cannot be used: {reason}; use the backend auto or reference")
        self.backend = backend

    @torch.no_grad()
    def trace(self, x: Tensor, y: Tensor) -> Addresses | None:
        """The memory is asked before each of its steps; see `Learner.trace`."""
        found: list[Addresses | None] = []
        asking = False

        def ask(memory: Memory[Any], step: tuple[Any, ...]) -> None:
            nonlocal asking
            if asking:  # to tell its addresses, a memory may take the step itself
                return
            asking = True
            found.append(memory.addresses(*step))
            asking = False

        hook = self.memory.register_forward_pre_hook(ask)
        backend, self.backend = self.backend, "reference"  # which calls the memory at each step
        try:
            self.stream(x, y)
        finally:
            hook.remove()
            self.backend = backend
        steps = [step for step in found if step is not None]
        return stacked(steps) if steps else None


def reference(learner: MemoryLearner, projected: Tensor, state: State) -> tuple[Tensor, Tensor, State]:
    """Controller and memory step by step: what every fused scan must equal.

    projected: [batch, time, …], of `Controller.project`. Returns h, [batch, time, size], what was read, [batch, time,
    read_size], and the state after the last step.
    """
    controller, read, memory = state
    hidden, reads = [], []
    for step in projected.unbind(1):
        h, controller = learner.controller(step, read, controller)
        r, memory = learner.memory(learner.interface(h), memory)
        read = r if learner.feed_read else read
        hidden.append(h)
        reads.append(r)
    return torch.stack(hidden, 1), torch.stack(reads, 1), State(controller, read, memory)


def stacked(steps: Sequence[Addresses]) -> Addresses:
    """Addresses of single steps, at least one, as those of a sequence; see `Learner.trace`."""
    usage = [step.usage for step in steps if step.usage is not None]
    return Addresses(
        torch.stack([step.read for step in steps], 1),
        torch.stack([step.write for step in steps], 1),
        torch.stack(usage, 1) if usage else None,
        {name: torch.stack([step.gates[name] for step in steps], 1) for name in steps[0].gates},
    )


@dataclass(frozen=True, kw_only=True)
class MemoryMethod(TrainedMethod):
    """What the methods of all memories share: the network around the memory. A subclass gives `memory`."""

    controller: ControllerName = option("lstm", "what reads the input and drives the memory")
    controller_size: int = option(200, "units of the controller")
    encoder: EncoderName = option("flat", "what the controller sees of an input")
    encoder_size: int = option(64, "width of the mlp, channels of the conv net, units of the rnn; flat has none")
    feed_read: bool = option(True, "the controller also sees the read of the step before")
    ablate: AblationName = option(
        "none",
        "zero: reads are zeros; frozen: nothing written is kept; other: read from another episode of the batch",
        late=True,
    )

    def memory(self, task: Task) -> Memory[Any]:
        """A fresh memory."""
        raise NotImplementedError(f"{type(self).__name__} has no memory")

    def build(self, task: Task) -> MemoryLearner:
        """A fresh learner; see `Method.build`."""
        encoder = make_encoder(self.encoder, task.x_shape, self.encoder_size)
        memory = self.memory(task)
        if self.ablate != "none":
            memory = ABLATIONS[self.ablate](memory)
        controller = CONTROLLERS[self.controller](encoder.size + task.y_size, memory.read_size, self.controller_size)
        return MemoryLearner(task, encoder, controller, memory, self.feed_read)

    def check(self) -> None:
        """Refuse a recipe that cannot train, networks without units, what the memory refuses, and a batch too small.

        A memory that asks its task for more than any task has is checked when a cell is built, not before.
        """
        super().check()
        refuse_below_one(self, "controller_size", "encoder_size")
        try:
            with torch.random.fork_rng(devices=[]), suppress(NotImplementedError, AttributeError):
                self.memory(Task())
        except (RuntimeError, TypeError) as error:
            if not no_room(error):  # a mistake in the memory
                raise
            raise BenchError(f"{self.name}: there is no room for its memory: {str(error).splitlines()[0]}") from None
        if self.ablate == "other" and self.batch < 2:
            raise BenchError(f"{self.name}.ablate=other needs another episode in a batch; set batch=2 or more")

    def unsuited(self, task: Task) -> str | None:
        """Some encoders need inputs of a certain shape."""
        return unsuited_encoder(self.encoder, task.x_shape)


def refuse_below_one(method: TrainedMethod, *names: str) -> None:
    """Refuse sizes of which nothing can be made.

    Raises:
        BenchError: which field, and what it may be.
    """
    for name in names:
        if getattr(method, name) < 1:
            raise BenchError(f"{method.name}.{name} must be at least 1, not {getattr(method, name)}")


def shared_fields(config: Any, cls: type) -> dict[str, Any]:
    """Those fields of a config that a dataclass also has: a memory's options out of its method's."""
    return {f.name: getattr(config, f.name) for f in fields(cls)}
