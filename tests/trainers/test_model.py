"""The network as a whole: pooling by hand, and what it does not depend on."""

from dataclasses import replace

import pytest
import torch

from molstream.kernels.nn.segment import Edges
from molstream.streamer.config import StreamConfig
from molstream.streamer.loader import Loader
from molstream.trainers.jobs.evaluate import plan_budget
from molstream.trainers.layer_table import LAYERS
from molstream.trainers.models.layers.graph import POOL_SCALE, Graph
from molstream.trainers.models.loss import Loss, Targets, count_labels
from molstream.trainers.models.network import build_network
from molstream.trainers.spec import DataSpec


@pytest.fixture(scope="module")
def batch(sample_set):
    from molstream.trainers.recipes import smoke

    config = StreamConfig(budget=plan_budget(sample_set, DataSpec.of(sample_set), smoke()), num_lanes=1)
    return next(iter(Loader(sample_set, config))).batches[0]


@pytest.mark.parametrize(
    ("pooling", "by_hand"),
    [("sum", lambda x: x.sum(0) / POOL_SCALE), ("mean", lambda x: x.mean(0)), ("max", lambda x: x.amax(0))],
)
def test_a_molecule_is_pooled_from_its_own_atoms(sample_set, tiny, batch, pooling, by_hand):
    network = build_network(DataSpec.of(sample_set), replace(tiny, pooling=pooling)).eval()
    with torch.no_grad():
        atoms, pooled = network.encode(batch)
    assert batch.num_graphs > 3
    for g in range(batch.num_graphs):
        first, last = batch.atom_ptr_G[g : g + 2].tolist()
        assert torch.allclose(pooled[g], by_hand(atoms[first:last]), atol=1e-5)
    assert torch.isfinite(pooled).all()


@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_reads_bonds_or_it_does_not(sample_set, tiny, batch, layer):
    network = build_network(DataSpec.of(sample_set), replace(tiny, layer=layer)).eval()
    others = replace(batch, edge_codes_E=(batch.edge_codes_E + 14) % 70)
    with torch.no_grad():
        changed = not torch.allclose(network.encode(batch)[1], network.encode(others)[1], atol=1e-5)
    assert changed == (LAYERS[layer].bonds != "none")


def test_edges_come_sorted_and_in_pairs(batch):
    edges = Graph.of(batch).edges
    again = Edges.sort(*edges[:3], num_atoms=len(batch.atom_mask_A))
    assert all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(edges, again, strict=True))
    assert torch.equal(edges.source_E.view(-1, 2).flip(1).flatten(), edges.target_E)


def test_molecules_of_a_pack_do_not_see_each_other(sample_set, tiny, batch):
    """Another element in one molecule changes its predictions and no others', with a virtual node too."""
    for change in ({"layer": "gine", "virtual_node": True}, {"layer": "mpnn"}):
        network = build_network(DataSpec.of(sample_set), replace(tiny, **change)).eval()
        codes = batch.atom_codes_AF.clone()
        codes[int(batch.atom_ptr_G[2]), 0] = 15
        with torch.no_grad():
            a, b = (network(x) for x in (batch, replace(batch, atom_codes_AF=codes)))
        differs = (a["g62"] - b["g62"]).abs().amax(dim=1) > 1e-6
        assert differs[: batch.num_graphs].nonzero().flatten().tolist() == [2]
        atoms = ((a["n7"] - b["n7"]).abs().amax(dim=1) > 1e-6) & batch.atom_mask_A
        assert set(batch.graph_of_atom_A[atoms].tolist()) == {2}


@pytest.mark.parametrize("level", ["graph", "atom", "bond", "pair"])
def test_labels_of_every_level_train_the_layers(levels_set, tiny, level):
    everything = DataSpec.of(levels_set)
    spec = DataSpec.of(levels_set, task_sets=[head.name for head in everything.heads if head.level == level])
    network, loss, targets = build_network(spec, tiny), Loss(spec, tiny), Targets(spec)
    config = StreamConfig(budget=plan_budget(levels_set, spec, tiny), num_lanes=1)
    batch = next(iter(Loader(levels_set, config, tasks=spec.tasks, levels=spec.levels))).batches[0]
    loss(network(batch), targets(batch), count_labels([batch], spec))[0].backward()
    assert all(p.grad.abs().sum() > 0 for p in network.parameters())
