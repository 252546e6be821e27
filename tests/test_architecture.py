"""Who may import whom (docs/design.md, section 1), and what no module may do: read off the syntax trees, then tried out."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("kernels", "shards", "streamer", "trainers", "tools")
MAY_IMPORT = {
    "kernels": {"kernels", "numpy"},
    "shards": {"shards", "kernels", "numpy", "pyarrow", "zstandard", "fsspec", "psutil"},
    "streamer": {"streamer", "shards", "kernels", "torch", "numpy", "pyarrow", "webdataset"},
    "trainers": {"trainers", "streamer", "kernels", "accelerate", "torch", "safetensors", "numpy", "pyarrow", "psutil"},
    "tools": {*PACKAGES, "typer", "rich", "numpy", "pyarrow", "psutil"},
}
"""Ours and others', by package. The standard library is free, but for FORBIDDEN."""
ONLY_IN = {
    "kernels/_numba.py": {"numba"},
    "kernels/_numba_columns.py": {"numba"},
    "kernels/_numba_positional.py": {"numba"},
    "kernels/_numba_collate.py": {"numba"},
    "kernels/_numba_labels.py": {"numba"},
    "kernels/_numba_dropout.py": {"numba"},
    "kernels/_numba_message.py": {"numba"},
    "kernels/_numba_packing.py": {"numba"},
    "kernels/_numba_scaffold.py": {"numba"},
    "kernels/_numba_splits.py": {"numba"},
    "kernels/_numba_structure.py": {"numba"},
    "kernels/_numba_triples.py": {"numba"},
    "kernels/segment.py": {"torch", "torch_scatter"},
    "kernels/dropout.py": {"torch"},
    "kernels/reference.py": {"torch"},
    "shards/featurize.py": {"rdkit"},
    "shards/ray_engine.py": {"ray"},
    "tools/curves.py": {"matplotlib"},
    "tools/page.py": {"jinja2"},
    "tools/plots.py": {"matplotlib"},
}
"""What one module may import beyond its package."""
FORBIDDEN = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "marshal", "shelve"}
NO_FILES = {"os", "pathlib", "io", "shutil", "tempfile", "glob", "configparser", "tomllib", "json"}
"""Kernels are pure functions on arrays: no files, no configs."""
DANGEROUS = {"shell": True, "allow_pickle": True, "weights_only": False}
HEAVY = ("torch", "rdkit", "numba", "pyarrow", "webdataset", "accelerate", "numpy")


