"""SplitMix64 hashes of numbers and of molecular skeletons: the only sources of order and of splits in a shard set.

Written out here rather than taken from a library, because the bytes of every shard set depend on them for ever.
"""

import numpy as np

from kernels import _numba


def mix_key(*parts: int) -> int:
    """Fold integers (seed, epoch, window, ...) into one 64-bit key; the order of the parts matters."""
    key = np.zeros(1, np.uint64)
    for part in parts:
        value = np.array([part & 0xFFFFFFFFFFFFFFFF], np.uint64)
        _numba.hash_u64(key[0], value, key)
    return int(key[0])


def hash_u64(key: int, values: np.ndarray) -> np.ndarray:
    """Hash each of `values` (integers) under `key`: mix(key ^ mix(value)) with SplitMix64's mix. uint64, same length."""
    values = np.ascontiguousarray(values, np.uint64)
    out = np.empty(values.size, np.uint64)
    _numba.hash_u64(np.uint64(key), values, out)
    return out


def hash_skeletons(
    atom_ptr: np.ndarray, bond_ptr: np.ndarray, elements: np.ndarray, bond_atoms: np.ndarray, *, key: int = 0
) -> np.ndarray:
    """Hash the heavy-atom skeleton (elements and connectivity) of each molecule: isomers of one skeleton share a hash.

    Eight rounds of Weisfeiler-Lehman colour refinement. `atom_ptr`, `bond_ptr`: offsets (N + 1); `elements`: atomic number of
    each atom (A); `bond_atoms`: local atom indices (B, 2). Bond orders, charges, isotopes and stereo do not count, and neither
    do hydrogens beside a heavy atom. Returns uint64 (N).
    """
    out = np.empty(len(atom_ptr) - 1, np.uint64)
    _numba.hash_skeletons(
        np.ascontiguousarray(atom_ptr, np.int64),
        np.ascontiguousarray(bond_ptr, np.int64),
        np.ascontiguousarray(elements, np.uint8),
        np.ascontiguousarray(bond_atoms, np.uint16),
        np.uint64(key),
        out,
    )
    return out
