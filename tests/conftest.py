"""Shared fixtures: tables in the layout of PM6_83M, shard sets built of them, and a small set of real molecules."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, settings

from molstream.shards.build.build import BuildOptions, WorkOptions, build
from molstream.shards.format.reader import ShardSet
from molstream.shards.inputs.datasets import preset_dataset
from molstream.shards.splits.rules import SplitFractions

# the first call of a kernel compiles it
settings.register_profile("molstream", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.load_profile("molstream")

ROOT = Path(__file__).resolve().parents[1]
HANGS_S = 500
"""A process that has not ended after so long hangs; pytest's own limit would leave it behind."""

GRAPH, ATOM = ([t.name for t in preset_dataset("pm6").tasks if t.level == level] for level in ("graph", "atom"))
PM6_SCHEMA = pa.schema(
    [
        ("ordered_smiles", pa.string()),
        ("inchi", pa.string()),
        *((name, pa.float32()) for name in GRAPH),
        *((name, pa.list_(pa.float32())) for name in ATOM),
    ]
)


def pytest_configure(config: pytest.Config) -> None:
    """Before several processes start: compile what they would each compile."""
    shares = 0 if hasattr(config, "workerinput") else config.getoption("numprocesses", None) or 0
    script = [sys.executable, str(ROOT / "tests/compile_kernels.py")]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    for child in [subprocess.Popen([*script, str(share), str(shares)], env=env) for share in range(shares)]:
        assert child.wait() == 0


def write_pm6(path: Path, rows: list[dict], dtypes: dict[str, pa.DataType] | None = None) -> Path:
    """Write `rows` as a table of PM6_83M's columns; what a row does not name is null. `dtypes` overrides column types."""
    schema = pa.schema([pa.field(f.name, (dtypes or {}).get(f.name, f.type)) for f in PM6_SCHEMA])
    for row in rows:
        assert set(row) <= set(schema.names), f"no such column: {set(row) - set(schema.names)}"
    pq.write_table(pa.Table.from_pylist(rows, schema), path)
    return path


@pytest.fixture
def pm6_table(tmp_path) -> Callable[..., Path]:
    """pm6_table(rows, name="table.parquet", dtypes=None) -> Path of a PM6 table in this test's folder."""

    def make(rows: list[dict], name: str = "table.parquet", dtypes: dict[str, pa.DataType] | None = None) -> Path:
        return write_pm6(tmp_path / name, rows, dtypes)

    return make


@pytest.fixture
def build_set(tmp_path, pm6_table) -> Callable[..., ShardSet]:
    """build_set(rows or paths, name="set", fractions="98,1,1", work={}, **options) -> ShardSet built in this test's folder.

    Any row may be rejected, and atom labels are f32 unless told otherwise.
    """

    def make(source: list, name: str = "set", fractions: str = "98,1,1", work: dict | None = None, **options) -> ShardSet:
        inputs = [str(pm6_table(source))] if isinstance(source[0], dict) else [str(s) for s in source]
        options = {"atom_labels": "f32", "split_fractions": SplitFractions.parse(fractions)} | options
        limits = WorkOptions(**{"max_reject_fraction": 1.0} | (work or {}))
        build(inputs, tmp_path / name, BuildOptions(**options), work=limits)
        return ShardSet(tmp_path / name)

    return make


def molecules_of(shard_set: ShardSet) -> dict[int, SimpleNamespace]:
    """All molecules of a set: {id: split, smiles, graph (Tg), atom (n, Ta), codes (n, F), bonds (m, 2), bond_codes (m)}."""
    out: dict[int, SimpleNamespace] = {}
    for split in shard_set.splits:
        for block in shard_set.iter_blocks(split):
            for i, (a, b) in enumerate(zip(block.atom_ptr[:-1], block.atom_ptr[1:], strict=True)):
                c, d = block.bond_ptr[i], block.bond_ptr[i + 1]
                assert int(block.ids[i]) not in out, "an id that is there twice"
                out[int(block.ids[i])] = SimpleNamespace(
                    split=split,
                    smiles=block.smiles[i],
                    graph=None if block.graph_labels is None else block.graph_labels[i],
                    atom=None if block.atom_labels is None else block.atom_labels[a:b],
                    codes=block.atom_codes[a:b],
                    bonds=block.bond_atoms[c:d],
                    bond_codes=block.bond_codes[c:d],
                )
    return out


