"""The split of each row of the input, where rows decide: by a seeded shuffle, a file, or what each table says of its own rows."""

import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, replace

import numpy as np

from molstream.shards.build.options import BuildOptions
from molstream.shards.errors import InputError
from molstream.shards.inputs.tables import InputFile, iter_column
from molstream.shards.splits.assignment import NO_SPLIT, RowSplits, SplitAssigner
from molstream.shards.splits.files import read_split_file
from molstream.shards.splits.rules import BY_TABLE, RULES, SPLITS, Splits


def name_split_files(
    options: BuildOptions, split_file: str | Sequence[str | None] | None
) -> tuple[BuildOptions, list[str | None]]:
    """Options that name the split files, and these: of all rows, or of each table. Only by their names: no path becomes part of a
    set. Raises InputError."""
    if split_file is None:
        return options, []
    files: list[str | None] = [split_file] if isinstance(split_file, str) else list(split_file)
    for file in files:
        if file is not None and "://" not in file and not os.path.exists(file):
            raise InputError(f"{file}: no such file")
    if isinstance(split_file, str):
        return replace(options, splits=_last_part(split_file)), files
    if len(files) != len(options.tables):
        raise InputError(f"split files of {len(files)} tables, the options describe {len(options.tables)}")
    tables = zip(options.tables, files, strict=True)
    named = tuple(spec if file is None else replace(spec, splits=_last_part(file)) for spec, file in tables)
    return replace(options, splits=BY_TABLE, tables=named), files


def _last_part(url: str) -> str:
    return re.split(r"[/\\]", url)[-1]


def assign_rows(
    options: BuildOptions, files: Sequence[InputFile], split_files: Sequence[str | None]
) -> tuple[Splits, np.ndarray | None]:
    """The splits of the set, and the split of each row (uint8), or None where molecules decide.

    `split_files`: the file of all rows, or of each table, None where there is none. Takes up to two bytes per row. Raises
    InputError, SchemaError.
    """
    num_rows = sum(f.num_rows for f in files)
    renames = dict(options.split_names)
    if options.splits == BY_TABLE:
        found = _assign_tables(options, files, split_files)
    elif split_files and split_files[0] is not None:
        found = read_split_file(split_files[0], num_rows=num_rows, renames=renames)
    elif options.splits == "position":
        found = _shuffle(options, num_rows)
    elif options.splits in RULES:
        return Splits(rule=options.splits, names=SPLITS, shares=tuple(asdict(options.split_fractions).values())), None
    else:
        raise InputError(f"splits {options.splits!r}: expected {', '.join(RULES)}, or a file that says so row by row")
    if unused := [name for name in renames if name not in found.given]:
        names = ", ".join(found.given) or "none"
        raise InputError(f"--rename-split {unused[0]}={renames[unused[0]]}: no split is called {unused[0]}; found {names}")
    rows = found.assignment
    if options.splits == "position":
        shares = tuple(asdict(options.split_fractions).values())
    else:
        counts = np.bincount(rows, minlength=NO_SPLIT + 1)[: len(found.names)]
        shares = tuple(float(n) / num_rows for n in counts)
    return Splits(
        rule="rows",
        names=found.names,
        shares=shares,
        rows_sha256=hashlib.sha256(rows.tobytes()).hexdigest(),
        most_held_out=options.splits == BY_TABLE,
    ), rows


def _assign_tables(options: BuildOptions, files: Sequence[InputFile], split_files: Sequence[str | None]) -> RowSplits:
    """Rows of all tables, each by the splits of its own."""
    sources = [next(f.url for f in files if f.table == number) for number in range(len(options.tables))]
    where = f"{sources[0]}, column {options.tables[0].split_column}" if len(sources) == 1 else "the splits of the tables"
    every, first = SplitAssigner(where, sum(f.num_rows for f in files)), 0
    given: list[str] = []
    for number, spec in enumerate(options.tables):
        mine = [f for f in files if f.table == number]
        num_rows, split_file = sum(f.num_rows for f in mine), split_files[number] if split_files else None
        if spec.split_column:
            found = _read_column(mine, spec.split_column, num_rows, options)
        elif split_file is not None:
            found = read_split_file(split_file, num_rows=num_rows, renames=dict(options.split_names), needs_train=False)
        elif spec.splits == "position":
            found = _shuffle(options, num_rows)
        else:
            raise InputError(f"splits {spec.splits!r} of table {spec.name or spec.dataset}: expected position, or a file")
        codes = np.full(NO_SPLIT + 1, NO_SPLIT, np.uint8)
        codes[: len(found.names)] = [every.code(name) for name in found.names]
        first = every.put_next(codes[found.assignment], first)
        given += [name for name in found.given if name not in given]
    found = every.finish()
    return RowSplits(found.names, found.assignment, tuple(given))


def _read_column(files: Sequence[InputFile], column: str, num_rows: int, options: BuildOptions) -> RowSplits:
    """Splits that a column of the table names; a blank or null is none."""
    splits, first = SplitAssigner(f"{files[0].url}, column {column}", num_rows, dict(options.split_names)), 0
    for file in files:
        splits.where = f"{file.url}, column {column}"
        for texts in iter_column(file.url, column, quoting=options.tables[file.table].quoting):
            first = splits.put_next(np.array([splits.code_of_cell(text) for text in texts], np.uint8), first)
    splits.check_length(first)
    return splits.finish(needs_train=False)


def _shuffle(options: BuildOptions, num_rows: int) -> RowSplits:
    seed = options.seed if options.split_seed is None else options.split_seed
    return RowSplits(SPLITS, options.split_fractions.shuffle(num_rows, seed=seed))
