"""Layers against PyG on the same weights, and encoders against what they stand for."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from trainers.layers import GINE, AtomEncoder, BondTable, group_and_period


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), atoms=st.integers(1, 40), edges=st.integers(0, 120), hidden=st.sampled_from([8, 32]))
def test_gine_equals_pyg_on_the_same_weights_and_graph(seed, atoms, edges, hidden):
    from torch_geometric.nn import GINEConv

    torch.manual_seed(seed)
    ours = GINE(hidden, 6)
    theirs = GINEConv(nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, hidden)), train_eps=True, edge_dim=6)
    nn.init.normal_(ours.eps)
    theirs.nn.load_state_dict(ours.mlp.state_dict())
    theirs.lin.load_state_dict(ours.edge.state_dict())
    theirs.eps.data.copy_(ours.eps.data.view_as(theirs.eps))
    x = torch.randn(atoms, hidden, requires_grad=True)
    bonds = torch.randn(10, 6)
    edge_index, code = torch.randint(0, atoms, (2, edges)), torch.randint(0, 10, (edges,))
    mine = ours(x, bonds, edge_index[0], edge_index[1], code)
    reference = theirs(x, edge_index, bonds[code])
    assert torch.allclose(mine, reference, atol=1e-5)
    (mine_grad,) = torch.autograd.grad(mine.square().sum(), x)
    (reference_grad,) = torch.autograd.grad(reference.square().sum(), x)
    assert torch.allclose(mine_grad, reference_grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("element", "expected"),
    [
        (0, (0, 0)),
        (1, (1, 1)),
        (2, (18, 1)),
        (3, (1, 2)),
        (6, (14, 2)),
        (9, (17, 2)),
        (13, (13, 3)),
        (21, (3, 4)),
        (35, (17, 4)),
        (54, (18, 5)),
        (57, (3, 6)),
        (71, (3, 6)),
        (72, (4, 6)),
        (79, (11, 6)),
        (86, (18, 6)),
        (103, (3, 7)),
        (118, (18, 7)),
    ],
)
def test_groups_and_periods_are_those_of_the_table(element, expected):
    assert group_and_period(element) == expected


def test_groups_and_periods_are_those_of_rdkit():
    from rdkit import Chem

    periodic = Chem.GetPeriodicTable()
    assert [group_and_period(z)[1] for z in range(1, 119)] == [periodic.GetRow(z) for z in range(1, 119)]


def test_the_atom_encoder_is_a_linear_map_of_one_hot_features():
    features = {"element": 119, "degree": 12, "aromatic": 2}
    encoder = AtomEncoder(features, 16)
    codes = torch.tensor([[6, 3, 1], [0, 0, 0], [118, 11, 1]], dtype=torch.uint8)
    one_hot = torch.zeros(3, encoder.table.shape[0])
    for row, (z, degree, aromatic) in enumerate(codes.tolist()):
        group, period = group_and_period(z)
        for column in (z, 119 + degree, 131 + aromatic, 133 + group, 133 + 19 + period):
            one_hot[row, column] += 1
    assert torch.allclose(encoder(codes), one_hot @ encoder.table, atol=1e-6)


def test_the_bond_table_reads_mixed_radix_codes():
    table = BondTable({"type": 5, "stereo": 7, "ring": 2}, 4)
    out = table()
    assert out.shape == (70, 4)
    code = (3 * 7 + 2) * 2 + 1
    assert torch.allclose(out[code], table.table[3] + table.table[5 + 2] + table.table[12 + 1])
