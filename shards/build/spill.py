"""Spill files, which the map phase writes for the reduce phase: one file per range of rows, sorted by partition, written whole.

    piece, piece, ...        run 0: the molecules of partition 0, of partition 1, ...; a partition without any has no bytes
    piece, piece, ...        run 1: ...
    table                    Parquet: rejected rows (row, identifier, smiles, reason), or where rows went (row, id)
    facts                    JSON: counts and moments of the range
    offsets                  u8 (runs * partitions + 1): where each piece starts; the last is where the pieces end
    molecules                u4 (partitions)
    trailer (44 bytes)       magic "MSS4", u4 runs, u4 partitions, u4 CRC-32 of the table, u4 CRC-32 of everything from facts to
                             molecules, u8 start of table, u8 start of facts, u8 size of the file

A piece is one zstd frame of flat arrays without a directory, since a large build makes millions: u4 number of molecules, their
numbers of atoms u4 and of bonds u4, then its columns in the order of `COLUMNS`: of numbers all rows of the first entry of the
width, then of the next, ..., in byte planes; of text lengths u4, then UTF-8. Where rows are joined, identity u8 twice.
Memory holds one run, at most MAX_RUN_ROWS rows and about RUN_BYTES bytes.
"""

import json
import math
import struct
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from molstream.kernels.codec.bytes import shuffle_bytes, unshuffle_bytes
from molstream.shards.columns import COLUMN_GROUPS, COLUMNS, named_sizes
from molstream.shards.errors import FormatError
from molstream.shards.format.arrays import compress, decompress
from molstream.shards.molecules import Molecules, concat_molecules, offsets
from molstream.shards.schema import ATOM_FEATURES
from molstream.shards.store.documents import parse_json
from molstream.shards.store.reading import open_file
from molstream.shards.store.tables import decode_parquet, encode_parquet
from molstream.shards.store.writing import Sink, write_beside
from molstream.shards.tasks import Level

MAX_RUN_ROWS = 131_072
RUN_BYTES = 192 << 20
"""Approximate memory of the molecules of a run."""
ZSTD_LEVEL = 1
"""zstd's compression level. It is low because a spill file is read once, and soon."""
REJECT_SCHEMA = pa.schema([("row", pa.uint64()), ("identifier", pa.string()), ("smiles", pa.string()), ("reason", pa.string())])
MAPPING_SCHEMA = pa.schema([("row", pa.uint64()), ("id", pa.uint64())])
_MAGIC = b"MSS4"
_TRAILER = struct.Struct("<4sIIIIQQQ")


@dataclass(frozen=True, kw_only=True, slots=True)
class PieceLayout:
    """What pieces hold."""

    columns: tuple[str, ...]
    """In the order of `COLUMNS`."""
    sizes: Mapping[str, int]
    """What names in `Column.width` stand for."""
    identity: bool
    """Whether molecules come with the identity by which they are joined."""

    @classmethod
    def of(cls, groups: Iterable[str], *, num_tasks: Mapping[Level, int], identity: bool) -> "PieceLayout":
        """Of the columns of these groups."""
        names = {column.name for group in groups for column in COLUMN_GROUPS[group].columns}
        sizes = named_sizes(len(ATOM_FEATURES), num_tasks)
        return cls(columns=tuple(name for name in COLUMNS if name in names), sizes=sizes, identity=identity)


def _encode_piece(molecules: Molecules, identity: np.ndarray | None) -> bytes:
    sizes = (np.array([len(molecules)]), molecules.num_atoms, molecules.num_bonds)
    parts = [numbers.astype(np.uint32).tobytes() for numbers in sizes]
    for values in molecules.columns.values():
        if values.dtype == object:
            texts = [text.encode() for text in values]
            parts += [np.array([len(t) for t in texts], np.uint32).tobytes(), *texts]
        else:
            parts.append(shuffle_bytes(np.ascontiguousarray(np.moveaxis(values, 0, -1)).reshape(-1)).tobytes())
    parts += [] if identity is None else [np.ascontiguousarray(identity).tobytes()]
    return compress(b"".join(parts), level=ZSTD_LEVEL)


def _decode_piece(data: bytes, layout: PieceLayout) -> tuple[Molecules, np.ndarray | None]:
    content, at = decompress(data), 0

    def read(dtype: Any, count: int) -> np.ndarray:
        nonlocal at
        out = np.frombuffer(content, dtype, count, at)
        at += out.nbytes
        return out

    def read_texts() -> np.ndarray:
        ptr = offsets(read(np.uint32, n))
        text = read(np.uint8, int(ptr[-1])).tobytes()
        out = np.empty(n, object)
        out[:] = [text[i:j].decode() for i, j in pairwise(ptr.tolist())]
        return out

    (n,) = read(np.uint32, 1).tolist()
    molecules = Molecules(atom_ptr=offsets(read(np.uint32, n)), bond_ptr=offsets(read(np.uint32, n)))
    columns: dict[str, np.ndarray] = {}
    for column in map(COLUMNS.__getitem__, layout.columns):
        if column.dtype == object:
            columns[column.name] = read_texts()
            continue
        num_rows, *width = column.shape(int(molecules.row_ptr(column.rows)[-1]), layout.sizes)
        planes = read(np.uint8, column.dtype.itemsize * num_rows * math.prod(width))
        values = unshuffle_bytes(planes, column.dtype).reshape(*width, num_rows)
        columns[column.name] = np.moveaxis(values, -1, 0)
    identity = read(np.uint64, 2 * n).reshape(n, 2) if layout.identity else None
    if at != len(content):
        raise FormatError(f"{len(content) - at} bytes after the last array")
    return molecules.replace(**columns), identity


