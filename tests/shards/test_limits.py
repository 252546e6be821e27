"""Finished work outlives faults that are not the input's, spills of another plan are not used, what memory holds is bounded."""

import csv
import json
import runpy
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from molstream.shards.build.build import BuildOptions, WorkOptions, build
from molstream.shards.build.map import MAX_PAIR_ATOMS
from molstream.shards.build.spill import Spill
from molstream.shards.chemistry.parser import match_atoms
from molstream.shards.errors import FormatError, InputError, LimitError, SchemaError, StorageError
from molstream.shards.format.block import Widths, compress, decode_block, encode_block
from molstream.shards.format.reader import ShardSet
from molstream.shards.format.verify import verify
from molstream.shards.inputs.datasets import TableSpec
from molstream.shards.inputs.tables import TableReader, iter_smiles
from molstream.shards.molecules import Molecules

OWN = TableSpec(dataset="table")


def write_csv(path, columns: dict[str, list]):
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return str(path)


@pytest.fixture
def small_ranges(monkeypatch):
    monkeypatch.setattr("molstream.shards.inputs.tables.RANGE_ROWS", 80)
    monkeypatch.setattr("molstream.shards.inputs.tables.MIN_RANGE_ROWS", 80)


def stop_before_writing(phase, done, total):
    if phase == "write":
        raise KeyboardInterrupt


def spills(out):
    return sorted(p.name for p in (out / ".building").glob("*.spill"))


@pytest.mark.usefixtures("small_ranges")
def test_finished_work_outlives_a_wrong_ray_address(sample_table, tmp_path):
    pytest.importorskip("ray", reason="needs molstream[ray]")
    out = tmp_path / "set"
    with pytest.raises(KeyboardInterrupt):
        build([str(sample_table)], out, BuildOptions(), stop_before_writing)
    before = spills(out)
    with pytest.raises(InputError, match="cannot be reached"):
        build([str(sample_table)], out, BuildOptions(), work=WorkOptions(engine="ray", ray_address="127.0.0.1:1"))
    assert spills(out) == before != []


@pytest.mark.usefixtures("small_ranges")
def test_finished_work_outlives_a_disk_that_fails_for_a_while(sample_table, tmp_path, monkeypatch, folder_bytes):
    out, opened = tmp_path / "set", TableReader._next
    calls = []

    def fail_later(reader, most):
        calls.append(most)
        if len(calls) == 3:
            raise OSError(5, "Input/output error")
        return opened(reader, most)

    monkeypatch.setattr(TableReader, "_next", fail_later)
    with pytest.raises(StorageError, match=r"cannot be read at or after row \d+: Input/output error; run again to go on"):
        build([str(sample_table)], out, BuildOptions())
    assert spills(out)
    build([str(sample_table)], out, BuildOptions())
    monkeypatch.undo()
    build([str(sample_table)], tmp_path / "whole", BuildOptions())
    assert folder_bytes(out) == folder_bytes(tmp_path / "whole")


@pytest.mark.usefixtures("small_ranges")
def test_spills_that_are_cut_into_other_partitions_are_not_used(sample_table, tmp_path, monkeypatch, folder_bytes):
    out, options = tmp_path / "set", BuildOptions(shard_molecules=60)
    # a version that counts partitions in another way and says nothing of it
    monkeypatch.setattr("molstream.shards.build.plan.Plan.map_id", "0123456789abcdef")
    monkeypatch.setattr("molstream.shards.build.output.Output._compare", lambda *args: None)
    with monkeypatch.context() as other:
        other.setattr("molstream.shards.build.plan.Plan.shards_of", lambda plan, split: 2)
        with pytest.raises(KeyboardInterrupt):
            build([str(sample_table)], out, options, stop_before_writing)
        assert {Spill(p).num_partitions for p in (out / ".building").glob("*.spill")} == {6}
    build([str(sample_table)], out, options)
    build([str(sample_table)], tmp_path / "whole", options)
    assert folder_bytes(out) == folder_bytes(tmp_path / "whole")


def test_254_splits_make_a_set_that_can_be_read(tmp_path):
    names = ["train", *(f"s{k}" for k in range(253))]
    smiles = ["C" * (1 + k % 9) + "O" * (1 + k % 3) for k in range(508)]
    path = write_csv(tmp_path / "a.csv", {"smiles": smiles})
    (tmp_path / "splits.json").write_text(json.dumps({name: [2 * k, 2 * k + 1] for k, name in enumerate(names)}))
    build([path], tmp_path / "set", BuildOptions(tables=(OWN,)), split_file=str(tmp_path / "splits.json"))
    shard_set = ShardSet(tmp_path / "set")
    assert shard_set.splits == tuple(names)
    assert shard_set.manifest.provenance["options"]["splits"] == "splits.json"
    assert not verify(shard_set).problems


