"""What is in a batch: shapes, padding, labels on the right atoms, and threads that end."""

import threading
from itertools import pairwise

import numpy as np
import pytest
import torch

from molstream.shards.errors import ShardError
from molstream.streamer.batch import Batch
from molstream.streamer.config import Budget, StreamConfig
from molstream.streamer.loader import Loader


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

    from molstream.shards.format.reader import ShardSet

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


# one piece of memory


def tensors_of(batch: Batch) -> dict[str, torch.Tensor]:
    fields = {n: t for n in batch.__slots__ if isinstance(t := getattr(batch, n), torch.Tensor) and n != "storage"}
    return fields | dict(batch.columns)


def snapshot(batch: Batch) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in tensors_of(batch).items()} | {"ids": batch.ids.tobytes()}


KINDS = {
    "dense": {},
    "listed labels": {"list_labels": True},
    "encodings": {"encodings": ("rw16", "lap8")},
    "no labels": {"levels": ()},
}


@pytest.fixture(params=KINDS)
def batches(request, made_sets) -> list[Batch]:
    """All batches of an epoch, masked ones included, of every kind of column."""
    options = dict(KINDS[request.param])
    budget = Budget.suggest(made_sets["many"], atoms=256, list_labels=options.pop("list_labels", False))
    config = StreamConfig(budget=budget, num_lanes=7, window_molecules=50)
    out = [b for step in Loader(made_sets["many"], config, with_ids=True, **options) for b in step.batches]
    assert {b.num_graphs == 0 for b in out} == {True, False}
    return out


def test_every_tensor_is_a_view_of_the_one_piece_of_memory(batches):
    for batch in batches:
        start, end = batch.storage.data_ptr(), batch.storage.data_ptr() + batch.storage.numel()
        spans = []
        for name, tensor in tensors_of(batch).items():
            assert tensor.is_contiguous()
            if size := tensor.numel() * tensor.element_size():
                at = tensor.data_ptr()
                assert start <= at <= at + size <= end, name
                assert (at - start) % 64 == 0
                assert at % tensor.element_size() == 0
                spans.append((at, at + size))
        spans.sort()
        assert all(a[1] <= b[0] for a, b in pairwise(spans)), "tensors overlap"
        assert batch.layout.num_bytes == batch.storage.numel()


def test_a_batch_is_already_on_its_device(batches):
    assert batches[0].to("cpu") is batches[0]
    assert batches[0].to(torch.device("cpu")) is batches[0]


def test_a_batch_moves_to_another_device_in_one_piece(batches):
    """`meta` stands in for a GPU: it has shapes and strides and no memory."""
    for batch in (batches[0], batches[-1]):
        moved = batch.to("meta")
        there = tensors_of(moved)
        assert there.keys() == tensors_of(batch).keys()
        for name, tensor in tensors_of(batch).items():
            assert there[name].device.type == "meta"
            assert (there[name].dtype, there[name].shape) == (tensor.dtype, tensor.shape)
            assert there[name].untyped_storage()._cdata == moved.storage.untyped_storage()._cdata
        assert moved.ids is batch.ids
        assert moved.window_rows is batch.window_rows
        assert moved.num_graphs == batch.num_graphs
        assert moved.to("meta") is moved


def test_batches_that_are_kept_are_never_written_to_again(made_sets):
    """Windows are read into memory that is used again; batches are not made of it."""
    config = StreamConfig(budget=Budget.suggest(made_sets["many"], atoms=256), num_lanes=3, window_molecules=20)
    loader = Loader(made_sets["many"], config, with_ids=True, encodings=("rw16",), num_threads=4)
    kept, then = [], []
    for _ in range(3):
        for step in loader:
            kept += step.batches
            then += [snapshot(batch) for batch in step.batches]
    loader.close()
    assert [snapshot(batch) for batch in kept] == then
    pointers = [b.storage.data_ptr() for b in kept if b.num_graphs]
    assert len(set(pointers)) == len(pointers)
    # and a second pass makes the same bytes
    again = Loader(made_sets["many"], config, with_ids=True, encodings=("rw16",), num_threads=1)
    assert [snapshot(b) for _ in range(3) for step in again for b in step.batches] == then


def test_what_was_in_memory_before_does_not_show(made_sets, monkeypatch):
    """Neither memory of batches nor of windows comes cleared, so every byte must be written."""
    from molstream.streamer.batch import Layout
    from molstream.streamer.buffers import WindowMemory

    def run() -> list[dict[str, bytes]]:
        config = StreamConfig(budget=Budget.suggest(made_sets["tails"], atoms=256), num_lanes=3, window_molecules=30)
        loader = Loader(made_sets["tails"], config, with_ids=True, encodings=("rw16", "lap8"))
        return [snapshot(batch) for step in loader for batch in step.batches]

    expected = run()
    allocate, arrays = Layout.allocate, WindowMemory.arrays

    def dirty(self, **options):
        return allocate(self, **options).fill_(0x7F)

    def dirty_arrays(self, shapes):
        made = arrays(self, shapes)
        for array in made.values():
            array.view(np.uint8)[:] = 0x7F
        return made

    monkeypatch.setattr(Layout, "allocate", dirty)
    monkeypatch.setattr(WindowMemory, "arrays", dirty_arrays)
    assert run() == expected


def test_a_masked_batch_is_all_padding(batches):
    masked = [b for b in batches if not b.num_graphs]
    first = snapshot(masked[0])
    for batch in masked:
        assert snapshot(batch) == first
        assert (batch.num_graphs, batch.num_atoms, batch.num_edges) == (0, 0, 0)
        assert not batch.graph_mask_G.any()
        assert not batch.atom_mask_A.any()
        assert not batch.edge_mask_E.any()
        assert not batch.num_graph_labels_T.any()
        assert not batch.num_atom_labels_T.any()
        assert torch.isnan(batch.dense_graph_labels()).all()
        assert torch.isnan(batch.atom_labels_AT).all()
        assert (batch.graph_of_atom_A == len(batch.graph_mask_G) - 1).all()
        assert (batch.edge_index_2E == len(batch.atom_mask_A) - 1).all()
        assert batch.ids.size == batch.window_rows.size == 0
