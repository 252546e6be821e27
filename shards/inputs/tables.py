"""Input tables: Parquet, CSV or TSV with a header, or text with one SMILES per line; their rows, a bounded number at a time."""

import csv
import glob
import hashlib
import itertools
import math
import os
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from molstream.shards.errors import InputError, SchemaError, StorageError
from molstream.shards.inputs.arrow import to_texts
from molstream.shards.inputs.datasets import SMILES_COLUMNS, Dataset, Quoting, TableSpec, list_names, resolve_dataset
from molstream.shards.inputs.rows import Rows, check_columns, check_type, decode_rows, text_batch

T = TypeVar("T")
MAX_LINE = 1 << 27
"""Most characters in a line of a text table. It is large because the list of pairs of a large molecule is long."""


@dataclass(frozen=True, slots=True)
class InputFile:
    """One file of the input."""

    url: str
    num_rows: int
    num_bytes: int
    sha256: str
    group_rows: tuple[int, ...]
    """Rows of each row group; a text table counts as one."""
    table: int = 0
    """Number of the joined table that the file belongs to."""

    @property
    def name(self) -> str:
        """The last part of the path, which the manifest keeps."""
        return re.split(r"[/\\]", self.url)[-1]

    def describe(self) -> dict:
        """The fields that identify the content, as JSON types."""
        return {"name": self.name, "rows": self.num_rows, "bytes": self.num_bytes, "sha256": self.sha256, "table": self.table}


def natural_key(text: str) -> list:
    """Sort key that puts 2 before 10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", text) if part]


def resolve_inputs(patterns: list[str]) -> list[str]:
    """Files behind paths, globs and URLs, in natural order within a glob. Raises InputError if one matches nothing."""
    urls: list[str] = []
    for pattern in patterns:
        if "://" in pattern:
            try:
                fs, path = fsspec.core.url_to_fs(pattern)
            except (ValueError, ImportError) as error:
                raise InputError(f"{pattern}: {error}") from error
            found = [fs.unstrip_protocol(p) for p in fs.glob(path)] if glob.has_magic(path) else [pattern]
        else:
            found = glob.glob(pattern) if glob.has_magic(pattern) and not os.path.exists(pattern) else [pattern]
        if not found:
            raise InputError(f"{pattern}: no file matches")
        urls += sorted(found, key=natural_key)
    places = [u if "://" in u else os.path.abspath(u) for u in urls]
    if len(set(places)) != len(places):
        raise InputError(f"{next(u for u in places if places.count(u) > 1)}: named twice among the inputs")
    return urls


def check_input(
    url: str,
    spec: TableSpec,
    dataset: Dataset | None = None,
    *,
    table: int = 0,
    on_bytes: Callable[[int], None] = lambda n: None,
) -> tuple[InputFile, Dataset]:
    """Check that a table has the columns it should have, count its rows, hash its bytes.

    `dataset`: the data set of an earlier file of the same table; this file must have the same columns. Raises InputError when the
    file is missing or the call does not fit it, SchemaError when it is unreadable, lacks columns or has other types.
    """
    try:
        if not is_text(url):
            _check_ending(url)
            with fsspec.open(url, "rb") as file:
                try:
                    parquet = pq.ParquetFile(file)
                    schema, metadata = parquet.schema_arrow, parquet.metadata
                except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
                    raise SchemaError(f"{url}: not a readable Parquet file: {str(error).splitlines()[0]}") from error
            found = _resolve(url, spec, schema.names, dataset)
            check_columns(url, schema, found)
            group_rows = tuple(metadata.row_group(g).num_rows for g in range(metadata.num_row_groups))
        else:
            with _open_text(url, spec.quoting) as (names, rows):
                found = _resolve(url, spec, names, dataset)
                group_rows = (sum(1 for _ in rows),)
        digest, size = hashlib.sha256(), 0
        with fsspec.open(url, "rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
                size += len(chunk)
                on_bytes(len(chunk))
    except FileNotFoundError as error:
        raise InputError(f"{url}: no such file") from error
    except IsADirectoryError as error:
        raise InputError(f"{url}: a folder, expected a table; name its files, for example {url}/*.parquet") from error
    except _UNREADABLE as error:
        raise _unreadable(url, error) from error
    return InputFile(url, sum(group_rows), size, digest.hexdigest(), group_rows, table), found


def _resolve(url: str, spec: TableSpec, names: list[str], before: Dataset | None) -> Dataset:
    found = resolve_dataset(spec, url, names)
    if before is None:
        return found
    if differ := sorted(set(found.columns) ^ set(before.columns)):
        raise SchemaError(
            f"{url}: {len(found.columns)} label columns, the first file of this table has {len(before.columns)}; only one of "
            f"them has {list_names(differ)}; expected the same in every file"
        )
    if absent := [name for name in before.wanted if name not in names]:
        raise SchemaError(f"{url}: no column {absent[0]}, which the first file of this table has")
    return before


# files of each kind


LINES, FIELDS, PARQUET = (".smi", ".smiles", ".txt"), (".csv", ".tsv"), (".parquet", ".pq")
OTHERS = (
    ".tab",
    ".sdf",
    ".mol",
    ".mol2",
    ".pdb",
    ".xyz",
    ".xlsx",
    ".xls",
    ".json",
    ".jsonl",
    ".feather",
    ".arrow",
    ".h5",
    ".pkl",
    ".pt",
    ".zip",
)
"""Endings of other formats, which would otherwise be called damaged Parquet."""


def is_text(url: str) -> bool:
    """Whether the file's name says that it is text; any other file is taken for Parquet."""
    return url.lower().removesuffix(".gz").endswith(LINES + FIELDS)


