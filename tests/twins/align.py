"""Label lists onto atoms, bonds and pairs, entry by entry."""

import numpy as np


def align_lists(lists, *, atom_ptr, label_index, readable, num_heavy, num_all):
    """Twin of `align.align_lists`: molecule by molecule, task by task."""
    num_molecules = len(atom_ptr) - 1
    out = np.full((int(atom_ptr[-1]), len(lists)), np.nan, np.float32)
    status = np.zeros((num_molecules, 2), np.int64)
    for m in range(num_molecules):
        for t, (values, start, size) in enumerate(lists):
            entries = values[start[m] : start[m] + size[m]]
            if np.isnan(entries).all():
                continue
            if not readable[m]:
                status[m, 0] = 1
                break
            if len(entries) not in (num_heavy[m], num_all[m]):
                status[m] = 2, len(entries)
                break
            for a in range(atom_ptr[m], atom_ptr[m + 1]):
                if 0 <= label_index[a] < len(entries):
                    out[a, t] = entries[label_index[a]]
    return out, status


def align_bonds(lists, *, bond_ptr, bond_index, is_reversed):
    """Twin of `align.align_bonds`: bond by bond, as a dictionary of directed edges."""
    num_molecules = len(bond_ptr) - 1
    out = np.full((int(bond_ptr[-1]), len(lists), 2), np.nan, np.float32)
    status = np.zeros((num_molecules, 2), np.int64)
    for m in range(num_molecules):
        bonds = [b for b in range(bond_ptr[m], bond_ptr[m + 1]) if bond_index[b] >= 0]
        for t, (values, start, size) in enumerate(lists):
            entries = values[start[m] : start[m] + size[m]]
            if np.isnan(entries).all():
                continue
            if len(entries) not in (len(bonds), 2 * len(bonds)):
                status[m] = 2, len(entries)
                break
            for b in bonds:
                if len(entries) == len(bonds):
                    out[b, t, 0] = entries[bond_index[b]]
                else:
                    ways = {"begin to end": entries[2 * bond_index[b]], "end to begin": entries[2 * bond_index[b] + 1]}
                    # stored bonds go from the smaller atom to the larger
                    smaller_first = "end to begin" if is_reversed[b] else "begin to end"
                    out[b, t, 0] = ways.pop(smaller_first)
                    (out[b, t, 1],) = ways.values()
    return out, status


def align_pairs(lists, *, atom_ptr, pair_ptr, label_index, readable, num_heavy):
    """Twin of `align.align_pairs`: by a full matrix a molecule."""
    num_molecules = len(atom_ptr) - 1
    out = np.full((int(pair_ptr[-1]), len(lists), 2), np.nan, np.float32)
    status = np.zeros((num_molecules, 2), np.int64)
    for m in range(num_molecules):
        n, atoms = int(num_heavy[m]), label_index[atom_ptr[m] : atom_ptr[m + 1]]
        for t, (values, start, size) in enumerate(lists):
            entries = values[start[m] : start[m] + size[m]]
            if np.isnan(entries).all():
                continue
            if len(entries) not in (n * n, n * (n - 1) // 2):
                status[m] = 2, len(entries)
                break
            if not readable[m]:
                status[m, 0] = 1
                break
            matrix = np.full((n, n), np.nan, np.float32)
            if len(entries) == n * n:
                matrix[:] = entries.reshape(n, n)
            else:
                matrix[np.triu_indices(n, 1)] = entries
            for j in range(len(atoms)):
                for i in range(j + 1):
                    row, known = pair_ptr[m] + j * (j + 1) // 2 + i, 0 <= atoms[i] < n and 0 <= atoms[j] < n
                    if known and len(entries) == n * n:
                        out[row, t, 0] = matrix[atoms[i], atoms[j]]
                        out[row, t, 1] = matrix[atoms[j], atoms[i]] if i < j else np.nan
                    elif known and i < j:
                        out[row, t, 0] = matrix[min(atoms[i], atoms[j]), max(atoms[i], atoms[j])]
    return out, status
