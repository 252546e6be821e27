"""SMILES -> category codes, and which entry of an atom list belongs to which stored atom. The only file that imports RDKit.

The stored SMILES is RDKit's canonical one without atom maps; stored atom k is its k-th atom. Atom maps are read from the text,
not from RDKit, because RDKit reads `:0` as "no map" (the trap that shifted published PM6 baselines, Graphium issue 503).
"""

import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any

import numpy as np
from rdkit import Chem, rdBase

from molstream.kernels.chemistry import structure
from molstream.shards import schema
from molstream.shards.chemistry.identity import hash_texts
from molstream.shards.errors import FeaturizeError
from molstream.shards.molecules import offsets, ragged_rows

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
_LIMITS = structure.Limits(
    max_degree=schema.MAX_DEGREE,
    max_charge=schema.MAX_CHARGE,
    max_radicals=schema.MAX_RADICALS,
    max_valence=schema.MAX_VALENCE,
    num_stereo=len(schema.BOND_STEREO),
)
_NO_CONFORMERS = 0x20000


def _parser(**options: bool) -> Any:
    params: Any = Chem.SmilesParserParams()
    for name, value in ({"removeHs": False, "allowCXSMILES": False} | options).items():
        setattr(params, name, value)
    return params


_WHOLE, _UNSANITIZED = _parser(), _parser(sanitize=False)
_PLAIN_STEPS = int(Chem.SANITIZE_ALL) & ~sum(
    int(step)
    for step in (
        # of stereo, where the text has none; the last two need what the first two find
        Chem.SANITIZE_SETCONJUGATION,
        Chem.SANITIZE_SETHYBRIDIZATION,
        Chem.SANITIZE_CLEANUPCHIRALITY,
        Chem.SANITIZE_CLEANUPATROPISOMERS,
        # of metals, where there are none
        Chem.SANITIZE_CLEANUP_ORGANOMETALLICS,
    )
)


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
    bond_index: np.ndarray
    """int32 (m): number of each bond among those of heavy atoms in the order of the text, as RDKit lists them; -1 for others."""
    is_reversed: np.ndarray
    """bool (m): there it begins at the larger atom."""
    label_index: np.ndarray | None
    """int64 (n): entry of an atom list that belongs to each stored atom, -1 for none; None if the maps do not say."""
    map_problem: str
    """Why label_index is None; empty otherwise."""
    num_heavy: int
    """Length of an atom list with heavy atoms only."""
    num_all: int
    """Length of an atom list with every hydrogen."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Structures:
    """Columns of N molecules with A atoms and B bonds, made from a batch of SMILES, in stored order."""

    rows: np.ndarray
    """int64 (N): entry of the batch each molecule came from, increasing."""
    atom_ptr: np.ndarray
    """int64 (N + 1): atoms of molecule i are atom_ptr[i]:atom_ptr[i + 1]."""
    bond_ptr: np.ndarray
    """int64 (N + 1)."""
    atom_codes: np.ndarray
    """uint8 (A, F)."""
    bond_atoms: np.ndarray
    """uint16 (B, 2), smaller first, sorted by (larger, smaller) inside a molecule."""
    bond_codes: np.ndarray
    """uint8 (B)."""
    smiles: np.ndarray
    """object (N): str, canonical, without atom maps; atom k of a molecule is its k-th atom."""
    label_index: np.ndarray
    """int32 (A): entry of an atom list that belongs to each stored atom, -1 for none and where the maps do not say."""
    num_heavy: np.ndarray
    """int32 (N): length of an atom list with heavy atoms only."""
    num_all: np.ndarray
    """int32 (N): length of an atom list with every hydrogen."""
    map_problems: dict[int, str]
    """Molecule -> why label_index does not say."""
    rejects: dict[int, str]
    """Entry of the batch -> why it is no molecule."""
    bond_index: np.ndarray | None = None
    """int32 (B), if asked for: number of each bond among those of heavy atoms in the order of the text; -1 for others."""
    is_reversed: np.ndarray | None = None
    """bool (B): there it begins at the larger atom."""
    identity: np.ndarray | None = None
    """uint64 (N, 2), if asked for: a hash of the fixed-hydrogen InChI."""

    def take(self, picks: np.ndarray) -> "Structures":
        """The molecules `picks`, in that order."""
        atoms, atom_ptr = ragged_rows(self.atom_ptr, picks)
        bonds, bond_ptr = ragged_rows(self.bond_ptr, picks)
        places = {"atom_codes": atoms, "label_index": atoms, "rows": picks, "smiles": picks, "num_heavy": picks, "num_all": picks}
        places |= {"bond_atoms": bonds, "bond_codes": bonds, "bond_index": bonds, "is_reversed": bonds, "identity": picks}
        columns: dict[str, Any] = {
            name: None if (column := getattr(self, name)) is None else column[rows] for name, rows in places.items()
        }
        problems = self.map_problems
        return replace(
            self,
            atom_ptr=atom_ptr,
            bond_ptr=bond_ptr,
            map_problems={k: problems[p] for k, p in enumerate(picks.tolist()) if p in problems} if problems else {},
            **columns,
        )


def featurize(
    smiles: Sequence[str | None],
    on_row: Callable[[int], None] = lambda i: None,
    *,
    with_bond_order: bool = False,
    with_inchi: bool = False,
) -> Structures:
    """Parse a batch of SMILES, with or without atom maps. `on_row(i)` is called right before RDKit reads entry i.

    Most are read together: RDKit parses and writes each, and their codes come from what it wrote, all at once. What is unusual
    in any way is left for `parse_molecule`, after the others, and gives the same (tests/shards/test_featurize.py). So is
    everything where a version of RDKit writes in a way that is not known here.
    """
    texts = [text or "" for text in smiles]
    if with_bond_order or not _reads_together():
        # the order of bonds in the text is not in what RDKit writes
        out = _read_each(texts, range(len(texts)), on_row)
    else:
        out, left = _read_together(texts, on_row)
        if left:
            out = _merge(out, _read_each(texts, left, on_row))
    if not with_bond_order:
        out = replace(out, bond_index=None, is_reversed=None)
    return replace(out, identity=_hash_inchis(out, on_row)) if with_inchi else out


TRIAL = (
    "[CH3:1][CH:0]([NH2:3])[C:2](=[O:4])[OH:5]",
    "Cc1c[nH]c2ccc(cc12)[N+](=O)[O-]",
    "[nH:1]1[cH:2][cH:3]c[cH:4]1",
    "[CH3:3][CH2:3][OH:1]",
    "C12C3C4C1C5C2C3C45",
    "F/C=C/C(Cl)=C\\Br",
    "C[C@H](N)C(=O)N[C@@H](CS)C#N",
    "[NH4+].[Cl-].[Na+].[OH-]",
    "[13CH3][CH2].[O][O].[CH2-][S+](C)C",
    "OS(=O)(=O)c1ccc(cc1)P(=O)(O)O",
    "[Fe]<-N.C[Si](C)(C)[SeH].[Cu+2].B",
    "CC1(C)C2CCC1(C)C(=O)C2.c1ccc2c(c1)-c1ccccc1-2",
    "Cn1c(=O)c2nc[nH]c2n(C)c1=O.C[n+]1ccccc1.c1ccsc1-c1cocn1",
    "CS(C)=O.CSC#CC=C=C.CS(=O)(=O)N(I)Br",
    "C1" + "CC(=O)O" * 70 + "1",
)
"""Molecules that must come out of both ways alike before the fast one is trusted."""


@cache
def _reads_together() -> bool:
    """Does reading molecules together give what reading each gives? Tried once: RDKit's binary form is no public format."""
    together, left = _read_together(TRIAL)
    agrees = not left and _same(together, _read_each(TRIAL, range(len(TRIAL))))
    if not agrees:
        logging.getLogger(__name__).warning(
            "RDKit %s writes molecules in a way that is not known here: they are featurised atom by atom, which is slower",
            rdkit_version(),
        )
    return agrees


