"""Errors that a user can act on. The command line prints their one sentence and exits with code 2."""

import errno
import re

_FULL = re.compile("can't allocate memory|out of memory|Storage size calculation|Overflow when unpacking")


class BenchError(Exception):
    """Something the user can mend: one sentence that says what was wrong and what to do."""


class MissingData(BenchError):
    """A data set is not where we looked; the message names the path and the command that gets it."""


class MissingPackage(BenchError):
    """A package that a method needs is not installed, or in another version; the message says how to get it."""


class Unsuited(BenchError):
    """A method and a task that do not go together; the message says why."""


def no_room(error: BaseException) -> bool:
    """Whether memory could not be had: Python, NumPy and the system say so by a kind of error, torch in words."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, MemoryError) or (
        isinstance(error, (RuntimeError, TypeError)) and _FULL.search(str(error)) is not None
    )
