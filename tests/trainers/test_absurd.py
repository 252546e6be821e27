"""Checkpoints and models with whole hashes and seals whose contents make no sense: one line, soon, and the one before is used."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save

import molstream
from molstream.shards.store.documents import seal_json, unseal_json
from molstream.shards.store.writing import write_bytes
from molstream.trainers.errors import CheckpointError, RunError
from molstream.trainers.models.export import load_weights
from molstream.trainers.recipes import smoke
from molstream.trainers.runs.checkpoint import CHECKPOINTS, HASHES, Hashes, list_checkpoints, read_checkpoint
from molstream.trainers.runs.folder import read_recipe
from molstream.trainers.training.trainer import pretrain

RECIPE = replace(smoke(), num_steps=12, eval_steps=3, num_lanes=3, window_molecules=300)


@pytest.fixture(scope="module")
def stopped(sample_set, tmp_path_factory) -> Path:
    """A run with checkpoints at steps 3 and 6 of 12. Shared."""
    run = tmp_path_factory.mktemp("absurd") / "run"
    count = iter(range(10**9))
    pretrain(sample_set, run, RECIPE, resume=False, should_stop=lambda: next(count) >= 7 and len(list_checkpoints(run)) >= 2)
    assert len(list_checkpoints(run)) == 2
    return run


def edit_json(path: Path, kind: str, change) -> None:
    fields = unseal_json(path.read_bytes(), kind=kind, version=4)
    change(fields)
    path.write_bytes(seal_json(fields, kind=kind, version=4))


def edit_tensors(path: Path, change) -> None:
    tensors = load(path.read_bytes())
    change(tensors)
    path.write_bytes(save(tensors))


def sign(folder: Path, **more: str) -> None:
    """Hashes of the files as they are now."""
    names = [p.name for p in folder.iterdir() if p.name not in (HASHES, "validation.json")]
    (folder / HASHES).unlink()
    files = {name: write_bytes(folder / name, (folder / name).read_bytes()).sha256 for name in names}
    Hashes(files=files | more).write(folder / HASHES)


def recipe_with(**values):
    return lambda folder: edit_json(folder / "state.json", "checkpoint", lambda f: f["recipe"].update(values))


def state_with(**values):
    return lambda folder: edit_json(folder / "state.json", "checkpoint", lambda f: f.update(values))


def tensors_with(name, change):
    return lambda folder: edit_tensors(folder / name, change)


def drop_first(tensors) -> None:
    del tensors[sorted(tensors)[0]]


def widen_first(tensors) -> None:
    name = sorted(tensors)[0]
    tensors[name] = torch.zeros(3, 5, 7)


ABSURD = {
    "layers": (recipe_with(num_layers=10**9), "num_layers is 1000000000, expected at most 1,000"),
    "width": (recipe_with(hidden=2**60), "hidden is 1152921504606846976, expected at most 65,536"),
    "kind": (recipe_with(hidden="wide"), "field recipe.hidden is 'wide', expected a whole number"),
    "missing weight": (
        tensors_with("model.safetensors", drop_first),
        "not those of its recipe: .* is not there, expected",
    ),
    "weight of another shape": (tensors_with("model.safetensors", widen_first), r"float32 \(3, 5, 7\), expected"),
    "weight too many": (tensors_with("model.safetensors", lambda t: t.update(x=torch.ones(1))), "expected not there"),
    "missing moment": (tensors_with("optimizer.safetensors", drop_first), "optimizer: "),
    "moment of another shape": (tensors_with("optimizer.safetensors", widen_first), "optimizer: "),
    "optimizer option": (
        lambda folder: edit_json(folder / "state.json", "checkpoint", lambda f: f["optimizer_groups"][0].update(betas=["a", 0])),
        "optimizer: betas is",
    ),
    "no optimizer groups": (state_with(optimizer_groups=[]), "optimizer: its groups of parameters are not those"),
    "scaler": (state_with(scaler={"scale": 1.0}), "scaler has scale, expected"),
    "step": (state_with(step=-1), "field step is -1"),
}


@pytest.mark.parametrize("what", ABSURD)
def test_a_checkpoint_that_makes_no_sense_is_skipped_in_one_line(sample_set, stopped, tmp_path, reporter, what, monkeypatch):
    change, message = ABSURD[what]
    run = Path(shutil.copytree(stopped, tmp_path / "run"))
    newest, before = list_checkpoints(run)
    change(newest)
    sign(newest)
    said: list[str] = []
    monkeypatch.setattr(reporter, "message", said.append)
    count = iter(range(10**9))
    pretrain(sample_set, run, RECIPE, resume=True, reporter=reporter, should_stop=lambda: next(count) >= 0)
    (line,) = [text for text in said if text.startswith("skipped: ")]
    assert "\n" not in line
    with pytest.raises(CheckpointError, match=message):
        raise CheckpointError(line)
    assert f"resumed at step {int(before.name[5:])}" in said


def test_a_step_beyond_the_end_of_the_run_is_no_finished_run(sample_set, stopped, tmp_path):
    run = Path(shutil.copytree(stopped, tmp_path / "run"))
    for folder in list_checkpoints(run)[1:]:
        shutil.rmtree(folder)
    far = list_checkpoints(run)[0].rename(run / CHECKPOINTS / "step-99999999")
    state_with(step=99_999_999)(far)
    sign(far)
    with pytest.raises(CheckpointError, match="no checkpoint is complete"):
        pretrain(sample_set, run, RECIPE, resume=True)


@pytest.mark.parametrize("name", ["/dev/zero", "../../config.json", "..", ""])
def test_a_hash_of_a_file_elsewhere_is_refused(stopped, tmp_path, name):
    folder = Path(shutil.copytree(list_checkpoints(stopped)[0], tmp_path / "step"))
    sign(folder, **{name: "0" * 64})
    with pytest.raises(CheckpointError, match="is no name of a file of it"):
        read_checkpoint(folder)


def test_a_device_in_place_of_a_file_is_refused_and_not_read(stopped, tmp_path):
    folder = Path(shutil.copytree(list_checkpoints(stopped)[0], tmp_path / "step"))
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to("/dev/zero")
    with pytest.raises(CheckpointError, match="a device, expected a regular file"):
        read_checkpoint(folder)


@pytest.mark.parametrize("what", ["layers", "width", "missing weight", "weight of another shape"])
def test_weights_to_predict_with_that_make_no_sense_are_one_line(stopped, tmp_path, what):
    change, message = ABSURD[what]
    folder = Path(shutil.copytree(list_checkpoints(stopped)[0], tmp_path / "step"))
    change(folder)
    sign(folder)
    with pytest.raises(CheckpointError, match=message):
        molstream.load_encoder(folder)


def test_a_config_that_claims_a_network_beyond_all_measure_is_one_line(stopped, tmp_path):
    run = Path(shutil.copytree(stopped, tmp_path / "run"))
    edit_json(run / "config.json", "run", lambda f: f["recipe"].update(num_layers=10**9))
    # its checkpoints say what it is
    assert read_recipe(run).num_layers < 1000
    shutil.rmtree(run / CHECKPOINTS)
    with pytest.raises(RunError, match="num_layers is 1000000000, expected at most 1,000"):
        read_recipe(run)


TEXTS = {"deep": "[" * 100_000, "seal": '{"seal": "x"}', "zeros": "\0" * 64, "empty": "", "not UTF-8": "\xff\xfe"}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize("name", ["hashes.json", "state.json"])
def test_text_that_is_no_document_is_one_line(stopped, tmp_path, name, text):
    folder = Path(shutil.copytree(list_checkpoints(stopped)[0], tmp_path / "step"))
    (folder / name).write_bytes(text.encode("latin-1"))
    if name != HASHES:
        sign(folder)
    with pytest.raises(CheckpointError, match=f"{name}: ") as caught:
        load_weights(folder)
    assert "\n" not in str(caught.value)
