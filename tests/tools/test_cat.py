"""molstream cat: what went in comes out, in raw units, each value at its atom."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from rdkit import Chem

from molstream.shards.format.reader import ShardSet


def test_every_row_comes_out_once_as_json(molecules):
    assert sorted(molecules) == list(range(250))
    assert all(list(record) == ["id", "smiles", "graph", "atom"] for record in molecules.values())


def test_graph_labels_are_the_inputs_values_and_absent_ones_are_absent(molecules, table):
    rows = pq.read_table(table).to_pylist()
    for number, record in molecules.items():
        row = rows[number]
        assert record["graph"] == {k: v for k, v in row.items() if k.startswith("graph_") and v is not None}
    assert any(len(record["graph"]) < 62 for record in molecules.values())


def test_atom_labels_stand_at_the_atoms_of_the_printed_smiles(molecules, table):
    """The k-th atom of the printed SMILES carries what the input says of the atom mapped k, up to symmetry of the molecule."""
    rows = pq.read_table(table).to_pylist()
    for number, record in molecules.items():
        row = rows[number]
        names = [k for k, v in row.items() if k.startswith("node_") and v]
        assert list(record["atom"]) == names
        there, here = Chem.MolFromSmiles(row["ordered_smiles"]), Chem.MolFromSmiles(record["smiles"])
        # number 0 is no number to RDKit: the atom without one has it
        maps = [atom.GetAtomMapNum() for atom in there.GetAtoms()]
        assert sorted(maps) == list(range(len(maps)))
        for atom in there.GetAtoms():
            atom.SetAtomMapNum(0)
        # atom labels are stored in 16 bits unless told otherwise
        labels = np.array([row[name] for name in names], np.float16).astype(np.float32).T
        printed = np.array([record["atom"][name] for name in names], np.float32).T
        matches = there.GetSubstructMatches(here, uniquify=False, maxMatches=10_000)
        assert any(np.array_equal(labels[[maps[a] for a in match]], printed) for match in matches), record["smiles"]


def test_molecules_come_in_the_order_of_the_shards(succeed, shard_set):
    ids = np.concatenate([block.ids for block in ShardSet(shard_set).iter_blocks()])
    assert [json.loads(line)["id"] for line in succeed("cat", shard_set).lines] == ids.tolist()


def test_a_split_is_what_the_manifest_counts(succeed, shard_set, molecules):
    found = {
        s: {json.loads(line)["id"] for line in succeed("cat", shard_set, "--split", s).lines} for s in ("train", "val", "test")
    }
    assert {s: len(ids) for s, ids in found.items()} == {
        s: t["molecules"] for s, t in ShardSet(shard_set).manifest.splits.items()
    }
    assert set.union(*found.values()) == set(molecules)


@pytest.mark.parametrize("ids", ["17", "3,17,240", " 240 , 3,17", "3,3,3"])
def test_the_wanted_ids_are_printed_and_no_others(succeed, shard_set, molecules, ids):
    done = succeed("cat", shard_set, "--ids", ids)
    wanted = {int(i) for i in ids.split(",")}
    assert {record["id"]: record for record in map(json.loads, done.lines)} == {i: molecules[i] for i in wanted}
    assert len(done.lines) == len(wanted)


@pytest.mark.parametrize(("limit", "lines"), [(0, 0), (1, 1), (70, 70), (1000, 250)])
def test_the_limit_is_kept(succeed, shard_set, limit, lines):
    done = succeed("cat", shard_set, "--limit", limit)
    assert done.lines == succeed("cat", shard_set).lines[:lines]


def test_split_ids_and_limit_go_together(succeed, shard_set):
    val = [json.loads(line)["id"] for line in succeed("cat", shard_set, "--split", "val").lines]
    done = succeed("cat", shard_set, "--split", "val", "--ids", f"{val[4]},{val[1]}", "--limit", 1)
    assert [json.loads(line)["id"] for line in done.lines] == [val[1]]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("--ids 5,9999,777", "no molecule 777, 9999; rejects.parquet lists rejected rows"),
        ("--ids 1,x", "--ids: got '1,x', expected row numbers separated by commas, like 0,17,23"),
        ("--ids 1,,2", "--ids: got '1,,2'"),
        ("--ids -1", "--ids: got '-1'"),
        (f"--ids {2**64}", f"no molecule {2**64}"),
    ],
)
def test_ids_that_are_not_there_are_named(molstream, shard_set, arguments, expected):
    done = molstream("cat", shard_set, *arguments.split())
    assert done.code == 2
    assert expected in done.error


def test_an_id_of_another_split_is_said_to_be_missing_in_this_one(molstream, shard_set):
    [line] = molstream("cat", shard_set, "--split", "val", "--limit", 1).lines
    number = json.loads(line)["id"]
    done = molstream("cat", shard_set, "--split", "train", "--ids", number)
    assert done.code == 2
    assert f"no molecule {number} in split train" in done.error


def test_a_damaged_block_is_an_error_that_names_it(molstream, copy_set, flip):
    opened = ShardSet(copy_set)
    flip(copy_set / "val-00000.tar", int(opened.index.members["smiles_offset"][opened.blocks("val")[0]]) + 9)
    done = molstream("cat", copy_set)
    assert done.code == 1
    assert "val-00000.tar, block 0, member smiles" in done.error
