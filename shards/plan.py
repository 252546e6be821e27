"""What a build is going to do, as a pure function of its input and options: ranges of rows to map, partitions to reduce."""

import hashlib
import json
from dataclasses import asdict, astuple, dataclass
from typing import Any

import numpy as np

from kernels.hashing import mix_key
from shards.format import FORMAT_VERSION
from shards.options import BuildOptions
from shards.splits import SPLITS
from shards.tables import DATASETS, Dataset, InputFile, RowRange, cut_ranges

SPILL_VERSION = 1
"""Changes whenever spill files of an older build can no longer be used."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A build of `files` with `options`."""

    files: tuple[InputFile, ...]
    options: BuildOptions
    versions: dict[str, str]
    """Of the libraries that decide bytes."""
    ranges: tuple[RowRange, ...]

    @classmethod
    def make(cls, files: list[InputFile], options: BuildOptions, versions: dict[str, str]) -> "Plan":
        return cls(tuple(files), options, versions, tuple(cut_ranges(files)))

    @property
    def num_rows(self) -> int:
        return sum(f.num_rows for f in self.files)

    @property
    def dataset(self) -> Dataset:
        return DATASETS[self.options.dataset]()

    @property
    def partitions(self) -> list[tuple[str, int]]:
        """(split, number among the split's partitions) of every partition, in the order of their numbers."""
        return [(split, k) for split, n in self.options.partitions(self.num_rows).items() for k in range(n)]

    @property
    def order_key(self) -> int:
        """Hashing a row's number with it gives its place in the set."""
        return mix_key(self.options.seed, 1)

    @property
    def split_key(self) -> int:
        """Hashing a skeleton with it gives its split."""
        return mix_key(self.options.seed, 2)

    def partition_of(self, split: np.ndarray, order: np.ndarray) -> np.ndarray:
        """Partition numbers (int64) of molecules with split numbers and order hashes (N)."""
        counts = np.array([self.options.partitions(self.num_rows)[s] for s in SPLITS], np.uint64)
        first = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        return first[split] + (order % counts[split]).astype(np.int64)

    def describe_map(self) -> dict:
        """Everything that decides what the spill files hold."""
        options = asdict(self.options)
        return {
            "spills": [SPILL_VERSION, _identify([astuple(r) for r in self.ranges])],
            "inputs": [f.describe() for f in self.files],
            "options": {k: options[k] for k in ("dataset", "split_fractions", "seed", "shard_molecules")},
            "versions": self.versions,
        }

    @property
    def map_id(self) -> str:
        """Spill files of two builds can stand in for each other if this is the same."""
        return _identify(self.describe_map())

    @property
    def reduce_id(self) -> str:
        """Shards of two builds can stand in for each other if this is the same."""
        return _identify(self.describe_map() | {"all_options": asdict(self.options), "format": FORMAT_VERSION})


def _identify(description: Any) -> str:
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()[:16]
