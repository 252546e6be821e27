"""Tables of every data set become shard sets that hold each label that was written, on its atom; other tables are one line."""

import csv
import gzip
import math
import random
import re
import shutil
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import lookalikes as lk
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rdkit import Chem

from molstream.shards.build.build import BuildOptions, WorkOptions, build
from molstream.shards.errors import InputError, LimitError, SchemaError
from molstream.shards.format.manifest import Dropped
from molstream.shards.format.reader import ShardSet
from molstream.shards.format.verify import verify
from molstream.shards.inputs.datasets import TableSpec, merge_tasks, parse_task_kinds, preset_dataset, resolve_dataset

SIZE, SEED = 90, 5
OWN = TableSpec(
    dataset="table",
    smiles_column="mol",
    id_column="name",
    graph_columns=("y_*", "tox_a", "grade"),
    atom_columns=("charge_[12]",),
    bond_columns=("bond_*",),
    pair_columns=("distance", "flow"),
    task_kinds=(("tox_*", "binary", 2), ("grade", "ordinal", 5)),
)
BOTH_WAYS = {"bond_dir", "flow"}
"""Columns of the own table with a label for each direction."""
CASES = {
    "qm9": (lk.write_qm9, {}, TableSpec(dataset="qm9", id_column="mol_id")),
    "tox21": (lk.write_tox21, {}, TableSpec(dataset="tox21", id_column="mol_id")),
    "zinc": (lk.write_zinc, {}, TableSpec(dataset="zinc")),
    "l1000": (lk.write_l1000, {}, TableSpec(dataset="l1000", id_column="full_id")),
    "l1000_3": (lk.write_l1000, {"classes": 3}, TableSpec(dataset="l1000_3")),
    "l1000_5to3": (lk.write_l1000, {}, TableSpec(dataset="l1000_5to3")),
    "pcba": (lk.write_pcba, {}, TableSpec(dataset="pcba", id_column="mol_id")),
    "pcqm4m": (lk.write_pcqm4m, {}, TableSpec(dataset="pcqm4m")),
    "pm6": (lk.write_pm6, {}, TableSpec(dataset="pm6", id_column="inchi")),
    "pm6_old": (lk.write_pm6_old, {}, TableSpec(dataset="pm6")),
    "own": (lk.write_own, {}, OWN),
    "own_csv": (lk.write_own_csv, {}, OWN),
}


def molecules_of(shard_set: ShardSet) -> dict:
    """{id: one molecule with all its columns}."""
    out = {}
    for block in shard_set.iter_blocks():
        for k in range(len(block)):
            assert int(block.ids[k]) not in out, "an id that is there twice"
            out[int(block.ids[k])] = block.slice(k, k + 1)
    return out


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """built(case) -> look, shard_set, molecules {row: one molecule}, mols {row: what RDKit reads in its SMILES}, rejects."""
    folder = tmp_path_factory.mktemp("datasets")

    @cache
    def make(case: str) -> SimpleNamespace:
        write, arguments, spec = CASES[case]
        look = write(folder / case, SIZE, SEED, **arguments)
        options = BuildOptions(tables=(spec,), atom_labels="f32", block_molecules=16)
        inputs = [str(look.paths[0].parent / "pm6_processed_*.parquet")] if case == "pm6" else [str(p) for p in look.paths]
        build(inputs, folder / case / "set", options, work=WorkOptions(max_reject_fraction=0.2))
        shard_set = ShardSet(folder / case / "set")
        molecules = molecules_of(shard_set)
        rejects = {r["row"]: r for r in pq.read_table(shard_set.path / "rejects.parquet").to_pylist()}
        mols = {row: Chem.MolFromSmiles(molecule.smiles[0]) for row, molecule in molecules.items()}
        return SimpleNamespace(look=look, shard_set=shard_set, molecules=molecules, mols=mols, rejects=rejects, spec=spec)

    return make


def same_bits(found: np.ndarray, expected: np.ndarray) -> bool:
    """float32, bit by bit, NaN where NaN."""
    absent = np.isnan(expected)
    same = found.dtype == expected.dtype == np.float32 and np.array_equal(np.isnan(found), absent)
    return same and np.array_equal(found[~absent].view(np.uint32), expected[~absent].view(np.uint32))


def dense_labels(shard_set: ShardSet, molecule) -> dict[str, np.ndarray]:
    """Labels below the graph like `Lookalike.dense_labels`, by stored atoms."""
    tasks = shard_set.manifest.tasks_of
    size = int(molecule.num_atoms[0])
    out = {task.name: molecule.atom_labels[:, k] for k, task in enumerate(tasks("atom"))}
    high, low = np.tril_indices(size)
    for level, ends in (("bond", molecule.bond_atoms.astype(int).reshape(-1, 2).T), ("pair", (low, high))):
        for k, task in enumerate(tasks(level)):
            there, back = molecule.labels(level)[:, k].T
            if task.name not in BOTH_WAYS:
                assert np.isnan(back).all(), task.name
                back = there
            out[task.name] = np.full((size, size), np.nan, np.float32)
            out[task.name][ends[1], ends[0]] = back
            out[task.name][ends[0], ends[1]] = there
    return out


# every label of every row


@pytest.mark.parametrize("case", CASES)
def test_every_graph_label_is_stored_as_the_float32_it_is_and_no_other(built, case):
    this = built(case)
    names = [task.name for task in this.shard_set.manifest.tasks_of("graph")]
    assert set(names) == set(this.look.graph)
    expected = np.stack([this.look.graph[name] for name in names], axis=1)
    if case == "l1000_5to3":
        expected = np.clip(expected - 1, 0, 2)
    assert sorted(this.molecules) == this.look.usable
    for row, molecule in this.molecules.items():
        assert same_bits(molecule.graph_labels[0], expected[row]), f"row {row}"
    assert np.isnan(expected[this.look.usable]).any() == (case in ("tox21", "pcba", "pcqm4m", "pm6", "pm6_old", "own", "own_csv"))


@pytest.mark.parametrize("case", ["pcqm4m", "pm6", "pm6_old", "own", "own_csv"])
def test_all_labels_of_atoms_bonds_and_pairs_lie_where_the_row_has_them(built, case):
    this, told_apart = built(case), 0
    for row, molecule in this.molecules.items():
        original, found = this.look.molecule(row), dense_labels(this.shard_set, molecule)
        expected = this.look.dense_labels(row)
        assert lk.labels_agree(original, expected, this.mols[row], found), f"row {row}: {this.look.smiles[row]}"
        told_apart += len(np.unique(np.stack([v for v in expected.values() if v.ndim == 1]), axis=1).T) > 3
    assert told_apart > len(this.molecules) / 2


