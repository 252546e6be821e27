"""How a run looks in a terminal: a live line, one line per validation, a table at the end."""

import sys
import time
from collections.abc import Mapping

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from molstream.trainers.jobs.evaluate import Results
from molstream.trainers.metrics.metrics import common_unit
from molstream.trainers.spec import HeadSpec

LOG_EVERY_S = 10.0


class TerminalReporter:
    """Progress on standard error: a live bar on a terminal, a line every ten seconds elsewhere."""

    def __init__(self) -> None:
        self.console = Console(stderr=True, highlight=False, markup=False)
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

    def progress(self, step: int, values: dict[str, float | None]) -> None:
        loss = "-" if values["loss"] is None else f"{values['loss']:.3f}"
        text = (
            f"loss {loss}  {values['graphs_per_s']:,.0f} molecules/s  {values['labels_per_s']:,.0f} labels/s  "
            f"data wait {values['data_wait_fraction']:.0%}"
        )
        self.bar.update(self.task, completed=step, values=text)
        now = time.monotonic()
        if not self.console.is_terminal and now - self.printed > LOG_EVERY_S:
            left = (now - self.started) / max(1, step - self.first) * (self.num_steps - step)
            self.message(f"step {step:,} of {self.num_steps:,}  {text}  {left:,.0f} s left")
            self.printed = now

    def validation(self, results: Results) -> None:
        parts = [describe(name, values) for name, values in results.summary().items() if values["loss"] is not None]
        self.message(f"step {results.step:,}  {results.split} of {results.molecules:,} molecules: {', '.join(parts)}")

    def message(self, text: str) -> None:
        if self.console.is_terminal:
            self.bar.console.print(text)
        else:
            print(text, file=sys.stderr, flush=True)


def skipped(problem: str) -> None:
    """Report a damaged checkpoint that an older one replaces."""
    print(f"skipped: {problem}", file=sys.stderr)


def describe(name: str, values: dict[str, float | None]) -> str:
    """A task set in a few words, by its main metrics."""
    mae, mean_mae, auroc, ap = (values.get(metric) for metric in ("mae", "mean_mae", "auroc", "ap"))
    if mae is not None:
        return f"{name} MAE {mae:.3f} (mean {mean_mae:.3f})"
    if auroc is not None:
        return f"{name} AUROC {auroc:.3f}, AP {ap:.3f}"
    return f"{name} loss {values['loss']:.3f}"


COLUMNS = {
    True: {"mae": "MAE", "mean_mae": "MAE of the mean", "rmse": "RMSE", "pearson": "Pearson", "r2": "R²"},
    False: {"auroc": "AUROC", "ap": "AP", "accuracy": "accuracy"},
}
"""Metrics that are printed, for regression (True) and for classes."""


def print_results(results: Results, *, every_task: bool = False) -> None:
    """Print one table for regression and one for classes: a row per task set and level, and the best and worst tasks or all.

    Units are normalised; the MAE is also printed in the task's unit. Undefined metrics are dashes.
    """
    # a file or a pipe has no width, and names must not be cut
    console = Console(width=None if sys.stdout.isatty() else 200, markup=False)
    loss = None if set(results.losses.values()) == {None} else results.loss
    console.print(f"{results.split}: {results.molecules:,} molecules, step {results.step:,}, loss {_cell(loss)}", style="bold")
    for regression, columns in COLUMNS.items():
        heads = [head for head in results.heads if (head.kind == "regression") == regression]
        if heads:
            console.print(_table(results, heads, columns, every_task=every_task), "")


def _table(results: Results, heads: list[HeadSpec], columns: dict[str, str], *, every_task: bool) -> Table:
    raw = "mae" in columns
    table = Table(box=None, pad_edge=False, header_style="italic")
    by = "" if every_task else f" (best and worst by {columns['r2' if raw else 'auroc']})"
    names = [f"task set / task{by}", "labels", *columns.values(), *(["MAE, unit"] if raw else [])]
    for name in names:
        table.add_column(name, justify="left" if name.startswith("task") else "right", overflow="fold")

    def add(name: str, count: int, values: Mapping[str, float | None], unit: str = "", style: str | None = None) -> None:
        cells = [_cell(values.get(metric)) for metric in columns]
        in_unit = [f"{_cell(values.get('mae_raw'))} {unit}".strip() if unit else ""] if raw else []
        table.add_row(name, f"{count:,}", *cells, *in_unit, style=style)

    summary, key = results.summary(), "r2" if raw else "auroc"
    for head in heads:
        tasks = results.tasks[head.name]
        count = sum(task.count for task in tasks)
        add(
            f"{head.name} ({len(tasks)} {head.level} task{'s' if len(tasks) > 1 else ''})",
            count,
            summary[head.name],
            common_unit(tasks),
            style="bold",
        )
        trained = [task for task in tasks if task.trained]
        ranked = sorted((t for t in trained if t.values[key] is not None), key=lambda t: t.values[key] or 0.0, reverse=True)
        # for a single task, the row of its set suffices
        shown = [("best: ", t) for t in ranked[:2]] + [("worst: ", t) for t in ranked[2:][-2:]] if len(tasks) > 1 else []
        for word, task in [("", task) for task in tasks] if every_task else shown:
            add(f"  {word}{task.task}", task.count, task.values, task.unit)
        if len(trained) < len(tasks):
            table.add_row(f"  {len(tasks) - len(trained)} of them without a label in training, left out of means")
        if undefined := sum(task.values[key] is None for task in trained):
            table.add_row(f"  {undefined} of them without a defined {columns[key]}")
    for name, values in results.levels().items():
        together = [head for head in heads if f"{head.level} {head.kind}" == name]
        if len(together) > 1:
            tasks = [task for head in together for task in results.tasks[head.name]]
            add(f"{name} ({len(tasks)} tasks)", sum(task.count for task in tasks), values, common_unit(tasks), style="bold")
    return table


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
