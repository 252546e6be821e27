"""Codings: how the columns of a group become the bytes of a member, and back. The layouts are in `shards.format.block`.

A coding serves any group that names it (`shards.columns.ColumnGroup.coding`); "plain" takes columns of numbers of any width.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from types import MappingProxyType
from typing import Protocol

import numpy as np

from molstream.kernels.codec.bytes import transpose
from molstream.kernels.codec.labels import SparseLabels, densify_labels, plane_offsets, sparsify_labels
from molstream.kernels.codec.tokens import Tokens, decode_tokens, encode_tokens
from molstream.shards.columns import COLUMN_GROUPS, COLUMNS, Column, ColumnGroup, ColumnWidths, Row
from molstream.shards.errors import FormatError
from molstream.shards.format.arrays import DTYPES, Content, decode_arrays, encode_arrays, narrow
from molstream.shards.molecules import Molecules, offsets
from molstream.shards.schema import MAX_ATOMS
from molstream.shards.tasks import Level

MAX_DENSE_BYTES = 2**34
"""Labels of a block in memory."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Columns of many blocks' molecules, and where those of one block go."""

    columns: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Columns of `Molecules`, by name. Those that are not here are made."""
    starts: Mapping[Row, np.ndarray] = field(default_factory=dict)
    """Row where each molecule of the block begins."""

    def find(self, name: str) -> tuple[np.ndarray | None, np.ndarray | None]:
        """A column and where its rows begin; (None, None) if it is to be made."""
        return (self.columns[name], self.starts[COLUMNS[name].rows]) if name in self.columns else (None, None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """What decoding a group needs beside its bytes."""

    sizes: Molecules
    """The block's molecules, without columns."""
    widths: ColumnWidths
    tasks: Mapping[Level, np.ndarray] = field(default_factory=lambda: MappingProxyType({}))
    """Label columns of a level that are wanted, in this order; all if a level is not here."""
    place: Place = field(default_factory=Place)


class Coding(Protocol):
    """Raises FormatError, or the ValueError of a kernel, for bytes that are not what it writes."""

    def arrays(self, group: ColumnGroup) -> dict[str, str]:
        """Arrays of a member, in order, and the dtypes each may have ("u2|u4")."""

    def encode(self, group: ColumnGroup, molecules: Molecules, label_dtype: str) -> Content:
        """Columns of a group -> content of its member. `label_dtype`: "f4" or "f2", of labels."""

    def decode(self, group: ColumnGroup, content: bytes, block: Block) -> dict[str, np.ndarray]:
        """Content -> columns by name, in `block.place` where that has them."""


class Sizes:
    """Numbers of atoms and bonds of each molecule. Decoded by `read_sizes`, before all else."""

    def arrays(self, group: ColumnGroup) -> dict[str, str]:
        return {"num_atoms": "u2|u4", "num_bonds": "u2|u4"}

    def encode(self, group: ColumnGroup, molecules: Molecules, label_dtype: str) -> Content:
        sizes = {"num_atoms": molecules.num_atoms, "num_bonds": molecules.num_bonds}
        return encode_arrays({name: narrow(numbers, "u2", "u4") for name, numbers in sizes.items()})

    def decode(self, group: ColumnGroup, content: bytes, block: Block) -> dict[str, np.ndarray]:
        return {}


