"""Hashes of skeletons: elements and connectivity of heavy atoms."""

import numpy as np

from molstream.kernels.chemistry import _skeletons


def hash_skeletons(
    atom_ptr: np.ndarray, bond_ptr: np.ndarray, elements: np.ndarray, bond_atoms: np.ndarray, *, key: int = 0
) -> np.ndarray:
    """Hash the heavy-atom skeleton (elements and connectivity) of each molecule: isomers of one skeleton share a hash.

    Eight rounds of Weisfeiler-Lehman colour refinement. `atom_ptr`, `bond_ptr`: offsets (N + 1); `elements`: atomic number of
    each atom (A); `bond_atoms`: local atom indices (B, 2). Bond orders, charges, isotopes and stereo do not count, and neither
    do hydrogens beside a heavy atom. Returns uint64 (N).
    """
    out = np.empty(len(atom_ptr) - 1, np.uint64)
    _skeletons.hash_skeletons(
        np.ascontiguousarray(atom_ptr, np.int64),
        np.ascontiguousarray(bond_ptr, np.int64),
        np.ascontiguousarray(elements, np.uint8),
        np.ascontiguousarray(bond_atoms, np.uint16),
        np.uint64(key),
        out,
    )
    return out
