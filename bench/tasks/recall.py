"""Associative recall (Graves et al. 2014, §4.3)."""

from __future__ import annotations

import numpy as np

from bench.api import BenchError, Episode, Generator, Split, option, task
from bench.tasks.sequences import BitSequences, answered_last, drawn, random_bits


@task("associative-recall", source="Graves et al. 2014, arXiv:1410.5401, section 4.3")
class AssociativeRecall(BitSequences):
    """See a list of items, then one of them again; write down the item that followed it.

    An item is `vectors` vectors of random bits after a delimiter. The query stands between two delimiters of its own
    kind, and is any item but the last. Time is items · (vectors + 1) + (vectors + 2) + vectors. Channels: the bits, the
    items' delimiter, the query's. The paper trains on 2 to 6 items of 3 × 6 bits and tests up to 20.

    Two items of a list may be equal, with probability 2^-18 for a pair; then what follows either is right by half.
    """

    solved = 0.1

    bits: int = option(6, "bits of a vector")
    vectors: int = option(3, "vectors of an item")
    most: int = option(6, "numbers of items are drawn from 2 to this")
    items: int = option(0, "items of every list; 0: drawn")

    @property
    def channels(self) -> int:
        """The bits and two delimiters."""
        return self.bits + 2

    @property
    def n_out(self) -> int:
        """The bits."""
        return self.bits

    def check(self) -> None:
        """Refuse lists without a successor to ask for."""
        super().check()
        if self.most < 2 or self.items == 1:
            raise BenchError(f"{self.name}: most must be at least 2, and items not 1: the last item has no successor")

    def sample(self, split: Split, batch: int, rng: Generator) -> Episode:
        """A batch of lists with one number of items."""
        items = drawn(self.items, 2, self.most, rng)
        lists = random_bits(rng, batch, items, self.vectors, self.bits)
        asked, rows = rng.integers(items - 1, size=batch), np.arange(batch)
        query = lists[rows, asked]
        shown = np.zeros((batch, items, self.vectors + 1, self.channels))
        shown[:, :, 0, -2] = 1
        shown[:, :, 1:, : self.bits] = lists
        asking = np.zeros((batch, 2 * self.vectors + 2, self.channels))
        asking[:, [0, self.vectors + 1], -1] = 1
        asking[:, 1 : self.vectors + 1, : self.bits] = query
        x = np.concatenate((shown.reshape(batch, -1, self.channels), asking), 1)
        return answered_last(x, lists[rows, asked + 1])