@pytest.mark.parametrize("case", CASES)
def test_rows_that_cannot_be_used_are_rejected_with_reasons_and_move_no_id(built, case):
    this = built(case)
    assert sorted([*this.molecules, *this.rejects]) == list(range(this.look.num_rows))
    assert sorted(this.rejects) == this.look.unusable
    for row, molecule in this.molecules.items():
        assert molecule.smiles[0] == this.look.molecule_keys[row]
    for row, reject in this.rejects.items():
        assert (reject["smiles"] or None) == this.look.smiles[row]
        trap = next(t for t in this.look.traps if t.startswith(lk.UNUSABLE) and row in this.look.traps[t])
        assert reject["reason"].startswith(reason_of(trap, this.look, row)), trap
    assert sum(this.shard_set.manifest.rejects.values()) == len(this.rejects)
    inputs = this.shard_set.manifest.provenance["inputs"]
    files = zip(this.look.paths, this.look.file_rows, strict=True)
    assert [(i["name"], i["rows"], i["table"]) for i in inputs] == [(path.name, rows, 0) for path, rows in files]
    assert verify(this.shard_set).problems == []


def reason_of(trap: str, look, row: int) -> str:
    if trap == "restricted" or (trap == "unreadable" and not look.preset):
        return "not a SMILES that RDKit can parse"
    if trap == "unreadable":
        return "RDKit: Explicit valence for atom # 0 N, "
    if trap == "no_smiles":
        return "empty SMILES"
    mol = look.molecule(row)
    n, m = mol.GetNumAtoms(), mol.GetNumBonds()
    total = n + sum(atom.GetTotalNumHs() for atom in mol.GetAtoms())
    column = trap.removeprefix("wrong_length").removeprefix("_")
    if column in ("", "charge_1", "charge_2"):
        return f"atom list of {n - 1} values for {n} heavy atoms ({total} with hydrogens)"
    if column in ("bond_order_sum", "bond_dir"):
        size = m - 1 if column == "bond_order_sum" else 2 * m - 1
        return f"bond list of {size} values for {m} bonds of heavy atoms, expected one or two per bond"
    size = n * (n - 1) // 2 - 1 if column == "distance" else n * n - 1
    return f"pair list of {size} values for {n} heavy atoms, expected {n * n} or {n * (n - 1) // 2}"


def written_identifiers(look, column: str) -> list[str]:
    out = []
    for path in look.paths:
        if path.suffix == ".parquet":
            out += [None if v is None else str(v) for v in pq.read_table(path, columns=[column])[column].to_pylist()]
        else:
            with gzip.open(path, "rt", encoding="utf-8-sig", newline="") as file:
                out += [row[column] for row in csv.DictReader(file)]
    return out


@pytest.mark.parametrize("case", [case for case, (_, _, spec) in CASES.items() if spec.id_column])
def test_identifiers_come_back_whatever_they_are(built, case):
    this = built(case)
    names = written_identifiers(this.look, this.spec.id_column)
    assert len(set(names)) > len(names) - 10
    assert {row: molecule.identifiers[0] for row, molecule in this.molecules.items()} == {
        row: names[row] or "" for row in this.look.usable
    }
    assert {row: reject["identifier"] for row, reject in this.rejects.items()} == {row: names[row] for row in this.look.unusable}
    if case.startswith("own"):
        assert any("," in name for name in names)
        assert any("β" in name for name in names)


def test_a_set_without_identifiers_has_none(built):
    assert "identifiers" not in built("zinc").shard_set.groups
    assert all(molecule.identifiers is None for molecule in built("zinc").molecules.values())
    assert all(reject["identifier"] is None for reject in built("l1000_3").rejects.values())


# tasks and task sets


TASK_SETS = {
    "qm9": [("qm9", "graph", "regression", 0, 19)],
    "tox21": [("tox21", "graph", "binary", 2, 12)],
    "zinc": [("zinc", "graph", "regression", 0, 3)],
    "l1000": [("l1000", "graph", "ordinal", 5, 978)],
    "l1000_3": [("l1000", "graph", "ordinal", 3, 978)],
    "l1000_5to3": [("l1000", "graph", "ordinal", 3, 978)],
    "pcba": [("pcba", "graph", "binary", 2, 1328)],
    "pcqm4m": [("g25", "graph", "regression", 0, 25), ("n4", "atom", "regression", 0, 4)],
    "pm6": [("g62", "graph", "regression", 0, 62), ("n7", "atom", "regression", 0, 7)],
    "pm6_old": [("g62", "graph", "regression", 0, 62), ("n7", "atom", "regression", 0, 7)],
}
TASK_SETS["own"] = TASK_SETS["own_csv"] = [
    ("graph", "graph", "regression", 0, 2),
    ("graph_binary", "graph", "binary", 2, 1),
    ("graph_ordinal5", "graph", "ordinal", 5, 1),
    ("atom", "atom", "regression", 0, 2),
    ("bond", "bond", "regression", 0, 2),
    ("pair", "pair", "regression", 0, 2),
]


def unit_of(column: str) -> str:
    ends = {
        "eV": ("_homo", "_gap", "energy_total"),
        "angstrom": ("principal_length_a", "principal_length_b", "principal_length_c", "plane_best_fit"),
        "e": ("charges_mulliken", "charges_lowdin") if column.startswith("node_") else (),
        "g/mol": ("graph_mw",),
        "angstrom^2": ("graph_tpsa",),
    }
    return next((unit for unit, endings in ends.items() if column.endswith(tuple(endings))), "1")


QM9_UNITS = [*["GHz"] * 3, "D", "bohr^3", *["hartree"] * 3, "bohr^2", *["hartree"] * 5, "cal/(mol K)", *["kcal/mol"] * 4]


