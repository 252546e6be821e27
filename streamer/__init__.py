"""The stream: which molecules come when (plan), where a run stands (cursor), and fixed-size batches (loader)."""

from shards import Molecules, ShardSet
from streamer.batch import Batch
from streamer.config import Budget, StreamConfig
from streamer.cursor import Cursor
from streamer.errors import BudgetError, CursorError, StreamError
from streamer.loader import Loader, Step
from streamer.plan import Plan

__all__ = [
    "Batch",
    "Budget",
    "BudgetError",
    "Cursor",
    "CursorError",
    "Loader",
    "Molecules",
    "Plan",
    "ShardSet",
    "Step",
    "StreamConfig",
    "StreamError",
]
