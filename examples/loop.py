"""A bare loop over a shard set that can be stopped and goes on where it was.

python examples/loop.py SHARDS STATE.json [STEPS]
"""

import json
import sys
from pathlib import Path

from streamer import Budget, Loader, ShardSet, StreamConfig


def main(shards: str, state: str, max_steps: str = "100") -> None:
    shard_set = ShardSet(shards)
    config = StreamConfig(budget=Budget.suggest(shard_set, atoms=1024), num_lanes=2, seed=0)
    with Loader(shard_set, config) as loader:
        if Path(state).exists():
            loader.load_state_dict(json.loads(Path(state).read_text()))
        molecules = steps = 0
        for step in loader:
            for batch in step.batches:
                # a training step would go here: batch.atom_codes_AF, batch.edge_index_2E, batch.graph_labels_GT, ...
                molecules += batch.num_graphs
            steps += 1
            if steps == int(max_steps):
                break
        Path(state).write_text(json.dumps(loader.state_dict()))
        print(f"{molecules} molecules in {steps} steps, next: step {loader.step} of {len(loader)} in epoch {loader.epoch}")


if __name__ == "__main__":
    main(*sys.argv[1:])
