"""molstream build on one's own tables, on several and with split files, and what the other commands make of such sets."""

import gzip
import json
import math
import random
import re
from pathlib import Path
from types import SimpleNamespace

import lookalikes as lk
import numpy as np
import pyarrow.parquet as pq
import pytest
from rdkit import Chem

from molstream.shards.build.build import BuildOptions, WorkOptions, build
from molstream.shards.format.reader import ShardSet
from molstream.shards.inputs.datasets import TableSpec

SIZE, SEED = 70, 2
LIMIT = ["--max-reject-fraction", "0.2"]
OWN = [
    *["--dataset", "table", "--smiles-column", "mol", "--id-column", "name"],
    *["--graph-columns", "y_*, tox_a", "--graph-columns", "grade", "--atom-columns", "charge_1,charge_2"],
    *["--bond-columns", "bond_order_sum,", "--bond-columns", "bond_dir", "--pair-columns", "distance", "--pair-columns", "flow"],
    *["--task-kind", "tox_*=binary", "--task-kind", "grade=ordinal:5", "--label-dtype", "atom=f32"],
]
"""Options of a user's own table: given several times, with commas, or both."""


@pytest.fixture(scope="module")
def looks(tmp_path_factory) -> SimpleNamespace:
    folder = tmp_path_factory.mktemp("looks")
    size = (folder, SIZE, SEED)
    return SimpleNamespace(
        folder=folder,
        own=lk.write_own(*size),
        own_csv=lk.write_own_csv(*size),
        qm9=lk.write_qm9(*size),
        tox21=lk.write_tox21(*size),
        zinc=lk.write_zinc(*size),
        pcqm4m=lk.write_pcqm4m(*size),
        pcba=lk.write_pcba(*size),
        vcap=lk.write_l1000(*size),
        mcf7=lk.write_l1000(*size, cell="MCF7"),
    )


@pytest.fixture(scope="module")
def own_set(looks, succeed) -> Path:
    """A user's own table with labels of all levels."""
    out = looks.folder / "own_set"
    succeed("build", *looks.own.paths, "--out", out, *OWN, *LIMIT)
    return out


def spec_of(**changes) -> TableSpec:
    """What OWN says."""
    fields = {
        "dataset": "table",
        "smiles_column": "mol",
        "id_column": "name",
        "graph_columns": ("y_*", "tox_a", "grade"),
        "atom_columns": ("charge_1", "charge_2"),
        "bond_columns": ("bond_order_sum", "bond_dir"),
        "pair_columns": ("distance", "flow"),
        "task_kinds": (("tox_*", "binary", 2), ("grade", "ordinal", 5)),
    }
    return TableSpec(**fields | changes)


# the call


def test_columns_come_with_commas_or_one_by_one_and_make_the_set_that_build_makes(looks, own_set, tmp_path, folder_bytes):
    options = BuildOptions(tables=(spec_of(),), atom_labels="f32")
    build([str(p) for p in looks.own.paths], tmp_path / "set", options, work=WorkOptions(max_reject_fraction=0.2))
    assert folder_bytes(tmp_path / "set") == folder_bytes(own_set)
    assert [task.name for task in ShardSet(own_set).manifest.tasks] == [
        *["y_1", "y_2", "tox_a", "grade", "charge_1", "charge_2", "bond_order_sum", "bond_dir", "distance", "flow"],
    ]


def test_a_build_of_ones_own_table_says_what_became_of_its_rows(looks, succeed, tmp_path):
    done = succeed("build", *looks.own_csv.paths, "--out", tmp_path / "set", *OWN, *LIMIT)
    assert done.err == f"reading 2 files, in this order: {looks.own_csv.paths[0]}, {looks.own_csv.paths[1]}\n"
    lines = done.lines
    assert lines[0].startswith(f"{tmp_path / 'set'}: {len(looks.own_csv.usable)} of {SIZE} rows; train ")
    rejected = sum(int(found[1]) for line in lines if (found := re.match(r"  rejected (\d+): ", line)))
    assert rejected == len(looks.own_csv.unusable)
    assert "  rejected 1: empty SMILES" in lines
    missing = int(np.isnan(looks.own_csv.graph["y_2"]).sum())
    dropped = next(line for line in lines if line.startswith("  dropped"))
    assert re.fullmatch(r"  dropped [\d,]+ labels that are not a number \(NaN\) of \d+ tasks, most of \w+: [\d,]+", dropped), (
        dropped
    )
    manifest = ShardSet(tmp_path / "set").manifest
    assert manifest.dropped_labels["y_2"].nan == missing
    assert lines[-2] == f"  rejected rows are listed in {tmp_path / 'set' / 'rejects.parquet'}"


