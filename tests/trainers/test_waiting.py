"""Processes that wait for others can be stopped."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from molstream.trainers.distributed import process_group
from molstream.trainers.distributed.process_group import joined
from molstream.trainers.errors import RunError

ROOT = Path(__file__).resolve().parents[2]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.fixture
def one_of_two(monkeypatch):
    """one_of_two(rank): the variables of a process whose other one never comes."""

    def announce(rank: int) -> None:
        for name, value in {"WORLD_SIZE": 2, "RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}.items():
            monkeypatch.setenv(name, str(value))

    return announce


@pytest.mark.parametrize("rank", [0, 1])
def test_a_signal_ends_the_wait_for_a_process_that_never_comes(one_of_two, rank):
    def interrupt(number, frame):
        raise KeyboardInterrupt

    one_of_two(rank)
    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    try:
        with pytest.raises(KeyboardInterrupt), joined():
            pass
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize(("rank", "why"), [(0, "not all 2 have come"), (1, "no answer at 127.0.0.1:")])
def test_the_wait_has_an_end(one_of_two, monkeypatch, rank, why):
    one_of_two(rank)
    monkeypatch.setattr(process_group, "JOIN_S", 0.1)
    with pytest.raises(RunError, match=f"waited 0 s for the other processes: {why}"), joined():
        pass


HANGS = """
import sys, time
from molstream.tools.main import main
from molstream.trainers.distributed.process_group import joined
from molstream.tools import app

def wait():
    with joined() as processes:
        print("joined", flush=True)
        if processes.rank == 1:
            time.sleep(1000)
        processes.share(1)

app.register = lambda: None
app.app.command("wait")(wait)
main()
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_wait_for_a_process_that_no_longer_answers(number):
    port = free_port()
    shared = os.environ | {"PYTHONPATH": str(ROOT), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", HANGS, "wait"],
            env=shared | {"RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        assert [process.stdout.readline() for process in ranks] == ["joined\n", "joined\n"]
        time.sleep(0.5)
        ranks[0].send_signal(number)
        assert ranks[0].wait(timeout=300) == 130
        assert ranks[0].stderr.read().splitlines()[-1] == "molstream: stopped"
    finally:
        for process in ranks:
            process.kill()
            process.communicate()
