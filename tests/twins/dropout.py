"""Which numbers dropout zeros, one by one."""

import numpy as np


def draw_dropped(seed: int, threshold: int, rows: int, columns: int) -> np.ndarray:
    """Twin of the draws in `kernels.nn._dropout`: bool (rows, columns), True where a number is dropped."""
    mask64 = 2**64 - 1

    def mix(x: int) -> int:
        x = (x + 0x9E3779B97F4A7C15) & mask64
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask64
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask64
        return x ^ (x >> 31)

    groups = -(-columns // 4)
    out = np.zeros((rows, columns), bool)
    for row in range(rows):
        for column in range(columns):
            z = mix((seed + (row * groups + column // 4) * 0x9E3779B97F4A7C15) & mask64)
            out[row, column] = (z >> (16 * (column % 4))) & 0xFFFF < threshold
    return out
