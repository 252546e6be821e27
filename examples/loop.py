"""A bare loop that may be stopped at any time and goes on where it was: python examples/loop.py pm6-shards state.json"""

import json
import sys
from pathlib import Path

from molstream import Budget, Loader, ShardSet, StreamConfig


def main(shards: str, state: str, max_steps: int | None = None) -> int:
    """Stream the rest of the first epoch, or so many steps of it. Returns how many molecules came."""
    shard_set, path = ShardSet(shards), Path(state)
    config = StreamConfig(budget=Budget.suggest(shard_set, atoms=512), num_lanes=4, seed=0)
    loader = Loader(shard_set, config)
    if path.exists():
        loader.load_state_dict(json.loads(path.read_text()))
    num_molecules, first = 0, loader.step
    while loader.epoch < 1 and loader.step - first != max_steps:
        for step in loader:  # the rest of this epoch
            for batch in step.batches:  # one a lane, all of one shape; a masked one has no molecules
                num_molecules += batch.num_graphs  # here: loss = model(batch.to("cuda")) ...
            # what is saved counts as done, so save it with the weights: after the step, beside, then in one go
            path.with_suffix(".part").write_text(json.dumps(loader.state_dict()))
            path.with_suffix(".part").replace(path)
            if loader.step - first == max_steps:
                break
    return num_molecules


if __name__ == "__main__":
    print(f"{main(*sys.argv[1:]):,} molecules")
