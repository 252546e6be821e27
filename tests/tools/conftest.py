"""The command in this process, and what most of its tests need: a table, a shard set built of it, a run trained on that."""

import contextlib
import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from molstream.shards.build.build import BuildOptions, build
from molstream.shards.sample import sample_path
from molstream.shards.splits.rules import SplitFractions

ROOT = Path(__file__).resolve().parents[2]
ERROR = "molstream: error: "


@dataclass
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    @property
    def json(self) -> dict:
        """The last line."""
        return json.loads(self.lines[-1])

    @property
    def error(self) -> str:
        """The one line of the error, without its prefix; other lines on standard error are progress and came before it."""
        *before, last = self.err.splitlines()
        assert last.startswith(ERROR), self.err
        assert not any(line.startswith((ERROR, "Traceback")) for line in before), self.err
        return last[len(ERROR) :]


def run_main(*argv: object) -> Done:
    from molstream.tools.main import main

    out, err = io.StringIO(), io.StringIO()
    handler = signal.getsignal(signal.SIGTERM)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as done:
            main([str(a) for a in argv])
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert isinstance(done.value.code, int)
    return Done(done.value.code, out.getvalue(), err.getvalue())


@pytest.fixture
def plots():
    """Runs of this test draw their plot."""


@pytest.fixture(autouse=True)
def no_plots(request, monkeypatch):
    """Those of other tests do not: to draw one takes longer than a run of a few steps."""
    if "plots" not in request.fixturenames:
        monkeypatch.setattr("molstream.tools.curves.plot_run", lambda run: None)


@pytest.fixture(scope="session")
def molstream() -> Callable[..., Done]:
    """molstream("cat", folder, ...): run the command in this process; never raises SystemExit."""
    return run_main


@pytest.fixture(scope="session")
def succeed() -> Callable[..., Done]:
    """The same, for calls that must end with exit code 0."""

    def run(*argv: object) -> Done:
        done = run_main(*argv)
        assert done.code == 0, done.err
        return done

    return run


@pytest.fixture
def start(tmp_path) -> Callable[..., subprocess.Popen]:
    """start("cat", folder, ...): the command as a process of its own, with pipes. Killed at the end of the test."""
    started = []

    def run(*argv: object) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, "-m", "molstream", *map(str, argv)],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture(scope="session")
def table(tmp_path_factory) -> Path:
    """250 molecules of the embedded sample."""
    path = tmp_path_factory.mktemp("tools") / "table.parquet"
    pq.write_table(pq.read_table(sample_path()).slice(100, 250), path, row_group_size=100)
    return path


@pytest.fixture(scope="session")
def shard_set(table) -> Path:
    """A shard set of `table`. Shared: `copy_set` is for damaging."""
    out = table.parent / "set"
    done = run_main("build", table, "--out", out, "--split-fractions", "70,15,15")
    assert done.code == 0, done.err
    return out


@pytest.fixture
def copy_set(shard_set, tmp_path) -> Path:
    """A copy of `shard_set` of this test's own."""
    return Path(shutil.copytree(shard_set, tmp_path / "set"))


@pytest.fixture(scope="session")
def run(shard_set) -> Path:
    """A finished smoke run of 12 steps on `shard_set`, with checkpoints at 10 and 12. Shared: `copy_run` is for damaging."""
    out = shard_set.parent / "run"
    done = run_main("pretrain", shard_set, "--out", out, "--recipe", "smoke", "--steps", 12)
    assert done.code == 0, done.err
    return out


SHORT = "CCO CC(C)N c1ccccc1O CC(=O)O CCCl NCC#N OCC(F)CC C1CCCC1 COCCOC CC=CC=O".split()
KINDS = "--task-kind tox=binary --task-kind grade=ordinal:3 --task-kind class=multiclass:4".split()


