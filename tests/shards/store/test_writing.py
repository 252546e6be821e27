"""Writing: whole or not at all, under its name when it is done, its hash known."""

import hashlib
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from molstream.shards.errors import FormatError, StorageError
from molstream.shards.store import writing
from molstream.shards.store.reading import LocalFile, hash_file
from molstream.shards.store.tables import (
    decode_parquet,
    encode_parquet,
    open_parquet,
    read_parquet,
    write_parquet,
)
from molstream.shards.store.writing import (
    Written,
    leftover_of,
    make_scratch,
    remove_leftovers,
    write_beside,
    write_bytes,
    write_folder,
)


@given(st.lists(st.binary(max_size=300), max_size=6))
def test_what_was_written_is_what_the_file_is(tmp_path_factory, parts):
    path = tmp_path_factory.getbasetemp() / "parts"
    with write_beside(path) as sink:
        for part in parts:
            assert sink.write(memoryview(part)) == len(part)
        assert sink.tell() == sum(map(len, parts))
    assert path.read_bytes() == b"".join(parts)
    assert sink.written == Written(path.stat().st_size, hash_file(path))


def test_until_it_is_whole_the_name_is_that_of_the_one_before(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"before")
    with write_beside(path) as sink:
        sink.write(b"after")
        assert path.read_bytes() == b"before"
        (beside,) = (p for p in tmp_path.iterdir() if p != path)
        assert leftover_of(beside.name) == "x"
    assert path.read_bytes() == b"after"
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_a_failure_leaves_what_was_there(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"before")
    with pytest.raises(KeyError), write_beside(path) as sink:  # noqa: PT012
        sink.write(b"half")
        raise KeyError
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("x", b"before")]


def test_it_is_on_disk_before_it_has_its_name_and_the_name_after(tmp_path, monkeypatch):
    calls, fsync, replace = [], os.fsync, type(tmp_path).replace
    path, scratch = tmp_path / "x", tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(
        writing.os, "fsync", lambda d: (calls.append(os.readlink(f"/proc/self/fd/{d}").split("/")[-1][:3]), fsync(d))[1]
    )
    monkeypatch.setattr(type(tmp_path), "replace", lambda a, b: (calls.append(b.name), replace(a, b))[1])
    with write_beside(path, scratch=scratch) as sink:
        assert [leftover_of(p.name) for p in scratch.iterdir()] == ["x"]
        sink.write(b"a")
    assert calls == [".x.", "x", tmp_path.name[:3]]


def test_two_writers_of_one_name_do_not_meet(tmp_path):
    path = tmp_path / "x"
    with write_beside(path) as first, write_beside(path) as second:
        first.write(b"first" * 1000)
        second.write(b"second")
    assert path.read_bytes() == b"first" * 1000
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_what_the_system_refuses_names_the_file(tmp_path):
    with pytest.raises(StorageError, match=r"none/x: cannot be written: No such file or directory"):
        write_bytes(tmp_path / "none" / "x", b"")
    (tmp_path / "folder" / "in").mkdir(parents=True)
    with pytest.raises(StorageError, match=r"folder: cannot be written: Is a directory"):
        write_bytes(tmp_path / "folder", b"")
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_a_full_disk_names_the_file_whoever_writes_to_it(tmp_path, monkeypatch):
    class Full:
        def write(self, data):
            raise OSError(28, "No space left on device")

    with pytest.raises(StorageError, match=r"x: cannot be written: No space left on device"):
        writing.Sink(Full(), tmp_path / "x").write(b"a")
    monkeypatch.setattr(writing.os, "fsync", lambda d: Full().write(b""))
    schema = pa.schema([("a", pa.int64())])
    with pytest.raises(StorageError, match=r"x: cannot be written: No space left on device"):
        write_parquet(tmp_path / "x", schema, [pa.table({"a": [1]}, schema)])
    with pytest.raises(StorageError, match=r"step: cannot be written|a: cannot be written"):  # noqa: SIM117
        with write_folder(tmp_path / "step") as folder:
            folder.write("a", b"a")
    assert list(tmp_path.iterdir()) == []


def test_a_failure_of_something_else_is_not_blamed_on_the_file(tmp_path):
    with pytest.raises(ConnectionError), write_beside(tmp_path / "x"):
        raise ConnectionError


def test_a_folder_is_there_whole_or_as_it_was(tmp_path):
    path = tmp_path / "step"
    with write_folder(path) as folder:
        written = folder.write("a", b"first")
        assert not path.exists()
    assert written == Written(5, hashlib.sha256(b"first").hexdigest())
    with pytest.raises(KeyError), write_folder(path) as folder:  # noqa: PT012
        folder.write("b", b"half")
        raise KeyError
    assert [(p.name, p.read_bytes()) for p in path.iterdir()] == [("a", b"first")]
    with write_folder(path) as folder:
        folder.write("b", b"second")
    assert [(p.name, p.read_bytes()) for p in path.iterdir()] == [("b", b"second")]
    assert [p.name for p in tmp_path.iterdir()] == ["step"]


