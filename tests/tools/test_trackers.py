"""molstream pretrain --tracker: a tracker of Accelerate is told what the log is; one that is not here is a line."""

import json

import pytest
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker

from molstream.trainers.runs.log import read_log


@pytest.fixture
def recorders(monkeypatch) -> list:
    """A tracker called 'recorder', as a user registers one; the list of those that were started."""
    started = []

    class Recorder(GeneralTracker):
        name = "recorder"
        requires_logging_directory = False
        main_process_only = True

        def __init__(self, run_name, **kwargs):
            super().__init__()
            self.run_name, self.config, self.logged, self.finished = run_name, None, [], False
            started.append(self)

        @property
        def tracker(self):
            return self

        def store_init_configuration(self, values):
            self.config = values

        def log(self, values, step=None, **kwargs):
            self.logged.append((step, values))

        def finish(self):
            self.finished = True

    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "recorder", Recorder)
    return started


def test_a_tracker_gets_the_recipe_and_every_number_of_the_log(succeed, shard_set, tmp_path, recorders):
    out = tmp_path / "run"
    options = ("--tracker", "recorder", "--set", "encodings=rw16", "--set", "losses=g62:mse")
    succeed("pretrain", shard_set, "--out", out, "--recipe", "smoke", "--steps", 12, *options)
    (recorder,) = recorders
    assert recorder.run_name == "molstream"
    recipe = json.loads((out / "config.json").read_text())["recipe"]
    assert set(recorder.config) == set(recipe)
    assert (recorder.config["hidden"], recorder.config["residual"], recorder.config["num_steps"]) == (32, True, 12)
    # trackers take no lists
    assert (recorder.config["encodings"], recorder.config["losses"]) == ('["rw16"]', '{"g62": "mse"}')
    assert all(isinstance(value, (int, float, str)) for value in recorder.config.values())
    expected = [
        (line["step"], {f"{line['kind']}/{k}": v for k, v in line.items() if k not in ("kind", "step") and v is not None})
        for line in read_log(out)
    ]
    assert [step for step, _ in expected] == [5, 10, 10, 12, 12]
    assert recorder.logged == expected
    assert {"train/loss_g62", "train/gradient_norm", "train/learning_rate"} <= set(recorder.logged[0][1])
    assert {"validation/loss", "validation/g62_mae", "validation/n7_r2"} <= set(recorder.logged[-1][1])
    assert recorder.finished


def test_a_run_that_goes_on_tells_its_tracker_of_the_rest(succeed, shard_set, copy_run, recorders):
    newest = copy_run / "checkpoints" / "step-00000012"
    (newest / "hashes.json").unlink()
    succeed("pretrain", shard_set, "--out", copy_run, "--resume", "--tracker", "recorder")
    (recorder,) = recorders
    assert [step for step, _ in recorder.logged] == [12, 12]
    assert recorder.finished


def test_a_tracker_is_told_the_end_of_a_run_that_fails(molstream, copy_set, flip, tmp_path, recorders):
    flip(copy_set / "train-00000.tar", -3000)
    done = molstream(
        "pretrain",
        copy_set,
        "--out",
        tmp_path / "run",
        "--recipe",
        "smoke",
        "--set",
        "learning_rate=1e30",
        "--tracker",
        "recorder",
    )
    assert done.code == 1
    assert [recorder.finished for recorder in recorders] == [True]


def test_two_trackers_and_none_of_them_twice(succeed, shard_set, tmp_path, recorders):
    options = ("--tracker", "recorder", "--tracker", "tensorboard", "--tracker", "recorder")
    succeed("pretrain", shard_set, "--out", tmp_path / "run", "--recipe", "smoke", "--steps", 1, *options)
    assert len(recorders) == 1
    assert list(tmp_path.rglob("events.out.tfevents.*"))


def test_a_stopped_run_proposes_to_go_on_with_its_trackers(molstream, shard_set, tmp_path, recorders, monkeypatch):
    monkeypatch.setattr("molstream.tools.stop.StopFlag.is_set", lambda self: True)
    done = molstream("pretrain", shard_set, "--out", tmp_path / "run", "--recipe", "smoke", "--tracker", "recorder")
    assert done.code == 130
    assert done.lines[-1].endswith(f"--out {tmp_path / 'run'} --resume --tracker recorder")


@pytest.mark.parametrize("directory", [True, False])
@pytest.mark.parametrize("name", ["wandbb", "", "all"])
def test_a_tracker_that_accelerate_does_not_know_is_refused(molstream, shard_set, tmp_path, everything_in, name, directory):
    before = everything_in(tmp_path)
    call = ("pretrain", *([shard_set] if directory else []), "--out", tmp_path / "run", "--recipe", "smoke")
    done = molstream(*call, "--tracker", name)
    assert (done.code, done.out) == (2, "")
    assert done.error.startswith(f"tracker {name!r}: expected one of ")
    assert "wandb" in done.error
    assert everything_in(tmp_path) == before


@pytest.mark.parametrize("directory", [True, False])
def test_a_tracker_whose_package_is_not_installed_is_refused_and_said_how_to_get(
    molstream, shard_set, tmp_path, monkeypatch, everything_in, recorders, directory
):
    monkeypatch.setattr("molstream.trainers.runs.log.get_available_trackers", list)
    before = everything_in(tmp_path)
    call = ("pretrain", *([shard_set] if directory else []), "--out", tmp_path / "run", "--recipe", "smoke")
    for name, package in (("wandb", "wandb"), ("comet_ml", "comet-ml")):
        done = molstream(*call, "--tracker", "recorder", "--tracker", name)
        assert (done.code, done.out) == (2, "")
        assert done.error == f"tracker {name!r}: its package is not installed here; pip install {package}"
    assert everything_in(tmp_path) == before
    assert recorders == []


def test_without_trackers_accelerate_has_none(succeed, shard_set, tmp_path, recorders):
    succeed("pretrain", shard_set, "--out", tmp_path / "run", "--recipe", "smoke", "--steps", 1)
    assert recorders == []
