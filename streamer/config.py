"""The configuration of a stream: the shape of its packs and everything that decides their content."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from molstream.kernels.packing.packs import MAX_ATOMS, MAX_EDGES, WIDEST, Capacity
from molstream.shards.format.reader import ShardSet
from molstream.streamer.errors import BudgetError, CallError

Oversize = Literal["error", "skip"]
MAX_LANES, MAX_WINDOW_MOLECULES = 1 << 16, 1 << 40
"""More lanes than there are processes in the world, and more molecules than any set."""
WINDOW_MOLECULES = 12_288
"""Least molecules of a window, by default."""


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
        """A budget of about `atoms` atoms per pack for a shard set, from its index: of those that `fit` gives for each split, the
        most of everything.

        `list_labels` adds room for listed labels of the graph-level tasks named in `tasks` (default: all), `pairs` adds room for
        pairs of atoms.
        """
        counts, index = shard_set.index.counts, shard_set.index
        num_pairs = index.histogram().num_pairs() if pairs else None
        labels = index.label_histogram() if list_labels else None
        names = {task.name for task in shard_set.manifest.tasks_of("graph")} & (
            {task.name for task in shard_set.manifest.tasks} if tasks is None else {*tasks}
        )
        fits = []
        for code in range(len(index.split_names)):
            here = index.split_codes == code
            listed = None
            if labels is not None:
                rows = np.repeat(here, np.diff(labels.ptr))
                listed = np.bincount(np.minimum(labels.size[rows], len(names)), labels.count[rows]).astype(np.int64)
            fits.append(
                cls.fit(
                    atoms=max(atoms, int(counts["max_atoms"].max()) + 1),
                    num_molecules=int(counts["num_molecules"][here].sum(dtype=np.int64)),
                    num_atoms=int(counts["num_atoms"][here].sum(dtype=np.int64)),
                    num_bonds=int(counts["num_bonds"][here].sum(dtype=np.int64)),
                    max_atoms=int(counts["max_atoms"][here].max()),
                    max_bonds=int(counts["max_bonds"][here].max()),
                    label_counts=listed,
                    num_pairs=None if num_pairs is None else int(num_pairs[here].sum()),
                )
            )

        def most(name: str) -> int:
            return max(getattr(fit, name) for fit in fits)

        return cls(
            most("graphs"),
            most("atoms"),
            most("edges"),
            labels=most("labels") if list_labels else None,
            pairs=most("pairs") if pairs else None,
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
        label_counts: np.ndarray | None = None,
        num_pairs: int | None = None,
    ) -> "Budget":
        """A budget of about `atoms` atoms, with so much room for edges, graphs, labels and pairs that atoms fill up first.

        Beyond the mean load of a full pack there is room for 3 % and one largest molecule of edges, 6 % and three molecules of
        graphs, 10 % and two largest molecules of pairs. Labels, if they are to be listed, get room for a pack of the
        molecules of a window that have most: nothing less is proven to be enough. `label_counts[n]` is the number of
        molecules with n > 0 labels; `num_pairs` is the number of pairs i <= j of all molecules, if there is to be room
        for them. `atoms` is raised if the largest molecule needs it.
        """
        atoms = max(atoms, max_atoms + 1)
        edges = 1.03 * atoms * 2 * num_bonds / num_atoms + 2 * max_bonds
        graphs = 1.06 * atoms * num_molecules / num_atoms + 3
        listed = None if label_counts is None else _up8(_most_labels(label_counts, math.ceil(graphs), num_molecules))
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


def _most_labels(label_counts: np.ndarray, graphs: int, num_molecules: int) -> float:
    """Labels of the `graphs` molecules that have most, in a window; 10 % more where a window is not all molecules."""
    share = max(1.0, num_molecules / (WIDEST * WINDOW_MOLECULES))
    numbers = np.arange(len(label_counts))[::-1]
    taken = np.diff(np.minimum(np.cumsum(label_counts[::-1]), graphs * share), prepend=0)
    labels, most = float((numbers * taken).sum()) / share, max((n for n in numbers if label_counts[n]), default=0)
    return min(graphs * most, labels if share == 1 else 1.1 * labels + 3 * most)


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
    window_molecules: int = WINDOW_MOLECULES
    """Least molecules that are shuffled and packed together; more of them mix better, fill packs better and take more memory."""
    shuffle: bool = True
    """False: windows come in stored order, one after another, for evaluation and export."""
    oversize: Oversize = "error"
    """Molecules larger than the budget: error refuses to start and names the largest; skip leaves out, counts and lists them."""

    def __post_init__(self) -> None:
        if not 1 <= self.num_lanes <= MAX_LANES:
            raise CallError(f"lanes: got {self.num_lanes}, expected at least 1 and at most {MAX_LANES:,}")
        if not 1 <= self.window_molecules < MAX_WINDOW_MOLECULES:
            raise CallError(
                f"window_molecules: got {self.window_molecules}, expected at least 1 and less than {MAX_WINDOW_MOLECULES:,}"
            )
        if self.oversize not in get_args(Oversize):
            raise CallError(f"oversize: got {self.oversize!r}, expected one of {', '.join(get_args(Oversize))}")
