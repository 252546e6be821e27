"""Kernels are compiled for what they say and kept wherever something can be written; parts are for kernels only."""

import ast
import json
import os
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from numba import types

from molstream.kernels import compiled

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import json, os, tempfile
{before}
from molstream.kernels.rng import _hashing
from molstream.kernels.rng.hashing import hash_u64
values = [int(x) for x in hash_u64(7, [1, 2, 3])]
stats = _hashing.hash_u64.stats
print(json.dumps([values, stats.cache_path, sum(stats.cache_hits.values()), os.environ.get("NUMBA_CACHE_DIR")]))
"""


def test_arguments_are_read_as_the_types_of_what_is_passed():
    found = compiled._parse("const u1[:], i8[:, :], f4[:, :, :], b1[:], u8, f8")
    frozen = np.frombuffer(b"", np.uint8)
    passed = [frozen, np.empty((1, 1), np.int64), np.empty((1, 1, 1), np.float32), np.empty(1, bool), np.uint64(1), 1.0]
    assert found == tuple(map(compiled.numba.typeof, passed))


@pytest.mark.parametrize("text", ["u1[:", "i8[:]; i8", "const", "array", "i8[:],, i8"])
def test_arguments_that_say_nothing_are_refused(text):
    with pytest.raises(ValueError, match="is not like 'const u1"):
        compiled._parse(text)


def test_every_kernel_can_be_compiled_for_what_it_says():
    for module in ("codec._labels", "rng._permutation", "packing._collate"):
        import_module(f"molstream.kernels.{module}")
    named = {made.py_func.__name__: compiled.arguments_of(made) for made, texts in compiled._arguments.items() if texts}
    assert {"expand_labels", "permute", "gather_rows"} <= set(named)
    assert named["permute"] == [(types.uint64, types.int64, types.int64, types.int64, types.int64[::1])]


def test_no_part_is_called_by_python():
    """It has no wrapper: the process would end."""
    parts, calls = set(), set()
    for path in (ROOT / "kernels").rglob("*.py"):
        functions = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)]
        parts |= {f.name for f in functions for d in f.decorator_list if ast.unparse(d).partition("(")[0] in ("part", "inline")}
    for folder in ("kernels", "shards", "streamer", "trainers", "tools", "tests", "benchmarks"):
        for path in (ROOT / folder).rglob("*.py"):
            found = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
            names = [f for f in found if isinstance(f, ast.Attribute) and isinstance(f.value, ast.Name)]
            calls |= {f.attr for f in names if f.value.id.startswith("_")}
    assert {"mix64", "read_atom", "transform_panel"} <= parts
    assert {"permute", "laplacian", "decode_molecules"} <= calls
    assert calls & parts == set()


@pytest.fixture
def hash_in(tmp_path):
    """hash_in(before=""): values, folder of the cache, hits in it and NUMBA_CACHE_DIR of a fresh process that can write neither
    beside the sources nor in a home. Not by permissions, which do not bind root: there are files where the folders would be."""
    copy, home, temp = tmp_path / "copy", tmp_path / "home", tmp_path / "temp"
    shutil.copytree(ROOT / "kernels", copy / "molstream" / "kernels", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "molstream" / "__init__.py", copy / "molstream")
    for folder in [p for p in (copy / "molstream" / "kernels").iterdir() if p.is_dir()]:
        (folder / "__pycache__").touch()
    home.touch()
    temp.mkdir()

    def run(before: str = "") -> list:
        env = {name: value for name, value in os.environ.items() if not name.startswith(("NUMBA", "XDG", "IPY"))}
        env |= {"HOME": str(home), "TMPDIR": str(temp), "PYTHONPATH": str(copy)}
        command = [sys.executable, "-c", SCRIPT.format(before=before)]
        done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        return json.loads(done.stdout)

    run.temp = temp
    return run


def test_where_nothing_else_can_be_written_machine_code_is_kept_in_a_temporary_folder(hash_in):
    values, folder, hits, variable = hash_in()
    ours = hash_in.temp / f"molstream-kernels-{os.getuid()}"
    assert (Path(folder).parent, variable, hits) == (ours, str(ours), 0)
    assert (ours.stat().st_mode & 0o777, ours.stat().st_uid) == (0o700, os.getuid())
    assert list(Path(folder).glob("_hashing.hash_u64*.nbc"))
    assert hash_in() == [values, folder, 1, str(ours)]


def test_where_nothing_at_all_can_be_written_kernels_are_compiled_each_time(hash_in):
    before = "def refuse(): raise FileNotFoundError\ntempfile.gettempdir = refuse"
    values, *rest = hash_in(before)
    assert rest == [None, 0, None]
    assert values == hash_in()[0]


def test_a_folder_that_others_may_write_to_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    ours = tmp_path / f"molstream-kernels-{os.getuid()}"
    assert compiled._temporary_folder() == str(ours)
    assert compiled._temporary_folder() == str(ours)
    ours.chmod(0o770)
    other = Path(compiled._temporary_folder())
    assert (other != ours, other.parent, other.stat().st_mode & 0o777) == (True, tmp_path, 0o700)
    ours.rmdir()
    ours.symlink_to(other)
    assert Path(compiled._temporary_folder()) not in (ours, other)
