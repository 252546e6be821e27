"""Split files: the split of each row of a data set, as its authors published it.

One decision: every format is read piece by piece into one `SplitAssigner`, a byte per row, which refuses a row that occurs
twice. The price: splits that are given in another way, such as by SMILES or as a mask, cannot be read.

    .pt        torch.save of {split: row numbers}, lists, arrays or tensors; needs torch, runs nothing (`torchfile.py`)
    .npz       an array of row numbers for each split, under its name
    .npy       for each row in order its split: a name, or 0, 1, 2 for train, val, test
    .json      {split: [row numbers]}, up to 64 MiB
    .csv       one column of row numbers per split, the shorter ones filled up with blanks or nulls; or a column `split` of
    .csv.gz    names: one per row in order, or with a column `row` of row numbers for any rows in any order
    .parquet   the same

Row numbers count from 0 over all tables of the input in their order. A row whose name is blank, null or a word for that (NA, nan,
...) is in no split. Names are ASCII letters, digits, dots, _ and -, and begin with a letter or digit; `valid` and `validation`
are `val`. An index that pandas wrote beside them is left out if it is 0, 1, 2, ..., and so says nothing.
"""

import codecs
import csv
import gzip
import re
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from molstream.shards.errors import FormatError, InputError, ShardError, show
from molstream.shards.inputs.arrow import is_text, plain, plain_type, to_texts
from molstream.shards.splits.assignment import CHUNK_ROWS, NO_RENAMES, NO_SPLIT, RowSplits, SplitAssigner
from molstream.shards.splits.rules import SPLITS
from molstream.shards.splits.torchfile import read_torch_file
from molstream.shards.store.documents import parse_json

MAX_JSON_BYTES = 64 << 20
"""Largest JSON file. Each of its numbers takes some 40 bytes while it is read."""
MAX_LINE = 1 << 20
"""Most characters in a line of CSV."""
CSV_ROWS = 1 << 12
"""Lines that are read at a time; with many more, Python's garbage collector takes three times as long."""
MAX_NAME_BYTES = 4096
"""Most bytes of a name in an array of names, padding included."""
MAX_HEADER_BYTES = 10_000
CHUNK_BYTES = 1 << 23

_ROW_NUMBER = re.compile(r"(-?[0-9]{1,18})(?:\.0*)?")
_NPY_HEADER = re.compile(
    r"\{\s*'descr':\s*'([<>|=]?[A-Za-z][0-9]{1,9})',\s*'fortran_order':\s*(?:True|False),\s*"
    r"'shape':\s*\(((?:[0-9]{1,18}L?(?:,\s*|(?=\))))*)\)\s*,?\s*\}\s*"
)
_UNREADABLE = (
    pa.ArrowException,
    csv.Error,
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    LookupError,
    OSError,
    OverflowError,
    RuntimeError,
    ValueError,
)
"""The errors that the libraries' readers raise for a damaged file."""


def read_split_file(url: str, *, num_rows: int, renames: Mapping[str, str] = NO_RENAMES, needs_train: bool = True) -> RowSplits:
    """Read the split of a data set of `num_rows` rows from a path or URL; the formats are in the module's docstring.

    `renames`: names in the file -> names of the set. `needs_train`: the file decides alone, so a split train must have rows.

    A split may be empty, but for train, and rows may be in none. Takes a byte for each row. A .pt file takes twice its own size
    besides, and 36 bytes for each row number of a list; other formats go through piece by piece. Raises InputError for a file
    that is not there, of no known kind, or a .pt without torch; SchemaError for one that cannot be read, or says something else
    than at most one split for each of these rows.
    """
    name = urlsplit(url).path if "://" in url else url
    extension = next((e for e in _READERS if name.lower().endswith(e)), None)
    if extension is None:
        raise InputError(f"{url}: not a kind of split file that is known; expected one of {' '.join(_READERS)}")
    splits = SplitAssigner(url, num_rows, renames)
    try:
        opened = fsspec.open(url, "rb")
    except (ValueError, ImportError) as error:
        raise InputError(f"{url}: {error}") from error
    try:
        with opened as file:
            try:
                _READERS[extension](file, splits)
            except ShardError:
                raise
            except _UNREADABLE as error:
                splits.fail(f"not a readable {extension} file: {show(str(error) or type(error).__name__)}", error)
    except FileNotFoundError as error:
        raise InputError(f"{url}: no such file") from error
    except IsADirectoryError as error:
        raise InputError(f"{url}: a folder, expected a split file") from error
    except OSError as error:
        raise InputError(f"{url}: cannot be read: {error.strerror or error}") from error
    return splits.finish(needs_train=needs_train)


