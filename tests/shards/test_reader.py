import hashlib
import random
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from molstream.shards.build.build import BuildOptions, build
from molstream.shards.errors import ChecksumError, FormatError, InputError
from molstream.shards.format.arrays import decode_arrays, encode_arrays
from molstream.shards.format.block import encode_block
from molstream.shards.format.codings import arrays_of
from molstream.shards.format.index import encode_table
from molstream.shards.format.reader import ShardSet
from molstream.shards.store.documents import seal_json


@pytest.fixture(scope="module")
def tiny_set(tmp_path_factory, sample_table) -> ShardSet:
    """Twelve molecules in blocks of three."""
    folder = tmp_path_factory.mktemp("tiny")
    pq.write_table(pq.read_table(sample_table).slice(0, 12), folder / "in.parquet")
    build([str(folder / "in.parquet")], folder / "set", BuildOptions(block_molecules=3))
    return ShardSet(folder / "set")


@pytest.fixture
def copied_set(tmp_path, sample_set):
    """A copy of the sample set to destroy."""
    path = tmp_path / "set"
    shutil.copytree(sample_set.path, path)
    return path


def flip(path, at: int, bit: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1 << bit]))


def test_blocks_and_splits_cover_the_set_once(sample_set):
    assert sample_set.splits == ("train", "val", "test")
    blocks = [sample_set.blocks(split).tolist() for split in sample_set.splits]
    assert np.concatenate(blocks).tolist() == list(range(len(sample_set.index)))
    for split, mine in zip(sample_set.splits, blocks, strict=True):
        totals = sample_set.manifest.splits[split]
        assert totals["blocks"] == len(mine)
        assert totals["shards"] == len({sample_set.shard_path(b) for b in mine})
        read = list(sample_set.iter_blocks(split))
        assert totals["molecules"] == sum(len(m) for m in read)
        assert totals["atoms"] == sum(m.atom_ptr[-1] for m in read)
        assert totals["bonds"] == sum(m.bond_ptr[-1] for m in read)
    assert len(list(sample_set.iter_blocks())) == len(sample_set.index)


def test_columns_that_are_not_asked_for_are_not_there(sample_set, same):
    whole = sample_set.read_block(0)
    part = sample_set.read_block(0, ("atom_labels", "ids"))
    assert same(part.atom_labels, whole.atom_labels)
    assert same(part.ids, whole.ids)
    assert same(part.atom_ptr, whole.atom_ptr)
    assert part.atom_codes is part.bond_atoms is part.graph_labels is part.smiles is None


def test_members_are_the_bytes_at_their_place_in_the_shard(sample_set):
    for block in range(len(sample_set.index)):
        data = sample_set.shard_path(block).read_bytes()
        for group, member in sample_set.read_members(block, sample_set.groups).items():
            offset = sample_set.index.members[f"{group}_offset"][block]
            assert data[offset : offset + len(member)] == member


def test_far_members_are_read_by_reads_of_their_own(sample_set, monkeypatch):
    whole = sample_set.read_members(0, ("sizes", "smiles"))
    monkeypatch.setattr("molstream.shards.format.reader.MAX_GAP", 0)
    assert sample_set.read_members(0, ("sizes", "smiles")) == whole


def test_threads_read_side_by_side(sample_set):
    blocks = list(range(len(sample_set.index))) * 4
    with ThreadPoolExecutor(4) as pool:
        ids = list(pool.map(lambda b: sample_set.read_block(b).ids.tolist(), blocks))
    assert ids == [sample_set.read_block(b).ids.tolist() for b in blocks]


def test_every_damaged_byte_of_a_member_is_detected_and_named(tiny_set):
    draw = random.Random(0)
    path = tiny_set.shard_path(0)
    for block in (0, 1):
        for group in tiny_set.groups:
            offset, size = (int(tiny_set.index.members[f"{group}_{f}"][block]) for f in ("offset", "bytes"))
            for at in range(offset, offset + size):
                bit = draw.randrange(8)
                flip(path, at, bit)
                with pytest.raises(ChecksumError, match=rf"{path}, block {block}, member {group}: damaged"):
                    tiny_set.read_block(block)
                flip(path, at, bit)
    assert len(tiny_set.read_block(0)) == 3


