"""SMILES -> category codes, and which entry of an atom list belongs to which stored atom. The only file that imports RDKit.

The stored SMILES is RDKit's canonical one without atom maps; stored atom k is its k-th atom. Atom maps are read from the text,
not from RDKit, because RDKit reads `:0` as "no map" (the trap that shifted published PM6 baselines, Graphium issue 503).
"""

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from rdkit import Chem, rdBase

from shards import schema
from shards.errors import FeaturizeError
from shards.types import Molecules, offsets

ATOM = re.compile(r"\[[^\[\]]*\]|Cl|Br|[BCNOPSFIbcnops*]")
ATOM_MAP = re.compile(r":(\d+)\]", re.ASCII)
_KINDS = {
    Chem.BondType.SINGLE: 0,
    Chem.BondType.DOUBLE: 1,
    Chem.BondType.TRIPLE: 2,
    Chem.BondType.AROMATIC: 3,
}
_STEREO = {
    Chem.BondStereo.STEREONONE: 0,
    Chem.BondStereo.STEREOANY: 1,
    Chem.BondStereo.STEREOZ: 2,
    Chem.BondStereo.STEREOE: 3,
    Chem.BondStereo.STEREOCIS: 4,
    Chem.BondStereo.STEREOTRANS: 5,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Parsed:
    """One molecule of n stored atoms and m bonds."""

    smiles: str
    """Canonical, without atom maps; atom k of the arrays is its k-th atom."""
    atom_codes: np.ndarray
    """uint8 (n, F)."""
    bond_atoms: np.ndarray
    """uint16 (m, 2), smaller first, sorted by (larger, smaller)."""
    bond_codes: np.ndarray
    """uint8 (m)."""
    label_index: np.ndarray | None
    """int64 (n): entry of an atom list that belongs to each stored atom, -1 for none; None if the maps do not say."""
    map_problem: str
    """Why label_index is None; empty otherwise."""
    num_heavy: int
    """Length of an atom list with heavy atoms only."""
    num_all: int
    """Length of an atom list with every hydrogen."""


def rdkit_version() -> str:
    """Version of RDKit, as recorded in the manifest."""
    return rdBase.rdkitVersion


def parse_molecule(smiles: str) -> Parsed:
    """Parse one SMILES, with or without atom maps. Raises FeaturizeError with a reason a person can act on."""
    text = smiles.strip().split(maxsplit=1)
    if not text:
        raise FeaturizeError("empty SMILES")
    if not text[0].isascii():
        # RDKit drops such characters at the ends and reads what is left
        raise FeaturizeError("a character that is not ASCII")
    if "\n" in smiles.strip() or "\r" in smiles.strip():
        raise FeaturizeError("more than one line")
    maps = _read_maps(text[0])
    plain = ATOM_MAP.sub("]", text[0])
    if ATOM_MAP.search(plain):
        raise FeaturizeError("an atom with two map numbers")
    with rdBase.BlockLogs():
        mol = _parse(plain)
        if mol.GetNumAtoms() == 0:
            raise FeaturizeError("molecule has no atoms")
        if mol.GetNumAtoms() > schema.MAX_ATOMS:
            raise FeaturizeError(f"{mol.GetNumAtoms()} atoms, more than {schema.MAX_ATOMS}")
        if maps is not None and mol.GetNumAtoms() != len(maps):
            raise FeaturizeError(f"RDKit reads {mol.GetNumAtoms()} atoms, the text names {len(maps)}")
        # a list once: iterating over RDKit's sequence costs more than what is read from it
        atoms = list(mol.GetAtoms())
        num_all = len(atoms) + sum(atom.GetTotalNumHs() for atom in atoms)
        source = list(range(len(atoms)))
        has_hydrogens = any(atom.GetAtomicNum() == 1 for atom in atoms)
        if has_hydrogens:
            for k, atom in enumerate(atoms):
                atom.SetIntProp("_source", k)
            mol = Chem.RemoveHs(mol)
            atoms = list(mol.GetAtoms())
            source = [atom.GetIntProp("_source") for atom in atoms]
        canonical = Chem.MolToSmiles(mol)
    order = np.array(mol.GetPropsAsDict(True, True)["_smilesAtomOutputOrder"], np.int64)
    rank = np.empty_like(order)
    rank[order] = np.arange(order.size)

    elements = np.array([atom.GetAtomicNum() for atom in atoms])
    # a molecule of hydrogens alone is labelled on those
    heavy = (elements != 1) | (elements == 1).all()
    if maps is None and has_hydrogens:
        # hydrogens stand among the heavy atoms of the text, so what order a list over all atoms had is anyone's guess
        num_all = int(heavy.sum())
    bond_atoms, bond_codes = _bonds(mol, rank)
    label_index, problem = None, ""
    try:
        label_index = _label_index(maps, source, heavy)[order]
    except FeaturizeError as error:
        problem = str(error)
    return Parsed(
        smiles=canonical,
        atom_codes=np.array([_atom_codes(atom) for atom in atoms], np.uint8)[order],
        bond_atoms=bond_atoms,
        bond_codes=bond_codes,
        label_index=label_index,
        map_problem=problem,
        num_heavy=int(heavy.sum()),
        num_all=num_all,
    )


def _parse(plain: str) -> Chem.Mol:
    params: Any = Chem.SmilesParserParams()
    params.removeHs = False
    params.allowCXSMILES = False
    mol = Chem.MolFromSmiles(plain, params)
    if mol is not None:
        return mol
    # once more, in two steps, for the reason
    params.sanitize = False
    mol = Chem.MolFromSmiles(plain, params)
    if mol is None:
        raise FeaturizeError("not a SMILES that RDKit can parse")
    try:
        Chem.SanitizeMol(mol)
    except Chem.MolSanitizeException as error:
        raise FeaturizeError(f"RDKit: {error}") from error
    raise FeaturizeError("RDKit rejects its stereo or hydrogens")


def _read_maps(text: str) -> list[int] | None:
    """Map number of each atom in the order of the text, -1 for none; None when no atom has one."""
    if ":" not in text:
        return None
    maps = []
    for token in ATOM.findall(text):
        found = ATOM_MAP.search(token) if token[0] == "[" else None
        # nine digits are more than there can be atoms
        maps.append(int(found[1].lstrip("0")[:9] or 0) if found else -1)
    return maps if any(m >= 0 for m in maps) else None


def _label_index(maps: list[int] | None, source: list[int], heavy: np.ndarray) -> np.ndarray:
    """Entry of an atom list for each atom that RDKit kept. `source`: the atom's place in the text."""
    if maps is None:
        # no maps at all: lists run over the heavy atoms in the order of the text
        return np.where(heavy, np.cumsum(heavy) - 1, -1)
    index = np.array([maps[i] for i in source], np.int64)
    num_heavy = int(heavy.sum())
    unmapped = np.flatnonzero(heavy & (index < 0))
    if unmapped.size == 1 and 0 not in index:
        # a file that went through RDKit lost its `:0`
        index[unmapped[0]] = 0
    repeated = (index[~heavy] >= 0) & (index[~heavy] < num_heavy)
    if sorted(index[heavy]) != list(range(num_heavy)) or repeated.any():
        raise FeaturizeError(f"atom maps of the {num_heavy} heavy atoms are not 0..{num_heavy - 1}, each once")
    return index


def _atom_codes(atom: Chem.Atom) -> tuple[int, ...]:
    charge, valence = atom.GetFormalCharge() + schema.MAX_CHARGE, atom.GetTotalValence()
    return (
        atom.GetAtomicNum(),
        min(atom.GetDegree(), schema.MAX_DEGREE + 1),
        charge if 0 <= charge <= 2 * schema.MAX_CHARGE else 2 * schema.MAX_CHARGE + 1,
        min(atom.GetNumRadicalElectrons(), schema.MAX_RADICALS + 1),
        valence if 0 <= valence <= schema.MAX_VALENCE else schema.MAX_VALENCE + 1,
        int(atom.GetIsAromatic()),
        int(atom.IsInRing()),
    )


def _bonds(mol: Chem.Mol, rank: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bonds between stored atoms, sorted so that their order depends on the stored SMILES only."""
    places = rank.tolist()
    bonds = sorted(
        (
            *sorted((places[b.GetBeginAtomIdx()], places[b.GetEndAtomIdx()]), reverse=True),
            schema.encode_bond(_KINDS.get(b.GetBondType(), 4), _STEREO.get(b.GetStereo(), 6), int(b.IsInRing())),
        )
        for b in mol.GetBonds()
    )
    table = np.array(bonds, np.int64).reshape(-1, 3)
    return table[:, [1, 0]].astype(np.uint16), table[:, 2].astype(np.uint8)


def stack_molecules(
    parsed: list[Parsed], ids: np.ndarray, *, graph_labels: np.ndarray, atom_labels: list[np.ndarray]
) -> Molecules:
    """Columns of `parsed` (N); `graph_labels` (N, Tg); `atom_labels`: (n_i, Ta) for each molecule, in stored order."""
    num_atom_tasks = atom_labels[0].shape[1] if atom_labels else 0
    smiles = np.empty(len(parsed), object)
    smiles[:] = [p.smiles for p in parsed]
    return Molecules(
        atom_ptr=offsets(np.array([len(p.atom_codes) for p in parsed], np.int64)),
        bond_ptr=offsets(np.array([len(p.bond_codes) for p in parsed], np.int64)),
        atom_codes=np.concatenate([np.empty((0, len(schema.ATOM_FEATURES)), np.uint8), *(p.atom_codes for p in parsed)]),
        bond_atoms=np.concatenate([np.empty((0, 2), np.uint16), *(p.bond_atoms for p in parsed)]),
        bond_codes=np.concatenate([np.empty(0, np.uint8), *(p.bond_codes for p in parsed)]),
        graph_labels=graph_labels.astype(np.float32, copy=False),
        atom_labels=np.concatenate([np.empty((0, num_atom_tasks), np.float32), *atom_labels]),
        ids=ids.astype(np.uint64, copy=False),
        smiles=smiles,
    )
