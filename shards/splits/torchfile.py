"""Files of torch.save, read without torch and without running them: a zip of one pickle and the bytes of each storage.

The pickle is read by `shards/splits/pickled.py`, which knows data only; zip entries must be uncompressed, as torch.save has them.
"""

import io
import os
import struct
import zipfile
from typing import Any, BinaryIO

from molstream.shards.errors import InputError, SchemaError
from molstream.shards.splits.pickled import decode_pickle, show

BYTE_ORDERS = {b"little": "<", b"big": ">"}
ZIP_ERRORS = (
    zipfile.BadZipFile,
    NotImplementedError,
    RuntimeError,
    EOFError,
    OSError,
    ValueError,
    OverflowError,
    LookupError,
    struct.error,
)
"""What zipfile raises for a damaged file."""


def read_torch_file(source: str | os.PathLike | bytes | bytearray | memoryview | BinaryIO, *, where: str) -> Any:
    """What was saved, as dicts, lists, tuples, text, Python and NumPy numbers and arrays. `where` is the file's name in messages.

    **A list of whole numbers comes out as an int64 array**; for the rest see `decode_pickle`. `source` is a path, the content, or
    a file that can seek. Costs the file's size once, and 8 bytes for each whole number in a list. Raises InputError for a path
    that cannot be read, SchemaError for what is no such file or holds anything but data.
    """
    if isinstance(source, str | os.PathLike):
        try:
            with open(source, "rb") as file:
                return read_torch_file(file, where=where)
        except OSError as error:
            raise InputError(f"{where}: cannot be read: {error.strerror or error}") from error
    return _read(io.BytesIO(source) if isinstance(source, bytes | bytearray | memoryview) else source, where)


def _read(file: BinaryIO, where: str) -> Any:
    if (head := file.read(4)) != b"PK\x03\x04":
        raise SchemaError(
            f"{where}: not a file of torch.save: begins with {head!r}, expected a zip; if PyTorch before 1.6 saved it, or it is "
            "a bare pickle, load it where it was made and save it again, with torch.save or as .npz"
        )
    try:
        archive = zipfile.ZipFile(file)
    except ZIP_ERRORS as error:
        raise SchemaError(f"{where}: a damaged zip: {_line(error)}") from error
    entries = _check_entries(archive, file.seek(0, io.SEEK_END), where)
    roots = [name.removesuffix("/data.pkl") for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(roots) != 1:
        raise SchemaError(f"{where}: not a file of torch.save: a zip with {len(roots)} entries */data.pkl, expected one")
    root = roots[0]

    def read(name: str) -> bytes:
        if name not in entries:
            raise SchemaError(f"{where}: the pickle refers to {show(name)}, which is not in the zip")
        try:
            return archive.read(entries[name])
        except ZIP_ERRORS as error:
            raise SchemaError(f"{where}: zip entry {show(name)} is damaged: {_line(error)}") from error

    order = read(f"{root}/byteorder") if f"{root}/byteorder" in entries else b"little"
    if order not in BYTE_ORDERS:
        raise SchemaError(f"{where}: byte order {show(repr(order[:20]))}, expected little or big")
    return decode_pickle(
        read(f"{root}/data.pkl"),
        where=f"{where}, {show(root)}/data.pkl",
        read_storage=lambda key: read(f"{root}/data/{key}"),
        byte_order=BYTE_ORDERS[order],
    )


def _check_entries(archive: zipfile.ZipFile, num_bytes: int, where: str) -> dict[str, zipfile.ZipInfo]:
    """Entries by name: each name once, each as long as the bytes it takes, all together no longer than the file."""
    entries: dict[str, zipfile.ZipInfo] = {}
    for entry in archive.infolist():
        name = show(entry.filename)
        if entry.filename in entries:
            raise SchemaError(f"{where}: zip entry {name} is there twice")
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size or entry.flag_bits & 1:
            raise SchemaError(
                f"{where}: zip entry {name} is compressed or encrypted, which torch.save never does; unpack it and save it again"
            )
        entries[entry.filename] = entry
    total = sum(entry.file_size for entry in entries.values())
    if total > num_bytes:
        raise SchemaError(f"{where}: zip entries of {total} bytes in a file of {num_bytes}")
    return entries


def _line(error: BaseException) -> str:
    return show(str(error)) or type(error).__name__
