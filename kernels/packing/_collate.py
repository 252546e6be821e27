"""Compiled collation. Rules as in `rng/_hashing.py`. Loops run over slices of equal length: that is what LLVM
turns into wide loads and stores."""

import numpy as np

from molstream.kernels.compiled import kernel, part

LOW = np.uint64(0xFFFF)


@kernel("i8[:], i8[:]")
def measure(molecules, ptr):
    """Rows of all molecules together, and most of one; (-1, number) for a molecule that is not there."""
    total = 0
    largest = 0
    for m in molecules:
        if m < 0 or m >= ptr.size - 1:
            return -1, m
        size = ptr[m + 1] - ptr[m]
        total += size
        largest = max(largest, size)
    return total, largest


@part
def copy_rows(molecules, ptr, rows, width, out, pad):
    """Copy rows ptr[m]:ptr[m + 1] of each molecule, `width` numbers each, one after another; `pad` in what is left of `out`.

    `rows` and `out` are flat.
    """
    at = 0
    for m in molecules:
        source = rows[ptr[m] * width : ptr[m + 1] * width]
        place = out[at : at + source.size]
        for i in range(source.size):
            place[i] = source[i]
        at += source.size
    out[at:] = pad
    return at


@kernel(*(f"i8[:], i8[:], {bits}[:], i8, {bits}[:], {bits}" for bits in ("u4", "u2", "u1")))
def gather_rows(molecules, ptr, rows, width, out, pad):
    """The same, for Python."""
    return copy_rows(molecules, ptr, rows, width, out, pad)


