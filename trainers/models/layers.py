"""Message-passing layers. Each equals PyG's of the same name on the same weights (tests/trainers/test_layers.py).

Bonds are of few kinds, so a linear map of bond embeddings is applied to the table of distinct codes and then gathered; a linear
map of (source | target | ...) is the sum of maps of its parts, so it is applied to atoms and then gathered.

Shape suffixes: A atoms, E directed edges, G graphs, C distinct bond codes, H hidden, D width of bonds.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from molstream.kernels.nn.dropout import add_dropped, dropout
from molstream.kernels.nn.segment import Edges, gather, segment_sum, sum_messages
from molstream.streamer.batch import Batch
from molstream.trainers.config import Recipe

POOL_SCALE = 16.0
"""Sums over a molecule are divided by this constant, so that they start at the scale of atom states."""


class Graph(NamedTuple):
    """Who is whose neighbour in a batch; indices int64."""

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
    """The table (C, D), or for MPNN++ a state of each directed edge (E, D); None where a layer reads no bonds."""
    graphs_GH: Tensor | None = None
    """Of MPNN++ and virtual nodes."""


def make_mlp(width_in: int, width: int, width_out: int) -> nn.Sequential:
    """Linear, ReLU, linear."""
    return nn.Sequential(nn.Linear(width_in, width), nn.ReLU(), nn.Linear(width, width_out))


class GCN(nn.Module):
    """x_i <- sum over neighbours j and i itself of W x_j / sqrt(d_i d_j), plus b; d counts the atom itself.

    Kipf & Welling 2017 (arXiv 1609.02907); PyG's GCNConv.
    """

    reads_bonds = False

    def __init__(self, hidden: int, bond_hidden: int):
        super().__init__()
        self.linear = nn.Linear(hidden, hidden, bias=False)
        self.bias = nn.Parameter(torch.zeros(hidden))

    def forward(self, x_AH: Tensor, bonds_CD: Tensor | None, graph: Graph) -> Tensor:
        """(A, H) -> (A, H)."""
        scale = (graph.degree_A + 1).to(x_AH.dtype).rsqrt().unsqueeze(1)
        y = self.linear(x_AH) * scale
        return scale * (y + sum_messages(y, graph.edges)) + self.bias


class GIN(nn.Module):
    """x_i <- MLP((1 + eps) x_i + sum over edges j -> i of x_j).

    Xu et al. 2019 (arXiv 1810.00826); PyG's GINConv.
    """

    reads_bonds = False

    def __init__(self, hidden: int, bond_hidden: int):
        super().__init__()
        self.eps = nn.Parameter(torch.zeros(()))
        self.mlp = make_mlp(hidden, hidden, hidden)

    def forward(self, x_AH: Tensor, bonds_CD: Tensor | None, graph: Graph) -> Tensor:
        """(A, H) -> (A, H)."""
        return self.mlp(torch.addcmul(sum_messages(x_AH, graph.edges), x_AH, 1 + self.eps))


class GINE(nn.Module):
    """x_i <- MLP((1 + eps) x_i + sum over edges j -> i of relu(x_j + W e_ij)).

    Hu et al. 2020 (arXiv 1905.12265); PyG's GINEConv.
    """

    reads_bonds = True

    def __init__(self, hidden: int, bond_hidden: int):
        super().__init__()
        self.eps = nn.Parameter(torch.zeros(()))
        self.edge = nn.Linear(bond_hidden, hidden)
        self.mlp = make_mlp(hidden, hidden, hidden)

    def forward(self, x_AH: Tensor, bonds_CD: Tensor, graph: Graph) -> Tensor:
        """(A, H) -> (A, H)."""
        return self.mlp(torch.addcmul(sum_messages(x_AH, graph.edges, self.edge(bonds_CD)), x_AH, 1 + self.eps))


class GatedGCN(nn.Module):
    """x_i <- S x_i + sum over edges j -> i of sigmoid(K x_i + Q x_j + G e_ij) * (V x_j + U e_ij).

    Bresson & Laurent 2017 (arXiv 1711.07553); PyG's ResGatedGraphConv with edge features.
    """

    reads_bonds = True

    def __init__(self, hidden: int, bond_hidden: int):
        super().__init__()
        self.skip = nn.Linear(hidden, hidden)
        self.key, self.query, self.value = (nn.Linear(hidden, hidden, bias=False) for _ in range(3))
        self.edge_gate, self.edge_value = nn.Linear(bond_hidden, hidden), nn.Linear(bond_hidden, hidden)

    def forward(self, x_AH: Tensor, bonds_CD: Tensor, graph: Graph) -> Tensor:
        """(A, H) -> (A, H)."""
        edges = graph.edges
        gate = gather(self.key(x_AH), edges.target_E) + gather(self.query(x_AH), edges.source_E)
        gate = torch.sigmoid(gate + gather(self.edge_gate(bonds_CD), edges.code_E))
        value = gather(self.value(x_AH), edges.source_E) + gather(self.edge_value(bonds_CD), edges.code_E)
        return self.skip(x_AH) + segment_sum(gate * value, edges.target_E, num_segments=len(x_AH))


CONVOLUTIONS: dict[str, type[GCN] | type[GIN] | type[GINE] | type[GatedGCN]] = {
    "gcn": GCN,
    "gin": GIN,
    "gine": GINE,
    "gated": GatedGCN,
}


class Dropout(nn.Module):
    """Zeros a share of the numbers in training; `kernels.nn.dropout`."""

    def __init__(self, p: float):
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Any shape."""
        return dropout(x, self.p if self.training else 0.0)


