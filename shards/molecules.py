"""Tasks, features and the columns of a run of molecules: what every other module speaks of."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

Level = Literal["graph", "atom", "bond", "pair"]
Kind = Literal["regression", "binary", "ordinal", "multiclass"]
LEVELS: tuple[Level, ...] = ("graph", "atom", "bond", "pair")
"""What carries labels: the molecule, its atoms, its bonds, its pairs of atoms. Label columns are numbered in this order."""
KINDS: tuple[Kind, ...] = ("regression", "binary", "ordinal", "multiclass")
_ABSENT: Any = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """One label column."""

    name: str
    """The column's name in the input."""
    level: Level
    """What carries the label: the molecule (graph), or each of its atoms, bonds, or pairs of atoms."""
    kind: Kind
    """What the label is: a number, 0 or 1, one of ordered classes, one of classes."""
    unit: str
    """Physical unit, '1' for a pure number, 'e' for elementary charges."""
    source: str
    """The data set it comes from; the table's name in a set joined from several."""
    num_classes: int = 0
    """Labels of a class task are 0 to num_classes - 1; 2 for a binary one, 0 for regression."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskSet:
    """Tasks of one source, level and kind: they share a head and a loss normaliser."""

    name: str
    """Short name, as in the literature: g62, n7."""
    level: Level
    kind: Kind
    source: str
    tasks: tuple[str, ...]
    """Names, in the order of the label columns."""
    num_classes: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Feature:
    """A categorical property of atoms or bonds, stored as a code in [0, num_codes)."""

    name: str
    num_codes: int
    meaning: str
    """How a code reads."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Molecules:
    """Columns of N molecules with A atoms and B bonds. A column that was not read is None. Arrays are never written to.

    Columns are typed as arrays: whoever reads one knows which it asked for.
    """

    atom_ptr: np.ndarray
    """int64 (N + 1): atoms of molecule i are atom_ptr[i]:atom_ptr[i + 1]."""
    bond_ptr: np.ndarray
    """int64 (N + 1)."""
    atom_codes: np.ndarray = _ABSENT
    """uint8 (A, F)."""
    bond_atoms: np.ndarray = _ABSENT
    """uint16 (B, 2): atom numbers inside the molecule, smaller first; bonds sorted by (larger, smaller)."""
    bond_codes: np.ndarray = _ABSENT
    """uint8 (B): the bond features as one mixed-radix number, first feature most significant."""
    graph_labels: np.ndarray = _ABSENT
    """float32 (N, T), NaN where absent."""
    atom_labels: np.ndarray = _ABSENT
    """float32 (A, T), NaN where absent."""
    bond_labels: np.ndarray = _ABSENT
    """float32 (B, T, 2), NaN where absent: the bond's label; where the input has one for each direction, [..., 0] is that of
    smaller to larger atom and [..., 1] that of larger to smaller."""
    pair_labels: np.ndarray = _ABSENT
    """float32 (P, T, 2), the same for pairs of atoms i <= j; pair (i, j) of a molecule is its row j * (j + 1) / 2 + i. An atom
    and itself are a pair too, for inputs that label it."""
    walks: np.ndarray = _ABSENT
    """uint8 (A, 16): return probabilities of random walks, as codes of `kernels.chemistry.positional`."""
    eigenvectors: np.ndarray = _ABSENT
    """int8 (A, 8): eigenvectors of the Laplacian, as codes of `kernels.chemistry.positional`."""
    eigenvalues: np.ndarray = _ABSENT
    """float16 (A, 8): their eigenvalues, those of the atom's component."""
    ids: np.ndarray = _ABSENT
    """uint64 (N): global row numbers in the inputs."""
    smiles: np.ndarray = _ABSENT
    """object (N): str; atom k of the molecule is the k-th atom of the string."""
    identifiers: np.ndarray = _ABSENT
    """object (N): str, the user's own names of the molecules; empty where there is none."""

    @classmethod
    def empty(cls, *, atom_features: int, num_tasks: Mapping[Level, int], identifiers: bool = False) -> "Molecules":
        """No molecules, with the columns of a set of so many tasks of each level."""
        return cls(
            atom_ptr=np.zeros(1, np.int64),
            bond_ptr=np.zeros(1, np.int64),
            atom_codes=np.empty((0, atom_features), np.uint8),
            bond_atoms=np.empty((0, 2), np.uint16),
            bond_codes=np.empty(0, np.uint8),
            ids=np.empty(0, np.uint64),
            smiles=np.empty(0, object),
            identifiers=np.empty(0, object) if identifiers else _ABSENT,
            **{f"{level}_labels": np.empty(label_shape(level, 0, n), np.float32) for level, n in num_tasks.items() if n},
        )

    def __len__(self) -> int:
        return len(self.atom_ptr) - 1

    @property
    def num_atoms(self) -> np.ndarray:
        """int64 (N)."""
        return np.diff(self.atom_ptr)

    @property
    def num_bonds(self) -> np.ndarray:
        """int64 (N)."""
        return np.diff(self.bond_ptr)

    @property
    def pair_ptr(self) -> np.ndarray:
        """int64 (N + 1): pairs of molecule i are pair_ptr[i]:pair_ptr[i + 1]."""
        return offsets(pair_counts(self.num_atoms))

    def labels(self, level: Level) -> np.ndarray | None:
        """The label column of one level, whatever its shape."""
        return getattr(self, f"{level}_labels")

    def label_ptr(self, level: Level) -> np.ndarray:
        """int64 (N + 1): which rows of a level's label column belong to which molecule."""
        if level == "graph":
            return np.arange(len(self) + 1)
        return self.pair_ptr if level == "pair" else self.bond_ptr if level == "bond" else self.atom_ptr

    def take(self, rows: np.ndarray) -> "Molecules":
        """The molecules `rows`, in that order (a copy)."""
        atoms, atom_ptr = ragged_rows(self.atom_ptr, rows)
        bonds, bond_ptr = ragged_rows(self.bond_ptr, rows)
        pairs = None if self.pair_labels is None else ragged_rows(self.pair_ptr, rows)[0]
        return replace(
            self, atom_ptr=atom_ptr, bond_ptr=bond_ptr, **self._pick(molecule=rows, atom=atoms, bond=bonds, pair=pairs)
        )

    def slice(self, start: int, end: int) -> "Molecules":
        """The molecules start:end, as views."""
        atoms, bonds = (slice(int(ptr[start]), int(ptr[end])) for ptr in (self.atom_ptr, self.bond_ptr))
        pairs = None
        if self.pair_labels is not None:
            pair_ptr = self.pair_ptr
            pairs = slice(int(pair_ptr[start]), int(pair_ptr[end]))
        return replace(
            self,
            atom_ptr=self.atom_ptr[start : end + 1] - atoms.start,
            bond_ptr=self.bond_ptr[start : end + 1] - bonds.start,
            **self._pick(molecule=slice(start, end), atom=atoms, bond=bonds, pair=pairs),
        )

    def _pick(self, **picks: Any) -> dict[str, Any]:
        columns = {name: getattr(self, name) for name in COLUMNS}
        return {name: None if column is None else column[picks[COLUMNS[name]]] for name, column in columns.items()}


