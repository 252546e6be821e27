"""The plot of a run, run.png, drawn from its log. It needs matplotlib (`molstream[report]`) and is not drawn without it."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from molstream.shards.store.writing import write_bytes
from molstream.trainers.runs.log import read_log

PLOT = "run.png"
MEASURES = {"mae": "MAE", "mean_mae": "MAE of the mean", "auroc": "AUROC", "ap": "AP"}
"""Metrics that are drawn: for regression in normalised units, then for classes."""
MAX_POINTS = 2000
"""Most points of a line; longer lines are thinned."""


def plot_run(run: Path) -> Path | None:
    """Draw a run's log into its folder. Returns the path, or None if matplotlib is missing or the log has no line."""
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator
    except ModuleNotFoundError:
        return None
    lines = read_log(run)
    train = _thin([line for line in lines if line["kind"] == "train"])
    validation = [line for line in lines if line["kind"] == "validation"]
    if not train:
        return None
    sets = [name.removeprefix("loss_") for name in train[-1] if name.startswith("loss_")]
    # independent of the reader's matplotlibrc
    with rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.3}):
        figure = Figure(figsize=(11, 7), layout="constrained")
        loss, metric, rate, speed = figure.subplots(2, 2).flat
        for k, name in enumerate(sets):
            _draw(loss, train, f"loss_{name}", color=f"C{k}", label=f"{name}, training", alpha=0.5, linewidth=0.8)
            _draw(loss, validation, f"{name}_loss", color=f"C{k}", label=f"{name}, validation", marker="o", markersize=3)
            for measure, style in zip(MEASURES, ("-", ":", "-", "--"), strict=True):
                _draw(
                    metric, validation, f"{name}_{measure}", color=f"C{k}", label=f"{name} {MEASURES[measure]}", linestyle=style
                )
        loss.set_yscale("log")
        _draw(rate, train, "learning_rate", color="C0", label="learning rate")
        _draw(norm := rate.twinx(), train, "gradient_norm", color="C1", label="gradient norm", alpha=0.6, linewidth=0.8)
        norm.set_yscale("log")
        _draw(speed, train, "graphs_per_s", color="C0", label="molecules/s")
        _draw(share := speed.twinx(), train, "data_wait_fraction", color="C1", label="data wait", linewidth=0.8)
        share.set_ylim(0, 1)
        for axes, label in ((rate, "learning rate"), (norm, "gradient norm"), (speed, "molecules/s"), (share, "data wait")):
            axes.set_ylabel(label)
        for axes, title in (
            (loss, "loss of each task set"),
            (metric, "validation metrics, mean over tasks"),
            (rate, "learning rate, gradient norm"),
            (speed, "molecules per second, share of time waiting for data"),
        ):
            axes.set_title(title)
            axes.set_xlabel("step")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        for pair in ((loss,), (metric,), (rate, norm), (speed, share)):
            handles = [handle for axes in pair for handle in axes.get_legend_handles_labels()[0]]
            if handles:
                # beside the curves, not over them
                pair[0].legend(
                    handles=handles, fontsize=7, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.14), frameon=False
                )
        picture = io.BytesIO()
        figure.savefig(picture, format="png", dpi=110)
    write_bytes(run / PLOT, picture.getvalue())
    return run / PLOT


def _draw(axes: Any, lines: Sequence[dict], name: str, **style: Any) -> None:
    points = [(line["step"], line[name]) for line in lines if isinstance(line.get(name), (int, float))]
    if points:
        axes.plot(*zip(*points, strict=True), **style)


def _thin(lines: list[dict]) -> list[dict]:
    """Every n-th line, and the last."""
    step = -(-len(lines) // MAX_POINTS) or 1
    return [*lines[:-1:step], *lines[-1:]]