def _check_ending(url: str) -> None:
    """Refuse names that promise another format; Parquet may have any other name, or none."""
    ending = os.path.splitext(url.lower().removesuffix(".gz"))[1]
    if ending in OTHERS:
        raise InputError(
            f"{url}: {ending} is not an ending of a table that can be read; expected .parquet, .csv, .tsv, .smi or .txt "
            f"(text also .gz); rename a table of one of these formats, convert others"
        )


_UNREADABLE = (pa.ArrowException, UnicodeDecodeError, csv.Error, EOFError, zlib.error, OSError)


def _unreadable(url: str, error: Exception) -> SchemaError | InputError:
    if isinstance(error, OSError) and error.strerror:
        return InputError(f"{url}: cannot be read: {error.strerror}")
    return SchemaError(f"{url}: unreadable: {(str(error) or type(error).__name__).splitlines()[0]}")


@contextmanager
def _open_text(url: str, quoting: str = "") -> Iterator[tuple[list[str], Iterator[list[str | None]]]]:
    """Column names and rows of a text table. A blank line is a row of absent values. `quoting`: as in TableSpec.

    Raises SchemaError for any other row whose number of fields is not the header's, and for an undecided quote.
    """
    plain = url.lower().removesuffix(".gz")
    is_lines = plain.endswith(LINES)
    before = csv.field_size_limit(MAX_LINE)
    try:
        with fsspec.open(url, "rt", compression="infer", newline=None if is_lines else "", encoding="utf-8-sig") as file:
            lines = _iter_lines(url, file)
            if is_lines:
                yield ["smiles"], ([line.rstrip("\n")] for line in lines)
            else:
                is_tabbed = plain.endswith(".tsv")
                quotes: Literal[0, 3] = (
                    csv.QUOTE_MINIMAL if (quoting or ("none" if is_tabbed else "csv")) == "csv" else csv.QUOTE_NONE
                )
                reader = csv.reader(lines, delimiter="\t" if is_tabbed else ",", strict=True, quoting=quotes)
                checked = _check_rows(url, reader, refuse_quotes=is_tabbed and not quoting)
                names = [(name or "").strip() for name in next(checked, [])]
                yield names, checked
    finally:
        # the limit holds for the whole process
        csv.field_size_limit(before)


def _iter_lines(url: str, file: Any) -> Iterator[str]:
    """Lines of limited length, so that a hostile file cannot fill the memory."""
    while line := file.readline(MAX_LINE):
        if len(line) == MAX_LINE:
            raise SchemaError(f"{url}: a line of more than {MAX_LINE:,} characters")
        yield line


