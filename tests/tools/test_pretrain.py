"""molstream pretrain: a run folder, what it refuses, stopping and going on."""

import json
import shlex
import shutil
import signal
import time
from pathlib import Path

import pytest

from molstream.shards.format.reader import ShardSet
from molstream.trainers.recipes import RECIPES
from molstream.trainers.runs.checkpoint import list_checkpoints, read_checkpoint


def test_a_run_leaves_checkpoints_a_log_and_results_and_says_what_is_next(succeed, molstream, shard_set, tmp_path):
    out = tmp_path / "a run"
    done = succeed("pretrain", shard_set, "--out", out, "--recipe", "smoke", "--steps", 3)
    assert [p.name for p in list_checkpoints(out)] == ["step-00000003"]
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [(line["kind"], line["step"]) for line in log] == [("train", 3), ("validation", 3)]
    assert json.loads((out / "results.json").read_text())["step"] == 3
    assert list((out / "tensorboard").iterdir())
    molecules = ShardSet(shard_set).manifest.splits["val"]["molecules"]
    assert done.lines[0].startswith(f"val: {molecules} molecules, step 3")
    # what it names is there, and what it proposes can be typed in
    assert all(str(out / name) in done.out for name in ("checkpoints", "log.jsonl", "results.json"))
    proposed = [shlex.split(line.removeprefix("next")) for line in done.lines[-2:]]
    assert [words[:2] for words in proposed] == [["molstream", "eval"], ["molstream", "embed"]]
    for words in proposed:
        assert molstream(*words[1:]).code == 0


def test_task_names_are_printed_whole(succeed, shard_set, run):
    lines = succeed("eval", shard_set, "--checkpoint", run).lines
    shown = [line.split()[1] for line in lines if line.strip().startswith(("best:", "worst:"))]
    assert len(shown) == 8
    assert set(shown) <= {t.name for t in ShardSet(shard_set).manifest.tasks}


def test_without_a_folder_the_embedded_sample_is_packed_and_trained_on(succeed, molstream, tmp_path):
    out = tmp_path / "run"
    done = succeed("pretrain", "--out", out, "--recipe", "smoke", "--steps", 6)
    assert f"packing the embedded PM6 sample into {out / 'shards'}" in done.err
    manifest = ShardSet(out / "shards").manifest
    assert sum(t["molecules"] for t in manifest.splits.values()) == 2000
    assert json.loads((out / "results.json").read_text())["molecules"] == manifest.splits["val"]["molecules"]
    # the second time it is there
    again = succeed("pretrain", "--out", out, "--resume")
    assert "packing" not in again.err
    assert "resumed at step 6" in again.err
    assert molstream("pretrain", "--out", out).error.endswith(
        "already holds a run; add --resume to go on with it, or choose another folder"
    )


def test_resuming_a_finished_run_does_nothing_but_say_so(succeed, shard_set, copy_run):
    before = json.loads((copy_run / "results.json").read_text())
    done = succeed("pretrain", shard_set, "--out", copy_run, "--resume")
    assert "resumed at step 12" in done.err
    assert json.loads((copy_run / "results.json").read_text()) == before


def test_resume_in_a_folder_without_a_run_starts_one(succeed, shard_set, tmp_path):
    succeed("pretrain", shard_set, "--out", tmp_path / "run", "--recipe", "smoke", "--steps", 2, "--resume")
    assert [p.name for p in list_checkpoints(tmp_path / "run")] == ["step-00000002"]


def test_what_is_already_in_the_folder_is_refused_and_not_touched(molstream, shard_set, run, tmp_path, folder_bytes):
    other = tmp_path / "other"
    other.mkdir()
    (other / "letter.txt").write_text("dear")
    before = folder_bytes(run)
    for out, expected in (
        (run, f"{run}: already holds a run; add --resume to go on with it, or choose another folder"),
        (other, f"{other}: holds something else (letter.txt); choose another folder"),
        (other / "letter.txt", f"{other / 'letter.txt'}: a file, expected a folder to write to"),
    ):
        for directory in ([shard_set], []):
            done = molstream("pretrain", *directory, "--out", out, "--recipe", "smoke", "--steps", 2)
            assert (done.code, done.out) == (2, "")
            assert done.error == expected
    assert folder_bytes(other) == {"letter.txt": b"dear"}
    assert folder_bytes(run) == before


