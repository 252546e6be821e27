"""What decides the bytes of a shard set, besides its input; and how the work is done, which decides nothing."""

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from shards import format
from shards.errors import InputError
from shards.splits import SPLITS, SplitFractions
from shards.tables import DATASETS

LABEL_DTYPES = {"f32": "f4", "f16": "f2"}
"""Names on the command line -> dtypes of the format."""


def parse_label_dtypes(texts: list[str]) -> dict[str, Any]:
    """'atom=f32', ... -> fields of BuildOptions. Raises InputError."""
    fields = {}
    for text in texts:
        level, _, dtype = text.partition("=")
        if level not in ("graph", "atom") or dtype not in LABEL_DTYPES or f"{level}_labels" in fields:
            raise InputError(f"label dtype {text!r}: expected graph= or atom=, each at most once, and f32 or f16, like atom=f32")
        fields[f"{level}_labels"] = dtype
    return fields


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildOptions:
    """What decides the bytes of a shard set, besides its input."""

    dataset: str = "pm6"
    """Which columns the input has."""
    split_fractions: SplitFractions = field(default_factory=lambda: SplitFractions.parse("98,1,1"))
    """Shares of train, val and test."""
    seed: int = 0
    """Decides the order of molecules and which skeleton goes to which split."""
    block_molecules: int = 0
    """Molecules a block, the unit of reading; 0: 4096, less where a split would have fewer than 32 blocks, at least 64."""
    shard_molecules: int = 49_152
    """Molecules a shard, about: the most that are in memory at once while it is written."""
    graph_labels: Literal["f32", "f16"] = "f32"
    """How labels of molecules are stored."""
    atom_labels: Literal["f32", "f16"] = "f16"
    """How labels of atoms are stored: f16 is what the paper's library uses; f32 loses nothing and takes a third more space."""
    pe: tuple[str, ...] = ()
    """Positional encodings to store: 'rw16', 'lap8'."""

    def __post_init__(self) -> None:
        if self.dataset not in DATASETS:
            raise InputError(f"dataset {self.dataset!r}: expected one of {', '.join(DATASETS)}")
        if self.block_molecules < 0 or self.shard_molecules < 1:
            raise InputError("block_molecules must not be negative and shard_molecules at least 1")
        for name in ("graph_labels", "atom_labels"):
            if getattr(self, name) not in LABEL_DTYPES:
                raise InputError(f"{name} {getattr(self, name)!r}: expected one of {', '.join(LABEL_DTYPES)}")
        known = tuple(format.ENCODINGS)
        if list(self.pe) != [name for name in known if name in self.pe]:
            raise InputError(
                f"positional encodings {','.join(self.pe)!r}: expected some of {', '.join(known)}, in this order, once"
            )

    @property
    def label_dtypes(self) -> dict[str, str]:
        """Dtype of the format for each level."""
        return {"graph": LABEL_DTYPES[self.graph_labels], "atom": LABEL_DTYPES[self.atom_labels]}

    @property
    def groups(self) -> tuple[str, ...]:
        """Column groups of the set, in the order of their members."""
        return tuple(g for g in format.GROUP_ARRAYS if g in format.GROUPS or g in self.pe)

    def expected_molecules(self, split: str, num_rows: int) -> float:
        """Molecules of a split among so many rows, about."""
        return num_rows * getattr(self.split_fractions, split)

    def partitions(self, num_rows: int) -> dict[str, int]:
        """Shards of each split, about; some may come out empty."""
        return {s: max(1, math.ceil(self.expected_molecules(s, num_rows) / self.shard_molecules)) for s in SPLITS}

    def block_size(self, split: str, num_rows: int) -> int:
        """Molecules a block of this split."""
        return self.block_molecules or min(4096, max(64, math.ceil(self.expected_molecules(split, num_rows) / 32)))


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkOptions:
    """How the work is done. The bytes of a shard set do not depend on it, but for rows that a limit rejects."""

    workers: int = 1
    """Processes that read, sort and write; each has a child that runs RDKit. On Ray: most tasks at once, 0 for no limit."""
    engine: Literal["local", "ray"] = "local"
    """Where workers run."""
    ray_address: str | None = None
    """An existing Ray cluster; None: a Ray of its own on this machine."""
    max_reject_fraction: float = 0.1
    """Share of rows that may be rejected before the build stops."""
    molecule_s: float = 10.0
    """CPU seconds that RDKit may spend on one molecule, in [0.1, 86400]."""
    molecule_bytes: int = 1 << 30
    """Memory that RDKit may take for one molecule, at least 64 MiB."""

    def __post_init__(self) -> None:
        if self.engine not in ("local", "ray"):
            raise InputError(f"engine {self.engine!r}: expected local or ray")
        if self.workers < (self.engine == "local"):
            raise InputError(f"workers {self.workers}: expected at least 1")
        if self.ray_address is not None and self.engine != "ray":
            raise InputError("a Ray address is of no use without the engine ray")
        if not 0 <= self.max_reject_fraction <= 1:
            raise InputError(f"max_reject_fraction {self.max_reject_fraction}: expected 0 to 1")
        if not 0.1 <= self.molecule_s <= 86_400 or self.molecule_bytes < 1 << 26:
            raise InputError("limits a molecule: expected 0.1 to 86400 s and at least 64 MiB")
