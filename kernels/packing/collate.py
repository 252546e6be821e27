"""Collation: the molecules of one pack, gathered from a window's columns into arrays of one fixed shape.

    slots   graph 0 | graph 1 | ... | graph k-1 |  empty ...  | last graph slot = padding
    atoms   a a a a | a a     | ... | a a a     |     .        padding atoms, all in the last graph slot
    edges   u>v v>u | ...                       |              padding edges, loops on the last atom

Directed edges 2b and 2b + 1 are the two directions of bond b, the stored one (from smaller to larger atom) first, so the reverse
of edge i is i ^ 1.
"""

import math
from typing import NamedTuple

import numpy as np

from molstream.kernels.packing import _collate


class PackColumns(NamedTuple):
    """Structure of N molecules, contiguous: what a pack is gathered from."""

    atom_ptr: np.ndarray
    """int64 (N + 1)."""
    bond_ptr: np.ndarray
    """int64 (N + 1)."""
    atom_codes: np.ndarray
    """uint8 (A, F)."""
    bond_atoms: np.ndarray
    """uint16 (B, 2): atom numbers inside the molecule, both below its number of atoms."""
    bond_codes: np.ndarray
    """uint8 (B)."""


def structure_arrays(*, graphs: int, atoms: int, edges: int, num_features: int) -> dict[str, tuple[type, tuple[int, ...]]]:
    """Dtypes and shapes of what `collate_pack` fills, in order."""
    return {
        "atom_codes": (np.uint8, (atoms, num_features)),
        "edge_index": (np.int32, (2, edges)),
        "edge_codes": (np.uint8, (edges,)),
        "edge_order": (np.int32, (edges,)),
        "edge_ptr": (np.int32, (atoms + 1,)),
        "graph_of_atom": (np.int32, (atoms,)),
        "atom_ptr": (np.int32, (graphs + 1,)),
        "graph_mask": (np.bool_, (graphs,)),
        "atom_mask": (np.bool_, (atoms,)),
        "edge_mask": (np.bool_, (edges,)),
    }


def collate_pack(
    molecules: np.ndarray,
    columns: PackColumns,
    *,
    graphs: int,
    atoms: int,
    edges: int,
    out: dict[str, np.ndarray] | None = None,
) -> dict[str, np.ndarray]:
    """Gather `molecules` (numbers into `columns`) into the arrays of `structure_arrays`, padding included; returns them.

    edge_index is source, then destination; edge_order sorts the edges by destination, and edge_ptr are its offsets. `out`: where
    to write (default: new arrays). Raises ValueError when the molecules do not fit; `edges` must be even.
    """
    molecules = np.ascontiguousarray(molecules, np.int64)
    num_atoms, largest = measure_rows(molecules, columns.atom_ptr)
    num_edges = 2 * measure_rows(molecules, columns.bond_ptr)[0]
    if molecules.size > graphs - 1 or num_atoms > atoms - 1 or num_edges > edges:
        raise ValueError(
            f"{molecules.size} graphs, {num_atoms} atoms, {num_edges} edges do not fit a pack of "
            f"{graphs - 1}, {atoms - 1}, {edges} usable slots"
        )
    if edges % 2:
        raise ValueError(f"{edges} edges, expected an even number: two a bond")
    if out is None:
        shapes = structure_arrays(graphs=graphs, atoms=atoms, edges=edges, num_features=columns.atom_codes.shape[1])
        out = {name: np.empty(shape, dtype) for name, (dtype, shape) in shapes.items()}
    bond_atoms = np.ascontiguousarray(columns.bond_atoms, np.uint16)
    _collate.collate_structure(
        molecules,
        columns.atom_ptr,
        columns.bond_ptr,
        np.ascontiguousarray(columns.atom_codes).reshape(-1),
        bond_atoms,
        bond_atoms.view(np.uint32).reshape(-1),
        columns.bond_codes,
        np.empty(largest, np.int32),
        out["atom_codes"].reshape(-1),
        out["edge_index"],
        out["edge_index"].view(np.uint64),
        out["edge_codes"],
        out["edge_codes"].view(np.uint16),
        *(out[name] for name in list(out)[3:10]),
    )
    return out


def collate_pairs(
    molecules: np.ndarray, atom_ptr: np.ndarray, *, atoms: int, pairs: int, out: np.ndarray | None = None
) -> np.ndarray:
    """Atom slots of all pairs i <= j of one molecule's atoms, int32 (2, pairs); padding pairs are the last atom and itself.

    Pair (i, j) of a molecule is row j (j + 1) / 2 + i of its pairs. Molecules and their atoms lie as in `collate_pack`. `out`:
    where to write (default: a new array). Raises ValueError when they do not fit.
    """
    molecules = np.ascontiguousarray(molecules, np.int64)
    num_atoms, _ = measure_rows(molecules, atom_ptr)
    sizes = atom_ptr[molecules + 1] - atom_ptr[molecules]
    num_pairs = int((sizes * (sizes + 1) // 2).sum())
    if num_atoms > atoms - 1 or num_pairs > pairs:
        raise ValueError(f"{num_atoms} atoms, {num_pairs} pairs of atoms do not fit a pack of {atoms - 1}, {pairs} usable slots")
    out = np.empty((2, pairs), np.int32) if out is None else out
    _collate.collate_pairs(molecules, atom_ptr, out[0], out[1], np.int32(atoms - 1))
    return out


def collate_rows(molecules: np.ndarray, ptr: np.ndarray, rows: np.ndarray, *, out: np.ndarray, pad: float = 0) -> np.ndarray:
    """Gather rows ptr[m]:ptr[m + 1] of each molecule m into the first rows of `out`, `pad` in the rest; returns `out`.

    `rows` (R, ...) and `out` are contiguous, of one dtype. Raises ValueError when they do not fit.
    """
    molecules = np.ascontiguousarray(molecules, np.int64)
    num_rows, _ = measure_rows(molecules, ptr)
    if num_rows > len(out) or rows.shape[1:] != out.shape[1:] or rows.dtype != out.dtype:
        raise ValueError(f"{num_rows} rows of {rows.dtype} {rows.shape[1:]} do not fit a batch of {out.dtype} {out.shape}")
    kind = f"u{rows.dtype.itemsize}"
    # bits are copied: Numba knows no float16
    filler = np.array(pad, rows.dtype).view(kind)
    flat = np.ascontiguousarray(rows).reshape(-1).view(kind)
    _collate.gather_rows(molecules, ptr, flat, math.prod(rows.shape[1:]), out.reshape(-1).view(kind), filler[()])
    return out


def count_labels(labels: np.ndarray, *, out: np.ndarray | None = None) -> np.ndarray:
    """Labels of each task that are not NaN: float32 (R, T), or (R, T, 2) with a label for each direction -> int32 (T)."""
    out = np.empty(labels.shape[1], np.int32) if out is None else out
    counts = out if labels.ndim == 2 else np.empty(math.prod(labels.shape[1:]), np.int32)
    _collate.count_present(labels.reshape(-1), counts)
    if counts is not out:
        np.sum(counts.reshape(labels.shape[1:]), axis=1, out=out)
    return out


def measure_rows(molecules: np.ndarray, ptr: np.ndarray) -> tuple[int, int]:
    """Rows of all `molecules` (int64) together and most of one; ptr[m]:ptr[m + 1] are those of m. Raises ValueError for no m."""
    # NumPy reads -1 as the last one, compiled loops would not
    total, largest = _collate.measure(molecules, ptr)
    if total < 0:
        raise ValueError(f"molecule {largest}, there are 0 to {len(ptr) - 2}")
    return total, largest
