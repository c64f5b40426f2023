"""Attention over a memory whose least recently used slot is overwritten; `MANN`, the network around it, stands alone.

    from mann import MANN
    model = MANN(input_size=10, memory_size=100, hidden_size=64)
    output = model(torch.randn(1, 10))

Read r = softmax(q Kᵀ / √d) V (Vaswani et al. 2017, arXiv:1706.03762, eq. 1) over the keys and values stored so far; the
slot written next is the one not accessed for longest (Santoro et al. 2016, arXiv:1605.06065, §3.2; "accessed" as in
Rae et al. 2016, arXiv:1610.09027: written, or read with a weight above a threshold). A write replaces the slot.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.api import Addresses, BenchError, Memory, Task, build, loadable, method, option, part
from mann.learner import MemoryMethod, shared_fields


@dataclass(frozen=True, kw_only=True)
class AttentionOptions:
    """The options of `AttentionMemory`."""

    slots: int = option(128, "memory slots")
    width: int = option(64, "numbers in a key, and in a value; a multiple of heads")
    heads: int = option(4, "attention heads, each over its share of the width")
    threshold: float = option(0.1, "read weight (mean over heads) above which a slot counts as accessed")


class AttentionState(NamedTuple):
    """What is stored, and since when it was not accessed.

    keys, values: [batch, heads, slots, width / heads], zero where nothing is stored. age: [batch, slots], steps since
    a slot was written or read; infinite while it is empty. Age has no gradient.
    """

    keys: Tensor
    values: Tensor
    age: Tensor


class AttentionMemory(Memory[AttentionState]):
    """Key-value memory as a cell: `AttentionMemory(slots=128, width=64, heads=4)`, options as in `AttentionOptions`.

    The interface holds query, key and value, of the same width. A step reads, then writes: it does not find what it
    stores itself. Empty slots get no weight, an empty memory reads as zeros; empty slots are filled first, in order.
    At most 1 / threshold slots count as read in a step; where several are equally old, the first is overwritten.

    Raises:
        BenchError: a size below one, a width that is no multiple of heads, or a negative threshold.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = o = build(AttentionOptions, options)
        if min(o.slots, o.width, o.heads) < 1 or o.width % o.heads:
            raise BenchError(
                f"attention needs sizes of at least 1 and a width that is a multiple of heads, "
                f"not slots={o.slots}, width={o.width}, heads={o.heads}"
            )
        if o.threshold < 0:
            raise BenchError(f"attention needs a threshold of at least 0, not {o.threshold:g}")
        self.read_size = o.width
        self.interface_size = 3 * o.width

    def initial_state(self, batch: int, like: Tensor) -> AttentionState:
        """Empty."""
        o = self.options
        empty = like.new_zeros(batch, o.heads, o.slots, o.width // o.heads)
        return AttentionState(empty, empty, like.new_full((batch, o.slots), math.inf))

    def forward(self, interface: Tensor, state: AttentionState) -> tuple[Tensor, AttentionState]:
        """One step; see `Memory.forward`."""
        query, key, value = interface.chunk(3, 1)
        read, state = self.read(query, state)
        return read, self.write(key, value, state)

    def addresses(self, interface: Tensor, state: AttentionState) -> Addresses:
        """Attention weights, the slot written, and the usage as -age (an empty slot: -inf)."""
        query = interface.chunk(3, 1)[0]
        _, after = self.read(query, state)
        written = F.one_hot(after.age.argmax(1), self.options.slots).to(interface.dtype)
        return Addresses(self.weights(query, state), written.unsqueeze(1), -state.age)

    @part("read")
    def read(self, query: Tensor, state: AttentionState) -> tuple[Tensor, AttentionState]:
        """What a query finds, [batch, width], and the state with the slots it used made young.

        query: [batch, width].
        """
        weights = self.weights(query, state)
        read = (weights.unsqueeze(2) @ state.values).flatten(1)
        accessed = weights.detach().mean(1) > self.options.threshold
        return read, state._replace(age=(state.age + 1).masked_fill(accessed, 0.0))

    @part("addressing")
    def weights(self, query: Tensor, state: AttentionState) -> Tensor:
        """Attention weights, [batch, heads, slots]: a distribution over what is stored, or zeros when nothing is."""
        stored = state.age.isfinite().unsqueeze(1)
        query = self._by_head(query)
        scores = (state.keys @ query.unsqueeze(3)).squeeze(3) / math.sqrt(query.shape[2])
        # The lowest finite number, not -inf: the softmax over an empty memory must have a gradient, namely zero.
        return scores.masked_fill(~stored, torch.finfo(scores.dtype).min).softmax(2) * stored

    @part("write")
    def write(self, key: Tensor, value: Tensor, state: AttentionState) -> AttentionState:
        """Replace what the least recently used slot holds. key, value: [batch, width]."""
        oldest = state.age.argmax(1, keepdim=True)
        key, value = self._by_head(key).unsqueeze(2), self._by_head(value).unsqueeze(2)
        slot = oldest[:, :, None, None].expand_as(key)
        keys, values = state.keys.scatter(2, slot, key), state.values.scatter(2, slot, value)
        return AttentionState(keys, values, state.age.scatter(1, oldest, 0.0))

    def _by_head(self, vector: Tensor) -> Tensor:
        return vector.reshape(len(vector), self.options.heads, -1)


@loadable
class MANNState(NamedTuple):
    """What `MANN` carries from step to step, first dimension the batch.

    encoder: state of a recurrent encoder, each [batch, layers, size], otherwise empty; hidden: [batch, hidden_size].
    """

    encoder: tuple[Tensor, ...]
    hidden: Tensor
    memory: AttentionState


class MANN(nn.Module):
    """A memory-augmented network: encode, read, update the state with what was read, write.

    At each step e = encoder(x), r = softmax(Q Kᵀ / √d) V with Q from e over memory, h = GRU([e, r], h), and a key and
    a value made from h go into the least recently used slot. Memory starts empty at each call without a state.

    input_size: features of an input, or its shape where the encoder wants one (channels, height, width).
    memory_size: slots. hidden_size: width of e, r and h. output_size: the output is a linear map of h; None: h itself.
    encoder: any module from [n, *input] to [n, hidden_size] (a CNN, say), or an `nn.RNN`, `nn.GRU` or `nn.LSTM` with
    batch_first, which runs through time and whose state becomes part of ours. Default: an MLP of two layers.

    Raises:
        BenchError: sizes that do not fit, or a recurrent encoder that is not batch_first, or would see the future.
    """

    def __init__(
        self,
        input_size: int | tuple[int, ...],
        memory_size: int,
        hidden_size: int,
        output_size: int | None = None,
        encoder: nn.Module | None = None,
        heads: int = 1,
        threshold: float = 0.1,
    ) -> None:
        super().__init__()
        self.input_shape = (input_size,) if isinstance(input_size, int) else tuple(input_size)
        if min(*self.input_shape, memory_size, hidden_size, heads) < 1 or hidden_size % heads:
            raise BenchError(
                f"sizes must be at least 1 and hidden_size a multiple of heads, not input_size={input_size}, "
                f"memory_size={memory_size}, hidden_size={hidden_size}, heads={heads}"
            )
        if isinstance(encoder, nn.RNNBase):
            _check_recurrent(encoder, hidden_size)
        self.encoder = encoder if encoder is not None else _mlp(math.prod(self.input_shape), hidden_size)
        self.query = nn.Linear(hidden_size, hidden_size)
        self.update = nn.GRUCell(2 * hidden_size, hidden_size)
        self.store = nn.Linear(hidden_size, 2 * hidden_size)
        self.memory = AttentionMemory(slots=memory_size, width=hidden_size, heads=heads, threshold=threshold)
        self.output = nn.Identity() if output_size is None else nn.Linear(hidden_size, output_size)

    def initial_state(self, batch: int, like: Tensor) -> MANNState:
        """Empty memory and zeros, with `like`'s dtype and device."""
        encoder: tuple[Tensor, ...] = ()
        if isinstance(self.encoder, nn.RNNBase):
            zeros = like.new_zeros(batch, self.encoder.num_layers, self.encoder.hidden_size)
            encoder = (zeros,) * (2 if isinstance(self.encoder, nn.LSTM) else 1)
        hidden = like.new_zeros(batch, self.update.hidden_size)
        return MANNState(encoder, hidden, self.memory.initial_state(batch, like))

    def forward(self, x: Tensor, state: MANNState | None = None, return_state: bool | None = None) -> Any:
        """Run one step, x: [batch, *input], or a sequence, x: [batch, time, *input].

        Returns the output, [batch, size] or [batch, time, size]. With `return_state`, which a given state implies, the
        new state as well: `output, state = model(x, state)`. The given state is left as it was.

        Raises:
            BenchError: an input of another shape, or without any step.
        """
        lead = x.dim() - len(self.input_shape)
        if lead not in (1, 2) or x.shape[lead:] != self.input_shape or 0 in x.shape[:lead]:
            raise BenchError(
                f"an input must be [batch, *{list(self.input_shape)}] or [batch, time, *{list(self.input_shape)}], "
                f"not {list(x.shape)}"
            )
        if return_state is None:
            return_state = state is not None
        sequence = x if lead == 2 else x.unsqueeze(1)
        output, state = self._run(sequence, self.initial_state(len(x), x) if state is None else state)
        output = output if lead == 2 else output.squeeze(1)
        return (output, state) if return_state else output

    def _run(self, x: Tensor, state: MANNState) -> tuple[Tensor, MANNState]:
        encoded, encoder = self._encode(x, state.encoder)
        hidden, memory, outputs = state.hidden, state.memory, []
        for e, query in zip(encoded.unbind(1), self.query(encoded).unbind(1), strict=True):
            read, memory = self.memory.read(query, memory)
            hidden = self.update(torch.cat((e, read), 1), hidden)
            key, value = self.store(hidden).chunk(2, 1)
            memory = self.memory.write(key, value, memory)
            outputs.append(hidden)
        return self.output(torch.stack(outputs, 1)), MANNState(encoder, hidden, memory)

    def _encode(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        if not isinstance(self.encoder, nn.RNNBase):
            return self.encoder(x.flatten(0, 1)).unflatten(0, x.shape[:2]), ()
        before = tuple(part.transpose(0, 1).contiguous() for part in state)
        encoded, after = self.encoder(x, before if len(before) == 2 else before[0])
        after = after if isinstance(after, tuple) else (after,)
        return encoded, tuple(part.transpose(0, 1) for part in after)


def _mlp(width: int, size: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(width, size), nn.ReLU(), nn.Linear(size, size), nn.ReLU())


def _check_recurrent(encoder: nn.RNNBase, size: int) -> None:
    if not encoder.batch_first or encoder.bidirectional or encoder.proj_size or encoder.hidden_size != size:
        raise BenchError(
            f"a recurrent encoder must have batch_first=True, bidirectional=False, no projection and "
            f"hidden_size={size}, that of the network"
        )


@method(
    "mann-attention", source="Vaswani et al. 2017, arXiv:1706.03762; slots as Santoro et al. 2016, arXiv:1605.06065"
)
class MannAttention(AttentionOptions, MemoryMethod):
    """Softmax attention over a memory that overwrites its least recently used slot, behind any controller."""

    def memory(self, task: Task) -> AttentionMemory:
        """A fresh attention memory."""
        return AttentionMemory(**shared_fields(self, AttentionOptions))
