"""Atom-level lists of a table -> label columns in stored atom order."""

import numpy as np

from kernels import _numba_columns

FITS, UNREADABLE, MISFITS = 0, 1, 2
"""What became of a molecule's lists: all fit; it has labels but nothing says whose they are; one has another length."""


def align_lists(
    lists: list[tuple[np.ndarray, np.ndarray, np.ndarray]],
    *,
    atom_ptr: np.ndarray,
    label_index: np.ndarray,
    readable: np.ndarray,
    num_heavy: np.ndarray,
    num_all: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Lay each task's lists onto the atoms of N molecules with A atoms.

    `lists`: for each of T tasks flat float32 values, and where in them each molecule's list starts and how many entries it has (N
    each); a list without a number is absent.
    `label_index` (A): entry of a list that belongs to each atom, negative for none. `readable` (N): whether that is known.
    A list must have as many entries as `num_heavy` or `num_all` (N) says. Returns float32 (A, T), NaN where absent, and int64
    (N, 2): FITS, UNREADABLE or MISFITS, and for the last the length of the first list that does not fit.
    """
    status = np.zeros((len(atom_ptr) - 1, 2), np.int64)
    out = np.full((int(atom_ptr[-1]), len(lists)), np.nan, np.float32)
    for task, (values, start, size) in enumerate(lists):
        if len(start) != len(status) or len(size) != len(status):
            raise ValueError(f"align_lists: task {task} has {len(start)} lists, expected {len(status)}")
        if len(start) and (start.min() < 0 or size.min() < 0 or (start + size).max() > len(values)):
            raise ValueError(f"align_lists: a list of task {task} lies outside its {len(values)} values")
        _numba_columns.align_list(
            np.ascontiguousarray(values, np.float32),
            np.ascontiguousarray(start, np.int64),
            np.ascontiguousarray(size, np.int64),
            np.ascontiguousarray(atom_ptr, np.int64),
            np.ascontiguousarray(label_index, np.int32),
            np.ascontiguousarray(readable, np.bool_),
            np.ascontiguousarray(num_heavy, np.int64),
            np.ascontiguousarray(num_all, np.int64),
            task,
            out,
            status,
        )
    return out, status
