"""molstream eval: every task of a split, from a run or from one checkpoint."""

import json

import pytest

from shards import ShardSet
from trainers.checkpoint import list_checkpoints


def test_all_tasks_are_written_with_out(succeed, shard_set, run, tmp_path):
    done = succeed("eval", shard_set, "--checkpoint", run, "--out", tmp_path / "all.json")
    results, manifest = json.loads((tmp_path / "all.json").read_text()), ShardSet(shard_set).manifest
    assert (results["split"], results["step"], results["complete"]) == ("test", 12, True)
    assert results["molecules"] == manifest.splits["test"]["molecules"]
    for task_set in manifest.task_sets:
        found = results["tasks"][task_set.name]
        assert [task["task"] for task in found] == list(task_set.tasks)
        assert {task["task"]: task["count"] for task in found} == {name: manifest.labels[name]["test"] for name in task_set.tasks}
    assert done.lines[-1] == f"all tasks: {tmp_path / 'all.json'}"


def test_the_validation_split_gives_what_the_run_ended_with(succeed, shard_set, run, tmp_path):
    succeed("eval", shard_set, "--checkpoint", run, "--split", "val", "--out", tmp_path / "val.json")
    assert json.loads((tmp_path / "val.json").read_text()) == json.loads((run / "results.json").read_text())


def test_a_checkpoint_can_be_named_instead_of_its_run(succeed, shard_set, run):
    newest, before = list_checkpoints(run)
    assert succeed("eval", shard_set, "--checkpoint", newest).out == succeed("eval", shard_set, "--checkpoint", run).out
    assert ", step 10; " in succeed("eval", shard_set, "--checkpoint", before).lines[0]


def test_threads_change_nothing(succeed, shard_set, run):
    assert len({succeed("eval", shard_set, "--checkpoint", run, "--threads", n).out for n in (1, 3)}) == 1


def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(succeed, shard_set, copy_run, flip):
    flip(list_checkpoints(copy_run)[0] / "model.safetensors", -5)
    assert ", step 10; " in succeed("eval", shard_set, "--checkpoint", copy_run).lines[0]


def test_the_checkpoint_that_was_skipped_is_named(succeed, shard_set, copy_run, flip):
    newest = list_checkpoints(copy_run)[0]
    flip(newest / "model.safetensors", -5)
    assert str(newest) in succeed("eval", shard_set, "--checkpoint", copy_run).err


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json", "hashes.json"])
def test_a_damaged_checkpoint_that_was_named_is_an_error(molstream, shard_set, copy_run, flip, name):
    checkpoint = list_checkpoints(copy_run)[0]
    flip(checkpoint / name, 9)
    done = molstream("eval", shard_set, "--checkpoint", checkpoint)
    assert done.code == 1
    assert str(checkpoint) in done.error


def test_a_run_without_a_complete_checkpoint_says_what_is_wrong_with_each(molstream, shard_set, copy_run, flip):
    for checkpoint in list_checkpoints(copy_run):
        flip(checkpoint / "model.safetensors", -5)
    done = molstream("eval", shard_set, "--checkpoint", copy_run)
    assert done.code == 1
    assert "no complete checkpoint here" in done.error
    for checkpoint in list_checkpoints(copy_run):
        assert f"{checkpoint / 'model.safetensors'}: damaged" in done.error


def test_a_shard_set_given_as_a_checkpoint_is_told_what_was_expected(molstream, shard_set):
    done = molstream("eval", shard_set, "--checkpoint", shard_set)
    assert done.code == 1
    assert "expected a run of `molstream pretrain` or one of its checkpoints" in done.error


def test_an_out_that_cannot_be_written_is_refused_before_the_work(molstream, shard_set, run, tmp_path):
    done = molstream("eval", shard_set, "--checkpoint", run, "--out", tmp_path / "no" / "all.json")
    assert (done.code, done.out) == (2, "")
    assert f"no folder {tmp_path / 'no'}" in done.error
