"""molstream eval in several processes, started by torchrun: what one process says, said once; a process that fails ends all."""

import json
import shutil
from pathlib import Path

import pytest

from molstream.shards.format.reader import ShardSet

CLASSES = ("auroc", "ap", "accuracy")


def check_same(found: dict, expected: dict) -> None:
    """Counts and class metrics exact; moments and losses up to the order in which float64 was summed."""
    assert {k: found[k] for k in ("split", "step", "molecules", "complete")} == {
        k: expected[k] for k in ("split", "step", "molecules", "complete")
    }
    assert found["loss"] == pytest.approx(expected["loss"], rel=1e-9)
    assert list(found["tasks"]) == list(expected["tasks"])
    for name, tasks in expected["tasks"].items():
        assert found["task_sets"][name]["loss"] == pytest.approx(expected["task_sets"][name]["loss"], rel=1e-9)
        for ours, theirs in zip(found["tasks"][name], tasks, strict=True):
            assert {k: v for k, v in ours.items() if k != "values"} == {k: v for k, v in theirs.items() if k != "values"}
            assert list(ours["values"]) == list(theirs["values"])
            for metric, value in theirs["values"].items():
                # r2 is a difference from 1
                close = value if metric in CLASSES or value is None else pytest.approx(value, rel=1e-9, abs=1e-9)
                assert ours["values"][metric] == close, f"{name} {theirs['task']} {metric}"


# the last split has fewer packs than there are processes
SLOW = pytest.mark.slow


@SLOW
@pytest.mark.parametrize(
    ("processes", "data", "split"),
    [(2, "kinds", "train"), (3, "pm6", "train"), (3, "kinds", "test")],
)
def test_several_processes_say_what_one_says_and_say_it_once(request, torchrun, succeed, tmp_path, processes, data, split):
    shard_set, run = map(request.getfixturevalue, {"kinds": ("kinds_set", "kinds_run"), "pm6": ("shard_set", "run")}[data])
    call = ("eval", shard_set, "--checkpoint", run, "--split", split)
    alone = succeed(*call, "--out", tmp_path / "alone.json")
    files = ("--out", tmp_path / "all.json", "--out", tmp_path / "all.parquet")
    code, out, err = torchrun(processes, "-m", "molstream", *call, *files)
    assert code == 0, err
    found, expected = (json.loads((tmp_path / name).read_text()) for name in ("all.json", "alone.json"))
    check_same(found, expected)
    assert found["molecules"] == ShardSet(shard_set).manifest.splits[split]["molecules"]
    # digits that are printed may be rounded the other way
    assert [line.split()[:2] for line in out.splitlines()[:-2]] == [line.split()[:2] for line in alone.lines[:-1]]
    assert out.splitlines()[-2:] == [f"all tasks: {file}" for file in files[1::2]]


@SLOW
def test_the_packs_are_shared_by_the_processes(torchrun, kinds_set, kinds_run, tmp_path):
    script = tmp_path / "count.py"
    script.write_text(
        "import os, sys\n"
        "from molstream.trainers.metrics.metrics import Metrics\n"
        "add = Metrics.add\n"
        "number = 0\n"
        "def count(self, predictions, targets, **more):\n"
        "    global number\n"
        "    number += int(targets['graph'][1].sum())\n"
        "    return add(self, predictions, targets, **more)\n"
        "Metrics.add = count\n"
        "from molstream.tools.main import main\n"
        "try:\n"
        "    main(sys.argv[1:])\n"
        "finally:\n"
        "    open(f'labels-{os.environ[\"RANK\"]}', 'w').write(str(number))\n"
    )
    code, _, err = torchrun(2, script, "eval", kinds_set, "--checkpoint", kinds_run, "--split", "train")
    assert code == 0, err
    numbers = [int((tmp_path / f"labels-{rank}").read_text()) for rank in range(2)]
    assert sum(numbers) == ShardSet(kinds_set).manifest.labels["y"]["train"]
    assert all(numbers), "a process had nothing to do"


def damage(shard_set: Path, flip, split: str) -> None:
    opened = ShardSet(shard_set)
    at = int(opened.index.members["graph_labels_offset"][opened.blocks(split)[0]])
    flip(shard_set / f"{split}-00000.tar", at + 20)


@SLOW
def test_data_that_is_damaged_ends_all_processes(torchrun, run, copy_set, flip, tmp_path):
    damage(copy_set, flip, "train")
    call = ("eval", copy_set, "--checkpoint", run, "--split", "train", "--out", tmp_path / "all.json")
    code, out, err = torchrun(2, "-m", "molstream", *call)
    assert code != 0
    assert "train-00000.tar, block 0, member graph_labels: damaged" in err
    assert out == ""
    assert not (tmp_path / "all.json").exists()


@SLOW
@pytest.mark.parametrize("failing", [0, 1])
def test_a_process_that_fails_alone_ends_the_others(torchrun, kinds_set, kinds_run, flip, tmp_path, failing):
    """One process reads a damaged copy of the set that the other reads whole, and then waits for the sums of both."""
    bad = Path(shutil.copytree(kinds_set, tmp_path / "bad"))
    damage(bad, flip, "train")
    script = tmp_path / "alone.py"
    script.write_text(
        "import os, sys\n"
        "from molstream.tools.main import main\n"
        "good, bad, *rest = sys.argv[1:]\n"
        f"main(['eval', bad if os.environ['RANK'] == '{failing}' else good, *rest])\n"
    )
    out_file = tmp_path / "all.json"
    code, out, err = torchrun(2, script, kinds_set, bad, "--checkpoint", kinds_run, "--split", "train", "--out", out_file)
    assert code != 0
    assert "train-00000.tar, block 0, member graph_labels: damaged" in err
    assert out == ""
    assert not out_file.exists()


@SLOW
def test_a_call_that_is_refused_ends_all_processes(torchrun, shard_set, run):
    code, out, err = torchrun(2, "-m", "molstream", "eval", shard_set, "--checkpoint", run, "--split", "dev")
    assert (code != 0, out) == (True, "")
    assert "no split 'dev', it holds train, val, test" in err
    assert "Error initializing" not in err


def test_processes_that_are_announced_but_not_there_are_a_line(molstream, shard_set, run, monkeypatch):
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    done = molstream("eval", shard_set, "--checkpoint", run)
    assert (done.code, done.out) == (2, "")
    assert done.error.startswith("WORLD_SIZE is 2, which says that there are more processes: ")
    assert done.error.endswith("RANK, MASTER_ADDR, MASTER_PORT not set")