LARGEMIX = ["pcqm4m", "pcba", "vcap", "mcf7"]


def tables_of(looks, names=LARGEMIX) -> list[str]:
    presets = {"vcap": "vcap:l1000", "mcf7": "mcf7:l1000"}
    return [w for name in names for w in ("--table", f"{presets.get(name, name)}={getattr(looks, name).paths[0]}")]


@pytest.fixture(scope="module")
def largemix(looks, succeed) -> SimpleNamespace:
    """The tables of LargeMix joined by the command; and what it printed."""
    out = looks.folder / "largemix"
    done = succeed("build", *tables_of(looks), "--out", out, "--label-dtype", "atom=f32", *LIMIT)
    return SimpleNamespace(path=out, done=done, manifest=ShardSet(out).manifest)


def test_tables_are_joined_by_smiles_unless_told_otherwise_and_counted(looks, largemix):
    join = largemix.manifest.join
    assert join.by == "smiles"
    assert [(t.name, t.rows) for t in join.tables] == [(name, len(getattr(looks, name).usable)) for name in LARGEMIX]
    read = [f"table {name}: reading 1 file, in this order: {getattr(looks, name).paths[0]}" for name in LARGEMIX]
    assert largemix.done.err.splitlines() == read
    first, *lines = largemix.done.lines
    total = sum(getattr(looks, name).num_rows for name in LARGEMIX)
    molecules = {key for name in LARGEMIX for key in (getattr(looks, name).molecule_keys[r] for r in getattr(looks, name).usable)}
    assert first.startswith(f"{largemix.path}: {len(molecules)} molecules of {total} rows; train ")
    for table in join.tables:
        assert (
            f"  table {table.name}: {table.molecules} molecules in {table.rows} rows, {table.duplicates} of them repeat one"
            in lines
        )
    conflicts, most = sum(join.conflicts.values()), max(join.conflicts.values())
    said = next(line for line in lines if "differ from that of an earlier row" in line)
    assert said.startswith(f"  {conflicts:,} labels of {len(join.conflicts):,} tasks differ ")
    assert said.endswith(f": {most:,}")
    assert f"  which row became which molecule is in {largemix.path / 'mapping.parquet'}" in lines
    assert "  rejected 6: not a SMILES that RDKit can parse" in lines
    assert lines[0] == (
        "  tasks: g25: 25 graph-level, regression; n4: 4 atom-level, regression; pcba: 1,328 graph-level, binary; "
        "vcap.l1000: 978 graph-level, ordinal; mcf7.l1000: 978 graph-level, ordinal"
    )


def test_a_table_of_several_files_names_them_with_commas_or_a_pattern(looks, succeed, molstream, tmp_path, folder_bytes):
    one, two = looks.own_csv.paths
    common = [*OWN[2:], *LIMIT, "--out"]
    done = succeed("build", "--table", f"a:table={one},{two}", *common, tmp_path / "commas")
    assert done.err == f"table a: reading 2 files, in this order: {one}, {two}\n"
    manifest = ShardSet(tmp_path / "commas").manifest
    assert [(i["name"], i["table"]) for i in manifest.provenance["inputs"]] == [("own.csv.gz", 0), ("own_2.csv.gz", 0)]
    assert [(t.name, t.rows) for t in manifest.join.tables] == [("a", len(looks.own_csv.usable))]
    assert manifest.tasks[0].name == "a.y_1"
    succeed("build", "--table", f"a:table={looks.folder / 'own*.csv.gz'}", *common, tmp_path / "pattern")
    assert folder_bytes(tmp_path / "pattern") == folder_bytes(tmp_path / "commas")
    # two tables of one name would be taken for one another
    done = molstream("build", "--table", f"a:table={one}", "--table", f"a:table={two}", *common, tmp_path / "twice")
    assert done.code == CALL
    assert f"--table a:table={two}: the second a; give tables of one data set different names" in done.error


