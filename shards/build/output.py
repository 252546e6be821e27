"""The output folder of a build: it is claimed, cleaned of files that this plan cannot use, and committed by its manifest."""

import re
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from molstream.shards.build.job import BuildJob
from molstream.shards.build.options import BuildOptions
from molstream.shards.build.plan import SPILL_VERSION, BuildPlan
from molstream.shards.errors import FormatError, OutputError, SchemaError, ShardError
from molstream.shards.format.manifest import BUILDING, INDEX, MANIFEST, MAPPING, REJECTS, Manifest
from molstream.shards.store.documents import Document
from molstream.shards.store.fields import Count, to_json
from molstream.shards.store.locks import Lock
from molstream.shards.store.writing import leftover_of

_OURS = re.compile(r"[\w.-]+-\d{5,}\.tar|" + "|".join(map(re.escape, (INDEX, REJECTS, MAPPING, MANIFEST))))
PLAN = "plan.json"
LOCK = "lock"


@dataclass(frozen=True, kw_only=True, slots=True)
class InputNote:
    """One input file: what identifies its content."""

    name: str
    rows: Count
    bytes: Count
    sha256: str
    table: Count


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanNote(Document):
    """What the finished pieces of an unfinished build are pieces of, so that what differs can be named."""

    KIND: ClassVar[str] = "plan of a build"
    VERSION: ClassVar[int] = SPILL_VERSION
    REMEDY: ClassVar[str] = "remove the folder to start over"

    spills: tuple[int, str]
    inputs: tuple[InputNote, ...]
    options: dict
    splits: dict
    versions: dict[str, str]

    @classmethod
    def of(cls, plan: BuildPlan) -> "PlanNote":
        """The note of a plan."""
        said = plan.describe_map()
        return cls(
            spills=tuple(said["spills"]),
            inputs=tuple(InputNote(**file) for file in said["inputs"]),
            options=to_json(said["options"]),
            splits=to_json(said["splits"]),
            versions=said["versions"],
        )


