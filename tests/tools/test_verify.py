"""molstream verify: a sound set is sound, and one flipped bit anywhere is found and named."""

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from molstream.shards.format.archive import TAR_BLOCK
from molstream.shards.format.index import encode_table
from molstream.shards.format.manifest import Manifest, Statistics
from molstream.shards.format.reader import ShardSet

GROUPS = ("sizes", "structure", "graph_labels", "atom_labels", "ids", "smiles")


def test_a_sound_set_is_said_to_be_sound(succeed, shard_set):
    done = succeed("verify", shard_set, "--json")
    manifest = ShardSet(shard_set).manifest
    assert done.lines[0].startswith(f"{shard_set}: sound; 250 molecules in ")
    assert done.err == ""
    assert done.json == {
        "sound": True,
        "kind": "shard set",
        "shards": sum(t["shards"] for t in manifest.splits.values()),
        "blocks": sum(t["blocks"] for t in manifest.splits.values()),
        "molecules": 250,
        "bytes": sum(p.stat().st_size for p in shard_set.glob("*.tar")),
        "problems": [],
    }


def place(shard_set: ShardSet, where: str) -> tuple[str, int]:
    """A shard's name and a byte in it: inside a tar header, a member, the padding behind it, or the end of the archive."""
    index, path = shard_set.index, shard_set.shard_path(int(shard_set.blocks("train")[0]))
    if where == "end":
        return path.name, path.stat().st_size - 3
    kind, block, group = where.split()
    number = int(shard_set.blocks("train")[int(block)])
    offset, size = (int(index.members[f"{group}_{f}"][number]) for f in ("offset", "bytes"))
    assert kind != "padding" or size % TAR_BLOCK
    return path.name, {"header": offset - 400, "member": offset + size // 2, "padding": offset + size + (-size % TAR_BLOCK) - 1}[
        kind
    ]


@pytest.mark.parametrize(
    "where",
    [
        *("header 0 sizes", "header 1 smiles", "end", "padding 0 structure", "padding 1 ids"),
        *(f"member {k % 2} {group}" for k, group in enumerate(GROUPS)),
    ],
)
def test_a_flipped_bit_in_a_shard_is_found_and_named(molstream, copy_set, flip, where):
    assert ShardSet(copy_set).groups == GROUPS
    name, at = place(ShardSet(copy_set), where)
    flip(copy_set / name, at)
    done = molstream("verify", copy_set, "--json")
    assert done.code == 1
    assert not done.json["sound"]
    assert f"{copy_set}: {len(done.json['problems'])} problems; " in done.out
    assert done.err.splitlines() == done.json["problems"]
    assert all(name in problem for problem in done.json["problems"])
    if where != "end":
        _, block, group = where.split()
        assert any(f"block {block}, member {group}" in problem for problem in done.json["problems"])


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_flipped_bit_in_the_index_is_found_and_named(molstream, copy_set, flip, share):
    path = copy_set / "index.parquet"
    flip(path, int(share * path.stat().st_size))
    done = molstream("verify", copy_set)
    assert done.code == 1
    assert "index.parquet" in done.err