def test_columns_are_about_the_tables_that_no_preset_describes(looks, succeed, tmp_path):
    tables = [*tables_of(looks, ["pcqm4m"]), "--table", f"table={looks.own.paths[0]}"]
    succeed("build", *tables, *OWN[2:], *LIMIT, "--out", tmp_path / "set")
    manifest = ShardSet(tmp_path / "set").manifest
    assert [s.name for s in manifest.task_sets][:3] == ["g25", "n4", "graph"]
    assert [task.name for task in manifest.tasks if task.level == "atom"] == [*lk.PCQM4M_ATOM, "charge_1", "charge_2"]
    specs = manifest.provenance["options"]["tables"]
    assert (specs[0]["smiles_column"], specs[1]["smiles_column"]) == ("", "mol")


@pytest.fixture(scope="module")
def published_zinc(looks) -> Path:
    """ZINC12k as it is published: its column of SMILES is called smiles."""
    path = looks.folder / "published" / "ZINC12k.csv.gz"
    path.parent.mkdir()
    path.write_bytes(gzip.compress(gzip.decompress(looks.zinc.paths[0].read_bytes()).replace(b"SMILES", b"smiles", 1)))
    return path


def labels_of(folder: Path) -> dict[str, dict]:
    """{SMILES: graph labels by task}."""
    shard_set = ShardSet(folder)
    names = [task.name for task in shard_set.manifest.tasks_of("graph")]
    pairs = [(s, v) for block in shard_set.iter_blocks() for s, v in zip(block.smiles, block.graph_labels.tolist(), strict=True)]
    return {str(s): {n: x for n, x in zip(names, values, strict=True) if not math.isnan(x)} for s, values in pairs}


def test_toymix_as_it_is_published_builds_by_the_documented_command(looks, published_zinc, succeed, tmp_path):
    tables = tables_of(looks, ["qm9", "tox21"])
    succeed("build", *tables, "--table", f"zinc={published_zinc}", *LIMIT, "--out", tmp_path / "set")
    succeed("build", *tables, *tables_of(looks, ["zinc"]), *LIMIT, "--out", tmp_path / "micro")
    assert labels_of(tmp_path / "set") == labels_of(tmp_path / "micro")


@pytest.mark.parametrize(
    "words",
    [
        ["--smiles-column", "zinc=smiles"],
        ["--graph-columns", "zinc=SA,logp,score"],
        ["--smiles-column", "zinc=smiles", "--graph-columns", "zinc=SA", "--graph-columns", 'zinc="logp",score'],
    ],
)
def test_options_may_be_about_one_table_of_a_join(looks, published_zinc, succeed, tmp_path, words):
    common = [*tables_of(looks, ["tox21"]), *LIMIT, "--out"]
    succeed("build", *common, tmp_path / "set", "--table", f"zinc={published_zinc}", *words)
    manifest = ShardSet(tmp_path / "set").manifest
    assert [(s.name, s.tasks) for s in manifest.task_sets][1] == ("zinc", ("SA", "logp", "score"))
    # the same columns of a table that no preset describes
    more = ["--smiles-column", "z=smiles", "--graph-columns", "z=SA,logp,score"]
    succeed("build", *common, tmp_path / "own", "--table", f"z:table={published_zinc}", *more)
    own = {s: {n.removeprefix("z."): x for n, x in values.items()} for s, values in labels_of(tmp_path / "own").items()}
    assert own == labels_of(tmp_path / "set")
    specs = ShardSet(tmp_path / "own").manifest.provenance["options"]["tables"]
    assert [spec["smiles_column"] for spec in specs] == ["", "smiles"]
    assert [spec["graph_columns"] for spec in specs] == [[], ["SA", "logp", "score"]]


def test_what_names_a_table_goes_before_what_names_none(succeed, tmp_path):
    for name, columns in {"a": "mol,y,z", "b": "smi,y,z"}.items():
        (tmp_path / f"{name}.csv").write_text(f"{columns}\nCO,1,2\nCC,3,1\n")
    tables = [w for name in "ab" for w in ("--table", f"{name}:table={tmp_path / name}.csv")]
    words = ["--smiles-column", "mol", "--smiles-column", "b=smi", "--graph-columns", "y", "--graph-columns", "b=z"]
    succeed("build", *tables, *words, "--task-kind", "b=z=ordinal:3", "--out", tmp_path / "set")
    manifest = ShardSet(tmp_path / "set").manifest
    assert [(t.name, t.kind, t.num_classes) for t in manifest.tasks] == [("a.y", "regression", 0), ("b.z", "ordinal", 3)]
    assert labels_of(tmp_path / "set") == {"CO": {"a.y": 1, "b.z": 2}, "CC": {"a.y": 3, "b.z": 1}}


