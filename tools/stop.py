"""Stopping between two steps, so that nothing is half done."""

import signal
import sys
from typing import Any


class StopFlag:
    """Ctrl-C and SIGTERM set it, for the work to stop after its current step; a second one stops at once."""

    def __init__(self) -> None:
        self.stopped = False

    def is_set(self) -> bool:
        return self.stopped

    def _stop(self, number: int, frame: Any) -> None:
        if self.stopped:
            raise KeyboardInterrupt
        self.stopped = True
        print("stopping after this step; once more to stop at once", file=sys.stderr)

    def __enter__(self) -> "StopFlag":
        self.before = {s: signal.signal(s, self._stop) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *error) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
