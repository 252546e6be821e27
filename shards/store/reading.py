"""Reading: a file is opened once, held against its size, and read by ranges.

A store is a flat folder of files with plain names, wherever it lies; `Folder` is the one on this machine. Whoever reads through
`Store` and `StoredFile` alone can read from another place later. Price: a file has to say its size before it is read, so there
are no pipes here; tables that come as streams are read by `shards.inputs`.
"""

import hashlib
import io
import mmap
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from molstream.shards.errors import FormatError, MissingError, StorageError

CHUNK_BYTES = 1 << 20
Stamp = tuple[int, ...]
"""Tells a file from one that was written later under its name."""


class StoredFile(Protocol):
    """An open file: every read is a range of it. Safe to share between threads; used in a `with` block."""

    @property
    def where(self) -> str:
        """What messages call it."""

    def size(self) -> int:
        """Bytes, when it was opened."""

    def stamp(self) -> Stamp:
        """Changes when the file is written anew."""

    def read(self, offset: int, size: int) -> bytes:
        """Exactly these bytes. Raises FormatError for a range that is not in the file, StorageError where reading fails."""

    def close(self) -> None:
        """Let go of it."""

    def __enter__(self) -> "StoredFile": ...
    def __exit__(self, *error: object) -> None: ...


class Store(Protocol):
    """Files by name."""

    @property
    def where(self) -> str:
        """What messages call it."""

    def open(self, name: str) -> StoredFile:
        """Raises MissingError where there is no such file, FormatError for what is none, StorageError where opening fails."""

    def exists(self, name: str) -> bool:
        """Whether there is anything of this name."""

    def list(self) -> list[str]:
        """All names, in order."""

    def locate(self, name: str) -> str:
        """What messages call a file of it."""


class LocalFile:
    """A regular file of this machine, links followed."""

    def __init__(self, path: Path):
        """Raises MissingError, FormatError for a folder, a pipe or a device, StorageError where opening fails."""
        self.where = str(path)
        try:
            # without waiting for whoever may one day write into a pipe
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
        except FileNotFoundError as error:
            raise MissingError(f"{path}: missing: no such file; restore it") from error
        except OSError as error:
            raise StorageError(f"{path}: cannot be read: {error.strerror or error}") from error
        except ValueError as error:
            raise FormatError(f"{path}: no name of a file: {error}") from error
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            os.close(descriptor)
            raise FormatError(f"{path}: {_kind_of(status.st_mode)}, expected a regular file")
        # as files of Python do, where it was not closed otherwise
        self._file = io.FileIO(descriptor)
        self._descriptor, self._size, self._stamp = descriptor, status.st_size, (status.st_size, status.st_mtime_ns)

    def size(self) -> int:
        """Bytes, when it was opened."""
        return self._size

    def stamp(self) -> Stamp:
        """Size and time of change. Without the inode, which some network file systems make up."""
        return self._stamp

    def read(self, offset: int, size: int) -> bytes:
        """Exactly these bytes. Raises FormatError for a range that is not in the file, StorageError where reading fails."""
        check_range(self, offset, size)
        try:
            data = os.pread(self._descriptor, size, offset)
            while len(data) < size:
                # the system may give less than asked for, 2 GiB at most at once
                part = os.pread(self._descriptor, size - len(data), offset + len(data))
                if not part:
                    raise FormatError(f"{self.where}: ends at byte {offset + len(data):,}, had {self._size:,} when it was opened")
                data += part
        except MemoryError as error:
            raise StorageError(f"{self.where}: not enough memory for {size:,} bytes") from error
        except OSError as error:
            raise StorageError(f"{self.where}: cannot be read: {error.strerror or error}") from error
        return data

    def close(self) -> None:
        """Let go of it."""
        self._file.close()

    def __enter__(self) -> "LocalFile":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class MemoryFile:
    """The same of bytes in memory."""

    def __init__(self, data: bytes, where: str):
        self.data, self.where = data, where

    def size(self) -> int:
        """Bytes."""
        return len(self.data)

    def stamp(self) -> Stamp:
        """Always the same."""
        return ()

    def read(self, offset: int, size: int) -> bytes:
        """Exactly these bytes. Raises FormatError for a range that is not in the file."""
        check_range(self, offset, size)
        return self.data[offset : offset + size]

    def close(self) -> None:
        """Nothing to let go of."""

    def __enter__(self) -> "MemoryFile":
        return self

    def __exit__(self, *error: object) -> None: ...