@kernel("f4[:], i4[:]")
def count_present(values, num_labels):
    """num_labels[t] = numbers of column t that are not NaN; `values` is flat, row by row.

    Rows are taken so many at a time that the inner loop is long enough to be done eight numbers at once.
    """
    num_tasks = num_labels.size
    num_labels[:] = 0
    if num_tasks == 0:
        return
    stride = num_tasks * max(1, 128 // num_tasks)
    counts = np.zeros(stride, np.int32)
    last = values.size // stride * stride
    for first in range(0, last, stride):
        part = values[first : first + stride]
        for i in range(stride):
            counts[i] += np.int32(part[i] == part[i])
    for i in range(values.size - last):
        counts[i] += np.int32(values[last + i] == values[last + i])
    for i in range(stride):
        num_labels[i % num_tasks] += counts[i]


@part
def collate_bonds(molecules, atom_ptr_of, bond_ptr_of, ends_of, codes_of, sources, targets, codes):
    """Both directions of each bond: sources[b] and targets[b] are edges 2 b and 2 b + 1 in one integer, codes[b] their codes.

    ends_of[b] is smaller atom | larger atom << 16.
    """
    at_atom = np.uint64(0)
    at = 0
    for m in molecules:
        ends = ends_of[bond_ptr_of[m] : bond_ptr_of[m + 1]]
        code = codes_of[bond_ptr_of[m] : bond_ptr_of[m + 1]]
        source = sources[at : at + ends.size]
        target = targets[at : at + ends.size]
        both = codes[at : at + ends.size]
        base = at_atom | (at_atom << np.uint64(32))
        for b in range(ends.size):
            pair = np.uint64(ends[b])
            u = pair & LOW
            v = pair >> np.uint64(16)
            source[b] = (u | (v << np.uint64(32))) + base
            target[b] = (v | (u << np.uint64(32))) + base
        for b in range(ends.size):
            both[b] = np.uint16(code[b]) * np.uint16(257)
        at_atom += np.uint64(atom_ptr_of[m + 1] - atom_ptr_of[m])
        at += ends.size


@kernel()
def collate_pairs(molecules, atom_ptr_of, low, high, last_atom):
    """Atom slots low[p] <= high[p] of each pair, by the larger atom, then the smaller; `last_atom` in what is left of both."""
    first = 0
    at = 0
    for m in molecules:
        num_atoms = atom_ptr_of[m + 1] - atom_ptr_of[m]
        for j in range(num_atoms):
            smaller = low[at : at + j + 1]
            for i in range(smaller.size):
                smaller[i] = np.int32(first + i)
            high[at : at + j + 1] = np.int32(first + j)
            at += j + 1
        first += num_atoms
    low[at:] = last_atom
    high[at:] = last_atom
    return at


@part
def sort_edges(molecules, atom_ptr_of, bond_ptr_of, bond_atoms, cursor, edge_order, edge_ptr):
    """Edges by destination, molecule by molecule, so that all of it stays in the nearest cache. `cursor` is scratch."""
    at_atom = np.uint64(0)
    at_edge = np.int32(0)
    for m in molecules:
        num_atoms = np.uint64(atom_ptr_of[m + 1] - atom_ptr_of[m])
        bonds = bond_atoms[bond_ptr_of[m] : bond_ptr_of[m + 1]]
        num_bonds = np.uint64(bonds.shape[0])
        for i in range(num_atoms):
            cursor[np.uint64(i)] = 0
        for b in range(num_bonds):
            cursor[np.uint64(bonds[np.uint64(b), 0])] += np.int32(1)
            cursor[np.uint64(bonds[np.uint64(b), 1])] += np.int32(1)
        start = at_edge
        for i in range(num_atoms):
            edge_ptr[at_atom + np.uint64(i)] = start
            degree = cursor[np.uint64(i)]
            cursor[np.uint64(i)] = start
            start += degree
        edge = at_edge
        for b in range(num_bonds):
            u = np.uint64(bonds[np.uint64(b), 0])
            v = np.uint64(bonds[np.uint64(b), 1])
            edge_order[np.uint64(cursor[v])] = edge
            cursor[v] += np.int32(1)
            edge_order[np.uint64(cursor[u])] = edge + np.int32(1)
            cursor[u] += np.int32(1)
            edge += np.int32(2)
        at_edge = edge
        at_atom += num_atoms
    return at_edge


@kernel(
    "i8[:], i8[:], i8[:], u1[:], u2[:, :], u4[:], u1[:], i4[:], "
    "u1[:], i4[:, :], u8[:, :], u1[:], u2[:], i4[:], i4[:], i4[:], i4[:], b1[:], b1[:], b1[:]",
)
def collate_structure(
    molecules,
    atom_ptr_of,
    bond_ptr_of,
    atom_codes_of,
    bond_atoms_of,
    bond_ends_of,
    bond_codes_of,
    cursor,
    atom_codes,
    edge_index,
    edge_pairs,
    edge_codes,
    code_pairs,
    edge_order,
    edge_ptr,
    graph_of_atom,
    atom_ptr,
    graph_mask,
    atom_mask,
    edge_mask,
):
    """Fill one batch's structure arrays completely, padding included; see `collate.collate_pack`.

    `edge_pairs` and `code_pairs` are `edge_index` and `edge_codes` as numbers of twice the width; `atom_codes` is flat.
    """
    num_graph_slots = graph_mask.size
    num_atom_slots = atom_mask.size
    num_edge_slots = edge_mask.size
    width = atom_codes.size // num_atom_slots
    copy_rows(molecules, atom_ptr_of, atom_codes_of, width, atom_codes, np.uint8(0))
    collate_bonds(molecules, atom_ptr_of, bond_ptr_of, bond_ends_of, bond_codes_of, edge_pairs[0], edge_pairs[1], code_pairs)
    num_edges = sort_edges(molecules, atom_ptr_of, bond_ptr_of, bond_atoms_of, cursor, edge_order, edge_ptr)
    num_atoms = 0
    for g in range(molecules.size):
        m = molecules[g]
        atom_ptr[g] = num_atoms
        size = atom_ptr_of[m + 1] - atom_ptr_of[m]
        graph_of_atom[num_atoms : num_atoms + size] = g
        num_atoms += size
    # every padded atom belongs to the last graph slot, so the slots between are empty
    atom_ptr[molecules.size : num_graph_slots] = num_atoms
    atom_ptr[num_graph_slots] = num_atom_slots
    graph_of_atom[num_atoms:] = num_graph_slots - 1
    graph_mask[: molecules.size] = True
    graph_mask[molecules.size :] = False
    atom_mask[:num_atoms] = True
    atom_mask[num_atoms:] = False
    edge_mask[:num_edges] = True
    edge_mask[num_edges:] = False
    # padded edges loop on the last atom
    edge_index[:, num_edges:] = num_atom_slots - 1
    edge_codes[num_edges:] = 0
    edge_ptr[num_atoms:num_atom_slots] = num_edges
    edge_ptr[num_atom_slots] = num_edge_slots
    for e in range(num_edges, num_edge_slots):
        edge_order[e] = e