def _same(a: Structures, b: Structures) -> bool:
    pairs = [(getattr(a, f.name), getattr(b, f.name)) for f in fields(Structures) if f.name not in ("bond_index", "is_reversed")]
    return all(np.array_equal(x, y) if isinstance(x, np.ndarray) else x == y for x, y in pairs)


def _read_together(texts: Sequence[str], on_row: Callable[[int], None] = lambda i: None) -> tuple[Structures, list[int]]:
    """Molecules of a usual kind, and which entries were left."""
    scan = structure.scan_smiles(texts)
    ends = scan.plain_ptr.tolist()
    # no text has more atoms than characters, so RDKit's recursion is bounded before it starts
    kinds = np.where(np.diff(scan.plain_ptr) > schema.MAX_ATOMS, structure.GENERAL, scan.kinds)
    rows, left, written, orders, forms = [], [], [], [], []
    with rdBase.BlockLogs():
        for i, kind in enumerate(kinds.tolist()):
            mol = None
            if kind != structure.GENERAL:
                on_row(i)
                mol = _parse_usual(scan.plain[ends[i] : ends[i + 1]], plain=kind == structure.PLAIN)
            if mol is None:
                left.append(i)
                continue
            canonical = Chem.MolToSmiles(mol)
            written.append(canonical)
            orders.append(mol.GetProp("_smilesAtomOutputOrder"))
            short = kind == structure.PLAIN and structure.is_shorthand(canonical)
            forms.append(canonical.encode() if short else mol.ToBinary(_NO_CONFORMERS))
            rows.append(i)
    numbers = np.array(rows, np.int64)
    columns = structure.decode_molecules(forms, orders, numbers, scan, limits=_LIMITS, max_atoms=schema.MAX_ATOMS)
    num_atoms = np.diff(columns.atom_ptr)
    smiles = np.empty(len(rows), object)
    smiles[:] = written
    together = Structures(
        rows=numbers,
        atom_ptr=columns.atom_ptr,
        bond_ptr=columns.bond_ptr,
        atom_codes=columns.atom_codes,
        bond_atoms=columns.bond_atoms,
        bond_codes=columns.bond_codes,
        smiles=smiles,
        label_index=columns.label_index,
        num_heavy=num_atoms.astype(np.int32),
        num_all=(num_atoms + columns.num_hydrogens).astype(np.int32),
        map_problems={int(k): _no_numbering(num_atoms[k]) for k in np.flatnonzero(columns.status == structure.BAD_MAPS)},
        rejects={},
    )
    unread = columns.status == structure.UNREAD
    for k in together.map_problems:
        maps = set(_read_maps(texts[rows[k]]) or ())
        unread[k] |= 0 not in maps and maps.issuperset(range(1, int(num_atoms[k]) + 1))
    if unread.any():
        left = sorted([*left, *together.rows[unread].tolist()])
        together = together.take(np.flatnonzero(~unread))
    return together, left


