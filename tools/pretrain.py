"""Train a model. Without DIR it trains on the embedded PM6 sample, which is packed into RUN/shards first."""

import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from molstream.trainers.config import Recipe


class Device(str, Enum):
    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


def pretrain(
    context: typer.Context,
    directory: Annotated[
        Path | None, typer.Argument(metavar="[DIR]", help="A shard set; default: the embedded sample.", show_default=False)
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="RUN", help="Folder of the run.", show_default=False)] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            "--recipe",
            help="sample, smoke, toymix-gine, largemix-gine, or pm6-gine, pm6-gcn, pm6-gin, each of these three also with -g62 "
            "or -n7 for one task set; default: sample, or with --resume that of the run.",
        ),
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="Set a field of the recipe to another value; may be repeated."),
    ] = None,
    fields: Annotated[bool, typer.Option("--fields", help="List the fields of the recipe and their meanings, and stop.")] = False,
    trackers: Annotated[
        list[str] | None,
        typer.Option(
            "--tracker", metavar="NAME", help="Also log to a tracker of Accelerate: wandb, mlflow, ...; may be repeated."
        ),
    ] = None,
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="Optimizer steps, instead of the recipe's number.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in RUN, if there is one.")] = False,
    threads: Annotated[int, typer.Option("--threads", help="Threads that decode, pack and collate, in each process.")] = 1,
    device: Annotated[Device, typer.Option("--device", help="Device to train on; auto: GPUs if there are any.")] = Device.auto,
    processes: Annotated[
        int | None,
        typer.Option(
            "--processes",
            min=1,
            help="Processes to start on this machine; default: one per visible GPU. Under torchrun, accelerate launch or srun: "
            "those that it started.",
            show_default=False,
        ),
    ] = None,
) -> None:
    from molstream.shards.errors import InputError
    from molstream.shards.workers.ahead import compile_ahead

    if out is not None and not fields:
        # before torch is imported, which takes as long as some kernels
        has_shards = directory is not None or (out / "shards" / "manifest.json").exists()
        compile_ahead(*(() if has_shards else ("build",)), "stream", "encode", "train")

    from molstream.tools.stop import StopFlag
    from molstream.trainers.distributed.device import find_device
    from molstream.trainers.distributed.launch import count_processes, launch
    from molstream.trainers.distributed.process_group import joined
    from molstream.trainers.recipes import get_recipe
    from molstream.trainers.runs.folder import read_recipe
    from molstream.trainers.runs.log import check_trackers

    if fields:
        print_fields(get_recipe(recipe or "sample").override(assignments or []))
        return
    if out is None:
        raise InputError("pretrain: no folder for the run; add --out RUN")
    started = read_recipe(out) if resume else None
    if started and directory is None and not (out / "shards" / "manifest.json").exists():
        raise InputError(f"{out}: this run was started on a shard set that is not in it; name it: molstream pretrain DIR ...")
    chosen = choose_recipe(recipe, assignments or [], steps=steps, started=started)
    check_trackers(trackers or ())
    if (number := count_processes(processes, device.value, chosen.num_lanes)) > 1:
        raise typer.Exit(launch(context.find_root().obj, number))
    kind = "cpu" if device == Device.cpu else find_device().type
    with joined(kind) as process_group, StopFlag(quiet=not process_group.is_first) as stop:
        outcome, shard_set = run(
            directory, out, chosen, resume=resume, threads=threads, trackers=trackers or [], device=device.value, stop=stop
        )
        if not process_group.is_first:
            raise typer.Exit(0 if outcome.finished else 130)
    again = [f"--tracker {shlex.quote(name)}" for name in trackers or ()]
    again += [f"--device {device.value}"] if device != Device.auto else []
    again += [f"--processes {processes}"] if processes is not None else []
    report(outcome, shard_set, directory, out, again)


def choose_recipe(name: str | None, assignments: list[str], *, steps: int | None, started: "Recipe | None") -> "Recipe":
    """The recipe that was named, else that of the run that is resumed, else `sample`, with the fields that were given."""
    from molstream.trainers.recipes import get_recipe

    chosen = (started if started and name is None else get_recipe(name or "sample")).override(assignments)
    if started and chosen.precision == "auto":
        # the run keeps the precision it was resolved to, on whatever device that was
        chosen = replace(chosen, precision=started.precision)
    return chosen if steps is None else replace(chosen, num_steps=steps)


def run(
    directory: Path | None, out: Path, recipe, *, resume: bool, threads: int, trackers: list[str], device: str, stop
) -> tuple[Any, Any]:
    """Open the shard set, which the first process packs if it is the embedded sample, and train. Collective."""
    from molstream.tools.report import TerminalReporter
    from molstream.trainers.distributed.process_group import ProcessGroup
    from molstream.trainers.training.trainer import pretrain as train

    process_group = ProcessGroup.here()
    found = (
        left_as_found(out, was_there=out.exists(), shards_were=(out / "shards").exists())
        if process_group.is_first
        else nullcontext()
    )
    with TerminalReporter() if process_group.is_first else nullcontext() as reporter, found:
        with process_group.together():
            if process_group.is_first:
                open_shards(directory, out)
        with process_group.together():
            shard_set = open_shards(directory, out)
        outcome = train(
            shard_set,
            out,
            recipe,
            resume=resume,
            reporter=reporter,
            num_threads=threads,
            trackers=trackers,
            device=device,
            should_stop=stop.is_set,
        )
    return outcome, shard_set