class Output:
    """Holds the folder's lock from entry to exit. Finished work outlives a failure; a folder without any is removed again."""

    def __init__(self, path: Path):
        self.path, self.work = path, path / BUILDING
        self.keep = True

    def committed(self, options: BuildOptions) -> Manifest | None:
        """The manifest, if a build with these options has finished here. Raises OutputError for any other set."""
        if not (self.path / MANIFEST).exists():
            return None
        try:
            manifest = Manifest.read(self.path / MANIFEST)
        except ShardError as error:
            raise OutputError(f"{self.path}: already holds a shard set, and a damaged one; remove it first ({error})") from error
        if differ := _differences(manifest.provenance["options"], to_json(options)):
            raise OutputError(
                f"{self.path}: already holds a shard set, built with {differ}; choose another folder or remove it first"
            )
        return manifest

    def check_same(self, before: dict, now: dict) -> None:
        """Compare the provenance of a finished build with another's. Raises OutputError if they differ."""
        names = {kind: _differences(before.get(kind, {}), now[kind]) for kind in ("options", "splits", "versions")}
        if before["inputs"] != now["inputs"]:
            names["inputs"] = "other input"
        if differ := " and ".join(text for text in names.values() if text):
            raise OutputError(
                f"{self.path}: already holds a shard set, built with {differ}; choose another folder or remove it first"
            )
        # left by a build that was killed after its commit
        shutil.rmtree(self.work, ignore_errors=True)

    def __enter__(self) -> "Output":
        # innermost first; folders that are made here are removed again if the build leaves nothing in them
        self.made = [p for p in (self.path, *self.path.parents) if not p.exists()]
        if self.path.exists() and not self.path.is_dir():
            raise OutputError(f"{self.path}: a file, expected a folder to write to")
        if not self.made and any(self.path.iterdir()) and not self.work.exists():
            raise OutputError(f"{self.path}: not empty and not a shard set; choose another folder")
        try:
            self.work.mkdir(parents=True, exist_ok=True)
            self.lock = Lock(self.work / LOCK, folder=self.path, work="another build is writing to it")
        except OSError as error:
            self._unmake()
            raise OutputError(f"{self.path}: cannot be written to: {error.strerror or error}") from error
        except OutputError:
            self._unmake()
            raise
        return self

    def claim(self, job: BuildJob) -> None:
        """Continue where an earlier build of the same plan stopped, or start.

        Raises OutputError if the folder holds finished work of other options, SchemaError if it holds work of other input.
        """
        path = self.work / PLAN
        mine = (f"{job.plan.map_id}-", f"{job.plan.reduce_id}-")
        if path.exists() and self._has_work():
            try:
                self._compare(PlanNote.read(path), job.plan)
            except FormatError as error:
                # pieces of this plan are known by their names; what others are of is lost
                if not all(piece.name.startswith(mine) for piece in self.work.glob("*.spill")):
                    raise OutputError(f"{self.path}: holds an unfinished build of another plan ({error})") from error
        for found in self.work.iterdir():
            if found.name not in (LOCK, PLAN) and not found.name.startswith(mine):
                found.unlink()
        keep = {p.name.split("-", 1)[1].removesuffix(".facts") for p in self.work.glob(f"{job.plan.reduce_id}-*.facts")}
        for found in self.path.iterdir():
            if _is_ours(found.name) and found.name.removesuffix(".tar") not in keep:
                found.unlink()
        PlanNote.of(job.plan).write(path)

    def _compare(self, note: PlanNote, plan: BuildPlan) -> None:
        before, now = to_json(note), to_json(PlanNote.of(plan))
        rest = f"remove {self.path} to start over"
        other = f"{self.path}: holds an unfinished build of another version of molstream; go on with that, or {rest}"
        if before["spills"][0] != now["spills"][0]:
            raise OutputError(other)
        for kind in ("options", "versions"):
            if differ := _differences(before[kind], now[kind]):
                raise OutputError(f"{self.path}: holds an unfinished build with {differ}; run it with that to go on, or {rest}")
        if len(before["inputs"]) != len(now["inputs"]):
            raise OutputError(
                f"{self.path}: holds an unfinished build of {len(before['inputs'])} files, now {len(now['inputs'])}; "
                f"name the same files in the same order to go on, or {rest}"
            )
        for was, file, source in zip(before["inputs"], now["inputs"], plan.files, strict=True):
            if was["name"] != file["name"]:
                raise OutputError(
                    f"{self.path}: holds an unfinished build of {was['name']} where {file['name']} is now; "
                    f"name the same files in the same order to go on, or {rest}"
                )
            if was != file:
                raise SchemaError(
                    f"{source.url}: has changed since the build in {self.path} began ({was['rows']:,} rows, SHA-256 "
                    f"{was['sha256'][:12]}; now {file['rows']:,}, {file['sha256'][:12]}); restore it to go on, or {rest}"
                )
        if differ := _differences(before["splits"], now["splits"]):
            raise OutputError(f"{self.path}: holds an unfinished build with other splits ({differ}); go on with these, or {rest}")
        if before["spills"] != now["spills"]:
            raise OutputError(other)

    def _has_work(self) -> bool:
        return any(self.work.glob("*.spill"))

    def commit(self, manifest: Manifest) -> None:
        """Make the folder a shard set."""
        manifest.write(self.path / MANIFEST)
        self.close()

    def close(self) -> None:
        """Remove the files that only building needs."""
        shutil.rmtree(self.work, ignore_errors=True)

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        if not (self.path / MANIFEST).exists() and not (self.keep and self._has_work()):
            for path in self.path.iterdir():
                if _is_ours(path.name):
                    path.unlink()
            shutil.rmtree(self.work, ignore_errors=True)
        self.lock.close()
        self._unmake()

    def _unmake(self) -> None:
        for path in self.made:
            with suppress(OSError):
                path.rmdir()


def _is_ours(name: str) -> bool:
    """Whether a file of the folder is one that builds write, or what a killed one left of it."""
    return bool(_OURS.fullmatch(leftover_of(name) or name))


def _differences(before: dict, now: dict) -> str:
    """The fields that differ, as 'seed 0 (now 1)'."""
    before, now = _flatten(before), _flatten(now)
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    return ", ".join(f"{name} {before.get(name)} (now {now.get(name)})" for name in names)


def _flatten(values: dict, prefix: str = "") -> dict:
    """{'tables': [{'dataset': 'pm6'}]} -> {'tables.0.dataset': 'pm6'}."""
    out: dict = {}
    for name, value in values.items():
        inner = dict(enumerate(value)) if isinstance(value, (list, tuple)) else value
        nested = isinstance(inner, dict) and any(isinstance(v, dict) for v in inner.values())
        out |= (
            _flatten(inner, f"{prefix}{name}.") if nested or (prefix and isinstance(value, dict)) else {prefix + str(name): value}
        )
    return out