def _check_rows(url: str, reader: Any, *, refuse_quotes: bool) -> Iterator[list[str | None]]:
    """The header, then the rows, each as wide: one that is not means a stray line break, quote or delimiter."""
    width = None
    for row in reader:
        if refuse_quotes and (field := next((f for f in row if f.startswith('"')), None)) is not None:
            raise SchemaError(
                f"{url}: line {reader.line_num}: a field begins with a quote: {field[:40]}; say "
                f"--quoting csv if quotes enclose fields, --quoting none if they belong to the values"
            )
        width = len(row) if width is None else width
        if row and len(row) != width:
            raise SchemaError(
                f"{url}: line {reader.line_num}: {len(row)} field{'s' * (len(row) != 1)}, the header has {width}; a line break, "
                f"a quote or a delimiter inside a value? Write absent values as empty fields"
            )
        yield list(row) if row else [None] * width


@dataclass(frozen=True, slots=True)
class RowRange:
    """Consecutive rows of one input file, which one work item reads."""

    file: int
    """Number of the file."""
    first_group: int
    num_groups: int
    """Row groups that hold the rows."""
    skip: int
    """Rows of the first row group that come before the range."""
    num_rows: int
    first_row: int
    """Global row number of the first row."""


RANGE_ROWS = 131_072
"""Approximate rows per range; fewer for small inputs, so that several workers have work."""
MIN_RANGE_ROWS = 8_192


