"""Writing: a file or folder is there whole or not at all, after a crash too, and its hash is known when it is written.

It is written beside, under a name of its own, `.{name}.{12 digits}.part`; then it is synced, renamed, and the folder synced. Two
writers of one name do not meet: the last one wins. What a killed writer leaves is known by its name, and removed by whoever holds
the folder's lock (`remove_leftovers`), or by the next writer of the same file, which finds it unlocked.
"""

import fcntl
import hashlib
import io
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from molstream.shards.errors import StorageError

_LEFTOVER = re.compile(r"\.(.+)\.[0-9a-f]{12}\.part")


@dataclass(frozen=True, slots=True)
class Written:
    """What a file turned out to be."""

    size: int
    """Bytes."""
    sha256: str
    """In hexadecimal digits."""


class Sink(io.RawIOBase):
    """A file that is being written; knows its hash. Raises StorageError, naming the file it is to become."""

    def __init__(self, file: Any, path: Path):
        self._file, self._path = file, path
        self._digest, self._size = hashlib.sha256(), 0

    def writable(self) -> bool:
        """It is."""
        return True

    def write(self, data: Any) -> int:
        """All of it."""
        size = memoryview(data).nbytes
        with _reported(self._path):
            self._file.write(data)
        self._digest.update(data)
        self._size += size
        return size

    def tell(self) -> int:
        """Bytes so far."""
        return self._size

    @property
    def written(self) -> Written:
        """What has been written so far; after `write_beside`, the file."""
        return Written(self._size, self._digest.hexdigest())


@contextmanager
def write_beside(path: Path, *, scratch: Path | None = None) -> Iterator[Sink]:
    """A file that takes the name `path` when the block ends, on disk by then; if the block fails there is nothing.

    Until then it lies in `scratch`, a folder of the same file system, or beside: a process that is killed leaves it there. Raises
    StorageError.
    """
    if scratch is None:
        _remove_dead(path)
    with _reported(path):
        file, beside = _open_locked(scratch or path.parent, path.name)
    try:
        sink = Sink(file, path)
        yield sink
        with _reported(path):
            file.flush()
            os.fsync(file.fileno())
            beside.replace(path)
            sync_folder(path.parent)
    except BaseException:
        with suppress(OSError):
            beside.unlink()
        raise
    finally:
        # not before it has its name; where the block failed, what is still buffered may not fit on the disk either
        with suppress(OSError):
            file.close()


def write_bytes(path: Path, data: bytes) -> Written:
    """A whole file. Raises StorageError."""
    with write_beside(path) as sink:
        sink.write(data)
    return sink.written


class FolderSink:
    """A folder that is being written."""

    def __init__(self, beside: Path, path: Path):
        self._beside, self._path = beside, path

    def write(self, name: str, data: bytes) -> Written:
        """One file of it, on disk when this returns. Raises StorageError."""
        with _reported(self._path / name), (self._beside / name).open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        return Written(len(data), hashlib.sha256(data).hexdigest())


@contextmanager
def write_folder(path: Path) -> Iterator[FolderSink]:
    """A folder that takes the name `path` when the block ends, in place of one that is there; if the block fails it is as it was.

    Raises StorageError.
    """
    beside, before = (path.with_name(_name_beside(path.name)) for _ in range(2))
    try:
        with _reported(path):
            beside.mkdir(parents=True)
        yield FolderSink(beside, path)
        with _reported(path):
            sync_folder(beside)
            if path.exists():
                path.rename(before)
            beside.rename(path)
            sync_folder(path.parent)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        if before.exists() and not path.exists():
            before.rename(path)
        raise
    shutil.rmtree(before, ignore_errors=True)


def leftover_of(name: str) -> str | None:
    """The name that a killed writer was to give to this; None for what is no leftover."""
    found = _LEFTOVER.fullmatch(name)
    return found and found[1]


def remove_leftovers(folder: Path) -> None:
    """Remove what killed writers left in a folder. For who holds its lock: another writer may be at work otherwise."""
    for found in folder.iterdir() if folder.is_dir() else ():
        if leftover_of(found.name):
            if found.is_dir():
                shutil.rmtree(found, ignore_errors=True)
            else:
                found.unlink(missing_ok=True)


def sync_folder(path: Path) -> None:
    """Make the names in a folder outlast a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_scratch(size: int) -> IO[bytes]:
    """A file of `size` zeros without a name, for memory that is shared with a child; gone when it is closed."""
    file = tempfile.TemporaryFile()  # noqa: SIM115  # the caller's
    file.truncate(size)
    return file


def _open_locked(folder: Path, name: str) -> tuple[Any, Path]:
    """A new file beside, locked for as long as it is open: whoever finds it unlocked knows that its writer is dead."""
    while True:
        beside = folder / _name_beside(name)
        file = beside.open("xb")
        # who has found it in this moment removes it, and lets go; where there are no locks, nothing is removed
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        if beside.exists():
            return file, beside
        file.close()


def _remove_dead(path: Path) -> None:
    """Remove what killed writers of this name left beside it. Those that are alive hold a lock."""
    with suppress(OSError), os.scandir(path.parent) as found:
        # a name that is longer than what is kept of it may be another's
        names = [entry.name for entry in found if leftover_of(entry.name) == path.name and entry.is_file(follow_symlinks=False)]
        for name in names:
            with suppress(OSError), open(path.parent / name, "rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                (path.parent / name).unlink()


def _name_beside(name: str) -> str:
    # a name may have 255 bytes, a letter four
    return f".{name[:50]}.{uuid.uuid4().hex[:12]}.part"


@contextmanager
def _reported(path: Path) -> Iterator[None]:
    """Name the file in what the system says."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error.strerror or error}; run again to go on from here") from error
