import gc
import pickle
import warnings

import pytest
import webdataset

from molstream.shards.columns import COLUMNS
from molstream.shards.errors import FormatError
from molstream.shards.format.arrays import compress
from molstream.streamer.webdataset import BlockDecoder


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


def test_the_decoder_gives_the_molecules_of_the_reader(sample_set, same):
    decoder = pickle.loads(pickle.dumps(BlockDecoder(sample_set)))
    for block, molecules in enumerate(read_samples(sample_set, decoder)):
        expected = sample_set.read_block(block)
        for name in ("atom_ptr", "bond_ptr", *COLUMNS):
            assert same(getattr(molecules, name), getattr(expected, name)), name


def test_the_decoder_reads_the_groups_it_was_asked_for(sample_set, same):
    (first, *_) = read_samples(sample_set, BlockDecoder(sample_set, groups=("structure",)))
    assert same(first.atom_codes, sample_set.read_block(0).atom_codes)
    assert first.graph_labels is first.atom_labels is first.ids is first.smiles is None


def test_a_decoder_pickles_small(sample_set):
    assert len(pickle.dumps(BlockDecoder(sample_set))) < 1000


def test_a_damaged_sample_is_refused(sample_set):
    sample = read_samples(sample_set)[0]
    decoder = BlockDecoder(sample_set)
    damaged = bytearray(sample["atom_labels.zst"])
    damaged[len(damaged) // 2] ^= 4
    with pytest.raises(FormatError, match="not a zstd frame"):
        decoder(sample | {"atom_labels.zst": bytes(damaged)})
    with pytest.raises(FormatError, match=r"member sizes: .*too short"):
        decoder(sample | {"sizes.zst": compress(b"MSA2")})
    with pytest.raises(KeyError, match=r"smiles\.zst"):
        decoder({k: v for k, v in sample.items() if k != "smiles.zst"})
