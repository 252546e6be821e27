"""Rates and means since the last line of the log, over all processes."""

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
        self.names = ["loss", *(f"loss_{name}" for name in spec.task_sets), "gradient_norm"]
        self.start, self.steps = time.perf_counter(), 0
        self.counts = [0] * (len(COUNTS) + len(spec.task_sets))
        # of losses, norms and the number of steps that were finite
        self.sums = torch.zeros(len(self.names) + 1, dtype=torch.float64, device=device)

    def add(self, result: StepResult, totals: Sequence[int]) -> None:
        """A step, with `totals` of `count_step` over all processes."""
        self.steps += 1
        self.counts = [a + b for a, b in zip(self.counts, totals, strict=True)]
        values = torch.cat([result.losses, result.norm.view(1), torch.ones_like(result.norm.view(1))]).double()
        self.sums += torch.where(result.is_finite, values, 0.0)

    def read(self, budget: Budget, recipe_lanes: int, processes: ProcessGroup) -> dict[str, float]:
        """Means and rates. Collective."""
        seconds = time.perf_counter() - self.start
        sums: Tensor = self.sums.cpu()
        # the norm and the number of steps are the same in all processes, losses are parts
        losses = processes.sum(sums[:-2])
        finite = max(1.0, float(sums[-1]))
        graphs, atoms, wait_us, *labels = self.counts
        return (
            dict(zip(self.names, (torch.cat([losses, sums[-2:-1]]) / finite).tolist(), strict=True))
            | {
                "graphs_per_s": graphs / seconds,
                "atoms_per_s": atoms / seconds,
                "labels_per_s": sum(labels) / seconds,
                "data_wait_fraction": wait_us / 1e6 / processes.world_size / seconds,
                "atom_fill_fraction": atoms / (self.steps * recipe_lanes * (budget.atoms - 1)),
                "rss_bytes": float(psutil.Process().memory_info().rss),
            }
            | ({"gpu_bytes": float(torch.cuda.max_memory_allocated())} if self.sums.is_cuda else {})
        )
