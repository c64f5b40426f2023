"""Lake's within-alphabet one-shot classification runs (Lake et al. 2015)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import torch

from bench import data
from bench.api import CHUNK, BenchError, Episode, Examples, Generator, Split, Task, generator, option, task
from bench.archives import RUNS, LakeRuns
from bench.config import canonical
from bench.tasks.episodes import FewShotImages, Images
from bench.tasks.omniglot import rows
from bench.tasks.sampling import Ints, distinct

WAY = 20
TRAINING = {
    "background": ("lake", "background"),
    "omniglot-vinyals": ("omniglot-vinyals", "train"),
    "omniglot-random1200": ("omniglot-random1200", "train"),
}
"""Lists of characters that `train_split` names; only the first passes `Lake.check`."""


@dataclass(frozen=True, kw_only=True)
class Background(FewShotImages):
    """Training episodes for `lake`, made as those of `omniglot` are."""

    name = "lake"
    dataset = "lake"
    splits = ("train",)

    characters: str = option("background", "which characters")
    turned: bool = option(False, "four rotations of each character, as classes of their own")

    def images(self, split: Split) -> Images:
        """The training characters."""
        pixels = data.omniglot().pixels(self.size, self.turned)
        return Images(pixels, rows(*TRAINING[self.characters], self.turned))

    def classes(self, split: Split) -> int:
        """Their number."""
        return len(rows(*TRAINING[self.characters], self.turned))


@task("lake", source="Lake et al. 2015, Science 350:1332; runs of the authors' one-shot demo")
class Lake(Task):
    """Twenty runs of 20 characters from one alphabet: one example of each, one drawing of each to classify.

    The test is these 20 runs, each an episode, in order, whatever the count; a seed only deals labels and order within
    a run. Training episodes show Lake's 964 background characters; there is no validation split. Drawings are shrunk
    from 105 × 105 by Pillow's BOX filter; ink is 1, paper 0. The published figure is the error, one minus the score.
    """

    dataset = "lake"
    splits = ("train", "test")
    fixed = RUNS

    size: int = option(28, "side of an image in pixels; 105 as drawn")
    train_way: int = option(20, "way of the training episodes", training=True)
    train_shot: int = option(1, "shot of the training episodes", training=True)
    train_query: int = option(5, "query of the training episodes", training=True)
    train_turned: bool = option(False, "train on four rotations of each character as own classes", training=True)
    train_split: Literal["background", "omniglot-vinyals", "omniglot-random1200"] = option(
        "background", "characters to train on; refused where they touch the evaluation set", training=True
    )

    @property
    def x_shape(self) -> tuple[int, ...]:
        """One grey channel."""
        return (1, self.size, self.size)

    @property
    def n_out(self) -> int:
        """One logit a character."""
        return WAY

    def check(self) -> None:
        """Refuse training characters that are among the 659 that Lake's runs were taken from."""
        if not 1 <= self.size <= 105:
            raise BenchError(f"lake: size must be from 1 to 105, not {self.size}")
        if self.train_turned and self.size > 64:
            raise BenchError(f"lake: size {self.size} is more than 64, too large to keep four rotations at hand")
        self.training().check()
        trained = data.split(*TRAINING[self.train_split])
        touched = sorted({*trained} & {*data.split("lake", "evaluation")})
        if touched:
            raise BenchError(
                f"lake: {len(touched)} of the {len(trained)} training characters of {self.train_split} are in Lake's "
                f"evaluation set ({', '.join(touched[:3])}, …); train on train_split=background"
            )

    def training(self) -> Background:
        """Episodes of the training characters."""
        return Background(
            way=self.train_way,
            shot=self.train_shot,
            query=self.train_query,
            size=self.size,
            characters=self.train_split,
            turned=self.train_turned,
        )

    def classes(self, split: Split) -> int:
        """Training characters; the test's 20 last for a run only."""
        return self.training().classes(split) if split == "train" else 0

    def pool(self, split: Split, count: int, rng: Generator) -> Examples:
        """Drawings of any training character; see `Task.pool`."""
        return self.training().pool(split, count, rng)

    def sample(self, split: Split, batch: int, rng: Generator) -> Episode:
        """Training episodes, or runs drawn at random."""
        if split == "train":
            return self.training().sample(split, batch, rng)
        return self.runs(rng.integers(RUNS, size=batch), rng)

    def episodes(self, split: Split, count: int, seed: int) -> Iterator[Episode]:
        """Of the test split all runs in order."""
        if split != "test":
            yield from super().episodes(split, count, seed)
            return
        for start in range(0, RUNS, CHUNK):
            rng = generator("eval", self.name, self.version, canonical(self.setting()), split, seed, start)
            yield self.runs(np.arange(start, min(start + CHUNK, RUNS)), rng)

    def runs(self, which: Ints, rng: Generator) -> Episode:
        """Some of the runs, with labels and order dealt by rng: support and query x [batch, 20, 1, size, size]."""
        drawn = _shrunken(self.size)
        deal = distinct(rng, len(which), WAY, WAY)
        parts = []
        for images, character in ((drawn.support, np.tile(np.arange(WAY), (RUNS, 1))), (drawn.query, drawn.labels)):
            order = distinct(rng, len(which), WAY, WAY)
            x = torch.from_numpy(images[which[:, None], order]).float().div_(255)[:, :, None]
            label = np.take_along_axis(deal, character[which[:, None], order], 1)
            parts.append(Examples(x, torch.from_numpy(label)))
        return Episode(*parts)


@lru_cache(maxsize=2)
def _shrunken(size: int) -> LakeRuns:
    drawn = data.lake_runs()
    return LakeRuns(data.shrink(drawn.support, size), data.shrink(drawn.query, size), drawn.labels)
