"""Nearest neighbours by modified Hausdorff distance, the demo that comes with Lake's one-shot runs."""

from __future__ import annotations

import torch
from torch import Tensor

from baselines.backbones import image_shape
from baselines.pixel_knn import vote
from bench.api import Examples, Learner, Method, Task, method


def ink_points(image: Tensor) -> Tensor:
    """Inked pixels of an image [height, width], centred on their mean: [points, 2] in pixels, float64.

    Ink is darker (larger) than half of the darkest pixel. An image without ink counts as one point.
    """
    darkest = image.max()
    at = ((image > darkest / 2) & (darkest > 0)).nonzero().double()
    return at - at.mean(0) if len(at) else at.new_zeros(1, 2)


def modified_hausdorff(a: Tensor, b: Tensor) -> Tensor:
    """Distance of point sets [n, 2] and [m, 2]: the mean distance to the nearest point of the other, both ways, of
    the two means the larger (Dubuisson and Jain 1994, distance 23)."""
    square_a, square_b = a.square().sum(1, keepdim=True), b.square().sum(1, keepdim=True)
    # |a - b|² of all pairs as one product; float64 leaves errors of 1e-12 where |a|² and |b|² cancel.
    left = torch.cat((-2 * a, square_a, torch.ones_like(square_a)), 1)
    right = torch.cat((b, torch.ones_like(square_b), square_b), 1)
    apart = left @ right.T
    ways = (apart.amin(dim).clamp(min=0).sqrt().mean() for dim in (0, 1))
    return torch.maximum(*ways)


class HausdorffLearner(Learner):
    """The support set itself; nothing is learned."""

    def __init__(self, task: Task, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.task = task
        self.shape = shape

    def forward(self, support: Examples, query_x: Tensor) -> Tensor:
        """The label of the nearest example."""
        labels = self.task.encode(support.y).to(query_x.dtype)
        nearness = query_x.new_empty(len(query_x), query_x.shape[1], support.x.shape[1])
        for episode, (shown, asked) in enumerate(zip(support.x, query_x, strict=True)):
            examples = self.points(shown)
            for place, query in enumerate(self.points(asked)):
                for other, example in enumerate(examples):
                    nearness[episode, place, other] = -modified_hausdorff(query, example)
        return vote(nearness, labels, 1, self.task)

    def points(self, x: Tensor) -> list[Tensor]:
        """Points of each image of one episode; ink in any channel counts."""
        return [ink_points(image) for image in x.reshape(-1, *self.shape).amax(1)]


@method("hausdorff", source="Lake et al. 2015, Science 350:1332, one-shot demo; Dubuisson and Jain 1994")
class Hausdorff(Method):
    """The label of the nearest support example, by modified Hausdorff distance of their inked pixels.

    Made for line drawings at 105 × 105, where Lake's runs give an error of 38.75 %; smaller images lose the lines.
    """

    def build(self, task: Task) -> HausdorffLearner:
        """A fresh learner; see `Method.build`."""
        shape = image_shape(task.x_shape)
        assert shape is not None
        return HausdorffLearner(task, shape)

    def unsuited(self, task: Task) -> str | None:
        """It needs images."""
        return None if image_shape(task.x_shape) else "it compares drawings, and inputs here are not images"
