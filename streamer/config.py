"""What a stream is asked for."""

import math
from dataclasses import dataclass

from kernels.packing import Capacity
from shards import ShardSet
from streamer.errors import BudgetError, CallError


@dataclass(frozen=True, slots=True)
class Budget:
    """The one shape of every batch: slots, multiples of 8. The last graph and the last atom are always padding."""

    graphs: int
    atoms: int
    edges: int
    """Directed edges: two a bond."""

    def __post_init__(self) -> None:
        for name in ("graphs", "atoms", "edges"):
            value = getattr(self, name)
            if value < 8 or value % 8:
                raise BudgetError(f"budget of {name}: got {value}, expected a multiple of 8, at least 8")

    @classmethod
    def parse(cls, text: str) -> "Budget":
        """'G,A,E', for example '64,1024,2304'."""
        parts = text.split(",")
        if len(parts) != 3 or not all(p.strip().isdecimal() for p in parts):
            raise BudgetError(f"budget: got {text!r}, expected three numbers graphs,atoms,edges, like 64,1024,2304")
        return cls(*map(int, parts))

    @classmethod
    def suggest(cls, shard_set: ShardSet, *, atoms: int) -> "Budget":
        """A budget of about `atoms` atoms a pack for a shard set, from its index; see `fit`."""
        counts = shard_set.index.counts
        return cls.fit(
            atoms=atoms,
            num_molecules=int(counts["num_molecules"].sum()),
            num_atoms=int(counts["num_atoms"].sum()),
            num_bonds=int(counts["num_bonds"].sum()),
            max_atoms=int(counts["max_atoms"].max()),
            max_bonds=int(counts["max_bonds"].max()),
        )

    @classmethod
    def fit(cls, *, atoms: int, num_molecules: int, num_atoms: int, num_bonds: int, max_atoms: int, max_bonds: int) -> "Budget":
        """A budget of about `atoms` atoms, with room for edges and graphs so that atoms are what fills up.

        Room over the mean load of a full pack: 3 % and one largest molecule of edges, 6 % and three molecules of graphs. `atoms`
        is raised where the largest molecule needs it.
        """
        atoms = max(atoms, max_atoms + 1)
        edges = 1.03 * atoms * 2 * num_bonds / num_atoms + 2 * max_bonds
        graphs = 1.06 * atoms * num_molecules / num_atoms + 3
        return cls(_up8(graphs + 1), _up8(atoms), _up8(edges))

    @property
    def capacity(self) -> Capacity:
        """What a pack can hold."""
        return Capacity(self.graphs - 1, self.atoms - 1, self.edges)

    def __str__(self) -> str:
        return f"{self.graphs},{self.atoms},{self.edges}"


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
    window_molecules: int = 16_384
    """Least molecules that are shuffled and packed together; more mix better and take more memory."""
    shuffle: bool = True
    """False: stored order, one window after another, for evaluation and export."""

    def __post_init__(self) -> None:
        if self.num_lanes < 1:
            raise CallError(f"lanes: got {self.num_lanes}, expected at least 1")
        if self.window_molecules < 1:
            raise CallError(f"window_molecules: got {self.window_molecules}, expected at least 1")
