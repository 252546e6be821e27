"""Compiled code of `hashing.hash_scaffolds`: which atoms of a molecule are its scaffold, and a hash of those.

One decision: a scaffold is hashed where it stands, by what each atom sees around it, and no canonical form is made. The price:
two scaffolds that look the same from every atom share a hash. So that this does not happen to small polycycles (decalin and
bicyclopentyl, cubane and cuneane), bonds carry the size of their smallest ring, which neighbourhoods alone do not see.
"""

import numpy as np

from molstream.kernels.chemistry._skeletons import hash_skeletons
from molstream.kernels.compiled import inline, kernel, part
from molstream.kernels.rng._hashing import mix64

NUM_SCAFFOLD_ROUNDS = 16
"""An atom's colour tells what lies within so many bonds, so that features up to 32 bonds apart are seen together by the atom
between them. Real molecules of drug size need three; the others are for long linkers and macrocycles, at 30 % of the speed."""
MAX_RING_SIZE = 16
"""Larger rings count as one size, so that the search for the smallest ring of a bond ends soon in a ring system of any size."""
NUM_ATOM_FEATURES = 7
ELEMENT, CHARGE, RADICALS, AROMATIC, RING = 0, 2, 3, 5, 6
"""Columns of atom codes."""
DOUBLE = 1
"""The type of bond that makes an atom beside rings and linkers part of the scaffold."""


@inline
def other_end(bond_atoms, b, i):
    return np.int64(bond_atoms[b, 0]) + np.int64(bond_atoms[b, 1]) - i


@part
def list_bonds(first, end, bond_atoms, n, ptr, listed):
    """Bonds of each atom of one molecule, by their place among its bonds: those of atom i are listed[ptr[i] : ptr[i + 1]]."""
    for i in range(n + 2):
        ptr[i] = 0
    for b in range(first, end):
        ptr[bond_atoms[b, 0] + 2] += 1
        ptr[bond_atoms[b, 1] + 2] += 1
    for i in range(n):
        ptr[i + 2] += ptr[i + 1]
    # ptr[i + 1] runs from where the bonds of atom i begin to where they end
    for b in range(first, end):
        for side in range(2):
            i = bond_atoms[b, side] + 1
            listed[ptr[i]] = b - first
            ptr[i] += 1


@part
def mark_scaffold(first_atom, first_bond, n, atom_codes, bond_atoms, kinds, ptr, listed, stack, degree, kept):
    """kept[i]: atom i is in a ring, between rings, or at a double bond to one of these. `stack`, `degree`: scratch, n entries."""
    top = 0
    for i in range(n):
        kept[i] = True
        degree[i] = ptr[i + 1] - ptr[i]
        if degree[i] <= 1 and atom_codes[first_atom + i, RING] == 0:
            stack[top] = i
            top += 1
    while top > 0:
        top -= 1
        i = stack[top]
        kept[i] = False
        for k in range(ptr[i], ptr[i + 1]):
            b = first_bond + listed[k]
            j = other_end(bond_atoms, b, i)
            degree[j] -= 1
            # once for each atom: its degree falls to 1 once, and never where it began there
            if degree[j] == 1 and atom_codes[first_atom + j, RING] == 0:
                stack[top] = j
                top += 1
    # found first and kept afterwards, because what is beside them does not belong
    for i in range(n):
        if kept[i]:
            continue
        for k in range(ptr[i], ptr[i + 1]):
            b = first_bond + listed[k]
            if kinds[listed[k]] == DOUBLE and kept[other_end(bond_atoms, b, i)]:
                stack[top] = i
                top += 1
                break
    for k in range(top):
        kept[stack[k]] = True


@part
def ring_size(bond, first_bond, bond_atoms, in_ring, ptr, listed, queue, seen, stamp):
    """Length of the shortest cycle of ring bonds through a bond, MAX_RING_SIZE + 1 where it is longer or there is none.

    `queue`, `seen`: scratch, an entry for each atom; `seen` does not hold `stamp` yet.
    """
    start = np.int64(bond_atoms[first_bond + bond, 0])
    goal = np.int64(bond_atoms[first_bond + bond, 1])
    if start == goal:
        return 1
    queue[0] = start
    seen[start] = stamp
    head = 0
    tail = 1
    for size in range(2, MAX_RING_SIZE + 1):
        level = tail
        while head < level:
            i = queue[head]
            head += 1
            for k in range(ptr[i], ptr[i + 1]):
                b = listed[k]
                if b == bond or not in_ring[b]:
                    continue
                j = other_end(bond_atoms, first_bond + b, i)
                if j == goal:
                    return size
                if seen[j] != stamp:
                    seen[j] = stamp
                    queue[tail] = j
                    tail += 1
    return MAX_RING_SIZE + 1


