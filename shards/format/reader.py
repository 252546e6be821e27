"""Reading: open a shard set, read blocks by ranged reads, checksums on."""

import math
import os
import zlib
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from types import MappingProxyType

import numpy as np

from molstream.kernels.packing.triples import LabelRows
from molstream.shards.columns import ColumnWidths
from molstream.shards.errors import ChecksumError, FormatError, InputError, MissingError, StorageError
from molstream.shards.format.archive import TAR_BLOCK, TAR_END, member_name, shard_name, tar_header
from molstream.shards.format.arrays import decompress
from molstream.shards.format.block import decode_block, decode_label_rows, decode_sizes
from molstream.shards.format.codings import Place
from molstream.shards.format.index import Index
from molstream.shards.format.manifest import BUILDING, INDEX, MANIFEST, Manifest
from molstream.shards.molecules import Molecules
from molstream.shards.store.reading import Folder, Store
from molstream.shards.tasks import LEVELS, Level

MAX_BLOCK_MOLECULES = 1 << 24
"""A block is decoded as a whole. The build writes none that is larger."""
MAX_GAP = 64 * 1024
"""Bytes of unwanted members that are read through rather than skipped by a second read."""


class ShardSet:
    """A committed shard set in a local folder. Safe to share between threads: every read opens its file and closes it."""

    def __init__(self, path: str | os.PathLike):
        """Open the folder. Raises InputError when there is none, FormatError when it is incomplete, damaged or newer.

        Reads the manifest, and of the index its hash, its footer and the counts that both give; see `shards.format.index`.
        """
        self.path = Path(path)
        self.store: Store = Folder(self.path)
        if not self.path.is_dir():
            raise InputError(f"{self.path}: no such folder, expected a shard set made by `molstream build`")
        if not self.store.exists(MANIFEST):
            why = "incomplete build: it was stopped before its manifest" if self.store.exists(BUILDING) else "no shard set"
            raise FormatError(f"{self.path}: {why} ({MANIFEST} is missing); build it with `molstream build`")
        with self.store.open(MANIFEST) as file:
            self.manifest = Manifest.read_from(file)
        if not self.store.exists(INDEX):
            raise FormatError(f"{self.path}: {INDEX} is missing; restore it or build the set again")
        self.index = Index.open(self.store, INDEX, sha256=self.manifest.index_sha256)
        if self.index.groups != self.groups:
            raise FormatError(
                f"{self.path}: the index lists the column groups {', '.join(self.index.groups)}, the manifest "
                f"{', '.join(self.groups)}; restore both or build again"
            )
        self._check_counts()

    def _check_counts(self) -> None:
        """Refuse an index that counts other blocks, molecules, atoms or bonds of a split than the manifest, or blocks of nothing.
        Raises FormatError."""
        codes, names, counts = self.index.split_codes, self.index.split_names, self.index.counts
        both = "restore both or build again"
        if unlike := sorted({*names} ^ {*self.manifest.splits}):
            raise FormatError(
                f"{self.path}: the index has blocks of splits {', '.join(names) or 'none'}, the manifest of "
                f"{', '.join(self.manifest.splits) or 'none'}: they differ in {unlike[0]}; {both}"
            )
        if not len(self.index):
            raise FormatError(f"{self.path}: index and manifest are those of a set without molecules; {both}")
        found = {"blocks": np.bincount(codes, minlength=len(names))} | {
            what: np.bincount(codes, counts[f"num_{what}"], len(names)).astype(np.int64)
            for what in ("molecules", "atoms", "bonds")
        }
        for code, split in enumerate(names):
            for what, numbers in found.items():
                said = self.manifest.splits[split].get(what)
                if said != numbers[code]:
                    raise FormatError(
                        f"{self.path}: the index has {numbers[code]:,} {what} in split {split}, the manifest "
                        f"{'none' if said is None else f'{said:,}'}; {both}"
                    )
        if (most := int(counts["num_molecules"].max())) > MAX_BLOCK_MOLECULES:
            raise FormatError(f"{self.path}: a block of {most:,} molecules, expected at most {MAX_BLOCK_MOLECULES:,}; {both}")
        for small, large in (("num_molecules", None), ("num_atoms", "num_molecules"), ("num_atoms", "max_atoms")):
            wrong = counts[small] < (1 if large is None else counts[large])
            if wrong.any():
                block = int(wrong.argmax())
                least = 1 if large is None else f"at least its {large}, {counts[large][block]}"
                raise FormatError(f"{self.locate(block)}: {small} is {counts[small][block]}, expected {least}; {both}")

    def __reduce__(self) -> tuple:
        # another process opens it anew
        return ShardSet, (self.path,)

    @property
    def splits(self) -> tuple[str, ...]:
        """Splits that hold molecules."""
        return tuple(self.manifest.splits)

    @property
    def groups(self) -> tuple[str, ...]:
        """Column groups of the set, in the order of their members."""
        return tuple(self.manifest.column_groups)

    @cached_property
    def widths(self) -> ColumnWidths:
        """What decoding needs of the manifest."""
        return ColumnWidths(
            atom_codes=tuple(f.num_codes for f in self.manifest.atom_features),
            bond_codes=math.prod(f.num_codes for f in self.manifest.bond_features),
            num_tasks={level: len(self.manifest.tasks_of(level)) for level in LEVELS},
        )

    def blocks(self, split: str) -> np.ndarray:
        """Numbers of the blocks of a split, in stored order (int64). Raises InputError for a split that is not there."""
        index = self.index
        if split not in index.split_names:
            raise InputError(f"{self.path}: no split {split!r}, it holds {', '.join(self.splits)}")
        return np.flatnonzero(index.split_codes == index.split_names.index(split))

    def locate(self, block: int) -> str:
        """'train-00012.tar, block 3', for messages."""
        counts = self.index.counts
        return f"{self.shard_path(block)}, block {counts['block'][block]}"

    def shard_name(self, block: int) -> str:
        """Name of the file that holds a block."""
        return shard_name(self.index.split_of(block), int(self.index.counts["shard"][block]))

    def shard_path(self, block: int) -> Path:
        """File that holds a block."""
        return self.path / self.shard_name(block)

    def check_sizes(self) -> None:
        """Refuse an index whose counts of sizes, on which packs rest, are not those of the molecules of each block. Raises
        FormatError."""
        sizes, counts = self.index.histogram(), self.index.counts
        for name, found in (("num_molecules", sizes.num_molecules()), ("num_atoms", sizes.num_atoms())):
            if (wrong := found != counts[name]).any():
                block = int(wrong.argmax())
                raise FormatError(
                    f"{self.locate(block)}: {name} is {counts[name][block]}, the index counts sizes of {found[block]}; restore "
                    f"the index or build the set again"
                )

    def check_shards(self, split: str) -> None:
        """Refuse shards that are missing, cut short, or under another's name: by their size and their first 512 bytes.

        Opens each once. Damage further on is found when it is read. Raises FormatError, naming the file.
        """
        blocks, (head, *_, tail), members = self.blocks(split), self.groups, self.index.members
        numbers, first = np.unique(self.index.counts["shard"][blocks], return_index=True)
        for number, begin, end in zip(
            numbers.tolist(), blocks[first], blocks[np.append(first[1:], len(blocks)) - 1], strict=True
        ):
            path = self.shard_path(begin)
            offset, size = (int(members[f"{head}_{field}"][begin]) for field in ("offset", "bytes"))
            member = member_name(split, number, int(self.index.counts["block"][begin]), head)
            whole = int(members[f"{tail}_offset"][end]) + int(members[f"{tail}_bytes"][end])
            whole += -whole % TAR_BLOCK + len(TAR_END)
            try:
                with self.store.open(path.name) as file:
                    if file.size() != whole:
                        raise FormatError(
                            f"{path}: {file.size():,} bytes, by the index {whole:,}; restore it or build the set again"
                        )
                    header = file.read(offset - TAR_BLOCK, TAR_BLOCK)
            except MissingError as error:
                raise MissingError(f"{path}: missing, though the index lists it; restore it") from error
            if header != tar_header(member, size):
                raise FormatError(f"{path}: does not begin with {member}; restore it or build the set again")

    def read_members(self, block: int, groups: tuple[str, ...] | None = None) -> dict[str, bytes]:
        """Compressed members of a block (None: all), checksums verified; neighbours come in one read."""
        members = self.index.members
        wanted = [g for g in self.groups if groups is None or g in groups]
        spans = [(g, int(members[f"{g}_offset"][block]), int(members[f"{g}_bytes"][block])) for g in wanted]
        out: dict[str, bytes] = {}
        try:
            with self.store.open(self.shard_name(block)) as file:
                while spans:
                    run = [spans.pop(0)]
                    while spans and spans[0][1] - (run[-1][1] + run[-1][2]) <= MAX_GAP:
                        run.append(spans.pop(0))
                    first, last = run[0][1], run[-1][1] + run[-1][2]
                    data = file.read(first, last - first)
                    for group, offset, size in run:
                        out[group] = data[offset - first : offset - first + size]
        except MissingError as error:
            raise MissingError(f"{self.shard_path(block)}: missing, though the index lists it; restore it") from error
        except (FormatError, StorageError) as error:
            what = str(error).removeprefix(f"{self.shard_path(block)}: ")
            raise type(error)(f"{self.locate(block)}: {what}") from error
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
        return self.decompress(block, self.read_members(block, groups))

    def decompress(self, block: int, members: dict[str, bytes]) -> dict[str, bytes]:
        """Compressed members of a block -> their decoded bytes. Raises FormatError, naming the member."""
        contents = {}
        for group, data in members.items():
            try:
                contents[group] = decompress(data)
            except FormatError as error:
                raise FormatError(f"{self.locate(block)}, member {group}: {error}") from error
        return contents

    def decode_label_rows(self, block: int, content: bytes, *, tasks: np.ndarray | None = None) -> LabelRows:
        """Decoded bytes of a block's graph-level labels -> the labels that are there, as in `decode_label_rows`."""
        try:
            return decode_label_rows(
                content,
                num_molecules=int(self.index.counts["num_molecules"][block]),
                num_tasks=self.widths.num_tasks["graph"],
                tasks=tasks,
            )
        except FormatError as error:
            raise FormatError(f"{self.locate(block)}, {error}") from error

    def decode(
        self,
        block: int,
        contents: dict[str, bytes],
        *,
        tasks: Mapping[Level, np.ndarray] = MappingProxyType({}),
        place: Place | None = None,
    ) -> Molecules:
        """Decoded bytes of a block's members -> molecules; `tasks` and `place` as in `decode_block`."""
        try:
            molecules = decode_block(
                contents,
                num_molecules=int(self.index.counts["num_molecules"][block]),
                widths=self.widths,
                tasks=tasks,
                place=place,
            )
        except FormatError as error:
            raise FormatError(f"{self.locate(block)}, {error}") from error
        self._check_sizes(block, int(molecules.atom_ptr[-1]), int(molecules.bond_ptr[-1]))
        return molecules

    def decode_sizes(self, block: int, content: bytes) -> tuple[np.ndarray, np.ndarray]:
        """Decoded bytes of `sizes` -> numbers of atoms and of bonds of each molecule. Raises FormatError."""
        try:
            sizes = decode_sizes(content, num_molecules=int(self.index.counts["num_molecules"][block]))
        except FormatError as error:
            raise FormatError(f"{self.locate(block)}, {error}") from error
        self._check_sizes(block, int(sizes[0].sum(dtype=np.int64)), int(sizes[1].sum(dtype=np.int64)))
        return sizes

    def _check_sizes(self, block: int, num_atoms: int, num_bonds: int) -> None:
        for name, number in (("num_atoms", num_atoms), ("num_bonds", num_bonds)):
            if number != self.index.counts[name][block]:
                raise FormatError(f"{self.locate(block)}: {name} {number}, the index says {self.index.counts[name][block]}")

    def read_block(self, block: int, groups: tuple[str, ...] | None = None) -> Molecules:
        """Molecules of one block, with the columns of `groups`. Raises ChecksumError or FormatError, naming the member."""
        return self.decode(block, self.read_contents(block, groups))

    def iter_blocks(self, split: str | None = None, groups: tuple[str, ...] | None = None) -> Iterator[Molecules]:
        """Blocks of a split (None: of all), in stored order."""
        for block in range(len(self.index)) if split is None else self.blocks(split):
            yield self.read_block(int(block), groups)
