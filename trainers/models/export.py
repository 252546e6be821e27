"""A trained network by itself: weights as safetensors, what they mean as JSON; no trainer, no data, no pickle needed to load it.

RUN/model/model.safetensors   weights of the last step, or their moving average
RUN/model/model.json          recipe, data spec with the scales of labels, batch shape
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, cast

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from molstream.shards.errors import ShardError
from molstream.shards.store.documents import Document
from molstream.shards.store.fields import Count
from molstream.shards.store.reading import read_file
from molstream.shards.store.writing import write_bytes
from molstream.streamer.batch import Batch
from molstream.streamer.config import Budget
from molstream.trainers.config import Recipe
from molstream.trainers.errors import CheckpointError
from molstream.trainers.models.label_scale import LabelScale
from molstream.trainers.models.network import load_network
from molstream.trainers.runs.checkpoint import RUN_VERSION, Checkpoint, load_checkpoint
from molstream.trainers.spec import DataSpec

WEIGHTS, MEANING = "model.safetensors", "model.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Meaning(Document):
    """model.json."""

    KIND: ClassVar[str] = "model"
    VERSION: ClassVar[int] = RUN_VERSION
    REMEDY: ClassVar[str] = "restore it or train again"

    step: Count
    recipe: Recipe
    spec: DataSpec
    fingerprint: str
    budget: str
    weights_sha256: str
    """Of the file of weights."""


class Encoder(nn.Module):
    """Molecules -> states of atoms and of molecules, and predictions; in evaluation mode."""

    def __init__(self, checkpoint: Checkpoint):
        super().__init__()
        self.network = load_network(checkpoint)
        self.recipe, self.spec = checkpoint.recipe, checkpoint.spec
        self.scales = nn.ModuleDict({head.key: LabelScale(head) for head in self.spec.heads})
        self.budget = Budget.parse(checkpoint.budget)
        """Shape of the batches it was trained on; any other will do."""
        self.eval()

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Atom states (A, H) and molecule embeddings (G, H) of all slots, padding included (`batch.graph_mask_G` tells)."""
        return self.network.encode(batch)

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        return self.recipe.hidden

    @torch.inference_mode()
    def embed(self, batch: Batch) -> np.ndarray:
        """Embeddings of a batch's real molecules, whatever the device: float32 (molecules, H)."""
        _, pooled = self(batch.to(next(self.parameters()).device))
        return pooled[: batch.num_graphs].float().cpu().numpy()

    def predict(self, batch: Batch) -> dict[str, Tensor]:
        """{task set: (R, T), or (R, T, C) for classes}: numbers in the units of the labels, or logits; rows as in `Network`."""
        out = self.network(batch)
        return out | {
            head.name: cast(LabelScale, self.scales[head.key]).inverse(out[head.name])
            for head in self.spec.heads
            if head.kind == "regression"
        }


def load_encoder(path: Path | str) -> Encoder:
    """The network of an export, a run (its newest checkpoint) or a checkpoint. Raises CheckpointError."""
    return Encoder(load_weights(Path(path)))


def load_weights(path: Path, on_problem: Callable[[str], None] = lambda text: None) -> Checkpoint:
    """What to predict with: an export, a checkpoint, or a run, whose newest complete checkpoint it is. `on_problem` is told of
    newer ones that are damaged. Raises CheckpointError."""
    return read_model(path) if (path / MEANING).is_file() else load_checkpoint(path, on_problem)


def write_model(folder: Path, checkpoint: Checkpoint) -> None:
    """Write what a network needs to be loaded by itself; `read_model` tells where a crash has left files of two. Raises
    StorageError."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = write_bytes(folder / WEIGHTS, save(checkpoint.weights))
    meaning = Meaning(
        step=checkpoint.step,
        recipe=checkpoint.recipe,
        spec=checkpoint.spec,
        fingerprint=checkpoint.fingerprint,
        budget=checkpoint.budget,
        weights_sha256=weights.sha256,
    )
    meaning.write(folder / MEANING)


def read_model(folder: Path) -> Checkpoint:
    """Inverse of `write_model`; a checkpoint that cannot be trained on. Raises CheckpointError."""
    try:
        meaning, weights = Meaning.read(folder / MEANING), read_file(folder / WEIGHTS)
        if hashlib.sha256(weights).hexdigest() != meaning.weights_sha256:
            raise CheckpointError(f"{folder / WEIGHTS}: damaged, or of another {MEANING} (SHA-256 differs); {Meaning.REMEDY}")
        return Checkpoint(
            step=meaning.step,
            recipe=meaning.recipe,
            spec=meaning.spec,
            fingerprint=meaning.fingerprint,
            cursor={},
            budget=meaning.budget,
            model=load(weights),
            average=None,
            optimizer={"state": {}, "param_groups": []},
            scaler={},
            num_skipped=0,
        )
    except CheckpointError:
        raise
    except (ShardError, SafetensorError) as error:
        raise CheckpointError(f"{folder}: not a complete model: {error}") from error
