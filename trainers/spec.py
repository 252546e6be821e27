"""What a model needs to know of its data: features, task sets and label scales. Travels in checkpoints, so that no data is needed
to load one."""

from collections.abc import Sequence
from dataclasses import dataclass

from molstream.shards.format.reader import ShardSet
from molstream.shards.tasks import LEVELS, Level
from molstream.trainers.errors import RunError, TrainError
from molstream.trainers.label_transform import LabelTransform, Scales


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadSpec:
    """One task set."""

    name: str
    level: str
    """'graph', 'atom', 'bond' or 'pair'."""
    kind: str
    """'regression', 'binary', 'ordinal' or 'multiclass'."""
    num_classes: int
    """Labels of a class task are 0 to num_classes - 1; 0 for regression."""
    tasks: tuple[str, ...]
    columns: tuple[int, ...]
    """Where its tasks are among the label columns of the level, of the task sets that are trained."""
    units: tuple[str, ...]
    mean: tuple[float, ...]
    """Raw units, over the training split; 0 for classes."""
    std: tuple[float, ...]
    """1 for classes."""
    clip: float
    """Normalised labels beyond this are clipped in training; 0: none are."""
    knots: tuple[tuple[tuple[float, float], ...], ...]
    """Of each task values and the scores that they become, where labels are transformed by rank; empty otherwise."""
    trained: tuple[bool, ...]
    """Whether the training split has a label of the task. Of one without, nothing is learned and no scale is known."""

    @property
    def trained_columns(self) -> list[int]:
        """Columns of the tasks that are trained."""
        return [column for column, trained in zip(self.columns, self.trained, strict=True) if trained]

    @property
    def key(self) -> str:
        """The name as part of a parameter's: PyTorch wants no dots, which names of joined tables have."""
        return self.name.replace(".", "/")

    @property
    def num_outputs(self) -> int:
        """Numbers that a model predicts for each task: a value, a logit, or a logit a class."""
        return self.num_classes if self.kind in ("ordinal", "multiclass") else 1


@dataclass(frozen=True, kw_only=True, slots=True)
class DataSpec:
    """Inputs and outputs of a model."""

    atom_features: dict[str, int]
    """Number of codes of each, in the order of the code columns."""
    bond_features: dict[str, int]
    """Number of codes of each, most significant digit first."""
    heads: tuple[HeadSpec, ...]

    @classmethod
    def of(cls, shard_set: ShardSet, *, task_sets: Sequence[str] = (), label_transform: str = "none") -> "DataSpec":
        """The spec of a shard set: of all its task sets, or of those named. Raises RunError for names it lacks."""
        transform = LabelTransform.parse(label_transform)
        manifest = shard_set.manifest
        there = [task_set.name for task_set in manifest.task_sets]
        if not {*task_sets} <= {*there}:
            lacking = [name for name in task_sets if name not in there]
            raise RunError(
                f"{shard_set.path}: no task set {', '.join(lacking)}: asked for {', '.join(task_sets)}, the set has "
                f"{', '.join(there) or 'none'}; choose another recipe, or name some of these with --set task_sets="
                f"{','.join(there) or '...'}"
            )
        chosen = [task_set for task_set in manifest.task_sets if not task_sets or task_set.name in task_sets]
        wanted = {name for task_set in chosen for name in task_set.tasks}
        places: dict[str, dict[str, int]] = {}
        for task_set in chosen:
            names = (task.name for task in manifest.tasks_of(task_set.level) if task.name in wanted)
            places.setdefault(task_set.level, {name: k for k, name in enumerate(names)})
        units = {task.name: task.unit for task in manifest.tasks}
        heads = []
        for task_set in chosen:
            stats = [manifest.statistics[name] for name in task_set.tasks]
            is_number = task_set.kind == "regression"
            scales = transform.scales(task_set.tasks, stats) if is_number else Scales.identity(len(stats))
            heads.append(
                HeadSpec(
                    name=task_set.name,
                    level=task_set.level,
                    kind=task_set.kind,
                    num_classes=task_set.num_classes,
                    tasks=task_set.tasks,
                    columns=tuple(places[task_set.level][name] for name in task_set.tasks),
                    units=tuple(units[name] for name in task_set.tasks),
                    trained=tuple(manifest.labels[name].get("train", 0) > 0 for name in task_set.tasks),
                    **scales._asdict(),
                )
            )
        return cls(
            atom_features={f.name: f.num_codes for f in manifest.atom_features},
            bond_features={f.name: f.num_codes for f in manifest.bond_features},
            heads=tuple(heads),
        )

    @property
    def levels(self) -> tuple[Level, ...]:
        """Levels that have a task set, in the order of the label columns."""
        there = {head.level for head in self.heads}
        return tuple(level for level in LEVELS if level in there)

    @property
    def task_sets(self) -> tuple[str, ...]:
        """Names of the task sets."""
        return tuple(head.name for head in self.heads)

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of all tasks."""
        return tuple(name for head in self.heads for name in head.tasks)

    def check_features(self, shard_set: ShardSet) -> None:
        """Refuse molecules with other features than those the model reads. Raises TrainError."""
        theirs = DataSpec.of(shard_set)
        for what in ("atom_features", "bond_features"):
            mine, data = getattr(self, what), getattr(theirs, what)
            if list(mine.items()) != list(data.items()):
                raise TrainError(
                    f"checkpoint and {shard_set.path} do not fit: the model reads {what.replace('_', ' ')} {mine}, "
                    f"the data has {data}"
                )

    def check(self, shard_set: ShardSet) -> "DataSpec":
        """The spec of a shard set, of this model's task sets; label scales may differ. Raises TrainError for what else does."""
        self.check_features(shard_set)
        there = {task_set.name: task_set for task_set in shard_set.manifest.task_sets}
        if not {*self.task_sets} <= {*there}:
            raise TrainError(
                f"checkpoint and {shard_set.path} do not fit: the model predicts {', '.join(self.task_sets)}, the data has "
                f"{', '.join(there) or 'no task sets'}"
            )
        theirs = DataSpec.of(shard_set, task_sets=self.task_sets)
        for mine, data in zip(self.heads, sorted(theirs.heads, key=lambda h: self.task_sets.index(h.name)), strict=True):
            for what in ("level", "kind", "num_classes", "tasks"):
                if (a := getattr(mine, what)) != (b := getattr(data, what)):
                    a, b = (f"{len(x)} ({', '.join(x[:3])} ...)" if what == "tasks" else x for x in (a, b))
                    raise TrainError(
                        f"checkpoint and {shard_set.path} do not fit: task set {mine.name} has {what.replace('_', ' ')} {a} "
                        f"in the model, {b} in the data"
                    )
        return theirs
