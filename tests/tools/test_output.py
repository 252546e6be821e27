"""What is printed changes neither results nor exit codes: readers that go away, character sets, narrow terminals, full disks."""

import contextlib
import errno
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from molstream.tools.main import main
from molstream.tools.output import Output

ROOT = Path(__file__).resolve().parents[2]


class Broken(io.RawIOBase):
    """A pipe whose reader has gone, or a full disk."""

    def __init__(self, number: int):
        self.number = number

    def writable(self) -> bool:
        return True

    def write(self, data) -> int:
        raise OSError(self.number, os.strerror(self.number))


def call(argv, out: io.TextIOBase, err: io.TextIOBase) -> int:
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as done:
        main([str(a) for a in argv])
    return done.value.code


@contextlib.contextmanager
def stream_of(number: int) -> Iterator[io.TextIOWrapper]:
    """A text stream on it; closing it fails too, which is the caller's affair."""
    text = io.TextIOWrapper(io.BufferedWriter(Broken(number)), encoding="utf-8", write_through=True)
    try:
        yield text
    finally:
        with contextlib.suppress(OSError):
            text.close()


@pytest.fixture
def calls(table, shard_set, run, tmp_path) -> dict[str, tuple[list, list[Path]]]:
    """{command: (arguments, files it must leave)}."""
    t = tmp_path
    return {
        "build": (["build", table, "--out", t / "set"], [t / "set/manifest.json"]),
        "inspect": (["inspect", shard_set, "--html", t / "page.html"], [t / "page.html"]),
        "cat": (["cat", shard_set], []),
        "verify": (["verify", shard_set], []),
        "stream": (["stream", shard_set, "--state", t / "c.json", "--ledger", t / "l.parquet"], [t / "c.json", t / "l.parquet"]),
        "pretrain": (
            ["pretrain", shard_set, "--out", t / "run", "--recipe", "smoke", "--steps", 2],
            [t / "run/results.json", t / "run/model/model.json"],
        ),
        "eval": (
            ["eval", shard_set, "--checkpoint", run, "--out", t / "a.json", "--out", t / "b.parquet"],
            [t / "a.json", t / "b.parquet"],
        ),
        "embed": (["embed", shard_set, "--checkpoint", run, "--split", "val", "--out", t / "e"], [t / "e/_embeddings.json"]),
        "bench": (["bench"], []),
        "fields": (["pretrain", "--fields"], []),
        "help": (["--help"], []),
        "a refused call": (["cat", shard_set, "--ids", 10**9], []),
    }


NAMES = [*"build inspect cat verify stream pretrain eval embed bench fields help".split(), "a refused call"]


@pytest.mark.parametrize("name", NAMES)
def test_without_readers_a_command_leaves_the_same_and_ends_the_same(name, calls):
    argv, files = calls[name]
    with stream_of(errno.EPIPE) as out, stream_of(errno.EPIPE) as err:
        code = call(argv, out, err)
    assert code == (2 if name == "a refused call" else 0)
    assert all(path.exists() for path in files)


@pytest.mark.parametrize("name", NAMES)
def test_characters_that_a_terminal_lacks_change_nothing_but_themselves(name, calls):
    argv, files = calls[name]
    raw, raw_err = io.BytesIO(), io.BytesIO()
    with io.TextIOWrapper(raw, encoding="ascii") as out, io.TextIOWrapper(raw_err, encoding="ascii") as err:
        code = call(argv, out, err)
        text = raw.getvalue().decode("ascii")
        said = raw_err.getvalue().decode("ascii")
    assert code == (0 if name != "a refused call" else 2), said
    assert all(path.exists() for path in files)
    assert "Traceback" not in said
    if name in ("inspect", "eval", "pretrain"):
        assert ("####" if name == "inspect" else "R2") in text


@pytest.mark.parametrize("name", ["cat", "inspect", "eval"])
def test_a_result_that_a_full_disk_cannot_take_is_one_line_and_files_are_there(name, calls):
    argv, files = calls[name]
    err = io.StringIO()
    with stream_of(errno.ENOSPC) as out:
        code = call(argv, out, err)
    assert code == 1
    assert err.getvalue().splitlines()[-1] == "molstream: error: standard output: cannot be written: No space left on device"
    assert all(path.exists() for path in files)


def test_progress_that_a_full_disk_cannot_take_changes_nothing(calls):
    argv, files = calls["build"]
    out = io.StringIO()
    with stream_of(errno.ENOSPC) as err:
        assert call(argv, out, err) == 0
    assert all(path.exists() for path in files)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8", "cp1252", "koi8-r"])
def test_every_text_can_be_written_in_every_character_set(encoding):
    raw = io.BytesIO()
    out = Output(io.TextIOWrapper(raw, encoding=encoding), "out", is_result=True)
    text = "R² 5 Å █ ⌬ 分子 \udcff \N{GRINNING FACE}"
    assert out.write(text) == len(text)
    out.flush()
    found = raw.getvalue().decode(encoding)
    assert found.startswith("R² 5 " if encoding in ("latin-1", "utf-8", "cp1252", "koi8-r") else "R2 5 ")
    assert "\\udcff" in found
    assert ("分子" if encoding == "utf-8" else "\\u5206\\u5b50") in found


@pytest.mark.slow
def test_a_command_whose_streams_are_closed_writes_no_warning_into_its_files(shard_set, tmp_path):
    script = f"{sys.executable} -m molstream stream {shard_set} --state {tmp_path / 'c.json'} <&- >&- 2>&-"
    done = subprocess.run(["sh", "-c", script], env=os.environ | {"PYTHONPATH": str(ROOT)}, cwd=tmp_path, check=False)
    assert done.returncode == 0
    json.loads((tmp_path / "c.json").read_text())


@pytest.mark.parametrize("columns", ["1", "0", "7", "x"])
def test_tables_fit_any_terminal(columns, calls, monkeypatch):
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setattr("molstream.tools.output.Output.isatty", lambda self: True)
    monkeypatch.setenv("TERM", "xterm")
    for name in ("inspect", "eval", "help", "fields"):
        argv, files = calls[name]
        err = io.StringIO()
        assert call(argv, io.StringIO(), err) == 0, err.getvalue()
        assert all(path.exists() for path in files)


def test_a_benchmark_goes_on_without_a_reader(tmp_path, monkeypatch):
    from molstream.tools import bench

    (tmp_path / "mine.py").write_text(
        "import pathlib, sys\nfor k in range(100_000):\n    print('R² █', k)\n"
        "pathlib.Path(sys.argv[1]).write_text(str(sys.argv[2:]))\n",
        encoding="utf-8",
    )
    monkeypatch.setattr(bench, "FOLDER", tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    read, write = os.pipe()
    os.close(read)
    before = os.dup(1)
    os.dup2(write, 1)
    try:
        code = call(["bench", "mine", tmp_path / "done.txt", "--flag"], io.StringIO(), io.StringIO())
    finally:
        os.dup2(before, 1)
        os.close(write)
        os.close(before)
    assert code == 0
    assert (tmp_path / "done.txt").read_text() == "['--flag']"
