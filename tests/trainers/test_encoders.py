"""Encoders against what they stand for."""

import numpy as np
import pytest
import torch

from molstream.kernels.chemistry.positional import dequantize_laplacian, dequantize_walk
from molstream.streamer.config import Budget, StreamConfig
from molstream.streamer.loader import Loader
from molstream.trainers.models.encoders import (
    AtomEncoder,
    BondTable,
    FeatureEncoder,
    LaplacianEncoder,
    RwseEncoder,
    group_and_period,
)

LAPLACIAN = ("eigenvectors_AK", "eigenvalues_AK")


@pytest.fixture(scope="module")
def batch(sample_set):
    """A pack with both encodings."""
    config = StreamConfig(budget=Budget.suggest(sample_set, atoms=512), num_lanes=1)
    return next(iter(Loader(sample_set, config, encodings=("rw16", "lap8")))).batches[0]


def test_groups_and_periods_are_those_of_rdkit():
    from rdkit import Chem

    periodic = Chem.GetPeriodicTable()
    assert [group_and_period(z)[1] for z in range(1, 119)] == [periodic.GetRow(z) for z in range(1, 119)]


def test_the_feature_encoder_is_a_linear_map_of_one_hot_features():
    features = {"element": 119, "degree": 12, "aromatic": 2}
    encoder = FeatureEncoder(features, 16)
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


def test_walks_reach_the_network_as_probabilities(batch):
    encoder = RwseEncoder().eval()
    expected = torch.from_numpy(dequantize_walk(batch.columns["rwse_AK"].numpy()))
    assert torch.allclose(encoder(batch), encoder.mlp(expected), atol=1e-5)
    assert 0.2 < expected[:, 1].max() <= 1


def test_eigenvectors_are_summed_pair_by_pair_without_those_that_are_not_there(batch):
    encoder = LaplacianEncoder().eval()
    vectors, values = (
        torch.from_numpy(x)
        for x in dequantize_laplacian(batch.columns["eigenvectors_AK"].numpy(), batch.columns["eigenvalues_AK"].numpy())
    )
    out = encoder(batch)
    for atom in np.linspace(0, len(vectors) - 1, 40).astype(int):
        there = [k for k in range(8) if k == 0 or values[atom, k] > 0]
        pairs = torch.stack([torch.stack([vectors[atom, k], values[atom, k]]) for k in there])
        assert torch.allclose(out[atom], encoder.out(encoder.pair(pairs).sum(dim=0)), atol=1e-4)
    assert torch.equal(encoder(batch), out), "no signs are drawn in evaluation"


def test_in_training_the_signs_of_a_molecules_eigenvectors_are_drawn_together(batch):
    encoder = LaplacianEncoder()
    seen = []
    encoder.pair.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach().clone()))
    torch.manual_seed(0)
    for _ in range(12):
        encoder(batch)
    stored = batch.columns["eigenvectors_AK"].float() / 127
    for pairs in seen:
        assert torch.equal(pairs[..., 0].abs(), stored.abs())
        assert torch.equal(pairs[..., 1], batch.columns["eigenvalues_AK"].float())
    # +1 or -1 by atom and eigenvector, 0 where the entry is 0
    signs = torch.stack([(pairs[..., 0] * stored).sign() for pairs in seen])
    graph = batch.graph_of_atom_A.long()
    patterns = set()
    for g in range(batch.num_graphs):
        of_graph = signs[:, graph == g]
        assert torch.equal(of_graph.amax(dim=1).clamp(min=0) * of_graph.amin(dim=1).clamp(max=0), torch.zeros(12, 8))
        patterns.add(tuple(of_graph.sum(dim=1).sign().flatten().tolist()))
    assert len(patterns) > batch.num_graphs // 2, "molecules have signs of their own"
    assert {-1, 1} <= set(signs.unique().tolist())


@pytest.mark.parametrize("encodings", [(), ("rw16",), ("lap8",), ("rw16", "lap8")])
def test_encodings_change_what_atoms_start_from_only_where_they_are_asked_for(batch, sample_set, encodings):
    features = {f.name: f.num_codes for f in sample_set.manifest.atom_features}
    encoder = AtomEncoder(features, hidden=16, encodings=encodings, width=24, out=8).eval()
    out = encoder(batch)
    assert out.shape == (len(batch.atom_mask_A), 16)
    from dataclasses import replace

    for name, changed in (
        ("rw16", replace(batch, columns=batch.columns | {"rwse_AK": batch.columns["rwse_AK"].flip(0)})),
        (
            "lap8",
            replace(
                batch,
                columns=batch.columns | {name: batch.columns[name].flip(0) for name in ("eigenvectors_AK", "eigenvalues_AK")},
            ),
        ),
    ):
        assert torch.allclose(encoder(changed), out) == (name not in encodings)
    assert (encoder.join is None) == (not encodings)
