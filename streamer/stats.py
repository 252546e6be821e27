"""Statistics of a stream: rates, fill, waiting, stages and memory."""

import os
import time

from molstream.shards.tasks import LEVELS
from molstream.streamer.loader import NUM_STEPS_AHEAD, Loader, Step
from molstream.streamer.stages import STAGES

MAX_NAMED = 10
"""Number of left-out molecules whose ids are kept."""


class StreamStats:
    """Counts steps and reports them as plain numbers."""

    def __init__(self, loader: Loader):
        self.loader, self.budget = loader, loader.config.budget
        self.steps = self.molecules = self.atoms = self.edges = self.labels = self.packs = self.masked = 0
        self.skipped = self.ready = 0
        self.first_skipped: list[int] = []
        """Ids of the first molecules that were left out."""
        self.wait_s = 0.0
        self.start: float | None = None
        self.first_s = 0.0

    def begin(self) -> None:
        """Start the clock, once."""
        self.start = self.start or time.perf_counter()

    def add(self, step: Step) -> None:
        """Count one step."""
        if not self.steps and self.start is not None:
            self.first_s = time.perf_counter() - self.start
        self.steps += 1
        self.wait_s += step.wait_s
        self.ready += step.num_ready
        self.skipped += len(step.skipped)
        self.first_skipped += step.skipped[: MAX_NAMED - len(self.first_skipped)].tolist()
        for batch in step.batches:
            self.packs += 1
            self.masked += batch.num_graphs == 0
            self.molecules += batch.num_graphs
            self.atoms += batch.num_atoms
            self.edges += batch.num_edges
            self.labels += sum(int(getattr(batch, f"num_{level}_labels_T").sum()) for level in LEVELS)

    def read(self) -> dict[str, float]:
        """All statistics so far. Fill is over packs that hold molecules, padding is over the atom slots of all packs, and the
        share of a stage is that of the seconds of all threads."""
        seconds = max(time.perf_counter() - self.start, 1e-9) if self.start else 1e-9
        full = max(self.packs - self.masked, 1)
        capacity, stages = self.budget.capacity, self.loader.stages
        return {
            "steps": self.steps,
            "molecules": self.molecules,
            "labels": self.labels,
            "packs": self.packs,
            "masked_packs": self.masked,
            "skipped_molecules": self.skipped,
            "seconds": seconds,
            "first_step_s": self.first_s,
            "molecules_per_s": self.molecules / seconds,
            "labels_per_s": self.labels / seconds,
            "bytes_read": stages.bytes_read,
            "bytes_read_per_s": stages.bytes_read / seconds,
            "bytes_decompressed_per_s": stages.bytes_decompressed / seconds,
            "data_wait_fraction": self.wait_s / seconds,
            "queue_fraction": self.ready / (max(self.steps, 1) * NUM_STEPS_AHEAD),
            "atom_fill_fraction": self.atoms / (full * capacity.atoms),
            "edge_fill_fraction": self.edges / (full * capacity.edges),
            "graph_fill_fraction": self.molecules / (full * capacity.graphs),
            "padding_fraction": 1 - self.atoms / (max(self.packs, 1) * self.budget.atoms),
            **{f"{stage}_fraction": stages.seconds[stage] / (seconds * self.loader.num_threads) for stage in STAGES},
            "rss_bytes": rss_bytes(),
        }


def rss_bytes() -> int:
    """Resident memory of this process."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
