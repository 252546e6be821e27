"""Stream batches without training: rates, padding and memory; with --ledger, which molecule came when."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

if TYPE_CHECKING:
    from molstream.streamer.config import Oversize


def stream(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A shard set.")],
    split: Annotated[str, typer.Option("--split", help="Which split.")] = "train",
    epochs: Annotated[
        int, typer.Option("--epochs", min=1, help="Stop when so many epochs are done, counted from the first.")
    ] = 1,
    lanes: Annotated[int, typer.Option("--lanes", help="Packs of a step: with the budget the batch size.")] = 8,
    world_size: Annotated[int, typer.Option("--world-size", help="Ranks that share the lanes.")] = 1,
    rank: Annotated[int, typer.Option("--rank", help="Which of them this is.")] = 0,
    seed: Annotated[int, typer.Option("--seed", min=0, max=2**63 - 1, help="Order of molecules.")] = 0,
    threads: Annotated[int, typer.Option("--threads", help="Threads that decode, pack and collate.")] = 2,
    state: Annotated[
        Path | None, typer.Option("--state", help="Start from the cursor in this file if it exists; write it there.")
    ] = None,
    max_steps: Annotated[int | None, typer.Option("--max-steps", min=0, help="Stop after so many steps of this call.")] = None,
    ledger: Annotated[
        Path | None,
        typer.Option("--ledger", help="Write a Parquet row (epoch, step, lane, set, id) a molecule; lane -1: left out."),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            "--budget",
            metavar="G,A,E",
            help="Batch shape: graphs, atoms, directed edges; G,A,E,pairs=N for pair-level labels; default: for 8192 atoms.",
        ),
    ] = None,
    list_labels: Annotated[
        bool,
        typer.Option(
            "--list-labels", help="Graph labels as (graph, task, value), for thousands of tasks; L in --budget G,A,E,L."
        ),
    ] = False,
    oversize: Annotated[
        str,
        typer.Option("--oversize", metavar="error|skip", help="Molecules larger than a batch: refuse, or leave out and list."),
    ] = "error",
    tasks: Annotated[
        str | None, typer.Option("--tasks", metavar="A,B*", help="Only these labels, by name or pattern; '' for none.")
    ] = None,
    encodings: Annotated[
        str, typer.Option("--pe", help="Positional encodings: rw16, lap8 or rw16,lap8; computed where the set has none.")
    ] = "",
    window_molecules: Annotated[int, typer.Option("--window-molecules", help="Least molecules shuffled together.")] = 12_288,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line.")] = False,
) -> None:
    from contextlib import nullcontext

    from molstream.shards.errors import InputError
    from molstream.shards.workers.ahead import compile_ahead

    # before torch is imported, which takes as long as some kernels
    compile_ahead("stream", *(("encode",) if encodings else ()))

    from molstream.shards.format.reader import ShardSet
    from molstream.streamer.config import Budget, StreamConfig
    from molstream.streamer.cursor import Cursor
    from molstream.streamer.errors import CallError
    from molstream.streamer.ledger import LedgerWriter
    from molstream.streamer.loader import NUM_STEPS_AHEAD, Loader
    from molstream.streamer.selection import Selection
    from molstream.streamer.stages import STAGES
    from molstream.streamer.stats import StreamStats
    from molstream.tools.progress import bars
    from molstream.tools.stop import StopFlag

    if state is not None and not state.parent.is_dir():
        # written last, so a mistake here would cost the whole run its cursor
        raise InputError(f"--state {state}: no folder {state.parent}")
    if ledger is not None and (ledger.exists() or not ledger.parent.is_dir()):
        why = "already exists; a ledger holds one call" if ledger.exists() else f"no folder {ledger.parent}"
        raise InputError(f"--ledger {ledger}: {why}")
    shard_set = ShardSet(directory)
    names = None if tasks is None else tuple(t.strip() for t in tasks.split(",") if t.strip())
    wanted = Selection.resolve(shard_set, tasks=names)
    pairs = bool(wanted.tasks["pair"])
    if list_labels and pairs:
        raise CallError(f"--list-labels: {wanted.tasks['pair'][0].name} is of level pair, choose others with --tasks")
    config = StreamConfig(
        split=split,
        seed=seed,
        num_lanes=lanes,
        window_molecules=window_molecules,
        budget=Budget.parse(budget)
        if budget
        else Budget.suggest(shard_set, atoms=8192, list_labels=list_labels, tasks=wanted.names, pairs=pairs),
        oversize=cast("Oversize", oversize),
    )
    if list_labels and config.budget.labels is None:
        raise CallError(f"--list-labels: --budget {budget} has no room for labels, give G,A,E,L")
    loader = Loader(
        shard_set,
        config,
        rank=rank,
        world_size=world_size,
        num_threads=threads,
        tasks=names,
        encodings=tuple(e.strip() for e in encodings.split(",") if e.strip()),
        with_ids=ledger is not None,
    )
    if state is not None and state.exists():
        loader.seek(Cursor.read(state))
    # before anything is said
    loader.check_shards()
    plan = loader.plan
    typer.echo(
        f"{directory}, split {split}: {plan.num_steps:,} steps an epoch of {lanes} packs of {config.budget}; "
        f"windows in memory at most {loader.window_bytes() / 1e6:,.1f} MB",
        err=True,
    )
    if plan.num_oversize:
        typer.echo(f"{plan.num_oversize:,} molecules have more than {config.budget.max_atoms} atoms and are left out", err=True)
    stats, skipped = StreamStats(loader), SkippedList()
    # a signal ends the stream between two steps: what was handed out is in the ledger and in the cursor
    with bars() as progress, LedgerWriter(ledger) if ledger else nullcontext() as writer, StopFlag() as stop:
        while loader.epoch < epochs and (max_steps is None or stats.steps < max_steps) and not stop.is_set():
            rest = loader.plan.num_steps - loader.step + (epochs - loader.epoch - 1) * plan.num_steps
            total = stats.steps + rest if max_steps is None else min(stats.steps + rest, max_steps)
            stats.begin()
            for step in loader:
                stats.add(step)
                skipped.add(step.skipped)
                if writer:
                    writer.add(step)
                progress("stream", stats.steps, max(total, stats.steps))
                if stats.steps == max_steps or stop.is_set():
                    break
    if state is not None:
        write_state(state, loader.cursor)
    facts: dict = stats.read() | {"epoch": loader.epoch, "step": loader.step, "steps_an_epoch": plan.num_steps}
    typer.echo(
        f"{facts['molecules']:,} molecules, {facts['labels']:,} labels in {facts['steps']:,} steps: "
        f"{facts['molecules_per_s']:,.0f} molecules/s, {facts['labels_per_s']:,.0f} labels/s, "
        f"{facts['bytes_read_per_s'] / 1e6:,.1f} MB/s from disk; "
        f"atom slots {facts['atom_fill_fraction']:.1%} full, {facts['masked_packs']} masked packs, "
        f"{facts['rss_bytes'] / 1e6:,.0f} MB"
    )
    spent = {stage: facts[f"{stage}_fraction"] for stage in STAGES}
    typer.echo(
        f"  waited {facts['data_wait_fraction']:.1%} of the time for data (first step {facts['first_step_s']:.2f} s), "
        f"{facts['queue_fraction']:.0%} of {NUM_STEPS_AHEAD} steps ahead were ready; threads: "
        + ", ".join(f"{stage} {share:.0%}" for stage, share in spent.items() if share)
        + f", idle {max(0.0, 1 - sum(spent.values())):.0%}"
    )
    if skipped.number:
        typer.echo(f"  {skipped}", err=True)
    if as_json:
        typer.echo(json.dumps(facts))
    if stop.is_set():
        raise typer.Exit(130)


class SkippedList:
    """Counts molecules that were left out and names the first of them."""

    SHOWN = 10

    def __init__(self) -> None:
        self.number = 0
        self.first: list[int] = []

    def add(self, ids) -> None:
        self.number += len(ids)
        self.first += ids[: max(0, self.SHOWN - len(self.first))].tolist()

    def __str__(self) -> str:
        more = (
            f" and {self.number - len(self.first):,} more (--ledger lists all, with lane -1)" if self.number > self.SHOWN else ""
        )
        return f"left out, larger than a batch: {', '.join(map(str, self.first))}{more}"


def write_state(path: Path, cursor) -> None:
    """Replace the cursor file in one go."""
    beside = path.with_name(path.name + ".part")
    beside.write_text(cursor.encode())
    beside.rename(path)
