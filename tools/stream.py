"""Stream batches without training, and print rates, padding and memory. --ledger records which molecule came when."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from molstream.tools.groups import grouped
from molstream.tools.names import split_names

if TYPE_CHECKING:
    from molstream.shards.format.reader import ShardSet
    from molstream.streamer.config import Oversize, StreamConfig
    from molstream.streamer.loader import Loader
    from molstream.streamer.stats import StreamStats

DEFAULT_ATOMS = 8192
"""Atoms per pack of the budget that is suggested where none is given."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchArguments:
    """Which molecules and labels are in which batch."""

    split: Annotated[str, typer.Option("--split", help="Split to stream.")] = "train"
    lanes: Annotated[int, typer.Option("--lanes", help="Packs per step; lanes times budget is the batch size.")] = 8
    budget: Annotated[
        str | None,
        typer.Option(
            "--budget",
            metavar="G,A,E",
            help="Shape of a pack: graphs, atoms, directed edges; G,A,E,pairs=N for pair-level labels; default: for 8192 atoms.",
        ),
    ] = None
    list_labels: Annotated[
        bool,
        typer.Option(
            "--list-labels",
            help="Give graph labels as (graph, task, value), for thousands of tasks; L in --budget G,A,E,L.",
        ),
    ] = False
    oversize: Annotated[
        str,
        typer.Option(
            "--oversize",
            metavar="error|skip",
            help="Molecules larger than the budget: refuse, or leave out and list.",
        ),
    ] = "error"
    window_molecules: Annotated[int, typer.Option("--window-molecules", help="Least molecules that are shuffled together.")] = (
        12_288
    )
    seed: Annotated[int, typer.Option("--seed", min=0, max=2**63 - 1, help="Seed of the order of molecules.")] = 0
    tasks: Annotated[
        str | None, typer.Option("--tasks", metavar="A,B*", help="Read only these labels, by name or pattern; '' for none.")
    ] = None
    encodings: Annotated[
        str, typer.Option("--pe", help="Positional encodings: rw16, lap8 or rw16,lap8; they are computed where the set has none.")
    ] = ""

    def parse(self, shard_set: "ShardSet") -> "StreamConfig":
        """Raises CallError and BudgetError."""
        from molstream.streamer.config import Budget, StreamConfig
        from molstream.streamer.errors import CallError
        from molstream.streamer.selection import Selection

        wanted = Selection.resolve(shard_set, tasks=self.task_names)
        pairs = wanted.tasks["pair"]
        if self.list_labels and pairs:
            raise CallError(f"--list-labels: {pairs[0].name} is of level pair, choose others with --tasks")
        budget = (
            Budget.parse(self.budget)
            if self.budget
            else Budget.suggest(
                shard_set, atoms=DEFAULT_ATOMS, list_labels=self.list_labels, tasks=wanted.names, pairs=bool(pairs)
            )
        )
        config = StreamConfig(
            split=self.split,
            seed=self.seed,
            num_lanes=self.lanes,
            window_molecules=self.window_molecules,
            budget=budget,
            oversize=cast("Oversize", self.oversize),
        )
        if self.list_labels and budget.labels is None:
            raise CallError(f"--list-labels: --budget {self.budget} has no room for labels, give G,A,E,L")
        return config

    @property
    def task_names(self) -> tuple[str, ...] | None:
        """Names and patterns of tasks; None: all."""
        return None if self.tasks is None else tuple(split_names("--tasks", self.tasks))

    @property
    def columns(self) -> dict[str, Any]:
        """What the loader is to read."""
        return {"tasks": self.task_names, "encodings": _split(self.encodings)}


