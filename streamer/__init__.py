"""The stream: which molecules come when (plan), where a run stands (cursor), and fixed-size batches (loader)."""

from typing import TYPE_CHECKING, Any

from shards import Molecules, ShardSet
from shards.types import LEVELS, Level
from streamer.config import Budget, StreamConfig
from streamer.cursor import Cursor
from streamer.errors import BudgetError, CursorError, StreamError
from streamer.plan import Plan
from streamer.selection import Selection

if TYPE_CHECKING:
    from streamer.batch import Batch
    from streamer.loader import Loader, Step

__all__ = [
    "LEVELS",
    "Batch",
    "Budget",
    "BudgetError",
    "Cursor",
    "CursorError",
    "Level",
    "Loader",
    "Molecules",
    "Plan",
    "Selection",
    "ShardSet",
    "Step",
    "StreamConfig",
    "StreamError",
]


def __getattr__(name: str) -> Any:
    # imported on first use: these need torch, and a node that builds has none but may ask for a plan or a budget
    if name == "Batch":
        from streamer.batch import Batch

        return Batch
    if name in ("Loader", "Step"):
        from streamer import loader

        return getattr(loader, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
