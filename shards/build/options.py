"""The options that decide the bytes of a shard set besides its input, and those of how the work is done, which decide none."""

from dataclasses import dataclass, field
from typing import Any, Literal

from molstream.shards.columns import computed_groups
from molstream.shards.errors import InputError
from molstream.shards.format.reader import MAX_BLOCK_MOLECULES
from molstream.shards.inputs.datasets import TableSpec
from molstream.shards.splits.rules import BY_TABLE, RULES, SplitFractions
from molstream.shards.tasks import LEVELS, Level

LABEL_DTYPES = {"f32": "f4", "f16": "f2"}
"""Names on the command line -> dtypes of the format."""
JOINS = ("smiles", "inchi")


def parse_label_dtypes(texts: list[str]) -> dict[str, Any]:
    """'atom=f32', ... -> fields of BuildOptions. Raises InputError."""
    fields = {}
    for text in texts:
        level, _, dtype = text.partition("=")
        if level not in LEVELS or dtype not in LABEL_DTYPES or f"{level}_labels" in fields:
            raise InputError(
                f"label dtype {text!r}: expected {'=, '.join(LEVELS)}=, each at most once, and f32 or f16, like atom=f32"
            )
        fields[f"{level}_labels"] = dtype
    return fields


MAX_WORKERS = 65_536
"""Of one build; each is a process."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildOptions:
    """The options that decide the bytes of a shard set, besides its input."""

    tables: tuple[TableSpec, ...] = (TableSpec(),)
    """The input: one table of one or many files, or several tables that are joined."""
    join: Literal["", "smiles", "inchi"] = ""
    """Rows with the same stored SMILES, or fixed-hydrogen InChI, become one molecule. '': each row is a molecule."""
    splits: str = "skeleton"
    """The split rule: 'skeleton', 'scaffold', 'position', the name of a file that gives the split of each row, or 'tables': each
    table has splits or a column of splits of its own, and a molecule of several goes to the most held-out split."""
    split_names: tuple[tuple[str, str], ...] = ()
    """(name in files and columns, name in the set) of splits that are renamed; several may become one."""
    split_fractions: SplitFractions = field(default_factory=lambda: SplitFractions.parse("98,1,1"))
    """Shares of train, val and test, unless a file gives the splits."""
    split_seed: int | None = None
    """Seed of the splits; None: `seed`."""
    seed: int = 0
    """Seed of the order of molecules and of the split of each skeleton."""
    block_molecules: int = 0
    """Approximate molecules per block, the unit of reading. 0: 4096, or fewer so that a split has 32 blocks, but at least 64."""
    shard_molecules: int = 49_152
    """Approximate maximum of molecules per shard, which are in memory at once while it is written; fewer with very many tasks."""
    graph_labels: Literal["f32", "f16"] = "f32"
    """How labels of molecules are stored."""
    atom_labels: Literal["f32", "f16"] = "f16"
    """How labels of atoms are stored: the paper's library uses f16; f32 loses nothing and takes a third more space."""
    bond_labels: Literal["f32", "f16"] = "f32"
    """How labels of bonds are stored."""
    pair_labels: Literal["f32", "f16"] = "f32"
    """How labels of pairs of atoms are stored."""
    pe: tuple[str, ...] = ()
    """Positional encodings to store: 'rw16', 'lap8'."""

    def __post_init__(self) -> None:
        if not self.tables:
            raise InputError("no table")
        if self.join not in ("", *JOINS):
            raise InputError(f"join {self.join!r}: expected one of {', '.join(JOINS)}")
        if len(self.tables) > 1 and not self.join:
            raise InputError(f"{len(self.tables)} tables: expected one, or to be told what to join them by")
        self._check_splits()
        for name, least in (("block_molecules", 0), ("shard_molecules", 1)):
            if not least <= getattr(self, name) <= MAX_BLOCK_MOLECULES:
                raise InputError(f"{name} {getattr(self, name)}: expected at least {least} and at most {MAX_BLOCK_MOLECULES:,}")
        for level in LEVELS:
            if getattr(self, f"{level}_labels") not in LABEL_DTYPES:
                raise InputError(
                    f"{level}_labels {getattr(self, f'{level}_labels')!r}: expected one of {', '.join(LABEL_DTYPES)}"
                )
        known = computed_groups()
        if list(self.pe) != [name for name in known if name in self.pe]:
            raise InputError(
                f"positional encodings {','.join(self.pe)!r}: expected some of {', '.join(known)}, in this order, once"
            )

    def _check_splits(self) -> None:
        without = [spec.name or spec.dataset for spec in self.tables if not (spec.splits or spec.split_column)]
        if self.splits == BY_TABLE and without:
            raise InputError(
                f"table {without[0]} has no splits of its own, as others have; give each table --splits NAME=FILE, --splits "
                f"NAME=position or --split-column NAME=COLUMN"
            )
        if self.splits != BY_TABLE and len(without) < len(self.tables):
            raise InputError(
                f"splits {self.splits!r}, and a table with splits of its own: expected {BY_TABLE!r} or none of those"
            )
        if self.split_names and self.splits in RULES:
            raise InputError(
                f"--rename-split: the rule {self.splits} has no names to change; it belongs to a file or column of splits"
            )

    @property
    def label_dtypes(self) -> dict[Level, str]:
        """Dtype of the format for each level."""
        return {level: LABEL_DTYPES[getattr(self, f"{level}_labels")] for level in LEVELS}


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkOptions:
    """How the work is done. The bytes of a shard set do not depend on it, except through rows that a limit rejects."""

    workers: int = 1
    """Processes that read, sort and write; each has a child that runs RDKit. On Ray: most work items at once, 0: no limit."""
    engine: Literal["local", "ray"] = "local"
    """Where workers run."""
    ray_address: str | None = None
    """Address of an existing Ray cluster; None: a Ray of its own on this machine."""
    max_reject_fraction: float = 0.1
    """Share of rows that may be rejected before the build stops."""
    molecule_s: float = 10.0
    """CPU seconds that RDKit may spend on one molecule, in [0.1, 86400]."""
    molecule_bytes: int = 1 << 30
    """Memory that RDKit may take for one molecule, at least 64 MiB."""

    def __post_init__(self) -> None:
        if self.engine not in ("local", "ray"):
            raise InputError(f"engine {self.engine!r}: expected local or ray")
        if not (self.engine == "local") <= self.workers <= MAX_WORKERS:
            raise InputError(f"workers {self.workers}: expected at least 1 and at most {MAX_WORKERS:,}")
        if self.ray_address is not None and self.engine != "ray":
            raise InputError("a Ray address is of no use without the engine ray")
        if not 0 <= self.max_reject_fraction <= 1:
            raise InputError(f"max_reject_fraction {self.max_reject_fraction}: expected 0 to 1")
        if not 0.1 <= self.molecule_s <= 86_400 or self.molecule_bytes < 1 << 26:
            raise InputError("limits per molecule: expected 0.1 to 86400 s and at least 64 MiB")