@dataclass(frozen=True, kw_only=True, slots=True)
class RankArguments:
    """Which share of the lanes this process streams."""

    world_size: Annotated[int | None, typer.Option("--world-size", help="Ranks that share the lanes. [default: 1]")] = None
    rank: Annotated[int | None, typer.Option("--rank", help="Rank of this process, from 0. [default: 0]")] = None
    threads: Annotated[int, typer.Option("--threads", help="Threads that decode, pack and collate.")] = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class RunArguments:
    """Where the stream starts and ends, and which files it writes."""

    epochs: Annotated[int, typer.Option("--epochs", min=1, help="Stop after this many epochs, counted from the first.")] = 1
    max_steps: Annotated[int | None, typer.Option("--max-steps", min=0, help="Stop after this many steps of this call.")] = None
    state: Annotated[
        Path | None,
        typer.Option("--state", help="Start from the cursor in this file if it exists, and write it at the end."),
    ] = None
    ledger: Annotated[
        Path | None,
        typer.Option("--ledger", help="Write one Parquet row per molecule: epoch, step, lane, set, id; lane -1: left out."),
    ] = None

    def check(self) -> None:
        """Raise InputError for files that cannot be written."""
        from molstream.shards.errors import InputError

        if self.state is not None and not self.state.parent.is_dir():
            # written last, so a mistake here would cost the whole run its cursor
            raise InputError(f"--state {self.state}: no folder {self.state.parent}")
        if self.ledger is not None and (self.ledger.exists() or not self.ledger.parent.is_dir()):
            why = "already exists; a ledger holds one call" if self.ledger.exists() else f"no folder {self.ledger.parent}"
            raise InputError(f"--ledger {self.ledger}: {why}")


@grouped
def stream(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A shard set.")],
    *,
    batches: BatchArguments,
    ranks: RankArguments,
    run: RunArguments,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line.")] = False,
) -> None:
    from molstream.shards.workers.ahead import compile_ahead

    # before torch is imported, which takes as long as some kernels
    compile_ahead("stream", *(("encode",) if batches.encodings else ()))

    from molstream.shards.format.reader import ShardSet
    from molstream.streamer.cursor import read_cursor
    from molstream.streamer.dry_run import dry_run
    from molstream.streamer.loader import Loader
    from molstream.tools.progress import bars
    from molstream.tools.stop import StopFlag

    run.check()
    shard_set = ShardSet(directory)
    loader = Loader(
        shard_set,
        batches.parse(shard_set),
        rank=ranks.rank,
        world_size=ranks.world_size,
        num_threads=ranks.threads,
        with_ids=run.ledger is not None,
        **batches.columns,
    )
    if run.state is not None and run.state.exists():
        loader.seek(read_cursor(run.state))
    # before anything is said
    loader.check_shards()
    _print_plan(loader, directory)
    steps_per_epoch = len(loader)
    with bars() as progress, StopFlag() as stop:
        stats = dry_run(
            loader,
            epochs=run.epochs,
            max_steps=run.max_steps,
            ledger=run.ledger,
            should_stop=stop.is_set,
            on_step=lambda done, total: progress("stream", done, total),
        )
    if run.state is not None:
        loader.cursor.write(run.state)
    facts: dict = stats.read() | {"epoch": loader.epoch, "step": loader.step, "steps_an_epoch": steps_per_epoch}
    _print_rates(facts)
    _print_skipped(stats)
    if as_json:
        typer.echo(json.dumps(facts))
    if stop.is_set():
        raise typer.Exit(130)


def _split(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _print_plan(loader: "Loader", directory: Path) -> None:
    config, plan = loader.config, loader.plan
    typer.echo(
        f"{directory}, split {config.split}: {plan.num_steps:,} steps per epoch of {config.num_lanes} packs of {config.budget}; "
        f"windows in memory at most {loader.window_bytes() / 1e6:,.1f} MB",
        err=True,
    )
    if plan.num_oversize:
        typer.echo(f"{plan.num_oversize:,} molecules have more than {config.budget.max_atoms} atoms and are left out", err=True)


def _print_rates(facts: dict) -> None:
    from molstream.streamer.loader import NUM_STEPS_AHEAD
    from molstream.streamer.stages import STAGES

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


def _print_skipped(stats: "StreamStats") -> None:
    if not stats.skipped:
        return
    rest = stats.skipped - len(stats.first_skipped)
    more = f" and {rest:,} more (--ledger lists all, with lane -1)" if rest else ""
    typer.echo(f"  left out, larger than the budget: {', '.join(map(str, stats.first_skipped))}{more}", err=True)
