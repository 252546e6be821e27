"""Does the memory of a stream grow with what it has streamed?

    molstream bench memory [FOLDER] [--molecules 20000000] [--threads 2] [--lanes 8] [--json]

FOLDER/set is the set of `benchmarks/moses.py` (made if it is not there). One process streams it, epoch after epoch, and notes its
resident memory after the imports, and after 200,000, ... molecules. The floor: 200,000 and 20 million differ by less than 50 MB.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from moses import BENCH, make_set

from molstream.shards.format.reader import ShardSet
from molstream.streamer.config import Budget, StreamConfig
from molstream.streamer.loader import Loader
from molstream.streamer.stats import rss_bytes

MARKS = (200_000, 500_000, 1_000_000, 2_000_000, 5_000_000, 10_000_000, 20_000_000, 50_000_000)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path, nargs="?", default=BENCH)
    parser.add_argument("--molecules", type=int, default=20_000_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--lanes", type=int, default=8)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    folder = make_set(args.folder)
    torch.set_num_threads(1)
    start_bytes = rss_bytes()
    shard_set = ShardSet(folder)
    config = StreamConfig(budget=Budget.suggest(shard_set, atoms=8192), num_lanes=args.lanes)
    loader = Loader(shard_set, config, num_threads=args.threads)
    print(f"{loader.window_bytes() / 1e6:,.0f} MB of windows announced; {start_bytes / 1e6:,.0f} MB after imports")
    marks = [m for m in MARKS if m < args.molecules] + [args.molecules]
    molecules = labels = 0
    notes: list[dict] = []
    start = time.perf_counter()
    while len(notes) < len(marks):
        for step in loader:
            for batch in step.batches:
                molecules += batch.num_graphs
                labels += int(batch.num_graph_labels_T.sum() + batch.num_atom_labels_T.sum())
            if molecules >= marks[len(notes)]:
                notes.append({"molecules": molecules, "labels": labels, "rss_mb": round(rss_bytes() / 1e6, 1)})
                print(
                    f"{molecules:>12,} molecules {labels:>16,} labels   epoch {step.epoch}   {notes[-1]['rss_mb']:,} MB",
                    flush=True,
                )
                if len(notes) == len(marks):
                    break
    seconds = time.perf_counter() - start
    growth = notes[-1]["rss_mb"] - notes[0]["rss_mb"]
    print(
        f"{growth:+.1f} MB from {notes[0]['molecules']:,} to {notes[-1]['molecules']:,}; {molecules / seconds:,.0f} molecules/s"
    )
    if args.json:
        print(json.dumps({"benchmark": "memory", "start_mb": start_bytes / 1e6, "growth_mb": growth, "notes": notes}))


if __name__ == "__main__":
    main()