def test_columns_whose_names_have_commas_or_equals_signs_are_named_in_quotes(succeed, molstream, tmp_path):
    (tmp_path / "a.csv").write_text('"smi,les","logP, exp",a=b,y\nCO,1,0,5\nCC,2,1,6\n')
    words = ["--dataset", "table", "--smiles-column", '"smi,les"', "--graph-columns", 'y,"logP, exp","a=b"']
    succeed("build", tmp_path / "a.csv", *words, "--task-kind", '"a=b"=binary', "--out", tmp_path / "set")
    assert labels_of(tmp_path / "set")["CC"] == {"y": 6, "logP, exp": 2, "a=b": 1}
    # a task of such a name is chosen in the same way
    done = succeed("stream", tmp_path / "set", "--lanes", 1, "--tasks", '"logP, exp"', "--json")
    assert done.json["labels_per_s"] > 0
    # without quotes, what to write is said
    done = molstream(
        *("build", tmp_path / "a.csv", *words[:4], "--graph-columns", "logP, exp", "--out", tmp_path / "other"),
    )
    assert done.code == CALL
    assert "columns of --dataset table are missing: logP, exp; found 4" in done.error
    assert done.error.endswith("a name with a comma is written in double quotes, like --graph-columns '\"logP, exp\"'")
    # in a join, an equals sign is after the name of a table
    words = ["--table", f"a:table={tmp_path / 'a.csv'}", "--smiles-column", '"smi,les"', "--graph-columns", 'a="a=b"']
    succeed("build", *words, "--out", tmp_path / "joined")
    assert labels_of(tmp_path / "joined")["CC"] == {"a.a=b": 1}


def test_splits_of_each_table_are_said_and_the_most_held_out_wins(succeed, tmp_path):
    (tmp_path / "a.csv").write_text("smiles,y,split\nCO,1,train\nCC,2,val\nCN,3,train\nCCC,4,train\n")
    (tmp_path / "b.csv").write_text("smiles,z\nOC,1\nCC,2\nNC,3\nCCO,4\n")
    (tmp_path / "b.json").write_text(json.dumps({"train": [1, 3], "test-dev": [0], "test": [2]}))
    tables = [w for name in "ab" for w in ("--table", f"{name}:table={tmp_path / name}.csv")]
    words = ["--graph-columns", "[yz]", "--split-column", "a=split", "--splits", f"b={tmp_path / 'b.json'}"]
    done = succeed("build", *tables, *words, "--out", tmp_path / "set")
    assert done.lines[0] == f"{tmp_path / 'set'}: 5 molecules of 8 rows; train 2, val 1, test-dev 1, test 1"
    assert "  3 rows are of another split than the most held-out split of their molecule's rows, which decides" in done.lines
    splits = {
        r["smiles"]: r
        for s in ("test-dev", "test", "val")
        for r in map(json.loads, succeed("cat", tmp_path / "set", "--split", s).lines)
    }
    assert {s: r["graph"] for s, r in splits.items()} == {
        "CO": {"a.y": 1.0, "b.z": 1.0},
        "CN": {"a.y": 3.0, "b.z": 3.0},
        "CC": {"a.y": 2.0, "b.z": 2.0},
    }
    options = ShardSet(tmp_path / "set").manifest.provenance["options"]
    assert (options["splits"], [t["splits"] for t in options["tables"]]) == ("tables", ["", "b.json"])
    assert [t["split_column"] for t in options["tables"]] == ["split", ""]


