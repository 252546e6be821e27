"""Print what a shard set holds: counts, sizes, tasks, coverage, values, histograms, rejects, suggested budgets."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

BUDGETS = (1024, 8192, 16384, 65536)
"""Atoms per pack for which a budget is suggested."""
MAX_LINES = 100
"""Most tasks of a set that are printed one by one."""
WIDE = 256
"""Number of graph-level tasks from which listed labels are suggested."""
BAR = 40
"""Length of the longest bar of a histogram, in characters."""


def inspect(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A shard set.")],
    html: Annotated[
        Path | None,
        typer.Option("--html", metavar="FILE", help="Also write a page with plots, in one file (needs molstream[report])."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line.")] = False,
) -> None:
    from molstream.shards.format.block import FORMAT_VERSION
    from molstream.shards.format.reader import ShardSet
    from molstream.shards.format.summary import summarize
    from molstream.shards.store.writing import write_bytes
    from molstream.streamer.config import Budget

    shard_set = ShardSet(directory)
    facts = summarize(shard_set) | {
        "format_version": FORMAT_VERSION,
        "suggested_budgets": {str(atoms): str(Budget.suggest(shard_set, atoms=atoms)) for atoms in BUDGETS},
        "suggested_budgets_listed": {
            str(atoms): str(Budget.suggest(shard_set, atoms=atoms, list_labels=True)) for atoms in BUDGETS
        },
    }
    if html is not None:
        from molstream.tools.page import render_page

        write_bytes(html, render_page(facts).encode())
    _Printer().print(facts)
    if html is not None:
        typer.echo(f"page with plots: {html}", err=True)
    if as_json:
        typer.echo(json.dumps(facts))


class _Printer:
    """Prints tables as wide as the terminal, or whole lines to a file or a pipe, which have no width."""

    def __init__(self) -> None:
        from rich.console import Console

        # names must not be cut
        self.console = Console(width=None if sys.stdout.isatty() else 200, markup=False)

    def print(self, facts: dict) -> None:
        self.line(f"{facts['path']}  fingerprint {facts['fingerprint'][:12]}\n")
        counts = ("molecules", "atoms", "bonds", "blocks", "shards")
        self.table(
            f"Splits (by {facts['split_rule']})",
            ["split", *counts, "MB"],
            [[name, *(f"{t[k]:,}" for k in counts), f"{t['bytes'] / 1e6:,.1f}"] for name, t in facts["splits"].items()],
        )
        self.table(
            "Column groups",
            ["column group", "bytes per molecule"],
            [[name, f"{size:,.1f}"] for name, size in [*facts["bytes_a_molecule"].items()]]
            + [["all", f"{sum(facts['bytes_a_molecule'].values()):,.1f}"]],
        )
        if len(facts["sources"]) > 1:
            self.table(
                "Sources",
                ["source", "tasks", "labels", "covered"],
                [[s["source"], f"{s['tasks']:,}", f"{s['labels']:,}", f"{s['covered_fraction']:.1%}"] for s in facts["sources"]],
            )
        for task_set in facts["task_sets"]:
            self.task_set(task_set)
        self.histogram("Atoms per molecule", facts["histograms"]["atoms"], facts["molecules"])
        self.histogram("Bonds per molecule", facts["histograms"]["bonds"], facts["molecules"])
        self.shares("Elements", facts["histograms"]["elements"])
        self.shares("Bonds", facts["histograms"]["bond_types"])
        self.rest(facts)

    def table(self, title: str, head: list[str], rows: list[list[str]]) -> None:
        from rich.table import Table

        # the table's own title would be cut to the width of its columns
        self.console.print(title, style="bold", highlight=False, markup=False)
        grid = Table(box=None, pad_edge=False, header_style="italic")
        for k, name in enumerate(head):
            grid.add_column(name, justify="left" if k == 0 else "right", overflow="fold")
        for row in rows:
            grid.add_row(*row)
        self.console.print(grid, "")

    def line(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False)

    def task_set(self, task_set: dict) -> None:
        """One row per task. Regression is normalised as (x - mean) / std; classes are not normalised."""
        tasks, kind = task_set["tasks"], task_set["kind"]
        what = {"graph": "molecules", "atom": "atoms", "bond": "bonds", "pair": "pairs"}[task_set["level"]]
        shown, note = tasks, ""
        if len(tasks) > MAX_LINES:
            ranked = sorted(tasks, key=lambda t: t["covered_fraction"], reverse=True)
            shown = [*ranked[: MAX_LINES // 10], *ranked[-MAX_LINES // 10 :]]
            mean = sum(t["covered_fraction"] for t in tasks) / len(tasks)
            note = f"; covered {mean:.1%} on average, most and least covered (--json and --html have all)"
        classes = f", {task_set['num_classes']} classes" if task_set["num_classes"] > 2 else ""
        numbers = ("mean", "std", "min", "max")
        self.table(
            f"Task set {task_set['name']}: {len(tasks)} {task_set['level']}-level tasks, {kind}{classes}{note}",
            ["task", "unit", what, "covered", *numbers],
            [
                [t["name"], t["unit"], f"{t['labels']:,}", f"{t['covered_fraction']:.1%}"]
                + ["-" if t[n] is None else f"{t[n]:.5g}" for n in numbers]
                for t in shown
            ],
        )

    def histogram(self, title: str, counts: dict[str, int], total: int) -> None:
        """A histogram in about ten bins of whole numbers."""
        numbers = {int(key): count for key, count in counts.items()}
        low, high = min(numbers), max(numbers)
        width = max(1, -(-(high - low + 1) // 12))
        bins: dict[int, int] = {}
        for key, count in numbers.items():
            bins[(key - low) // width] = bins.get((key - low) // width, 0) + count
        most = max(bins.values())
        rows = []
        for k in range(max(bins) + 1):
            start, count = low + k * width, bins.get(k, 0)
            name = str(start) if width == 1 else f"{start} to {start + width - 1}"
            rows.append([name, f"{count:,}", f"{count / total:.1%}", ("█" * round(BAR * count / most)).ljust(BAR)])
        self.table(title, [title.split(maxsplit=1)[0].lower(), "molecules", "", ""], rows)

    def shares(self, title: str, counts: dict[str, int]) -> None:
        total = sum(counts.values())
        ranked = sorted(counts.items(), key=lambda item: -item[1])
        self.line(f"{title}: " + "  ".join(f"{name} {count / total:.2%}" for name, count in ranked[:12] if total))
        if rare := ranked[12:]:
            self.line(f"  and {', '.join(f'{name} {count:,}' for name, count in rare)}")

    def rest(self, facts: dict) -> None:
        sizes = facts["molecule_sizes"]
        self.line(
            f"Atoms per molecule: mean {sizes['mean']:.1f}, largest {sizes['max']} (id {sizes['max_id']}); bonds: mean "
            f"{sizes['mean_bonds']:.1f}, most {sizes['max_bonds']} (id {sizes['max_bonds_id']})\n"
            "Suggested budgets (graphs,atoms,edges): " + "  ".join(facts["suggested_budgets"].values())
        )
        if sum(len(s["tasks"]) for s in facts["task_sets"] if s["level"] == "graph") >= WIDE:
            self.line("With listed labels (graphs,atoms,edges,labels): " + "  ".join(facts["suggested_budgets_listed"].values()))
        if join := facts["join"]:
            self.line(
                f"Joined by {join['identity']}: {join['rows']:,} rows of {len(join['tables'])} tables, {join['molecules']:,} "
                f"molecules; {sum(t['duplicates'] for t in join['tables']):,} rows repeat one of their table, "
                f"{sum(join['conflicts'].values()):,} labels differ from an earlier row's, {join['across_splits']:,} rows are of "
                f"another split than their molecule (mapping.parquet)"
            )
        if facts["rejects"]:
            self.line(f"Rejected rows: {sum(facts['rejects'].values()):,} (rejects.parquet)")
            for reason, count in sorted(facts["rejects"].items(), key=lambda item: -item[1]):
                self.line(f"  {count:,}: {reason}")
        for kind, word in (("infinite", "Infinite labels"), ("nan", "Labels that are not a number")):
            if total := sum(d[kind] for d in facts["dropped_labels"].values()):
                self.line(f"{word} in the input, stored as absent: {total:,}")
