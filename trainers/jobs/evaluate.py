"""Evaluation: every molecule of a split exactly once, by any number of processes; metrics per task, task set and level."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path

import pyarrow as pa
import torch

from molstream.shards.format.reader import ShardSet
from molstream.shards.store.documents import seal_json
from molstream.shards.store.tables import write_parquet
from molstream.shards.store.writing import write_bytes
from molstream.streamer.config import Budget, StreamConfig
from molstream.streamer.loader import Loader, sequential
from molstream.trainers.config import Recipe
from molstream.trainers.distributed.device import find_device
from molstream.trainers.distributed.process_group import ProcessGroup
from molstream.trainers.errors import RunError
from molstream.trainers.metrics.metrics import Metrics, TaskMetrics, summarize
from molstream.trainers.models.loss import Loss, Targets, count_labels, match
from molstream.trainers.models.network import Network, load_network
from molstream.trainers.runs.checkpoint import RUN_VERSION, Checkpoint
from molstream.trainers.spec import DataSpec, HeadSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class Results:
    """Metrics of one split."""

    split: str
    step: int
    """Optimizer steps of the evaluated weights."""
    molecules: int
    complete: bool
    """False when only part of the split was evaluated."""
    heads: tuple[HeadSpec, ...]
    losses: dict[str, float | None]
    """Mean error of each task set's labels, as in training; None without labels."""
    compared_loss: float
    """Their mean over the packs that every validation of a run sees: what checkpoints are compared by."""
    compared_packs: int
    """How many these are, those of padding included; losses over other packs are not compared."""
    tasks: dict[str, list[TaskMetrics]]
    """By task set."""

    @property
    def loss(self) -> float:
        """Mean over task sets."""
        return _mean(self.losses)

    def summary(self) -> dict[str, dict[str, float | None]]:
        """Of each task set: its loss, and the mean over those tasks for which a metric is defined."""
        return {name: {"loss": self.losses[name]} | summarize(tasks) for name, tasks in self.tasks.items()}

    def levels(self) -> dict[str, dict[str, float | None]]:
        """The same over all tasks of a level and kind of metrics: 'graph regression', 'graph binary', ..."""
        together: dict[str, list[TaskMetrics]] = {}
        for head in self.heads:
            together.setdefault(f"{head.level} {head.kind}", []).extend(self.tasks[head.name])
        return {name: summarize(tasks) for name, tasks in together.items()}

    def to_json(self) -> dict:
        """JSON types, numbers that are not finite as null."""
        return {
            "split": self.split,
            "step": self.step,
            "molecules": self.molecules,
            "complete": self.complete,
            "loss": _finite(self.loss),
            "compared_loss": _finite(self.compared_loss),
            "compared_packs": self.compared_packs,
            "levels": self.levels(),
            "task_sets": {name: {k: _finite(v) for k, v in values.items()} for name, values in self.summary().items()},
            "tasks": {name: [asdict(task) for task in tasks] for name, tasks in self.tasks.items()},
        }

    def to_table(self) -> pa.Table:
        """One row per task: where it belongs, how many labels, and a column for each metric, null where it is undefined."""
        rows = [
            {
                "split": self.split,
                "step": self.step,
                "task_set": head.name,
                "level": head.level,
                "kind": head.kind,
                "task": task.task,
                "unit": task.unit,
                "trained": task.trained,
                "labels": task.count,
                "nonfinite": task.nonfinite,
            }
            | task.values
            for head in self.heads
            for task in self.tasks[head.name]
        ]
        names = list(dict.fromkeys(name for row in rows for name in row))
        metrics = {name for tasks in self.tasks.values() for task in tasks for name in task.values}
        columns = {name: [row.get(name) for row in rows] for name in names}
        return pa.table({name: pa.array(c, pa.float64()) if name in metrics else pa.array(c) for name, c in columns.items()})


def write_results(results: Results, path: Path) -> None:
    """Write all metrics, as sealed JSON or as Parquet by the name of the file; whole or not at all. Raises StorageError."""
    if path.suffix == ".parquet":
        table = results.to_table()
        write_parquet(path, table.schema, [table])
    else:
        write_bytes(path, seal_json(results.to_json(), kind="results", version=RUN_VERSION))


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def plan_budget(shard_set: ShardSet, spec: DataSpec, recipe: Recipe) -> Budget:
    """The batch shape of a recipe on a shard set. Raises RunError for listed labels beside pairs."""
    if recipe.list_labels and {"graph", "pair"} <= {*spec.levels}:
        raise RunError(
            f"recipe {recipe.name}: list_labels is True, expected False where there are labels of pairs; "
            f"{shard_set.path} has task sets {', '.join(spec.task_sets)}, choose some with --set task_sets=..."
        )
    return Budget.suggest(
        shard_set,
        atoms=recipe.atoms_a_pack,
        list_labels=recipe.list_labels and "graph" in spec.levels,
        tasks=spec.tasks,
        pairs="pair" in spec.levels,
    )


