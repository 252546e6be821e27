"""Spill files: what the map phase leaves for the reduce phase. One file a range of rows, sorted by partition; whole or not there.

    piece, piece, ...        run 0: the molecules of partition 0, of partition 1, ...; a partition without any has no bytes
    piece, piece, ...        run 1: ...
    rejects                  Parquet: row, smiles, reason
    facts                    JSON: counts and moments of the range
    offsets                  u8 (runs * partitions + 1): where each piece starts; the last is where the pieces end
    molecules                u4 (partitions)
    trailer (40 bytes)       magic "MSS1", u4 runs, u4 partitions, u4 CRC-32 of everything from rejects to molecules,
                             u8 start of rejects, u8 start of facts, u8 size of the file

A piece is one zstd frame of flat arrays without a directory, since a large build makes millions: u4 molecules, atoms, bonds, text
bytes; then ids u8, num_atoms u4, num_bonds u4, length of SMILES u4, SMILES, atom codes, bonds, bond codes, labels f4
byte-shuffled. Memory holds one run, at most MAX_RUN_ROWS rows.
"""

import io
import json
import os
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from kernels.bytes import shuffle_bytes, unshuffle_bytes
from shards import format
from shards.errors import FormatError
from shards.types import Molecules, concat_molecules, offsets
from shards.writer import write_beside

MAX_RUN_ROWS = 131_072
LEVEL = 1
"""zstd level: read once, soon."""
REJECT_SCHEMA = pa.schema([("row", pa.uint64()), ("smiles", pa.string()), ("reason", pa.string())])
_MAGIC = b"MSS1"
_TRAILER = struct.Struct("<4sIIIQQQ")
_PIECE = struct.Struct("<4I")


@dataclass(frozen=True, kw_only=True, slots=True)
class Widths:
    """Columns of the arrays in a piece."""

    atom_features: int
    graph_tasks: int
    atom_tasks: int


def _encode_piece(molecules: Molecules) -> bytes:
    text = [s.encode() for s in molecules.smiles]
    joined = b"".join(text)
    parts = [
        _PIECE.pack(len(molecules), len(molecules.atom_codes), len(molecules.bond_codes), len(joined)),
        molecules.ids.tobytes(),
        molecules.num_atoms.astype(np.uint32).tobytes(),
        molecules.num_bonds.astype(np.uint32).tobytes(),
        np.array([len(t) for t in text], np.uint32).tobytes(),
        joined,
        np.ascontiguousarray(molecules.atom_codes.T).tobytes(),
        molecules.bond_atoms.tobytes(),
        molecules.bond_codes.tobytes(),
        shuffle_bytes(np.ascontiguousarray(molecules.graph_labels.T).reshape(-1)).tobytes(),
        shuffle_bytes(np.ascontiguousarray(molecules.atom_labels.T).reshape(-1)).tobytes(),
    ]
    return format.compress(b"".join(parts), level=LEVEL)


def _decode_piece(data: bytes, widths: Widths) -> Molecules:
    content = format.decompress(data)
    n, a, b, num_text = _PIECE.unpack_from(content)
    at = _PIECE.size

    def read(dtype: Any, count: int) -> np.ndarray:
        nonlocal at
        out = np.frombuffer(content, dtype, count, at)
        at += out.nbytes
        return out

    ids, num_atoms, num_bonds = read(np.uint64, n), read(np.uint32, n), read(np.uint32, n)
    text_ptr = offsets(read(np.uint32, n)).tolist()
    text = read(np.uint8, num_text).tobytes()
    smiles = np.empty(n, object)
    smiles[:] = [text[i:j].decode() for i, j in pairwise(text_ptr)]
    codes = read(np.uint8, a * widths.atom_features).reshape(widths.atom_features, a)
    bonds, bond_codes = read(np.uint16, 2 * b).reshape(b, 2), read(np.uint8, b)
    labels = [
        unshuffle_bytes(read(np.uint8, 4 * count * tasks), np.dtype(np.float32)).reshape(tasks, count)
        for count, tasks in ((n, widths.graph_tasks), (a, widths.atom_tasks))
    ]
    if at != len(content):
        raise FormatError(f"{len(content) - at} bytes after the last array")
    return Molecules(
        atom_ptr=offsets(num_atoms),
        bond_ptr=offsets(num_bonds),
        atom_codes=codes.T,
        bond_atoms=bonds,
        bond_codes=bond_codes,
        graph_labels=labels[0].T,
        atom_labels=labels[1].T,
        ids=ids,
        smiles=smiles,
    )