def imported(tree: ast.AST) -> set[str]:
    """Top-level names a module imports anywhere, inside functions and `if TYPE_CHECKING` too."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add((node.module or "").split(".")[0])
    return names


def find_problems(path: str, source: str) -> list[str]:
    """What is wrong with a module at `path` ('kernels/packing.py'); nothing if it keeps to the rules."""
    tree = ast.parse(source)
    package = path.split("/", maxsplit=1)[0]
    problems = [] if ast.get_docstring(tree) else ["has no docstring"]
    allowed = MAY_IMPORT[package] | ONLY_IN.get(path, set())
    names = imported(tree)
    for name in sorted(names):
        if name in FORBIDDEN or (name not in allowed and name not in sys.stdlib_module_names):
            problems.append(f"imports {name}")
        elif package == "kernels" and name in NO_FILES:
            problems.append(f"imports {name}: kernels know no files")
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
        if isinstance(node.func, ast.Name) and called in ("eval", "exec", "__import__"):
            problems.append(f"calls {called}")
        if called == "import_module":
            problems.append("calls import_module: an import these rules cannot see")
        if called == "system" or (called == "load" and ast.unparse(node.func) == "torch.load"):
            problems.append(f"calls {ast.unparse(node.func)}")
        for keyword in node.keywords:
            value = getattr(keyword.value, "value", None)
            if keyword.arg in DANGEROUS and value is DANGEROUS[keyword.arg]:
                problems.append(f"passes {keyword.arg}={value}")
    return problems


MODULES = sorted(str(p.relative_to(ROOT)) for package in PACKAGES for p in (ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("path", MODULES)
def test_every_module_keeps_to_the_directions_of_import(path):
    assert find_problems(path, (ROOT / path).read_text()) == []


def test_the_five_packages_are_all_looked_at():
    assert {path.split("/")[0] for path in MODULES} == set(PACKAGES)
    assert "kernels/_numba.py" in MODULES
    assert "shards/sample/__init__.py" in MODULES


@pytest.mark.parametrize(
    ("path", "line", "problem"),
    [
        ("kernels/packing.py", "import torch", "imports torch"),
        ("kernels/packing.py", "from numba import njit", "imports numba"),
        ("kernels/packing.py", "def f():\n    from numba import njit", "imports numba"),
        ("kernels/packing.py", "from shards.types import Task", "imports shards"),
        ("kernels/packing.py", "from pathlib import Path", "imports pathlib: kernels know no files"),
        ("kernels/segment.py", "import numba", "imports numba"),
        ("shards/build.py", "import torch.nn as nn", "imports torch"),
        ("shards/build.py", "def f():\n    import rdkit", "imports rdkit"),
        ("shards/build.py", "from rdkit import Chem", "imports rdkit"),
        ("shards/build.py", "import webdataset", "imports webdataset"),
        ("shards/build.py", "from streamer import Batch", "imports streamer"),
        ("streamer/loader.py", "from trainers.config import Recipe", "imports trainers"),
        ("streamer/loader.py", "import rdkit.Chem", "imports rdkit"),
        ("streamer/loader.py", "import numba", "imports numba"),
        ("trainers/embed.py", "if TYPE_CHECKING:\n    from shards import Molecules", "imports shards"),
        ("trainers/embed.py", "def f():\n    if x:\n        import rdkit", "imports rdkit"),
        ("trainers/embed.py", "from tools.main import main", "imports tools"),
        ("trainers/embed.py", "import tensorflow", "imports tensorflow"),
        ("tools/cat.py", "import pickle", "imports pickle"),
        ("tools/pretrain.py", "def f():\n    from matplotlib.figure import Figure", "imports matplotlib"),
        ("tools/cat.py", "import tests.conftest", "imports tests"),
        ("tools/cat.py", "eval('1')", "calls eval"),
        ("tools/cat.py", "x = __import__('torch')", "calls __import__"),
        ("tools/cat.py", "import importlib as i\ni.import_module(x)", "calls import_module: an import these rules cannot see"),
        ("tools/cat.py", "import subprocess\nsubprocess.run('ls', shell=True)", "passes shell=True"),
        ("tools/cat.py", "import os\nos.system('ls')", "calls os.system"),
        ("trainers/checkpoint.py", "import torch\ntorch.load('x')", "calls torch.load"),
        ("trainers/checkpoint.py", "f('x', weights_only=False)", "passes weights_only=False"),
        ("trainers/checkpoint.py", "import numpy as np\nnp.load('x', allow_pickle=True)", "passes allow_pickle=True"),
    ],
)
def test_the_checker_finds_what_is_forbidden(path, line, problem):
    assert find_problems(path, f'"""A module."""\n{line}\n') == [problem]


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("kernels/_numba.py", "from numba import njit"),
        ("kernels/segment.py", "import torch"),
        ("shards/featurize.py", "from rdkit import Chem"),
        ("shards/featurizer.py", "def f():\n    from shards.featurize import featurize"),
        ("trainers/log.py", "from torch.utils.tensorboard import SummaryWriter"),
        ("trainers/evaluate.py", "network.eval()"),
        ("trainers/config.py", "# pickle, eval(, shell=True"),
    ],
)
def test_the_checker_lets_pass_what_is_allowed(path, line):
    assert find_problems(path, f'"""A module."""\n{line}\n') == []


def test_the_checker_finds_a_missing_docstring():
    assert find_problems("tools/cat.py", "import json\n") == ["has no docstring"]


# the same, tried out


@pytest.fixture
def python(tmp_path):
    """python(*argv, without=("rdkit",)): run an interpreter in which importing these packages fails."""

    def run(*argv: str, without: tuple[str, ...] = ()) -> subprocess.CompletedProcess:
        blocked = tmp_path / "blocked"
        blocked.mkdir(exist_ok=True)
        lines = ["import sys", *(f"sys.modules[{name!r}] = None" for name in without)]
        (blocked / "sitecustomize.py").write_text("\n".join(lines) + "\n")
        env = os.environ | {"PYTHONPATH": os.pathsep.join([str(blocked), str(ROOT)])}
        command = [sys.executable, *argv]
        return subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False)

    return run


@pytest.mark.parametrize("name", ["rdkit", "torch"])
def test_a_blocked_package_is_really_blocked(python, name):
    done = python("-c", f"import {name}", without=(name,))
    assert done.returncode == 1
    assert "halted" in done.stderr


def test_training_needs_no_rdkit(python, sample_set, tmp_path):
    done = python(*f"-m tools.main pretrain {sample_set.path} --out run --recipe smoke --steps 4".split(), without=("rdkit",))
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    assert json.loads((tmp_path / "run" / "results.json").read_text())["step"] == 4


def test_building_and_reading_a_shard_set_need_no_torch(python, sample_table, sample_set, tmp_path):
    without = ("torch", "webdataset", "accelerate")
    done = python(*f"-m tools.main build {sample_table} --out set --split-fractions 80,10,10".split(), without=without)
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "set" / "manifest.json").read_text())
    assert sum(s["molecules"] for s in manifest["splits"].values()) == manifest["provenance"]["inputs"][0]["rows"]
    for command in ("verify set", "cat set --limit 1"):
        done = python("-m", "tools.main", *command.split(), without=without)
        assert (done.returncode, done.stderr) == (0, "")


def test_a_package_that_is_not_installed_is_named_in_one_line(python, sample_set):
    done = python(*f"-m tools.main stream {sample_set.path}".split(), without=("torch",))
    assert done.returncode == 1
    assert done.stderr == "molstream: error: this needs the package torch, which is not installed here\n"


def test_help_imports_nothing_heavy(python):
    commands = "build inspect cat verify stream pretrain eval embed".split()
    script = f"""
import contextlib, io, json, sys
from tools.main import main
codes = []
for argv in [["--help"], *([command, "--help"] for command in {commands})]:
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            main(argv)
        except SystemExit as done:
            codes.append(done.code)
print(json.dumps([codes, [name for name in {HEAVY} if name in sys.modules]]))
"""
    done = python("-c", script)
    assert json.loads(done.stdout) == [[0] * 9, []], done.stderr
