"""Locks of folders: one build, run or export at a time. The system lets go of a lock when its process ends, however it does."""

import fcntl
import os
import socket
from pathlib import Path
from typing import Any

from molstream.shards.errors import OutputError


class Lock:
    """Holds a lock file from its making until `close`; a child process does not inherit it."""

    def __init__(self, path: Path, *, folder: Path, work: str):
        """`work` says who else may hold it: 'another build is writing to it'. Raises OutputError where somebody does."""
        self._path = path
        self._file: Any = None
        try:
            while self._file is None:
                self._file = self._open(path)
        except BlockingIOError as error:
            raise OutputError(f"{folder}: {work}{_holder(path)}; wait for it, or choose another folder") from error
        except OSError as error:
            raise OutputError(f"{folder}: cannot be written to: {error.strerror or error}") from error

    @staticmethod
    def _open(path: Path) -> Any:
        """The locked file; None where its last holder has removed it in the meantime."""
        file = path.open("a+b", buffering=0)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not (path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat())):
                file.close()
                return None
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
        except BaseException:
            file.close()
            raise
        return file

    def close(self) -> None:
        """Let go of it."""
        if self._file is not None:
            self._file.close()

    def remove(self) -> None:
        """Let go of it and leave no file. Who waits for it makes another."""
        self._path.unlink(missing_ok=True)
        self.close()

    def __enter__(self) -> "Lock":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _holder(path: Path) -> str:
    """' (process 17 on node3)', where it can be read."""
    try:
        text = path.read_bytes()[:200].decode("ascii", "replace").strip()
    except OSError:
        text = ""
    return f" ({text})" if text else ""
