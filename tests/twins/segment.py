"""Segment sums, row by row."""

from collections.abc import Sequence

import numpy as np


def gather(x: np.ndarray, index: Sequence[int]) -> np.ndarray:
    """Row by row."""
    return np.array([x[i] for i in index], x.dtype).reshape(len(index), *x.shape[1:])


def segment_sum(values: np.ndarray, index: Sequence[int], *, num_segments: int) -> np.ndarray:
    """Add row by row."""
    out = np.zeros((num_segments, *values.shape[1:]), values.dtype)
    for row, segment in zip(values, index, strict=True):
        out[segment] += row
    return out


def segment_mean(values: np.ndarray, index: Sequence[int], *, num_segments: int) -> np.ndarray:
    """Average the rows of each segment."""
    out = np.zeros((num_segments, *values.shape[1:]), values.dtype)
    for segment in range(num_segments):
        rows = [row for row, s in zip(values, index, strict=True) if s == segment]
        if rows:
            out[segment] = sum(rows) / len(rows)
    return out


def segment_max(values: np.ndarray, index: Sequence[int], *, num_segments: int) -> np.ndarray:
    """Largest of each segment, column by column."""
    out = np.zeros((num_segments, *values.shape[1:]), values.dtype)
    for segment in range(num_segments):
        rows = [row for row, s in zip(values, index, strict=True) if s == segment]
        if rows:
            out[segment] = np.max(rows, axis=0)
    return out
