"""Compiled passes over label columns: laying lists onto stored atoms, and moments. Rules as in `rng/_hashing.py`."""

import numpy as np

from molstream.kernels.compiled import kernel, part


@part
def is_absent(values, first, size):
    for k in range(first, first + size):  # noqa: SIM110  # compiled
        if not np.isnan(values[k]):
            return False
    return True


@kernel("const f4[:], i8[:], i8[:], i8[:], i4[:], b1[:], i8[:], i8[:], i8, f4[:, :], i8[:, :]")
def align_list(values, start, size, atom_ptr, label_index, readable, num_heavy, num_all, task, out, status):
    """Write one task's lists into out[:, task]; see `align.align_lists`."""
    for m in range(atom_ptr.size - 1):
        first = start[m]
        if status[m, 0] != 0 or is_absent(values, first, size[m]):
            continue
        if not readable[m]:
            status[m, 0] = 1
        elif size[m] != num_heavy[m] and size[m] != num_all[m]:
            status[m, 0] = 2
            status[m, 1] = size[m]
        else:
            for a in range(atom_ptr[m], atom_ptr[m + 1]):
                k = label_index[a]
                if 0 <= k < size[m]:
                    out[a, task] = values[first + k]


@kernel()
def align_bond_list(values, start, size, bond_ptr, bond_index, is_reversed, num_bonds, task, out, status):
    """Write one task's lists into out[:, task]; see `align.align_bonds`."""
    for m in range(bond_ptr.size - 1):
        first = start[m]
        if status[m, 0] != 0 or is_absent(values, first, size[m]):
            continue
        if size[m] == num_bonds[m]:
            for b in range(bond_ptr[m], bond_ptr[m + 1]):
                if bond_index[b] >= 0:
                    out[b, task, 0] = values[first + bond_index[b]]
        elif size[m] == 2 * num_bonds[m]:
            for b in range(bond_ptr[m], bond_ptr[m + 1]):
                if bond_index[b] < 0:
                    continue
                edge = first + 2 * bond_index[b]
                flip = 1 if is_reversed[b] else 0
                out[b, task, 0] = values[edge + flip]
                out[b, task, 1] = values[edge + 1 - flip]
        else:
            status[m, 0] = 2
            status[m, 1] = size[m]


@kernel()
def align_pair_list(values, start, size, atom_ptr, pair_ptr, label_index, readable, num_heavy, task, out, status):
    """Write one task's lists into out[:, task]; see `align.align_pairs`."""
    for m in range(atom_ptr.size - 1):
        first = start[m]
        if status[m, 0] != 0 or is_absent(values, first, size[m]):
            continue
        n = num_heavy[m]
        is_full = size[m] == n * n
        if not is_full and size[m] != n * (n - 1) // 2:
            status[m, 0] = 2
            status[m, 1] = size[m]
            continue
        if not readable[m]:
            status[m, 0] = 1
            continue
        row = pair_ptr[m]
        for j in range(atom_ptr[m], atom_ptr[m + 1]):
            b = label_index[j]
            for i in range(atom_ptr[m], j + 1):
                a = label_index[i]
                if 0 <= a < n and 0 <= b < n:
                    if is_full:
                        out[row, task, 0] = values[first + a * n + b]
                        if i < j:
                            out[row, task, 1] = values[first + b * n + a]
                    elif a != b:
                        p = min(a, b)
                        q = max(a, b)
                        out[row, task, 0] = values[first + p * n - p * (p + 1) // 2 + q - p - 1]
                row += 1
