"""Positional encodings in batches: those of the set, or the same bits computed where it has none."""

import numpy as np
import pytest
import torch

from molstream.shards.build.build import build
from molstream.shards.chemistry.encodings import compute_columns
from molstream.shards.format.reader import ShardSet
from molstream.streamer.config import Budget, StreamConfig
from molstream.streamer.loader import Loader

COLUMNS = ("rwse", "eigenvectors", "eigenvalues")
DTYPES = {"rwse": (torch.uint8, 16), "eigenvectors": (torch.int8, 8), "eigenvalues": (torch.float16, 8)}
ALL = ("rw16", "lap8")


def loader_for(shard_set: ShardSet, encodings: tuple[str, ...], **options) -> Loader:
    config = StreamConfig(budget=Budget.suggest(shard_set, atoms=256), num_lanes=3, window_molecules=50)
    return Loader(shard_set, config, encodings=encodings, with_ids=True, **options)


def rows_of(loader: Loader) -> dict[int, list[np.ndarray | None]]:
    """{id: rows of each encoding of its atoms, None where it was not asked for} over an epoch; padding is checked."""
    rows = {}
    for step in loader:
        for batch in step.batches:
            tensors = [batch.columns.get(f"{name}_AK") for name in COLUMNS]
            for name, tensor in zip(COLUMNS, tensors, strict=True):
                if tensor is not None:
                    assert (tensor.dtype, tensor.shape[1]) == DTYPES[name]
                    assert len(tensor) == len(batch.atom_mask_A)
                    assert not tensor[batch.num_atoms :].any()
            for g, molecule in enumerate(batch.ids.tolist()):
                atoms = slice(*batch.atom_ptr_G[g : g + 2].tolist())
                rows[molecule] = [None if t is None else t[atoms].numpy() for t in tensors]
    return rows


def bits(columns: list[np.ndarray | None]) -> list[bytes | None]:
    return [None if c is None else c.tobytes() for c in columns]


@pytest.fixture(scope="module")
def sets(sample_table, sample_options, sample_set, tmp_path_factory) -> dict[str, ShardSet]:
    """The same real molecules in sets with both encodings, one of them, and none."""
    root = tmp_path_factory.mktemp("encodings")
    out = {"none": sample_set}
    for name in ("rw16,lap8", "rw16"):
        build([str(sample_table)], root / name, sample_options(pe=tuple(name.split(","))))
        out[name] = ShardSet(root / name)
    return out


def test_batches_hold_what_is_stored_on_the_right_atoms(sets):
    shard_set = sets["rw16,lap8"]
    loader = loader_for(shard_set, ALL)
    assert set(ALL) < set(loader.selection.groups)
    rows = rows_of(loader)
    seen = 0
    for block in shard_set.iter_blocks("train"):
        for i, molecule in enumerate(block.ids.tolist()):
            atoms = slice(*block.atom_ptr[i : i + 2])
            assert bits(rows[molecule]) == bits([getattr(block, name)[atoms] for name in COLUMNS])
            seen += 1
    assert seen == len(rows) > 100
    # nor are they all alike
    assert len({tuple(bits(row)) for row in rows.values()}) > 50
    assert not loader.stages.seconds["encode"]


@pytest.mark.parametrize("there", ["none", "rw16"])
@pytest.mark.parametrize("asked", [ALL, ("rw16",), ("lap8",), ("lap8", "rw16"), ()])
def test_what_the_set_lacks_is_computed_to_the_same_bits(sets, there, asked):
    loader = loader_for(sets[there], asked)
    assert [g for g in loader.selection.groups if g in ALL] == [g for g in ALL if g in asked and g == there]
    stored, computed = rows_of(loader_for(sets["rw16,lap8"], asked)), rows_of(loader)
    assert stored.keys() == computed.keys()
    for molecule, row in stored.items():
        assert bits(row) == bits(computed[molecule])
        assert [c is not None for c in row] == ["rw16" in asked, "lap8" in asked, "lap8" in asked]
    assert bool(loader.stages.seconds["encode"]) == any(name not in there for name in asked)


def test_made_up_graphs_with_rings_and_single_atoms_too(random_set):
    def encode(molecules):
        return molecules.replace(**compute_columns(molecules, ALL))

    options = {"seed": 21, "block": 13, "largest": 40}
    stored = rows_of(loader_for(random_set(150, edit=encode, **options), ALL))
    computed = rows_of(loader_for(random_set(150, **options), ALL))
    assert {m: bits(row) for m, row in stored.items()} == {m: bits(row) for m, row in computed.items()}
    assert any(len(row[0]) == 1 for row in stored.values())


def test_masked_batches_have_encodings_of_zeros(random_set):
    loader = loader_for(random_set(30, seed=22, block=30), ALL, rank=0, world_size=2)
    batch = loader.masked_batch
    for name in COLUMNS:
        tensor = batch.columns[f"{name}_AK"]
        assert (tensor.dtype, tensor.shape[1]) == DTYPES[name]
        assert not tensor.any()


def test_asking_for_encodings_moves_no_molecule(sets):
    with_them, without = (loader_for(sets["none"], encodings) for encodings in (ALL, ()))
    for a, b in zip(with_them, without, strict=True):
        assert [x.ids.tolist() for x in a.batches] == [x.ids.tolist() for x in b.batches]
        assert all(torch.equal(x.edge_index_2E, y.edge_index_2E) for x, y in zip(a.batches, b.batches, strict=True))
        assert not any(x.columns for x in b.batches)
