"""molstream embed: a shard set in shard order, a table row by row; restartable, and the same numbers either way."""

import gzip
import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from molstream.shards.format.manifest import Manifest
from molstream.shards.format.reader import ShardSet


@pytest.fixture(scope="session")
def exported(succeed, shard_set, run):
    """All of `shard_set`, in f32. Shared: not to be touched."""
    out = shard_set.parent / "embeddings"
    succeed("embed", shard_set, "--checkpoint", run, "--out", out)
    return out


def vectors(table: pa.Table) -> np.ndarray:
    return np.stack([np.asarray(v) for v in table["embedding"].to_pylist()])


def parts(folder) -> dict[str, int]:
    return {p.name: p.stat().st_mtime_ns for p in sorted(folder.glob("part-*.parquet"))}


def test_a_shard_set_is_exported_in_its_order_as_one_table(exported, shard_set):
    table, opened = pq.read_table(exported), ShardSet(shard_set)
    blocks = [(split, i) for split in opened.splits for b in opened.iter_blocks(split, ("ids",)) for i in b.ids.tolist()]
    assert list(zip(table["split"].to_pylist(), table["id"].to_pylist(), strict=True)) == blocks
    assert sorted(table["id"].to_pylist()) == list(range(250))
    assert table.schema.field("id").type == pa.uint64()
    assert table.schema.field("embedding").type.value_type == pa.float32()
    assert np.isfinite(vectors(table)).all()
    assert len(np.unique(vectors(table), axis=0)) > 240, "molecules differ"
    manifest = json.loads((exported / "_embeddings.json").read_text())
    assert (manifest["rows"], manifest["dim"], sorted(manifest["parts"])) == (250, 32, sorted(parts(exported)))


def test_the_printed_line_says_how_to_read_them(succeed, shard_set, run, tmp_path):
    done = succeed("embed", shard_set, "--checkpoint", run, "--out", tmp_path / "e", "--split", "test")
    expression = done.out.split("read them with ")[1].strip()
    assert expression == f"pyarrow.parquet.read_table('{tmp_path / 'e'}')"
    assert done.out.startswith(f"{tmp_path / 'e'}: {pq.read_table(tmp_path / 'e').num_rows} embeddings; ")


def test_a_second_call_writes_no_part_again(succeed, shard_set, run, tmp_path):
    for source in (shard_set, smiles_file(tmp_path, ["CCO", "c1ccccc1"])):
        out = tmp_path / f"from-{source.name}"
        first = succeed("embed", source, "--checkpoint", run, "--out", out)
        before = parts(out)
        assert succeed("embed", source, "--checkpoint", run, "--out", out).out == first.out
        assert parts(out) == before


@pytest.mark.parametrize("number", [0, 1, 2])
def test_only_a_part_that_is_missing_is_written_again(succeed, shard_set, run, exported, tmp_path, number):
    out = tmp_path / "e"
    succeed("embed", shard_set, "--checkpoint", run, "--out", out)
    before = parts(out)
    assert len(before) == 3
    name = f"part-{number:05d}.parquet"
    (out / name).unlink()
    (out / "_embeddings.json").unlink()
    done = succeed("embed", shard_set, "--checkpoint", run, "--out", out)
    after = parts(out)
    assert {n for n in before if after[n] != before[n]} == {name}
    assert ": 250 embeddings; " in done.out
    assert pq.read_table(out).equals(pq.read_table(exported))
    assert (out / "_embeddings.json").read_bytes() == (exported / "_embeddings.json").read_bytes()


def smiles_file(tmp_path, lines: list[str], name: str = "table.smi"):
    path = tmp_path / name
    text = "".join(line + "\n" for line in lines)
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


LINES = ["CCO ethanol", "", "xyz", "c1ccccc1", "  ", "C1CC", "[Na+].[Cl-]"]
GOOD = [True, False, False, True, False, False, True]


