"""Embeddings: the right vector beside the right id, whole parts, restarts."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from molstream.shards.build.build import BuildOptions, build
from molstream.shards.build.map import featurize_smiles as featurize
from molstream.shards.format.reader import ShardSet
from molstream.shards.inputs.datasets import TableSpec
from molstream.shards.sample import sample_path
from molstream.shards.splits.rules import SplitFractions
from molstream.trainers.jobs import embed
from molstream.trainers.jobs.embed import embed_shard_set, embed_table


def vectors_of(folder) -> np.ndarray:
    return np.stack(pq.read_table(folder)["embedding"].to_numpy())


def batches_of(smiles: list[str | None], size: int) -> list[list[str | None]]:
    return [smiles[first : first + size] for first in range(0, len(smiles), size)]


def test_embeddings_of_a_shard_set_come_in_shard_order_with_their_ids(sample_set, trained, tmp_path):
    rows, _, _ = embed_shard_set(trained, sample_set, tmp_path / "out", splits=("val", "test"))
    table = pq.read_table(tmp_path / "out")
    stored = np.concatenate([b.ids for s in ("val", "test") for b in sample_set.iter_blocks(s, ("ids",))])
    assert rows == len(stored) == table.num_rows
    assert table["id"].to_numpy().tolist() == stored.tolist()
    manifest = json.loads((tmp_path / "out" / "_embeddings.json").read_text())
    assert (manifest["rows"], manifest["dim"], len(manifest["parts"])) == (rows, 32, 2)
    assert np.isfinite(vectors_of(tmp_path / "out")).all()


def test_an_embedding_depends_on_its_molecule_alone(sample_set, trained, tmp_path):
    """The same molecules, as a shard set and as a table in another order with gaps: the same vectors."""
    embed_shard_set(trained, sample_set, tmp_path / "set", splits=("val",))
    by_id = dict(zip(pq.read_table(tmp_path / "set")["id"].to_pylist(), vectors_of(tmp_path / "set"), strict=True))
    smiles, ids = [], []
    for block in sample_set.iter_blocks("val"):
        smiles += list(block.smiles)
        ids += block.ids.tolist()
    mixed: list[str | None] = []
    for text in reversed(smiles):
        mixed += [text, "nonsense", None, ""][: 1 + len(mixed) % 4]
    rows, failed, _ = embed_table(trained, batches_of(mixed, 100), tmp_path / "table", featurize=featurize, source={"name": "x"})
    table = pq.read_table(tmp_path / "table")
    assert (rows, failed) == (len(mixed), sum(not m or m == "nonsense" for m in mixed))
    assert table["smiles"].to_pylist() == mixed
    assert table["row"].to_pylist() == list(range(len(mixed)))
    where = {text: i for i, text in zip(ids, smiles, strict=True)}
    for text, vector, reason in zip(mixed, table["embedding"].to_pylist(), table["reason"].to_pylist(), strict=True):
        if text and text != "nonsense":
            assert reason is None
            assert np.allclose(vector, by_id[where[text]], atol=1e-4, rtol=1e-4)
        else:
            assert vector is None
            assert reason


def test_identifiers_stand_beside_the_ids_of_their_molecules(sample_set, trained, tmp_path):
    """A set with identifiers and without any task: the same vectors, which depend on structures alone."""
    rows = pq.read_table(sample_path(), columns=["ordered_smiles", "inchi"])
    names = [None if k % 7 == 3 else "" if k % 7 == 5 else f"n{k} \u00e9" for k in range(len(rows))]
    pq.write_table(rows.append_column("name", pa.array(names)), tmp_path / "named.parquet")
    spec = TableSpec(dataset="table", id_column="name")
    options = BuildOptions(tables=(spec,), split_fractions=SplitFractions.parse("80,10,10"), block_molecules=32)
    build([str(tmp_path / "named.parquet")], tmp_path / "named", options)
    for name, shard_set in (("with", ShardSet(tmp_path / "named")), ("without", sample_set)):
        embed_shard_set(trained, shard_set, tmp_path / name, splits=("val", "test"))
    table, plain = (pq.read_table(tmp_path / name) for name in ("with", "without"))
    assert table.column_names == ["split", "id", "identifier", "embedding"]
    assert plain.column_names == ["split", "id", "embedding"]
    assert table["identifier"].to_pylist() == [names[k] or None for k in table["id"].to_pylist()]
    assert None in table["identifier"].to_pylist()
    where = {k: i for i, k in enumerate(plain["id"].to_pylist())}
    assert sorted(where) == sorted(table["id"].to_pylist())
    order = [where[k] for k in table["id"].to_pylist()]
    assert np.allclose(vectors_of(tmp_path / "with"), vectors_of(tmp_path / "without")[order], atol=1e-4, rtol=1e-4)


def test_half_precision_is_stored_as_such(sample_set, trained, tmp_path):
    for dtype in ("f16", "f32"):
        embed_shard_set(trained, sample_set, tmp_path / dtype, splits=("val",), dtype=dtype)
    assert str(pq.read_table(tmp_path / "f16").schema.field("embedding").type) == "fixed_size_list<element: halffloat>[32]"
    assert np.allclose(vectors_of(tmp_path / "f16").astype(np.float32), vectors_of(tmp_path / "f32"), rtol=1e-3, atol=1e-3)


def test_numbers_too_large_for_half_precision_are_counted_and_said(sample_set, trained, tmp_path):
    weights = {k: v * 1e5 if k.startswith("layers.1.") else v for k, v in trained.weights.items()}
    large = replace(trained, model=weights, average=None)
    counts = {}
    for dtype in ("f32", "f16", "f16"):
        counts[dtype] = embed_shard_set(large, sample_set, tmp_path / dtype, splits=("val",), dtype=dtype)
        note = json.loads((tmp_path / dtype / "_embeddings.json").read_text())
        assert note["overflows"] == counts[dtype].overflows
    exact, stored = vectors_of(tmp_path / "f32"), vectors_of(tmp_path / "f16")
    assert np.isfinite(exact).all()
    infinite = np.isinf(stored).any(axis=1)
    assert infinite.sum() == counts["f16"].overflows > 0 == counts["f32"].overflows
    assert (infinite == (np.abs(exact) >= 65_520).any(axis=1)).all()


def test_a_stopped_export_goes_on_with_the_missing_parts_only(sample_set, trained, tmp_path, monkeypatch):
    def small(config):
        from dataclasses import replace

        return replace(config, shuffle=False, num_lanes=1, window_molecules=40)

    monkeypatch.setattr(embed, "sequential", small)
    embed_shard_set(trained, sample_set, tmp_path / "whole", splits=("val", "test"))
    parts = sorted(p.name for p in (tmp_path / "whole").glob("part-*"))
    assert len(parts) >= 4

    def stop(done, total):
        if done > 150:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embed_shard_set(trained, sample_set, tmp_path / "out", splits=("val", "test"), on_rows=stop)
    assert not (tmp_path / "out" / "_embeddings.json").exists()
    before = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out").glob("part-*")}
    assert 0 < len(before) < len(parts)
    embed_shard_set(trained, sample_set, tmp_path / "out", splits=("val", "test"))
    assert {n: (tmp_path / "out" / n).stat().st_mtime_ns for n in before} == before
    for name in [*parts, "_embeddings.json"]:
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_a_folder_of_another_job_is_refused(sample_set, trained, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds something else; choose another folder"):
        embed_shard_set(trained, sample_set, tmp_path / "out", splits=("val",))
    embed_shard_set(trained, sample_set, tmp_path / "good", splits=("val",))
    with pytest.raises(ValueError, match="embeddings of other molecules or weights"):
        embed_shard_set(trained, sample_set, tmp_path / "good", splits=("test",))
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="a file, expected a folder"):
        embed_shard_set(trained, sample_set, tmp_path / "file", splits=("val",))


def test_a_table_of_broken_molecules_only_still_has_all_its_rows(trained, tmp_path):
    rows, failed, _ = embed_table(
        trained, batches_of(["x", None], 8192), tmp_path / "out", featurize=featurize, source={"name": "x"}
    )
    assert (rows, failed) == (2, 2)
    assert pq.read_table(tmp_path / "out")["embedding"].to_pylist() == [None, None]


def test_a_stopped_table_goes_on_without_parsing_what_is_done(trained, tmp_path):
    batches = batches_of(["CCO", "x", "CCN", None, "C", "CC"], 2)
    parsed = []

    def stop_at_the_third(smiles, first_row):
        if first_row == 4 and len(parsed) == 2:
            raise KeyboardInterrupt
        parsed.append(first_row)
        return featurize(smiles, first_row)

    def call():
        return embed_table(trained, batches, tmp_path / "out", featurize=stop_at_the_third, source={"name": "x"})

    with pytest.raises(KeyboardInterrupt):
        call()
    parsed.append("again")
    assert call() == (6, 2, 0)
    assert parsed == [0, 2, "again", 4]
    assert call() == (6, 2, 0)
    assert pq.read_table(tmp_path / "out")["smiles"].to_pylist() == ["CCO", "x", "CCN", None, "C", "CC"]
