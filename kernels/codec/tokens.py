"""The structure of molecules as a string of tokens, as short as a SMILES and far cheaper to read.

Atom by atom: the number of the atom's codes in a table of those that occur, then, for each bond to an earlier atom, the number of
(how far back, bond code) in a second table, counted on from the first. Ethanol, with atoms C, C, O in tables (C:0, O:1) and
(1 back, single: 2), is 0 0 2 1 2. Tables list rows in order of first use.
"""

from typing import NamedTuple

import numpy as np

from molstream.kernels.codec import _tokens
from molstream.kernels.codec.labels import check_starts


class Tokens(NamedTuple):
    atom_rows: np.ndarray
    """uint8 (K, F): distinct atom codes."""
    bond_steps: np.ndarray
    """uint16 (L): larger minus smaller atom."""
    bond_kinds: np.ndarray
    """uint8 (L): bond code."""
    tokens: np.ndarray
    """uint8, uint16 or uint32 (A + B)."""


def encode_tokens(
    atom_ptr: np.ndarray, bond_ptr: np.ndarray, atom_codes: np.ndarray, bond_atoms: np.ndarray, bond_codes: np.ndarray
) -> Tokens:
    """Columns of `Molecules` -> tokens. Raises ValueError when bonds are not sorted by (larger, smaller) atom."""
    step = bond_atoms[:, 1] - bond_atoms[:, 0]
    bonds = np.stack([step & 255, step >> 8, bond_codes], axis=1).astype(np.uint8)
    atom_kind, atom_first = _number_rows(np.ascontiguousarray(atom_codes))
    bond_kind, bond_first = _number_rows(bonds)
    bond_kind += len(atom_first)
    tokens = np.empty(len(atom_kind) + len(bond_kind), np.uint32)
    if not _tokens.write_tokens(atom_ptr, bond_ptr, bond_atoms, atom_kind, bond_kind, tokens):
        raise ValueError("bonds are not sorted by (larger, smaller) atom, or lead outside their molecule")
    return Tokens(atom_codes[atom_first], step[bond_first], bond_codes[bond_first], tokens)


def _number_rows(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number of each row among the distinct ones, and where each of these first appears."""
    number, first = np.empty(len(rows), np.int64), np.empty(len(rows), np.int64)
    slots = np.full(1 << (2 * len(rows) + 1).bit_length(), -1, np.int64)
    return number, first[: _tokens.number_rows(rows, slots, number, first)]


def decode_tokens(
    coded: Tokens,
    atom_ptr: np.ndarray,
    bond_ptr: np.ndarray,
    out: tuple[np.ndarray, ...] | None = None,
    *,
    starts: tuple[np.ndarray | None, np.ndarray | None] = (None, None),
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens -> atom_codes uint8 (A, F), bond_atoms uint16 (B, 2), bond_codes uint8 (B), in `out` if given.

    `starts`: where each molecule's atoms and bonds begin there (default: one after another). Raises ValueError when tokens do not
    make molecules of these sizes, or a bond leads outside its molecule.
    """
    num_atoms, num_bonds = int(atom_ptr[-1]), int(bond_ptr[-1])
    if coded.tokens.size != num_atoms + num_bonds:
        raise ValueError(f"{coded.tokens.size} tokens for {num_atoms} atoms and {num_bonds} bonds")
    if coded.bond_steps.size != coded.bond_kinds.size:
        raise ValueError(f"{coded.bond_steps.size} steps but {coded.bond_kinds.size} kinds of bonds")
    num_features = coded.atom_rows.shape[1]
    if out is None:
        shapes = ((num_atoms, num_features), np.uint8), ((num_bonds, 2), np.uint16), (num_bonds, np.uint8)
        out = tuple(np.empty(shape, dtype) for shape, dtype in shapes)
    atom_codes, bond_atoms, bond_codes = out
    if atom_codes.shape[1] != num_features or len(bond_atoms) != len(bond_codes) or not atom_codes.flags.c_contiguous:
        raise ValueError(f"place for {num_features} contiguous atom features and bonds is {[array.shape for array in out]}")
    atom_starts = check_starts(starts[0], atom_ptr, len(atom_codes))
    bond_starts = check_starts(starts[1], bond_ptr, len(bond_codes))
    rows = np.ascontiguousarray(coded.atom_rows).reshape(-1)
    columns = (atom_ptr, bond_ptr, atom_starts, bond_starts, atom_codes.reshape(-1), bond_atoms, bond_codes)
    if not _tokens.expand_tokens(coded.tokens, rows, num_features, coded.bond_steps, coded.bond_kinds, *columns):
        raise ValueError("tokens do not spell the molecules: an atom or bond too many or unknown, or a bond out of its molecule")
    return atom_codes, bond_atoms, bond_codes