def _read_pt(file: Any, splits: SplitAssigner) -> None:
    _put_dict(read_torch_file(file, where=splits.where), splits)


def _read_json(file: Any, splits: SplitAssigner) -> None:
    data = file.read(MAX_JSON_BYTES + 1)
    if len(data) > MAX_JSON_BYTES:
        splits.fail(f"more than {MAX_JSON_BYTES >> 20} MiB of JSON, which takes far more to read; save it as .npz or .parquet")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in pairs:
            if name in found:
                splits.fail(f"split {show(name)} is there twice")
            found[name] = value
        return found

    try:
        found = parse_json(data, nan=True, pairs=unique)
    except FormatError as error:
        splits.fail(f"not a readable .json file: {show(str(error).removeprefix('not JSON: '))}", error)
    _put_dict(found, splits)


def _put_dict(found: Any, splits: SplitAssigner) -> None:
    if not isinstance(found, dict):
        splits.fail(f"holds a value of type {type(found).__name__}, expected a dict of split names and row numbers")
    while found:
        # one by one, so that the memory of each is freed once it is put down
        name = next(iter(found))
        rows = found.pop(name)
        code = splits.add(name)
        if isinstance(rows, np.ndarray):
            splits.put(rows, code)
        elif isinstance(rows, list | tuple):
            splits.put_list(rows, code)
        else:
            splits.fail(f"split {show(name)}: a value of type {type(rows).__name__}, expected row numbers")


def _read_npz(file: Any, splits: SplitAssigner) -> None:
    archive = zipfile.ZipFile(file)
    for entry in archive.infolist():
        code = splits.add(entry.filename.removesuffix(".npy"))
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            splits.fail(f"split {splits.names[code]}: compressed in a way that NumPy does not")
        with archive.open(entry) as stream:
            shape, dtype = _read_npy_header(stream, splits)
            if len(shape) != 1 or dtype.kind not in "iuf" or not 0 <= shape[0] <= splits.num_rows:
                splits.fail(
                    f"split {splits.names[code]}: an array {dtype} of shape {shape}, expected one dimension of at most "
                    f"{splits.num_rows} row numbers: whole numbers, as integers"
                )
            for part in _iter_npy(stream, shape[0], dtype, splits):
                splits.put(part, code)


def _read_npy(file: Any, splits: SplitAssigner) -> None:
    shape, dtype = _read_npy_header(file, splits)
    if len(shape) != 1:
        splits.fail(f"an array of shape {shape}, expected one dimension of {splits.num_rows} rows")
    splits.check_length(shape[0])
    if dtype.kind not in "iuSU" or not 0 < dtype.itemsize <= MAX_NAME_BYTES:
        splits.fail(f"values of type {dtype}, expected for each row the name of its split, or 0, 1, 2 for train, val, test")
    if dtype.kind in "iu":
        for name in SPLITS:
            splits.add(name)
    first = 0
    for part in _iter_npy(file, shape[0], dtype, splits):
        if dtype.kind in "iu":
            wrong = (part < 0) | (part >= len(SPLITS))
            if wrong.any():
                k = int(wrong.argmax())
                splits.fail(f"row {first + k}: split number {part[k]}, expected 0, 1 or 2 for train, val, test")
            codes = part.astype(np.uint8)
        else:
            codes = _codes_of_names(part, splits)
        first = splits.put_next(codes, first)


def _codes_of_names(names: np.ndarray, splits: SplitAssigner) -> np.ndarray:
    if names.dtype.kind == "U" and (names.view(f"{names.dtype.byteorder}u4") > sys.maxunicode).any():
        splits.fail("names of characters that are none")
    codes, left = np.empty(names.size, np.uint8), np.ones(names.size, bool)
    while left.any():
        name = names[int(left.argmax())]
        same = names == name
        codes[same] = splits.code_of_cell(name.decode("latin-1") if isinstance(name, bytes) else str(name))
        left &= ~same
    return codes


