"""Small look-alikes of the public data sets, and of a user's own table: original names and layouts, traps included.

The molecules are real (the embedded PM6 sample, fragments of it, and a few known ones); labels are made up, but for PM6's. One
function a data set writes its files and returns a `Lookalike`: what a reader must find in them, known without any reader.

Labels on the right atoms: made-up labels of atoms, bonds and pairs are functions of chemistry (`atom_label`, `bond_label`,
`edge_label`, `distance_label`, `flow_label`), so they can be computed again from whatever molecule a reader stored. All labels,
PM6's too, can be compared in spite of another order of atoms: `Lookalike.molecule(row)` has the atoms in the order of the row's
labels, and `labels_agree` says whether one of two molecules with labels is the other renumbered.

The price of one seed for all: LargeMix's tables share molecules only if they are written with the same seed. With more than about
300 molecules a data set, some of them occur in other tables, too, without being named as a trap: go by `molecule_keys`.
"""

import gzip
import io
import json
import math
import random
import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rdkit import Chem, rdBase
from rdkit.Chem import BRICS

from molstream.shards.sample import sample_path

MIN_MOLECULES, MAX_MOLECULES = 60, 2000
L1000_ROWS = 60
"""At most: a row has 978 labels."""

QM9_TASKS = "A B C mu alpha homo lumo gap r2 zpve u0 u298 h298 g298 cv u0_atom u298_atom h298_atom g298_atom".split()
TOX21_TASKS = [
    *"NR-AR NR-AR-LBD NR-AhR NR-Aromatase NR-ER NR-ER-LBD NR-PPAR-gamma".split(),
    *"SR-ARE SR-ATAD5 SR-HSE SR-MMP SR-p53".split(),
]
ZINC_TASKS = ["SA", "logp", "score"]
PCQM4M_GRAPH = [
    *"graph_alpha_homo graph_alpha_gap graph_beta_homo graph_beta_gap graph_energy_total".split(),
    *"graph_principal_length_a graph_principal_length_b graph_principal_length_c".split(),
    *"graph_inertia_mass_a graph_inertia_mass_b graph_inertia_mass_c".split(),
    *"graph_inertia_valence_a graph_inertia_valence_b graph_inertia_valence_c".split(),
    # mullkien: as it is there
    *"graph_inertia_charges_mulliken_a graph_inertia_charges_mullkien_b graph_inertia_charges_mulliken_c".split(),
    *"graph_inertia_charges_lowdin_a graph_inertia_charges_lowdin_b graph_inertia_charges_lowdin_c".split(),
    *"graph_spherocity graph_plane_best_fit graph_tddft_alpha_gap graph_tddft_energy_beta_gap graph_tddft_energy_total".split(),
]
PCQM4M_ATOM = ["node_charges_mulliken", "node_charges_lowdin", "node_tddft_charges_mulliken", "node_tddft_charges_lowdin"]
PM6_FILES = ("pm6_processed_1.parquet", "pm6_processed_2.parquet", "pm6_processed_10.parquet")
OWN_GRAPH = {"y_1": "regression", "y_2": "regression", "tox_a": "binary", "grade": "ordinal"}
OWN_ATOM, OWN_BOND, OWN_EDGE = ["charge_1", "charge_2"], ["bond_order_sum"], ["bond_dir"]
OWN_PAIR_UPPER, OWN_PAIR_FULL = ["distance"], ["flow"]
TAUTOMERS = [
    ("Oc1ccccn1", "O=c1cccc[nH]1"),
    ("Oc1ncccn1", "O=c1nccc[nH]1"),
    ("Cc1cc[nH]n1", "Cc1ccn[nH]1"),
    ("Cc1c[nH]cn1", "Cc1cnc[nH]1"),
]
"""Different molecules of one standard InChIKey, two by two."""
ENANTIOMERS = ("C[C@H](N)C(=O)O", "C[C@@H](N)C(=O)O")
SALTS = [
    "[Na+].[O-]C(=O)c1ccccc1",
    "Cl.CCN(CC)CCOC(=O)c1ccc(N)cc1",
    "[Cl-].[Cl-].[Ca+2]",
    "C[N+](C)(C)CCO.[Cl-]",
    "O.O.O.O.O.[Cu+2].[O-]S(=O)(=O)[O-]",
    "CC(C)NCC(O)COc1cccc2ccccc12.Cl",
]
UNREADABLE = "[NH4][Pt]([NH4])(Cl)Cl"
"""A row of Tox21: RDKit allows no nitrogen of five bonds."""
NO_BONDS = ["C", "N", "O"]
UNUSABLE = ("restricted", "unreadable", "no_smiles", "wrong_length")
"""Traps, or how their names start, whose rows no reader can use."""