def write_lines(tmp_path, kind: str):
    """The same rows in every kind of table."""
    if kind.startswith("parquet"):
        path = tmp_path / "table.parquet"
        pq.write_table(pa.table({"name": list("abcdefg"), "smiles": [line or None for line in LINES]}), path)
        return path
    if kind.startswith(("csv", "tsv")):
        comma = "," if kind.startswith("csv") else "\t"
        rows = [f'{k}{comma}"{line}"' if line else "" for k, line in enumerate(LINES)]
        return smiles_file(tmp_path, [f"name{comma}smiles", *rows], f"table.{kind}")
    return smiles_file(tmp_path, LINES, f"table.{kind}")


@pytest.mark.parametrize("kind", ["smi", "smi.gz", "txt", "csv", "csv.gz", "tsv", "parquet"])
def test_a_table_is_exported_row_by_row_and_failures_are_null_with_a_reason(succeed, run, tmp_path, kind):
    quoting = ("--quoting", "csv") if kind == "tsv" else ()
    done = succeed("embed", write_lines(tmp_path, kind), "--checkpoint", run, "--out", tmp_path / "e", *quoting)
    table = pq.read_table(tmp_path / "e")
    assert table.schema.names == ["row", "smiles", "embedding", "reason"]
    assert table["row"].to_pylist() == list(range(len(LINES)))
    assert [s or "" for s in table["smiles"].to_pylist()] == LINES
    assert [v is not None for v in table["embedding"].to_pylist()] == GOOD
    reasons = table["reason"].to_pylist()
    assert [r is None for r in reasons] == GOOD
    assert reasons[1] == reasons[4] == "empty SMILES"
    assert "parse" in reasons[2]
    assert done.lines == [
        f"{tmp_path / 'e'}: 3 embeddings; read them with pyarrow.parquet.read_table('{tmp_path / 'e'}')",
        "  4 of 7 rows have none: their embedding is null and `reason` says why",
    ]


@pytest.mark.parametrize("source", ["input", "stored"])
def test_a_molecule_has_the_same_embedding_in_a_set_and_in_a_table(succeed, run, table, molecules, exported, tmp_path, source):
    """`input`: the table the set was built of; `stored`: the SMILES that the set holds."""
    if source == "stored":
        table = smiles_file(tmp_path, [molecules[i]["smiles"] for i in range(250)])
    succeed("embed", table, "--checkpoint", run, "--out", tmp_path / "e")
    whole, rows = pq.read_table(exported), pq.read_table(tmp_path / "e")
    assert rows["reason"].null_count == rows.num_rows == 250
    np.testing.assert_allclose(vectors(rows)[whole["id"].to_numpy()], vectors(whole), rtol=1e-5, atol=1e-5)


def test_a_column_can_be_named(succeed, molstream, run, tmp_path):
    path = smiles_file(tmp_path, ["structure,x", "CCO,1", "CCN,2"], "table.csv")
    refused = molstream("embed", path, "--checkpoint", run, "--out", tmp_path / "e")
    assert refused.code == 2
    assert (
        "no column smiles or ordered_smiles or canonical_smiles or SMILES or Smiles, found structure, x; "
        "name it with --smiles-column" in refused.error
    )
    assert not (tmp_path / "e").exists()
    succeed("embed", path, "--checkpoint", run, "--out", tmp_path / "e", "--smiles-column", "structure")
    assert pq.read_table(tmp_path / "e")["smiles"].to_pylist() == ["CCO", "CCN"]


@pytest.mark.parametrize("name", ["empty.smi", "empty.csv"])
def test_a_table_without_rows_is_refused(molstream, run, tmp_path, name):
    path = smiles_file(tmp_path, ["smiles"] if name.endswith("csv") else [], name)
    done = molstream("embed", path, "--checkpoint", run, "--out", tmp_path / "e")
    assert done.code == 1
    assert "no rows" in done.error
    assert not (tmp_path / "e").exists()


