"""One rank of a process group that test_metrics.py starts: python metrics_rank.py FOLDER RANK.

FOLDER has spec.json, pack-K.pt of each pack, and rounds.json: of each round, of each rank, its packs. Writes rank-RANK.json.
"""

import hashlib
import json
import sys
from dataclasses import asdict
from pathlib import Path

import torch
import torch.distributed as dist

from molstream.shards.store.fields import from_json
from molstream.trainers.metrics.metrics import Metrics
from molstream.trainers.spec import DataSpec


def main(folder: Path, rank: int) -> None:
    """Add this rank's packs of each round, merge, write metrics and a digest of the state."""
    torch.set_num_threads(1)
    spec = from_json(DataSpec, json.loads((folder / "spec.json").read_text()))
    rounds = json.loads((folder / "rounds.json").read_text())
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=len(rounds[0]))
    out = []
    for shares in rounds:
        metrics = Metrics(spec)
        for k in shares[rank]:
            metrics.add(*torch.load(folder / f"pack-{k}.pt", weights_only=True))
        metrics.merge()
        h = metrics._histograms
        exact = b"".join(x.numpy().tobytes() for x in (*(getattr(h, n).long() for n in h.STATE), metrics._tally))
        regression = metrics._regression.state.numpy().tobytes()
        out.append(
            {
                "tasks": {name: [asdict(t) for t in tasks] for name, tasks in metrics.tasks().items()},
                "exact": hashlib.sha256(exact).hexdigest(),
                "regression": hashlib.sha256(regression).hexdigest(),
            }
        )
    dist.destroy_process_group()
    (folder / f"rank-{rank}.json").write_text(json.dumps(out))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
