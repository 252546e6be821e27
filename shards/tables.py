"""Input tables: which columns a data set has, and its rows as arrays, a bounded number at a time."""

import csv
import glob
import hashlib
import itertools
import math
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from shards.errors import InputError, SchemaError
from shards.types import Level, Task, TaskSet

STATES = ("S0", "T0", "cation", "anion")
_STATE_UNITS = {
    "alpha_homo": "eV",
    "alpha_gap": "eV",
    "beta_homo": "eV",
    "beta_gap": "eV",
    "energy_total": "eV",
    "principal_length_a": "angstrom",
    "principal_length_b": "angstrom",
    "principal_length_c": "angstrom",
    "spherocity": "1",
    "plane_best_fit": "angstrom",
}
_DESCRIPTOR_UNITS = {"mw": "g/mol", "tpsa": "angstrom^2"}
_DESCRIPTORS = (
    "mw fsp3 n_lipinski_hba n_lipinski_hbd n_rings n_hetero_atoms n_heavy_atoms n_rotatable_bonds n_radical_electrons tpsa qed "
    "clogp sas n_aliphatic_carbocycles n_aliphatic_heterocyles n_aliphatic_rings n_aromatic_carbocycles n_aromatic_heterocyles "
    "n_aromatic_rings n_saturated_carbocycles n_saturated_heterocyles n_saturated_rings"
).split()


@dataclass(frozen=True, kw_only=True, slots=True)
class Dataset:
    """How to read one data set's tables."""

    name: str
    smiles_column: str
    tasks: tuple[Task, ...]
    """Graph-level tasks first; names are the input's columns."""
    task_sets: tuple[TaskSet, ...]

    def columns(self, level: str) -> list[str]:
        """Names of the label columns of one level."""
        return [task.name for task in self.tasks if task.level == level]


def pm6() -> Dataset:
    """PM6_83M of arXiv 2310.04292: 62 graph-level tasks (4 states x 10, 22 descriptors), 7 atom-level tasks."""
    graph = {f"graph_{state}_{name}": unit for state in STATES for name, unit in _STATE_UNITS.items()}
    graph |= {f"graph_{name}": _DESCRIPTOR_UNITS.get(name, "1") for name in _DESCRIPTORS}
    atom = {f"node_{state}_charges_mulliken": "e" for state in STATES} | {f"node_{state}_spin": "1" for state in STATES[1:]}
    units: dict[Level, dict[str, str]] = {"graph": graph, "atom": atom}
    return Dataset(
        name="pm6",
        smiles_column="ordered_smiles",
        tasks=tuple(
            Task(name=name, level=level, kind="regression", unit=unit, source="pm6")
            for level, names in units.items()
            for name, unit in names.items()
        ),
        task_sets=(
            TaskSet(name="g62", level="graph", kind="regression", source="pm6", tasks=tuple(graph)),
            TaskSet(name="n7", level="atom", kind="regression", source="pm6", tasks=tuple(atom)),
        ),
    )


DATASETS: dict[str, Callable[[], Dataset]] = {"pm6": pm6}


@dataclass(frozen=True, slots=True)
class AtomLists:
    """One atom-level column of a batch of rows."""

    values: np.ndarray
    """float32, NaN where null, infinite or not a number."""
    ptr: np.ndarray
    """int64 (N + 1); a null list is empty."""


@dataclass(frozen=True, slots=True)
class Rows:
    """A batch of N input rows; a label that is no finite float32 is absent."""

    first_row: int
    """Global row number of the first."""
    smiles: list[str | None]
    graph: np.ndarray
    """float32 (N, Tg), NaN where absent."""
    atom: list[AtomLists]
    infinite: np.ndarray
    """int64 (T): labels of each task that were infinite, or are in float32."""
    nan: np.ndarray
    """int64 (T): labels that were not null but not a number."""


@dataclass(frozen=True, slots=True)
class InputFile:
    """One table of the input."""

    url: str
    num_rows: int
    num_bytes: int
    sha256: str
    group_rows: tuple[int, ...]
    """Rows of each row group."""

    @property
    def name(self) -> str:
        """The last part of the path: what the manifest keeps."""
        return re.split(r"[/\\]", self.url)[-1]

    def describe(self) -> dict:
        """What identifies the content."""
        return {"name": self.name, "rows": self.num_rows, "bytes": self.num_bytes, "sha256": self.sha256}


