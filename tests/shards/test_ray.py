"""Building on Ray: a real one, with two nodes, of which one is killed. Extra molstream[ray]."""

import json
import runpy
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from molstream.shards.build.build import WorkOptions, build
from molstream.shards.errors import InputError
from molstream.shards.format.reader import ShardSet
from molstream.shards.format.verify import verify

LOSE = Path(__file__).parents[1] / "attacks" / "lose_node.py"
pytestmark = pytest.mark.slow
pytest.importorskip("ray", reason="needs molstream[ray]")


def test_a_build_that_loses_a_node_ends_with_the_same_bytes(sample_table, tmp_path, run_python, folder_bytes, monkeypatch):
    pq.write_table(pa.concat_tables([pq.read_table(sample_table)] * 40), tmp_path / "many.parquet")
    done = run_python(LOSE, tmp_path / "ray", tmp_path / "many.parquet")
    assert done.returncode == 0, done.stderr[-3000:]
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["lost_at"][0] < 1
    build([str(tmp_path / "many.parquet")], tmp_path / "local", runpy.run_path(str(LOSE))["OPTIONS"])
    assert folder_bytes(tmp_path / "ray") == folder_bytes(tmp_path / "local")
    assert not verify(ShardSet(tmp_path / "ray")).problems


def test_the_command_starts_a_ray_of_its_own(sample_table, sample_set, tmp_path, run_python, folder_bytes):
    call = ["build", sample_table, "--split-fractions", "80,10,10", "--block-molecules", 32, "--shard-molecules", 100]
    for name, more in (("ray", ["--engine", "ray", "--workers", 2]), ("local", [])):
        done = run_python("-m", "molstream", *call, "--out", tmp_path / name, *more)
        assert done.returncode == 0, done.stderr[-3000:]
    assert folder_bytes(tmp_path / "ray") == folder_bytes(tmp_path / "local")


def test_an_address_where_no_ray_is_is_one_line(sample_table, tmp_path, run_python):
    call = ["build", sample_table, "--out", tmp_path / "out", "--engine", "ray", "--ray-address", "127.0.0.1:1"]
    done = run_python("-m", "molstream", *call)
    assert done.returncode == 2
    assert "molstream: error: Ray at 127.0.0.1:1: cannot be reached: " in done.stderr.splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_an_address_without_ray_is_refused():
    with pytest.raises(InputError, match="of no use without the engine ray"):
        WorkOptions(ray_address="127.0.0.1:1")
