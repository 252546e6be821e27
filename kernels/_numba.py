"""Compiled code, away from import hooks and from anything that is not a number; more of it is in the files `_numba_*`.

One decision: every function is `nogil` and works on arrays its caller allocated and checked, so that threads run them side by
side. The price: nothing in here raises; a caller that passes an index out of range corrupts memory. Callers check first.
"""

import numpy as np
from numba import njit

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
MIX_2 = np.uint64(0x94D049BB133111EB)
NUM_FEISTEL_ROUNDS = 6
NUM_SKELETON_ROUNDS = 8


@njit(cache=True, nogil=True, inline="always")
def mix64(x):
    x = np.uint64(x) + GOLDEN
    x = (x ^ (x >> np.uint64(30))) * MIX_1
    x = (x ^ (x >> np.uint64(27))) * MIX_2
    return x ^ (x >> np.uint64(31))


@njit(cache=True, nogil=True)
def hash_u64(key, values, out):
    for i in range(values.size):
        out[i] = mix64(key ^ mix64(values[i]))


@njit(cache=True, nogil=True)
def permute(key, n, half_bits, start, out):
    """out[k] = image of start + k under a keyed permutation of [0, n): Feistel rounds on 2 * half_bits bits, cycle-walked."""
    shift = np.uint64(half_bits)
    mask = (np.uint64(1) << shift) - np.uint64(1)
    size = np.uint64(n)
    for k in range(out.size):
        x = np.uint64(start + k)
        while True:
            left = x >> shift
            right = x & mask
            for r in range(NUM_FEISTEL_ROUNDS):
                left, right = right, left ^ (mix64(right ^ mix64(key + np.uint64(r))) & mask)
            x = (left << shift) | right
            if x < size:
                break
        out[k] = x


@njit(cache=True, nogil=True)
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


@njit(cache=True, nogil=True)
def shuffle_bytes(data, item_size, out):
    n = data.size // item_size
    for k in range(item_size):
        for i in range(n):
            out[k * n + i] = data[i * item_size + k]


@njit(cache=True, nogil=True)
def unshuffle_bytes(data, item_size, out):
    n = data.size // item_size
    if item_size == 4:
        for i in range(n):
            out[4 * i] = data[i]
            out[4 * i + 1] = data[n + i]
            out[4 * i + 2] = data[2 * n + i]
            out[4 * i + 3] = data[3 * n + i]
    else:
        for k in range(item_size):
            for i in range(n):
                out[i * item_size + k] = data[k * n + i]


TILE = 64


@njit(cache=True, nogil=True)
def place_rows(first, size, m, ptr, starts, width, place):
    """place[i] = where row first + i begins in a flat array of rows of `width`, if molecule m's rows begin at row starts[m].

    `m` is the molecule of a row before; returns that of the last one. `ptr` are the offsets of the rows as they are read.
    """
    for i in range(size):
        while first + i >= ptr[m + 1]:
            m += 1
        place[i] = np.uint64((starts[m] + first + i - ptr[m]) * width)
    return m


@njit(cache=True, nogil=True)
def scatter_rows(rows, size, width, place, out):
    """out[place[i] : place[i] + width] = row i of `rows`; both are flat. Rows that go to consecutive places go together."""
    i = 0
    while i < size:
        run = 1
        while i + run < size and place[i + run] == place[i] + np.uint64(run * width):
            run += 1
        source = rows[i * width : (i + run) * width]
        target = out[place[i] : place[i] + np.uint64(run * width)]
        for k in range(source.size):
            target[k] = source[k]
        i += run


@njit(cache=True, nogil=True)
def transpose(columns, ptr, starts, out):
    """Row r of molecule m, which is columns[:, r], goes to row starts[m] + r - ptr[m] of `out`, which is flat."""
    num_columns, num_rows = columns.shape
    place = np.empty(TILE, np.uint64)
    rows = np.empty(TILE * num_columns, columns.dtype)
    m = 0
    for first in range(0, num_rows, TILE):
        size = min(TILE, num_rows - first)
        m = place_rows(first, size, m, ptr, starts, num_columns, place)
        for k in range(num_columns):
            tile = columns[k, first : first + size]
            for i in range(size):
                rows[np.uint64(i * num_columns + k)] = tile[i]
        scatter_rows(rows, size, num_columns, place, out)


