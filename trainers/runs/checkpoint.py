"""A checkpoint is one unit: weights, optimizer, recipe, data spec, step and cursor in one folder, there whole or not at all.

    checkpoints/step-00001500/
      model.safetensors       weights
      average.safetensors     moving average of the weights, where the recipe has one
      optimizer.safetensors   optimizer state, "{parameter}.{name}"
      state.json              step, cursor, recipe, data spec, optimizer groups, scale of fp16 losses, fingerprint
      hashes.json             SHA-256 of these; written last, inside a folder that is renamed last
      validation.json         what the validation of these weights found; added when it has
    checkpoints/best.json       names the one with the lowest validation loss, which stays; a file, since copies lose links

No pickle anywhere. A folder whose hashes are missing or do not match is never loaded; the newest one that matches is.
"""

import hashlib
import json
import math
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from molstream.trainers.config import Recipe
from molstream.trainers.errors import CheckpointError
from molstream.trainers.runs.files import replace_json, sync_folder, write_synced
from molstream.trainers.spec import DataSpec

CHECKPOINTS = "checkpoints"
BEST = "best.json"
HASHES = "hashes.json"
VALIDATION = "validation.json"
CHECKPOINT_VERSION = 3
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
    model: dict[str, torch.Tensor]
    average: dict[str, torch.Tensor] | None
    """Moving average of the weights."""
    optimizer: dict
    """As `torch.optim.Optimizer.state_dict`."""
    scaler: dict
    """As `torch.amp.GradScaler.state_dict`; empty but for fp16."""
    num_skipped: int
    """Steps that were not finite and changed nothing."""
    validation: dict | None = None
    """What the validation of these weights found; None before."""

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        """What to predict with: the moving average, where there is one."""
        return self.model if self.average is None else self.average

    def identity(self) -> str:
        """SHA-256 of what is predicted with, for products made with it."""
        return hashlib.sha256(save(self.weights)).hexdigest()


def write_checkpoint(run: Path, checkpoint: Checkpoint, *, keep: int) -> Path:
    """Write beside, sync, rename; then remove all but the `keep` newest and the best, and later ones, that a resumed run left
    behind."""
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
        "optimizer_groups": checkpoint.optimizer["param_groups"],
        "scaler": checkpoint.scaler,
        "num_skipped": checkpoint.num_skipped,
    }
    files = {
        "model.safetensors": save(checkpoint.model),
        "optimizer.safetensors": save(tensors),
        "state.json": json.dumps(state, indent=1).encode(),
    }
    if checkpoint.average is not None:
        files["average.safetensors"] = save(checkpoint.average)
    files[HASHES] = json.dumps({name: hashlib.sha256(data).hexdigest() for name, data in files.items()}, indent=1).encode()
    for name, data in files.items():
        write_synced(beside / name, data)
    sync_folder(beside)
    shutil.rmtree(folder, ignore_errors=True)
    beside.rename(folder)
    sync_folder(folder.parent)
    names = list_checkpoints(run)
    at, best = names.index(folder), best_checkpoint(run)
    for old in names[:at] + [name for name in names[at + keep :] if name != best]:
        shutil.rmtree(old)
    for left in folder.parent.glob(".step-*.part"):
        shutil.rmtree(left)
    return folder


def add_validation(run: Path, step: int, found: dict) -> None:
    """Note what the validation of a checkpoint found, and which is the best there is."""
    checkpoints = run / CHECKPOINTS
    replace_json(checkpoints / f"step-{step:08d}" / VALIDATION, found)
    losses = {folder.name: loss for folder in list_checkpoints(run) if (loss := _validation_loss(folder)) is not None}
    if losses:
        # of equal ones the earlier
        best = min(losses, key=lambda name: (losses[name], name))
        replace_json(checkpoints / BEST, {"checkpoint": best, "compared_loss": losses[best]})


def _validation_loss(folder: Path) -> float | None:
    """What checkpoints are compared by; None if it was not validated, or not to a number."""
    loss = (read_validation(folder) or {}).get("compared_loss")
    return loss if isinstance(loss, float) and math.isfinite(loss) else None


def read_validation(folder: Path) -> dict | None:
    """What the validation of a checkpoint found; None before, or where that file is damaged."""
    try:
        found = json.loads((folder / VALIDATION).read_bytes())
        return found if isinstance(found, dict) else None
    except (OSError, ValueError):
        return None


def best_checkpoint(run: Path) -> Path | None:
    """The checkpoint with the lowest validation loss so far; None before a first validation, or where that note is damaged."""
    try:
        name = json.loads((run / CHECKPOINTS / BEST).read_bytes())["checkpoint"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return run / CHECKPOINTS / name if isinstance(name, str) and _NAME.fullmatch(name) else None


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
        if _NAME.fullmatch(folder.name) and folder.name != f"step-{state['step']:08d}":
            raise CheckpointError(f"{folder}: is of step {state['step']}, expected the step in its name; use another checkpoint")
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
            model=load(files["model.safetensors"]),
            average=load(files["average.safetensors"]) if "average.safetensors" in files else None,
            optimizer=optimizer,
            scaler=state["scaler"],
            num_skipped=state["num_skipped"],
            validation=read_validation(folder),
        )
    except (OSError, json.JSONDecodeError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise CheckpointError(f"{folder}: not a complete checkpoint ({type(error).__name__}: {error})") from error


def newest_checkpoint(
    run: Path, check: Callable[[Checkpoint], None] = lambda checkpoint: None
) -> tuple[Checkpoint | None, list[str]]:
    """The newest complete checkpoint of a run and what was wrong with newer ones; `check` raises CheckpointError for others."""
    problems: list[str] = []
    for folder in list_checkpoints(run):
        try:
            checkpoint = read_checkpoint(folder)
            check(checkpoint)
            return checkpoint, problems
        except CheckpointError as error:
            problems.append(str(error))
    return None, problems


def find_differences(checkpoint: Checkpoint, recipe: Recipe, fingerprint: str, spec: DataSpec) -> str:
    """How a checkpoint differs from those of a run; empty if it may be one of them."""
    differ = recipe.differences(checkpoint.recipe)
    if checkpoint.fingerprint != fingerprint:
        differ.append(f"fingerprint {checkpoint.fingerprint} there, {fingerprint} here")
    elif checkpoint.spec != spec:
        differ.append("another data spec")
    return "; ".join(differ)


def load_checkpoint(path: Path, on_problem: Callable[[str], None] = lambda text: None) -> Checkpoint:
    """The checkpoint at `path`: a checkpoint folder, checkpoints/best.json, or a run, whose newest complete one it is.

    `on_problem` is told of newer ones that are damaged. Raises CheckpointError.
    """
    if path.name == BEST and path.is_file():
        if (best := best_checkpoint(path.parent.parent)) is None:
            raise CheckpointError(f"{path}: names no checkpoint; choose one of {path.parent}")
        return read_checkpoint(best)
    if (path / HASHES).is_file():
        return read_checkpoint(path)
    checkpoint, problems = newest_checkpoint(path)
    if checkpoint is None:
        why = "; ".join(problems) or "expected a run of `molstream pretrain` or one of its checkpoints"
        raise CheckpointError(f"{path}: no complete checkpoint here: {why}")
    for problem in problems:
        on_problem(problem)
    return checkpoint