class Folder:
    """A store that is a folder of this machine."""

    def __init__(self, path: Path):
        self.path, self.where = path, str(path)

    def open(self, name: str) -> LocalFile:
        """Raises MissingError where there is no such file, FormatError for what is none, StorageError where opening fails."""
        return LocalFile(self.path / _plain(name, self.where))

    def exists(self, name: str) -> bool:
        """Whether there is anything of this name."""
        return os.path.lexists(self.path / _plain(name, self.where))

    def list(self) -> list[str]:
        """All names, in order; none of a folder that is not there."""
        try:
            return sorted(os.listdir(self.path))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StorageError(f"{self.path}: cannot be read: {error.strerror or error}") from error

    def locate(self, name: str) -> str:
        """What messages call a file of it."""
        return str(self.path / name)


def check_range(file: StoredFile, offset: int, size: int) -> None:
    """Hold a claim against the file's size, before memory is asked for. Raises FormatError."""
    if offset < 0 or size < 0 or offset + size > file.size():
        raise FormatError(
            f"{file.where}: {size:,} bytes from byte {offset:,} on in a file of {file.size():,}: cut short or damaged; restore it"
        )


def read_all(file: StoredFile) -> bytes:
    """The whole file."""
    return file.read(0, file.size())


def iter_chunks(file: StoredFile) -> Iterator[bytes]:
    """The file from its start to its end, a piece at a time."""
    size = file.size()
    for at in range(0, size, CHUNK_BYTES):
        yield file.read(at, min(CHUNK_BYTES, size - at))


def hash_all(file: StoredFile) -> str:
    """SHA-256 of the file, in hexadecimal digits."""
    digest = hashlib.sha256()
    for chunk in iter_chunks(file):
        digest.update(chunk)
    return digest.hexdigest()


def open_file(path: Path) -> LocalFile:
    """One file of this machine. Raises as `LocalFile` does."""
    return LocalFile(path)


def read_file(path: Path) -> bytes:
    """All of one file of this machine."""
    with LocalFile(path) as file:
        return read_all(file)


def hash_file(path: Path) -> str:
    """SHA-256 of one file of this machine, in hexadecimal digits."""
    with LocalFile(path) as file:
        return hash_all(file)


def map_file(path: Path) -> np.ndarray:
    """All of one file of this machine, uint8 (bytes), mapped into memory: pages are read when they are looked at."""
    with LocalFile(path) as file:
        if not file.size():
            return np.empty(0, np.uint8)
        return np.frombuffer(mmap.mmap(file._descriptor, file.size(), access=mmap.ACCESS_READ), np.uint8)


class Stream(io.RawIOBase):
    """A stored file as Python's own kind, for libraries that want one. Closing it leaves the stored file open."""

    def __init__(self, file: StoredFile):
        self._file, self._at = file, 0

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """Where the next read begins."""
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go somewhere, beyond the end too."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._file.size()}[whence]
        self._at = max(0, start + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        """As many bytes as there are, at most what the buffer takes."""
        view = memoryview(buffer).cast("B")
        size = min(len(view), max(0, self._file.size() - self._at))
        if size:
            view[:size] = self._file.read(self._at, size)
            self._at += size
        return size


def _plain(name: str, where: str) -> str:
    """A name out of an index or a manifest may not lead elsewhere."""
    if not name or name in (".", "..") or "/" in name or "\0" in name:
        raise FormatError(f"{where}: {name!r} is no name of a file of it")
    return name


def _kind_of(mode: int) -> str:
    kinds = {stat.S_ISDIR: "a folder", stat.S_ISFIFO: "a pipe", stat.S_ISSOCK: "a socket"}
    return next((name for test, name in kinds.items() if test(mode)), "a device")
