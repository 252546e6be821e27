"""Collation: the molecules of one pack, gathered from a window's columns into arrays of one fixed shape.

    slots   graph 0 | graph 1 | ... | graph k-1 |  empty ...  | last graph slot = padding
    atoms   a a a a | a a     | ... | a a a     |     .        padding atoms, all in the last graph slot
    edges   u>v v>u | ...                       |              padding edges, loops on the last atom

Directed edges 2b and 2b + 1 are the two directions of bond b, so the reverse of edge i is i ^ 1.
"""

from typing import NamedTuple

import numpy as np

from kernels import _numba


class Columns(NamedTuple):
    """Structure of N molecules, contiguous: what a pack is gathered from."""

    atom_ptr: np.ndarray
    """int64 (N + 1)."""
    bond_ptr: np.ndarray
    """int64 (N + 1)."""
    atom_codes: np.ndarray
    """uint8 (A, F)."""
    bond_atoms: np.ndarray
    """uint16 (B, 2): atom numbers inside the molecule."""
    bond_codes: np.ndarray
    """uint8 (B)."""


def collate_pack(molecules: np.ndarray, columns: Columns, *, graphs: int, atoms: int, edges: int) -> dict[str, np.ndarray]:
    """Gather `molecules` (numbers into `columns`) into the shape (graphs, atoms, edges), padding included.

    Returns atom_codes uint8 (atoms, F); edge_index int32 (2, edges), source then destination; edge_codes uint8 (edges);
    edge_order int32 (edges) sorts the edges by destination and edge_ptr int32 (atoms + 1) are its offsets; graph_of_atom int32
    (atoms); atom_ptr int32 (graphs + 1); graph_mask, atom_mask, edge_mask bool. Raises ValueError when they do not fit.
    """
    molecules = np.ascontiguousarray(molecules, np.int64)
    _check_members(molecules)
    num_atoms = int((columns.atom_ptr[molecules + 1] - columns.atom_ptr[molecules]).sum())
    num_edges = 2 * int((columns.bond_ptr[molecules + 1] - columns.bond_ptr[molecules]).sum())
    if molecules.size > graphs - 1 or num_atoms > atoms - 1 or num_edges > edges:
        raise ValueError(
            f"{molecules.size} graphs, {num_atoms} atoms, {num_edges} edges do not fit a pack of "
            f"{graphs - 1}, {atoms - 1}, {edges} usable slots"
        )
    out: dict[str, np.ndarray] = {
        "atom_codes": np.empty((atoms, columns.atom_codes.shape[1]), np.uint8),
        "edge_index": np.empty((2, edges), np.int32),
        "edge_codes": np.empty(edges, np.uint8),
        "edge_order": np.empty(edges, np.int32),
        "edge_ptr": np.empty(atoms + 1, np.int32),
        "graph_of_atom": np.empty(atoms, np.int32),
        "atom_ptr": np.empty(graphs + 1, np.int32),
        "graph_mask": np.empty(graphs, np.bool_),
        "atom_mask": np.empty(atoms, np.bool_),
        "edge_mask": np.empty(edges, np.bool_),
    }
    _numba.collate_structure(molecules, *columns, *out.values())
    return out


def collate_labels(molecules: np.ndarray, ptr: np.ndarray, labels: np.ndarray, *, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Gather label rows of `molecules` (rows ptr[m]:ptr[m + 1] of `labels`) into float32 (rows, T), NaN where absent or padded.

    Returns (labels, number of real labels of each task int32 (T)). Raises ValueError when they do not fit.
    """
    molecules = np.ascontiguousarray(molecules, np.int64)
    _check_members(molecules)
    num_rows = int((ptr[molecules + 1] - ptr[molecules]).sum())
    if num_rows > rows:
        raise ValueError(f"{num_rows} label rows do not fit a batch of {rows}")
    out, num_labels = np.empty((rows, labels.shape[1]), np.float32), np.empty(labels.shape[1], np.int32)
    _numba.collate_labels(molecules, ptr, labels, out, num_labels)
    return out, num_labels


def _check_members(molecules: np.ndarray) -> None:
    # NumPy reads -1 as the last one, the compiled loop would not; too large a number raises where the offsets are read
    if molecules.min(initial=0) < 0:
        raise ValueError(f"molecule number {molecules.min()}, expected 0 or more")
