"""Stock webdataset over a shard set: its pipelines, splitters, shuffles and a real DataLoader give each molecule exactly once."""

import gc
import pickle
import shutil
import warnings
from collections import Counter

import numpy as np
import pytest
import webdataset
from torch.utils.data import DataLoader

from molstream.shards.columns import COLUMNS
from molstream.shards.errors import ChecksumError, FormatError, InputError
from molstream.shards.format.archive import TAR_END
from molstream.shards.format.arrays import compress
from molstream.shards.format.reader import ShardSet
from molstream.streamer.config import Budget, StreamConfig
from molstream.streamer.errors import BudgetError, CallError
from molstream.streamer.loader import Loader
from molstream.streamer.webdataset import BlockDecoder, blocks, molecules, packs

pytestmark = [
    # workers are forked, which Python 3.12 and later warn of where there are threads
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
    # more of them than cores
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),
]


def config_of(shard_set, **changes) -> StreamConfig:
    return StreamConfig(**{"budget": Budget.suggest(shard_set, atoms=256), "num_lanes": 4, "window_molecules": 60} | changes)


def ids_of(parts) -> list[int]:
    """Ids of Molecules or of packs, in order."""
    return [int(i) for part in parts for i in (part.ids if part.ids is not None else [])]


def pipelines(shard_set) -> dict[str, webdataset.FluidWrapper]:
    return {
        "blocks": blocks(shard_set, groups=("ids",), seed=1).shuffle(3),
        "molecules": molecules(shard_set, seed=1).shuffle(100),
        "packs": packs(shard_set, config_of(shard_set), with_ids=True),
    }


# what comes


def test_blocks_and_molecules_are_those_of_the_reader_in_stored_order(sample_set, same):
    stored = list(sample_set.iter_blocks("train"))
    singles = [block.slice(k, k + 1) for block in stored for k in range(len(block))]
    for expected, found in ((stored, blocks(sample_set)), (singles, molecules(sample_set))):
        for one, other in zip(expected, found, strict=True):
            assert all(same(getattr(one, name), getattr(other, name)) for name in ("atom_ptr", "bond_ptr", *COLUMNS))


def test_blocks_have_the_columns_that_were_asked_for(sample_set):
    (first, *_) = blocks(sample_set, split="val", groups=("ids", "graph_labels"))
    assert first.ids is not None
    assert first.graph_labels is not None
    assert first.atom_codes is first.atom_labels is first.smiles is None


def test_a_seed_shuffles_blocks_in_another_order_each_epoch(made_sets):
    pipeline, again = (blocks(made_sets["many"], groups=("ids",), seed=5) for _ in range(2))
    orders = [[int(block.ids[0]) for block in pipeline] for _ in range(3)]
    assert orders == [[int(block.ids[0]) for block in again] for _ in range(3)]
    stored = [int(block.ids[0]) for block in made_sets["many"].iter_blocks("train")]
    assert [sorted(order) for order in orders] == [sorted(stored)] * 3
    assert len({tuple(order) for order in (stored, *orders)}) == 4


def test_packs_are_those_of_the_loader_epoch_after_epoch(made_sets):
    config = config_of(made_sets["many"])
    pipeline, loader = packs(made_sets["many"], config, with_ids=True), Loader(made_sets["many"], config, with_ids=True)
    for _ in range(2):
        expected = [batch for step in loader for batch in step.batches]
        for one, other in zip(expected, pipeline, strict=True):
            assert np.array_equal(one.ids, other.ids)
            for name in ("atom_codes_AF", "edge_index_2E", "graph_labels_GT", "atom_labels_AT"):
                assert np.array_equal(getattr(one, name), getattr(other, name), equal_nan="labels" in name)
    assert sum(batch.num_graphs for batch in pipeline.select(lambda batch: batch.num_graphs)) == 601


