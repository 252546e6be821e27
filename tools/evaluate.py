"""Metrics of a checkpoint on a split: per task and task set, each molecule exactly once."""

import json
from pathlib import Path
from typing import Annotated

import typer


def evaluate(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A shard set.")],
    checkpoint: Annotated[
        Path, typer.Option("--checkpoint", metavar="RUN", help="A run (its newest checkpoint) or one checkpoint.")
    ],
    split: Annotated[str, typer.Option("--split", help="Which split.")] = "test",
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Write all metrics of every task as JSON.")] = None,
    threads: Annotated[int, typer.Option("--threads", help="Threads that decode, pack and collate.")] = 1,
) -> None:
    from shards import InputError
    from streamer import ShardSet
    from tools.progress import bars
    from tools.report import print_results, skipped
    from trainers.checkpoint import load_checkpoint
    from trainers.evaluate import evaluate_checkpoint

    if out is not None and not out.parent.is_dir():
        raise InputError(f"--out {out}: no folder {out.parent}")
    if out is not None and out.is_dir():
        raise InputError(f"--out {out}: a folder, expected a file to write")
    shard_set = ShardSet(directory)
    with bars() as progress:
        results = evaluate_checkpoint(
            load_checkpoint(checkpoint, skipped),
            shard_set,
            split=split,
            num_threads=threads,
            on_pack=lambda done, total: progress("packs", done, total),
        )
    print_results(results)
    if out is not None:
        out.write_text(json.dumps(results.to_json(), indent=1) + "\n")
        typer.echo(f"all tasks: {out}")
