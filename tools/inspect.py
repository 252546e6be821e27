"""Show what a shard set holds: counts, tasks, label coverage, sizes, suggested budgets."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer


def inspect(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A shard set.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line.")] = False,
) -> None:
    from rich.console import Console
    from rich.table import Table

    from shards import ShardSet
    from streamer import Budget

    shard_set = ShardSet(directory)
    facts = describe(shard_set) | {
        "suggested_budgets": {str(atoms): str(Budget.suggest(shard_set, atoms=atoms)) for atoms in (1024, 8192, 16384)}
    }
    # a file or a pipe has no width to keep to, and names must be whole
    console = Console(width=None if sys.stdout.isatty() else 200)

    def table(title: str, head: list[str], rows: list[list[str]]) -> None:
        grid = Table(title=title, title_justify="left", box=None, pad_edge=False, title_style="bold", header_style="italic")
        for k, name in enumerate(head):
            grid.add_column(name, justify="left" if k == 0 else "right", overflow="fold")
        for row in rows:
            grid.add_row(*row)
        console.print(grid, "")

    console.print(f"{directory}  fingerprint {facts['fingerprint'][:12]}\n", highlight=False)
    table(
        "Splits",
        ["split", "molecules", "atoms", "bonds", "blocks", "shards", "MB"],
        [
            [name, *(f"{t[k]:,}" for k in ("molecules", "atoms", "bonds", "blocks", "shards")), f"{t['bytes'] / 1e6:,.1f}"]
            for name, t in facts["splits"].items()
        ],
    )
    table(
        "Column groups",
        ["group", "bytes a molecule"],
        [[name, f"{size:,.1f}"] for name, size in facts["bytes_a_molecule"].items()],
    )
    for task_set in facts["task_sets"]:
        table(
            f"Task set {task_set['name']}: {len(task_set['tasks'])} {task_set['level']}-level tasks, {task_set['kind']}",
            ["task", "unit", "molecules" if task_set["level"] == "graph" else "atoms", "covered", "mean", "std"],
            [
                [t["name"], t["unit"], f"{t['labels']:,}", f"{t['covered_fraction']:.1%}", f"{t['mean']:.5g}", f"{t['std']:.5g}"]
                for t in task_set["tasks"]
            ],
        )
    sizes = facts["molecule_sizes"]
    console.print(
        f"Atoms a molecule: mean {sizes['mean']:.1f}, largest {sizes['max']} (id {sizes['max_id']})\n"
        + "Suggested budgets (graphs,atoms,edges): "
        + "  ".join(facts["suggested_budgets"].values())
        + (f"\nRejected rows: {sum(facts['rejects'].values()):,} (rejects.parquet)" if facts["rejects"] else "")
        + (f"\nInfinite labels dropped: {sum(facts['dropped_labels'].values()):,}" if facts["dropped_labels"] else ""),
        highlight=False,
    )
    if as_json:
        typer.echo(json.dumps(facts))


def describe(shard_set) -> dict:
    """What there is to say about a shard set, from its manifest and index alone."""
    manifest, counts = shard_set.manifest, shard_set.index.counts
    molecules, atoms = int(counts["num_molecules"].sum()), int(counts["num_atoms"].sum())
    tasks = {task.name: task for task in manifest.tasks}
    largest = int(counts["max_atoms"].argmax())

    def task_facts(name: str) -> dict:
        labels = sum(manifest.labels[name].values())
        stats = manifest.statistics[name]
        return {
            "name": name,
            "unit": tasks[name].unit,
            "labels": labels,
            "covered_fraction": labels / (molecules if tasks[name].level == "graph" else atoms),
            "mean": stats.mean,
            "std": stats.std,
        }

    return {
        "fingerprint": manifest.fingerprint,
        "molecules": molecules,
        "atoms": atoms,
        "labels": sum(sum(by_split.values()) for by_split in manifest.labels.values()),
        "splits": manifest.splits,
        "bytes_a_molecule": {g: float(shard_set.index.members[f"{g}_bytes"].sum() / molecules) for g in manifest.column_groups},
        "task_sets": [
            {"name": s.name, "level": s.level, "kind": s.kind, "source": s.source, "tasks": [task_facts(t) for t in s.tasks]}
            for s in manifest.task_sets
        ],
        "molecule_sizes": {
            "mean": atoms / molecules,
            "max": int(counts["max_atoms"][largest]),
            "max_id": int(counts["max_atoms_id"][largest]),
        },
        "rejects": manifest.rejects,
        "dropped_labels": manifest.dropped_labels,
    }
