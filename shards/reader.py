"""Reading: open a shard set, read blocks by ranged reads, checksums on."""

import hashlib
import math
import os
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from shards import format
from shards.errors import ChecksumError, FormatError, InputError
from shards.index import Index
from shards.manifest import BUILDING, INDEX, MANIFEST, Manifest
from shards.types import LEVELS, Molecules

MAX_GAP = 512 * 1024
"""Bytes of unwanted members that are read through rather than skipped by a second read."""


class ShardSet:
    """A committed shard set in a local folder. Safe to share between threads: every read opens its file and closes it."""

    def __init__(self, path: str | os.PathLike):
        """Open the folder. Raises InputError when there is none, FormatError when it is incomplete, damaged or newer."""
        self.path = Path(path)
        if not self.path.is_dir():
            raise InputError(f"{self.path}: no such folder, expected a shard set made by `molstream build`")
        if not (self.path / MANIFEST).is_file():
            why = "incomplete build: it was stopped before its manifest" if (self.path / BUILDING).exists() else "no shard set"
            raise FormatError(f"{self.path}: {why} ({MANIFEST} is missing); build it with `molstream build`")
        self.manifest = self._located(lambda: Manifest.parse((self.path / MANIFEST).read_bytes()))
        if not (self.path / INDEX).is_file():
            raise FormatError(f"{self.path}: {INDEX} is missing; restore it or build the set again")
        data = (self.path / INDEX).read_bytes()
        if hashlib.sha256(data).hexdigest() != self.manifest.index_sha256:
            raise ChecksumError(f"{self.path / INDEX}: not the index this manifest was written with; restore both or build again")
        self.index = self._located(lambda: Index.parse(data))
        if self.index.groups != self.groups:
            raise FormatError(
                f"{self.path}: the index lists the column groups {', '.join(self.index.groups)}, the manifest "
                f"{', '.join(self.groups)}; restore both or build again"
            )

    def _located(self, parse):
        try:
            return parse()
        except FormatError as error:
            raise type(error)(f"{self.path}: {error}") from error

    @property
    def splits(self) -> tuple[str, ...]:
        """Splits that hold molecules."""
        return tuple(self.manifest.splits)

    @property
    def groups(self) -> tuple[str, ...]:
        """Column groups of the set, in the order of their members."""
        return tuple(self.manifest.column_groups)

    def blocks(self, split: str) -> np.ndarray:
        """Numbers of the blocks of a split, in stored order (int64). Raises InputError for a split that is not there."""
        found = np.flatnonzero(self.index.split == split)
        if not found.size:
            raise InputError(f"{self.path}: no split {split!r}, it holds {', '.join(self.splits)}")
        return found

    def locate(self, block: int) -> str:
        """'train-00012.tar, block 3', for messages."""
        counts = self.index.counts
        return f"{self.shard_path(block)}, block {counts['block'][block]}"

    def shard_path(self, block: int) -> Path:
        """File that holds a block."""
        return self.path / format.shard_name(self.index.split[block], int(self.index.counts["shard"][block]))

    def read_members(self, block: int, groups: tuple[str, ...] | None = None) -> dict[str, bytes]:
        """Compressed members of a block (None: all), checksums verified; neighbours come in one read."""
        members = self.index.members
        wanted = [g for g in self.groups if groups is None or g in groups]
        spans = [(g, int(members[f"{g}_offset"][block]), int(members[f"{g}_bytes"][block])) for g in wanted]
        out: dict[str, bytes] = {}
        try:
            with self.shard_path(block).open("rb", buffering=0) as file:
                while spans:
                    run = [spans.pop(0)]
                    while spans and spans[0][1] - (run[-1][1] + run[-1][2]) <= MAX_GAP:
                        run.append(spans.pop(0))
                    first, last = run[0][1], run[-1][1] + run[-1][2]
                    data = _read_exactly(file.fileno(), first, last - first)
                    for group, offset, size in run:
                        out[group] = data[offset - first : offset - first + size]
        except FileNotFoundError as error:
            raise FormatError(f"{self.shard_path(block)}: missing, though the index lists it; restore it") from error
        for group, data in out.items():
            expected = int(members[f"{group}_crc32"][block])
            if len(data) != members[f"{group}_bytes"][block] or zlib.crc32(data) != expected:
                raise ChecksumError(
                    f"{self.locate(block)}, member {group}: damaged (CRC-32 {zlib.crc32(data):08x}, expected {expected:08x}); "
                    f"restore the shard or build the set again"
                )
        return out

    def read_contents(self, block: int, groups: tuple[str, ...] | None = None) -> dict[str, bytes]:
        """Decoded bytes of a block's members (None: of all), `sizes` always among them."""
        groups = tuple(g for g in self.groups if groups is None or g in groups or g == "sizes")
        contents = {}
        for group, data in self.read_members(block, groups).items():
            try:
                contents[group] = format.decompress(data)
            except FormatError as error:
                raise FormatError(f"{self.locate(block)}, member {group}: {error}") from error
        return contents

    def decode(self, block: int, contents: dict[str, bytes]) -> Molecules:
        """Decoded bytes of a block's members -> molecules."""
        try:
            molecules = format.decode_block(
                contents,
                num_molecules=int(self.index.counts["num_molecules"][block]),
                num_atom_features=len(self.manifest.atom_features),
                num_tasks={level: len(self.manifest.tasks_of(level)) for level in LEVELS},
            )
        except FormatError as error:
            raise FormatError(f"{self.locate(block)}, {error}") from error
        for name, ptr in (("num_atoms", molecules.atom_ptr), ("num_bonds", molecules.bond_ptr)):
            if ptr[-1] != self.index.counts[name][block]:
                raise FormatError(f"{self.locate(block)}: {name} {ptr[-1]}, the index says {self.index.counts[name][block]}")
        self._check_codes(block, molecules)
        return molecules

    def _check_codes(self, block: int, molecules: Molecules) -> None:
        """Codes index embedding tables, so none may lie outside its feature."""
        if molecules.atom_codes is None or not molecules.atom_codes.size:
            return
        limits = np.array([f.num_codes for f in self.manifest.atom_features])
        radix = math.prod(f.num_codes for f in self.manifest.bond_features)
        if (molecules.atom_codes.max(axis=0) >= limits).any() or molecules.bond_codes.max(initial=0) >= radix:
            raise FormatError(f"{self.locate(block)}, member structure: a code is outside its feature's range")

    def read_block(self, block: int, groups: tuple[str, ...] | None = None) -> Molecules:
        """Molecules of one block, with the columns of `groups`. Raises ChecksumError or FormatError, naming the member."""
        return self.decode(block, self.read_contents(block, groups))

    def iter_blocks(self, split: str | None = None, groups: tuple[str, ...] | None = None) -> Iterator[Molecules]:
        """Blocks of a split (None: of all), in stored order."""
        for block in range(len(self.index)) if split is None else self.blocks(split):
            yield self.read_block(int(block), groups)


def _read_exactly(descriptor: int, offset: int, size: int) -> bytes:
    parts = []
    while size:
        part = os.pread(descriptor, size, offset)
        if not part:
            break
        parts.append(part)
        offset, size = offset + len(part), size - len(part)
    return b"".join(parts)
