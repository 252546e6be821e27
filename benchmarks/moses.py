"""A set of 1.58 million real molecules with labels in PM6_83M's shape, for benchmarks of the stream.

    python benchmarks/moses.py FOLDER [--rows N] [--workers 2] [--pe rw16,lap8]

makes FOLDER/set (FOLDER/set-pe with encodings) of the training set of MOSES, which `benchmarks/scale.py` fetches. The structures
are real. The labels are the embedded sample's, dealt out at random: a molecule gets the 62 graph labels of one row (so states are
missing together, as often as in PM6), each of its atoms the 7 labels of one atom of its element. Quantum labels are jittered by
0.1 %, so that no row repeats another's bits. Nothing can be learnt from them; bytes, presence and rates are real.
"""

import argparse
import csv
import gzip
import re
import subprocess
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scale import fetch

ROOT = Path(__file__).resolve().parents[1]
BENCH = ROOT / "runs" / "bench"
"""Where benchmarks keep what they make, unless told otherwise."""
SAMPLE = ROOT / "shards" / "sample" / "pm6_sample.parquet"
ATOM = re.compile(r"\[([A-Z][a-z]?|[a-z])[^\]]*\]|(Cl|Br|[BCNOPSFI]|[bcnops])")
MAPPED = re.compile(r"\[([A-Z][a-z]?|[a-z])[^:\]]*:(\d+)\]")
STATES = ("S0", "T0", "cation", "anion")
ROWS = 65_536


def elements_of(smiles: str) -> list[str]:
    """Elements of the heavy atoms, in the order of the string."""
    return [(a or b).capitalize() for a, b in ATOM.findall(smiles) if a != "H"]


class Labels:
    """The sample's labels, dealt out anew."""

    def __init__(self, seed: int = 0):
        table = pq.read_table(SAMPLE)
        self.rng = np.random.default_rng(seed)
        self.graph_names = [n for n in table.column_names if n.startswith("graph_")]
        self.atom_names = [n for n in table.column_names if n.startswith("node_")]
        self.graph = np.stack([table[n].to_numpy() for n in self.graph_names], axis=1).astype(np.float32)
        self.quantum = np.array([n.split("_")[1] in STATES for n in self.graph_names])
        self.state_of_atom_task = np.array([STATES.index(n.split("_")[1]) for n in self.atom_names])
        energies = [self.graph_names.index(f"graph_{s}_energy_total") for s in STATES]
        self.present = ~np.isnan(self.graph[:, energies])
        pools: dict[str, list[list[float]]] = {}
        columns = [table[n].to_pylist() for n in self.atom_names]
        for row, smiles in enumerate(table["ordered_smiles"].to_pylist()):
            lists = [c[row] for c in columns]
            if not all(lists):
                continue
            for element, place in MAPPED.findall(smiles):
                if int(place) < len(lists[0]):
                    pools.setdefault(element.capitalize(), []).append([values[int(place)] for values in lists])
        self.pools = {element: np.array(values, np.float32) for element, values in pools.items()}

    def deal(self, smiles: list[str]) -> dict[str, pa.Array]:
        """Label columns for these molecules."""
        rows = self.rng.integers(0, len(self.graph), len(smiles))
        graph = self.graph[rows]
        jitter = (1 + 1e-3 * self.rng.standard_normal((len(smiles), int(self.quantum.sum())))).astype(np.float32)
        graph[:, self.quantum] *= jitter
        elements = [elements_of(s) for s in smiles]
        sizes = np.array([len(e) for e in elements])
        flat = np.array([e for molecule in elements for e in molecule])
        atoms = np.empty((len(flat), len(self.atom_names)), np.float32)
        for element in np.unique(flat):
            here = flat == element
            pool = self.pools[str(element)]
            atoms[here] = pool[self.rng.integers(0, len(pool), here.sum())]
        atoms *= (1 + 1e-3 * self.rng.standard_normal(atoms.shape)).astype(np.float32)
        out = {name: pa.array(graph[:, t], from_pandas=True) for t, name in enumerate(self.graph_names)}
        for t, name in enumerate(self.atom_names):
            there = self.present[rows, self.state_of_atom_task[t]]
            ptr = np.concatenate([[0], np.cumsum(np.where(there, sizes, 0))]).astype(np.int32)
            values = pa.array(atoms[np.repeat(there, sizes), t])
            lists = pa.ListArray.from_arrays(pa.array(ptr, mask=np.append(~there, False)), values)
            out[name] = lists
        return out


def make_table(folder: Path, rows: int | None) -> Path:
    """The molecules with their labels as a table in PM6_83M's columns."""
    path = folder / f"moses-pm6-{rows or 'all'}.parquet"
    if path.exists():
        return path
    labels, writer, beside = Labels(), None, path.with_suffix(".part")
    with gzip.open(fetch(folder), "rt", newline="") as file:
        source = islice((row["SMILES"] for row in csv.DictReader(file)), rows)
        while smiles := list(islice(source, ROWS)):
            table = pa.table({"ordered_smiles": smiles} | labels.deal(smiles))
            writer = writer or pq.ParquetWriter(beside, table.schema, compression="zstd", compression_level=1)
            writer.write_table(table)
    writer.close()
    beside.rename(path)
    return path


def make_set(folder: Path, *, rows: int | None = None, workers: int = 2, pe: str = "") -> Path:
    """The shard set, built once."""
    out = folder / ("set-pe" if pe else "set")
    if not (out / "manifest.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "molstream", "build", str(make_table(folder, rows)), "--out", str(out)]
        subprocess.run([*command, "--workers", str(workers), *(["--pe", pe] if pe else [])], cwd=ROOT, check=True)
    return out


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--pe", default="")
    args = parser.parse_args()
    print(make_set(args.folder, rows=args.rows, workers=args.workers, pe=args.pe))


if __name__ == "__main__":
    main()
