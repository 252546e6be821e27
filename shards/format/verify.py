"""Verification: re-read everything and name all that is damaged, instead of stopping at the first."""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import groupby

from molstream.shards.errors import ShardError
from molstream.shards.format import index
from molstream.shards.format.archive import TAR_BLOCK, TAR_END, member_name, tar_header
from molstream.shards.format.manifest import MAPPING, REJECTS, Statistics, fingerprint
from molstream.shards.format.reader import ShardSet
from molstream.shards.format.statistics import LabelMoments, ValueCounts, count_structure, merge_histograms
from molstream.shards.store.reading import hash_all
from molstream.shards.tasks import LEVELS


@dataclass(slots=True)
class Report:
    """What verification found."""

    shards: int = 0
    blocks: int = 0
    molecules: int = 0
    bytes: int = 0
    problems: list[str] = field(default_factory=list)


def verify(shard_set: ShardSet, on_block: Callable[[int, int], None] = lambda done, total: None) -> Report:
    """Read every byte of every shard and hold it against index and manifest.

    A shard must be exactly the archive our writer makes of its members, so a flipped bit in a tar header or in padding is found
    too; every member must match its checksum, every block its index row, and counts, statistics and fingerprint the manifest.
    """
    verifier = _Verifier(shard_set)
    num_blocks = len(shard_set.index)
    for _, blocks in groupby(range(num_blocks), shard_set.shard_path):
        members = list(blocks)
        verifier.check_archive(members)
        for block in members:
            verifier.check_block(block)
            on_block(block + 1, num_blocks)
    if not verifier.report.problems:
        verifier.check_manifest()
    return verifier.report


class _Verifier:
    def __init__(self, shard_set: ShardSet):
        self.shard_set, self.report = shard_set, Report()
        # every column of the index before any block: a damaged one is one message, not one a block
        self.histograms_of = {"histogram": shard_set.index.histogram(), "labels": shard_set.index.label_histogram()}
        self.hashes = shard_set.index.content_sha256
        list(shard_set.index.counts.values()), list(shard_set.index.members.values())
        self.num_tasks = {level: len(shard_set.manifest.tasks_of(level)) for level in LEVELS}
        self.histograms: dict[str, dict[str, int]] = {}
        self.moments = {split: LabelMoments.empty(len(shard_set.manifest.tasks)) for split in shard_set.manifest.splits}
        self.values = ValueCounts(len(shard_set.manifest.tasks))

    def check_archive(self, blocks: list[int]) -> None:
        """The file is the members the index lists, under the headers we write, and nothing else."""
        path, counts = self.shard_set.shard_path(blocks[0]), self.shard_set.index.counts
        members = self.shard_set.index.members
        self.report.shards += 1
        at = 0
        try:
            with self.shard_set.store.open(path.name) as file:
                self.report.bytes += file.size()
                for block in blocks:
                    split, number, k = (
                        self.shard_set.index.split_of(block),
                        int(counts["shard"][block]),
                        int(counts["block"][block]),
                    )
                    for group in self.shard_set.groups:
                        offset, size = (int(members[f"{group}_{f}"][block]) for f in ("offset", "bytes"))
                        header = tar_header(member_name(split, number, k, group), size)
                        if at + len(header) != offset or file.read(at, len(header)) != header:
                            self._problem(f"{self.shard_set.locate(block)}, member {group}: tar header damaged")
                        at = offset + size
                        if file.read(at, -size % TAR_BLOCK).strip(b"\0"):
                            self._problem(f"{self.shard_set.locate(block)}, member {group}: padding is not zero")
                        at += -size % TAR_BLOCK
                if file.size() - at != len(TAR_END) or file.read(at, len(TAR_END)) != TAR_END:
                    self._problem(f"{path}: does not end after its last member as it should")
        except ShardError as error:
            self._problem(str(error))

    def check_block(self, block: int) -> None:
        """Checksums, lengths, content hash and index row of one block."""
        shard_set, split = self.shard_set, self.shard_set.index.split_of(block)
        try:
            contents = shard_set.read_contents(block)
            molecules = shard_set.decode(block, contents)
        except ShardError as error:
            self._problem(str(error))
            return
        if index.hash_contents(contents) != self.hashes[block].tobytes():
            self._problem(f"{shard_set.locate(block)}: content differs from its hash in the index")
        row = index.describe_block(molecules)
        stored = {name: shard_set.index.counts[name][block] for name in row if name in shard_set.index.counts}
        for kind, histogram in self.histograms_of.items():
            where = slice(*histogram.ptr[block : block + 2])
            stored |= {f"{kind}_size": histogram.size[where].tolist(), f"{kind}_count": histogram.count[where].tolist()}
        for name, value in row.items():
            if stored[name] != value:
                self._problem(f"{shard_set.locate(block)}: {name} is {value}, the index says {stored[name]}")
        self.moments[split].merge(LabelMoments.of(molecules, self.num_tasks))
        if split == "train":
            is_number = [task.kind == "regression" for task in shard_set.manifest.tasks]
            self.values.merge(ValueCounts.of(molecules, self.num_tasks, is_number))
        self.histograms = merge_histograms([self.histograms, count_structure(molecules)])
        self.report.blocks += 1
        self.report.molecules += len(molecules)

    def check_manifest(self) -> None:
        """Label counts, statistics, fingerprint and the list of rejected rows."""
        manifest = self.shard_set.manifest
        beside = {REJECTS: manifest.rejects_sha256} | ({MAPPING: manifest.join.mapping_sha256} if manifest.join else {})
        for name, digest in beside.items():
            try:
                with self.shard_set.store.open(name) as file:
                    if hash_all(file) != digest:
                        self._problem(f"{file.where}: damaged")
            except ShardError as error:
                self._problem(str(error))
        if manifest.histograms != self.histograms:
            self._problem("manifest.json: histograms of atoms, bonds, elements or bond types are not those of the shards")
        for t, task in enumerate(manifest.tasks):
            for split, moments in self.moments.items():
                if manifest.labels[task.name][split] != moments.count[t]:
                    self._problem(
                        f"manifest.json: {manifest.labels[task.name][split]} labels of {task.name} in split {split}, "
                        f"the shards hold {moments.count[t]}"
                    )
            if "train" in self.moments:
                said, found = manifest.statistics[task.name], Statistics.of(self.moments["train"], self.values, t)
                if said != found:
                    self._problem(
                        f"manifest.json: mean, std, range and quantiles of {task.name} are not those of the training split"
                    )
        # no problem so far: the hashes in the index are those of the content
        hashes = self.shard_set.index.iter_contents()
        content = fingerprint(manifest.tasks, manifest.atom_features, manifest.bond_features, hashes)
        if content != manifest.fingerprint:
            self._problem(f"manifest.json: fingerprint {manifest.fingerprint[:12]}, the content has {content[:12]}")

    def _problem(self, text: str) -> None:
        self.report.problems.append(text)
