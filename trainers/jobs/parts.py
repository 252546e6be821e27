"""A folder of Parquet parts that a job writes, and a manifest written last. Restartable part by part.

OUT/_job.json             what decides the content; who finds another job's refuses
OUT/_parts.jsonl          size and hash of each part, and of the job, noted when it was written
OUT/part-00000.parquet    ...
OUT/_embeddings.json      the manifest: rows, and the hash of each part

A part counts as done if it is what was noted; whatever else is there is written again, never signed. Names that start with an
underscore or a dot are skipped by everything that reads a folder of Parquet files as one table.
"""

import hashlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa

from molstream.shards.errors import FormatError, OutputError
from molstream.shards.store.documents import Document, encode_line
from molstream.shards.store.fields import Count, from_json, to_json
from molstream.shards.store.lines import LineWriter, read_json_lines
from molstream.shards.store.locks import Lock
from molstream.shards.store.reading import hash_file
from molstream.shards.store.tables import read_parquet, write_parquet
from molstream.shards.store.writing import leftover_of, remove_leftovers, write_bytes
from molstream.trainers.errors import RunError

MANIFEST = "_embeddings.json"
JOB = "_job.json"
PARTS = "_parts.jsonl"
LOCK = ".lock"
EXPORT_VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class JobNote(Document):
    """_job.json."""

    KIND: ClassVar[str] = "export job"
    VERSION: ClassVar[int] = EXPORT_VERSION
    REMEDY: ClassVar[str] = "choose another folder"

    job: dict


@dataclass(frozen=True, kw_only=True, slots=True)
class Export(Document):
    """_embeddings.json."""

    KIND: ClassVar[str] = "export"
    VERSION: ClassVar[int] = EXPORT_VERSION
    REMEDY: ClassVar[str] = "run the same command again"

    rows: Count
    dim: Count
    """Length of an embedding."""
    overflows: Count
    """Rows with a number too large for half precision, which is infinite in the file."""
    parts: dict[str, str]
    """SHA-256 of each, by name."""
    job: dict


@dataclass(frozen=True, kw_only=True, slots=True)
class PartNote:
    """A line of _parts.jsonl."""

    part: Count
    rows: Count
    size: Count
    sha256: str
    overflows: Count
    """Rows with a number too large for half precision."""
    job: str
    """SHA-256 of the job, so that a damaged _job.json can be made again."""


class PartFolder:
    """The folder of one job, held from entry to the end of a `with` block."""

    def __init__(self, path: Path, *, job: dict[str, Any]):
        """`job` decides the content of every part. On entry RunError is raised for a folder that holds anything else, or that
        another process is at work in."""
        self.path, self.job = path, to_json(job)
        self._job_sha256 = hashlib.sha256(encode_line(self.job)).hexdigest()
        self._notes: dict[int, PartNote] = {}
        self._checked: set[int] = set()

    def __enter__(self) -> "PartFolder":
        # a folder that is another's stays as it is
        self._check()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = Lock(self.path / LOCK, folder=self.path, work="another process is writing to it")
        except OSError as error:
            raise RunError(f"{self.path}: cannot be written to: {error.strerror or error}") from error
        except OutputError as error:
            raise RunError(str(error)) from error
        try:
            # once more, for what came between
            self._check()
            remove_leftovers(self.path)
            JobNote(job=self.job).write(self.path / JOB)
            notes, is_whole = self._read_notes()
            self._notes = {note.part: note for note in notes}
            if not is_whole:
                write_bytes(self.path / PARTS, b"".join(encode_line(to_json(note)) for note in notes))
            self._lines = LineWriter(self.path / PARTS)
        except BaseException:
            self._lock.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        try:
            self._lines.close()
        finally:
            self._lock.remove()

    def _check(self) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise RunError(f"{self.path}: a file, expected a folder to write to")
        names = [p.name for p in self.path.iterdir()] if self.path.exists() else []
        if not [name for name in names if name != LOCK and not leftover_of(name)]:
            return
        if JOB not in names and MANIFEST not in names:
            raise RunError(f"{self.path}: holds something else; choose another folder")
        if self._read_job() != self.job:
            raise RunError(f"{self.path}: holds embeddings of other molecules or weights; choose another folder")

    def _read_job(self) -> dict:
        """The job that is here; where its note is damaged, by the manifest. Raises RunError."""
        try:
            return JobNote.read(self.path / JOB).job
        except FormatError as error:
            try:
                return Export.read(self.path / MANIFEST).job
            except FormatError:
                # parts of this job and of no other
                if self._read_notes()[0]:
                    return self.job
                raise RunError(str(error)) from error

    def _read_notes(self) -> tuple[list[PartNote], bool]:
        """What is noted of parts of this job, and whether that is all there is. A part without a note is written again."""
        lines, damaged = read_json_lines(self.path / PARTS)
        notes = []
        for line in lines:
            with suppress(FormatError):
                notes.append(from_json(PartNote, line))
        own = [note for note in notes if note.job == self._job_sha256]
        return own, not damaged and len(own) == len(lines)

    def part(self, number: int) -> Path:
        """File of a part."""
        return self.path / f"part-{number:05d}.parquet"

    def holds(self, number: int, rows: int) -> bool:
        """Whether a part of so many rows is there as it was written."""
        note = self._notes.get(number)
        if note is None or note.rows != rows:
            return False
        if number not in self._checked:
            try:
                if hash_file(self.part(number)) != note.sha256:
                    return False
            except FormatError:
                return False
            self._checked.add(number)
        return True

    def null_count(self, number: int, column: str) -> int:
        """Nulls in a column of a part."""
        return read_parquet(self.part(number), [column])[column].null_count

    def write(self, number: int, columns: dict[str, pa.Array], *, overflows: int) -> None:
        """Write a part, whole or not at all, and note what it is, and in how many rows a number became infinite. Raises
        StorageError."""
        table = pa.table(columns)
        written = write_parquet(self.part(number), table.schema, [table])
        note = PartNote(
            part=number,
            rows=len(table),
            size=written.size,
            sha256=written.sha256,
            overflows=overflows,
            job=self._job_sha256,
        )
        self._lines.add(to_json(note))
        self._notes[number] = note
        self._checked.add(number)

    def commit(self, num_parts: int, rows: int, dim: int) -> None:
        """Write the manifest: the export is complete. Raises StorageError."""
        assert self._checked >= {*range(num_parts)}, "every part was written or held"
        parts = {self.part(k).name: self._notes[k].sha256 for k in range(num_parts)}
        export = Export(rows=rows, dim=dim, overflows=self.overflows(num_parts), parts=parts, job=self.job)
        export.write(self.path / MANIFEST)

    def overflows(self, num_parts: int) -> int:
        """Rows of the first parts with a number too large for half precision."""
        return sum(self._notes[k].overflows for k in range(num_parts))