def test_molecules_whose_pairs_take_too_much_are_rejected_and_cost_no_memory(tmp_path):
    long = "C" * (MAX_PAIR_ATOMS + 1)
    path = write_csv(tmp_path / "a.csv", {"smiles": ["CO", long, "CCO"], "p": ["[1.5]", "", "[1,2,3]"]})
    spec = TableSpec(dataset="table", pair_columns=("p",))
    build([path], tmp_path / "set", BuildOptions(tables=(spec,)), work=WorkOptions(max_reject_fraction=0.5))
    (reject,) = pq.read_table(tmp_path / "set" / "rejects.parquet").to_pylist()
    assert (reject["row"], reject["reason"]) == (1, "513 atoms, more than 512 in a set with labels of pairs")
    assert sum(s["molecules"] for s in ShardSet(tmp_path / "set").manifest.splits.values()) == 2


def test_a_member_that_could_not_be_read_again_is_not_written(monkeypatch):
    monkeypatch.setattr("molstream.shards.format.block.MAX_MEMBER_BYTES", 100)
    with pytest.raises(LimitError, match=r"101 bytes in one piece, at most 100 can be read; build with fewer --block-molecules"):
        compress(bytes(101))


def test_labels_that_would_take_all_memory_are_refused_before_they_are_made(monkeypatch):
    molecules = Molecules(
        atom_ptr=np.array([0, 2]),
        bond_ptr=np.array([0, 1]),
        atom_codes=np.ones((2, 7), np.uint8),
        bond_atoms=np.array([[0, 1]], np.uint16),
        bond_codes=np.zeros(1, np.uint8),
        graph_labels=np.zeros((1, 5), np.float32),
        ids=np.zeros(1, np.uint64),
        smiles=np.array(["CC"], object),
    )
    contents = encode_block(molecules)
    monkeypatch.setattr("molstream.shards.format.block.MAX_DENSE_BYTES", 19)
    with pytest.raises(FormatError, match=r"member graph_labels: labels of shape \(1, 5\), more than 19 bytes"):
        decode_block(contents, num_molecules=1, widths=Widths(atom_codes=(9,) * 7, bond_codes=9, num_tasks={"graph": 5}))


@pytest.mark.parametrize("name", ["a.csv", "a.smi", "a.csv.gz"])
def test_lines_without_an_end_are_refused(tmp_path, monkeypatch, name):
    import gzip

    monkeypatch.setattr("molstream.shards.inputs.tables.MAX_LINE", 1000)
    data = b"smiles\n" + b"C" * 5000
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    with pytest.raises(SchemaError, match="a line of more than 1,000 characters"):
        list(iter_smiles(str(tmp_path / name)))


def test_reading_a_table_leaves_the_limit_of_the_csv_module_as_it_was(tmp_path):
    before = csv.field_size_limit()
    assert list(iter_smiles(write_csv(tmp_path / "a.csv", {"smiles": ["CO"]}))) == [["CO"]]
    assert csv.field_size_limit() == before


# labels


def labels_of(path, spec, join="", splits="1,0,0"):
    from molstream.shards.splits.rules import SplitFractions

    options = BuildOptions(tables=(spec,), join=join, split_fractions=SplitFractions.parse(splits))
    build([str(path)], path.parent / "set", options, work=WorkOptions(max_reject_fraction=0.9))
    return ShardSet(path.parent / "set")


def test_bonds_to_hydrogens_that_stay_are_not_in_the_lists(tmp_path):
    columns = {"smiles": ["[2H]OC", "[2H]OC", "[2H]OC"], "b": ["[7]", "[1,2]", "[1,2,3,4]"]}
    write_csv(tmp_path / "a.csv", columns)
    shard_set = labels_of(tmp_path / "a.csv", TableSpec(dataset="table", bond_columns=("b",)))
    (block,) = list(shard_set.iter_blocks())
    by_id = {int(i): block.slice(k, k + 1) for k, i in enumerate(block.ids)}
    assert set(by_id) == {0, 1}
    for row, expected in ((0, {7}), (1, {1, 2})):
        molecule = by_id[row]
        # the bond of the two heavy atoms has the label, the one to deuterium none
        is_heavy = (molecule.atom_codes[molecule.bond_atoms, 0] != 1).all(axis=1)
        assert set(molecule.bond_labels[is_heavy][~np.isnan(molecule.bond_labels[is_heavy])].tolist()) == expected
        assert np.isnan(molecule.bond_labels[~is_heavy]).all()
    reasons = [r["reason"] for r in pq.read_table(tmp_path / "set" / "rejects.parquet").to_pylist()]
    assert reasons == ["bond list of 4 values for 1 bonds of heavy atoms, expected one or two per bond"]


