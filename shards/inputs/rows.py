"""Columns of an input table -> arrays: numbers, classes, lists, from Arrow or from text. Errors name the row."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from molstream.shards.errors import SchemaError
from molstream.shards.inputs.arrow import is_number, is_number_list, is_text, plain, plain_type, to_lists, to_texts
from molstream.shards.inputs.cells import MISSING_WORDS, parse_list
from molstream.shards.inputs.datasets import Dataset
from molstream.shards.molecules import offsets
from molstream.shards.tasks import LEVELS, Level, Task

MISSING = pa.array(MISSING_WORDS, pa.large_string())
MISSING_LISTS = frozenset([*MISSING_WORDS, "NaN", "nan"])


@dataclass(frozen=True, slots=True)
class Lists:
    """One column of lists of a batch of rows: labels of atoms, bonds or pairs."""

    values: np.ndarray
    """float32; NaN where the input is null, infinite or not a number."""
    ptr: np.ndarray
    """int64 (N + 1); a null list is empty."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rows:
    """A batch of N input rows; a label that is not a finite float32 is absent."""

    first_row: int
    """Global row number of the first row."""
    smiles: list[str | None]
    identifiers: list[str | None] | None = None
    """The user's own identifiers, if such a column is read."""
    graph: np.ndarray
    """float32 (N, T), NaN where absent."""
    lists: dict[Level, list[Lists]] = field(default_factory=dict)
    """Columns of the other levels, in the order of their tasks."""
    atom_order: str = ""
    """What lists of atoms run over, as in `Dataset`."""
    infinite: np.ndarray
    """int64 (T of all levels): number of labels of each task that are infinite in the input or in float32."""
    nan: np.ndarray
    """int64 (T of all levels): number of labels that are NaN in the input but not null."""


def check_columns(url: str, schema: pa.Schema, dataset: Dataset) -> None:
    """Check that the types of a table's columns fit their use. Raises SchemaError."""
    check_type(url, schema, dataset.smiles_column, "text")
    if dataset.id_column:
        check_type(url, schema, dataset.id_column, "text or whole numbers")
    for name, task in zip(dataset.columns, dataset.tasks, strict=True):
        numbers = "numbers or text" if task.num_classes else "numbers"
        check_type(url, schema, name, numbers if task.level == "graph" else "lists of numbers, or their JSON text")


_FITS: dict[str, Callable[[pa.DataType], bool]] = {
    "text": is_text,
    "text or whole numbers": lambda dtype: is_text(dtype) or pa.types.is_integer(plain_type(dtype)),
    "numbers": is_number,
    "numbers or text": lambda dtype: is_text(dtype) or is_number(dtype),
    "lists of numbers, or their JSON text": lambda dtype: is_text(dtype) or is_number_list(dtype),
}


def check_type(url: str, schema: pa.Schema, name: str, what: str) -> None:
    """Check the type of one column of a Parquet table; `what` is one of _FITS, and nulls are always right. Raises SchemaError."""
    dtype = schema.field(name).type
    if not (pa.types.is_null(plain_type(dtype)) or _FITS[what](dtype)):
        more = "; cast it to numbers, or save the table as .csv" if what == "numbers" and is_text(dtype) else ""
        raise SchemaError(f"{url}: column {name} is of type {dtype}, expected {what}{more}")


def decode_rows(batch: pa.RecordBatch, dataset: Dataset, *, first_row: int, url: str) -> Rows:
    """Columns of consecutive rows of a file; `first_row` is the global number of the first. Raises SchemaError."""
    tasks = dataset.tasks
    graph = np.empty((batch.num_rows, dataset.num_tasks("graph")), np.float32)
    infinite, nan = np.zeros(len(tasks), np.int64), np.zeros(len(tasks), np.int64)
    lists: dict[Level, list[Lists]] = {level: [] for level in LEVELS if level != "graph" and dataset.num_tasks(level)}
    for t, (name, task) in enumerate(zip(dataset.columns, tasks, strict=True)):
        column = _Column(batch.column(name), name, task, url, first_row, merge_classes=dataset.merge_classes)
        if task.level == "graph":
            graph[:, t], infinite[t], nan[t] = column.numbers()
        else:
            found, infinite[t], nan[t] = column.lists()
            lists[task.level].append(found)
    return Rows(
        first_row=first_row,
        smiles=to_texts(batch.column(dataset.smiles_column)),
        identifiers=to_texts(batch.column(dataset.id_column)) if dataset.id_column else None,
        graph=graph,
        lists=lists,
        atom_order=dataset.atom_order,
        infinite=infinite,
        nan=nan,
    )


