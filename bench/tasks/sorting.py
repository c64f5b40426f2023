"""Priority sort (Graves et al. 2014, §4.5)."""

from __future__ import annotations

import numpy as np

from bench.api import BenchError, Episode, Generator, Split, option, task
from bench.tasks.sequences import BitSequences, answered_last, random_bits


@task("priority-sort", source="Graves et al. 2014, arXiv:1410.5401, section 4.5")
class PrioritySort(BitSequences):
    """See random vectors of bits, each with a priority; write down those of highest priority, the highest first.

    Priorities are uniform in [-1, 1]. Time is length + 1 + kept. Channels: the bits, the priority, and a flag for the
    delimiter, which the paper does not mention. The paper shows 20 vectors and asks for 16; it does not print how many
    bits a vector has: 8, as in its copy task. Nor does any of its networks reach a cost of zero; solved is less than
    one bit of the 128.
    """

    solved = 1.0

    bits: int = option(8, "bits of a vector")
    length: int = option(20, "vectors shown")
    kept: int = option(0, "vectors asked for; 0: four in five, rounded down, at least one")

    @property
    def channels(self) -> int:
        """The bits, the priority and the delimiter."""
        return self.bits + 2

    @property
    def n_out(self) -> int:
        """The bits."""
        return self.bits

    @property
    def asked(self) -> int:
        """Vectors asked for."""
        return self.kept or max(1, self.length * 4 // 5)

    def check(self) -> None:
        """Refuse to ask for more than is shown."""
        super().check()
        if self.kept > self.length:
            raise BenchError(f"{self.name}: kept {self.kept} is more than the {self.length} vectors shown")

    def sample(self, split: Split, batch: int, rng: Generator) -> Episode:
        """A batch of lists."""
        vectors = random_bits(rng, batch, self.length, self.bits)
        # Sorted as the network sees them: two priorities may be equal in float32.
        priority = rng.uniform(-1, 1, (batch, self.length)).astype(np.float32)
        order = np.argsort(-priority, axis=1, kind="stable")[:, : self.asked]
        x = np.zeros((batch, self.length + 1 + self.asked, self.channels), np.float32)
        x[:, : self.length, : self.bits] = vectors
        x[:, : self.length, -2] = priority
        x[:, self.length, -1] = 1
        return answered_last(x, np.take_along_axis(vectors, order[..., None], 1))
