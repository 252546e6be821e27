"""Locks: one holder at a time, named to the others; a killed one holds nothing."""

import os
import signal
import subprocess
import sys

import pytest

from molstream.shards.errors import OutputError
from molstream.shards.store.locks import Lock

HOLD = """
import sys, time
from pathlib import Path
from molstream.shards.store.locks import Lock
lock = Lock(Path(sys.argv[1]) / ".lock", folder=Path(sys.argv[1]), work="another build is writing to it")
print("locked", flush=True)
time.sleep(600)
"""


def lock(folder):
    return Lock(folder / ".lock", folder=folder, work="another build is writing to it")


def test_a_second_process_is_refused_and_told_who_holds_it_until_that_is_killed(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(
            OutputError,
            match=rf"another build is writing to it \(process {holder.pid} on .+\); wait for it, or choose another folder",
        ):
            lock(tmp_path)
    finally:
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
        holder.stdout.close()
    with lock(tmp_path), pytest.raises(OutputError, match=rf"\(process {os.getpid()} on"):
        lock(tmp_path)
    with lock(tmp_path):
        pass


def test_a_child_process_does_not_inherit_it(tmp_path):
    held = lock(tmp_path)
    child = subprocess.Popen(
        [sys.executable, "-c", "print(flush=True); input()"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, close_fds=False
    )
    # it runs, so the system has closed what it does not inherit
    child.stdout.readline()
    held.close()
    with lock(tmp_path):
        pass
    child.communicate(b"\n")


def test_a_lock_whose_file_was_removed_is_no_lock(tmp_path, monkeypatch):
    first = lock(tmp_path)
    (tmp_path / ".lock").unlink()
    # the one that is there now
    with lock(tmp_path), pytest.raises(OutputError, match="another build"):
        lock(tmp_path)
    first.close()


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    with pytest.raises(OutputError, match="none: cannot be written to: No such file or directory"):
        lock(tmp_path / "none")
