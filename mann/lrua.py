"""Least recently used access (draft)."""

from __future__ import annotations
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.api import Memory

EPSILON = 1e-8

class LRUAState(NamedTuple):
    memory: Tensor
    usage: Tensor
    read: Tensor


class LRUA(Memory[LRUAState]):
    def __init__(self, slots=128, width=40, heads=4, head_slots="shared", write_value="key", read="before", erase="one",
                 gate="interface", decay=0.99, start="first", constant=1e-6):
        super().__init__()
        self.slots, self.width, self.heads = slots, width, heads
        self.head_slots, self.write_value, self.order, self.erase = head_slots, write_value, read, erase
        self.decay, self.start, self.constant = decay, start, constant
        vectors = 2 if write_value == "separate" else 1
        self.sizes = [vectors * heads * width] + ([heads] if gate == "interface" else [])
        self.interface_size = sum(self.sizes)
        self.read_size = heads * width
        self.gate = nn.Parameter(torch.zeros(1)) if gate == "scalar" else None

    def initial_state(self, batch, like):
        weights = like.new_zeros(batch, self.heads, self.slots)
        if self.start == "first":
            weights[:, :, 0] = 1
        else:
            weights += 1 / self.slots
        usage = weights[:, 0].clone() if self.start=="first" else like.new_zeros(batch, self.slots)
        return LRUAState(like.new_full((batch, self.slots, self.width), self.constant), usage, weights)

    def parse(self, interface):
        parts = interface.split(self.sizes, 1)
        vectors = parts[0].tanh().view(len(interface), -1, self.heads, self.width)
        keys, values = vectors[:, 0], vectors[:, -1]
        gate = (self.gate if self.gate is not None else parts[1]).sigmoid()
        return keys, values, gate.view(-1, self.heads if self.gate is None else 1, 1)

    def forward(self, interface, state):
        keys, values, gate = self.parse(interface)
        if self.order == "before":
            weights, read = self.read(keys, state.memory)
            memory, written = self.write(values, gate, state)
        elif self.order == "after":
            memory, written = self.write(values, gate, state)
            weights, read = self.read(keys, memory)
        else:  # snowkylin
            memory, written = self.write(values, gate, state)
            weights = self.address(keys, state.memory)
            read = torch.bmm(weights, memory).flatten(1)
        usage = self.decay * state.usage + (weights + written).detach().sum(1)
        return read, LRUAState(memory, usage, weights)

    def address(self, keys, memory):
        products = torch.bmm(keys, memory.transpose(1, 2))
        norms = (memory * memory).sum(-1).add(EPSILON).rsqrt()
        return (F.normalize(keys,dim=-1) @ memory.transpose(1,2) * norms.unsqueeze(1)).softmax(-1)

    def read(self, keys, memory):
        weights = self.address(keys, memory)
        return weights, torch.bmm(weights, memory).flatten(1)

    def write(self, values, gate, state):
        slots = state.usage.argsort(dim=1, stable=True)[:, : self.heads]
        if self.head_slots == "shared":
            least = torch.zeros_like(state.usage).scatter_(1, slots, 1.0).unsqueeze(1)
        else:
            least = torch.zeros_like(state.read).scatter_(2, slots.unsqueeze(2), 1.0)
        weights = least + gate * (state.read - least)
        keep = torch.ones_like(state.usage).scatter_(1, slots[:, :1] if self.erase == "one" else slots, 0.0)
        return torch.baddbmm(state.memory * keep.unsqueeze(2), weights.transpose(1, 2), values), weights