COLUMNS = {
    "atom_codes": "atom",
    "bond_atoms": "bond",
    "bond_codes": "bond",
    "graph_labels": "molecule",
    "atom_labels": "atom",
    "bond_labels": "bond",
    "pair_labels": "pair",
    "walks": "atom",
    "eigenvectors": "atom",
    "eigenvalues": "atom",
    "ids": "molecule",
    "smiles": "molecule",
    "identifiers": "molecule",
}
"""Columns of Molecules and what their rows are."""


def concat_molecules(parts: list[Molecules]) -> Molecules:
    """Molecules of all parts, in order; every part must carry the same columns."""
    columns: dict[str, Any] = {}
    for name in COLUMNS:
        pieces = [getattr(part, name) for part in parts]
        columns[name] = None if pieces[0] is None else np.concatenate(pieces)
    sizes = [np.concatenate([np.diff(getattr(part, ptr)) for part in parts]) for ptr in ("atom_ptr", "bond_ptr")]
    return Molecules(atom_ptr=offsets(sizes[0]), bond_ptr=offsets(sizes[1]), **columns)


def label_shape(level: Level, num_rows: int, num_tasks: int) -> tuple[int, ...]:
    """Shape of a level's label column: bonds and pairs have a label for each direction."""
    return (num_rows, num_tasks, 2) if level in ("bond", "pair") else (num_rows, num_tasks)


def pair_counts(num_atoms: np.ndarray) -> np.ndarray:
    """Pairs of atoms i <= j of molecules of so many atoms, int64: (N) -> (N)."""
    return num_atoms * (num_atoms + 1) // 2


def offsets(sizes: np.ndarray) -> np.ndarray:
    """Sizes (N) -> int64 offsets (N + 1)."""
    ptr = np.zeros(len(sizes) + 1, np.int64)
    np.cumsum(sizes, out=ptr[1:])
    return ptr


def ragged_rows(ptr: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Flat positions of the segments `rows`, in that order, and their new offsets."""
    sizes = np.diff(ptr)[rows]
    new_ptr = offsets(sizes)
    return np.repeat(ptr[rows] - new_ptr[:-1], sizes) + np.arange(new_ptr[-1]), new_ptr
