"""Rows to splits, one at a time."""

from collections.abc import Sequence


def assign_rows(assignment: list[int], *, rows: Sequence[int], codes: Sequence[int], free: int) -> int:
    """One at a time."""
    for k, (row, code) in enumerate(zip(rows, codes, strict=True)):
        if assignment[row] != free:
            return k
        assignment[row] = code
    return -1
