"""One process of several that torchrun has started: does the runs of a job file, one after another.

[{"set": ..., "run": ..., "recipe": {...}, "resume": false, "stop_after": null}, ...]
"""

import json
import sys
from itertools import count
from pathlib import Path

import torch

from molstream.shards.format.reader import ShardSet
from molstream.shards.store.fields import from_json
from molstream.trainers.config import Recipe
from molstream.trainers.distributed.process_group import joined
from molstream.trainers.training.trainer import pretrain

torch.set_num_threads(1)
with joined() as processes:
    for job in json.loads(Path(sys.argv[1]).read_text()):
        polls, limit = count(), job.get("stop_after")
        # one process alone is told to stop, and all do
        is_told = limit is not None and processes.rank == processes.world_size - 1
        outcome = pretrain(
            ShardSet(job["set"]),
            Path(job["run"]),
            from_json(Recipe, job["recipe"]),
            resume=job.get("resume", False),
            should_stop=lambda: is_told and next(polls) >= limit,  # noqa: B023
        )
        if processes.is_first:
            print(f"{job['run']}: {outcome.step}")
# a thread of the group that is left aborts the interpreter now and then as it ends
names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
assert not [name for name in names if "gloo" in name], names