def test_an_unknown_recipe_lists_what_there_is_and_packs_nothing(molstream, tmp_path):
    done = molstream("pretrain", "--out", tmp_path / "run", "--recipe", "huge")
    assert done.code == 2
    assert done.error == f"recipe 'huge': expected one of {', '.join(RECIPES)}"
    assert not (tmp_path / "run").exists()


def test_a_run_does_not_go_on_with_other_steps_data_or_recipe(
    molstream, succeed, shard_set, copy_run, table, tmp_path, folder_bytes
):
    succeed("build", table, "--out", tmp_path / "other", "--seed", 1)
    fingerprints = [ShardSet(s).manifest.fingerprint for s in (shard_set, tmp_path / "other")]
    before = folder_bytes(copy_run)
    for expected, *argv in (
        ("holds another run: 12 there, 40 here", shard_set, "--steps", 40),
        ("holds another run: fingerprint {} there, {} here".format(*fingerprints), tmp_path / "other"),
        ("holds another run: name smoke there, sample here", shard_set, "--recipe", "sample"),
    ):
        done = molstream("pretrain", *argv, "--out", copy_run, "--resume")
        assert (done.code, done.out) == (2, "")
        for word in expected.replace("12 there", "num_steps 12 there").split("; "):
            assert word in done.error
    assert folder_bytes(copy_run) == before


def test_resuming_a_run_without_naming_its_shard_set_says_that_it_is_missing(molstream, copy_run):
    done = molstream("pretrain", "--out", copy_run, "--resume")
    assert done.code == 2
    assert "started on a shard set that is not in it; name it: molstream pretrain DIR" in done.error
    assert not (copy_run / "shards").exists()


def test_a_damaged_config_without_a_checkpoint_is_named(molstream, shard_set, copy_run):
    (copy_run / "config.json").write_text("{")
    shutil.rmtree(copy_run / "checkpoints")
    done = molstream("pretrain", shard_set, "--out", copy_run, "--resume")
    assert done.code == 2
    assert "config.json: damaged" in done.error


def test_a_damaged_newest_checkpoint_is_skipped_with_a_word_and_the_one_before_goes_on(succeed, shard_set, run, copy_run, flip):
    newest, before = list_checkpoints(copy_run)
    assert (newest.name, before.name) == ("step-00000012", "step-00000010")
    flip(newest / "model.safetensors", -5)
    done = succeed("pretrain", shard_set, "--out", copy_run, "--resume")
    assert f"skipped: {newest / 'model.safetensors'}: damaged" in done.err
    assert "resumed at step 10" in done.err
    assert read_checkpoint(newest).identity() == read_checkpoint(run / "checkpoints" / newest.name).identity()


@pytest.mark.usefixtures("plots")
def test_a_stopped_run_exits_130_with_a_checkpoint_and_the_command_it_prints_finishes_it(start, succeed, shard_set, tmp_path):
    out = tmp_path / "a run"
    process = start("pretrain", shard_set, "--out", out, "--recipe", "smoke", "--steps", 60)
    deadline = time.monotonic() + 500
    while not ((out / "log.jsonl").exists() and (out / "log.jsonl").stat().st_size):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    printed, err = process.communicate(timeout=500)
    assert process.returncode == 130, err
    assert "stopping after this step; Ctrl-C to stop at once" in err
    assert "Traceback" not in err
    step = read_checkpoint(list_checkpoints(out)[0]).step
    assert 5 <= step < 60
    plot = (out / "run.png").read_bytes()
    first, command = printed.splitlines()
    assert first == f"stopped at step {step} of 60, checkpoint written; go on with"
    words = shlex.split(command)
    assert words[:2] == ["molstream", "pretrain"]
    done = succeed(*words[1:])
    assert f"resumed at step {step}" in done.err
    assert read_checkpoint(list_checkpoints(out)[0]).step == 60
    assert (out / "run.png").read_bytes() != plot
    steps = [line["step"] for line in map(json.loads, (out / "log.jsonl").read_text().splitlines()) if line["kind"] == "train"]
    assert steps == sorted(set(steps)), "a log line came twice"


