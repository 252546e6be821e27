"""manifest.json: what a shard set holds, written last; a folder without it is not a shard set."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from molstream.shards.format.block import FORMAT_VERSION
from molstream.shards.format.statistics import LabelMoments, ValueCounts
from molstream.shards.schema import BOND_TYPES, SYMBOLS, Feature
from molstream.shards.store.documents import Document
from molstream.shards.store.fields import Count
from molstream.shards.tasks import Task, TaskSet

MANIFEST = "manifest.json"
INDEX = "index.parquet"
REJECTS = "rejects.parquet"
MAPPING = "mapping.parquet"
BUILDING = ".building"
"""A folder inside a shard set that is still being built."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Statistics:
    """One task over the training split, of the stored values, in raw units."""

    count: Count
    mean: float
    std: float
    min: float | None
    """Least label; None where there is none."""
    max: float | None
    quantiles: dict[str, float]
    """Of numbers: probability -> value, as in `shards.format.statistics.ValueCounts`."""

    @classmethod
    def of(cls, moments: LabelMoments, values: ValueCounts, task: int) -> "Statistics":
        """Of task number `task`."""
        count, low, high = int(moments.count[task]), float(moments.low[task]), float(moments.high[task])
        return cls(
            count=count,
            mean=float(moments.mean[task]),
            std=float(moments.std[task]),
            min=low if count else None,
            max=high if count else None,
            quantiles=values.quantiles(task, low=low, high=high),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Dropped:
    """Labels of one task that are in the input and stored as absent."""

    infinite: Count
    """Infinite, or too large for float32."""
    nan: Count
    """Not null, but not a number."""


@dataclass(frozen=True, kw_only=True, slots=True)
class JoinedTable:
    """One table of a joined set."""

    name: str
    rows: Count
    """That could be molecules."""
    molecules: Count
    """Different ones."""
    duplicates: Count
    """Rows that repeat a molecule of this table."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Join:
    """What joining tables did. mapping.parquet says which row became which molecule."""

    by: str
    """Identity of a molecule: 'smiles' or 'inchi'."""
    tables: tuple[JoinedTable, ...]
    conflicts: dict[str, Count]
    """By task: labels that differ from that of an earlier row of the molecule, which stayed."""
    across_splits: Count
    """Rows of another split than their molecule, which goes by its first row, or, where tables have splits of their own, by the
    most held-out of its rows."""
    unmatched: Count
    """Ways to write a molecule of one InChI whose atoms do not match: molecules of their own."""
    mapping_sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest(Document):
    """Everything about a shard set but its blocks."""

    KIND: ClassVar[str] = "shard set"
    VERSION: ClassVar[int] = FORMAT_VERSION
    REMEDY: ClassVar[str] = "restore it or build the set again"

    fingerprint: str
    """SHA-256 over tasks, features and decoded blocks: what cursors and checkpoints carry."""
    index_sha256: str
    rejects_sha256: str
    tasks: tuple[Task, ...]
    task_sets: tuple[TaskSet, ...]
    atom_features: tuple[Feature, ...]
    bond_features: tuple[Feature, ...]
    column_groups: dict[str, dict[str, str]]
    """Arrays of each column group and their dtypes."""
    statistics: dict[str, Statistics]
    """By task."""
    splits: dict[str, dict[str, Count]]
    """By split: shards, blocks, molecules, atoms, bonds, bytes."""
    labels: dict[str, dict[str, Count]]
    """By task: how many labels each split holds."""
    dropped_labels: dict[str, Dropped]
    """By task, where there were any; of all rows, rejected ones too."""
    rejects: dict[str, Count]
    """By reason: rows that are not in the set; rejects.parquet names them."""
    histograms: dict[str, dict[str, Count]]
    """Molecules by number of atoms and of bonds, atoms by element (atomic number), bonds by type."""
    join: Join | None
    """What joining tables did; None for one table as it is."""
    provenance: dict
    """Inputs (name, size, SHA-256, rows), options and versions of what decided the bytes."""

    def __post_init__(self) -> None:
        """What types do not say. Raises ValueError, naming the field."""
        names = {task.name for task in self.tasks}
        for field, known in (("statistics", self.statistics), ("labels", self.labels)):
            if {*known} != names:
                other = sorted({*known} ^ names)[0]
                raise ValueError(
                    f"field {field}: of {len(known)} tasks, expected of the {len(names)} tasks; {other} is in one only"
                )
        for task_set in self.task_sets:
            if unknown := [name for name in task_set.tasks if name not in names]:
                raise ValueError(f"field task_sets: {task_set.name} names {unknown[0]}, which is none of tasks")
        for name, histogram in self.histograms.items():
            expected = {
                "elements": lambda key: key in {str(number) for number in range(len(SYMBOLS))},
                "bond_types": lambda key: key in BOND_TYPES,
            }.get(name, str.isdecimal)
            if unknown := [key for key in histogram if not expected(key)]:
                raise ValueError(f"field histograms: {name} counts {unknown[0]!r}")
        _check_provenance(self.provenance)

    def tasks_of(self, level: str) -> tuple[Task, ...]:
        """Tasks of one level, in the order of the label columns."""
        return tuple(task for task in self.tasks if task.level == level)


def _check_provenance(provenance: dict) -> None:
    """What readers rely on; the rest is for people. Raises ValueError, naming the field."""

    def get(where: str, value: Any, name: str, kind: type) -> Any:
        found = value.get(name) if isinstance(value, dict) else None
        if type(found) is not kind:
            raise ValueError(f"field {where}.{name} is {found!r}, expected {kind.__name__}")
        return found

    tables = get("provenance.options", get("provenance", provenance, "options", dict), "tables", list)
    for k, table in enumerate(tables):
        for name in ("name", "dataset"):
            get(f"provenance.options.tables[{k}]", table, name, str)
    get("provenance.splits", get("provenance", provenance, "splits", dict), "rule", str)
    for k, file in enumerate(get("provenance", provenance, "inputs", list)):
        where = f"provenance.inputs[{k}]"
        get(where, file, "name", str)
        if get(where, file, "rows", int) < 0:
            raise ValueError(f"field {where}.rows is {file['rows']}, expected at least 0")
        if not 0 <= get(where, file, "table", int) < len(tables):
            raise ValueError(f"field {where}.table is {file['table']}, expected one of the {len(tables)} tables")


def fingerprint(
    tasks: tuple[Task, ...],
    atom_features: tuple[Feature, ...],
    bond_features: tuple[Feature, ...],
    blocks: Iterable[tuple[str, bytes]],
) -> str:
    """SHA-256 over what the set says and holds; `blocks`: (split, content hash) in shard order."""
    head = [[asdict(x) for x in part] for part in (tasks, atom_features, bond_features)]
    digest = hashlib.sha256(json.dumps(head, sort_keys=True).encode())
    for split, content in blocks:
        digest.update(split.encode() + b":" + content)
    return digest.hexdigest()
