"""SNAIL: temporal convolutions that look back over an episode, and attention that finds what they gathered."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from baselines.embedding import EmbeddingLearner, EmbeddingMethod
from bench.api import Task, method, option
from mann.learner import refuse_below_one


class TemporalConvolution(nn.Module):
    """Dense blocks of causal convolutions over two steps, 1, 2, 4, ... apart, gated (Mishra et al. 2018, figure 2).

    [batch, time, size] to [batch, time, size + blocks · filters]; blocks enough to look back over `longest` steps.
    """

    def __init__(self, size: int, longest: int, filters: int) -> None:
        super().__init__()
        self.reach = [2**k for k in range(max(1, math.ceil(math.log2(longest))))]
        self.blocks = nn.ModuleList(
            nn.Conv1d(size + k * filters, 2 * filters, 2, dilation=step) for k, step in enumerate(self.reach)
        )
        self.size = size + len(self.reach) * filters

    def forward(self, x: Tensor) -> Tensor:
        """Before the first step were zeros: as many as there are steps are enough for those that reach further back."""
        h = x.mT
        for reach, block in zip(self.reach, self.blocks, strict=True):
            back = min(reach, h.shape[2])
            weight, bias = block.get_parameter("weight"), block.get_parameter("bias")
            value, gate = F.conv1d(F.pad(h, (back, 0)), weight, bias, dilation=back).chunk(2, 1)
            h = torch.cat((h, value.tanh() * gate.sigmoid()), 1)
        return h.mT


class CausalAttention(nn.Module):
    """One head of attention to this step and those before, beside its input: `value` more numbers a step."""

    def __init__(self, size: int, key: int, value: int) -> None:
        super().__init__()
        self.query, self.key, self.value = nn.Linear(size, key), nn.Linear(size, key), nn.Linear(size, value)
        self.size = size + value

    def forward(self, x: Tensor) -> Tensor:
        """The causal mask is all that tells the order."""
        read = F.scaled_dot_product_attention(self.query(x), self.key(x), self.value(x), is_causal=True)
        return torch.cat((x, read), 2)


class SNAILLearner(EmbeddingLearner):
    """The network of the paper's few-shot experiments: attention, convolutions, attention, convolutions, attention."""

    def __init__(self, config: SNAIL, task: Task) -> None:
        super().__init__(config, task)
        layers: list[TemporalConvolution | CausalAttention] = []
        size = self.size + task.y_size
        for key, value, filters in ((64, 32, 128), (256, 128, 128), (512, 256, 0)):
            layers.append(CausalAttention(size, key, value))
            if filters:
                layers.append(TemporalConvolution(layers[-1].size, config.longest, filters))
            size = layers[-1].size
        self.layers = nn.Sequential(*layers, nn.Linear(size, task.n_out))

    def compare(self, shown: Tensor, labels: Tensor, asked: Tensor) -> Tensor:
        """A sequence for each query: the support with its labels, then the query without one."""
        batch, queries = asked.shape[:2]
        before = torch.cat((shown, labels), 2).repeat_interleave(queries, 0)
        last = F.pad(asked, (0, labels.shape[2])).flatten(0, 1)[:, None]
        return self.layers(torch.cat((before, last), 1))[:, -1].view(batch, queries, -1)


@method("snail", source="Mishra et al. 2018, arXiv:1707.03141")
class SNAIL(EmbeddingMethod):
    """Attention and dilated causal convolutions over an episode as a sequence.

    The authors train with Adam at 1e-4 on sequences of N·K + 1, and count the loss of the last step alone; here each
    query of an episode is such a last step, and so is each presentation online, which costs a pass for each: of tasks
    that are online, `full-attention` makes one pass. They embed with Conv4, as the default does.
    """

    batch: int = option(16, "episodes per training step")
    lr: float = option(1e-4, "learning rate")
    longest: int = option(64, "steps that convolutions look back over; attention sees all")

    def check(self) -> None:
        """Refuse a recipe that cannot train, and convolutions that see nothing."""
        super().check()
        refuse_below_one(self, "longest")

    def build(self, task: Task) -> SNAILLearner:
        """A fresh learner; see `Method.build`."""
        return SNAILLearner(self, task)

    def unsuited(self, task: Task) -> str | None:
        """It reads labels."""
        return super().unsuited(task) if task.y_size else "its steps hold labels, and this task shows none"
