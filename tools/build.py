"""Pack tables of molecules and labels into a shard set. Stopped or killed, the same command goes on from where it was."""

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

EngineName = Enum("EngineName", {"local": "local", "ray": "ray"}, type=str)
LOCAL = EngineName("local")


def build(
    inputs: Annotated[list[str], typer.Argument(metavar="INPUT...", help="Parquet files, globs or URLs, read in natural order.")],
    out: Annotated[Path, typer.Option("--out", help="Folder to write; must not exist, be empty, or hold an unfinished build.")],
    dataset: Annotated[str, typer.Option("--dataset", help="Which columns the input has: pm6.")] = "pm6",
    split_fractions: Annotated[
        str, typer.Option("--split-fractions", help="Shares of train,val,test; molecules of one skeleton stay together.")
    ] = "98,1,1",
    seed: Annotated[int, typer.Option("--seed", min=0, max=2**63 - 1, help="Decides order and splits.")] = 0,
    label_dtype: Annotated[
        list[str] | None,
        typer.Option(
            "--label-dtype",
            metavar="LEVEL=DTYPE",
            help="How labels are stored: graph=f32 (default) or graph=f16, atom=f16 (default) or atom=f32. May be given twice.",
        ),
    ] = None,
    pe: Annotated[str, typer.Option("--pe", help="Positional encodings to store: rw16, lap8 or rw16,lap8.")] = "",
    shard_molecules: Annotated[
        int, typer.Option("--shard-molecules", min=1, help="Molecules a shard, about; what a worker holds in memory at once.")
    ] = 49_152,
    block_molecules: Annotated[
        int,
        typer.Option("--block-molecules", min=0, help="Molecules a block, the unit of reading; 0: 4096, fewer in a small set."),
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
    from shards.build import BuildOptions, WorkOptions
    from shards.build import build as run
    from shards.options import parse_label_dtypes
    from shards.splits import SplitFractions
    from shards.tables import resolve_inputs
    from tools.memory import PeakMemory
    from tools.progress import bars

    options = BuildOptions(
        dataset=dataset,
        split_fractions=SplitFractions.parse(split_fractions),
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
    urls = resolve_inputs(inputs)
    typer.echo(f"reading {len(urls)} file{'s' * (len(urls) > 1)}, in this order: {', '.join(urls)}", err=True)
    try:
        with bars() as progress, PeakMemory() as memory:
            manifest = run(inputs, out, options, progress, work=work)
    except KeyboardInterrupt:
        if out.exists():
            typer.echo(f"what is finished is in {out}; the same command goes on from there", err=True)
        raise
    rows = sum(i["rows"] for i in manifest.provenance["inputs"])
    kept = {split: totals["molecules"] for split, totals in manifest.splits.items()}
    typer.echo(f"{out}: {sum(kept.values()):,} of {rows:,} rows; " + ", ".join(f"{s} {n:,}" for s, n in kept.items()))
    for reason, count in manifest.rejects.items():
        typer.echo(f"  rejected {count:,}: {reason}")
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
