"""Building out of core: 1.58 million real molecules, peak memory of all processes, 400,000 rows against all of them.

    python benchmarks/scale.py FOLDER [--workers 2] [--rows 400000] [--pe rw16,lap8]

FOLDER keeps what is fetched and made: the training set of MOSES (train.csv.gz of the wheel `molsets` from PyPI, fetched by pip,
unpacked, never imported) as a table in PM6_83M's columns, with 20 graph labels that RDKit computes cheaply, in row groups of
65,536 rows and once more in a single row group. Each build is the command line, memory is the sum of PSS over its process tree,
looked at four times a second from outside.
"""

import argparse
import csv
import gzip
import json
import multiprocessing
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from itertools import islice
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from molstream.shards.inputs.datasets import preset_dataset

ROOT = Path(__file__).resolve().parents[1]
MEMBER = "moses/dataset/data/train.csv.gz"


def fetch(folder: Path) -> Path:
    """train.csv.gz, 1.58 million SMILES."""
    path = folder / "train.csv.gz"
    if not path.exists():
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), "molsets"], check=True
        )
        with zipfile.ZipFile(next(folder.glob("molsets-*.whl"))) as wheel:
            path.write_bytes(wheel.read(MEMBER))
    return path


def describe(smiles: list[str]) -> dict[str, list]:
    """Labels that cost little: no qed, no sas."""
    from rdkit import Chem
    from rdkit.Chem import Crippen, Descriptors, rdMolDescriptors

    functions = {
        "mw": Descriptors.MolWt,
        "fsp3": rdMolDescriptors.CalcFractionCSP3,
        "n_lipinski_hba": rdMolDescriptors.CalcNumLipinskiHBA,
        "n_lipinski_hbd": rdMolDescriptors.CalcNumLipinskiHBD,
        "n_rings": rdMolDescriptors.CalcNumRings,
        "n_hetero_atoms": rdMolDescriptors.CalcNumHeteroatoms,
        "n_heavy_atoms": lambda mol: mol.GetNumHeavyAtoms(),
        "n_rotatable_bonds": rdMolDescriptors.CalcNumRotatableBonds,
        "n_radical_electrons": Descriptors.NumRadicalElectrons,
        "tpsa": rdMolDescriptors.CalcTPSA,
        "clogp": Crippen.MolLogP,
        "n_aliphatic_carbocycles": rdMolDescriptors.CalcNumAliphaticCarbocycles,
        "n_aliphatic_heterocyles": rdMolDescriptors.CalcNumAliphaticHeterocycles,
        "n_aliphatic_rings": rdMolDescriptors.CalcNumAliphaticRings,
        "n_aromatic_carbocycles": rdMolDescriptors.CalcNumAromaticCarbocycles,
        "n_aromatic_heterocyles": rdMolDescriptors.CalcNumAromaticHeterocycles,
        "n_aromatic_rings": rdMolDescriptors.CalcNumAromaticRings,
        "n_saturated_carbocycles": rdMolDescriptors.CalcNumSaturatedCarbocycles,
        "n_saturated_heterocyles": rdMolDescriptors.CalcNumSaturatedHeterocycles,
        "n_saturated_rings": rdMolDescriptors.CalcNumSaturatedRings,
    }
    mols = [Chem.MolFromSmiles(s) for s in smiles]
    columns: dict[str, list] = {"ordered_smiles": smiles}
    return columns | {f"graph_{name}": [float(f(m)) for m in mols] for name, f in functions.items()}


