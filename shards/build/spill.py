"""Spill files, which the map phase writes for the reduce phase: one file per range of rows, sorted by partition, written whole.

    piece, piece, ...        run 0: the molecules of partition 0, of partition 1, ...; a partition without any has no bytes
    piece, piece, ...        run 1: ...
    table                    Parquet: rejected rows (row, identifier, smiles, reason), or where rows went (row, id)
    facts                    JSON: counts and moments of the range
    offsets                  u8 (runs * partitions + 1): where each piece starts; the last is where the pieces end
    molecules                u4 (partitions)
    trailer (44 bytes)       magic "MSS3", u4 runs, u4 partitions, u4 CRC-32 of the table, u4 CRC-32 of everything from facts to
                             molecules, u8 start of table, u8 start of facts, u8 size of the file

A piece is one zstd frame of flat arrays without a directory, since a large build makes millions: u4 molecules, atoms, bonds,
bytes of SMILES, bytes of identifiers; then ids u8, num_atoms u4, num_bonds u4, length of each SMILES u4, SMILES, atom codes,
bonds, bond codes, labels f4 byte-shuffled, level by level; if there are such columns, lengths u4 and text of identifiers,
identity u8 twice.
Memory holds one run, at most MAX_RUN_ROWS rows and about RUN_BYTES bytes.
"""

import io
import json
import math
import os
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from molstream.kernels.codec.bytes import shuffle_bytes, unshuffle_bytes
from molstream.shards.errors import FormatError
from molstream.shards.format.block import compress, decompress
from molstream.shards.format.writer import write_beside
from molstream.shards.molecules import COLUMNS, LEVELS, Level, Molecules, concat_molecules, label_shape, offsets
from molstream.shards.schema import ATOM_FEATURES

MAX_RUN_ROWS = 131_072
RUN_BYTES = 192 << 20
"""Approximate memory of the molecules of a run."""
LEVEL = 1
"""zstd's compression level. It is low because a spill file is read once, and soon."""
REJECT_SCHEMA = pa.schema([("row", pa.uint64()), ("identifier", pa.string()), ("smiles", pa.string()), ("reason", pa.string())])
MAPPING_SCHEMA = pa.schema([("row", pa.uint64()), ("id", pa.uint64())])
_MAGIC = b"MSS3"
_TRAILER = struct.Struct("<4sIIIIQQQ")
_PIECE = struct.Struct("<5I")


@dataclass(frozen=True, kw_only=True, slots=True)
class Widths:
    """Columns of the arrays in a piece."""

    num_tasks: dict[Level, int]
    identifiers: bool
    identity: bool
    """Whether molecules come with the identity by which they are joined."""


def _encode_texts(texts: np.ndarray) -> list[bytes]:
    data = [text.encode() for text in texts]
    return [np.array([len(t) for t in data], np.uint32).tobytes(), b"".join(data)]


def _encode_piece(molecules: Molecules, identity: np.ndarray | None) -> bytes:
    smiles = _encode_texts(molecules.smiles)
    identifiers = [] if molecules.identifiers is None else _encode_texts(molecules.identifiers)
    sizes = (len(molecules), len(molecules.atom_codes), len(molecules.bond_codes), len(smiles[1]), sum(map(len, identifiers[1:])))
    parts = [
        _PIECE.pack(*sizes),
        molecules.ids.tobytes(),
        molecules.num_atoms.astype(np.uint32).tobytes(),
        molecules.num_bonds.astype(np.uint32).tobytes(),
        *smiles,
        np.ascontiguousarray(molecules.atom_codes.T).tobytes(),
        molecules.bond_atoms.tobytes(),
        molecules.bond_codes.tobytes(),
        *(
            shuffle_bytes(np.ascontiguousarray(np.moveaxis(labels, 0, -1)).reshape(-1)).tobytes()
            for level in LEVELS
            if (labels := molecules.labels(level)) is not None
        ),
        *identifiers,
        *([] if identity is None else [np.ascontiguousarray(identity).tobytes()]),
    ]
    return compress(b"".join(parts), level=LEVEL)