def natural_key(text: str) -> list:
    """Sort key that puts 2 before 10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", text) if part]


def resolve_inputs(patterns: list[str]) -> list[str]:
    """Files behind paths, globs and URLs, in natural order within a glob. Raises InputError for what matches nothing."""
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


def check_input(url: str, dataset: Dataset, on_bytes: Callable[[int], None] = lambda n: None) -> InputFile:
    """Check that a table has the data set's columns, count its rows, hash its bytes.

    Raises InputError when it is missing, SchemaError when it is no Parquet, lacks columns or has other types.
    """
    try:
        with fsspec.open(url, "rb") as file:
            try:
                parquet = pq.ParquetFile(file)
                _check_columns(url, parquet.schema_arrow, dataset)
            except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
                raise SchemaError(f"{url}: not a readable Parquet file: {str(error).splitlines()[0]}") from error
            metadata = parquet.metadata
            group_rows = tuple(metadata.row_group(g).num_rows for g in range(metadata.num_row_groups))
            file.seek(0)
            digest, size = hashlib.sha256(), 0
            while chunk := file.read(1 << 20):
                digest.update(chunk)
                size += len(chunk)
                on_bytes(len(chunk))
    except FileNotFoundError as error:
        raise InputError(f"{url}: no such file") from error
    except IsADirectoryError as error:
        raise InputError(f"{url}: a folder, expected a Parquet file; name its files, for example {url}/*.parquet") from error
    except OSError as error:
        raise InputError(f"{url}: cannot be read: {error.strerror or error}") from error
    return InputFile(url, metadata.num_rows, size, digest.hexdigest(), group_rows)


def _check_columns(url: str, schema: pa.Schema, dataset: Dataset) -> None:
    wanted = [dataset.smiles_column, *dataset.columns("graph"), *dataset.columns("atom")]
    missing = [name for name in wanted if name not in schema.names]
    if missing:
        raise SchemaError(
            f"{url}: {len(missing)} of {len(wanted)} columns of --dataset {dataset.name} are missing: {_list(missing)}; "
            f"found {len(schema.names)}: {_list(schema.names)}"
        )
    if twice := [name for name in wanted if schema.names.count(name) > 1]:
        raise SchemaError(f"{url}: columns that are there more than once: {_list(twice)}")
    is_text = (pa.types.is_string, pa.types.is_large_string)
    is_list = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    for name in wanted:
        dtype = schema.field(name).type
        if name == dataset.smiles_column:
            ok, expected = any(f(dtype) for f in is_text), "string"
        elif name in dataset.columns("graph"):
            ok, expected = _is_number(dtype), "a number"
        else:
            is_numbers = any(f(dtype) for f in is_list) and _is_number(dtype.value_type)
            ok, expected = is_numbers or pa.types.is_null(dtype), "a list of numbers"
        if not ok:
            raise SchemaError(f"{url}: column {name} is of type {dtype}, expected {expected}")


def _is_number(dtype: pa.DataType) -> bool:
    return pa.types.is_floating(dtype) or pa.types.is_integer(dtype) or pa.types.is_null(dtype)


def _list(names: list[str], limit: int = 6) -> str:
    return ", ".join(names[:limit]) + (f", ... ({len(names) - limit} more)" if len(names) > limit else "")


@dataclass(frozen=True, slots=True)
class RowRange:
    """Consecutive rows of one input file: what one task reads."""

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
"""Rows a range, about; less for small inputs, so that several workers have something to do."""
MIN_RANGE_ROWS = 8_192


def cut_ranges(files: list[InputFile]) -> list[RowRange]:
    """All rows of all files as ranges: small row groups together, large ones in parts. A function of the row groups alone."""
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
"""Read-ahead a column: without it pyarrow holds a whole row group, compressed, in memory."""


class TableReader:
    """Reads ranges of rows. A row group cannot be entered in the middle, so the reader stays where the last range ended: a worker
    that gets ranges in rising order decodes a row group once, however many ranges it is cut into. Not for several threads."""

    def __init__(self, dataset: Dataset, *, batch_rows: int):
        self.dataset, self.batch_rows = dataset, batch_rows
        self._groups: tuple[str, int, int] | None = None
        self._file: Any = None
        self._batches: Iterator[pa.RecordBatch] = iter(())
        self._rest: pa.RecordBatch | None = None
        self._at = 0

    def iter_rows(self, source: InputFile, rows: RowRange) -> Iterator[Rows]:
        """Rows of a range of a file, in order, at most `batch_rows` at a time. Raises SchemaError where it breaks off."""
        first_row, left = rows.first_row, rows.num_rows
        try:
            self._seek(source, rows)
            while left:
                part = self._next(left)
                yield _decode_batch(part, self.dataset, first_row)
                first_row, left = first_row + part.num_rows, left - part.num_rows
        except StopIteration:
            raise SchemaError(f"{source.url}: ends at row {first_row}, {left} rows early: it changed while it was read") from None
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            self.close()
            raise SchemaError(f"{source.url}: unreadable at or after row {first_row}: {str(error).splitlines()[0]}") from error

    def _seek(self, source: InputFile, rows: RowRange) -> None:
        groups = (source.url, rows.first_group, rows.num_groups)
        if self._groups != groups or self._at > rows.skip:
            self.close()
            self._file = fsspec.open(source.url, "rb").open()
            parquet = pq.ParquetFile(self._file, pre_buffer=False, buffer_size=READ_BUFFER_BYTES)
            columns = [self.dataset.smiles_column, *(t.name for t in self.dataset.tasks)]
            numbers = list(range(rows.first_group, rows.first_group + rows.num_groups))
            self._batches = parquet.iter_batches(self.batch_rows, row_groups=numbers, columns=columns, use_threads=False)
            self._groups, self._at = groups, 0
        while self._at < rows.skip:
            self._next(rows.skip - self._at)

    def _next(self, most: int) -> pa.RecordBatch:
        """At least one row and at most `most`. Raises StopIteration."""
        batch = self._rest
        while batch is None or not batch.num_rows:
            batch = next(self._batches)
        part, self._rest = batch.slice(0, most), batch.slice(most)
        self._at += part.num_rows
        return part

    def close(self) -> None:
        """Let go of the file."""
        self._groups, self._batches, self._rest = None, iter(()), None
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> "TableReader":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _decode_batch(batch: pa.RecordBatch, dataset: Dataset, first_row: int) -> Rows:
    graph = np.empty((batch.num_rows, len(dataset.columns("graph"))), np.float32)
    infinite, nan = np.zeros(len(dataset.tasks), np.int64), np.zeros(len(dataset.tasks), np.int64)
    atom = []
    for t, task in enumerate(dataset.tasks):
        column = batch.column(task.name)
        if task.level == "graph":
            graph[:, t], infinite[t], nan[t] = _floats(column)
        else:
            column = column.cast(pa.large_list(column.type.value_type if pa.types.is_nested(column.type) else pa.float32()))
            ptr = np.concatenate([[0], np.cumsum(column.value_lengths().fill_null(0).to_numpy())])
            values, infinite[t], nan[t] = _floats(column.flatten())
            atom.append(AtomLists(values, ptr))
    return Rows(first_row, batch.column(dataset.smiles_column).to_pylist(), graph, atom, infinite, nan)


def _floats(array: pa.Array) -> tuple[np.ndarray, int, int]:
    """Numbers -> float32 with NaN for whatever is no finite float32, and how many of these were infinite and NaN."""
    # unsafe: whole numbers may be rounded, as float64 ones are
    values = array.cast(pa.float32(), safe=False).to_numpy(zero_copy_only=False)
    finite = np.isfinite(values)
    if finite.all():
        return values, 0, 0
    infinite = np.isinf(values)
    num_infinite = int(infinite.sum())
    if num_infinite:
        values = np.where(infinite, np.float32(np.nan), values)
    return values, num_infinite, int(finite.size - finite.sum()) - num_infinite - array.null_count


SMILES_COLUMNS = ("smiles", "ordered_smiles", "canonical_smiles", "SMILES", "Smiles")
"""Names a SMILES column is looked for under."""


def iter_smiles(url: str, *, column: str | None = None, batch_rows: int = 8192) -> Iterator[list[str | None]]:
    """SMILES of a table, a batch of rows at a time: Parquet, CSV or TSV with a header (also .gz), or text with one SMILES a line.

    A blank line of a text table is a row. Raises InputError for a missing file or column, SchemaError for an unreadable table.
    """
    plain = url.removesuffix(".gz")
    try:
        if plain.endswith((".parquet", ".pq")):
            with fsspec.open(url, "rb") as file:
                parquet = pq.ParquetFile(file)
                name = _smiles_column(url, parquet.schema_arrow.names, column)
                for batch in parquet.iter_batches(batch_rows, columns=[name]):
                    yield [None if s is None else str(s) for s in batch.column(0).to_pylist()]
        elif plain.endswith((".csv", ".tsv")):
            with fsspec.open(url, "rt", compression="infer", newline="", encoding="utf-8-sig") as file:
                reader = csv.reader(file, delimiter="\t" if plain.endswith(".tsv") else ",", strict=True)
                head = next(reader, [])
                place = head.index(_smiles_column(url, head, column))
                # csv skips nothing but gives a blank line as an empty row
                yield from _batches((row[place] if place < len(row) else None for row in reader), batch_rows)
        elif plain.endswith((".smi", ".smiles", ".txt")):
            if column:
                raise InputError(f"{url}: a text file of one SMILES a line has no column {column}; leave out --smiles-column")
            with fsspec.open(url, "rt", compression="infer", encoding="utf-8-sig") as file:
                yield from _batches((line.rstrip("\r\n") for line in file), batch_rows)
        else:
            raise InputError(f"{url}: expected a shard set, or a table ending in .parquet, .csv, .tsv, .smi or .txt (also .gz)")
    except FileNotFoundError as error:
        raise InputError(f"{url}: no such file") from error
    except (pa.ArrowException, UnicodeDecodeError, csv.Error, EOFError, OSError) as error:
        raise SchemaError(f"{url}: unreadable: {str(error).splitlines()[0]}") from error


def _smiles_column(url: str, names: list[str], column: str | None) -> str:
    for name in (column,) if column else SMILES_COLUMNS:
        if name in names:
            return name
    raise InputError(
        f"{url}: no column {column or ' or '.join(SMILES_COLUMNS)}, found {_list(names)}; name it with --smiles-column"
    )


def _batches(rows: Iterator[str | None], size: int) -> Iterator[list[str | None]]:
    while batch := list(itertools.islice(rows, size)):
        yield batch