def write_kinds(path: Path, *, rows: int = 90, columns: dict[str, str] | None = None) -> Path:
    """A table with a column of labels of each kind and level; `columns` gives some another name."""
    from rdkit import Chem

    names = {name: name for name in "smiles y tox grade class charge order distance".split()} | (columns or {})
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(names.values()))
        writer.writeheader()
        for k in range(rows):
            smiles = "C" * (k // len(SHORT)) + SHORT[k % len(SHORT)]
            molecule = Chem.MolFromSmiles(smiles)
            n = molecule.GetNumAtoms()
            values = {
                "smiles": smiles,
                "y": round(k / 9 - 3, 3),
                "tox": k % 2,
                "grade": k % 3,
                "class": k // 2 % 4,
                "charge": json.dumps([round(i / 10 + k / 100, 3) for i in range(n)]),
                "order": json.dumps([b.GetBondTypeAsDouble() + k / 100 for b in molecule.GetBonds()]),
                "distance": json.dumps(Chem.GetDistanceMatrix(molecule).ravel().tolist()),
            }
            writer.writerow({names[name]: value for name, value in values.items()})
    return path


@pytest.fixture(scope="session")
def build_kinds(tmp_path_factory) -> Callable[..., Path]:
    """build_kinds(*options, columns={}): the table of `write_kinds` as a shard set; levels other than the graph's are options."""

    def make(*options: str, columns: dict[str, str] | None = None) -> Path:
        folder = tmp_path_factory.mktemp("kinds")
        table = write_kinds(folder / "kinds.csv", columns=columns)
        fixed = ("--dataset", "table", "--split-fractions", "60,20,20", "--block-molecules", 16)
        done = run_main("build", table, "--out", folder / "set", *fixed, *options)
        assert done.code == 0, done.err
        return folder / "set"

    return make


@pytest.fixture(scope="session")
def kinds_set(build_kinds) -> Path:
    """A shard set of 90 molecules with a task set of every kind and level. Shared."""
    columns = "--graph-columns y,tox,grade,class --atom-columns charge --bond-columns order --pair-columns distance".split()
    return build_kinds(*columns, *KINDS)


@pytest.fixture(scope="session")
def kinds_run(kinds_set) -> Path:
    """A smoke run of 3 steps on `kinds_set`, of packs so small that a split has several. Shared."""
    out = kinds_set.parent / "run"
    done = run_main("pretrain", kinds_set, "--out", out, "--recipe", "smoke", "--steps", 3, "--set", "atoms_a_pack=128")
    assert done.code == 0, done.err
    return out


@pytest.fixture(scope="session")
def everything_in() -> Callable[[Path], dict[str, bytes | None]]:
    """everything_in(folder) -> {relative path: content, None of folders}: what a refused call must leave as it was."""
    return lambda folder: {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


@pytest.fixture
def copy_run(run, tmp_path) -> Path:
    """A copy of `run` of this test's own."""
    return Path(shutil.copytree(run, tmp_path / "run"))


@pytest.fixture(scope="session")
def flip() -> Callable[[Path, int], None]:
    """flip(file, at): flip one bit of byte `at`; negative counts from the end."""

    def damage(path: Path, at: int) -> None:
        data = bytearray(path.read_bytes())
        data[at] ^= 1
        path.write_bytes(data)

    return damage


@pytest.fixture(scope="session")
def molecules(shard_set) -> dict[int, dict]:
    """What `cat` says about every molecule: {id: record}."""
    done = run_main("cat", shard_set)
    assert done.code == 0, done.err
    return {record["id"]: record for record in map(json.loads, done.lines)}


@pytest.fixture(scope="module")
def small_blocks(tmp_path_factory) -> Callable[..., Path]:
    """small_blocks(first, number, shard_molecules=): some rows of the embedded sample as a set of blocks of about 16."""

    def make(first: int, number: int, *, shard_molecules: int) -> Path:
        folder = tmp_path_factory.mktemp("small_blocks")
        pq.write_table(pq.read_table(sample_path()).slice(first, number), folder / "table.parquet")
        fractions = SplitFractions.parse("90,5,5")
        options = BuildOptions(split_fractions=fractions, block_molecules=16, shard_molecules=shard_molecules)
        build([str(folder / "table.parquet")], folder / "set", options)
        return folder / "set"

    return make