def make_table(folder: Path) -> tuple[Path, Path]:
    """The table, in row groups of 65,536 rows and in one."""
    many, one = folder / "moses.parquet", folder / "moses-one-group.parquet"
    if not one.exists():
        dataset = preset_dataset("pm6")
        levels = {"graph": pa.float32(), "atom": pa.list_(pa.float32())}
        fields = [("ordered_smiles", pa.string()), *((t.name, levels[t.level]) for t in dataset.tasks)]
        schema = pa.schema(fields)
        with gzip.open(fetch(folder), "rt", newline="") as file, multiprocessing.Pool() as pool:
            rows = (row["SMILES"] for row in csv.DictReader(file))
            batches = iter(lambda: list(islice(rows, 65_536 // 8)), [])
            writer, waiting = pq.ParquetWriter(many, schema, compression="zstd"), []
            for columns in pool.imap(describe, batches):
                size = len(columns["ordered_smiles"])
                filled = {f.name: columns.get(f.name, [None] * size) for f in schema}
                waiting.append(pa.table(filled, schema=schema))
                if len(waiting) == 8:
                    writer.write_table(pa.concat_tables(waiting))
                    waiting = []
            if waiting:
                writer.write_table(pa.concat_tables(waiting))
            writer.close()
        table = pq.read_table(many)
        pq.write_table(table, one.with_suffix(".part"), compression="zstd", row_group_size=len(table))
        one.with_suffix(".part").rename(one)
    return many, one


def first_rows(table: Path, rows: int) -> Path:
    path = table.with_name(f"moses-{rows}.parquet")
    if not path.exists():
        pq.write_table(pq.read_table(table).slice(0, rows), path, compression="zstd", row_group_size=65_536)
    return path


class TreeMemory(threading.Thread):
    """Peak of the summed PSS of a process and all below it."""

    def __init__(self, pid: int):
        super().__init__(daemon=True)
        self.top, self.peak, self.processes = psutil.Process(pid), 0, 0

    def run(self) -> None:
        while True:
            try:
                tree = [self.top, *self.top.children(recursive=True)]
            except psutil.Error:
                return
            total = 0
            for process in tree:
                try:
                    total += process.memory_full_info().pss
                except psutil.Error:
                    continue
            if total > self.peak:
                self.peak, self.processes = total, len(tree)
            time.sleep(0.25)


def run_build(out: Path, arguments: list[str]) -> tuple[str, float, TreeMemory]:
    """`molstream build` into an empty folder: what it printed, seconds, memory of its processes."""
    shutil.rmtree(out, ignore_errors=True)
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "molstream", "build", "--out", str(out), *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    memory = TreeMemory(process.pid)
    memory.start()
    text, _ = process.communicate()
    assert process.returncode == 0, text
    return text, time.perf_counter() - start, memory


def measure(name: str, table: Path, folder: Path, options: list[str]) -> dict:
    out = folder / "set"
    text, seconds, memory = run_build(out, [str(table), *options])
    rows = pq.read_metadata(table).num_rows
    size = sum(p.stat().st_size for p in out.iterdir())
    result = {
        "build": name,
        "rows": rows,
        "row_groups": pq.read_metadata(table).num_row_groups,
        "seconds": round(seconds, 1),
        "rows_per_s": round(rows / seconds),
        "peak_mib": round(memory.peak / 2**20),
        "processes": memory.processes,
        "said": text.splitlines()[-1].strip(),
        "bytes_per_row": round(size / rows, 1),
        "index": (out / "index.parquet").stat().st_size,
    }
    print(json.dumps(result), flush=True)
    return result


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rows", type=int, default=400_000)
    parser.add_argument("--pe", default="")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    many, one = make_table(args.folder)
    options = ["--workers", str(args.workers), *(["--pe", args.pe] if args.pe else [])]
    # the first build of an installation compiles the kernels, which takes memory
    measure("warm-up", first_rows(many, 20_000), args.folder, options)
    some = measure("some rows", first_rows(many, args.rows), args.folder, options)
    whole = measure("all rows", many, args.folder, options)
    single = measure("all rows, one row group", one, args.folder, options)
    difference = abs(whole["peak_mib"] - some["peak_mib"]) / whole["peak_mib"]
    print(f"peak memory of {args.rows:,} and of all rows differ by {difference:.1%}")
    print(f"highest peak {max(r['peak_mib'] for r in (some, whole, single)):,} MiB")


if __name__ == "__main__":
    main()