@torch.inference_mode()
def evaluate(
    network: Network,
    targets: Targets,
    loss: Loss,
    shard_set: ShardSet,
    *,
    split: str,
    budget: Budget,
    step: int,
    device: torch.device,
    num_threads: int = 1,
    num_lanes: int = 1,
    max_packs: int | None = None,
    compare_packs: int | None = None,
    on_pack: Callable[[int, int], None] = lambda done, total: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Results:
    """Evaluate a network on the molecules of a split, in stored order; `max_packs` ends early. Collective.

    The packs are the same for any number of processes up to `num_lanes`. `compare_packs`: of how many `compared_loss` is. Raises
    Stopped where `should_stop` is true in any process.
    """
    spec, recipe, processes = loss.spec, network.recipe, ProcessGroup.here()
    config = sequential(StreamConfig(budget=budget, split=split, window_molecules=recipe.window_molecules))
    num_lanes = max(num_lanes, processes.world_size)
    loader = Loader(
        shard_set,
        replace(config, num_lanes=num_lanes),
        rank=processes.rank,
        world_size=processes.world_size,
        num_threads=num_threads,
        tasks=spec.tasks,
        levels=spec.levels,
        encodings=recipe.encodings,
    )
    num_steps = len(loader)
    total, compared = (min(num_steps, -(-packs // num_lanes)) if packs else num_steps for packs in (max_packs, compare_packs))
    metrics = Metrics(spec)
    # molecules, then the sum of errors and the labels of each task set
    sums = torch.zeros(1 + 2 * len(spec.heads), dtype=torch.float64)
    sums_compared = sums
    was_training = network.training
    network.eval()
    try:
        items = processes.in_step(iter(loader), lambda item: (), 0, should_stop)
        for k, (item, _) in enumerate(islice(items, total)):
            for batch in item.batches:
                moved = batch.to(device)
                predictions, labels = network(moved), targets.all(moved)
                matched = match(predictions, labels, spec)
                metrics.add(matched, labels, raw_errors=targets.raw_errors(matched, moved))
                errors = torch.stack(list(loss.sums(predictions, targets.trained(labels)).values())).double().cpu()
                counts = torch.tensor(count_labels([batch], spec), dtype=torch.float64)
                sums = sums + torch.cat([torch.tensor([batch.num_graphs], dtype=torch.float64), errors, counts])
            if k < compared:
                sums_compared = sums
            on_pack(k + 1, total)
    finally:
        network.train(was_training)
        loader.close()
    metrics.merge()
    molecules, losses = _means(processes.sum(sums), spec)
    return Results(
        split=split,
        step=step,
        molecules=molecules,
        complete=total == num_steps,
        heads=spec.heads,
        losses=losses,
        compared_loss=_mean(_means(processes.sum(sums_compared), spec)[1]),
        compared_packs=compared * num_lanes,
        tasks=metrics.tasks(),
    )


def _means(sums: torch.Tensor, spec: DataSpec) -> tuple[int, dict[str, float | None]]:
    """Molecules and the mean error of each task set, of the sums in `evaluate`."""
    molecules, *rest = sums.tolist()
    errors, counts = rest[: len(spec.heads)], rest[len(spec.heads) :]
    return int(molecules), {h.name: e / n if n else None for h, e, n in zip(spec.heads, errors, counts, strict=True)}


def _mean(losses: Mapping[str, float | None]) -> float:
    """Over the task sets that have labels."""
    there = [loss for loss in losses.values() if loss is not None]
    return sum(there) / len(there) if there else float("nan")


def evaluate_checkpoint(
    checkpoint: Checkpoint,
    shard_set: ShardSet,
    *,
    split: str,
    device: torch.device | None = None,
    num_threads: int = 1,
    on_pack: Callable[[int, int], None] = lambda done, total: None,
) -> Results:
    """Evaluate a checkpoint on a split of any shard set with the same features and tasks. Collective. Raises TrainError if they
    differ.

    Labels are normalised by the scales of the set the model was trained on.
    """
    theirs = checkpoint.spec.check(shard_set)
    # labels are where that set has them
    places = {head.name: head.columns for head in theirs.heads}
    heads = tuple(replace(head, columns=places[head.name]) for head in checkpoint.spec.heads)
    spec = replace(checkpoint.spec, heads=heads)
    device = device or find_device(is_shared=True)
    return evaluate(
        load_network(checkpoint).to(device),
        Targets(spec).to(device),
        Loss(spec, checkpoint.recipe),
        shard_set,
        split=split,
        budget=plan_budget(shard_set, spec, checkpoint.recipe),
        step=checkpoint.step,
        device=device,
        num_threads=num_threads,
        on_pack=on_pack,
    )


def iter_metrics(results: Results) -> Iterator[tuple[str, float | None]]:
    """Metrics of each task set under names of their own, for logs."""
    yield "loss", results.loss
    for name, values in results.summary().items():
        for metric, value in values.items():
            yield f"{name}_{metric}", value
