"""Columns of molecules, each described once. Spill files, blocks, the index, readers, windows, batches and `cat` follow from it.

    COLUMN_GROUPS["lap8"] = ColumnGroup(
        name="lap8",                        one member of a block; one thing that is read or not
        columns=(eigenvectors, eigenvalues),   fields of Molecules: whose rows, dtype, width, padding, shape suffix in a batch
        coding="plain",                     how its bytes are made: a name in `shards.format.codings`
        built_by="encodings",               which option of a build makes it
        read_by="encodings",                which request of a stream reads it
        compute=...,                        where its values come from, if from the structure alone
    )

**To add a group**, add an entry here. Its values come from `compute`, or from whoever makes the `Molecules` that are built. A
coding of its own is needed only where "plain" wastes space. Groups are members of a block in the order of this table, so a new
one goes to its end.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from molstream.shards.tasks import LEVELS, Level

Row = Literal["molecule", "atom", "bond", "pair"]
ROWS: tuple[Row, ...] = ("molecule", "atom", "bond", "pair")
ROW_OF_LEVEL: dict[Level, Row] = {"graph": "molecule", "atom": "atom", "bond": "bond", "pair": "pair"}
Compute = Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, ...]]
"""(atom_ptr, bond_ptr, bond_atoms) of some molecules -> the columns of a group, in order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """One field of `Molecules`."""

    name: str
    """At most 16 ASCII characters: it is also the array's name in a "plain" member."""
    rows: Row
    """What its rows belong to."""
    dtype: np.dtype
    """Object for text: str."""
    width: tuple[int | str, ...] = ()
    """Numbers per row. A name stands for a size that the set decides: a key of `ColumnWidths.sizes`."""
    pad: float = 0
    """What padding rows of a batch hold."""
    suffix: str = ""
    """Shape in a batch, as in `walks_AK`: G graphs, A atoms, B bonds, P pairs, then one letter per dimension of the width."""
    delta: int = 0
    """"plain" coding: entry k of a row is stored less entry k - delta, modulo 2**bits; 0: as it is."""
    meaning: str

    def shape(self, num_rows: int, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """Shape of the array that holds so many rows."""
        return (num_rows, *(sizes[part] if isinstance(part, str) else part for part in self.width))


@dataclass(frozen=True, kw_only=True, slots=True)
class ColumnGroup:
    """Columns that are stored as one member of a block and read together."""

    name: str
    columns: tuple[Column, ...]
    coding: str
    built_by: Literal["always", "tasks", "encodings", "identifiers"]
    """What puts it into a set: nothing can keep it out, tasks of its level, `--pe`, `--id-column`."""
    read_by: Literal["always", "tasks", "encodings", "ids", "blocks"]
    """What a stream reads it for: always, selected tasks of its level, `encodings`, `with_ids`; "blocks": no stream reads it."""
    level: Level | None = None
    """Of label groups."""
    compute: Compute | None = None
    """Values from the structure alone, computed when a block is written, or by a reader of a set that lacks the group."""
    zstd_level: int = 9
    shown: bool = False
    """Whether `cat` prints its columns as they are, under their names."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ColumnWidths:
    """What a set says of its columns: all that decoding needs beside the bytes."""

    atom_codes: tuple[int, ...]
    """Number of codes of each atom feature."""
    bond_codes: int
    """Number of codes of a bond: the product over its features."""
    num_tasks: Mapping[Level, int]
    sizes: dict[str, int] = field(init=False)
    """Of the names in `Column.width`."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "sizes", named_sizes(len(self.atom_codes), self.num_tasks))


def named_sizes(num_atom_features: int, num_tasks: Mapping[Level, int]) -> dict[str, int]:
    """The sizes that names in `Column.width` stand for."""
    return {"atom_features": num_atom_features, **{f"{level}_tasks": num_tasks.get(level, 0) for level in LEVELS}}


def _labels(level: Level) -> ColumnGroup:
    rows = ROW_OF_LEVEL[level]
    both_ways = level in ("bond", "pair")
    letter = {"graph": "G", "atom": "A", "bond": "B", "pair": "P"}[level]
    meaning = "labels in raw units, NaN where absent"
    if both_ways:
        meaning += (
            "; where the input has one for each direction, [..., 0] is that of smaller to larger atom and [..., 1] the other; "
            "where it has one, [..., 0] is it"
        )
    column = Column(
        name=f"{level}_labels",
        rows=rows,
        dtype=np.dtype(np.float32),
        width=(f"{level}_tasks", 2) if both_ways else (f"{level}_tasks",),
        pad=np.nan,
        suffix=f"{letter}T2" if both_ways else f"{letter}T",
        meaning=meaning,
    )
    return ColumnGroup(name=column.name, columns=(column,), coding="labels", built_by="tasks", read_by="tasks", level=level)


def _random_walks(atom_ptr: np.ndarray, bond_ptr: np.ndarray, bond_atoms: np.ndarray) -> tuple[np.ndarray, ...]:
    # here, as the next: descriptions alone need no compiler
    from molstream.kernels.chemistry.positional import quantize_walk, random_walk

    return (quantize_walk(random_walk(atom_ptr, bond_ptr, bond_atoms)),)


def _eigenpairs(atom_ptr: np.ndarray, bond_ptr: np.ndarray, bond_atoms: np.ndarray) -> tuple[np.ndarray, ...]:
    from molstream.kernels.chemistry.positional import laplacian, quantize_laplacian

    return quantize_laplacian(*laplacian(atom_ptr, bond_ptr, bond_atoms))


def _column(name: str, rows: Row, dtype: type, meaning: str, **options) -> Column:
    return Column(name=name, rows=rows, dtype=np.dtype(dtype), meaning=meaning, **options)


_ALL = (
    # numbers of atoms and bonds are not a column: they are what all columns are cut by
    ColumnGroup(name="sizes", columns=(), coding="sizes", built_by="always", read_by="always"),
    ColumnGroup(
        name="structure",
        columns=(
            _column("atom_codes", "atom", np.uint8, "atom features as category codes", width=("atom_features",)),
            _column(
                "bond_atoms",
                "bond",
                np.uint16,
                "atom numbers inside the molecule, smaller first; bonds are sorted by (larger, smaller)",
                width=(2,),
            ),
            _column("bond_codes", "bond", np.uint8, "bond features as one mixed-radix number, first feature most significant"),
        ),
        coding="tokens",
        built_by="always",
        read_by="always",
    ),
    _labels("graph"),
    ColumnGroup(
        name="rw16",
        columns=(
            _column(
                "rwse",
                "atom",
                np.uint8,
                "return probabilities of random walks of 1 to 16 steps, as codes of `quantize_walk`",
                width=(16,),
                suffix="AK",
                delta=2,
            ),
        ),
        coding="plain",
        built_by="encodings",
        read_by="encodings",
        compute=_random_walks,
        zstd_level=5,
    ),
    ColumnGroup(
        name="lap8",
        columns=(
            _column(
                "eigenvectors",
                "atom",
                np.int8,
                "eigenvectors of the Laplacian, as codes of `quantize_laplacian`",
                width=(8,),
                suffix="AK",
            ),
            _column(
                "eigenvalues", "atom", np.float16, "their eigenvalues, those of the atom's component", width=(8,), suffix="AK"
            ),
        ),
        coding="plain",
        built_by="encodings",
        read_by="encodings",
        compute=_eigenpairs,
        zstd_level=5,
    ),
    _labels("bond"),
    _labels("pair"),
    _labels("atom"),
    ColumnGroup(
        name="ids",
        columns=(_column("ids", "molecule", np.uint64, "global row numbers in the inputs"),),
        coding="plain",
        built_by="always",
        read_by="ids",
    ),
    ColumnGroup(
        name="smiles",
        columns=(_column("smiles", "molecule", object, "atom k of the molecule is the k-th atom of the string"),),
        coding="texts",
        built_by="always",
        read_by="blocks",
    ),
    ColumnGroup(
        name="identifiers",
        columns=(_column("identifiers", "molecule", object, "the user's own names of the molecules, empty where there is none"),),
        coding="texts",
        built_by="identifiers",
        read_by="blocks",
    ),
)
COLUMN_GROUPS: dict[str, ColumnGroup] = {group.name: group for group in _ALL}
"""By name, in the order of a block's members."""
COLUMNS: dict[str, Column] = {column.name: column for group in _ALL for column in group.columns}
"""All columns, by name."""


def register(group: ColumnGroup) -> None:
    """Add a group at the end of the table, for this process. Raises ValueError for a name that is taken."""
    names = {group.name} | {column.name for column in group.columns}
    if taken := sorted(names & (COLUMN_GROUPS.keys() | COLUMNS.keys())):
        raise ValueError(f"column group {group.name!r}: {taken[0]!r} is taken")
    COLUMN_GROUPS[group.name] = group
    COLUMNS.update({column.name: column for column in group.columns})


def unregister(name: str) -> None:
    """Undo `register`."""
    for column in COLUMN_GROUPS.pop(name).columns:
        del COLUMNS[column.name]


def computed_groups() -> tuple[str, ...]:
    """Groups that can be computed from the structure: what `--pe` and `encodings` may name."""
    return tuple(name for name, group in COLUMN_GROUPS.items() if group.built_by == "encodings")


def groups_of(num_tasks: Mapping[Level, int], *, pe: Collection[str] = (), identifiers: bool = False) -> tuple[str, ...]:
    """Column groups of a set, in the order of their members."""

    def is_built(group: ColumnGroup) -> bool:
        if group.built_by == "tasks":
            return group.level is not None and num_tasks.get(group.level, 0) > 0
        return {"always": True, "encodings": group.name in pe, "identifiers": identifiers}[group.built_by]

    return tuple(name for name, group in COLUMN_GROUPS.items() if is_built(group))
