"""Hashes of skeletons, molecule by molecule."""

from collections.abc import Sequence

import numpy as np
from twins.hashing import MASK, mix64


def hash_skeletons(
    atom_ptr: Sequence[int], bond_ptr: Sequence[int], elements: Sequence[int], bond_atoms: np.ndarray, *, key: int = 0
) -> list[int]:
    """Each molecule alone: strike out the hydrogens (unless there is nothing else), then refine colours over neighbour lists."""
    hashes = []
    for m in range(len(atom_ptr) - 1):
        symbols = [int(z) for z in elements[atom_ptr[m] : atom_ptr[m + 1]]]
        num_heavy = sum(z != 1 for z in symbols)
        kept = [i for i, z in enumerate(symbols) if z != 1 or num_heavy == 0]
        neighbours: dict[int, list[int]] = {i: [] for i in kept}
        for u, v in bond_atoms[bond_ptr[m] : bond_ptr[m + 1]].tolist():
            if u in neighbours and v in neighbours:
                neighbours[u].append(v)
                neighbours[v].append(u)
        color = {i: mix64(key ^ symbols[i]) for i in kept}
        for _ in range(8):
            around = {i: sum(mix64(color[j]) for j in neighbours[i]) for i in kept}
            color = {i: mix64((color[i] + around[i] * 0xBF58476D1CE4E5B9) & MASK) for i in kept}
        hashes.append(mix64(sum(mix64(c) for c in color.values()) & MASK ^ mix64(num_heavy)))
    return hashes