def test_a_flipped_bit_in_the_manifest_is_found_and_named(molstream, shard_set, copy_set, flip):
    path, size = copy_set / "manifest.json", (shard_set / "manifest.json").stat().st_size
    missed = []
    for at in range(7, size, size // 40):
        shutil.copy(shard_set / "manifest.json", path)
        around = path.read_bytes()[max(0, at - 30) : at + 10]
        flip(path, at)
        try:
            done = molstream("verify", copy_set)
        except Exception as error:
            missed.append((at, around, f"a traceback: {error!r}"))
            continue
        if done.code != 1 or "manifest" not in done.err or "Traceback" in done.err:
            missed.append((at, around, done.err))
    assert not missed


def rewrite(folder: Path, change: Callable[[Manifest], dict]) -> None:
    """Change fields of a manifest and seal it again, so that nothing but its content is wrong."""
    path = folder / "manifest.json"
    manifest = Manifest.read(path)
    path.write_bytes(replace(manifest, **change(manifest)).encode())


HISTOGRAMS = ("atoms", "bonds", "elements", "bond_types")


@pytest.mark.parametrize(("name", "how"), [*zip(HISTOGRAMS, ["one more", "moved", "missing", "a key more"], strict=True)])
def test_a_histogram_of_other_molecules_is_found_and_named(molstream, copy_set, name, how):
    def change(manifest: Manifest) -> dict:
        assert tuple(manifest.histograms) == HISTOGRAMS
        counts = dict(manifest.histograms[name])
        first, *_, last = counts
        if how == "missing":
            del counts[first]
        elif how == "a key more":
            counts["other"] = 0
        else:
            counts[first] += 1
            counts[last] -= how == "moved"
        return {"histograms": manifest.histograms | {name: counts}}

    rewrite(copy_set, change)
    done = molstream("verify", copy_set, "--json")
    assert done.code == 1
    assert done.json["problems"] == [
        "manifest.json: histograms of atoms, bonds, elements or bond types are not those of the shards"
    ]


@pytest.mark.parametrize("task", ["graph_mw", "node_T0_spin"])
@pytest.mark.parametrize(("field", "by"), [("mean", 1e-13), ("std", 1.0), ("min", None), ("max", 1e-13)])
def test_statistics_of_other_labels_are_found_and_named(molstream, copy_set, task, field, by):
    def change(manifest: Manifest) -> dict:
        said = manifest.statistics[task]
        value = getattr(said, field)
        other = None if by is None else value + by * max(1.0, abs(value))
        assert other != value
        return {"statistics": manifest.statistics | {task: replace(said, **{field: other})}}

    rewrite(copy_set, change)
    done = molstream("verify", copy_set, "--json")
    assert done.code == 1
    if by is None and field in ("mean", "std"):
        # which every reader refuses
        assert f"manifest.json: field statistics.{task}.{field} is None, expected a finite number" in done.error
        return
    differs = f"mean, std, range and quantiles of {task} are not those of the training split"
    assert done.json["problems"] == [f"manifest.json: {differs}"]


def test_a_range_of_no_labels_at_all_is_found(molstream, succeed, pm6_table, tmp_path):
    succeed("build", pm6_table([{"ordered_smiles": "CO", "graph_mw": 32.0}]), "--out", tmp_path / "set")
    assert ShardSet(tmp_path / "set").manifest.statistics["graph_qed"] == Statistics(
        count=0, mean=0, std=1, min=None, max=None, quantiles={}
    )
    for end in ("min", "max"):
        shutil.copytree(tmp_path / "set", tmp_path / end)
        rewrite(
            tmp_path / end,
            lambda m, end=end: {"statistics": m.statistics | {"graph_qed": replace(m.statistics["graph_qed"], **{end: 0.0})}},
        )
        assert "range and quantiles of graph_qed" in molstream("verify", tmp_path / end).err


@pytest.mark.parametrize("count", ["blocks", "molecules", "atoms", "bonds"])
def test_totals_of_other_shards_are_found_and_named(molstream, copy_set, count):
    def change(manifest: Manifest) -> dict:
        val = manifest.splits["val"] | {count: manifest.splits["val"][count] + 1}
        return {"splits": manifest.splits | {"val": val}}

    number = ShardSet(copy_set).manifest.splits["val"][count]
    rewrite(copy_set, change)
    done = molstream("verify", copy_set)
    assert done.code == 1
    assert f"the index has {number} {count} in split val, the manifest {number + 1}; restore both" in done.err


def test_label_counts_of_other_shards_are_found_and_named(molstream, copy_set):
    def change(manifest: Manifest) -> dict:
        labels = manifest.labels["graph_qed"] | {"test": manifest.labels["graph_qed"]["test"] - 1}
        return {"labels": manifest.labels | {"graph_qed": labels}}

    labels = ShardSet(copy_set).manifest.labels["graph_qed"]
    rewrite(copy_set, change)
    done = molstream("verify", copy_set, "--json")
    assert done.code == 1
    assert done.json["problems"] == [
        f"manifest.json: {labels['test'] - 1} labels of graph_qed in split test, the shards hold {labels['test']}"
    ]


@pytest.mark.parametrize("what", ["cut short", "longer", "missing", "empty"])
def test_a_shard_of_another_length_is_found_and_named(molstream, copy_set, what):
    path = copy_set / "val-00000.tar"
    data = path.read_bytes()
    if what == "missing":
        path.unlink()
    else:
        path.write_bytes({"cut short": data[:-2000], "longer": data + bytes(512), "empty": b""}[what])
    done = molstream("verify", copy_set, "--json")
    assert done.code == 1
    assert any("val-00000.tar" in problem for problem in done.json["problems"])
    assert not any("train-00000.tar" in problem for problem in done.json["problems"])


def test_all_damage_is_named_not_only_the_first(molstream, copy_set, flip):
    flip(copy_set / "train-00000.tar", 1000)
    flip(copy_set / "test-00000.tar", -1)
    done = molstream("verify", copy_set)
    assert done.code == 1
    for name in ("train-00000.tar", "test-00000.tar"):
        assert name in done.err


def test_shards_of_another_build_are_not_sound(molstream, succeed, table, copy_set, tmp_path):
    succeed("build", table, "--out", tmp_path / "other", "--split-fractions", "70,15,15", "--seed", 9)
    shutil.copy(tmp_path / "other" / "train-00000.tar", copy_set / "train-00000.tar")
    done = molstream("verify", copy_set)
    assert done.code == 1
    assert "train-00000.tar" in done.err


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("max_atoms", 1), ("max_bonds_id", 2**63), ("max_graph_labels", 5), ("max_graph_labels_id", 2**63)),
        *(("histogram_size", [1]), ("histogram_count", [0])),
    ],
)
def test_an_index_row_of_another_block_is_found_and_named(molstream, copy_set, name, value):
    path = copy_set / "index.parquet"
    table = pq.ParquetFile(path).read(use_threads=False)
    rows = table.to_pylist()
    rows[0] |= (
        {n: value if n == name else [1] for n in ("histogram_size", "histogram_count")} if "hist" in name else {name: value}
    )
    path.write_bytes(encode_table(pa.Table.from_pylist(rows, table.schema)))
    rewrite(copy_set, lambda manifest: {"index_sha256": hashlib.sha256(path.read_bytes()).hexdigest()})
    done = molstream("verify", copy_set, "--json")
    assert done.code == 1
    assert any(f"block 0: {name} is " in problem for problem in done.json["problems"])
    assert all("train-00000.tar, block 0: " in problem for problem in done.json["problems"])