# --- what a reader must find ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Lookalike:
    """What was written: N rows over all files. Labels are float32, NaN where absent for whatever reason."""

    name: str
    preset: str
    """The loader's name of the layout; empty for a user's own table."""
    paths: list[Path]
    """In the order of the rows."""
    file_rows: list[int]
    """Rows of each file."""
    smiles_column: str
    smiles: list[str | None]
    """N: the text as it was written, None for null or blank."""
    molecule_keys: list[str | None]
    """N: canonical SMILES without maps, the identity of a molecule; None where there is no molecule."""
    inchi_keys: list[str | None]
    """N: standard InChIKey, which tautomers may share."""
    unusable: list[int]
    """Rows that no reader can use: no molecule, or a list whose length fits nothing."""
    traps: dict[str, list[int]]
    """Trap -> its rows, increasing; the functions' docstrings say what each is."""
    graph: dict[str, np.ndarray]
    """Task -> (N); what was written, for unusable rows too."""
    atom: dict[str, list[np.ndarray]] = field(default_factory=dict)
    """Task -> N arrays, a value a heavy atom of `molecule(row)`; empty where there is no molecule."""
    bond: dict[str, list[np.ndarray]] = field(default_factory=dict)
    """Task -> N arrays, a value a bond, in the order of `molecule(row).GetBonds()`."""
    edge: dict[str, list[np.ndarray]] = field(default_factory=dict)
    """Task -> N arrays, two values a bond in that order: begin to end, end to begin."""
    pair_upper: dict[str, list[np.ndarray]] = field(default_factory=dict)
    """Task -> N arrays of n (n - 1) / 2: the upper triangle, by rows."""
    pair_full: dict[str, list[np.ndarray]] = field(default_factory=dict)
    """Task -> N arrays of n * n, by rows."""

    @property
    def num_rows(self) -> int:
        """Rows over all files."""
        return len(self.smiles)

    @property
    def usable(self) -> list[int]:
        """The other rows."""
        bad = set(self.unusable)
        return [row for row in range(self.num_rows) if row not in bad]

    def molecule(self, row: int) -> Chem.Mol | None:
        """The molecule of a row without hydrogens and maps: atom k is the one with entry k of the row's atom labels."""
        return None if self.molecule_keys[row] is None else parse_labelled(self.smiles[row] or "")

    def dense_labels(self, row: int) -> dict[str, np.ndarray]:
        """Labels below the graph by atoms of `molecule(row)`: column -> (n), or (n, n) from i to j for bonds, edges and pairs,
        NaN where there is none."""
        mol = self.molecule(row)
        assert mol is not None, f"row {row} has no molecule"
        size = mol.GetNumAtoms()
        ends = np.array([(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in mol.GetBonds()], np.int64).reshape(-1, 2)
        upper = np.stack(np.triu_indices(size, 1), 1)
        out = {column: found[row] for column, found in self.atom.items()}
        for columns, places in ((self.bond, ends), (self.pair_upper, upper)):
            for column, found in columns.items():
                out[column] = np.full((size, size), np.nan, np.float32)
                out[column][places[:, 0], places[:, 1]] = out[column][places[:, 1], places[:, 0]] = found[row]
        for column, found in self.edge.items():
            out[column] = np.full((size, size), np.nan, np.float32)
            out[column][ends[:, 0], ends[:, 1]], out[column][ends[:, 1], ends[:, 0]] = found[row][0::2], found[row][1::2]
        return out | {column: found[row].reshape(size, size) for column, found in self.pair_full.items()}

    def same_molecules(self) -> dict[str, list[int]]:
        """Molecule -> its rows, for all that are there more than once."""
        rows: dict[str, list[int]] = {}
        for row, key in enumerate(self.molecule_keys):
            if key is not None:
                rows.setdefault(key, []).append(row)
        return {key: found for key, found in rows.items() if len(found) > 1}


def parse_labelled(text: str) -> Chem.Mol:
    """A molecule with its heavy atoms in the order of their labels: by map number from 0 if it has any, else as in the text."""
    text = text.split(maxsplit=1)[0]
    # RDKit takes 0 for no map, so count from 1; where `:0` got lost, the one atom without is the first
    mol = Chem.MolFromSmiles(re.sub(r":(\d+)\]", lambda found: f":{int(found[1]) + 1}]", text))
    maps = [max(atom.GetAtomMapNum(), 1) for atom in mol.GetAtoms()]
    mapped = any(atom.GetAtomMapNum() for atom in mol.GetAtoms())
    for atom in mol.GetAtoms():
        atom.SetAtomMapNum(0)
    if not mapped:
        return mol
    assert sorted(maps) == list(range(1, len(maps) + 1)), f"{text}: maps {sorted(maps)}"
    return Chem.RenumberAtoms(mol, np.argsort(maps).tolist())


def labels_agree(mol: Chem.Mol, labels: dict[str, np.ndarray], other: Chem.Mol, found: dict[str, np.ndarray]) -> bool:
    """Is one renumbering of the heavy atoms such that both molecules and all their labels, as `dense_labels` has them, are equal?

    All columns must agree under the same renumbering. Costs a look at every symmetry of the molecule where they do not.
    """
    if labels.keys() != found.keys() or (mol.GetNumAtoms(), mol.GetNumBonds()) != (other.GetNumAtoms(), other.GetNumBonds()):
        return False
    hydrogens = [np.array([atom.GetTotalNumHs() for atom in m.GetAtoms()]) for m in (mol, other)]
    for match in other.GetSubstructMatches(mol, uniquify=False, maxMatches=100_000):
        at = np.array(match)
        moved = {c: values[at] if values.ndim == 1 else values[np.ix_(at, at)] for c, values in found.items()}
        if (hydrogens[0] == hydrogens[1][at]).all() and all(np.array_equal(labels[c], moved[c], equal_nan=True) for c in labels):
            return True
    return False


# --- labels that are functions of chemistry -------------------------------------------------------------------------------------


def atom_signature(mol: Chem.Mol) -> np.ndarray:
    """float64 (n heavy atoms): w + 0.01 * sum over heavy atoms of w / (1 + distance)^2, with w = atomic number + 0.37 * hydrogens
    + 0.13 * heavy neighbours.

    The same for any order of the atoms, with explicit or implicit hydrogens and any maps; different for tautomers, and for atoms
    that are not equivalent (in one molecule of sixty, two such atoms share a value: `labels_agree` is for certainty).
    """
    heavy = [atom for atom in mol.GetAtoms() if atom.GetAtomicNum() != 1]
    weights = []
    for atom in heavy:
        near = sum(other.GetAtomicNum() != 1 for other in atom.GetNeighbors())
        weights.append(math.fsum([atom.GetAtomicNum(), 0.37 * atom.GetTotalNumHs(includeNeighbors=True), 0.13 * near]))
    out = []
    for i, row in enumerate(_distances(mol)):
        # fsum does not depend on the order
        around = math.fsum(weight / (1 + d) ** 2 for weight, d in zip(weights, row, strict=True) if not math.isnan(d))
        out.append(round(weights[i] + 0.01 * around, 5))
    return np.array(out, np.float64)


ATOM_RULES = {
    "node_charges_mulliken": (1.0, 0.0),
    "node_charges_lowdin": (-0.5, 1.0),
    "node_tddft_charges_mulliken": (2.0, -3.0),
    "node_tddft_charges_lowdin": (0.25, 0.0),
    "charge_1": (1.0, -7.0),
    "charge_2": (-0.1, 2.0),
}
"""Column -> factor and shift of the signature."""


def atom_label(mol: Chem.Mol, column: str) -> np.ndarray:
    """float32 (n): a made-up column's value at every heavy atom, in the molecule's order."""
    factor, shift = ATOM_RULES[column]
    return np.round(atom_signature(mol) * factor + shift, 6).astype(np.float32)


def bond_label(mol: Chem.Mol) -> np.ndarray:
    """float32 (bonds): order (1.5 aromatic) + 0.01 * the signatures of both ends. For molecules without explicit hydrogens."""
    sign = atom_signature(mol)
    ends = [
        (bond.GetBondTypeAsDouble(), *sorted((sign[bond.GetBeginAtomIdx()], sign[bond.GetEndAtomIdx()])))
        for bond in mol.GetBonds()
    ]
    return np.array([round(order + 0.01 * (a + b), 6) for order, a, b in ends], np.float64).astype(np.float32)


def edge_label(mol: Chem.Mol) -> np.ndarray:
    """float32 (2 * bonds): signature of an edge's source - 0.5 * that of its target; a bond begin to end, then end to begin."""
    sign = atom_signature(mol)
    ends = [(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in mol.GetBonds()]
    values = [round(sign[i] - 0.5 * sign[j], 6) for a, b in ends for i, j in ((a, b), (b, a))]
    return np.array(values, np.float64).astype(np.float32)


def distance_label(mol: Chem.Mol) -> np.ndarray:
    """float32 (n (n - 1) / 2): bonds between two atoms, NaN between fragments; the upper triangle, by rows."""
    distance = _distances(mol)
    return distance[np.triu_indices(len(distance), 1)].astype(np.float32)


def flow_label(mol: Chem.Mol) -> np.ndarray:
    """float32 (n * n): signature of the row's atom - 0.5 * that of the column's + 0.1 * distance, NaN between fragments."""
    sign = atom_signature(mol)
    return np.round(sign[:, None] - 0.5 * sign[None, :] + 0.1 * _distances(mol), 6).astype(np.float32).ravel()


def _distances(mol: Chem.Mol) -> np.ndarray:
    """Bonds between heavy atoms (n, n), NaN between fragments."""
    heavy = [atom.GetIdx() for atom in mol.GetAtoms() if atom.GetAtomicNum() != 1]
    distance = Chem.GetDistanceMatrix(mol)[np.ix_(heavy, heavy)]
    return np.where(distance > mol.GetNumAtoms(), np.nan, distance)


# --- molecules ------------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Row:
    """A row before it has labels."""

    text: str | None
    mol: Chem.Mol | None
    traps: tuple[str, ...] = ()
    atoms: list[int] | None = None
    """Atom of `mol` with map k, where the text has maps."""


@cache
def _sample() -> pa.Table:
    return pq.read_table(sample_path())


@cache
def _mol(index: int) -> Chem.Mol:
    """A molecule of the sample, as RDKit reads its canonical SMILES."""
    return Chem.MolFromSmiles(Chem.MolToSmiles(parse_labelled(_sample()["ordered_smiles"][index].as_py())))


@cache
def _order(seed: int) -> tuple[int, ...]:
    return tuple(np.random.default_rng([seed, 1]).permutation(_sample().num_rows).tolist())


def _take(seed: int, first: int, count: int) -> list[Chem.Mol]:
    order = _order(seed)
    return [_mol(order[(first + k) % len(order)]) for k in range(count)]


def _rng(seed: int, name: str) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


def _check_size(num_molecules: int) -> None:
    if not MIN_MOLECULES <= num_molecules <= MAX_MOLECULES:
        raise ValueError(f"num_molecules {num_molecules}: expected {MIN_MOLECULES} to {MAX_MOLECULES}")


@cache
def _inchi_key(smiles: str) -> str:
    with rdBase.BlockLogs():
        return Chem.MolToInchiKey(Chem.MolFromSmiles(smiles))


def _random_smiles(mol: Chem.Mol, rng: np.random.Generator) -> str:
    return Chem.MolToRandomSmilesVect(mol, 1, randomSeed=int(rng.integers(1, 2**31)))[0]


def _plain(mol: Chem.Mol | str, rng: np.random.Generator, *traps: str) -> _Row:
    """A row of a molecule written from anywhere."""
    mol = Chem.MolFromSmiles(mol) if isinstance(mol, str) else mol
    return _Row(_random_smiles(mol, rng), mol, traps)


def _mapped(mol: Chem.Mol, rng: np.random.Generator, *traps: str, hydrogens: bool = False) -> _Row:
    """A row with atom maps 0..n-1 over heavy atoms, in an order of their own and that of the text in another."""
    num_heavy = mol.GetNumAtoms()
    atoms = rng.permutation(num_heavy).tolist()
    whole = Chem.AddHs(mol) if hydrogens else Chem.Mol(mol)
    for k, i in enumerate([*atoms, *range(num_heavy, whole.GetNumAtoms())]):
        whole.GetAtomWithIdx(i).SetAtomMapNum(k + 1)
    # hydrogens behind their atoms, as in [C:0]([H:1])[H:2]
    place = [*rng.permutation(num_heavy).tolist(), *range(num_heavy, whole.GetNumAtoms())]
    text = Chem.MolToSmiles(Chem.RenumberAtoms(whole, place), canonical=False)
    return _Row(re.sub(r":(\d+)\]", lambda found: f":{int(found[1]) - 1}]", text), mol, traps, atoms)


def _shuffled(rows: list[_Row], rng: np.random.Generator) -> list[_Row]:
    return [rows[i] for i in rng.permutation(len(rows))]


def _traps(rows: list[_Row]) -> dict[str, list[int]]:
    names = sorted({name for row in rows for name in row.traps})
    return {name: [i for i, row in enumerate(rows) if name in row.traps] for name in names}


def _inchi_keys(rows: list[_Row]) -> list[str | None]:
    return [None if row.mol is None else _inchi_key(Chem.MolToSmiles(row.mol)) for row in rows]


def _look(name: str, preset: str, smiles_column: str, paths: list[Path], rows: list[_Row], **fields: Any) -> Lookalike:
    """A Lookalike; `fields` may leave out what follows from the rows."""
    traps = fields.pop("traps")
    return Lookalike(
        name=name,
        preset=preset,
        paths=paths,
        file_rows=fields.pop("file_rows", [len(rows)]),
        smiles_column=smiles_column,
        smiles=[row.text for row in rows],
        molecule_keys=[None if row.mol is None else Chem.MolToSmiles(row.mol) for row in rows],
        inchi_keys=_inchi_keys(rows),
        unusable=sorted({row for trap, found in traps.items() if trap.startswith(UNUSABLE) for row in found}),
        traps={trap: traps[trap] for trap in sorted(traps)},
        **fields,
    )


@cache
def _small_molecules(count: int, seed: int) -> tuple[str, ...]:
    """Canonical SMILES of fragments of the sample with at most nine heavy atoms, all different; fewer if there are no more."""
    found: dict[str, None] = {}
    dummy, hydrogen = Chem.MolFromSmarts("[#0]"), Chem.MolFromSmiles("[H]", sanitize=False)
    for mol in _take(seed, 0, _sample().num_rows):
        for part in Chem.GetMolFrags(BRICS.BreakBRICSBonds(mol), asMols=True):
            if part.GetNumHeavyAtoms() > 13 or not {atom.GetAtomicNum() for atom in part.GetAtoms()} <= {0, 1, 6, 7, 8, 9}:
                continue
            small = Chem.ReplaceSubstructs(part, dummy, hydrogen, replaceAll=True)[0]
            for atom in small.GetAtoms():
                atom.SetIsotope(0)
            small = Chem.MolFromSmiles(Chem.MolToSmiles(small))
            if small is not None and 2 <= small.GetNumHeavyAtoms() <= 9:
                found[Chem.MolToSmiles(small)] = None
        if len(found) >= count:
            break
    return tuple(found)[:count]


# --- labels of molecules --------------------------------------------------------------------------------------------------------


def _features(mol: Chem.Mol | None) -> list[float]:
    if mol is None:
        return [0.0] * 6
    atoms = list(mol.GetAtoms())
    hetero = sum(atom.GetAtomicNum() != 6 for atom in atoms)
    aromatic = sum(atom.GetIsAromatic() for atom in atoms)
    weight = sum(atom.GetAtomicNum() for atom in atoms)
    hydrogens = sum(atom.GetTotalNumHs() for atom in atoms)
    return [len(atoms) / 20, hetero / 6, aromatic / 10, weight / 140, hydrogens / 20, mol.GetRingInfo().NumRings() / 3]


def _graph_values(rows: list[_Row], num_tasks: int, rng: np.random.Generator, noise: float = 0.1) -> np.ndarray:
    """float64 (N, T), about -2 to 2: linear in what a molecule has, so that it can be learned, and a little noise a row."""
    features = np.array([_features(row.mol) for row in rows])
    values = (features - 0.8) @ rng.normal(size=(features.shape[1], num_tasks))
    return values + noise * rng.normal(size=values.shape)


def _pick(rows: Sequence[int], count: int, rng: np.random.Generator) -> list[int]:
    return sorted(rng.permutation(np.array(rows))[:count].tolist())


def _absent(values: np.ndarray) -> np.ndarray:
    return np.full(len(values), np.nan, np.float32)


# --- files ----------------------------------------------------------------------------------------------------------------------


def _field(value: object) -> str:
    text = "" if value is None else str(value)
    return '"' + text.replace('"', '""') + '"' if any(c in text for c in ',"\r\n') else text


def _write_csv(
    path: Path, header: list[str], rows: list[list], *, newline: str = "\n", bom: bool = False, members: int = 1
) -> Path:
    """A .csv.gz whose bytes depend on nothing but the arguments."""
    lines = [",".join(_field(value) for value in row) + newline for row in [header, *rows]]
    out = io.BytesIO()
    cuts = [len(lines) * k // members for k in range(members + 1)]
    for start, end in pairwise(cuts):
        text = ("\ufeff" if bom and not start else "") + "".join(lines[start:end])
        with gzip.GzipFile(filename="", mode="wb", compresslevel=5, fileobj=out, mtime=0) as file:
            file.write(text.encode())
    return _write_bytes(path, out.getvalue())


def _write_bytes(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def _write_parquet(path: Path, table: pa.Table, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, **options)
    return path


def _float32(texts: list[list[str]]) -> np.ndarray:
    """(N, T) from what was written, blank for NaN."""
    return np.array([[float(text) if text else np.nan for text in row] for row in texts], np.float64).astype(np.float32)


# --- ToyMix ---------------------------------------------------------------------------------------------------------------------


def write_qm9(folder: Path, num_molecules: int = 300, seed: int = 0) -> Lookalike:
    """`qm9.csv.gz`: mol_id (gdb_1 ...), smiles, then 19 numbers, none missing.

    The first rows are methane, ammonia and water, as in the original; the others have at most nine heavy atoms while the sample
    has such fragments. Traps: `no_bonds` (one heavy atom), `zero` (mu is 0.0: a value, not a missing one), `explicit_hydrogens`
    ([H] atoms in the text), `zwitterion`, `scientific` (numbers like 1.5e-05), `integer` (numbers without a point), and scales of
    the columns that are 10^5 apart.
    """
    _check_size(num_molecules)
    rng = _rng(seed, "qm9")
    first = [_Row(text, Chem.MolFromSmiles(text), ("no_bonds",)) for text in NO_BONDS]
    rest = [_plain("[NH3+]CC(=O)[O-]", rng, "zwitterion")]
    small = _small_molecules(num_molecules, seed)[: num_molecules - len(first) - len(rest)]
    mols = [Chem.MolFromSmiles(text) for text in small]
    mols += _take(seed, 0, num_molecules - len(first) - len(rest) - len(mols))
    for k, mol in enumerate(mols):
        if k % 16 == 0:
            rest.append(_Row(Chem.MolToSmiles(Chem.AddHs(mol), canonical=False), mol, ("explicit_hydrogens",)))
        else:
            rest.append(_plain(mol, rng))
    rows = first + _shuffled(rest, rng)
    scale = [5.0, 2.0, 1.0, 1.5, 30.0, 0.05, 0.05, 0.05, 800.0, 0.1, 60.0, 60.0, 60.0, 60.0, 10.0, 900.0, 900.0, 900.0, 900.0]
    shift = [9.0, 3.0, 2.0, 2.7, 75.0, -0.24, 0.01, 0.25, 1100.0, 0.15, -411.0, -411.0, -411.0, -411.0, 31.0] + [-1750.0] * 4
    values = _graph_values(rows, len(QM9_TASKS), rng) * scale + shift
    texts = [[repr(round(float(value), 6)) for value in row] for row in values]
    traps = _traps(rows) | {"zero": [0], "scientific": [3, 4], "integer": [5, 6]}
    texts[0][QM9_TASKS.index("mu")] = "0.0"
    for row in traps["scientific"]:
        texts[row] = [f"{float(text):.7e}" for text in texts[row]]
        texts[row][QM9_TASKS.index("mu")] = "1.5e-05"
    for row in traps["integer"]:
        texts[row][QM9_TASKS.index("alpha")] = str(round(float(texts[row][QM9_TASKS.index("alpha")])))
    table = [[f"gdb_{i + 1}", row.text, *texts[i]] for i, row in enumerate(rows)]
    path = _write_csv(Path(folder) / "qm9.csv.gz", ["mol_id", "smiles", *QM9_TASKS], table)
    graph = dict(zip(QM9_TASKS, _float32(texts).T, strict=True))
    return _look("qm9", "qm9", "smiles", [path], rows, traps=traps, graph=graph)


def write_tox21(folder: Path, num_molecules: int = 300, seed: int = 0) -> Lookalike:
    """`Tox21-7k-12-labels.csv.gz`: 12 labels 0 or 1, blank where missing, then mol_id, smiles. The label columns come first.

    Traps: `salt` (more than one fragment), `no_bonds` (one of them: three ions), `unreadable` (a real row that RDKit cannot
    take), `all_missing` (a row without any label), `duplicate` (a molecule twice, written differently, with opposite labels),
    `stereo` (two enantiomers); the SR columns are written as 0.0 and 1.0. About a quarter is blank.
    """
    _check_size(num_molecules)
    rng = _rng(seed, "tox21")
    rows = [_plain(text, rng, "salt") for text in SALTS]
    rows[2].traps += ("no_bonds",)
    rows += [_plain(text, rng, "stereo") for text in ENANTIOMERS]
    rows.append(_Row(UNREADABLE, None, ("unreadable",)))
    mols = _take(seed, 700, num_molecules - len(rows) - 3)
    rows += [_plain(mol, rng, "duplicate") for mol in mols[:3] * 2] + [_plain(mol, rng) for mol in mols[3:]]
    rows = _shuffled(rows, rng)
    values = (_graph_values(rows, len(TOX21_TASKS), rng, noise=0.5) > 0.5).astype(np.float64)
    missing = rng.random(values.shape) < 0.25
    traps = _traps(rows)
    traps["all_missing"] = _pick([i for i, row in enumerate(rows) if not row.traps], 2, rng)
    missing[traps["all_missing"]] = True
    _contradict(rows, values, missing, traps["duplicate"])
    texts = [
        [
            "" if gone else f"{value:.0f}" if name.startswith("NR") else f"{value:.1f}"
            for name, value, gone in zip(TOX21_TASKS, *both)
        ]
        for both in zip(values, missing, strict=True)
    ]
    table = [[*texts[i], f"TOX{3000 + 7 * i}", row.text] for i, row in enumerate(rows)]
    path = _write_csv(Path(folder) / "Tox21-7k-12-labels.csv.gz", [*TOX21_TASKS, "mol_id", "smiles"], table)
    graph = dict(zip(TOX21_TASKS, _float32(texts).T, strict=True))
    return _look("tox21", "tox21", "smiles", [path], rows, traps=traps, graph=graph)


def _contradict(rows: list[_Row], values: np.ndarray, missing: np.ndarray, duplicates: list[int], task: int = 0) -> None:
    """Give the second row of a molecule the opposite labels of the first, missing in neither for one task."""
    seen: dict[str, int] = {}
    for row in duplicates:
        key = Chem.MolToSmiles(rows[row].mol)
        if key in seen:
            values[row] = 1 - values[seen[key]]
            missing[row, task] = missing[seen[key], task] = False
        seen[key] = row


def write_zinc(folder: Path, num_molecules: int = 300, seed: int = 0) -> Lookalike:
    """`ZINC12k.csv.gz`: SMILES, SA, logp, score; three numbers, none missing.

    Traps: `scientific` (1.5e-05), `integer` (a number without a point), `duplicate` (a molecule twice, written differently, with
    another score).
    """
    _check_size(num_molecules)
    rng = _rng(seed, "zinc")
    mols = _take(seed, 1100, num_molecules - 1)
    rows = [_plain(mol, rng, "duplicate") for mol in mols[:1] * 2] + [_plain(mol, rng) for mol in mols[1:]]
    rows = _shuffled(rows, rng)
    values = _graph_values(rows, 3, rng) + np.array([3.0, 2.5, 0.0])
    texts = [[repr(round(float(value), 12)) for value in row] for row in values]
    traps = _traps(rows) | {"scientific": [2], "integer": [3]}
    texts[2][1], texts[3][2] = "1.5e-05", "-4"
    table = [[row.text, *texts[i]] for i, row in enumerate(rows)]
    path = _write_csv(Path(folder) / "ZINC12k.csv.gz", ["SMILES", *ZINC_TASKS], table)
    graph = dict(zip(ZINC_TASKS, _float32(texts).T, strict=True))
    return _look("zinc", "zinc", "SMILES", [path], rows, traps=traps, graph=graph)


# --- LargeMix -------------------------------------------------------------------------------------------------------------------


def _shared(num_molecules: int, seed: int) -> list[Chem.Mol]:
    """Molecules that PCQM4M, PCBA and both L1000 files have in common."""
    return _take(seed, 0, min(num_molecules // 5, 20))


def gene_names() -> list[str]:
    """The 978 label columns of L1000, in the order of the file, which is neither that of the numbers nor of the letters."""
    numbers = random.Random(978).sample(range(15, 60_000), 978)
    return [f"geneID-{number}" for number in numbers]


def write_l1000(folder: Path, num_molecules: int = 300, seed: int = 0, *, cell: str = "VCAP", classes: int = 5) -> Lookalike:
    """`LINCS_L1000_{cell}_0-4.csv.gz` (5 classes, 0 to 4) or `..._0-2_th2.csv.gz` (3 classes): full_id, pert_id, cell_iname,
    SMILES, inchi_key, compound_aliases, then 978 geneID-*. At most 60 rows. `cell`: VCAP or MCF7.

    The files of one cell differ in their labels alone: those of 3 classes are clip(x - 1, 0, 2) of the others. Most of the
    molecules are in both cells, written differently. Traps: `restricted` (this word for a SMILES), `quoted` (aliases with
    commas, quotes and Greek letters), `duplicate` (a molecule several times with other labels), `tautomer` (two molecules of one
    InChIKey), `shared` (also in PCQM4M and PCBA). The first gene never reaches its highest class, so classes cannot be counted
    in the file; the second is always in its middle one.
    """
    _check_size(num_molecules)
    if cell not in ("VCAP", "MCF7") or classes not in (3, 5):
        raise ValueError(f"cell {cell}, {classes} classes: expected VCAP or MCF7, 3 or 5")
    rng = _rng(seed, f"l1000 {cell}")
    num_rows = min(num_molecules, L1000_ROWS)
    rows = [_Row("restricted", None, ("restricted",)) for _ in range(3)]
    rows += [_plain(text, rng, "tautomer") for text in TAUTOMERS[0]]
    shared = _shared(num_molecules, seed)
    rows += [_plain(mol, rng, "shared") for mol in shared[3:]]
    rows += [_plain(mol, rng, "shared", "duplicate") for mol in shared[:3] * 2]
    left = num_rows - len(rows)
    common = _take(seed, 1500, left * 2 // 3)
    rows += [_plain(mol, rng) for mol in common]
    rows += [_plain(mol, rng) for mol in _take(seed, 1600 if cell == "VCAP" else 1700, left - len(common))]
    rows = _shuffled(rows, rng)
    values = np.clip(np.floor(_graph_values(rows, 978, rng, noise=0.7)) + 2, 0, 4)
    values[:, 0] = np.minimum(values[:, 0], 3)
    values[:, 1] = 2
    if classes == 3:
        values = np.clip(values - 1, 0, 2)
    traps = _traps(rows)
    traps["quoted"] = _pick(range(num_rows), 8, rng)
    inchi_keys = _inchi_keys(rows)
    table = []
    for i, row in enumerate(rows):
        key = inchi_keys[i] or "restricted"
        pert = f"BRD-K{int(rng.integers(10**7, 10**8))}"
        alias = f'"{pert}", (2S,3R)-α-{i}, NSC {i}' if i in traps["quoted"] else f"alias-{i}" if i % 3 else ""
        labels = [f"{value:.0f}" for value in values[i]]
        table.append([f"{pert}_{cell}_24h", pert, cell, row.text, key, alias, *labels])
    file = f"LINCS_L1000_{cell}_{'0-4' if classes == 5 else '0-2_th2'}.csv.gz"
    header = ["full_id", "pert_id", "cell_iname", "SMILES", "inchi_key", "compound_aliases", *gene_names()]
    path = _write_csv(Path(folder) / file, header, table)
    graph = dict(zip(gene_names(), values.astype(np.float32).T, strict=True))
    name = f"l1000_{cell.lower()}" + ("" if classes == 5 else "_th2")
    return _look(name, "l1000", "SMILES", [path], rows, traps=traps, graph=graph)


def assay_names() -> list[str]:
    """The 1,328 label columns of PCBA, in the order of the file, which is neither that of the numbers nor of the letters."""
    return [f"assayID-{number}" for number in random.Random(1328).sample(range(1, 1_300_000), 1328)]


def write_pcba(folder: Path, num_molecules: int = 300, seed: int = 0) -> Lookalike:
    """`PCBA_1328_1564k.parquet`: mol_id, SMILES, 1,328 assayID-* as float64 with num_tested in their middle, inchi.

    Two row groups. Nine of ten labels are missing: null in most columns, NaN in every third. Traps: `all_missing` (rows without
    any label), `duplicate` (twice, written differently, opposite labels), `stereo` (two enantiomers), `tautomer` (pairs of one
    InChIKey), `shared` (also in PCQM4M and both L1000 files). The first assay is missing everywhere, the second never positive,
    the third always.
    """
    _check_size(num_molecules)
    rng = _rng(seed, "pcba")
    shared = _shared(num_molecules, seed)
    rows = [_plain(mol, rng, "shared") for mol in shared[2:]] + [
        _plain(mol, rng, "shared", "duplicate") for mol in shared[:2] * 2
    ]
    rows += [_plain(text, rng, "tautomer") for text in TAUTOMERS[0] + TAUTOMERS[1]]
    rows += [_plain(text, rng, "stereo") for text in ENANTIOMERS]
    rows += [_plain(mol, rng) for mol in _take(seed, 300, num_molecules - len(rows))]
    rows = _shuffled(rows, rng)
    names = assay_names()
    values = (_graph_values(rows, len(names), rng, noise=0.5) > 1).astype(np.float64)
    missing = rng.random(values.shape) < 0.9
    traps = _traps(rows)
    traps["all_missing"] = _pick([i for i, row in enumerate(rows) if not row.traps], 2, rng)
    _contradict(rows, values, missing, traps["duplicate"], task=3)
    missing[:, 0] = True
    values[:, 1], values[:, 2] = 0, 1
    missing[traps["all_missing"]] = True
    values[missing] = np.nan
    columns = {
        "mol_id": pa.array([100_000 + 3 * i for i in range(len(rows))], pa.int64()),
        "SMILES": pa.array([row.text for row in rows]),
    }
    for t, name in enumerate(names):
        if t == len(names) // 2:
            columns["num_tested"] = pa.array((~missing).sum(1), pa.int64())
        columns[name] = pa.array(values[:, t], pa.float64(), from_pandas=t % 3 != 0)
    with rdBase.BlockLogs():
        columns["inchi"] = pa.array([Chem.MolToInchi(row.mol) for row in rows])
    path = Path(folder) / "PCBA_1328_1564k.parquet"
    _write_parquet(path, pa.table(columns), row_group_size=math.ceil(len(rows) / 2))
    graph = dict(zip(names, values.astype(np.float32).T, strict=True))
    return _look("pcba", "pcba", "SMILES", [path], rows, traps=traps, graph=graph)


def write_pcqm4m(folder: Path, num_molecules: int = 300, seed: int = 0) -> Lookalike:
    """`PCQM4M_G25_N4.parquet`: ordered_cxsmiles_3d, ordered_smiles, 25 graph_* float32, 4 node_* list<float32> of heavy atoms.

    Every text has atom maps 0..n-1 over the heavy atoms, which index the lists; the order of the text is another. Atom labels
    are `atom_label`'s. Traps: `tddft_missing` (half: null scalars, null lists), `explicit_hydrogens` (half: [H] atoms with
    higher maps, no labels for them), `empty_list` and `nan_list` (all lists missing, in other ways), `nan_atom` (one atom's
    value missing), `nan_graph` (one label), `wrong_length` (one value short: not usable), `no_bonds` (methane), `duplicate` (a
    molecule twice, maps in another order, other graph labels), `tautomer` (pairs of one InChIKey), `shared` (also in PCBA and
    both L1000 files).
    """
    _check_size(num_molecules)
    rng = _rng(seed, "pcqm4m")
    shared = _shared(num_molecules, seed)
    plan: list[tuple[Chem.Mol, tuple[str, ...]]] = [(mol, ("shared",)) for mol in shared[2:]]
    plan += [(mol, ("shared", "duplicate")) for mol in shared[:2] * 2]
    plan += [(Chem.MolFromSmiles(text), ("tautomer",)) for pair in TAUTOMERS for text in pair]
    plan.append((Chem.MolFromSmiles("C"), ("no_bonds",)))
    plan += [(mol, ()) for mol in _take(seed, len(shared), num_molecules - len(plan))]
    rows = []
    for k, (mol, names) in enumerate(plan):
        hydrogens = k % 2 == 0 or mol.GetNumAtoms() == 1
        rows.append(_mapped(mol, rng, *names, *(["explicit_hydrogens"] * hydrogens), hydrogens=hydrogens))
    rows = _shuffled(rows, rng)
    num_rows = len(rows)
    traps = _traps(rows)
    whole = [i for i, row in enumerate(rows) if not set(row.traps) - {"explicit_hydrogens"}]
    picked = rng.permutation(whole).tolist()
    for name, count in {"wrong_length": 1, "empty_list": 3, "nan_list": 3, "nan_atom": 3, "nan_graph": 3}.items():
        traps[name], picked = sorted(picked[:count]), picked[count:]
    free = sorted(set(range(num_rows)) - {i for name in ("wrong_length", "nan_atom") for i in traps[name]})
    traps["tddft_missing"] = _pick(free, num_rows // 2, rng)

    graph = (_graph_values(rows, len(PCQM4M_GRAPH), rng) * 10.0 ** (np.arange(25) % 4)).astype(np.float32)
    atom = {name: [atom_label(row.mol, name)[row.atoms] for row in rows] for name in PCQM4M_ATOM}
    late = np.array(["tddft" in name for name in PCQM4M_GRAPH])
    graph[np.ix_(traps["tddft_missing"], late)] = np.nan
    graph[traps["nan_graph"], 0] = np.nan
    stored: dict[str, list] = {}
    for name, lists in atom.items():
        stored[name] = [values.tolist() for values in lists]
        for row in traps["empty_list"]:
            lists[row], stored[name][row] = _absent(lists[row]), []
        for row in traps["nan_list"]:
            lists[row] = _absent(lists[row])
            stored[name][row] = lists[row].tolist()
        for row in traps["nan_atom"]:
            lists[row][0] = np.nan
            stored[name][row] = lists[row].tolist()
        for row in traps["wrong_length"]:
            stored[name][row] = stored[name][row][:-1]
            lists[row] = _absent(lists[row])
        for row in traps["tddft_missing"] if "tddft" in name else []:
            lists[row], stored[name][row] = _absent(lists[row]), None
    columns = {
        "ordered_cxsmiles_3d": pa.array([_with_coordinates(row.text or "", rng) for row in rows]),
        "ordered_smiles": pa.array([row.text for row in rows]),
    }
    for t, name in enumerate(PCQM4M_GRAPH):
        gone = np.isnan(graph[:, t])
        if t == 0:
            gone[traps["nan_graph"]] = False
        columns[name] = pa.array(graph[:, t], pa.float32(), mask=gone)
    columns |= {name: pa.array(lists, pa.list_(pa.float32())) for name, lists in stored.items()}
    path = _write_parquet(Path(folder) / "PCQM4M_G25_N4.parquet", pa.table(columns))
    labels = dict(zip(PCQM4M_GRAPH, graph.T, strict=True))
    return _look("pcqm4m", "pcqm4m", "ordered_smiles", [path], rows, traps=traps, graph=labels, atom=atom)


def _with_coordinates(text: str, rng: np.random.Generator) -> str:
    places = rng.normal(scale=3, size=(text.count(":"), 3)).round(3)
    return f"{text} |({';'.join(','.join(map(str, place)) for place in places.tolist())})|"


# --- UltraLarge -----------------------------------------------------------------------------------------------------------------

STATES = ("S0", "T0", "cation", "anion")


def _pm6_rows(num_molecules: int, seed: int, name: str, first: int) -> tuple[list[dict], list[_Row]]:
    """Rows of the sample with traps, and what they are; lists in the row of the file are None where there are no labels."""
    rng = _rng(seed, name)
    order = [_order(seed)[(first + k) % _sample().num_rows] for k in range(num_molecules - 3)]
    chosen = _sample().take(order).to_pylist()
    node = [column for column in _sample().column_names if column.startswith("node_")]
    rows = []
    for data in chosen:
        mol = parse_labelled(data["ordered_smiles"])
        rows.append(_Row(data["ordered_smiles"], mol, (), list(range(mol.GetNumAtoms()))))
    for k in range(3):
        # again, with other maps, at the other end of the input
        again = _mapped(rows[k].mol, rng, "duplicate")
        rows[k].traps += ("duplicate",)
        data = dict(chosen[k])
        data["ordered_smiles"] = again.text
        for column in node:
            data[column] = data[column] and [data[column][i] for i in again.atoms or []]
        again.mol = parse_labelled(again.text or "")
        chosen.append(data)
        rows.append(again)
    for k in range(4, 9):
        again = _mapped(rows[k].mol, rng, "explicit_hydrogens", hydrogens=True)
        data = chosen[k]
        for column in node:
            data[column] = data[column] and [data[column][i] for i in again.atoms or []]
        data["ordered_smiles"] = again.text
        again.mol = parse_labelled(again.text or "")
        rows[k] = again
    for k in range(9, 12):
        text = re.sub(r":0\]", "]", rows[k].text or "")
        rows[k].text = chosen[k]["ordered_smiles"] = text
        rows[k].traps += ("lost_map_zero",)
    for k in range(12, 15):
        rows[k].traps += ("nan_atom",)
        chosen[k]["node_S0_charges_mulliken"][k - 12] = math.nan
    rows[15].traps += ("infinite",)
    chosen[15]["graph_S0_energy_total"] = math.inf
    for k in range(16, 16 + num_molecules // 4):
        # the sample's missing states are null; here they are missing in other ways
        for state in STATES:
            if chosen[k][f"graph_{state}_alpha_homo"] is None:
                rows[k].traps += ("nan_state" if k % 2 else "empty_list",)
                for column in chosen[k]:
                    if f"_{state}_" in column and column.startswith("graph_"):
                        chosen[k][column] = math.nan
                    elif f"_{state}_" in column:
                        chosen[k][column] = [math.nan] * len(rows[k].atoms or []) if k % 2 else []
    for data, row in zip(chosen, rows, strict=True):
        if any(data[f"graph_{state}_alpha_homo"] is None for state in STATES):
            row.traps += ("null_state",)
    return chosen, rows


def _pm6_labels(chosen: list[dict], rows: list[_Row]) -> dict[str, Any]:
    graph = {
        column: np.array([math.nan if row[column] is None else row[column] for row in chosen], np.float32)
        for column in chosen[0]
        if column.startswith("graph_")
    }
    for values in graph.values():
        values[np.isinf(values)] = np.nan
    atom = {
        column: [
            np.array(data[column] or [math.nan] * row.mol.GetNumAtoms(), np.float32)[: row.mol.GetNumAtoms()]
            for data, row in zip(chosen, rows, strict=True)
        ]
        for column in chosen[0]
        if column.startswith("node_")
    }
    return {"graph": graph, "atom": atom}


def write_pm6(folder: Path, num_molecules: int = 300, seed: int = 0) -> Lookalike:
    """`pm6_processed_1.parquet`, `_2` and `_10`: ordered_smiles, inchi, 62 graph_*, 7 node_* lists of heavy atoms; real labels.

    Rows count over the files in natural order: sorted() would put `_10` before `_2`. Map numbers index the lists. The first file
    is one row group; the second has several; the third has its columns in another order, as double, large_string and
    large_list. Traps: `null_state` (a state is missing as a whole, as in the sample), `nan_state` and `empty_list` (so, but NaN
    and lists of NaN, or NaN and empty lists), `nan_atom` (one atom's), `infinite` (one label, to be taken as missing),
    `explicit_hydrogens` (higher maps, no labels), `lost_map_zero` (went through RDKit: one atom has no map, it is atom 0),
    `duplicate` (the first rows of the first file are the last of the third, with other maps).
    """
    _check_size(num_molecules)
    chosen, rows = _pm6_rows(num_molecules, seed, "pm6", 0)
    schema = pa.schema([pa.field(f.name, f.type) for f in _sample().schema])
    cuts = [0, len(rows) * 2 // 5, len(rows) * 2 // 3, len(rows)]
    wide = pa.schema([pa.field(f.name, _wider(f.type)) for f in reversed(list(schema))])
    paths = []
    for name, (start, end), layout, group in zip(PM6_FILES, pairwise(cuts), (schema, schema, wide), (None, 10, 7), strict=True):
        table = pa.Table.from_pylist(chosen[start:end], layout)
        paths.append(_write_parquet(Path(folder) / name, table, row_group_size=group))
    fields = {"file_rows": np.diff(cuts).tolist(), "traps": _traps(rows)} | _pm6_labels(chosen, rows)
    return _look("pm6", "pm6", "ordered_smiles", paths, rows, **fields)


def _wider(kind: pa.DataType) -> pa.DataType:
    return (
        pa.large_string()
        if pa.types.is_string(kind)
        else pa.float64()
        if pa.types.is_floating(kind)
        else pa.large_list(pa.float64())
    )


def write_pm6_old(folder: Path, num_molecules: int = 300, seed: int = 0) -> Lookalike:
    """`pm6_old_json.parquet`: PM6_83M's columns with the node lists as JSON strings, like those of old files.

    A quarter of the rows, at least 40. Traps of `write_pm6`, where a missing value is NaN or null in the JSON and a missing list
    is null, "[]" or "null"; and `all_atom_lists`: lists over all atoms, those of the hydrogens (99.0) behind the heavy ones.
    """
    _check_size(num_molecules)
    chosen, rows = _pm6_rows(max(num_molecules // 4, 40), seed, "pm6 old", 900)
    labels = _pm6_labels(chosen, rows)
    node = list(labels["atom"])
    for k in range(len(rows) - 6, len(rows) - 3):
        rows[k].traps += ("all_atom_lists",)
        hydrogens = sum(atom.GetTotalNumHs() for atom in rows[k].mol.GetAtoms())
        for column in node:
            chosen[k][column] = chosen[k][column] and [*chosen[k][column], *[99.0] * hydrogens]
    for k, data in enumerate(chosen):
        for column in node:
            text = None if data[column] is None and k % 2 else json.dumps(data[column])
            data[column] = text.replace("NaN", "null") if text and k % 3 == 0 else text
    schema = pa.schema([pa.field(f.name, pa.string() if f.name in node else f.type) for f in _sample().schema])
    path = Path(folder) / "pm6_old_json.parquet"
    _write_parquet(path, pa.Table.from_pylist(chosen, schema))
    return _look("pm6_old", "pm6", "ordered_smiles", [path], rows, traps=_traps(rows), **labels)


# --- a user's own table ---------------------------------------------------------------------------------------------------------

OWN_RULES: dict[str, Callable[[Chem.Mol], np.ndarray]] = {
    "charge_1": lambda mol: atom_label(mol, "charge_1"),
    "charge_2": lambda mol: atom_label(mol, "charge_2"),
    "bond_order_sum": bond_label,
    "bond_dir": edge_label,
    "distance": distance_label,
    "flow": flow_label,
}
"""Column -> its values for a molecule, in the molecule's order."""
OWN_COLUMNS = [
    "name",
    "y_1",
    "mol",
    "charge_1",
    "tox_a",
    "bond_order_sum",
    "bond_dir",
    "grade",
    "distance",
    "flow",
    "y_2",
    "charge_2",
]


@dataclass(frozen=True, slots=True)
class _Own:
    rows: list[_Row]
    table: list[dict[str, Any]]
    """Numbers, lists of numbers, None; NaN where a value is not a number."""
    fields: dict[str, Any]
    """Of the Lookalike, but for names and paths."""


@cache
def _own(num_molecules: int, seed: int) -> _Own:
    rng = _rng(seed, "own")
    rows = [_plain(text, rng, "salt") for text in SALTS]
    rows += [_Row(text, Chem.MolFromSmiles(text), ("no_bonds",)) for text in NO_BONDS]
    rows += [_plain(text, rng, "stereo") for text in ENANTIOMERS] + [_plain(text, rng, "tautomer") for text in TAUTOMERS[0]]
    rows += [_Row("C1CC(", None, ("unreadable",)), _Row(None, None, ("no_smiles",))]
    rows += [_plain(mol, rng) for mol in _take(seed, 1300, num_molecules - len(rows))]
    rows = _shuffled(rows, rng)
    for row in rows:
        # lists follow the text
        row.mol = None if row.mol is None else Chem.MolFromSmiles(row.text)
    traps = _traps(rows)
    picked = rng.permutation([i for i, row in enumerate(rows) if not row.traps]).tolist()
    for name in ("null_list", "empty_list", "nan_list", "nan_value", "null_value"):
        traps[name], picked = sorted(picked[:4]), picked[4:]
    for column in OWN_RULES:
        traps[f"wrong_length_{column}"], picked = picked[:1], picked[1:]

    values = _graph_values(rows, 4, rng)
    graph = {
        "y_1": np.round(values[:, 0], 6),
        "y_2": np.round(values[:, 1] * 1e4, 3),
        "tox_a": (values[:, 2] > 0).astype(np.float64),
        "grade": np.clip(np.floor(values[:, 3]) + 2, 0, 4),
    }
    for t, column in enumerate(graph):
        graph[column][rng.random(len(rows)) < 0.2 + 0.1 * t] = np.nan
    table: list[dict[str, Any]] = []
    for i, row in enumerate(rows):
        table.append({"name": f"Mol {i}, batch {i % 7}" if i % 5 else f"β-{i}", "mol": row.text})
        for column, column_values in graph.items():
            value = float(column_values[i])
            table[i][column] = None if math.isnan(value) and column != "y_2" else value
    labels: dict[str, list[np.ndarray]] = {}
    for column, rule in OWN_RULES.items():
        labels[column] = [np.empty(0, np.float32) if row.mol is None else rule(row.mol) for row in rows]
        for i, found in enumerate(labels[column]):
            # NaN between fragments is written as such
            listed = [round(value, 6) for value in found.tolist()]
            if i in traps["null_list"] or rows[i].mol is None:
                listed, labels[column][i] = None, _absent(found)
            elif i in traps["empty_list"]:
                listed, labels[column][i] = [], _absent(found)
            elif i in traps["nan_list"]:
                listed, labels[column][i] = [math.nan] * len(found), _absent(found)
            elif i in traps["nan_value"] or i in traps["null_value"]:
                at = int(rng.integers(len(found)))
                listed[at] = math.nan if i in traps["nan_value"] else None
                found[at] = np.nan
            elif i in traps[f"wrong_length_{column}"]:
                listed, labels[column][i] = listed[:-1], _absent(found)
            table[i][column] = listed
    fields = {
        "traps": traps,
        "graph": {column: column_values.astype(np.float32) for column, column_values in graph.items()},
        "atom": {column: labels[column] for column in OWN_ATOM},
        "bond": {column: labels[column] for column in OWN_BOND},
        "edge": {column: labels[column] for column in OWN_EDGE},
        "pair_upper": {column: labels[column] for column in OWN_PAIR_UPPER},
        "pair_full": {column: labels[column] for column in OWN_PAIR_FULL},
    }
    return _Own(rows, table, fields)


def write_own(folder: Path, num_molecules: int = 300, seed: int = 0) -> Lookalike:
    """`own.parquet`, a user's own table: identifier `name`, SMILES `mol`, and labels of every level, columns in no order.

    y_1 and y_2 (numbers, y_2 10^4 times larger), tox_a (0 or 1, int8), grade (0 to 4, int64); charge_1 (list<float>) and charge_2
    (large_list<double>): a value an atom; bond_order_sum: a value a bond, in the order of `Chem.MolFromSmiles(mol).GetBonds()`;
    bond_dir: two a bond in that order, begin to end, then end to begin, different from each other; distance: upper triangle by
    rows, n (n - 1) / 2; flow: n * n by rows, with a diagonal, not symmetric. No SMILES has explicit hydrogens or maps.

    Traps: `salt` (several fragments: NaN for pairs across), `no_bonds` (one atom: empty lists that are complete), `stereo`,
    `tautomer`, `unreadable` and `no_smiles` (not usable), `null_list`, `empty_list`, `nan_list` (all lists missing as a whole),
    `nan_value`, `null_value` (one value of each list), `wrong_length_<column>` (a list one short: not usable). Missing graph
    labels are null, in y_2 NaN. Names have commas and Greek letters.
    """
    _check_size(num_molecules)
    own = _own(num_molecules, seed)
    types: dict[str, pa.DataType] = {
        "name": pa.string(),
        "mol": pa.string(),
        "y_1": pa.float32(),
        "y_2": pa.float64(),
        "tox_a": pa.int8(),
        "grade": pa.int64(),
        "charge_2": pa.large_list(pa.float64()),
    }
    schema = pa.schema([(column, types.get(column, pa.list_(pa.float32()))) for column in OWN_COLUMNS])
    path = Path(folder) / "own.parquet"
    _write_parquet(path, pa.Table.from_pylist(own.table, schema), row_group_size=37)
    return _look("own", "", "mol", [path], own.rows, **own.fields)


def write_own_csv(folder: Path, num_molecules: int = 300, seed: int = 0) -> Lookalike:
    """`own.csv.gz` and `own_2.csv.gz`: the rows and labels of `write_own`, lists as JSON strings, missing numbers blank.

    Traps of `write_own`; a missing list is blank or "[]", a missing value NaN or null inside the JSON, and a missing y_2 the text
    nan. The first file consists of three gzip members; the second has its columns in another order, CRLF line ends and a
    byte order mark, as a spreadsheet writes them.
    """
    _check_size(num_molecules)
    own = _own(num_molecules, seed)
    cut = len(own.rows) * 3 // 5
    paths = []
    for name, part, columns in (
        ("own.csv.gz", own.table[:cut], OWN_COLUMNS),
        ("own_2.csv.gz", own.table[cut:], OWN_COLUMNS[::-1]),
    ):
        lines = [[_json(row[column]) if column in OWN_RULES else row[column] for column in columns] for row in part]
        second = name == "own_2.csv.gz"
        style = {"newline": "\r\n", "bom": True} if second else {"members": 3}
        paths.append(_write_csv(Path(folder) / name, columns, lines, **style))
    return _look("own_csv", "", "mol", paths, own.rows, file_rows=[cut, len(own.rows) - cut], **own.fields)


def _json(values: list | None) -> str | None:
    return None if values is None else json.dumps(values)


# --- splits ---------------------------------------------------------------------------------------------------------------------

SPLIT_FILES = {
    "qm9": "qm9_random_splits.pt",
    "tox21": "Tox21_random_splits.pt",
    "zinc": "ZINC12k_random_splits.pt",
    "l1000_vcap": "l1000_vcap_random_splits.pt",
    "l1000_mcf7": "l1000_mcf7_random_splits.pt",
    "pcba": "pcba_1328_random_splits.pt",
    "pcqm4m": "pcqm4m_g25_n4_random_splits.pt",
    "pm6": "pm6_random_splits.pt",
}
"""Names of the published files."""


def plan_splits(name: str, num_rows: int) -> dict[str, Any]:
    """Split -> row numbers over all files of a data set, in the container its published file has.

    PM6: Python lists of random.seed(42), random.shuffle, 98/1/1 with val = test = floor(n / 100). PCQM4M: numpy arrays. PCBA: a
    fourth split test_seen, only train a numpy array. The others: lists, 80/10/10.
    """
    fractions = {
        "pm6": {"val": 0.01, "test": 0.01},
        "pcqm4m": {"val": 0.039, "test": 0.039},
        "pcba": {"val": 0.0386, "test": 0.0386, "test_seen": 0.0361},
    }.get(name, {"val": 0.1, "test": 0.1})
    rows = list(range(num_rows))
    random.Random(42).shuffle(rows)
    sizes = {split: math.floor(fraction * num_rows) for split, fraction in fractions.items()}
    at = num_rows - sum(sizes.values())
    splits: dict[str, Any] = {"train": rows[:at]}
    for split, size in sizes.items():
        splits[split], at = rows[at : at + size], at + size
    arrays = {"pcqm4m": list(splits), "pcba": ["train"]}.get(name, [])
    return {split: np.array(found, np.int64) if split in arrays else found for split, found in splits.items()}


def write_splits(folder: Path, look: Lookalike) -> Path:
    """Write `plan_splits` of a data set under the name of its published file, with torch.save."""
    import torch

    path = Path(folder) / SPLIT_FILES[look.name]
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(plan_splits(look.name, look.num_rows), path)
    return path