def test_a_pipeline_goes_on_as_stock_pipelines_do(made_sets):
    sizes = molecules(made_sets["many"]).map(lambda molecule: int(molecule.num_atoms[0])).batched(50, collation_fn=list)
    assert [len(batch) for batch in sizes] == [50] * 12 + [1]
    assert len(list(molecules(made_sets["many"]).repeat(2))) == 1202
    assert len(ids_of(webdataset.WebLoader(blocks(made_sets["many"]), batch_size=None).slice(2))) == 34


# each molecule once


@pytest.mark.parametrize("kind", ["blocks", "molecules", "packs"])
@pytest.mark.parametrize(("num_nodes", "num_workers"), [(1, 0), (1, 2), (2, 2), (3, 1)])
def test_each_molecule_comes_once_over_all_nodes_and_workers(made_sets, monkeypatch, kind, num_nodes, num_workers):
    shard_set, found, lengths = made_sets["many"], [], []
    monkeypatch.setenv("WORLD_SIZE", str(num_nodes))
    for rank in range(num_nodes):
        monkeypatch.setenv("RANK", str(rank))
        batches = list(DataLoader(pipelines(shard_set)[kind], batch_size=None, num_workers=num_workers))
        found.append(ids_of(batches))
        lengths.append(len(batches))
    assert Counter(i for ids in found for i in ids) == Counter(ids_of(shard_set.iter_blocks("train")))
    assert all(found)
    assert len(set(lengths)) == 1 or kind != "packs"


@pytest.mark.parametrize("name", ["one_block", "lonely"])
def test_more_workers_than_blocks_leave_nothing_out(made_sets, name):
    for kind, pipeline in pipelines(made_sets[name]).items():
        found = ids_of(DataLoader(pipeline, batch_size=None, num_workers=3))
        assert sorted(found) == sorted(ids_of(made_sets[name].iter_blocks("train"))), kind


def test_workers_that_stay_go_through_other_orders(made_sets):
    for kind, pipeline in pipelines(made_sets["many"]).items():
        loader = DataLoader(pipeline, batch_size=None, num_workers=2, persistent_workers=True)
        first, second = ids_of(loader), ids_of(loader)
        assert sorted(first) == sorted(second), kind
        assert first != second, kind


def test_a_pipeline_pickles_small_and_its_copy_gives_the_same(made_sets):
    for kind, pipeline in pipelines(made_sets["many"]).items():
        data = pickle.dumps(pipeline)
        assert len(data) < 4000, kind
        assert sorted(ids_of(pickle.loads(data))) == sorted(ids_of(pipeline)), kind


# what goes wrong


@pytest.fixture
def damaged(sample_set, tmp_path):
    """damaged(edit) -> a copy of the sample set whose first shard of train was edited."""

    def make(edit) -> ShardSet:
        copy = shutil.copytree(sample_set.path, tmp_path / "set")
        edit(copy / "train-00000.tar")
        return ShardSet(copy)

    return make


def flip(path) -> None:
    data = bytearray(path.read_bytes())
    # in the first member's data
    data[600] ^= 4
    path.write_bytes(data)


def cut_off_a_block(path) -> None:
    at = path.read_bytes().index(b"train-00000-0001.sizes.zst")
    path.write_bytes(path.read_bytes()[:at] + TAR_END)


DAMAGES = {
    "flip": (flip, ChecksumError),
    "cut": (cut_off_a_block, FormatError),
    "gone": (lambda path: path.unlink(), FormatError),
}


@pytest.mark.parametrize(("damage", "num_workers"), [("flip", 0), ("cut", 0), ("gone", 0), ("flip", 2)])
def test_a_damaged_shard_is_our_error_in_every_pipeline(damaged, damage, num_workers):
    edit, error = DAMAGES[damage]
    shard_set = damaged(edit)
    for pipeline in (blocks(shard_set), molecules(shard_set), packs(shard_set, config_of(shard_set))):
        with pytest.raises((error, FormatError), match=r"train-00000\.tar"):
            list(DataLoader(pipeline, batch_size=None, num_workers=num_workers))


