"""Print molecules as JSON lines, labels in raw units, absent labels left out."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer


def cat(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A shard set.")],
    split: Annotated[str | None, typer.Option("--split", help="Only this split.")] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=0, help="Stop after so many molecules.")] = None,
    ids: Annotated[str | None, typer.Option("--ids", help="Only these ids, separated by commas.")] = None,
) -> None:
    from shards import InputError, ShardSet

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
        if printed == wanted:
            break
    if wanted and limit is None and wanted - printed:
        missing = ", ".join(map(str, sorted(wanted - printed)))
        raise InputError(
            f"{directory}: no molecule {missing}{f' in split {split}' if split else ''}; rejects.parquet lists rejected rows"
        )


def iter_records(shard_set, split: str | None, wanted: set[int] | None) -> Iterator[dict]:
    """Molecules as JSON types, in stored order."""
    import numpy as np

    names = {level: [t.name for t in shard_set.manifest.tasks_of(level)] for level in ("graph", "atom")}
    chosen = None if wanted is None else np.array([i for i in sorted(wanted) if i < 2**64], np.uint64)
    blocks = range(len(shard_set.index)) if split is None else shard_set.blocks(split)
    for block in blocks:
        if chosen is not None and not np.isin(shard_set.read_block(int(block), ("ids",)).ids, chosen).any():
            continue
        molecules = shard_set.read_block(int(block))
        for i in range(len(molecules)):
            if chosen is not None and molecules.ids[i] not in chosen:
                continue
            graph = molecules.graph_labels[i]
            atoms = molecules.atom_labels[molecules.atom_ptr[i] : molecules.atom_ptr[i + 1]]
            yield {
                "id": int(molecules.ids[i]),
                "smiles": molecules.smiles[i],
                "graph": {name: float(v) for name, v in zip(names["graph"], graph, strict=True) if not np.isnan(v)},
                "atom": {
                    name: [None if np.isnan(v) else float(v) for v in column]
                    for name, column in zip(names["atom"], atoms.T, strict=True)
                    if not np.isnan(column).all()
                },
            }