def test_a_killed_writer_leaves_the_file_before_and_a_leftover_that_its_owner_removes(tmp_path):
    write_bytes(tmp_path / "x", b"before")
    code = """
import os, signal, sys
from pathlib import Path
from molstream.shards.store.writing import write_beside, write_folder
folder = Path(sys.argv[1])
with write_beside(folder / "x") as sink, write_folder(folder / "step") as step:
    sink.write(b"half")
    step.write("a", b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code, tmp_path], check=False)
    assert done.returncode == -signal.SIGKILL
    assert (tmp_path / "x").read_bytes() == b"before"
    names = sorted(filter(None, (leftover_of(p.name) for p in tmp_path.iterdir())))
    assert names == ["step", "x"]
    (tmp_path / ".mine.part").touch()
    remove_leftovers(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".mine.part", "x"]
    remove_leftovers(tmp_path / "none")


def test_names_as_long_as_the_system_takes_can_be_written(tmp_path):
    for name in ("a" * 255, "ä" * 127):
        assert write_bytes(tmp_path / name, b"a").size == 1


def test_scratch_is_zeros_and_has_no_name(tmp_path):
    with make_scratch(100) as file:
        assert os.fstat(file.fileno()).st_nlink == 0
        assert file.read() == bytes(100)


def test_tables_come_back_and_their_hash_is_known(tmp_path):
    table = pa.table({"a": range(100), "b": ["x"] * 100})
    path = tmp_path / "t.parquet"
    written = write_parquet(path, table.schema, [table.slice(k, 10) for k in range(0, 100, 10)], group_rows=25)
    assert written == Written(path.stat().st_size, hash_file(path))
    assert read_parquet(path).equals(table)
    assert read_parquet(path, ["b"]).column_names == ["b"]
    assert decode_parquet(encode_parquet(table), where="t").equals(table)


def test_every_cut_and_many_flips_of_a_table_are_one_error_or_no_change(tmp_path):
    table = pa.table({"a": range(1000)})
    data = encode_parquet(table)
    for size in range(0, len(data), 7):
        with pytest.raises(FormatError, match=r"^t: not readable as Parquet: \S"):
            decode_parquet(data[:size], where="t")
    for at in range(0, len(data), 3):
        damaged = bytearray(data)
        damaged[at] ^= 1 << at % 8
        try:
            decode_parquet(bytes(damaged), where="t")
        except FormatError as error:
            assert re.match(r"t: not readable as Parquet: [^\n]+$", str(error))  # noqa: PT017


def test_what_fails_beside_arrow_is_not_called_unreadable(tmp_path):
    path = tmp_path / "t.parquet"
    write_parquet(path, pa.schema([("a", pa.int64())]), [])
    with pytest.raises(KeyError), LocalFile(path) as file, open_parquet(file):
        raise KeyError


ROOT = Path(__file__).resolve().parents[3]
DIES = """
import os, sys
from pathlib import Path
from molstream.shards.store.writing import write_beside
with write_beside(Path(sys.argv[1])) as sink:
    sink.write(b"half")
    os.kill(os.getpid(), 9)
"""


def test_the_next_writer_removes_what_a_killed_one_left_and_nothing_else(tmp_path):
    path = tmp_path / "mine.json"
    subprocess.run([sys.executable, "-c", DIES, path], env=os.environ | {"PYTHONPATH": str(ROOT)}, check=False)
    dead = [p for p in tmp_path.iterdir() if leftover_of(p.name) == "mine.json"]
    assert len(dead) == 1
    others = [tmp_path / f".other.json.{'0' * 12}.part", tmp_path / ".mine.json.part", tmp_path / "mine.json.0.part"]
    for other in others:
        other.write_bytes(b"a user's")
    with write_beside(path) as alive:
        alive.write(b"first")
        write_bytes(path, b"second")
        assert path.read_bytes() == b"second"
        assert not dead[0].exists()
    # a writer that was at work all the while lost nothing
    assert path.read_bytes() == b"first"
    assert {*tmp_path.iterdir()} == {path, *others}


def test_writers_of_one_name_at_once_all_end_well(tmp_path):
    path, errors = tmp_path / "file", []

    def write(number: int) -> None:
        try:
            for _ in range(40):
                write_bytes(path, bytes([number]) * 1000)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert len({*path.read_bytes()}) == 1
