"""Embedding export: a folder of Parquet parts and a manifest written last. Restartable part by part."""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from streamer import Batch, Budget, Loader, ShardSet, StreamConfig
from streamer.loader import sequential
from trainers.checkpoint import Checkpoint
from trainers.errors import RunError, TrainError
from trainers.model import Network, build_network
from trainers.spec import DataSpec

MANIFEST = "embeddings.json"
DTYPES = {"f32": (torch.float32, pa.float32()), "f16": (torch.float16, pa.float16())}


@dataclass(frozen=True, slots=True)
class Encoder:
    """A trained network, ready to embed batches."""

    network: Network
    device: torch.device
    identity: str
    """SHA-256 of the weights."""

    @classmethod
    def load(cls, checkpoint: Checkpoint, device: torch.device) -> "Encoder":
        """The network of a checkpoint in evaluation mode."""
        network = build_network(checkpoint.spec, checkpoint.recipe)
        network.load_state_dict(checkpoint.model)
        return cls(network.eval().to(device), device, checkpoint.identity())

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        return self.network.atoms.table.shape[1]

    @torch.inference_mode()
    def embed(self, batch: Batch) -> np.ndarray:
        """Pooled states of a batch's real molecules: float32 (molecules, H)."""
        _, pooled = self.network.encode(batch.to(self.device))
        return pooled[: batch.num_graphs].float().cpu().numpy()


class EmbeddingFolder:
    """The output: part-00000.parquet, part-00001.parquet, ..., then embeddings.json."""

    def __init__(self, path: Path, *, job: dict):
        """Claim a folder for a job (what decides its content). Raises RunError if it holds anything else."""
        self.path, self.job = path, job
        self.started = path / "job.json"
        if path.exists() and not path.is_dir():
            raise RunError(f"{path}: a file, expected a folder to write to")
        if path.exists() and any(path.iterdir()):
            there = json.loads(self.started.read_text()) if self.started.is_file() else None
            if there != job:
                what = "embeddings of other molecules or weights" if there else "something else"
                raise RunError(f"{path}: holds {what}; choose another folder")
        try:
            path.mkdir(parents=True, exist_ok=True)
            self.started.write_text(json.dumps(job) + "\n")
        except OSError as error:
            raise RunError(f"{path}: cannot be written to: {error.strerror or error}") from error

    def part(self, number: int) -> Path:
        """File of a part."""
        return self.path / f"part-{number:05d}.parquet"

    def write(self, number: int, columns: dict[str, pa.Array]) -> None:
        """Write a part, whole or not at all."""
        beside = self.part(number).with_suffix(".part")
        pq.write_table(pa.table(columns), beside, compression="zstd")
        beside.rename(self.part(number))

    def commit(self, num_parts: int, rows: int, dim: int) -> None:
        """Write the manifest: the export is complete."""
        parts = {
            self.part(k).name: hashlib.sha256(self.part(k).read_bytes()).hexdigest() for k in range(num_parts)
        }
        text = json.dumps({"rows": rows, "dim": dim, "parts": parts} | self.job, indent=1) + "\n"
        beside = self.path / (MANIFEST + ".part")
        beside.write_text(text)
        beside.rename(self.path / MANIFEST)


def fixed_size_list(values: np.ndarray, dtype: str, valid: np.ndarray | None = None) -> pa.Array:
    """float32 (N, H) -> Arrow fixed_size_list<float16 | float32>; rows that are not `valid` become null."""
    flat = torch.from_numpy(np.ascontiguousarray(values)).to(DTYPES[dtype][0]).numpy().reshape(-1)
    mask = None if valid is None else pa.array(~valid)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat, DTYPES[dtype][1]), values.shape[1], mask=mask)


def embed_windows(
    encoder: Encoder, shard_set: ShardSet, *, split: str, budget: Budget, first: int, num_threads: int
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """(window, ids, embeddings) of each window of a split from window `first` on, molecules in stored order."""
    config = sequential(StreamConfig(budget=budget, split=split))
    loader = Loader(shard_set, config, num_threads=num_threads, levels=(), with_ids=True)
    plan = loader.plan
    starts = np.concatenate([[0], np.cumsum(plan.window_packs)])
    loader.step = int(starts[first])
    sizes = shard_set.index.counts["num_molecules"]
    ids = vectors = np.empty(0)
    for item in loader:
        slot, batch = item.slots[0], item.batches[0]
        if slot.pack == 0:
            n = int(sizes[plan.window_blocks(slot.window)].sum())
            ids, vectors = np.empty(n, np.uint64), np.full((n, encoder.dim), np.nan, np.float32)
        ids[batch.members], vectors[batch.members] = batch.ids, encoder.embed(batch)
        if slot.pack == plan.window_packs[slot.window] - 1:
            yield slot.window, ids, vectors


def embed_shard_set(
    checkpoint: Checkpoint,
    shard_set: ShardSet,
    out: Path,
    *,
    splits: tuple[str, ...],
    dtype: str = "f32",
    device: torch.device,
    num_threads: int = 1,
    on_rows: Callable[[int, int], None] = lambda done, total: None,
) -> int:
    """Write the embeddings of a shard set in shard order: columns split, id, embedding; a part a window.

    Parts that an earlier call of the same job wrote are kept. Returns the number of rows. Raises RunError, TrainError.
    """
    differ = checkpoint.spec.difference(DataSpec.of(shard_set))
    if differ and "features" in differ:
        raise TrainError(f"checkpoint and {shard_set.path} do not fit: the model reads {differ}")
    encoder = Encoder.load(checkpoint, device)
    budget = Budget.suggest(shard_set, atoms=checkpoint.recipe.atoms_a_pack)
    job = {
        "weights_sha256": encoder.identity,
        "fingerprint": shard_set.manifest.fingerprint,
        "splits": list(splits),
        "dtype": dtype,
        "budget": str(budget),
    }
    folder = EmbeddingFolder(out, job=job)
    total = sum(shard_set.manifest.splits[s]["molecules"] for s in splits)
    number = rows = 0
    for split in splits:
        first = 0
        while folder.part(number).exists() and pq.read_schema(folder.part(number)).metadata is not None:
            found = pq.read_table(folder.part(number), columns=["split"])
            if found["split"][0].as_py() != split:
                break
            rows, number, first = rows + found.num_rows, number + 1, first + 1
        on_rows(rows, total)
        if rows == sum(shard_set.manifest.splits[s]["molecules"] for s in splits[: splits.index(split) + 1]):
            continue
        for _, ids, vectors in embed_windows(
            encoder, shard_set, split=split, budget=budget, first=first, num_threads=num_threads
        ):
            folder.write(
                number,
                {
                    "split": pa.array([split] * len(ids)).dictionary_encode(),
                    "id": pa.array(ids),
                    "embedding": fixed_size_list(vectors, dtype),
                },
            )
            number, rows = number + 1, rows + len(ids)
            on_rows(rows, total)
    folder.commit(number, rows, encoder.dim)
    return rows
