"""miniImageNet (Vinyals et al. 2016): support and query episodes of photographs."""

from __future__ import annotations

import numpy as np

from bench import data
from bench.api import BenchError, Split, option, task
from bench.miniimagenet import RAVI
from bench.tasks.episodes import FewShotImages, Images

PARTS = dict(RAVI.classes)


@task("miniimagenet", source="Vinyals et al. 2016, arXiv:1606.04080; split of Ravi and Larochelle 2017")
class MiniImageNet(FewShotImages):
    """N-way K-shot episodes of photographs: 64 classes to train on, 16 to validate, 20 to test, 600 images each.

    x is red, green and blue in 0..1, neither centred nor augmented: what a paper does on top belongs to its method.
    """

    dataset = "miniimagenet"
    each = RAVI.each

    size: int = option(RAVI.side, "side of an image in pixels; below 84 the mean of the pixels beneath")

    @property
    def x_shape(self) -> tuple[int, ...]:
        """Three colours."""
        return (3, self.size, self.size)

    def images(self, split: Split) -> Images:
        """The photographs of a split, from a memory map of all."""
        before = sum(self.classes(part) for part in self.splits[: self.splits.index(split)])
        return Images(data.mini_imagenet().pixels(self.size), before + np.arange(self.classes(split)))

    def classes(self, split: Split) -> int:
        """64, 16 or 20."""
        return len(PARTS[split])

    def check(self) -> None:
        """Refuse what the photographs cannot give."""
        super().check()
        if self.size > RAVI.side:
            raise BenchError(f"miniimagenet: size {self.size} is more than the {RAVI.side} pixels of its images")
