"""Compiled hash of skeletons. Rules as in `rng/_hashing.py`."""

import numpy as np

from molstream.kernels.compiled import kernel
from molstream.kernels.rng._hashing import MIX_1, mix64

NUM_SKELETON_ROUNDS = 8


@kernel("i8[:], i8[:], u1[:], u2[:, :], u8, u8[:]")
def hash_skeletons(atom_ptr, bond_ptr, elements, bond_atoms, key, out):
    """Weisfeiler-Lehman hash of each molecule's heavy atoms; hydrogens count only in a molecule that has nothing else."""
    max_atoms = 0
    for m in range(out.size):
        max_atoms = max(max_atoms, atom_ptr[m + 1] - atom_ptr[m])
    color = np.empty(max_atoms, np.uint64)
    gathered = np.empty(max_atoms, np.uint64)
    for m in range(out.size):
        first = atom_ptr[m]
        n = atom_ptr[m + 1] - first
        num_heavy = 0
        for i in range(n):
            if elements[first + i] != 1:
                num_heavy += 1
        for i in range(n):
            color[i] = mix64(key ^ np.uint64(elements[first + i]))
        for _ in range(NUM_SKELETON_ROUNDS):
            for i in range(n):
                gathered[i] = np.uint64(0)
            for b in range(bond_ptr[m], bond_ptr[m + 1]):
                u = bond_atoms[b, 0]
                v = bond_atoms[b, 1]
                if num_heavy == 0 or (elements[first + u] != 1 and elements[first + v] != 1):
                    gathered[u] += mix64(color[v])
                    gathered[v] += mix64(color[u])
            for i in range(n):
                color[i] = mix64(color[i] + gathered[i] * MIX_1)
        total = np.uint64(0)
        for i in range(n):
            if num_heavy == 0 or elements[first + i] != 1:
                total += mix64(color[i])
        out[m] = mix64(total ^ mix64(np.uint64(num_heavy)))
