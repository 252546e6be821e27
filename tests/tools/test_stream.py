"""molstream stream: the ledger is the oracle for exactly once, for order, for resuming and for ranks."""

import json
import re
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from molstream.shards.format.reader import ShardSet
from molstream.streamer.config import Budget
from molstream.streamer.cursor import Cursor
from molstream.streamer.ledger import LedgerWriter

SMALL = ("--lanes", 4, "--budget", "24,256,640", "--window-molecules", 64)
"""Several windows, packs and steps of a small set."""


@pytest.fixture
def stream(succeed, shard_set, tmp_path):
    """stream(name, ...): run with a ledger, return it and the JSON."""

    def run(name: str, *argv: object) -> tuple[pa.Table, dict]:
        path = tmp_path / f"{name}.parquet"
        done = succeed("stream", shard_set, *SMALL, "--ledger", path, "--json", *argv)
        return pq.read_table(path), done.json

    return run


def ids_of(shard_set, split: str) -> list[int]:
    return sorted(np.concatenate([b.ids for b in ShardSet(shard_set).iter_blocks(split, ("ids",))]).tolist())


@pytest.mark.parametrize("split", ["train", "val"])
def test_every_molecule_of_a_split_comes_exactly_once(stream, shard_set, split):
    ledger, facts = stream("all", "--split", split)
    assert ledger.schema.names == ["epoch", "step", "lane", "set", "id"]
    assert sorted(ledger["id"].to_pylist()) == ids_of(shard_set, split)
    assert facts["molecules"] == ledger.num_rows == ShardSet(shard_set).manifest.splits[split]["molecules"]
    assert facts["steps"] == facts["steps_an_epoch"] == max(ledger["step"].to_pylist()) + 1


def test_the_json_counts_what_is_in_the_set(stream, shard_set):
    facts = stream("all")[1]
    assert facts["labels"] == sum(by_split["train"] for by_split in ShardSet(shard_set).manifest.labels.values())
    assert facts["packs"] == 4 * facts["steps"]
    for name in ("molecules_per_s", "labels_per_s", "rss_bytes"):
        assert facts[name] > 0
    for name in ("atom_fill_fraction", "edge_fill_fraction", "graph_fill_fraction", "data_wait_fraction"):
        assert 0 <= facts[name] <= 1


@pytest.mark.parametrize("stops", [(2, 1), (0, 3)])
def test_a_stopped_stream_goes_on_where_it_was(stream, tmp_path, stops):
    whole, facts = stream("whole", "--epochs", 2)
    assert facts["steps"] > sum(stops) + 1
    state = tmp_path / "state.json"
    parts = [stream(f"p{k}", "--epochs", 2, "--state", state, "--max-steps", n) for k, n in enumerate(stops)]
    assert [f["steps"] for _, f in parts] == list(stops)
    parts.append(stream("rest", "--epochs", 2, "--state", state))
    assert pa.concat_tables([t for t, _ in parts]).equals(whole)
    assert json.loads(state.read_text())["epoch"] == 2
    # and when it is done, it is done
    assert stream("after", "--epochs", 2, "--state", state)[1]["steps"] == 0
    assert not list(tmp_path.glob("*.part"))


def test_ranks_share_the_stream_of_one(stream):
    whole = sorted(zip(*stream("whole")[0].to_pydict().values(), strict=True))
    parts = [stream(f"r{rank}", "--world-size", 3, "--rank", rank) for rank in range(3)]
    assert sorted(row for ledger, _ in parts for row in zip(*ledger.to_pydict().values(), strict=True)) == whole
    assert len({facts["steps"] for _, facts in parts}) == 1, "every rank has the same number of steps"


def test_without_options_it_runs(succeed, shard_set):
    done = succeed("stream", shard_set)
    assert done.lines[0].startswith(f"{ShardSet(shard_set).manifest.splits['train']['molecules']} molecules, ")
    assert "steps per epoch of 8 packs" in done.err


