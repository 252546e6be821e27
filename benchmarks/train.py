"""How fast is a training step, data included, beside the same GINE written with PyG in its usual way?

    molstream bench train [TABLE...] [--rounds 7] [--seconds 15] [--precision f32|bf16] [--threads 2] [--json FILE]
    molstream bench train --device cuda [--atoms 16384 32768 65536]

Ours is the trainer of `molstream pretrain` on a shard set on disk (train_molstream.py). PyG's is a list of Data objects in
memory, its DataLoader with 0, 1 or 2 workers, whichever is fastest, `GINEConv` with edge features, AdamW (train_pyg.py).
Molecules, labels, widths, dropout, precision, torch threads and the mean number of molecules a step are the same; with the
same weights both give the same loss, which is checked first. On a CPU 256 x 4, on a GPU 704 x 4 with both encodings, ours
also compiled.

Each contender is a process that has trained for a while, and waits; rounds go to one after another, so that a noisy machine is
noisy for all. The measure is molecules a second over whole steps. Tables are in PM6_83M's columns; default: the embedded sample.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from shards.build import BuildOptions, build
from shards.sample import sample_path
from shards.splits import SplitFractions
from streamer import ShardSet
from trainers.config import Recipe
from trainers.recipes import get_recipe, sample

HERE = Path(__file__).resolve().parent
BF16 = ("avx512_bf16", "amx_bf16")


def parse_side(doc: str | None) -> argparse.Namespace:
    """The options of one contender."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", type=Path)
    parser.add_argument("--atoms", type=int, default=8192)
    parser.add_argument("--precision", default="f32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--compile", default="off")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--profile", action="store_true", help="print where the time goes, instead of rounds")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    return args


def recipe_of(args: argparse.Namespace) -> Recipe:
    """What both sides train: one pack a step, without an end."""
    base = sample() if args.device == "cpu" else get_recipe("pm6-gine")
    narrow = {"hidden": 256, "encodings": (), "encoder_hidden": 256, "encoder_out": 64, "head_hidden": 32, "learning_rate": 1e-4}
    return replace(
        base,
        **(narrow if args.device == "cpu" else {}),
        mup_base_hidden=0,
        num_lanes=1,
        atoms_a_pack=args.atoms,
        window_molecules=4096,
        num_epochs=0,
        num_steps=10**6,
        eval_steps=10**6,
        precision=args.precision,
        compile=args.compile,
        cpu_threads=args.threads,
        deterministic=False,
    )


class Rounds:
    """A contender's side of the rounds: `steps(molecules, seconds)` after some steps; waits between rounds for the word."""

    WARMUP_S = 8.0

    def __init__(self, **about: object):
        self.about, self.since, self.left, self.molecules, self.seconds = about, time.perf_counter(), self.WARMUP_S, 0.0, 0.0
        self.is_warm = False

    def steps(self, molecules: float, seconds: float, **values: object) -> None:
        """Some steps are done, `seconds` of work and not of waiting for the word."""
        self.molecules, self.seconds = self.molecules + molecules, self.seconds + seconds
        if self.seconds < self.left:
            return
        found = {"molecules": self.molecules, "seconds": self.seconds, **values} if self.is_warm else self.about
        print(json.dumps(found), flush=True)
        self.is_warm = True
        word = sys.stdin.readline()
        if not word:
            sys.exit()
        self.left, self.molecules, self.seconds = float(word), 0.0, 0.0


def profile_steps(steps: Callable[[int], None], device: str) -> None:
    """Print the operations that take most of ten steps, the share of matrix products, and on a GPU that of time in kernels."""
    from torch.profiler import ProfilerActivity, profile

    steps(3)
    on_gpu = device == "cuda"
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]) as found:
        start = time.perf_counter()
        steps(10)
        if on_gpu:
            torch.cuda.synchronize()
        wall_us = 1e6 * (time.perf_counter() - start)
    events = found.key_averages()
    times = {e.key: e.self_device_time_total if on_gpu else e.self_cpu_time_total for e in events}
    total = sum(times.values())
    products = sum(t for name, t in times.items() if any(word in name for word in ("aten::mm", "aten::addmm", "gemm", "cutlass")))
    for name, value in sorted(times.items(), key=lambda item: -item[1])[:22]:
        print(f"  {value / total:6.1%}  {name[:100]}")
    print(json.dumps({"matrix_products": products / total, "in_kernels": total / wall_us if on_gpu else None}))


