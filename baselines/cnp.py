"""Conditional neural processes: a mean and a standard deviation at each query, from what is known of the support."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from baselines.backbones import dense
from bench.api import BenchError, Episode, Examples, Learner, Task, TrainedMethod, method, option
from mann.learner import refuse_below_one

LEAST = 0.1
"""Smallest standard deviation, as in the authors' code."""


class CNPLearner(Learner):
    """An encoder of pairs, their mean or attention to them, a decoder (Garnelo et al. 2018, eq. 1 to 3)."""

    def __init__(self, config: CNP, task: Task) -> None:
        super().__init__()
        inputs, size = math.prod(task.x_shape), config.size
        self.encode = dense(inputs + task.n_out, *[size] * config.layers)
        self.decode = dense(inputs + size, *[size] * config.layers, 2 * task.n_out)
        if config.heads:
            self.place = dense(inputs, size, size)
            self.attention = nn.MultiheadAttention(size, config.heads, batch_first=True)
        self.size = size
        self.heads = config.heads

    def forward(self, support: Examples, query_x: Tensor) -> Tensor:
        """The mean at each query, [batch, n_query, n_out]."""
        return self.distribution(support, query_x)[0]

    def distribution(self, support: Examples, query_x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of a normal distribution at each query, [batch, n_query, n_out] each."""
        asked, x = query_x.flatten(2), support.x.flatten(2)
        pairs = self.encode(torch.cat((x, support.y), 2))
        told = torch.cat((asked, self.gather(pairs, x, asked)), 2)
        mean, spread = self.decode(told).chunk(2, 2)
        return mean, LEAST + (1 - LEAST) * F.softplus(spread)

    def gather(self, pairs: Tensor, x: Tensor, asked: Tensor) -> Tensor:
        """What the support says at each query, [batch, n_query, size]: zeros where there is none."""
        if not x.shape[1]:
            return asked.new_zeros(*asked.shape[:2], self.size)
        if not self.heads:
            return pairs.mean(1, keepdim=True).expand(-1, asked.shape[1], -1)
        return self.attention(self.place(asked), self.place(x), pairs, need_weights=False)[0]

    def loss(self, episode: Episode, task: Task) -> Tensor:
        """Minus the log-likelihood of the queries' values, in nats a value."""
        mean, spread = self.distribution(episode.support, episode.query.x)
        return -torch.distributions.Normal(mean, spread, validate_args=False).log_prob(episode.query.y).mean()


@method("cnp", source="Garnelo et al. 2018, arXiv:1807.01613; with attention, Kim et al. 2019, arXiv:1901.05761")
class CNP(TrainedMethod):
    """Functions from points: trained by the likelihood of its normal predictions, scored by their mean.

    heads above 0 reads the support by attention from where the query is, as the deterministic path of attentive neural
    processes; there is no latent path. The authors' networks have 3 to 4 layers of 128 units and train 200,000 steps of
    16 to 64 functions with Adam at 1e-4 to 1e-3, on supports of any size; here they have the task's, shot, also where
    it is tested with other sizes. The likelihood is that of the queries; theirs has the support's values in it too.
    """

    batch: int = option(25, "functions per training step")
    size: int = option(128, "units of a layer, and numbers that a support is summed up in")
    layers: int = option(3, "hidden layers of encoder and decoder")
    heads: int = option(0, "heads of attention to the support; 0: its mean")

    def check(self) -> None:
        """Refuse a recipe that cannot train, and sizes that do not fit."""
        super().check()
        refuse_below_one(self, "size", "layers")
        if self.heads and self.size % self.heads:
            raise BenchError(f"cnp.heads must divide cnp.size, and {self.heads} does not divide {self.size}")

    def build(self, task: Task) -> CNPLearner:
        """A fresh learner; see `Method.build`."""
        return CNPLearner(self, task)

    def unsuited(self, task: Task) -> str | None:
        """It predicts values."""
        if task.kind != "regression" or not task.y_size or task.online:
            return "it predicts values at queries from a support with values"
        return None