class Update(nn.Module):
    """old + dropout(activation(norm(new))), and 0 in rows of padding; norm, activation and the sum are optional."""

    def __init__(self, width: int, recipe: Recipe, *, activation: bool):
        super().__init__()
        self.norm = nn.LayerNorm(width) if recipe.norm else nn.Identity()
        self.activation = nn.GELU() if activation else nn.Identity()
        self.dropout = Dropout(recipe.dropout)
        self.residual = recipe.residual

    def forward(self, old_NH: Tensor, new_NH: Tensor, is_row_N1: Tensor | None = None) -> Tensor:
        """Two tensors of one shape -> one of the same."""
        new_NH = self.activation(self.norm(new_NH))
        if self.residual:
            return add_dropped(old_NH, new_NH, self.dropout.p if self.training else 0.0, is_row_N1)
        new_NH = self.dropout(new_NH)
        return new_NH if is_row_N1 is None else new_NH * is_row_N1


class ConvolutionBlock(nn.Module):
    """A convolution with what goes around it; with a virtual node, which atoms read before and write after."""

    def __init__(self, recipe: Recipe, *, last: bool):
        super().__init__()
        self.conv = CONVOLUTIONS[recipe.layer](recipe.hidden, recipe.bond_hidden)
        self.update = Update(recipe.hidden, recipe, activation=True)
        # nobody would read what the last one writes
        self.virtual = make_mlp(recipe.hidden, recipe.hidden, recipe.hidden) if recipe.virtual_node and not last else None
        self.virtual_update = None if self.virtual is None else Update(recipe.hidden, recipe, activation=True)

    def forward(self, state: State, graph: Graph) -> State:
        """One step of message passing."""
        x_AH, bonds, graphs_GH = state
        if graphs_GH is not None:
            x_AH = x_AH + gather(graphs_GH, graph.graph_of_atom_A)
        x_AH = self.update(x_AH, self.conv(x_AH, bonds, graph), graph.is_atom_A1)
        if self.virtual is not None and self.virtual_update is not None and graphs_GH is not None:
            total = segment_sum(x_AH, graph.graph_of_atom_A, num_segments=graph.num_graphs) / POOL_SCALE
            graphs_GH = self.virtual_update(graphs_GH, self.virtual(graphs_GH + total))
        return State(x_AH, bonds, graphs_GH)


class MPNNBlock(nn.Module):
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


def build_layer(recipe: Recipe, *, last: bool) -> nn.Module:
    """One layer of a recipe; the last has no state of molecules to hand on."""
    return MPNNBlock(recipe, last=last) if recipe.layer == "mpnn" else ConvolutionBlock(recipe, last=last)


def reads_bonds(recipe: Recipe) -> bool:
    """Whether a recipe's layers read bonds."""
    return recipe.layer == "mpnn" or CONVOLUTIONS[recipe.layer].reads_bonds
