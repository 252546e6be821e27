"""molstream build: what it prints, refuses and leaves behind. What is in a shard set is tested in tests/shards."""

import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from molstream.shards.format.reader import ShardSet


def test_a_table_becomes_a_shard_set_and_the_counts_are_printed(succeed, table, tmp_path):
    done = succeed("build", table, "--out", tmp_path / "set", "--split-fractions", "70,15,15", "--seed", 3)
    splits = ShardSet(tmp_path / "set").manifest.splits
    *lines, tasks, memory = done.lines
    assert tasks == "  tasks: g62: 62 graph-level, regression; n7: 7 atom-level, regression"
    assert lines == [f"{tmp_path / 'set'}: 250 of 250 rows; " + ", ".join(f"{s} {t['molecules']}" for s, t in splits.items())]
    assert re.fullmatch(r"  peak memory [\d,]+ MiB over \d+ processes \(PSS\)", memory)
    assert done.err == f"reading 1 file, in this order: {table}\n"


def test_the_same_call_gives_the_same_bytes_and_another_seed_gives_others(succeed, table, shard_set, tmp_path, folder_bytes):
    for name, seed in (("same", 0), ("other", 1)):
        succeed("build", table, "--out", tmp_path / name, "--split-fractions", "70,15,15", "--seed", seed)
    assert folder_bytes(tmp_path / "same") == folder_bytes(shard_set)
    assert folder_bytes(tmp_path / "other")["train-00000.tar"] != folder_bytes(shard_set)["train-00000.tar"]


def test_several_files_are_read_in_natural_order_which_is_printed(succeed, table, tmp_path):
    rows = pq.read_table(table).slice(0, 30)
    for number in (10, 9, 1):
        pq.write_table(rows.slice(number, 5), tmp_path / f"part-{number}.parquet")
    done = succeed("build", tmp_path / "part-*.parquet", "--out", tmp_path / "set")
    files = [str(tmp_path / f"part-{number}.parquet") for number in (1, 9, 10)]
    assert done.err == f"reading 3 files, in this order: {', '.join(files)}\n"
    assert [i["name"] for i in ShardSet(tmp_path / "set").manifest.provenance["inputs"]] == [
        f[-len(f.split("/")[-1]) :] for f in files
    ]


def test_rows_that_cannot_become_molecules_are_counted_and_listed(succeed, table, tmp_path):
    rows = pq.read_table(table).slice(0, 20).to_pylist()
    rows[3]["ordered_smiles"] = "not a molecule"
    rows[7]["ordered_smiles"] = None
    rows[9]["graph_mw"] = float("inf")
    path = tmp_path / "hostile.parquet"
    pq.write_table(pa.Table.from_pylist(rows, pq.read_schema(table)), path)
    done = succeed("build", path, "--out", tmp_path / "set")
    assert done.lines[0].startswith(f"{tmp_path / 'set'}: 18 of 20 rows; ")
    assert done.lines[2:-1] == [
        "  rejected 1: empty SMILES",
        "  rejected 1: not a SMILES that RDKit can parse",
        "  dropped 1 infinite labels of graph_mw",
        f"  rejected rows are listed in {tmp_path / 'set' / 'rejects.parquet'}",
    ]
    assert pq.read_table(tmp_path / "set" / "rejects.parquet")["row"].to_pylist() == [3, 7]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("nope.parquet --out x", "nope.parquet: no such file"),
        ("nope*.parquet --out x", "nope*.parquet: no file matches"),
        ("TABLE TABLE --out x", "named twice among the inputs"),
        ("TABLE --out x --dataset qm10", "dataset 'qm10': expected one of pm6, pcqm4m, pcba, l1000, l1000_3, l1000_5to3, qm9, "),
        ("TABLE --out x --split-fractions 98,2", "split fractions: got '98,2', expected three numbers train,val,test"),
        ("TABLE --out x --split-fractions 0,1,1", "train above 0"),
        ("TABLE --out x --split-fractions a,b,c", "split fractions: got 'a,b,c'"),
        ("TABLE --out SET", "already holds a shard set, built with split_fractions"),
        ("TABLE --out OTHER", "not empty and not a shard set; choose another folder"),
        ("TABLE --out TABLE", "a file, expected a folder to write to"),
    ],
)
def test_a_call_that_cannot_be_is_refused_and_nothing_is_touched(
    molstream, table, copy_set, tmp_path, monkeypatch, folder_bytes, arguments, expected
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").write_text("dear")
    before = folder_bytes(tmp_path)
    places = {"TABLE": table, "SET": copy_set, "OTHER": tmp_path / "other"}
    done = molstream("build", *(places.get(word, word) for word in arguments.split()))
    assert (done.code, done.out) == (2, "")
    assert expected in done.error
    assert folder_bytes(tmp_path) == before
    assert not (tmp_path / "x").exists()
