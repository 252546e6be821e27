"""Memory for windows, used again and again.

A window is tens of megabytes. Fresh memory for each costs the kernel's time for zeroing and unmapping, a tenth of the whole
stream's, and since windows differ in size, resident memory would wander. Here every piece has the size of the largest window, is
touched once, and goes back when nothing refers to it any more, wherever that happens. So a stream takes as many pieces as it ever
held windows at once, and no more.
"""

import math
import mmap
import weakref
from collections.abc import Mapping
from typing import Any

import numpy as np

ALIGNMENT = 64
"""Bytes: every array begins at a multiple of it."""
PAGE = 4096
HUGE_PAGE = 1 << 21


class WindowMemory:
    """Pieces of memory of one size. Safe to share between threads."""

    def __init__(self) -> None:
        self.num_bytes = 0
        self._free: list[mmap.mmap] = []

    def require(self, num_bytes: int) -> None:
        """From now on pieces hold at least `num_bytes`; smaller ones are let go of."""
        if num_bytes > self.num_bytes:
            self.num_bytes = piece_bytes(num_bytes)
            self._free = []

    def arrays(self, shapes: Mapping[str, tuple[tuple[int, ...], Any]]) -> dict[str, np.ndarray]:
        """Arrays of these shapes and dtypes in one piece, which comes back when the last of them is gone. Not cleared."""
        places, need = {}, 0
        for name, (shape, dtype) in shapes.items():
            places[name] = need
            need += align(math.prod(shape) * np.dtype(dtype).itemsize)
        assert need <= self.num_bytes, f"a window of {need} bytes in a piece of {self.num_bytes}"
        root = self._take()
        return {name: np.ndarray(shape, dtype, root, places[name]) for name, (shape, dtype) in shapes.items()}

    def release(self) -> None:
        """Give back to the system what nobody uses."""
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
        # an array made on this one has it as its base, not the piece below it, since that is no array
        root = np.frombuffer(piece, np.uint8)
        # to the list it came from: after `require` or `release` nobody takes from that, and it goes with its last piece
        weakref.finalize(root, free.append, piece).atexit = False
        return root


def piece_bytes(num_bytes: int) -> int:
    """Size of the pieces that hold `num_bytes`: a little more, as epochs cut other windows, in whole large pages."""
    return -(-num_bytes * 21 // 20 // HUGE_PAGE) * HUGE_PAGE if num_bytes > HUGE_PAGE else num_bytes


def align(num_bytes: int) -> int:
    """The next multiple of ALIGNMENT."""
    return -(-num_bytes // ALIGNMENT) * ALIGNMENT
