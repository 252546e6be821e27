"""Busy or passive waiting of torch's threads: the rate of training alone, and beside another process that computes.

    python benchmarks/threads.py [--runs 5]

Each run is `molstream pretrain` on the embedded sample in a process of its own, 150 steps; the rate is that of the last 100. The
other work is a Python process per core that multiplies matrices on one thread.
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


def rate(shards: Path, folder: Path, policy: str) -> float:
    env = os.environ | {"OMP_WAIT_POLICY": policy}
    command = [sys.executable, "-m", "tools.main", "pretrain", str(shards), "--out", str(folder), "--steps", "150"]
    subprocess.run(command, env=env, check=True, capture_output=True)
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return statistics.median(x["graphs_per_s"] for x in lines if x["kind"] == "train" and x["step"] > 50)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=5)
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as root:
        shards = Path(root) / "shards"
        sample = Path(__file__).parents[1] / "shards" / "sample" / "pm6_sample.parquet"
        subprocess.run(
            [sys.executable, "-m", "tools.main", "build", str(sample), "--out", str(shards)], check=True, capture_output=True
        )
        for what, num_busy in (("alone", 0), ("beside one busy process a core", os.cpu_count() or 1)):
            busy = [
                subprocess.Popen([sys.executable, "-c", BUSY], env=os.environ | {"OMP_NUM_THREADS": "1"}) for _ in range(num_busy)
            ]
            try:
                rates: dict[str, list[float]] = {"active": [], "passive": []}
                for k in range(runs):
                    for policy, found in rates.items():
                        found.append(rate(shards, Path(root) / f"{what}-{policy}-{k}", policy))
            finally:
                for process in busy:
                    process.kill()
            medians = {policy: statistics.median(found) for policy, found in rates.items()}
            ratio = statistics.median(p / a for p, a in zip(rates["passive"], rates["active"], strict=True))
            print(
                f"{what:32} active {medians['active']:7,.0f}  passive {medians['passive']:7,.0f} molecules/s  ratio {ratio:.2f}"
            )


if __name__ == "__main__":
    main()
