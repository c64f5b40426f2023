"""Nearest neighbours by modified Hausdorff distance, the demo that comes with Lake's one-shot runs."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from baselines.backbones import image_shape
from baselines.pixel_knn import vote
from bench.api import Examples, Learner, Method, Task, method

FAR = 1e6


class Points(NamedTuple):
    """Inked pixels of images, each image's centred on their mean.

    at: [..., points, 2], in pixels. there: [..., points], 1 for a point and 0 for padding.
    """

    at: Tensor
    there: Tensor


def ink_points(images: Tensor) -> Points:
    """The pixels of [..., height, width] darker (larger) than half of the image's darkest.

    An image without ink counts as one point.
    """
    darkest = images.amax((-1, -2), keepdim=True)
    ink = ((images > darkest / 2) & (darkest > 0)).flatten(-2)
    ink[..., 0] |= ~ink.any(-1)
    first, place = ink.to(torch.uint8).sort(dim=-1, descending=True, stable=True)
    most = int(ink.sum(-1).max())
    there, place = first[..., :most].to(images.dtype), place[..., :most]
    at = torch.stack((place // images.shape[-1], place % images.shape[-1]), -1).to(images.dtype)
    mean = (at * there[..., None]).sum(-2, keepdim=True) / there.sum(-1)[..., None, None]
    return Points(at - mean, there)


def modified_hausdorff(a: Points, b: Points) -> Tensor:
    """Distance of point sets: the mean distance to the nearest point of the other, of the two means the larger.

    Dubuisson and Jain 1994. a: [..., points, 2]; b: [..., points, 2] with the same leading dimensions or ones.
    """
    apart = torch.cdist(a.at, b.at, compute_mode="donot_use_mm_for_euclid_dist")
    return torch.maximum(_mean_nearest(apart, a.there, b.there), _mean_nearest(apart.mT, b.there, a.there))


def _mean_nearest(apart: Tensor, here: Tensor, other: Tensor) -> Tensor:
    """Mean over the points here of the distance to the nearest of the others. apart: [..., here, other]."""
    nearest = (apart + FAR * (1 - other)[..., None, :]).amin(-1)
    return (nearest * here).sum(-1) / here.sum(-1)


class HausdorffLearner(Learner):
    """The support set itself; nothing is learned."""

    def __init__(self, task: Task, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.task = task
        self.shape = shape

    def forward(self, support: Examples, query_x: Tensor) -> Tensor:
        """The label of the nearest example. One query at a time: distances of all points are large."""
        labels = self.task.encode(support.y).to(query_x.dtype)
        if support.x.shape[1] == 0:
            return vote(query_x.new_empty(*query_x.shape[:2], 0), labels, 1, self.task)
        rows = [self.distances(s, q) for s, q in zip(support.x, query_x, strict=True)]
        return vote(-torch.stack(rows), labels, 1, self.task)

    def distances(self, support_x: Tensor, query_x: Tensor) -> Tensor:
        """[n_query, n] of one episode."""
        shown, asked = (ink_points(x.reshape(-1, *self.shape).amax(1)) for x in (support_x, query_x))
        each = (Points(at, there) for at, there in zip(asked.at, asked.there, strict=True))
        return torch.stack([modified_hausdorff(one, shown) for one in each])


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
