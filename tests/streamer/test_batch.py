"""What is in a batch: shapes, padding, labels on the right atoms, and threads that end."""

import threading

import numpy as np
import pytest
import torch

from shards import ShardError
from streamer import Budget, Loader, StreamConfig


def loader_for(shard_set, **options) -> Loader:
    config = StreamConfig(budget=Budget.suggest(shard_set, atoms=256), num_lanes=options.pop("num_lanes", 2))
    return Loader(shard_set, config, **options)


def test_every_batch_has_the_same_shapes_and_dtypes_masked_ones_included(made_sets):
    loader = loader_for(made_sets["many"], num_lanes=7)
    kinds = set()
    masked = 0
    for step in loader:
        for batch in step.batches:
            masked += batch.num_graphs == 0
            kinds.add(
                tuple((n, t.dtype, tuple(t.shape)) for n in batch.__slots__ if isinstance(t := getattr(batch, n), torch.Tensor))
            )
    assert masked == loader.plan.num_masked_packs or masked
    assert len(kinds) == 1


def test_batches_carry_each_molecule_as_it_is_stored(made_sets):
    shard_set = made_sets["tails"]
    stored = {}
    for block in shard_set.iter_blocks("train"):
        for i, molecule_id in enumerate(block.ids):
            stored[int(molecule_id)] = block.take(np.array([i]))
    seen = 0
    for step in loader_for(shard_set, with_ids=True):
        for batch in step.batches:
            for g, molecule_id in enumerate(batch.ids):
                molecule = stored[int(molecule_id)]
                first, last = batch.atom_ptr_G[g : g + 2].tolist()
                assert np.array_equal(batch.atom_codes_AF[first:last], molecule.atom_codes)
                assert np.array_equal(batch.atom_labels_AT[first:last], molecule.atom_labels, equal_nan=True)
                assert np.array_equal(batch.graph_labels_GT[g], molecule.graph_labels[0])
                assert (batch.graph_of_atom_A[first:last] == g).all()
                inside = (batch.edge_index_2E[0] >= first) & (batch.edge_index_2E[0] < last) & batch.edge_mask_E
                edges = batch.edge_index_2E[:, inside].numpy() - first
                assert np.array_equal(edges[:, ::2].T, molecule.bond_atoms)
                assert np.array_equal(edges[:, 1::2].T, molecule.bond_atoms[:, ::-1])
                assert np.array_equal(batch.edge_codes_E[inside][::2], molecule.bond_codes)
                seen += 1
    assert seen == len(stored)


def test_padding_is_marked_and_belongs_to_the_last_graph_and_atom(made_sets):
    step = next(iter(loader_for(made_sets["many"])))
    for batch in step.batches:
        n, a, e = batch.num_graphs, int(batch.atom_mask_A.sum()), int(batch.edge_mask_E.sum())
        assert (batch.num_atoms, batch.num_edges) == (a, e)
        assert batch.graph_mask_G.tolist() == [True] * n + [False] * (len(batch.graph_mask_G) - n)
        assert not batch.graph_mask_G[-1]
        assert not batch.atom_mask_A[-1]
        assert (batch.graph_of_atom_A[a:] == len(batch.graph_mask_G) - 1).all()
        assert (batch.edge_index_2E[:, e:] == len(batch.atom_mask_A) - 1).all()
        assert torch.isnan(batch.graph_labels_GT[n:]).all()
        assert torch.isnan(batch.atom_labels_AT[a:]).all()


def test_label_counts_are_those_of_the_batch(made_sets):
    for step in loader_for(made_sets["many"]):
        for batch in step.batches:
            assert torch.equal(batch.num_graph_labels_T, (~torch.isnan(batch.graph_labels_GT)).sum(0).int())
            assert torch.equal(batch.num_atom_labels_T, (~torch.isnan(batch.atom_labels_AT)).sum(0).int())


def test_only_the_levels_asked_for_are_read(made_sets, monkeypatch):
    asked = set()
    read = type(made_sets["many"]).read_members

    def spy(self, block, groups):
        asked.update(groups)
        return read(self, block, groups)

    monkeypatch.setattr(type(made_sets["many"]), "read_members", spy)
    batches = [b for step in loader_for(made_sets["many"], levels=("graph",)) for b in step.batches]
    assert asked == {"sizes", "structure", "graph_labels"}
    assert all(b.atom_labels_AT.shape == (len(b.atom_mask_A), 0) for b in batches)
    assert sum(int(b.num_graph_labels_T.sum()) for b in batches) == 601


def streamer_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("molstream")]


def test_threads_end_when_a_loop_breaks_or_raises(made_sets):
    for _ in range(3):
        iterator = iter(loader_for(made_sets["many"], num_threads=3))
        next(iterator)
        assert streamer_threads()
        iterator.close()
        assert not streamer_threads()
    iterator = iter(loader_for(made_sets["many"]))
    next(iterator)
    with pytest.raises(KeyboardInterrupt, match="stop"):
        iterator.throw(KeyboardInterrupt("stop"))
    assert not streamer_threads()


def test_a_damaged_block_ends_the_stream_by_name(made_sets, tmp_path):
    import shutil

    from shards import ShardSet

    folder = tmp_path / "damaged"
    shutil.copytree(made_sets["many"].path, folder)
    shard = folder / "train-00002.tar"
    data = bytearray(shard.read_bytes())
    data[1600] ^= 4
    shard.write_bytes(data)
    with pytest.raises(ShardError, match=r"train-00002\.tar, block \d+, member \w+: damaged"):
        list(loader_for(ShardSet(folder)))
    assert not streamer_threads()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"world_size": 3}, "world size 3: expected 1 to the number of lanes, 2"),
        ({"world_size": 2, "rank": 2}, "rank 2: expected 0 to 1"),
        ({"rank": -1}, "rank -1"),
        ({"num_threads": 0}, "threads: got 0"),
    ],
)
def test_impossible_ranks_are_refused(made_sets, options, match):
    with pytest.raises(ValueError, match=match):
        loader_for(made_sets["many"], **options)


def test_an_unknown_split_is_refused(made_sets):
    shard_set = made_sets["many"]
    with pytest.raises(ValueError, match="no split 'val', it holds train"):
        Loader(shard_set, StreamConfig(budget=Budget.suggest(shard_set, atoms=256), split="val"))
