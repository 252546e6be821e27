"""The columns that a stream reads: tasks by name or pattern, encodings, ids. They move no molecule, unless labels are listed."""

import difflib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np

from molstream.shards.columns import COLUMN_GROUPS, ColumnGroup, computed_groups
from molstream.shards.format.reader import ShardSet
from molstream.shards.tasks import LEVELS, Level, Task
from molstream.streamer.errors import CallError


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """Columns of a shard set that are read."""

    tasks: Mapping[Level, tuple[Task, ...]]
    """Tasks by level, in the order of the label columns of a batch, which is that of the set."""
    columns: Mapping[Level, np.ndarray]
    """Their places among the stored columns of their level: int64."""
    encodings: tuple[str, ...]
    """Positional encodings, stored or to be computed."""
    with_ids: bool
    groups: tuple[str, ...]
    """Column groups to read."""

    @classmethod
    def resolve(
        cls,
        shard_set: ShardSet,
        *,
        tasks: Sequence[str] | None = None,
        levels: Sequence[Level] = LEVELS,
        encodings: Sequence[str] = (),
        with_ids: bool = False,
    ) -> "Selection":
        """Find the columns in a set; `tasks` are names or patterns (`graph_S0_*`), None: all.

        Raises CallError for names that the set does not have.
        """
        for what, given in (("tasks", tasks), ("levels", levels), ("encodings", encodings)):
            if isinstance(given, str):
                raise CallError(f"{what}: got {given!r}, expected a list of names")
        if others := [level for level in levels if level not in LEVELS]:
            raise CallError(f"levels: got {others[0]!r}, batches carry labels of {', '.join(LEVELS)}")
        if unknown := [name for name in encodings if name not in computed_groups()]:
            raise CallError(f"encodings: got {unknown[0]!r}, expected some of {', '.join(computed_groups())}")
        there = {level: shard_set.manifest.tasks_of(level) for level in levels}
        # in order, and quick to look up, since there may be thousands
        names = dict.fromkeys(task.name for level_tasks in there.values() for task in level_tasks)
        chosen = set(names) if tasks is None else {name for pattern in tasks for name in _expand(pattern, names, shard_set)}
        wanted = {level: [k for k, t in enumerate(level_tasks) if t.name in chosen] for level, level_tasks in there.items()}

        def is_read(group: ColumnGroup) -> bool:
            if group.read_by == "tasks":
                return group.level is not None and bool(wanted.get(group.level))
            reasons = {"always": True, "encodings": group.name in encodings, "ids": with_ids, "blocks": False}
            return reasons[group.read_by]

        return cls(
            tasks={level: tuple(there[level][k] for k in wanted[level]) if level in wanted else () for level in LEVELS},
            columns={level: np.array(wanted.get(level, []), np.int64) for level in LEVELS},
            encodings=tuple(encodings),
            with_ids=with_ids,
            groups=tuple(name for name in shard_set.groups if is_read(COLUMN_GROUPS[name])),
        )

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the tasks of all levels."""
        return tuple(task.name for level in LEVELS for task in self.tasks[level])


def _match(pattern: str, names: Collection[str]) -> list[str]:
    # a name may look like a pattern: "homo [eV]"
    return [pattern] if pattern in names else [name for name in names if fnmatchcase(name, pattern)]


def _expand(pattern: str, names: Collection[str], shard_set: ShardSet) -> list[str]:
    """The names that `pattern` is or matches. Raises CallError if there is none."""
    if found := _match(pattern, names):
        return found
    levels = {task.name: task.level for task in shard_set.manifest.tasks}
    if elsewhere := _match(pattern, levels):
        where = levels[elsewhere[0]]
        raise CallError(f"tasks: {elsewhere[0]} is of level {where}, whose labels are not asked for")
    near = difflib.get_close_matches(pattern, names, n=3) or list(names)[:3]
    raise CallError(f"tasks: {pattern!r} names none of the {len(names)} tasks; near it: {', '.join(near) or 'there are none'}")
