"""A joined build that is killed anywhere ends with the bytes of one that was not; so does one in several processes or on Ray."""

import random
import runpy
import signal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from molstream.shards.build.build import WorkOptions, build
from molstream.shards.errors import FormatError, InputError
from molstream.shards.format.reader import ShardSet
from molstream.shards.format.verify import verify

KILL = Path(__file__).parents[1] / "attacks" / "kill_build.py"
JOINED = runpy.run_path(str(KILL))["JOINED"]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def assays(sample_table) -> Path:
    """Every second molecule of the sample, 15 of them twice, in PCBA's columns."""
    smiles = pq.read_table(sample_table)["ordered_smiles"].to_pylist()
    rows = smiles[::2] + smiles[:60:4]
    draw = random.Random(3)
    labels = {f"assayID-{k}": [draw.choice((0.0, 1.0, None)) for _ in rows] for k in range(5)}
    path = sample_table.parent / "assays.parquet"
    pq.write_table(pa.table({"SMILES": rows} | labels), path, row_group_size=50)
    return path


@pytest.fixture(scope="module")
def reference(sample_table, assays, tmp_path_factory, run_python):
    """The set that the killed builds are to end with, and the number of moments to be killed at."""
    out = tmp_path_factory.mktemp("joined") / "set"
    done = run_python(KILL, 10**9, out, sample_table, assays)
    assert done.returncode == 0, done.stderr
    assert not verify(ShardSet(out)).problems
    assert ShardSet(out).manifest.join.tables[1].duplicates == 15
    return out, int(done.stdout)


@pytest.fixture
def small_ranges(monkeypatch):
    monkeypatch.setattr("molstream.shards.inputs.tables.RANGE_ROWS", 80)
    monkeypatch.setattr("molstream.shards.inputs.tables.MIN_RANGE_ROWS", 80)


@pytest.mark.usefixtures("small_ranges")
def test_a_joined_build_killed_at_any_moment_of_writing_ends_with_the_same_bytes(
    reference, sample_table, assays, tmp_path, folder_bytes, run_python
):
    whole, num_moments = reference
    expected, out, draw, states = folder_bytes(whole), tmp_path / "set", random.Random(21), set()
    for moment in draw.sample(range(num_moments), 20):
        done = run_python(KILL, moment, out, sample_table, assays)
        assert done.returncode == -signal.SIGKILL, done.stderr
        work = {p.name for p in (out / ".building").glob("*")} if out.exists() else set()
        states.add(("join" if any("-join-" in n for n in work) else "map", any(n.endswith(".facts") for n in work)))
        try:
            assert not verify(ShardSet(out)).problems
        except (FormatError, InputError) as error:
            assert "incomplete build" in str(error) or "no such folder" in str(error)  # noqa: PT017
        build([[str(sample_table)], [str(assays)]], out, JOINED)
        assert folder_bytes(out) == expected, f"killed at moment {moment} of {num_moments}, seed 21"
        for path in sorted(out.rglob("*"), reverse=True):
            path.unlink()
    # killed in the map phase, in the merge phase, and in the reduce phase
    assert {("map", False), ("join", False), ("join", True)} <= states


@pytest.mark.usefixtures("small_ranges")
def test_workers_and_ray_join_to_the_same_bytes(reference, sample_table, assays, tmp_path, folder_bytes):
    pytest.importorskip("ray", reason="needs molstream[ray]")
    for name, work in (("two", WorkOptions(workers=2)), ("ray", WorkOptions(workers=2, engine="ray"))):
        build([[str(sample_table)], [str(assays)]], tmp_path / name, JOINED, work=work)
        assert folder_bytes(tmp_path / name) == folder_bytes(reference[0])
