"""Who may import whom (docs/design.md), and what no module may do: read off the syntax trees, then tried out.

A module is named by its dotted path without `molstream.`: `shards.format.index` is in the room `shards.format`. A module that
lies in no room (`shards.molecules`) is on the ground of its package.
"""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("kernels", "shards", "streamer", "trainers", "tools")
ROOMS = {
    "kernels": ("rng", "codec", "tables", "chemistry", "packing", "nn"),
    "shards": ("store", "workers", "inputs", "splits", "chemistry", "format", "sample", "build"),
    "streamer": (),
    "trainers": ("runs", "distributed", "models.layers", "models", "metrics", "jobs", "training"),
    "tools": (),
}
"""Rooms of each package, from the lowest up; a room may lie in another. A room imports from those before it, and all from the
ground."""
MAX_FILES = 12
FLAT = ("streamer", "tools")
"""Packages that are one room, of any number of files."""
MAY_IMPORT = {
    "kernels": {"kernels", "numpy"},
    "shards": {"shards", "kernels", "numpy", "pyarrow", "zstandard", "fsspec", "psutil"},
    "streamer": {"streamer", "shards", "kernels", "torch", "numpy", "pyarrow", "webdataset"},
    "trainers": {
        "trainers",
        "streamer",
        "kernels",
        # what a shard set is, which is handed in; never how one is written
        "shards.molecules",
        "shards.tasks",
        "shards.format.manifest",
        "shards.format.reader",
        # files, and what is wrong with them
        "shards.store",
        "shards.errors",
        "accelerate",
        "tensorboard",
        "torch",
        "safetensors",
        "numpy",
        "pyarrow",
        "psutil",
    },
    "tools": {*PACKAGES, "typer", "rich", "numpy", "pyarrow", "psutil"},
    "": {*PACKAGES},
}
"""Ours and others', by package; of `molstream/` itself last. The standard library is free, but for FORBIDDEN."""
ONLY_IN = {
    # the cache of machine code is a folder
    "kernels.compiled": {"numba"},
    "kernels.nn.segment": {"torch", "torch_scatter"},
    "kernels.nn.dropout": {"torch"},
    "shards.chemistry.parser": {"rdkit"},
    "shards.splits.torchfile": {"torch"},
    "shards.workers.ray": {"ray"},
    "tools.curves": {"matplotlib"},
    "tools.page": {"jinja2"},
    "tools.plots": {"matplotlib"},
}
"""What one module may import beyond its package."""
FORBIDDEN = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "marshal", "shelve"}
NO_FILES = {"os", "pathlib", "io", "shutil", "tempfile", "glob", "configparser", "tomllib", "json"}
"""Kernels are pure functions on arrays: no files, no configs."""
MAY_LOAD = "shards.splits.torchfile"
"""The one module that calls torch.load, with weights_only=True, and imports torch in a function."""
STORE = "shards.store"
"""The one room that opens files for writing and parses JSON."""
WRITES = {
    *("write_text", "write_bytes", "touch", "symlink_to", "hardlink_to", "symlink", "link", "rename", "renames", "truncate"),
    *("save_file", "savez", "savez_compressed", "savetxt", "tofile", "ParquetWriter", "OSFile", "output_stream", "FileHandler"),
    *("TemporaryFile", "NamedTemporaryFile", "SpooledTemporaryFile", "mkstemp", "mkfifo", "fdopen"),
    *("copyfile", "copyfileobj", "copytree", "copy2", "flock", "lockf", "fsync", "JSONDecoder"),
}
"""Functions that write files, rename them, lock them or read JSON, by their last name, whosever they are."""
WRITES_OF = {
    *("pq.write_table", "pyarrow.parquet.write_table", "np.save", "numpy.save", "torch.save"),
    *("shutil.move", "shutil.copy", "os.replace", "json.load", "json.loads", "json.dump"),
}
"""The same, where the last name alone means other things too."""
MODE = re.compile(r"[rwaxbt+U]{1,4}")
KNOWS_FILES = "kernels.compiled"
"""It chooses where machine code is kept."""
DANGEROUS = {"shell": True, "allow_pickle": True, "weights_only": False}
BY_NAME = {"trainers.models.layers.build"}
"""Modules that import what a table of ours names; the table's test sees where that lies."""
HEAVY = ("torch", "rdkit", "numba", "pyarrow", "webdataset", "accelerate", "numpy")


