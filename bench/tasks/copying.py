"""Copy and repeat-copy (Graves et al. 2014, §4.1 and §4.2)."""

from __future__ import annotations

import math

import numpy as np

from bench.api import Episode, Generator, Split, option, task
from bench.tasks.sequences import BitSequences, answered_last, drawn, random_bits


@task("copy", source="Graves et al. 2014, arXiv:1410.5401, section 4.1")
class Copy(BitSequences):
    """See random vectors of bits, then a delimiter, then write them down in order while nothing more is shown.

    Time is 2 · length + 1. Channels: the bits, and a flag for the delimiter. The paper trains on lengths 1 to 20 and
    tests at 10, 20, 30, 50 and 120.
    """

    solved = 0.1

    bits: int = option(8, "bits of a vector")
    longest: int = option(20, "lengths are drawn from 1 to this")
    length: int = option(0, "vectors of every sequence; 0: drawn")

    @property
    def channels(self) -> int:
        """The bits, and the delimiter."""
        return self.bits + 1

    @property
    def n_out(self) -> int:
        """The bits."""
        return self.bits

    def sample(self, split: Split, batch: int, rng: Generator) -> Episode:
        """A batch of sequences of one length."""
        length = drawn(self.length, 1, self.longest, rng)
        vectors = random_bits(rng, batch, length, self.bits)
        x = np.zeros((batch, 2 * length + 1, self.channels))
        x[:, :length, :-1] = vectors
        x[:, length, -1] = 1
        return answered_last(x, vectors)


@task("repeat-copy", source="Graves et al. 2014, arXiv:1410.5401, section 4.2")
class RepeatCopy(BitSequences):
    """Copy the vectors as often as a number says, then write an end marker.

    Time is length + 1 + repeats · length + 1. Channels: the bits, a flag for the delimiter, and beside the flag the
    number of repeats, scaled to mean 0 and variance 1 over what training draws. The paper has lengths and repeats
    from 1 to 10, and tests at length 20, and at 20 repeats. Deviation: the paper has no flag beside the number; without
    it the number that is scaled to 0 would be invisible.
    """

    solved = 0.1

    bits: int = option(8, "bits of a vector")
    longest: int = option(10, "lengths are drawn from 1 to this")
    most: int = option(10, "numbers of repeats are drawn from 1 to this, which scales how they are shown", data=True)
    length: int = option(0, "vectors of every sequence; 0: drawn")
    repeats: int = option(0, "repeats in every sequence; 0: drawn")

    @property
    def channels(self) -> int:
        """The bits, the delimiter and the number of repeats."""
        return self.bits + 2

    @property
    def n_out(self) -> int:
        """The bits, and the end marker."""
        return self.bits + 1

    def sample(self, split: Split, batch: int, rng: Generator) -> Episode:
        """A batch of sequences of one length and number of repeats."""
        length = drawn(self.length, 1, self.longest, rng)
        repeats = drawn(self.repeats, 1, self.most, rng)
        vectors = random_bits(rng, batch, length, self.bits)
        target = np.zeros((batch, repeats * length + 1, self.n_out))
        target[:, :-1, :-1] = np.tile(vectors, (1, repeats, 1))
        target[:, -1, -1] = 1
        x = np.zeros((batch, length + 1 + target.shape[1], self.channels))
        x[:, :length, : self.bits] = vectors
        x[:, length, -2:] = 1, self.scaled(repeats)
        return answered_last(x, target)

    def scaled(self, repeats: int) -> float:
        """A number of repeats less the mean of 1..most, over its standard deviation; 0 where there is one number."""
        deviation = math.sqrt((self.most**2 - 1) / 12)
        return (repeats - (1 + self.most) / 2) / (deviation or 1)
