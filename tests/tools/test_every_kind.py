"""A shard set with labels of every kind and level goes through the whole command line, with every kind of layer."""

import json
import math

import numpy as np
import pyarrow.parquet as pq
import pytest

from molstream.shards.format.reader import ShardSet
from molstream.trainers.layer_table import LAYERS


def check_counts(results: dict, shard_set: ShardSet, split: str) -> None:
    """Every label of the split, once."""
    manifest = shard_set.manifest
    assert results["molecules"] == manifest.splits[split]["molecules"]
    assert set(results["tasks"]) == {task_set.name for task_set in manifest.task_sets}
    for task_set in manifest.task_sets:
        for task in results["tasks"][task_set.name]:
            assert (task["count"], task["nonfinite"]) == (manifest.labels[task["task"]][split], 0)
            assert task["count"] > 0
    assert all(math.isfinite(values["loss"]) for values in results["task_sets"].values())


def test_the_set_has_every_kind_and_every_level(kinds_set):
    sets = ShardSet(kinds_set).manifest.task_sets
    assert {(s.level, s.kind, s.num_classes) for s in sets} == {
        ("graph", "regression", 0),
        ("graph", "binary", 2),
        ("graph", "ordinal", 3),
        ("graph", "multiclass", 4),
        *((level, "regression", 0) for level in ("atom", "bond", "pair")),
    }


@pytest.mark.parametrize("layer", [pytest.param(name, marks=[pytest.mark.slow] * (name != "mpnn")) for name in LAYERS])
@pytest.mark.parametrize("encodings", [pytest.param("", marks=pytest.mark.slow), "rw16,lap8"])
def test_a_set_of_every_kind_and_level_trains_evaluates_and_embeds(succeed, kinds_set, tmp_path, layer, encodings):
    run, opened = tmp_path / "run", ShardSet(kinds_set)
    fields = ("--set", f"layer={layer}", "--set", f"encodings={encodings}", "--set", "log_steps=1")
    done = succeed("pretrain", kinds_set, "--out", run, "--recipe", "smoke", "--steps", 3, *fields)
    assert f"{layer} 32 x 2" in done.err
    check_counts(json.loads((run / "results.json").read_text()), opened, "val")
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    train = [line for line in log if line["kind"] == "train"]
    assert [line["step"] for line in train] == [1, 2, 3]
    for task_set in opened.manifest.task_sets:
        losses = [line[f"loss_{task_set.name}"] for line in train]
        assert all(loss > 0 for loss in losses)
        assert len(set(losses)) == 3, "it does not change"
    succeed("eval", kinds_set, "--checkpoint", run, "--out", tmp_path / "all.json")
    check_counts(json.loads((tmp_path / "all.json").read_text()), opened, "test")
    succeed("embed", kinds_set, "--checkpoint", run, "--split", "val", "--out", tmp_path / "embeddings")
    vectors = np.stack(pq.read_table(tmp_path / "embeddings")["embedding"].to_numpy(zero_copy_only=False))
    assert vectors.shape == (opened.manifest.splits["val"]["molecules"], 32)
    assert np.isfinite(vectors).all()
    assert len(np.unique(vectors, axis=0)) > len(vectors) // 2


def test_a_run_on_every_kind_and_level_goes_on_where_it_was(succeed, kinds_set, kinds_run, tmp_path, monkeypatch):
    run, stops = tmp_path / "run", iter([False, True, True])
    call = ("pretrain", kinds_set, "--out", run, "--recipe", "smoke", "--steps", 3, "--set", "atoms_a_pack=128")
    with monkeypatch.context() as patch:
        patch.setattr("molstream.tools.stop.StopFlag.is_set", lambda self: next(stops))
        from molstream.tools.main import main

        with pytest.raises(SystemExit, match="130"):
            main([str(word) for word in call])
    done = succeed(*call, "--resume")
    assert "resumed at step 1" in done.err
    assert json.loads((run / "results.json").read_text()) == json.loads((kinds_run / "results.json").read_text())