def cut_ranges(files: list[InputFile]) -> list[RowRange]:
    """Cut all rows of all files into ranges: small row groups together, large ones in parts. Row groups alone decide."""
    target = min(RANGE_ROWS, max(MIN_RANGE_ROWS, sum(f.num_rows for f in files) // 64))
    ranges: list[RowRange] = []
    first_row = 0
    for number, source in enumerate(files):
        start = at = 0
        while at < len(source.group_rows):
            rows = source.group_rows[at]
            at += 1
            if rows > target:
                parts = math.ceil(rows / target)
                ends = [rows * (k + 1) // parts for k in range(parts)]
                for skip, end in itertools.pairwise([0, *ends]):
                    ranges.append(RowRange(number, start, 1, skip, end - skip, first_row + skip))
            else:
                while at < len(source.group_rows) and rows + source.group_rows[at] <= target:
                    rows += source.group_rows[at]
                    at += 1
                if rows:
                    ranges.append(RowRange(number, start, at - start, 0, rows, first_row))
            first_row += rows
            start = at
    return ranges


READ_BUFFER_BYTES = 256 * 1024
"""Read-ahead per column; without it pyarrow holds a whole compressed row group in memory."""


class TableReader:
    """Reads ranges of rows. A row group cannot be entered in the middle, so the reader stays where the last range ended: a worker
    that gets ranges in rising order decodes a row group once, however many ranges it is cut into. Not for several threads."""

    def __init__(self, datasets: tuple[Dataset, ...], *, batch_rows: int):
        """`datasets`: one per table."""
        self.datasets, self.batch_rows = datasets, batch_rows
        self._groups: tuple[str, int, int] | None = None
        self._opened = ExitStack()
        self._batches: Iterator[pa.RecordBatch] = iter(())
        self._rest: pa.RecordBatch | None = None
        self._at = 0

    def iter_rows(self, source: InputFile, rows: RowRange) -> Iterator[Rows]:
        """Rows of a range of a file, in order, at most `batch_rows` at a time. Raises SchemaError if the file ends early."""
        first_row, left = rows.first_row, rows.num_rows
        try:
            self._seek(source, rows)
            while left:
                part = self._next(left)
                yield decode_rows(part, self.datasets[source.table], first_row=first_row, url=source.url)
                first_row, left = first_row + part.num_rows, left - part.num_rows
        except StopIteration:
            raise SchemaError(f"{source.url}: ends at row {first_row}, {left} rows early: it changed while it was read") from None
        except _UNREADABLE as error:
            self.close()
            if isinstance(error, OSError) and error.errno is not None:
                # the content is not at fault, so finished work stays
                text = f"cannot be read at or after row {first_row}: {error.strerror or error}; run again to go on from here"
                raise StorageError(f"{source.url}: {text}") from error
            text = (str(error) or type(error).__name__).splitlines()[0]
            raise SchemaError(f"{source.url}: unreadable at or after row {first_row}: {text}") from error

    def _seek(self, source: InputFile, rows: RowRange) -> None:
        groups = (source.url, rows.first_group, rows.num_groups)
        if self._groups != groups or self._at > rows.skip:
            self.close()
            self._batches = self._open(source, rows)
            self._groups, self._at = groups, 0
        while self._at < rows.skip:
            self._next(rows.skip - self._at)

    def _open(self, source: InputFile, rows: RowRange) -> Iterator[pa.RecordBatch]:
        columns = self.datasets[source.table].wanted
        if is_text(source.url):
            names, lines = self._opened.enter_context(_open_text(source.url, self.datasets[source.table].quoting))
            places = {name: names.index(name) for name in columns}
            return (text_batch(places, part) for part in _batches(lines, self.batch_rows))
        file = self._opened.enter_context(fsspec.open(source.url, "rb"))
        parquet = pq.ParquetFile(file, pre_buffer=False, buffer_size=READ_BUFFER_BYTES)
        numbers = list(range(rows.first_group, rows.first_group + rows.num_groups))
        return parquet.iter_batches(self.batch_rows, row_groups=numbers, columns=columns, use_threads=False)

    def _next(self, most: int) -> pa.RecordBatch:
        """At least one row and at most `most`. Raises StopIteration."""
        batch = self._rest
        while batch is None or not batch.num_rows:
            batch = next(self._batches)
        part, self._rest = batch.slice(0, most), batch.slice(most)
        self._at += part.num_rows
        return part

    def close(self) -> None:
        """Close the file."""
        self._groups, self._batches, self._rest = None, iter(()), None
        self._opened.close()

    def __enter__(self) -> "TableReader":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def iter_smiles(
    url: str, *, column: str | None = None, quoting: Quoting = "", batch_rows: int = 8192
) -> Iterator[list[str | None]]:
    """SMILES of a table, batch by batch: Parquet, CSV or TSV with a header (also .gz), or text with one SMILES per line.

    A blank line of a text table is a row. Raises InputError for a missing file or column, SchemaError for an unreadable table.
    """
    if not is_text(url) and not url.lower().endswith(PARQUET):
        raise InputError(f"{url}: expected a shard set, or a table ending in .parquet, .csv, .tsv, .smi or .txt (also .gz)")

    def choose(names: list[str], *, is_lines: bool) -> str:
        if column and is_lines and column != "smiles":
            raise InputError(f"{url}: a text file of one SMILES per line has no column {column}; leave out --smiles-column")
        return _smiles_column(url, names, column)

    yield from _iter_texts(url, choose, what="text", quoting=quoting, batch_rows=batch_rows)


def iter_column(url: str, column: str, *, quoting: Quoting = "", batch_rows: int = 8192) -> Iterator[list[str | None]]:
    """A column of a checked table as text, batch by batch; it may hold text or whole numbers. Raises as `iter_smiles` does."""
    what = "text or whole numbers"
    return _iter_texts(url, lambda names, is_lines: column, what=what, quoting=quoting, batch_rows=batch_rows)


def _iter_texts(
    url: str, choose: Callable[..., str], *, what: str, quoting: Quoting, batch_rows: int
) -> Iterator[list[str | None]]:
    """The column that `choose` says, given the names of all."""
    try:
        if not is_text(url):
            with fsspec.open(url, "rb") as file:
                parquet = pq.ParquetFile(file, pre_buffer=False, buffer_size=READ_BUFFER_BYTES)
                name = choose(parquet.schema_arrow.names, is_lines=False)
                check_type(url, parquet.schema_arrow, name, what)
                for batch in parquet.iter_batches(batch_rows, columns=[name], use_threads=False):
                    yield to_texts(batch.column(name))
        else:
            with _open_text(url, quoting) as (names, rows):
                place = names.index(choose(names, is_lines=names == ["smiles"]))
                yield from _batches((row[place] for row in rows), batch_rows)
    except FileNotFoundError as error:
        raise InputError(f"{url}: no such file") from error
    except _UNREADABLE as error:
        raise _unreadable(url, error) from error


def _smiles_column(url: str, names: list[str], column: str | None) -> str:
    for name in (column,) if column else SMILES_COLUMNS:
        if name in names:
            return name
    raise InputError(
        f"{url}: no column {column or ' or '.join(SMILES_COLUMNS)}, found {list_names(names)}; name it with --smiles-column"
    )


def _batches(rows: Iterator[T], size: int) -> Iterator[list[T]]:
    while batch := list(itertools.islice(rows, size)):
        yield batch
