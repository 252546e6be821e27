"""The shard set: file format, featurisation, input tables, building and reading. No torch; RDKit in `featurize` only."""

from shards.errors import ChecksumError, FeaturizeError, FormatError, InputError, OutputError, SchemaError, ShardError
from shards.reader import ShardSet
from shards.types import Molecules, Task, TaskSet

__all__ = [
    "ChecksumError",
    "FeaturizeError",
    "FormatError",
    "InputError",
    "Molecules",
    "OutputError",
    "SchemaError",
    "ShardError",
    "ShardSet",
    "Task",
    "TaskSet",
]
