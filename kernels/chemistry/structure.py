"""Batches of SMILES texts and of molecules that RDKit wrote -> columns, without a Python loop over atoms.

One decision: these read what RDKit made of a molecule, in either of two forms. Its canonical SMILES says everything about usual
organic molecules, and next to nothing of chemistry is needed to read it (the valence of an atom without brackets). Its binary
molecules say everything about any, but cost more to write and their layout is no promise. Every read is checked, and a molecule
in which anything is not as expected is UNREAD. The price: whoever calls needs another reader for those, and must compare the two
before trusting a new version of RDKit.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from molstream.kernels.chemistry import _structure

GENERAL, FULL, PLAIN = _structure.GENERAL, _structure.FULL, _structure.PLAIN
UNREAD, READ, BAD_MAPS = _structure.UNREAD, _structure.READ, _structure.BAD_MAPS


class Scan(NamedTuple):
    """What texts look like; those of kind GENERAL are not in `plain` and `maps`."""

    kinds: np.ndarray
    """uint8 (N): GENERAL: not looked into. FULL: any SMILES without explicit hydrogens. PLAIN: nor stereo, nor elements other
    than C N O F P S Cl Br I."""
    plain: str
    """The texts without atom maps, one after the other."""
    plain_ptr: np.ndarray
    """int64 (N + 1)."""
    maps: np.ndarray
    """int64 (atoms): map number of each atom the texts name, -1 for none."""
    map_ptr: np.ndarray
    """int64 (N + 1)."""
    has_maps: np.ndarray
    """bool (N)."""


def scan_smiles(texts: Sequence[str]) -> Scan:
    """Look through texts byte by byte: what does each need, and what are its atom maps?"""
    data = "".join(texts)
    if not data.isascii():
        texts = [text if text.isascii() else "" for text in texts]
        data = "".join(texts)
    ptr = np.zeros(len(texts) + 1, np.int64)
    np.cumsum(np.fromiter(map(len, texts), np.int64, len(texts)), out=ptr[1:])
    plain, maps = np.empty(len(data), np.uint8), np.empty(len(data), np.int64)
    plain_ptr, map_ptr = np.empty_like(ptr), np.empty_like(ptr)
    has_maps, kinds = np.empty(len(texts), bool), np.empty(len(texts), np.uint8)
    _structure.scan_smiles(np.frombuffer(data.encode("ascii"), np.uint8), ptr, plain, plain_ptr, maps, map_ptr, has_maps, kinds)
    return Scan(
        kinds=kinds,
        plain=plain[: plain_ptr[-1]].tobytes().decode("ascii"),
        plain_ptr=plain_ptr,
        maps=maps[: map_ptr[-1]].copy(),
        map_ptr=map_ptr,
        has_maps=has_maps,
    )


class Limits(NamedTuple):
    """Where the codes of open-ended features end."""

    max_degree: int
    max_charge: int
    max_radicals: int
    max_valence: int
    num_stereo: int
    """Codes of bond stereo, the last for any other."""


class StructureColumns(NamedTuple):
    """Molecules in the order of their canonical SMILES; entries of one that is UNREAD mean nothing."""

    status: np.ndarray
    """uint8 (M): UNREAD; READ; BAD_MAPS: read, but its atom maps are not 0..n-1, each once."""
    atom_ptr: np.ndarray
    """int64 (M + 1)."""
    bond_ptr: np.ndarray
    """int64 (M + 1)."""
    atom_codes: np.ndarray
    """uint8 (A, 7): element, degree, charge, radicals, valence, aromatic, ring."""
    bond_atoms: np.ndarray
    """uint16 (B, 2), smaller first, sorted by (larger, smaller) inside a molecule."""
    bond_codes: np.ndarray
    """uint8 (B): (type * num_stereo + stereo) * 2 + ring."""
    label_index: np.ndarray
    """int32 (A): entry of an atom list that belongs to each stored atom; -1 where status is BAD_MAPS."""
    num_hydrogens: np.ndarray
    """int64 (M): implicit and explicit ones, of all atoms."""


def is_shorthand(smiles: str) -> bool:
    """Is the canonical SMILES of a PLAIN text one that `decode_molecules` is likely to read?"""
    if "[" in smiles:
        for atom in ("[nH]", "[N+]", "[O-]", "[n+]"):
            smiles = smiles.replace(atom, "")
    return not ("[" in smiles or "%" in smiles or "P" in smiles or "p" in smiles)


def decode_molecules(
    forms: Sequence[bytes], orders: Sequence[str], rows: np.ndarray, scan: Scan, *, limits: Limits, max_atoms: int
) -> StructureColumns:
    """M molecules that RDKit wrote -> columns. One that is not understood in full is UNREAD.

    `forms`: each RDKit's binary molecule without conformers, or its canonical SMILES if that `is_shorthand`. `orders`: the
    atoms of each in the order of its canonical SMILES, "[2,0,1,]". `rows` (M): entries of `scan` they come from.
    """
    if not len(forms) == len(orders) == len(rows):
        raise ValueError(f"{len(forms)} molecules, {len(orders)} orders, {len(rows)} rows")
    if max_atoms > 2**16:
        raise ValueError(f"max_atoms={max_atoms}: bonds hold atom numbers of 16 bits")
    num_molecules = len(forms)
    data, ptr = _join(forms)
    order_data, order_ptr = _join([order.encode() for order in orders])
    num_atoms, num_bonds = np.empty(num_molecules, np.int64), np.empty(num_molecules, np.int64)
    _structure.measure_molecules(data, ptr, max_atoms, num_atoms, num_bonds)
    atom_ptr, bond_ptr = np.zeros(num_molecules + 1, np.int64), np.zeros(num_molecules + 1, np.int64)
    np.cumsum(num_atoms, out=atom_ptr[1:])
    np.cumsum(num_bonds, out=bond_ptr[1:])
    columns = StructureColumns(
        status=np.empty(num_molecules, np.uint8),
        atom_ptr=atom_ptr,
        bond_ptr=bond_ptr,
        atom_codes=np.empty((atom_ptr[-1], _structure.NUM_FEATURES), np.uint8),
        bond_atoms=np.empty((bond_ptr[-1], 2), np.uint16),
        bond_codes=np.empty(bond_ptr[-1], np.uint8),
        label_index=np.empty(atom_ptr[-1], np.int32),
        num_hydrogens=np.empty(num_molecules, np.int64),
    )
    first = scan.map_ptr[rows]
    _structure.decode_molecules(
        data,
        ptr,
        order_data,
        order_ptr,
        scan.maps,
        first,
        scan.map_ptr[rows + 1] - first,
        scan.has_maps[rows],
        atom_ptr,
        bond_ptr,
        tuple(map(int, limits)),
        columns.atom_codes,
        columns.bond_atoms,
        columns.bond_codes,
        columns.label_index,
        columns.num_hydrogens,
        columns.status,
    )
    return columns


def _join(parts: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    ptr = np.zeros(len(parts) + 1, np.int64)
    np.cumsum(np.fromiter(map(len, parts), np.int64, len(parts)), out=ptr[1:])
    return np.frombuffer(b"".join(parts), np.uint8), ptr
