"""Builds that are killed, run out of disk, or meet changed input: run again they go on, and end with the same bytes."""

import random
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from molstream.shards.build.build import BuildOptions, WorkOptions, build
from molstream.shards.errors import FormatError, InputError, LimitError, OutputError, SchemaError, WorkerError
from molstream.shards.format.reader import ShardSet
from molstream.shards.format.verify import verify

ATTACKS = Path(__file__).parents[1] / "attacks"
KILL = ATTACKS / "kill_build.py"
OPTIONS = runpy.run_path(str(KILL))["OPTIONS"]
MULLIKEN = "node_S0_charges_mulliken"


def check_no_reader_is_fooled(out: Path) -> str:
    """A folder is a whole shard set or says that it is none; returns which."""
    try:
        shard_set = ShardSet(out)
    except FormatError as error:
        assert "incomplete build" in str(error)  # noqa: PT017
        return "incomplete"
    except InputError:
        return "absent"
    assert not verify(shard_set).problems
    return "whole"


@pytest.fixture(scope="module")
def reference(sample_table, tmp_path_factory, run_python):
    """The set that the killed builds are to end with: its files and the number of moments to be killed at."""
    out = tmp_path_factory.mktemp("reference") / "set"
    done = run_python(KILL, 10**9, out, sample_table)
    assert done.returncode == 0, done.stderr
    return out, int(done.stdout)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_build_killed_at_any_moment_of_writing_ends_with_the_same_bytes(
    reference, sample_table, tmp_path, folder_bytes, run_python, monkeypatch
):
    monkeypatch.setattr("molstream.shards.inputs.tables.RANGE_ROWS", 80)
    monkeypatch.setattr("molstream.shards.inputs.tables.MIN_RANGE_ROWS", 80)
    whole, num_moments = reference
    expected = folder_bytes(whole)
    draw, found = random.Random(20), []
    # all of index, rejects, manifest and the removal of the work folder; a sample of plan, spill files, shards and their facts
    moments = sorted({*draw.sample(range(num_moments - 14), 24), *range(num_moments - 14, num_moments)})
    out = tmp_path / "set"
    for moment in moments:
        done = run_python(KILL, moment, out, sample_table)
        assert done.returncode == -signal.SIGKILL, done.stderr
        names = {p.name.split(".", 1)[-1].split(".")[0] for p in (out / ".building").glob("*")} if out.exists() else set()
        found.append((check_no_reader_is_fooled(out), "facts" in names, "spill" in names))
        build([str(sample_table)], out, OPTIONS)
        assert folder_bytes(out) == expected, f"killed at moment {moment} of {num_moments}"
        for path in sorted(out.rglob("*"), reverse=True):
            path.unlink()
    # killed in the map phase, in the reduce phase, and after the commit
    assert {("incomplete", False, True), ("incomplete", True, True)} <= set(found)
    assert any(state == "whole" for state, _, _ in found)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_build_with_two_workers_killed_at_random_times_ends_with_the_same_bytes(sample_table, tmp_path, folder_bytes):
    table = pa.concat_tables([pq.read_table(sample_table)] * 60)
    pq.write_table(table, tmp_path / "many.parquet", row_group_size=2_000)
    call = ["-m", "molstream", "build", str(tmp_path / "many.parquet"), "--shard-molecules", "2000", "--out"]
    root = Path(__file__).parents[2]
    start = time.monotonic()
    subprocess.run([sys.executable, *call, str(tmp_path / "whole")], check=True, capture_output=True, cwd=root)
    took = time.monotonic() - start
    expected, out, kills, draw = folder_bytes(tmp_path / "whole"), tmp_path / "set", 0, random.Random(7)
    states = []
    while kills < 20:
        process = subprocess.Popen(
            [*[sys.executable, *call], str(out), "--workers", "2"], cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            process.wait(timeout=draw.uniform(0.2, 0.7) * took)
            assert process.returncode == 0
            assert folder_bytes(out) == expected
            for path in out.iterdir():
                path.unlink()
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            kills += 1
            states.append(check_no_reader_is_fooled(out))
    done = subprocess.run([sys.executable, *call, str(out)], check=True, capture_output=True, text=True, cwd=root)
    assert folder_bytes(out) == expected, done.stdout
    assert "incomplete" in states


FULL_DISK = """
import json, os, subprocess, sys
from pathlib import Path
sys.path[:] = json.loads(sys.argv[1])
from molstream.shards.inputs import tables
from molstream.shards.build.build import build
from molstream.shards.errors import OutputError, StorageError
OPTIONS = __import__("runpy").run_path(sys.argv[4])["OPTIONS"]
tables.RANGE_ROWS = tables.MIN_RANGE_ROWS = 80
table, disk = sys.argv[2], Path(sys.argv[3])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)], check=True)

def resize(size):
    subprocess.run(["mount", "-o", f"remount,size={size}k", str(disk)], check=True)

def content(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir()}

build([table], disk / "set", OPTIONS)
expected = content(disk / "set")
failed = []
for size in range(8, 4096, 12):
    for path in sorted((disk / "set").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    resize(size)
    try:
        build([table], disk / "set", OPTIONS)
        break
    except (StorageError, OutputError) as error:
        assert "No space left on device" in str(error) and "\\n" not in str(error), error
        failed.append(str(error).split(":")[0].split("/")[-1].split(".")[-1])
        assert not (disk / "set" / "manifest.json").exists()
        left = list((disk / "set").rglob("*.part"))
        assert not left, left
    resize(4096)
    build([table], disk / "set", OPTIONS)
    assert content(disk / "set") == expected, size
print(json.dumps(failed))
"""


@pytest.mark.slow
def test_a_full_disk_in_any_phase_is_one_line_and_can_be_gone_on_from(sample_table, tmp_path):
    import json

    may = subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", str(tmp_path)], capture_output=True, check=False)
    if may.returncode:
        pytest.skip("mounting a small file system is not allowed here")
    (tmp_path / "disk").mkdir()
    arguments = [json.dumps(sys.path), str(sample_table), str(tmp_path / "disk"), str(KILL)]
    done = subprocess.run(
        ["unshare", "-rm", sys.executable, "-c", FULL_DISK, *arguments], capture_output=True, text=True, check=False, timeout=500
    )
    assert done.returncode == 0, done.stderr
    failed = json.loads(done.stdout)
    assert {"spill", "tar"} <= set(failed), failed
    assert len(failed) > 10


# what a build goes on from, and what it refuses


def stop_after_map(phase, done, total):
    if phase == "write":
        raise KeyboardInterrupt


def unfinished(table: Path, out: Path, options: BuildOptions) -> None:
    with pytest.raises(KeyboardInterrupt):
        build([str(table)], out, options, stop_after_map)
    assert list((out / ".building").glob("*.spill"))


def test_input_that_changed_since_the_build_began_is_refused(sample_table, tmp_path, sample_options, folder_bytes):
    table, out = tmp_path / "table.parquet", tmp_path / "out"
    table.write_bytes(sample_table.read_bytes())
    unfinished(table, out, sample_options())
    pq.write_table(pq.read_table(sample_table).slice(1), table)
    before = folder_bytes(out)
    with pytest.raises(SchemaError, match=r"table\.parquet: has changed since the build in .*out began \(300 rows, .*now 299"):
        build([str(table)], out, sample_options())
    assert folder_bytes(out) == before
    table.write_bytes(sample_table.read_bytes())
    build([str(table)], out, sample_options())
    assert check_no_reader_is_fooled(out) == "whole"


def test_an_unfinished_build_of_other_options_or_files_is_refused(sample_table, tmp_path, sample_options, folder_bytes):
    out = tmp_path / "out"
    unfinished(sample_table, out, sample_options())
    before = folder_bytes(out)
    other = tmp_path / "other.parquet"
    other.write_bytes(sample_table.read_bytes())
    for inputs, options, reason in (
        ([sample_table], sample_options(seed=1), r"unfinished build with seed 0 \(now 1\); run it with that to go on, or remove"),
        ([sample_table], sample_options(shard_molecules=99), r"shard_molecules 100 \(now 99\)"),
        ([sample_table, other], sample_options(), "unfinished build of 1 files, now 2"),
        ([other], sample_options(), r"unfinished build of sample\.parquet where other\.parquet is now"),
    ):
        with pytest.raises(OutputError, match=reason) as caught:
            build([str(i) for i in inputs], out, options)
        assert "\n" not in str(caught.value)
        assert folder_bytes(out) == before


def test_an_unfinished_build_that_cut_its_rows_otherwise_is_refused(sample_table, tmp_path, sample_options, monkeypatch):
    unfinished(sample_table, tmp_path / "out", sample_options())
    monkeypatch.setattr("molstream.shards.inputs.tables.RANGE_ROWS", 80)
    monkeypatch.setattr("molstream.shards.inputs.tables.MIN_RANGE_ROWS", 80)
    with pytest.raises(OutputError, match="unfinished build of another version of molstream; go on with that, or remove"):
        build([str(sample_table)], tmp_path / "out", sample_options())


def test_options_of_the_reduce_phase_may_change_between_runs(sample_table, tmp_path, sample_options, folder_bytes):
    out, calls = tmp_path / "out", []

    def stop_in_reduce(phase, done, total):
        if phase == "write" and done > 100:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build([str(sample_table)], out, sample_options(), stop_in_reduce)
    changed = sample_options(atom_labels="f16", block_molecules=20)
    build([str(sample_table)], out, changed, lambda *call: calls.append(call))
    assert [call for call in calls if call[0] == "featurize"] == [("featurize", 300, 300)]
    build([str(sample_table)], tmp_path / "fresh", changed)
    assert folder_bytes(out) == folder_bytes(tmp_path / "fresh")


def test_a_finished_build_run_again_does_nothing(sample_table, sample_set, sample_options, tmp_path, folder_bytes):
    before = folder_bytes(sample_set.path)
    times = [p.stat().st_mtime_ns for p in sample_set.path.iterdir()]
    assert build([str(sample_table)], sample_set.path, sample_options()) == sample_set.manifest
    assert folder_bytes(sample_set.path) == before
    assert [p.stat().st_mtime_ns for p in sample_set.path.iterdir()] == times
    changed = tmp_path / sample_table.name
    pq.write_table(pq.read_table(sample_table).slice(1), changed)
    with pytest.raises(OutputError, match="already holds a shard set, built with other input; choose another folder"):
        build([str(changed)], sample_set.path, sample_options())
    assert folder_bytes(sample_set.path) == before


def test_input_that_changes_while_it_is_read_is_noticed(sample_table, tmp_path, sample_options):
    table = tmp_path / "table.parquet"
    table.write_bytes(sample_table.read_bytes())

    def change(phase, done, total):
        if phase == "featurize" and done == total:
            pq.write_table(pq.read_table(sample_table).slice(1), table)

    with pytest.raises(SchemaError, match="changed while"):
        build([str(table)], tmp_path / "out", sample_options(), change)
    assert not (tmp_path / "out").exists()


# limits


def test_too_many_rejects_stop_the_build_which_can_be_gone_on_from(pm6_table, tmp_path, by_id):
    path = pm6_table([{"ordered_smiles": "CO" if k % 4 else "restricted"} for k in range(40)])
    with pytest.raises(
        LimitError,
        match=r"10 of 40 rows rejected so far, more than --max-reject-fraction 0\.1 allows; the last was row 36, "
        "SMILES 'restricted': not a SMILES that RDKit can parse; mend the input, or allow more",
    ):
        build([str(path)], tmp_path / "out", BuildOptions())
    build([str(path)], tmp_path / "out", BuildOptions(), work=WorkOptions(max_reject_fraction=0.25))
    assert len(by_id(ShardSet(tmp_path / "out"))) == 30


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_rejects_are_added_up_over_ranges_and_runs(pm6_table, tmp_path, monkeypatch, workers):
    monkeypatch.setattr("molstream.shards.inputs.tables.RANGE_ROWS", 10)
    monkeypatch.setattr("molstream.shards.inputs.tables.MIN_RANGE_ROWS", 10)
    path = pm6_table([{"ordered_smiles": "CO" if k % 10 else "restricted"} for k in range(60)])
    work = WorkOptions(max_reject_fraction=0.05, workers=workers)
    for _ in range(2):
        # no range alone has more than the 3 rows that are allowed
        with pytest.raises(LimitError, match=r"[4-6] of 60 rows rejected so far, .*; the last was row \d?0, SMILES 'restricted'"):
            build([str(path)], tmp_path / "out", BuildOptions(), work=work)
    build([str(path)], tmp_path / "out", BuildOptions(), work=WorkOptions(max_reject_fraction=0.1))
    assert sum(ShardSet(tmp_path / "out").manifest.rejects.values()) == 6


def flip(path, draw):
    """Flip one bit of a file."""
    data = bytearray(path.read_bytes())
    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    path.write_bytes(data)


def test_unfinished_work_that_is_damaged_or_gone_is_done_again(sample_table, sample_set, tmp_path, sample_options, folder_bytes):
    out, draw = tmp_path / "out", random.Random(3)

    def stop(phase, done, total):
        if phase == "write" and done == total:
            raise KeyboardInterrupt

    harms = ("cut a spill file", "remove a shard", "remove facts", "leave parts", "flip a shard", "flip facts", "flip a table")
    for harm in (*harms, "flip the plan"):
        with pytest.raises(KeyboardInterrupt):
            build([str(sample_table)], out, sample_options(), stop)
        spills, shards, facts = (sorted(out.rglob(f"*.{kind}")) for kind in ("spill", "tar", "facts"))
        assert len(shards) == len(facts) > 2
        if harm == "cut a spill file":
            spills[0].write_bytes(spills[0].read_bytes()[:-100])
        elif harm == "remove a shard":
            draw.choice(shards).unlink()
        elif harm == "remove facts":
            draw.choice(facts).unlink()
        elif harm.startswith("flip"):
            tables, plans = sorted(out.rglob("*.facts.parquet")), [out / ".building" / "plan.json"]
            flip(draw.choice({"a shard": shards, "facts": facts, "a table": tables, "the plan": plans}[harm[5:]]), draw)
        else:
            (out / ".train-00000.tar.0123456789ab.part").write_bytes(b"half")
            (out / ".building" / ".train-00001.tar.0123456789ab.part").write_bytes(b"half")
        build([str(sample_table)], out, sample_options())
        assert folder_bytes(out) == folder_bytes(sample_set.path), harm
        for path in out.iterdir():
            path.unlink()


@pytest.mark.parametrize("values", [[1e4, 1e4 + 1, 1e4 + 2, 1e4 - 1], [1e5, 0.0, 1.0, 2.0]])
def test_a_task_that_f16_would_spoil_is_refused_and_the_build_goes_on_with_f32(pm6_table, tmp_path, by_id, values):
    rows = [{"ordered_smiles": "[CH4:0]", MULLIKEN: [v], "node_T0_spin": [v / 1e4]} for v in values]
    path = pm6_table(rows)
    with pytest.raises(LimitError, match=rf"task {MULLIKEN}.*labels from .* to .* with standard deviation .*atom=f32") as caught:
        build([str(path)], tmp_path / "out", BuildOptions())
    assert "\n" not in str(caught.value)
    calls = []
    build([str(path)], tmp_path / "out", BuildOptions(atom_labels="f32"), lambda *call: calls.append(call))
    assert [call for call in calls if call[0] == "featurize"] == [("featurize", 4, 4)]
    assert sorted(float(m.atom[0, 0]) for m in by_id(ShardSet(tmp_path / "out")).values()) == sorted(values)


def test_f16_is_refused_just_above_the_threshold_and_taken_just_below(pm6_table, tmp_path):
    # half of the labels 1 + e, half -1 - e with e = 2^-11, a tie that rounds down: the mean error is e, the spread 1 + e
    for scale, refused in ((1.0, False), (1.0 + 2.0**-11, False)):
        path = pm6_table([{"ordered_smiles": "[CH4:0]", MULLIKEN: [s * scale]} for s in (-1, 1)])
        build([str(path)], tmp_path / f"a{scale}", BuildOptions())
        assert not refused
    # a constant offset of 2 with a spread of 1: errors of 2^-10 are 9.8e-4 of it
    path = pm6_table([{"ordered_smiles": "[CH4:0]", MULLIKEN: [2 + s + 2.0**-10]} for s in (0, 2)])
    with pytest.raises(LimitError, match=r"in f16, allowed are 0\.0005 standard deviations"):
        build([str(path)], tmp_path / "b", BuildOptions())


def test_labels_in_f16_are_the_nearest_ones_and_statistics_are_theirs(sample_table, sample_set, sample_options, tmp_path, by_id):
    build([str(sample_table)], tmp_path / "half", sample_options(atom_labels="f16", graph_labels="f32"))
    half = ShardSet(tmp_path / "half")
    exact, rounded = by_id(sample_set), by_id(half)
    for k, molecule in exact.items():
        assert np.array_equal(molecule.graph, rounded[k].graph, equal_nan=True)
        assert np.array_equal(molecule.atom.astype(np.float16).astype(np.float32), rounded[k].atom, equal_nan=True)
    assert not verify(half).problems
    assert half.manifest.labels == sample_set.manifest.labels
    assert half.manifest.fingerprint != sample_set.manifest.fingerprint


# workers


def die_once(job, task, report):
    """A task that kills its worker the first time, and always if it is negative."""
    import os

    mark = Path(job) / f"died-{task}"
    if task < 0 or not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    report(1)
    return task * task


def test_a_worker_that_dies_is_replaced_and_a_task_that_always_kills_is_given_up(tmp_path):
    from molstream.shards.workers.local import LocalEngine

    function = runpy_function(tmp_path)
    with LocalEngine(2) as engine:
        assert dict(engine.run(function, str(tmp_path), [1, 2, 3], lambda n: None)) == {1: 1, 2: 4, 3: 9}
        with pytest.raises(WorkerError, match="worker processes died 3 times over the same task, the last killed by SIGKILL"):
            list(engine.run(function, str(tmp_path), [-1], lambda n: None))


def runpy_function(folder: Path):
    """`die_once` as a function of a module that a worker can import."""
    import importlib.util
    import inspect

    path = folder / "molstream_dying.py"
    path.write_text("import signal\nfrom pathlib import Path\n\n" + inspect.getsource(die_once))
    sys.path.append(str(folder))
    spec = importlib.util.spec_from_file_location("molstream_dying", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["molstream_dying"] = module
    spec.loader.exec_module(module)
    return module.die_once