def test_a_set_without_labels_is_refused(molstream, succeed, tmp_path):
    (tmp_path / "a.smi").write_text("CCO\nCCN\nCCC\n")
    done = succeed("build", tmp_path / "a.smi", "--dataset", "table", "--out", tmp_path / "set")
    assert "tasks: none, a set without labels" in done.out
    done = molstream("pretrain", tmp_path / "set", "--out", tmp_path / "run", "--recipe", "smoke")
    assert done.code == 1
    assert "a set without labels, expected something to train on" in done.error
    assert not (tmp_path / "run").exists()


def test_the_command_is_named_by_the_program_not_by_its_folder(monkeypatch):
    from molstream.tools.pretrain import program

    monkeypatch.setattr("shutil.which", lambda name: None)
    for path, expected in (("/x/molstream/tools/main.py", "molstream"), ("/x/bin/molstream", "/x/bin/molstream")):
        monkeypatch.setattr("sys.argv", [path])
        assert program() == expected


def test_a_disk_that_is_full_at_the_start_is_named_with_the_file_and_leaves_nothing(molstream, shard_set, tmp_path, monkeypatch):
    from molstream.shards.errors import StorageError

    def fail(self, path):
        raise StorageError(f"{path}: cannot be written: No space left on device")

    monkeypatch.setattr("molstream.trainers.runs.folder.RunConfig.write", fail)
    done = molstream("pretrain", shard_set, "--out", tmp_path / "run", "--recipe", "smoke")
    assert (done.code, done.error) == (1, f"{tmp_path / 'run' / 'config.json'}: cannot be written: No space left on device")
    assert not (tmp_path / "run").exists()


def test_a_run_that_is_stopped_before_its_first_step_claims_no_checkpoint(molstream, succeed, shard_set, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("molstream.tools.stop.StopFlag.is_set", lambda self: True)
        done = molstream("pretrain", shard_set, "--out", tmp_path / "run", "--recipe", "smoke", "--steps", 2)
    assert done.code == 130
    assert done.lines[0] == "stopped at step 0 of 2, before the first, so there is no checkpoint; go on with"
    assert not (tmp_path / "run" / "checkpoints").exists()
    succeed("pretrain", shard_set, "--out", tmp_path / "run", "--resume")


def test_a_finished_run_names_no_file_that_is_not_there(succeed, table, tmp_path):
    succeed("build", table, "--out", tmp_path / "set", "--split-fractions", "80,0,20")
    done = succeed("pretrain", tmp_path / "set", "--out", tmp_path / "run", "--recipe", "smoke", "--steps", 2)
    named = [word.strip(",") for line in done.lines for word in line.split() if word.startswith(str(tmp_path / "run" / ""))]
    assert tmp_path / "run" / "model" in map(Path, named)
    assert all(Path(name).exists() for name in named if "embeddings" not in name)
    assert "results" not in done.out


def test_a_plot_that_cannot_be_written_is_said_and_the_run_is_finished(succeed, shard_set, tmp_path, monkeypatch):
    from molstream.shards.errors import StorageError

    def fail(run):
        raise StorageError(f"{run / 'run.png'}: cannot be written: No space left on device")

    monkeypatch.setattr("molstream.tools.curves.plot_run", fail)
    done = succeed("pretrain", shard_set, "--out", tmp_path / "run", "--recipe", "smoke", "--steps", 2)
    assert f"plot     not drawn: {tmp_path / 'run' / 'run.png'}: cannot be written: No space left on device" in done.out
