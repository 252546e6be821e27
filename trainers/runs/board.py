"""TensorBoard's events of a run: the numbers of the log once more, as curves.

Written as they come, in this thread: TensorBoard's own writer is a thread, which ends with a traceback of its own on a full disk.
Curves are no result, so a run goes on without them.
"""

import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from molstream.shards.errors import StorageError
from molstream.shards.store.lines import Appender

BOARD = "tensorboard"


class Board:
    """A file of events."""

    def __init__(self, run: Path, *, step: int, on_problem: Callable[[str], None]):
        """`step`: the next one; what an earlier file says from it on does not count. `on_problem` is told why curves end."""
        self._on_problem = on_problem
        # as TensorBoard's writer names it, and finds what is newest by
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
        self._file: Appender | None = None
        with self._ended():
            self._file = Appender(run / BOARD / name)
        self._add(Event(file_version="brain.Event:2"))
        self._add(Event(step=step, session_log=SessionLog(status=SessionLog.START)))

    def add(self, numbers: Mapping[str, float], step: int) -> None:
        """A point of each curve."""
        values = [Summary.Value(tag=name, simple_value=number) for name, number in numbers.items()]
        self._add(Event(step=step, summary=Summary(value=values)))

    def close(self) -> None:
        """Wait until the disk has all."""
        if self._file is not None:
            with self._ended():
                self._file.close()
            self._file = None

    def _add(self, event: Event) -> None:
        event.wall_time = time.time()
        if self._file is not None:
            with self._ended():
                RecordWriter(self._file).write(event.SerializeToString())

    @contextmanager
    def _ended(self) -> Iterator[None]:
        """End the curves where they cannot be written."""
        try:
            yield
        except StorageError as error:
            file, self._file = self._file, None
            if file is not None:
                with suppress(StorageError):
                    file.close()
            self._on_problem(f"no more curves for TensorBoard: {error}")
