"""Stopping between two steps, so that no step is half done."""

import signal
import sys
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
"""Ctrl-C; the signal that ends a job or a spot machine; the signal that Slurm can send before that."""


class StopFlag:
    """A flag that a signal sets, so that the work stops after its current step. A second Ctrl-C stops it at once.

    A second SIGTERM does not: torchrun and Slurm send it to a process and to its parent, which passes it on.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.stopped, self.quiet = False, quiet

    def is_set(self) -> bool:
        return self.stopped

    def _stop(self, number: int, frame: Any) -> None:
        if self.stopped:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            return
        self.stopped = True
        if not self.quiet:
            print("stopping after this step; Ctrl-C to stop at once", file=sys.stderr)

    def __enter__(self) -> "StopFlag":
        self.before = {s: signal.signal(s, self._stop) for s in SIGNALS}
        return self

    def __exit__(self, *error) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
