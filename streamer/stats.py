"""What a stream delivers: rates, fill and memory."""

import os
import time

from streamer.config import Budget
from streamer.loader import Step


class StreamStats:
    """Counts steps and reports them as plain numbers."""

    def __init__(self, budget: Budget):
        self.budget = budget
        self.steps = self.molecules = self.atoms = self.edges = self.labels = self.packs = self.masked = 0
        self.wait_s = 0.0
        self.start: float | None = None

    def begin(self) -> None:
        """Start the clock, once."""
        self.start = self.start or time.perf_counter()

    def add(self, step: Step) -> None:
        """Count one step."""
        self.steps += 1
        self.wait_s += step.wait_s
        for batch in step.batches:
            self.packs += 1
            self.masked += batch.num_graphs == 0
            self.molecules += batch.num_graphs
            self.atoms += batch.num_atoms
            self.edges += batch.num_edges
            self.labels += int(batch.num_graph_labels_T.sum() + batch.num_atom_labels_T.sum())

    def read(self) -> dict[str, float]:
        """Everything so far. Fill counts the packs that hold molecules."""
        seconds = max(time.perf_counter() - self.start, 1e-9) if self.start else 1e-9
        full = max(self.packs - self.masked, 1)
        capacity = self.budget.capacity
        return {
            "steps": self.steps,
            "molecules": self.molecules,
            "labels": self.labels,
            "packs": self.packs,
            "masked_packs": self.masked,
            "seconds": seconds,
            "molecules_per_s": self.molecules / seconds,
            "labels_per_s": self.labels / seconds,
            "data_wait_fraction": self.wait_s / seconds,
            "atom_fill_fraction": self.atoms / (full * capacity.atoms),
            "edge_fill_fraction": self.edges / (full * capacity.edges),
            "graph_fill_fraction": self.molecules / (full * capacity.graphs),
            "rss_bytes": rss_bytes(),
        }


def rss_bytes() -> int:
    """Resident memory of this process."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
