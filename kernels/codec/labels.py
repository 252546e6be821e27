"""Sparse label columns: per task who has it, then the present values, as numbers that compress well.

The same code serves every level: a molecule has `ptr[i + 1] - ptr[i]` values of a task it has at all (1 at graph level, its
number of atoms at atom level). In dense form an absent label is NaN; a NaN inside a present list stays what it is.

A value's *key* is its bit pattern read as a signed integer, with all but the sign inverted if that is set, so that keys rise with
values and neighbouring floats have neighbouring keys. Each task is stored in one of three ways, whichever is smallest by the
entropy of its bytes:

    plain   the bit pattern
    table   the number of the value in a table of at most 256 (counts, fractions, constants)
    delta   key minus key of the same row in an earlier task, wrapped, then 0, -1, 1, -2, ... as 0, 1, 2, 3, ...
            (charges of two states, a column that repeats another); NaN where the earlier task is absent

and the numbers are laid out byte plane by byte plane: byte 0 of every task, then byte 1 of every task that needs one, ...
"""

from typing import NamedTuple

import numpy as np

from molstream.kernels.codec import _labels


class SparseLabels(NamedTuple):
    presence: np.ndarray
    """uint8 (T): 0 every molecule has the task, 1 presence bitmap, 2 row list."""
    count: np.ndarray  # type: ignore[assignment]  # shadows tuple.count, which is not used
    """uint32 (T): molecules that have the task."""
    coding: np.ndarray
    """uint8 (T): 0 plain, 1 table, 2 delta."""
    planes: np.ndarray
    """uint8 (T): bytes of each number; 0 says that all are 0."""
    argument: np.ndarray
    """uint32 (T): entries of the table, or the earlier task; 0 if plain."""
    bitmap: np.ndarray
    """uint8: ceil(N / 8) bytes for each task of presence 1, bit i & 7 of byte i >> 3 is molecule i."""
    rows: np.ndarray
    """uint32: `count` increasing molecule numbers for each task of presence 2."""
    table: np.ndarray
    """float32 or float16, the precision of all labels: the tables, task by task."""
    values: np.ndarray
    """uint8: byte planes of the numbers of the present molecules."""


class _Precision(NamedTuple):
    pattern: type
    sign_bit: int
    absent: int
    """Key of NaN."""


_PRECISIONS = {
    np.dtype(np.float16): _Precision(np.int16, 15, 0x7E00),
    np.dtype(np.float32): _Precision(np.int32, 31, 0x7FC00000),
}
_DTYPES = (np.uint8, np.uint32, np.uint8, np.uint8, np.uint32, np.uint8, np.uint32, None, np.uint8)


