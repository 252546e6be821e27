"""Streaming, out-of-core pre-training on billion-label molecular data.

The names people need, each imported when it is first asked for: building imports no torch, training no RDKit.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from molstream.shards.build.build import build
    from molstream.shards.build.options import BuildOptions, WorkOptions
    from molstream.shards.errors import ShardError
    from molstream.shards.format.reader import ShardSet
    from molstream.shards.molecules import Molecules
    from molstream.shards.tasks import Task, TaskSet
    from molstream.streamer.batch import Batch
    from molstream.streamer.config import Budget, StreamConfig
    from molstream.streamer.cursor import Cursor
    from molstream.streamer.errors import StreamError
    from molstream.streamer.loader import Loader, Step
    from molstream.trainers.config import Recipe
    from molstream.trainers.errors import TrainError
    from molstream.trainers.models.export import Encoder, load_encoder
    from molstream.trainers.recipes import get_recipe
    from molstream.trainers.training.trainer import pretrain

_HOMES = {
    "build": "molstream.shards.build.build",
    "BuildOptions": "molstream.shards.build.options",
    "WorkOptions": "molstream.shards.build.options",
    "ShardError": "molstream.shards.errors",
    "ShardSet": "molstream.shards.format.reader",
    "Molecules": "molstream.shards.molecules",
    "Task": "molstream.shards.tasks",
    "TaskSet": "molstream.shards.tasks",
    "Batch": "molstream.streamer.batch",
    "Budget": "molstream.streamer.config",
    "StreamConfig": "molstream.streamer.config",
    "Cursor": "molstream.streamer.cursor",
    "StreamError": "molstream.streamer.errors",
    "Loader": "molstream.streamer.loader",
    "Step": "molstream.streamer.loader",
    "Recipe": "molstream.trainers.config",
    "TrainError": "molstream.trainers.errors",
    "Encoder": "molstream.trainers.models.export",
    "load_encoder": "molstream.trainers.models.export",
    "get_recipe": "molstream.trainers.recipes",
    "pretrain": "molstream.trainers.training.trainer",
}
"""Name -> where it is."""

__all__ = [
    "Batch",
    "Budget",
    "BuildOptions",
    "Cursor",
    "Encoder",
    "Loader",
    "Molecules",
    "Recipe",
    "ShardError",
    "ShardSet",
    "Step",
    "StreamConfig",
    "StreamError",
    "Task",
    "TaskSet",
    "TrainError",
    "WorkOptions",
    "build",
    "get_recipe",
    "load_encoder",
    "pretrain",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
