"""Few-shot learning as inference on a graph whose edges are learned."""

from __future__ import annotations

from itertools import accumulate

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from baselines.embedding import EmbeddingLearner, EmbeddingMethod, needs_classes
from bench.api import Task, method, option
from mann.learner import refuse_below_one

EDGE = (96, 96, 48, 48)
"""Hidden units of the network that weighs an edge."""
NARROW = 48
"""Features that each layer adds."""
SLOPE = 0.01


class Edges(nn.Module):
    """Weights of a graph's edges from how far apart its nodes are (Garcia and Bruna 2018, eq. 4 and 5)."""

    def __init__(self, size: int) -> None:
        super().__init__()
        widths = (size, *EDGE)
        layers = [layer for n, m in zip(widths, EDGE, strict=False) for layer in (nn.Linear(n, m), nn.LeakyReLU(SLOPE))]
        self.net = nn.Sequential(*layers, nn.Linear(EDGE[-1], 1))

    def forward(self, nodes: Tensor) -> Tensor:
        """[graphs, n, size] to [graphs, n, n]: for each node a softmax over the others."""
        scores = self.net((nodes[:, :, None] - nodes[:, None]).abs()).squeeze(-1)
        itself = torch.eye(nodes.shape[1], dtype=torch.bool, device=nodes.device)
        return scores.masked_fill(itself, -1e8).softmax(-1)


class GraphLayer(nn.Module):
    """A convolution of a graph: a linear map of each node and of the mean over its edges (eq. 2)."""

    def __init__(self, size: int, outputs: int) -> None:
        super().__init__()
        self.edges = Edges(size)
        self.map = nn.Linear(2 * size, outputs)

    def forward(self, nodes: Tensor) -> Tensor:
        """[graphs, n, size] to [graphs, n, outputs]."""
        return self.map(torch.cat((nodes, self.edges(nodes) @ nodes), 2))


class GNNLearner(EmbeddingLearner):
    """A graph for each query: the support's embeddings with their labels, and the query's without one."""

    def __init__(self, config: GNN, task: Task) -> None:
        super().__init__(config, task)
        sizes = accumulate([NARROW] * (config.layers - 1), initial=self.size + task.y_size)
        *inner, last = sizes
        self.layers = nn.ModuleList(GraphLayer(size, NARROW) for size in inner)
        self.last = GraphLayer(last, task.n_out)

    def compare(self, shown: Tensor, labels: Tensor, asked: Tensor) -> Tensor:
        """What the query's node holds after all layers, each of which adds features to those before (section 4.2)."""
        batch, queries = asked.shape[:2]
        unknown = torch.full_like(asked[..., :1], 1 / labels.shape[2]).expand(-1, -1, labels.shape[2])
        question = torch.cat((asked, unknown), 2).flatten(0, 1)[:, None]
        nodes = torch.cat((question, torch.cat((shown, labels), 2).repeat_interleave(queries, 0)), 1)
        for layer in self.layers:
            nodes = torch.cat((nodes, F.leaky_relu(layer(nodes), SLOPE)), 2)
        return self.last(nodes)[:, 0].view(batch, queries, -1)


@method("gnn", source="Garcia and Bruna 2018, arXiv:1711.04043")
class GNN(EmbeddingMethod):
    """Messages between examples along learned edges; the query takes its label from its neighbours.

    The authors train 80,000 to 100,000 steps of 300 (Omniglot 5-way) or 100 episodes with one query each, Adam at 1e-3
    lowered every 10,000.

    Deviations: no BatchNorm and no dropout within the graph, where statistics would mix the queries; our backbones;
    48 features a layer, and edges from 96, 96, 48 and 48 units.
    """

    batch: int = option(16, "episodes per training step")
    layers: int = option(3, "graph convolutions")
    halve_every: int = option(10_000, "halve the learning rate every so many steps; 0: never")

    def check(self) -> None:
        """Refuse a recipe that cannot train, and a graph without layers."""
        super().check()
        refuse_below_one(self, "layers")

    def build(self, task: Task) -> GNNLearner:
        """A fresh learner; see `Method.build`."""
        return GNNLearner(self, task)

    def unsuited(self, task: Task) -> str | None:
        """It needs classes."""
        return needs_classes(task, "labels on its nodes are") or super().unsuited(task)
