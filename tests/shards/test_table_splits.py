"""Splits that tables have of their own: a file, a column, a shuffle. A molecule of several goes to the most held-out split.

The oracle is `held_out_by_hand`, dicts and loops.
"""

import json
import random
import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset

from molstream.shards.build.build import BuildOptions, WorkOptions, build
from molstream.shards.errors import InputError, OutputError, SchemaError
from molstream.shards.format.reader import ShardSet
from molstream.shards.format.verify import verify
from molstream.shards.inputs.datasets import TableSpec
from molstream.shards.splits.rules import SplitFractions, Splits, held_out_key

SMILES = ["C" * n for n in range(1, 13)] + ["C" * n + "O" for n in range(1, 13)]
"""Each is its own canonical SMILES."""
NAMES = ["train", "val", "test", "test-dev", "", "train", "calibration.1", "nan"]
ABSENT = ("", "nan")
RANK = {"train": 0, "val": 1, "calibration.1": 2, "test-dev": 3, "test": 4}
"""From the least held-out."""


def write_table(path: Path, smiles: list[str], split: list[str], value: float) -> str:
    table = {"smiles": smiles, "y": [value + k for k in range(len(smiles))], "fold": split}
    if path.suffix == ".csv":
        lines = zip(*table.values(), strict=True)
        path.write_text("\n".join(["smiles,y,fold", *(",".join(map(str, line)) for line in lines)]) + "\n")
    else:
        pq.write_table(pa.table(table), path)
    return str(path)


def spec_of(name: str, **fields) -> TableSpec:
    return TableSpec(dataset="table", name=name, graph_columns=("y",), **fields)


def held_out_by_hand(tables: list[tuple[list[str], list[str]]]) -> tuple[dict[str, str], int]:
    """{SMILES: split} and how many rows are of another split than their molecule, of tables of (SMILES, splits)."""
    split: dict[str, str] = {}
    rows = [(s, name) for smiles, names in tables for s, name in zip(smiles, names, strict=True) if name not in ABSENT]
    for s, name in rows:
        if s not in split or RANK[name] > RANK[split[s]]:
            split[s] = name
    return split, sum(name != split[s] for s, name in rows)


def splits_of(shard_set: ShardSet) -> dict[str, str]:
    return {str(s): split for split in shard_set.splits for block in shard_set.iter_blocks(split) for s in block.smiles}


