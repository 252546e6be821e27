"""Metrics of every task, streamed: constant memory, any order of packs, any number of ranks.

Class metrics are a pure function of the predictions, to the bit (`histograms`); regression metrics are so up to the rounding of
float64 (`regression`). The price: AUROC and average precision of tasks with more than 1,024 labels are within 1e-3, not exact.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
import torch.distributed as dist
from torch import Tensor

from molstream.trainers.metrics.histograms import Histograms
from molstream.trainers.metrics.regression import RegressionState, regression_values
from molstream.trainers.spec import DataSpec, HeadSpec

REGRESSION = ("mae", "mae_raw", "mean_mae", "rmse", "pearson", "r2")
CLASSES = ("auroc", "ap", "accuracy")


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskMetrics:
    """One task."""

    task: str
    unit: str
    trained: bool
    """Whether the training split has a label of it. A task without is left out of means, and has no mean_mae."""
    count: int
    """Labels."""
    nonfinite: int
    """Labels whose prediction is not finite, or that are no value (class) of the task. With any, all metrics are None: what is
    left would be a clean number of a broken model."""
    values: dict[str, float | None]
    """Metric -> value, None where the labels do not define it.

    Regression, in normalised units: mae, mean_mae (of predicting the training mean), rmse, pearson, r2; mae_raw in `unit`.
    Classes: accuracy; auroc and ap, of more than two classes the mean over those that some labels are and some are not."""


class Metrics:
    """Metrics of every task set.

    State is on the device of the first predictions: 120 bytes per regression task; 24 bytes per class task and 24 KiB per class
    of it (a binary task has one): 31 MiB for 1,328 binary tasks, 70 MiB for 978 of three classes.
    """

    def __init__(self, spec: DataSpec):
        self.spec = spec
        self._columns: dict[str, slice] = {}
        """Of each task set among the regression tasks or the class tasks."""
        self._classes: dict[str, slice] = {}
        """Of each class task set among the columns of scores."""
        self._num = {"regression": 0, "class": 0, "score": 0}
        for head in spec.heads:
            self._columns[head.name] = self._take("regression" if head.kind == "regression" else "class", len(head.tasks))
            if head.kind != "regression":
                self._classes[head.name] = self._take("score", len(head.tasks) * head.num_outputs)
        self._regression: RegressionState | None = None
        self._merged = False

    def _take(self, what: str, num: int) -> slice:
        start = self._num[what]
        self._num[what] += num
        return slice(start, start + num)

    def _start(self, device: torch.device) -> None:
        """Make the state, which stays where the first predictions are."""
        if self._regression is None:
            self._regression = RegressionState(self._num["regression"], device)
            self._histograms = Histograms(self._num["score"], device)
            self._tally = torch.zeros(3, self._num["class"], dtype=torch.int64, device=device)

    # tensors made in inference mode could not be written to outside it
    @torch.inference_mode(mode=False)
    @torch.no_grad()
    def add(
        self,
        predictions: dict[str, Tensor],
        targets: dict[str, tuple[Tensor, Tensor]],
        raw_errors: Mapping[str, Tensor] = MappingProxyType({}),
    ) -> None:
        """Add one pack: {task set: predictions}, {task set: (target (M, T), mask (M, T) bool)}.

        Predictions are (M, T) for regression (normalised) and binary (logits), (M, T, C) logits for ordinal and multiclass;
        targets are normalised values or class numbers. Entries where the mask is False may be anything. `raw_errors`:
        absolute errors (M, T) in raw units of task sets where these are not the normalised ones times the scale. At most one host
        sync.
        """
        assert not self._merged, "metrics of all ranks are final: more packs would count on one rank only"
        parts = []
        for head in self.spec.heads:
            if head.name not in targets:
                continue
            prediction, (target, mask) = predictions[head.name], targets[head.name]
            shape = mask.shape if head.kind in ("regression", "binary") else (*mask.shape, head.num_outputs)
            assert prediction.shape == shape, f"{head.name}: predictions {tuple(prediction.shape)}, not {tuple(shape)}"
            assert target.shape == mask.shape, f"{head.name}: targets {tuple(target.shape)}, not {tuple(mask.shape)}"
            self._start(prediction.device)
            assert self._regression is not None
            if head.kind == "regression":
                self._regression.add(self._columns[head.name], prediction, target, mask, raw_errors.get(head.name))
            else:
                parts.append(self._class_part(head, prediction, target, mask))
        if parts:
            self._histograms.add(parts)

    def _class_part(
        self, head: HeadSpec, prediction: Tensor, target: Tensor, mask: Tensor
    ) -> tuple[slice, Tensor, Tensor, Tensor]:
        """Tally a pack of a class task set; its columns, scores, positives and valid entries (M, T C)."""
        logits = prediction.double() if head.kind != "binary" else prediction.double()[..., None]
        is_class = (target == target.round()) & (target >= 0) & (target < max(2, head.num_outputs))
        valid = mask & is_class & torch.isfinite(logits).all(dim=-1)
        logits, target = torch.where(valid[..., None], logits, 0), torch.where(valid, target, 0)
        if head.kind == "binary":
            scores, chosen, positive = logits, logits[..., 0] > 0, (target == 1)[..., None]
        else:
            scores, chosen = _one_against_rest(logits), logits.argmax(dim=-1)
            positive = target[..., None] == torch.arange(head.num_outputs, device=target.device)
        self._tally[:, self._columns[head.name]] += torch.stack(
            [mask.sum(0), (valid & (chosen == target)).sum(0), (mask & ~valid).sum(0)]
        )
        entries = valid[..., None].expand_as(scores)
        return self._classes[head.name], scores.flatten(1), positive.flatten(1), entries.flatten(1)

    @torch.inference_mode(mode=False)
    @torch.no_grad()
    def merge(self) -> None:
        """Totals over all ranks of the default process group, on every rank; nothing without one. Collective, and once."""
        if not (dist.is_available() and dist.is_initialized()):
            return
        assert not self._merged, "metrics of all ranks, merged again, would count every label once a rank"
        self._merged = True
        # gloo where there is one: it is once an evaluation, and the state may be on a CPU
        cpu = "cpu:" in str(dist.get_backend_config()) or dist.get_backend() == "gloo"
        device = torch.device("cpu") if cpu else torch.device("cuda", torch.cuda.current_device())
        self._start(device)  # a rank without packs
        assert self._regression is not None
        self._regression.merge(device)
        self._histograms.merge(device)
        tally = self._tally.to(device)
        dist.all_reduce(tally)
        self._tally = tally.to(self._tally.device)

    @property
    def num_bytes(self) -> int:
        """Of the state."""
        if self._regression is None:
            return 0
        h = self._histograms
        return sum(t.nbytes for t in (self._regression.state, self._tally, *(getattr(h, name) for name in h.STATE)))

    @torch.inference_mode(mode=False)
    @torch.no_grad()
    def tasks(self) -> dict[str, list[TaskMetrics]]:
        """{task set: metrics of each task}."""
        self._start(torch.device("cpu"))
        assert self._regression is not None
        regression, tally = self._regression.tasks(), self._tally.T.tolist()
        auroc, ap = self._histograms.values()
        out = {}
        for head in self.spec.heads:
            columns = self._columns[head.name]
            if head.kind == "regression":
                stds = [None] * len(head.tasks) if head.knots else head.std
                rows = [self._regression_row(*row) for row in zip(regression[columns], stds, head.trained, strict=True)]
            else:
                scores = self._classes[head.name]
                # classes without labels on both sides are NaN; so is the mean over none
                means = (x[scores].view(len(head.tasks), -1).nanmean(dim=1).tolist() for x in (auroc, ap))
                rows = [
                    (count, bad, {"auroc": a, "ap": b, "accuracy": correct / max(1, count)})
                    for (count, correct, bad), a, b in zip(tally[columns], *means, strict=True)
                ]
            out[head.name] = [
                TaskMetrics(
                    task=task,
                    unit=unit,
                    trained=trained,
                    count=count,
                    nonfinite=bad,
                    values=_defined(values, count > bad == 0),
                )
                for task, unit, trained, (count, bad, values) in zip(head.tasks, head.units, head.trained, rows, strict=True)
            ]
        return out

    @staticmethod
    def _regression_row(s: dict[str, float], std: float | None, trained: bool) -> tuple[int, int, dict[str, float | None]]:
        values: dict[str, float | None] = dict.fromkeys(REGRESSION)
        if s["count"]:
            values |= regression_values(s, std)
        if not trained:
            # there is no mean to predict
            values["mean_mae"] = None
        return int(s["count"] + s["nonfinite"]), int(s["nonfinite"]), values


def _one_against_rest(logits: Tensor) -> Tensor:
    """log p - log(1 - p) of each class (..., C), p its softmax probability.

    Only the most probable class may have p near 1, where 1 - p has no digits: its rest is summed without it.
    """
    log_p = torch.log_softmax(logits, dim=-1)
    best = logits.argmax(dim=-1, keepdim=True)
    rest = log_p.scatter(-1, best, -math.inf)
    scores = log_p - torch.log1p(-log_p.exp())
    return scores.scatter(-1, best, log_p.gather(-1, best) - rest.logsumexp(dim=-1, keepdim=True))


def _defined(values: dict[str, float | None], whole: bool) -> dict[str, float | None]:
    """None for what is not a number, and for all of a task without labels or with predictions that are none."""
    return {name: v if whole and v is not None and math.isfinite(v) else None for name, v in values.items()}


def summarize(tasks: list[TaskMetrics]) -> dict[str, float | None]:
    """Of each metric the mean over the trained tasks that define it, None if none does; mae_raw only where these have a common
    unit."""
    out: dict[str, float | None] = {}
    tasks = [task for task in tasks if task.trained]
    unit = common_unit(tasks)
    for name in dict.fromkeys(name for task in tasks for name in task.values):
        if name == "mae_raw" and not unit:
            continue
        there = [v for task in tasks if (v := task.values.get(name)) is not None]
        out[name] = math.fsum(there) / len(there) if there else None
    return out


def common_unit(tasks: list[TaskMetrics]) -> str:
    """The unit in which the trained ones of these tasks have a mean error; empty where they have none, since a mean over unlike
    scales says nothing: such are pure numbers ('1'), unless there is one task."""
    units = [task.unit for task in tasks if task.trained]
    return units[0] if len(units) == 1 or (len({*units}) == 1 and units[0] != "1") else ""
