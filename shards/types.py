"""Tasks, features and the columns of a run of molecules: what every other module speaks of."""

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

Level = Literal["graph", "atom"]
Kind = Literal["regression"]
_ABSENT: Any = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """One label column."""

    name: str
    """The column's name in the input."""
    level: Level
    """What carries the label: the molecule (graph) or each of its atoms."""
    kind: Kind
    """What the label is."""
    unit: str
    """Physical unit, '1' for a pure number, 'e' for elementary charges."""
    source: str
    """The data set it comes from."""


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
    walks: np.ndarray = _ABSENT
    """uint8 (A, 16): return probabilities of random walks, as codes of `kernels.positional`."""
    eigenvectors: np.ndarray = _ABSENT
    """int8 (A, 8): eigenvectors of the Laplacian, as codes of `kernels.positional`."""
    eigenvalues: np.ndarray = _ABSENT
    """float16 (A, 8): their eigenvalues, those of the atom's component."""
    ids: np.ndarray = _ABSENT
    """uint64 (N): global row numbers in the inputs."""
    smiles: np.ndarray = _ABSENT
    """object (N): str; atom k of the molecule is the k-th atom of the string."""

    @classmethod
    def empty(cls, *, atom_features: int, graph_tasks: int, atom_tasks: int) -> "Molecules":
        """No molecules, with every column."""
        return cls(
            atom_ptr=np.zeros(1, np.int64),
            bond_ptr=np.zeros(1, np.int64),
            atom_codes=np.empty((0, atom_features), np.uint8),
            bond_atoms=np.empty((0, 2), np.uint16),
            bond_codes=np.empty(0, np.uint8),
            graph_labels=np.empty((0, graph_tasks), np.float32),
            atom_labels=np.empty((0, atom_tasks), np.float32),
            ids=np.empty(0, np.uint64),
            smiles=np.empty(0, object),
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

    def take(self, rows: np.ndarray) -> "Molecules":
        """The molecules `rows`, in that order (a copy)."""
        atoms, atom_ptr = ragged_rows(self.atom_ptr, rows)
        bonds, bond_ptr = ragged_rows(self.bond_ptr, rows)
        return replace(self, atom_ptr=atom_ptr, bond_ptr=bond_ptr, **self._pick(molecule=rows, atom=atoms, bond=bonds))

    def slice(self, start: int, end: int) -> "Molecules":
        """The molecules start:end, as views."""
        atoms, bonds = (slice(int(ptr[start]), int(ptr[end])) for ptr in (self.atom_ptr, self.bond_ptr))
        return replace(
            self,
            atom_ptr=self.atom_ptr[start : end + 1] - atoms.start,
            bond_ptr=self.bond_ptr[start : end + 1] - bonds.start,
            **self._pick(molecule=slice(start, end), atom=atoms, bond=bonds),
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
    "walks": "atom",
    "eigenvectors": "atom",
    "eigenvalues": "atom",
    "ids": "molecule",
    "smiles": "molecule",
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