def name_of(path: Path) -> str:
    """'shards/format/index.py' -> 'shards.format.index'; a room's `__init__` is the room; `molstream/__init__.py` is ''."""
    parts = path.with_suffix("").parts
    parts = parts[:-1] if parts[-1] == "__init__" else parts
    return ".".join(parts[1:] if parts[0] == "molstream" else parts)


PATHS = {name_of(p.relative_to(ROOT)): p for package in PACKAGES for p in (ROOT / package).rglob("*.py")}
FACE = {name_of(p.relative_to(ROOT)): p for p in (ROOT / "molstream").glob("*.py")}
"""`molstream/` itself."""


def room_of(name: str) -> tuple[str, str]:
    """(package, room) of a module; the room is '' on the ground."""
    package, _, rest = name.partition(".")
    found = (room for room in ROOMS.get(package, ()) if f"{rest}.".startswith(f"{room}."))
    return package, max(found, key=len, default="")


def imports_of(tree: ast.AST) -> set[str]:
    """Dotted names a module imports anywhere, inside functions and `if TYPE_CHECKING` too; ours without `molstream.`."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            module = node.module or ""
            # what is imported may be a module itself
            inner = {f"{module}.{alias.name}" for alias in node.names}
            modules = {name for name in inner if name.removeprefix("molstream.") in PATHS}
            names |= modules or {module}
    return names


def is_allowed(name: str, allowed: set[str]) -> bool:
    """Whether a dotted name, or what it lies in, is in a list."""
    parts = name.split(".")
    return any(".".join(parts[:k]) in allowed for k in range(1, len(parts) + 1))


def find_files(tree: ast.AST) -> list[str]:
    """Calls that open a file for writing, rename or lock one, or parse JSON, in whatever way; what the store is for."""
    found = []
    buffers = {
        target.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and ast.unparse(node.value) in ("io.BytesIO()", "io.StringIO()")
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    names = {
        f"{node.module}.{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module in ("json", "os", "shutil", "pyarrow.parquet", "numpy", "torch")
        for alias in node.names
    }
    aliases = {a.asname or a.name: a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    plain = {name.rpartition(".")[2] for name in names if name in WRITES_OF}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        full = ast.unparse(node.func)
        head, dot, rest = full.partition(".")
        whole = aliases.get(head, head) + dot + rest
        is_method = isinstance(node.func, ast.Attribute)
        called = full.rpartition(".")[2] if is_method or isinstance(node.func, ast.Name) else ""
        first = ast.unparse(node.args[0]) if node.args else ""
        is_file = called in WRITES and (is_method or called not in ("write_bytes", "link", "truncate"))
        is_file |= bool({full, whole} & WRITES_OF)
        is_file |= not is_method and called in plain
        # of text it takes two
        is_file |= is_method and called == "replace" and len(node.args) == 1 and not node.keywords
        is_file |= called == "savefig" and first not in buffers
        is_file |= called == "open" and is_writing(node, is_method)
        is_file |= full in ("np.memmap", "numpy.memmap") and not has_mode(node, "r", "c")
        if is_file:
            found.append(f"calls {full}: files are written, renamed, locked and JSON is parsed in shards.store")
    return found


def is_writing(node: ast.Call, is_method: bool) -> bool:
    """Whether a call of something named open may open for writing: not with a mode for reading, or none."""
    full = ast.unparse(node.func)
    if full == "os.open":
        # what is printed to nobody
        return ast.unparse(node.args[0]) != "os.devnull"
    modes = [k.value for k in node.keywords if k.arg in ("mode", None)]
    # Path.open(mode), open(file, mode), fsspec.open(url, mode)
    modes += node.args[1:2] if not is_method else node.args[:2]
    texts = [getattr(mode, "value", None) for mode in modes]
    if any(isinstance(text, str) and MODE.fullmatch(text) and set(text) & set("wax+") for text in texts):
        return True
    # a mode that is computed may be any
    return not is_method and any(not isinstance(text, str) for text in texts)


def has_mode(node: ast.Call, *modes: str) -> bool:
    """Whether a mode is among the arguments."""
    given = [getattr(a, "value", None) for a in [*node.args, *(k.value for k in node.keywords)]]
    return any(mode in given for mode in modes)


def find_problems(module: str, source: str) -> list[str]:
    """What is wrong with a module called `module` ('kernels.packing.packs'); nothing if it keeps to the rules."""
    tree = ast.parse(source)
    package, room = room_of(module)
    problems = [] if ast.get_docstring(tree) else ["has no docstring"]
    is_face = module in FACE
    allowed = MAY_IMPORT["" if is_face else package] | ONLY_IN.get(module, set())
    for full in sorted(imports_of(tree)):
        name = full.removeprefix("molstream.")
        top = full.split(".")[0]
        if full in PACKAGES or full.startswith(tuple(f"{p}." for p in PACKAGES)):
            problems.append(f"imports {full} by its bare name")
        elif top in FORBIDDEN or (not is_allowed(name, allowed) and top not in sys.stdlib_module_names):
            problems.append(f"imports {name if top == 'molstream' else top}")
        elif package == "kernels" and top in NO_FILES and module != KNOWS_FILES:
            problems.append(f"imports {top}: kernels know no files")
        elif top == "molstream" and room_of(name)[0] == package and not is_face:
            there = room_of(name)[1]
            rooms = ("", *ROOMS[package])
            if rooms.index(there) > rooms.index(room):
                problems.append(f"imports {name}, upwards")
    if module == MAY_LOAD and any(
        isinstance(node, ast.Import | ast.ImportFrom) and "torch" in imports_of(node) for node in tree.body
    ):
        problems.append("imports torch before it is asked for")
    if room_of(module) != tuple(STORE.split(".")):
        problems += find_files(tree)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
        if isinstance(node.func, ast.Name) and called in ("eval", "exec", "__import__"):
            problems.append(f"calls {called}")
        if called in ("import_module", "resolve_name") and not is_face and module not in BY_NAME:
            problems.append(f"calls {called}: an import these rules cannot see")
        is_load = called == "load" and ast.unparse(node.func).startswith("torch.")
        if called == "system" or (is_load and (module != MAY_LOAD or "weights_only=True" not in ast.unparse(node))):
            problems.append(f"calls {ast.unparse(node.func)}")
        for keyword in node.keywords:
            value = getattr(keyword.value, "value", None)
            if keyword.arg in DANGEROUS and value is DANGEROUS[keyword.arg]:
                problems.append(f"passes {keyword.arg}={value}")
    return problems


@pytest.mark.parametrize("module", sorted(PATHS | FACE))
def test_every_module_keeps_to_the_directions_of_import(module):
    assert find_problems(module, (PATHS | FACE)[module].read_text()) == []


def test_the_five_packages_and_their_rooms_are_all_looked_at():
    assert {name.split(".")[0] for name in PATHS} == set(PACKAGES)
    folders = {name_of(p.relative_to(ROOT)) for package in PACKAGES for p in (ROOT / package).rglob("__init__.py")}
    assert folders == {*PACKAGES, *(f"{package}.{room}" for package, rooms in ROOMS.items() for room in rooms)}
    assert {"kernels.codec._bytes", "shards.sample", "shards.format.index"} <= set(PATHS)
    assert set(FACE) == {"", "__main__"}


def test_no_room_has_more_files_than_one_can_look_over():
    rooms = [ROOT / package for package in PACKAGES if package not in FLAT]
    rooms += [PATHS[f"{package}.{room}"].parent for package, names in ROOMS.items() for room in names]
    counts = {str(room.relative_to(ROOT)): len([p for p in room.glob("*.py") if p.name != "__init__.py"]) for room in rooms}
    assert {room: count for room, count in counts.items() if count > MAX_FILES} == {}


def test_a_room_says_its_purpose_and_imports_nothing_until_asked():
    for package, names in ROOMS.items():
        for room in (package, *(f"{package}.{name}" for name in names if name != "sample")):
            tree = ast.parse(PATHS[room].read_text())
            assert len(tree.body) == 1, f"{room}: more than a docstring"
            assert len((ast.get_docstring(tree) or "").splitlines()) == 1, f"{room}: expected one line"


def test_no_module_imports_itself_by_way_of_others():
    graph = {}
    for module, path in PATHS.items():
        ours = {name.removeprefix("molstream.") for name in imports_of(ast.parse(path.read_text()))}
        graph[module] = ours & set(PATHS)
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, f"a circle: {' -> '.join([*trail[trail.index(module) :], module])}"
        if module not in done:
            for other in sorted(graph[module]):
                visit(other, (*trail, module))
            done.add(module)

    for module in graph:
        visit(module, ())


BARE = re.compile(rf"^\s*(?:>>> )?(?:from|import) (?:{'|'.join(PACKAGES)})\b(?!\s*=)", re.MULTILINE)


@pytest.mark.parametrize("folder", ["tests", "benchmarks", "examples", "docs", "."])
def test_nothing_imports_a_package_by_its_bare_name(folder):
    """In a checkout `import kernels` works too, and makes second copies of all its modules."""
    if folder in ("tests", "benchmarks", "examples"):
        files = sorted((ROOT / folder).rglob("*.py"))
        found = [(p, n) for p in files for n in imports_of(ast.parse(p.read_text())) if n.split(".")[0] in PACKAGES]
    else:
        files = sorted((ROOT / folder).glob("*.md"))
        found = [(p, line) for p in files for line in BARE.findall(p.read_text())]
    assert files
    assert found == []


@pytest.mark.parametrize(
    ("module", "line", "problem"),
    [
        ("kernels.packing.packs", "import torch", "imports torch"),
        ("kernels.packing._packs", "from numba import njit", "imports numba"),
        ("kernels.packing.packs", "def f():\n    from numba import njit", "imports numba"),
        ("kernels.packing.packs", "from molstream.shards.molecules import Task", "imports shards.molecules"),
        ("kernels.packing.packs", "from pathlib import Path", "imports pathlib: kernels know no files"),
        ("kernels.nn.segment", "import numba", "imports numba"),
        ("kernels.codec.labels", "from molstream.kernels.nn import threads", "imports kernels.nn.threads, upwards"),
        ("kernels.codec.labels", "import kernels.codec.bytes", "imports kernels.codec.bytes by its bare name"),
        ("tools.cat", "from shards.molecules import Task", "imports shards.molecules by its bare name"),
        ("shards.build.build", "import torch.nn as nn", "imports torch"),
        ("shards.build.build", "def f():\n    import rdkit", "imports rdkit"),
        ("shards.build.build", "from rdkit import Chem", "imports rdkit"),
        ("shards.build.build", "import webdataset", "imports webdataset"),
        ("shards.build.build", "from molstream.streamer.batch import Batch", "imports streamer.batch"),
        ("shards.format.index", "from molstream.shards.build.plan import BuildPlan", "imports shards.build.plan, upwards"),
        ("shards.format.index", "if x:\n    from molstream.shards.build import plan", "imports shards.build.plan, upwards"),
        ("shards.molecules", "from molstream.shards.format.block import Widths", "imports shards.format.block, upwards"),
        ("streamer.loader", "from molstream.trainers.config import Recipe", "imports trainers.config"),
        ("streamer.loader", "import rdkit.Chem", "imports rdkit"),
        ("streamer.loader", "import numba", "imports numba"),
        ("trainers.jobs.embed", "from molstream.shards.format.writer import write_shard", "imports shards.format.writer"),
        ("trainers.jobs.embed", "def f():\n    if x:\n        import rdkit", "imports rdkit"),
        ("trainers.jobs.embed", "from molstream.tools.main import main", "imports tools.main"),
        ("trainers.jobs.embed", "from molstream.trainers.training import step", "imports trainers.training.step, upwards"),
        ("trainers.jobs.embed", "import tensorflow", "imports tensorflow"),
        (
            "trainers.models.layers.gcn",
            "from molstream.trainers.models import heads",
            "imports trainers.models.heads, upwards",
        ),
        ("tools.cat", "import pickle", "imports pickle"),
        ("tools.pretrain", "def f():\n    from matplotlib.figure import Figure", "imports matplotlib"),
        ("tools.cat", "import tests.conftest", "imports tests"),
        ("tools.cat", "eval('1')", "calls eval"),
        ("tools.cat", "x = __import__('torch')", "calls __import__"),
        ("tools.cat", "import importlib as i\ni.import_module(x)", "calls import_module: an import these rules cannot see"),
        (
            "tools.cat",
            "from pkgutil import resolve_name\nresolve_name(x)",
            "calls resolve_name: an import these rules cannot see",
        ),
        ("tools.cat", "import subprocess\nsubprocess.run('ls', shell=True)", "passes shell=True"),
        ("tools.cat", "import os\nos.system('ls')", "calls os.system"),
        ("trainers.runs.checkpoint", "import torch\ntorch.load('x')", "calls torch.load"),
        ("trainers.runs.checkpoint", "import torch\ntorch.load('x', weights_only=True)", "calls torch.load"),
        ("trainers.runs.checkpoint", "import torch\ntorch.serialization.load('x')", "calls torch.serialization.load"),
        ("shards.splits.torchfile", "def f():\n    import torch\n    torch.load('x')", "calls torch.load"),
        ("shards.splits.files", "def f():\n    import torch", "imports torch"),
        ("shards.splits.torchfile", "import torch", "imports torch before it is asked for"),
        ("trainers.runs.checkpoint", "f('x', weights_only=False)", "passes weights_only=False"),
        ("trainers.runs.checkpoint", "import numpy as np\nnp.load('x', allow_pickle=True)", "passes allow_pickle=True"),
    ],
)
def test_the_checker_finds_what_is_forbidden(module, line, problem):
    assert find_problems(module, f'"""A module."""\n{line}\n') == [problem]


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("kernels.compiled", "import os\nimport numba"),
        ("kernels.codec._bytes", "from molstream.kernels.compiled import kernel"),
        ("kernels.nn.segment", "import torch"),
        ("shards.chemistry.parser", "from rdkit import Chem"),
        ("shards.splits.torchfile", "def f():\n    import torch\n    torch.load('x', weights_only=True)"),
        ("shards.chemistry.guarded", "def f():\n    from molstream.shards.chemistry.parser import featurize"),
        ("shards.build.build", "from molstream.shards.format.index import Index"),
        ("trainers.runs.board", "from tensorboard.summary.writer.record_writer import RecordWriter"),
        ("trainers.jobs.evaluate", "network.eval()"),
        ("trainers.models.heads", "from molstream.trainers.models.layers.graph import Graph"),
        ("trainers.jobs.evaluate", "from molstream.shards.format.reader import ShardSet"),
        ("trainers.config", "# pickle, eval(, shell=True"),
    ],
)
def test_the_checker_lets_pass_what_is_allowed(module, line):
    assert find_problems(module, f'"""A module."""\n{line}\n') == []


FILES = [
    "open('a', 'w')",
    "open('a', mode='ab')",
    "open('a', 'x')",
    "open('a', 'r+b')",
    "open('a', mode)",
    "open('a', **options)",
    "path.open('wb')",
    "path.open(mode='a')",
    "io.open('a', 'w')",
    "gzip.open(path, 'wb')",
    "tarfile.open(path, 'w')",
    "archive.open('w')",
    "import json as j\nj.loads(text)",
    "import pyarrow.parquet as p\np.write_table(table, path)",
    "fsspec.open(url, 'wb')",
    "os.open(path, os.O_WRONLY)",
    "os.open(path, flags)",
    "os.fdopen(3, 'w')",
    "path.write_text('a')",
    "path.write_bytes(data)",
    "Path.write_text(path, 'a')",
    "path.touch()",
    "pq.write_table(table, path)",
    "pq.ParquetWriter(path, schema)",
    "from pyarrow.parquet import write_table\nwrite_table(table, path)",
    "from pyarrow.parquet import ParquetWriter\nParquetWriter(path, schema)",
    "save_file(tensors, path)",
    "np.save(path, array)",
    "np.savez(path, a=array)",
    "array.tofile(path)",
    "torch.save(state, path)",
    "np.memmap(path, np.uint8, 'w+')",
    "figure.savefig(path)",
    "plt.savefig('a.png')",
    "beside.rename(path)",
    "beside.replace(path)",
    "os.rename(a, b)",
    "os.replace(a, b)",
    "from os import replace\nreplace(a, b)",
    "shutil.move(a, b)",
    "shutil.copy(a, b)",
    "shutil.copytree(a, b)",
    "path.symlink_to(other)",
    "fcntl.flock(file, fcntl.LOCK_EX)",
    "os.fsync(3)",
    "tempfile.NamedTemporaryFile()",
    "tempfile.TemporaryFile()",
    "logging.FileHandler(path)",
    "json.loads(text)",
    "json.load(file)",
    "json.dump(value, file)",
    "from json import loads\nloads(text)",
    "json.JSONDecoder().decode(text)",
]


@pytest.mark.parametrize("line", FILES)
def test_the_checker_finds_files_that_are_written_outside_the_store(line):
    call = ast.unparse(next(n.func for n in reversed([*ast.walk(ast.parse(line))]) if isinstance(n, ast.Call)))
    (problem,) = {p for p in find_problems("shards.build.build", f'"""A module."""\n{line}\n') if p.startswith("calls ")}
    assert problem == f"calls {call}: files are written, renamed, locked and JSON is parsed in shards.store"
    assert not [p for p in find_problems("shards.store.writing", f'"""A module."""\n{line}\n') if p.startswith("calls ")]


@pytest.mark.parametrize(
    "line",
    [
        "open('/proc/self/statm')",
        "open('a', 'rb')",
        "open('warp')",
        "path.open()",
        "path.open('rb')",
        "archive.open(entry)",
        "store.open('waxworks.parquet')",
        "fsspec.open(url, 'rb')",
        "fsspec.open(url, 'rt', encoding='utf-8')",
        "os.open(os.devnull, os.O_WRONLY)",
        "text.replace('a', 'b')",
        "replace(recipe, hidden=3)",
        "dataclasses.replace(recipe, hidden=3)",
        "write_bytes(path, data)",
        "writer.write_table(table)",
        "json.dumps(value)",
        "save(tensors)",
        "import io\nout = io.BytesIO()\nfigure.savefig(out, format='png')",
        "np.memmap(path, np.uint8, 'r')",
        "path.unlink()",
        "path.mkdir()",
    ],
)
def test_the_checker_lets_pass_what_writes_no_file(line):
    assert not [p for p in find_problems("tools.curves", f'"""A module."""\n{line}\n') if p.startswith("calls ")]


def test_the_checker_finds_a_missing_docstring():
    assert find_problems("tools.cat", "import json\n") == ["has no docstring"]


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
        return subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)

    return run


@pytest.mark.parametrize("name", ["rdkit", "torch"])
def test_a_blocked_package_is_really_blocked(python, name):
    done = python("-c", f"import {name}", without=(name,))
    assert done.returncode == 1
    assert "halted" in done.stderr


@pytest.mark.slow
def test_training_needs_no_rdkit(python, sample_set, tmp_path):
    done = python(*f"-m molstream pretrain {sample_set.path} --out run --recipe smoke --steps 4".split(), without=("rdkit",))
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    assert json.loads((tmp_path / "run" / "results.json").read_text())["step"] == 4


def test_a_recipe_is_checked_without_torch(python):
    script = "from molstream.trainers.recipes import get_recipe; get_recipe('smoke').override(['layer=gat'])"
    done = python("-c", script, without=("torch",))
    assert "recipe smoke: layer is 'gat', expected one of gcn, gin, gine, gated, mpnn" in done.stderr


@pytest.mark.slow
def test_building_and_reading_a_shard_set_need_no_torch(python, sample_table, sample_set, tmp_path):
    without = ("torch", "webdataset", "accelerate")
    done = python(*f"-m molstream build {sample_table} --out set --split-fractions 80,10,10".split(), without=without)
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "set" / "manifest.json").read_text())
    assert sum(s["molecules"] for s in manifest["splits"].values()) == manifest["provenance"]["inputs"][0]["rows"]
    for command in ("verify set", "cat set --limit 1"):
        done = python("-m", "molstream", *command.split(), without=without)
        assert (done.returncode, done.stderr) == (0, "")
    # but for splits in the form of torch.save
    torch.save({"train": [0]}, tmp_path / "splits.pt")
    done = python(*f"-m molstream build {sample_table} --out other --splits splits.pt".split(), without=without)
    assert done.returncode == 2
    message = "molstream: error: splits.pt: this needs the package torch, which is not installed here; install it, or save"
    assert done.stderr.splitlines()[-1].startswith(message)


def test_a_package_that_is_not_installed_is_named_in_one_line(python, sample_set):
    done = python(*f"-m molstream stream {sample_set.path}".split(), without=("torch",))
    assert done.returncode == 1
    assert done.stderr == "molstream: error: this needs the package torch, which is not installed here\n"


def test_help_and_the_import_itself_load_nothing_heavy(python):
    commands = "build inspect cat verify stream pretrain eval embed".split()
    script = f"""
import contextlib, io, json, sys
import molstream
from molstream.tools.main import main
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
