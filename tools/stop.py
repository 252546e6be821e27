"""Stopping between two steps, so that nothing is half done."""

import signal
import sys
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
"""Ctrl-C; what ends a job or a spot machine; what Slurm can send ahead of that."""


class StopFlag:
    """A signal sets it, for the work to stop after its current step; a second Ctrl-C stops at once.

    Not a second SIGTERM: torchrun and Slurm send it to a process and to its parent, which passes it on.
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
