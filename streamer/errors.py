"""What can go wrong with a stream through a user's call or data."""


class StreamError(ValueError):
    """Anything a user's call or data can cause here."""

    exit_code = 1


class BudgetError(StreamError):
    """A budget that cannot hold the molecules."""

    exit_code = 2


class CallError(StreamError):
    """Lanes, ranks or other settings that contradict each other."""

    exit_code = 2


class CursorError(StreamError):
    """A cursor of another shard set, plan or version."""