def sparsify_labels(labels: np.ndarray, ptr: np.ndarray, *, dtype: type = np.float32) -> SparseLabels:
    """Dense labels (ptr[-1], T) with NaN for absent -> sparse columns, read-only. A molecule all NaN in a task does not have it.

    `dtype` is float32 or float16, to which values are rounded to nearest even. Equal labels give equal bytes. Raises ValueError
    when a finite label would become infinite.
    """
    precision = _PRECISIONS[np.dtype(dtype)]
    ptr = np.ascontiguousarray(ptr, np.int64)
    num_molecules, num_tasks = len(ptr) - 1, labels.shape[1]
    labels = np.ascontiguousarray(labels, np.float32)
    present = np.zeros((num_tasks, num_molecules), bool)
    _labels.find_present(labels, ptr, present)
    with np.errstate(over="ignore"):
        rounded: np.ndarray = labels.astype(dtype, copy=False)
    if rounded is not labels:
        _refuse_overflow(labels, rounded)
    # int32 for either precision, so that these loops are compiled once
    keys = np.empty((num_tasks, len(labels)), np.int32)
    patterns = rounded.view(precision.pattern).astype(np.int32, copy=False)
    _labels.order_patterns(patterns, np.isnan(labels), precision.sign_bit, precision.absent, keys)

    count = present.sum(axis=1)
    presence = np.full(num_tasks, _labels.BITMAP, np.uint8)
    presence[32 * count < num_molecules] = _labels.ROWS
    presence[count == num_molecules] = _labels.DENSE
    num_values = present @ np.diff(ptr) if num_molecules else np.zeros(num_tasks, np.int64)
    coding, planes, argument = (np.empty(num_tasks, d) for d in (np.uint8, np.uint8, np.uint32))
    numbers = np.empty(int(num_values.sum()), np.uint32)
    table = np.empty(num_tasks * _labels.MAX_TABLE, np.int32)
    bits = precision.sign_bit + 1
    num_entries = _labels.code_labels(keys, present, ptr, bits, coding, planes, argument, num_values, table, numbers)
    plane_at = np.empty((num_tasks, bits // 8), np.int64)
    planes.flags.writeable = False
    values = np.empty(_labels.place_planes(planes, num_values, plane_at), np.uint8)
    _labels.split_planes(numbers, num_values, planes, plane_at, values)
    sparse = SparseLabels(
        presence=presence,
        count=count.astype(np.uint32),
        coding=coding,
        planes=planes,
        argument=argument,
        bitmap=np.packbits(present[presence == _labels.BITMAP], axis=1, bitorder="little").reshape(-1),
        rows=np.nonzero(present[presence == _labels.ROWS])[1].astype(np.uint32),
        table=swap_keys(table[:num_entries].astype(precision.pattern), precision).view(dtype),
        values=values,
    )
    for array in sparse:
        # as those that are read from a file
        array.flags.writeable = False
    return sparse


def _refuse_overflow(labels: np.ndarray, rounded: np.ndarray) -> None:
    lost = np.isinf(rounded) & np.isfinite(labels)
    if lost.any():
        row, task = np.argwhere(lost)[0]
        raise ValueError(
            f"label task {task} holds {labels[row, task]}, more than {rounded.dtype} can; store this level in float32 instead"
        )


def swap_keys(x: np.ndarray, precision: _Precision) -> np.ndarray:
    """Patterns to keys, or keys to patterns."""
    return x ^ ((x >> precision.sign_bit) & precision.pattern((1 << precision.sign_bit) - 1))


def plane_offsets(sparse: SparseLabels, ptr: np.ndarray) -> list[int]:
    """Where in `values` the byte planes begin, rising: the statistics of the bytes change there."""
    _, num_values = check_sparse(sparse, np.ascontiguousarray(ptr, np.int64))
    plane_at = np.empty((sparse.planes.size, 4), np.int64)
    _labels.place_planes(sparse.planes, num_values, plane_at)
    return sorted(plane_at[np.arange(4) < sparse.planes[:, None]].tolist())


def densify_labels(
    sparse: SparseLabels,
    ptr: np.ndarray,
    out: np.ndarray | None = None,
    *,
    starts: np.ndarray | None = None,
    tasks: np.ndarray | None = None,
) -> np.ndarray:
    """Sparse columns -> dense float32 (ptr[-1], T), NaN for absent; checks every length and index before it writes.

    `starts` (N): row of `out` where each molecule's rows begin (default: one after another, as in `ptr`). `tasks`: the columns
    that are wanted, in this order (default: all); others cost nothing unless one of these refers to them. Raises ValueError when
    the arrays do not agree with each other and with `ptr`.
    """
    ptr = np.ascontiguousarray(ptr, np.int64)
    if ptr.size == 0 or ptr[0] != 0 or (ptr[1:] < ptr[:-1]).any():
        raise ValueError("offsets of labels do not rise from 0")
    precision, num_values = check_sparse(sparse, ptr)
    num_tasks, num_rows = sparse.presence.size, int(ptr[-1])
    columns = np.arange(num_tasks) if tasks is None else np.ascontiguousarray(tasks, np.int64)
    if columns.size and not 0 <= columns.min() <= columns.max() < num_tasks:
        raise ValueError(f"label columns {columns.min()} to {columns.max()}, there are {num_tasks}")
    if out is None:
        out = np.empty((num_rows, columns.size), np.float32)
    elif out.shape[1:] != (columns.size,) or out.dtype != np.float32 or not out.flags.c_contiguous:
        raise ValueError(f"place for labels is {out.dtype} {out.shape}, expected contiguous float32 rows of {columns.size}")
    starts = check_starts(starts, ptr, len(out))
    plane_at = np.empty((num_tasks, 4), np.int64)
    num_bytes = _labels.place_planes(sparse.planes, num_values, plane_at)
    if sparse.values.size != num_bytes:
        raise ValueError(f"{sparse.values.size} bytes of label values, expected {num_bytes}")
    keys: np.ndarray = np.empty((num_tasks, num_rows), precision.pattern)
    inside = _labels.expand_labels(
        needed_tasks(sparse, columns),
        sparse.presence,
        sparse.count,
        sparse.coding,
        sparse.planes,
        sparse.argument,
        sparse.bitmap,
        sparse.rows,
        swap_keys(np.ascontiguousarray(sparse.table).view(precision.pattern), precision),
        sparse.values,
        ptr,
        num_values,
        plane_at,
        precision.sign_bit,
        precision.absent,
        keys,
    )
    if not inside:
        raise ValueError("a label value lies outside its table")
    if precision.pattern is np.int32:
        _labels.write_singles(keys, columns, ptr, starts, out.reshape(-1).view(np.int32))
    else:
        _labels.write_halves(keys, columns, ptr, starts, out.reshape(-1))
    return out


def check_starts(starts: np.ndarray | None, ptr: np.ndarray, num_rows: int) -> np.ndarray:
    """Where each molecule's rows begin in a place of `num_rows` rows, as int64; by default one after another, filling it.

    Raises ValueError where they would not lie inside.
    """
    if starts is None:
        if num_rows != ptr[-1]:
            raise ValueError(f"{ptr[-1]} rows for a place of {num_rows}")
        return np.ascontiguousarray(ptr[:-1], np.int64)
    starts = np.ascontiguousarray(starts, np.int64)
    if starts.size != ptr.size - 1 or (starts < 0).any() or (starts > num_rows - np.diff(ptr)).any():
        raise ValueError(f"rows of {ptr.size - 1} molecules do not lie in a place of {num_rows} rows where they are to begin")
    return starts


def needed_tasks(sparse: SparseLabels, tasks: np.ndarray) -> np.ndarray:
    """Which columns must be decoded to know those of `tasks`: these, and what they are differences to. bool (T)."""
    needed = np.zeros(sparse.presence.size, bool)
    needed[tasks] = True
    _labels.follow_deltas(sparse.coding, sparse.argument, needed)
    return needed


def check_sparse(sparse: SparseLabels, ptr: np.ndarray) -> tuple[_Precision, np.ndarray]:
    """The precision of the labels and the number of values of each task. Raises ValueError."""
    for name, dtype in zip(sparse._fields, _DTYPES, strict=True):
        if dtype is not None and getattr(sparse, name).dtype != dtype:
            raise ValueError(f"label array {name} is {getattr(sparse, name).dtype}, expected {np.dtype(dtype)}")
    if sparse.table.dtype not in _PRECISIONS:
        raise ValueError(f"label array table is {sparse.table.dtype}, expected float32 or float16")
    num_tasks, num_molecules = sparse.presence.size, ptr.size - 1
    for name in ("count", "coding", "planes", "argument"):
        if getattr(sparse, name).size != num_tasks:
            raise ValueError(f"{num_tasks} encodings but {getattr(sparse, name).size} in {name}")
    presence, coding, planes, argument = sparse.presence, sparse.coding, sparse.planes, sparse.argument
    if num_tasks and presence.max() > _labels.ROWS:
        raise ValueError(f"unknown label presence {presence.max()}")
    if num_tasks and coding.max() > _labels.DELTA:
        raise ValueError(f"unknown label coding {coding.max()}")
    precision, width = _PRECISIONS[sparse.table.dtype], sparse.table.itemsize
    plain, table, delta = (coding == c for c in (_labels.RAW, _labels.TABLE, _labels.DELTA))
    wrong = (plain & (planes != width)) | (table & (planes > 1)) | (delta & (planes > width))
    if wrong.any():
        raise ValueError(f"label values of {planes[wrong][0]} bytes, coding {coding[wrong][0]}, in {sparse.table.dtype}")
    if (delta & (argument >= np.arange(num_tasks))).any():
        raise ValueError("labels refer to a task that does not come before them")
    if (table & (argument > _labels.MAX_TABLE)).any() or sparse.table.size != int(argument[table].sum(dtype=np.int64)):
        raise ValueError(f"label tables hold {sparse.table.size} entries, expected {argument[table].sum(dtype=np.int64)}")
    need = int((presence == _labels.BITMAP).sum()) * ((num_molecules + 7) // 8)
    if sparse.bitmap.size != need:
        raise ValueError(f"presence bitmaps hold {sparse.bitmap.size} bytes, expected {need}")
    need = int(sparse.count[presence == _labels.ROWS].sum(dtype=np.int64))
    if sparse.rows.size != need:
        raise ValueError(f"row lists hold {sparse.rows.size} rows, expected {need}")
    num_values = np.zeros(num_tasks, np.int64)
    if not _labels.measure_labels(presence, sparse.count, sparse.bitmap, sparse.rows, ptr, num_values):
        raise ValueError("a presence bitmap or row list contradicts its count")
    return precision, num_values
