"""One description of a column: a group that only a test knows goes all the way, from one entry in one place."""

import json

import numpy as np
import pytest
import torch

from molstream.shards.build.build import build
from molstream.shards.build.spill import REJECT_SCHEMA, PieceLayout, Spill, write_spill
from molstream.shards.columns import COLUMN_GROUPS, COLUMNS, Column, ColumnGroup, groups_of, register, unregister
from molstream.shards.errors import FormatError
from molstream.shards.format.reader import ShardSet
from molstream.shards.format.verify import verify
from molstream.shards.molecules import Molecules, concat_molecules
from molstream.shards.tasks import LEVELS
from molstream.streamer.config import Budget, StreamConfig
from molstream.streamer.loader import Loader


def three_numbers(atom_ptr, bond_ptr, bond_atoms):
    """Of each atom: its number in the molecule, its bonds, and a fraction that only f4 holds."""
    number = np.arange(atom_ptr[-1]) - np.repeat(atom_ptr[:-1], np.diff(atom_ptr))
    first = np.repeat(atom_ptr[:-1], np.diff(bond_ptr))[:, None] + bond_atoms
    bonds = np.bincount(first.reshape(-1), minlength=atom_ptr[-1])
    return (np.stack([number, bonds, number / 7 - bonds], axis=1).astype(np.float32),)


PLACES = ColumnGroup(
    name="places",
    columns=(
        Column(
            name="places",
            rows="atom",
            dtype=np.dtype(np.float32),
            width=(3,),
            pad=-1.5,
            suffix="A3",
            meaning="three numbers per atom, for this test",
        ),
    ),
    coding="plain",
    built_by="encodings",
    read_by="encodings",
    compute=three_numbers,
    shown=True,
)


@pytest.fixture
def places():
    register(PLACES)
    yield
    unregister("places")


@pytest.fixture
def places_set(places, sample_table, sample_options, tmp_path) -> ShardSet:
    build([str(sample_table)], tmp_path / "set", sample_options(pe=("rw16", "places")))
    return ShardSet(tmp_path / "set")


def expected_of(molecules: Molecules) -> np.ndarray:
    return three_numbers(molecules.atom_ptr, molecules.bond_ptr, molecules.bond_atoms)[0]


def test_it_is_built_indexed_read_and_verified(places_set):
    assert places_set.groups[-1] == "places"
    assert places_set.index.members["places_bytes"].min() > 0
    assert places_set.manifest.column_groups["places"] == {"places": "f4"}
    for block in places_set.iter_blocks():
        assert block.places.dtype == np.float32
        assert np.array_equal(block.places, expected_of(block))
    assert places_set.read_block(0, ("sizes", "ids")).places is None
    report = verify(places_set)
    assert (report.problems, report.molecules) == ([], sum(s["molecules"] for s in places_set.manifest.splits.values()))


def test_a_flipped_byte_of_it_is_found(places_set):
    member = places_set.index.members
    path = places_set.shard_path(0)
    data = bytearray(path.read_bytes())
    data[int(member["places_offset"][0]) + 40] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(FormatError, match="block 0, member places: damaged"):
        places_set.read_block(0)


@pytest.mark.parametrize("pe", ["rw16", "rw16,places"])
def test_it_is_streamed_into_batches_stored_or_computed(places, sample_table, sample_options, tmp_path, pe):
    build([str(sample_table)], tmp_path / "set", sample_options(pe=tuple(pe.split(","))))
    shard_set = ShardSet(tmp_path / "set")
    by_id = {int(m.ids[i]): m.slice(i, i + 1) for m in shard_set.iter_blocks("train") for i in range(len(m))}
    config = StreamConfig(budget=Budget.suggest(shard_set, atoms=512), num_lanes=2)
    loader = Loader(shard_set, config, encodings=("places",), with_ids=True)
    assert ("places" in loader.selection.groups) == ("places" in pe)
    seen = 0
    for step in loader:
        for batch in step.batches:
            values = batch.columns["places_A3"]
            assert (values.dtype, tuple(values.shape)) == (torch.float32, (len(batch.atom_mask_A), 3))
            assert (values[batch.num_atoms :] == -1.5).all()
            for g, molecule in enumerate(batch.ids.tolist()):
                a, b = batch.atom_ptr_G[g : g + 2].tolist()
                assert np.array_equal(values[a:b].numpy(), expected_of(by_id[molecule]))
                seen += 1
    assert seen == len(by_id)
    assert (loader.masked_batch.columns["places_A3"] == -1.5).all()


def test_cat_prints_it(places_set, capsys):
    from molstream.tools.main import main

    with pytest.raises(SystemExit):
        main(["cat", str(places_set.path), "--limit", "2"])
    first = next(places_set.iter_blocks())
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [r["places"] for r in records] == [first.slice(i, i + 1).places.tolist() for i in range(2)]


def test_it_goes_through_spill_files(places, sample_set, tmp_path):
    molecules = concat_molecules(list(sample_set.iter_blocks()))
    molecules = molecules.replace(places=expected_of(molecules))
    num_tasks = {level: len(sample_set.manifest.tasks_of(level)) for level in LEVELS}
    layout = PieceLayout.of(groups_of(num_tasks, pe=("places",)), num_tasks=num_tasks, identity=False)
    table = REJECT_SCHEMA.empty_table()
    write_spill(tmp_path / "a.spill", 3, [(molecules, np.arange(len(molecules)) % 3)], lambda: (table, {}))
    found = concat_molecules([m for k in range(3) for m, _ in Spill(tmp_path / "a.spill").read(k, layout)])
    order = np.argsort(found.ids)
    assert np.array_equal(found.take(order).places, molecules.take(np.argsort(molecules.ids)).places)


def test_names_are_taken_once():
    for name in ("rw16", "rwse", "ids"):
        with pytest.raises(ValueError, match=f"{name}' is taken"):
            register(ColumnGroup(name=name, columns=(), coding="plain", built_by="encodings", read_by="encodings"))
    assert list(COLUMN_GROUPS)[:2] == ["sizes", "structure"]


def test_every_column_says_what_it_is():
    for name, column in COLUMNS.items():
        assert column.name == name
        assert column.meaning
        assert len(name.encode()) <= 16
    with pytest.raises(TypeError, match="no column 'atom_code'"):
        Molecules(atom_ptr=np.zeros(1), bond_ptr=np.zeros(1), atom_code=np.zeros(1))
    with pytest.raises(AttributeError, match="no column 'atom_code'"):
        Molecules(atom_ptr=np.zeros(1), bond_ptr=np.zeros(1)).atom_code  # noqa: B018
