"""What methods share that embed inputs and compare embeddings. Nothing is registered here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

from baselines.backbones import Backbone, image_shape, make_backbone, unsuited_backbone
from bench.api import Examples, Learner, Task, TrainedMethod, option


class EmbeddingLearner(Learner):
    """Embeds support and queries with one network; `compare`, the one thing to write, answers from the embeddings."""

    def __init__(self, config: EmbeddingMethod, task: Task) -> None:
        super().__init__()
        self.task = task
        self.transductive = config.batch_norm == "transductive"
        self.net, self.size = make_backbone(config.backbone, task.x_shape)

    def compare(self, shown: Tensor, labels: Tensor, asked: Tensor) -> Tensor:
        """Answer each embedded query from the embedded support alone; queries do not see one another.

        shown: [batch, n, size], labels: [batch, n, y_size] encoded, asked: [batch, m, size]. Returns [batch, m, n_out].
        There may be nothing shown.
        """
        raise NotImplementedError(f"{type(self).__name__} has no compare")

    def forward(self, support: Examples, query_x: Tensor) -> Tensor:
        """Embed all at once, then compare. In training BatchNorm sees support and queries of all episodes."""
        n = support.x.shape[1]
        embedded = self.embed(torch.cat((support.x, query_x), 1))
        return self.compare(embedded[:, :n], self.labels(support.y, query_x), embedded[:, n:])

    def stream(self, x: Tensor, y: Tensor) -> Tensor:
        """Each presentation is compared with those before it."""
        if self.transductive:
            return super().stream(x, y)
        embedded, labels = self.embed_in_order(x), self.labels(y, x)
        steps = [self.compare(embedded[:, :t], labels[:, :t], embedded[:, t : t + 1]) for t in range(x.shape[1])]
        return torch.cat(steps, 1)

    def embed(self, x: Tensor) -> Tensor:
        """[batch, n, *x_shape] to [batch, n, size].

        BatchNorm uses what is here in training, its running averages in eval mode; the transductive choice, in eval
        mode, the statistics of each episode by itself.
        """
        if self.transductive and not self.training:
            return torch.stack([by_own_statistics(self.net, episode) for episode in x])
        return self.net(x.flatten(0, 1)).unflatten(0, x.shape[:2])

    def embed_in_order(self, x: Tensor) -> Tensor:
        """A sequence: in training each step is normalised by itself, over the episodes; none sees the future."""
        if not self.training:
            return self.embed(x)
        return torch.cat([self.embed(x[:, t : t + 1]) for t in range(x.shape[1])], 1)

    def labels(self, y: Tensor, like: Tensor) -> Tensor:
        """[batch, n, y_size], in the dtype of the inputs."""
        return self.task.encode(y).to(like.dtype)


@dataclass(frozen=True, kw_only=True)
class EmbeddingMethod(TrainedMethod):
    """A method whose learner is an `EmbeddingLearner`."""

    in_order: ClassVar[bool] = True
    """Whether it trains on sequences step by step, where BatchNorm needs more than one."""

    backbone: Backbone = option(
        "auto", "conv4: 64 channels; conv4-32; resnet12; mlp: 256-64; auto: conv4 for images, else mlp", late=True
    )
    batch_norm: Literal["inductive", "transductive"] = option(
        "inductive", "at test: averages of training, or the statistics of support and queries at hand", late=True
    )

    def protocol(self, task: Task) -> dict[str, str]:
        """The backbone and its BatchNorm, which dense layers do not have; see `Method.protocol`."""
        if self.backbone == "mlp" or not image_shape(task.x_shape):
            return {"backbone": "mlp-256-64", "batchnorm": "none"}
        return {"backbone": "conv4" if self.backbone == "auto" else self.backbone, "batchnorm": self.batch_norm}

    def unsuited(self, task: Task) -> str | None:
        """Some backbones need images, and those with BatchNorm more than one sequence to normalise a step over."""
        if task.online and self.in_order and self.batch == 1 and self.backbone != "mlp" and image_shape(task.x_shape):
            return f"BatchNorm sees one step of each sequence of a batch; one is too few: set {self.name}.batch=16"
        return unsuited_backbone(self.backbone, task.x_shape)


def by_own_statistics(net: nn.Module, x: Tensor) -> Tensor:
    """What a network in eval mode makes of inputs where BatchNorm takes their own statistics; its averages stay."""
    copies = {name: buffer.clone() for name, buffer in net.named_buffers()}  # the averages move in these
    net.train()
    try:
        return functional_call(net, copies, (x,))
    finally:
        net.eval()


def needs_classes(task: Task, what: str) -> str | None:
    """Why a method that is about classes cannot run on a task; None where it can."""
    if task.kind == "regression":
        return f"{what} of classes, and this is regression"
    if getattr(task, "labels", "onehot") == "string":
        return f"{what} of classes, and a string label is not one; use labels=onehot"
    return None if task.y_size else f"{what} of classes, and here none are shown"
