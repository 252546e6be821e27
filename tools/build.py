"""Pack tables of molecules and labels into a shard set. If a build is stopped or killed, the same command continues it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from molstream.tools.build_options import ContentArguments, TableArguments, WorkArguments
from molstream.tools.groups import grouped
from molstream.tools.split_options import SplitArguments

if TYPE_CHECKING:
    from molstream.shards.format.manifest import Join, Manifest
    from molstream.tools.peak_memory import PeakMemory


@grouped
def build(
    inputs: Annotated[
        list[str] | None,
        typer.Argument(metavar="INPUT...", help="Parquet, CSV, TSV or SMILES files (.gz), globs or URLs, read in natural order."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder to write. It must be new or empty, or hold an unfinished build.")
    ] = None,
    *,
    tables: TableArguments,
    splits: SplitArguments,
    content: ContentArguments,
    work: WorkArguments,
) -> None:
    from molstream.shards.build.build import BuildOptions, WorkOptions
    from molstream.shards.build.build import build as run
    from molstream.shards.errors import InputError
    from molstream.shards.workers.ahead import compile_ahead
    from molstream.tools.peak_memory import PeakMemory
    from molstream.tools.progress import bars

    if out is None:
        raise InputError("--out is missing: the folder to write")
    files = tables.parse_files(inputs)
    fields = tables.parse(files)
    chosen, split_file = splits.parse(fields["tables"], is_joined=tables.is_joined)
    options = BuildOptions(**fields | chosen, **content.parse())
    work_options = WorkOptions(**work.parse())
    _print_inputs(files, is_joined=tables.is_joined)
    compile_ahead("build")
    try:
        with bars() as progress, PeakMemory() as memory:
            manifest = run(list(files.values()), out, options, progress, work=work_options, split_file=split_file)
    except KeyboardInterrupt:
        if out.exists():
            typer.echo(f"what is finished is in {out}; the same command goes on from there", err=True)
        raise
    _print_set(manifest, out)
    if manifest.join:
        _print_join(manifest.join, out, most_held_out=manifest.provenance["splits"]["most_held_out"])
    _print_losses(manifest, out)
    _print_memory(memory)


def _print_inputs(tables: dict[tuple[str, str], list[str]], *, is_joined: bool) -> None:
    from molstream.shards.inputs.tables import resolve_inputs

    for (name, preset), files in tables.items():
        urls = resolve_inputs(files)
        what = f"table {name or preset}: " if is_joined else ""
        typer.echo(f"{what}reading {len(urls)} file{'s' * (len(urls) > 1)}, in this order: {', '.join(urls)}", err=True)


def _print_set(manifest: "Manifest", out: Path) -> None:
    rows = sum(i["rows"] for i in manifest.provenance["inputs"])
    kept = {split: totals["molecules"] for split, totals in manifest.splits.items()}
    what = "molecules of" if manifest.join else "of"
    typer.echo(f"{out}: {sum(kept.values()):,} {what} {rows:,} rows; " + ", ".join(f"{s} {n:,}" for s, n in kept.items()))
    sets = [f"{s.name}: {len(s.tasks):,} {s.level}-level, {s.kind}" for s in manifest.task_sets]
    typer.echo(f"  tasks: {'; '.join(sets) or 'none, a set without labels'}")


def _print_join(join: "Join", out: Path, *, most_held_out: bool) -> None:
    for table in join.tables:
        repeats = f", {table.duplicates:,} of them repeat one" if table.duplicates else ""
        typer.echo(f"  table {table.name}: {table.molecules:,} molecules in {table.rows:,} rows{repeats}")
    if join.conflicts:
        most = max(join.conflicts, key=lambda task: join.conflicts[task])
        typer.echo(
            f"  {sum(join.conflicts.values()):,} labels of {len(join.conflicts):,} tasks differ from that of an earlier row of "
            f"the molecule, which stayed; most of {most}: {join.conflicts[most]:,}"
        )
    if join.across_splits:
        decides = "the most held-out split of their molecule's rows" if most_held_out else "the first row of their molecule"
        typer.echo(f"  {join.across_splits:,} rows are of another split than {decides}, which decides")
    if join.unmatched:
        typer.echo(f"  {join.unmatched:,} molecules share an InChI with another whose atoms do not match: they stay apart")
    typer.echo(f"  which row became which molecule is in {out / 'mapping.parquet'}")


def _print_losses(manifest: "Manifest", out: Path) -> None:
    """Rows and labels of the input that are not in the set."""
    for reason, count in manifest.rejects.items():
        typer.echo(f"  rejected {count:,}: {reason}" if reason != "in no split" else f"  left out {count:,}: in no split")
    for kind, word in (("infinite", "infinite labels"), ("nan", "labels that are not a number (NaN)")):
        found = {task: getattr(d, kind) for task, d in manifest.dropped_labels.items() if getattr(d, kind)}
        if len(found) > 3:
            most = max(found, key=lambda task: found[task])
            typer.echo(f"  dropped {sum(found.values()):,} {word} of {len(found)} tasks, most of {most}: {found[most]:,}")
        else:
            for task, count in found.items():
                typer.echo(f"  dropped {count:,} {word} of {task}")
    if manifest.rejects:
        typer.echo(f"  rejected rows are listed in {out / 'rejects.parquet'}")


def _print_memory(memory: "PeakMemory") -> None:
    typer.echo(f"  peak memory {memory.peak_bytes / 2**20:,.0f} MiB over {memory.num_processes} processes ({memory.measure})")