class StructureTokens:
    """Atom codes, bonds and bond codes as one string of tokens."""

    def arrays(self, group: ColumnGroup) -> dict[str, str]:
        return {"atom_rows": "u1", "bond_steps": "u1|u2", "bond_kinds": "u1", "tokens": "u1|u2|u4"}

    def encode(self, group: ColumnGroup, molecules: Molecules, label_dtype: str) -> Content:
        columns = (molecules.columns[column.name] for column in group.columns)
        coded = encode_tokens(molecules.atom_ptr, molecules.bond_ptr, *columns)
        return encode_arrays(
            {
                "atom_rows": coded.atom_rows.reshape(-1),
                "bond_steps": narrow(coded.bond_steps, "u1", "u2"),
                "bond_kinds": coded.bond_kinds,
                "tokens": narrow(coded.tokens, "u1", "u2", "u4"),
            }
        )

    def decode(self, group: ColumnGroup, content: bytes, block: Block) -> dict[str, np.ndarray]:
        arrays, num_features = decode_arrays(content, self.arrays(group)), len(block.widths.atom_codes)
        if arrays["atom_rows"].size % num_features:
            raise FormatError(f"{arrays['atom_rows'].size} atom codes, expected rows of {num_features}")
        arrays["atom_rows"] = arrays["atom_rows"].reshape(-1, num_features)
        # codes index embedding tables, so none may lie outside its feature
        is_outside = (arrays["atom_rows"] >= np.array(block.widths.atom_codes)).any()
        if is_outside or arrays["bond_kinds"].max(initial=0) >= block.widths.bond_codes:
            raise FormatError("a code is outside its feature's range")
        names, place = [column.name for column in group.columns], block.place
        out = tuple(place.columns[name] for name in names) if names[0] in place.columns else None
        starts = (place.starts["atom"], place.starts["bond"]) if out else (None, None)
        ptrs = (block.sizes.atom_ptr, block.sizes.bond_ptr)
        return dict(zip(names, decode_tokens(Tokens(**arrays), *ptrs, out, starts=starts), strict=True))


class Labels:
    """Labels task by task, absent ones without a byte."""

    def arrays(self, group: ColumnGroup) -> dict[str, str]:
        return {
            "presence": "u1",
            "count": "u4",
            "coding": "u1",
            "planes": "u1",
            "argument": "u4",
            "bitmap": "u1",
            "rows": "u4",
            "table": "f2|f4",
            "values": "u1",
        }

    def encode(self, group: ColumnGroup, molecules: Molecules, label_dtype: str) -> Content:
        (column,) = group.columns
        labels, ptr = molecules.columns[column.name], molecules.row_ptr(column.rows)
        flat = labels.reshape(len(labels), math.prod(labels.shape[1:]))
        sparse = sparsify_labels(flat, ptr, dtype=DTYPES[label_dtype])
        return encode_arrays(sparse._asdict(), cuts={"values": plane_offsets(sparse, ptr)})

    def decode(self, group: ColumnGroup, content: bytes, block: Block) -> dict[str, np.ndarray]:
        (column,) = group.columns
        assert group.level is not None
        largest = int(block.sizes.num_atoms.max(initial=0))
        if column.rows == "pair" and largest > MAX_ATOMS:
            raise FormatError(f"pairs of a molecule of {largest} atoms, more than {MAX_ATOMS}")
        sparse, ptr = SparseLabels(**decode_arrays(content, self.arrays(group))), block.sizes.row_ptr(column.rows)
        shape = column.shape(int(ptr[-1]), block.widths.sizes)
        check_num_columns(sparse, math.prod(shape[1:]))
        if (tasks := block.tasks.get(group.level)) is not None:
            shape = (shape[0], len(tasks), *shape[2:])
            # each task of bonds or pairs is two columns
            tasks = tasks if len(shape) == 2 else (2 * tasks[:, None] + np.arange(2)).reshape(-1)
        if 4 * math.prod(shape) > MAX_DENSE_BYTES:
            raise FormatError(f"labels of shape {shape}, more than {MAX_DENSE_BYTES:,} bytes")
        out, starts = block.place.find(column.name)
        out = None if out is None else out.reshape(len(out), math.prod(shape[1:]))
        labels = densify_labels(sparse, ptr, out, starts=starts, tasks=tasks)
        return {column.name: labels.reshape(len(labels), *shape[1:])}


def check_num_columns(sparse: SparseLabels, expected: int) -> None:
    """Raises FormatError for labels of another number of columns."""
    if sparse.presence.size != expected:
        raise FormatError(f"labels of {sparse.presence.size} columns, the manifest lists {expected}")