def _parse_usual(text: str, *, plain: bool) -> Chem.Mol | None:
    if not plain:
        return Chem.MolFromSmiles(text, _WHOLE)
    mol = Chem.MolFromSmiles(text, _UNSANITIZED)
    if mol is not None:
        try:
            Chem.SanitizeMol(mol, _PLAIN_STEPS)
        except Chem.MolSanitizeException:
            return None
    return mol


def _read_each(texts: Sequence[str], rows: Sequence[int], on_row: Callable[[int], None] = lambda i: None) -> Structures:
    """One molecule at a time: slow, and what the codes are by definition."""
    rejects: dict[int, str] = {}
    kept, parsed = [], []
    for i in rows:
        on_row(i)
        try:
            parsed.append(parse_molecule(texts[i]))
        except FeaturizeError as error:
            rejects[i] = str(error)
        else:
            kept.append(i)
    index = [np.full(len(p.atom_codes), -1) if p.label_index is None else p.label_index for p in parsed]
    smiles = np.empty(len(parsed), object)
    smiles[:] = [p.smiles for p in parsed]
    return Structures(
        rows=np.array(kept, np.int64),
        atom_ptr=offsets(np.array([len(p.atom_codes) for p in parsed], np.int64)),
        bond_ptr=offsets(np.array([len(p.bond_codes) for p in parsed], np.int64)),
        atom_codes=np.concatenate([np.empty((0, len(schema.ATOM_FEATURES)), np.uint8), *(p.atom_codes for p in parsed)]),
        bond_atoms=np.concatenate([np.empty((0, 2), np.uint16), *(p.bond_atoms for p in parsed)]),
        bond_codes=np.concatenate([np.empty(0, np.uint8), *(p.bond_codes for p in parsed)]),
        smiles=smiles,
        label_index=np.concatenate([np.empty(0), *index]).astype(np.int32),
        num_heavy=np.array([p.num_heavy for p in parsed], np.int32),
        num_all=np.array([p.num_all for p in parsed], np.int32),
        map_problems={k: p.map_problem for k, p in enumerate(parsed) if p.label_index is None},
        rejects=rejects,
        bond_index=np.concatenate([np.empty(0, np.int32), *(p.bond_index for p in parsed)]),
        is_reversed=np.concatenate([np.empty(0, bool), *(p.is_reversed for p in parsed)]),
    )


