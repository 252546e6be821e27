"""How a run looks in a terminal: a live line, a line a validation, a table at the end."""

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from trainers.evaluate import Results

LOG_EVERY_S = 10.0


class TerminalReporter:
    """Progress on standard error: a live bar on a terminal, a line now and then elsewhere."""

    def __init__(self) -> None:
        self.console = Console(stderr=True, highlight=False)
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[values]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.task = self.bar.add_task("train", total=None, values="", start=False)
        self.printed = time.monotonic()

    def __enter__(self) -> "TerminalReporter":
        self.bar.start()
        return self

    def __exit__(self, *error) -> None:
        self.bar.stop()

    def start(self, *, step: int, num_steps: int, description: dict[str, str]) -> None:
        for name, text in description.items():
            self.message(f"{name:<7} {text}")
        self.num_steps, self.first, self.started = num_steps, step, time.monotonic()
        self.bar.update(self.task, total=num_steps, completed=step)
        self.bar.start_task(self.task)

    def progress(self, step: int, values: dict[str, float]) -> None:
        text = (
            f"loss {values['loss']:.3f}  {values['graphs_per_s']:,.0f} molecules/s  {values['labels_per_s']:,.0f} labels/s  "
            f"data wait {values['data_wait_fraction']:.0%}"
        )
        self.bar.update(self.task, completed=step, values=text)
        now = time.monotonic()
        if not self.console.is_terminal and now - self.printed > LOG_EVERY_S:
            left = (now - self.started) / max(1, step - self.first) * (self.num_steps - step)
            self.message(f"step {step:,} of {self.num_steps:,}  {text}  {left:,.0f} s left")
            self.printed = now

    def validation(self, results: Results) -> None:
        parts = [
            f"{name} MAE {s['mae']:.3f} (mean {s['mean_mae']:.3f})"
            for name, s in results.summary().items()
            if s["mae"] is not None
        ]
        self.message(f"step {results.step:,}  {results.split} of {results.molecules:,} molecules: {', '.join(parts)}")

    def message(self, text: str) -> None:
        if self.console.is_terminal:
            self.bar.console.print(text)
        else:
            print(text, file=sys.stderr, flush=True)


def skipped(problem: str) -> None:
    """A damaged checkpoint that an older one stands in for."""
    print(f"skipped: {problem}", file=sys.stderr)


def print_results(results: Results) -> None:
    """The table: a row a task set, then its best and worst tasks. Normalised units; undefined metrics are dashes."""

    def cell(value: float | None) -> str:
        return "-" if value is None else f"{value:.4f}"

    table = Table(
        title=f"{results.split}: {results.molecules:,} molecules, step {results.step:,}; in standard deviations of each label",
        title_justify="left",
        box=None,
        pad_edge=False,
        header_style="italic",
        title_style="bold",
    )
    for name in ("task set / task", "MAE", "MAE of the mean", "Pearson", "R²"):
        table.add_column(name, justify="left" if name.startswith("task") else "right", overflow="fold")
    for name, tasks in results.task_sets.items():
        summary = results.summary()[name]
        table.add_row(
            f"{name} ({len(tasks)} tasks)", *(cell(summary[k]) for k in ("mae", "mean_mae", "pearson", "r2")), style="bold"
        )
        ranked = sorted((t for t in tasks if t.r2 is not None), key=lambda t: t.r2 or 0.0, reverse=True)
        shown = [("best", t) for t in ranked[:2]] + [("worst", t) for t in ranked[2:][-2:]]
        for word, task in shown:
            table.add_row(f"  {word}: {task.task}", cell(task.mae), cell(task.mean_mae), cell(task.pearson), cell(task.r2))
    # a file or a pipe has no width to keep to, and names must be whole
    Console(width=None if sys.stdout.isatty() else 200).print(table, "")