def _read_npy_header(stream: Any, splits: SplitAssigner) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of an array of numbers or text. NumPy's own reader is not used, as it evaluates the header as Python."""
    head = stream.read(8)
    size = int.from_bytes(stream.read(2 if head[6:7] == b"\x01" else 4), "little")
    header = stream.read(size).decode("latin-1") if size <= MAX_HEADER_BYTES else ""
    match = _NPY_HEADER.fullmatch(header)
    if head[:6] != b"\x93NUMPY" or (match is None and "|O" not in header):
        splits.fail("not an array of numbers or text in the .npy format")
    if match is None or "O" in match[1]:
        splits.fail(
            "an array of Python objects, which could run anything; save it as numbers or text, for example array.astype(str)"
        )
    try:
        dtype = np.dtype(match[1])
    except (TypeError, ValueError) as error:
        splits.fail(f"values of type {match[1]}, which NumPy does not have", error)
    return tuple(int(n) for n in re.findall("[0-9]+", match[2])), dtype


def _iter_npy(stream: Any, size: int, dtype: np.dtype, splits: SplitAssigner) -> Iterator[np.ndarray]:
    while size:
        num = min(size, max(1, CHUNK_BYTES // dtype.itemsize))
        data = b""
        while len(data) < num * dtype.itemsize and (more := stream.read(num * dtype.itemsize - len(data))):
            data += more
        if len(data) < num * dtype.itemsize:
            splits.fail(f"breaks off {size * dtype.itemsize - len(data)} bytes before the end of an array")
        yield np.frombuffer(data, dtype)
        size -= num


def _read_csv_gz(file: Any, splits: SplitAssigner) -> None:
    with gzip.GzipFile(fileobj=file) as unpacked:
        _read_csv(unpacked, splits)


def _read_csv(file: Any, splits: SplitAssigner) -> None:
    reader = csv.reader(_iter_lines(file, splits), strict=True)
    names = [name.strip() for name in next(reader, [])]
    codes, index = _add_columns(names, splits)
    first = read = 0
    for columns in _iter_columns(reader, names, splits):
        if index is not None:
            _check_index(index, columns[index], read, splits)
            read += len(columns[index])
        if codes:
            for name, code in codes.items():
                splits.put(_parse_row_numbers(columns[name], code, splits), code)
        else:
            own = np.array([splits.code_of_cell(name) for name in columns["split"]], np.uint8)
            if "row" in columns:
                rows = _parse_row_numbers(columns["row"], own, splits)
                if rows.size < own.size:
                    splits.fail("a row whose number is blank")
                splits.put(rows, own)
            else:
                first = splits.put_next(own, first)
    if "split" in names and "row" not in names:
        splits.check_length(first)


_INDEX = re.compile(r"|Unnamed: 0|__index_level_0__")
"""Names of the column in which pandas writes an index that has no name."""


def _add_columns(names: list[str], splits: SplitAssigner) -> tuple[dict[str, int], str | None]:
    """Codes of splits by their columns, empty if the rows name their splits; and the column of pandas' index, if it counts."""
    found = [name for name in names if _INDEX.fullmatch(name) or (name == "index" and "split" in names)]
    index = found[0] if len(found) == 1 and len(names) > 1 else None
    names = [name for name in names if name != index]
    if "split" in names:
        if sorted(names) not in (["split"], ["row", "split"]):
            splits.fail(f"columns {show(', '.join(names))}: beside a column split there may be one called row, and no other")
        return {}, None if "row" in names else index
    return {name: splits.add(name) for name in names}, index


def _check_index(name: str, texts: Sequence[str | None], first: int, splits: SplitAssigner) -> None:
    """Only an index that counts the rows can be left out; any other may say to which rows the splits belong."""
    for row, text in enumerate(texts, first):
        if text != str(row):
            splits.fail(
                f"column {show(repr(name))}, an index that pandas wrote, is {show(repr(text))} in row {row}, expected 0, 1, 2, "
                f"...; if it gives the rows, call it row, else leave it out: index=False"
            )


def _iter_lines(file: Any, splits: SplitAssigner) -> Iterator[str]:
    """Lines of text of limited length, so that a hostile file cannot fill the memory. No field may span several lines."""
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    number, rest, data = 0, "", b"."
    while data:
        data = file.read(MAX_LINE)
        lines = (rest + decoder.decode(data, final=not data)).split("\n")
        rest = lines.pop() if data else ""
        for line in lines if len(rest) < MAX_LINE else [rest]:
            number += 1
            if len(line) >= MAX_LINE or ('"' in line and line.count('"') % 2):
                splits.fail(f"line {number}: longer than {MAX_LINE} characters, or a quote that is not closed")
            yield line


def _iter_columns(reader: Any, names: list[str], splits: SplitAssigner) -> Iterator[dict[str, tuple[str, ...]]]:
    """Columns of some lines at a time; empty lines are left out."""
    lines: list[list[str]] = []
    for line in reader:
        if len(line) not in (0, len(names)):
            splits.fail(f"line {reader.line_num}: {len(line)} fields, expected {len(names)}: {show(', '.join(names))}")
        if line:
            lines.append(line)
        if len(lines) == CSV_ROWS:
            yield dict(zip(names, zip(*lines, strict=True), strict=True))
            lines = []
    if lines:
        yield dict(zip(names, zip(*lines, strict=True), strict=True))


def _parse_row_numbers(texts: tuple[str, ...], codes: int | np.ndarray, splits: SplitAssigner) -> np.ndarray:
    """Whole numbers, int64, without the blanks. '3.0' is one too, since pandas writes that when it fills up a column."""
    filled = [text for text in texts if text]
    joined = "".join(filled)
    if not (joined.isascii() and joined.isdecimal() and max(map(len, filled)) <= 18):
        filled = [text.strip() for text in filled if text.strip()]
        for k, text in enumerate(filled):
            if not (match := _ROW_NUMBER.fullmatch(text)):
                splits.fail(f"{splits.title(codes, k)}: {show(repr(text))} is not a whole number, so no row number")
            filled[k] = match[1]
    return np.array([int(text) for text in filled], np.int64)


def _read_parquet(file: Any, splits: SplitAssigner) -> None:
    parquet = pq.ParquetFile(file, pre_buffer=False)
    names = list(parquet.schema_arrow.names)
    codes, index = _add_columns(names, splits)
    first = read = 0
    read_names = list(codes) or [name for name in names if name in ("split", "row")]
    for name in read_names:
        dtype = parquet.schema_arrow.field(name).type
        kind = plain_type(dtype)
        is_rows = pa.types.is_integer(kind) or pa.types.is_float64(kind) or pa.types.is_null(kind)
        if not (is_text(dtype) if name == "split" else is_rows):
            splits.fail(f"column {show(name)} is of type {dtype}, expected {'names' if name == 'split' else 'whole numbers'}")
    if index is not None:
        for batch in parquet.iter_batches(CHUNK_ROWS, columns=[index], use_threads=False):
            _check_index(index, to_texts(batch.column(index)), read, splits)
            read += batch.num_rows
    for name, code in codes.items():
        for batch in parquet.iter_batches(CHUNK_ROWS, columns=[name], use_threads=False):
            splits.put(_row_numbers(batch.column(name)), code)
    if codes:
        return
    for batch in parquet.iter_batches(CHUNK_ROWS, columns=read_names, use_threads=False):
        found = plain(batch.column("split")).dictionary_encode()
        table = np.array([*(splits.code_of_cell(name) for name in found.dictionary.to_pylist()), NO_SPLIT], np.uint8)
        own = table[found.indices.fill_null(table.size - 1).to_numpy(zero_copy_only=False)]
        if "row" in names:
            rows = _row_numbers(batch.column("row"))
            if rows.size < own.size:
                splits.fail("a row whose number is null")
            splits.put(rows, own)
        else:
            first = splits.put_next(own, first)
    if "row" not in names:
        splits.check_length(first)


def _row_numbers(column: pa.Array) -> np.ndarray:
    """The row numbers of a column, without nulls and without the NaN that pandas writes for them."""
    column = plain(column)
    rows = np.empty(0, np.int64) if pa.types.is_null(column.type) else column.drop_null().to_numpy(zero_copy_only=False)
    return rows[~np.isnan(rows)] if rows.dtype.kind == "f" else rows


_READERS: dict[str, Callable[[Any, SplitAssigner], None]] = {
    ".pt": _read_pt,
    ".npz": _read_npz,
    ".npy": _read_npy,
    ".json": _read_json,
    ".csv": _read_csv,
    ".csv.gz": _read_csv_gz,
    ".parquet": _read_parquet,
}
