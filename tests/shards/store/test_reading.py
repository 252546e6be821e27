"""Reading: exact ranges of regular files, claims held against the size, one line for all that can be wrong."""

import hashlib
import io
import os
import re
import resource
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from molstream.shards.errors import FormatError, MissingError, StorageError
from molstream.shards.store import reading
from molstream.shards.store.reading import Folder, LocalFile, MemoryFile, Stream, hash_file, iter_chunks, map_file, read_file


@pytest.fixture
def data(tmp_path) -> Path:
    path = tmp_path / "data"
    path.write_bytes(bytes(range(256)) * 9)
    return path


@given(offset=st.integers(-10, 3000), size=st.integers(-10, 3000))
def test_a_range_comes_exactly_or_is_refused_by_name(tmp_path_factory, offset, size):
    content = bytes(range(256)) * 9
    path = tmp_path_factory.getbasetemp() / "ranged"
    path.write_bytes(content)
    for file in (LocalFile(path), MemoryFile(content, str(path))):
        with file:
            if offset >= 0 and size >= 0 and offset + size <= len(content):
                assert file.read(offset, size) == content[offset : offset + size]
            else:
                with pytest.raises(FormatError, match=re.escape(f"{path}: ") + r".* in a file of 2,304: cut short or damaged"):
                    file.read(offset, size)


def test_a_claim_beyond_the_file_asks_for_no_memory(data):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with LocalFile(data) as file:
        for size in (2**40, 2**63, 10**30):
            with pytest.raises(FormatError, match=r"in a file of 2,304"):
                file.read(0, size)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


def test_a_file_that_shrinks_while_it_is_open_is_an_error_not_less_data(data):
    with LocalFile(data) as file:
        os.truncate(data, 1000)
        assert file.read(0, 1000) == bytes(range(256)) * 3 + bytes(range(232))
        with pytest.raises(FormatError, match=r"data: ends at byte 1,000, had 2,304 when it was opened"):
            file.read(900, 200)


def test_short_reads_of_the_system_are_put_together(data, monkeypatch):
    read = os.pread
    monkeypatch.setattr(reading.os, "pread", lambda descriptor, size, offset: read(descriptor, min(size, 7), offset))
    assert read_file(data) == data.read_bytes()


def test_an_error_of_the_disk_names_the_file(data, monkeypatch):
    def fail(descriptor, size, offset):
        raise OSError(5, "Input/output error")

    with LocalFile(data) as file:
        monkeypatch.setattr(reading.os, "pread", fail)
        with pytest.raises(StorageError, match=r"data: cannot be read: Input/output error"):
            file.read(0, 1)


def test_too_little_memory_is_one_line(data, monkeypatch):
    def fail(descriptor, size, offset):
        raise MemoryError

    with LocalFile(data) as file:
        monkeypatch.setattr(reading.os, "pread", fail)
        with pytest.raises(StorageError, match=r"data: not enough memory for 17 bytes"):
            file.read(0, 17)


@pytest.mark.timeout(60)
def test_what_is_no_regular_file_is_refused_and_waits_for_nobody(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("pipe")
    for name, kind in (("pipe", "a pipe"), ("link", "a pipe"), ("folder", "a folder")):
        with pytest.raises(FormatError, match=rf"{name}: {kind}, expected a regular file"):
            Folder(tmp_path).open(name)
    with pytest.raises(FormatError, match="/dev/null: a device, expected a regular file"):
        LocalFile(Path("/dev/null"))


def test_links_are_followed_to_regular_files(data, tmp_path):
    (tmp_path / "link").symlink_to(data)
    with Folder(tmp_path).open("link") as file:
        assert file.size() == 2304
    (tmp_path / "loose").symlink_to("nowhere")
    with pytest.raises(MissingError, match="loose: missing"):
        Folder(tmp_path).open("loose")
    assert Folder(tmp_path).exists("loose")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_one_line(data):
    data.chmod(0)
    with pytest.raises(StorageError, match="data: cannot be read: Permission denied"):
        LocalFile(data)


def test_a_name_leads_nowhere_else(data, tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("../data", "/etc/passwd", "..", ".", "", "a/b", "a\0b"):
        with pytest.raises(FormatError, match="is no name of a file of it"):
            Folder(tmp_path / "in").open(name)


def test_a_folder_lists_its_names_in_order(tmp_path):
    assert Folder(tmp_path / "none").list() == []
    for name in ("b", "a", "c"):
        (tmp_path / name).touch()
    folder = Folder(tmp_path)
    assert folder.list() == ["a", "b", "c"]
    assert (folder.exists("a"), folder.exists("d")) == (True, False)


def test_a_stamp_tells_files_apart_by_size_and_time(data):
    def stamp():
        with LocalFile(data) as file:
            return file.stamp()

    stamps = [stamp()]
    os.utime(data, ns=(1, 1))
    stamps.append(stamp())
    os.truncate(data, 5)
    os.utime(data, ns=(1, 1))
    stamps.append(stamp())
    assert len({*stamps}) == 3
    assert stamp() == stamps[-1]


def test_no_file_stays_open_whatever_is_read_or_refused(data, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    before = os.listdir("/proc/self/fd")
    for _ in range(3):
        hash_file(data)
        map_file(data)
        for name in ("pipe", "none", "."):
            with pytest.raises(FormatError):
                LocalFile(tmp_path / name)
    assert os.listdir("/proc/self/fd") == before


def test_pieces_hash_and_map_are_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "CHUNK_BYTES", 1000)
    for size in (0, 1, 999, 1000, 1001, 12_345):
        content = np.random.default_rng(size).bytes(size)
        path = tmp_path / str(size)
        path.write_bytes(content)
        with LocalFile(path) as file:
            assert b"".join(iter_chunks(file)) == content
        assert hash_file(path) == hashlib.sha256(content).hexdigest()
        assert map_file(path).tobytes() == content


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(-50, 2500), st.integers(0, 500)), max_size=20))
def test_a_stream_reads_as_pythons_own(moves):
    content = bytes(range(256)) * 9
    mine, theirs = Stream(MemoryFile(content, "x")), io.BytesIO(content)
    for whence, offset, size in moves:
        if whence == 0 and offset < 0:
            continue
        assert mine.seek(offset, whence) == theirs.seek(offset, whence)
        assert mine.read(size) == theirs.read(size)
        assert mine.tell() == theirs.tell()