def test_rows_that_all_fail_are_all_there(succeed, run, tmp_path):
    succeed("embed", smiles_file(tmp_path, ["", "xyz", ""]), "--checkpoint", run, "--out", tmp_path / "e")
    assert pq.read_table(tmp_path / "e")["embedding"].null_count == 3


def test_an_occupied_folder_is_refused_and_not_touched(molstream, succeed, shard_set, run, tmp_path, folder_bytes):
    other = tmp_path / "other"
    other.mkdir()
    (other / "letter.txt").write_text("dear")
    succeed("embed", smiles_file(tmp_path, ["CCO"]), "--checkpoint", run, "--out", tmp_path / "e")
    before = folder_bytes(tmp_path)
    older = sorted((run / "checkpoints").glob("step-*"))[0]
    for source, checkpoint, out, options, expected in (
        (shard_set, run, other, (), f"{other}: holds something else; choose another folder"),
        (shard_set, run, other / "letter.txt", (), "a file, expected a folder to write to"),
        (shard_set, run, tmp_path / "e", (), "holds embeddings of other molecules or weights; choose another folder"),
        (tmp_path / "table.smi", older, tmp_path / "e", (), "holds embeddings of other molecules or weights"),
        (tmp_path / "table.smi", run, tmp_path / "e", ("--dtype", "f16"), "holds embeddings of other molecules or weights"),
    ):
        done = molstream("embed", source, "--checkpoint", checkpoint, "--out", out, *options)
        assert (done.code, done.out) == (2, "")
        assert expected in done.error
    assert folder_bytes(tmp_path) == before


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("SET --smiles-column smiles", "--smiles-column belongs to tables, and INPUT is a folder"),
        ("table.smi --split val", "--split belongs to shard sets, and INPUT is a file"),
        ("table.xyz", "table.xyz: expected a shard set, or a table ending in .parquet, .csv, .tsv, .smi or .txt (also .gz)"),
        ("none.smi", "none.smi: no such file or folder"),
    ],
)
def test_a_call_that_cannot_be_is_refused(molstream, shard_set, run, tmp_path, monkeypatch, arguments, expected):
    monkeypatch.chdir(tmp_path)
    for name in ("table.smi", "table.xyz"):
        smiles_file(tmp_path, ["CCO"], name)
    done = molstream("embed", *(shard_set if w == "SET" else w for w in arguments.split()), "--checkpoint", run, "--out", "e")
    assert (done.code, done.out) == (2, "")
    assert expected in done.error
    assert not (tmp_path / "e").exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("table.parquet", b"not parquet"),
        ("table.smi", b"CCO\n\xff\xfe\n"),
        ("table.csv", b"smiles\n\xff\xfe\n"),
        ("table.smi.gz", b"not gzip"),
        ("table.csv.gz", gzip.compress(b"smiles\nCCO\nCCN\n" * 50, mtime=0)[:-12]),
    ],
)
def test_an_unreadable_table_is_the_datas_fault_and_nothing_is_written(molstream, run, tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    done = molstream("embed", path, "--checkpoint", run, "--out", tmp_path / "e")
    assert done.code == 1
    assert f"{path}: unreadable: " in done.error
    assert not (tmp_path / "e").exists()


def test_a_set_of_other_features_is_refused(molstream, run, copy_set, tmp_path):
    manifest = Manifest.read(copy_set / "manifest.json")
    first, *rest = manifest.atom_features
    other = replace(manifest, atom_features=(replace(first, num_codes=first.num_codes + 1), *rest))
    (copy_set / "manifest.json").write_bytes(other.encode())
    for command, options in (("embed", ("--out", tmp_path / "e")), ("eval", ())):
        done = molstream(command, copy_set, "--checkpoint", run, *options)
        assert done.code == 1
        assert "do not fit" in done.error
        assert "atom features" in done.error
