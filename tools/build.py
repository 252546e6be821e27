"""Pack tables of molecules and labels into a shard set. Stopped or killed, the same command goes on from where it was."""

import os
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

JoinName = Enum("JoinName", {"smiles": "smiles", "inchi": "inchi"}, type=str)
EngineName = Enum("EngineName", {"local": "local", "ray": "ray"}, type=str)
LOCAL = EngineName("local")


def build(
    inputs: Annotated[
        list[str] | None,
        typer.Argument(metavar="INPUT...", help="Parquet, CSV, TSV or SMILES files (.gz), globs or URLs, read in natural order."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder to write; must not exist, be empty, or hold an unfinished build.")
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            "--dataset",
            help="Which columns the input has: pm6 (default), pcqm4m, pcba, l1000 (5 classes), l1000_3 (3 classes), "
            "l1000_5to3 (5 made 3), qm9, tox21, zinc, or table: whatever the options below say.",
        ),
    ] = None,
    smiles_column: Annotated[
        str, typer.Option("--smiles-column", help="Column of SMILES. [default: the data set's; of a table, smiles and the like]")
    ] = "",
    id_column: Annotated[
        str, typer.Option("--id-column", help="Column of your own names of molecules, to find again in cat, rejects and exports.")
    ] = "",
    graph_columns: Annotated[
        list[str] | None,
        typer.Option(
            "--graph-columns",
            metavar="C,C",
            help="Columns that label molecules, names or patterns like 'y_*', separated by commas; may be given several times.",
        ),
    ] = None,
    atom_columns: Annotated[
        list[str] | None,
        typer.Option("--atom-columns", metavar="C,C", help="Columns of lists (or their JSON) that label atoms."),
    ] = None,
    bond_columns: Annotated[
        list[str] | None,
        typer.Option(
            "--bond-columns", metavar="C,C", help="... that label bonds, in the order RDKit reads them; one or two a bond."
        ),
    ] = None,
    pair_columns: Annotated[
        list[str] | None,
        typer.Option("--pair-columns", metavar="C,C", help="... that label pairs of n atoms: n*n or n*(n-1)/2."),
    ] = None,
    task_kind: Annotated[
        list[str] | None,
        typer.Option(
            "--task-kind",
            metavar="C=KIND",
            help="What labels are: C=binary, C=ordinal:N, C=multiclass:N or C=regression (default); C a name or pattern.",
        ),
    ] = None,
    table: Annotated[
        list[str] | None,
        typer.Option(
            "--table",
            metavar="[NAME:]DATASET=FILES",
            help="Instead of INPUT: a table to join with others, molecule by molecule; NAME goes before the names of its tasks. "
            "FILES: a pattern, or several separated by commas.",
        ),
    ] = None,
    join: Annotated[
        JoinName | None,
        typer.Option("--join", help="What makes rows one molecule. [default: smiles with --table, else every row is one]"),
    ] = None,
    splits: Annotated[
        str,
        typer.Option(
            "--splits",
            metavar="RULE|FILE",
            help="skeleton: isomers stay together; scaffold: Murcko's; position: rows shuffled as Python does; or a file that "
            "says which row goes where (.pt, .npy, .npz, .csv, .parquet, .json).",
        ),
    ] = "skeleton",
    split_fractions: Annotated[
        str | None, typer.Option("--split-fractions", help="Shares of train,val,test. [default: 98,1,1]")
    ] = None,
    split_seed: Annotated[
        int | None, typer.Option("--split-seed", min=0, max=2**63 - 1, help="Of the splits. [default: that of --seed]")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, max=2**63 - 1, help="Decides order and splits.")] = 0,
    label_dtype: Annotated[
        list[str] | None,
        typer.Option(
            "--label-dtype",
            metavar="LEVEL=DTYPE",
            help="How labels are stored: graph=, atom=, bond= or pair= and f32 or f16. [default: f16 for atoms, else f32]",
        ),
    ] = None,
    pe: Annotated[str, typer.Option("--pe", help="Positional encodings to store: rw16, lap8 or rw16,lap8.")] = "",
    shard_molecules: Annotated[
        int, typer.Option("--shard-molecules", min=1, help="Molecules a shard, about; what a worker holds in memory at once.")
    ] = 49_152,
    block_molecules: Annotated[
        int,
        typer.Option(
            "--block-molecules", min=0, help="Molecules a block, about; the unit of reading; 0: 4096, fewer in a small set."
        ),
    ] = 0,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers", min=1, help="Processes that build, each with one that runs RDKit. [default: 1; on Ray no limit]"
        ),
    ] = None,
    engine: Annotated[EngineName, typer.Option("--engine", help="Where they run: here, or on a Ray cluster.")] = LOCAL,
    ray_address: Annotated[
        str | None, typer.Option("--ray-address", metavar="A", help="An existing Ray cluster; otherwise a local one is started.")
    ] = None,
    max_reject_fraction: Annotated[
        float,
        typer.Option("--max-reject-fraction", min=0, max=1, help="Stop when more of the rows than this cannot be molecules."),
    ] = 0.1,
    molecule_s: Annotated[
        float, typer.Option("--molecule-s", help="CPU seconds RDKit may spend on one molecule before it is rejected.")
    ] = 10.0,
    molecule_mib: Annotated[
        int, typer.Option("--molecule-mib", min=64, help="MiB of memory RDKit may take for one molecule before it is rejected.")
    ] = 1024,
) -> None:
    from molstream.shards.build.build import BuildOptions, WorkOptions
    from molstream.shards.build.build import build as run
    from molstream.shards.build.options import parse_label_dtypes
    from molstream.shards.errors import InputError
    from molstream.shards.inputs.datasets import TableSpec, parse_task_kinds
    from molstream.shards.inputs.tables import resolve_inputs
    from molstream.shards.splits.rules import RULES, SplitFractions
    from molstream.shards.workers.ahead import compile_ahead
    from molstream.tools.peak_memory import PeakMemory
    from molstream.tools.progress import bars

    if out is None:
        raise InputError("--out is missing: the folder to write")
    if bool(inputs) == bool(table):
        raise InputError("expected input files, or tables to join with --table, and not both")
    if dataset and table:
        raise InputError(f"--dataset {dataset} beside --table, which names the data set of each table; expected one of them")
    tables = _parse_tables(table) if table else {("", dataset or "pm6"): list(inputs or [])}
    columns: dict[str, Any] = {
        "smiles_column": smiles_column,
        "id_column": id_column,
        "graph_columns": _split(graph_columns),
        "atom_columns": _split(atom_columns),
        "bond_columns": _split(bond_columns),
        "pair_columns": _split(pair_columns),
        "task_kinds": parse_task_kinds(task_kind or []),
    }
    # where tables are joined these are about those that no preset describes
    own = [key for key in tables if not table or key[1] == "table"]
    if not own and (given := next((name for name, value in columns.items() if value), None)):
        option = "--" + {"task_kinds": "task_kind"}.get(given, given).replace("_", "-")
        raise InputError(f"{option}: no table of the data set 'table' that it could be about")
    specs = tuple(TableSpec(dataset=key[1], name=key[0], **(columns if key in own else {})) for key in tables)
    split_file = None if splits in RULES else splits
    if split_file is not None and "." not in split_file:
        raise InputError(f"--splits {splits}: expected {', '.join(RULES)}, or a file that says which row is in which split")
    for option, given_value in (("--split-fractions", split_fractions), ("--split-seed", split_seed)):
        if split_file is not None and given_value is not None:
            raise InputError(f"{option} and a file of splits: expected one of them")
    options = BuildOptions(
        tables=specs,
        join=join.value if join else "smiles" if table else "",
        splits=splits if split_file is None else Path(split_file).name,
        split_fractions=SplitFractions.parse(split_fractions or "98,1,1"),
        split_seed=split_seed,
        seed=seed,
        shard_molecules=shard_molecules,
        block_molecules=block_molecules,
        pe=tuple(p for p in pe.split(",") if p),
        **parse_label_dtypes(label_dtype or []),
    )
    work = WorkOptions(
        workers=workers or (1 if engine.value == "local" else 0),
        engine=engine.value,
        ray_address=ray_address,
        max_reject_fraction=max_reject_fraction,
        molecule_s=molecule_s,
        molecule_bytes=molecule_mib << 20,
    )
    for (name, preset), files in tables.items():
        urls = resolve_inputs(files)
        what = f"table {name or preset}: " if table else ""
        typer.echo(f"{what}reading {len(urls)} file{'s' * (len(urls) > 1)}, in this order: {', '.join(urls)}", err=True)
    compile_ahead("build")
    try:
        with bars() as progress, PeakMemory() as memory:
            manifest = run(list(tables.values()), out, options, progress, work=work, split_file=split_file)
    except KeyboardInterrupt:
        if out.exists():
            typer.echo(f"what is finished is in {out}; the same command goes on from there", err=True)
        raise
    rows = sum(i["rows"] for i in manifest.provenance["inputs"])
    kept = {split: totals["molecules"] for split, totals in manifest.splits.items()}
    what = "molecules of" if manifest.join else "of"
    typer.echo(f"{out}: {sum(kept.values()):,} {what} {rows:,} rows; " + ", ".join(f"{s} {n:,}" for s, n in kept.items()))
    sets = [f"{s.name}: {len(s.tasks):,} {s.level}-level, {s.kind}" for s in manifest.task_sets]
    typer.echo(f"  tasks: {'; '.join(sets) or 'none, a set without labels'}")
    if manifest.join:
        _print_join(manifest.join, out)
    for reason, count in manifest.rejects.items():
        typer.echo(f"  rejected {count:,}: {reason}" if reason != "in no split" else f"  left out {count:,}: in no split")
    for kind in ("infinite", "nan"):
        found = {task: getattr(d, kind) for task, d in manifest.dropped_labels.items() if getattr(d, kind)}
        word = "infinite labels" if kind == "infinite" else "labels that are not a number (NaN)"
        most = max(found, key=lambda task: found[task], default="")
        if len(found) > 3:
            typer.echo(f"  dropped {sum(found.values()):,} {word} of {len(found)} tasks, most of {most}: {found[most]:,}")
        else:
            for task, count in found.items():
                typer.echo(f"  dropped {count:,} {word} of {task}")
    if manifest.rejects:
        typer.echo(f"  rejected rows are listed in {out / 'rejects.parquet'}")
    typer.echo(f"  peak memory {memory.peak_bytes / 2**20:,.0f} MiB over {memory.num_processes} processes ({memory.measure})")


