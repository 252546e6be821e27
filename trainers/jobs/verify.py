"""Re-read what training and its uses have written, and name whatever is damaged: a run, a checkpoint, a model, an export."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from molstream.shards.errors import FormatError, ShardError
from molstream.shards.store.documents import unseal_json
from molstream.shards.store.fields import from_json
from molstream.shards.store.lines import read_json_lines
from molstream.shards.store.reading import Folder, hash_all, read_file
from molstream.trainers.errors import CheckpointError
from molstream.trainers.jobs.parts import JOB, MANIFEST, PARTS, Export, JobNote, PartNote
from molstream.trainers.models.export import MEANING, read_model
from molstream.trainers.models.network import check_weights
from molstream.trainers.runs.checkpoint import (
    BEST,
    CHECKPOINTS,
    HASHES,
    RUN_VERSION,
    VALIDATION,
    Best,
    Validation,
    list_checkpoints,
    read_checkpoint,
)
from molstream.trainers.runs.folder import CONFIG, RESULTS, RunConfig
from molstream.trainers.runs.log import LOG

MODEL = "model"


@dataclass(slots=True)
class Found:
    """What a folder turned out to be."""

    kind: str
    """'run', 'checkpoint', 'model' or 'export'."""
    holds: str = ""
    """What was read, in words."""
    problems: list[str] = field(default_factory=list)

    def check(self, read: Callable[..., object], *arguments: object) -> bool:
        """Call a function that reads, and note what is wrong with its file, if anything is."""
        try:
            read(*arguments)
        except (ShardError, CheckpointError) as error:
            self.problems.append(str(error))
            return False
        return True


def verify_folder(path: Path) -> Found | None:
    """Read all of a folder that training or an export has written; None if it is none of these. Raises nothing of its files."""
    kinds: dict[str, Callable[[Path], Found]] = {
        MANIFEST: _verify_export,
        JOB: _verify_export,
        CONFIG: _verify_run,
        CHECKPOINTS: _verify_run,
        HASHES: _verify_checkpoint,
        MEANING: _verify_model,
    }
    return next((verify(path) for name, verify in kinds.items() if (path / name).exists()), None)


def _verify_run(run: Path) -> Found:
    found = Found("run")
    found.check(RunConfig.read, run / CONFIG)
    checkpoints = list_checkpoints(run)
    for folder in checkpoints:
        found.problems += _verify_checkpoint(folder).problems
    best = run / CHECKPOINTS / BEST
    if best.exists() and found.check(Best.read, best) and not (best.parent / Best.read(best).checkpoint).is_dir():
        found.problems.append(f"{best}: names {Best.read(best).checkpoint}, which is not there")
    for name in (LOG, "nonfinite.jsonl"):
        found.check(_check_lines, run / name)
    if (run / RESULTS).exists():
        found.check(_check_results, run / RESULTS)
    if (run / MODEL).exists():
        found.problems += _verify_model(run / MODEL).problems
    found.holds = f"{len(checkpoints)} checkpoints{', model' if (run / MODEL).exists() else ''}"
    return found


def _check_lines(path: Path) -> None:
    _, damaged = read_json_lines(path)
    if damaged:
        raise FormatError(f"{path}: {damaged} damaged lines, which are left out")


def _check_results(path: Path) -> None:
    try:
        unseal_json(read_file(path), kind="results", version=RUN_VERSION)
    except FormatError as error:
        raise FormatError(f"{path}: {error}; run eval again") from error


def _verify_checkpoint(folder: Path) -> Found:
    found = Found("checkpoint", folder.name)
    found.check(lambda: check_weights(read_checkpoint(folder)))
    if (folder / VALIDATION).exists():
        found.check(Validation.read, folder / VALIDATION)
    return found


def _verify_model(folder: Path) -> Found:
    found = Found("model")
    found.check(lambda: check_weights(read_model(folder)))
    return found


def _verify_export(folder: Path) -> Found:
    found, store = Found("export"), Folder(folder)
    if not (folder / MANIFEST).exists():
        found.problems.append(f"{folder}: not finished ({MANIFEST} is missing); the same command goes on from there")
        return found
    if (folder / JOB).exists():
        found.check(JobNote.read, folder / JOB)
    if not found.check(Export.read, folder / MANIFEST):
        return found
    export = Export.read(folder / MANIFEST)
    found.check(_check_notes, folder / PARTS, export)
    for name, digest in export.parts.items():
        found.check(_check_part, store, name, digest)
    for name in sorted({p.name for p in folder.glob("*.parquet")} - export.parts.keys()):
        found.problems.append(f"{folder / name}: is no part of this export, but is read with it; remove it")
    found.holds = f"{export.rows:,} rows in {len(export.parts)} parts"
    return found


def _check_notes(path: Path, export: Export) -> None:
    _check_lines(path)
    try:
        # a part that was written again has a later line
        notes = [from_json(PartNote, line) for line in read_json_lines(path)[0]]
        said = {f"part-{note.part:05d}.parquet": note.sha256 for note in notes}
    except FormatError as error:
        raise FormatError(f"{path}: damaged ({error}); run the same command again") from error
    if {name: said.get(name) for name in export.parts} != export.parts:
        raise FormatError(f"{path}: does not say what {MANIFEST} does; run the same command again")


def _check_part(store: Folder, name: str, digest: str) -> None:
    with store.open(name) as file:
        if hash_all(file) != digest:
            raise FormatError(f"{file.where}: damaged (SHA-256 differs from {MANIFEST}); run the same command again")