@dataclass
class Contender:
    """A process of one side."""

    name: str
    command: list[str]
    process: Any = None
    about: Any = None

    def start(self, threads: int) -> "Contender":
        env = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(HERE.parent)}
        self.process = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
        self.about = self._read()
        return self

    def round(self, seconds: float) -> dict:
        assert self.process is not None
        self.process.stdin.write(f"{seconds}\n")
        self.process.stdin.flush()
        return self._read()

    def _read(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{self.name} has ended: {' '.join(self.command)}")
        return json.loads(line)

    def stop(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def compare(args: argparse.Namespace, shards: Path, atoms: int) -> list[dict]:
    """All contenders at one size of packs: a row each."""
    common = [str(shards), "--atoms", str(atoms), "--precision", args.precision, "--device", args.device]
    common += ["--threads", str(args.threads)]

    def contender(side: str, *options: str) -> Contender:
        name = " ".join([side, *options])
        return Contender(name, [sys.executable, str(HERE / f"train_{side}.py"), *common, *options])

    # which number of workers is PyG's best: a short round each
    rates = {}
    for workers in args.workers:
        one = contender("pyg", "--workers", str(workers)).start(args.threads)
        found = [one.round(args.seconds / 2) for _ in range(2)]
        rates[workers] = max(f["molecules"] / f["seconds"] for f in found)
        one.stop()
        print(f"  PyG with {workers} workers: {rates[workers]:,.0f} molecules/s", flush=True)
    best = max(rates, key=lambda workers: rates[workers])
    compiled = args.compile or (["off"] if args.device == "cpu" else ["off", "default", "cudagraphs"])
    sides = [contender("pyg", "--workers", str(best)), *(contender("molstream", "--compile", mode) for mode in compiled)]
    for side in sides:
        side.start(args.threads)
        print(f"  {side.name}: {side.about}", flush=True)
    rounds: list[list[dict]] = [[side.round(args.seconds) for side in sides] for _ in range(args.rounds)]
    for side in sides:
        side.stop()
    rows = []
    for k, side in enumerate(sides):
        found = [r[k]["molecules"] / r[k]["seconds"] for r in rounds]
        ratios = [rate / (r[0]["molecules"] / r[0]["seconds"]) for rate, r in zip(found, rounds, strict=True)]
        row = {"contender": side.name, "atoms": atoms, "about": side.about, "molecules_per_s": found, "ratios": ratios}
        row |= {name: rounds[-1][k][name] for name in ("data_wait_fraction", "gpu_bytes") if name in rounds[-1][k]}
        rows.append(row)
        extra = f"  waits for data {row['data_wait_fraction']:.2%}" if "data_wait_fraction" in row else ""
        extra += f"  {row['gpu_bytes'] / 2**30:.1f} GiB" if row.get("gpu_bytes") else ""
        print(
            f"{side.name:28} {statistics.median(found):9,.0f} molecules/s   {statistics.median(ratios):5.2f} of PyG's "
            f"({min(ratios):.2f} to {max(ratios):.2f}){extra}",
            flush=True,
        )
    for side in sides:
        env = os.environ | {"OMP_NUM_THREADS": str(args.threads), "PYTHONPATH": str(HERE.parent)}
        done = subprocess.run([*side.command, "--profile"], env=env, capture_output=True, text=True, check=True)
        *table, last = done.stdout.splitlines()
        print(f"\n{side.name}: ten steps", *table, last, sep="\n", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", help="default: the embedded sample")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=15.0, help="of a round")
    parser.add_argument("--atoms", type=int, nargs="*", help="of a pack; default 8192, on a GPU 16384 32768 65536")
    parser.add_argument("--precision", choices=["f32", "bf16"], help="default f32, on a GPU bf16")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="torch's, on both sides")
    parser.add_argument("--workers", type=int, nargs="*", default=[0, 1, 2], help="of PyG's DataLoader, to choose from")
    parser.add_argument("--compile", nargs="*", help="recipe fields `compile` to try; default off, on a GPU all three")
    parser.add_argument("--force", action="store_true", help="bf16 on a CPU without instructions for it")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        sys.exit("bench train: no GPU here; leave out --device cuda")
    args.precision = args.precision or ("bf16" if args.device == "cuda" else "f32")
    cpu = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    if args.device == "cpu" and args.precision == "bf16" and not args.force and not any(flag in cpu for flag in BF16):
        print(f"bench train: this CPU has no {' or '.join(BF16)}, so bf16 is emulated there and says nothing; --force runs it")
        return
    print(f"torch {torch.__version__}, {args.device}, {args.threads} threads, {args.precision}")
    print(f"{args.rounds} rounds of {args.seconds} s")
    rows = []
    with tempfile.TemporaryDirectory() as root:
        shards = Path(root) / "shards"
        build(args.tables or [str(sample_path())], shards, BuildOptions(split_fractions=SplitFractions.parse("90,5,5")))
        molecules = ShardSet(shards).manifest.splits["train"]["molecules"]
        for atoms in args.atoms or ([8192] if args.device == "cpu" else [16384, 32768, 65536]):
            print(f"\npacks of {atoms} atoms, {molecules:,} molecules", flush=True)
            rows += compare(args, shards, atoms)
    if args.json:
        args.json.write_text(json.dumps({"benchmark": "train", "torch": torch.__version__, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
