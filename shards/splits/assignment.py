"""Rows to splits: one byte per row of a data set, written once.

One decision: two splits that share a row, and a split that has a row twice, are errors when the file is read, not a leak that is
found later. The price: a row cannot be in two splits on purpose.
"""

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NoReturn

import numpy as np

from molstream.kernels.tables.assign import assign_rows
from molstream.shards.errors import InputError, SchemaError, show
from molstream.shards.inputs.cells import MISSING_WORDS

NO_SPLIT = 255
"""Assignment of a row that is in no split."""
MAX_SPLITS = 254
CHUNK_ROWS = 1 << 18

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}")
"""Names of splits are parts of file names: no separator, no dot or hyphen in front."""
_EXPECTED = "a letter or digit, then up to 31 letters, digits, dots, _ or -"
_NO_NAME = frozenset([*MISSING_WORDS, "nan", "NaN"])
NO_RENAMES: Mapping[str, str] = MappingProxyType({})
_ALIASES = {"valid": "val", "validation": "val"}


@dataclass(frozen=True, slots=True)
class RowSplits:
    """The split of each row."""

    names: tuple[str, ...]
    """Names of the splits in the order of the file; `train` is one of them."""
    assignment: np.ndarray
    """uint8 (num_rows): index into `names`, or NO_SPLIT."""
    given: tuple[str, ...] = ()
    """Names as the file has them."""


class SplitAssigner:
    """Splits and their rows, as far as they are read. `where` is the file's name in messages. Faults are SchemaErrors."""

    def __init__(self, where: str, num_rows: int, renames: Mapping[str, str] = NO_RENAMES):
        """`renames`: names as they are given -> names of the set; several may become one."""
        self.where, self.num_rows, self.renames = where, num_rows, renames
        self.names: list[str] = []
        self.assignment = np.full(num_rows, NO_SPLIT, np.uint8)
        self._codes: dict[str, int] = {}
        self._unchanged: dict[str, str] = {}
        """Names of the set -> names as they are given, of those that are not renamed."""

    def fail(self, message: str, cause: BaseException | None = None) -> NoReturn:
        raise SchemaError(f"{self.where}: {message}") from cause

    def add(self, name: Any) -> int:
        """The number of a split that the file announces, which it may do once."""
        if name in self._codes:
            self.fail(f"split {show(name)} is there twice")
        if not isinstance(name, str) or not name.strip():
            self.fail(
                f"got {show(repr(name))} for the name of a split; if that is an index pandas wrote, leave it out: index=False"
            )
        return self.code(name)

    def code(self, name: str) -> int:
        """The number of a split by its name, in the order of first occurrence; NO_SPLIT for a blank."""
        if name not in self._codes:
            self._codes[name] = self._new_code(name.strip())
        return self._codes[name]

    def code_of_cell(self, text: str | None) -> int:
        """The same for a cell of a column, which may be null or a word for that."""
        return NO_SPLIT if text is None or text.strip() in _NO_NAME else self.code(text)

    def _new_code(self, name: str) -> int:
        if not name:
            return NO_SPLIT
        target = self.renames.get(name, name)
        target = _ALIASES.get(target, target)
        if not _NAME.fullmatch(target):
            self.fail(f"got {show(repr(name))} for the name of a split, expected {_EXPECTED}{_rename(name)}")
        if name not in self.renames and self._unchanged.setdefault(target, name) != name:
            self.fail(f"two names for split {target}, such as valid and val{_rename(name)}")
        if target in self.names:
            return self.names.index(target)
        if twin := next((other for other in self.names if other.lower() == target.lower()), None):
            # shards are files, and some file systems do not know case
            self.fail(f"the names of splits {twin} and {target} differ only in case{_rename(name)}")
        if len(self.names) == MAX_SPLITS:
            self.fail(f"more than {MAX_SPLITS} splits: {', '.join(self.names[:3])}, ...")
        self.names.append(target)
        return len(self.names) - 1

    def put(self, rows: np.ndarray, codes: int | np.ndarray) -> None:
        """Put rows (any numbers; they are checked here) into one split, or each into its own."""
        if rows.ndim != 1:
            self.fail(f"{self.title(codes, 0)}: an array of shape {rows.shape}, expected one dimension of row numbers")
        if rows.dtype.kind not in "iu" and rows.dtype != np.float64:
            self.fail(f"{self.title(codes, 0)}: values of type {rows.dtype}, expected row numbers: whole numbers, as integers")
        for at in range(0, rows.size, CHUNK_ROWS):
            part = rows[at : at + CHUNK_ROWS]
            own = np.full(part.size, codes, np.uint8) if isinstance(codes, int) else codes[at : at + CHUNK_ROWS]
            if part.dtype.kind == "f" and not (whole := np.isfinite(part) & (part == np.floor(part))).all():
                k = int(whole.argmin())
                self.fail(f"{self.title(own, k)}: {part[k].item()} is not a whole number, so no row number")
            outside = (part < 0) | (part >= self.num_rows)
            if outside.any():
                k = int(outside.argmax())
                self._refuse_outside(self.title(own, k), part[k].item())
            part = part.astype(np.int64)
            k = assign_rows(self.assignment, rows=part, codes=own, free=NO_SPLIT)
            if k >= 0:
                row = int(part[k])
                one, other = int(self.assignment[row]), int(own[k])
                if other in (one, NO_SPLIT):
                    self.fail(f"{self.title(own, k)}: row {row} is there twice")
                self.fail(f"row {row} is in two splits, {self.names[one]} and {self.names[other]}; splits must not overlap")

    def put_list(self, rows: list | tuple, code: int) -> None:
        """Whole numbers in a Python list."""
        for at in range(0, len(rows), CHUNK_ROWS):
            part = rows[at : at + CHUNK_ROWS]
            # nearly always all are int and few are wrong: then no line of Python runs for each, and `put` checks the array
            if not set(map(type, part)) <= {int} or not -(2**63) <= min(part) <= max(part) < 2**63:
                self._check_each(part, code)
            self.put(np.array(part, np.int64), code)

    def _check_each(self, rows: list | tuple, code: int) -> None:
        for row in rows:
            if isinstance(row, bool) or not isinstance(row, int | np.integer):
                self.fail(f"{self.title(code, 0)}: {_describe(row)} is not a whole number, so no row number")
            if not 0 <= row < self.num_rows:
                self._refuse_outside(self.title(code, 0), int(row))

    def put_next(self, codes: np.ndarray, first: int) -> int:
        """Give splits to the rows from `first` on, in order; returns the row after the last."""
        if first + codes.size > self.num_rows:
            self.fail(f"names splits for more than the {self.num_rows} rows of the data set")
        self.assignment[first : first + codes.size] = codes
        return first + codes.size

    def check_length(self, length: int) -> None:
        if length != self.num_rows:
            self.fail(f"names a split for {length} rows, the data set has {self.num_rows}")

    def _refuse_outside(self, title: str, row: float) -> NoReturn:
        last = self.num_rows - 1
        self.fail(f"{title}: row number {row} is not one of the {self.num_rows} rows of the data set, which are 0 to {last}")

    def title(self, codes: int | np.ndarray, k: int) -> str:
        code = codes if isinstance(codes, int) else int(codes[k])
        return f"split {self.names[code]}" if code != NO_SPLIT else "no split"

    def finish(self, *, needs_train: bool = True) -> RowSplits:
        """What was read. `needs_train`: it is all of a set, so there must be a split train that has rows."""
        if needs_train:
            check_train(self.where, self.names, self.assignment)
        given = tuple(dict.fromkeys(name.strip() for name in self._codes if name.strip()))
        return RowSplits(tuple(self.names), self.assignment, given)


