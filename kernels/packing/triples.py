"""Graph-level labels as (graph, task, value), present ones only: for thousands of tasks of which a molecule has few.

    stored    task 0: molecules 0 2 | task 1: - | task 2: molecule 0          (SparseLabels)
    listed    molecule 0: tasks 0 2 | molecule 1: - | molecule 2: task 0      (LabelRows)
    batched   graph 0 0 2 ... G-1 | task 0 2 0 ... 0 | value x y z ... NaN    (triples, padded to one length)

One decision: no array and no loop is as large as molecules times tasks, but for the bits of bitmaps that are stored; a label
costs some 16 bytes while it is read and 8 after. The price: where more than half of the labels are there, the dense form is
smaller, and at four fifths it is faster too (benchmarks/wide.py).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from molstream.kernels.codec import _labels
from molstream.kernels.codec.labels import SparseLabels, check_sparse, needed_tasks, swap_keys
from molstream.kernels.packing import _triples
from molstream.kernels.packing.collate import measure_rows


class LabelRows(NamedTuple):
    """The graph-level labels of N molecules that are there, L of them, molecule by molecule."""

    ptr: np.ndarray
    """int64 (N + 1)."""
    task: np.ndarray
    """int32 (L): rising inside a molecule."""
    value: np.ndarray
    """float32 (L)."""


def list_labels(sparse: SparseLabels, num_molecules: int, *, tasks: np.ndarray | None = None) -> LabelRows:
    """Sparse graph-level columns -> rows of the labels that are there: what `densify_labels` holds where it does not hold NaN.

    `tasks` selects columns, distinct and in any order; `LabelRows.task` is then the place in `tasks`. Values have the bits of the
    dense form. Costs time and memory by the number of stored labels, of molecules and of tasks, never by their product; all
    stored labels are checked, selected or not. Raises ValueError where `densify_labels` does, and for columns that are not there.
    """
    if num_molecules < 0:
        raise ValueError(f"labels of {num_molecules} molecules, expected 0 or more")
    precision, num_values = check_sparse(sparse, np.arange(num_molecules + 1))
    num_tasks, num_rows = sparse.presence.size, sparse.rows.size
    plane_at = np.empty((num_tasks, 4), np.int64)
    num_bytes = _labels.place_planes(sparse.planes, num_values, plane_at)
    if sparse.values.size != num_bytes:
        raise ValueError(f"{sparse.values.size} bytes of label values, expected {num_bytes}")
    selected = np.arange(num_tasks) if tasks is None else _check_tasks(tasks, num_tasks)
    needed = needed_tasks(sparse, selected)
    num_in_bitmaps = int(num_values[needed & (sparse.presence == _labels.BITMAP)].sum())
    members: np.ndarray = np.empty(num_rows + num_molecules + num_in_bitmaps + 1, np.uint32)
    members[:num_rows] = sparse.rows
    members[num_rows : num_rows + num_molecules] = np.arange(num_molecules, dtype=np.uint32)
    member_at = np.zeros(num_tasks, np.int64)
    _triples.find_members(sparse.presence, num_values, sparse.bitmap, needed, num_molecules, num_rows, members, member_at)
    key_at = np.cumsum(num_values * needed) - num_values * needed
    keys = np.empty(int((num_values * needed).sum()), np.int32)
    inside = _triples.read_keys(
        sparse.coding,
        sparse.planes,
        sparse.argument,
        num_values,
        needed,
        swap_keys(np.ascontiguousarray(sparse.table).view(precision.pattern), precision),
        sparse.values,
        plane_at,
        members,
        member_at,
        key_at,
        precision.sign_bit,
        precision.absent,
        keys,
    )
    if not inside:
        raise ValueError("a label value lies outside its table")

    # a file may hold NaN as if it were a label; in dense form that is an absent one
    infinity = int(np.array(np.inf, sparse.table.dtype).view(precision.pattern))
    places = (num_values, members, member_at, keys, key_at, infinity)
    ptr = np.empty(num_molecules + 1, np.int64)
    _triples.count_rows(selected, *places, ptr)
    task, pattern = np.empty(ptr[-1], np.int32), np.empty(ptr[-1], precision.pattern)
    _triples.write_rows(selected, *places, precision.sign_bit, ptr[:-1].copy(), task, pattern)
    return LabelRows(ptr, task, pattern.view(sparse.table.dtype).astype(np.float32, copy=False))


def _check_tasks(tasks: np.ndarray, num_tasks: int) -> np.ndarray:
    tasks = np.asarray(tasks)
    if tasks.ndim != 1 or (tasks.size and tasks.dtype.kind not in "iu"):
        raise ValueError(f"selected tasks are {tasks.dtype} {tasks.shape}, expected a list of whole numbers")
    if tasks.size and not 0 <= tasks.min() <= tasks.max() < num_tasks:
        raise ValueError(f"selected tasks {tasks.min()} to {tasks.max()} of labels of {num_tasks} tasks")
    tasks = tasks.astype(np.int64)
    if np.unique(tasks).size != tasks.size:
        raise ValueError(f"{tasks.size} selected tasks, only {np.unique(tasks).size} of them distinct")
    return tasks


def concat_rows(parts: Sequence[LabelRows]) -> LabelRows:
    """The molecules of all parts, one part after the other."""
    sizes = np.concatenate([np.zeros(1, np.int64), *(np.diff(part.ptr) for part in parts)])
    return LabelRows(
        np.cumsum(sizes),
        np.concatenate([np.empty(0, np.int32), *(part.task for part in parts)]),
        np.concatenate([np.empty(0, np.float32), *(part.value for part in parts)]),
    )


class Triples(NamedTuple):
    """Labels of a pack, sorted by graph, then task; C slots, padding at the end."""

    graph: np.ndarray
    """int32 (C): graph slot; that of padding is the last one."""
    task: np.ndarray
    """int32 (C): 0 where there is padding."""
    value: np.ndarray
    """float32 (C): NaN where there is padding."""
    num_labels: np.ndarray
    """int32 (T): real labels of each task."""


def collate_triples(
    molecules: np.ndarray, rows: LabelRows, *, capacity: int, graphs: int, num_tasks: int, out: Triples | None = None
) -> Triples:
    """Labels of `molecules` (numbers into `rows`) as `capacity` triples, in `out` if given.

    A molecule's graph is its place in `molecules`, as in `collate_pack`. Raises ValueError when they do not fit, and for a label
    of another task.
    """
    molecules = np.ascontiguousarray(molecules, np.int64)
    num_labels, _ = measure_rows(molecules, rows.ptr)
    if molecules.size > graphs - 1 or num_labels > capacity:
        raise ValueError(
            f"{molecules.size} graphs, {num_labels} labels do not fit a pack of {graphs - 1}, {capacity} usable slots"
        )
    if out is None:
        graph, task = np.empty(capacity, np.int32), np.empty(capacity, np.int32)
        out = Triples(graph, task, np.empty(capacity, np.float32), np.empty(num_tasks, np.int32))
    if not _triples.collate_rows(molecules, *rows, graphs - 1, *out):
        raise ValueError(f"labels of tasks {rows.task.min()} to {rows.task.max()}, expected tasks of {num_tasks}")
    return out
