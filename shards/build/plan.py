"""The plan of a build, a pure function of its input and options: ranges of rows to map and partitions to reduce."""

import hashlib
import json
import math
from dataclasses import asdict, astuple, dataclass
from functools import cached_property
from typing import Any

import numpy as np

from molstream.kernels.rng.hashing import mix_key
from molstream.shards.build.options import BuildOptions
from molstream.shards.build.spill import PieceLayout
from molstream.shards.columns import COLUMN_GROUPS, groups_of
from molstream.shards.format.block import FORMAT_VERSION
from molstream.shards.inputs.datasets import Dataset, merge_tasks
from molstream.shards.inputs.tables import InputFile, RowRange, cut_ranges
from molstream.shards.splits.rules import Splits
from molstream.shards.tasks import LEVELS, Level, Task, TaskSet

SPILL_VERSION = 4
"""Changes whenever spill files of an older build can no longer be used."""
PARTITION_BYTES = 80 << 20
"""Approximate memory of the molecules of a partition; a worker has several copies while it merges tables."""


@dataclass(frozen=True)
class BuildPlan:
    """A build of `files` with `options`. It has no slots, so that values that many work items ask for are computed once."""

    files: tuple[InputFile, ...]
    datasets: tuple[Dataset, ...]
    """How each table is read."""
    options: BuildOptions
    splits: Splits
    versions: dict[str, str]
    """Versions of the libraries that decide bytes."""
    ranges: tuple[RowRange, ...]
    tasks: tuple[Task, ...]
    """Tasks of the set: those of all tables, level by level."""
    task_sets: tuple[TaskSet, ...]

    @classmethod
    def make(
        cls, files: list[InputFile], datasets: list[Dataset], options: BuildOptions, splits: Splits, versions: dict[str, str]
    ) -> "BuildPlan":
        """Plan a build. Raises InputError if tasks of several tables have the same name."""
        return cls(tuple(files), tuple(datasets), options, splits, versions, tuple(cut_ranges(files)), *merge_tasks(datasets))

    @cached_property
    def num_rows(self) -> int:
        return sum(f.num_rows for f in self.files)

    # label columns

    @cached_property
    def num_tasks(self) -> dict[Level, int]:
        """Number of label columns of each level."""
        return {level: sum(task.level == level for task in self.tasks) for level in LEVELS}

    def task_places(self, table: int) -> np.ndarray:
        """Numbers among all tasks of the tasks of one table (int64)."""
        names = {task.name: k for k, task in enumerate(self.tasks)}
        return np.array([names[task.name] for task in self.datasets[table].tasks], np.int64)

    def columns_of(self, table: int, level: Level) -> slice:
        """Where the label columns of one table are among the set's of one level."""
        before = sum(d.num_tasks(level) for d in self.datasets[:table])
        return slice(before, before + self.datasets[table].num_tasks(level))

    @cached_property
    def has_identifiers(self) -> bool:
        return any(d.id_column for d in self.datasets)

    @cached_property
    def groups(self) -> tuple[str, ...]:
        """Column groups of the set."""
        return groups_of(self.num_tasks, pe=self.options.pe, identifiers=self.has_identifiers)

    def piece_layout(self, table: int | None) -> PieceLayout:
        """Of the spill files of one table, or (None) of all tables joined: all columns but those that are computed later."""
        early = [name for name in self.options.pe if COLUMN_GROUPS[name].compute is None]
        if table is None:
            groups = groups_of(self.num_tasks, pe=early, identifiers=self.has_identifiers)
            return PieceLayout.of(groups, num_tasks=self.num_tasks, identity=False)
        dataset = self.datasets[table]
        num_tasks = {level: dataset.num_tasks(level) for level in LEVELS}
        groups = groups_of(num_tasks, pe=early, identifiers=bool(dataset.id_column))
        return PieceLayout.of(groups, num_tasks=num_tasks, identity=bool(self.options.join))

    # splits, partitions, order

    @cached_property
    def shard_molecules(self) -> int:
        """Approximate molecules per shard."""
        return min(self.options.shard_molecules, max(256, PARTITION_BYTES // _molecule_bytes(self.num_tasks)))

    def expected_molecules(self, split: str) -> float:
        """Approximate molecules of a split."""
        return self.num_rows * self.splits.shares[self.splits.names.index(split)]

    def shards_of(self, split: str) -> int:
        """Approximate shards of a split; some may turn out empty."""
        return max(1, math.ceil(self.expected_molecules(split) / self.shard_molecules))

    def block_size(self, split: str) -> int:
        """Approximate molecules per block of this split."""
        return self.options.block_molecules or min(4096, max(64, math.ceil(self.expected_molecules(split) / 32)))

    @cached_property
    def partitions(self) -> list[tuple[str, int]]:
        """(split, number among the split's partitions) of every partition, in the order of their numbers."""
        return [(split, k) for split in self.splits.names for k in range(self.shards_of(split))]

    @cached_property
    def merges(self) -> int:
        """Number of partitions by identity, if tables are joined."""
        return math.ceil(self.num_rows / self.shard_molecules) if self.options.join else 0

    @cached_property
    def order_key(self) -> int:
        """Key of the hash of a row number that gives the row's place in the set."""
        return mix_key(self.options.seed, 1)

    @cached_property
    def split_key(self) -> int:
        """Key of the hash of a skeleton that gives its split."""
        return mix_key(self.split_seed, 2)

    @property
    def split_seed(self) -> int:
        """Seed of the splits."""
        return self.options.seed if self.options.split_seed is None else self.options.split_seed

    def partition_of(self, split: np.ndarray, order: np.ndarray) -> np.ndarray:
        """Partition numbers (int64) of molecules with split numbers and order hashes (N)."""
        counts, first = self._shard_counts
        return first[split] + (order % counts[split]).astype(np.int64)

    @cached_property
    def _shard_counts(self) -> tuple[np.ndarray, np.ndarray]:
        """Partitions of each split (uint64), and the number of its first (int64)."""
        counts = np.array([self.shards_of(s) for s in self.splits.names], np.uint64)
        return counts, np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)

    # which files can replace which

    def describe_map(self) -> dict:
        """Everything that decides the content of the spill files."""
        options = asdict(self.options)
        reduce_only = ("block_molecules", "pe", *(f"{level}_labels" for level in LEVELS))
        return {
            "spills": [SPILL_VERSION, _identify([[astuple(r) for r in self.ranges], self.partitions, self.merges])],
            "inputs": [f.describe() for f in self.files],
            "options": {k: v for k, v in options.items() if k not in reduce_only},
            "splits": asdict(self.splits),
            "versions": self.versions,
        }

    @cached_property
    def map_id(self) -> str:
        """Spill files of two builds are interchangeable if this is the same."""
        return _identify(self.describe_map())

    @cached_property
    def reduce_id(self) -> str:
        """Shards of two builds are interchangeable if this is the same."""
        return _identify(self.describe_map() | {"all_options": asdict(self.options), "format": FORMAT_VERSION})


def _molecule_bytes(num_tasks: dict[Level, int]) -> int:
    """Memory of a molecule of 25 atoms with dense labels; pairs, which grow with the square, are those of 60 atoms."""
    entries: dict[Level, int] = {"graph": 1, "atom": 25, "bond": 54, "pair": 3660}
    return 500 + sum(4 * entries[level] * number for level, number in num_tasks.items())


def _identify(description: Any) -> str:
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()[:16]