@pytest.mark.parametrize("case", CASES)
def test_tasks_and_task_sets_are_those_of_the_data_set_in_their_order(built, case):
    this = built(case)
    manifest, source, look = this.shard_set.manifest, this.spec.dataset, this.look
    levels = {"graph": look.graph, "atom": look.atom, "bond": look.bond | look.edge, "pair": look.pair_upper | look.pair_full}
    assert [(t.name, t.level) for t in manifest.tasks] == [(name, level) for level, names in levels.items() for name in names]
    units = QM9_UNITS if case == "qm9" else [unit_of(t.name) for t in manifest.tasks]
    assert [t.unit for t in manifest.tasks] == units
    sets = [(s.name, s.level, s.kind, s.num_classes, len(s.tasks)) for s in manifest.task_sets]
    assert sets == TASK_SETS[case]
    assert [name for s in manifest.task_sets for name in s.tasks] == [t.name for t in manifest.tasks]
    kinds = [(kind, classes) for *_, kind, classes, number in TASK_SETS[case] for _ in range(number)]
    assert [(t.kind, t.num_classes) for t in manifest.tasks] == kinds
    assert {x.source for x in (*manifest.task_sets, *manifest.tasks)} == {source}
    assert {group.removesuffix("_labels") for group in this.shard_set.groups} >= {t.level for t in manifest.tasks} - {"graph"}


def test_label_counts_and_dropped_labels_are_those_that_were_written(built):
    for case in ("pcba", "own", "own_csv", "pm6"):
        this = built(case)
        manifest, look = this.shard_set.manifest, this.look
        for name, values in look.graph.items():
            assert sum(manifest.labels[name].values()) == np.isfinite(values[look.usable]).sum()
        dropped = {name: d for name, d in manifest.dropped_labels.items() if name in look.graph}
        if case == "pcba":
            # NaN in every third column, null in the others
            names = lk.assay_names()[::3]
            assert dropped == {name: Dropped(infinite=0, nan=int(np.isnan(look.graph[name]).sum())) for name in names}
        elif case == "pm6":
            assert dropped.pop("graph_S0_energy_total").infinite == 1
            assert all(d.infinite == 0 for d in dropped.values())
        else:
            # a blank or null is no dropped label, the text nan is one
            assert dropped == {"y_2": Dropped(infinite=0, nan=int(np.isnan(look.graph["y_2"]).sum()))}


def test_the_columns_of_a_csv_and_of_a_parquet_table_make_the_same_set(built):
    parquet, text = built("own"), built("own_csv")
    assert sorted(parquet.molecules) == sorted(text.molecules)
    for row, molecule in parquet.molecules.items():
        other = text.molecules[row]
        assert (molecule.smiles[0], molecule.identifiers[0]) == (other.smiles[0], other.identifiers[0])
        for level in ("graph", "atom", "bond", "pair"):
            assert np.array_equal(molecule.labels(level), other.labels(level), equal_nan=True), (row, level)
    assert parquet.shard_set.manifest.fingerprint == text.shard_set.manifest.fingerprint


# one's own small tables


def write_file(folder: Path, name: str, content) -> str:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    if isinstance(content, pa.Table):
        pq.write_table(content, path)
    else:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


@pytest.fixture
def build_table(tmp_path):
    """build_table({file name: text, bytes or Arrow table}, dataset="table", fraction=1.0, **fields of TableSpec) -> ShardSet."""

    def make(files: dict, dataset: str = "table", fraction: float = 1.0, **spec) -> ShardSet:
        inputs = [write_file(tmp_path / "in", name, content) for name, content in files.items()]
        options = BuildOptions(tables=(TableSpec(dataset=dataset, **spec),), atom_labels="f32")
        build(inputs, tmp_path / "out", options, work=WorkOptions(max_reject_fraction=fraction))
        return ShardSet(tmp_path / "out")

    return make


@pytest.fixture
def refuse(build_table, tmp_path):
    """refuse(error, match, files, ...): the build is refused in one line that matches and leaves nothing."""

    def check(error: type, match: str, files: dict, **spec) -> None:
        with pytest.raises(error, match=match) as caught:
            build_table(files, **spec)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "out").exists()

    return check


def values_of(shard_set: ShardSet, level: str = "graph") -> dict[int, list]:
    """Labels of the first task of each molecule, None where absent."""
    found = {row: molecule.labels(level)[:, 0].reshape(-1).tolist() for row, molecule in molecules_of(shard_set).items()}
    return {row: [None if math.isnan(v) else v for v in values] for row, values in sorted(found.items())}


# calls that do not fit the table


def table(**columns) -> pa.Table:
    return pa.table({"smiles": ["C", "CO"], "y_1": [1.0, 2.0], "y_2": [0.0, 1.0]} | columns)


def test_a_pattern_that_matches_nothing_is_named_with_what_was_found(refuse):
    found = "found 3: smiles, y_1, y_2"
    match = rf"a\.parquet: 1 of 4 columns of --dataset table are missing: z_\*; {found}$"
    refuse(InputError, match, {"a.parquet": table()}, graph_columns=("y_*", "z_*"))
    refuse(InputError, rf"missing: charge; {found}", {"a.csv": "smiles,y_1,y_2\nC,1,2\n"}, atom_columns=("charge",))
    refuse(InputError, r"missing: mol, q, r; found 3", {"a.parquet": table()}, smiles_column="mol", bond_columns=("q", "r"))


def test_no_smiles_column_is_named_with_what_it_may_be_called(refuse):
    match = r"missing: smiles or ordered_smiles or canonical_smiles or SMILES or Smiles; found 2: mol, y"
    refuse(InputError, match, {"a.csv": "mol,y\nC,1\n"}, graph_columns=("y",))


@pytest.mark.parametrize("name", ["smiles", "ordered_smiles", "canonical_smiles", "SMILES", "Smiles"])
def test_a_smiles_column_is_found_under_its_usual_names(build_table, name):
    shard_set = build_table({"a.csv": f"y,{name}\n1,CO\n"}, graph_columns=("y",))
    assert [m.smiles[0] for m in molecules_of(shard_set).values()] == ["CO"]


def test_a_column_that_is_asked_for_at_two_levels_is_refused(refuse):
    match = r"column y_1 is asked for as graph-level and as atom-level labels; expected one level per column"
    refuse(InputError, match, {"a.parquet": table()}, graph_columns=("y_*",), atom_columns=("y_1",))
    match = r"column y_2 is asked for as bond-level and as pair-level"
    refuse(InputError, match, {"a.csv": "smiles,y_2\nC,1\n"}, bond_columns=("y_2",), pair_columns=("*2",))


def test_a_column_that_two_patterns_of_one_level_match_is_one_task(build_table):
    shard_set = build_table({"a.parquet": table()}, graph_columns=("y_2", "y_*"))
    assert [task.name for task in shard_set.manifest.tasks] == ["y_2", "y_1"]