def _split(patterns: list[str] | None) -> tuple[str, ...]:
    return tuple(part.strip() for text in patterns or [] for part in text.split(",") if part.strip())


def _parse_tables(texts: list[str]) -> dict[tuple[str, str], list[str]]:
    """'vcap:l1000=FILE,FILE', ... -> {(name, data set): files}."""
    from molstream.shards.errors import InputError

    tables: dict[tuple[str, str], list[str]] = {}
    for text in texts:
        head, equals, files = text.partition("=")
        name, _, dataset = head.rpartition(":")
        if not equals or not dataset or not files:
            raise InputError(f"--table {text}: expected DATASET=FILES or NAME:DATASET=FILES, like --table vcap:l1000=vcap.csv.gz")
        if (name, dataset) in tables:
            raise InputError(
                f"--table {text}: the second {name or dataset}; give tables of one data set different names, like "
                f"vcap:{dataset}=FILE, or name all files of one table together, separated by commas or as a pattern"
            )
        tables[name, dataset] = [files] if os.path.exists(files) else [f for f in files.split(",") if f]
    return tables


def _print_join(join, out: Path) -> None:
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
        typer.echo(f"  {join.across_splits:,} rows are of another split than the first row of their molecule, which decides")
    if join.unmatched:
        typer.echo(f"  {join.unmatched:,} molecules share an InChI with another whose atoms do not match: they stay apart")
    typer.echo(f"  which row became which molecule is in {out / 'mapping.parquet'}")