@kernel()
def hash_scaffolds(atom_ptr, bond_ptr, atom_codes, bond_atoms, bond_codes, num_stereo, key, out):
    """Weisfeiler-Lehman hash of each molecule's scaffold, or of its skeleton where no atom is in a ring.

    Scratch is as large as the largest molecule and shared by all.
    """
    max_atoms = 0
    max_bonds = 0
    for m in range(out.size):
        max_atoms = max(max_atoms, atom_ptr[m + 1] - atom_ptr[m])
        max_bonds = max(max_bonds, bond_ptr[m + 1] - bond_ptr[m])
    ptr = np.empty(max_atoms + 2, np.int64)
    listed = np.empty(2 * max_bonds, np.int64)
    stack = np.empty(max_atoms, np.int64)
    degree = np.empty(max_atoms, np.int64)
    seen = np.empty(max_atoms, np.int64)
    kept = np.empty(max_atoms, np.bool_)
    kinds = np.empty(max_bonds, np.uint8)
    in_ring = np.empty(max_bonds, np.bool_)
    place = np.empty(max_atoms, np.int64)
    color = np.empty(max_atoms, np.uint64)
    gathered = np.empty(max_atoms, np.uint64)
    ends = np.empty((max_bonds, 2), np.int64)
    label = np.empty(max_bonds, np.uint64)
    mixed_key = mix64(key)
    elements = atom_codes[:, ELEMENT]
    for m in range(out.size):
        first = atom_ptr[m]
        n = atom_ptr[m + 1] - first
        first_bond = bond_ptr[m]
        num_bonds = bond_ptr[m + 1] - first_bond
        has_ring = False
        for i in range(n):
            has_ring |= atom_codes[first + i, RING] != 0
        if not has_ring:
            hash_skeletons(atom_ptr[m : m + 2], bond_ptr[m : m + 2], elements, bond_atoms, key, out[m : m + 1])
            continue

        for b in range(num_bonds):
            kinds[b] = bond_codes[first_bond + b] // (2 * num_stereo)
        list_bonds(first_bond, bond_ptr[m + 1], bond_atoms, n, ptr, listed)
        mark_scaffold(first, first_bond, n, atom_codes, bond_atoms, kinds, ptr, listed, stack, degree, kept)

        num_kept = 0
        for i in range(n):
            seen[i] = -1
            if kept[i]:
                place[i] = num_kept
                atom = np.uint64(0)
                for column in (ELEMENT, CHARGE, RADICALS, AROMATIC):
                    atom = (atom << np.uint64(8)) | np.uint64(atom_codes[first + i, column])
                color[num_kept] = mix64(mixed_key ^ atom)
                num_kept += 1
        for b in range(num_bonds):
            in_ring[b] = bond_codes[first_bond + b] & 1 != 0
            in_ring[b] &= kept[bond_atoms[first_bond + b, 0]] and kept[bond_atoms[first_bond + b, 1]]
        num_edges = 0
        for b in range(num_bonds):
            u = bond_atoms[first_bond + b, 0]
            v = bond_atoms[first_bond + b, 1]
            if not (kept[u] and kept[v]):
                continue
            size = 0
            if in_ring[b]:
                size = ring_size(b, first_bond, bond_atoms, in_ring, ptr, listed, stack, seen, b)
            label[num_edges] = mix64(np.uint64(kinds[b]) << np.uint64(8) | np.uint64(size))
            ends[num_edges, 0] = place[u]
            ends[num_edges, 1] = place[v]
            num_edges += 1

        for _ in range(NUM_SCAFFOLD_ROUNDS):
            for i in range(num_kept):
                gathered[i] = np.uint64(0)
            for b in range(num_edges):
                u = ends[b, 0]
                v = ends[b, 1]
                gathered[u] += mix64(color[v] ^ label[b])
                gathered[v] += mix64(color[u] ^ label[b])
            for i in range(num_kept):
                color[i] = mix64(color[i] ^ mix64(gathered[i]))
        total = np.uint64(0)
        for i in range(num_kept):
            total += mix64(color[i])
        out[m] = mix64(total ^ mix64(np.uint64(num_kept)))
