"""Files of torch.save, read by `torch.load(weights_only=True)`; torch is imported when one is, and nowhere else in this package.

Splits are published in this form, so the bytes are untrusted. The zip is checked entry by entry (sizes against the file's, and
checksums, which torch.load does not look at), and torch.load gets a copy of the entries that were checked. Of NumPy it may call
what `_numpy_names` lists. The price: torch where such a file is read, 36 bytes for each number of a Python list, and twice the
file.
"""

import io
import math
import re
import struct
import zipfile
from typing import Any, BinaryIO, Literal

import numpy as np

from molstream.shards.errors import InputError, SchemaError, show

MIN_TORCH = (2, 10)
"""Files can make older ones run code (CVE-2025-32434) or overwrite memory (CVE-2026-24747), in spite of weights_only."""
NUMBERS = ("b1", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8")
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
_ADVICE = "if you trust the file, load it where it was made and save the row numbers alone, for example with numpy.savez"


def read_torch_file(file: BinaryIO, *, where: str) -> Any:
    """What was saved; a tensor comes out as an array, alone or as a value of a dict. `where` is the file's name in messages.

    `file` can seek. Raises InputError where torch is missing or too old, SchemaError for a file that is damaged, that
    torch.save did not write in its own format and protocol, or that holds objects.
    """
    archive, storage_bytes = _copy_checked(file, where)
    torch = _import_torch(where)
    try:
        with torch.serialization.safe_globals(_numpy_names()):
            found = torch.load(archive, map_location="cpu", weights_only=True)
    except Exception as error:
        # bytes that contradict themselves make it raise anything at all
        raise SchemaError(f"{where}: {_explain(error)}") from error

    def to_array(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value.take(where) if isinstance(value, _Array) else value
        try:
            array = value.detach().numpy()
            # a file may ask for a new tensor of any size, of whatever lies in memory
            if value.untyped_storage().nbytes() not in storage_bytes:
                raise SchemaError(f"{where}: a tensor of shape {tuple(value.shape)} whose numbers are not in the file; {_ADVICE}")
        except (TypeError, RuntimeError) as error:
            kind = f"{value.layout} of {value.dtype}".replace("torch.", "")
            raise SchemaError(f"{where}: a tensor, {kind}, that is no array of NumPy's; convert it and save it again") from error
        return array

    return {name: to_array(value) for name, value in found.items()} if isinstance(found, dict) else to_array(found)


def _import_torch(where: str) -> Any:
    try:
        import torch
    except ModuleNotFoundError as error:
        raise InputError(
            f"{where}: this needs the package torch, which is not installed here; install it, or save the row numbers as .npz "
            f"where it is"
        ) from error
    if tuple(map(int, torch.__version__.split(".")[:2])) < MIN_TORCH:
        raise InputError(
            f"{where}: this needs torch {'.'.join(map(str, MIN_TORCH))} or later, found {torch.__version__}, which a file can "
            f"make run code; upgrade it, or save the row numbers as .npz where the file was made"
        )
    return torch


def _copy_checked(file: BinaryIO, where: str) -> tuple[io.BytesIO, set[int]]:
    """The entries that torch.load reads, checked and uncompressed, in a zip of their own; and the sizes of the storages."""
    if (head := file.read(4)) != b"PK\x03\x04":
        raise SchemaError(
            f"{where}: not a file of torch.save: begins with {head!r}, expected a zip; if PyTorch before 1.6 saved it, or it is "
            f"a bare pickle, load it where it was made and save it again, with torch.save or as .npz"
        )
    try:
        archive = zipfile.ZipFile(file)
    except ZIP_ERRORS as error:
        raise SchemaError(f"{where}: a damaged zip: {_line(error)}") from error
    entries = _check_entries(archive, file.seek(0, io.SEEK_END), where)
    roots = [name.removesuffix("/data.pkl") for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(roots) != 1:
        raise SchemaError(f"{where}: not a file of torch.save: a zip with {len(roots)} entries */data.pkl, expected one")
    copy, storage_bytes = io.BytesIO(), {0}
    with zipfile.ZipFile(copy, "w") as out:
        for name, entry in entries.items():
            root, _, rest = name.partition("/")
            if root != roots[0] or (rest not in ("data.pkl", "version", "byteorder") and not rest.startswith("data/")):
                continue
            try:
                data = archive.read(entry)
            except ZIP_ERRORS as error:
                raise SchemaError(f"{where}: zip entry {show(name)} is damaged: {_line(error)}") from error
            if rest == "data.pkl" and data[:2] != b"\x80\x02":
                raise SchemaError(
                    f"{where}: a pickle that begins with {data[:2]!r}, expected protocol 2, which torch.save writes unless told "
                    f"otherwise; save it again without pickle_protocol"
                )
            if rest.startswith("data/"):
                storage_bytes.add(len(data))
            out.writestr(f"archive/{rest}", data)
    copy.seek(0)
    return copy, storage_bytes


def _check_entries(archive: zipfile.ZipFile, num_bytes: int, where: str) -> dict[str, zipfile.ZipInfo]:
    """Entries by name: each name once, none compressed, all together no longer than the file."""
    entries: dict[str, zipfile.ZipInfo] = {}
    for entry in archive.infolist():
        name = show(entry.filename)
        if entry.filename in entries:
            raise SchemaError(f"{where}: zip entry {name} is there twice")
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
            raise SchemaError(
                f"{where}: zip entry {name} is compressed or encrypted, which torch.save never does; unpack it and save it again"
            )
        entries[entry.filename] = entry
    total = sum(entry.file_size for entry in entries.values())
    if total > num_bytes:
        raise SchemaError(f"{where}: zip entries of {total} bytes in a file of {num_bytes}")
    return entries


class _Dtype:
    """What the name numpy.dtype means in a file: a type of number, and the byte order that its state adds."""

    def __init__(self, code: str, align: bool, copy: bool):
        if code not in NUMBERS:
            raise TypeError(f"an array of {'Python objects' if code.startswith('O') else f'dtype {code}'}")
        self.value = np.dtype(code)

    def __setstate__(self, state: tuple) -> None:
        self.value = self.value.newbyteorder(state[1])


class _Array:
    """What the name numpy.ndarray means in a file: an array, once its state is read."""

    value: np.ndarray | None = None

    def take(self, where: str) -> np.ndarray:
        if self.value is None:
            raise SchemaError(f"{where}: an array without its numbers; {_ADVICE}")
        return self.value

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, fortran, data = state
        self.value = _build_array(shape, dtype, data, order="F" if fortran else "C")


def _reconstruct(kind: type, shape: tuple, code: bytes) -> _Array:
    return _Array()


def _scalar(dtype: _Dtype, data: bytes) -> Any:
    return _build_array((), dtype, data)[()]


def _build_array(shape: tuple, dtype: _Dtype, data: bytes, order: Literal["C", "F"] = "C") -> np.ndarray:
    """A view of bytes in the file: as many as the shape says, so that nothing is asked for that is not there."""
    if math.prod(shape) * dtype.value.itemsize != len(data):
        raise ValueError(f"an array of shape {shape} and type {dtype.value} in {len(data)} bytes")
    return np.ndarray(shape, dtype.value, data, order=order)


def _no_bytes() -> bytes:
    """How protocol 2 writes an empty bytes: a call without arguments."""
    return b""


def _numpy_names() -> list[tuple[Any, str]]:
    """What torch.load may call beside its own, by the name it has in a file that was written with NumPy 1 or 2.

    These are stand-ins: of NumPy's own, a file could ask for an array of any size, or one of objects.
    """
    names: list[tuple[Any, str]] = [(_Dtype, "numpy.dtype"), (_Array, "numpy.ndarray"), (_no_bytes, "builtins.bytes")]
    for core in ("numpy.core.multiarray", "numpy._core.multiarray"):
        names += [(_reconstruct, f"{core}._reconstruct"), (_scalar, f"{core}.scalar")]
    return names


def _explain(error: Exception) -> str:
    """What torch.load says over several lines, in one; its advice is to load the file without protection."""
    text = str(error)
    if name := re.search(r"GLOBAL (\S+)", text):
        return f"holds {show(name[1])}, an object, and nothing in a file is run: {_ADVICE}"
    text = text.rpartition("WeightsUnpickler error:")[2].partition("Check the documentation of torch.load")[0]
    return f"cannot be read: {_line(text) if text.strip() else type(error).__name__}; {_ADVICE}"


def _line(error: object) -> str:
    return show(" ".join(str(error).split())) or type(error).__name__