@njit(cache=True, nogil=True)
def number_rows(rows, slots, number, first):
    """number[i]: rows[i] is the number[i]-th distinct row, in order of first appearance, at first[number[i]]. Returns how many.

    `slots` is -1 throughout, a power of two long and longer than `rows`.
    """
    distinct = 0
    for i in range(rows.shape[0]):
        h = np.uint64(0)
        for f in range(rows.shape[1]):
            h = (h ^ np.uint64(rows[i, f])) * MIX_1
        s = np.int64(mix64(h) & np.uint64(slots.size - 1))
        while True:
            d = slots[s]
            if d < 0:
                slots[s] = distinct
                first[distinct] = i
                d = distinct
                distinct += 1
                break
            same = True
            for f in range(rows.shape[1]):
                if rows[i, f] != rows[first[d], f]:
                    same = False
                    break
            if same:
                break
            s = (s + 1) & (slots.size - 1)
        number[i] = d
    return distinct


@njit(cache=True, nogil=True)
def write_tokens(atom_ptr, bond_ptr, bond_atoms, atom_kind, bond_kind, tokens):
    """Each atom's kind followed by the kinds of its bonds to earlier atoms; False when bonds are not in that order."""
    at = 0
    for m in range(atom_ptr.size - 1):
        b = bond_ptr[m]
        for a in range(atom_ptr[m], atom_ptr[m + 1]):
            tokens[at] = atom_kind[a]
            at += 1
            while b < bond_ptr[m + 1] and bond_atoms[b, 1] == a - atom_ptr[m] and bond_atoms[b, 0] < bond_atoms[b, 1]:
                tokens[at] = bond_kind[b]
                at += 1
                b += 1
        if b < bond_ptr[m + 1]:
            return False
    return True


@njit(cache=True, nogil=True)
def expand_tokens(
    tokens,
    atom_rows,
    num_features,
    bond_steps,
    bond_kinds,
    atom_ptr,
    bond_ptr,
    atom_starts,
    bond_starts,
    atom_codes,
    bond_atoms,
    bond_codes,
):
    """Inverse of `write_tokens`; False when the tokens are not those of molecules of these sizes.

    Molecule m begins at atom_starts[m] and bond_starts[m]. `atom_rows` and `atom_codes` are flat. Indices are unsigned because a
    signed one costs a test for being negative.
    """
    num_atom_kinds = atom_rows.size // num_features
    at = np.uint64(0)
    for m in range(atom_ptr.size - 1):
        first = atom_starts[m]
        a = first
        b = bond_starts[m]
        last_a = a + atom_ptr[m + 1] - atom_ptr[m]
        last_b = b + bond_ptr[m + 1] - bond_ptr[m]
        for _ in range(last_a - a + last_b - b):
            token = np.int64(tokens[at])
            at += np.uint64(1)
            if token < num_atom_kinds:
                if a == last_a:
                    return False
                row = atom_rows[token * num_features : (token + 1) * num_features]
                codes = atom_codes[a * num_features : (a + 1) * num_features]
                for f in range(num_features):
                    codes[f] = row[f]
                a += 1
            else:
                token -= num_atom_kinds
                if b == last_b or token >= bond_steps.size:
                    return False
                step = np.int64(bond_steps[np.uint64(token)])
                place = a - first - 1
                if step == 0 or step > place:
                    return False
                bond_atoms[np.uint64(b), 0] = place - step
                bond_atoms[np.uint64(b), 1] = place
                bond_codes[np.uint64(b)] = bond_kinds[np.uint64(token)]
                b += 1
    return True
