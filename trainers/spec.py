"""What a model needs to know of its data: features, task sets and label scales. Travels in checkpoints, so that no data is needed
to load one."""

from dataclasses import asdict, dataclass

from streamer import ShardSet
from trainers.errors import TrainError


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadSpec:
    """One task set."""

    name: str
    level: str
    tasks: tuple[str, ...]
    columns: tuple[int, ...]
    """Where its tasks are among the label columns of the level."""
    mean: tuple[float, ...]
    """Raw units, over the training split."""
    std: tuple[float, ...]

    @property
    def key(self) -> str:
        """The name as part of a parameter's: PyTorch wants no dots, which names of joined tables have."""
        return self.name.replace(".", "/")


@dataclass(frozen=True, kw_only=True, slots=True)
class DataSpec:
    """Inputs and outputs of a model."""

    atom_features: dict[str, int]
    """Number of codes of each, in the order of the code columns."""
    bond_features: dict[str, int]
    """Number of codes of each, most significant digit first."""
    heads: tuple[HeadSpec, ...]

    @classmethod
    def of(cls, shard_set: ShardSet, *, with_heads: bool = True) -> "DataSpec":
        """The spec of a shard set, or of its features alone. Raises TrainError for tasks that nothing can train yet."""
        manifest = shard_set.manifest
        heads = []
        if with_heads and not manifest.task_sets:
            raise TrainError(f"{shard_set.path}: a set without labels, expected something to train on")
        for task_set in manifest.task_sets if with_heads else ():
            if task_set.kind != "regression" or task_set.level not in ("graph", "atom"):
                raise TrainError(
                    f"{shard_set.path}: task set {task_set.name} is {task_set.level}-level {task_set.kind}; training is there "
                    f"for regression on graphs and atoms, expected a shard set of such tasks only"
                )
            names = [task.name for task in manifest.tasks_of(task_set.level)]
            stats = [manifest.statistics[name] for name in task_set.tasks]
            heads.append(
                HeadSpec(
                    name=task_set.name,
                    level=task_set.level,
                    tasks=task_set.tasks,
                    columns=tuple(names.index(name) for name in task_set.tasks),
                    mean=tuple(s.mean for s in stats),
                    std=tuple(s.std for s in stats),
                )
            )
        return cls(
            atom_features={f.name: f.num_codes for f in manifest.atom_features},
            bond_features={f.name: f.num_codes for f in manifest.bond_features},
            heads=tuple(heads),
        )

    def to_json(self) -> dict:
        """JSON types."""
        return asdict(self)

    @classmethod
    def from_json(cls, fields: dict) -> "DataSpec":
        """Inverse of `to_json`."""
        lists = ("tasks", "columns", "mean", "std")
        heads = tuple(HeadSpec(**head | {name: tuple(head[name]) for name in lists}) for head in fields["heads"])
        return cls(atom_features=fields["atom_features"], bond_features=fields["bond_features"], heads=heads)

    def difference(self, other: "DataSpec") -> str:
        """What keeps a model of this spec from reading data of the other; empty if nothing does. Label scales may differ."""
        for what in ("atom_features", "bond_features"):
            if list(getattr(self, what).items()) != list(getattr(other, what).items()):
                return f"{what.replace('_', ' ')} {getattr(self, what)}, the data has {getattr(other, what)}"
        mine = [(h.name, h.level, h.tasks) for h in self.heads]
        theirs = [(h.name, h.level, h.tasks) for h in other.heads]
        if mine != theirs:
            return f"task sets {[(n, len(t)) for n, _, t in mine]}, the data has {[(n, len(t)) for n, _, t in theirs]}"
        return ""
