"""Sums over label columns: compiled passes in a fixed order, so that the bits do not depend on a library's summation."""

import numpy as np

from molstream.kernels.compiled import kernel


def measure_columns(values: np.ndarray) -> tuple[np.ndarray, ...]:
    """float32 (M, T), NaN where absent -> count (int64), mean, sum of squared deviations, least and largest (float64), each (T).

    Two passes in float64, rows in order. A column without numbers has mean 0, least infinity and largest minus infinity.
    """
    num_tasks = values.shape[1]
    out = (np.empty(num_tasks, np.int64), *(np.empty(num_tasks) for _ in range(4)))
    measure(np.ascontiguousarray(values, np.float32), *out)
    return out


def measure_f16_errors(values: np.ndarray) -> np.ndarray:
    """float32 (M, T), NaN where absent -> sum of |x - float16(x)| of each column, infinite where one overflows. float64 (T)."""
    values = np.ascontiguousarray(values, np.float32)
    out = np.empty(values.shape[1])
    measure_f16(values, values.view(np.uint32), out)
    return out


@kernel("f4[:, :], i8[:], f8[:], f8[:], f8[:], f8[:]")
def measure(values, count, mean, m2, low, high):
    """Count, mean, sum of squared deviations, least and largest of each column's numbers; two passes, in row order."""
    num_rows, num_tasks = values.shape
    for t in range(num_tasks):
        count[t] = 0
        mean[t] = 0.0
        m2[t] = 0.0
        low[t] = np.inf
        high[t] = -np.inf
    for r in range(num_rows):
        for t in range(num_tasks):
            x = values[r, t]
            if not np.isnan(x):
                count[t] += 1
                mean[t] += np.float64(x)
                low[t] = min(low[t], np.float64(x))
                high[t] = max(high[t], np.float64(x))
    for t in range(num_tasks):
        mean[t] /= max(1, count[t])
    for r in range(num_rows):
        for t in range(num_tasks):
            x = values[r, t]
            if not np.isnan(x):
                d = np.float64(x) - mean[t]
                m2[t] += d * d


@kernel("f4[:, :], u4[:, :], f8[:]")
def measure_f16(values, bits, out):
    """Sum over each column of what rounding to the nearest float16 changes; `bits` are the values' own."""
    num_rows, num_tasks = values.shape
    out[:] = 0.0
    for r in range(num_rows):
        for t in range(num_tasks):
            x = np.float64(values[r, t])
            if np.isnan(x):
                continue
            size = abs(x)
            if size < 2.0**-14:
                # float16 is evenly spaced down here
                near = np.rint(size * 2.0**24) * 2.0**-24
            else:
                # 13 of the 23 bits go, ties to even
                b = bits[r, t] & np.uint32(0x7FFFFFFF)
                kept = (b + np.uint32(0xFFF) + ((b >> np.uint32(13)) & np.uint32(1))) >> np.uint32(13)
                near = 2.0 ** (np.int64(kept >> np.uint32(10)) - 127) * (1.0 + (kept & np.uint32(0x3FF)) * 2.0**-10)
                if near > 65504.0:
                    near = np.inf
            out[t] += abs(near - size)
