"""Layers against PyG on the same weights: values and gradients."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from molstream.kernels.nn.segment import Edges, segment_sum
from molstream.trainers.layer_table import LAYERS
from molstream.trainers.models.layers.block import Convolution
from molstream.trainers.models.layers.build import build_layer, find_layer
from molstream.trainers.models.layers.gated import GatedGCN
from molstream.trainers.models.layers.gcn import GCN
from molstream.trainers.models.layers.gin import GIN
from molstream.trainers.models.layers.gine import GINE
from molstream.trainers.models.layers.graph import POOL_SCALE, Graph, State
from molstream.trainers.models.layers.mpnn import MPNN
from molstream.trainers.recipes import smoke

CONVOLUTIONS = [name for name in LAYERS if issubclass(find_layer(name), Convolution)]
DOUBLE = torch.float64


def random_graph(atoms: int, bonds: int, graphs: int = 3, *, loops: bool = True, across: bool = True) -> Graph:
    """A multigraph, both directions of each bond in turn, lone atoms included; atoms of a graph are consecutive.

    Without bonds of an atom with itself, or across graphs: with fewer bonds.
    """
    graph_of_atom = torch.randint(0, graphs, (atoms,)).sort().values
    ends = torch.randint(0, atoms, (bonds, 2))
    if not loops:
        ends = ends[ends[:, 0] != ends[:, 1]]
    if not across:
        ends = ends[graph_of_atom[ends[:, 0]] == graph_of_atom[ends[:, 1]]]
    source, target = ends.flatten(), ends.flip(1).flatten()
    edges = Edges.sort(source, target, torch.randint(0, 10, (len(source),)), num_atoms=atoms)
    return Graph(
        edges=edges,
        degree_A=edges.ptr_A.diff(),
        graph_of_atom_A=graph_of_atom,
        num_graphs=graphs,
        is_atom_A1=torch.ones(atoms, 1, dtype=torch.bool),
    )


def assert_same(mine, theirs, inputs):
    """Values and gradients of both by the inputs."""
    assert torch.allclose(mine, theirs, rtol=1e-9, atol=1e-10)
    weights = torch.randn_like(mine)
    for a, b in zip(*(torch.autograd.grad((out * weights).sum(), inputs) for out in (mine, theirs)), strict=True):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-9)


def pyg_gcn(ours: GCN, hidden: int):
    from torch_geometric.nn import GCNConv

    theirs = GCNConv(hidden, hidden)
    theirs.lin.weight.data.copy_(ours.linear.weight)
    nn.init.normal_(ours.bias)
    theirs.bias.data.copy_(ours.bias)
    return lambda x, edge_index, bonds: theirs(x, edge_index)


def pyg_gin(ours: GIN, hidden: int):
    from torch_geometric.nn import GINConv

    theirs = GINConv(nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, hidden)), train_eps=True)
    nn.init.normal_(ours.eps)
    theirs.nn.load_state_dict(ours.mlp.state_dict())
    theirs.eps.data.copy_(ours.eps.data.view_as(theirs.eps))
    return lambda x, edge_index, bonds: theirs(x, edge_index)


def pyg_gine(ours: GINE, hidden: int):
    from torch_geometric.nn import GINEConv

    theirs = GINEConv(nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, hidden)), train_eps=True, edge_dim=6)
    nn.init.normal_(ours.eps)
    theirs.nn.load_state_dict(ours.mlp.state_dict())
    theirs.lin.load_state_dict(ours.edge.state_dict())
    theirs.eps.data.copy_(ours.eps.data.view_as(theirs.eps))
    return theirs


def pyg_gated(ours: GatedGCN, hidden: int):
    from torch_geometric.nn import ResGatedGraphConv

    theirs = ResGatedGraphConv(hidden, hidden, edge_dim=6)
    # PyG's key and query each read the bond: all of ours goes to the key's
    theirs.lin_key.weight.data.copy_(torch.cat([ours.key.weight, ours.edge_gate.weight], dim=1))
    theirs.lin_key.bias.data.copy_(ours.edge_gate.bias)
    theirs.lin_query.weight.data.copy_(torch.cat([ours.query.weight, torch.zeros(hidden, 6)], dim=1))
    theirs.lin_query.bias.data.zero_()
    theirs.lin_value.weight.data.copy_(torch.cat([ours.value.weight, ours.edge_value.weight], dim=1))
    theirs.lin_value.bias.data.copy_(ours.edge_value.bias)
    theirs.lin_skip.weight.data.copy_(ours.skip.weight)
    theirs.bias.data.copy_(ours.skip.bias)
    return theirs


PYG = {"gcn": pyg_gcn, "gin": pyg_gin, "gine": pyg_gine, "gated": pyg_gated}


@pytest.mark.parametrize("name", CONVOLUTIONS)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31), atoms=st.integers(1, 40), num_bonds=st.integers(0, 60), hidden=st.sampled_from([8, 24]))
def test_a_convolution_equals_pyg_on_the_same_weights_and_graph(name, seed, atoms, num_bonds, hidden):
    torch.manual_seed(seed)
    before = torch.get_default_dtype()
    torch.set_default_dtype(DOUBLE)
    try:
        ours, reads_bonds = find_layer(name)(hidden, 6), LAYERS[name].bonds != "none"
        theirs = PYG[name](ours, hidden)
        # PyG's GCN takes a loop for the atom's own term; ours adds that beside it, and molecules have none
        graph = random_graph(atoms, num_bonds, loops=name != "gcn")
        edges = graph.edges
        x, bonds = torch.randn(atoms, hidden, requires_grad=True), torch.randn(10, 6, requires_grad=reads_bonds)
        edge_index = torch.stack([edges.source_E, edges.target_E])
        assert_same(ours(x, bonds, graph), theirs(x, edge_index, bonds[edges.code_E]), (x, bonds)[: 1 + reads_bonds])
    finally:
        torch.set_default_dtype(before)


@pytest.mark.parametrize("last", [False, True])
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31), atoms=st.integers(1, 30), num_bonds=st.integers(0, 80))
def test_mpnn_equals_pygs_meta_layer_on_the_same_weights(last, seed, atoms, num_bonds):
    from torch_geometric.nn import MetaLayer
    from torch_geometric.utils import scatter

    torch.manual_seed(seed)
    recipe = replace(smoke(), layer="mpnn", hidden=16, bond_hidden=6, dropout=0.0)
    ours = MPNN(recipe, last=last).double()
    # edges cross no molecules in a batch
    graph = random_graph(atoms, num_bonds, across=False)
    edges = graph.edges

    def linear(x, *parts, bias=None):
        return nn.functional.linear(x, torch.cat([p.weight for p in parts], dim=1), bias)

    def edge_model(source, target, e, g, graph_of_edge):
        h = linear(
            torch.cat([source, target, e, g[graph_of_edge]], dim=1),
            ours.edge_source,
            ours.edge_target,
            ours.edge_state,
            ours.edge_graph,
            bias=ours.edge_state.bias,
        )
        return e + ours.edge_update.norm(ours.edge_out(nn.functional.gelu(h)))

    def node_model(x, edge_index, e, g, graph_of_atom):
        source, target = edge_index
        parts = [
            x,
            scatter(e, target, 0, dim_size=len(x)),
            scatter(e, source, 0, dim_size=len(x)),
            scatter(x[source], target, 0, dim_size=len(x)),
            g[graph_of_atom],
        ]
        return x + ours.atom_update.norm(ours.atom(torch.cat(parts, dim=1)))

    def global_model(x, edge_index, e, g, graph_of_atom):
        if last:
            return g
        sums = [scatter(x, graph_of_atom, 0, dim_size=len(g)), scatter(e, graph_of_atom[edge_index[1]], 0, dim_size=len(g))]
        return g + ours.graph_update.norm(ours.graph(torch.cat([g, *(s / POOL_SCALE for s in sums)], dim=1)))

    class Model(nn.Module):
        def __init__(self, function):
            super().__init__()
            self.forward = function

    meta = MetaLayer(Model(edge_model), Model(node_model), Model(global_model))
    widths = ((atoms, 16), (len(edges.source_E), 6), (graph.num_graphs, 16))
    inputs = [torch.randn(n, width, dtype=DOUBLE, requires_grad=True) for n, width in widths]
    mine = torch.cat([x.flatten() for x in ours(State(*inputs), graph)])
    edge_index = torch.stack([edges.source_E, edges.target_E])
    theirs = torch.cat([x.flatten() for x in meta(*(inputs[0], edge_index, *inputs[1:]), graph.graph_of_atom_A)])
    assert_same(mine, theirs, inputs)


def test_a_virtual_node_is_read_before_and_written_after_a_layer():
    torch.manual_seed(0)
    recipe = replace(smoke(), layer="gin", hidden=8, virtual_node=True, dropout=0.0)
    block, graph = build_layer(recipe, last=False), random_graph(12, 10)
    x, g = torch.randn(12, 8), torch.randn(graph.num_graphs, 8)
    state = block(State(x, None, g), graph)
    read = x + g[graph.graph_of_atom_A]
    atoms = read + nn.functional.gelu(block.update.norm(block.conv(read, None, graph)))
    assert torch.allclose(state.atoms_AH, atoms, atol=1e-6)
    total = g + segment_sum(atoms, graph.graph_of_atom_A, num_segments=graph.num_graphs) / POOL_SCALE
    assert torch.allclose(state.graphs_GH, g + nn.functional.gelu(block.virtual_update.norm(block.virtual(total))), atol=1e-5)
    assert build_layer(recipe, last=True).virtual is None


@pytest.mark.parametrize("layer", LAYERS)
def test_without_residual_and_norm_a_layer_gives_what_it_computes(layer):
    torch.manual_seed(0)
    plain = replace(smoke(), layer=layer, hidden=8, bond_hidden=8, residual=False, norm=False, dropout=0.0)
    block, graph = build_layer(plain, last=True), random_graph(12, 10)
    assert not any(isinstance(m, nn.LayerNorm) for m in block.modules())
    has_states = LAYERS[layer].bonds == "states"
    bonds = torch.randn(20 if has_states else 10, 8)
    with_residual = build_layer(replace(plain, residual=True), last=True)
    with_residual.load_state_dict(block.state_dict())
    ones = torch.ones(12, 8)
    if has_states:
        # its atoms read edges that are updated too
        block.edge_update.residual = True
    a, b = (m(State(ones, bonds, torch.zeros(3, 8)), graph).atoms_AH for m in (block, with_residual))
    assert torch.allclose(b - a, ones, atol=1e-5)