def shuffled(num_rows: int, seed: int) -> list[str]:
    """What 50,25,25 by position gives, as Python shuffles."""
    order = list(range(num_rows))
    random.Random(seed).shuffle(order)
    ends = num_rows - 2 * (num_rows // 4), num_rows - num_rows // 4
    return [("train", "val", "test")[sum(order.index(row) >= end for end in ends)] for row in range(num_rows)]


@pytest.mark.parametrize("seed", range(3))
def test_a_molecule_goes_to_the_most_held_out_split_of_its_rows_with_all_its_labels(tmp_path, seed):
    draw = random.Random(seed)
    tables = []
    for _ in range(3):
        smiles = draw.choices(SMILES, k=draw.randrange(12, 30))
        tables.append((smiles, ["train", *draw.choices(NAMES, k=len(smiles) - 1)]))
    tables[2] = (tables[2][0], shuffled(len(tables[2][0]), 42))
    inputs = [[write_table(tmp_path / f"{k}.{'csv' if k else 'parquet'}", *t, 100 * k)] for k, t in enumerate(tables)]
    (tmp_path / "b.json").write_text(
        json.dumps({n: [k for k, name in enumerate(tables[1][1]) if name == n] for n in set(tables[1][1]) - {*ABSENT}})
    )
    fields = {"join": "smiles", "splits": "tables", "split_seed": 42, "split_fractions": SplitFractions.parse("50,25,25")}
    specs = (spec_of("a", split_column="fold"), spec_of("b", splits="b.json"), spec_of("c", splits="position"))
    options = BuildOptions(tables=specs, **fields)
    build(inputs, tmp_path / "set", options, split_file=[None, str(tmp_path / "b.json"), None])
    shard_set = ShardSet(tmp_path / "set")
    expected, across = held_out_by_hand(tables)
    assert splits_of(shard_set) == expected, f"seed {seed}"
    assert shard_set.manifest.join.across_splits == across > 0
    assert verify(shard_set).problems == []
    # the labels of every row of the molecule are there, in that split, but those of rows in no split
    labels = {"a": {}, "b": {}, "c": {}}
    for k, (smiles, names) in enumerate(tables):
        for row, (s, name) in enumerate(zip(smiles, names, strict=True)):
            if name not in ABSENT:
                labels["abc"[k]].setdefault(s, 100.0 * k + row)
    found = {"a": {}, "b": {}, "c": {}}
    for block in shard_set.iter_blocks():
        for s, values in zip(block.smiles, block.graph_labels, strict=True):
            for name, value in zip("abc", values.tolist(), strict=True):
                if not np.isnan(value):
                    found[name][str(s)] = value
    assert found == labels
    left_out = sum(name in ABSENT for _, names in tables for name in names)
    assert sum(i["rows"] for i in shard_set.manifest.provenance["inputs"]) == left_out + sum(
        t.rows for t in shard_set.manifest.join.tables
    )


def test_the_order_of_splits_is_train_val_others_test():
    names = ["test", "zeta", "val", "alpha", "train", "test-dev"]
    assert sorted(names, key=held_out_key) == ["train", "val", "alpha", "test-dev", "zeta", "test"]


def test_the_most_held_out_split_does_not_depend_on_the_order_of_rows_or_names():
    draw = random.Random(seed := 5)
    for _ in range(100):
        names = draw.sample(list(RANK), 5)
        first = np.array([draw.randrange(k + 1) for k in range(12)])
        first = first[first[first]]
        split = np.array([draw.randrange(5) for _ in range(12)], np.uint8)
        rule = Splits(rule="rows", names=tuple(names), shares=(0.2,) * 5, most_held_out=True)
        found = rule.of_molecules(split, first)
        for row in range(12):
            mine = [names[split[k]] for k in range(12) if first[k] == first[row]]
            if first[first[row]] == first[row]:
                assert names[found[row]] == max(mine, key=RANK.__getitem__), f"seed {seed}"
        plain = Splits(rule="rows", names=tuple(names), shares=(0.2,) * 5)
        assert np.array_equal(plain.of_molecules(split, first), split[first])


def test_a_column_of_splits_gives_what_a_file_of_the_same_splits_gives(tmp_path, folder_bytes):
    draw = random.Random(3)
    split = ["train", *draw.choices(NAMES, k=len(SMILES) - 1)]
    one = [
        write_table(tmp_path / "one.csv", SMILES[:9], split[:9], 0.0),
        write_table(tmp_path / "two.csv", SMILES[9:], split[9:], 9),
    ]
    (tmp_path / "s.csv").write_text("split\n" + "".join(f'"{name}"\n' for name in split))
    build(one, tmp_path / "column", BuildOptions(tables=(spec_of("", split_column="fold"),), splits="tables"))
    build(one, tmp_path / "file", BuildOptions(tables=(spec_of(""),)), split_file=str(tmp_path / "s.csv"))
    column, file = ShardSet(tmp_path / "column"), ShardSet(tmp_path / "file")
    assert splits_of(column) == splits_of(file) == {s: name for s, name in zip(SMILES, split, strict=True) if name not in ABSENT}
    assert column.manifest.fingerprint == file.manifest.fingerprint
    assert column.manifest.rejects == {"in no split": sum(name in ABSENT for name in split)}
    shards = {name: data for name, data in folder_bytes(tmp_path / "column").items() if name.endswith(".tar")}
    assert shards == {name: data for name, data in folder_bytes(tmp_path / "file").items() if name.endswith(".tar")}
    assert {"test-dev-00000.tar", "calibration.1-00000.tar"} <= set(shards)


def test_webdataset_tells_the_blocks_of_a_split_whose_name_has_a_dot(tmp_path):
    url = write_table(tmp_path / "a.csv", SMILES * 9, ["v1.2"] * 200 + ["train"] * (9 * len(SMILES) - 200), 0)
    options = BuildOptions(tables=(spec_of("", split_column="fold"),), splits="tables", block_molecules=64)
    build([url], tmp_path / "set", options)
    shard_set = ShardSet(tmp_path / "set")
    assert (blocks := len(shard_set.blocks("v1.2"))) > 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        samples = list(webdataset.WebDataset([str(tmp_path / "set" / "v1.2-00000.tar")], shardshuffle=False))
    assert len(samples) == blocks
    assert all({f"{group}.zst" for group in shard_set.groups} < set(sample) for sample in samples)
    assert verify(shard_set).problems == []


@pytest.fixture
def unfinished(tmp_path):
    """A build that was stopped before its shards, and what goes on from it: go_on(**fields of TableSpec), of BuildOptions too."""
    split = ["train", "train", "train", "valid", "test", "train"]
    table = {"smiles": SMILES[:6], "y": range(6), "fold": split, "fold_2": split[::-1]}
    pq.write_table(pa.table(table), tmp_path / "a.parquet")

    def stop(phase, done, total):
        if phase == "write":
            raise KeyboardInterrupt

    def go_on(progress=lambda phase, done, total: None, out="set", split_names=(), **fields):
        options = BuildOptions(
            tables=(spec_of("", **fields),), splits="tables" if fields else "skeleton", split_names=split_names
        )
        return build([str(tmp_path / "a.parquet")], tmp_path / out, options, progress)

    with pytest.raises(KeyboardInterrupt):
        go_on(stop, split_column="fold")
    return go_on


def test_an_unfinished_build_goes_on_with_the_same_splits_alone(unfinished, tmp_path, folder_bytes):
    for match, fields in {
        r"holds an unfinished build with tables\.0\.split_column fold \(now fold_2\)": {"split_column": "fold_2"},
        r"holds an unfinished build with tables\.0\.split_column fold \(now \), tables\.0\.splits  \(now position\)": {
            "splits": "position"
        },
        r"holds an unfinished build with .*splits tables \(now skeleton\)": {},
        r"holds an unfinished build with split_names": {"split_column": "fold", "split_names": (("valid", "test"),)},
    }.items():
        with pytest.raises(OutputError, match=match):
            unfinished(**fields)
    # a shard of whatever split that is of no finished piece is not kept
    for name in ("test-dev-00000.tar", "v1.2-00000.tar", "train-00007.tar"):
        (tmp_path / "set" / name).write_bytes(b"of a killed build")
    unfinished(split_column="fold")
    unfinished(split_column="fold", out="whole")
    assert folder_bytes(tmp_path / "set") == folder_bytes(tmp_path / "whole")
    manifest = ShardSet(tmp_path / "set").manifest
    assert {name: counts["molecules"] for name, counts in manifest.splits.items()} == {"train": 4, "val": 1, "test": 1}
    assert manifest.provenance["options"]["tables"][0]["split_column"] == "fold"
    with pytest.raises(OutputError, match=r"already holds a shard set, built with tables\.0\.split_column fold \(now fold_2\)"):
        unfinished(split_column="fold_2")


def test_splits_of_a_column_are_renamed_and_what_is_renamed_is_kept(unfinished, tmp_path):
    names = (("valid", "holdout"), ("test", "holdout"))
    unfinished(split_column="fold", split_names=names, out="renamed")
    manifest = ShardSet(tmp_path / "renamed").manifest
    assert {name: counts["molecules"] for name, counts in manifest.splits.items()} == {"train": 4, "holdout": 2}
    assert manifest.provenance["options"]["split_names"] == [list(pair) for pair in names]


def refusal(tmp_path, rows: list[str], error: type, **options) -> str:
    lines = "".join(f"{s},{k},{name}\n" for k, (s, name) in enumerate(zip(SMILES, rows, strict=False)))
    (tmp_path / "a.csv").write_text(f"smiles,y,fold\n{lines}")
    before = sorted(tmp_path.iterdir())
    fields = {"tables": (spec_of("", split_column="fold"),), "splits": "tables"} | options
    with pytest.raises(error) as caught:
        build([str(tmp_path / "a.csv")], tmp_path / "set", BuildOptions(**fields))
    assert sorted(tmp_path.iterdir()) == before
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(str(tmp_path) + "/", "")


def test_a_column_that_names_no_splits_is_one_line_that_says_what_to_do(tmp_path):
    where = "a.csv, column fold: "
    rename = "rename it with --rename-split"
    assert refusal(tmp_path, ["tr", "val"], SchemaError) == (f"{where}no split is called train; found tr, val; {rename} tr=train")
    assert refusal(tmp_path, ["train", "hold out"], SchemaError) == (
        f"{where}got 'hold out' for the name of a split, expected a letter or digit, then up to 31 letters, digits, dots, _ or "
        f"-; {rename} 'hold out=NEW'"
    )
    assert refusal(tmp_path, ["train", "valid", "val"], SchemaError).startswith(f"{where}two names for split val, such as valid")
    assert refusal(tmp_path, ["", ""], SchemaError) == f"{where}no split is called train; found none"
    assert refusal(tmp_path, ["train"], InputError, tables=(spec_of("", split_column="s"),)) == (
        "a.csv: no column s for --split-column, found 3: smiles, y, fold"
    )
    assert refusal(tmp_path, ["train"], InputError, tables=(spec_of("", split_column="y"),)) == (
        "a.csv: column y is asked for as labels too; expected one use per column"
    )
    assert refusal(tmp_path, ["train", "val"], InputError, split_names=(("tset", "test"),)) == (
        "--rename-split tset=test: no split is called tset; found train, val"
    )


def test_a_column_of_splits_holds_text_or_whole_numbers(tmp_path):
    smiles = SMILES[:3]
    options = BuildOptions(
        tables=(spec_of("", split_column="fold"),), splits="tables", split_names=(("0", "train"), ("1", "train"), ("2", "test"))
    )
    pq.write_table(pa.table({"smiles": smiles, "y": [1, 2, 3], "fold": [0, 1, 2]}), tmp_path / "a.parquet")
    build([str(tmp_path / "a.parquet")], tmp_path / "set", options)
    assert splits_of(ShardSet(tmp_path / "set")) == dict(zip(smiles, ["train", "train", "test"], strict=True))
    pq.write_table(pa.table({"smiles": smiles, "y": [1, 2, 3], "fold": [0.0, 1.0, 2.0]}), tmp_path / "a.parquet")
    with pytest.raises(SchemaError, match=r"a\.parquet: column fold is of type double, expected text or whole numbers"):
        build([str(tmp_path / "a.parquet")], tmp_path / "other", options)


def test_options_that_contradict_each_other_are_refused():
    with pytest.raises(InputError, match="table b has no splits of its own, as others have; give each table --splits NAME=FILE"):
        BuildOptions(tables=(spec_of("a", split_column="s"), spec_of("b")), join="smiles", splits="tables")
    with pytest.raises(InputError, match="splits 'skeleton', and a table with splits of its own: expected 'tables' or none"):
        BuildOptions(tables=(spec_of("a", split_column="s"),))
    with pytest.raises(InputError, match="splits position and a column of splits, s: expected one of them"):
        spec_of("a", split_column="s", splits="position")
    with pytest.raises(InputError, match="--rename-split: the rule skeleton has no names to change"):
        BuildOptions(split_names=(("a", "b"),))


@pytest.mark.slow
def test_a_join_with_splits_of_its_tables_has_the_same_bytes_with_two_workers(tmp_path, folder_bytes):
    draw = random.Random(11)
    inputs = []
    for k in range(2):
        smiles = draw.choices(SMILES, k=200)
        inputs.append([write_table(tmp_path / f"{k}.csv", smiles, ["train", *draw.choices(NAMES, k=199)], k)])
    specs = tuple(spec_of(name, split_column="fold") for name in "ab")
    options = BuildOptions(tables=specs, join="smiles", splits="tables")
    for workers in (1, 2):
        build(inputs, tmp_path / f"set_{workers}", options, work=WorkOptions(workers=workers))
    assert folder_bytes(tmp_path / "set_1") == folder_bytes(tmp_path / "set_2")
