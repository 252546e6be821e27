"""Thousands of tasks of which a molecule has a few: dense label rows, or only the labels that are there?

    python benchmarks/wide.py [--molecules 100000] [--tasks 3300] [--present 0.01] [--blocks 4096 512] [--runs 5]

Labels are made up: presence differs from task to task as in assays (Pareto, mean `--present`), nine tasks of ten are 0 or 1, the
others real. Each block is read, then all its molecules are collated into packs of `--graphs` slots, as the loader does:

    dense   densify_labels, collate_rows       (graphs, tasks) a pack
    rows    list_labels, collate_triples          triples, as many as the fullest pack of the set needs

Times are of whole passes over all blocks, both ways in turn, block by block. Memory is the most that NumPy holds for one block
and its packs (tracemalloc, not timed; without what the compiled code allocates itself, less than 1 %).
"""

import argparse
import json
import platform
import statistics
import time
import tracemalloc

import numpy as np

from kernels.collate import collate_rows, count_labels
from kernels.labels import SparseLabels, densify_labels, sparsify_labels
from kernels.triples import collate_triples, list_labels

WAYS = ("dense", "rows")


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


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--molecules", type=int, default=100_000)
    parser.add_argument("--tasks", type=int, default=3300)
    parser.add_argument("--present", type=float, default=0.01)
    parser.add_argument("--blocks", type=int, nargs="+", default=[4096, 512])
    parser.add_argument("--graphs", type=int, default=320)
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()
    share = draw_presence(np.random.default_rng(0), args.tasks, args.present)
    quantiles = np.quantile(share, [0.1, 0.5, 0.9, 0.99, 1])
    print(f"{args.molecules:,} molecules, {args.tasks:,} tasks, {share.mean():.4f} present; python {platform.python_version()}")
    print("share of molecules a task has: " + ", ".join(f"{q:.5f}" for q in quantiles) + " (10, 50, 90, 99, 100 % of tasks)")
    results = {}
    for size in args.blocks:
        results[size] = measure(make_blocks(args.molecules, size, share), size, args.graphs, args.runs)
        print_table(size, results[size])
    print("\n" + json.dumps({"arguments": vars(args), "blocks": results}))


if __name__ == "__main__":
    main()
