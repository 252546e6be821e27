"""A run of molecules in memory: offsets by atoms and bonds, and the columns of `shards.columns`."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from molstream.shards.columns import COLUMNS, ROW_OF_LEVEL, Row, named_sizes
from molstream.shards.tasks import Level


class Molecules:
    """N molecules with A atoms and B bonds. Arrays are never written to.

    Columns are attributes, `molecules.atom_codes`; one that was not read is None. What each holds is said in `shards.columns`.
    """

    __slots__ = ("atom_ptr", "bond_ptr", "columns")
    atom_ptr: np.ndarray
    """int64 (N + 1): atoms of molecule i are atom_ptr[i]:atom_ptr[i + 1]."""
    bond_ptr: np.ndarray
    """int64 (N + 1)."""
    columns: dict[str, np.ndarray]
    """Those that are present, by name, in the order of `COLUMNS`."""

    def __init__(self, *, atom_ptr: np.ndarray, bond_ptr: np.ndarray, **columns: np.ndarray | None):
        """Raises TypeError for a column that is not in `COLUMNS`; one given as None is absent."""
        if unknown := columns.keys() - COLUMNS.keys():
            raise TypeError(f"molecules have no column {min(unknown)!r}")
        self.atom_ptr, self.bond_ptr = atom_ptr, bond_ptr
        self.columns = {name: column for name in COLUMNS if (column := columns.get(name)) is not None}

    def __getattr__(self, name: str) -> Any:
        if name not in COLUMNS:
            raise AttributeError(f"molecules have no column {name!r}")
        return self.columns.get(name)

    def __reduce__(self) -> tuple:
        return _restore, (self.atom_ptr, self.bond_ptr, self.columns)

    @classmethod
    def empty(cls, *, atom_features: int, num_tasks: Mapping[Level, int], identifiers: bool = False) -> "Molecules":
        """No molecules, with the columns that rows of a table have, for so many tasks of each level."""
        names = ["atom_codes", "bond_atoms", "bond_codes", "ids", "smiles", *(["identifiers"] if identifiers else [])]
        names += [f"{level}_labels" for level, number in num_tasks.items() if number]
        sizes = named_sizes(atom_features, num_tasks)
        columns = {name: np.empty(COLUMNS[name].shape(0, sizes), COLUMNS[name].dtype) for name in names}
        return cls(atom_ptr=np.zeros(1, np.int64), bond_ptr=np.zeros(1, np.int64), **columns)

    def __len__(self) -> int:
        return len(self.atom_ptr) - 1

    def replace(
        self, *, atom_ptr: np.ndarray | None = None, bond_ptr: np.ndarray | None = None, **columns: np.ndarray | None
    ) -> "Molecules":
        """The same molecules with other columns; one given as None is left out."""
        return Molecules(
            atom_ptr=self.atom_ptr if atom_ptr is None else atom_ptr,
            bond_ptr=self.bond_ptr if bond_ptr is None else bond_ptr,
            **self.columns | columns,
        )

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
        """int64 (N + 1): pairs of molecule i are pair_ptr[i]:pair_ptr[i + 1]; atoms i <= j are its row j (j + 1) / 2 + i."""
        return offsets(pair_counts(self.num_atoms))

    def row_ptr(self, row: Row) -> np.ndarray:
        """int64 (N + 1): which rows of the columns of that kind belong to which molecule."""
        if row == "molecule":
            return np.arange(len(self) + 1)
        return self.pair_ptr if row == "pair" else self.bond_ptr if row == "bond" else self.atom_ptr

    def labels(self, level: Level) -> np.ndarray | None:
        """The label column of one level, whatever its shape."""
        return self.columns.get(f"{level}_labels")

    def label_ptr(self, level: Level) -> np.ndarray:
        """int64 (N + 1): which rows of a level's label column belong to which molecule."""
        return self.row_ptr(ROW_OF_LEVEL[level])

    def take(self, rows: np.ndarray) -> "Molecules":
        """The molecules `rows`, in that order (a copy)."""
        atoms, atom_ptr = ragged_rows(self.atom_ptr, rows)
        bonds, bond_ptr = ragged_rows(self.bond_ptr, rows)
        picks: dict[Row, Any] = {"molecule": rows, "atom": atoms, "bond": bonds}
        if self._has("pair"):
            picks["pair"] = ragged_rows(self.pair_ptr, rows)[0]
        return Molecules(atom_ptr=atom_ptr, bond_ptr=bond_ptr, **self._pick(picks))

    def slice(self, start: int, end: int) -> "Molecules":
        """The molecules start:end, as views."""
        atoms, bonds = (slice(int(ptr[start]), int(ptr[end])) for ptr in (self.atom_ptr, self.bond_ptr))
        picks: dict[Row, Any] = {"molecule": slice(start, end), "atom": atoms, "bond": bonds}
        if self._has("pair"):
            pair_ptr = self.pair_ptr
            picks["pair"] = slice(int(pair_ptr[start]), int(pair_ptr[end]))
        return Molecules(
            atom_ptr=self.atom_ptr[start : end + 1] - atoms.start,
            bond_ptr=self.bond_ptr[start : end + 1] - bonds.start,
            **self._pick(picks),
        )

    def _has(self, row: Row) -> bool:
        return any(COLUMNS[name].rows == row for name in self.columns)

    def _pick(self, picks: dict[Row, Any]) -> dict[str, np.ndarray]:
        return {name: column[picks[COLUMNS[name].rows]] for name, column in self.columns.items()}


def _restore(atom_ptr: np.ndarray, bond_ptr: np.ndarray, columns: dict[str, np.ndarray]) -> Molecules:
    return Molecules(atom_ptr=atom_ptr, bond_ptr=bond_ptr, **columns)


def concat_molecules(parts: list[Molecules]) -> Molecules:
    """Molecules of all parts, in order; every part must carry the same columns."""
    columns = {name: np.concatenate([part.columns[name] for part in parts]) for name in parts[0].columns}
    sizes = [np.concatenate([np.diff(getattr(part, ptr)) for part in parts]) for ptr in ("atom_ptr", "bond_ptr")]
    return Molecules(atom_ptr=offsets(sizes[0]), bond_ptr=offsets(sizes[1]), **columns)


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
