"""The configuration of a stream: the shape of its packs and everything that decides their content."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from molstream.kernels.packing.packs import MAX_ATOMS, MAX_EDGES, Capacity
from molstream.shards.format.reader import ShardSet
from molstream.streamer.errors import BudgetError, CallError

Oversize = Literal["error", "skip"]


@dataclass(frozen=True, slots=True)
class Budget:
    """The one shape of every pack: numbers of slots, multiples of 8. The last graph and the last atom are always padding."""

    graphs: int
    atoms: int
    edges: int
    """Directed edges: two per bond."""
    labels: int | None = None
    """Graph-level labels, listed as (graph, task, value), for thousands of tasks of which each molecule has few. None: they are a
    dense matrix, graphs x tasks."""
    pairs: int | None = None
    """Pairs of atoms i <= j of one molecule, n (n + 1) / 2 for a molecule of n atoms, for pair-level labels. None: packs have no
    pairs. Labels and pairs exclude each other, because packing watches one of the two."""

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
        """A budget of about `atoms` atoms per pack for a shard set, from its index; see `fit`.

        `list_labels` adds room for listed labels of the graph-level tasks named in `tasks` (default: all), `pairs` adds room for
        pairs of atoms.
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
        """A budget of about `atoms` atoms, with so much room for edges, graphs, labels and pairs that atoms fill up first.

        Beyond the mean load of a full pack there is room for 3 % and one largest molecule of edges, 6 % and three molecules of
        graphs, 10 % and three molecules with most labels, 10 % and two largest molecules of pairs. `labels` is the mean and the
        maximum of labels per molecule, if they are to be listed; `num_pairs` is the number of pairs i <= j of all molecules, if
        there is to be room for them. `atoms` is raised if the largest molecule needs it.
        """
        atoms = max(atoms, max_atoms + 1)
        edges = 1.03 * atoms * 2 * num_bonds / num_atoms + 2 * max_bonds
        graphs = 1.06 * atoms * num_molecules / num_atoms + 3
        listed = None if labels is None else _up8(1.1 * graphs * labels[0] + 3 * labels[1])
        pairs = None if num_pairs is None else _up8(1.1 * atoms * num_pairs / num_atoms + max_atoms * (max_atoms + 1))
        return cls(_up8(graphs + 1), _up8(atoms), _up8(edges), listed, pairs)

    @property
    def capacity(self) -> Capacity:
        """The number of real graphs, atoms, edges, labels and pairs that fit into a pack."""
        return Capacity(self.graphs - 1, self.atoms - 1, self.edges, self.labels, self.pairs)

    @property
    def max_atoms(self) -> int:
        """Atoms of the largest molecule that fits, with its pairs."""
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
    """Shape of every pack."""
    split: str = "train"
    """Split to stream."""
    seed: int = 0
    """Seed of the order of blocks and molecules."""
    num_lanes: int = 8
    """Streams of packs. A step takes one pack from each, so lanes x budget is the batch size; there are at most as many ranks."""
    window_molecules: int = 12_288
    """Least molecules that are shuffled and packed together; more of them mix better, fill packs better and take more memory."""
    shuffle: bool = True
    """False: windows come in stored order, one after another, for evaluation and export."""
    oversize: Oversize = "error"
    """Molecules larger than the budget: error refuses to start and names the largest; skip leaves out, counts and lists them."""

    def __post_init__(self) -> None:
        if self.num_lanes < 1:
            raise CallError(f"lanes: got {self.num_lanes}, expected at least 1")
        if self.window_molecules < 1:
            raise CallError(f"window_molecules: got {self.window_molecules}, expected at least 1")
        if self.oversize not in get_args(Oversize):
            raise CallError(f"oversize: got {self.oversize!r}, expected one of {', '.join(get_args(Oversize))}")
