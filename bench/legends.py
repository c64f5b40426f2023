"""What stands above tables: how their figures and marks are to be read."""

from __future__ import annotations

import pandas as pd

from bench.cells import APART, MARKS, NLL, PAPERS

LEGEND = (
    "Mean over seeds ± half the Student t 95 % interval over seeds; one or two seeds give none. "
    f'"{PAPERS}" is 1.96 s / √n over the test episodes of one trained model, mean over seeds: it says nothing of other '
    "seeds. Published figures are as printed; under each table, what differs between the paper's protocol and ours."
)
MARKED = (
    f"Bold: the best mean of its setting, or of its column in it; {MARKS['cannot tell']}: not told from the best; "
    f"{MARKS['too few seeds']}: fewer than three seeds in common with it, which tell nothing (paired differences "
    "over common seeds, Student t, Holm over all pairs; memories that were taken away take no part, and where the best "
    "shares three seeds with no other, nothing is marked)."
)
UNMARKED = "No mean is marked as the best: that takes three seeds that it shares with another."
NOT_RANKED = {
    "transductive": f"{APART['transductive']}: transductive, each query is answered with the help of its episode's "
    "other queries; not comparable with figures that do without, and not ranked among them.",
    "oracle": f"{APART['oracle']}: knows what the task draws from, which no other method is told: a bound, not ranked.",
}
SOLVED = (
    '"Solved" counts seeds whose validation score was ever as good as the task\'s threshold, and "steps to solve" is '
    "the training step of the first such validation: median over the seeds that solved it, and range."
)
NLLS = (
    f'"{NLL}" is minus the log-likelihood of the answers under the distribution that a method tells, mean over values '
    "and seeds: less is better, and it may be below zero."
)


def legend(table: pd.DataFrame) -> str:
    """The sentences that a summary of `bench.tables` needs."""
    best, there = (table["standing"] == "best").any(), table["n_seeds"] > 0
    needed = {
        LEGEND: True,
        MARKED: best,
        UNMARKED: there.any() and not best,
        **{text: (there & (table["apart"] == why)).any() for why, text in NOT_RANKED.items()},
        SOLVED: (table["n_tried"] > 0).any(),
        NLLS: table["nll"].notna().any(),
    }
    return " ".join(text for text, holds in needed.items() if holds)
