"""Errors of a stream that a user's call or data can cause."""


class StreamError(ValueError):
    """Any error that a user's call or data can cause here."""

    exit_code = 1


class BudgetError(StreamError):
    """A budget is too small for the molecules."""

    exit_code = 2


class CallError(StreamError):
    """Lanes, ranks or other settings contradict each other."""

    exit_code = 2


class CursorError(StreamError):
    """A cursor belongs to another shard set, plan or version."""