def test_a_shard_cut_anywhere_fails_for_the_blocks_it_lost_and_for_no_other(tiny_set):
    path = tiny_set.shard_path(0)
    data = path.read_bytes()
    blocks = [b for b in range(len(tiny_set.index)) if tiny_set.shard_path(b) == path]
    ends = [int(tiny_set.index.members["smiles_offset"][b] + tiny_set.index.members["smiles_bytes"][b]) for b in blocks]
    try:
        for size in range(0, len(data), 61):
            path.write_bytes(data[:size])
            for block, end in zip(blocks, ends, strict=True):
                if end <= size:
                    assert len(tiny_set.read_block(block)) == tiny_set.index.counts["num_molecules"][block]
                else:
                    with pytest.raises(FormatError, match=rf"{path}, block {block}: [0-9,]+ bytes .*: cut short or damaged"):
                        tiny_set.read_block(block)
    finally:
        path.write_bytes(data)


def test_a_missing_shard_is_named(copied_set):
    shard_set = ShardSet(copied_set)
    shard_set.shard_path(0).unlink()
    with pytest.raises(FormatError, match=r"train-00000\.tar: missing, though the index lists it"):
        shard_set.read_block(0)


def test_an_index_of_another_manifest_is_refused(copied_set, tiny_set):
    shutil.copy(tiny_set.path / "index.parquet", copied_set)
    with pytest.raises(ChecksumError, match=r"index\.parquet: not the index this manifest was written with"):
        ShardSet(copied_set)


def test_a_damaged_index_is_refused(copied_set):
    flip(copied_set / "index.parquet", 1000, 3)
    with pytest.raises(ChecksumError, match=r"index\.parquet: not the index"):
        ShardSet(copied_set)


def test_a_missing_index_is_named(copied_set):
    (copied_set / "index.parquet").unlink()
    with pytest.raises(FormatError, match=r"index\.parquet is missing"):
        ShardSet(copied_set)


def test_a_newer_set_is_refused_with_its_place_and_version(copied_set):
    (copied_set / "manifest.json").write_bytes(seal_json({}, kind="shard set", version=7))
    with pytest.raises(FormatError, match=rf"{copied_set}/manifest\.json: shard set version 7, this molstream reads 5"):
        ShardSet(copied_set)


def test_folders_that_hold_no_set_are_refused(tmp_path):
    with pytest.raises(InputError, match="absent: no such folder"):
        ShardSet(tmp_path / "absent")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file: no such folder"):
        ShardSet(tmp_path / "file")
    with pytest.raises(FormatError, match=r"no shard set \(manifest\.json is missing\)"):
        ShardSet(tmp_path)
    (tmp_path / ".building").mkdir()
    with pytest.raises(FormatError, match="incomplete build: it was stopped before its manifest"):
        ShardSet(tmp_path)


def test_a_split_that_is_not_there_is_named(sample_set):
    with pytest.raises(InputError, match="no split 'dev', it holds train, val, test"):
        sample_set.blocks("dev")
    with pytest.raises(InputError, match="no split 'dev'"):
        next(sample_set.iter_blocks("dev"))


def test_a_code_beyond_its_feature_is_refused_before_it_indexes_a_table(sample_set):
    contents = sample_set.read_contents(0)
    arrays = decode_arrays(contents["structure"], arrays_of("structure"))
    for name, at, value in (("atom_rows", 0, 119), ("atom_rows", -1, 2), ("bond_kinds", 0, 70)):
        codes = arrays[name].copy()
        codes[at] = value
        damaged = contents | {"structure": encode_arrays(arrays | {name: codes})}
        with pytest.raises(FormatError, match=r"train-00000\.tar, block 0, member structure: a code is outside"):
            sample_set.decode(0, damaged)


def test_contents_of_another_block_are_refused(sample_set):
    molecules = sample_set.read_block(0)
    rows = np.arange(len(molecules))
    rows[molecules.num_atoms.argmax()] = molecules.num_atoms.argmin()
    with pytest.raises(FormatError, match=r"block 0: num_atoms \d+, the index says"):
        sample_set.decode(0, encode_block(molecules.take(rows)))


