"""What is compiled ahead is what a first run calls, no less and no more."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RUN = """
import json
from molstream.kernels.compiled import arguments_of
from molstream.shards.workers import ahead
from molstream.tools.main import main
ahead.compile_ahead = lambda *stages: None
try:
    main(["pretrain", "--out", "run", "--steps", "1"])
except SystemExit as done:
    assert done.code in (0, None), done.code
from molstream.kernels import compiled
called = {made: set(made.signatures) for made in compiled._arguments if made.signatures}
listed = {made: set(arguments_of(made)) for made in ahead._ALL}
name = lambda made: f"{made.py_func.__module__}.{made.py_func.__name__}"
print(json.dumps({
    "not called": sorted(name(made) for made in listed.keys() - called.keys()),
    "not listed": sorted(name(made) for made in called.keys() - listed.keys()),
    "called otherwise": sorted(f"{name(made)}{s}" for made in called for s in called[made] - listed.get(made, set())),
    "not called so": sorted(f"{name(made)}{s}" for made in listed for s in listed[made] - called.get(made, set())),
}))
"""
AHEAD = """
import json, os
from molstream.kernels.compiled import is_kept
from molstream.kernels.nn import _messages
from molstream.shards.workers import ahead
ahead.KERNELS["train"] = (_messages.cut_atoms,)
os.sched_getaffinity = lambda process: set(range({cores}))
before = is_kept(_messages.cut_atoms)
ahead.compile_ahead("train")
codes = [child.process.wait(timeout=300) for child in ahead._children]
after = is_kept(_messages.cut_atoms)
ahead._children.clear()
ahead.compile_ahead("train")
print(json.dumps([before, codes, after, len(ahead._children)]))
"""


@pytest.fixture
def python(tmp_path):
    """python(script, **environment): what a fresh interpreter prints last, read as JSON."""

    def run(script: str, **environment: str):
        env = os.environ | {"PYTHONPATH": str(ROOT)} | environment
        command = [sys.executable, "-c", script]
        done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return run


@pytest.mark.slow
def test_a_first_run_calls_the_kernels_that_are_compiled_ahead_and_with_the_arguments_they_name(python):
    found = python(RUN)
    assert found == {kind: [] for kind in ("not called", "not listed", "called otherwise", "not called so")}


def test_kernels_are_compiled_ahead_once(python, tmp_path):
    assert python(AHEAD.format(cores=2), NUMBA_CACHE_DIR=str(tmp_path / "cache")) == [False, [0], True, 0]


@pytest.mark.parametrize(("cores", "environment"), [(1, {}), (8, {"LOCAL_RANK": "0"})])
def test_nothing_is_compiled_ahead_on_one_core_or_beside_other_ranks(python, tmp_path, cores, environment):
    cache = {"NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    assert python(AHEAD.format(cores=cores), **cache, **environment) == [False, [], False, 0]