def test_each_table_may_be_shuffled_by_itself_as_the_paper_does(looks, published_zinc, succeed, tmp_path):
    words = ["--split-seed", 42, "--split-fractions", "80,10,10", *LIMIT]
    each = ["--splits", "tox21=position", "--splits", "zinc=position"]
    tables = [*tables_of(looks, ["tox21"]), "--table", f"zinc={published_zinc}"]
    succeed("build", *tables, *each, *words, "--out", tmp_path / "set")
    # a molecule is as held out as in the most held-out of its tables
    rank, expected = ["train", "val", "test"], {}
    for look in (looks.tox21, looks.zinc):
        order = list(range(look.num_rows))
        random.Random(42).shuffle(order)
        ends = look.num_rows - 2 * (look.num_rows // 10), look.num_rows - look.num_rows // 10
        for row in look.usable:
            split = sum(order.index(row) >= end for end in ends)
            key = look.molecule_keys[row]
            expected[key] = max(expected.get(key, 0), split)
    shard_set = ShardSet(tmp_path / "set")
    found = {str(s): split for split in shard_set.splits for block in shard_set.iter_blocks(split) for s in block.smiles}
    assert found == {key: rank[split] for key, split in expected.items()}


def test_unmatched_molecules_and_rows_of_other_splits_are_said(succeed, tmp_path):
    (tmp_path / "a.csv").write_text("smiles,y\n[Na]Cl,1\n[Na+].[Cl-],2\nCO,3\nOC,3\n")
    (tmp_path / "splits.json").write_text('{"train": [0, 1, 2], "val": [3]}')
    words = ["--dataset", "table", "--graph-columns", "y", "--join", "inchi", "--splits", tmp_path / "splits.json"]
    done = succeed("build", tmp_path / "a.csv", "--out", tmp_path / "set", *words)
    assert done.lines[0] == f"{tmp_path / 'set'}: 3 molecules of 4 rows; train 3"
    assert "  table table: 3 molecules in 4 rows, 1 of them repeat one" in done.lines
    assert "  1 rows are of another split than the first row of their molecule, which decides" in done.lines
    assert "  1 molecules share an InChI with another whose atoms do not match: they stay apart" in done.lines


# splits


def split_ids(folder: Path) -> dict[str, set[int]]:
    shard_set = ShardSet(folder)
    return {split: {int(i) for block in shard_set.iter_blocks(split) for i in block.ids} for split in shard_set.splits}


def test_rows_that_a_split_file_leaves_out_are_said_to_be_left_out(looks, succeed, tmp_path):
    rows = {"train": list(range(0, 50)), "val": [60, 61]}
    (tmp_path / "s.json").write_text(json.dumps(rows))
    words = ["--dataset", "zinc", "--splits", tmp_path / "s.json", "--max-reject-fraction", 0]
    done = succeed("build", *looks.zinc.paths, "--out", tmp_path / "set", *words)
    assert done.lines[0] == f"{tmp_path / 'set'}: 52 of {SIZE} rows; train 50, val 2"
    assert done.lines[1:3] == ["  tasks: zinc: 3 graph-level, regression", f"  left out {SIZE - 52}: in no split"]
    assert split_ids(tmp_path / "set") == {split: set(found) for split, found in rows.items()}
    assert ShardSet(tmp_path / "set").manifest.provenance["options"]["splits"] == "s.json"


@pytest.fixture(scope="module")
def four_splits(looks, succeed) -> tuple[Path, dict]:
    """PCBA's rows in the four splits of its published file."""
    path = lk.write_splits(looks.folder, looks.pcba)
    out = looks.folder / "four_splits"
    succeed("build", *looks.pcba.paths, "--dataset", "pcba", "--out", out, "--splits", path)
    return out, {split: [int(r) for r in rows] for split, rows in lk.plan_splits("pcba", SIZE).items()}


def test_a_fourth_split_is_streamed_printed_and_verified_like_any_other(four_splits, succeed, molstream, tmp_path):
    out, splits = four_splits
    assert list(splits) == ["train", "val", "test", "test_seen"]
    records = [json.loads(line) for line in succeed("cat", out, "--split", "test_seen").lines]
    assert {record["id"] for record in records} == set(splits["test_seen"])
    ledger = tmp_path / "ledger.parquet"
    succeed("stream", out, "--split", "test_seen", "--lanes", 1, "--ledger", ledger)
    assert sorted(pq.read_table(ledger)["id"].to_pylist()) == sorted(splits["test_seen"])
    assert succeed("verify", out).code == 0
    done = molstream("cat", out, "--split", "test_unseen")
    assert done.code == 2
    assert "no split 'test_unseen', it holds train, val, test, test_seen" in done.error


# what is refused


CALL, DATA = 2, 1
BAD_CALLS = [
    ("--out x", CALL, "expected input files, or tables to join with --table, and not both"),
    ("ZINC --table zinc=ZINC --out x", CALL, "expected input files, or tables to join with --table, and not both"),
    ("ZINC --dataset zinc", CALL, "--out is missing: the folder to write"),
    ("--table zinc2=ZINC --out x", CALL, "dataset 'zinc2': expected one of pm6"),
    ("--table ZINC --out x", CALL, "expected DATASET=FILES or NAME:DATASET=FILES, like --table vcap:l1000=vcap.csv.gz"),
    ("--table a:=ZINC --out x", CALL, "expected DATASET=FILES or NAME:DATASET=FILES"),
    ("--table zinc= --out x", CALL, "expected DATASET=FILES or NAME:DATASET=FILES"),
    ("--table 1:zinc=ZINC --out x", CALL, "table name '1': expected a letter, then letters, digits and underscores"),
    ("--table zinc=nope*.csv --out x", CALL, "nope*.csv: no file matches"),
    ("--table zinc=ZINC --table a:zinc=ZINC --out x", CALL, "named twice among the inputs"),
    (
        "--table l1000=VCAP --table l1000_3=MCF7 --out x",
        CALL,
        "give the tables names that go before them, like --table vcap:l1000=",
    ),
    ("--table l1000=VCAP --join name --out x", CALL, "'name' is not one of 'smiles', 'inchi'"),
    ("--table tox21=TOX --graph-columns y --out x", CALL, "--graph-columns: no table of the data set 'table'"),
    ("--table tox21=TOX --graph-columns tox=y --out x", CALL, "--graph-columns tox=y: no table tox, there are tox21; a column"),
    (
        "--table tox21=TOX --graph-columns tox21=y --out x",
        CALL,
        "--graph-columns belongs to --dataset table; --dataset tox21 says",
    ),
    ("--table tox21=TOX --smiles-column tox21=mol --out x", DATA, "columns of --dataset tox21 are missing: mol; found"),
    ("--table a:table=TOX --smiles-column a=b --smiles-column a=c --out x", CALL, "--smiles-column a=c: the second of table a"),
    ("ZINC --dataset zinc --smiles-column a --smiles-column b --out x", CALL, "--smiles-column b: the second, expected one"),
    ("ZINC --dataset zinc --split-column s --out x", CALL, "no column s for --split-column, found 4: SMILES, SA, logp, score"),
    ("ZINC --dataset zinc --split-column SA --out x", CALL, "column SA is asked for as labels too; expected one use per column"),
    (
        "ZINC --dataset zinc --split-column s --splits position --out x",
        CALL,
        "--splits position and --split-column: expected one",
    ),
    ("ZINC --dataset zinc --split-column s --split-seed 3 --out x", CALL, "--split-seed and splits that files or columns name:"),
    ("ZINC --dataset zinc --rename-split a=b --out x", CALL, "--rename-split: the rule skeleton has no names to change"),
    (
        "ZINC --dataset zinc --splits SPLITS --rename-split a=b --out x",
        CALL,
        "--rename-split a=b: no split is called a; found train",
    ),
    ("ZINC --dataset zinc --splits SPLITS --rename-split a --out x", CALL, "--rename-split a: expected OLD=NEW, each OLD once"),
    ("ZINC --dataset zinc --splits SPLITS --splits position --out x", CALL, "--splits position: the second, expected one"),
    ("--table zinc=ZINC --table tox21=TOX --splits zinc=SPLITS --out x", CALL, "table tox21 has no splits of its own, as others"),
    ("--table zinc=ZINC --table tox21=TOX --splits zink=SPLITS --out x", CALL, "no table zink, there are zinc, tox21"),
    ("--table zinc=ZINC --splits zinc=scaffold --out x", CALL, "--splits zinc=scaffold: scaffold is about molecules, whatever"),
    (
        "--table zinc=ZINC --splits zinc=position --splits position --out x",
        CALL,
        "--splits position and --splits zinc=: expected",
    ),
    ("--table zinc=ZINC --splits zinc=nope.json --out x", CALL, "nope.json: no such file"),
    ("--table zinc=ZINC --splits zinc=OVERLAP --out x", DATA, "row 1 is in two splits, train and val; splits must not overlap"),
    ("ZINC --dataset zinc --graph-columns SA --out x", CALL, "--graph-columns belongs to --dataset table; --dataset zinc says"),
    ("ZINC --dataset zinc --id-column q --out x", CALL, "no column q for --id-column, found 4: SMILES, SA, logp, score"),
    ("OWN --dataset table --out x", CALL, "1 of 1 columns of --dataset table are missing: smiles or ordered_smiles or"),
    ("MINE --graph-columns y_* --task-kind y_1=binaer --out x", CALL, "task kind 'y_1=binaer': expected COLUMN=regression,"),
    ("MINE --graph-columns name --out x", DATA, "column name is of type string, expected numbers"),
    ("ZINC --dataset pcqm4m --out x", DATA, "30 of 30 columns of --dataset pcqm4m are missing: ordered_smiles, graph_alpha_homo"),
    ("--dataset zinc --table zinc=ZINC --out x", CALL, "--dataset zinc beside --table, which names the data set of each table"),
    ("ZINC --dataset zinc --splits SPLITS --split-fractions 8,1,1 --out x", CALL, "--split-fractions and a file of splits:"),
    ("ZINC --dataset zinc --splits SPLITS --split-seed 8 --out x", CALL, "--split-seed and a file of splits: expected one of"),
    ("ZINC --dataset zinc --splits nope.json --out x", CALL, "nope.json: no such file"),
    ("ZINC --dataset zinc --splits scafold --out x", CALL, "skeleton, scaffold, position"),
    ("ZINC --dataset zinc --splits OVERLAP --out x", DATA, "row 1 is in two splits, train and val; splits must not overlap"),
    ("ZINC --dataset zinc --label-dtype graphs=f32 --out x", CALL, "label dtype 'graphs=f32': expected graph=, atom=, bond="),
]
"""Upper case for files: OWN is one's own table, MINE the same with the options that say so."""


@pytest.mark.parametrize(("words", "code", "expected"), BAD_CALLS, ids=[words for words, *_ in BAD_CALLS])
def test_a_call_that_does_not_fit_is_one_line_and_writes_nothing(
    molstream, looks, tmp_path, monkeypatch, folder_bytes, words, code, expected
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "splits.json").write_text('{"train": [0]}')
    (tmp_path / "overlap.json").write_text('{"train": [0, 1], "val": [1]}')
    before = folder_bytes(tmp_path)
    places = {name: f"{name.lower()}.json" for name in ("SPLITS", "OVERLAP")}
    files = {"ZINC": looks.zinc, "TOX": looks.tox21, "OWN": looks.own, "VCAP": looks.vcap, "MCF7": looks.mcf7}
    places |= {name: str(look.paths[0]) for name, look in files.items()}
    places["MINE"] = f"{places['OWN']} --dataset table --smiles-column mol"
    done = molstream("build", *re.sub(r"\b[A-Z][A-Z\d]{2,}\b", lambda found: places.get(found[0], found[0]), words).split())
    assert (done.code, done.out) == (code, "")
    assert expected in done.error
    assert folder_bytes(tmp_path) == before
    assert not (tmp_path / "x").exists()


# cat


@pytest.fixture(scope="module")
def records(own_set, succeed) -> dict[int, dict]:
    """What `cat` says of every molecule of the own table."""
    return {record["id"]: record for record in map(json.loads, succeed("cat", own_set).lines)}


def as_array(values: list | None, like: np.ndarray) -> np.ndarray:
    """A printed list as float32, NaN for null; a list that was left out is all NaN."""
    if values is None:
        return np.full(len(like), np.nan, np.float32)
    return np.array([math.nan if value is None else value for value in values], np.float32)


def test_cat_prints_identifiers_bonds_and_all_levels_in_their_order(records, looks):
    table = pq.read_table(looks.own.paths[0], columns=["name", "mol"]).to_pylist()
    assert sorted(records) == looks.own.usable
    for row, record in records.items():
        assert list(record) == ["id", "smiles", "identifier", "bonds", "graph", "atom", "bond", "pair"]
        assert record["identifier"] == table[row]["name"]
        assert record["smiles"] == looks.own.molecule_keys[row]
    assert any("β" in record["identifier"] for record in records.values())


def test_cat_prints_lists_in_the_order_of_the_printed_smiles(records, looks):
    """All lists are what their rules make of the printed molecule: bonds in the order of `bonds`, pairs row by row."""
    partly = {row for trap, rows in looks.own.traps.items() if trap.endswith(("_list", "_value")) for row in rows}
    compared = 0
    for row in set(records) - partly:
        record, mol = records[row], Chem.MolFromSmiles(records[row]["smiles"])
        n, m = mol.GetNumAtoms(), mol.GetNumBonds()
        expected = {name: lk.atom_label(mol, name) for name in lk.OWN_ATOM}
        assert {name: record["atom"][name] for name in lk.OWN_ATOM} == {name: v.tolist() for name, v in expected.items()}
        ends = {
            frozenset((b.GetBeginAtomIdx(), b.GetEndAtomIdx())): (k, b.GetBeginAtomIdx()) for k, b in enumerate(mol.GetBonds())
        }
        assert {frozenset(pair) for pair in record["bonds"]} == set(ends)
        assert all(low < high for low, high in record["bonds"])
        assert record["bonds"] == sorted(record["bonds"], key=lambda pair: (pair[1], pair[0]))
        one, two = lk.bond_label(mol), lk.edge_label(mol).reshape(-1, 2)
        for k, pair in enumerate(record["bonds"]):
            number, begin = ends[frozenset(pair)]
            assert record["bond"]["bond_order_sum"][k] == one[number]
            there, back = record["bond"]["bond_dir"][2 * k : 2 * k + 2]
            assert [there, back] == (two[number] if begin == pair[0] else two[number][::-1]).tolist()
        if m:
            assert (len(record["bond"]["bond_order_sum"]), len(record["bond"]["bond_dir"])) == (m, 2 * m)
        distance, flow = lk.distance_label(mol), lk.flow_label(mol)
        assert len(record["pair"]["flow"]) == n * n
        assert np.array_equal(as_array(record["pair"]["flow"], flow), flow, equal_nan=True)
        assert np.array_equal(as_array(record["pair"].get("distance"), distance), distance, equal_nan=True)
        compared += m > 1
    assert compared > 30


def test_cat_prints_null_for_a_value_that_is_absent_and_nothing_for_a_list_that_is(records, looks):
    for trap in ("null_list", "empty_list", "nan_list"):
        for row in looks.own.traps[trap]:
            assert (records[row]["atom"], records[row]["bond"], records[row]["pair"]) == ({}, {}, {})
            assert records[row]["bonds"]
    for row in [*looks.own.traps["nan_value"], *looks.own.traps["null_value"]]:
        record = records[row]
        for name in lk.OWN_ATOM:
            assert [value is None for value in record["atom"][name]].count(True) == 1
        # in a list with an entry a bond or pair one is missing; of several fragments there would be more
        assert record["bond"]["bond_order_sum"].count(None) == 1
        assert record["bond"]["bond_dir"].count(None) == 1
        assert record["pair"]["distance"].count(None) == 1
        assert record["pair"]["flow"].count(None) == 1


def test_cat_prints_the_labels_of_all_tables_of_a_join(looks, largemix, succeed):
    key = next(iter(looks.pcqm4m.same_molecules().keys() & looks.pcba.same_molecules().keys()))
    first = looks.pcqm4m.molecule_keys.index(key)
    [line] = succeed("cat", largemix.path, "--ids", first).lines
    record = json.loads(line)
    assert record["smiles"] == key
    sources = {name.partition(".")[0].partition("-")[0].partition("_")[0] for name in record["graph"]}
    assert sources == {"graph", "assayID", "vcap", "mcf7"}
    assert "identifier" not in record
    row = looks.vcap.molecule_keys.index(key)
    gene = lk.gene_names()[7]
    assert record["graph"][f"vcap.{gene}"] == looks.vcap.graph[gene][row]


def test_the_order_of_lists_of_atoms_is_said_for_each_table_and_kept(succeed, molstream, tmp_path):
    text = json.dumps([float(k) for k in range(20)])
    (tmp_path / "a.csv").write_text(f'smiles,q\nCCC1([NH3+])CC1C([O-])=O,"{text}"\n')
    call = ("build", tmp_path / "a.csv", "--dataset", "table", "--atom-columns", "q", "--out", tmp_path / "set")
    succeed(*call, "--atom-order", "interleaved")
    shard_set = ShardSet(tmp_path / "set")
    assert shard_set.manifest.provenance["options"]["tables"][0]["atom_order"] == "interleaved"
    (block,) = shard_set.iter_blocks()
    labels = dict(zip(block.atom_labels[:, 0].tolist(), block.atom_codes[:, 0].tolist(), strict=True))
    assert (labels[3.0], labels[7.0], labels[11.0]) == (7, 6, 8)
    done = molstream(*call[:-1], tmp_path / "other", "--atom-order", "last")
    assert done.code == 2
    assert "atom order 'last': expected one of hydrogens-last, interleaved, heavy" in done.error


# what reads them