class SpillWriter:
    """Collects molecules with their partitions and writes them run by run."""

    def __init__(self, file: Sink, num_partitions: int, *, run_rows: int):
        """A run ends before it has more than `run_rows` rows or about RUN_BYTES bytes."""
        self.file, self.num_partitions, self.run_rows = file, num_partitions, run_rows
        self.starts: list[int] = []
        self.molecules = np.zeros(num_partitions, np.int64)
        self._at = self._rows = self._bytes = 0
        self._batches: list[tuple[Molecules, np.ndarray | None, np.ndarray]] = []

    def add(self, molecules: Molecules, partition: np.ndarray, identity: np.ndarray | None = None) -> None:
        """`partition` (N): the number of each molecule's partition; `identity` uint64 (N, 2): what it is joined by."""
        size = sum(column.nbytes for column in molecules.columns.values())
        if self._rows + len(molecules) > self.run_rows or self._bytes + size > RUN_BYTES:
            self._flush()
        order = np.argsort(partition, kind="stable")
        counts = np.bincount(partition, minlength=self.num_partitions)
        self._batches.append((molecules.take(order), None if identity is None else identity[order], offsets(counts)))
        self._rows += len(molecules)
        self._bytes += size
        self.molecules += counts

    def finish(self, table: pa.Table, facts: dict) -> None:
        """Write the last run, the table, the facts and the trailer."""
        self._flush()
        listed = encode_parquet(table)
        body = b"".join(
            [
                json.dumps(facts).encode(),
                np.array([*self.starts, self._at], np.uint64).tobytes(),
                self.molecules.astype(np.uint32).tobytes(),
            ]
        )
        facts_at = self._at + len(listed)
        runs, size = len(self.starts) // self.num_partitions, facts_at + len(body) + _TRAILER.size
        checks = zlib.crc32(listed), zlib.crc32(body)
        self.file.write(listed + body)
        self.file.write(_TRAILER.pack(_MAGIC, runs, self.num_partitions, *checks, self._at, facts_at, size))

    def _flush(self) -> None:
        if not self._batches:
            return
        for p in range(self.num_partitions):
            self.starts.append(self._at)
            picks = [(m, i, slice(int(ptr[p]), int(ptr[p + 1]))) for m, i, ptr in self._batches if ptr[p + 1] > ptr[p]]
            if picks:
                identity = None if picks[0][1] is None else np.concatenate([i[rows] for _, i, rows in picks if i is not None])
                data = _encode_piece(concat_molecules([m.slice(rows.start, rows.stop) for m, _, rows in picks]), identity)
                self.file.write(data)
                self._at += len(data)
        self._batches, self._rows, self._bytes = [], 0, 0


class Spill:
    """A finished spill file."""

    def __init__(self, path: Path):
        """Read the facts and the places of the pieces. Raises FormatError for a file that is not whole."""
        self.path = path
        with open_file(path) as file:
            if (size := file.size()) < _TRAILER.size:
                raise FormatError(f"{path}: {size} bytes, too short for a spill file")
            trailer = file.read(size - _TRAILER.size, _TRAILER.size)
            magic, self.runs, self.num_partitions, self._table_crc, crc, *places = _TRAILER.unpack(trailer)
            self._table_at, self._facts_at, said = places
            if magic != _MAGIC or said != size or not self._table_at <= self._facts_at <= size - _TRAILER.size:
                raise FormatError(f"{path}: not a whole spill file")
            body = file.read(self._facts_at, size - _TRAILER.size - self._facts_at)
        starts = 8 * (self.runs * self.num_partitions + 1)
        facts_end = len(body) - starts - 4 * self.num_partitions
        if zlib.crc32(body) != crc or facts_end < 0:
            raise FormatError(f"{path}: damaged")
        self._facts = body[:facts_end]
        self._starts = np.frombuffer(body, np.uint64, starts // 8, facts_end).astype(np.int64)
        self.molecules = np.frombuffer(body, np.uint32, self.num_partitions, facts_end + starts).astype(np.int64)
        """Molecules of each partition (int64)."""

    @cached_property
    def facts(self) -> dict:
        """Counts and moments. Parsed when asked for: who reads a partition opens every file and needs none of this."""
        return parse_json(self._facts, nan=True)

    def table(self) -> pa.Table:
        """Of the map phase: rows that became no molecule, in order; of a merge: which row became which. Read when asked for."""
        with open_file(self.path) as file:
            data = file.read(self._table_at, self._facts_at - self._table_at)
        if zlib.crc32(data) != self._table_crc:
            raise FormatError(f"{self.path}: damaged; remove this file and run again")
        return decode_parquet(data, where=str(self.path))

    def read(self, partition: int, layout: PieceLayout) -> list[tuple[Molecules, np.ndarray | None]]:
        """Molecules of one partition, run by run, and what they are joined by."""
        parts = []
        with open_file(self.path) as file:
            for run in range(self.runs):
                start, end = self._starts[run * self.num_partitions + partition :][:2]
                if end > start:
                    data = file.read(int(start), int(end - start))
                    try:
                        parts.append(_decode_piece(data, layout))
                    except (ValueError, struct.error) as error:
                        raise FormatError(
                            f"{self.path}, partition {partition}: damaged: {error}; remove this file and run again"
                        ) from error
        return parts


def write_spill(path: Path, num_partitions: int, batches: Iterable[tuple], finish: Any, *, run_rows: int | None = None) -> None:
    """Write a spill file beside `path` and rename it.

    `batches`: arguments of `SpillWriter.add`. `finish()` -> (table, facts), called after the last batch.
    """
    with write_beside(path) as file:
        writer = SpillWriter(file, num_partitions, run_rows=run_rows or MAX_RUN_ROWS)
        for batch in batches:
            writer.add(*batch)
        writer.finish(*finish())
