"""One import name: `molstream` is all that is installed; other people's packages and a user's own folders are not in its way."""

import ast
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

import molstream

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("kernels", "shards", "streamer", "trainers", "tools")
OWN = {name: f"NAME = 'my own {name}'\n" for name in PACKAGES}
"""What a user may have beside a script."""


def run(*command: object, cwd: Path, **env: str) -> str:
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, env=os.environ | env, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Path:
    """A clean copy of what the distribution is made of, in a folder called molstream."""
    folder = tmp_path_factory.mktemp("clones") / "molstream"
    for name in (*PACKAGES, "molstream"):
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    return folder


def package(kind: str, source: Path, out: Path) -> Path:
    """Let setuptools build a "wheel" or "sdist" of `source`, as pip would, without a network."""
    pytest.importorskip("setuptools", minversion="77", reason="building a wheel without a network needs setuptools here")
    out.mkdir(exist_ok=True)
    script = f"from setuptools import build_meta; build_meta.build_{kind}({str(out)!r})"
    run(sys.executable, "-W", "ignore", "-c", script, cwd=source)
    (made,) = out.iterdir()
    return made


@pytest.fixture(scope="module")
def wheel(clone, tmp_path_factory) -> Path:
    return package(
        "wheel", shutil.copytree(clone, tmp_path_factory.mktemp("wheel") / "source", symlinks=True), clone.parent / "dist"
    )


# what is installed


def test_a_wheel_holds_molstream_and_nothing_else(wheel):
    names = set(contents(wheel))
    assert {name.split("/")[0] for name in names} == {"molstream", f"molstream-{wheel.name.split('-')[1]}.dist-info"}
    sources = {f"molstream/{p.relative_to(ROOT)}" for name in PACKAGES for p in (ROOT / name).rglob("*.py")}
    data = {"molstream/shards/sample/pm6_sample.parquet", "molstream/shards/sample/README.md", "molstream/tools/page.html.j2"}
    found = {name for name in names if name.startswith("molstream/")}
    assert found == sources | data | {"molstream/__init__.py", "molstream/__main__.py"}


def test_an_sdist_builds_the_same_wheel(clone, wheel, tmp_path):
    sdist = package("sdist", shutil.copytree(clone, tmp_path / "source", symlinks=True), tmp_path / "sdist")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path / "unpacked", filter="fully_trusted")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    assert contents(package("wheel", unpacked, tmp_path / "dist")) == contents(wheel)


def test_a_package_called_kernels_installs_beside_it(wheel, tmp_path):
    other = tmp_path / "kernels-1.0-py3-none-any.whl"
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("kernels/__init__.py", "NAME = 'theirs'\n")
        archive.writestr("kernels-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: kernels\nVersion: 1.0\n")
        archive.writestr(
            "kernels-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr("kernels-1.0.dist-info/RECORD", "")
    site = tmp_path / "site"
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index", "--no-deps")
    run(*pip, "--no-compile", "--target", site, wheel, other, cwd=tmp_path)
    script = "import kernels, molstream.kernels.rng as ours; print(kernels.NAME, kernels.__file__, ours.__file__)"
    name, theirs, ours = run(sys.executable, "-c", script, cwd=tmp_path, PYTHONPATH=str(site)).split()
    assert (name, theirs, ours) == ("theirs", f"{site}/kernels/__init__.py", f"{site}/molstream/kernels/rng/__init__.py")


@pytest.mark.slow
def test_an_editable_install_works_from_the_folder_that_holds_the_clone(clone, tmp_path):
    """There `molstream` is the clone too, a folder without an `__init__`."""
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "env", cwd=tmp_path)
    python = tmp_path / "env" / "bin" / "python"
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip())
    # what it depends on is here already
    (site / "here.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--disable-pip-version-check", "--no-index")
    run(*pip, "--no-deps", "--no-build-isolation", "--editable", clone, cwd=tmp_path)
    script = "import molstream; print(molstream.ShardSet.__module__, molstream.__file__)"
    for folder in (clone.parent, clone, tmp_path):
        found = run(python, "-c", script, cwd=folder, PYTHONPATH="").split()
        assert found == ["molstream.shards.format.reader", f"{clone}/molstream/__init__.py"]
    run(python, "-m", "molstream", "--help", cwd=clone.parent, PYTHONPATH="")


# beside a user's own folders


@pytest.fixture
def own(tmp_path) -> Path:
    """A script in a folder with packages of the names of ours."""
    for name, text in OWN.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(text)
    (tmp_path / "script.py").write_text(
        "import sys\n"
        + "".join(f"import {name}\n" for name in PACKAGES)
        + "import molstream\n"
        + f"print([package.NAME for package in ({', '.join(PACKAGES)})], len(molstream.ShardSet(sys.argv[1]).index))\n"
    )
    return tmp_path


def expected(shard_set) -> str:
    return f"{[f'my own {name}' for name in PACKAGES]} {len(shard_set.index)}"


def test_a_script_beside_folders_of_the_same_names_gets_its_own_and_ours(own, sample_set):
    found = run(sys.executable, "script.py", sample_set.path, cwd=own, PYTHONPATH=str(ROOT))
    assert found.strip() == expected(sample_set)


def test_the_command_runs_beside_folders_of_the_same_names(own, sample_set):
    found = run(sys.executable, "-m", "molstream", "stream", sample_set.path, "--json", cwd=own, PYTHONPATH=str(ROOT))
    assert json.loads(found.splitlines()[-1])["molecules"] == sample_set.manifest.splits["train"]["molecules"]


@pytest.mark.slow
def test_torchrun_runs_beside_folders_of_the_same_names(own, sample_set, torchrun):
    code, out, err = torchrun(2, "script.py", sample_set.path)
    assert (code, [line for line in out.splitlines() if line]) == (0, [expected(sample_set)] * 2), err
    code, out, err = torchrun(2, "-m", "molstream", "stream", sample_set.path, "--json")
    assert code == 0, err
    assert out.count('"molecules"') == 2


# the names it offers


def test_all_names_resolve_where_they_are_said_to_be():
    found: dict = {}
    exec("from molstream import *", found)
    assert set(molstream.__all__) == set(molstream._HOMES) == set(dir(molstream)) <= set(found)
    assert {name: getattr(found[name], "__module__", None) for name in molstream.__all__} == molstream._HOMES
    with pytest.raises(AttributeError, match="module 'molstream' has no attribute 'kernel'"):
        _ = molstream.kernel


def test_what_type_checkers_see_is_what_there_is():
    tree = ast.parse(Path(molstream.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    told = {alias.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert told == molstream._HOMES


@pytest.mark.parametrize(
    ("names", "absent"), [("build, BuildOptions, ShardSet", "torch"), ("pretrain, Loader, Encoder", "rdkit")]
)
def test_a_name_imports_no_more_than_it_needs(tmp_path, names, absent):
    script = f"import sys\nfrom molstream import {names}\nprint({absent!r} in sys.modules)"
    assert run(sys.executable, "-c", script, cwd=tmp_path, PYTHONPATH=str(ROOT)) == "False\n"
