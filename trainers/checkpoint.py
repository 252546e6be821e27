"""A checkpoint is one unit: weights, optimizer, recipe, data spec, step and cursor in one folder, there whole or not at all.

    checkpoints/step-00001500/
      model.safetensors       weights
      optimizer.safetensors   optimizer state, "{parameter}.{name}"
      state.json              step, cursor, recipe, data spec, optimizer groups, fingerprint, validation
      hashes.json             SHA-256 of the three; written last, inside a folder that is renamed last

No pickle anywhere. A folder whose hashes are missing or do not match is never loaded; the newest one that matches is.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from trainers.config import Recipe
from trainers.errors import CheckpointError
from trainers.spec import DataSpec

CHECKPOINTS = "checkpoints"
HASHES = "hashes.json"
CHECKPOINT_VERSION = 2
_NAME = re.compile(r"step-\d{8,}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """A checkpoint in memory."""

    step: int
    """Optimizer steps done."""
    recipe: Recipe
    spec: DataSpec
    fingerprint: str
    """Of the shard set it was trained on."""
    cursor: dict
    """Next step of the stream."""
    budget: str
    """Batch shape, 'G,A,E'."""
    validation: dict
    """Last validation; empty if there was none."""
    model: dict[str, torch.Tensor]
    optimizer: dict
    """As `torch.optim.Optimizer.state_dict`."""

    def identity(self) -> str:
        """SHA-256 of the weights, for products made with them."""
        return hashlib.sha256(save(self.model)).hexdigest()


def write_checkpoint(run: Path, checkpoint: Checkpoint, *, keep: int) -> Path:
    """Write beside, sync, rename; then remove all but the `keep` newest, and later ones, which a resumed run has left behind."""
    folder = run / CHECKPOINTS / f"step-{checkpoint.step:08d}"
    beside = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    tensors = {f"{k}.{name}": value for k, state in checkpoint.optimizer["state"].items() for name, value in state.items()}
    state = {
        "checkpoint_version": CHECKPOINT_VERSION,
        "step": checkpoint.step,
        "recipe": checkpoint.recipe.to_json(),
        "spec": checkpoint.spec.to_json(),
        "fingerprint": checkpoint.fingerprint,
        "cursor": checkpoint.cursor,
        "budget": checkpoint.budget,
        "validation": checkpoint.validation,
        "optimizer_groups": checkpoint.optimizer["param_groups"],
    }
    files = {
        "model.safetensors": save(checkpoint.model),
        "optimizer.safetensors": save(tensors),
        "state.json": json.dumps(state, indent=1).encode(),
    }
    files[HASHES] = json.dumps({name: hashlib.sha256(data).hexdigest() for name, data in files.items()}, indent=1).encode()
    for name, data in files.items():
        with (beside / name).open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    shutil.rmtree(folder, ignore_errors=True)
    beside.rename(folder)
    _sync_folder(folder.parent)
    names = list_checkpoints(run)
    at = names.index(folder)
    for old in names[:at] + names[at + keep :]:
        shutil.rmtree(old)
    return folder


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def list_checkpoints(run: Path) -> list[Path]:
    """Checkpoint folders of a run, newest first, damaged ones included."""
    found = [p for p in (run / CHECKPOINTS).glob("step-*") if _NAME.fullmatch(p.name)]
    return sorted(found, key=lambda p: int(p.name[5:]), reverse=True)


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read one checkpoint folder, hashes verified. Raises CheckpointError."""
    try:
        manifest = json.loads((folder / HASHES).read_bytes())
        files = {name: (folder / name).read_bytes() for name in manifest}
        for name, digest in manifest.items():
            if hashlib.sha256(files[name]).hexdigest() != digest:
                raise CheckpointError(f"{folder / name}: damaged (SHA-256 differs from {HASHES}); use another checkpoint")
        state = json.loads(files["state.json"])
        if state["checkpoint_version"] != CHECKPOINT_VERSION:
            raise CheckpointError(f"{folder}: version {state['checkpoint_version']}, this molstream reads {CHECKPOINT_VERSION}")
        optimizer: dict = {"state": {}, "param_groups": state["optimizer_groups"]}
        for name, value in load(files["optimizer.safetensors"]).items():
            parameter, key = name.split(".", 1)
            optimizer["state"].setdefault(int(parameter), {})[key] = value
        return Checkpoint(
            step=state["step"],
            recipe=Recipe.from_json(state["recipe"]),
            spec=DataSpec.from_json(state["spec"]),
            fingerprint=state["fingerprint"],
            cursor=state["cursor"],
            budget=state["budget"],
            validation=state["validation"],
            model=load(files["model.safetensors"]),
            optimizer=optimizer,
        )
    except (OSError, json.JSONDecodeError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise CheckpointError(f"{folder}: not a complete checkpoint ({type(error).__name__}: {error})") from error


def newest_checkpoint(run: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest complete checkpoint of a run and what was wrong with newer ones."""
    problems: list[str] = []
    for folder in list_checkpoints(run):
        try:
            return read_checkpoint(folder), problems
        except CheckpointError as error:
            problems.append(str(error))
    return None, problems


def load_checkpoint(path: Path, on_problem: Callable[[str], None] = lambda text: None) -> Checkpoint:
    """The checkpoint at `path`: a checkpoint folder, or a run, whose newest complete one it is.

    `on_problem` is told of newer ones that are damaged. Raises CheckpointError.
    """
    if (path / HASHES).is_file():
        return read_checkpoint(path)
    checkpoint, problems = newest_checkpoint(path)
    if checkpoint is None:
        why = "; ".join(problems) or "expected a run of `molstream pretrain` or one of its checkpoints"
        raise CheckpointError(f"{path}: no complete checkpoint here: {why}")
    for problem in problems:
        on_problem(problem)
    return checkpoint
