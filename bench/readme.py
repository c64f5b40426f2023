"""Tables within pages: regenerated from records between two markers, like every other table."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

BLOCK = re.compile(r"(<!-- begin table of (?P<suites>[\w .-]+) -->\n).*?(<!-- end table -->)", re.DOTALL)


def fill(text: str, table: Callable[[Sequence[str]], str]) -> str:
    """A page with its table blocks written anew; what is outside of them stays as it is.

    A block stands between `<!-- begin table of SUITE SUITE -->` and `<!-- end table -->`; table gives the Markdown for
    the words in the place of the suites.
    """
    return BLOCK.sub(lambda block: f"{block[1]}\n{table(block['suites'].split()).strip()}\n\n{block[3]}", text)
