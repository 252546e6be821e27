"""Re-read everything and check checksums, counts and index. Any damage is named, and the exit code is then 1."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer


def verify(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A shard set.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line.")] = False,
) -> None:
    from molstream.shards.format.reader import ShardSet
    from molstream.shards.format.verify import verify as run
    from molstream.tools.progress import bars

    with bars() as progress:
        report = run(ShardSet(directory), lambda done, total: progress("verify", done, total))
    for problem in report.problems:
        typer.echo(problem, err=True)
    what = f"{report.molecules:,} molecules in {report.blocks:,} blocks of {report.shards:,} shards, {report.bytes / 1e6:,.1f} MB"
    typer.echo(f"{directory}: {f'{len(report.problems)} problems' if report.problems else 'sound'}; {what} read")
    if as_json:
        typer.echo(json.dumps({"sound": not report.problems} | asdict(report)))
    if report.problems:
        raise typer.Exit(1)
