"""molstream pretrain as several processes: its own, torchrun's, accelerate's and Slurm's; signals, kills, one line of error."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from molstream.trainers.distributed.launch import count_processes
from molstream.trainers.runs.checkpoint import list_checkpoints, load_checkpoint

ROOT = Path(__file__).resolve().parents[2]
SLOW = pytest.mark.slow
F64 = ("--recipe", "smoke", "--set", "num_lanes=4", "--set", "precision=f64", "--set", "log_steps=1", "--set", "dropout=0.1")


def losses_of(out: Path) -> dict[int, float]:
    lines = map(json.loads, (out / "log.jsonl").read_text().splitlines())
    return {line["step"]: line["loss"] for line in lines if line["kind"] == "train"}


def wait_for_step(process, out: Path, step: int) -> None:
    deadline = time.monotonic() + 500
    while not ((out / "log.jsonl").exists() and max(losses_of(out), default=0) >= step):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def ranks_of(process) -> list[psutil.Process]:
    """The processes that a launcher has started, in order of their ranks."""
    children = psutil.Process(process.pid).children()
    return sorted((c for c in children if "RANK" in c.environ()), key=lambda c: int(c.environ()["RANK"]))


@pytest.fixture(scope="module")
def alone(succeed, shard_set, tmp_path_factory):
    """The losses of one process."""
    out = tmp_path_factory.mktemp("alone") / "run"
    succeed("pretrain", shard_set, "--out", out, *F64, "--steps", 60)
    return losses_of(out)


def check_losses(out: Path, alone) -> None:
    found = losses_of(out)
    assert list(found) == list(alone)
    assert all(found[step] == pytest.approx(loss, rel=1e-9) for step, loss in alone.items())


@SLOW
def test_a_run_killed_at_four_processes_goes_on_at_three_with_the_same_losses(start, shard_set, tmp_path, alone):
    out = tmp_path / "run"
    call = ("pretrain", shard_set, "--out", out, *F64, "--steps", 60, "--set", "eval_steps=7", "--resume", "--processes")
    process = start(*call, 4)
    wait_for_step(process, out, 10)
    victim = ranks_of(process)[2]
    victim.send_signal(signal.SIGKILL)
    _, err = process.communicate(timeout=500)
    assert process.returncode == 1, err
    assert [line for line in err.splitlines() if "error" in line] == [
        "molstream: error: process 2 of 4 was ended by SIGKILL; go on with the same command and --resume"
    ]
    assert "Traceback" not in err
    process = start(*call, 3)
    printed, err = process.communicate(timeout=500)
    assert process.returncode == 0, err
    assert "device  3 processes, cpu" in err
    assert err.count("resumed at step") == 1
    assert printed.count("val: ") == 1
    check_losses(out, alone)


@SLOW
@pytest.mark.parametrize(("number", "is_to_all"), [(signal.SIGUSR1, False), (signal.SIGINT, False), (signal.SIGINT, True)])
def test_a_signal_to_the_launcher_or_to_all_stops_all_with_a_checkpoint(start, shard_set, tmp_path, number, is_to_all, alone):
    out = tmp_path / "run"
    process = start("pretrain", shard_set, "--out", out, *F64, "--steps", 60, "--processes", 2)
    wait_for_step(process, out, 5)
    # a terminal sends Ctrl-C to all of a group
    for each in [*ranks_of(process), process] if is_to_all else [process]:
        each.send_signal(number)
    printed, err = process.communicate(timeout=500)
    assert process.returncode == 130, err
    assert err.count("stopping after this step") == 1
    assert "Traceback" not in err
    step = load_checkpoint(out).step
    assert 5 <= step < 60
    first, again = printed.splitlines()
    assert first == f"stopped at step {step} of 60, checkpoint written; go on with"
    assert again.endswith(f"pretrain {shard_set} --out {out} --resume --processes 2")
    process = start("pretrain", shard_set, "--out", out, "--resume", "--processes", 4)
    _, err = process.communicate(timeout=500)
    assert process.returncode == 0, err
    check_losses(out, alone)


@SLOW
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_before_the_first_step_ends_all(start, shard_set, tmp_path, number):
    process = start("pretrain", shard_set, "--out", tmp_path / "run", *F64, "--steps", 60, "--processes", 2)
    deadline = time.monotonic() + 500
    while len(ranks_of(process)) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(number)
    printed, err = process.communicate(timeout=500)
    assert (process.returncode, printed) == (130, ""), err
    assert "Traceback" not in err
    assert "error" not in err


@SLOW
def test_processes_end_with_the_launcher(start, shard_set, tmp_path):
    out = tmp_path / "run"
    process = start("pretrain", shard_set, "--out", out, *F64, "--steps", 5000, "--processes", 2)
    wait_for_step(process, out, 3)
    ranks = ranks_of(process)
    process.kill()
    gone, alive = psutil.wait_procs(ranks, timeout=500)
    assert len(gone) == 2
    assert not alive
    assert load_checkpoint(out).step >= 3


def environment(**variables: object) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | {k: str(v) for k, v in variables.items()}


@SLOW
def test_torchrun_and_accelerate_launch_are_joined(torchrun, shard_set, tmp_path, alone):
    call = ("pretrain", shard_set, *F64, "--steps", 60, "--device", "cpu", "--out")
    code, out, err = torchrun(3, "-m", "molstream", *call, tmp_path / "torchrun")
    assert code == 0, err
    assert out.count("val: ") == 1
    check_losses(tmp_path / "torchrun", alone)
    launch = ("-m", "accelerate.commands.launch", "--cpu", "--num_processes", 2, "--num_machines", 1, "--mixed_precision", "no")
    launch = (*launch, "--num_cpu_threads_per_process", 1, "--main_process_ip", "127.0.0.1", "--main_process_port", free_port())
    done = subprocess.run(
        [sys.executable, *map(str, (*launch, "--module", "molstream", *call, tmp_path / "accelerate"))],
        env=environment(),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    check_losses(tmp_path / "accelerate", alone)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@SLOW
def test_tasks_that_srun_would_start_find_each_other(shard_set, tmp_path, alone):
    # Slurm itself is not here; its variables are
    started = [
        subprocess.Popen(
            [
                sys.executable,
                "-m",
                "molstream",
                *map(str, ("pretrain", shard_set, *F64, "--steps", 60, "--out", tmp_path / "run")),
            ],
            env=environment(
                SLURM_STEP_NUM_TASKS=3,
                SLURM_PROCID=rank,
                SLURM_LOCALID=rank,
                SLURM_JOB_ID=os.getpid(),
                SLURM_LAUNCH_NODE_IPADDR="127.0.0.1",
            ),
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(3)
    ]
    try:
        printed = [process.communicate(timeout=500) for process in started]
    finally:
        for process in started:
            process.kill()
            process.wait()
    assert [process.returncode for process in started] == [0, 0, 0], printed
    assert [bool(out) for out, _ in printed] == [True, False, False]
    check_losses(tmp_path / "run", alone)


@SLOW
def test_more_processes_than_lanes_are_one_line_and_leave_nothing(start, shard_set, tmp_path):
    options = ("--recipe", "smoke", "--set", "num_lanes=1", "--processes", 2)
    process = start("pretrain", shard_set, "--out", tmp_path / "run", *options)
    out, err = process.communicate(timeout=500)
    assert (process.returncode, out) == (2, "")
    assert err == (
        "molstream: error: 2 processes, expected at most 1, the lanes of recipe smoke, of which each gives a pack a step; start "
        "fewer, or add --set num_lanes=2, which makes a step larger\n"
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_one_line(molstream, shard_set, tmp_path):
    done = molstream("pretrain", shard_set, "--out", tmp_path / "run", "--recipe", "smoke", "--device", "cuda")
    assert done.code == 2
    assert done.error.startswith("device cuda: no GPU here, PyTorch ")
    assert done.error.endswith("use --device cpu")
    assert not (tmp_path / "run").exists()


def test_how_many_processes_are_started(monkeypatch):
    for name in ("WORLD_SIZE", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    assert count_processes(3, "auto", 8) == 3
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert count_processes(None, "auto", 8) == 1
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    # a process a GPU, none without a lane
    assert [count_processes(None, "auto", lanes) for lanes in (1, 3, 8)] == [1, 3, 4]
    assert count_processes(None, "cpu", 8) == 1
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert count_processes(None, "auto", 8) == 1
    assert count_processes(2, "auto", 8) == 1
    with pytest.raises(ValueError, match="--processes 3, but 2 were started by torchrun, accelerate or srun"):
        count_processes(3, "auto", 8)


def test_model_and_best_checkpoint_are_named_and_taken(succeed, run, shard_set, tmp_path):
    assert {p.name for p in (run / "model").iterdir()} == {"model.json", "model.safetensors"}
    newest = succeed("eval", shard_set, "--checkpoint", run, "--split", "val").out
    assert succeed("eval", shard_set, "--checkpoint", run / "model", "--split", "val").out == newest
    best = json.loads((run / "checkpoints" / "best.json").read_text())
    assert (run / "checkpoints" / best["checkpoint"]) in list_checkpoints(run)
    succeed("embed", shard_set, "--checkpoint", run / "checkpoints" / "best.json", "--split", "val", "--out", tmp_path / "e")