def _merge(a: Structures, b: Structures) -> Structures:
    """Both, in the order of their rows."""
    first, columns = len(a.rows), {}
    for name in ("rows", "atom_codes", "bond_atoms", "bond_codes", "smiles", "label_index", "num_heavy", "num_all"):
        columns[name] = np.concatenate([getattr(a, name), getattr(b, name)])
    both = Structures(
        atom_ptr=np.concatenate([a.atom_ptr, a.atom_ptr[-1] + b.atom_ptr[1:]]),
        bond_ptr=np.concatenate([a.bond_ptr, a.bond_ptr[-1] + b.bond_ptr[1:]]),
        map_problems=a.map_problems | {first + k: why for k, why in b.map_problems.items()},
        rejects=a.rejects | b.rejects,
        **columns,
    )
    return both.take(np.argsort(both.rows))


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
    bonds = _bonds(mol, rank, heavy)
    label_index, problem = None, ""
    try:
        label_index = _label_index(maps, source, heavy)[order]
    except FeaturizeError as error:
        problem = str(error)
    return Parsed(
        smiles=canonical,
        atom_codes=np.array([_atom_codes(atom) for atom in atoms], np.uint8)[order],
        bond_atoms=bonds[:, [1, 0]].astype(np.uint16),
        bond_codes=bonds[:, 2].astype(np.uint8),
        bond_index=bonds[:, 3].astype(np.int32),
        is_reversed=bonds[:, 4].astype(bool),
        label_index=label_index,
        map_problem=problem,
        num_heavy=int(heavy.sum()),
        num_all=num_all,
    )


LONG_TEXT = 100_000
"""Characters from which on a SMILES may fail for want of memory."""


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
        # RDKit says nothing else where it cannot have the memory it asks for
        long = len(plain) > LONG_TEXT
        raise FeaturizeError("not a SMILES that RDKit can parse" + (", or too long for the memory it may take" if long else ""))
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
    if 0 not in index and not unmapped.size:
        # numbers from 1
        index[index > 0] -= 1
    repeated = (index[~heavy] >= 0) & (index[~heavy] < num_heavy)
    if sorted(index[heavy]) != list(range(num_heavy)) or repeated.any():
        raise FeaturizeError(_no_numbering(num_heavy))
    return index


def _no_numbering(num_heavy: int) -> str:
    return f"atom maps of the {num_heavy} heavy atoms do not count them from zero or one, each once"


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


def _bonds(mol: Chem.Mol, rank: np.ndarray, heavy: np.ndarray) -> np.ndarray:
    """Larger atom, smaller atom, code, number in the text, whether it begins at the larger atom: int64 (m, 5) of stored atoms.

    Sorted so that the order depends on the stored SMILES only. Bonds to hydrogens have number -1.
    """
    places = rank.tolist()
    bonds, count = [], 0
    for bond in mol.GetBonds():
        is_heavy = bool(heavy[bond.GetBeginAtomIdx()] and heavy[bond.GetEndAtomIdx()])
        number = count if is_heavy else -1
        count += is_heavy
        begin, end = places[bond.GetBeginAtomIdx()], places[bond.GetEndAtomIdx()]
        code = schema.encode_bond(_KINDS.get(bond.GetBondType(), 4), _STEREO.get(bond.GetStereo(), 6), int(bond.IsInRing()))
        bonds.append((max(begin, end), min(begin, end), code, number, begin > end))
    return np.array(sorted(bonds), np.int64).reshape(-1, 5)


# one molecule in several tables


def _hash_inchis(structures: Structures, on_row: Callable[[int], None]) -> np.ndarray:
    texts = []
    with rdBase.BlockLogs():
        for row, smiles in zip(structures.rows.tolist(), structures.smiles, strict=True):
            on_row(row)
            # the standard InChI merges tautomers, whose atoms and labels differ
            # RDKit writes some molecules in a way that it does not read
            mol = Chem.MolFromSmiles(smiles, _WHOLE)
            inchi = "" if mol is None else Chem.MolToInchi(mol, options="/FixedH")
            # a molecule that InChI knows nothing to say about is itself only
            texts.append(inchi or smiles)
    return hash_texts(texts)


MAX_MATCHES = 1000