def test_arrays_that_were_not_transformed_cannot_be_written_to(sample_set):
    arrays = decode_arrays(sample_set.read_contents(0)["sizes"], arrays_of("sizes"))
    with pytest.raises(ValueError, match="read-only"):
        arrays["num_atoms"][0] = 1
    assert np.array_equal(arrays["num_atoms"], sample_set.read_block(0).num_atoms)


def resealed(folder, change, **fields):
    """The set with another index, and a manifest that says so."""
    path, whole = folder / "index.parquet", ShardSet(folder)
    rows = pq.read_table(path, read_dictionary=["split"])
    path.write_bytes(encode_table(change(rows)))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    (folder / "manifest.json").write_bytes(replace(whole.manifest, index_sha256=digest, **fields).encode())
    return folder


def altered(column, value):
    def change(rows):
        numbers = rows[column].to_pylist()
        return rows.set_column(
            rows.schema.names.index(column), column, pa.array([value(numbers[0]), *numbers[1:]], rows[column].type)
        )

    return change


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda t: t.slice(1), r"the index has \d+ blocks in split \w+, the manifest \d+; restore both or build again"),
        (lambda t: pa.concat_tables([t, t.slice(0, 1)]), r"the index has \d+ blocks in split \w+, the manifest \d+"),
        (altered("num_molecules", lambda n: n - 1), r"the index has \d+ molecules in split"),
        (altered("num_atoms", lambda n: n + 1), r"the index has [\d,]+ atoms in split"),
        (altered("num_bonds", lambda n: n + 1), r"the index has [\d,]+ bonds in split"),
        (lambda t: t.slice(0, 0), r"the index has blocks of splits none, the manifest of"),
    ],
    ids=["a row less", "a row twice", "molecules", "atoms", "bonds", "no row"],
)
def test_an_index_that_counts_otherwise_than_its_manifest_is_refused_when_opened(copied_set, change, match):
    with pytest.raises(FormatError, match=match):
        ShardSet(resealed(copied_set, change))


def test_an_empty_set_is_refused_when_opened(copied_set):
    fields = {"splits": {}}
    with pytest.raises(FormatError, match="index and manifest are those of a set without molecules"):
        ShardSet(resealed(copied_set, lambda t: t.slice(0, 0), **fields))


def test_blocks_of_nothing_are_refused_when_opened(copied_set):
    manifest = ShardSet(copied_set).manifest
    nothing = {split: totals | {"atoms": 0, "bonds": 0} for split, totals in manifest.splits.items()}

    def change(rows):
        for column in ("num_atoms", "num_bonds", "max_atoms", "max_bonds"):
            zeros = pa.array([0] * len(rows), rows[column].type)
            rows = rows.set_column(rows.schema.names.index(column), column, zeros)
        return rows

    with pytest.raises(FormatError, match=r"block \d+: num_atoms is 0, expected at least its num_molecules, \d+"):
        ShardSet(resealed(copied_set, change, splits=nothing))


def test_a_block_of_more_molecules_than_memory_holds_is_refused_when_opened(copied_set):
    manifest = ShardSet(copied_set).manifest
    first = ShardSet(copied_set).index.split_of(0)
    many = 2**31 - 1 - int(ShardSet(copied_set).index.counts["num_molecules"][0])
    totals = manifest.splits[first] | {"molecules": manifest.splits[first]["molecules"] + many}
    changed = resealed(copied_set, altered("num_molecules", lambda n: n + many), splits=manifest.splits | {first: totals})
    with pytest.raises(FormatError, match="a block of 2,147,483,647 molecules, expected at most 16,777,216"):
        ShardSet(changed)


def test_damaged_columns_of_an_index_are_one_error_when_it_is_opened(copied_set):
    path, whole = copied_set / "index.parquet", ShardSet(copied_set)
    footer = pq.ParquetFile(path).metadata
    with path.open("r+b") as file:
        for k in range(footer.row_group(0).num_columns):
            chunk = footer.row_group(0).column(k)
            file.seek(chunk.dictionary_page_offset if chunk.has_dictionary_page else chunk.data_page_offset)
            file.write(bytes(chunk.total_compressed_size))
    manifest = replace(whole.manifest, index_sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    (copied_set / "manifest.json").write_bytes(manifest.encode())
    with pytest.raises(FormatError, match=rf"{path}: not readable as Parquet"):
        ShardSet(copied_set)
