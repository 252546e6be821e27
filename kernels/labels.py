"""Sparse label columns: per task a tag, a count, and either nothing, a presence bitmap or a row list; then the present values.

The same code serves every level: a molecule has `ptr[i + 1] - ptr[i]` values of a task it has at all (1 at graph level, its
number of atoms at atom level). In dense form an absent label is NaN; a NaN inside a present list stays what it is.
"""

from typing import NamedTuple

import numpy as np

from kernels import _numba


class SparseLabels(NamedTuple):
    encoding: np.ndarray
    """uint8 (T): 0 every molecule has the task, 1 presence bitmap, 2 row list."""
    count: np.ndarray  # type: ignore[assignment]  # shadows tuple.count, which nobody needs
    """uint32 (T): molecules that have the task."""
    bitmap: np.ndarray
    """uint8: ceil(N / 8) bytes for each task of encoding 1, bit i & 7 of byte i >> 3 is molecule i."""
    rows: np.ndarray
    """uint32: `count` increasing molecule numbers for each task of encoding 2."""
    values: np.ndarray
    """float32: the values of the present molecules, task by task."""


def sparsify_labels(labels: np.ndarray, ptr: np.ndarray) -> SparseLabels:
    """Dense labels (ptr[-1], T) with NaN for absent -> sparse columns. A molecule all NaN in a task does not have it."""
    num_molecules, num_tasks = len(ptr) - 1, labels.shape[1]
    encoding, count = np.empty(num_tasks, np.uint8), np.empty(num_tasks, np.uint32)
    bitmaps, rows, values = [], [], []
    widths = np.diff(ptr)
    real = ~np.isnan(labels)
    # number of real entries of each molecule and task
    edges = np.concatenate([np.zeros((1, num_tasks), np.int64), np.cumsum(real, axis=0)])
    present = edges[ptr[1:]] > edges[ptr[:-1]]
    for t in range(num_tasks):
        has = present[:, t]
        count[t] = has.sum()
        if count[t] == num_molecules:
            encoding[t] = _numba.DENSE
        elif 32 * int(count[t]) < num_molecules:
            encoding[t] = _numba.ROWS
            rows.append(np.flatnonzero(has).astype(np.uint32))
        else:
            encoding[t] = _numba.BITMAP
            bitmaps.append(np.packbits(has, bitorder="little"))
        values.append(labels[np.repeat(has, widths), t])

    def join(parts: list[np.ndarray], dtype: type) -> np.ndarray:
        return np.concatenate(parts).astype(dtype, copy=False) if parts else np.empty(0, dtype)

    return SparseLabels(encoding, count, join(bitmaps, np.uint8), join(rows, np.uint32), join(values, np.float32))


def densify_labels(sparse: SparseLabels, ptr: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Sparse columns -> dense float32 (ptr[-1], T), NaN for absent; checks every length and index before it writes.

    Raises ValueError when counts, bitmaps, row lists and values do not agree with each other and with `ptr`.
    """
    ptr = np.ascontiguousarray(ptr, np.int64)
    if ptr.size == 0 or ptr[0] != 0 or (ptr[1:] < ptr[:-1]).any():
        raise ValueError("offsets of labels do not rise from 0")
    for name, dtype in zip(sparse._fields, (np.uint8, np.uint32, np.uint8, np.uint32, np.float32), strict=True):
        if getattr(sparse, name).dtype != dtype:
            raise ValueError(f"label array {name} is {getattr(sparse, name).dtype}, expected {np.dtype(dtype)}")
    num_tasks, num_molecules = sparse.encoding.size, ptr.size - 1
    if sparse.count.size != num_tasks:
        raise ValueError(f"{num_tasks} encodings but {sparse.count.size} counts")
    if num_tasks and sparse.encoding.max() > _numba.ROWS:
        raise ValueError(f"unknown label encoding {sparse.encoding.max()}")
    need = int((sparse.encoding == _numba.BITMAP).sum()) * ((num_molecules + 7) // 8)
    if sparse.bitmap.size != need:
        raise ValueError(f"presence bitmaps hold {sparse.bitmap.size} bytes, expected {need}")
    need = int(sparse.count[sparse.encoding == _numba.ROWS].sum())
    if sparse.rows.size != need:
        raise ValueError(f"row lists hold {sparse.rows.size} rows, expected {need}")
    num_values = np.zeros(num_tasks, np.int64)
    if not _numba.measure_labels(sparse.encoding, sparse.count, sparse.bitmap, sparse.rows, ptr, num_values):
        raise ValueError("a presence bitmap or row list contradicts its count")
    if num_values.sum() != sparse.values.size:
        raise ValueError(f"{sparse.values.size} label values, expected {num_values.sum()}")
    if out is None:
        out = np.empty((int(ptr[-1]), num_tasks), np.float32)
    elif out.shape != (ptr[-1], num_tasks) or out.dtype != np.float32:
        raise ValueError(f"place for labels is {out.dtype} {out.shape}, expected float32 ({ptr[-1]}, {num_tasks})")
    out[:] = np.nan
    _numba.scatter_labels(sparse.encoding, sparse.count, sparse.bitmap, sparse.rows, sparse.values, ptr, out)
    return out
