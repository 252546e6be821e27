"""Sums over label columns: compiled passes in a fixed order, so that the bits do not depend on a library's summation."""

import numpy as np

from kernels import _numba_columns


def measure_columns(values: np.ndarray) -> tuple[np.ndarray, ...]:
    """float32 (M, T), NaN where absent -> count (int64), mean, sum of squared deviations, least and largest (float64), each (T).

    Two passes in float64, rows in order. A column without numbers has mean 0, least infinity and largest minus infinity.
    """
    num_tasks = values.shape[1]
    out = (np.empty(num_tasks, np.int64), *(np.empty(num_tasks) for _ in range(4)))
    _numba_columns.moments(np.ascontiguousarray(values, np.float32), *out)
    return out


def measure_f16_errors(values: np.ndarray) -> np.ndarray:
    """float32 (M, T), NaN where absent -> sum of |x - float16(x)| of each column, infinite where one overflows. float64 (T)."""
    values = np.ascontiguousarray(values, np.float32)
    out = np.empty(values.shape[1])
    _numba_columns.f16_errors(values, values.view(np.uint32), out)
    return out