@pytest.mark.parametrize("columns", [("smiles",), ("*",), ("y_1", "name")])
def test_smiles_and_identifiers_are_no_labels(refuse, columns):
    name = "name" if columns[-1] == "name" else "smiles"
    match = rf"column {name} is asked for as labels too; expected one use per column"
    refuse(InputError, match, {"a.parquet": table(name=["a", "b"])}, graph_columns=columns, id_column="name")


def duplicated(name: str) -> dict:
    """A CSV and a Parquet table with a column `name` twice."""
    rows = [["C", "CO"], ["1", "2"], ["a", "b"]]
    names = ["smiles", "y", "name"]
    at = names.index(name)
    as_csv = "\n".join(",".join([*row, row[at]]) for row in [names, *zip(*rows, strict=True)])
    columns = [pa.array(rows[0]), pa.array([1.0, 2.0]), pa.array(rows[2])]
    return {"a.csv": as_csv, "a.parquet": pa.table([*columns, columns[at]], names=[*names, name])}


@pytest.mark.parametrize("file", ["a.csv", "a.parquet"])
@pytest.mark.parametrize("name", ["smiles", "y", "name"])
def test_a_column_that_is_there_twice_is_refused(refuse, name, file):
    match = rf"{file}: columns that are there more than once: {name}$"
    refuse(SchemaError, match, {file: duplicated(name)[file]}, graph_columns=("y",), id_column="name")


def test_a_column_that_nobody_asked_for_may_be_there_twice(build_table):
    for name, content in duplicated("name").items():
        shard_set = build_table({name: content}, graph_columns=("y",))
        assert values_of(shard_set) == {0: [1.0], 1: [2.0]}
        shutil.rmtree(shard_set.path)


def test_an_id_column_that_is_not_there_is_refused(refuse):
    match = r"a\.parquet: no column mol_id for --id-column, found 3: smiles, y_1, y_2$"
    refuse(InputError, match, {"a.parquet": table()}, graph_columns=("y_1",), id_column="mol_id")


@pytest.mark.parametrize("file", ["a.csv", "a.parquet"])
def test_smiles_may_be_their_own_names(build_table, file):
    content = {"a.csv": "smiles,y_1\nOC,1\n", "a.parquet": pa.table({"smiles": ["OC"], "y_1": [1.0]})}[file]
    shard_set = build_table({file: content}, graph_columns=("y_1",), id_column="smiles")
    [molecule] = molecules_of(shard_set).values()
    assert (molecule.smiles[0], molecule.identifiers[0]) == ("CO", "OC")


def test_a_task_kind_that_fits_no_column_is_refused(refuse):
    match = r"--task-kind tox_\* fits no label column, or an earlier one fits them all; label columns are y_1, y_2"
    refuse(InputError, match, {"a.parquet": table()}, graph_columns=("y_*",), task_kinds=(("tox_*", "binary", 2),))
    kinds = (("y_*", "regression", 0), ("y_2", "binary", 2))
    refuse(InputError, "--task-kind y_2 fits no label column", {"a.parquet": table()}, graph_columns=("y_*",), task_kinds=kinds)
    refuse(InputError, "label columns are none", {"a.parquet": table()}, task_kinds=(("y_2", "binary", 2),))


def test_a_table_without_labels_is_a_set_of_structures(build_table):
    shard_set = build_table({"a.parquet": table()})
    assert (shard_set.manifest.tasks, shard_set.manifest.task_sets) == ((), ())
    assert sorted(m.smiles[0] for m in molecules_of(shard_set).values()) == ["C", "CO"]


@pytest.mark.parametrize("name", ["y[1]", "y[[]1]"])
def test_columns_are_named_as_they_are_even_if_that_looks_like_a_pattern(build_table, name):
    content = "smiles,y[1],y1\nC,1,2\n"
    shard_set = build_table({"a.csv": content}, graph_columns=("y[1]",), task_kinds=((name, "binary", 2),))
    assert [(task.name, task.kind) for task in shard_set.manifest.tasks] == [("y[1]", "binary")]


def test_a_preset_without_its_columns_is_refused_with_what_is_missing(refuse, built):
    source = pq.read_table(built("pcqm4m").look.paths[0])
    match = r"a\.parquet: 2 of 30 columns of --dataset pcqm4m are missing: graph_spherocity, node_charges_lowdin; found 29: "
    few = source.drop_columns(["graph_spherocity", "node_charges_lowdin"])
    refuse(SchemaError, match, {"a.parquet": few}, dataset="pcqm4m")
    match = r"30 of 30 columns of --dataset pcqm4m are missing: ordered_smiles, graph_alpha_homo, .*\(24 more\); found 3: smiles"
    refuse(SchemaError, match, {"a.parquet": table()}, dataset="pcqm4m")
    match = r"1 of 2 columns of --dataset pcba are missing: assayID-\*; found 2: SMILES, assayid-1"
    refuse(SchemaError, match, {"a.csv": "SMILES,assayid-1\nC,1\n"}, dataset="pcba")
    match = r"a\.csv: 2 of 20 columns of --dataset qm9 are missing: B, cv"
    names = [name for name in lk.QM9_TASKS if name not in ("B", "cv")]
    refuse(SchemaError, match, {"a.csv": f"smiles,{','.join(names)}\n"}, dataset="qm9")


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_second_file_with_other_label_columns_is_refused(refuse, suffix):
    files = {
        "csv": {"a.csv": "smiles,y_1,y_2\nC,1,2\n", "b.csv": "y_1,y_3,smiles\n1,3,C\n"},
        "parquet": {"a.parquet": table(), "b.parquet": table().rename_columns(["smiles", "y_1", "y_3"])},
    }[suffix]
    match = rf"b\.{suffix}: 2 label columns, the first file of this table has 2; only one of them has y_2, y_3; expected the same"
    refuse(SchemaError, match, files, graph_columns=("y_*",))


