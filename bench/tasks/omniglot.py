"""Omniglot (Lake et al. 2015): support and query episodes, and Santoro's online protocol."""

from __future__ import annotations

from functools import cache
from typing import Literal

import numpy as np

from bench import data
from bench.api import BenchError, Generator, Split, option, task
from bench.tasks.episodes import FewShotImages, Images, OnlineImages
from bench.tasks.sampling import Ints

Lists = Literal["vinyals", "random1200"]
CHARACTERS = tuple(character for _, characters in data.OMNIGLOT.characters for character in characters)
FINER = 1.75
"""Online drawings are resampled from an image so much finer (35 to 20 pixels), which stands in for a filter: the mean
over a cell there, then bilinear, blurs by as much as the mean over a final pixel."""


@cache
def rows(name: str, part: str, turned: bool) -> Ints:
    """Rows of `data.Omniglot.pixels` for a part of a shipped split; turned, each character in four rotations."""
    place = {character: row for row, character in enumerate(CHARACTERS)}
    upright = np.array([place[character] for character in data.split(name, part)])
    return np.concatenate([upright + k * len(CHARACTERS) for k in range(4 if turned else 1)])


@task("omniglot", source="Lake et al. 2015, Science 350:1332; split of Vinyals et al. 2016, arXiv:1606.04080")
class Omniglot(FewShotImages):
    """N-way K-shot episodes of characters in four rotations, each a class of its own.

    split: vinyals has 1028, 172 and 423 characters to train on, to validate and to test; random1200 has 1080, 120 and
    423, drawn at random once. An episode may hold two rotations of a character, as in Vinyals et al. and Snell et al.
    2017. Drawings are shrunk from 105 × 105 by Pillow's BOX filter; ink is 1, paper 0.
    """

    dataset = "omniglot"

    split: Lists = option("vinyals", "which characters are for training, validation and test", data=True)

    def images(self, split: Split) -> Images:
        """The characters of a split in four rotations."""
        return Images(data.omniglot().pixels(self.size, turned=True), rows(f"omniglot-{self.split}", split, True))

    def classes(self, split: Split) -> int:
        """Four times the characters."""
        return len(rows(f"omniglot-{self.split}", split, True))

    def members(self, split: Split, batch: int, rng: Generator) -> list[list[int]]:
        """Characters: the rotations of one are alike, and new classes would be new characters."""
        return [sorted({row % len(CHARACTERS) for row in rows}) for rows in super().members(split, batch, rng)]

    def check(self) -> None:
        """Refuse what the drawings cannot give."""
        super().check()
        if self.size > 64:
            raise BenchError(f"omniglot: size {self.size} is more than 64, too large to keep four rotations at hand")


@task("omniglot-online", source="Santoro et al. 2016, arXiv:1605.06065, section 4.2")
class OmniglotOnline(OnlineImages):
    """Characters shown one after another, each label one step after its image; accuracy by instance.

    Deviations: Santoro's lists of 1200 and 423 characters are not known, so ours are those of `omniglot`; 172 (of
    vinyals) or 120 (of random1200) of the 1200 validate and are not trained on, so that no test character chooses a
    checkpoint. The paper shrinks 105 × 105 after turning and moving; here a 35 × 35 image is resampled once.
    """

    dataset = "omniglot"

    split: Lists = option("vinyals", "which characters are for training, validation and test", data=True)

    def images(self, split: Split) -> Images:
        """The characters of a split, upright and finer than the task's images."""
        side = min(round(FINER * self.size), 105)
        return Images(data.omniglot().pixels(side), rows(f"omniglot-{self.split}", split, False))

    def classes(self, split: Split) -> int:
        """Its characters."""
        return len(rows(f"omniglot-{self.split}", split, False))

    def check(self) -> None:
        """Refuse what the drawings cannot give."""
        super().check()
        if self.size > 105:
            raise BenchError(f"omniglot-online: size {self.size} is more than the 105 pixels of a drawing")