def report(outcome, shard_set, directory: Path | None, out: Path, options: list[str]) -> None:
    """Print how a run ended, where everything is and what to type next."""
    from molstream.shards.errors import StorageError
    from molstream.tools.curves import plot_run
    from molstream.tools.report import print_results

    try:
        plot = plot_run(out) or "not drawn: pip install matplotlib"
    except StorageError as error:
        # a picture of the log is no result
        plot = f"not drawn: {error}"
    if not outcome.finished:
        again = shlex.join([program(), "pretrain", *([str(directory)] if directory else []), "--out", str(out), "--resume"])
        again = " ".join([again, *options])
        saved = "checkpoint written" if outcome.step else "before the first, so there is no checkpoint"
        typer.echo(f"stopped at step {outcome.step:,} of {outcome.num_steps:,}, {saved}; go on with\n  {again}")
        raise typer.Exit(130)
    if outcome.results:
        print_results(outcome.results)
    shards = directory or out / "shards"
    split = f" --split {shard_set.splits[-1]}"
    embeddings = quote(out / f"embeddings-{shard_set.splits[-1]}")
    files = {
        "model": (out / "model", f", by itself: molstream.load_encoder({str(out / 'model')!r})"),
        "weights": (out / "checkpoints", ""),
        "log": (out / "log.jsonl", f", or: tensorboard --logdir {out / 'tensorboard'}" if (out / "tensorboard").exists() else ""),
        "results": (out / "results.json", ""),
    }
    lines = [f"run        {out}", *(f"  {name:<8} {path}{more}" for name, (path, more) in files.items() if path.exists())]
    typer.echo(
        "\n".join(lines) + f"\n  plot     {plot}\n"
        f"data       {shards}\n"
        f"next       {program()} eval {quote(shards)} --checkpoint {quote(out)}{split}\n"
        f"           {program()} embed {quote(shards)} --checkpoint {quote(out)}{split} --out {embeddings}"
    )


def print_fields(recipe) -> None:
    """Print the fields that `--set` can change, with their values in this recipe and their meanings."""
    from rich.console import Console
    from rich.table import Table

    from molstream.trainers.config import describe_fields

    table = Table(title=f"recipe {recipe.name}", title_justify="left", box=None, pad_edge=False, header_style="italic")
    for name in ("field", "value", "meaning"):
        table.add_column(name, overflow="fold")
    values = recipe.to_json()
    for name, text in describe_fields().items():
        value = values[name]
        if isinstance(value, list):
            value = ",".join(value)
        elif isinstance(value, dict):
            value = ",".join(f"{k}:{v}" for k, v in value.items())
        table.add_row(name, str(value).lower() if isinstance(value, bool) else str(value), text)
    Console(width=None if sys.stdout.isatty() else 200, markup=False, highlight=False).print(table)


@contextmanager
def left_as_found(out: Path, *, was_there: bool, shards_were: bool) -> Iterator[None]:
    """If a run is refused before it starts, remove the sample that was packed for it."""
    try:
        yield
    except ValueError:
        if not shards_were and not (out / "config.json").exists():
            shutil.rmtree(out / "shards", ignore_errors=True)
            if not was_there:
                with suppress(OSError):
                    out.rmdir()
        raise


def program() -> str:
    """How to call this command again: its name if the shell finds it, else the path by which it was called."""
    program = Path(sys.argv[0])
    # the program's own name, since a checkout may lie in a folder called molstream
    return quote(program) if program.name == "molstream" and not shutil.which("molstream") else "molstream"


def quote(path: Path) -> str:
    """A path, quoted for a shell."""
    return shlex.quote(str(path))


def open_shards(directory: Path | None, out: Path):
    """The shard set to train on; the embedded sample is built on first use."""
    from molstream.shards.format.reader import ShardSet

    if directory is not None:
        return ShardSet(directory)
    shards = out / "shards"
    if not (shards / "manifest.json").exists():
        from molstream.shards.build.build import BuildOptions, build
        from molstream.shards.sample import sample_path
        from molstream.shards.splits.rules import SplitFractions
        from molstream.tools.progress import bars
        from molstream.trainers.runs.folder import check_fresh

        check_fresh(out)
        typer.echo(f"packing the embedded PM6 sample into {shards}", err=True)
        with bars() as progress:
            build([str(sample_path())], shards, BuildOptions(split_fractions=SplitFractions.parse("80,10,10")), progress)
    return ShardSet(shards)