def test_a_later_file_may_have_more_columns_and_another_order(build_table):
    files = {"a.csv": "smiles,y\nC,1\n", "b.csv": "x,y,smiles\n8,2,CO\n"}
    assert values_of(build_table(files, graph_columns=("y",))) == {0: [1.0], 1: [2.0]}


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_later_file_has_its_smiles_in_the_same_column(refuse, suffix):
    files = {
        "csv": {"a.csv": "smiles,y_1\nC,1\n", "b.csv": "SMILES,y_1\nC,1\n"},
        "parquet": {"a.parquet": table(), "b.parquet": table().rename_columns(["SMILES", "y_1", "y_2"])},
    }[suffix]
    match = rf"b\.{suffix}: no column smiles, which the first file of this table has"
    refuse(SchemaError, match, files, graph_columns=("y_1",))


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        ({"y_1": ["a", "b"]}, "column y_1 is of type string, expected numbers"),
        ({"y_1": [[1.0], [2.0]]}, r"column y_1 is of type list<.*>, expected numbers"),
        ({"q": [1.0, 2.0]}, "column q is of type double, expected lists of numbers, or their JSON text"),
        ({"q": [["a"], ["b"]]}, r"column q is of type list<.*string>, expected lists of numbers"),
        ({"q": [[[1.0]], [[2.0]]]}, r"column q is of type list<.*list<.*>>, expected lists of numbers"),
        ({"smiles": [1, 2]}, "column smiles is of type int64, expected text"),
        ({"name": [0.5, 1.5]}, "column name is of type double, expected text or whole numbers"),
    ],
)
def test_a_parquet_column_of_another_type_is_named(refuse, column, expected):
    content = table(**({"q": [[1.0], [2.0]], "name": ["a", "b"]} | column))
    refuse(SchemaError, expected, {"a.parquet": content}, graph_columns=("y_1",), bond_columns=("q",), id_column="name")


# values that are none


@pytest.mark.parametrize("text", ["abc", "1_000", "1,5", "0x10", "1.2.3", "TRUE", "- 1", "?", "<0.5", "#N/A", "1e", "one"])
def test_text_in_a_column_of_numbers_is_named_with_row_and_column(refuse, text):
    field = f'"{text}"'
    rows = "".join(f"C,{k}\n" for k in range(5))
    files = {"a.csv": f"smiles,y\n{rows}", "b.csv": f"smiles,y\n{rows}C,{field}\n{rows}"}
    match = rf"b\.csv: row 10, column y: '{re.escape(text)}', expected a number, or nothing where there is no label$"
    refuse(SchemaError, match, files, graph_columns=("y",))


def test_long_text_is_cut_in_the_message(refuse):
    match = r"row 0, column y: 'x{37}\.\.\.', expected a number"
    refuse(SchemaError, match, {"a.csv": f"smiles,y\nC,{'x' * 1000}\n"}, graph_columns=("y",))


@pytest.mark.parametrize("files", [1, 3])
def test_a_fault_far_down_the_input_leaves_nothing_either(refuse, monkeypatch, files):
    monkeypatch.setattr("molstream.shards.inputs.tables.RANGE_ROWS", 10)
    monkeypatch.setattr("molstream.shards.inputs.tables.MIN_RANGE_ROWS", 10)
    rows = ["CO,1\n"] * 30
    contents = {f"{k}.csv": "smiles,y\n" + "".join(rows) for k in range(files - 1)}
    contents["last.csv"] = "smiles,y\n" + "".join(rows) + "CO,x\n"
    refuse(SchemaError, rf"last\.csv: row {30 * files}, column y: 'x'", contents, graph_columns=("y",))


@pytest.mark.parametrize(
    ("kind", "value", "most"),
    [
        (("y", "binary", 2), "2", 1),
        (("y", "binary", 2), "-1", 1),
        (("y", "binary", 2), "0.5", 1),
        (("y", "ordinal", 5), "5", 4),
        (("y", "multiclass", 256), "256", 255),
        (("y", "ordinal", 3), "-0.25", 2),
    ],
)
def test_a_class_outside_its_range_is_named_with_row_and_column(refuse, kind, value, most):
    match = rf"a\.csv: row 2, column y: {value} is no class of a task with classes 0 to {most} \({kind[1]}\); mend"
    refuse(SchemaError, match, {"a.csv": f"smiles,y\nC,0\nC,\nC,{value}\n"}, graph_columns=("y",), task_kinds=(kind,))
    content = pa.table({"smiles": ["C"] * 3, "y": [0.0, None, float(value)]})
    match = match.replace("csv", "parquet")
    refuse(SchemaError, match, {"a.parquet": content}, graph_columns=("y",), task_kinds=(kind,))


def test_a_class_of_an_atom_outside_its_range_is_named_with_its_row(refuse):
    content = pa.table({"smiles": ["CO", "C", "CN"], "q": [[0.0, 1.0], None, [1.0, 7.0]]})
    match = r"a\.parquet: row 2, column q: 7 is no class of a task with classes 0 to 2 \(multiclass\)"
    refuse(SchemaError, match, {"a.parquet": content}, atom_columns=("q",), task_kinds=(("q", "multiclass", 3),))


@pytest.mark.parametrize(("dataset", "value", "most"), [("l1000", 5, 4), ("l1000_3", 3, 2), ("l1000_5to3", 5, 4), ("pcba", 2, 1)])
def test_classes_of_the_presets_have_their_ranges(refuse, build_table, dataset, value, most):
    column = "assayID-7" if dataset == "pcba" else "geneID-7"
    rows = "".join(f"CO,{k}\n" for k in range(most + 1))
    content = f"SMILES,{column}\n{rows}"
    match = rf"row {most + 1}, column {column}: {value} is no class of a task with classes 0 to {most}"
    refuse(SchemaError, match, {"a.csv": f"{content}C,{value}\n"}, dataset=dataset)
    expected = [float(k) for k in range(most + 1)] if dataset != "l1000_5to3" else [0, 0, 1, 2, 2]
    assert [value for [value] in values_of(build_table({"a.csv": content}, dataset=dataset)).values()] == expected


@pytest.mark.parametrize(
    "text", ["[1, 2", "1, 2]", "1.5", "{}", '{"0": 1}', '["1", "2"]', "[[1], [2]]", "[1 2]", "(1, 2)", "[1, 2] x", "[" * 100_000]
)
def test_json_that_is_no_list_of_numbers_is_named_with_row_and_column(refuse, text):
    field = text.replace('"', '""')
    shown = text if len(text) <= 40 else text[:37] + "..."
    match = rf"a\.csv: row 1, column q: '{re.escape(shown)}', expected a JSON list of numbers, like \[0.5, null, 1e-3\]$"
    refuse(SchemaError, match, {"a.csv": f'smiles,q\nCO,"[1, 2]"\nCO,"{field}"\n'}, atom_columns=("q",))
    content = pa.table({"smiles": ["CO", "CO"], "q": [None, text]})
    refuse(SchemaError, match.replace("csv", "parquet"), {"a.parquet": content}, atom_columns=("q",))


