"""The binding-and-forgetting probe: how well a memory recalls by age and by load.

It is paired-associate learning (Calkins 1894), with lag and load varied as in Atkinson and Shiffrin 1968. Two curves
for every memory come from its records alone:

- **age**: by_instance holds accuracy by presentations since the item was written, in the groups of `AGES`.
- **load**: with also = load=4, load=8, ... each evaluation holds accuracy at so many items, and by age at that load.

What a record says of the method (its slots) turns load into load over slots.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from bench.api import BenchError, Episode, Examples, Generator, Split, Task, option, task
from bench.tasks.sampling import distinct
from bench.tasks.sequences import drawn

AGES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
"""The oldest age of each group but the last, which has all above."""


@task("paired-associates", source="after Atkinson and Shiffrin 1968, Psychology of Learning and Motivation 2:89")
class PairedAssociates(Task):
    """Store random keys bound to random values, one by one; then each key again, in random order: which value had it?

    Every value is shown one step after its key, while asking too. A key is a vector of normal numbers, a value one of
    so many classes; both are drawn anew for each sequence, and no two items share either. The loss is over all
    presentations, as in other online tasks; accuracy is over those that ask. An item is written once, so its age when
    asked is exact: the number of presentations since, 1 for the very next. Ages from 1 to load + asked - 1 occur, the
    shortest rarely: records have the count behind each group.

    Without any binding, who knows which values have come and have not been asked yet is right in 1/n (1/1 + ... + 1/n)
    of n; chance in 1/values. Sequences of a batch, and of ten test episodes, have the same load.
    """

    online: ClassVar[bool] = True
    solved = 0.95
    groups = (
        "age 1", "age 2", "age 3-4", "age 5-8", "age 9-16", "age 17-32", "age 33-64", "age 65-128", "age 129-256",
        "age over 256",
    )  # fmt: skip

    width: int = option(24, "numbers of a key")
    values: int = option(16, "values there are; an upper limit of load")
    most: int = option(8, "loads are drawn from 1 to this")
    load: int = option(0, "items stored in every sequence; 0: drawn")
    asked: int = option(0, "items asked for, at random; 0: all")

    @property
    def x_shape(self) -> tuple[int, ...]:
        """A key."""
        return (self.width,)

    @property
    def n_out(self) -> int:
        """One logit a value."""
        return self.values

    def check(self) -> None:
        """Refuse counts that do not fit together.

        Raises:
            BenchError: which, and what would fit.
        """
        least = {"width": 1, "values": 2, "most": 1, "load": 0, "asked": 0}
        for name, value in least.items():
            if getattr(self, name) < value:
                raise BenchError(f"{self.name}.{name} must be at least {value}, not {getattr(self, name)}")
        if max(self.most, self.load) > self.values:
            raise BenchError(
                f"{self.name}: {max(self.most, self.load)} items need as many values, not {self.values}; raise values"
            )

    def sample(self, split: Split, batch: int, rng: Generator) -> Episode:
        """A batch of sequences of one load, [batch, load + asked]; the splits differ by their random stream only."""
        load = drawn(self.load, 1, self.most, rng)
        keys = rng.normal(size=(batch, load, self.width)).astype(np.float32)
        values = distinct(rng, batch, self.values, load)
        again = distinct(rng, batch, load, min(self.asked or load, load))
        order = np.concatenate((np.broadcast_to(np.arange(load), (batch, load)), again), 1)
        x = np.take_along_axis(keys, order[..., None], 1)
        query = Examples(torch.from_numpy(x), torch.from_numpy(np.take_along_axis(values, order, 1)))
        return Episode(Examples(query.x[:, :0], query.y[:, :0]), query)

    def ages(self, y: Tensor) -> Tensor:
        """Presentations since the value was last shown: [batch, n] int64, 0 where it is shown for the first time."""
        time = torch.arange(y.shape[1], device=y.device)
        shown = (y[:, :, None] == y[:, None]).tril(-1)
        return ((time[:, None] - time) * shown).masked_fill(~shown, y.shape[1]).amin(2) % y.shape[1]

    def instances(self, y: Tensor) -> Tensor:
        """The group of an item's age, from 1; 0 while it is stored: [batch, n]."""
        ages = self.ages(y)
        return (torch.bucketize(ages, torch.tensor(AGES, device=y.device)) + 1) * (ages > 0)

    def score(self, prediction: Tensor, y: Tensor) -> Tensor:
        """Accuracy over the items asked for: [batch]."""
        asked = self.ages(y) > 0
        return (self.correct(prediction, y) & asked).sum(1) / asked.sum(1).clamp(min=1)
