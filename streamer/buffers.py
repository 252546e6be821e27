"""Memory for windows, which is reused.

A window is tens of megabytes. Fresh memory for each would cost the operating system's time for zeroing and unmapping, a tenth of
the time of the whole stream, and since windows differ in size, resident memory would vary. Here every piece has the size of the
largest window, is touched once, and returns when nothing refers to it any more, wherever that happens. So a stream takes only as
many pieces as it ever held windows at once.
"""

import math
import mmap
import weakref
from collections.abc import Mapping
from typing import Any

import numpy as np

ALIGNMENT = 64
"""Every array begins at a multiple of this number of bytes."""
PAGE = 4096
HUGE_PAGE = 1 << 21


class WindowMemory:
    """Pieces of memory of one size. Safe to share between threads."""

    def __init__(self) -> None:
        self.num_bytes = 0
        self._free: list[mmap.mmap] = []

    def require(self, num_bytes: int) -> None:
        """Make pieces hold at least `num_bytes` from now on; smaller ones are freed."""
        if num_bytes > self.num_bytes:
            self.num_bytes = piece_bytes(num_bytes)
            self._free = []

    def arrays(self, shapes: Mapping[str, tuple[tuple[int, ...], Any]]) -> dict[str, np.ndarray]:
        """Arrays of these shapes and dtypes in one piece, which returns when the last of them is freed. They are not cleared."""
        places, need = {}, 0
        for name, (shape, dtype) in shapes.items():
            places[name] = need
            need += align(math.prod(shape) * np.dtype(dtype).itemsize)
        assert need <= self.num_bytes, f"a window of {need} bytes in a piece of {self.num_bytes}"
        root = self._take()
        return {name: np.ndarray(shape, dtype, root, places[name]) for name, (shape, dtype) in shapes.items()}

    def release(self) -> None:
        """Return unused pieces to the system."""
        self._free = []

    def _take(self) -> np.ndarray:
        free = self._free
        try:
            piece = free.pop()
        except IndexError:
            # private: a forked child must not write into its parent's
            piece = mmap.mmap(-1, max(1, self.num_bytes), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            if hasattr(mmap, "MADV_HUGEPAGE"):
                piece.madvise(mmap.MADV_HUGEPAGE)
            np.frombuffer(piece, np.uint8)[::PAGE] = 0
        # an array made on this one has it as its base, not the piece below it, since the piece is not an array
        root = np.frombuffer(piece, np.uint8)
        # to the list it came from: after `require` or `release` that list is not used, and it is freed with its last piece
        weakref.finalize(root, free.append, piece).atexit = False
        return root


def piece_bytes(num_bytes: int) -> int:
    """Size of the pieces that hold `num_bytes`: a little more, since other epochs have other windows, in whole large pages."""
    return -(-num_bytes * 21 // 20 // HUGE_PAGE) * HUGE_PAGE if num_bytes > HUGE_PAGE else num_bytes


def align(num_bytes: int) -> int:
    """The next multiple of ALIGNMENT."""
    return -(-num_bytes // ALIGNMENT) * ALIGNMENT
