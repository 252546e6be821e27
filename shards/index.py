"""index.parquet: one row a block, all that planning and ranged reads need. Nothing here grows with molecules.

Columns: split, shard, block; num_molecules, num_atoms, num_bonds; max_atoms, max_bonds and the ids of those molecules; counts of
molecule sizes (histogram_size, histogram_count); {group}_offset, {group}_bytes, {group}_crc32 of each member, compressed, in its
shard; content_sha256 of the decoded members.
"""

import hashlib
import io
import zlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from shards.errors import FormatError
from shards.format import GROUP_ARRAYS, GROUPS
from shards.types import Molecules, offsets

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
}
_MEMBER = {"offset": pa.int64(), "bytes": pa.int64(), "crc32": pa.uint32()}


def schema_of(groups: Iterable[str]) -> pa.Schema:
    """Columns of the index of a set with these column groups."""
    return pa.schema(
        [
            ("split", pa.dictionary(pa.int16(), pa.string())),
            *_COUNTS.items(),
            ("histogram_size", pa.list_(pa.uint16())),
            ("histogram_count", pa.list_(pa.int32())),
            *((f"{group}_{field}", dtype) for group in groups for field, dtype in _MEMBER.items()),
            ("content_sha256", pa.binary(32)),
        ]
    )


def describe_block(molecules: Molecules) -> dict:
    """Counts, maxima and size histogram of a block, as index columns."""
    sizes, bonds = molecules.num_atoms, molecules.num_bonds
    largest, densest = int(sizes.argmax()), int(bonds.argmax())
    values, counts = np.unique(sizes, return_counts=True)
    return {
        "num_molecules": len(molecules),
        "num_atoms": int(sizes.sum()),
        "num_bonds": int(bonds.sum()),
        "max_atoms": int(sizes[largest]),
        "max_atoms_id": int(molecules.ids[largest]),
        "max_bonds": int(bonds[densest]),
        "max_bonds_id": int(molecules.ids[densest]),
        "histogram_size": values.tolist(),
        "histogram_count": counts.tolist(),
    }


def describe_member(data: bytes, offset: int) -> dict:
    """Index fields of one compressed member."""
    return {"offset": offset, "bytes": len(data), "crc32": zlib.crc32(data)}


def hash_contents(contents: dict[str, bytes]) -> bytes:
    """SHA-256 of a block's decoded members, independent of compression."""
    digest = hashlib.sha256()
    for group in GROUP_ARRAYS:
        if group in contents:
            digest.update(f"{group}:{len(contents[group])}:".encode())
            digest.update(contents[group])
    return digest.digest()


def encode_index(rows: list[dict]) -> bytes:
    """Index rows, in shard order -> Parquet bytes."""
    sink = io.BytesIO()
    groups = [g for g in GROUP_ARRAYS if f"{g}_bytes" in rows[0]] if rows else GROUPS
    pq.write_table(pa.Table.from_pylist(rows, schema_of(groups)), sink, compression="zstd")
    return sink.getvalue()


@dataclass(frozen=True, slots=True)
class Index:
    """The index in memory; K blocks."""

    split: np.ndarray
    """object (K): split names."""
    counts: dict[str, np.ndarray]
    """shard, block, num_molecules, num_atoms, num_bonds, max_atoms, max_atoms_id, max_bonds, max_bonds_id: each (K)."""
    hist_ptr: np.ndarray
    """int64 (K + 1)."""
    hist_size: np.ndarray
    """int64: sizes that occur in block b at hist_ptr[b]:hist_ptr[b + 1]."""
    hist_count: np.ndarray
    """int64: how many molecules have that size."""
    members: dict[str, np.ndarray]
    """'{group}_offset', '{group}_bytes', '{group}_crc32': each (K)."""
    content_sha256: list[bytes]

    def __len__(self) -> int:
        return len(self.split)

    @classmethod
    def parse(cls, data: bytes) -> "Index":
        """Parquet bytes -> index. Raises FormatError."""
        try:
            # not read_table: the threads it leaves behind abort a process that exits soon after (pyarrow 26)
            table = pq.ParquetFile(io.BytesIO(data)).read(use_threads=False)
        except (pa.ArrowException, OSError) as error:
            raise FormatError(f"index.parquet: not readable as Parquet: {error}") from error
        groups = [g for g in GROUP_ARRAYS if f"{g}_offset" in table.schema.names]
        if table.schema.names != schema_of(groups).names or not set(GROUPS) <= set(groups):
            raise FormatError(f"index.parquet: columns {table.schema.names}, expected {schema_of(GROUPS).names}")
        column = {name: table[name].combine_chunks() for name in table.schema.names}

        def numbers(name: str) -> np.ndarray:
            return column[name].to_numpy(zero_copy_only=False)

        sizes, counts = column["histogram_size"], column["histogram_count"]
        index = cls(
            split=np.array(column["split"].to_pylist(), object),
            counts={name: numbers(name) for name in _COUNTS},
            hist_ptr=offsets(sizes.value_lengths().to_numpy()),
            hist_size=sizes.flatten().to_numpy().astype(np.int64),
            hist_count=counts.flatten().to_numpy().astype(np.int64),
            members={f"{g}_{f}": numbers(f"{g}_{f}") for g in groups for f in _MEMBER},
            content_sha256=column["content_sha256"].to_pylist(),
        )
        if index.hist_size.size != index.hist_count.size:
            raise FormatError("index.parquet: histogram sizes and counts differ in length")
        return index

    @property
    def groups(self) -> tuple[str, ...]:
        """Column groups it lists, in the order of their members."""
        return tuple(g for g in GROUP_ARRAYS if f"{g}_offset" in self.members)

    def sums(self) -> np.ndarray:
        """Molecules, atoms and bonds of each block: int64 (K, 3)."""
        return np.stack([self.counts[n].astype(np.int64) for n in ("num_molecules", "num_atoms", "num_bonds")], axis=1)
