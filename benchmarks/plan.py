"""Planning and resuming at a billion molecules: what opening a set, planning an epoch and taking up a place in it cost.

    molstream bench plan [FOLDER] [--blocks 293000] [--runs 5] [--json]

FOLDER gets a shard set without payload: 1.2 billion made-up molecules in blocks of 4,096, numbers of heavy atoms with a mean
of 26 and a standard deviation of 6, each block's counts of sizes drawn from that. So nothing here reads a block. Every
measurement is a process of its own. Memory is what /proc says is resident, over what it was after the imports. Each process
first plans a tiny set, which loads Numba's kernels and Arrow (`kernels`): what that takes does not depend on the set, so memory
is also given over it. Lines of JSON, a line a step, then medians.
"""

import argparse
import gc
import json
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from moses import BENCH

from molstream.shards import schema
from molstream.shards.columns import groups_of
from molstream.shards.format import index
from molstream.shards.format.archive import TAR_BLOCK
from molstream.shards.format.codings import arrays_of
from molstream.shards.format.manifest import INDEX, MANIFEST, Manifest, Statistics, fingerprint
from molstream.shards.format.reader import ShardSet
from molstream.shards.inputs.datasets import preset_dataset
from molstream.shards.molecules import offsets
from molstream.shards.store.reading import Folder
from molstream.shards.store.writing import write_beside
from molstream.shards.tasks import LEVELS, TaskSet
from molstream.streamer.config import Budget, StreamConfig
from molstream.streamer.cursor import Cursor
from molstream.streamer.loader import Loader
from molstream.streamer.plan import Plan

GROUPS = groups_of({"graph": 62, "atom": 7, "bond": 0, "pair": 0})
MEMBER_BYTES = {"sizes": 0.5, "structure": 14, "graph_labels": 190, "atom_labels": 45, "ids": 3, "smiles": 16}
"""Of each molecule, compressed (benchmarks/size.md)."""
PLACES = (0.0, 0.5, 0.999)


