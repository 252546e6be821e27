"""How many of torch's threads for a small model on a CPU, alone and beside other work?

    python benchmarks/threads.py [--runs 5] [--busy 0 1]

Each run trains on the embedded sample in a process of its own, 80 steps of 1,024 atoms; the rate is the median over the last 60.
The other work is a number of Python processes that multiply matrices on one thread. Variants run in turn.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

BUSY = "import numpy as np\nx = np.random.rand(600, 600)\nwhile True:\n    x @ x"
ONE = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
VARIANTS = {
    "torch's default": {},
    "waiting active": {"OMP_WAIT_POLICY": "active"},
    "waiting passive": {"OMP_WAIT_POLICY": "passive"},
    "spinning 10,000 times": {"GOMP_SPINCOUNT": "10000"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
RUN = """
import sys
from dataclasses import replace
from pathlib import Path
from molstream.shards.format.reader import ShardSet
from molstream.trainers.recipes import sample
from molstream.trainers.training.trainer import pretrain

class Silent:
    def start(self, **values): ...
    def progress(self, step, values): ...
    def validation(self, results): ...
    def message(self, text): ...

recipe = replace(sample(), num_steps=80, eval_steps=1000, cpu_threads=0)
pretrain(ShardSet(sys.argv[1]), Path(sys.argv[2]), recipe, resume=False, reporter=Silent())
"""


def rate(shards: Path, run: Path, env: dict[str, str]) -> float:
    subprocess.run([sys.executable, "-c", RUN, str(shards), str(run)], env=os.environ | env, check=True, capture_output=True)
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return statistics.median(x["graphs_per_s"] for x in lines if x["kind"] == "train" and x["step"] > 20)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--busy", type=int, nargs="*", default=[0, 1])
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        shards = Path(root) / "shards"
        sample = Path(__file__).parents[1] / "shards" / "sample" / "pm6_sample.parquet"
        build = [sys.executable, "-m", "molstream", "build", str(sample), "--out", str(shards)]
        subprocess.run(build, check=True, capture_output=True)
        for num_busy in args.busy:
            busy = [subprocess.Popen([sys.executable, "-c", BUSY], env=os.environ | ONE) for _ in range(num_busy)]
            rates: dict[str, list[float]] = {name: [] for name in VARIANTS}
            try:
                for k in range(args.runs):
                    for name, env in VARIANTS.items():
                        rates[name].append(rate(shards, Path(root) / f"{num_busy}-{name}-{k}", env))
            finally:
                for process in busy:
                    process.kill()
            print(f"beside {num_busy} busy processes, molecules/s, median of {args.runs} (least, most)")
            for name, found in rates.items():
                print(f"  {name:24} {statistics.median(found):7,.0f}  ({min(found):,.0f}, {max(found):,.0f})")


if __name__ == "__main__":
    main()
