"""The reduce phase: the molecules of one partition, from all spill files, become one shard."""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from kernels.hashing import hash_u64
from kernels.positional import laplacian, quantize_laplacian, quantize_walk, random_walk
from shards import index
from shards.errors import LimitError
from shards.job import Job
from shards.spill import Spill
from shards.statistics import Moments, count_structure
from shards.types import Level, Molecules, concat_molecules
from shards.writer import write_parquet, write_shard

ENCODE_MOLECULES = 512
"""Molecules whose encodings are computed together: what fits a processor's cache."""


@dataclass(frozen=True, slots=True)
class ShardTask:
    """One partition and the shard it becomes."""

    partition: int
    split: str
    number: int


def reduce_partition(job: Job, task: ShardTask, on_molecules: Callable[[int], None]) -> None:
    """Write the shard, then its facts. `on_molecules` is told how many more molecules are written."""
    plan = job.plan
    num_tasks = plan.num_tasks
    molecules = concat_molecules([m for path, widths in job.reduced() for m, _ in Spill(path).read(task.partition, widths)])
    order = np.lexsort((molecules.ids, hash_u64(plan.order_key, molecules.ids)))
    num_blocks = math.ceil(len(order) / plan.block_size(task.split))
    moments: list[bytes] = []
    histograms: list[str] = []

    def blocks() -> Iterator[Molecules]:
        for rows in np.array_split(order, num_blocks):
            block = _encode_positions(_round_labels(molecules.take(rows), plan.options.label_dtypes), plan.options.pe)
            moments.append(Moments.of(block, num_tasks).encode())
            histograms.append(json.dumps(count_structure(block)))
            yield block
            on_molecules(len(block))

    rows = write_shard(job.out, task.split, task.number, blocks(), label_dtypes=plan.options.label_dtypes, scratch=job.building)
    # what index and manifest are made of: the index rows, and each block's moments and histograms
    schema = index.schema_of(plan.groups).append(pa.field("moments", pa.binary())).append(pa.field("histograms", pa.string()))
    extra = [{"moments": m, "histograms": h} for m, h in zip(moments, histograms, strict=True)]
    table = pa.Table.from_pylist([row | more for row, more in zip(rows, extra, strict=True)], schema)
    write_parquet(job.facts_path(task.split, task.number), schema, [table])


def _round_labels(molecules: Molecules, dtypes: dict[Level, str]) -> Molecules:
    """Labels as they will be read again: statistics are of stored values."""
    rounded = {
        f"{level}_labels": labels.astype(np.float16).astype(np.float32)
        for level, dtype in dtypes.items()
        if dtype == "f2" and (labels := molecules.labels(level)) is not None
    }
    return replace(molecules, **rounded)


def _encode_positions(molecules: Molecules, pe: tuple[str, ...]) -> Molecules:
    columns: dict[str, list[np.ndarray]] = {"walks": [], "eigenvectors": [], "eigenvalues": []}
    for first in range(0, len(molecules), ENCODE_MOLECULES):
        part = molecules.slice(first, min(first + ENCODE_MOLECULES, len(molecules)))
        graph = (part.atom_ptr, part.bond_ptr, part.bond_atoms)
        try:
            if "rw16" in pe:
                columns["walks"].append(quantize_walk(random_walk(*graph)))
            if "lap8" in pe:
                vectors, values = quantize_laplacian(*laplacian(*graph))
                columns["eigenvectors"].append(vectors)
                columns["eigenvalues"].append(values)
        except ValueError as error:
            raise LimitError(
                f"positional encodings of rows {part.ids.min()} to {part.ids.max()}: {error}; run again without that encoding"
            ) from error
    return replace(molecules, **{name: np.concatenate(parts) for name, parts in columns.items() if parts})
