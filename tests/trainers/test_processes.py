"""Training in several processes: the gradient and the losses of one, whatever their number; they stop, fail and end together."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from molstream.trainers.distributed.process_group import ProcessGroup, join_slurm
from molstream.trainers.errors import RunError
from molstream.trainers.recipes import smoke
from molstream.trainers.runs.checkpoint import load_checkpoint
from molstream.trainers.runs.folder import RESULTS
from molstream.trainers.training.trainer import pretrain

SCRIPT = Path(__file__).with_name("train_rank.py")
SLOW = pytest.mark.slow


@pytest.fixture
def recipe():
    """Five lanes, so that processes have different numbers of them, all that is random switched on, three epochs in f64."""
    return replace(
        smoke(),
        hidden=16,
        encodings=("rw16", "lap8"),
        dropout=0.2,
        weighting="uncertainty",
        ema_decay=0.9,
        precision="f64",
        num_lanes=5,
        num_steps=50,
        eval_steps=20,
        eval_packs=3,
        log_steps=1,
        window_molecules=300,
    )


def jobs_of(sample_set, tmp_path, name: str, recipe) -> list[dict]:
    """The whole run, and first steps in both precisions."""
    runs = {"whole": recipe}
    for precision in ("f32", "f64"):
        runs[f"first-{precision}"] = replace(recipe, precision=precision, num_steps=1)
    return [{"set": str(sample_set.path), "run": str(tmp_path / name / run), "recipe": r.to_json()} for run, r in runs.items()]


def read_losses(run: Path) -> tuple[list[int], torch.Tensor]:
    """Steps, and (steps, values): losses and gradient norms of the training log, losses of the validations."""
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    train = [line for line in lines if line["kind"] == "train"]
    keys = [key for key in train[0] if key.startswith(("loss", "gradient", "weight"))]
    values = [[line[key] for key in keys] for line in train]
    for line in lines:
        if line["kind"] == "validation":
            train.append(line)
            values.append([line["loss"]] * len(keys))
    return [line["step"] for line in train], torch.tensor(values, dtype=torch.float64)


def first_gradient(run: Path) -> torch.Tensor:
    """All of it, clipped, as Adam's first moment after one step is a tenth of it."""
    states = load_checkpoint(run).optimizer["state"]
    return torch.cat([states[k]["exp_avg"].double().flatten() for k in sorted(states)])


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


def write_jobs(tmp_path, jobs: list[dict]) -> Path:
    path = tmp_path / "jobs.json"
    path.write_text(json.dumps(jobs))
    return path


@SLOW
@pytest.mark.parametrize("processes", [2, 3, 4])
def test_gradients_and_losses_are_those_of_one_process(sample_set, recipe, tmp_path, torchrun, processes):
    for job in jobs_of(sample_set, tmp_path, "alone", recipe):
        alone = replace(recipe, precision=job["recipe"]["precision"], num_steps=job["recipe"]["num_steps"])
        pretrain(sample_set, Path(job["run"]), alone, resume=False)
    code, out, err = torchrun(processes, SCRIPT, write_jobs(tmp_path, jobs_of(sample_set, tmp_path, "all", recipe)))
    assert code == 0, err
    assert len(out.splitlines()) == 3
    a, b = tmp_path / "all", tmp_path / "alone"
    assert relative(first_gradient(a / "first-f64"), first_gradient(b / "first-f64")) < 1e-12
    assert relative(first_gradient(a / "first-f32"), first_gradient(b / "first-f32")) < 1e-6
    (steps, losses), (expected_steps, expected) = read_losses(a / "whole"), read_losses(b / "whole")
    assert steps == expected_steps
    torch.testing.assert_close(losses, expected, rtol=1e-9, atol=0)
    weights, expected = (load_checkpoint(run / "whole").weights for run in (a, b))
    for name, weight in expected.items():
        torch.testing.assert_close(weights[name], weight, rtol=1e-7, atol=1e-12)
    results = [json.loads((run / "whole" / RESULTS).read_text()) for run in (a, b)]
    assert results[0]["molecules"] == results[1]["molecules"]
    assert results[0]["loss"] == pytest.approx(results[1]["loss"], rel=1e-9)