def _decode_piece(data: bytes, widths: Widths) -> tuple[Molecules, np.ndarray | None]:
    content = decompress(data)
    n, a, b, num_smiles, num_identifiers = _PIECE.unpack_from(content)
    at = _PIECE.size

    def read(dtype: Any, count: int) -> np.ndarray:
        nonlocal at
        out = np.frombuffer(content, dtype, count, at)
        at += out.nbytes
        return out

    def read_texts(num_bytes: int) -> np.ndarray:
        ptr = offsets(read(np.uint32, n)).tolist()
        text = read(np.uint8, num_bytes).tobytes()
        out = np.empty(n, object)
        out[:] = [text[i:j].decode() for i, j in pairwise(ptr)]
        return out

    ids, num_atoms, num_bonds = read(np.uint64, n), read(np.uint32, n), read(np.uint32, n)
    smiles = read_texts(num_smiles)
    codes = read(np.uint8, a * len(ATOM_FEATURES)).reshape(len(ATOM_FEATURES), a)
    bonds, bond_codes = read(np.uint16, 2 * b).reshape(b, 2), read(np.uint8, b)
    molecules = Molecules(
        atom_ptr=offsets(num_atoms),
        bond_ptr=offsets(num_bonds),
        atom_codes=codes.T,
        bond_atoms=bonds,
        bond_codes=bond_codes,
        ids=ids,
        smiles=smiles,
    )
    columns: dict[str, Any] = {}
    for level, num_tasks in widths.num_tasks.items():
        if num_tasks:
            rows, *rest = label_shape(level, int(molecules.label_ptr(level)[-1]), num_tasks)
            values = unshuffle_bytes(read(np.uint8, 4 * rows * math.prod(rest)), np.dtype(np.float32))
            columns[f"{level}_labels"] = np.moveaxis(values.reshape(*rest, rows), -1, 0)
    if widths.identifiers:
        columns["identifiers"] = read_texts(num_identifiers)
    identity = read(np.uint64, 2 * n).reshape(n, 2) if widths.identity else None
    if at != len(content):
        raise FormatError(f"{len(content) - at} bytes after the last array")
    return replace(molecules, **columns), identity


class SpillWriter:
    """Collects molecules with their partitions and writes them run by run."""

    def __init__(self, file: BinaryIO, num_partitions: int, *, run_rows: int):
        """A run ends before it has more than `run_rows` rows or about RUN_BYTES bytes."""
        self.file, self.num_partitions, self.run_rows = file, num_partitions, run_rows
        self.starts: list[int] = []
        self.molecules = np.zeros(num_partitions, np.int64)
        self._at = self._rows = self._bytes = 0
        self._batches: list[tuple[Molecules, np.ndarray | None, np.ndarray]] = []

    def add(self, molecules: Molecules, partition: np.ndarray, identity: np.ndarray | None = None) -> None:
        """`partition` (N): the number of each molecule's partition; `identity` uint64 (N, 2): the hash by which it is joined."""
        size = sum(column.nbytes for name in COLUMNS if (column := getattr(molecules, name)) is not None)
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
        sink = io.BytesIO()
        pq.write_table(table, sink, compression="zstd")
        listed = sink.getvalue()
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
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TRAILER.size))
            trailer = file.read()
            if len(trailer) != _TRAILER.size:
                raise FormatError(f"{path}: {size} bytes, too short for a spill file")
            magic, self.runs, self.num_partitions, self._table_crc, crc, *places = _TRAILER.unpack(trailer)
            self._table_at, self._facts_at, said = places
            if magic != _MAGIC or said != size or not self._table_at <= self._facts_at <= size:
                raise FormatError(f"{path}: not a whole spill file")
            file.seek(self._facts_at)
            body = file.read(size - _TRAILER.size - self._facts_at)
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
        """Counts and moments, parsed on demand: a reduce opens every file and needs none of this."""
        return json.loads(self._facts)

    def table(self) -> pa.Table:
        """Rows that did not become molecules, in order; in a merged file, which molecule each row became. Read on demand."""
        with self.path.open("rb") as file:
            file.seek(self._table_at)
            data = file.read(self._facts_at - self._table_at)
        if zlib.crc32(data) != self._table_crc:
            raise FormatError(f"{self.path}: damaged; remove this file and run again")
        return pq.ParquetFile(io.BytesIO(data)).read(use_threads=False)

    def read(self, partition: int, widths: Widths) -> list[tuple[Molecules, np.ndarray | None]]:
        """Molecules of one partition, run by run, with their identities."""
        parts = []
        with self.path.open("rb", buffering=0) as file:
            for run in range(self.runs):
                start, end = self._starts[run * self.num_partitions + partition :][:2]
                if end > start:
                    data = os.pread(file.fileno(), int(end - start), int(start))
                    try:
                        parts.append(_decode_piece(data, widths))
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
