"""Documents: files of JSON, one reader and one writer. What we write carries a checksum of its own content.

    {
     "format": "molstream cursor",
     "format_version": 4,
     ... the fields ...,
     "seal": "5b3c..."                  SHA-256 of all bytes before this line's comma
    }

A document is a dataclass that inherits `Document`; its types are what a file is held against. Whatever is wrong with a file is
one error that names it and says what to do. Sealed JSON stays plain JSON for other tools; editing it breaks the seal.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from molstream.shards.errors import ChecksumError, FormatError, ShardError
from molstream.shards.store.fields import from_json, to_json
from molstream.shards.store.reading import StoredFile, open_file, read_all
from molstream.shards.store.writing import Written, write_bytes

MAX_BYTES = 1 << 28
"""Of a document: read as a whole, and Python's objects take many times that."""
_HEAD = ("format", "format_version", "seal")
D = TypeVar("D", bound="Document")


class Document:
    """A dataclass of JSON types that is a file of its own."""

    __slots__ = ()
    KIND: ClassVar[str]
    """What the file is: 'cursor'."""
    VERSION: ClassVar[int]
    """Files of others are refused."""
    REMEDY: ClassVar[str]
    """What to do about a damaged or older one: 'build the set again'."""

    def encode(self) -> bytes:
        """The file. The same content gives the same bytes."""
        return seal_json(to_json(self), kind=self.KIND, version=self.VERSION)

    @classmethod
    def parse(cls: type[D], data: bytes, *, where: str) -> D:
        """Inverse of `encode`; `where` is the file's name. Raises FormatError."""
        try:
            return from_json(cls, unseal_json(data, kind=cls.KIND, version=cls.VERSION))
        except FormatError as error:
            raise type(error)(f"{where}: {error}; {cls.REMEDY}") from error

    def write(self, path: Path) -> Written:
        """Write the file, whole or not at all. Raises StorageError."""
        return write_bytes(path, self.encode())

    @classmethod
    def read(cls: type[D], path: Path) -> D:
        """Read a file of this machine. Raises MissingError, FormatError, StorageError."""
        with open_file(path) as file:
            return cls.read_from(file)

    @classmethod
    def read_from(cls: type[D], file: StoredFile) -> D:
        """Read a file of any store. Raises FormatError, StorageError."""
        if file.size() > MAX_BYTES:
            raise FormatError(f"{file.where}: {file.size():,} bytes, expected at most {MAX_BYTES:,}; {cls.REMEDY}")
        return cls.parse(read_all(file), where=file.where)


def seal_json(fields: dict, *, kind: str, version: int) -> bytes:
    """Fields of JSON types as a sealed document, for what people's tools read and we do not."""
    head = {"format": f"molstream {kind}", "format_version": version}
    body = json.dumps(head | fields, indent=1, allow_nan=False).removesuffix("\n}").encode()
    return body + _seal(body)


def encode_line(fields: dict) -> bytes:
    """One line of a log."""
    return json.dumps(to_json(fields), allow_nan=False).encode() + b"\n"


def parse_json(text: str | bytes, *, nan: bool = False, pairs: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """JSON that is not ours, as Python's types. Raises FormatError, whatever is wrong with it.

    `nan`: take NaN, Infinity and -Infinity, which are no JSON, for numbers. `pairs` makes objects, as for `json.loads`.
    """
    try:
        return json.loads(text, parse_constant=None if nan else _refuse, object_pairs_hook=pairs)
    except ShardError:
        # what `pairs` refuses
        raise
    except RecursionError as error:
        raise FormatError("not JSON: lists or objects nested too deep") from error
    # among them UnicodeDecodeError, and numbers of thousands of digits
    except ValueError as error:
        raise FormatError(f"not JSON: {error}") from error
    except MemoryError as error:
        raise FormatError("not enough memory for this JSON") from error


def _refuse(name: str) -> None:
    raise FormatError(f"not JSON: {name}, expected a finite number")


def _seal(body: bytes) -> bytes:
    """The end of a document, of constant length."""
    return f',\n "seal": "{hashlib.sha256(body).hexdigest()}"\n}}\n'.encode()


def unseal_json(data: bytes, *, kind: str, version: int) -> dict:
    """Inverse of `seal_json`. Raises FormatError for what is not whole, or of another kind or version."""
    try:
        found = parse_json(data)
    except FormatError as error:
        raise FormatError(f"damaged ({error})") from error
    if not isinstance(found, dict):
        raise FormatError(f"no {kind}")
    is_sealed = "seal" in found
    body = data[: -len(_seal(b""))]
    if is_sealed and data != body + _seal(body):
        raise ChecksumError("damaged or edited (its content is not what its seal says)")
    # only what is sealed, or of a draft before there were seals, says of which version it is
    there = found.get("format_version")
    if there != version and (is_sealed or (type(there) is int and there < version)):
        raise FormatError(f"{kind} version {there}, this molstream reads {version}; use the one that wrote it")
    if not is_sealed:
        raise FormatError(f"no {kind} of version {version}, or a damaged one: it has no seal")
    if found.get("format") != f"molstream {kind}":
        raise FormatError(f"is a {found.get('format')}, expected a molstream {kind}")
    return {name: value for name, value in found.items() if name not in _HEAD}