def test_a_damaged_column_of_the_index_is_one_message(molstream, copy_set):
    path = copy_set / "index.parquet"
    data, row_group = bytearray(path.read_bytes()), pq.ParquetFile(path).metadata.row_group(0)
    # of the last column, the hashes
    data[row_group.column(row_group.num_columns - 1).data_page_offset + 60] ^= 1
    path.write_bytes(data)
    rewrite(copy_set, lambda manifest: {"index_sha256": hashlib.sha256(path.read_bytes()).hexdigest()})
    done = molstream("verify", copy_set)
    assert done.code == 1
    assert "index.parquet: not readable as Parquet" in done.error


PARTS_OF = {
    "run": ("run", ("config.json", "results.json", "checkpoints/best.json", "model/model.json", "model/model.safetensors")),
    "model": ("run/model", ("model.json", "model.safetensors")),
    "export": ("export", ("_embeddings.json", "_job.json", "_parts.jsonl", "part-00000.parquet")),
    "checkpoint": ("run/checkpoints/step-00000012", ("state.json", "hashes.json", "validation.json", "optimizer.safetensors")),
}


@pytest.fixture(scope="module")
def written(succeed, shard_set, run, tmp_path_factory) -> Path:
    """A run and an export. Shared."""
    folder = tmp_path_factory.mktemp("written")
    shutil.copytree(run, folder / "run")
    succeed("embed", shard_set, "--checkpoint", run, "--split", "val", "--out", folder / "export")
    return folder


@pytest.mark.parametrize("kind", PARTS_OF)
def test_what_a_folder_is_follows_from_its_files_and_damage_to_any_is_named(molstream, written, tmp_path, flip, kind):
    folder, names = PARTS_OF[kind]
    done = molstream("verify", written / folder, "--json")
    assert (done.code, done.err) == (0, "")
    assert done.lines[0].startswith(f"{written / folder}: sound; {kind}, ")
    assert (done.json["kind"], done.json["problems"]) == (kind, [])
    for name in names:
        copy = Path(shutil.copytree(written / folder, tmp_path / name.replace("/", "-")))
        flip(copy / name, (copy / name).stat().st_size // 2)
        done = molstream("verify", copy)
        assert done.code == 1, name
        assert any(name.rpartition("/")[2] in line for line in done.err.splitlines()), (name, done.err)


def test_an_export_that_is_not_finished_or_has_a_part_of_another_is_named(molstream, written, tmp_path):
    copy = Path(shutil.copytree(written / "export", tmp_path / "export"))
    shutil.copy(copy / "part-00000.parquet", copy / "part-00099.parquet")
    done = molstream("verify", copy)
    assert (done.code, "part-00099.parquet: is no part of this export" in done.err) == (1, True)
    (copy / "_embeddings.json").unlink()
    done = molstream("verify", copy)
    assert (done.code, "not finished (_embeddings.json is missing)" in done.err) == (1, True)