@pytest.mark.parametrize(
    ("column", "first", "second"),
    [("bond", "[1,2]", "[1,10,2,20]"), ("bond", "[1,10,2,20]", "[1,2]"), ("pair", "[1,2,3]", "[0,1,2,9,0,3,9,9,0]")],
)
def test_lists_for_one_and_for_both_directions_do_not_mix(tmp_path, column, first, second):
    write_csv(tmp_path / "a.csv", {"smiles": ["CCO", "CCO"], "x": [first, second]})
    alone = tmp_path / "alone"
    alone.mkdir()
    write_csv(alone / "a.csv", {"smiles": ["CCO"], "x": [first]})
    spec = TableSpec(dataset="table", **{f"{column}_columns": ("x",)})
    joined, expected = labels_of(tmp_path / "a.csv", spec, "smiles"), labels_of(alone / "a.csv", spec)
    assert joined.manifest.join.conflicts == {"x": 1}
    found, wanted = (next(s.iter_blocks()).labels(column) for s in (joined, expected))
    assert np.array_equal(found, wanted, equal_nan=True)


def test_atoms_are_matched_with_their_stereo():
    kept = "[N-]=[N+]=C([C@@H](O)c1ccccc1)[C@H](O)c1ccccc1"
    other = "N#[N+][C-]([C@H](O)c1ccccc1)[C@@H](O)c1ccccc1"
    from rdkit import Chem
    from rdkit.Chem import rdCIPLabeler

    def labels(text):
        mol = Chem.MolFromSmiles(text)
        rdCIPLabeler.AssignCIPLabels(mol)
        return [atom.GetProp("_CIPCode") if atom.HasProp("_CIPCode") else "" for atom in mol.GetAtoms()]

    atoms = match_atoms(kept, other)
    assert sorted(labels(kept)) == sorted(labels(other))
    assert sum(label != "" for label in labels(kept)) >= 2
    assert labels(kept) == [labels(other)[k] for k in atoms]


def test_json_lists_of_a_batch_come_as_arrays(tmp_path):
    from molstream.shards.inputs.tables import check_input, cut_ranges

    cells = ["[1, null, NaN]", "", "[]", "[2]", "null"]
    path = write_csv(tmp_path / "a.csv", {"smiles": ["C"] * 5, "x": cells})
    found, dataset = check_input(path, TableSpec(dataset="table", atom_columns=("x",)))
    with TableReader((dataset,), batch_rows=100) as reader:
        (rows,) = [r for part in cut_ranges([found]) for r in reader.iter_rows(found, part)]
    (lists,) = rows.lists["atom"]
    assert lists.ptr.tolist() == [0, 3, 3, 3, 4, 4]
    assert np.array_equal(lists.values, np.array([1, np.nan, np.nan, 2], np.float32), equal_nan=True)
    assert rows.nan.tolist() == [1]


def test_hostile_rows_are_built_or_rejected_and_move_no_other(tmp_path, by_id):
    attacks = runpy.run_path(str(Path(__file__).parents[1] / "attacks" / "molecules.py"))["ROWS"]
    tame = ["C" * (1 + k % 7) + "O" for k in range(len(attacks))]
    # every hostile row between two others, which carry their numbers
    texts = [text for pair in zip(tame, (a for a, _ in attacks), strict=True) for text in pair]
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"smiles": texts, "y": [float(k) for k in range(len(texts))]}), path)
    spec = TableSpec(dataset="table", graph_columns=("y",))
    work = WorkOptions(max_reject_fraction=1.0, molecule_s=6.0, molecule_bytes=512 << 20)
    build([str(path)], tmp_path / "set", BuildOptions(tables=(spec,)), work=work)
    found = by_id(ShardSet(tmp_path / "set"))
    rejects = {r["row"]: r["reason"] for r in pq.read_table(tmp_path / "set" / "rejects.parquet").to_pylist()}
    assert sorted([*found, *rejects]) == list(range(len(texts)))
    for row, molecule in found.items():
        assert molecule.graph.tolist() == [row]
    for k, (text, may_fail) in enumerate(attacks):
        assert found[2 * k].smiles == tame[k]
        assert 2 * k + 1 in found or may_fail, (text[:60], rejects.get(2 * k + 1))
        assert 2 * k + 1 in found or rejects[2 * k + 1].strip()