def synthetic_index(
    num_blocks: int,
    *,
    block_molecules: int = 4096,
    blocks_per_shard: int = 12,
    mean_atoms: float = 26.0,
    std_atoms: float = 6.0,
    max_atoms: int = 81,
    seed: int = 0,
) -> pa.Table:
    """Index rows of made-up blocks, all of the training split, without a Python object a block."""
    rng = np.random.default_rng(seed)
    sizes = np.arange(1, max_atoms + 1)
    share = np.exp(-0.5 * ((sizes - mean_atoms) / std_atoms) ** 2)
    parts = [
        _synthetic_rows(np.arange(first, min(first + index.GROUP_ROWS, num_blocks)), share / share.sum(), rng, block_molecules)
        for first in range(0, num_blocks, index.GROUP_ROWS)
    ]
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    block = np.arange(num_blocks)
    columns |= {"shard": block // blocks_per_shard, "block": block % blocks_per_shard}
    # members of a shard lie one after another, a tar header before and padding behind each
    stored = np.stack([columns[f"{group}_bytes"] for group in GROUPS], axis=1)
    ends = np.cumsum(TAR_BLOCK + -(-stored // TAR_BLOCK) * TAR_BLOCK, axis=None).reshape(stored.shape)
    starts = ends - -(-stored // TAR_BLOCK) * TAR_BLOCK
    shard_start = np.concatenate([[0], ends[:-1, -1]])[columns["shard"] * blocks_per_shard]
    columns |= {f"{group}_offset": starts[:, g] - shard_start for g, group in enumerate(GROUPS)}
    ptr = pa.array(offsets(columns.pop("num_sizes")), pa.int32())
    special = {
        "split": pa.DictionaryArray.from_arrays(pa.array(np.zeros(num_blocks, np.int16)), ["train"]),
        "content_sha256": pa.FixedSizeBinaryArray.from_buffers(
            pa.binary(32), num_blocks, [None, pa.py_buffer(rng.bytes(32 * num_blocks))]
        ),
    }
    fields = index.schema_of(GROUPS)
    # all molecules have all labels
    every, molecules = pa.array(np.arange(num_blocks + 1), pa.int32()), columns["num_molecules"]
    for name, ends, values in (
        ("histogram_size", ptr, columns.pop("histogram_size")),
        ("histogram_count", ptr, columns.pop("histogram_count")),
        ("labels_size", every, np.full(num_blocks, 62)),
        ("labels_count", every, molecules),
    ):
        special[name] = pa.ListArray.from_arrays(ends, pa.array(values, fields.field(name).type.value_type))
    return pa.table([special[f.name] if f.name in special else pa.array(columns[f.name], f.type) for f in fields], fields)


def _synthetic_rows(block: np.ndarray, share: np.ndarray, rng: np.random.Generator, molecules: int) -> dict[str, np.ndarray]:
    """Columns of some blocks; histograms flat."""
    counts = rng.multinomial(molecules, share, size=len(block))
    occurs = counts > 0
    row, size = np.nonzero(occurs)
    atoms, largest = counts @ np.arange(1, len(share) + 1), len(share) - occurs[:, ::-1].argmax(axis=1)
    columns = {
        "num_molecules": np.full(len(block), molecules),
        "num_atoms": atoms,
        "num_bonds": np.rint(1.08 * atoms).astype(np.int64),
        "max_atoms": largest,
        "max_bonds": np.rint(1.15 * largest).astype(np.int64),
        "max_graph_labels": np.full(len(block), 62),
        "num_sizes": occurs.sum(axis=1),
        "histogram_size": size + 1,
        "histogram_count": counts[row, size],
    }
    # an id is a row of the tables, and rows are shuffled over blocks
    ids = {
        f"max_{what}_id": rng.integers(0, 1 << 31, len(block)).astype(np.uint64) for what in ("atoms", "bonds", "graph_labels")
    }
    for group in GROUPS:
        columns[f"{group}_bytes"] = (MEMBER_BYTES[group] * molecules * rng.normal(1, 0.01, len(block))).astype(np.int64)
        columns[f"{group}_crc32"] = rng.integers(0, 1 << 32, len(block)).astype(np.uint32)
    return columns | ids


def write_set(folder: Path, table: pa.Table) -> Path:
    """A shard set without shards: its index and a manifest that fits it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with write_beside(folder / INDEX) as sink:
        index.write_index(sink, GROUPS, [table])
    digest = sink.written.sha256
    contents = index.Index.open(Folder(folder), INDEX, sha256=digest).iter_contents()
    tasks = preset_dataset("pm6").tasks
    totals = {name: int(table[f"num_{name}"].to_numpy().sum()) for name in ("molecules", "atoms", "bonds")}
    manifest = Manifest(
        fingerprint=fingerprint(tasks, schema.ATOM_FEATURES, schema.BOND_FEATURES, contents),
        index_sha256=digest,
        rejects_sha256="",
        tasks=tasks,
        task_sets=tuple(
            TaskSet(name=level, level=level, kind="regression", source="pm6", tasks=names)
            for level in LEVELS
            if (names := tuple(task.name for task in tasks if task.level == level))
        ),
        atom_features=schema.ATOM_FEATURES,
        bond_features=schema.BOND_FEATURES,
        column_groups={group: arrays_of(group) for group in GROUPS},
        statistics={task.name: Statistics(count=1, mean=0.0, std=1.0, min=0.0, max=0.0, quantiles={}) for task in tasks},
        splits={"train": {"shards": int(table["shard"][-1].as_py()) + 1, "blocks": len(table)} | totals},
        labels={task.name: {} for task in tasks},
        dropped_labels={},
        rejects={},
        histograms={},
        join=None,
        provenance={"inputs": [], "options": {"tables": []}, "splits": {"rule": "made"}},
    )
    manifest.write(folder / MANIFEST)
    return folder


# measurements, each in a process of its own


def resident() -> tuple[float, float]:
    """MiB of this process that are in memory now, and that were at most."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    now, peak = (int(lines[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM"))
    return now, peak


class Steps:
    """Times and memory of the steps of one process."""

    def __init__(self, name: str):
        self.name, self.base = name, resident()[0]

    def run(self, step: str, work):
        """Do it, print a line of JSON, return what it returns."""
        # the peak from here on
        Path("/proc/self/clear_refs").write_text("5")
        start = time.perf_counter()
        result = work()
        seconds = time.perf_counter() - start
        gc.collect()
        now, peak = (value - self.base for value in resident())
        line = {"measure": self.name, "step": step, "s": round(seconds, 4), "rss_mib": round(now, 1), "peak_mib": round(peak, 1)}
        print(json.dumps(line), flush=True)
        return result


def make_config(shard_set: ShardSet, atoms: int, lanes: int) -> StreamConfig:
    return StreamConfig(budget=Budget.suggest(shard_set, atoms=atoms), num_lanes=lanes)


def measure_plan(steps: Steps, folder: Path, args: argparse.Namespace) -> None:
    shard_set = steps.run("open", lambda: ShardSet(folder))
    config = steps.run("suggest budget", lambda: make_config(shard_set, args.atoms, args.lanes))
    plan = steps.run("Plan.make", lambda: Plan.make(shard_set, config, 0))
    assert plan.num_steps > 0


def measure_columns(steps: Steps, folder: Path, args: argparse.Namespace) -> None:
    shard_set = steps.run("open", lambda: ShardSet(folder))
    steps.run("histogram, dropped", lambda: len(shard_set.index.histogram().ptr))
    steps.run("columns of members", lambda: len(dict(shard_set.index.members)))
    steps.run("histogram, kept", shard_set.index.histogram)


def measure_place(steps: Steps, folder: Path, args: argparse.Namespace, place: float) -> None:
    shard_set = steps.run("open", lambda: ShardSet(folder))
    config = steps.run("suggest budget", lambda: make_config(shard_set, args.atoms, args.lanes))
    loader = steps.run("Loader", lambda: Loader(shard_set, config))

    def take_up() -> int:
        step = int(place * len(loader))
        loader.seek(Cursor(**asdict(replace(loader.cursor, step=step))))
        slots = [next(loader.plan.iter_lane(lane, step)) for lane in loader.lanes]
        assert all(slot is not None for slot in slots)
        return step

    steps.run("seek and first slots", take_up)


def run_child(args: argparse.Namespace) -> None:
    steps = Steps(args.child)
    tiny = ShardSet(args.folder / "tiny")
    steps.run("kernels", lambda: Plan.make(tiny, make_config(tiny, args.atoms, args.lanes), 0).num_steps)
    folder = args.folder / "set"
    if args.child == "plan":
        measure_plan(steps, folder, args)
    elif args.child == "columns":
        measure_columns(steps, folder, args)
    else:
        measure_place(steps, folder, args, float(args.child.removeprefix("place ")))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path, nargs="?", default=BENCH / "plan")
    parser.add_argument("--blocks", type=int, default=293_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--atoms", type=int, default=8192)
    parser.add_argument("--lanes", type=int, default=8)
    parser.add_argument("--json", action="store_true", help="print the medians as one JSON object, the last line")
    parser.add_argument("--child", default="", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        run_child(args)
        return
    start = time.perf_counter()
    write_set(args.folder / "tiny", synthetic_index(100, seed=1))
    table = synthetic_index(args.blocks)
    write_set(args.folder / "set", table)
    sizes = len(table["histogram_size"].combine_chunks().flatten()) / len(table)
    print(
        f"{table['num_molecules'].to_numpy().sum():,} molecules in {len(table):,} blocks, {sizes:.1f} sizes each; "
        f"index {(args.folder / 'set' / INDEX).stat().st_size / 2**20:.1f} MiB, made in {time.perf_counter() - start:.1f} s",
        flush=True,
    )
    del table
    measures = ["columns", "plan", *(f"place {place}" for place in PLACES)]
    command = [sys.executable, __file__, str(args.folder), "--atoms", str(args.atoms), "--lanes", str(args.lanes), "--child"]
    # the first run of an installation compiles the kernels
    subprocess.run([*command, "plan"], check=True, stdout=subprocess.DEVNULL)
    found: dict[tuple[str, str], list[dict]] = {}
    for _ in range(args.runs):
        for measure in measures:
            for line in subprocess.run([*command, measure], check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines():
                print(line, flush=True)
                result = json.loads(line)
                found.setdefault((result["measure"], result["step"]), []).append(result)
    print(f"\nmedians of {args.runs}; MiB after a step and at most during it, over the imports and over kernels")
    print(f"{'':12}{'step':22}{'s':>10}{'MiB':>8}{'peak':>8}{'MiB':>12}{'peak':>8}")
    medians = []
    for (measure, step), results in found.items():
        s, rss, peak = (statistics.median(r[key] for r in results) for key in ("s", "rss_mib", "peak_mib"))
        base = statistics.median(r["rss_mib"] for r in found[measure, "kernels"])
        print(f"{measure:12}{step:22}{s:10.4f}{rss:8.1f}{peak:8.1f}{rss - base:12.1f}{peak - base:8.1f}")
        medians.append(
            {"measure": measure, "step": step, "s": s, "rss_mib": rss, "peak_mib": peak, "over_kernels_mib": rss - base}
        )
    if args.json:
        print(json.dumps({"benchmark": "plan", "results": medians}))


if __name__ == "__main__":
    main()
