"""Print metrics of a checkpoint on a split, per task, task set and level, over each molecule exactly once."""

from pathlib import Path
from typing import Annotated

import typer


def evaluate(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A shard set.")],
    checkpoint: Annotated[
        Path,
        typer.Option(
            "--checkpoint",
            metavar="RUN",
            help="A run (its newest checkpoint is used), a checkpoint, checkpoints/best.json, or RUN/model.",
        ),
    ],
    split: Annotated[str, typer.Option("--split", help="Split to evaluate on.")] = "test",
    out: Annotated[
        list[Path] | None,
        typer.Option(
            "--out", metavar="FILE", help="Write every metric of every task to FILE.json or FILE.parquet; may be repeated."
        ),
    ] = None,
    every_task: Annotated[bool, typer.Option("--every-task", help="Print every task, not only the best and worst.")] = False,
    threads: Annotated[int, typer.Option("--threads", help="Threads that decode, pack and collate.")] = 1,
) -> None:
    from molstream.shards.errors import InputError
    from molstream.shards.format.reader import ShardSet
    from molstream.tools.progress import bars
    from molstream.tools.report import print_results, skipped
    from molstream.trainers.distributed.process_group import joined
    from molstream.trainers.jobs.evaluate import evaluate_checkpoint, write_results
    from molstream.trainers.models.export import load_weights

    for file in out or ():
        if file.suffix not in (".json", ".parquet"):
            raise InputError(f"--out {file}: expected a name that ends in .json or .parquet")
        if not file.parent.is_dir():
            raise InputError(f"--out {file}: no folder {file.parent}")
        if file.is_dir():
            raise InputError(f"--out {file}: a folder, expected a file to write")
    shard_set = ShardSet(directory)
    with joined() as processes:
        with bars() as progress:
            results = evaluate_checkpoint(
                load_weights(checkpoint, skipped if processes.is_first else lambda problem: None),
                shard_set,
                split=split,
                num_threads=threads,
                on_pack=lambda done, total: progress("packs", done, total) if processes.is_first else None,
            )
        if not processes.is_first:
            return
        # what was computed is saved before anything is said
        for file in out or ():
            write_results(results, file)
        print_results(results, every_task=every_task)
        for file in out or ():
            typer.echo(f"all tasks: {file}")
