"""Rows to splits: each row once."""

import numpy as np

from molstream.kernels.compiled import kernel


def assign_rows(assignment: np.ndarray, *, rows: np.ndarray, codes: np.ndarray, free: int) -> int:
    """Write codes[k] into assignment[rows[k]], in order, up to the first row that is taken: that k, or -1 if there is none.

    A row is taken if `assignment` (uint8) holds anything but `free` there. `rows` is int64, `codes` uint8, of one length.
    """
    if rows.size != codes.size or (rows.size and not 0 <= rows.min() <= rows.max() < assignment.size):
        raise ValueError(f"assign_rows: {rows.size} rows for {codes.size} codes, or rows outside [0, {assignment.size})")
    return _assign(rows, codes, free, assignment)


@kernel()
def _assign(rows, codes, free, assignment):
    """assignment[rows[k]] = codes[k] for every k up to the first whose row is not `free`: that k, or -1."""
    for k in range(rows.size):
        if assignment[rows[k]] != free:
            return k
        assignment[rows[k]] = codes[k]
    return -1