class Texts:
    """A text per molecule."""

    def arrays(self, group: ColumnGroup) -> dict[str, str]:
        return {"lengths": "u2|u4", "text": "u1"}

    def encode(self, group: ColumnGroup, molecules: Molecules, label_dtype: str) -> Content:
        (column,) = group.columns
        data = [text.encode() for text in molecules.columns[column.name]]
        lengths = narrow(np.array([len(t) for t in data], np.int64), "u2", "u4")
        return encode_arrays({"lengths": lengths, "text": np.frombuffer(b"".join(data), np.uint8)})

    def decode(self, group: ColumnGroup, content: bytes, block: Block) -> dict[str, np.ndarray]:
        arrays, number = decode_arrays(content, self.arrays(group)), len(block.sizes)
        ptr = offsets(arrays["lengths"])
        if arrays["lengths"].size != number or ptr[-1] != arrays["text"].size:
            raise FormatError(f"{arrays['text'].size} bytes of text for {number} molecules, lengths sum to {ptr[-1]}")
        data = arrays["text"].tobytes()
        texts = np.empty(number, object)
        texts[:] = [data[a:b].decode() for a, b in pairwise(ptr)]
        return {group.columns[0].name: texts}


class Plain:
    """Numbers, entry by entry: all rows of entry 0 of the width, then of entry 1, ...; wider ones byte plane by byte plane."""

    def arrays(self, group: ColumnGroup) -> dict[str, str]:
        return {column.name: _code(column) for column in group.columns}

    def encode(self, group: ColumnGroup, molecules: Molecules, label_dtype: str) -> Content:
        arrays, cuts = {}, {}
        for column in group.columns:
            values = molecules.columns[column.name]
            entries = np.ascontiguousarray(values.reshape(len(values), math.prod(values.shape[1:])).T).view(DTYPES[_code(column)])
            if column.delta:
                entries = np.concatenate([entries[: column.delta], entries[column.delta :] - entries[: -column.delta]])
            arrays[column.name] = entries.reshape(-1)
            cuts[column.name] = [k * entries.shape[1] for k in range(len(entries))]
        return encode_arrays(arrays, shuffle=frozenset(n for n, a in arrays.items() if a.itemsize > 1), cuts=cuts)

    def decode(self, group: ColumnGroup, content: bytes, block: Block) -> dict[str, np.ndarray]:
        arrays, columns = decode_arrays(content, self.arrays(group)), {}
        for column in group.columns:
            ptr, values = block.sizes.row_ptr(column.rows), arrays[column.name]
            shape = column.shape(int(ptr[-1]), block.widths.sizes)
            if values.size != math.prod(shape):
                raise FormatError(f"{values.size} numbers in {column.name}, expected {' x '.join(map(str, shape))}")
            entries = values.reshape(math.prod(shape[1:]), shape[0])
            if column.delta:
                entries = entries.copy()
                for k in range(column.delta, len(entries)):
                    entries[k] += entries[k - column.delta]
            columns[column.name] = self._place(column, entries.view(column.dtype), ptr, shape, block.place)
        return columns

    def _place(self, column: Column, entries: np.ndarray, ptr: np.ndarray, shape: tuple[int, ...], place: Place) -> np.ndarray:
        out, starts = place.find(column.name)
        if len(entries) != 1:
            out = None if out is None else out.reshape(len(out), len(entries))
            rows = transpose(entries, ptr, out, starts=starts)
            return rows.reshape(len(rows), *shape[1:])
        if out is None or starts is None:
            return entries.reshape(shape)
        sizes = np.diff(ptr)
        out[np.repeat(starts - ptr[:-1], sizes) + np.arange(shape[0])] = entries.reshape(shape)
        return out


def _code(column: Column) -> str:
    """Of a directory: integers of any sign are stored as unsigned ones."""
    return f"{'f' if column.dtype.kind == 'f' else 'u'}{column.dtype.itemsize}"


CODINGS: dict[str, Coding] = {
    "sizes": Sizes(),
    "tokens": StructureTokens(),
    "labels": Labels(),
    "texts": Texts(),
    "plain": Plain(),
}
"""By the name a column group gives."""


def arrays_of(group: str) -> dict[str, str]:
    """Arrays of a column group's member, in order, and the dtypes each may have ("u2|u4")."""
    return CODINGS[COLUMN_GROUPS[group].coding].arrays(COLUMN_GROUPS[group])


def read_sizes(content: bytes, num_molecules: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of atoms and bonds of a block's molecules. Raises FormatError."""
    sizes = decode_arrays(content, arrays_of("sizes"))
    if sizes["num_atoms"].size != num_molecules or sizes["num_bonds"].size != num_molecules:
        raise FormatError(f"sizes of {sizes['num_atoms'].size} molecules, the index says {num_molecules}")
    return sizes["num_atoms"], sizes["num_bonds"]
