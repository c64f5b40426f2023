"""Errors that a user can act on. The command line prints their one sentence and exits with code 2."""


class BenchError(Exception):
    """Something the user can mend: one sentence that says what was wrong and what to do."""


class MissingData(BenchError):
    """A data set is not where we looked; the message names the path and the command that gets it."""


class MissingPackage(BenchError):
    """A package that a method needs is not installed, or in another version; the message says how to get it."""


class Unsuited(BenchError):
    """A method and a task that do not go together; the message says why."""