@pytest.fixture(scope="session")
def by_id() -> Callable[[ShardSet], dict[int, SimpleNamespace]]:
    """by_id(shard_set) -> {id: one molecule's columns}."""
    return molecules_of


@pytest.fixture(scope="session")
def rejects_of() -> Callable[[ShardSet], dict[int, dict]]:
    """rejects_of(shard_set) -> {row: its row of rejects.parquet}."""
    return lambda shard_set: {r["row"]: r for r in pq.read_table(shard_set.path / "rejects.parquet").to_pylist()}


@pytest.fixture(scope="session")
def folder_bytes() -> Callable[[Path], dict[str, bytes]]:
    """folder_bytes(folder) -> {relative path: content} of every file."""
    return lambda folder: {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


_RUN = "import json, runpy, sys; sys.path[:] = json.loads(sys.argv[1]); sys.argv[:] = sys.argv[2:]; "


@pytest.fixture(scope="session")
def run_python() -> Callable[..., subprocess.CompletedProcess]:
    """run_python(script or "-m", ...) -> a finished Python process with this one's import path."""

    def run(*args: object) -> subprocess.CompletedProcess:
        words = [str(a) for a in args]
        how = "runpy.run_path(sys.argv[0], run_name='__main__')"
        if words[0] == "-m":
            how = "name = sys.argv.pop(1); runpy.run_module(name, run_name='__main__', alter_sys=True)"
        command = [sys.executable, "-c", _RUN + how, json.dumps(sys.path), *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=HANGS_S, check=False)

    return run


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of sample data that MOLSTREAM_DATA names."""
    if not os.environ.get("MOLSTREAM_DATA"):
        pytest.skip("MOLSTREAM_DATA is not set")
    return Path(os.environ["MOLSTREAM_DATA"])


@pytest.fixture(scope="session")
def sample_table(tmp_path_factory) -> Path:
    """300 real molecules with PM6 labels, in PM6_83M's columns."""
    if os.environ.get("MOLSTREAM_DATA"):
        folder = Path(os.environ["MOLSTREAM_DATA"]) / "pm6_sample"
        parts = [pq.read_table(folder / f"{name}-1.parquet").slice(0, 150) for name in ("chembl", "moses")]
        table = pa.concat_tables(parts)
    else:
        from molstream.shards.sample import sample_path

        table = pq.read_table(sample_path()).slice(0, 300)
    path = tmp_path_factory.mktemp("sample") / "sample.parquet"
    pq.write_table(table, path)
    return path


@pytest.fixture(scope="session")
def sample_smiles(sample_table) -> list[str]:
    """SMILES of `sample_table`, with atom maps."""
    return pq.read_table(sample_table, columns=["ordered_smiles"])["ordered_smiles"].to_pylist()


def sample_options(**changes) -> BuildOptions:
    """The options of `sample_set`."""
    options = {"split_fractions": SplitFractions.parse("80,10,10"), "block_molecules": 32, "shard_molecules": 100}
    return BuildOptions(**options | {"atom_labels": "f32"} | changes)


@pytest.fixture(scope="session", name="sample_options")
def sample_options_fixture() -> Callable[..., BuildOptions]:
    """sample_options(**changes) -> BuildOptions of `sample_set`."""
    return sample_options


@pytest.fixture(scope="session")
def sample_set(sample_table) -> ShardSet:
    """`sample_table` as a shard set of three splits with several shards and blocks. Shared: copy it before you damage it."""
    out = sample_table.parent / "set"
    build([str(sample_table)], out, sample_options())
    return ShardSet(out)


@pytest.fixture(scope="session")
def same() -> Callable[[np.ndarray, np.ndarray], bool]:
    """same(a, b): same dtype, shape and values, NaN equal to NaN; or a column that is not there on either side."""

    def equal(a: np.ndarray | None, b: np.ndarray | None) -> bool:
        if a is None or b is None:
            return a is b
        return a.dtype == b.dtype and a.shape == b.shape and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")

    return equal


@pytest.fixture
def torchrun(tmp_path):
    """torchrun(processes, "-m", "molstream", ...) -> (exit code, stdout, stderr); processes that hang fail the test."""

    def run(processes: int, *argv: object) -> tuple[int, str, str]:
        launch = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", processes)
        process = subprocess.Popen(
            [sys.executable, *map(str, (*launch, *argv))],
            env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            out, err = process.communicate(timeout=HANGS_S)
        finally:
            # its processes too, where it did not end
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
        return process.returncode, out, err

    return run
