"""MPNN++, a layer with a state of each directed edge and of each molecule."""

import torch
from torch import nn

from molstream.kernels.nn.segment import gather, segment_sum, sum_messages
from molstream.trainers.config import Recipe
from molstream.trainers.models.layers.block import Layer
from molstream.trainers.models.layers.graph import POOL_SCALE, Graph, State
from molstream.trainers.models.layers.parts import Update


class MPNN(Layer):
    """MPNN++: GPS++ (Masters et al. 2023, arXiv 2212.02229) without attention. States of edges, atoms and molecules, in turn:

        e_ij <- e_ij + MLP(x_j | x_i | e_ij | g)                                     j -> i
        x_i  <- x_i  + MLP(x_i | sum of e into i | sum of e out of i | sum of neighbours' x | g)
        g    <- g    + MLP(g | sum of x | sum of e)                                  sums divided by POOL_SCALE

    Each MLP is linear, GELU, linear, its result normalised. PyG's MetaLayer with these three models.
    """

    def __init__(self, recipe: Recipe, *, last: bool):
        super().__init__()
        hidden, width, edge_hidden = recipe.hidden, recipe.bond_hidden, 4 * recipe.bond_hidden
        self.edge_source, self.edge_target, self.edge_graph = (nn.Linear(hidden, edge_hidden, bias=False) for _ in range(3))
        self.edge_state, self.edge_out = nn.Linear(width, edge_hidden), nn.Linear(edge_hidden, width)
        self.edge_update = Update(width, recipe, activation=False)
        self.atom = nn.Sequential(nn.Linear(3 * hidden + 2 * width, hidden), nn.GELU(), nn.Linear(hidden, hidden))
        self.atom_update = Update(hidden, recipe, activation=False)
        self.graph = self.graph_update = None
        if not last:
            self.graph = nn.Sequential(nn.Linear(2 * hidden + width, hidden), nn.GELU(), nn.Linear(hidden, hidden))
            self.graph_update = Update(hidden, recipe, activation=False)

    def forward(self, state: State, graph: Graph) -> State:
        """One step of message passing."""
        x_AH, e_ED, g_GH = state
        assert e_ED is not None
        assert g_GH is not None
        edges, g_AH = graph.edges, gather(g_GH, graph.graph_of_atom_A)
        into = self.edge_target(x_AH) + gather(self.edge_graph(g_GH), graph.graph_of_atom_A)
        hidden_E = gather(self.edge_source(x_AH), edges.source_E) + gather(into, edges.target_E) + self.edge_state(e_ED)
        e_ED = self.edge_update(e_ED, self.edge_out(nn.functional.gelu(hidden_E)))
        incoming = segment_sum(e_ED, edges.target_E, num_segments=len(x_AH)) * graph.is_atom_A1
        outgoing = segment_sum(e_ED, edges.source_E, num_segments=len(x_AH)) * graph.is_atom_A1
        neighbours = sum_messages(x_AH, edges)
        new_AH = self.atom(torch.cat([x_AH, incoming, outgoing, neighbours, g_AH], dim=1))
        x_AH = self.atom_update(x_AH, new_AH, graph.is_atom_A1)
        if self.graph is not None and self.graph_update is not None:
            sums = segment_sum(torch.cat([x_AH, incoming], dim=1), graph.graph_of_atom_A, num_segments=graph.num_graphs)
            g_GH = self.graph_update(g_GH, self.graph(torch.cat([g_GH, sums / POOL_SCALE], dim=1)))
        return State(x_AH, e_ED, g_GH)
