"""Evaluation: every molecule of a split exactly once, metrics per task and task set, in normalised units."""

from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch

from streamer import Budget, Loader, ShardSet, StreamConfig
from streamer.loader import sequential
from trainers.checkpoint import Checkpoint
from trainers.errors import TrainError
from trainers.loss import Targets
from trainers.metrics import Metrics, TaskMetrics, summarize
from trainers.model import Network, load_network
from trainers.spec import DataSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class Results:
    """Metrics of one split."""

    split: str
    step: int
    """Optimizer steps of the evaluated weights."""
    molecules: int
    complete: bool
    """False when only part of the split was evaluated."""
    task_sets: dict[str, list[TaskMetrics]]

    def summary(self) -> dict[str, dict[str, float | None]]:
        """Mean over tasks, for each task set."""
        return {name: summarize(tasks) for name, tasks in self.task_sets.items()}

    @property
    def loss(self) -> float:
        """Mean over task sets of the mean MAE; what validation is compared by."""
        maes = [s["mae"] for s in self.summary().values() if s["mae"] is not None]
        return sum(maes) / len(maes) if maes else float("nan")

    def to_json(self) -> dict:
        """JSON types."""
        return {
            "split": self.split,
            "step": self.step,
            "molecules": self.molecules,
            "complete": self.complete,
            "loss": self.loss,
            "task_sets": self.summary(),
            "tasks": {name: [asdict(t) for t in tasks] for name, tasks in self.task_sets.items()},
        }


@torch.inference_mode()
def evaluate(
    network: Network,
    targets: Targets,
    shard_set: ShardSet,
    *,
    spec: DataSpec,
    split: str,
    budget: Budget,
    step: int,
    device: torch.device,
    num_threads: int = 1,
    max_packs: int | None = None,
    window_molecules: int = 16_384,
    on_pack: Callable[[int, int], None] = lambda done, total: None,
) -> Results:
    """Evaluate a network on the molecules of a split, in stored order; `max_packs` stops early."""
    config = sequential(StreamConfig(budget=budget, split=split, window_molecules=window_molecules))
    loader = Loader(shard_set, config, num_threads=num_threads)
    num_packs = len(loader)
    total = min(num_packs, max_packs or num_packs)
    metrics, molecules = Metrics(spec), 0
    was_training = network.training
    network.eval()
    try:
        for k, item in enumerate(loader):
            if k == total:
                break
            batch = item.batches[0].to(device)
            metrics.add(network(batch), targets(batch))
            molecules += batch.num_graphs
            on_pack(k + 1, total)
    finally:
        network.train(was_training)
    return Results(split=split, step=step, molecules=molecules, complete=total == num_packs, task_sets=metrics.tasks())


def evaluate_checkpoint(
    checkpoint: Checkpoint,
    shard_set: ShardSet,
    *,
    split: str,
    device: torch.device | None = None,
    num_threads: int = 1,
    on_pack: Callable[[int, int], None] = lambda done, total: None,
) -> Results:
    """Evaluate a checkpoint on a split of any shard set with the same features and tasks. Raises TrainError if they differ.

    Labels are normalised by the scales of the set the model was trained on.
    """
    differ = checkpoint.spec.difference(DataSpec.of(shard_set))
    if differ:
        raise TrainError(f"checkpoint and {shard_set.path} do not fit: the model has {differ}")
    device = device or default_device()
    return evaluate(
        load_network(checkpoint).to(device),
        Targets(checkpoint.spec).to(device),
        shard_set,
        spec=checkpoint.spec,
        split=split,
        budget=Budget.suggest(shard_set, atoms=checkpoint.recipe.atoms_a_pack),
        step=checkpoint.step,
        device=device,
        num_threads=num_threads,
        on_pack=on_pack,
    )


def default_device() -> torch.device:
    """The first GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
