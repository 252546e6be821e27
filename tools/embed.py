"""Write embeddings of molecules to Parquet: of a shard set in shard order, or of a table row by row."""

from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from molstream.tools.build_options import QuotingName


class Dtype(str, Enum):
    f16 = "f16"
    f32 = "f32"


def embed(
    source: Annotated[
        Path, typer.Argument(metavar="INPUT", help="A shard set, or a Parquet, CSV or SMILES file (a file needs RDKit).")
    ],
    checkpoint: Annotated[
        Path,
        typer.Option(
            "--checkpoint",
            metavar="RUN",
            help="A run (its newest checkpoint is used), a checkpoint, checkpoints/best.json, or RUN/model.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder of Parquet parts; a stopped export continues.")],
    split: Annotated[str | None, typer.Option("--split", help="Embed only this split of a shard set; default: all.")] = None,
    smiles_column: Annotated[
        str | None, typer.Option("--smiles-column", help="Column of SMILES in a table; default: smiles and similar names.")
    ] = None,
    quoting: Annotated[
        QuotingName | None,
        typer.Option("--quoting", help="Double quotes in a text table: csv or none, as for build."),
    ] = None,
    dtype: Annotated[Dtype, typer.Option("--dtype", help="Type of the embeddings.")] = Dtype.f32,
    threads: Annotated[int, typer.Option("--threads", help="Threads that decode, pack and collate a shard set.")] = 1,
) -> None:
    from molstream.shards.errors import InputError
    from molstream.shards.inputs.tables import iter_smiles
    from molstream.tools.progress import bars
    from molstream.tools.report import skipped
    from molstream.trainers.jobs.embed import embed_shard_set, embed_table
    from molstream.trainers.models.export import load_weights

    if not source.exists():
        raise InputError(f"{source}: no such file or folder")
    if source.is_dir() and smiles_column is not None:
        raise InputError("--smiles-column belongs to tables, and INPUT is a folder")
    if not source.is_dir() and split is not None:
        raise InputError("--split belongs to shard sets, and INPUT is a file")
    quotes: Any = quoting.value if quoting else ""
    with bars() as progress:
        if source.is_dir():
            from molstream.shards.format.reader import ShardSet

            shard_set = ShardSet(source)
            if split is not None:
                shard_set.blocks(split)
            written = embed_shard_set(
                load_weights(checkpoint, skipped),
                shard_set,
                out,
                splits=shard_set.splits if split is None else (split,),
                dtype=dtype.value,
                num_threads=threads,
                on_rows=lambda done, total: progress("embed", done, total),
            )
        else:
            digest, total = read_table(source, smiles_column, quotes)
            written = embed_table(
                load_weights(checkpoint, skipped),
                iter_smiles(str(source), column=smiles_column, quoting=quotes),
                out,
                featurize=featurize,
                source={"name": source.name, "sha256": digest, "smiles_column": smiles_column, "quoting": quotes},
                dtype=dtype.value,
                on_rows=lambda done: progress("embed", done, total),
            )
    typer.echo(f"{out}: {written.rows - written.failed:,} embeddings; read them with pyarrow.parquet.read_table({str(out)!r})")
    if written.failed:
        typer.echo(f"  {written.failed:,} of {written.rows:,} rows have none: their embedding is null and `reason` says why")
    if written.overflows:
        typer.echo(
            f"  {written.overflows:,} of {written.rows:,} rows have a number beyond 65,504, the largest of half precision, "
            f"which is infinite in the file; write them to another folder with --dtype f32"
        )


def read_table(path: Path, column: str | None, quoting: Any) -> tuple[str, int]:
    """Hash of a table's bytes and its number of rows: checks the whole of it before anything is written."""
    from molstream.shards.errors import SchemaError
    from molstream.shards.inputs.tables import iter_smiles
    from molstream.shards.store.reading import hash_file

    rows = sum(len(batch) for batch in iter_smiles(str(path), column=column, quoting=quoting))
    if not rows:
        raise SchemaError(f"{path}: no rows")
    return hash_file(path), rows


def featurize(smiles: list[str | None], first_row: int) -> tuple:
    """Rows of a table as molecules, and the reasons of the rows that failed."""
    from molstream.shards.build.map import featurize_smiles

    return featurize_smiles(smiles, first_row)
