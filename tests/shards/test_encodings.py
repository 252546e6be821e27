"""Positional encodings in a shard set: stored codes are those of the kernels, and a run that wants none reads none."""

import random
from dataclasses import replace

import numpy as np
import pytest

from molstream.kernels.chemistry.positional import (
    dequantize_laplacian,
    dequantize_walk,
    laplacian,
    quantize_laplacian,
    quantize_walk,
    random_walk,
)
from molstream.shards.build.build import WorkOptions, build
from molstream.shards.errors import FormatError
from molstream.shards.format.reader import ShardSet
from molstream.shards.format.verify import verify

BOTH = ("rw16", "lap8")


@pytest.fixture(scope="module")
def encoded_set(sample_table, sample_options, tmp_path_factory) -> ShardSet:
    """`sample_set` with both encodings."""
    out = tmp_path_factory.mktemp("encoded") / "set"
    build([str(sample_table)], out, sample_options(pe=BOTH))
    return ShardSet(out)


def test_stored_codes_are_those_of_the_kernels(encoded_set):
    for block in encoded_set.iter_blocks():
        graph = (block.atom_ptr, block.bond_ptr, block.bond_atoms)
        vectors, values = laplacian(*graph)
        assert np.array_equal(block.rwse, quantize_walk(random_walk(*graph)))
        codes, numbers = quantize_laplacian(vectors, values)
        assert np.array_equal(block.eigenvectors, codes)
        assert np.array_equal(block.eigenvalues, numbers)
        assert (block.rwse.dtype, block.eigenvectors.dtype, block.eigenvalues.dtype) == (np.uint8, np.int8, np.float16)
        assert np.abs(dequantize_walk(block.rwse) - random_walk(*graph)).max() <= 1 / 510 + 1e-6
        again, numbers = dequantize_laplacian(block.eigenvectors, block.eigenvalues)
        assert np.abs(again - vectors).max() <= 1 / 254 + 1e-6
        assert np.abs(numbers - values).max() <= 1e-3 * values.max()


def test_encodings_are_members_of_their_own_and_change_no_other(encoded_set, sample_set, same):
    assert encoded_set.groups == ("sizes", "structure", "graph_labels", "rw16", "lap8", "atom_labels", "ids", "smiles")
    assert sample_set.groups == tuple(g for g in encoded_set.groups if g not in BOTH)
    assert not verify(encoded_set).problems
    assert encoded_set.manifest.fingerprint != sample_set.manifest.fingerprint
    for k in range(len(sample_set.index)):
        with_codes, without = encoded_set.read_members(k), sample_set.read_members(k)
        assert {g: with_codes[g] for g in without} == without
        block = sample_set.read_block(k)
        assert block.rwse is block.eigenvectors is block.eigenvalues is None
        part = encoded_set.read_block(k, ("lap8",))
        assert part.rwse is part.atom_codes is None
        assert same(part.eigenvectors, encoded_set.read_block(k).eigenvectors)


@pytest.mark.parametrize("pe", [("rw16",), ("lap8",)])
def test_one_encoding_alone(sample_table, sample_options, encoded_set, tmp_path, same, pe):
    build([str(sample_table)], tmp_path / "set", sample_options(pe=pe))
    alone = ShardSet(tmp_path / "set")
    assert set(BOTH) & set(alone.groups) == set(pe)
    assert not verify(alone).problems
    for one, both in zip(alone.iter_blocks(), encoded_set.iter_blocks(), strict=True):
        assert same(one.rwse, both.rwse if "rw16" in pe else None)
        assert same(one.eigenvectors, both.eigenvectors if "lap8" in pe else None)


def test_a_molecule_has_the_same_codes_in_whatever_block_and_order(sample_table, encoded_set, sample_options, tmp_path):
    build([str(sample_table)], tmp_path / "set", sample_options(pe=BOTH, seed=9, block_molecules=7), work=WorkOptions(workers=2))

    def codes(shard_set):
        return {
            int(block.ids[i]): (block.rwse[a:b].tobytes(), block.eigenvectors[a:b].tobytes(), block.eigenvalues[a:b].tobytes())
            for block in shard_set.iter_blocks()
            for i, (a, b) in enumerate(zip(block.atom_ptr[:-1], block.atom_ptr[1:], strict=True))
        }

    assert codes(ShardSet(tmp_path / "set")) == codes(encoded_set)


def test_molecules_without_bonds_rings_or_connection_are_encoded(build_set, by_id):
    rows = [{"ordered_smiles": s} for s in ("C", "[Na+].[Cl-]", "[H][H]", "CO.CO", "C1CC1", "[He]", "C" * 300)]
    shard_set = build_set(rows, pe=BOTH)
    assert sorted(by_id(shard_set)) == list(range(len(rows)))
    assert not verify(shard_set).problems


@pytest.mark.parametrize("group", BOTH)
def test_damaged_codes_are_refused_or_change_codes_alone(encoded_set, group):
    contents = encoded_set.read_contents(0)
    sound = encoded_set.decode(0, contents)
    draw, refused = random.Random(group), 0
    for _ in range(300):
        damaged = bytearray(contents[group])
        if draw.random() < 0.2:
            damaged = damaged[: draw.randrange(len(damaged))]
        else:
            damaged[draw.randrange(min(len(damaged), draw.choice((80, 10**9))))] ^= 1 << draw.randrange(8)
        try:
            found = encoded_set.decode(0, contents | {group: bytes(damaged)})
        except FormatError as error:
            assert f"member {group}: " in str(error)  # noqa: PT017
            refused += 1
            continue
        assert found.rwse.shape == sound.rwse.shape
        assert found.eigenvectors.shape == found.eigenvalues.shape == sound.eigenvectors.shape
        assert np.array_equal(found.atom_codes, sound.atom_codes)
    assert 50 < refused < 300


def test_a_shard_set_whose_index_has_other_groups_than_its_manifest_is_refused(encoded_set, sample_set, tmp_path):
    import hashlib
    import shutil

    from molstream.shards.format.manifest import Manifest

    shutil.copytree(encoded_set.path, tmp_path / "set")
    index = (sample_set.path / "index.parquet").read_bytes()
    (tmp_path / "set" / "index.parquet").write_bytes(index)
    manifest = replace(encoded_set.manifest, index_sha256=hashlib.sha256(index).hexdigest())
    manifest.write(tmp_path / "set" / "manifest.json")
    assert Manifest.read(tmp_path / "set" / "manifest.json")
    with pytest.raises(FormatError, match=r"index lists the column groups .*, the manifest"):
        ShardSet(tmp_path / "set")
