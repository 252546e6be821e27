"""A dry run: a stream without training. It is counted, may be written to a ledger, and stops between two steps."""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

from molstream.streamer.errors import CursorError
from molstream.streamer.ledger import LedgerWriter
from molstream.streamer.loader import Loader
from molstream.streamer.stats import StreamStats


def dry_run(
    loader: Loader,
    *,
    epochs: int = 1,
    max_steps: int | None = None,
    ledger: Path | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    on_step: Callable[[int, int], None] = lambda done, total: None,
) -> StreamStats:
    """Stream from where a loader stands until so many epochs are done, counted from the first, or `max_steps` of this call.

    `ledger`: a file to write, which exists afterwards only if nothing failed; the loader must have been made `with_ids`.
    `should_stop` is asked after each step; what was handed out by then is in the ledger and in the loader's cursor. `on_step` is
    called with the number of steps done and of all. Raises CursorError for a loader that stands beyond the last epoch, and what
    the loader raises.
    """
    if (loader.epoch, loader.step) > (epochs, 0):
        raise CursorError(
            f"cursor at epoch {loader.epoch:,}, step {loader.step:,}, which is beyond the end of {epochs:,} epochs; "
            f"give more --epochs, or remove it to start anew"
        )
    stats, steps_per_epoch = StreamStats(loader), loader.plan.num_steps
    with LedgerWriter(ledger) if ledger else nullcontext() as writer:
        while loader.epoch < epochs and (max_steps is None or stats.steps < max_steps) and not should_stop():
            rest = len(loader) - loader.step + (epochs - loader.epoch - 1) * steps_per_epoch
            total = stats.steps + rest if max_steps is None else min(stats.steps + rest, max_steps)
            stats.begin()
            for step in loader:
                stats.add(step)
                if writer:
                    writer.add(step)
                # other epochs may have a few steps more
                on_step(stats.steps, max(total, stats.steps))
                if stats.steps == max_steps or should_stop():
                    break
    return stats
