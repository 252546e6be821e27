"""The examples run as their first lines say."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def run(*command: object) -> str:
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    env = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    for _ in range(3):
        done = subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True, env=env, check=False)
        # on a busy machine gloo may abort an interpreter that is about to exit; nothing else is tried again
        if "terminate called without an active exception" not in done.stderr:
            break
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_bare_loop_goes_on_where_it_stopped(sample_set, tmp_path):
    state, molecules = tmp_path / "state.json", []
    for steps in (2, 1000):
        molecules.append(int(run(ROOT / "examples/loop.py", sample_set.path, state, steps).split()[0]))
    assert sum(molecules) == sample_set.manifest.splits["train"]["molecules"]
    assert all(molecules)


def test_two_ranks_under_torchrun_stream_every_molecule_once(sample_set):
    launch = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2)
    out = run(*launch, ROOT / "examples/pytorch_ddp.py", sample_set.path)
    assert out.startswith(f"{sample_set.manifest.splits['train']['molecules']} molecules in ")
    assert out.endswith(" steps on 2 ranks\n")


def test_lightning_takes_the_loader_as_it_is(sample_set):
    pytest.importorskip("lightning")
    steps, of, all_steps, *_ = run(ROOT / "examples/with_lightning.py", sample_set.path).splitlines()[-1].split()
    assert (steps, of) == (all_steps, "of")
