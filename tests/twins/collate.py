"""Batches, slot by slot."""

from bisect import bisect_left
from collections.abc import Sequence

import numpy as np

from molstream.kernels.packing.collate import PackColumns


def collate_pack(molecules: Sequence[int], columns: PackColumns, *, graphs: int, atoms: int, edges: int) -> dict[str, list]:
    """Lists of what is there, then padding up to the shape; edges by destination with a stable sort."""
    codes: list[list[int]] = []
    sources, targets, edge_codes, graph_of_atom, atom_ptr = [], [], [], [], []
    for g, m in enumerate(molecules):
        first = len(codes)
        atom_ptr.append(first)
        for a in range(columns.atom_ptr[m], columns.atom_ptr[m + 1]):
            codes.append(columns.atom_codes[a].tolist())
            graph_of_atom.append(g)
        for b in range(columns.bond_ptr[m], columns.bond_ptr[m + 1]):
            u, v = (first + int(i) for i in columns.bond_atoms[b])
            sources += [u, v]
            targets += [v, u]
            edge_codes += 2 * [int(columns.bond_codes[b])]
    num_atoms, num_edges = len(codes), len(sources)
    sources += (edges - num_edges) * [atoms - 1]
    targets += (edges - num_edges) * [atoms - 1]
    edge_order = sorted(range(edges), key=targets.__getitem__)
    return {
        "atom_codes": codes + (atoms - num_atoms) * [columns.atom_codes.shape[1] * [0]],
        "edge_index": [sources, targets],
        "edge_codes": edge_codes + (edges - num_edges) * [0],
        "edge_order": edge_order,
        "edge_ptr": [bisect_left([targets[e] for e in edge_order], a) for a in range(atoms + 1)],
        "graph_of_atom": graph_of_atom + (atoms - num_atoms) * [graphs - 1],
        "atom_ptr": atom_ptr + (graphs - len(atom_ptr)) * [num_atoms] + [atoms],
        "graph_mask": [g < len(atom_ptr) for g in range(graphs)],
        "atom_mask": [a < num_atoms for a in range(atoms)],
        "edge_mask": [e < num_edges for e in range(edges)],
    }


def collate_pairs(molecules: Sequence[int], atom_ptr: Sequence[int], *, atoms: int, pairs: int) -> list[list[int]]:
    """Look at every pair of a molecule's slots, larger one first, then padding up to the shape."""
    low, high, first = [], [], 0
    for m in molecules:
        slots = range(first, first + int(atom_ptr[m + 1]) - int(atom_ptr[m]))
        both = [(i, j) for j in slots for i in slots if i <= j]
        low += [i for i, _ in both]
        high += [j for _, j in both]
        first += len(slots)
    padding = (pairs - len(low)) * [atoms - 1]
    return [low + padding, high + padding]


def collate_labels(
    molecules: Sequence[int], ptr: Sequence[int], labels: np.ndarray, *, rows: int
) -> tuple[np.ndarray, np.ndarray]:
    """Stack the molecules' rows and rows of NaN; count what is not NaN."""
    parts = [labels[ptr[m] : ptr[m + 1]] for m in molecules]
    real = np.concatenate([np.empty((0, labels.shape[1]), np.float32), *parts])
    out = np.concatenate([real, np.full((rows - len(real), labels.shape[1]), np.nan)]).astype(np.float32)
    return out, np.sum(~np.isnan(out), axis=0)
