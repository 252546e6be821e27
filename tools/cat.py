"""Print molecules as JSON lines, with labels in raw units and without absent labels."""

import json
from collections.abc import Iterator
from math import isnan
from pathlib import Path
from typing import Annotated

import typer


def cat(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A shard set.")],
    split: Annotated[str | None, typer.Option("--split", help="Print only this split.")] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=0, help="Stop after this many molecules.")] = None,
    ids: Annotated[str | None, typer.Option("--ids", help="Print only these ids, separated by commas.")] = None,
) -> None:
    from molstream.shards.errors import InputError
    from molstream.shards.format.reader import ShardSet
    from molstream.tools.output import is_read

    wanted = None
    if ids is not None:
        if not all(part.strip().isdecimal() for part in ids.split(",")):
            raise InputError(f"--ids: got {ids!r}, expected row numbers separated by commas, like 0,17,23")
        wanted = {int(part) for part in ids.split(",")}
    shard_set = ShardSet(directory)
    printed: set[int] = set()
    for record in iter_records(shard_set, split, wanted):
        if limit is not None and len(printed) >= limit:
            break
        typer.echo(json.dumps(record))
        printed.add(record["id"])
        if wanted is None and not is_read():
            break
        if printed == wanted:
            break
    if wanted and limit is None and wanted - printed:
        missing = ", ".join(map(str, sorted(wanted - printed)))
        where = "rejects.parquet lists rejected rows" + (", mapping.parquet where rows went" if shard_set.manifest.join else "")
        raise InputError(f"{directory}: no molecule {missing}{f' in split {split}' if split else ''}; {where}")


def iter_records(shard_set, split: str | None, wanted: set[int] | None) -> Iterator[dict]:
    """Molecules as JSON types, in stored order."""
    import numpy as np

    chosen = None if wanted is None else np.array([i for i in sorted(wanted) if i < 2**64], np.uint64)
    blocks = range(len(shard_set.index)) if split is None else shard_set.blocks(split)
    for block in blocks:
        if chosen is not None and not np.isin(shard_set.read_block(int(block), ("ids",)).ids, chosen).any():
            continue
        molecules = shard_set.read_block(int(block))
        for i in range(len(molecules)):
            if chosen is None or molecules.ids[i] in chosen:
                yield _record(shard_set.manifest, molecules.slice(i, i + 1))


def _record(manifest, molecule) -> dict:
    """One molecule; `bonds` (atoms of each) where bonds have labels."""
    from molstream.shards.columns import COLUMN_GROUPS

    record = {"id": int(molecule.ids[0]), "smiles": molecule.smiles[0]}
    if molecule.identifiers is not None and molecule.identifiers[0]:
        record["identifier"] = molecule.identifiers[0]
    if molecule.bond_labels is not None:
        record["bonds"] = molecule.bond_atoms.tolist()
    shown = [column.name for group in COLUMN_GROUPS.values() if group.shown for column in group.columns]
    record |= {name: molecule.columns[name].tolist() for name in shown if name in molecule.columns}
    lists = {"graph": lambda x: x, "atom": lambda x: x, "bond": _bond_list, "pair": _pair_list}
    for level, to_list in lists.items():
        labels = molecule.labels(level)
        if labels is None:
            if level in ("graph", "atom"):
                record[level] = {}
            continue
        columns = {task.name: to_list(labels[:, k]) for k, task in enumerate(manifest.tasks_of(level))}
        record[level] = {name: _numbers(column) for name, column in columns.items() if not _all_nan(column)}
        if level == "graph":
            record[level] = {name: values[0] for name, values in record[level].items()}
    return record


def _all_nan(values) -> bool:
    import numpy as np

    return bool(np.isnan(values).all())


def _numbers(values) -> list[float | None]:
    return [None if isnan(v) else v for v in values.tolist()]


def _bond_list(labels):
    """float32 (bonds, 2) -> one entry per bond, or two if any bond is labelled in both directions."""
    return labels[:, 0] if _all_nan(labels[:, 1]) else labels.reshape(-1)


def _pair_list(labels):
    """float32 (pairs, 2) -> n * n entries, or n * (n - 1) / 2 for i < j row by row if no pair is labelled in both directions."""
    import numpy as np

    n = int((2 * len(labels) + 0.25) ** 0.5)
    matrix = np.full((n, n), np.nan, np.float32)
    j, i = np.tril_indices(n)
    matrix[j, i] = labels[:, 1]
    matrix[i, j] = labels[:, 0]
    is_full = not (_all_nan(labels[:, 1]) and _all_nan(np.diagonal(matrix)))
    return matrix.reshape(-1) if is_full else matrix[np.triu_indices(n, 1)]