def check_train(where: str, names: Sequence[str], assignment: np.ndarray) -> None:
    """Raises SchemaError if no row is in the split train; `where` says who names the splits."""
    if "train" not in names:
        found = ", ".join(names) or "none"
        likely = next((name for name in names if name.lower().startswith("tr")), "NAME")
        advice = _rename(likely, "train") if names else ""
        raise SchemaError(f"{where}: no split is called train; found {found}{advice}")
    if not (assignment == list(names).index("train")).any():
        raise SchemaError(f"{where}: split train has no rows")


def parse_renames(texts: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """'OLD=NEW', ... -> (old, new). Raises InputError."""
    found: dict[str, str] = {}
    for text in texts:
        old, _, new = text.rpartition("=")
        if not old.strip() or not _NAME.fullmatch(new.strip()) or old.strip() in found:
            raise InputError(f"--rename-split {text}: expected OLD=NEW, each OLD once, and for NEW {_EXPECTED}")
        found[old.strip()] = new.strip()
    return tuple(found.items())


def _rename(old: str, new: str = "NEW") -> str:
    # short enough to be shown whole
    return f"; rename it with --rename-split {shlex.quote(f'{old}={new}')}" if len(old) <= 40 and old.isprintable() else ""


def _describe(value: object) -> str:
    """A value for a message; for a container only its type, since its text may have no end."""
    return show(repr(value)) if isinstance(value, str | int | float | np.generic | None) else f"a {type(value).__name__}"
