"""Lists of a table -> label columns in stored order: of atoms, bonds, pairs of atoms.

A list comes as a slice of flat float32 values; one without a number is absent. What became of a molecule's lists is int64 (N, 2):
FITS, UNREADABLE (it has labels but nothing says whose they are) or MISFITS, and for the last the length of the first list that
does not fit.
"""

from typing import NamedTuple

import numpy as np

from molstream.kernels.tables import _align

FITS, UNREADABLE, MISFITS = 0, 1, 2


class FlatLists(NamedTuple):
    """One task's lists of N molecules."""

    values: np.ndarray
    """float32."""
    start: np.ndarray
    """int64 (N): where each list begins in `values`."""
    size: np.ndarray
    """int64 (N)."""


def align_lists(
    lists: list[FlatLists],
    *,
    atom_ptr: np.ndarray,
    label_index: np.ndarray,
    readable: np.ndarray,
    num_heavy: np.ndarray,
    num_all: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Lay each task's lists onto the atoms of N molecules with A atoms.

    `label_index` (A): entry of a list that belongs to each atom, negative for none. `readable` (N): whether that is known.
    A list must have as many entries as `num_heavy` or `num_all` (N) says. Returns float32 (A, T), NaN where absent, and what
    became of each molecule's lists.
    """
    status = np.zeros((len(atom_ptr) - 1, 2), np.int64)
    out = np.full((int(atom_ptr[-1]), len(lists)), np.nan, np.float32)
    for task, one in enumerate(lists):
        _align.align_list(
            *_checked(one, task, len(status)),
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


def align_bonds(
    lists: list[FlatLists], *, bond_ptr: np.ndarray, bond_index: np.ndarray, is_reversed: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Lay each task's lists onto the bonds of N molecules with B bonds.

    `bond_index` (B): number of each bond in the order of the lists, negative for one they leave out. A list has one entry per
    bond, or two: first begin to end, then end to begin. `is_reversed` (B): begin is the larger atom. Returns float32 (B, T, 2),
    NaN where absent: the bond's label, or smaller to larger atom; larger to smaller, if the list says so. And what became of each
    molecule's lists.
    """
    sizes = np.diff(bond_ptr)
    listed = np.concatenate([[0], np.cumsum(bond_index >= 0)])[bond_ptr]
    num_bonds = np.diff(listed)
    if (bond_index >= np.repeat(num_bonds, sizes)).any():
        raise ValueError("align_bonds: a bond's number lies outside its molecule")
    status = np.zeros((len(num_bonds), 2), np.int64)
    out = np.full((int(bond_ptr[-1]), len(lists), 2), np.nan, np.float32)
    for task, one in enumerate(lists):
        _align.align_bond_list(
            *_checked(one, task, len(status)),
            np.ascontiguousarray(bond_ptr, np.int64),
            np.ascontiguousarray(bond_index, np.int32),
            np.ascontiguousarray(is_reversed, np.bool_),
            np.ascontiguousarray(num_bonds, np.int64),
            task,
            out,
            status,
        )
    return out, status


def align_pairs(
    lists: list[FlatLists],
    *,
    atom_ptr: np.ndarray,
    pair_ptr: np.ndarray,
    label_index: np.ndarray,
    readable: np.ndarray,
    num_heavy: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Lay each task's lists onto the pairs of atoms i <= j of N molecules, P pairs in all, row j * (j + 1) / 2 + i of a molecule.

    With n = `num_heavy`, a list has n * n entries, a * n + b being of a to b, or n * (n - 1) / 2, the pairs a < b row by row.
    `label_index` and `readable` as for `align_lists`. Returns float32 (P, T, 2), NaN where absent: the pair's label, or i to j;
    j to i, if the list says so. And what became of each molecule's lists.
    """
    status = np.zeros((len(atom_ptr) - 1, 2), np.int64)
    out = np.full((int(pair_ptr[-1]), len(lists), 2), np.nan, np.float32)
    for task, one in enumerate(lists):
        _align.align_pair_list(
            *_checked(one, task, len(status)),
            np.ascontiguousarray(atom_ptr, np.int64),
            np.ascontiguousarray(pair_ptr, np.int64),
            np.ascontiguousarray(label_index, np.int32),
            np.ascontiguousarray(readable, np.bool_),
            np.ascontiguousarray(num_heavy, np.int64),
            task,
            out,
            status,
        )
    return out, status


def _checked(lists: FlatLists, task: int, num_molecules: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    values, start, size = lists
    if len(start) != num_molecules or len(size) != num_molecules:
        raise ValueError(f"align: task {task} has {len(start)} lists, expected {num_molecules}")
    if len(start) and (start.min() < 0 or size.min() < 0 or (start + size).max() > len(values)):
        raise ValueError(f"align: a list of task {task} lies outside its {len(values)} values")
    return np.ascontiguousarray(values, np.float32), np.ascontiguousarray(start, np.int64), np.ascontiguousarray(size, np.int64)
