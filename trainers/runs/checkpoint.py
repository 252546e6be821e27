"""A checkpoint is one unit: weights, optimizer, recipe, data spec, step and cursor in one folder, there whole or not at all.

    checkpoints/step-00001500/
      model.safetensors       weights
      average.safetensors     moving average of the weights, where the recipe has one
      optimizer.safetensors   optimizer state, "{parameter}.{name}"
      state.json              step, cursor, recipe, data spec, optimizer groups, scale of fp16 losses, fingerprint
      hashes.json             SHA-256 of these; written last, inside a folder that is renamed last
      validation.json         what the validation of these weights found; added when it has
    checkpoints/best.json       names the one with the lowest validation loss, which stays; a file, since copies lose links

All JSON is sealed (`shards.store.documents`), and there is no pickle anywhere. A folder whose hashes are missing or wrong is
never loaded; the newest one that matches is. A damaged validation is one that is done again; a damaged note of the best is made
again from the validations, and until it is, no checkpoint goes whose validation is damaged.
"""

import hashlib
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from molstream.shards.errors import FormatError, ShardError
from molstream.shards.store.documents import Document
from molstream.shards.store.fields import Count, to_json
from molstream.shards.store.reading import Folder, read_all
from molstream.shards.store.writing import remove_leftovers, write_folder
from molstream.streamer.cursor import Cursor
from molstream.trainers.config import Recipe
from molstream.trainers.errors import CheckpointError
from molstream.trainers.spec import DataSpec

CHECKPOINTS = "checkpoints"
BEST = "best.json"
HASHES = "hashes.json"
VALIDATION = "validation.json"
STATE = "state.json"
MODEL, OPTIMIZER, AVERAGE = "model.safetensors", "optimizer.safetensors", "average.safetensors"
RUN_VERSION = 4
"""Of all documents of a run."""
_AGAIN = "train again in another folder"
_SCALER = {"scale", "growth_factor", "backoff_factor", "growth_interval", "_growth_tracker"}
_NAME = re.compile(r"step-\d{8,}")


@dataclass(frozen=True, kw_only=True, slots=True)
class State(Document):
    """state.json: all of a checkpoint that is no tensor."""

    KIND: ClassVar[str] = "checkpoint"
    VERSION: ClassVar[int] = RUN_VERSION
    REMEDY: ClassVar[str] = f"use another checkpoint, or {_AGAIN}"

    step: Count
    recipe: Recipe
    spec: DataSpec
    fingerprint: str
    cursor: Cursor
    budget: str
    optimizer_groups: list[dict]
    scaler: dict[str, int | float]
    num_skipped: Count

    def __post_init__(self) -> None:
        if self.scaler and {*self.scaler} != _SCALER:
            raise ValueError(f"scaler has {', '.join(sorted(self.scaler))}, expected {', '.join(sorted(_SCALER))} or nothing")