def test_json_lists_hold_numbers_nulls_and_whatever_json_calls_a_number(build_table):
    lists = ["[1, 2.5]", "[ null , -1e-3 ]", "[NaN, 3]", "[Infinity, 1e999]", "[]", "", "null", "nan", "[true, 0]", "NA"]
    content = "smiles,q\n" + "".join(f'CO,"{text}"\n' for text in lists)
    shard_set = build_table({"a.csv": content}, atom_columns=("q",))
    found = values_of(shard_set, "atom")
    third = float(np.float32(-1e-3))
    assert [found[k] for k in range(10)] == [
        [1.0, 2.5],
        [None, third],
        [None, 3.0],
        *([[None, None]] * 5),
        [1.0, 0.0],
        [None, None],
    ]
    assert shard_set.manifest.dropped_labels == {"q": Dropped(infinite=2, nan=1)}


def test_a_whole_number_that_is_too_large_is_infinite_in_a_list_too(build_table):
    huge = "9" * 400
    shard_set = build_table({"a.csv": f'smiles,y,q\nCO,{huge},"[1, {huge}]"\n'}, graph_columns=("y",), atom_columns=("q",))
    assert values_of(shard_set, "atom") == {0: [1.0, None]}
    assert shard_set.manifest.dropped_labels == {name: Dropped(infinite=1, nan=0) for name in ("y", "q")}


@pytest.mark.parametrize(
    ("columns", "values", "reason"),
    [
        ("bond_columns", [1.0, 2.0, 3.0], "bond list of 3 values for 2 bonds of heavy atoms, expected one or two per bond"),
        ("bond_columns", [1.0], "bond list of 1 values for 2 bonds of heavy atoms, expected one or two per bond"),
        ("pair_columns", [1.0] * 6, "pair list of 6 values for 3 heavy atoms, expected 9 or 3"),
        ("pair_columns", [1.0] * 10, "pair list of 10 values for 3 heavy atoms, expected 9 or 3"),
        ("atom_columns", [1.0] * 4, r"atom list of 4 values for 3 heavy atoms (9 with hydrogens)"),
    ],
)
def test_a_list_of_a_wrong_length_rejects_its_row_and_no_other(build_table, tmp_path, rejects_of, columns, values, reason):
    content = pa.table({"smiles": ["CCO", "CCO", "CCO"], "q": [None, values, None]})
    shard_set = build_table({"a.parquet": content}, **{columns: ("q",)})
    assert sorted(molecules_of(shard_set)) == [0, 2]
    assert {row: r["reason"] for row, r in rejects_of(shard_set).items()} == {1: reason}
    shard_set.path.rename(tmp_path / "first")
    with pytest.raises(LimitError, match=r"1 of 3 rows rejected so far.*the last was row 1, SMILES 'CCO': \w+ list of"):
        build_table({"a.parquet": content}, fraction=0.1, **{columns: ("q",)})


def test_lists_of_bonds_and_pairs_run_over_heavy_atoms_and_leave_isotopic_hydrogens_unlabelled(build_table, rejects_of):
    content = pa.table(
        {
            "smiles": ["[2H]C([2H])(O)F", "OC([2H])F", "[2H]O"],
            "b": [[1.0, 2.0], [1.0, 2.0, 3.0], []],
            "p": [[5.0, 6.0, 7.0], None, []],
        }
    )
    shard_set = build_table({"a.parquet": content}, bond_columns=("b",), pair_columns=("p",))
    molecule = molecules_of(shard_set)[0]
    symbol = [atom.GetSymbol() for atom in Chem.MolFromSmiles(molecule.smiles[0]).GetAtoms()]
    found = {
        "".join(sorted(symbol[k] for k in ends)): value for ends, value in zip(molecule.bond_atoms, molecule.bond_labels[:, 0, 0])
    }
    assert {name: value for name, value in found.items() if not np.isnan(value)} == {"CO": 1.0, "CF": 2.0}
    assert set(found) == {"CO", "CF", "CH"}
    high, low = np.tril_indices(len(symbol))
    pairs = {symbol[i] + symbol[j]: float(v) for i, j, v in zip(low, high, molecule.pair_labels[:, 0, 0]) if not np.isnan(v)}
    assert {"".join(sorted(name)): value for name, value in pairs.items()} == {"CO": 5.0, "CF": 6.0, "FO": 7.0}
    assert {row: r["reason"] for row, r in rejects_of(shard_set).items()} == {
        1: "bond list of 3 values for 2 bonds of heavy atoms, expected one or two per bond"
    }


def test_a_molecule_that_is_too_large_for_labels_of_pairs_is_rejected_from_sets_that_have_them(build_table, rejects_of):
    content = {"a.csv": f"smiles,p\n{'C' * 512},\n{'C' * 513},\n"}
    shard_set = build_table(content, pair_columns=("p",))
    assert sorted(molecules_of(shard_set)) == [0]
    assert rejects_of(shard_set)[1]["reason"] == "513 atoms, more than 512 in a set with labels of pairs"
    shutil.rmtree(shard_set.path)
    assert sorted(molecules_of(build_table(content, atom_columns=("p",)))) == [0, 1]


# text tables


@pytest.mark.parametrize(("name", "row"), [("a.csv", "C,1,2"), ("a.tsv", "C\t1\t"), ("a.csv.gz", "C,1,")])
def test_a_row_with_too_many_fields_is_refused(refuse, name, row):
    content = ("smiles\ty\nC\t0\n" if name == "a.tsv" else "smiles,y\nC,0\n") + row + "\n"
    data = gzip.compress(content.encode()) if name.endswith(".gz") else content
    refuse(SchemaError, rf"{re.escape(name)}: line 3: 3 fields, the header has 2; ", {name: data}, graph_columns=("y",))


def test_a_row_with_too_few_fields_is_refused(refuse):
    refuse(SchemaError, "a.csv: line 2: 1 field, the header has 2; ", {"a.csv": "smiles,y\nC\nCO,2\n"}, graph_columns=("y",))


def test_a_blank_line_of_a_csv_is_a_row(build_table, rejects_of):
    shard_set = build_table({"a.csv": "smiles,y\nC,1\n\nCO,2\n\n"}, graph_columns=("y",))
    assert values_of(shard_set) == {0: [1.0], 2: [2.0]}
    assert {row: r["reason"] for row, r in rejects_of(shard_set).items()} == {1: "empty SMILES", 3: "empty SMILES"}


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("suffix", ["csv", "tsv", "csv.gz"])
def test_line_ends_byte_order_marks_and_separators_of_other_programs_are_read(build_table, newline, mark, suffix):
    lines = [["smiles", " y ", "name"], ["C", "1", "methane"], ["CO", "2", "a, b" if suffix == "tsv" else '"a, b"']]
    content = (mark + newline.join(("\t" if suffix == "tsv" else ",").join(line) for line in lines)).encode()
    if suffix == "csv.gz":
        content = gzip.compress(content[:9]) + gzip.compress(b"") + gzip.compress(content[9:])
    shard_set = build_table({f"a.{suffix}": content}, graph_columns=("y",), id_column="name")
    assert values_of(shard_set) == {0: [1.0], 1: [2.0]}
    assert {row: m.identifiers[0] for row, m in molecules_of(shard_set).items()} == {0: "methane", 1: "a, b"}


