"""Pack tables of molecules and labels into a shard set."""

from pathlib import Path
from typing import Annotated

import typer


def build(
    inputs: Annotated[list[str], typer.Argument(metavar="INPUT...", help="Parquet files, globs or URLs, read in natural order.")],
    out: Annotated[Path, typer.Option("--out", help="Folder to write; must not exist or be empty.")],
    dataset: Annotated[str, typer.Option("--dataset", help="Which columns the input has: pm6.")] = "pm6",
    split_fractions: Annotated[
        str, typer.Option("--split-fractions", help="Shares of train,val,test; molecules of one skeleton stay together.")
    ] = "98,1,1",
    seed: Annotated[int, typer.Option("--seed", min=0, max=2**63 - 1, help="Decides order and splits.")] = 0,
) -> None:
    from shards.build import BuildOptions
    from shards.build import build as run
    from shards.splits import SplitFractions
    from shards.tables import resolve_inputs
    from tools.progress import bars

    options = BuildOptions(dataset=dataset, split_fractions=SplitFractions.parse(split_fractions), seed=seed)
    urls = resolve_inputs(inputs)
    typer.echo(f"reading {len(urls)} file{'s' * (len(urls) > 1)}, in this order: {', '.join(urls)}", err=True)
    with bars() as progress:
        manifest = run(inputs, out, options, progress)
    rows = sum(i["rows"] for i in manifest.provenance["inputs"])
    kept = {split: totals["molecules"] for split, totals in manifest.splits.items()}
    typer.echo(f"{out}: {sum(kept.values()):,} of {rows:,} rows; " + ", ".join(f"{s} {n:,}" for s, n in kept.items()))
    for reason, count in manifest.rejects.items():
        typer.echo(f"  rejected {count:,}: {reason}")
    for task, count in manifest.dropped_labels.items():
        typer.echo(f"  dropped {count:,} infinite labels of {task}")
    if manifest.rejects:
        typer.echo(f"  rejected rows are listed in {out / 'rejects.parquet'}")