@dataclass(frozen=True, kw_only=True, slots=True)
class Hashes(Document):
    """hashes.json."""

    KIND: ClassVar[str] = "list of hashes"
    VERSION: ClassVar[int] = RUN_VERSION
    REMEDY: ClassVar[str] = State.REMEDY

    files: dict[str, str]
    """SHA-256 of each file, by its name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Validation(Document):
    """validation.json."""

    KIND: ClassVar[str] = "validation"
    VERSION: ClassVar[int] = RUN_VERSION
    REMEDY: ClassVar[str] = "validate again"

    step: Count
    compared_loss: float | None
    """What checkpoints are compared by; None if that is no number."""
    compared_packs: Count
    """Over how many packs; those over others are not compared."""
    loss: float | None
    complete: bool
    task_sets: dict[str, dict[str, float | None]]
    """Metrics of each."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Best(Document):
    """best.json."""

    KIND: ClassVar[str] = "note of the best checkpoint"
    VERSION: ClassVar[int] = RUN_VERSION
    REMEDY: ClassVar[str] = "remove it: it is made again"

    checkpoint: str
    """Name of its folder."""
    compared_loss: float
    compared_packs: Count

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.checkpoint):
            raise ValueError(f"checkpoint {self.checkpoint!r}, expected a name like step-00001500")


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
    validation: Validation | None = None
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
    behind. Raises StorageError."""
    folder = run / CHECKPOINTS / f"step-{checkpoint.step:08d}"
    tensors = {f"{k}.{name}": value for k, state in checkpoint.optimizer["state"].items() for name, value in state.items()}
    state = State(
        step=checkpoint.step,
        recipe=checkpoint.recipe,
        spec=checkpoint.spec,
        fingerprint=checkpoint.fingerprint,
        cursor=Cursor.of(checkpoint.cursor),
        budget=checkpoint.budget,
        optimizer_groups=to_json(checkpoint.optimizer["param_groups"]),
        scaler=checkpoint.scaler,
        num_skipped=checkpoint.num_skipped,
    )
    files = {MODEL: save(checkpoint.model), OPTIMIZER: save(tensors), STATE: state.encode()}
    if checkpoint.average is not None:
        files[AVERAGE] = save(checkpoint.average)
    with write_folder(folder) as sink:
        hashes = {name: sink.write(name, data).sha256 for name, data in files.items()}
        sink.write(HASHES, Hashes(files=hashes).encode())
    names = list_checkpoints(run)
    at, stay = names.index(folder), _kept(run)
    for old in names[:at] + [name for name in names[at + keep :] if name not in stay]:
        shutil.rmtree(old)
    remove_leftovers(folder.parent)
    return folder


def add_validation(run: Path, found: Validation) -> None:
    """Note what the validation of a checkpoint found, and which is the best of those whose loss is over as many packs: after a
    change of `eval_packs` the choice begins anew. Raises StorageError."""
    checkpoints, before = run / CHECKPOINTS, _read_best(run)
    found.write(checkpoints / f"step-{found.step:08d}" / VALIDATION)
    losses = _losses(run).get(found.compared_packs, {})
    if before is not None and before.compared_packs == found.compared_packs and (checkpoints / before.checkpoint).is_dir():
        losses.setdefault(before.checkpoint, before.compared_loss)
    if losses:
        best = _lowest(losses)
        Best(checkpoint=best, compared_loss=losses[best], compared_packs=found.compared_packs).write(checkpoints / BEST)


def _losses(run: Path) -> dict[int, dict[str, float]]:
    """What checkpoints are compared by: number of packs -> losses over so many, by name, of those that came to a number; first
    the number that the newest has."""
    out: dict[int, dict[str, float]] = {}
    for folder in list_checkpoints(run):
        if (found := read_validation(folder)) is not None and found.compared_loss is not None:
            out.setdefault(found.compared_packs, {})[folder.name] = found.compared_loss
    return out


def _lowest(losses: dict[str, float]) -> str:
    """Of equal ones the earlier."""
    return min(losses, key=lambda name: (losses[name], name))


def read_validation(folder: Path) -> Validation | None:
    """What the validation of a checkpoint found; None before, or where that file is damaged or of another checkpoint."""
    try:
        found = Validation.read(folder / VALIDATION)
    except FormatError:
        return None
    return found if folder.name == f"step-{found.step:08d}" or not _NAME.fullmatch(folder.name) else None


def best_checkpoint(run: Path) -> Path | None:
    """The checkpoint with the lowest validation loss so far; None before a first validation. Where the note of it is damaged or
    gone, what the validations say."""
    if (note := _read_best(run)) is not None:
        return run / CHECKPOINTS / note.checkpoint
    return next((run / CHECKPOINTS / _lowest(losses) for losses in _losses(run).values()), None)


def _read_best(run: Path) -> Best | None:
    try:
        return Best.read(run / CHECKPOINTS / BEST)
    except FormatError:
        return None


def _kept(run: Path) -> set[Path]:
    """Checkpoints that stay however old they are: the best, also those over other numbers of packs, or where the note of it is
    damaged, whichever may be."""
    stay = {run / CHECKPOINTS / _lowest(losses) for losses in _losses(run).values()}
    stay |= {best} if (best := best_checkpoint(run)) else set()
    if _read_best(run) is None:
        stay |= {folder for folder in list_checkpoints(run) if (folder / VALIDATION).exists() and read_validation(folder) is None}
    return stay


def list_checkpoints(run: Path) -> list[Path]:
    """Checkpoint folders of a run, newest first, damaged ones included."""
    found = [p for p in (run / CHECKPOINTS).glob("step-*") if _NAME.fullmatch(p.name)]
    return sorted(found, key=lambda p: int(p.name[5:]), reverse=True)


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read one checkpoint folder, hashes verified. Raises CheckpointError."""
    try:
        files = _read_files(folder)
        state = State.parse(files[STATE], where=str(folder / STATE))
        if _NAME.fullmatch(folder.name) and folder.name != f"step-{state.step:08d}":
            raise CheckpointError(f"{folder}: is of step {state.step}, expected the step in its name; use another checkpoint")
        optimizer: dict = {"state": {}, "param_groups": state.optimizer_groups}
        for name, value in load(files[OPTIMIZER]).items():
            parameter, key = name.split(".", 1)
            optimizer["state"].setdefault(int(parameter), {})[key] = value
        return Checkpoint(
            step=state.step,
            recipe=state.recipe,
            spec=state.spec,
            fingerprint=state.fingerprint,
            cursor=asdict(state.cursor),
            budget=state.budget,
            model=load(files[MODEL]),
            average=load(files[AVERAGE]) if AVERAGE in files else None,
            optimizer=optimizer,
            scaler=state.scaler,
            num_skipped=state.num_skipped,
            validation=read_validation(folder),
        )
    except CheckpointError:
        raise
    except (ShardError, SafetensorError, ValueError) as error:
        raise CheckpointError(f"{folder}: not a complete checkpoint: {error}") from error


def _read_files(folder: Path) -> dict[str, bytes]:
    """Every file of a checkpoint, as it was written. Raises CheckpointError, ShardError."""
    store, files = Folder(folder), {}
    for name, digest in Hashes.read(folder / HASHES).files.items():
        with store.open(name) as file:
            files[name] = read_all(file)
        if hashlib.sha256(files[name]).hexdigest() != digest:
            raise CheckpointError(f"{folder / name}: damaged (SHA-256 differs from {HASHES}); use another checkpoint")
    if lacking := [name for name in (MODEL, OPTIMIZER, STATE) if name not in files]:
        raise CheckpointError(f"{folder / HASHES}: lists no {lacking[0]}; use another checkpoint")
    return files


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
