"""Joining two tables out of core: peak memory of all processes and rows/s, a quarter of the rows against all of them.

    python benchmarks/join.py FOLDER [--workers 2] [--rows 800000] [--assays 1328]

FOLDER as for scale.py, whose table of MOSES molecules (20 labels of PM6's 62) is joined with one made here: half as many rows,
of the same molecules, in the columns of PCBA_1328, each SMILES written anew from another atom, 5 % of the assays present. Each
build is the command line, memory is the sum of PSS over its process tree, looked at four times a second from outside.
"""

import argparse
import json
import multiprocessing
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scale import first_rows, make_table, run_build

BATCH = 16_384
PRESENT = 0.05


def rewrite(smiles: list[str]) -> list[str]:
    """The same molecules, from another atom on."""
    from rdkit import Chem

    out = []
    for k, text in enumerate(smiles):
        mol = Chem.MolFromSmiles(text)
        out.append(Chem.MolToSmiles(mol, canonical=False, rootedAtAtom=k % mol.GetNumAtoms()))
    return out


def make_assays(moses: Path, rows: int, assays: int) -> Path:
    """Every second of the first 2 * `rows` molecules, in PCBA's columns."""
    path = moses.with_name(f"assays-{rows}-{assays}.parquet")
    if path.exists():
        return path
    names = [f"assayID-{k}" for k in range(assays)]
    schema = pa.schema([("SMILES", pa.string()), *((name, pa.float32()) for name in names)])
    smiles = pq.read_table(moses, columns=["ordered_smiles"])["ordered_smiles"].to_pylist()[: 2 * rows : 2]
    rng = np.random.default_rng(0)
    with multiprocessing.Pool() as pool, pq.ParquetWriter(path, schema, compression="zstd") as writer:
        batches = [smiles[k : k + BATCH] for k in range(0, len(smiles), BATCH)]
        for batch in pool.imap(rewrite, batches):
            absent = rng.random((assays, len(batch)), np.float32) >= PRESENT
            labels = rng.integers(0, 2, absent.shape).astype(np.float32)
            columns = [pa.array(values, mask=mask) for values, mask in zip(labels, absent, strict=True)]
            writer.write_table(pa.table([pa.array(batch), *columns], schema=schema))
    return path


def measure(name: str, moses: Path, assays: Path, folder: Path, workers: int) -> dict:
    out = folder / "joined"
    tables = ["--table", f"pm6={moses}", "--table", f"pcba={assays}"]
    _, seconds, memory = run_build(out, [*tables, "--workers", str(workers)])
    manifest = json.loads((out / "manifest.json").read_bytes())
    rows = sum(i["rows"] for i in manifest["provenance"]["inputs"])
    result = {
        "build": name,
        "rows": rows,
        "molecules": sum(s["molecules"] for s in manifest["splits"].values()),
        "tables": [[t["name"], t["rows"], t["molecules"]] for t in manifest["join"]["tables"]],
        "seconds": round(seconds, 1),
        "rows_per_s": round(rows / seconds),
        "peak_mib": round(memory.peak / 2**20),
        "processes": memory.processes,
        "bytes": sum(s["bytes"] for s in manifest["splits"].values()),
    }
    print(json.dumps(result), flush=True)
    return result


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rows", type=int, default=800_000)
    parser.add_argument("--assays", type=int, default=1328)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    many, _ = make_table(args.folder)
    results = []
    # the first compiles what is not compiled yet
    for name, rows in (("warm-up", args.rows // 40), ("a quarter", args.rows // 4), ("all rows", args.rows)):
        moses, assays = first_rows(many, rows), make_assays(many, rows // 2, args.assays)
        results.append(measure(name, moses, assays, args.folder, args.workers))
    quarter, whole = results[1:]
    difference = abs(whole["peak_mib"] - quarter["peak_mib"]) / whole["peak_mib"]
    print(f"peak memory of a quarter of the rows and of all differ by {difference:.1%}")


if __name__ == "__main__":
    main()
