"""Hashes of scaffolds, molecule by molecule."""

from collections.abc import Sequence

import numpy as np
from twins.hashing import MASK, mix64
from twins.skeletons import hash_skeletons


def scaffold_atoms(in_ring: Sequence[bool], bonds: Sequence[tuple[int, int, int]]) -> set[int]:
    """`bonds`: (atom, atom, type). Strike out ends of chains until none is left, then take back what hangs on double bonds."""
    core = set(range(len(in_ring)))
    while True:
        ends = [i for u, v, _ in bonds if u in core and v in core for i in (u, v)]
        struck = {i for i in core if not in_ring[i] and ends.count(i) <= 1}
        if not struck:
            break
        core -= struck
    return core | {a for u, v, kind in bonds if kind == 1 for a, b in ((u, v), (v, u)) if b in core}


def smallest_ring(bond: int, ring_bonds: dict[int, tuple[int, int]]) -> int:
    """Number of bonds of the smallest ring through one of `ring_bonds`, 17 for any larger: walk from end to end without it."""
    start, goal = ring_bonds[bond]
    reached = {start}
    for size in range(1, 17):
        if goal in reached:
            return size
        steps = [pair for b, pair in ring_bonds.items() if b != bond]
        reached |= {v for u, v in steps if u in reached} | {u for u, v in steps if v in reached}
    return 17


def hash_scaffolds(
    atom_ptr: Sequence[int],
    bond_ptr: Sequence[int],
    atom_codes: np.ndarray,
    bond_atoms: np.ndarray,
    bond_codes: np.ndarray,
    *,
    num_stereo: int,
    key: int = 0,
) -> list[int]:
    """Each molecule alone: its skeleton if nothing is in a ring, or colours of scaffold atoms refined over labelled bonds."""
    hashes = []
    for m in range(len(atom_ptr) - 1):
        atoms = atom_codes[atom_ptr[m] : atom_ptr[m + 1]].tolist()
        pairs, codes = (x[bond_ptr[m] : bond_ptr[m + 1]].tolist() for x in (bond_atoms, bond_codes))
        if not any(ring for *_, ring in atoms):
            elements = [atom[0] for atom in atoms]
            hashes += hash_skeletons([0, len(atoms)], [0, len(pairs)], elements, np.array(pairs).reshape(-1, 2), key=key)
            continue
        kinds = [code // 2 // num_stereo for code in codes]
        kept = scaffold_atoms([bool(ring) for *_, ring in atoms], [(u, v, kind) for (u, v), kind in zip(pairs, kinds)])
        inside = [b for b, (u, v) in enumerate(pairs) if u in kept and v in kept]
        ring_bonds = {b: tuple(pairs[b]) for b in inside if codes[b] % 2}
        neighbours: dict[int, list[tuple[int, int]]] = {i: [] for i in kept}
        for b in inside:
            label = mix64(256 * kinds[b] + (smallest_ring(b, ring_bonds) if b in ring_bonds else 0))
            u, v = pairs[b]
            neighbours[u].append((v, label))
            neighbours[v].append((u, label))
        color = {}
        for i in kept:
            element, _, charge, radicals, _, aromatic, _ = atoms[i]
            color[i] = mix64(mix64(key) ^ int.from_bytes([element, charge, radicals, aromatic], "big"))
        for _ in range(16):
            around = {i: sum(mix64(color[j] ^ label) for j, label in neighbours[i]) & MASK for i in kept}
            color = {i: mix64(color[i] ^ mix64(around[i])) for i in kept}
        hashes.append(mix64(sum(mix64(c) for c in color.values()) & MASK ^ mix64(len(kept))))
    return hashes