@SLOW
def test_a_run_stopped_at_four_processes_goes_on_at_three_and_at_one(sample_set, recipe, tmp_path, torchrun):
    whole = {"set": str(sample_set.path), "run": str(tmp_path / "whole"), "recipe": recipe.to_json()}
    run = whole | {"run": str(tmp_path / "run"), "resume": True}
    pretrain(sample_set, tmp_path / "whole", recipe, resume=False)
    reached = 0
    for processes in (4, 3):
        code, out, err = torchrun(processes, SCRIPT, write_jobs(tmp_path, [run | {"stop_after": 13}]))
        assert code == 0, err
        before, reached = reached, int(out.split()[-1])
        assert before < reached < recipe.num_steps
    pretrain(sample_set, tmp_path / "run", recipe, resume=True)
    (steps, losses), (expected_steps, expected) = read_losses(tmp_path / "run"), read_losses(tmp_path / "whole")
    assert sorted(steps) == sorted(expected_steps)
    torch.testing.assert_close(losses, expected, rtol=1e-9, atol=0)


@SLOW
def test_damaged_data_that_one_process_meets_ends_all(sample_set, recipe, tmp_path, torchrun):
    folder = tmp_path / "damaged"
    shutil.copytree(sample_set.path, folder)
    counts = sample_set.index
    shard = folder / "train-00000.tar"
    data = bytearray(shard.read_bytes())
    data[int(counts.members["graph_labels_offset"][sample_set.blocks("train")[0]]) + 20] ^= 1
    shard.write_bytes(data)
    job = {"set": str(folder), "run": str(tmp_path / "run"), "recipe": recipe.to_json()}
    code, _, err = torchrun(3, SCRIPT, write_jobs(tmp_path, [job]))
    assert code != 0
    assert "train-00000.tar, block 0, member graph_labels: damaged" in err
    # and not of a process that waits for it until a timeout
    assert "Timed out" not in err


def test_a_process_alone_agrees_with_itself():
    alone = ProcessGroup()
    assert alone.share(7) == 7
    with pytest.raises(RunError, match=r"^mine$") as caught, alone.together():
        raise RunError("mine")
    assert caught.value.exit_code == 2
    assert list(alone.in_step(iter("ab"), lambda item: [ord(item)], 1)) == [("a", [97]), ("b", [98])]


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE is 'two', expected a whole number"),
        ({"WORLD_SIZE": "2", "RANK": "2"}, "RANK is 2, expected 0 to 1, as WORLD_SIZE is 2"),
        ({"WORLD_SIZE": "2", "RANK": "0"}, "WORLD_SIZE is 2, which says that there are more processes: .*MASTER_ADDR"),
        (
            {"SLURM_STEP_NUM_TASKS": "2"},
            "but SLURM_PROCID, SLURM_LOCALID, SLURM_JOB_ID is not set; start with srun",
        ),
    ],
)
def test_variables_of_a_launcher_that_make_no_sense_are_named(monkeypatch, variables, message):
    from molstream.trainers.distributed.process_group import joined

    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with pytest.raises(RunError, match=message), joined():
        pass


def test_slurms_variables_become_those_of_torch(monkeypatch):
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        # set first, so that what is set below is taken back
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    # a batch script is one process, whatever its job has asked for
    monkeypatch.setenv("SLURM_NTASKS", "4")
    join_slurm()
    assert "WORLD_SIZE" not in os.environ
    slurm = {"STEP_NUM_TASKS": "4", "PROCID": "2", "LOCALID": "1", "JOB_ID": "12345678", "LAUNCH_NODE_IPADDR": "10.0.0.7"}
    for name, value in slurm.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    join_slurm()
    names = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    assert [os.environ[name] for name in names] == ["4", "2", "1", "10.0.0.7", str(20000 + 5678)]
