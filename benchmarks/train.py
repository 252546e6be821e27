"""How fast is a training step, data included, beside the same GINE written with PyG in its usual way?

    molstream bench train [TABLE...] [--rounds 7] [--seconds 15] [--precision f32|bf16] [--threads 2] [--json FILE]
    molstream bench train --device cuda [--atoms 16384 32768 65536]

Ours is the trainer of `molstream pretrain` on a shard set on disk (train_molstream.py). PyG's is a list of Data objects in
memory, its DataLoader with 0, 1 or 2 workers, whichever is fastest, `GINEConv` with edge features, AdamW (train_pyg.py).
Molecules, labels, widths, dropout, precision, torch threads and the mean number of molecules a step are the same; with the same
weights both give the same loss, which is checked first. On a CPU 256 x 4, on a GPU 704 x 4 with both encodings, ours also
compiled.

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

import psutil
import torch

from molstream.shards.build.build import BuildOptions, build
from molstream.shards.format.reader import ShardSet
from molstream.shards.sample import sample_path
from molstream.shards.splits.rules import SplitFractions
from molstream.trainers.config import Recipe
from molstream.trainers.recipes import get_recipe, sample

HERE = Path(__file__).resolve().parent
BF16 = ("avx512_bf16", "amx_bf16")
PRODUCTS = ("aten::mm", "aten::addmm", "mkldnn_linear", "gemm", "gemv", "cutlass", "nvjet", "triton_tem")
"""Parts of the names of matrix products: operations on a CPU, kernels of cuBLAS and Inductor on a GPU."""


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
    narrow: dict[str, Any] = {
        "hidden": 256,
        "encodings": (),
        "encoder_hidden": 256,
        "encoder_out": 64,
        "head_hidden": 32,
        "learning_rate": 1e-4,
    }
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
    """Print what takes most of ten steps, and the shares of matrix products and of all operations, on a GPU of all kernels:
    of the time from start to end, waiting for data included."""
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    steps(3)
    on_gpu = device == "cuda"
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]) as found:
        start = time.perf_counter()
        steps(10)
        if on_gpu:
            torch.cuda.synchronize()
        wall_us = 1e6 * (time.perf_counter() - start)
    # on a GPU kernels alone: an operation has its kernels' time too, so both together would count it twice
    events = [e for e in found.key_averages() if not on_gpu or (e.device_type != DeviceType.CPU and not e.is_user_annotation)]
    times = {e.key: e.self_device_time_total if on_gpu else e.self_cpu_time_total for e in events}
    total = sum(times.values())
    products = sum(t for name, t in times.items() if any(word in name.lower() for word in PRODUCTS))
    for name, value in sorted(times.items(), key=lambda item: -item[1])[:22]:
        print(f"  {value / wall_us:6.1%}  {name[:100]}")
    kinds = {"matrix_products": products, "in_kernels" if on_gpu else "in_operations": total}
    print(json.dumps({name: round(value / wall_us, 4) for name, value in kinds.items()} | {"step_ms": round(wall_us / 1e4, 2)}))


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
        """What it did; `others_cores`: how many cores something else on the machine had meanwhile."""
        assert self.process is not None
        start, busy, own = time.perf_counter(), _busy_s(), self._used_s()
        self.process.stdin.write(f"{seconds}\n")
        self.process.stdin.flush()
        found = self._read()
        others_s = _busy_s() - busy - (self._used_s() - own)
        return found | {"others_cores": round(max(0.0, others_s / (time.perf_counter() - start)), 2)}

    def _used_s(self) -> float:
        """CPU seconds of its process and of the workers that it started."""
        process = psutil.Process(self.process.pid)
        return sum(sum(p.cpu_times()[:2]) for p in (process, *process.children(recursive=True)))

    def _read(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{self.name} has ended: {' '.join(self.command)}")
        return json.loads(line)

    def stop(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def _busy_s() -> float:
    """CPU seconds of the whole machine, what its host took from it included."""
    times = psutil.cpu_times()
    return times.user + times.nice + times.system + times.irq + times.softirq + times.steal


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
        speeds = [r[k]["molecules"] / r[k]["seconds"] for r in rounds]
        ratios = [rate / (r[0]["molecules"] / r[0]["seconds"]) for rate, r in zip(speeds, rounds, strict=True)]
        row: dict[str, Any] = {
            "contender": side.name,
            "atoms": atoms,
            "about": side.about,
            "molecules_per_s": speeds,
            "ratios": ratios,
        }
        row |= {name: rounds[-1][k][name] for name in ("data_wait_fraction", "gpu_bytes") if name in rounds[-1][k]}
        row["others_cores"] = [r[k]["others_cores"] for r in rounds]
        rows.append(row)
        extra = f"  waits for data {row['data_wait_fraction']:.2%}" if "data_wait_fraction" in row else ""
        extra += f"  {row['gpu_bytes'] / 2**30:.1f} GiB" if row.get("gpu_bytes") else ""
        extra += f"  others had {statistics.median(row['others_cores']):.2f} cores, at most {max(row['others_cores']):.2f}"
        print(
            f"{side.name:28} {statistics.median(speeds):9,.0f} molecules/s   {statistics.median(ratios):5.2f} of PyG's "
            f"({min(ratios):.2f} to {max(ratios):.2f}){extra}",
            flush=True,
        )
    for side, row in zip(sides, rows, strict=True):
        env = os.environ | {"OMP_NUM_THREADS": str(args.threads), "PYTHONPATH": str(HERE.parent)}
        done = subprocess.run([*side.command, "--profile"], env=env, capture_output=True, text=True, check=True)
        *table, last = done.stdout.splitlines()
        print(f"\n{side.name}: ten steps", *table, last, sep="\n", flush=True)
        row["profile"] = json.loads(last)
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
        options = BuildOptions(split_fractions=SplitFractions.parse("90,5,5"))
        if args.device == "cuda":
            # PyG has them in memory, so ours are read, not computed
            options = replace(options, pe=("rw16", "lap8"))
        build(args.tables or [str(sample_path())], shards, options)
        molecules = ShardSet(shards).manifest.splits["train"]["molecules"]
        for atoms in args.atoms or ([8192] if args.device == "cpu" else [16384, 32768, 65536]):
            print(f"\npacks of {atoms} atoms, {molecules:,} molecules", flush=True)
            rows += compare(args, shards, atoms)
    if args.json:
        args.json.write_text(json.dumps({"benchmark": "train", "torch": torch.__version__, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
