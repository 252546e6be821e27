"""What a stream is asked for."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from molstream.kernels.packing.packs import MAX_ATOMS, MAX_EDGES, Capacity
from molstream.shards.format.reader import ShardSet
from molstream.streamer.errors import BudgetError, CallError

Oversize = Literal["error", "skip"]


@dataclass(frozen=True, slots=True)
class Budget:
    """The one shape of every batch: slots, multiples of 8. The last graph and the last atom are always padding."""

    graphs: int
    atoms: int
    edges: int
    """Directed edges: two a bond."""
    labels: int | None = None
    """Graph-level labels, listed as (graph, task, value): for thousands of tasks of which a molecule has few. None: they are a
    dense matrix, graphs x tasks."""
    pairs: int | None = None
    """Pairs of atoms i <= j of one molecule, n (n + 1) / 2 of a molecule of n atoms: for pair-level labels. None: batches have no
    pairs. Not together with labels: packing minds one of the two."""

    def __post_init__(self) -> None:
        limits = {"graphs": MAX_ATOMS, "atoms": MAX_ATOMS, "edges": MAX_EDGES, "labels": 2**31, "pairs": 2**31}
        for name, limit in limits.items():
            value = getattr(self, name)
            if name in ("labels", "pairs") and value is None:
                continue
            if value < 8 or value % 8:
                raise BudgetError(f"budget of {name}: got {value}, expected a multiple of 8, at least 8")
            if value >= limit:
                raise BudgetError(f"budget of {name}: got {value}, expected less than {limit:,}")
        if self.labels is not None and self.pairs is not None:
            raise BudgetError(f"budget: got {self.labels} labels and {self.pairs} pairs, expected one of both at most")

    @classmethod
    def parse(cls, text: str) -> "Budget":
        """'G,A,E', for example '64,1024,2304', 'G,A,E,L' for listed labels, or 'G,A,E,pairs=N'."""
        numbers, equals, pairs = text.partition("pairs=")
        parts = numbers.split(",")
        if equals:
            # a part of its own: nothing between the last comma and it
            parts = [*parts[:-1], pairs] if len(parts) == 4 and not parts[-1].strip() else []
        if len(parts) not in (3, 4) or not all(p.strip().isdecimal() for p in parts):
            raise BudgetError(
                f"budget: got {text!r}, expected three numbers graphs,atoms,edges, like 64,1024,2304, or a fourth for labels, or "
                f"pairs=N for pairs of atoms"
            )
        graphs, atoms, edges, *spare = map(int, parts)
        return cls(graphs, atoms, edges, pairs=spare[0]) if equals else cls(graphs, atoms, edges, *spare)

    @classmethod
    def suggest(
        cls,
        shard_set: ShardSet,
        *,
        atoms: int,
        list_labels: bool = False,
        tasks: tuple[str, ...] | None = None,
        pairs: bool = False,
    ) -> "Budget":
        """A budget of about `atoms` atoms a pack for a shard set, from its index; see `fit`.

        `list_labels`: with room for listed labels, of the graph-level tasks named in `tasks` (default: all). `pairs`: with room
        for pairs of atoms.
        """
        counts, manifest = shard_set.index.counts, shard_set.manifest
        num_molecules = int(counts["num_molecules"].sum())
        mean_labels = max_labels = 0.0
        if list_labels:
            wanted = None if tasks is None else {*tasks}
            names = [t.name for t in manifest.tasks_of("graph") if wanted is None or t.name in wanted]
            mean_labels = sum(sum(manifest.labels[name].values()) for name in names) / num_molecules
            max_labels = min(len(names), int(counts["max_graph_labels"].max()))
        return cls.fit(
            atoms=atoms,
            num_molecules=num_molecules,
            num_atoms=int(counts["num_atoms"].sum()),
            num_bonds=int(counts["num_bonds"].sum()),
            max_atoms=int(counts["max_atoms"].max()),
            max_bonds=int(counts["max_bonds"].max()),
            labels=(mean_labels, int(max_labels)) if list_labels else None,
            num_pairs=int(shard_set.index.histogram().num_pairs().sum()) if pairs else None,
        )

    @classmethod
    def fit(
        cls,
        *,
        atoms: int,
        num_molecules: int,
        num_atoms: int,
        num_bonds: int,
        max_atoms: int,
        max_bonds: int,
        labels: tuple[float, int] | None = None,
        num_pairs: int | None = None,
    ) -> "Budget":
        """A budget of about `atoms` atoms, with room for edges, graphs, labels and pairs so that atoms are what fills up.

        Room over the mean load of a full pack: 3 % and one largest molecule of edges, 6 % and three molecules of graphs, 10 % and
        three molecules with most labels, 10 % and two largest molecules of pairs. `labels`: mean and most labels of a molecule,
        where they are to be listed; `num_pairs`: pairs of atoms i <= j of all molecules, where there is to be room for them.
        `atoms` is raised where the largest molecule needs it.
        """
        atoms = max(atoms, max_atoms + 1)
        edges = 1.03 * atoms * 2 * num_bonds / num_atoms + 2 * max_bonds
        graphs = 1.06 * atoms * num_molecules / num_atoms + 3
        listed = None if labels is None else _up8(1.1 * graphs * labels[0] + 3 * labels[1])
        pairs = None if num_pairs is None else _up8(1.1 * atoms * num_pairs / num_atoms + max_atoms * (max_atoms + 1))
        return cls(_up8(graphs + 1), _up8(atoms), _up8(edges), listed, pairs)

    @property
    def capacity(self) -> Capacity:
        """What a pack can hold."""
        return Capacity(self.graphs - 1, self.atoms - 1, self.edges, self.labels, self.pairs)

    @property
    def max_atoms(self) -> int:
        """Atoms of the largest molecule that there is room for, of its pairs too."""
        return self.atoms - 1 if self.pairs is None else min(self.atoms - 1, (math.isqrt(8 * self.pairs + 1) - 1) // 2)

    def __str__(self) -> str:
        spare = "" if self.labels is None else f",{self.labels}"
        return f"{self.graphs},{self.atoms},{self.edges}{spare}" + ("" if self.pairs is None else f",pairs={self.pairs}")


def _up8(value: float) -> int:
    return max(8, 8 * math.ceil(value / 8))


@dataclass(frozen=True, kw_only=True, slots=True)
class StreamConfig:
    """Everything that decides which molecules are in which batch, except the shard set."""

    budget: Budget
    """Shape of every batch."""
    split: str = "train"
    """Which split to stream."""
    seed: int = 0
    """Order of blocks and molecules."""
    num_lanes: int = 8
    """Streams of packs; a step takes one pack from each, so lanes x budget is the batch size. Most ranks a run can have."""
    window_molecules: int = 12_288
    """Least molecules that are shuffled and packed together; more mix better, fill large packs better, and take more memory."""
    shuffle: bool = True
    """False: stored order, one window after another, for evaluation and export."""
    oversize: Oversize = "error"
    """Molecules larger than the budget: refuse to start, naming the largest, or leave them out, counted and listed."""

    def __post_init__(self) -> None:
        if self.num_lanes < 1:
            raise CallError(f"lanes: got {self.num_lanes}, expected at least 1")
        if self.window_molecules < 1:
            raise CallError(f"window_molecules: got {self.window_molecules}, expected at least 1")
        if self.oversize not in get_args(Oversize):
            raise CallError(f"oversize: got {self.oversize!r}, expected one of {', '.join(get_args(Oversize))}")