def test_what_is_not_there_is_said_when_a_pipeline_is_made(sample_set):
    with pytest.raises(CallError, match=r"^groups: got 'bond_labels', the set has sizes, structure, graph_labels, "):
        blocks(sample_set, groups=("ids", "bond_labels"))
    with pytest.raises(InputError, match="no split 'valid', it holds train"):
        molecules(sample_set, split="valid")
    with pytest.raises(CallError, match="tasks: 'nothing' names none of the 69 tasks"):
        packs(sample_set, config_of(sample_set), tasks=["nothing"])
    with pytest.raises(BudgetError, match="budget 8,8,8: molecule"):
        packs(sample_set, config_of(sample_set, budget=Budget(8, 8, 8)))


def test_more_workers_than_lanes_are_refused(sample_set):
    with pytest.raises(CallError, match="world size 3: expected 1 to the number of lanes, 2; raise the lanes"):
        list(DataLoader(packs(sample_set, config_of(sample_set, num_lanes=2)), batch_size=None, num_workers=3))


# shards read by webdataset itself


def read_samples(shard_set, transform=None) -> list:
    """Samples of a stock WebDataset over all shards."""
    urls = [str(p) for p in dict.fromkeys(shard_set.shard_path(b) for b in range(len(shard_set.index)))]
    dataset = webdataset.WebDataset(urls, shardshuffle=False)
    with warnings.catch_warnings():
        # it leaves the closing of its files to the garbage collector
        warnings.simplefilter("ignore", ResourceWarning)
        samples = list(dataset if transform is None else dataset.map(transform))
        del dataset
        gc.collect()
    return samples


def test_stock_webdataset_reads_a_sample_a_block_with_every_byte(sample_set):
    samples = read_samples(sample_set)
    assert len(samples) == len(sample_set.index)
    for block, sample in enumerate(samples):
        shard = sample_set.shard_path(block).stem
        assert sample["__key__"].endswith(f"{shard}-{sample_set.index.counts['block'][block]:04d}")
        members = {k: v for k, v in sample.items() if not k.startswith("__")}
        assert list(members) == [f"{group}.zst" for group in sample_set.groups]
        assert members == {f"{g}.zst": data for g, data in sample_set.read_members(block, sample_set.groups).items()}


def test_stock_webdataset_takes_a_shard_that_was_cut_off_for_a_shorter_one(sample_set, damaged):
    """Why `blocks` does not read with it."""
    assert len(read_samples(damaged(cut_off_a_block))) < len(read_samples(sample_set))


def test_the_decoder_gives_the_molecules_of_the_reader(sample_set, same):
    decoder = pickle.loads(pickle.dumps(BlockDecoder(sample_set)))
    for block, found in enumerate(read_samples(sample_set, decoder)):
        expected = sample_set.read_block(block)
        for name in ("atom_ptr", "bond_ptr", *COLUMNS):
            assert same(getattr(found, name), getattr(expected, name)), name


def test_the_decoder_reads_the_groups_it_was_asked_for_and_pickles_small(sample_set, same):
    decoder = BlockDecoder(sample_set, groups=("structure",))
    (first, *_) = read_samples(sample_set, decoder)
    assert same(first.atom_codes, sample_set.read_block(0).atom_codes)
    assert first.graph_labels is first.atom_labels is first.ids is first.smiles is None
    assert len(pickle.dumps(decoder)) < 1000


def test_a_sample_that_is_damaged_or_of_another_kind_is_refused_by_name(sample_set):
    sample = read_samples(sample_set)[0]
    decoder = BlockDecoder(sample_set)
    bad = bytearray(sample["atom_labels.zst"])
    bad[len(bad) // 2] ^= 4
    where = r"train-00000\.tar, train-00000-0000: "
    with pytest.raises(FormatError, match=where + "not a zstd frame.*; restore the shard or build the set again"):
        decoder(sample | {"atom_labels.zst": bytes(bad)})
    with pytest.raises(FormatError, match=where + r"member sizes: .*too short"):
        decoder(sample | {"sizes.zst": compress(b"MSA2")})
    with pytest.raises(FormatError, match=where + r"no member smiles\.zst, expected a block of the shard set with sizes, struct"):
        decoder({k: v for k, v in sample.items() if k != "smiles.zst"})
