"""The child that runs RDKit: limits, crashes, and a parent that goes away. All of it with real processes and real molecules."""

import os
import random
import signal
import threading
import time

import psutil
import pytest

from molstream.shards.chemistry.guarded import Featurizer, shared_featurizer

MIB = 1 << 20


def outcome(done) -> tuple[dict[int, str], dict[int, str]]:
    """{entry: SMILES} and {entry: reason} of a batch."""
    kept, reasons = {}, dict(done.rejects)
    for start, structures in done.parts:
        kept |= {start + int(entry): s for entry, s in zip(structures.rows, structures.smiles, strict=True)}
        reasons |= {start + entry: reason for entry, reason in structures.rejects.items()}
    return kept, reasons


def lattice(size: int) -> str:
    """A square sheet of carbon atoms, size x size: RDKit's search for its rings takes a power of its size."""
    places = [(i, j if i % 2 == 0 else size - 1 - j) for i in range(size) for j in range(size)]
    at = {place: k for k, place in enumerate(places)}
    rings: dict[frozenset, int] = {}
    text = []
    for k, (i, j) in enumerate(places):
        text.append("C")
        for other in ((i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)):
            if other in at and abs(at[other] - k) != 1:
                text.append(f"%({rings.setdefault(frozenset((other, (i, j))), len(rings) + 1)})")
    return "".join(text)


def test_a_molecule_that_takes_too_long_costs_only_itself():
    featurizer = Featurizer(molecule_s=0.5, molecule_bytes=1 << 30)
    batch = ["CO", "C1CC1", lattice(60), "CN", None, lattice(8), "not one"]
    kept, reasons = outcome(featurizer.featurize(batch))
    assert sorted(kept) == [0, 1, 3, 5]
    assert (kept[0], kept[3]) == ("CO", "CN")
    assert reasons == {
        2: "took RDKit more than 0.5 s",
        4: "empty SMILES",
        6: "not a SMILES that RDKit can parse",
    }


def test_a_molecule_that_takes_too_much_memory_costs_only_itself():
    featurizer = Featurizer(molecule_s=60, molecule_bytes=64 * MIB)
    hungry = "C" * 400_000
    kept, reasons = outcome(featurizer.featurize(["CO", hungry, "CN"]))
    assert kept == {0: "CO", 2: "CN"}
    # RDKit answers some failed allocations as if the SMILES were wrong
    assert reasons[1] in (
        "took RDKit more than 64 MiB of memory",
        "not a SMILES that RDKit can parse, or too long for the memory it may take",
    )
    assert len(reasons) == 1
    roomy = Featurizer(molecule_s=60, molecule_bytes=2048 * MIB)
    assert "atoms, more than" in outcome(roomy.featurize([hungry]))[1][0]


@pytest.mark.slow
def test_a_child_that_is_killed_now_and_then_loses_no_row():
    featurizer = Featurizer(molecule_s=10, molecule_bytes=1 << 30)
    batches = [[f"{'C' * (1 + k % 9)}{'N' * (j % 4)}O" for j in range(300)] for k in range(12)]
    expected = [outcome(featurizer.featurize(batch)) for batch in batches]
    stop, draw, kills = threading.Event(), random.Random(5), []

    def kill_now_and_then():
        while not stop.wait(draw.uniform(0.0, 0.02)):
            child = featurizer._child
            # give it the chance to get anywhere
            if child is not None and len(kills) < 5 and featurizer._note[0] >= 0:
                os.kill(child.pid, signal.SIGSEGV)
                kills.append(time.monotonic())
                stop.wait(1.5)

    killer = threading.Thread(target=kill_now_and_then)
    killer.start()
    found = []
    while len(kills) < 3:
        found = [outcome(done) for _, done in featurizer.run((k, batch) for k, batch in enumerate(batches))]
        assert found == expected
    stop.set()
    killer.join()


def test_a_row_that_crashes_rdkit_every_time_is_named_with_the_signal(monkeypatch):
    featurizer = Featurizer(molecule_s=10, molecule_bytes=1 << 30)
    send = featurizer._send

    def send_and_kill(smiles):
        if "CCCCC" not in smiles:
            send(smiles)
            return
        # stands in for a molecule that overflows RDKit's stack: whatever batch has it dies while it is the current row
        featurizer._child = featurizer._child or featurizer._start()
        pid = featurizer._child.pid
        # stopped, it cannot answer before the signal comes
        os.kill(pid, signal.SIGSTOP)
        send(smiles)
        featurizer._note[0] = smiles.index("CCCCC")
        os.kill(pid, signal.SIGSEGV)
        os.kill(pid, signal.SIGCONT)

    monkeypatch.setattr(featurizer, "_send", send_and_kill)
    kept, reasons = outcome(featurizer.featurize(["C", "CC", "CCCCC", "CCC"]))
    assert kept == {0: "C", 1: "CC", 3: "CCC"}
    assert reasons == {2: "crashed RDKit (killed by SIGSEGV)"}


def test_batches_come_back_in_order_with_what_came_with_them():
    batches = [(f"batch {k}", ["C" * (k + 1)] * k) for k in range(6)]
    found = list(shared_featurizer().run(batches))
    assert [tag for tag, _ in found] == [tag for tag, _ in batches]
    assert [len(outcome(done)[0]) for _, done in found] == list(range(6))
    assert list(shared_featurizer().run([])) == []


def test_answers_that_nobody_waited_for_are_not_taken_for_others():
    featurizer = shared_featurizer()
    for _, done in featurizer.run((k, ["C" * (k + 1)]) for k in range(5)):
        assert outcome(done)[0] == {0: "C"}
        break
    assert outcome(featurizer.featurize(["N", "O"]))[0] == {0: "N", 1: "O"}


def test_the_child_is_kept_and_ends_with_its_owner():
    featurizer = Featurizer(molecule_s=10, molecule_bytes=1 << 30)
    featurizer.featurize(["C"])
    pid = featurizer._child.pid
    featurizer.featurize(["CC"])
    assert featurizer._child.pid == pid
    del featurizer
    assert not psutil.pid_exists(pid)


@pytest.mark.parametrize("busy", [False, True])
def test_the_child_does_not_outlive_a_parent_that_is_killed(run_python, tmp_path, busy):
    script = tmp_path / "parent.py"
    script.write_text(
        "import os, signal, threading, time\n"
        "from molstream.shards.chemistry.guarded import Featurizer\n"
        "featurizer = Featurizer(molecule_s=600, molecule_bytes=1 << 30)\n"
        "featurizer.featurize(['C'])\n"
        "print(featurizer._child.pid, flush=True)\n"
        f"if {busy}:\n"
        f"    threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGKILL)).start()\n"
        f"    featurizer.featurize([{lattice(120)!r}])\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = run_python(script)
    assert done.returncode == -signal.SIGKILL, done.stderr
    pid = int(done.stdout)
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.05)


def test_ctrl_c_is_for_the_parent_alone():
    featurizer = shared_featurizer()
    featurizer.featurize(["C"])
    os.kill(featurizer._child.pid, signal.SIGINT)
    assert outcome(featurizer.featurize(["CC"]))[0] == {0: "CC"}
