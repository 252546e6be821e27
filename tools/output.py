"""What a command prints: it never changes what the command does.

Python ends a command with a traceback where a terminal's character set lacks a character, and where the reader of a pipe has
gone (`molstream ... | head`). Here every character has something to stand for it, and what nobody reads is dropped while the
command goes on. Only a full disk behind standard output is an error, since a result is then lost.
"""

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from molstream.shards.errors import StorageError

_PLAIN = {
    "²": "2",
    "³": "3",
    "█": "#",
    "━": "-",
    "╸": "-",
    "╺": "-",
    "µ": "u",
    "μ": "u",
    "Å": "A",
    "…": "...",
    "±": "+-",
    "°": "deg",
}


class Output:
    """Standard output or error, for as long as a command runs.

    It has no `buffer`: Click would write its own choice of characters there.
    """

    def __init__(self, stream: Any, name: str, *, is_result: bool):
        """`is_result`: whether it matters that a full disk cannot take it."""
        self._stream, self._name, self._is_result = stream, name, is_result
        self.is_read = stream is not None
        """False once the reader of a pipe has gone, or where the caller has closed it: `molstream ... >&-`."""

    @property
    def encoding(self) -> str:
        """The character set, by which rich chooses what it draws with."""
        return getattr(self._stream, "encoding", None) or "utf-8"

    @property
    def errors(self) -> str:
        """What Python does about characters that the set lacks; never comes to it."""
        return getattr(self._stream, "errors", None) or "strict"

    def write(self, text: str) -> int:
        """All of it, or nothing where it is not read."""
        if not isinstance(text, str):
            raise TypeError(f"got {type(text).__name__}, expected text")
        if self.is_read:
            try:
                self._stream.write(text)
            except UnicodeEncodeError:
                self.write("".join(map(self._replace, text)))
            except OSError as error:
                self._lose(error)
        return len(text)

    def writelines(self, lines: Any) -> None:
        """One after another."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Hand on what is buffered."""
        if self.is_read:
            try:
                self._stream.flush()
            except OSError as error:
                self._lose(error)

    def fileno(self) -> int:
        """Of the stream behind it."""
        if self._stream is None:
            raise io.UnsupportedOperation(f"{self._name} is closed")
        return self._stream.fileno()

    def isatty(self) -> bool:
        """Whether there is a terminal."""
        return self._stream is not None and self._stream.isatty()

    def writable(self) -> bool:
        """It is."""
        return True

    def _replace(self, letter: str) -> str:
        for text in (letter, _PLAIN.get(letter, "")):
            with suppress(UnicodeEncodeError):
                if text and text.encode(self.encoding):
                    return text
        return letter.encode("ascii", "backslashreplace").decode()

    def _lose(self, error: OSError) -> None:
        self.is_read = False
        # what is still buffered goes nowhere, or Python complains of it when it ends
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
        if self._is_result and not isinstance(error, BrokenPipeError):
            raise StorageError(f"{self._name}: cannot be written: {error.strerror or error}") from error


@contextmanager
def protected() -> Iterator[None]:
    """Standard output and error as `Output` until the block ends."""
    # a file of ours must not become one of the three that the caller has closed, and that C libraries write warnings to
    while (number := os.open(os.devnull, os.O_RDWR)) < 3:
        pass
    os.close(number)
    before = sys.stdout, sys.stderr
    sys.stdout = Output(before[0], "standard output", is_result=True)  # type: ignore[assignment]
    sys.stderr = Output(before[1], "standard error", is_result=False)  # type: ignore[assignment]
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def is_read() -> bool:
    """Whether standard output still has a reader, for a command that does nothing but print."""
    return getattr(sys.stdout, "is_read", True)
