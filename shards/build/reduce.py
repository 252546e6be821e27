"""The reduce phase: the molecules of one partition, from all spill files, become one shard."""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from molstream.kernels.rng.hashing import hash_u64
from molstream.shards.build.facts import write_facts
from molstream.shards.build.job import BuildJob
from molstream.shards.build.spill import Spill
from molstream.shards.chemistry.encodings import compute_columns
from molstream.shards.columns import COLUMN_GROUPS
from molstream.shards.format import index
from molstream.shards.format.statistics import LabelMoments, ValueCounts, count_structure
from molstream.shards.format.writer import write_shard
from molstream.shards.molecules import Molecules, concat_molecules
from molstream.shards.tasks import Level

MIN_UNEVEN = 64
"""Blocks of fewer molecules than this are all of equal size."""


@dataclass(frozen=True, slots=True)
class ShardItem:
    """One partition and the shard it becomes."""

    partition: int
    split: str
    number: int


def reduce_partition(job: BuildJob, task: ShardItem, on_molecules: Callable[[int], None]) -> None:
    """Write the shard, then its facts. `on_molecules` is told how many more molecules are written."""
    plan = job.plan
    num_tasks = plan.num_tasks
    molecules = concat_molecules([m for path, layout in job.reduced() for m, _ in Spill(path).read(task.partition, layout)])
    order = np.lexsort((molecules.ids, hash_u64(plan.order_key, molecules.ids)))
    ends = block_ends(len(order), plan.block_size(task.split), first=task.number)
    late = [name for name in plan.options.pe if COLUMN_GROUPS[name].compute is not None]
    moments: list[bytes] = []
    values = ValueCounts(len(plan.tasks))
    is_number = [task.split == "train" and label.kind == "regression" for label in plan.tasks]
    histograms: list[str] = []

    def blocks() -> Iterator[Molecules]:
        for rows in np.split(order, ends[:-1]):
            block = _round_labels(molecules.take(rows), plan.options.label_dtypes)
            block = block.replace(**compute_columns(block, late))
            moments.append(LabelMoments.of(block, num_tasks).encode())
            values.merge(ValueCounts.of(block, num_tasks, is_number))
            histograms.append(json.dumps(count_structure(block)))
            yield block
            on_molecules(len(block))

    rows, shard = write_shard(
        job.out, task.split, task.number, blocks(), label_dtypes=plan.options.label_dtypes, scratch=job.building
    )
    # what index and manifest are made of: the index rows, each block's moments and histograms, the shard's counts of values
    schema = index.schema_of(plan.groups)
    for name, kind in (("moments", pa.binary()), ("histograms", pa.string()), ("values", pa.binary())):
        schema = schema.append(pa.field(name, kind))
    extra = [{"moments": m, "histograms": h} for m, h in zip(moments, histograms, strict=True)]
    extra[0]["values"] = values.encode()
    table = pa.Table.from_pylist([row | more for row, more in zip(rows, extra, strict=True)], schema)
    write_facts(job.facts_path(task.split, task.number), shard=shard, table=table)


def block_ends(num_molecules: int, size: int, *, first: int) -> np.ndarray:
    """Where each block of a shard ends, int64. Blocks have about `size` molecules but are uneven: three to five quarters of it.

    A window of the stream is some blocks, and its packs are full if their atoms come just below a whole number of packs. Sums of
    equal blocks would fall on the same few fractions of a pack again and again. Sums of uneven ones fall anywhere, so a good end
    can be found (`kernels.packing.packs.cut_windows`). `first` rotates the sequence, so that shards differ.
    """
    num_blocks = math.ceil(num_molecules / size)
    # a low-discrepancy sequence: multiples of the golden ratio, as fractions of 2**16; small blocks have many sums anyway
    turn = 40_503 * (np.arange(num_blocks) + 7 * first) % 65_536 if size >= MIN_UNEVEN else 0
    weight = np.full(num_blocks, 98_304) + turn
    return np.cumsum(weight) * num_molecules // weight.sum()


def _round_labels(molecules: Molecules, dtypes: dict[Level, str]) -> Molecules:
    """Labels as they will be read back, since statistics are those of stored values."""
    rounded = {
        f"{level}_labels": labels.astype(np.float16).astype(np.float32)
        for level, dtype in dtypes.items()
        if dtype == "f2" and (labels := molecules.labels(level)) is not None
    }
    return molecules.replace(**rounded)
