"""Progress on standard error: a bar with rate and time left on a terminal, a line every ten seconds elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

LOG_EVERY_S = 10.0


class Bars:
    """One bar per phase. Call it with (phase, done, total)."""

    def __init__(self, progress: Progress):
        self.progress = progress
        self.tasks: dict[str, TaskID] = {}
        self.started: dict[str, tuple[float, int]] = {}
        self.printed = time.monotonic()

    def __call__(self, phase: str, done: int, total: int) -> None:
        now = time.monotonic()
        if phase not in self.tasks:
            self.tasks[phase] = self.progress.add_task(phase, total=total, rate="")
            self.started[phase] = now, done
        # work that was done before the first call, by the call that is resumed, took no time here
        start, before = self.started[phase]
        rate = (done - before) / max(now - start, 1e-9)
        self.progress.update(self.tasks[phase], completed=done, total=total, rate=f"{rate:,.0f}/s" if rate else "")
        if not self.progress.console.is_terminal and rate and now - self.printed > LOG_EVERY_S:
            left = (total - done) / rate
            print(f"{phase}: {done:,} of {total:,}, {rate:,.0f}/s, {left:,.0f} s left", file=sys.stderr, flush=True)
            self.printed = now


@contextmanager
def bars() -> Iterator[Bars]:
    """Bars on a terminal, plain lines elsewhere."""
    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.description:>10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    ) as progress:
        yield Bars(progress)