def test_a_budget_too_small_names_the_molecule_its_size_and_one_that_holds(molstream, succeed, shard_set):
    facts = succeed("inspect", shard_set, "--json").json
    done = molstream("stream", shard_set, "--budget", "8,16,64")
    assert done.code == 2
    counts = ShardSet(shard_set).index.counts
    mine = ShardSet(shard_set).blocks("train")
    worst = mine[counts["max_atoms"][mine].argmax()]
    assert (
        f"molecule {counts['max_atoms_id'][worst]} of split train has {counts['max_atoms'][worst]} atoms, usable are 15"
        in done.error
    )
    assert facts["molecule_sizes"]["max"] >= counts["max_atoms"][worst]
    suggested = done.error.split("--budget ")[1]
    assert succeed("stream", shard_set, "--budget", suggested, "--json").json["molecules"] == len(ids_of(shard_set, "train"))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("--budget 64,1024", "budget: got '64,1024', expected three numbers graphs,atoms,edges, like 64,1024,2304"),
        ("--budget 60,1024,2304", "budget of graphs: got 60, expected a multiple of 8, at least 8"),
        ("--budget 64,0,2304", "budget of atoms: got 0, expected a multiple of 8, at least 8"),
        ("--world-size 9", "world size 9: expected 1 to the number of lanes, 8; raise the lanes"),
        ("--world-size 2 --rank 2", "rank 2: expected 0 to 1 in a world of 2"),
        ("--threads 0", "threads: got 0, expected at least 1"),
        ("--threads 2000000000", "threads: got 2000000000, expected at least 1 and at most 1,024"),
        ("--lanes 2000000000", "lanes: got 2000000000, expected at least 1 and at most 65,536"),
        (
            "--window-molecules 9223372036854775808",
            "window_molecules: got 9223372036854775808, expected at least 1 and less than",
        ),
        ("--window-molecules 0", "window_molecules: got 0, expected at least 1"),
        ("--state /nowhere/state.json", "--state /nowhere/state.json: no folder /nowhere"),
    ],
)
def test_a_stream_that_cannot_be_is_refused(molstream, shard_set, tmp_path, arguments, expected):
    done = molstream("stream", shard_set, *arguments.split(), "--ledger", tmp_path / "ledger.parquet")
    assert (done.code, done.out) == (2, "")
    assert expected in done.error
    assert list(tmp_path.iterdir()) == []


def test_a_cursor_of_another_stream_is_refused_with_the_reason(molstream, succeed, shard_set, table, tmp_path):
    state = tmp_path / "state.json"
    succeed("stream", shard_set, *SMALL, "--max-steps", 1, "--state", state)
    before = state.read_text()
    succeed("build", table, "--out", tmp_path / "other", "--seed", 1)
    fingerprints = [ShardSet(s).manifest.fingerprint[:12] for s in (shard_set, tmp_path / "other")]
    for expected, *argv in (
        ("cursor of another stream: seed 0 there, 1 here", shard_set, *SMALL, "--seed", 1),
        ("cursor of another stream: num_lanes 4 there, 2 here", shard_set, *SMALL, "--lanes", 2),
        ("cursor of another stream: split train there, val here", shard_set, *SMALL, "--split", "val"),
        (
            f"cursor of another shard set: fingerprint {fingerprints[0]}, this one has {fingerprints[1]}",
            tmp_path / "other",
            *SMALL,
        ),
    ):
        done = molstream("stream", *argv, "--state", state)
        assert done.code == 1
        assert expected in done.error
        assert state.read_text() == before


@pytest.mark.parametrize(
    "content",
    [b"", b"garbage", b"\xff\xfe\x00", b"[]", b"{}", b'{"cursor_version": 1}', b'{"cursor_version": 7}', b"null"],
)
def test_a_damaged_cursor_is_refused_and_left_alone(molstream, shard_set, tmp_path, content):
    state = tmp_path / "state.json"
    state.write_bytes(content)
    done = molstream("stream", shard_set, *SMALL, "--state", state)
    assert done.code == 1
    assert str(state) in done.error
    assert state.read_bytes() == content


@pytest.mark.parametrize(
    ("place", "match"),
    [
        ({"epoch": 0, "step": 10**6}, r"cursor at step 1000000 of an epoch of \d+ steps; remove it to start anew"),
        (
            {"epoch": 2, "step": 0},
            "cursor at epoch 2, step 0, which is beyond the end of 1 epochs; give more --epochs, or remove",
        ),
        ({"epoch": 1, "step": 1}, "cursor at epoch 1, step 1, which is beyond the end of 1 epochs"),
        ({"epoch": 10**30, "step": 0}, "epoch"),
    ],
)
def test_a_cursor_beyond_the_end_is_refused_and_left_alone(stream, molstream, shard_set, tmp_path, place, match):
    state, ledger = tmp_path / "state.json", tmp_path / "beyond.parquet"
    stream("first", "--state", state, "--max-steps", 1)
    replace(Cursor.read(state), **place).write(state)
    before = state.read_bytes()
    done = molstream("stream", shard_set, *SMALL, "--state", state, "--ledger", ledger)
    assert (done.code, done.out) == (1, "")
    assert re.search(match, done.error)
    assert state.read_bytes() == before
    assert not ledger.exists()


