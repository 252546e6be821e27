"""The examples run, and do what they say."""

import importlib.util
import json
import os
import re
import runpy
import socket
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import distributed

from molstream.streamer.config import Budget, StreamConfig
from molstream.streamer.loader import Loader
from molstream.streamer.plan import Plan

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted(path.name for path in (ROOT / "examples").glob("*.py"))


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", ROOT / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_are_short_and_say_how_to_run_them(name):
    text = (ROOT / "examples" / name).read_text()
    assert text.count("\n") <= 40
    assert f"examples/{name}" in text.split('"""')[1]


def test_there_are_examples():
    assert EXAMPLES == ["loop.py", "pytorch_ddp.py", "with_lightning.py"]


@pytest.mark.parametrize("stops", [(), (1,), (2,), (1, 1)])
def test_the_loop_goes_on_where_it_was_stopped(sample_set, tmp_path, stops):
    loop, molecules = load("loop"), sample_set.manifest.splits["train"]["molecules"]
    config = StreamConfig(budget=Budget.suggest(sample_set, atoms=512), num_lanes=4)
    assert Plan.make(sample_set, config, 0).num_steps > sum(stops)
    state = tmp_path / "state.json"
    parts = [loop.main(str(sample_set.path), str(state), steps) for steps in (*stops, None)]
    assert sum(parts) == molecules
    assert all(parts[: len(stops)])
    assert loop.main(str(sample_set.path), str(state)) == 0, "when it is done, it is done"
    assert [p.name for p in tmp_path.iterdir()] == ["state.json"]
    assert json.loads(state.read_text())["fingerprint"] == sample_set.manifest.fingerprint


def test_ddp_runs_on_one_rank(sample_set, monkeypatch, capsys):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    for name, value in {"RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "localhost", "MASTER_PORT": port}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(sys, "argv", ["pytorch_ddp.py", str(sample_set.path)])
    with torch.random.fork_rng():
        runpy.run_path(str(ROOT / "examples" / "pytorch_ddp.py"), run_name="__main__")
    assert not distributed.is_initialized()
    assert re.fullmatch(r"rank 0 of 1: \d+ steps, weights \d+\.\d+\n", capsys.readouterr().out)


def torchrun(number: int, script: Path, *argv: object) -> str:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(number), script, *argv]
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(list(map(str, command)), env=env, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_ddp_ends_at_the_same_weights_for_one_rank_and_for_three(sample_set):
    """Of eight lanes, so that two of three ranks have a lane more than the third."""
    one, three = (torchrun(n, ROOT / "examples" / "pytorch_ddp.py", sample_set.path) for n in (1, 3))
    num_steps = Plan.make(sample_set, StreamConfig(budget=Budget.suggest(sample_set, atoms=1024), num_lanes=8), 0).num_steps
    # lines of several processes may run into each other
    assert re.findall(r"(\d+) steps", one + three) == [str(num_steps)] * 4
    weights = re.findall(r"weights (\d+\.\d{3})", one + three)
    assert len(weights) == 4
    assert len(set(weights)) == 1


RANKS = """
import json, sys
from pathlib import Path
from torch import distributed
from molstream import Budget, Loader, ShardSet, StreamConfig
from molstream.streamer.ledger import LedgerWriter

distributed.init_process_group("gloo")
rank, world = distributed.get_rank(), distributed.get_world_size()
shard_set, out = ShardSet(sys.argv[1]), Path(sys.argv[2])
config = StreamConfig(budget=Budget.suggest(shard_set, atoms=256), num_lanes=5, window_molecules=40)
loader = Loader(shard_set, config, rank=rank, world_size=world, with_ids=True)
with LedgerWriter(out / f"{rank}.parquet") as ledger:
    for step in loader:
        ledger.add(step)
        distributed.barrier()
(out / f"{rank}.json").write_text(json.dumps(loader.state_dict()))
distributed.barrier()
distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_ranks_of_torchrun_stream_together_what_one_process_streams(sample_set, tmp_path):
    """With a barrier a step: a rank with a step less would leave the others waiting."""
    import pyarrow.parquet as pq

    script = tmp_path / "ranks.py"
    script.write_text(RANKS)
    torchrun(2, script, sample_set.path, tmp_path)
    ledgers = [pq.read_table(tmp_path / f"{rank}.parquet").to_pylist() for rank in range(2)]
    assert (tmp_path / "0.json").read_text() == (tmp_path / "1.json").read_text()
    config = StreamConfig(budget=Budget.suggest(sample_set, atoms=256), num_lanes=5, window_molecules=40)
    expected = [
        {"epoch": 0, "step": step.step, "lane": lane, "set": 0, "id": int(i)}
        for step in Loader(sample_set, config, with_ids=True)
        for lane, batch in zip(step.lanes, step.batches, strict=True)
        for i in batch.ids
    ]
    order = lambda row: (row["step"], row["lane"])  # noqa: E731
    assert sorted(ledgers[0] + ledgers[1], key=order) == sorted(expected, key=order)
    assert all(ledgers)


@pytest.mark.filterwarnings("ignore")
def test_lightning_trains_saves_and_goes_on_with_the_next_step(sample_set, tmp_path):
    """In the middle of an epoch, and over its edge: the steps of two runs are those of one."""
    lightning = pytest.importorskip("lightning")
    seen: list[tuple[int, int]] = []

    class Seen(load("with_lightning").SumOfAtoms):
        def training_step(self, step, step_number):
            seen.append((step.epoch, step.step))
            loss = super().training_step(step, step_number)
            assert torch.isfinite(loss)
            return loss

    def fit(steps: int, checkpoint: Path | None = None) -> list[tuple[int, int]]:
        seen.clear()
        quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"), False)
        trainer = lightning.Trainer(max_steps=steps, max_epochs=-1, accelerator="cpu", default_root_dir=tmp_path, **quiet)
        trainer.fit(Seen(str(sample_set.path), 128), ckpt_path=checkpoint, weights_only=False)
        trainer.save_checkpoint(tmp_path / f"{steps}.ckpt")
        return list(seen)

    num_steps = Plan.make(sample_set, StreamConfig(budget=Budget.suggest(sample_set, atoms=128), num_lanes=4), 0).num_steps
    whole = fit(num_steps + 7)
    assert whole == [(0, k) for k in range(num_steps)] + [(1, k) for k in range(7)]
    assert fit(5) + fit(num_steps, tmp_path / "5.ckpt") + fit(num_steps + 7, tmp_path / f"{num_steps}.ckpt") == whole