def test_a_quoted_newline_is_no_new_row(build_table):
    content = 'smiles,name,y\nC,"two\nlines, ""quoted""",1\nCO,"\r\n",2\n"CN",x,"3"\n'
    shard_set = build_table({"a.csv": content}, graph_columns=("y",), id_column="name")
    assert values_of(shard_set) == {0: [1.0], 1: [2.0], 2: [3.0]}
    names = {row: m.identifiers[0] for row, m in molecules_of(shard_set).items()}
    assert names == {0: 'two\nlines, "quoted"', 1: "\r\n", 2: "x"}


def test_ways_to_say_that_there_is_no_label_are_known(build_table):
    absent = ["", " ", "NA", "N/A", "null", "NULL", "None"]
    dropped = {"nan": (0, 1), "NaN": (0, 1), "-nan": (0, 1), "inf": (1, 0), "-Infinity": (1, 0), "1e39": (1, 0), "-1e999": (1, 0)}
    content = "smiles,y,z\n" + "".join(f"C,{text},1\n" for text in [*absent, *dropped])
    shard_set = build_table({"a.csv": content}, graph_columns=("y", "z"))
    assert values_of(shard_set) == {row: [None] for row in range(len(absent) + len(dropped))}
    assert shard_set.manifest.dropped_labels == {"y": Dropped(infinite=4, nan=3)}


def test_numbers_are_those_that_python_reads(build_table):
    seed = 11
    print(f"seed {seed}")
    draw = random.Random(seed)
    numbers = [draw.choice((draw.gauss(0, 1), draw.uniform(-1e6, 1e6), 10 ** draw.uniform(-44, 38))) for _ in range(3000)]
    texts = ["1", "+1.5", " 2.5 ", ".5", "5.", "-0.0", "1e-3", "1E+3", "15e-1", "007", "1e-50", "16777217"]
    texts += [draw.choice((repr, "{:.3f}".format, "{:.12e}".format, "{:g}".format))(number) for number in numbers]
    shard_set = build_table({"a.csv": "smiles,y\n" + "".join(f"C,{text}\n" for text in texts)}, graph_columns=("y",))
    found = np.array([values[0] for values in values_of(shard_set).values()], np.float32)
    assert same_bits(found, np.array([float(text) for text in texts]).astype(np.float32))


def test_true_and_false_are_classes_of_a_binary_task(build_table):
    content = "smiles,y\nC,TRUE\nC,false\nC,True\nC,1\nC,0.0\nC,\nC,NA\n"
    shard_set = build_table({"a.csv": content}, graph_columns=("y",), task_kinds=(("y", "binary", 2),))
    assert [value for [value] in values_of(shard_set).values()] == [1, 0, 1, 1, 0, None, None]
    shutil.rmtree(shard_set.path)
    content = pa.table({"smiles": ["C"] * 3, "y": [True, None, False]})
    shard_set = build_table({"a.parquet": content}, graph_columns=("y",), task_kinds=(("y", "binary", 2),))
    assert [value for [value] in values_of(shard_set).values()] == [1, None, 0]


@pytest.mark.parametrize(
    "dtype",
    [
        pa.int8(),
        pa.uint64(),
        pa.float16(),
        pa.float64(),
        pa.decimal128(24, 2),
        pa.dictionary(pa.int8(), pa.float64()),
        pa.bool_(),
    ],
)
def test_parquet_numbers_of_any_type_are_labels(build_table, dtype):
    values = pa.array([1, None, 0]).cast(pa.float64() if pa.types.is_dictionary(dtype) else dtype)
    values = values.dictionary_encode() if pa.types.is_dictionary(dtype) else values
    shard_set = build_table({"a.parquet": pa.table({"smiles": ["C"] * 3, "y": values})}, graph_columns=("y",))
    assert [value for [value] in values_of(shard_set).values()] == [1, None, 0]


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("a.csv", "", r"2 of 2 columns .* missing: smiles or .*, y; found 0"),
        ("a.csv", "smiles,y\n", r"a\.csv: no rows"),
        ("a.csv", 'smiles,y\nC,"1\n', r"a\.csv: unreadable: unexpected end of data"),
        ("a.csv", 'smiles,y\nC,"1"2\n', r"a\.csv: unreadable: ',' expected after '\"'"),
        ("a.csv", b"smiles,y\nC,\xff\n", r"a\.csv: unreadable: 'utf-8' codec can't decode"),
        ("a.csv.gz", b"smiles,y\nC,1\n", r"a\.csv\.gz: unreadable: Not a gzipped file"),
        ("a.csv.gz", gzip.compress(b"smiles,y\nC,1\n" * 99, mtime=0)[:-9], r"a\.csv\.gz: unreadable: Compressed file ended"),
        ("a.csv.gz", gzip.compress(b"smiles,y\nC,1\n", mtime=0) + b"tail", r"a\.csv\.gz: unreadable: Not a gzipped file"),
    ],
)
def test_a_text_table_that_is_none_is_refused(refuse, name, content, match):
    refuse((SchemaError, InputError), match, {name: content}, graph_columns=("y",))


def test_lines_of_smiles_are_a_table_of_one_column(build_table):
    shard_set = build_table({"a.smi": "CO\n\nc1ccccc1\n", "b.txt": "N\r\n"})
    assert {row: m.smiles[0] for row, m in molecules_of(shard_set).items()} == {0: "CO", 2: "c1ccccc1", 3: "N"}


# what a call says, without any file


def test_a_preset_is_resolved_from_names_alone():
    dataset = resolve_dataset(TableSpec(dataset="zinc"), "z.csv", ["score", "SMILES", "SA", "x", "logp"])
    assert (dataset.name, dataset.smiles_column, dataset.id_column) == ("zinc", "SMILES", "")
    # in the order of the preset, not of the file
    assert dataset.columns == ("SA", "logp", "score")
    assert dataset.wanted == ["SMILES", "SA", "logp", "score"]
    assert [dataset.num_tasks(level) for level in ("graph", "atom", "bond", "pair")] == [3, 0, 0, 0]


