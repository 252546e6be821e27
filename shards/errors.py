"""What can go wrong with inputs and shard sets. A message says what, got, expected, what to do, and where."""


class ShardError(ValueError):
    """Anything a user's data or call can cause here."""

    exit_code = 1
    """What the command line returns: 1 the data is at fault, 2 the call is."""


class FormatError(ShardError):
    """Bytes that are not what the format says."""


class MissingError(FormatError):
    """A file that is not there."""


class ChecksumError(FormatError):
    """Bytes that are not the ones that were written."""


class SchemaError(ShardError):
    """An input table whose columns or types are not those of its data set."""


class LimitError(SchemaError):
    """Data beyond a limit the call sets: the call may change, so finished work is kept."""


class FeaturizeError(ShardError):
    """A molecule that cannot become a row; the build rejects it and goes on."""


class InputError(ShardError):
    """An input the call names that is not there."""

    exit_code = 2


class OutputError(ShardError):
    """An output folder that cannot or must not be written."""

    exit_code = 2


class WorkerError(ShardError):
    """A process of a build that could not be started or kept dying."""


class StorageError(ShardError):
    """A disk or network that fails while something is written or read; what was finished before is kept."""


def show(text: str) -> str:
    """Untrusted text for a message: one line, no control characters, at most 100 characters."""
    text = text if len(text) <= 100 else text[:97] + "..."
    return text if text.isprintable() else ascii(text)
