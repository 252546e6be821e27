"""How long does a first start take, when nothing is compiled yet, and where does its time go?

    python benchmarks/start.py [--tree CHECKOUT] [--runs 3] [--kernels]

Trains on the embedded sample to the 12th step, first with an empty cache of machine code, then with the one that is left,
each in a process of its own; beside it another checkout, if one is named, in turn. Wall time is until the 12th step is
validated. CPU time is that of all processes until the command ends, and the measure to trust beside other work. `--kernels`:
what each kernel takes to compile.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
STEPS = 12
KERNELS = """
import time
from molstream.kernels import compiled
from molstream.shards.workers import ahead
for stage, kernels in ahead.KERNELS.items():
    for made in kernels:
        start = time.process_time()
        compiled.compile_all([made])
        name = f"{made.py_func.__module__}.{made.py_func.__name__}".removeprefix("molstream.kernels.")
        print(f"{time.process_time() - start:6.2f} s  {stage:7} {name}")
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tree", type=Path, help="another checkout, to compare with")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--kernels", action="store_true")
    options = parser.parse_args()
    if options.kernels:
        with tempfile.TemporaryDirectory() as cache:
            subprocess.run([sys.executable, "-c", KERNELS], env=environment(HERE, cache), check=True)
        return
    if options.tree and not (options.tree / "molstream" / "__init__.py").is_file():
        parser.error(f"{options.tree} has no molstream/__init__.py, so the installed package would be measured")
    trees = {"this": HERE} | ({"other": options.tree.resolve()} if options.tree else {})
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for run in range(options.runs):
        for name, tree in trees.items():
            with tempfile.TemporaryDirectory() as folder:
                for start in ("cold", "warm"):
                    wall, cpu = measure(tree, Path(folder), f"{start}-run")
                    found.setdefault((name, start), []).append((wall, cpu))
                    print(f"run {run}  {name:5} {start}  {wall:6.1f} s to step {STEPS}  {cpu:6.1f} s of CPU", flush=True)
    print(f"medians of {options.runs}, {len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f}")
    for (name, start), runs in found.items():
        wall, cpu = (statistics.median(column) for column in zip(*runs, strict=True))
        print(f"{name:5} {start}  {wall:6.1f} s to step {STEPS}  {cpu:6.1f} s of CPU")


def measure(tree: Path, folder: Path, out: str) -> tuple[float, float]:
    """Seconds until the last step is validated, and of CPU until the end."""
    argv = [sys.executable, "-m", "molstream", "pretrain", "--out", out, "--steps", str(STEPS)]
    begin = time.perf_counter()
    process = subprocess.Popen(
        argv, env=environment(tree, folder / "cache"), cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    wall, said = 0.0, []
    assert process.stderr is not None
    for line in process.stderr:
        said.append(line)
        if line.startswith(f"step {STEPS} "):
            wall = time.perf_counter() - begin
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode or not wall:
        raise SystemExit(f"{' '.join(argv)}: exit status {process.returncode}\n{''.join(said)}")
    return wall, used.ru_utime + used.ru_stime


def environment(tree: Path, cache: Path | str) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(tree), "NUMBA_CACHE_DIR": str(cache)}


if __name__ == "__main__":
    main()
