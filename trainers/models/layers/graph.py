"""What layers are given: the graph of a batch, and the states of its atoms, bonds and molecules.

Shape suffixes, in this room: A atoms, E directed edges, G graphs, C distinct bond codes, H hidden, D width of bonds.
"""

from typing import NamedTuple

from torch import Tensor

from molstream.kernels.nn.segment import Edges
from molstream.streamer.batch import Batch

POOL_SCALE = 16.0
"""Sums over a molecule are divided by this constant, so that they start at the scale of atom states."""


class Graph(NamedTuple):
    """Which atoms are neighbours, and in which molecule each is; indices int64."""

    edges: Edges
    """In pairs, sorted by target."""
    degree_A: Tensor
    """Edges into each atom."""
    graph_of_atom_A: Tensor
    num_graphs: int
    is_atom_A1: Tensor
    """bool: not padding. All padding edges loop on the last atom, thousands of them, so that its state would grow by as much
    with every layer; layers set padding to 0."""

    @classmethod
    def of(cls, batch: Batch) -> "Graph":
        """Of a batch."""
        source_E, target_E = batch.edge_index_2E.long()
        return cls(
            edges=Edges(source_E, target_E, batch.edge_codes_E.long(), batch.edge_order_E, batch.edge_ptr_A),
            degree_A=batch.edge_ptr_A.diff(),
            graph_of_atom_A=batch.graph_of_atom_A.long(),
            num_graphs=len(batch.graph_mask_G),
            is_atom_A1=batch.atom_mask_A.unsqueeze(1),
        )


class State(NamedTuple):
    """What layers read and write."""

    atoms_AH: Tensor
    bonds: Tensor | None = None
    """As the layer's line in `LAYERS` says: the table (C, D), a state of each directed edge (E, D), or None."""
    graphs_GH: Tensor | None = None
    """Where the layer has a state of molecules, or a virtual node."""
