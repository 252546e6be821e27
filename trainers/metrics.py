"""Streaming metrics in constant memory: MAE, Pearson and R² per task from sums in float64."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from trainers.spec import DataSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskMetrics:
    """One task, in normalised units; None where the labels do not define it."""

    task: str
    count: int
    mae: float | None
    mean_mae: float | None
    """MAE of predicting the training mean."""
    pearson: float | None
    r2: float | None


class RegressionMetrics:
    """Sums over (prediction, target) pairs of the T tasks of one task set."""

    _SUMS = ("count", "abs_error", "error2", "p", "p2", "y", "y2", "py", "abs_y")

    def __init__(self, num_tasks: int):
        self.sums = {name: torch.zeros(num_tasks, dtype=torch.float64) for name in self._SUMS}

    def add(self, prediction: Tensor, target: Tensor, mask: Tensor) -> None:
        """Add rows (M, T); only entries where `mask` is True count."""
        p, y = (torch.where(mask, x, 0.0).double() for x in (prediction, target))
        error = p - y
        parts = (mask.double(), error.abs(), error**2, p, p**2, y, y**2, p * y, y.abs())
        for name, part in zip(self._SUMS, parts, strict=True):
            self.sums[name] += part.sum(dim=0).cpu()

    def tasks(self, names: tuple[str, ...]) -> list[TaskMetrics]:
        """Metrics of each task."""
        return [self._task(name, {k: float(v[t]) for k, v in self.sums.items()}) for t, name in enumerate(names)]

    @staticmethod
    def _task(name: str, s: dict[str, float]) -> TaskMetrics:
        n = s["count"]
        if n == 0:
            return TaskMetrics(task=name, count=0, mae=None, mean_mae=None, pearson=None, r2=None)
        var_p, var_y = s["p2"] - s["p"] ** 2 / n, s["y2"] - s["y"] ** 2 / n
        cov = s["py"] - s["p"] * s["y"] / n
        # a variance below rounding is none at all
        some_p, some_y = var_p > 1e-12 * max(s["p2"], 1e-30), var_y > 1e-12 * max(s["y2"], 1e-30)
        return TaskMetrics(
            task=name,
            count=int(n),
            mae=s["abs_error"] / n,
            mean_mae=s["abs_y"] / n,
            pearson=cov / math.sqrt(var_p * var_y) if n > 1 and some_p and some_y else None,
            r2=1 - s["error2"] / var_y if n > 1 and some_y else None,
        )


def summarize(tasks: list[TaskMetrics]) -> dict[str, float | None]:
    """Mean over the tasks for which a metric is defined."""
    out = {}
    for name in ("mae", "mean_mae", "pearson", "r2"):
        values = [v for t in tasks if (v := getattr(t, name)) is not None]
        out[name] = sum(values) / len(values) if values else None
    return out


class Metrics:
    """Metrics of every task set."""

    def __init__(self, spec: DataSpec):
        self.spec = spec
        self.by_head = {head.name: RegressionMetrics(len(head.tasks)) for head in spec.heads}

    def add(self, predictions: dict[str, Tensor], targets: dict[str, tuple[Tensor, Tensor]]) -> None:
        """Add one pack."""
        for name, (target, mask) in targets.items():
            self.by_head[name].add(predictions[name], target, mask)

    def tasks(self) -> dict[str, list[TaskMetrics]]:
        """{task set: metrics of each task}."""
        return {head.name: self.by_head[head.name].tasks(head.tasks) for head in self.spec.heads}