def _trim(array: pa.Array) -> pa.Array:
    return pc.utf8_trim_whitespace(plain(array))


class _Column:
    """One label column of a batch."""

    def __init__(self, array: pa.Array, name: str, task: Task, url: str, first: int, *, merge_classes: bool):
        self.array, self.name, self.task, self.url, self.first = array, name, task, url, first
        self.merge_classes = merge_classes

    def numbers(self) -> tuple[np.ndarray, int, int]:
        """float32 (N), infinite labels, labels that are NaN."""
        array = self._parse_numbers(self.array) if is_text(self.array.type) else plain(self.array)
        values, infinite, nan = _floats(array)
        return self._check_classes(values, np.arange(len(values))), infinite, nan

    def lists(self) -> tuple[Lists, int, int]:
        """The same as `numbers` for a column of lists."""
        array = self._parse_lists(self.array) if is_text(self.array.type) else self.array
        inner, sizes = to_lists(array)
        values, infinite, nan = _floats(inner)
        values = self._check_classes(values, np.repeat(np.arange(len(sizes)), sizes)) if self.task.num_classes else values
        return Lists(values, offsets(sizes)), infinite, nan

    def _at(self, row: int) -> str:
        return f"{self.url}: row {self.first + row}, column {self.name}"

    def _parse_numbers(self, array: pa.Array) -> pa.Array:
        text = _trim(array)
        text = pc.if_else(pc.is_in(text, value_set=MISSING), pa.scalar(None, text.type), text)
        try:
            return text.cast(pa.float64())
        except pa.ArrowInvalid:
            return pa.array([self._parse_number(k, t) for k, t in enumerate(text.to_pylist())], pa.float64())

    def _parse_number(self, row: int, text: str | None) -> float | None:
        if text is None:
            return None
        if self.task.kind == "binary" and text.lower() in ("true", "false"):
            return float(text.lower() == "true")
        try:
            # 1_000 is a number in Python only
            return float("" if "_" in text else text)
        except ValueError:
            raise SchemaError(f"{self._at(row)}: {_short(text)}, expected a number, or nothing where there is no label") from None

    def _parse_lists(self, array: pa.Array) -> pa.Array:
        # one at a time, because Python's numbers take several times the memory
        parts, sizes = [], []
        for row, text in enumerate(_trim(array)):
            cell = text.as_py()
            found = [] if cell is None or cell in MISSING_LISTS else self._parse_list(row, cell)
            parts.append(pa.array(found, pa.float64()))
            sizes.append(len(found))
        values = pa.concat_arrays(parts) if parts else pa.array([], pa.float64())
        return pa.LargeListArray.from_arrays(pa.array(offsets(np.array(sizes, np.int64))), values)

    def _parse_list(self, row: int, text: str) -> list[float | None]:
        if (found := parse_list(text)) is None:
            raise SchemaError(f"{self._at(row)}: {_short(text)}, expected a JSON list of numbers, like [0.5, null, 1e-3]")
        return found

    def _check_classes(self, values: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Refuse classes that are not whole numbers in their range."""
        if not self.task.num_classes:
            return values
        most = 4 if self.merge_classes else self.task.num_classes - 1
        with np.errstate(invalid="ignore"):
            wrong = ~np.isnan(values) & ((values < 0) | (values > most) | (values != np.floor(values)))
        if wrong.any():
            at = int(wrong.argmax())
            raise SchemaError(
                f"{self._at(int(rows[at]))}: {values[at]:g} is no class of a task with classes 0 to {most} ({self.task.kind}); "
                f"mend the input, or use the data set or --task-kind that has this class"
            )
        return np.clip(values - 1, 0, 2) if self.merge_classes else values


def _floats(array: pa.Array) -> tuple[np.ndarray, int, int]:
    """Numbers -> float32, with NaN for any that is not a finite float32, and how many of these were infinite and NaN."""
    if pa.types.is_boolean(array.type):
        array = array.cast(pa.uint8())
    elif pa.types.is_decimal(array.type):
        array = array.cast(pa.float64())
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


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:37] + "...")


def text_batch(columns: Mapping[str, int], rows: list[list[str | None]]) -> pa.RecordBatch:
    """Rows of a text table as columns of text; `columns`: name -> place in a row."""
    arrays = [pa.array([row[place] for row in rows], pa.large_string()) for place in columns.values()]
    return pa.RecordBatch.from_arrays(arrays, names=list(columns))