def test_damage_met_on_the_way_is_named_and_leaves_no_ledger(molstream, copy_set, flip, tmp_path):
    block = ShardSet(copy_set).blocks("train")[0]
    flip(copy_set / "train-00000.tar", int(ShardSet(copy_set).index.members["structure_offset"][block]) + 20)
    done = molstream("stream", copy_set, *SMALL, "--ledger", tmp_path / "ledger.parquet")
    assert done.code == 1
    assert "train-00000.tar, block 0, member structure: damaged (CRC-32" in done.error
    assert not list(tmp_path.glob("ledger*"))


@pytest.fixture
def signal_at(monkeypatch):
    """signal_at(n): SIGTERM, or `signals`, come after step n was handed out and before it is in the ledger."""

    def patch(number: int, signals: tuple[int, ...] = (signal.SIGTERM,)) -> None:
        add = LedgerWriter.add

        def late(self, step):
            if step.step == number:
                for each in signals:
                    signal.raise_signal(each)
            add(self, step)

        monkeypatch.setattr(LedgerWriter, "add", late)

    return patch


def test_an_interrupted_stream_keeps_its_ledger_and_its_cursor(stream, molstream, shard_set, tmp_path, monkeypatch, signal_at):
    """What was handed out is in the ledger and in the cursor, the rest comes with the next call."""
    whole, _ = stream("whole")
    state, first = tmp_path / "state.json", tmp_path / "first.parquet"
    signal_at(2)
    done = molstream("stream", shard_set, *SMALL, "--ledger", first, "--state", state, "--json")
    monkeypatch.undo()
    assert (done.code, done.json["steps"]) == (130, 3)
    assert "stopping after this step" in done.err
    rest, _ = stream("rest", "--state", state)
    assert pa.concat_tables([pq.read_table(first), rest]).equals(whole)


def test_a_second_interrupt_stops_at_once_and_leaves_neither_ledger_nor_cursor(molstream, shard_set, tmp_path, signal_at):
    signal_at(2, (signal.SIGINT, signal.SIGINT))
    done = molstream("stream", shard_set, *SMALL, "--ledger", tmp_path / "ledger.parquet", "--state", tmp_path / "state.json")
    assert (done.code, done.err.splitlines()[-1]) == (130, "molstream: stopped")
    assert list(tmp_path.iterdir()) == []


STAGES = ("read", "decompress", "decode", "encode", "pack", "collate")


