"""Rates and means since the last line of the log, over all processes.

A loss is the mean over labels, as an evaluation's is: the errors of all finite steps over the number of their labels. So what is
logged does not depend on how labels are spread over steps, and a task set of which no label came has none.
"""

import time
from collections.abc import Sequence

import psutil
import torch
from torch import Tensor

from molstream.streamer.config import Budget
from molstream.streamer.loader import Step
from molstream.trainers.distributed.process_group import ProcessGroup
from molstream.trainers.models.loss import count_labels
from molstream.trainers.spec import DataSpec
from molstream.trainers.training.step import StepResult

COUNTS = ("graphs", "atoms", "wait_us")
"""What is counted in each step beside the labels of each task set."""


def count_step(item: Step, spec: DataSpec) -> list[int]:
    """Whole numbers, to be summed over processes: `COUNTS`, then the labels of each task set."""
    graphs, atoms = (sum(getattr(batch, name) for batch in item.batches) for name in ("num_graphs", "num_atoms"))
    return [graphs, atoms, round(1e6 * item.wait_s), *count_labels(item.batches, spec)]


class LogInterval:
    """Sums over the steps between two lines of the log. Those of losses lie on the device, and only `read` waits for it."""

    def __init__(self, spec: DataSpec, device: torch.device):
        self.task_sets = spec.task_sets
        self.start, self.steps = time.perf_counter(), 0
        self.counts = [0] * (len(COUNTS) + len(spec.task_sets))
        self.clips = any(head.clip for head in spec.heads)
        # over finite steps: this process's errors of each task set, its share of what is minimised, its clipped labels; then, the
        # same in all processes, labels of each task set, the gradient's norm, and the number of steps
        self.sums = torch.zeros(2 * len(spec.task_sets) + 4, dtype=torch.float64, device=device)

    def add(self, result: StepResult, totals: Sequence[int]) -> None:
        """A step, with `totals` of `count_step` over all processes."""
        self.steps += 1
        self.counts = [a + b for a, b in zip(self.counts, totals, strict=True)]
        total, shares = result.losses[:1].double(), result.losses[1:].double()
        norm, one = result.norm.view(1).double(), torch.ones_like(total)
        values = torch.cat([shares * result.num_labels, total, result.num_clipped.view(1).double(), result.num_labels, norm, one])
        self.sums += torch.where(result.is_finite, values, 0.0)

    def read(self, budget: Budget, recipe_lanes: int, processes: ProcessGroup) -> dict[str, float | None]:
        """Means and rates; a mean over nothing is None. Collective.

        `loss` is the mean over task sets, `objective` what was minimised, which differs by learned weights and by the steps in
        which a task set has no label.
        """
        seconds = time.perf_counter() - self.start
        sums: Tensor = self.sums.cpu()
        num_sets = len(self.task_sets)
        *errors, objective, clipped = processes.sum(sums[: num_sets + 2]).tolist()
        *num_labels, norm, finite = sums[num_sets + 2 :].tolist()
        losses = {f"loss_{name}": _mean(e, n) for name, e, n in zip(self.task_sets, errors, num_labels, strict=True)}
        there = [loss for loss in losses.values() if loss is not None]
        graphs, atoms, wait_us, *labels = self.counts
        return (
            {"loss": _mean(sum(there), len(there))}
            | losses
            | {
                "objective": _mean(objective, finite),
                "gradient_norm": _mean(norm, finite),
                "graphs_per_s": graphs / seconds,
                "atoms_per_s": atoms / seconds,
                "labels_per_s": sum(labels) / seconds,
                "data_wait_fraction": wait_us / 1e6 / processes.world_size / seconds,
                "atom_fill_fraction": atoms / (self.steps * recipe_lanes * (budget.atoms - 1)),
                "rss_bytes": float(psutil.Process().memory_info().rss),
            }
            | ({"clipped_fraction": _mean(clipped, sum(num_labels))} if self.clips else {})
            | ({"gpu_bytes": float(torch.cuda.max_memory_allocated())} if self.sums.is_cuda else {})
        )


def _mean(total: float, number: float) -> float | None:
    return total / number if number else None