def test_columns_of_a_pattern_come_in_the_order_of_the_file_and_levels_in_theirs():
    names = ["b2", "mol", "y2", "p", "a1", "y1", "id"]
    spec = TableSpec(
        dataset="table",
        smiles_column="mol",
        id_column="id",
        pair_columns=("p",),
        bond_columns=("b*",),
        atom_columns=("a?",),
        graph_columns=("y[0-9]",),
    )
    dataset = resolve_dataset(spec, "t", names)
    assert dataset.columns == ("y2", "y1", "a1", "b2", "p")
    assert dataset.wanted == ["mol", "id", "y2", "y1", "a1", "b2", "p"]
    assert [task.level for task in dataset.tasks] == ["graph", "graph", "atom", "bond", "pair"]
    assert [(s.name, s.tasks) for s in dataset.task_sets] == [
        ("graph", ("y2", "y1")),
        ("atom", ("a1",)),
        ("bond", ("b2",)),
        ("pair", ("p",)),
    ]


def test_the_first_task_kind_that_fits_a_column_counts():
    kinds = parse_task_kinds(["y1=binary", "y*=ordinal:7", "a=multiclass:3"])
    spec = TableSpec(dataset="table", graph_columns=("y*", "z"), atom_columns=("a",), task_kinds=kinds)
    dataset = resolve_dataset(spec, "t", ["smiles", "y1", "y2", "z", "a", "y3"])
    found = {task.name: (task.kind, task.num_classes) for task in dataset.tasks}
    ordinal = ("ordinal", 7)
    assert found == {"y1": ("binary", 2), "y2": ordinal, "y3": ordinal, "z": ("regression", 0), "a": ("multiclass", 3)}
    assert [(s.name, s.kind, s.num_classes, s.tasks) for s in dataset.task_sets] == [
        ("graph_binary", "binary", 2, ("y1",)),
        ("graph_ordinal7", "ordinal", 7, ("y2", "y3")),
        ("graph", "regression", 0, ("z",)),
        ("atom_multiclass3", "multiclass", 3, ("a",)),
    ]


def test_a_table_with_a_name_puts_it_before_its_tasks_and_sets_and_is_their_source():
    named = resolve_dataset(TableSpec(dataset="zinc", name="z2"), "z.csv", ["SMILES", "SA", "logp", "score"])
    assert [task.name for task in named.tasks] == ["z2.SA", "z2.logp", "z2.score"]
    assert [(s.name, s.tasks) for s in named.task_sets] == [("z2.zinc", ("z2.SA", "z2.logp", "z2.score"))]
    assert {x.source for x in (*named.tasks, *named.task_sets)} == {"z2"}
    # columns keep theirs
    assert named.columns == ("SA", "logp", "score")


def test_tasks_of_several_tables_come_level_by_level_and_table_by_table():
    pm6, pcqm4m = preset_dataset("pm6"), preset_dataset("pcqm4m")
    tasks, task_sets = merge_tasks([pcqm4m, preset_dataset("qm9")])
    assert [task.source for task in tasks] == ["pcqm4m"] * 25 + ["qm9"] * 19 + ["pcqm4m"] * 4
    assert [s.name for s in task_sets] == ["g25", "n4", "qm9"]
    advice = r"give the tables names that go before them, like --table vcap:l1000=FILE"
    with pytest.raises(InputError, match=rf"task names that several tables have: A, B, C, mu, alpha, homo, .*more\); {advice}"):
        merge_tasks([preset_dataset("qm9"), preset_dataset("qm9")])
    with pytest.raises(InputError, match=r"task names that several tables have: graph_\w+"):
        merge_tasks([pm6, pm6])
    one, other = (
        resolve_dataset(TableSpec(dataset="table", graph_columns=(name,)), "t", ["smiles", name]) for name in ("y", "z")
    )
    with pytest.raises(InputError, match=rf"task set names that several tables have: graph; {advice}"):
        merge_tasks([one, other])


def test_task_kinds_are_parsed():
    assert parse_task_kinds([]) == ()
    assert parse_task_kinds(["a=binary", "b*=ordinal:5", "c=multiclass:256", "d=regression", "x=y=ordinal:2"]) == (
        ("a", "binary", 2),
        ("b*", "ordinal", 5),
        ("c", "multiclass", 256),
        ("d", "regression", 0),
        ("x=y", "ordinal", 2),
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        *"a a= =binary a=Binary a=binary:3 a=regression:2 a=ordinal a=ordinal:1 a=ordinal:257 a=ordinal:-5 a=ordinal:5.0".split(),
        *"a=multiclass: a=multiclass:x a=classes:3 binary a:binary".split(),
    ],
)
def test_task_kinds_that_are_none_are_refused(text):
    match = rf"task kind '{re.escape(text)}': expected COLUMN=regression, COLUMN=binary, COLUMN=ordinal:N or COLUMN=multiclass:N"
    with pytest.raises(InputError, match=match):
        parse_task_kinds(["ok=binary", text])


def test_an_unknown_preset_is_refused_with_those_that_are_known():
    known = "pm6, pcqm4m, pcba, l1000, l1000_3, l1000_5to3, qm9, tox21, zinc, table"
    with pytest.raises(InputError, match=rf"dataset 'pm7': expected one of {known}$"):
        TableSpec(dataset="pm7")


@pytest.mark.parametrize(
    ("field", "option"),
    [
        ("graph_columns", "--graph-columns"),
        ("atom_columns", "--atom-columns"),
        ("bond_columns", "--bond-columns"),
        ("pair_columns", "--pair-columns"),
        ("task_kinds", "--task-kind"),
    ],
)
def test_a_preset_says_itself_which_columns_are_labels(field, option):
    value = (("y", "binary", 2),) if field == "task_kinds" else ("y",)
    with pytest.raises(InputError, match=rf"{option} belongs to --dataset table; --dataset qm9 says itself which columns"):
        TableSpec(dataset="qm9", **{field: value})


@pytest.mark.parametrize("name", ["1a", "a-b", "a.b", "a b", "ä", "_a", "x" * 33, "a\n"])
def test_a_table_name_is_a_word(name):
    with pytest.raises(InputError, match=r"table name .*: expected a letter, then letters, digits and underscores, at most 32"):
        TableSpec(dataset="l1000", name=name)
    assert TableSpec(dataset="l1000", name="Vcap_2" + "x" * 26).name == "Vcap_2" + "x" * 26
