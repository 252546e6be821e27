"""Compiled code of `kernels.nn.messages`; rules as in `rng/_hashing.py`. Each loop is over a range of atoms and writes their rows
only, so ranges run side by side. A row's inner loop is elementwise and in order: wide instructions change no bit of it.

`x <= zero` is false for NaN, so NaN passes, as it does in torch.relu and its gradient.
"""

import numpy as np

from molstream.kernels.compiled import kernel

SIZES, POINTERS, ORDER, CODE, PAIRS = 1, 2, 3, 4, 5


@kernel("i8[:], i8[:], i8[:], i4[:], i4[:], i8")
def check_edges(source, target, code, order, ptr, num_codes):
    """(0, 0), or (what is wrong, at which edge or atom): the kernels below may read edges that pass."""
    num_edges = source.size
    num_atoms = ptr.size - 1
    if target.size != num_edges or code.size != num_edges or order.size != num_edges or num_edges % 2:
        return SIZES, num_edges
    if ptr[0] != 0 or ptr[num_atoms] != num_edges:
        return POINTERS, num_atoms
    for i in range(num_atoms):
        if ptr[i] > ptr[i + 1] or ptr[i] < 0 or ptr[i + 1] > num_edges:
            return POINTERS, i
        before = -1
        for k in range(ptr[i], ptr[i + 1]):
            e = order[k]
            # rising inside an atom, so no edge is there twice
            if e <= before or e >= num_edges or target[np.uint64(e)] != i:
                return ORDER, i
            before = e
    # without a way out, so that many are looked at at once; targets are atoms, as each was found above
    good = True
    for e in range(num_edges):
        good &= (code[e] >= 0) & (code[e] < num_codes)
    for b in range(num_edges // 2):
        good &= (source[2 * b] == target[2 * b + 1]) & (source[2 * b + 1] == target[2 * b])
    if not good:
        for e in range(num_edges):
            if code[e] < 0 or code[e] >= num_codes:
                return CODE, e
            if source[e ^ 1] != target[e]:
                return PAIRS, e
    return 0, 0


@kernel("i4[:], i8[:]")
def cut_atoms(ptr, cuts):
    """Cut atoms into `cuts.size - 1` ranges of about as many rows read and written: edges and atoms."""
    num_atoms = ptr.size - 1
    total = np.int64(ptr[num_atoms]) + num_atoms
    parts = cuts.size - 1
    i = 0
    for c in range(parts):
        while i < num_atoms and (np.int64(ptr[i]) + i) * parts < total * c:
            i += 1
        cuts[c] = i
    cuts[parts] = num_atoms


@kernel()
def sum_neighbours(x, source, order, ptr, first, last, out):
    """out[i] = sum over edges j -> i of x[j], for atoms first to last - 1."""
    zero = out.dtype.type(0)
    for i in range(first, last):
        row = out[i]
        row[:] = zero
        for k in range(ptr[i], ptr[i + 1]):
            state = x[source[order[k]]]
            for h in range(row.size):
                row[h] += state[h]


@kernel("f4[:, :], f4[:, :], i8[:], i8[:], i4[:], i4[:], i8, i8, f4[:, :]")
def sum_messages(x, table, source, code, order, ptr, first, last, out):
    """out[i] = sum over edges e = j -> i of relu(x[j] + table[code[e]]), for atoms first to last - 1."""
    zero = out.dtype.type(0)
    for i in range(first, last):
        row = out[i]
        row[:] = zero
        for k in range(ptr[i], ptr[i + 1]):
            e = order[k]
            state = x[source[e]]
            bond = table[code[e]]
            for h in range(row.size):
                message = state[h] + bond[h]
                row[h] += zero if message <= zero else message


@kernel("f4[:, :], f4[:, :], f4[:, :], i8[:], i8[:], i4[:], i4[:], i8[:], i8, i8, f4[:, :], f4[:, :, :]")
def add_gradients(grad, x, table, source, code, order, ptr, cuts, first, last, grad_x, grad_tables):
    """Gradients of `sum_messages` by x and the table, for ranges of atoms first to last - 1; grad_tables[c] is that of range c.

    An atom's message goes out along the reverse of each edge that comes in, so what comes back is gathered, never scattered.
    """
    zero = grad_x.dtype.type(0)
    for c in range(first, last):
        grad_table = grad_tables[c]
        grad_table[:] = zero
        for j in range(cuts[c], cuts[c + 1]):
            row = grad_x[j]
            row[:] = zero
            state = x[j]
            for k in range(ptr[j], ptr[j + 1]):
                e = order[k]
                kind = code[e ^ 1]
                bond = table[kind]
                total = grad_table[kind]
                back = grad[source[e]]
                for h in range(row.size):
                    passed = zero if state[h] + bond[h] <= zero else back[h]
                    row[h] += passed
                    total[h] += passed


@kernel("f4[:, :, :], f4[:, :]")
def add_in_order(parts, out):
    """out = parts[0] + parts[1] + ..., from the left."""
    for k in range(out.shape[0]):
        row = out[k]
        first = parts[0, k]
        for h in range(row.size):
            row[h] = first[h]
    for c in range(1, parts.shape[0]):
        for k in range(out.shape[0]):
            row = out[k]
            more = parts[c, k]
            for h in range(row.size):
                row[h] += more[h]
