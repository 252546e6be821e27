"""Re-read everything and check checksums, counts and index. Any damage is named, and the exit code is then 1.

DIR is a shard set, a run, a checkpoint, a model or an export of embeddings; its files say which.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

RUN_FILES = ("config.json", "checkpoints", "hashes.json", "model.json", "_embeddings.json", "_job.json")
"""What tells a folder of the trainer from a shard set, without PyTorch."""


def verify(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A shard set, run, checkpoint, model or export.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line.")] = False,
) -> None:
    if not (directory / "manifest.json").exists() and any((directory / name).exists() for name in RUN_FILES):
        from molstream.trainers.jobs.verify import verify_folder

        found = verify_folder(directory)
        assert found is not None, "one of its files is there"
        problems, what, facts = found.problems, f"{found.kind}, {found.holds}", asdict(found)
    else:
        from molstream.shards.format.reader import ShardSet
        from molstream.shards.format.verify import verify as run
        from molstream.tools.progress import bars

        with bars() as progress:
            report = run(ShardSet(directory), lambda done, total: progress("verify", done, total))
        problems, facts = report.problems, {"kind": "shard set"} | asdict(report)
        what = f"{report.molecules:,} molecules in {report.blocks:,} blocks of {report.shards:,} shards"
        what += f", {report.bytes / 1e6:,.1f} MB"
    for problem in problems:
        typer.echo(problem, err=True)
    typer.echo(f"{directory}: {f'{len(problems)} problems' if problems else 'sound'}; {what} read")
    if as_json:
        typer.echo(json.dumps({"sound": not problems} | facts))
    if problems:
        raise typer.Exit(1)
