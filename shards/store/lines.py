"""Logs: a JSON object a line, appended to while people and their tools read along; read to the last whole line."""

import os
from pathlib import Path

from molstream.shards.errors import FormatError, MissingError, StorageError
from molstream.shards.store.documents import encode_line, parse_json
from molstream.shards.store.reading import read_file


class Appender:
    """Appends to a file that others may be reading. Raises StorageError, naming it."""

    def __init__(self, path: Path):
        """Take up a file, or begin one, and its folder."""
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("ab", buffering=0)
        except OSError as error:
            raise self._failed(error) from error

    def write(self, data: bytes) -> None:
        """All of it, handed to the system at once."""
        try:
            while data:
                data = data[self._file.write(data) :]
        except OSError as error:
            raise self._failed(error) from error

    def close(self) -> None:
        """Wait until the disk has all, and close."""
        if self._file.closed:
            return
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise self._failed(error) from error
        finally:
            self._file.close()

    def _failed(self, error: OSError) -> StorageError:
        return StorageError(f"{self.path}: cannot be written: {error.strerror or error}; run again to go on from here")


class LineWriter(Appender):
    """Appends whole lines to a log. One writer at a time: under the lock of the folder. Raises StorageError."""

    def __init__(self, path: Path):
        """Take up a log, or begin one. What a killed writer left of a line is cut off."""
        super().__init__(path)
        try:
            whole = _whole(read_file(path))
            if self._file.seek(0, os.SEEK_END) != len(whole):
                self._file.truncate(len(whole))
        except OSError as error:
            raise self._failed(error) from error

    def add(self, fields: dict) -> None:
        """One line."""
        self.write(encode_line(fields))

    def __enter__(self) -> "LineWriter":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def read_json_lines(path: Path) -> tuple[list[dict], int]:
    """Objects of a log up to its last whole line, and how many lines before that are damaged; ([], 0) where there is no log.

    Raises FormatError for what is no file, StorageError where reading fails.
    """
    try:
        data = read_file(path)
    except MissingError:
        return [], 0
    lines, damaged = [], 0
    for text in _whole(data).splitlines():
        try:
            line = parse_json(text)
        except FormatError:
            line = None
        if isinstance(line, dict):
            lines.append(line)
        else:
            damaged += 1
    return lines, damaged


def _whole(data: bytes) -> bytes:
    return data[: data.rfind(b"\n") + 1]
