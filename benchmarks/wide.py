"""Thousands of tasks of which a molecule has a few: dense label rows, or only the labels that are there?

    python benchmarks/wide.py [FOLDER] [--molecules 100000] [--tasks 3300] [--present 0.01] [--blocks 4096 512] [--runs 5]
        [--rows 40000] [--atoms 1024 8192] [--threads 2] [--lanes 8]

Labels are made up: presence differs from task to task as in assays (Pareto, mean `--present`).

*Kernels.* Nine tasks of ten are 0 or 1, the others real. Each block is read, then all its molecules are collated into packs of
`--graphs` slots, as the loader does:

    dense   densify_labels, collate_rows       (graphs, tasks) a pack
    rows    list_labels, collate_triples          triples, as many as the fullest pack of the set needs

Times are of whole passes over all blocks, both ways in turn, block by block. Memory is the most that NumPy holds for one block
and its packs (tracemalloc, not timed; without what the compiled code allocates itself, less than 1 %).

*Loader*, with FOLDER, which keeps what is made: the first `--rows` molecules of MOSES (benchmarks/scale.py fetches them) with
binary tasks, built by the command line; then the whole loader on the train split in a process of its own a run, ways in turn.
A process streams an epoch that is not timed (it loads compiled code and fills the page cache), then epochs for two seconds at
least, then one with ids, whose labels are hashed. All these hashes must be that of the labels in the table that was built.
"""

import argparse
import csv
import gzip
import json
import platform
import statistics
import subprocess
import sys
import time
import tracemalloc
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scale import ROOT, fetch

from molstream.kernels.codec.labels import SparseLabels, densify_labels, sparsify_labels
from molstream.kernels.packing.collate import collate_rows, count_labels
from molstream.kernels.packing.triples import collate_triples, list_labels

if TYPE_CHECKING:
    from molstream.streamer.batch import Batch

WAYS = ("dense", "rows")
LEAST_S = 2.0
"""Epochs are timed until they took this long together."""


def draw_presence(rng: np.random.Generator, num_tasks: int, mean: float) -> np.ndarray:
    """Share of molecules that have each task: a few have most, most have few; none more than 0.9."""
    share = rng.pareto(1.3, num_tasks) + 0.05
    for _ in range(50):
        share = np.minimum(0.9, share * mean / share.mean())
    return share


def make_blocks(num_molecules: int, size: int, share: np.ndarray) -> list[SparseLabels]:
    """Stored labels of each block, whole blocks only; the set is never dense."""
    blocks = []
    for k in range(max(1, round(num_molecules / size))):
        rng = np.random.default_rng([size, k])
        labels = rng.integers(0, 2, (size, share.size)).astype(np.float32)
        labels[:, ::10] = rng.normal(size=labels[:, ::10].shape)
        labels[rng.random(labels.shape) >= share] = np.nan
        blocks.append(sparsify_labels(labels, np.arange(size + 1)))
    return blocks


def cut_packs(number: int, graphs: int) -> list[np.ndarray]:
    """Molecules of a block, shuffled, so that every pack has a slot left for padding."""
    order = np.random.default_rng(number).permutation(number)
    return [order[first : first + graphs - 1] for first in range(0, number, graphs - 1)]


class Stopwatch:
    """Seconds that passed since the last look."""

    def __init__(self) -> None:
        self.at = time.perf_counter()

    def look(self) -> float:
        before, self.at = self.at, time.perf_counter()
        return self.at - before


def run_dense(sparse: SparseLabels, packs: list[np.ndarray], number: int, graphs: int, capacity: int) -> dict[str, float]:
    watch = Stopwatch()
    ptr = np.arange(number + 1)
    labels = densify_labels(sparse, ptr)
    read_s = watch.look()
    for members in packs:
        out = collate_rows(members, ptr, labels, out=np.empty((graphs, labels.shape[1]), np.float32), pad=np.nan)
        count_labels(out)
    return {
        "read_s": read_s,
        "collate_s": watch.look(),
        "block_bytes": labels.nbytes,
        "pack_bytes": sum(x.nbytes for x in out),
    }


def run_rows(sparse: SparseLabels, packs: list[np.ndarray], number: int, graphs: int, capacity: int) -> dict[str, float]:
    watch = Stopwatch()
    rows = list_labels(sparse, number)
    read_s = watch.look()
    for members in packs:
        out = collate_triples(members, rows, capacity=capacity, graphs=graphs, num_tasks=sparse.encoding.size)
    return {
        "read_s": read_s,
        "collate_s": watch.look(),
        "block_bytes": sum(x.nbytes for x in rows),
        "pack_bytes": sum(x.nbytes for x in out),
    }


RUN = {"dense": run_dense, "rows": run_rows}


