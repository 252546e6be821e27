"""The folder of a run: what it was started with, who works in it, what it found.

RUN/config.json       resolved recipe, fingerprint of the data, batch shape
RUN/checkpoints/      trainers/runs/checkpoint.py
RUN/log.jsonl         trainers/runs/log.py
RUN/results.json      the validation of the last step
RUN/model/            the trained network by itself, trainers/models/export.py
"""

import fcntl
import json
from pathlib import Path
from typing import TextIO

from molstream.trainers.config import Recipe
from molstream.trainers.errors import RunError
from molstream.trainers.runs.files import replace_json

CONFIG = "config.json"
RESULTS = "results.json"
LOCK = ".lock"


def check_fresh(run: Path) -> None:
    """Refuse a folder that holds anything but shards. Raises RunError."""
    if run.exists() and not run.is_dir():
        raise RunError(f"{run}: a file, expected a folder to write to")
    if (run / CONFIG).exists():
        raise RunError(f"{run}: already holds a run; add --resume to go on with it, or choose another folder")
    ours = ("shards", LOCK, f".{CONFIG}.part")
    other = sorted(p.name for p in run.iterdir() if p.name not in ours) if run.exists() else []
    if other:
        raise RunError(f"{run}: holds something else ({', '.join(other[:3])}); choose another folder")


def read_recipe(run: Path) -> Recipe | None:
    """The recipe a run was started with, None if the folder holds no run yet. Raises RunError."""
    if not (run / CONFIG).exists():
        return None
    try:
        return Recipe.from_json(_read_config(run)["recipe"])
    except TypeError as error:
        raise RunError(f"{run / CONFIG}: of another version of molstream: {error}") from error


def _read_config(run: Path) -> dict:
    try:
        config = json.loads((run / CONFIG).read_text())
        return {"recipe": dict(config["recipe"]), "data": dict(config["data"])}
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, ValueError) as error:
        raise RunError(f"{run / CONFIG}: damaged: {error}; choose another folder") from error


def open_run(run: Path, recipe: Recipe, data: dict, *, resume: bool) -> TextIO:
    """Start a run in a fresh folder, or take up the one that is there. Returns its lock, which lasts while it is open.

    A run is its recipe, but for the fields in `trainers.config.FREE`, and its data. Raises RunError where it is another, or where
    somebody is at work.
    """
    is_fresh = not (run / CONFIG).exists()
    if is_fresh or not resume:
        check_fresh(run)
    if not is_fresh:
        started = read_recipe(run)
        assert started is not None
        there = _read_config(run)["data"]
        differ = recipe.differences(started)
        differ += [f"{name} {there.get(name)} there, {value} here" for name, value in data.items() if there.get(name) != value]
        if differ:
            raise RunError(f"{run}: holds another run: {'; '.join(differ)}")
    try:
        run.mkdir(parents=True, exist_ok=True)
        lock = (run / LOCK).open("w")
    except OSError as error:
        raise RunError(f"{run}: cannot be written to: {error.strerror or error}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        replace_json(run / CONFIG, {"recipe": recipe.to_json(), "data": data})
    except BlockingIOError as error:
        lock.close()
        raise RunError(f"{run}: another process is training in it; wait for it, or choose another folder") from error
    except OSError as error:
        lock.close()
        raise RunError(f"{run}: cannot be written to: {error.strerror or error}") from error
    return lock
