"""index.parquet: one row per block, all that planning and ranged reads need. Nothing here grows with molecules.

Columns: split, shard, block; num_molecules, num_atoms, num_bonds; max_atoms, max_bonds, max_graph_labels (labels at graph level
that are not NaN), the most of any one molecule, and the ids of the first such molecules; counts of molecule sizes
(histogram_size, histogram_count) and of numbers of graph-level labels above 0 (labels_size, labels_count); {group}_offset,
{group}_bytes, {group}_crc32 of each member, compressed, in its shard; content_sha256 of the decoded members. A row group has
16,384 rows, the last one fewer; pages have checksums.

A billion molecules are a quarter of a million rows, of which most callers want a few columns. So opening an index hashes the file
and reads its footer, and a column is read when it is first asked for. The price: the file must stay, as it is.
"""

import hashlib
import io
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from molstream.shards.columns import COLUMN_GROUPS, groups_of
from molstream.shards.errors import ChecksumError, FormatError
from molstream.shards.molecules import Molecules, offsets, pair_counts
from molstream.shards.store.reading import MemoryFile, Stamp, Store, StoredFile, hash_all
from molstream.shards.store.tables import GROUP_ROWS, open_parquet, parquet_writer
from molstream.shards.store.writing import Sink

BATCH_ROWS = 1024
"""Rows that are decoded at a time: what reading a column takes beside the column."""
_COUNTS = {
    "shard": pa.int32(),
    "block": pa.int32(),
    "num_molecules": pa.int32(),
    "num_atoms": pa.int64(),
    "num_bonds": pa.int64(),
    "max_atoms": pa.int32(),
    "max_atoms_id": pa.uint64(),
    "max_bonds": pa.int32(),
    "max_bonds_id": pa.uint64(),
    "max_graph_labels": pa.int32(),
    "max_graph_labels_id": pa.uint64(),
}
_HISTOGRAMS = {
    "histogram": {"histogram_size": pa.uint16(), "histogram_count": pa.int32()},
    "labels": {"labels_size": pa.int32(), "labels_count": pa.int32()},
}
_LISTS = {name: dtype for columns in _HISTOGRAMS.values() for name, dtype in columns.items()}
_MEMBER = {"offset": pa.int64(), "bytes": pa.int64(), "crc32": pa.uint32()}


def schema_of(groups: Iterable[str]) -> pa.Schema:
    """Columns of the index of a set with these column groups."""
    return pa.schema(
        [
            ("split", pa.dictionary(pa.int16(), pa.string())),
            *_COUNTS.items(),
            *((name, pa.list_(dtype)) for name, dtype in _LISTS.items()),
            *((f"{group}_{field}", dtype) for group in groups for field, dtype in _MEMBER.items()),
            ("content_sha256", pa.binary(32)),
        ]
    )


def describe_block(molecules: Molecules) -> dict:
    """Counts, maxima and size histogram of a block, as index columns."""
    sizes, bonds = molecules.num_atoms, molecules.num_bonds
    if molecules.graph_labels is None:
        labels = np.zeros(len(molecules), np.int64)
    else:
        labels = np.count_nonzero(~np.isnan(molecules.graph_labels), axis=1)
    largest, densest, fullest = int(sizes.argmax()), int(bonds.argmax()), int(labels.argmax())
    values, counts = np.unique(sizes, return_counts=True)
    label_values, label_counts = np.unique(labels[labels > 0], return_counts=True)
    return {
        "num_molecules": len(molecules),
        "num_atoms": int(sizes.sum()),
        "num_bonds": int(bonds.sum()),
        "max_atoms": int(sizes[largest]),
        "max_atoms_id": int(molecules.ids[largest]),
        "max_bonds": int(bonds[densest]),
        "max_bonds_id": int(molecules.ids[densest]),
        "max_graph_labels": int(labels[fullest]),
        "max_graph_labels_id": int(molecules.ids[fullest]),
        "histogram_size": values.tolist(),
        "histogram_count": counts.tolist(),
        "labels_size": label_values.tolist(),
        "labels_count": label_counts.tolist(),
    }


def describe_member(data: bytes, offset: int) -> dict:
    """Index fields of one compressed member."""
    return {"offset": offset, "bytes": len(data), "crc32": zlib.crc32(data)}


def hash_contents(contents: dict[str, bytes]) -> bytes:
    """SHA-256 of a block's decoded members, independent of compression."""
    digest = hashlib.sha256()
    for group in COLUMN_GROUPS:
        if group in contents:
            digest.update(f"{group}:{len(contents[group])}:".encode())
            digest.update(contents[group])
    return digest.digest()


