"""Whole numbers out of the opcodes of a pickle, without a Python integer for each."""

import numpy as np

from kernels import _numba_splits


def read_pickled_ints(data: np.ndarray, *, at: int) -> tuple[np.ndarray, int]:
    """The whole numbers that the opcodes from `at` on append to a list, int64 (n), and where the last append of them ends.

    `data` is a whole pickle, uint8 and contiguous, `at` a place in it where an opcode begins. Looked for are `MARK numbers
    APPENDS` and `number APPEND`, any number of times, FRAMEs in between; reading stops after the last that is complete and whose
    numbers all fit 64 bits, so n may be 0. Allocates at most four times the bytes it reads.
    """
    num, end = _numba_splits.count_pickled_ints(data, at)
    out = np.empty(num, np.int64)
    _numba_splits.read_pickled_ints(data, at, out)
    return out, end
