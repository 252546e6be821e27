"""Build on a Ray of two nodes and kill the second while it works: python lose_node.py OUT INPUT; prints what happened as JSON."""

import json
import os
import sys

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

from ray.cluster_utils import Cluster

from molstream.shards.build import map as mapper
from molstream.shards.build.build import WorkOptions, build
from molstream.shards.build.options import BuildOptions
from molstream.shards.inputs import tables

OPTIONS = BuildOptions(shard_molecules=1_000, seed=3)

if __name__ == "__main__":
    # many short tasks, so that both nodes have one at any time
    tables.RANGE_ROWS = tables.MIN_RANGE_ROWS = 500
    mapper.BATCH_ROWS = 100
    memory = {"object_store_memory": 80 << 20}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False} | memory)
    second = cluster.add_node(num_cpus=1, **memory)
    cluster.wait_for_nodes()
    lost = []

    def progress(phase: str, done: int, total: int) -> None:
        if phase == "featurize" and not lost and done > total // 4:
            lost.append(done / total)
            cluster.remove_node(second, allow_graceful=False)

    try:
        work = WorkOptions(engine="ray", ray_address=cluster.address, workers=2)
        manifest = build([sys.argv[2]], sys.argv[1], OPTIONS, progress, work=work)
        print(json.dumps({"lost_at": lost, "splits": manifest.splits}))
    finally:
        cluster.shutdown()