def encode_index(rows: list[dict]) -> bytes:
    """Index rows, in shard order -> Parquet bytes."""
    return encode_table(pa.Table.from_pylist(rows, schema_of(_groups_of(rows[0]) if rows else groups_of({}))))


def encode_table(table: pa.Table) -> bytes:
    """Index rows as a table of `schema_of`'s columns -> Parquet bytes. The same rows give the same bytes, however chunked."""
    sink = io.BytesIO()
    write_index(sink, _groups_of(table.schema.names), [table])
    return sink.getvalue()


def write_index(sink: Sink | io.BytesIO, groups: Iterable[str], tables: Iterable[pa.Table]) -> None:
    """Write index rows that come in several tables, holding not much more than a row group of them in memory."""
    schema = schema_of(groups)
    options: dict = {"write_statistics": False, "write_page_checksum": True}
    # most of the other columns hardly repeat a number
    options["use_dictionary"] = ["split", *(f"{name}.list.element" for name in _LISTS)]
    with parquet_writer(sink, schema, **options) as writer:
        waiting: list[pa.Table] = []
        for table in tables:
            waiting.append(table)
            if sum(map(len, waiting)) >= GROUP_ROWS:
                whole = pa.concat_tables(waiting)
                while len(whole) >= GROUP_ROWS:
                    writer.write_table(_row_group(whole.slice(0, GROUP_ROWS), schema))
                    whole = whole.slice(GROUP_ROWS)
                waiting = [whole]
        if sum(map(len, waiting)):
            writer.write_table(_row_group(pa.concat_tables(waiting), schema))