def test_the_stream_says_where_its_time_goes(succeed, shard_set):
    done = succeed("stream", shard_set, *SMALL, "--pe", "rw16", "--threads", 3, "--json")
    facts = done.json
    shares = {stage: facts[f"{stage}_fraction"] for stage in STAGES}
    assert all(0 < share < 1 for share in shares.values())
    assert sum(shares.values()) <= 1.05
    for name in ("data_wait_fraction", "queue_fraction", "padding_fraction"):
        assert 0 <= facts[name] <= 1
    text = " ".join(done.lines[:-1])
    assert f"waited {facts['data_wait_fraction']:.1%} of the time for data" in text
    assert f"first step {facts['first_step_s']:.2f} s" in text
    assert f"{facts['bytes_read_per_s'] / 1e6:,.1f} MB/s from disk" in text
    assert all(f"{stage} {share:.0%}" in text for stage, share in shares.items())
    assert "idle " in text
    assert "windows in memory at most" in done.err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("--tasks graph_S0_alpha_gop", "tasks: 'graph_S0_alpha_gop' names none of the 69 tasks; near it: graph_S0_alpha_gap, "),
        ("--tasks graph_*,nod_*", "tasks: 'nod_*' names none of the 69 tasks; near it: "),
        ("--pe rw16,lap9", "encodings: got 'lap9', expected some of rw16, lap8"),
        ("--oversize drop", "oversize: got 'drop', expected one of error, skip"),
        ("--list-labels --budget 64,1024,2304", "--list-labels: --budget 64,1024,2304 has no room for labels, give G,A,E,L"),
        (
            "--budget 64,1024,2304,8",
            "graph-level labels, usable are 8; give 64, select fewer tasks, or leave such molecules out with --oversize skip",
        ),
        ("--budget 8,8,16 --oversize skip", "budget 8,8,16: no molecule of split train is small enough for a pack"),
    ],
)
def test_columns_and_budgets_that_cannot_be_are_refused(molstream, shard_set, tmp_path, arguments, expected):
    done = molstream("stream", shard_set, *arguments.split(), "--ledger", tmp_path / "ledger.parquet")
    assert (done.code, done.out) == (2, "")
    assert expected in done.error
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def levels_set(tmp_path_factory, succeed) -> Path:
    """Three chains with labels of all levels: one of molecules, one of atoms, one of bonds, two of pairs."""
    folder = tmp_path_factory.mktemp("levels")
    lengths = [1, 2, 3]
    columns = {
        "smiles": ["C" * n for n in lengths],
        "y": [float(n) for n in lengths],
        "charge": [[0.5] * n for n in lengths],
        "order": [[1.0] * (n - 1) for n in lengths],
        "distance": [[2.0] * (n * (n - 1) // 2) for n in lengths],
        "flow": [[3.0 * k for k in range(n * n)] for n in lengths],
    }
    pq.write_table(pa.table(columns), folder / "table.parquet")
    names = ("--graph-columns", "y", "--atom-columns", "charge", "--bond-columns", "order", "--pair-columns", "distance,flow")
    argv = ("--dataset", "table", *names, "--split-fractions", "100,0,0", "--out", folder / "set")
    succeed("build", folder / "table.parquet", *argv)
    return folder / "set"


def test_labels_of_bonds_and_pairs_are_streamed_and_counted(molstream, succeed, levels_set):
    labels = {"y": 3, "charge": 6, "order": 3, "distance": 4, "flow": 14}
    done = succeed("stream", levels_set, "--json")
    assert done.json["labels"] == sum(labels.values())
    # 10 pairs: a budget of its own, with room for them
    assert f" of 8 packs of {Budget.suggest(ShardSet(levels_set), atoms=8192, pairs=True)}; windows" in done.err
    assert succeed("stream", levels_set, "--json", "--budget", "8,16,16,pairs=16").json["labels"] == sum(labels.values())
    few = succeed("stream", levels_set, "--json", "--tasks", "order,y")
    assert few.json["labels"] == labels["order"] + labels["y"]
    assert "pairs" not in few.err
    for argv, expected in (
        (("--budget", "8,16,16"), "is of level pair, and budget 8,16,16 has no pairs; give one with (G,A,E,pairs=N; "),
        (("--list-labels",), "--list-labels: distance is of level pair, choose others with --tasks"),
        (("--budget", "8,16,16,8,pairs=8"), "budget: got '8,16,16,8,pairs=8', expected three numbers graphs,atoms,edges"),
    ):
        refused = molstream("stream", levels_set, *argv)
        assert (refused.code, refused.out) == (2, "")
        assert expected in refused.err


def test_listed_labels_are_as_many_as_in_the_matrix(succeed, shard_set):
    """Of real molecules, which have most of them."""
    tasks = ("--tasks", "graph_T0_*,graph_qed")
    dense, listed = (succeed("stream", shard_set, *tasks, *argv, "--json").json for argv in ((), ("--list-labels",)))
    assert listed["labels"] == dense["labels"] > 0
    assert listed["molecules"] == dense["molecules"]


def test_the_first_left_out_are_named_and_the_others_counted(stream, succeed, shard_set):
    argv = ("--budget", "24,24,640", "--oversize", "skip")
    ledger, facts = stream("skip", *argv)
    left_out = ledger.filter(pa.compute.equal(ledger["lane"], -1))["id"].to_pylist()
    assert facts["skipped_molecules"] == len(left_out) > 10
    done = succeed("stream", shard_set, *SMALL, *argv)
    (line,) = [line for line in done.err.splitlines() if line.startswith("  left out, larger than the budget: ")]
    named, more = line.removeprefix("  left out, larger than the budget: ").split(" and ")
    assert list(map(int, named.split(", "))) == left_out[:10]
    assert more == f"{len(left_out) - 10:,} more (--ledger lists all, with lane -1)"