def match_atoms(kept: str, other: str) -> np.ndarray | None:
    """Which atom of `other` is each atom of `kept`, two stored SMILES of one InChI: int64 (n), or None where they do not match.

    By a substructure match of elements, hydrogens and isotopes on bonds of any kind, since it is kinds of bonds and charges that
    such pairs differ in. Stereo must be kept, centre by centre and double bond by double bond; two molecules with another kind of
    stereo, of which InChI knows nothing (square planar, octahedral, ...), do not match. Of several matches, which symmetry
    makes, the one with most charges and bonds in place, then the first in the order of numbers: a function of the two texts.
    """
    a, b = (Chem.MolFromSmiles(text, _WHOLE) for text in (kept, other))
    if a is None or b is None or a.GetNumAtoms() != b.GetNumAtoms() or a.GetNumBonds() != b.GetNumBonds():
        return None
    if _has_other_stereo(a) or _has_other_stereo(b):
        return None
    found = _bare(b).GetSubstructMatches(_bare(a), uniquify=False, useChirality=False, maxMatches=MAX_MATCHES)
    matches = [match for match in found if _keeps_stereo(a, b, match)]
    if not matches:
        return None

    def misplaced(match: tuple[int, ...]) -> int:
        charges = sum(x.GetFormalCharge() != b.GetAtomWithIdx(match[x.GetIdx()]).GetFormalCharge() for x in a.GetAtoms())
        bonds = 0
        for bond in a.GetBonds():
            there = b.GetBondBetweenAtoms(match[bond.GetBeginAtomIdx()], match[bond.GetEndAtomIdx()])
            bonds += there is None or there.GetBondType() != bond.GetBondType()
        return charges + bonds

    return np.array(min((misplaced(m), m) for m in matches)[1], np.int64)


_TURN = {Chem.ChiralType.CHI_TETRAHEDRAL_CW: 1, Chem.ChiralType.CHI_TETRAHEDRAL_CCW: -1}
_SIDE = {Chem.BondStereo.STEREOZ: 1, Chem.BondStereo.STEREOCIS: 1, Chem.BondStereo.STEREOE: -1, Chem.BondStereo.STEREOTRANS: -1}


def _has_other_stereo(mol: Chem.Mol) -> bool:
    """Whether a molecule has stereo other than that of tetrahedral centres and double bonds."""
    turns = (atom.GetChiralTag() for atom in mol.GetAtoms())
    sides = (bond.GetStereo() for bond in mol.GetBonds())
    return not ({*turns} <= {*_TURN, Chem.ChiralType.CHI_UNSPECIFIED} and {*sides} <= {*_SIDE, Chem.BondStereo.STEREONONE})


def _keeps_stereo(a: Chem.Mol, b: Chem.Mol, match: tuple[int, ...]) -> bool:
    """Is each centre of `a` turned as its image in `b`, and are the same atoms on one side of double bonds?

    By the order of neighbours, not by R, S, E and Z: these depend on bond orders and charges, which may differ.
    """
    for atom in a.GetAtoms():
        image = b.GetAtomWithIdx(match[atom.GetIdx()])
        turn = _TURN.get(atom.GetChiralTag(), 0)
        if turn:
            there = [n.GetIdx() for n in image.GetNeighbors()]
            turn *= _parity([there.index(match[n.GetIdx()]) for n in atom.GetNeighbors()])
        if turn != _TURN.get(image.GetChiralTag(), 0):
            return False
    for bond in a.GetBonds():
        begin, end = match[bond.GetBeginAtomIdx()], match[bond.GetEndAtomIdx()]
        image = b.GetBondBetweenAtoms(begin, end)
        side = _SIDE.get(bond.GetStereo(), 0)
        if side:
            beside = {match[k] for k in bond.GetStereoAtoms()}
            side *= (-1) ** len(beside - set(image.GetStereoAtoms()))
        if side != _SIDE.get(image.GetStereo(), 0):
            return False
    return True


def _parity(order: list[int]) -> int:
    """1 for an even number of exchanges, -1 for an odd one."""
    return (-1) ** sum(order[i] > order[j] for j in range(len(order)) for i in range(j))


def _bare(mol: Chem.Mol) -> Chem.Mol:
    """Elements and connections only; hydrogens and isotope go into the isotope, which matches have to keep."""
    bare: Any = Chem.RWMol()
    for atom in mol.GetAtoms():
        new = Chem.Atom(atom.GetAtomicNum())
        new.SetIsotope(1 + atom.GetTotalNumHs() + 16 * atom.GetIsotope())
        new.SetNoImplicit(True)
        bare.AddAtom(new)
    for bond in mol.GetBonds():
        bare.AddBond(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx(), Chem.BondType.SINGLE)
    return bare.GetMol()
