"""The folder of a run: what it was started with, who works in it, what it found.

RUN/config.json       resolved recipe, fingerprint of the data, batch shape
RUN/checkpoints/      trainers/runs/checkpoint.py
RUN/log.jsonl         trainers/runs/log.py
RUN/results.json      the validation of the last step
RUN/model/            the trained network by itself, trainers/models/export.py
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from molstream.shards.errors import FormatError, OutputError
from molstream.shards.store.documents import Document
from molstream.shards.store.locks import Lock
from molstream.shards.store.writing import leftover_of, remove_leftovers
from molstream.trainers.config import Recipe
from molstream.trainers.errors import RunError
from molstream.trainers.runs.checkpoint import RUN_VERSION, newest_checkpoint

CONFIG = "config.json"
RESULTS = "results.json"
LOCK = ".lock"


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig(Document):
    """config.json: what a run is."""

    KIND: ClassVar[str] = "run"
    VERSION: ClassVar[int] = RUN_VERSION
    REMEDY: ClassVar[str] = "train again in another folder"

    recipe: Recipe
    """Resolved."""
    data: dict[str, str]
    """Fingerprint of the shard set, batch shape."""


def check_fresh(run: Path) -> None:
    """Refuse a folder that holds anything but shards. Raises RunError."""
    if run.exists() and not run.is_dir():
        raise RunError(f"{run}: a file, expected a folder to write to")
    if (run / CONFIG).exists():
        raise RunError(f"{run}: already holds a run; add --resume to go on with it, or choose another folder")
    names = sorted(p.name for p in run.iterdir()) if run.exists() else []
    if other := [name for name in names if name not in ("shards", LOCK) and not leftover_of(name)]:
        raise RunError(f"{run}: holds something else ({', '.join(other[:3])}); choose another folder")


def read_recipe(run: Path) -> Recipe | None:
    """The recipe a run was started with, None if the folder holds no run yet. Raises RunError."""
    return _read_config(run).recipe if (run / CONFIG).exists() else None


def _read_config(run: Path) -> RunConfig:
    """What a run is; where that file is damaged, by its newest checkpoint. Raises RunError."""
    try:
        return RunConfig.read(run / CONFIG)
    except FormatError as error:
        checkpoint, _ = newest_checkpoint(run)
        if checkpoint is None:
            raise RunError(str(error)) from error
        data = {"fingerprint": checkpoint.fingerprint, "budget": checkpoint.budget}
        return RunConfig(recipe=checkpoint.recipe, data=data)


def open_run(run: Path, recipe: Recipe, data: dict[str, str], *, resume: bool) -> Lock:
    """Start a run in a fresh folder, or take up the one that is there. Returns its lock, which lasts until it is closed.

    A run is its recipe, but for the fields in `trainers.config.FREE`, and its data. Raises RunError where it is another, or where
    somebody is at work, StorageError.
    """
    is_fresh = not (run / CONFIG).exists()
    if is_fresh or not resume:
        check_fresh(run)
    if not is_fresh:
        started = _read_config(run)
        differ, there = recipe.differences(started.recipe), started.data
        differ += [f"{name} {there.get(name)} there, {value} here" for name, value in data.items() if there.get(name) != value]
        if differ:
            raise RunError(f"{run}: holds another run: {'; '.join(differ)}")
    try:
        run.mkdir(parents=True, exist_ok=True)
        lock = Lock(run / LOCK, folder=run, work="another process is training in it")
    except OSError as error:
        raise RunError(f"{run}: cannot be written to: {error.strerror or error}") from error
    except OutputError as error:
        raise RunError(str(error)) from error
    try:
        remove_leftovers(run)
        RunConfig(recipe=recipe, data=data).write(run / CONFIG)
    except BaseException:
        if is_fresh:
            lock.remove()
        lock.close()
        raise
    return lock