def _row_group(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """One chunk a column, and the names of the splits that occur: what is written depends on the rows alone."""
    table = table.select(schema.names).cast(schema).combine_chunks()
    names = table["split"].cast(pa.string()).combine_chunks().dictionary_encode()
    return table.set_column(0, schema.field("split"), names.cast(schema.field("split").type))


def _groups_of(names: Iterable[str]) -> tuple[str, ...]:
    names = set(names)
    return tuple(g for g in COLUMN_GROUPS if f"{g}_offset" in names)


class _File:
    """The bytes of an index, its footer in memory. Every read opens the file and closes it."""

    def __init__(self, open_file: Callable[[], StoredFile], where: str, stamp: Stamp | None):
        self.open, self.where, self.stamp = open_file, where, stamp
        self.footer: Any = None
        with self.parquet() as parquet:
            # without its metadata, a copy of the footer
            self.footer, self.schema = parquet.metadata, parquet.schema_arrow.remove_metadata()
            self.names = self.schema.names

    @contextmanager
    def parquet(self) -> Iterator[pq.ParquetFile]:
        """The open file. Raises FormatError for whatever Arrow finds wrong inside the `with` block."""
        with self.open() as file:
            if self.stamp is not None and file.stamp() != self.stamp:
                raise FormatError(f"{self.where}: changed since it was opened; open the set again")
            with open_parquet(file, footer=self.footer, check_pages=True) as parquet:
                yield parquet

    def iter_parts(self, *names: str) -> Iterator[list[pa.Array]]:
        """Columns without nulls, `BATCH_ROWS` rows at a time."""
        num_rows = 0
        with self.parquet() as parquet:
            # without threads: those that Arrow leaves behind abort a process that exits soon after (pyarrow 26)
            for batch in parquet.iter_batches(BATCH_ROWS, columns=list(names), use_threads=False):
                columns = [batch.column(name) for name in names]
                for name, column in zip(names, columns, strict=True):
                    self.require(not column.null_count, name, "has a null")
                num_rows += len(batch)
                yield columns
        self.require(
            num_rows == self.footer.num_rows, names[0], f"has {num_rows} rows, not {self.footer.num_rows} like the footer"
        )
        # Arrow would keep the memory it used, more than the column takes
        pa.default_memory_pool().release_unused()

    def numbers(self, name: str, column: pa.Array) -> np.ndarray:
        """Numbers of a column or of its lists, none of them null or negative."""
        self.require(not column.null_count, name, "has a null")
        numbers = column.to_numpy()
        self.require(not numbers.size or numbers.min() >= 0, name, "has a negative number")
        return numbers

    def num_values(self, name: str) -> int:
        """Numbers in a column of lists by the footer, an empty list counted as one."""
        groups = [self.footer.row_group(k) for k in range(self.footer.num_row_groups)]
        chunks = [group.column(k) for group in groups for k in range(group.num_columns)]
        return sum(chunk.num_values for chunk in chunks if chunk.path_in_schema.startswith(f"{name}."))

    def require(self, holds: bool, name: str, what: str) -> None:
        """Raises FormatError unless it holds."""
        if not holds:
            raise FormatError(f"{self.where}: column {name} {what}")


class IndexColumns(Mapping[str, np.ndarray]):
    """Columns by name, each read when it is first asked for, then kept. Never written to."""

    def __init__(self, file: _File, names: Iterable[str]):
        self._file, self._names = file, tuple(names)
        self._read: dict[str, np.ndarray] = {}
        self._lock = threading.Lock()

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._names:
            raise KeyError(name)
        if name not in self._read:
            with self._lock:
                if name not in self._read:
                    self._read[name] = self._load(name)
        return self._read[name]

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def _load(self, name: str) -> np.ndarray:
        parts = [self._narrow(name, column) for (column,) in self._file.iter_parts(name)]
        column = np.concatenate(parts or [self._narrow(name, self._file.schema.empty_table()[name].combine_chunks())])
        column.flags.writeable = False
        return column

    def _narrow(self, name: str, column: pa.Array) -> np.ndarray:
        if pa.types.is_fixed_size_binary(column.type):
            width = column.type.byte_width
            data = np.frombuffer(column.buffers()[1] or b"", np.uint8)
            return data[width * column.offset : width * (column.offset + len(column))].reshape(-1, width)
        numbers = self._file.numbers(name, column)
        fits = numbers.dtype == np.int64 and numbers.max(initial=0) <= np.iinfo(np.int32).max
        return numbers.astype(np.int32) if fits else numbers


@dataclass(frozen=True, slots=True)
class Histogram:
    """How many molecules of which size, or with how many labels, each of K blocks has."""

    ptr: np.ndarray
    """int64 (K + 1)."""
    size: np.ndarray
    """Sizes, or numbers of labels, that occur in block b at ptr[b]:ptr[b + 1]: uint16, or int32 where that is too narrow."""
    count: np.ndarray
    """How many molecules have that size: uint16, or int32 where that is too narrow."""

    def num_molecules(self) -> np.ndarray:
        """Molecules in each block: int64 (K)."""
        return self._sum(np.ones_like)

    def num_atoms(self) -> np.ndarray:
        """Atoms in each block: int64 (K)."""
        return self._sum(lambda sizes: sizes)

    def num_pairs(self) -> np.ndarray:
        """Pairs of atoms i <= j of one molecule in each block: int64 (K)."""
        return self._sum(pair_counts)

    def _sum(self, weigh: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        # wide integers are made a part at a time
        out, step = np.empty(len(self.ptr) - 1, np.int64), 4096
        for first in range(0, len(out), step):
            ptr = self.ptr[first : first + step + 1]
            sizes = self.size[ptr[0] : ptr[-1]].astype(np.int64)
            out[first : first + step] = np.diff(offsets(weigh(sizes) * self.count[ptr[0] : ptr[-1]])[ptr - ptr[0]])
        return out


class Index:
    """The index of K blocks. Safe to share between threads.

    Whatever reads a column raises FormatError if it is damaged, or if the file is no longer the one that was opened.
    """

    def __init__(self, open_file: Callable[[], StoredFile], *, where: str, stamp: Stamp | None = None):
        """See `open` and `parse`."""
        self._file = file = _File(open_file, where, stamp)
        self.groups = _groups_of(file.names)
        """Column groups it lists, in the order of their members."""
        schema = schema_of(self.groups)
        if file.names != schema.names or not set(groups_of({})) <= set(self.groups):
            raise FormatError(f"{file.where}: columns {file.names}, expected {schema_of(groups_of({})).names}")
        for name in schema.names:
            found, expected = file.schema.field(name).type, schema.field(name).type
            file.require(found == expected, name, f"is {found}, expected {expected}")
        self.counts = IndexColumns(file, _COUNTS)
        """shard, block, num_molecules, num_atoms, num_bonds, max_atoms, max_atoms_id, max_bonds, max_bonds_id, max_graph_labels,
        max_graph_labels_id: each (K). What is stored as int64 comes as int32 if all numbers fit."""
        self.members = IndexColumns(file, [f"{group}_{field}" for group in self.groups for field in _MEMBER])
        """'{group}_offset', '{group}_bytes', '{group}_crc32': each (K), the same."""
        self._hashes = IndexColumns(file, ["content_sha256"])
        self._splits: tuple[np.ndarray, tuple[str, ...]] | None = None
        self._lock = threading.Lock()

    @classmethod
    def open(cls, store: Store, name: str, *, sha256: str) -> "Index":
        """Hash a file and read its footer. Raises ChecksumError if it is another file, FormatError if it is no index."""
        with store.open(name) as file:
            stamp, found = file.stamp(), hash_all(file)
        if found != sha256:
            raise ChecksumError(
                f"{store.locate(name)}: not the index this manifest was written with; restore both or build again"
            )
        return cls(lambda: store.open(name), where=store.locate(name), stamp=stamp)

    @classmethod
    def parse(cls, data: bytes) -> "Index":
        """The same of a file's bytes, whatever their hash. Raises FormatError."""
        where = "index.parquet"
        return cls(lambda: MemoryFile(data, where), where=where)

    def __len__(self) -> int:
        return self._file.footer.num_rows

    @property
    def split_codes(self) -> np.ndarray:
        """uint8, or int16 if there are more than 256 splits (K): each block's split, as its place in `split_names`."""
        return self._read_splits()[0]

    @property
    def split_names(self) -> tuple[str, ...]:
        """Splits that have blocks."""
        return self._read_splits()[1]

    def split_of(self, block: int) -> str:
        """Name of a block's split."""
        codes, names = self._read_splits()
        return names[codes[block]]

    @property
    def content_sha256(self) -> np.ndarray:
        """uint8 (K, 32): hash of each block's decoded members."""
        return self._hashes["content_sha256"]

    def iter_contents(self) -> Iterator[tuple[str, bytes]]:
        """Split and content hash of each block: what the fingerprint is made of."""
        for block, content in enumerate(self.content_sha256):
            yield self.split_of(block), content.tobytes()

    def sums(self) -> np.ndarray:
        """Molecules, atoms and bonds of each block: int64 (K, 3)."""
        return np.stack([self.counts[n].astype(np.int64) for n in ("num_molecules", "num_atoms", "num_bonds")], axis=1)

    def histogram(self) -> Histogram:
        """Counts of molecule sizes. Read at each call and not kept: larger than all the rest, and planning needs them once."""
        return self._read_histogram("histogram")

    def label_histogram(self) -> Histogram:
        """Counts of molecules by their number of graph-level labels, those without any left out; read as the other."""
        return self._read_histogram("labels")

    def _read_histogram(self, kind: str) -> Histogram:
        names, file = tuple(_HISTOGRAMS[kind]), self._file
        capacity = file.num_values(names[0])
        try:
            size, count = np.empty(capacity, np.uint16), np.empty(capacity, np.uint16)
        except (ValueError, MemoryError) as error:
            raise FormatError(f"{file.where}: column {names[0]} of {capacity} numbers: {error}") from error
        lengths, at = [np.empty(0, np.int64)], 0
        for columns in file.iter_parts(*names):
            lengths.append(np.diff(columns[0].offsets.to_numpy()))
            file.require(
                np.array_equal(lengths[-1], np.diff(columns[1].offsets.to_numpy())), names[1], "has lists of other lengths"
            )
            sizes, counts = (file.numbers(name, column.flatten()) for name, column in zip(names, columns, strict=True))
            end = at + len(sizes)
            file.require(end <= capacity, names[0], f"has more numbers than the footer says, {capacity}")
            if sizes.max(initial=0) > np.iinfo(size.dtype).max:
                size = size.astype(np.int32)
            if counts.max(initial=0) > np.iinfo(count.dtype).max:
                count = count.astype(np.int32)
            size[at:end], count[at:end], at = sizes, counts, end
        return Histogram(offsets(np.concatenate(lengths)), size[:at], count[:at])

    def _read_splits(self) -> tuple[np.ndarray, tuple[str, ...]]:
        if self._splits is None:
            with self._lock:
                if self._splits is None:
                    self._splits = self._load_splits()
        return self._splits

    def _load_splits(self) -> tuple[np.ndarray, tuple[str, ...]]:
        places: dict[str, int] = {}
        parts = [np.empty(0, np.int16)]
        for (column,) in self._file.iter_parts("split"):
            used, codes = np.unique(column.indices.to_numpy(), return_inverse=True)
            try:
                known = [places.setdefault(column.dictionary[int(k)].as_py(), len(places)) for k in used]
                parts.append(np.array(known, np.int16)[codes])
            except (ValueError, IndexError, OverflowError) as error:
                raise FormatError(f"{self._file.where}: column split: {error}") from error
        whole = np.concatenate(parts)
        return whole.astype(np.uint8) if len(places) <= 256 else whole, tuple(places)
