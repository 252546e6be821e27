"""Checkpoints: killed at any moment, best and average kept, those of other runs recognised, the network alone."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import molstream
from molstream.shards.store.documents import seal_json
from molstream.streamer.config import StreamConfig
from molstream.streamer.loader import Loader
from molstream.trainers.errors import CheckpointError, RunError
from molstream.trainers.jobs.evaluate import evaluate_checkpoint
from molstream.trainers.models.export import Meaning, load_weights
from molstream.trainers.models.network import load_network
from molstream.trainers.recipes import smoke
from molstream.trainers.runs.checkpoint import (
    CHECKPOINTS,
    Hashes,
    Validation,
    add_validation,
    best_checkpoint,
    list_checkpoints,
    load_checkpoint,
    read_checkpoint,
    write_checkpoint,
)
from molstream.trainers.runs.folder import read_recipe
from molstream.trainers.training.trainer import pretrain

ROOT = Path(__file__).resolve().parents[2]


def stop_after(steps: int):
    polls = iter(range(10**9))
    return lambda: next(polls) >= steps


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_ends_with_the_same_weights(sample_set, tiny, tmp_path):
    num_steps, kills, seed = 400, 20, 1
    recipe = replace(
        tiny, num_steps=num_steps, save_steps=1, eval_steps=7, eval_packs=3, log_steps=3, ema_decay=0.9, keep_checkpoints=1
    )
    (tmp_path / "recipe.json").write_text(json.dumps(recipe.to_json()))
    attack = [
        sys.executable,
        ROOT / "tests/attacks/kill_training.py",
        sample_set.path,
        tmp_path / "run",
        tmp_path / "recipe.json",
    ]
    done = subprocess.run(
        list(map(str, [*attack, kills, seed])),
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"{kills} kills", done.stdout
    pretrain(sample_set, tmp_path / "whole", recipe, resume=False)
    a, b = load_checkpoint(tmp_path / "run"), load_checkpoint(tmp_path / "whole")
    assert a.step == b.step == num_steps
    for mine, theirs in ((a.model, b.model), (a.average, b.average)):
        assert all(torch.equal(mine[name], weight) for name, weight in theirs.items())
    for k, state in b.optimizer["state"].items():
        assert all(torch.equal(a.optimizer["state"][k][name], value) for name, value in state.items())
    # each line once, though some steps were done twice
    lines = [
        [
            (line["kind"], line["step"], line["loss"])
            for line in map(json.loads, (tmp_path / run / "log.jsonl").read_text().splitlines())
        ]
        for run in ("run", "whole")
    ]
    validations = [[line for line in some if line[0] == "validation"] for some in lines]
    assert validations[0] == validations[1]
    assert [p.name for p in list_checkpoints(tmp_path / "run")] == [p.name for p in list_checkpoints(tmp_path / "whole")]
    assert best_checkpoint(tmp_path / "run").name == best_checkpoint(tmp_path / "whole").name


def validation(step, loss, packs=3):
    return Validation(step=step, compared_loss=loss, compared_packs=packs, loss=loss, complete=True, task_sets={})


@pytest.fixture(scope="module")
def trained_twice(sample_set, tmp_path_factory):
    """A finished run with two checkpoints."""
    run = tmp_path_factory.mktemp("twice") / "run"
    pretrain(sample_set, run, replace(smoke(), num_steps=2, save_steps=1, eval_steps=2), resume=False)
    return run


def test_the_best_checkpoint_stays_and_can_be_named(sample_set, tiny, tmp_path):
    run = tmp_path / "run"
    pretrain(sample_set, run, replace(tiny, num_steps=4, eval_steps=4, eval_packs=3, keep_checkpoints=1), resume=False)
    first = load_checkpoint(run)
    for step, loss in ((5, 0.5), (6, 0.3), (7, 0.9), (8, None), (9, 0.4), (10, 0.3)):
        write_checkpoint(run, replace(first, step=step), keep=1)
        add_validation(run, validation(step, loss))
    # of equal ones the earlier
    assert [p.name for p in list_checkpoints(run)] == ["step-00000010", "step-00000006"]
    assert best_checkpoint(run).name == "step-00000006"
    assert load_checkpoint(run / CHECKPOINTS / "best.json").step == 6
    assert load_checkpoint(run).step == 10
    # a note that is damaged or gone is made again from the validations
    for damage in (b"{}", (run / CHECKPOINTS / "best.json").read_bytes().replace(b"06", b"10"), b"[" * 10**6, None):
        if damage is None:
            (run / CHECKPOINTS / "best.json").unlink()
        else:
            (run / CHECKPOINTS / "best.json").write_bytes(damage)
        assert best_checkpoint(run).name == "step-00000006"
    write_checkpoint(run, replace(first, step=11), keep=1)
    assert [p.name for p in list_checkpoints(run)] == ["step-00000011", "step-00000006"]
    add_validation(run, validation(11, 0.31))
    assert load_checkpoint(run / CHECKPOINTS / "best.json").step == 6


def test_losses_over_other_numbers_of_packs_are_not_compared(sample_set, tiny, tmp_path):
    run = tmp_path / "run"
    pretrain(sample_set, run, replace(tiny, num_steps=1, eval_steps=4, eval_packs=3), resume=False)
    first = load_checkpoint(run)
    for step, loss, packs, best in (
        (5, 0.3, 3, 5),
        (6, 0.9, 6, 6),
        (7, 0.5, 6, 7),
        (8, 0.6, 6, 7),
        (9, 0.4, 3, 5),
        (10, 0.7, 6, 7),
    ):
        write_checkpoint(run, replace(first, step=step), keep=1)
        add_validation(run, validation(step, loss, packs))
        assert best_checkpoint(run).name == f"step-{best:08d}", step
    # the best over either number stays
    assert [p.name for p in list_checkpoints(run)] == ["step-00000010", "step-00000007", "step-00000005"]
    found = pretrain(sample_set, tmp_path / "other", replace(tiny, num_steps=1, eval_packs=6), resume=False).results
    assert found.compared_packs == 6


def test_no_damage_to_notes_costs_the_best_checkpoint(sample_set, tiny, tmp_path):
    run = tmp_path / "run"
    pretrain(sample_set, run, replace(tiny, num_steps=1, eval_steps=4, eval_packs=3), resume=False)
    first = load_checkpoint(run)
    for step, loss in ((5, 0.3), (6, 0.5)):
        write_checkpoint(run, replace(first, step=step), keep=1)
        add_validation(run, validation(step, loss))
    best = run / CHECKPOINTS / "step-00000005" / "validation.json"
    best.write_bytes(best.read_bytes().replace(b"0.3", b"9.3"))
    # the note still says which it is, and by how much
    write_checkpoint(run, replace(first, step=7), keep=1)
    add_validation(run, validation(7, 0.4))
    assert best_checkpoint(run).name == "step-00000005"
    # nothing does: whichever may be the best stays
    (run / CHECKPOINTS / "best.json").write_bytes(b"\0" * 200)
    write_checkpoint(run, replace(first, step=8), keep=1)
    assert [p.name for p in list_checkpoints(run)] == ["step-00000008", "step-00000007", "step-00000005"]


DAMAGES = {
    "flipped": lambda data: bytes([data[0], data[1] ^ 4, *data[2:]]),
    "cut": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "zeros": lambda data: bytes(len(data)),
    "not text": lambda data: b"\xff\xfe" + data,
    "deep": lambda data: b"[" * 10**6,
    "another": lambda data: b'{"a": 1}',
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["hashes.json", "state.json", "model.safetensors", "optimizer.safetensors"])
def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(trained_twice, tmp_path, name, damage):
    run = shutil.copytree(trained_twice, tmp_path / "run")
    newest, before = list_checkpoints(run)
    (newest / name).write_bytes(DAMAGES[damage]((newest / name).read_bytes()))
    problems = []
    assert load_checkpoint(run, problems.append).step == int(before.name[5:])
    (problem,) = problems
    assert str(newest) in problem
    assert "\n" not in problem


def test_a_checkpoint_that_lists_what_is_no_file_of_it_is_refused(trained_twice, tmp_path):
    run = shutil.copytree(trained_twice, tmp_path / "run")
    newest, _ = list_checkpoints(run)
    os.mkfifo(newest / "pipe")
    for name, match in (
        ("/dev/zero", "is no name of a file of it"),
        ("../../config.json", "is no name of a file of it"),
        ("pipe", "a pipe, expected a regular file"),
        ("gone", "missing: no such file"),
    ):
        Hashes(files={name: "0" * 64}).write(newest / "hashes.json")
        with pytest.raises(CheckpointError, match=f"{newest}: not a complete checkpoint: .*{match}"):
            read_checkpoint(newest)
    Hashes(files={}).write(newest / "hashes.json")
    with pytest.raises(CheckpointError, match=r"hashes\.json: lists no model\.safetensors"):
        read_checkpoint(newest)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_run_whose_config_is_damaged_goes_on_by_its_checkpoints(sample_set, trained_twice, tmp_path, damage):
    run = shutil.copytree(trained_twice, tmp_path / "run")
    config, recipe = run / "config.json", read_recipe(run)
    data = config.read_bytes()
    config.write_bytes(DAMAGES[damage](data))
    assert read_recipe(run) == recipe
    assert pretrain(sample_set, run, recipe, resume=True).finished
    assert config.read_bytes() == data
    # without a checkpoint there is nothing to go by
    config.write_bytes(DAMAGES[damage](data))
    shutil.rmtree(run / CHECKPOINTS)
    with pytest.raises(RunError, match=r"config\.json: .*train again in another folder"):
        read_recipe(run)


def test_a_run_of_an_older_version_is_refused_in_one_line(trained_twice, tmp_path):
    run = shutil.copytree(trained_twice, tmp_path / "run")
    for folder in list_checkpoints(run):
        for name in ("hashes.json", "state.json"):
            (folder / name).write_text(json.dumps({"checkpoint_version": 3}))
    (run / "config.json").write_text("{}")
    with pytest.raises(RunError, match=r"no run of version 4, or a damaged one.*train again in another folder"):
        read_recipe(run)
    with pytest.raises(CheckpointError, match="no list of hashes of version 4, or a damaged one"):
        load_checkpoint(run)


def test_the_best_of_a_run_is_the_one_with_the_lowest_loss_of_its_log(sample_set, tiny, tmp_path):
    run = tmp_path / "run"
    pretrain(sample_set, run, replace(tiny, num_steps=24, eval_packs=3), resume=False)
    lines = map(json.loads, (run / "log.jsonl").read_text().splitlines())
    losses = {line["step"]: line["loss"] for line in lines if line["kind"] == "validation"}
    notes = {step: json.loads((run / CHECKPOINTS / f"step-{step:08d}" / "validation.json").read_text()) for step in (20, 24)}
    assert notes[20]["compared_loss"] == losses[20]
    # the last one saw the whole split, and is compared by what the others saw
    assert notes[24]["complete"]
    assert notes[24]["loss"] == losses[24] != notes[24]["compared_loss"]
    losses[24] = notes[24]["compared_loss"]
    assert best_checkpoint(run).name == f"step-{min(losses, key=losses.get):08d}"


def test_checkpoints_of_other_runs_steps_and_mixtures_are_skipped(sample_set, tiny, tmp_path, reporter):
    run, other, tiny = tmp_path / "run", tmp_path / "other", replace(tiny, save_steps=3, eval_steps=100)
    pretrain(sample_set, run, tiny, resume=False, should_stop=stop_after(6))
    pretrain(sample_set, other, replace(tiny, hidden=48), resume=False)
    own = list_checkpoints(run)[0]
    # of another model; of this run under another step; files of two steps together
    shutil.copytree(list_checkpoints(other)[0], run / CHECKPOINTS / "step-00000012")
    shutil.copytree(own, run / CHECKPOINTS / "step-00000011")
    shutil.copytree(own, run / CHECKPOINTS / "step-00000010")
    shutil.copy(list_checkpoints(run)[-1] / "model.safetensors", run / CHECKPOINTS / "step-00000010")
    assert own.name == "step-00000006"
    assert pretrain(sample_set, run, tiny, resume=True, reporter=reporter).finished
    skipped = [text for text in reporter.messages if isinstance(text, str) and text.startswith("skipped")]
    assert len(skipped) == 3
    assert "checkpoint of step 12 is of another run: hidden 48 there, 32 here" in skipped[0]
    assert "step-00000011: is of step 6, expected the step in its name" in skipped[1]
    assert "step-00000010/model.safetensors: damaged" in skipped[2]
    assert "resumed at step 6" in reporter.messages
    pretrain(sample_set, tmp_path / "whole", tiny, resume=False)
    a, b = load_checkpoint(run), load_checkpoint(tmp_path / "whole")
    assert all(torch.equal(a.model[name], weight) for name, weight in b.model.items())


def test_a_moving_average_is_what_its_formula_says_and_what_is_used(sample_set, tiny, tmp_path):
    recipe = replace(tiny, ema_decay=0.6, save_steps=1, eval_steps=100, keep_checkpoints=20, num_steps=6)
    run = tmp_path / "run"
    outcome = pretrain(sample_set, run, recipe, resume=False)
    at = {step: load_checkpoint(run / CHECKPOINTS / f"step-{step:08d}") for step in range(1, 7)}
    for step in range(2, 7):
        share = 1 - min(0.6, (1 + step - 1) / (10 + step - 1))
        for name, weight in at[step].model.items():
            expected = at[step - 1].average[name] + share * (weight - at[step - 1].average[name])
            torch.testing.assert_close(at[step].average[name], expected, rtol=1e-5, atol=1e-7)
    last = at[6]
    assert any(not torch.equal(last.average[name], weight) for name, weight in last.model.items())
    assert all(torch.equal(p, last.average[name]) for name, p in load_network(last).state_dict().items())
    assert outcome.results.loss == pytest.approx(evaluate_checkpoint(last, sample_set, split="val").loss, rel=1e-6)
    assert outcome.results.loss != evaluate_checkpoint(replace(last, average=None), sample_set, split="val").loss


def test_fields_that_move_no_weight_may_change_on_the_way(sample_set, tiny, tmp_path):
    run = tmp_path / "run"
    pretrain(sample_set, run, tiny, resume=False, should_stop=stop_after(5))
    other = replace(tiny, eval_steps=3, eval_packs=2, log_steps=2, save_steps=5, keep_checkpoints=3, nonfinite="skip")
    assert pretrain(sample_set, run, other, resume=True).finished
    pretrain(sample_set, tmp_path / "whole", tiny, resume=False)
    a, b = load_checkpoint(run), load_checkpoint(tmp_path / "whole")
    assert all(torch.equal(a.model[name], weight) for name, weight in b.model.items())
    assert json.loads((run / "config.json").read_text())["recipe"]["eval_steps"] == 3
    with pytest.raises(RunError, match=r"holds another run: dropout 0\.2 there, 0\.1 here"):
        pretrain(sample_set, run, replace(other, dropout=0.1), resume=True)


def test_a_run_that_was_stopped_in_a_validation_does_it_first_when_it_goes_on(sample_set, tiny, tmp_path, reporter):
    run = tmp_path / "run"
    # four steps, then a poll before each pack of the validation
    outcome = pretrain(sample_set, run, tiny, resume=False, should_stop=stop_after(5))
    assert (outcome.step, outcome.finished) == (4, False)
    assert read_checkpoint(list_checkpoints(run)[0]).validation is None
    pretrain(sample_set, run, tiny, resume=True, reporter=reporter)
    assert [results.step for results in reporter.validations] == [4, 8, 12]
    lines = map(json.loads, (run / "log.jsonl").read_text().splitlines())
    assert [line["step"] for line in lines if line["kind"] == "validation"] == [4, 8, 12]


def test_two_runs_at_a_time_in_one_folder_are_refused(sample_set, tiny, tmp_path):
    def second() -> bool:
        with pytest.raises(RunError, match=r"another process is training in it \(process \d+ on .+\); wait for it"):
            pretrain(sample_set, tmp_path / "run", tiny, resume=True)
        return True

    pretrain(sample_set, tmp_path / "run", tiny, resume=False, should_stop=second)
    assert pretrain(sample_set, tmp_path / "run", tiny, resume=True).finished


def batch_of(sample_set, encoder):
    return next(iter(Loader(sample_set, StreamConfig(budget=encoder.budget, split="val", shuffle=False)))).batches[0]


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_the_network_alone_is_that_of_the_run(sample_set, tiny, tmp_path, ema_decay):
    run = tmp_path / "run"
    pretrain(sample_set, run, replace(tiny, ema_decay=ema_decay), resume=False)
    shutil.copytree(run / "model", tmp_path / "alone")
    assert sorted(p.name for p in (tmp_path / "alone").iterdir()) == ["model.json", "model.safetensors"]
    encoder = molstream.load_encoder(tmp_path / "alone")
    assert not encoder.training
    network = load_network(load_checkpoint(run))
    batch = batch_of(sample_set, encoder)
    with torch.no_grad():
        atoms, graphs = encoder(batch)
        assert torch.equal(graphs, network.encode(batch)[1])
        assert torch.equal(graphs, molstream.load_encoder(run)(batch)[1])
        assert torch.equal(graphs, molstream.load_encoder(list_checkpoints(run)[0])(batch)[1])
        assert (atoms.shape[1], graphs.shape) == (32, (len(batch.graph_mask_G), 32))
        predicted, normalised = encoder.predict(batch), network(batch)
    for head in encoder.spec.heads:
        expected = normalised[head.name] * torch.tensor(head.std) + torch.tensor(head.mean)
        torch.testing.assert_close(predicted[head.name], expected)
    assert load_weights(run / "model").identity() == load_checkpoint(run).identity()


@pytest.mark.parametrize("damage", ["flip", "cut", "other", "meaning", "version"])
def test_a_damaged_network_is_refused(sample_set, tiny, tmp_path, damage):
    run = tmp_path / "run"
    pretrain(sample_set, run, replace(tiny, num_steps=1), resume=False)
    weights, meaning = run / "model" / "model.safetensors", run / "model" / "model.json"
    data = bytearray(weights.read_bytes())
    if damage == "flip":
        data[-3] ^= 1
        weights.write_bytes(data)
    elif damage == "cut":
        weights.write_bytes(data[:-10])
    elif damage == "other":
        replace(Meaning.read(meaning), weights_sha256="0" * 64).write(meaning)
    elif damage == "meaning":
        meaning.write_bytes(meaning.read_bytes().replace(b'"mean"', b'"mean "'))
    else:
        meaning.write_bytes(seal_json({}, kind="model", version=99))
    message = {
        "meaning": r"model\.json: damaged or edited",
        "version": "model version 99, this molstream reads 4; .*; restore it or train again",
    }.get(damage, "damaged, or of another")
    with pytest.raises(CheckpointError, match=message):
        molstream.load_encoder(run / "model")


def test_an_encoder_loads_without_the_trainer():
    code = (
        "import sys, molstream; molstream.load_encoder; print([m for m in sys.modules if m.startswith(('accelerate', 'rdkit'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"
