"""Compiled passes over label columns: laying lists onto stored atoms, and moments. Rules as in `_numba.py`."""

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def is_absent(values, first, size):
    for k in range(first, first + size):  # noqa: SIM110  # compiled
        if not np.isnan(values[k]):
            return False
    return True


@njit(cache=True, nogil=True)
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


@njit(cache=True, nogil=True)
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


@njit(cache=True, nogil=True)
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


@njit(cache=True, nogil=True)
def moments(values, count, mean, m2, low, high):
    """Count, mean, sum of squared deviations, least and largest of each column's numbers; two passes, in row order."""
    num_rows, num_tasks = values.shape
    for t in range(num_tasks):
        count[t] = 0
        mean[t] = 0.0
        m2[t] = 0.0
        low[t] = np.inf
        high[t] = -np.inf
    for r in range(num_rows):
        for t in range(num_tasks):
            x = values[r, t]
            if not np.isnan(x):
                count[t] += 1
                mean[t] += np.float64(x)
                low[t] = min(low[t], np.float64(x))
                high[t] = max(high[t], np.float64(x))
    for t in range(num_tasks):
        mean[t] /= max(1, count[t])
    for r in range(num_rows):
        for t in range(num_tasks):
            x = values[r, t]
            if not np.isnan(x):
                d = np.float64(x) - mean[t]
                m2[t] += d * d


@njit(cache=True, nogil=True)
def f16_errors(values, bits, out):
    """Sum over each column of what rounding to the nearest float16 changes; `bits` are the values' own."""
    num_rows, num_tasks = values.shape
    out[:] = 0.0
    for r in range(num_rows):
        for t in range(num_tasks):
            x = np.float64(values[r, t])
            if np.isnan(x):
                continue
            size = abs(x)
            if size < 2.0**-14:
                # float16 is evenly spaced down here
                near = np.rint(size * 2.0**24) * 2.0**-24
            else:
                # 13 of the 23 bits go, ties to even
                b = bits[r, t] & np.uint32(0x7FFFFFFF)
                kept = (b + np.uint32(0xFFF) + ((b >> np.uint32(13)) & np.uint32(1))) >> np.uint32(13)
                near = 2.0 ** (np.int64(kept >> np.uint32(10)) - 127) * (1.0 + (kept & np.uint32(0x3FF)) * 2.0**-10)
                if near > 65504.0:
                    near = np.inf
            out[t] += abs(near - size)
