"""Dynamic N-grams (Graves et al. 2014, §4.4), and what the best possible estimator pays for them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from bench.api import BenchError, Episode, Generator, Split, option, task
from bench.tasks.sequences import BitSequences, answered_last, random_bits


@task("ngram", source="Graves et al. 2014, arXiv:1410.5401, section 4.4")
class NGram(BitSequences):
    """Predict the next bit of a source whose table of probabilities is drawn anew for every sequence.

    A table holds, for each of the 2^(n-1) contexts of n - 1 bits, the probability that a 1 follows, from
    Beta(1/2, 1/2). The first n - 1 bits are fair; every later one is scored, which is 195 of the paper's 200. No
    estimator does better on average than `optimal`, the method `bayes`; there is no cost at which it counts as solved.
    """

    n: int = option(6, "length of the N-grams: the n-1 bits before tell the probability of the next")
    length: int = option(200, "bits of a sequence; all but the last are shown")

    @property
    def channels(self) -> int:
        """One bit."""
        return 1

    @property
    def n_out(self) -> int:
        """One bit."""
        return 1

    def check(self) -> None:
        """Refuse sequences without a bit to score, and tables too large to hold."""
        super().check()
        if not 2 <= self.n <= 16 or self.length < self.n:
            raise BenchError(f"ngram: n must be 2 to 16 and length at least n, not {self.n} and {self.length}")

    def sample(self, split: Split, batch: int, rng: Generator) -> Episode:
        """A batch of sequences, each from a table of its own."""
        context = self.n - 1
        table = rng.beta(0.5, 0.5, (batch, 2**context))
        bits = random_bits(rng, batch, self.length)
        chance = rng.random((batch, self.length))
        places = 2 ** np.arange(context)
        for t in range(context, self.length):
            seen = bits[:, t - context : t] @ places
            bits[:, t] = chance[:, t] < table[np.arange(batch), seen]
        return answered_last(bits[:, :-1, None], bits[:, context:, None])

    def optimal(self, x: Tensor) -> Tensor:
        """Logit that the next bit is 1, by the Bayes-optimal estimator (Murphy 2012; the paper's eq. 10).

        P(1) = (N1 + 1/2) / (N1 + N0 + 1), where N1 and N0 count what followed this context earlier in the sequence.
        x: [batch, time, 1] bits. Returns [batch, time, 1]; 0 while the context is incomplete.
        """
        context = self.n - 1
        if x.shape[1] < context:
            return torch.zeros_like(x)
        bits = x[..., 0]
        # Context i is bits i to i + n - 2, and bit i + n - 1 follows it.
        code = bits.unfold(1, context, 1) @ 2 ** torch.arange(context, dtype=x.dtype, device=x.device)
        followed = bits[:, context:, None]
        earlier = (code[:, :, None] == code[:, None, :-1]).to(x.dtype).tril(-1)
        ones, zeros = earlier @ followed, earlier @ (1 - followed)
        logit = (ones + 0.5).log() - (zeros + 0.5).log()
        return torch.cat((torch.zeros_like(x[:, : context - 1]), logit), 1)
