"""Where the time of a stream is spent: seconds and bytes of each stage, over all threads."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

STAGES = ("read", "decompress", "decode", "encode", "pack", "collate")
"""The stages in the order in which a molecule passes them: ranged reads and checksums; zstd; columns; positional encodings that
are not stored; packs; batches."""


class Stages:
    """Adds up the reports of threads; it is cheap enough to be called once per block and once per pack."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self.bytes_read = self.bytes_decompressed = 0
        """Bytes of members. Small gaps between two wanted members are read through and not counted (`MAX_GAP`)."""
        self.windows = 0

    @contextmanager
    def time(self, stage: str) -> Iterator[None]:
        """Charge the block's wall time to a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - start
            with self._lock:
                self.seconds[stage] += spent

    def count(self, *, bytes_read: int = 0, bytes_decompressed: int = 0, windows: int = 0) -> None:
        """Add to the counters."""
        with self._lock:
            self.bytes_read += bytes_read
            self.bytes_decompressed += bytes_decompressed
            self.windows += windows
