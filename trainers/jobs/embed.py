"""Embeddings of a shard set or a table, as a folder of Parquet parts (`trainers.jobs.parts`)."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch

from molstream.shards.format.reader import ShardSet
from molstream.shards.molecules import Molecules
from molstream.streamer.config import Budget, StreamConfig
from molstream.streamer.loader import Loader, sequential
from molstream.streamer.plan import Plan
from molstream.streamer.window import iter_batches
from molstream.trainers.distributed.device import find_device
from molstream.trainers.jobs.parts import PartFolder
from molstream.trainers.models.export import Encoder
from molstream.trainers.runs.checkpoint import Checkpoint

DTYPES = {"f32": (torch.float32, pa.float32()), "f16": (torch.float16, pa.float16())}


class Written(NamedTuple):
    """What an export holds."""

    rows: int
    failed: int
    """Rows without an embedding."""
    overflows: int
    """Rows with a number too large for half precision."""


def fixed_size_list(values: np.ndarray, dtype: str, valid: np.ndarray | None = None) -> tuple[pa.Array, int]:
    """float32 (N, H) -> Arrow fixed_size_list<float16 | float32>; rows that are not `valid` become null. Also in how many rows a
    finite number became infinite: half precision ends at 65,504."""
    stored = torch.from_numpy(np.ascontiguousarray(values)).to(DTYPES[dtype][0]).numpy()
    overflows = int((np.isinf(stored) & np.isfinite(values)).any(axis=1).sum())
    mask = None if valid is None else pa.array(~valid)
    flat = pa.array(stored.reshape(-1), DTYPES[dtype][1])
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1], mask=mask), overflows


def embed_windows(
    encoder: Encoder, shard_set: ShardSet, *, split: str, budget: Budget, first: int, num_threads: int
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """(window, ids, embeddings) of each window of a split from window `first` on, molecules in stored order."""
    config = sequential(StreamConfig(budget=budget, split=split))
    encodings = encoder.recipe.encodings
    loader = Loader(
        shard_set,
        config,
        rank=0,
        world_size=1,
        num_threads=num_threads,
        levels=(),
        encodings=encodings,
        with_ids=True,
    )
    plan = loader.plan
    starts = np.concatenate([[0], np.cumsum(plan.window_packs)])
    loader.step = int(starts[first])
    sizes = shard_set.index.counts["num_molecules"]
    ids = vectors = np.empty(0)
    for item in loader:
        slot, batch = item.slots[0], item.batches[0]
        assert slot is not None, "one lane has no masked packs"
        if slot.pack == 0:
            n = int(sizes[plan.window_blocks(slot.window)].sum())
            ids, vectors = np.empty(n, np.uint64), np.full((n, encoder.dim), np.nan, np.float32)
        ids[batch.window_rows], vectors[batch.window_rows] = batch.ids, encoder.embed(batch)
        if slot.pack == plan.window_packs[slot.window] - 1:
            yield slot.window, ids, vectors


def embed_shard_set(
    checkpoint: Checkpoint,
    shard_set: ShardSet,
    out: Path,
    *,
    splits: tuple[str, ...],
    dtype: str = "f32",
    device: torch.device | None = None,
    num_threads: int = 1,
    on_rows: Callable[[int, int], None] = lambda done, total: None,
) -> Written:
    """Write the embeddings of a shard set in shard order: columns split, id, identifier where the set has them, embedding; a part
    per window.

    Parts that an earlier call of the same job wrote are kept. Raises RunError, TrainError.
    """
    checkpoint.spec.check_features(shard_set)
    encoder = Encoder(checkpoint).to(device or find_device(is_shared=True))
    budget = Budget.suggest(shard_set, atoms=checkpoint.recipe.atoms_a_pack)
    job = {
        "weights_sha256": checkpoint.identity(),
        "fingerprint": shard_set.manifest.fingerprint,
        "splits": list(splits),
        "dtype": dtype,
        "budget": str(budget),
    }
    total = sum(shard_set.manifest.splits[s]["molecules"] for s in splits)
    number = rows = 0
    with PartFolder(out, job=job) as folder:
        for split in splits:
            plan = sequential_plan(shard_set, split, budget)
            sizes = [int(shard_set.index.counts["num_molecules"][plan.window_blocks(w)].sum()) for w in range(plan.num_windows)]
            done = next((w for w in range(plan.num_windows) if not folder.holds(number + w, sizes[w])), plan.num_windows)
            rows += sum(sizes[:done])
            on_rows(rows, total)
            if done < plan.num_windows:
                for window, ids, vectors in embed_windows(
                    encoder, shard_set, split=split, budget=budget, first=done, num_threads=num_threads
                ):
                    columns = {"split": pa.array([split] * len(ids)).dictionary_encode(), "id": pa.array(ids)}
                    if "identifiers" in shard_set.groups:
                        blocks = [shard_set.read_block(int(b), ("identifiers",)).identifiers for b in plan.window_blocks(window)]
                        columns["identifier"] = pa.array([name or None for names in blocks for name in names], pa.string())
                    columns["embedding"], overflows = fixed_size_list(vectors, dtype)
                    folder.write(number + window, columns, overflows=overflows)
                    rows += len(ids)
                    on_rows(rows, total)
            number += plan.num_windows
        folder.commit(number, rows, encoder.dim)
        return Written(rows=rows, failed=0, overflows=folder.overflows(number))


Featurize = Callable[[list[str | None], int], tuple[Molecules, dict[int, str]]]
"""(SMILES of consecutive rows, number of the first) -> molecules of the rows that could be parsed, with row numbers as ids, and
why the other rows could not, by row number."""


def embed_table(
    checkpoint: Checkpoint,
    batches: Iterable[list[str | None]],
    out: Path,
    *,
    featurize: Featurize,
    source: dict,
    dtype: str = "f32",
    device: torch.device | None = None,
    on_rows: Callable[[int], None] = lambda done: None,
) -> Written:
    """Write the embeddings of a table's molecules, row-aligned with it: columns row, smiles, embedding, reason; a part per batch.

    A row that could not be parsed has a null embedding and a reason. `source` names the table's content. Parts that an earlier
    call of the same job wrote are kept, their rows not even parsed.
    """
    encoder = Encoder(checkpoint).to(device or find_device(is_shared=True))
    job = {"weights_sha256": checkpoint.identity(), "source": source, "dtype": dtype}
    rows = failed = number = 0
    with PartFolder(out, job=job) as folder:
        for smiles in batches:
            n = len(smiles)
            if not folder.holds(number, n):
                molecules, reasons = featurize(smiles, rows)
                vectors, valid = np.zeros((n, encoder.dim), np.float32), np.zeros(n, bool)
                places = molecules.ids.astype(np.int64) - rows
                for batch in iter_batches(
                    molecules, atoms_a_pack=checkpoint.recipe.atoms_a_pack, encodings=checkpoint.recipe.encodings
                ):
                    vectors[places[batch.window_rows]] = encoder.embed(batch)
                valid[places] = True
                embedding, overflows = fixed_size_list(vectors, dtype, valid)
                columns = {
                    "row": pa.array(np.arange(rows, rows + n, dtype=np.uint64)),
                    "smiles": pa.array(smiles, pa.string()),
                    "embedding": embedding,
                    "reason": pa.array([reasons.get(rows + i) for i in range(n)], pa.string()),
                }
                folder.write(number, columns, overflows=overflows)
            failed += n - folder.null_count(number, "reason")
            rows, number = rows + n, number + 1
            on_rows(rows)
        folder.commit(number, rows, encoder.dim)
        return Written(rows=rows, failed=failed, overflows=folder.overflows(number))


def sequential_plan(shard_set: ShardSet, split: str, budget: Budget) -> Plan:
    """The plan of an export: stored order, one lane."""
    return Plan.make(shard_set, sequential(StreamConfig(budget=budget, split=split)), 0)
