"""Compiled tokens. Rules as in `rng/_hashing.py`."""

import numpy as np

from molstream.kernels.compiled import kernel
from molstream.kernels.rng._hashing import MIX_1, mix64


@kernel("u1[:, :], i8[:], i8[:], i8[:]")
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


@kernel("i8[:], i8[:], u2[:, :], i8[:], i8[:], u4[:]")
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


@kernel("const u1[:], const u1[:], i8, const u1[:], const u1[:], i8[:], i8[:], i8[:], i8[:], u1[:], u2[:, :], u1[:]")
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