class SpillWriter:
    """Collects molecules with their partitions and writes them run by run."""

    def __init__(self, file: BinaryIO, num_partitions: int):
        self.file, self.num_partitions = file, num_partitions
        self.starts: list[int] = []
        self.molecules = np.zeros(num_partitions, np.int64)
        self._at = self._rows = 0
        self._batches: list[tuple[Molecules, np.ndarray]] = []

    def add(self, molecules: Molecules, partition: np.ndarray) -> None:
        """`partition` (N): the number of each molecule's partition."""
        if self._rows + len(molecules) > MAX_RUN_ROWS:
            self._flush()
        order = np.argsort(partition, kind="stable")
        counts = np.bincount(partition, minlength=self.num_partitions)
        self._batches.append((molecules.take(order), offsets(counts)))
        self._rows += len(molecules)
        self.molecules += counts

    def finish(self, rejects: list[dict], facts: dict) -> None:
        """Write the last run and all that comes after."""
        self._flush()
        sink = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rejects, REJECT_SCHEMA), sink, compression="zstd")
        tail = [
            sink.getvalue(),
            json.dumps(facts).encode(),
            np.array([*self.starts, self._at], np.uint64).tobytes(),
            self.molecules.astype(np.uint32).tobytes(),
        ]
        body = b"".join(tail)
        facts_at = self._at + len(tail[0])
        size = self._at + len(body) + _TRAILER.size
        runs = len(self.starts) // self.num_partitions
        self.file.write(body)
        self.file.write(_TRAILER.pack(_MAGIC, runs, self.num_partitions, zlib.crc32(body), self._at, facts_at, size))

    def _flush(self) -> None:
        if not self._batches:
            return
        for p in range(self.num_partitions):
            self.starts.append(self._at)
            parts = [m.slice(int(ptr[p]), int(ptr[p + 1])) for m, ptr in self._batches if ptr[p + 1] > ptr[p]]
            if parts:
                data = _encode_piece(concat_molecules(parts))
                self.file.write(data)
                self._at += len(data)
        self._batches, self._rows = [], 0


class Spill:
    """A finished spill file."""

    def __init__(self, path: Path):
        """Read what follows the pieces. Raises FormatError for a file that is not whole."""
        self.path = path
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TRAILER.size))
            trailer = file.read()
            if len(trailer) != _TRAILER.size:
                raise FormatError(f"{path}: {size} bytes, too short for a spill file")
            magic, self.runs, self.num_partitions, crc, self.rejects_at, self.facts_at, said = _TRAILER.unpack(trailer)
            if magic != _MAGIC or said != size or not self.rejects_at <= self.facts_at <= size:
                raise FormatError(f"{path}: not a whole spill file")
            file.seek(self.rejects_at)
            body = file.read(size - _TRAILER.size - self.rejects_at)
        table = 8 * (self.runs * self.num_partitions + 1)
        facts_end = len(body) - table - 4 * self.num_partitions
        if zlib.crc32(body) != crc or facts_end < self.facts_at - self.rejects_at:
            raise FormatError(f"{path}: damaged")
        self._rejects = body[: self.facts_at - self.rejects_at]
        self.facts: dict = json.loads(body[self.facts_at - self.rejects_at : facts_end])
        self._starts = np.frombuffer(body, np.uint64, table // 8, facts_end).astype(np.int64)
        self.molecules = np.frombuffer(body, np.uint32, self.num_partitions, facts_end + table).astype(np.int64)
        """Molecules of each partition (int64)."""

    def rejects(self) -> pa.Table:
        """Rows that became no molecule, in order."""
        return pq.ParquetFile(io.BytesIO(self._rejects)).read(use_threads=False)

    def read(self, partition: int, widths: Widths) -> list[Molecules]:
        """Molecules of one partition, run by run."""
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


def write_spill(path: Path, num_partitions: int, batches: Iterable[tuple[Molecules, np.ndarray]], finish: Any) -> None:
    """Write a spill file beside `path` and rename it. `finish()` -> (rejects, facts), asked when all batches are in."""
    with write_beside(path) as file:
        writer = SpillWriter(file, num_partitions)
        for molecules, partition in batches:
            writer.add(molecules, partition)
        writer.finish(*finish())