def find_capacity(blocks: list[SparseLabels], packs: list[np.ndarray], number: int) -> int:
    """The most labels of any pack, rounded up."""
    most = 0
    for sparse in blocks:
        sizes = np.diff(list_labels(sparse, number).ptr)
        most = max(most, *(int(sizes[members].sum()) for members in packs))
    return -(-most // 256) * 256


def check(sparse: SparseLabels, number: int) -> None:
    """Both ways hold the same labels, bit for bit."""
    dense, rows = densify_labels(sparse, np.arange(number + 1)), list_labels(sparse, number)
    where = np.repeat(np.arange(number), np.diff(rows.ptr)), rows.task
    real = ~np.isnan(dense)
    if not (real[where].all() and real.sum() == rows.task.size):
        raise AssertionError("other labels")
    if not np.array_equal(dense[where].view(np.uint32), rows.value.view(np.uint32)):
        raise AssertionError("other values")


def measure(blocks: list[SparseLabels], size: int, graphs: int, runs: int) -> dict:
    """Medians a block of `runs` passes over all blocks, and their spread."""
    packs = cut_packs(size, graphs)
    capacity = find_capacity(blocks, packs, size)
    rest = (packs, size, graphs, capacity)
    check(blocks[0], size)
    passes: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for _ in range(runs):
        totals = {way: {"read_s": 0.0, "collate_s": 0.0} for way in WAYS}
        for k, sparse in enumerate(blocks):
            for way in WAYS if k % 2 else WAYS[::-1]:
                result = RUN[way](sparse, *rest)
                for name in totals[way]:
                    totals[way][name] += result[name] / len(blocks)
        for way in WAYS:
            passes[way].append(totals[way] | {"total_s": sum(totals[way].values())})

    found = {"num_blocks": len(blocks), "num_packs": len(packs), "capacity": capacity}
    found["stored_bytes"] = statistics.mean(sum(x.nbytes for x in sparse) for sparse in blocks)
    for way in WAYS:
        peaks, results = [], []
        for sparse in blocks[:runs]:
            tracemalloc.start()
            results.append(RUN[way](sparse, *rest))
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
        found[way] = {name: statistics.median(p[name] for p in passes[way]) for name in passes[way][0]}
        found[way] |= {"least_s": min(p["total_s"] for p in passes[way]), "most_s": max(p["total_s"] for p in passes[way])}
        found[way] |= {name: statistics.median(r[name] for r in results) for name in ("block_bytes", "pack_bytes")}
        found[way]["peak_bytes"] = statistics.median(peaks)
    return found


def print_table(size: int, found: dict) -> None:
    columns = {
        "read ms": ("read_s", 1e3),
        "collate ms": ("collate_s", 1e3),
        "both ms": ("total_s", 1e3),
        "(least": ("least_s", 1e3),
        "most)": ("most_s", 1e3),
        "block MB": ("block_bytes", 1e-6),
        "pack MB": ("pack_bytes", 1e-6),
        "peak MB": ("peak_bytes", 1e-6),
    }
    print(
        f"\nblocks of {size:,} ({found['num_blocks']} of them, {found['stored_bytes'] / 1e6:.3f} MB stored, not compressed; "
        f"{found['num_packs']} packs each, {found['capacity']:,} triples a pack)"
    )
    print(f"{'':6} " + " ".join(f"{name:>10}" for name in columns))
    for way in WAYS:
        print(f"{way:6} " + " ".join(f"{found[way][name] * unit:10.3f}" for name, unit in columns.values()))
    print(f"{'ratio':6} " + " ".join(f"{found['dense'][name] / found['rows'][name]:10.1f}" for name, _ in columns.values()))


# the whole loader


def make_set(folder: Path, *, rows: int, share: np.ndarray) -> tuple[Path, Path]:
    """The table, and the shard set that `molstream build` made of it."""
    stem = f"wide-{rows}-{share.size}-{share.mean():.4f}"
    table, out = folder / f"{stem}.parquet", folder / stem
    if not table.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with gzip.open(fetch(folder), "rt", newline="") as file:
            smiles = [row["SMILES"] for row in islice(csv.DictReader(file), rows)]
        rng = np.random.default_rng(1)
        columns = {"smiles": pa.array(smiles)}
        for k, present in enumerate(share):
            columns[f"assay_{k:04d}"] = pa.array(
                rng.integers(0, 2, len(smiles)).astype(np.int8), mask=rng.random(len(smiles)) >= present
            )
        beside = table.with_suffix(".part")
        pq.write_table(pa.table(columns), beside, compression="zstd", row_group_size=16_384)
        beside.rename(table)
    if not (out / "manifest.json").exists():
        command = [sys.executable, "-m", "molstream", "build", str(table), "--out", str(out), "--dataset", "table"]
        options = ["--smiles-column", "smiles", "--graph-columns", "assay_*", "--task-kind", "assay_*=binary", "--workers", "2"]
        start = time.perf_counter()
        subprocess.run([*command, *options], cwd=ROOT, check=True)
        print(f"built in {time.perf_counter() - start:.1f} s")
    return table, out


def hash_labels(ids: np.ndarray, task: np.ndarray, value: np.ndarray) -> dict[str, int]:
    """Number of labels, and the sum modulo 2^64 of a hash of each (id, task, value): in whatever order, the same."""
    key = ids.astype(np.uint64) << np.uint64(32) | task.astype(np.uint64)
    for part in (np.uint64(0), value.astype(np.float32).view(np.uint32).astype(np.uint64)):
        key = (key ^ part) * np.uint64(0xD6E8FEB86659FD93)
        key = (key ^ (key >> np.uint64(32))) * np.uint64(0x9E3779B97F4A7C15)
        key ^= key >> np.uint64(29)
    return {"labels": len(key), "hash": int(key.sum(dtype=np.uint64))}


def add_hashes(parts: list[dict[str, int]]) -> dict[str, int]:
    return {name: sum(part[name] for part in parts) % 2**64 for name in ("labels", "hash")}


def hash_batch(batch: "Batch") -> dict[str, int]:
    """Of the labels that a batch carries, dense or listed."""
    if batch.label_value_L is None:
        dense = batch.graph_labels_GT.numpy()
        graph, task = np.nonzero(~np.isnan(dense))
        return hash_labels(batch.ids[graph], task, dense[graph, task])
    graph, task, value = (x.numpy() for x in (batch.label_graph_L, batch.label_task_L, batch.label_value_L))
    real = ~np.isnan(value)
    return hash_labels(batch.ids[graph[real]], task[real], value[real])


def expected_hash(table: Path, folder: Path) -> dict[str, int]:
    """Of the train split's labels, from the table that was built: a molecule's id is its row."""
    from molstream.shards.format.reader import ShardSet

    shard_set = ShardSet(folder)
    ids = np.concatenate([block.ids for block in shard_set.iter_blocks("train", ("ids",))])
    inside = np.zeros(pq.read_metadata(table).num_rows, bool)
    inside[ids] = True
    parts = []
    for k, task in enumerate(shard_set.manifest.tasks_of("graph")):
        column = pq.read_table(table, columns=[task.name])[task.name].combine_chunks()
        there = np.flatnonzero(column.is_valid().to_numpy(zero_copy_only=False) & inside)
        parts.append(hash_labels(there, np.full(there.size, k), column.take(pa.array(there)).to_numpy()))
    return add_hashes(parts)


def stream(folder: Path, way: str, *, atoms: int, threads: int, lanes: int) -> dict:
    """One run, in this process: rates, memory, hash."""
    import torch

    from molstream.shards.format.reader import ShardSet
    from molstream.streamer.config import Budget, StreamConfig
    from molstream.streamer.loader import Loader
    from molstream.streamer.stats import rss_bytes

    torch.set_num_threads(1)
    import_bytes, start = rss_bytes(), time.perf_counter()
    shard_set = ShardSet(folder)
    budget = Budget.suggest(shard_set, atoms=atoms, list_labels=way == "rows")
    loader = Loader(shard_set, StreamConfig(budget=budget, num_lanes=lanes), num_threads=threads)
    first = next(iter(loader))
    first_step_s = time.perf_counter() - start
    loader.close()
    for _ in loader:
        pass
    epochs = packs = molecules = labels = filled = 0
    start = time.perf_counter()
    while (seconds := time.perf_counter() - start) < LEAST_S:
        epochs += 1
        for step in loader:
            for batch in step.batches:
                packs += batch.num_graphs > 0
                filled += batch.num_atoms
                molecules += batch.num_graphs
                labels += int(batch.num_graph_labels_T.sum())
    # the peak of getrusage would begin with that of the parent
    status = Path("/proc/self/status").read_text().splitlines()
    peak_bytes = 1024 * int(next(line for line in status if line.startswith("VmHWM")).split()[1])
    loader.close()
    with_ids = Loader(shard_set, loader.config, num_threads=threads, with_ids=True)
    return {
        "molecules_per_s": molecules / seconds,
        "labels_per_s": labels / seconds,
        "first_step_s": first_step_s,
        "over_imports_bytes": peak_bytes - import_bytes,
        "batch_bytes": first.batches[0].storage.numel(),
        "window_bytes": loader.window_bytes(),
        "atom_fill": filled / (packs * budget.capacity.atoms),
        "molecules": molecules / epochs,
        "packs": packs / epochs,
        "budget": str(budget),
        "epoch_hash": add_hashes([hash_batch(batch) for step in with_ids for batch in step.batches if batch.num_graphs]),
    }


def measure_loader(args: argparse.Namespace, share: np.ndarray, atoms: int) -> dict:
    """Medians of `--runs` processes a way, and the least and most rate; the labels are checked."""
    table, folder = make_set(args.folder, rows=args.rows, share=share)
    expected = expected_hash(table, folder)
    runs: dict[str, list[dict]] = {way: [] for way in WAYS}
    for k in range(args.runs):
        for way in WAYS if k % 2 else WAYS[::-1]:
            command = [sys.executable, __file__, str(folder), "--stream", way, "--atoms", str(atoms)]
            options = ["--threads", str(args.threads), "--lanes", str(args.lanes)]
            done = subprocess.run([*command, *options], stdout=subprocess.PIPE, check=True, text=True)
            runs[way].append(json.loads(done.stdout.splitlines()[-1]))
            if runs[way][-1]["epoch_hash"] != expected:
                raise AssertionError(f"{way}, {atoms} atoms: {runs[way][-1]['epoch_hash']}, in the table {expected}")
    found: dict = {"labels": expected["labels"]}
    for way in WAYS:
        result = runs[way][0]
        found[way] = {
            n: v if isinstance(v, (str, dict)) else statistics.median(r[n] for r in runs[way]) for n, v in result.items()
        }
        rates = [r["molecules_per_s"] for r in runs[way]]
        found[way] |= {"least_per_s": min(rates), "most_per_s": max(rates)}
    return found


def print_loader(atoms: int, found: dict) -> None:
    columns = {
        "molecules/s": ("molecules_per_s", 1),
        "(least": ("least_per_s", 1),
        "most)": ("most_per_s", 1),
        "labels/s": ("labels_per_s", 1),
        "first step s": ("first_step_s", 1),
        "batch MB": ("batch_bytes", 1e-6),
        "announced MB": ("window_bytes", 1e-6),
        "peak MB": ("over_imports_bytes", 1e-6),
        "atom fill": ("atom_fill", 1),
        "packs": ("packs", 1),
    }
    dense, rows = found["dense"], found["rows"]
    print(
        f"\nloader, {atoms:,} atoms: {dense['molecules']:,.0f} molecules, {found['labels']:,} labels, the same as in the table; "
        f"budgets {dense['budget']} and {rows['budget']}"
    )
    print(f"{'':6} " + " ".join(f"{name:>12}" for name in columns))
    for way in WAYS:
        print(
            f"{way:6} "
            + " ".join(f"{found[way][n] * u:12,.{0 if u == 1 and found[way][n] > 99 else 3}f}" for n, u in columns.values())
        )
    print(f"{'ratio':6} " + " ".join(f"{dense[name] / rows[name]:12.3f}" for name, _ in columns.values()), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path, nargs="?", help="keeps what is made; without it the loader is not measured")
    parser.add_argument("--rows", type=int, default=40_000, help="molecules of the loader's set")
    parser.add_argument("--atoms", type=int, nargs="+", default=[1024, 8192], help="of the loader's packs")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--lanes", type=int, default=8)
    parser.add_argument("--stream", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--molecules", type=int, default=100_000)
    parser.add_argument("--tasks", type=int, default=3300)
    parser.add_argument("--present", type=float, default=0.01)
    parser.add_argument("--blocks", type=int, nargs="+", default=[4096, 512])
    parser.add_argument("--graphs", type=int, default=320)
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()
    if args.stream:
        print(json.dumps(stream(args.folder, args.stream, atoms=args.atoms[0], threads=args.threads, lanes=args.lanes)))
        return
    share = draw_presence(np.random.default_rng(0), args.tasks, args.present)
    quantiles = np.quantile(share, [0.1, 0.5, 0.9, 0.99, 1])
    print(f"{args.molecules:,} molecules, {args.tasks:,} tasks, {share.mean():.4f} present; python {platform.python_version()}")
    print("share of molecules a task has: " + ", ".join(f"{q:.5f}" for q in quantiles) + " (10, 50, 90, 99, 100 % of tasks)")
    results = {}
    for size in args.blocks:
        results[size] = measure(make_blocks(args.molecules, size, share), size, args.graphs, args.runs)
        print_table(size, results[size])
    loader = {}
    for atoms in args.atoms if args.folder else []:
        loader[atoms] = measure_loader(args, share, atoms)
        print_loader(atoms, loader[atoms])
    print("\n" + json.dumps({"arguments": vars(args), "blocks": results, "loader": loader}, default=str))


if __name__ == "__main__":
    main()
